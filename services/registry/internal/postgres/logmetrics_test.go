package postgres

import (
	"errors"
	"math"
	"testing"
	"time"

	"github.com/ultrathink-pilot/trainyard/services/registry/internal/catalog"
)

func (f *fixture) log(run string, g Guard, step int64, values ...float64) error {
	f.Helper()
	var points []catalog.MetricPoint
	for i, v := range values {
		points = append(points, catalog.MetricPoint{Key: "m", Step: step + int64(i), Time: f.now.Add(time.Duration(step) * time.Second), Value: v})
	}
	return f.store.LogMetrics(f.ctx, run, g, points, f.now)
}

// The short way writes what the long way writes: the first call of a series goes the long way,
// the others the short one.
func TestPointsLoggedInOneMessage(t *testing.T) {
	f := setup(t)
	run, fence := f.run("")
	g := Guard{Job: run, Fence: fence, HasFence: true}
	f.must(f.log(run, g, 0, 1))
	tail, err := f.store.Follow(f.ctx, run, nil, nil)
	f.must(err)
	defer tail.Cancel()
	f.must(f.log(run, g, 5, math.NaN(), 2, math.Inf(-1)))
	f.must(f.log(run, g, 5, math.NaN(), 2, math.Inf(-1))) // sent again
	f.must(f.log(run, g, 3, 9))                           // late
	f.expectValues(run, "m", 1, 9, math.NaN(), 2, math.Inf(-1))
	<-tail.Wake()
	got, err := f.store.GetRun(f.ctx, run)
	f.must(err)
	if len(got.Latest) != 1 || got.Latest[0].Step != 7 || !math.IsInf(got.Latest[0].Value, -1) {
		t.Errorf("latest %+v", got.Latest)
	}

	// Rollups that a late point reaches into are gone.
	many := make([]float64, 20_000)
	f.accept(metrics(key(run, 1, fence, 2), f.now, "m", 100, many...))
	id := f.seriesID(run, "m")
	f.must(f.store.Roll(f.ctx, id))
	before := f.rollups(id)
	f.must(f.log(run, g, 10_000, 1))
	if after := f.rollups(id); after >= before {
		t.Errorf("%d rollups, %d before a late point", after, before)
	}
	if v, err := f.store.MetricView(f.ctx, run, "m", Everything, 100); err != nil || v.Total != 20_006 {
		t.Errorf("%d points in view, %v", v.Total, err)
	}

	// Whoever may not write writes nothing, and hears why.
	for name, c := range map[string]struct {
		guard Guard
		want  error
	}{"no fence": {Guard{}, ErrFenceNeeded}, "another job": {Guard{Job: newID(), Fence: fence, HasFence: true}, ErrFenceNeeded}} {
		if err := f.log(run, c.guard, 50_000, 1); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	f.accept(opened(key(run, 2, fence+10, 1), "", ""))
	if err := f.log(run, g, 50_000, 1); problem(err) != catalog.ProblemFenced {
		t.Errorf("a stale fence: %v", err)
	}
	g.Fence += 10
	f.must(f.log(run, g, 50_001, 4))
	f.expectValues(run, "m", 4) // all else was superseded
	points, err := f.store.MetricHistory(f.ctx, run, "m")
	if err != nil || points[0].Attempt != 2 {
		t.Errorf("%+v %v", points, err)
	}
	f.must(f.store.Do(f.ctx, f.now, func(t *Tx) error { return t.SetRunLifecycle(f.ctx, run, catalog.Deleted) }))
	if err := f.log(run, g, 50_002, 1); problem(err) != catalog.ProblemState {
		t.Errorf("a deleted run: %v", err)
	}
}
