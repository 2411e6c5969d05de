//go:build results

package checkpointcodec

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/ultrathink-pilot/trainyard/libs/benchtable"
)

// cpu is the processor time of this process and of the children that have ended.
func cpu(t *testing.T, who int) time.Duration {
	t.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(who, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

const runs = 5

// speed measures MB/s of the raw side per second of one processor.
func speed(t *testing.T, who, bytes int, work func()) (out []float64) {
	t.Helper()
	work() // warm
	for range runs {
		before := cpu(t, who)
		n := 0
		for n == 0 || cpu(t, who)-before < 300*time.Millisecond {
			work()
			n++
		}
		out = append(out, float64(n)*float64(bytes)/1e6/(cpu(t, who)-before).Seconds())
	}
	return out
}

func zstdPacks(t *testing.T, level string, raw []byte) (saved float64, mbs []float64) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "raw")
	if err := os.WriteFile(path, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	var packed int
	mbs = speed(t, syscall.RUSAGE_CHILDREN, len(raw), func() {
		out, err := exec.CommandContext(t.Context(), "zstd", level, "--single-thread", "-q", "-c", path).Output()
		if err != nil {
			t.Fatal(err)
		}
		packed = len(out)
	})
	return 100 * (1 - float64(packed)/float64(len(raw))), mbs
}

func TestResultsCodec(t *testing.T) {
	base, later := training(4<<20, 5)
	version, err := exec.CommandContext(t.Context(), "zstd", "--version").Output()
	if err != nil {
		t.Skipf("SKIPPED, NOT MEASURED: the peer is the zstd program: %v", err)
	}
	t.Logf("%s", version)
	section := benchtable.Section{
		Page: "janitor.md", Title: "Archive codec", Command: "make bench ONLY=libs RESULTS=TestResultsCodec",
		Intro: fmt.Sprintf("A float32 training checkpoint of %d MB: weights and Adam's two moments after steps with real update sizes. "+
			"MB/s of the raw side per second of one processor, digests and checksums of both sides included; the peer is the zstd program, one thread. "+
			"Every run is unpacked and compared bit by bit.", len(later)/1e6),
		Notes: []string{"Mantissas are noise: what is saved alone is saved in exponents. zstd -19 finds a little more than zstd -3 at a hundredth of its speed."},
	}
	check := func(packed, base []byte) {
		var back bytes.Buffer
		if _, err := Decode(&back, bytes.NewReader(packed), reader(base)); err != nil || !bytes.Equal(back.Bytes(), later) {
			t.Fatalf("not bit-exact: %v", err)
		}
	}
	zstdSaved := map[string]float64{}
	for _, level := range []string{"-3", "-19"} {
		input := later
		if level == "-19" {
			input = later[:16<<20] // at 2 MB/s the whole would take minutes
		}
		saved, mbs := zstdPacks(t, level, input)
		zstdSaved[level] = saved
		section.Rows = append(section.Rows, benchtable.Row{What: "zstd " + level + ", encode", Peer: benchtable.Of("MB/s", mbs...), PeerName: "zstd 1.5", Note: fmt.Sprintf("saves %.1f %%", saved)})
	}
	for _, c := range []struct {
		name, saved string
		base        []byte
	}{{"standalone", ">= 15 %", nil}, {"with deltas (10 steps apart)", ">= 25 %", base}} {
		packed, stats := mustEncode(t, later, c.base)
		check(packed, c.base)
		section.Rows = append(section.Rows,
			benchtable.Row{What: "saved, " + c.name, Asked: c.saved, Ours: benchtable.Of("%", 100*stats.Saved()), Peer: benchtable.Of("%", zstdSaved["-19"]), PeerName: "zstd -19"},
			benchtable.Row{What: "encode, " + c.name, Asked: ">= 300 MB/s per core", Ours: benchtable.Of("MB/s", speed(t, syscall.RUSAGE_SELF, len(later), func() {
				if _, err := Encode(io.Discard, bytes.NewReader(later), reader(c.base)); err != nil {
					t.Fatal(err)
				}
			})...)},
			benchtable.Row{What: "decode, " + c.name, Ours: benchtable.Of("MB/s", speed(t, syscall.RUSAGE_SELF, len(later), func() {
				if _, err := Decode(io.Discard, bytes.NewReader(packed), reader(c.base)); err != nil {
					t.Fatal(err)
				}
			})...)})
	}
	section.Write(t)
}
