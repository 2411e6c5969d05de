package lease_test

import (
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/job"
	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/lease"
)

var t0 = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// Whatever the network does to reports and answers, the agent has stopped
// before the scheduler gives its devices away: the two holders never overlap.
func TestHoldersNeverOverlap(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		terms := lease.Terms{
			Duration:  time.Duration(rapid.IntRange(1, 60).Draw(t, "lease")) * time.Second,
			LockDelay: time.Duration(rapid.IntRange(0, 30).Draw(t, "lock delay")) * time.Second,
		}
		// True time; both clocks may be shifted, since neither is compared
		// with the other.
		shift := time.Duration(rapid.Int64Range(-int64(time.Hour), int64(time.Hour)).Draw(t, "clock shift"))
		now, heard := t0, t0
		goodUntil := t0.Add(terms.Duration) // by the agent: from the sending of the last answered report
		for range rapid.IntRange(0, 40).Draw(t, "reports") {
			now = now.Add(time.Duration(rapid.Int64Range(0, int64(terms.Duration)).Draw(t, "pause")))
			if now.After(goodUntil) {
				break // the agent has fenced itself
			}
			sent := now
			now = now.Add(time.Duration(rapid.Int64Range(0, int64(5*time.Second)).Draw(t, "transit")))
			if rapid.Bool().Draw(t, "report lost") {
				continue
			}
			heard = now
			if rapid.Bool().Draw(t, "answer lost") {
				continue
			}
			goodUntil = sent.Add(terms.Duration)
		}
		// The first instant at which the scheduler gives the devices away.
		given := terms.LostAt(heard.Add(shift)).Add(-shift)
		if given.Before(goodUntil) {
			t.Fatalf("given away %s before the agent stops", goodUntil.Sub(given))
		}
		if terms.Lost(heard.Add(shift), heard.Add(shift), given.Add(shift)) || !terms.Lost(heard.Add(shift), heard.Add(shift), given.Add(shift).Add(1)) {
			t.Fatal("Lost does not agree with LostAt")
		}
	})
}

func TestNobodyIsLostInTheGraceAfterAStart(t *testing.T) {
	t.Parallel()
	terms := lease.Terms{Duration: 10 * time.Second, LockDelay: 3 * time.Second}
	started := t0.Add(time.Hour)
	if terms.Lost(t0, started, started.Add(13*time.Second)) {
		t.Error("lost within the grace")
	}
	if !terms.Lost(t0, started, started.Add(13*time.Second+1)) {
		t.Error("never lost")
	}
}

func fences(as []job.Attempt) []uint64 {
	var out []uint64
	for _, a := range as {
		out = append(out, a.Fence)
	}
	return out
}

func TestJudge(t *testing.T) {
	t.Parallel()
	live := []job.Attempt{
		{Fence: 1, Phase: job.Assigned},              // never reported
		{Fence: 2, Phase: job.Training, Known: true}, // held
		{Fence: 3, Phase: job.Training, Known: true}, // once held, now missing
		{Fence: 4, Phase: job.Ending, Known: true},   // to stop, held
		{Fence: 5, Phase: job.Ending},                // to stop, not held
		{Fence: 6, Phase: job.Training, Known: true}, // its exit is in the report
	}
	held := []lease.Held{{Fence: 2}, {Fence: 4}, {Fence: 99}}
	for _, c := range []struct {
		fresh                        bool
		run, stop, vanished, settled []uint64
	}{
		{false, []uint64{1, 2}, []uint64{4, 5}, nil, nil},
		{true, []uint64{2}, []uint64{4}, []uint64{1, 3}, []uint64{5}},
	} {
		v := lease.Judge(live, held, map[uint64]bool{6: true}, c.fresh)
		for _, x := range []struct {
			name      string
			got, want []uint64
		}{{"run", fences(v.Run), c.run}, {"stop", fences(v.Stop), c.stop}, {"vanished", fences(v.Vanished), c.vanished}, {"settled", fences(v.Settled), c.settled}} {
			if len(x.got) != len(x.want) {
				t.Errorf("fresh %v: %s %v, want %v", c.fresh, x.name, x.got, x.want)
				continue
			}
			for i := range x.got {
				if x.got[i] != x.want[i] {
					t.Errorf("fresh %v: %s %v, want %v", c.fresh, x.name, x.got, x.want)
				}
			}
		}
		if len(v.Fenced) != 1 || v.Fenced[0].Fence != 99 {
			t.Errorf("fresh %v: fenced %v", c.fresh, v.Fenced)
		}
	}
}
