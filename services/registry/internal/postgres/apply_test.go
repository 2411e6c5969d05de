package postgres

import (
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ultrathink-pilot/trainyard/services/registry/internal/catalog"
	"github.com/ultrathink-pilot/trainyard/services/registry/internal/series"
)

func TestValuesAreKeptFaithfully(t *testing.T) {
	f := setup(t)
	run, fence := f.run("")
	odd := []float64{1.5, math.NaN(), math.Inf(1), math.Inf(-1), math.MaxFloat64, math.SmallestNonzeroFloat64, 0.1}
	f.accept(metrics(key(run, 1, fence, 2), f.now, "train/reward", 0, odd...))
	f.expectValues(run, "train/reward", odd...)
	got, err := f.store.GetRun(f.ctx, run)
	f.must(err)
	if len(got.Latest) != 1 || got.Latest[0].Step != 6 || got.Latest[0].Value != 0.1 || got.ExperimentName != "specialists/bull" {
		f.Errorf("run %+v", got)
	}
}

func TestResentBatchesHaveNoSecondEffect(t *testing.T) {
	f := setup(t)
	run, fence := f.run("")
	batch := metrics(key(run, 1, fence, 2), f.now, "m", 1, 1, 2, 3)
	f.accept(batch)
	changed := metrics(key(run, 1, fence, 2), f.now, "m", 1, 9, 9, 9)
	for _, b := range []catalog.Batch{opened(key(run, 1, fence, 1), "", ""), batch, changed} {
		if r := f.apply(b)[0]; !r.Duplicate {
			f.Errorf("resent batch %d: %+v", b.Key.Sequence, r)
		}
	}
	// In one group with its own repeat, as after a reconnect.
	next := metrics(key(run, 1, fence, 3), f.now, "m", 4, 4)
	if r := f.apply(next, next); r[0].Duplicate || !r[1].Duplicate {
		f.Errorf("group with a repeat: %+v", r)
	}
	f.expectValues(run, "m", 1, 2, 3, 4)
}

func TestStaleFenceHasNoEffectAndTheGroupGoesOn(t *testing.T) {
	f := setup(t)
	run, old := f.run("")
	f.accept(metrics(key(run, 1, old, 2), f.now, "m", 1, 1))
	fresh := old + 10
	other, otherFence := f.run("")
	results := f.apply(
		opened(key(run, 2, fresh, 1), "", ""),
		metrics(key(run, 1, old, 3), f.now, "m", 2, 666),
		metrics(key(other, 1, otherFence, 2), f.now, "m", 1, 7),
		catalog.Batch{Key: key(run, 1, old, 4), Params: []catalog.Param{{Key: "p", Value: "stale"}}},
		closed(key(run, 1, old, 5), catalog.RunSucceeded),
		opened(key(run, 1, old, 1), "", ""),
	)
	for i, r := range results {
		fenced := r.Refusal != nil && r.Refusal.Problem == catalog.ProblemFenced
		if want := i != 0 && i != 2; fenced != want {
			f.Errorf("batch %d: %+v", i, r)
		}
		if fenced && r.Refusal.CurrentFence != fresh {
			f.Errorf("batch %d names fence %d", i, r.Refusal.CurrentFence)
		}
	}
	got, err := f.store.GetRun(f.ctx, run)
	f.must(err)
	if got.State != catalog.RunRunning || got.Attempt != 2 || got.Fence != fresh || len(got.Params) != 0 {
		f.Errorf("a stale batch had an effect: %+v", got)
	}
	f.expectValues(run, "m")
	f.expectValues(other, "m", 7)
}

func TestRestoredAttemptSupersedesItsTail(t *testing.T) {
	f := setup(t)
	run, fence := f.run("")
	f.accept(metrics(key(run, 1, fence, 2), f.now, "m", 1, 1, 2, 3, 4), metrics(key(run, 1, fence, 3), f.now, "rare", 1, 10))
	c := f.checkpoint(run, fence, 2, 1)
	// The tail of attempt 1 and the opening of attempt 2 share a group, as in one spool.
	f.accept(
		metrics(key(run, 1, fence, 4), f.now, "m", 5, 5),
		metrics(key(run, 1, fence, 5), f.now, "late", 3, 30),
		opened(key(run, 2, fence+5, 1), "", c.ID),
	)
	f.expectValues(run, "m", 1, 2)
	got, err := f.store.GetRun(f.ctx, run)
	f.must(err)
	latest := map[string]float64{}
	for _, m := range got.Latest {
		latest[m.Key] = m.Value
	}
	if latest["m"] != 2 || latest["rare"] != 10 {
		f.Errorf("latest after the restore: %v", latest)
	}
	if _, ok := latest["late"]; ok {
		f.Error("a superseded value is still the latest")
	}
	// The very same point again must not vanish behind the superseded one.
	f.accept(metrics(key(run, 2, fence+5, 2), f.now.Add(2*time.Second), "m", 3, 3, 44))
	f.expectValues(run, "m", 1, 2, 3, 44)
	// A fresh start hides everything.
	f.accept(opened(key(run, 3, fence+9, 1), "", ""))
	f.expectValues(run, "m")
}

func TestParamsAreImmutable(t *testing.T) {
	f := setup(t)
	run, fence := f.run("")
	params := func(seq uint64, kv ...string) catalog.Batch {
		b := catalog.Batch{Key: key(run, 1, fence, seq)}
		for i := 0; i < len(kv); i += 2 {
			b.Params = append(b.Params, catalog.Param{Key: kv[i], Value: kv[i+1]})
		}
		return b
	}
	f.accept(params(2, "lr", "0.1", "seed", "1"), params(3, "lr", "0.1"))
	r := f.apply(params(4, "new", "x", "lr", "0.2"), params(5, "a", "1", "a", "2"), metrics(key(run, 1, fence, 6), f.now, "m", 1, 1))
	if problem(r[0].Refusal) != catalog.ProblemParamConflict || problem(r[1].Refusal) != catalog.ProblemParamConflict || r[2].Refusal != nil {
		f.Fatalf("results %+v", r)
	}
	got, err := f.store.GetRun(f.ctx, run)
	f.must(err)
	if len(got.Params) != 2 || got.Params["lr"] != "0.1" {
		f.Errorf("params %v", got.Params)
	}
}

func TestPoisonBatchHitsOnlyItself(t *testing.T) {
	f := setup(t)
	run, fence := f.run("")
	r := f.apply(
		metrics(key(run, 1, fence, 2), f.now, "m", 1, 1),
		metrics(key(run, 1, fence, 3), f.now, strings.Repeat("k", 300), 1, 1),
		metrics(key(run, 1, fence, 4), f.now, "m", 2, 2),
		catalog.Batch{Key: key(run, 1, fence, 5), Params: []catalog.Param{{Key: "nul", Value: "a\x00b"}}},
	)
	if r[0].Refusal != nil || r[2].Refusal != nil {
		f.Errorf("a neighbour was refused: %+v", r)
	}
	if problem(r[1].Refusal) != catalog.ProblemInvalid || problem(r[3].Refusal) != catalog.ProblemInvalid {
		f.Errorf("poison was taken: %+v", r)
	}
	f.expectValues(run, "m", 1, 2)
}

func TestBatchBeforeRunOpenedIsRefused(t *testing.T) {
	f := setup(t)
	if r := f.apply(metrics(key(newID(), 1, 1, 1), f.now, "m", 1, 1)); problem(r[0].Refusal) != catalog.ProblemNotOpen {
		f.Errorf("%+v", r)
	}
}

// Twenty writers send, lose answers and resend whole tails, as after ExecuteAndTimeout: the
// store did commit, the client was told that it failed. Nothing is lost or doubled, and
// the stored latest value is the one that the pure rule names.
func TestResendAfterUnknownOutcome(t *testing.T) {
	f := setup(t)
	const writers, batches, points = 20, 12, 25
	var wg sync.WaitGroup
	runs := make([]string, writers)
	for w := range writers {
		runs[w] = newID()
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(uint64(w), 1))
			fence := f.fence.Add(1)
			all := []catalog.Batch{opened(key(runs[w], 1, fence, 1), "", "")}
			for b := range batches {
				values := make([]float64, points)
				for i := range values {
					values[i] = float64(b*points + i)
				}
				all = append(all, metrics(key(runs[w], 1, fence, uint64(b+2)), f.now, "m", int64(b*points), values...))
			}
			for acked := 0; acked < len(all); {
				n := 1 + rnd.IntN(4)
				group := all[acked:min(acked+n, len(all))]
				if _, err := f.store.ApplyBatches(f.ctx, group, f.now); err != nil {
					t.Error(err)
					return
				}
				if rnd.IntN(3) > 0 { // else the answer was lost: the same is sent again
					acked += len(group)
				}
			}
		})
	}
	wg.Wait()
	want := make([]float64, batches*points)
	for i := range want {
		want[i] = float64(i)
	}
	for _, run := range runs {
		if got := f.values(run, "m"); !slices.Equal(got, want) {
			f.Fatalf("run %s has %d of %d points", run, len(got), len(want))
		}
	}
}

func TestStoredLatestIsThePureLatest(t *testing.T) {
	f := setup(t)
	rnd := rand.New(rand.NewPCG(7, 7))
	run, fence := f.run("")
	pool := []float64{math.NaN(), math.Inf(1), math.Inf(-1), -1, 0, 2, 3}
	var all []series.Point
	for seq := uint64(2); seq < 60; seq++ {
		b := catalog.Batch{Key: key(run, 1, fence, seq)}
		for range 1 + rnd.IntN(5) {
			p := catalog.MetricPoint{Key: "m", Step: rnd.Int64N(6), Time: f.now.Add(time.Duration(rnd.IntN(3)) * time.Second), Value: pool[rnd.IntN(len(pool))]}
			b.Points = append(b.Points, p)
			all = append(all, series.Point{Step: p.Step, Time: p.Time, Value: p.Value, Attempt: 1})
		}
		f.accept(b)
		got, err := f.store.GetRun(f.ctx, run)
		f.must(err)
		want, _ := series.Latest(all)
		l := got.Latest[0]
		if l.Step != want.Step || !l.Time.Equal(want.Time) || l.Value != want.Value && !(math.IsNaN(l.Value) && math.IsNaN(want.Value)) {
			f.Fatalf("after batch %d latest is %+v, the rule says %+v", seq, l, want)
		}
	}
	f.expectValues(run, "m", func() (out []float64) {
		for _, p := range series.Visible(all, nil) {
			out = append(out, p.Value)
		}
		return
	}()...)
}
