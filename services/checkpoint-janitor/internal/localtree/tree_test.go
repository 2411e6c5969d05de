package localtree

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ultrathink-pilot/trainyard/libs/checkpointcodec"
	"github.com/ultrathink-pilot/trainyard/services/checkpoint-janitor/internal/retention"
)

var (
	made = time.Date(2026, 9, 1, 8, 0, 0, 0, time.UTC)
	now  = made.Add(40 * 24 * time.Hour)
)

func floats(n int, seed uint64) (out []byte) {
	r := rand.New(rand.NewPCG(seed, 1))
	for range n {
		out = binary.LittleEndian.AppendUint32(out, math.Float32bits(float32(r.NormFloat64()*0.05)))
	}
	return out
}

// mess is a directory as people leave it: seven ranked files, one diverged, one chosen.
func mess() map[string][]byte {
	files := map[string][]byte{}
	for i := range 7 {
		files[fmt.Sprintf("bull/bull_epoch%d_sharpe%.1f.pth", i, float64(i)/10)] = floats(60, uint64(i))
	}
	files["bull/bull_epoch9_sharpe_nan.pth"] = floats(60, 9)
	files["bull/bull_best.pth"] = floats(60, 10)
	files["notes.txt"] = []byte("do not touch")
	return files
}

func policy() retention.Policy {
	p := retention.DefaultPolicy()
	p.Caps.SmallDropBytes = 1 << 40
	return p
}

func sweep(t testing.TB, d Disk, at time.Time) (Done, error) {
	t.Helper()
	tree := &Tree{Disk: d, Log: func(string, ...any) {}}
	stock, err := tree.Take(at)
	if err != nil {
		return Done{}, err
	}
	plan, err := retention.Decide(policy(), stock.Inventory, at)
	if err != nil {
		t.Fatal(err)
	}
	return tree.Apply(t.Context(), plan, stock, policy().Grace)
}

func TestAMessIsBroughtUnderThePolicy(t *testing.T) {
	t.Parallel()
	files := mess()
	d := newCrashDisk(files, made)
	first, err := sweep(t, d, now)
	// Ranks 6 and 7 and the diverged one are marked; ranks 1 to 5 are old and packed.
	if err != nil || first.Tombstoned != 3 || first.Deleted != 0 || first.Archived != 5 {
		t.Fatalf("first: %+v %v", first, err)
	}
	tree := &Tree{Disk: d, Log: t.Logf}
	if _, err := tree.Restore("bull/bull_epoch0_sharpe0.0.pth", now); err != nil {
		t.Fatal(err)
	}
	second, err := sweep(t, d, now.Add(8*24*time.Hour))
	if err != nil || second.Deleted != 2 || second.Archived != 0 || second.Tombstoned != 0 {
		t.Fatalf("second: %+v %v", second, err)
	}
	left := slices.Sorted(maps.Keys(d.checkpoints()))
	if want := []string{"bull/bull_best.pth", "bull/bull_epoch0_sharpe0.0.pth"}; !slices.Equal(left, want) {
		t.Fatalf("left %v, want %v", left, want)
	}
	for i := 2; i < 7; i++ {
		name := fmt.Sprintf("bull/bull_epoch%d_sharpe%.1f.pth", i, float64(i)/10)
		if what, err := tree.Restore(name, now); err != nil || !strings.Contains(what, "unpacked") {
			t.Fatalf("%s: %q %v", name, what, err)
		}
		if got := d.names[name]; !bytes.Equal(got.data, files[name]) || !got.mod.Equal(made) {
			t.Errorf("%s came back as other bytes, or of another time", name)
		}
	}
	if string(d.names["notes.txt"].data) != "do not touch" {
		t.Error("a file that is no checkpoint was touched")
	}
	for name := range d.names {
		if strings.HasPrefix(name, coldDir) || strings.HasPrefix(name, tmpDir) {
			t.Errorf("%s is left behind", name)
		}
	}
}

func TestWhatChangesBehindItsBackStays(t *testing.T) {
	t.Parallel()
	d := newCrashDisk(mess(), made)
	if _, err := sweep(t, d, now); err != nil {
		t.Fatal(err)
	}
	changed := "bull/bull_epoch0_sharpe0.0.pth"
	d.names[changed].data[3] ^= 1 // same size, same time
	done, err := sweep(t, d, now.Add(8*24*time.Hour))
	if err != nil || done.Deleted != 2 || len(done.Kept) != 1 || !strings.Contains(done.Kept[0], changed) {
		t.Fatalf("got %+v %v", done, err)
	}
}

func TestPinsLinksAndNamesHold(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	put := func(name string) {
		full := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(full, []byte(name), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(full, made, made); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"x/plain.pth", "x/pinned.pth", "x/linked.pth", "x/model_best.pth", "x/twice.pth"} {
		put(name)
	}
	if err := errors.Join(os.Symlink("linked.pth", filepath.Join(dir, "x/current.pth")), os.Link(filepath.Join(dir, "x/twice.pth"), filepath.Join(dir, "again"))); err != nil {
		t.Fatal(err)
	}
	disk, err := OpenDirectory(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := disk.Close(); err != nil {
			t.Error(err)
		}
	}()
	tree := &Tree{Disk: disk, Log: t.Logf}
	if err := tree.Pin("x/pinned.pth", true, now); err != nil {
		t.Fatal(err)
	}
	stock, err := tree.Take(made.Add(100 * 24 * time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	var held []string
	for _, c := range stock.Checkpoints {
		if len(c.References) > 0 {
			held = append(held, c.ID)
		}
	}
	if want := []string{"x/linked.pth", "x/model_best.pth", "x/pinned.pth", "x/twice.pth"}; !slices.Equal(held, want) {
		t.Errorf("held %v, want %v", held, want)
	}
}

// intact says what is wrong with a disk that has just come up: every visible checkpoint is
// whole, and what is not visible has a packed copy or had its time.
func intact(d *crashDisk, files map[string][]byte, mayGo map[string]bool) error {
	visible := d.checkpoints()
	for name, data := range visible {
		if !bytes.Equal(data, files[name]) {
			return fmt.Errorf("%s is visible and corrupt", name)
		}
	}
	for name, want := range files {
		if !isCheckpoint(name) || visible[name] != nil || mayGo[name] {
			continue
		}
		cold := d.names[coldDir+"/"+name+".tyar"]
		if cold == nil {
			return fmt.Errorf("%s is lost", name)
		}
		var raw bytes.Buffer
		if _, err := checkpointcodec.Decode(&raw, bytes.NewReader(cold.data), nil); err != nil {
			return fmt.Errorf("%s has only a damaged copy: %w", name, err)
		}
		if !bytes.Equal(raw.Bytes(), want) {
			return fmt.Errorf("%s has only a copy of other bytes", name)
		}
	}
	return nil
}

// story is a whole life: mark and archive, restore one, delete what was marked.
func story(t testing.TB, d *crashDisk) error {
	if _, err := sweep(t, d, now); err != nil {
		return err
	}
	tree := &Tree{Disk: d, Log: func(string, ...any) {}}
	if _, err := tree.Restore("bull/bull_epoch4_sharpe0.4.pth", now); err != nil {
		return err
	}
	_, err := sweep(t, d, now.Add(8*24*time.Hour))
	return err
}

// powerLoss cuts the story at every stride-th operation, in several ways each, counts the points
// and returns the first that shows a loss. A lying disk answers Sync without doing it.
func powerLoss(t testing.TB, stride, ways int, lying bool) (points int, err error) {
	t.Helper()
	files := mess()
	whole := newCrashDisk(files, made)
	if err := story(t, whole); err != nil {
		t.Fatal(err)
	}
	mayGo := map[string]bool{"bull/bull_epoch0_sharpe0.0.pth": true, "bull/bull_epoch1_sharpe0.1.pth": true, "bull/bull_epoch9_sharpe_nan.pth": true}
	for at := 1; at <= whole.ops; at += stride {
		for way := range ways {
			d := newCrashDisk(files, made)
			d.limit, d.lying = at, lying
			if err := story(t, d); err != nil && !errors.Is(err, errPower) {
				t.Fatalf("at %d: %v", at, err)
			}
			r := rand.New(rand.NewPCG(uint64(at), uint64(way)))
			up := d.crash(r, []float64{0, 0.5, 1}[(at/stride+way)%3])
			points++
			if err := intact(up, files, mayGo); err != nil {
				return points, fmt.Errorf("power lost at operation %d, way %d: %w", at, way, err)
			}
			// And it goes on: the next runs end where an uncut one does.
			for _, days := range []int{9, 20} {
				if _, err := sweep(t, up, now.AddDate(0, 0, days)); err != nil {
					return points, fmt.Errorf("after a cut at %d: %w", at, err)
				}
			}
			if err := intact(up, files, mayGo); err != nil {
				return points, fmt.Errorf("after the run that followed a cut at %d: %w", at, err)
			}
			for name := range up.names {
				if strings.HasPrefix(name, tmpDir+"/") {
					return points, fmt.Errorf("%s is leaked after a cut at %d", name, at)
				}
			}
		}
	}
	return points, nil
}

func TestPowerLossShowsNoCorruptCheckpoint(t *testing.T) {
	t.Parallel()
	if points, err := powerLoss(t, 2, 1, false); err != nil || points < 40 {
		t.Fatalf("%d points: %v", points, err)
	}
}

// The harness finds the loss where files are not synced; else the test above would prove nothing.
func TestTheCrashDiskKillsItsMutant(t *testing.T) {
	t.Parallel()
	if points, err := powerLoss(t, 2, 3, true); err == nil {
		t.Fatalf("%d points on a disk that does not sync lost nothing: the harness is blind", points)
	}
}
