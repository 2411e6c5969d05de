package staging_test

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"math/rand"
	"strings"
	"testing"

	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/disk/crashdisk"
	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/staging"
)

// sweep cuts the power before every disk operation of some uploads, several times
// each. It returns how many states lost a content that its sender was told is
// durable, and how many show bytes under a digest that is not theirs.
func sweep(t *testing.T, seeds int, lie func(name, path string) bool) (points, lost, corrupt int) {
	t.Helper()
	told := map[[32]byte]bool{}
	d := crashdisk.New()
	d.Lie = lie
	check := func(op int) {
		for i, survival := range []float64{0, 0.3, 0.5, 0.9, 1} {
			for seed := range seeds {
				points++
				after := d.Crash(rand.New(rand.NewSource(int64(op*1000+i*100+seed))), survival)
				s, err := staging.OpenIn(after, "/staging", 1<<20)
				if err != nil {
					t.Fatal(err)
				}
				for digest := range told {
					f, err := s.OpenFile(digest)
					if err != nil {
						lost++
						break
					}
					if raw, err := io.ReadAll(f); err != nil || sha256.Sum256(raw) != digest {
						lost++
						break
					}
				}
				names, err := after.List("/staging")
				if err != nil {
					t.Fatal(err)
				}
				for _, name := range names {
					raw, err := after.ReadFile("/staging/" + name)
					sum := sha256.Sum256(raw)
					if err != nil || strings.HasPrefix(name, "tmp-") || hex.EncodeToString(sum[:]) != name {
						corrupt++
						break
					}
				}
			}
		}
	}
	s, err := staging.OpenIn(d, "/staging", 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	d.Before = func(op int, _, _ string) error { check(op); return nil }
	for i := range 6 {
		data := []byte(strings.Repeat(fmt.Sprint(i), 300))
		sum := sha256.Sum256(data)
		up, err := s.Begin(int64(len(data)))
		if err != nil {
			t.Fatal(err)
		}
		for _, part := range [][]byte{data[:100], data[100:]} {
			if _, err := up.Write(part); err != nil {
				t.Fatal(err)
			}
		}
		if i == 3 { // one that never ends well
			if err := up.Abort(); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if err := up.Commit(sum); err != nil {
			t.Fatal(err)
		}
		told[sum] = true
	}
	check(1 << 20)
	return points, lost, corrupt
}

// Power loss at any point takes no content that its sender was told of, and shows
// none that is not whole.
func TestPowerLoss(t *testing.T) {
	t.Parallel()
	points, lost, corrupt := sweep(t, 20, nil)
	if points < 2500 || lost+corrupt != 0 {
		t.Fatalf("of %d crash points %d lost a content, %d showed a corrupt one", points, lost, corrupt)
	}
}

// Each fsync is needed: without that of the bytes a content shows up corrupt,
// without that of the name it is lost.
func TestOmittedSyncIsCaught(t *testing.T) {
	t.Parallel()
	omit := func(what string) func(string, string) bool {
		return func(name, _ string) bool { return name == what }
	}
	if _, _, corrupt := sweep(t, 20, omit("sync")); corrupt == 0 {
		t.Error("omitting the sync of the bytes went unnoticed")
	}
	if _, lost, _ := sweep(t, 20, omit("syncdir")); lost == 0 {
		t.Error("omitting the sync of the name went unnoticed")
	}
}
