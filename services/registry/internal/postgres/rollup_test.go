package postgres

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/ultrathink-pilot/trainyard/services/registry/internal/catalog"
	"github.com/ultrathink-pilot/trainyard/services/registry/internal/filter"
	"github.com/ultrathink-pilot/trainyard/services/registry/internal/series"
)

func (f *fixture) seriesID(run, name string) int64 {
	f.Helper()
	var id int64
	f.must(f.store.pool.QueryRow(f.ctx, `SELECT series_id FROM metric_series WHERE run_id = $1 AND key = $2`, run, name).Scan(&id))
	return id
}

func (f *fixture) rollups(id int64) (n int) {
	f.Helper()
	f.must(f.store.pool.QueryRow(f.ctx, `SELECT count(*) FROM metric_rollups WHERE series_id = $1`, id).Scan(&n))
	return n
}

// view compares the view by rollups with what the points themselves say.
func (f *fixture) view(run, name string, in Range, limit int) View {
	f.Helper()
	got, err := f.store.MetricView(f.ctx, run, name, in, limit)
	f.must(err)
	all, err := f.store.MetricHistory(f.ctx, run, name)
	f.must(err)
	var within []series.Point
	for _, p := range all {
		if p.Step >= in.From && p.Step <= in.To {
			within = append(within, p)
		}
	}
	want, seen := series.BoundsOf(within), series.BoundsOf(got.Points)
	if got.Total != int64(len(within)) || len(got.Points) > max(limit, 4) || want.Min != seen.Min || want.Max != seen.Max || (want.NonFinite > 0) != (seen.NonFinite > 0) {
		f.Fatalf("%s in %+v: %d points of %d (%d by count), bounds %+v, want %+v", name, in, len(got.Points), got.Total, len(within), seen, want)
	}
	if n := len(within); n > 0 && (got.Points[0].Step != within[0].Step || got.Points[len(got.Points)-1].Step != within[n-1].Step) {
		f.Fatalf("an end is missing: %+v", got.Points)
	}
	return got
}

// A view says the same whether it comes from rollups, from points, or from both, also after
// late values, restores and a second roll.
func TestViewsStandOnRollups(t *testing.T) {
	f := setup(t)
	run, fence := f.run("")
	const n = 20_000
	values := make([]float64, n)
	for i := range values {
		values[i] = math.Sin(float64(i) / 500)
	}
	values[777], values[15_000], values[9_999] = 50, -50, math.NaN()
	f.accept(metrics(key(run, 1, fence, 2), f.now, "loss", 0, values...))
	id := f.seriesID(run, "loss")
	f.view(run, "loss", Everything, 100)
	f.must(f.store.Roll(f.ctx, id))
	rolled := f.rollups(id)
	if rolled < 60 {
		t.Fatalf("%d rollups of %d points", rolled, n)
	}
	for _, in := range []Range{Everything, {0, 10_000}, {778, 14_999}, {100, 120}, {19_990, 40_000}, {30_000, 40_000}, {-5, -1}} {
		f.view(run, "loss", in, 50)
	}
	// Another few points, a late one far below, then a roll again.
	f.accept(metrics(key(run, 1, fence, 3), f.now, "loss", n, 1, 2, 3), metrics(key(run, 1, fence, 4), f.now.Add(time.Second), "loss", 5_000, 99))
	if left := f.rollups(id); left >= rolled {
		t.Errorf("%d rollups before a late value at step 5,000, %d after", rolled, left)
	}
	f.view(run, "loss", Everything, 50)
	f.must(f.store.Roll(f.ctx, id))
	f.view(run, "loss", Everything, 50)
	// The next attempt restores from step 8,000 and goes another way.
	c := f.checkpoint(run, fence, 8_000, 1)
	f.accept(opened(key(run, 2, fence+1, 1), "", c.ID), metrics(key(run, 2, fence+1, 2), f.now.Add(time.Minute), "loss", 8_001, make([]float64, 3_000)...))
	if got := f.view(run, "loss", Everything, 50); got.Total != 8_001+1+3_000 {
		t.Errorf("%d points are visible after the restore", got.Total)
	}
	f.must(f.store.Roll(f.ctx, id))
	f.view(run, "loss", Everything, 50)

	if v, err := f.store.MetricView(f.ctx, run, "never logged", Everything, 10); err != nil || v.Total != 0 {
		t.Errorf("a key that was never logged: %+v %v", v, err)
	}
	if _, err := f.store.MetricView(f.ctx, newID(), "loss", Everything, 10); problem(err) != catalog.ProblemNotFound {
		t.Errorf("a run that does not exist: %v", err)
	}
}

// The very same points again, in any mixture with new ones, are stored once.
func TestPointsSentAgainAreStoredOnce(t *testing.T) {
	f := setup(t)
	run, fence := f.run("")
	values := make([]float64, 200)
	values[100] = math.NaN()
	f.accept(metrics(key(run, 1, fence, 2), f.now, "m", 0, values...))
	f.accept(metrics(key(run, 1, fence, 3), f.now, "m", 0, values...), metrics(key(run, 1, fence, 4), f.now.Add(200*time.Second), "m", 200, values...))
	all, err := f.store.MetricHistory(f.ctx, run, "m")
	f.must(err)
	if len(all) != 400 {
		t.Errorf("%d points stored of 400", len(all))
	}
}

func (f *fixture) next(tail *Tail, limit int) (steps []int64) {
	f.Helper()
	for {
		points, _, err := tail.Next(f.ctx, limit)
		f.must(err)
		if len(points) == 0 {
			return steps
		}
		for _, p := range points {
			steps = append(steps, p.Step)
		}
	}
}

func TestTailMissesNothing(t *testing.T) {
	f := setup(t)
	run, fence := f.run("")
	f.accept(metrics(key(run, 1, fence, 2), f.now, "m", 1, 1, 2, 3))
	now, err := f.store.Follow(f.ctx, run, nil, nil)
	f.must(err)
	defer now.Cancel()
	after := int64(1)
	above, err := f.store.Follow(f.ctx, run, &after, []string{"m"})
	f.must(err)
	defer above.Cancel()
	expect := func(what string, tail *Tail, limit int, want ...int64) {
		t.Helper()
		if got := f.next(tail, limit); fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%s: steps %v, want %v", what, got, want)
		}
	}
	expect("from now on, before anything new", now, 10)
	expect("above step 1", above, 2, 2, 3)
	f.accept(metrics(key(run, 1, fence, 3), f.now, "m", 4, 4, 5), metrics(key(run, 1, fence, 4), f.now, "other", 1, 1))
	select {
	case <-now.Wake():
	default:
		t.Error("a commit did not wake its follower")
	}
	expect("new points of all keys, one page at a time", now, 1, 4, 5, 1)
	expect("only the key asked for", above, 10, 4, 5)
	// A late value below what was read is brought alone.
	f.accept(metrics(key(run, 1, fence, 5), f.now.Add(time.Hour), "m", 3, 33))
	expect("a late value", above, 10, 3)
	if _, state, err := above.Next(f.ctx, 1); err != nil || state != catalog.RunRunning {
		t.Errorf("state %s, %v", state, err)
	}
	f.accept(closed(key(run, 1, fence, 6), catalog.RunFailed))
	select {
	case <-above.Wake():
	default:
		t.Error("the end of a run did not wake its follower")
	}
}

// Pages by place return every run once, in the order of one large page, for any order.
func TestSearchPagesByPlace(t *testing.T) {
	f := setup(t)
	r := rand.New(rand.NewPCG(1, 2))
	for i := range 40 {
		run, fence := f.run("")
		v := float64(r.IntN(4))
		switch r.IntN(5) {
		case 0:
			v = math.NaN()
		case 1:
			v = math.Inf(1)
		}
		if r.IntN(4) > 0 {
			f.accept(metrics(key(run, 1, fence, 2), f.now, "loss", 0, v))
		}
		if r.IntN(3) > 0 {
			f.must(f.store.Do(f.ctx, f.now, func(tx *Tx) error {
				return tx.EditRun(f.ctx, run, RunEdit{SetTags: map[string]string{"team": fmt.Sprintf("team %d'; DROP TABLE runs; --", i%3)}})
			}))
		}
	}
	orders := [][]filter.Order{
		nil,
		{{Entity: filter.Metric, Key: "loss", Descending: true}},
		{{Entity: filter.Metric, Key: "loss"}, {Entity: filter.Tag, Key: "team", Descending: true}},
		{{Entity: filter.Tag, Key: "team"}, {Entity: filter.Attribute, Key: "start_time"}, {Entity: filter.Attribute, Key: "end_time", Descending: true}},
		{{Entity: filter.Param, Key: "no such"}, {Entity: filter.Attribute, Key: "run_name"}},
	}
	for _, o := range orders {
		in := RunSearch{Orders: o, Lifecycles: []catalog.Lifecycle{catalog.Active}, Limit: 100}
		whole, err := f.store.SearchRunPage(f.ctx, in)
		f.must(err)
		if len(whole) != 40 {
			t.Fatalf("%+v: %d runs", o, len(whole))
		}
		in.Limit = 7
		var paged []FoundRun
		for {
			page, err := f.store.SearchRunPage(f.ctx, in)
			f.must(err)
			if len(page) == 0 {
				break
			}
			paged = append(paged, page...)
			in.After = page[len(page)-1].Place
		}
		if len(paged) != len(whole) {
			t.Fatalf("%+v: %d runs in pages", o, len(paged))
		}
		for i := range whole {
			if whole[i].ID != paged[i].ID {
				t.Fatalf("%+v: place %d differs", o, i)
			}
		}
	}
}
