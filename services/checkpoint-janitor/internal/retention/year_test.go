package retention

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// Shares that packing leaves of float32 weights, as measured on a real store: alone, and as
// differences to an earlier checkpoint or with a shared trunk.
const (
	packedAlone = 0.84
	packedDelta = 0.72
)

// yearOptions choose what is switched on.
type yearOptions struct {
	keepAll bool
	archive bool
	// drop leaves optimizer state behind, encoded is the share that packing leaves.
	drop    bool
	encoded float64
}

// yearResult is growth per day in bytes, and what is left at the end.
type yearResult struct {
	p50, p95, slope, end float64
	written, left        int
	refusals             int
}

// simulateYear plays a year of the old way's workload, 5 GB a day: three
// specialists retrained every day into long-lived experiments, a search of its
// own experiment every third day, one diverged run in twenty, one model in
// production per specialist, replaced weekly. Sweeps run daily with the real
// plan, caps and two-phase delete; only the bytes are numbers.
func simulateYear(t *testing.T, o yearOptions) yearResult {
	t.Helper()
	const (
		perDay  = 5e9
		weights = 30e6
		trained = 60e6 // optimizer state beside the weights
	)
	r := rand.New(rand.NewPCG(2026, 11))
	policy := DefaultPolicy()
	store := map[string]*Checkpoint{}
	var stored int64 // no two checkpoints share a file here
	var out yearResult
	commit := func(experiment, run string, step int, at time.Time, version bool) {
		out.written++
		c := &Checkpoint{ID: fmt.Sprintf("%08d", out.written), Experiment: experiment, RunID: run, Step: int64(step), CreateTime: at, State: StateLive,
			Sharpe: Measured(r.NormFloat64()), Resumable: true,
			Files: []File{{fmt.Sprint("w", out.written), weights}, {fmt.Sprint("o", out.written), trained}}}
		if r.IntN(20) == 0 {
			c.Sharpe = Measured(math.NaN())
		}
		if version {
			c.References = []Reference{{Kind: RefVersion, Detail: fmt.Sprintf("version of %s", experiment)}}
		}
		store[c.ID] = c
		stored += c.Bytes()
	}
	var sizes []float64
	lastRun, lastCount := time.Time{}, 0
	for d := range 365 {
		now := testNow.AddDate(0, 0, d)
		search := fmt.Sprintf("search/%d", d/3)
		for n := 0; float64(n)*(weights+trained) < perDay; n++ {
			specialist := []string{"bull", "bear", "sideways"}[n%3]
			experiment := specialist
			if n%2 == 0 {
				experiment = search
			}
			// One version a week and specialist is registered, and stays for good.
			commit(experiment, fmt.Sprintf("%s-%d", experiment, d), n, now.Add(-time.Duration(r.IntN(86400))*time.Second), d%7 == 0 && n < 6 && n%2 == 1)
		}
		if !o.keepAll {
			var v Inventory
			for _, c := range store {
				v.Checkpoints = append(v.Checkpoints, *c)
			}
			plan := mustDecide(t, policy, v, now)
			at := Circumstances{Now: now, LastRun: lastRun, LastCatalogued: lastCount}
			if len(Guard(policy.Caps, plan, v, at)) > 0 {
				out.refusals++
				at.Confirmed = true // somebody looks at it the same day
			}
			lastRun = now
			for _, item := range plan.Items() {
				switch c := store[item.ID]; item.Task {
				case TaskTombstone:
					c.State, c.TombstoneTime = StateTombstoned, now
				case TaskRevive:
					c.State, c.TombstoneTime = StateLive, time.Time{}
				case TaskDelete:
					delete(store, item.ID)
					stored -= c.Bytes()
				case TaskArchive:
					c.Archived = true
					if !o.archive {
						continue
					}
					stored -= c.Bytes()
					if o.drop {
						c.Files, c.Resumable = c.Files[:1], false
					}
					for i := range c.Files {
						c.Files[i].Bytes = int64(float64(c.Files[i].Bytes) * o.encoded)
					}
					stored += c.Bytes()
				}
			}
			lastCount = len(store)
		}
		sizes = append(sizes, float64(stored))
	}
	// The first 100 days fill the waiting times; growth is what comes after.
	var growth []float64
	for d := 100; d < len(sizes); d++ {
		growth = append(growth, sizes[d]-sizes[d-1])
	}
	out.slope, out.end, out.left = (sizes[364]-sizes[100])/264, sizes[364], len(store)
	slices.Sort(growth)
	out.p50, out.p95 = growth[len(growth)/2], growth[len(growth)*95/100]
	return out
}

func TestAYearStaysUnderTheGrowthGoal(t *testing.T) {
	t.Parallel()
	const goal = 500e6
	y := simulateYear(t, yearOptions{archive: true, drop: true, encoded: packedAlone})
	t.Logf("growth a day: p50 %.0f MB, p95 %.0f MB, slope %.0f MB; %d runs wanted a confirmation", y.p50/1e6, y.p95/1e6, y.slope/1e6, y.refusals)
	if y.slope > goal || y.p95 > goal || y.p50 > goal {
		t.Errorf("growth a day: p50 %.0f, p95 %.0f, slope %.0f bytes; the goal is %.0f", y.p50, y.p95, y.slope, float64(goal))
	}
	if y.refusals > 10 {
		t.Errorf("%d daily runs were held back: the caps stop ordinary work", y.refusals)
	}
}
