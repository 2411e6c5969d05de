package postgres

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"pgregory.net/rapid"

	"github.com/ultrathink-pilot/trainyard/services/registry/internal/catalog"
	"github.com/ultrathink-pilot/trainyard/services/registry/internal/filter"
)

// sought is a run as a search sees it.
type sought struct {
	id, name     string
	experiment   int64
	start        time.Time
	deleted      bool
	metrics      map[string]float64
	params, tags map[string]string
}

var (
	soughtMetrics = []string{"loss", "acc", "rare"}
	soughtPairs   = []string{"lr", "note", "rare"}
	soughtTexts   = []string{"", "3", "adam", "adamw", "Adam", "x_y", strings.Repeat("long", 300), strings.Repeat("long", 300) + "er"}
)

// seek fills a database with runs: most have most keys, values repeat, some are NaN, infinite, or
// too long for an index. There are more of them than a search takes for few.
func seek(f *fixture) []sought {
	f.Helper()
	rng := rand.New(rand.NewPCG(1, 2))
	for _, name := range []string{"one", "two"} {
		_, err := f.store.pool.Exec(f.ctx, `INSERT INTO experiments (name, create_time, update_time) VALUES ($1, $2, $2)`, name, f.now)
		f.must(err)
	}
	runs := make([]sought, 400)
	f.must(f.store.Do(f.ctx, f.now, func(t *Tx) error {
		for i := range runs {
			r := sought{id: uuid.NewMD5(uuid.Nil, fmt.Append(nil, i)).String(), name: fmt.Sprint("run", i%7), experiment: int64(1 + i%3/2), deleted: i%11 == 0,
				start: f.now.Add(time.Duration(rng.IntN(100)) * time.Second), metrics: map[string]float64{}, params: map[string]string{}, tags: map[string]string{"mlflow.runName": ""}}
			for _, key := range soughtMetrics {
				if rng.IntN(20) > 0 && (key != "rare" || i%97 == 0) {
					r.metrics[key] = []float64{0, 0.25, 0.5, -1, 2, math.NaN(), math.Inf(1), math.Inf(-1)}[rng.IntN(8)]
				}
			}
			for _, pairs := range []map[string]string{r.params, r.tags} {
				for _, key := range soughtPairs {
					if rng.IntN(20) > 0 && (key != "rare" || i%89 == 0) {
						pairs[key] = soughtTexts[rng.IntN(len(soughtTexts))]
					}
				}
			}
			r.tags["mlflow.runName"] = r.name
			if err := t.CreateRun(f.ctx, NewRun{ID: r.id, ExperimentID: r.experiment, DisplayName: r.name, StartTime: r.start, Tags: r.tags}); err != nil {
				return err
			}
			var (
				points []catalog.MetricPoint
				params []catalog.Param
			)
			for _, key := range catalog.SortedKeys(r.metrics) {
				points = append(points, catalog.MetricPoint{Key: key, Time: f.now, Value: r.metrics[key]})
			}
			for _, key := range catalog.SortedKeys(r.params) {
				params = append(params, catalog.Param{Key: key, Value: r.params[key]})
			}
			if err := t.LogBatch(f.ctx, r.id, Guard{}, points, params, nil); err != nil {
				return err
			}
			if r.deleted {
				if err := t.SetRunLifecycle(f.ctx, r.id, catalog.Deleted); err != nil {
					return err
				}
			}
			runs[i] = r
		}
		return nil
	}))
	return runs
}

// holds is what a clause means.
func (r sought) holds(c filter.Clause) bool {
	text, there := r.params[c.Key], false
	switch c.Entity {
	case filter.Metric:
		v, ok := r.metrics[c.Key]
		if !ok || math.IsNaN(v) {
			return false
		}
		order := cmp.Compare(v, c.Number)
		return map[filter.Op]bool{"=": order == 0, "!=": order != 0, "<": order < 0, "<=": order <= 0, ">": order > 0, ">=": order >= 0}[c.Op]
	case filter.Attribute:
		order := cmp.Compare(float64(r.start.UnixMilli()), c.Number)
		return map[filter.Op]bool{"=": order == 0, "!=": order != 0, "<": order < 0, "<=": order <= 0, ">": order > 0, ">=": order >= 0}[c.Op]
	case filter.Tag:
		text, there = r.tags[c.Key], has(r.tags, c.Key)
	case filter.Param, filter.Dataset:
		there = has(r.params, c.Key)
	}
	switch c.Op {
	case "IS NULL":
		return !there
	case "IS NOT NULL":
		return there
	}
	pattern := strings.NewReplacer("%", "(?s:.*)", "_", "(?s:.)").Replace(c.Text)
	return there && map[filter.Op]bool{"=": text == c.Text, "!=": text != c.Text, "LIKE": regexp.MustCompile("^" + pattern + "$").MatchString(text),
		"ILIKE": regexp.MustCompile("(?i)^" + pattern + "$").MatchString(text)}[c.Op]
}

func has(m map[string]string, key string) bool { _, ok := m[key]; return ok }

// before is the order that a search asks for: values, then NaN, then runs without the key, then the newest.
func before(orders []filter.Order) func(a, b sought) int {
	return func(a, b sought) int {
		for _, o := range orders {
			class := func(r sought) int {
				v, ok := r.metrics[o.Key]
				switch {
				case o.Entity == filter.Param && !has(r.params, o.Key), o.Entity == filter.Metric && !ok:
					return 2
				case o.Entity == filter.Metric && math.IsNaN(v):
					return 1
				}
				return 0
			}
			if by := cmp.Compare(class(a), class(b)); by != 0 || class(a) > 0 {
				if by != 0 {
					return by
				}
				continue
			}
			by := 0
			switch o.Entity {
			case filter.Metric:
				by = cmp.Compare(a.metrics[o.Key], b.metrics[o.Key])
			case filter.Param:
				by = cmp.Compare(a.params[o.Key], b.params[o.Key])
			case filter.Attribute:
				by = a.start.Compare(b.start)
			case filter.Tag, filter.Dataset:
			}
			if o.Descending {
				by = -by
			}
			if by != 0 {
				return by
			}
		}
		return cmp.Or(b.start.Compare(a.start), strings.Compare(a.id, b.id))
	}
}

// Whatever is asked for, in whichever way the search goes about it, the page holds the runs that a
// walk over all of them finds, in their order; and page after page gives each of them once.
func TestSearchesFindWhatAWalkFinds(t *testing.T) {
	f := setup(t)
	runs := seek(f)
	clause := rapid.Custom(func(t *rapid.T) filter.Clause {
		numbers := []filter.Op{"=", "!=", "<", "<=", ">", ">="}
		switch rapid.SampledFrom([]filter.Entity{filter.Metric, filter.Param, filter.Tag, filter.Attribute}).Draw(t, "entity") {
		case filter.Metric:
			return filter.Clause{Entity: filter.Metric, Key: rapid.SampledFrom(soughtMetrics).Draw(t, "metric"), Kind: filter.NumberValue,
				Op: rapid.SampledFrom(numbers).Draw(t, "op"), Number: rapid.SampledFrom([]float64{0, 0.25, 0.3, 2, -5}).Draw(t, "number")}
		case filter.Attribute:
			return filter.Clause{Entity: filter.Attribute, Key: "start_time", Kind: filter.NumberValue, Op: rapid.SampledFrom(numbers).Draw(t, "op"),
				Number: float64(f.now.UnixMilli()) + rapid.SampledFrom([]float64{0, 50_000, 50_000.5, 1e18}).Draw(t, "after")}
		case filter.Param, filter.Tag, filter.Dataset:
		}
		c := filter.Clause{Entity: rapid.SampledFrom([]filter.Entity{filter.Param, filter.Tag}).Draw(t, "pair"), Key: rapid.SampledFrom(soughtPairs).Draw(t, "key"),
			Op:   rapid.SampledFrom([]filter.Op{"=", "!=", "LIKE", "ILIKE", "IS NULL", "IS NOT NULL"}).Draw(t, "op"),
			Text: rapid.SampledFrom(append([]string{"adam%", "%m", "%", "long%er", "x_y"}, soughtTexts...)).Draw(t, "text")}
		if strings.HasPrefix(string(c.Op), "IS") {
			c.Kind, c.Text = filter.NullValue, ""
		}
		return c
	})
	order := rapid.Custom(func(t *rapid.T) filter.Order {
		o := filter.Order{Entity: rapid.SampledFrom([]filter.Entity{filter.Metric, filter.Param, filter.Attribute}).Draw(t, "by"), Key: "start_time", Descending: rapid.Bool().Draw(t, "descending")}
		switch o.Entity {
		case filter.Metric:
			o.Key = rapid.SampledFrom(soughtMetrics).Draw(t, "metric")
		case filter.Param:
			o.Key = "lr"
		case filter.Attribute, filter.Tag, filter.Dataset:
		}
		return o
	})
	ctx := context.Background()
	rapid.Check(t, func(t *rapid.T) {
		in := RunFind{Experiments: rapid.SampledFrom([][]int64{{1}, {2}, {1, 2}, {3}, {}}).Draw(t, "experiments"),
			Lifecycles: rapid.SampledFrom([][]catalog.Lifecycle{{catalog.Active}, {catalog.Active, catalog.Deleted}}).Draw(t, "lifecycles"),
			Clauses:    rapid.SliceOfN(clause, 0, 3).Draw(t, "clauses"), Orders: rapid.SliceOfN(order, 0, 2).Draw(t, "orders"),
			Page: Page{Limit: rapid.SampledFrom([]int{7, 100, 1000}).Draw(t, "limit")}}
		var want []string
		for _, r := range slices.SortedFunc(slices.Values(runs), before(in.Orders)) {
			if slices.Contains(in.Experiments, r.experiment) && (!r.deleted || len(in.Lifecycles) > 1) &&
				!slices.ContainsFunc(in.Clauses, func(c filter.Clause) bool { return !r.holds(c) }) {
				want = append(want, r.id)
			}
		}
		var got []string
		for {
			rows, err := f.store.FindRuns(ctx, in)
			if err != nil {
				t.Fatal(err)
			}
			for _, r := range rows {
				got = append(got, r.ID)
			}
			if in.Offset += in.Limit; len(rows) < in.Limit || in.Offset > 3*in.Limit {
				break
			}
		}
		if want = want[:min(len(want), in.Offset)]; !slices.Equal(got, want) {
			t.Fatalf("found %d %v, a walk %d %v", len(got), got, len(want), want)
		}
		// The other door, by place instead of offset, over all experiments; of a text it orders by the beginning only.
		if len(in.Experiments) == 2 && !slices.ContainsFunc(in.Orders, func(o filter.Order) bool { return o.Entity == filter.Param }) {
			page, err := f.store.SearchRunPage(ctx, RunSearch{Clauses: in.Clauses, Orders: in.Orders, Lifecycles: in.Lifecycles, Limit: in.Limit})
			if err != nil {
				t.Fatal(err)
			}
			for i, r := range page {
				if got[i] != r.ID {
					t.Fatalf("place %d: %s by place, %s by offset", i, r.ID, got[i])
				}
			}
		}
	})
}

// A page shows what single reads show.
func TestAPageShowsWhatReadsShow(t *testing.T) {
	f := setup(t)
	seek(f)
	rows, err := f.store.FindRuns(f.ctx, RunFind{Experiments: []int64{1, 2}, Lifecycles: []catalog.Lifecycle{catalog.Active}, Page: Page{Limit: 50}})
	f.must(err)
	f.must(f.store.FillRuns(f.ctx, rows))
	for _, row := range rows {
		r, err := f.store.GetRun(f.ctx, row.ID)
		f.must(err)
		params, tags := map[string]string{}, map[string]string{}
		for _, p := range row.Params {
			params[p.Key] = p.Value
		}
		for _, p := range row.Tags {
			tags[p.Key] = p.Value
		}
		latest := func(all []catalog.LatestMetric) string {
			return fmt.Sprint(slices.SortedFunc(slices.Values(all), func(a, b catalog.LatestMetric) int { return strings.Compare(a.Key, b.Key) }))
		}
		if fmt.Sprint(params) != fmt.Sprint(r.Params) || fmt.Sprint(tags) != fmt.Sprint(r.Tags) || latest(row.Latest) != latest(r.Latest) || !row.StartTime.Equal(r.StartTime) {
			f.Fatalf("page %+v, run %+v", row, r)
		}
	}
}

// A run keeps its experiment: what searches read of it holds a copy.
func TestARunStaysInItsExperiment(t *testing.T) {
	f := setup(t)
	run, _ := f.run("")
	if _, err := f.store.pool.Exec(f.ctx, `UPDATE runs SET experiment_id = 0 WHERE run_id = $1`, run); !restricted(err) {
		f.Fatalf("%v", err)
	}
}
