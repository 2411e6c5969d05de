package postgres

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/ultrathink-pilot/trainyard/services/registry/internal/catalog"
	"github.com/ultrathink-pilot/trainyard/services/registry/internal/series"
)

// pendingPoints stages metric points of one transaction. fresh collects the series ids
// that this transaction looked up or made; they are cached only after its commit.
type pendingPoints struct {
	rows  []pendingPoint
	fresh map[seriesName]int64
}

type pendingPoint struct {
	name  seriesName
	id    int64
	point series.Point
}

func (p *pendingPoints) add(runID string, attempt int32, points []catalog.MetricPoint) {
	for _, m := range points {
		p.rows = append(p.rows, pendingPoint{
			name: seriesName{runID, m.Key},
			// Microseconds are what the database keeps; cutting here keeps the pure
			// order and the stored order the same.
			point: series.Point{Step: m.Step, Time: m.Time.UTC().Truncate(time.Microsecond), Value: m.Value, Attempt: attempt},
		})
	}
}

// flush writes the staged points and raises the latest values. unnest into integer columns
// beat COPY to a staging table for groups of up to some ten thousand rows, and it needs no
// second statement for ON CONFLICT.
func (p *pendingPoints) flush(ctx context.Context, tx pgx.Tx, cache *seriesCache) error {
	if len(p.rows) == 0 {
		return nil
	}
	if err := p.resolve(ctx, tx, cache); err != nil {
		return err
	}
	slices.SortFunc(p.rows, func(a, b pendingPoint) int {
		return cmp.Or(cmp.Compare(a.id, b.id), series.Compare(a.point, b.point))
	})
	n := len(p.rows)
	ids, steps, times := make([]int64, n), make([]int64, n), make([]time.Time, n)
	attempts, values := make([]int32, n), make([]float64, n)
	// The rows are sorted by (series, step, time, value): a series' last row is its latest.
	var last []int
	for i, r := range p.rows {
		ids[i], steps[i], times[i], attempts[i], values[i] = r.id, r.point.Step, r.point.Time, r.point.Attempt, r.point.Value
		if i == n-1 || p.rows[i+1].id != r.id {
			last = append(last, i)
		}
	}
	_, err := tx.Exec(ctx, `INSERT INTO metric_points (series_id, step, time, attempt, value)
		SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::timestamptz[], $4::int[], $5::float8[])
		ON CONFLICT DO NOTHING`, ids, steps, times, attempts, values)
	if err != nil {
		return fmt.Errorf("write points: %w", err)
	}
	for i, at := range last {
		ids[i], steps[i], times[i], attempts[i], values[i] = ids[at], steps[at], times[at], attempts[at], values[at]
	}
	m := len(last)
	// NaN sorts above every number in Postgres and below in MLflow's rule, hence the
	// extra boolean in the comparison.
	_, err = tx.Exec(ctx, `INSERT INTO metric_latest AS l (series_id, step, time, attempt, value)
		SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::timestamptz[], $4::int[], $5::float8[])
		ON CONFLICT (series_id) DO UPDATE SET step = EXCLUDED.step, time = EXCLUDED.time, attempt = EXCLUDED.attempt, value = EXCLUDED.value
		WHERE (EXCLUDED.step, EXCLUDED.time, EXCLUDED.value <> 'NaN', EXCLUDED.value) > (l.step, l.time, l.value <> 'NaN', l.value)`,
		ids[:m], steps[:m], times[:m], attempts[:m], values[:m])
	if err != nil {
		return fmt.Errorf("raise latest values: %w", err)
	}
	p.rows = p.rows[:0]
	return nil
}

// resolve finds or makes the series id of every staged point.
func (p *pendingPoints) resolve(ctx context.Context, tx pgx.Tx, cache *seriesCache) error {
	var missing []seriesName
	seen := map[seriesName]bool{}
	for i := range p.rows {
		r := &p.rows[i]
		if id, ok := p.fresh[r.name]; ok {
			r.id = id
			continue
		}
		if id, ok := cache.get(r.name); ok {
			r.id = id
			continue
		}
		if !seen[r.name] {
			seen[r.name] = true
			missing = append(missing, r.name)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	slices.SortFunc(missing, func(a, b seriesName) int { return cmp.Or(cmp.Compare(a.run, b.run), cmp.Compare(a.key, b.key)) })
	runs, keys := make([]string, len(missing)), make([]string, len(missing))
	for i, n := range missing {
		runs[i], keys[i] = n.run, n.key
	}
	_, err := tx.Exec(ctx, `INSERT INTO metric_series (run_id, key) SELECT * FROM unnest($1::text[], $2::text[]) ON CONFLICT DO NOTHING`, runs, keys)
	if err != nil {
		return fmt.Errorf("make series: %w", err)
	}
	// A second statement, because a row that a concurrent transaction inserted first is
	// invisible to the first one's snapshot and so absent from its RETURNING.
	rows, err := tx.Query(ctx, `SELECT s.series_id, s.run_id, s.key FROM metric_series s
		JOIN unnest($1::text[], $2::text[]) AS u(run_id, key) ON s.run_id = u.run_id AND s.key = u.key`, runs, keys)
	if err != nil {
		return err
	}
	var (
		id int64
		n  seriesName
	)
	if _, err = pgx.ForEachRow(rows, []any{&id, &n.run, &n.key}, func() error {
		p.fresh[n] = id
		return nil
	}); err != nil {
		return fmt.Errorf("read series: %w", err)
	}
	for i := range p.rows {
		if r := &p.rows[i]; r.id == 0 {
			r.id = p.fresh[r.name]
		}
	}
	return nil
}
