package journal_test

import (
	"math/rand"
	"reflect"
	"strings"
	"testing"

	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/disk/crashdisk"
	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/journal"
	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/lease"
)

func key(job string, fence uint64) lease.Key { return lease.Key{JobID: job, Attempt: 1, Fence: fence} }

func grant(t *testing.T, j *journal.Journal, k lease.Key) {
	t.Helper()
	err := j.Update(func(s *journal.State) {
		s.Leases = append(s.Leases, journal.Lease{Assignment: lease.Assignment{Key: k, Claims: []lease.Claim{{Device: "cpu:0", Bytes: 10}}}})
	})
	if err != nil {
		t.Fatal(err)
	}
}

// Every flipped byte is detected and quarantines the host; the file is kept.
func TestEveryFlippedByteFailsClosed(t *testing.T) {
	t.Parallel()
	d := crashdisk.New()
	j, err := journal.Open(d, "/journal")
	if err != nil {
		t.Fatal(err)
	}
	grant(t, j, key("a", 1))
	raw, err := d.ReadFile("/journal/state")
	if err != nil {
		t.Fatal(err)
	}
	for offset := range raw {
		for _, mask := range []byte{0x01, 0x80, 0xff} {
			hurt := d.Crash(rand.New(rand.NewSource(1)), 0)
			hurt.Corrupt("/journal/state", offset, mask)
			again, err := journal.Open(hurt, "/journal")
			if err != nil {
				t.Fatal(err)
			}
			state := again.View()
			if state.Quarantine == "" || len(state.Leases) != 0 {
				t.Fatalf("byte %d ^ %x: %+v", offset, mask, state)
			}
			names, err := hurt.List("/journal")
			if err != nil || !strings.Contains(strings.Join(names, " "), "corrupt") {
				t.Fatalf("the corrupt journal was not kept: %v %v", names, err)
			}
			third, err := journal.Open(hurt, "/journal")
			if err != nil || third.View().Quarantine != state.Quarantine {
				t.Fatalf("the quarantine did not survive a restart: %v", err)
			}
		}
	}
}

// A journal that vanished is not a first start.
func TestLostJournalFailsClosed(t *testing.T) {
	t.Parallel()
	d := crashdisk.New()
	if _, err := journal.Open(d, "/journal"); err != nil {
		t.Fatal(err)
	}
	if err := d.Remove("/journal/state"); err != nil {
		t.Fatal(err)
	}
	again, err := journal.Open(d, "/journal")
	if err != nil || again.View().Quarantine == "" {
		t.Fatalf("a lost journal opened unquarantined: %v", err)
	}
}

// After power loss at any disk operation the journal holds exactly what some
// Update had made it, not older than the last that returned, and is not corrupt.
func TestPowerLoss(t *testing.T) {
	t.Parallel()
	if points, bad := powerLoss(t, 40, nil); points < 3000 || bad > 0 {
		t.Errorf("%d of %d crash points were bad", bad, points)
	}
	for _, omitted := range []string{"sync", "syncdir"} {
		if _, bad := powerLoss(t, 40, func(name, _ string) bool { return name == omitted }); bad == 0 {
			t.Errorf("omitting every %s went unnoticed", omitted)
		}
	}
}

// powerLoss cuts the power before each disk operation of some leases and exits,
// and returns how many states lost an update that had returned, or are corrupt.
func powerLoss(t *testing.T, seeds int, lie func(name, path string) bool) (points, bad int) {
	t.Helper()
	var done []journal.State
	d := crashdisk.New()
	d.Lie = lie
	d.Before = func(op int, _, _ string) error {
		for seed := range seeds {
			points++
			crashed := d.Crash(rand.New(rand.NewSource(int64(op*1000+seed))), []float64{0, 0.5, 1}[seed%3])
			j, err := journal.Open(crashed, "/journal")
			if err != nil {
				t.Fatal(err)
			}
			got := j.View()
			ok := len(done) == 0 || len(got.Exits)+len(got.Leases) >= len(done[len(done)-1].Exits)+len(done[len(done)-1].Leases)
			if got.Quarantine != "" || !ok {
				bad++
			}
		}
		return nil
	}
	j, err := journal.Open(d, "/journal")
	if err != nil {
		t.Fatal(err)
	}
	for i := range uint64(12) {
		k := key(strings.Repeat("j", int(i+1)), i+1)
		grant(t, j, k)
		done = append(done, j.View())
		if i%2 == 0 {
			if err := j.Update(func(s *journal.State) { s.End(lease.Exit{Key: k, Outcome: lease.Succeeded}) }); err != nil {
				t.Fatal(err)
			}
			done = append(done, j.View())
		}
	}
	return points, bad
}

// An exit is recorded once, whatever is repeated, and never again after the
// scheduler acknowledged it.
func TestEndOnce(t *testing.T) {
	t.Parallel()
	j, err := journal.Open(crashdisk.New(), "/journal")
	if err != nil {
		t.Fatal(err)
	}
	k := key("a", 7)
	grant(t, j, k)
	end := func(o lease.Outcome) {
		if err := j.Update(func(s *journal.State) { s.End(lease.Exit{Key: k, Outcome: o}) }); err != nil {
			t.Fatal(err)
		}
	}
	end(lease.Failed)
	end(lease.Succeeded)
	if got := j.View(); len(got.Leases) != 0 || len(got.Exits) != 1 || got.Exits[0].Outcome != lease.Failed {
		t.Fatalf("%+v", got)
	}
	if err := j.Update(func(s *journal.State) { s.Forget(k) }); err != nil {
		t.Fatal(err)
	}
	end(lease.Succeeded)
	if got := j.View(); len(got.Exits) != 0 || !reflect.DeepEqual(got.Ended, map[string]uint64{"a": 7}) {
		t.Fatalf("%+v", got)
	}
}

// A full disk changes nothing.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	d := crashdisk.New()
	j, err := journal.Open(d, "/journal")
	if err != nil {
		t.Fatal(err)
	}
	d.Before = func(_ int, name, _ string) error {
		if name == "write" {
			return crashdisk.ErrFull
		}
		return nil
	}
	if err := j.Update(func(s *journal.State) { s.Quarantine = "x" }); err == nil || j.View().Quarantine != "" {
		t.Fatalf("an update on a full disk: %v, %+v", err, j.View())
	}
}
