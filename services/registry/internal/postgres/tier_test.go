package postgres

import (
	"math"
	"testing"

	"github.com/ultrathink-pilot/trainyard/services/registry/internal/catalog"
)

// Every storage tier gives the same answers to the same writes. TimescaleDB is tried where the
// tests' server has it (TRAINYARD_TEST_PG names another server); Debian packages none.
func TestEveryTierGivesTheSameAnswers(t *testing.T) {
	t.Parallel()
	t.Run(string(TierPlain), func(t *testing.T) {
		f := setup(t)
		f.tier(TierPlain)
	})
	t.Run("timescale", func(t *testing.T) {
		f := setup(t)
		var there bool
		f.must(f.store.pool.QueryRow(f.ctx, `SELECT EXISTS (SELECT 1 FROM pg_available_extensions WHERE name = 'timescaledb')`).Scan(&there))
		if !there {
			t.Skip("SKIPPED, NOT TESTED: the Postgres server has no timescaledb")
		}
		_, err := f.store.pool.Exec(f.ctx, `CREATE EXTENSION timescaledb SCHEMA public`)
		f.must(err)
		f.tier(TierApache, TierTSL)
	})
}

func (f *fixture) tier(want ...Tier) {
	f.Helper()
	run, fence := f.run("")
	f.accept(metrics(key(run, 1, fence, 2), f.now, "early", 0, 1, 2, 3)) // before the table changes its kind
	for range 2 {
		got, err := f.store.PrepareTier(f.ctx)
		f.must(err)
		if got != want[0] && got != want[len(want)-1] {
			f.Fatalf("tier %s, want one of %v", got, want)
		}
	}
	f.expectValues(run, "early", 1, 2, 3)
	values := make([]float64, 5_000)
	for i := range values {
		values[i] = float64(i % 97)
	}
	values[10], values[11], values[12] = math.NaN(), math.Inf(1), math.Inf(-1)
	f.accept(metrics(key(run, 1, fence, 3), f.now, "m", 0, values...))
	f.accept(metrics(key(run, 1, fence, 4), f.now, "m", 0, values...)) // all of it again
	f.accept(metrics(key(run, 1, fence, 5), f.now.AddDate(1, 0, 0), "m", 5_000, 7))
	all, err := f.store.MetricHistory(f.ctx, run, "m")
	f.must(err)
	if len(all) != 5_001 || !math.IsNaN(all[10].Value) || !math.IsInf(all[11].Value, 1) || !math.IsInf(all[12].Value, -1) {
		f.Fatalf("%d points; %+v", len(all), all[10:13])
	}
	if got, err := f.store.PrepareTier(f.ctx); err == nil && got == TierTSL { // what the policy does after a month
		_, err := f.store.pool.Exec(f.ctx, `SELECT public.compress_chunk(c) FROM public.show_chunks('metric_points') c`)
		f.must(err)
		f.accept(metrics(key(run, 1, fence, 6), f.now, "m", 0, values...)) // and again, into what is compressed
		if again, err := f.store.MetricHistory(f.ctx, run, "m"); err != nil || len(again) != len(all) {
			f.Fatalf("%d points from compressed chunks, %d before; %v", len(again), len(all), err)
		}
	}
	f.must(f.store.Roll(f.ctx, f.seriesID(run, "m")))
	f.view(run, "m", Everything, 100)
	c := f.checkpoint(run, fence, 4_000, 1)
	f.accept(opened(key(run, 2, fence+1, 1), "", c.ID), metrics(key(run, 2, fence+1, 2), f.now, "m", 4_001, 1, 2))
	if v := f.view(run, "m", Everything, 100); v.Total != 4_003 {
		f.Fatalf("%d points after a restore", v.Total)
	}
	r, err := f.store.GetRun(f.ctx, run)
	f.must(err)
	latest := map[string]catalog.LatestMetric{}
	for _, l := range r.Latest {
		latest[l.Key] = l
	}
	if latest["m"].Step != 4_002 || latest["m"].Value != 2 {
		f.Fatalf("latest %+v", latest["m"])
	}
	after := int64(4_000)
	tail, err := f.store.Follow(f.ctx, run, &after, []string{"m"})
	f.must(err)
	defer tail.Cancel()
	if steps := f.next(tail, 10); len(steps) != 2 {
		f.Fatalf("tail %v", steps)
	}
}
