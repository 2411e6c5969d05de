//go:build results

package retention

import (
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/ultrathink-pilot/trainyard/libs/benchtable"
)

// Promotions, rollbacks, pins, undo, sweeps and crashes in any order; TRAINYARD_SCHEDULES sets how many.
func TestCampaignRaces(t *testing.T) {
	n := 100_000
	if v, err := strconv.Atoi(os.Getenv("TRAINYARD_SCHEDULES")); err == nil {
		n = v
	}
	var lost, mutants atomic.Int64
	var wg sync.WaitGroup
	workers := runtime.GOMAXPROCS(0)
	for w := range workers {
		wg.Go(func() {
			one := rapid.Custom(func(t *rapid.T) bool { return run(t, "") != nil })
			broken := rapid.Custom(func(t *rapid.T) bool { return run(t, "second check") != nil })
			for seed := w; seed < n; seed += workers {
				if one.Example(seed) {
					lost.Add(1)
				}
				if seed < n/10 && broken.Example(seed) {
					mutants.Add(1)
				}
			}
		})
	}
	wg.Wait()
	benchtable.Section{
		Page: "janitor.md", Title: "Races of promotion, rollback, sweep and crash", Command: "make campaign ONLY=services/checkpoint-janitor CAMPAIGN=TestCampaignRaces",
		Intro: "Random schedules of 20 to 120 steps over the real decision and the sweep's real state machine, with a model of the registry's promises: commits, promotions, " +
			"rollbacks, pins, undo, time passing, and a crash after any call or note.",
		Rows: []benchtable.Row{
			{What: "schedules", Asked: "100,000", Ours: benchtable.Of("", float64(n))},
			{What: "referenced checkpoints lost", Asked: "0", Ours: benchtable.Of("", float64(lost.Load()))},
			{What: "the same with the registry's second check left out: schedules that lose one", Asked: "> 0", Ours: benchtable.Of("", float64(mutants.Load())), Note: fmt.Sprintf("of %d", n/10)},
		},
	}.Write(t)
	if lost.Load() > 0 || mutants.Load() == 0 {
		t.Fatalf("%d lost; the broken registry lost in %d", lost.Load(), mutants.Load())
	}
}

// large is a store of n checkpoints in 256 experiments.
func large(n int) Inventory {
	r := rand.New(rand.NewPCG(1, 2))
	v := Inventory{Checkpoints: make([]Checkpoint, n)}
	for i := range v.Checkpoints {
		id := fmt.Sprintf("%016x", r.Uint64())
		v.Checkpoints[i] = Checkpoint{
			ID: id, Experiment: id[:2], RunID: id[:3], State: StateLive, CreateTime: testNow.Add(-time.Duration(r.IntN(100)) * day),
			Sharpe: Measured(r.NormFloat64()), Files: []File{{id + "w", 100}, {id + "o", 200}, {"meta", 1}},
		}
		if i > 0 && r.IntN(10) == 0 {
			v.Checkpoints[i].Parents = []string{v.Checkpoints[r.IntN(i)].ID}
		}
	}
	return v
}

func TestResultsPlan(t *testing.T) {
	v := large(100_000)
	var secs, peak []float64
	explained := 0
	for range 5 {
		runtime.GC()
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		var u0, u1 syscall.Rusage
		_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u0)
		plan := mustDecide(t, DefaultPolicy(), v, testNow)
		_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u1)
		runtime.ReadMemStats(&after)
		secs = append(secs, time.Duration(u1.Utime.Nano()+u1.Stime.Nano()-u0.Utime.Nano()-u0.Stime.Nano()).Seconds())
		peak = append(peak, float64(after.TotalAlloc-before.TotalAlloc)/1e6)
		explained = 0
		for _, d := range plan.Decisions {
			if len(d.Reasons) > 0 && d.Reasons[0].Text != "" {
				explained++
			}
		}
	}
	benchtable.Section{
		Page: "janitor.md", Title: "Plan for 100,000 checkpoints", Command: "make bench ONLY=services/checkpoint-janitor RESULTS=TestResultsPlan",
		Intro: "Three files each in 256 experiments, a tenth with parents; the hash of policy, inventory and plan included. Processor seconds.",
		Rows: []benchtable.Row{
			{What: "decide and hash", Asked: "<= 2 s", Ours: benchtable.Of("s", secs...)},
			{What: "memory allocated in all", Asked: "bounded", Ours: benchtable.Of("MB", peak...)},
			{What: "decisions with a reason", Asked: "100 %", Ours: benchtable.Of("%", 100*float64(explained)/100_000)},
		},
	}.Write(t)
	if explained != 100_000 {
		t.Fatalf("%d explained", explained)
	}
}
