package retention

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// A year of the old way's workload, 5 GB a day, under the default policy: three
// specialists retrained every day into long-lived experiments, a search of its
// own experiment every third day, one diverged run in twenty, one model in
// production per specialist, replaced weekly. Sweeps run daily with the real
// plan, caps and two-phase delete; only the bytes are numbers.
func TestAYearStaysUnderTheGrowthGoal(t *testing.T) {
	t.Parallel()
	const (
		goal    = 500e6
		perDay  = 5e9
		weights = 30e6
		trained = 60e6 // optimizer state beside the weights
	)
	r := rand.New(rand.NewPCG(2026, 11))
	policy := DefaultPolicy()
	start := testNow
	store := map[string]*Checkpoint{}
	var stored int64 // no two checkpoints share a file here
	serial := 0
	commit := func(experiment, run string, step int, at time.Time, version bool) {
		serial++
		c := &Checkpoint{ID: fmt.Sprintf("%08d", serial), Experiment: experiment, RunID: run, Step: int64(step), CreateTime: at, State: StateLive,
			Sharpe: Measured(r.NormFloat64()), Resumable: true,
			Files: []File{{fmt.Sprint("w", serial), weights}, {fmt.Sprint("o", serial), trained}}}
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
	var written, refusals int
	lastRun, lastCount := time.Time{}, 0
	for d := range 365 {
		now := start.AddDate(0, 0, d)
		search := fmt.Sprintf("search/%d", d/3)
		for n := 0; float64(n)*(weights+trained) < perDay; n++ {
			specialist := []string{"bull", "bear", "sideways"}[n%3]
			experiment := specialist
			if n%2 == 0 {
				experiment = search
			}
			// One version a week and specialist is registered, and stays for good.
			commit(experiment, fmt.Sprintf("%s-%d", experiment, d), n, now.Add(-time.Duration(r.IntN(86400))*time.Second), d%7 == 0 && n < 6 && n%2 == 1)
			written++
		}
		var v Inventory
		for _, c := range store {
			v.Checkpoints = append(v.Checkpoints, *c)
		}
		plan := mustDecide(t, policy, v, now)
		at := Circumstances{Now: now, LastRun: lastRun, LastCatalogued: lastCount}
		if len(Guard(policy.Caps, plan, v, at)) > 0 {
			refusals++
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
			}
		}
		lastCount = len(store)
		for _, c := range store {
			if dec, _ := plan.Find(c.ID); dec.Verdict == Archive {
				c.Archived = true
			}
		}
		sizes = append(sizes, float64(stored))
	}
	// The first 100 days fill the waiting times; growth is what comes after.
	var growth []float64
	for d := 100; d < len(sizes); d++ {
		growth = append(growth, sizes[d]-sizes[d-1])
	}
	slope := (sizes[364] - sizes[100]) / 264
	slices.Sort(growth)
	p50, p95 := growth[len(growth)/2], growth[len(growth)*95/100]
	t.Logf("written %.1f GB a day; grows p50 %.0f MB, p95 %.0f MB, slope %.0f MB a day; at the end %.1f GB in %d of %d checkpoints; %d runs wanted a confirmation",
		perDay/1e9, p50/1e6, p95/1e6, slope/1e6, sizes[364]/1e9, len(store), written, refusals)
	if slope > goal || p95 > goal || p50 > goal {
		t.Errorf("growth a day: p50 %.0f, p95 %.0f, slope %.0f bytes; the goal is %.0f", p50, p95, slope, float64(goal))
	}
	if refusals > 10 {
		t.Errorf("%d daily runs were held back: the caps stop ordinary work", refusals)
	}
}
