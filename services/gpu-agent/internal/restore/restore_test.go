package restore_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"

	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/lease"
	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/restore"
)

var key = lease.Key{JobID: "job", Attempt: 2, Fence: 7}

func file(path, text string) lease.File {
	return lease.File{Path: path, SHA256: sha256.Sum256([]byte(text)), Size: int64(len(text))}
}

// registry is a scripted one: checkpoints oldest first, objects by digest.
type registry struct {
	checkpoints []lease.Checkpoint
	objects     map[[32]byte]string
	corrupt     []string
	bad         [][32]byte
	fail        error // of every Resolve while it is set
	downloads   int
}

func (r *registry) Resolve(_ context.Context, _ lease.Key, id string) (*lease.Checkpoint, error) {
	if r.fail != nil {
		return nil, r.fail
	}
	for _, c := range slices.Backward(r.checkpoints) {
		if (id == "" || c.ID == id) && !slices.Contains(r.corrupt, c.ID) {
			for _, f := range c.Files {
				for _, chunk := range c.Chunks[f.Path] {
					c.Downloads = append(c.Downloads, lease.Transfer{SHA256: chunk.SHA256, Size: chunk.Size})
				}
				if len(c.Chunks[f.Path]) == 0 {
					c.Downloads = append(c.Downloads, lease.Transfer{SHA256: f.SHA256, Size: f.Size})
				}
			}
			return &c, nil
		}
	}
	return nil, lease.ErrNotFound
}

func (r *registry) Get(_ context.Context, t lease.Transfer) (io.ReadCloser, error) {
	r.downloads++
	return io.NopCloser(bytes.NewReader([]byte(r.objects[t.SHA256]))), nil
}

func (r *registry) ReportCorrupt(_ context.Context, _ lease.Key, id, _ string, bad ...[32]byte) error {
	r.corrupt, r.bad = append(r.corrupt, id), append(r.bad, bad...)
	return nil
}

func (r *registry) add(id string, step int64, files map[string]string) {
	c := lease.Checkpoint{ID: id, Step: step}
	for path, text := range files {
		f := file(path, text)
		c.Files = append(c.Files, f)
		if r.objects == nil {
			r.objects = map[[32]byte]string{}
		}
		r.objects[f.SHA256] = text
	}
	r.checkpoints = append(r.checkpoints, c)
}

func newRestorer(t *testing.T, r *registry) (*restore.Restorer, *restore.Tier, *int) {
	t.Helper()
	return newRestorerIn(t, r, filepath.Join(t.TempDir(), "tier"))
}

func newRestorerIn(t *testing.T, r *registry, dir string) (*restore.Restorer, *restore.Tier, *int) {
	t.Helper()
	tier, err := restore.NewTier(dir, 1<<20, nil)
	if err != nil {
		t.Fatal(err)
	}
	bad := 0
	return &restore.Restorer{Registry: r, Tier: tier, Log: zap.NewNop(), Patience: 10 * time.Second, Corrupt: func() { bad++ }}, tier, &bad
}

func read(t *testing.T, r *lease.Restored, path string) string {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(r.Directory, path))
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

// keep puts a checkpoint into the tier as a commit would.
func keep(t *testing.T, tier *restore.Tier, job, id string, step int64, files map[string]string) {
	t.Helper()
	staged := t.TempDir()
	var list []lease.File
	for path, text := range files {
		f := file(path, text)
		list = append(list, f)
		if err := os.WriteFile(filepath.Join(staged, hex.EncodeToString(f.SHA256[:])), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	at := func(digest [32]byte) string { return filepath.Join(staged, hex.EncodeToString(digest[:])) }
	if err := tier.Keep(job, id, step, list, at); err != nil {
		t.Fatal(err)
	}
}

// The newest checkpoint is brought with its directories; what the host has is not
// downloaded.
func TestNewest(t *testing.T) {
	t.Parallel()
	r := &registry{}
	r.add("old", 1, map[string]string{"model": "old"})
	r.add("new", 2, map[string]string{"model": "new", "deep/er/optimizer": "state"})
	restorer, tier, _ := newRestorer(t, r)
	keep(t, tier, "job", "new", 2, map[string]string{"model": "new"})
	got, err := restorer.Prepare(t.Context(), key, t.TempDir())
	if err != nil || got.ID != "new" || got.Step != 2 {
		t.Fatalf("%+v %v", got, err)
	}
	if read(t, got, "model") != "new" || read(t, got, "deep/er/optimizer") != "state" || r.downloads != 1 {
		t.Fatalf("%d downloads", r.downloads)
	}
}

// A job without a checkpoint starts from scratch; a fenced one does not start.
func TestNothingToRestore(t *testing.T) {
	t.Parallel()
	restorer, _, _ := newRestorer(t, &registry{})
	if got, err := restorer.Prepare(t.Context(), key, t.TempDir()); got != nil || err != nil {
		t.Fatalf("%+v %v", got, err)
	}
	restorer, _, _ = newRestorer(t, &registry{fail: lease.ErrFenced})
	if _, err := restorer.Prepare(t.Context(), key, t.TempDir()); !errors.Is(err, lease.ErrFenced) {
		t.Fatal(err)
	}
	restorer, _, _ = newRestorer(t, &registry{})
	if _, err := restorer.Named(t.Context(), key, "gone", t.TempDir()); !errors.Is(err, lease.ErrNotFound) {
		t.Fatal(err)
	}
}

// Bytes that are not what the manifest says, too few, too many or others, mark the
// checkpoint, and the one before it is taken.
func TestCorrupt(t *testing.T) {
	t.Parallel()
	for name, stored := range map[string]string{"flipped": "neW", "short": "n", "long": "newer"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				r := &registry{}
				r.add("old", 1, map[string]string{"model": "old"})
				r.add("new", 2, map[string]string{"model": "new"})
				r.objects[sha256.Sum256([]byte("new"))] = stored
				restorer, _, bad := newRestorer(t, r)
				got, err := restorer.Prepare(t.Context(), key, t.TempDir())
				if err != nil || got.ID != "old" || read(t, got, "model") != "old" || *bad != 1 || !slices.Equal(r.corrupt, []string{"new"}) {
					t.Fatalf("%+v %v, marked %v", got, err, r.corrupt)
				}
			})
		})
	}
}

// A path that leads outside the directory is refused, whatever the registry says.
func TestPathTrick(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := &registry{}
		r.add("evil", 1, map[string]string{"../escaped": "x"})
		restorer, _, _ := newRestorer(t, r)
		dir := t.TempDir()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if got, err := restorer.Prepare(ctx, key, dir); err == nil {
			t.Fatalf("%+v", got)
		}
		if _, err := os.Stat(filepath.Join(dir, "escaped")); err == nil {
			t.Fatal("a file was written outside")
		}
	})
}

// While the registry is away the host waits for its patience, then takes its own
// newest good checkpoint; a damaged one is passed over.
func TestRegistryAway(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := &registry{fail: errors.New("away")}
		dir := filepath.Join(t.TempDir(), "tier")
		restorer, tier, _ := newRestorerIn(t, r, dir)
		keep(t, tier, "job", "one", 1, map[string]string{"model": "one"})
		keep(t, tier, "job", "two", 2, map[string]string{"model": "two"})
		sum := sha256.Sum256([]byte("two"))
		if err := os.WriteFile(filepath.Join(dir, "job", hex.EncodeToString(sum[:])), []byte("tw0"), 0o600); err != nil {
			t.Fatal(err)
		}
		begun := time.Now()
		got, err := restorer.Prepare(t.Context(), key, t.TempDir())
		if err != nil || got.ID != "one" || time.Since(begun) < 10*time.Second {
			t.Fatalf("%+v %v after %v", got, err, time.Since(begun))
		}
	})
}

// The tier keeps two checkpoints of a job, and within its bound the jobs that were
// touched last.
func TestTierBounds(t *testing.T) {
	t.Parallel()
	tier, err := restore.NewTier(filepath.Join(t.TempDir(), "tier"), 2500, nil)
	if err != nil {
		t.Fatal(err)
	}
	for step := range int64(4) {
		keep(t, tier, "a", fmt.Sprint("a", step), step, map[string]string{"model": fmt.Sprint(step), "shared": "same"})
	}
	var ids []string
	for _, c := range tier.Newest("a") {
		ids = append(ids, c.ID)
	}
	if !slices.Equal(ids, []string{"a3", "a2"}) {
		t.Fatalf("kept %v", ids)
	}
	big := string(bytes.Repeat([]byte("x"), 2400))
	keep(t, tier, "b", "b1", 1, map[string]string{"model": big})
	if len(tier.Newest("b")) != 1 || len(tier.Newest("a")) != 0 {
		t.Fatalf("a has %d, b %d", len(tier.Newest("a")), len(tier.Newest("b")))
	}
}

// cut stores a checkpoint's only file as chunks.
func (r *registry) cut(id string, chunks ...string) {
	whole := ""
	c := lease.Checkpoint{ID: id, Chunks: map[string][]lease.Chunk{}}
	for _, text := range chunks {
		f := file("model.safetensors", text)
		c.Chunks[f.Path] = append(c.Chunks[f.Path], lease.Chunk{SHA256: f.SHA256, Size: f.Size})
		if r.objects == nil {
			r.objects = map[[32]byte]string{}
		}
		r.objects[f.SHA256] = text
		whole += text
	}
	c.Files = []lease.File{file("model.safetensors", whole)}
	r.checkpoints = append(r.checkpoints, c)
}

// A file that is stored as chunks comes back as itself. A bad chunk is named, so that nothing else is doubted;
// chunks that are good and not the file are no chunk's fault.
func TestChunksBecomeTheFile(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := &registry{}
		r.cut("good", "header", "trunk", "trunk", "head")
		restorer, _, bad := newRestorer(t, r)
		got, err := restorer.Prepare(t.Context(), key, t.TempDir())
		if err != nil || got.ID != "good" || read(t, got, "model.safetensors") != "headertrunktrunkhead" || *bad != 0 {
			t.Fatalf("%+v, %v", got, err)
		}
		r.cut("spoilt", "header", "trunk", "another head")
		r.objects[file("", "another head").SHA256] = "another heat"
		r.cut("short", "header", "trunk", "third head")
		r.objects[file("", "third head").SHA256] = "third"
		r.cut("mixed", "header", "trunk", "fourth head")
		r.checkpoints[3].Files[0].SHA256 = file("", "headerfourth headtrunk").SHA256
		if got, err = restorer.Prepare(t.Context(), key, t.TempDir()); err != nil || got.ID != "good" {
			t.Fatalf("%+v, %v", got, err)
		}
		want := [][32]byte{r.checkpoints[3].Files[0].SHA256, file("", "third head").SHA256, file("", "another head").SHA256}
		if !slices.Equal(r.corrupt, []string{"mixed", "short", "spoilt"}) || !slices.Equal(r.bad, want) {
			t.Fatalf("reported %v, %x", r.corrupt, r.bad)
		}
	})
}
