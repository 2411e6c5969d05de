package postgres

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/ultrathink-pilot/trainyard/libs/pg"
	"github.com/ultrathink-pilot/trainyard/services/registry/internal/catalog"
	"github.com/ultrathink-pilot/trainyard/services/registry/internal/series"
)

// effects is what a transaction did that matters outside of it; it counts from its commit on.
type effects struct {
	// fresh holds the series ids that were looked up or made.
	fresh map[seriesName]int64
	// touched says what was added to which series.
	touched map[seriesName]touch
	// ended lists runs whose state changed.
	ended []string
}

type touch struct {
	id     int64
	points int
	lowest int64
}

func newEffects() *effects {
	return &effects{fresh: map[seriesName]int64{}, touched: map[seriesName]touch{}}
}

// settle makes a committed transaction's effects known.
func (s *Store) settle(e *effects) {
	s.series.put(e.fresh)
	s.tails.publish(e)
	s.rolls.count(e.touched)
}

// pendingPoints stages metric points of one transaction.
type pendingPoints struct {
	rows []pendingPoint
	*effects
}

type pendingPoint struct {
	name  seriesName
	id    int64
	place place
	point series.Point
}

// place is where searches look for a run: its experiment, and its short name.
type place struct{ experiment, run int64 }

func (p *pendingPoints) add(runID string, at place, attempt int32, points []catalog.MetricPoint) {
	for _, m := range points {
		p.rows = append(p.rows, pendingPoint{
			name: seriesName{runID, m.Key}, place: at,
			// Microseconds are what the database keeps; cutting here keeps the pure
			// order and the stored order the same.
			point: series.Point{Step: m.Step, Time: m.Time.UTC().Truncate(time.Microsecond), Value: m.Value, Attempt: attempt},
		})
	}
}

// raiseLatest keeps the greater of two latest values. NaN sorts above every number in Postgres and
// below in MLflow's rule, hence the extra boolean in the comparison.
const raiseLatest = `
		ON CONFLICT (series_id) DO UPDATE SET step = EXCLUDED.step, time = EXCLUDED.time, attempt = EXCLUDED.attempt, value = EXCLUDED.value
		WHERE (EXCLUDED.step, EXCLUDED.time, EXCLUDED.value <> 'NaN', EXCLUDED.value) > (l.step, l.time, l.value <> 'NaN', l.value)`

// copyFrom is the number of rows from which a COPY is cheaper than an INSERT.
const copyFrom = 64

// flush writes the staged points, raises the latest values, and drops the rollups that the
// points reach into.
func (p *pendingPoints) flush(ctx context.Context, tx pgx.Tx, cache *seriesCache) error {
	if len(p.rows) == 0 {
		return nil
	}
	if err := p.resolve(ctx, tx, cache); err != nil {
		return err
	}
	p.sort()
	if err := p.write(ctx, tx); err != nil {
		return fmt.Errorf("write points: %w", err)
	}
	latest, lowest := p.touch()
	var batch pgx.Batch
	batch.Queue(`INSERT INTO metric_latest AS l (series_id, step, time, attempt, value, experiment_id, run_key, key)
		SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::timestamptz[], $4::int[], $5::float8[], $6::bigint[], $7::bigint[], $8::text[])`+raiseLatest,
		append(latest.arguments(), latest.experiments, latest.runs, latest.keys)...)
	batch.Queue(`DELETE FROM metric_rollups r USING unnest($1::bigint[], $2::bigint[]) AS u(series_id, step)
		WHERE r.series_id = u.series_id AND r.last_step >= u.step`, latest.ids, lowest)
	if err := tx.SendBatch(ctx, &batch).Close(); err != nil {
		return fmt.Errorf("raise latest values: %w", err)
	}
	p.rows = p.rows[:0]
	return nil
}

// sort orders the rows by (series, step, time, value) and drops repeats.
func (p *pendingPoints) sort() {
	slices.SortFunc(p.rows, func(a, b pendingPoint) int {
		return cmp.Or(cmp.Compare(a.id, b.id), series.Compare(a.point, b.point))
	})
	p.rows = slices.CompactFunc(p.rows, func(a, b pendingPoint) bool { return a.id == b.id && series.Compare(a.point, b.point) == 0 })
}

// touch notes what the sorted rows add to each series, and returns each one's latest row and
// lowest step: the last and the first of its rows.
func (p *pendingPoints) touch() (latest latestColumns, lowest []int64) {
	first := 0
	for i, r := range p.rows {
		if i+1 < len(p.rows) && p.rows[i+1].id == r.id {
			continue
		}
		latest.add(r)
		low := p.rows[first].point.Step
		lowest = append(lowest, low)
		t, seen := p.touched[r.name]
		if !seen || low < t.lowest {
			t.lowest = low
		}
		t.id, t.points = r.id, t.points+i+1-first
		p.touched[r.name] = t
		first = i + 1
	}
	return latest, lowest
}

// write adds the rows that are not there yet. COPY writes many rows at half the cost, but
// cannot pass over one that exists: a writer that logs the very same point again is rare,
// and gets the INSERT.
func (p *pendingPoints) write(ctx context.Context, tx pgx.Tx) error {
	if len(p.rows) >= copyFrom {
		err := p.copy(ctx, tx)
		if err == nil || !pg.IsUnique(err, "") {
			return err
		}
	}
	var all columns
	for _, r := range p.rows {
		all.add(r)
	}
	_, err := tx.Exec(ctx, `INSERT INTO metric_points (series_id, step, time, attempt, value)
		SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::timestamptz[], $4::int[], $5::float8[])
		ON CONFLICT DO NOTHING`, all.arguments()...)
	return err
}

// copy runs in a savepoint, so that a refusal leaves the transaction usable.
func (p *pendingPoints) copy(ctx context.Context, tx pgx.Tx) error {
	return pgx.BeginFunc(ctx, tx, func(inner pgx.Tx) error {
		_, err := inner.CopyFrom(ctx, pgx.Identifier{"metric_points"}, []string{"series_id", "step", "time", "attempt", "value"},
			pgx.CopyFromSlice(len(p.rows), func(i int) ([]any, error) {
				r := p.rows[i]
				return []any{r.id, r.point.Step, r.point.Time, r.point.Attempt, r.point.Value}, nil
			}))
		return err
	})
}

// columns are rows turned for unnest.
type columns struct {
	ids, steps []int64
	times      []time.Time
	attempts   []int32
	values     []float64
}

func (c *columns) add(r pendingPoint) {
	c.ids, c.steps, c.times = append(c.ids, r.id), append(c.steps, r.point.Step), append(c.times, r.point.Time)
	c.attempts, c.values = append(c.attempts, r.point.Attempt), append(c.values, r.point.Value)
}

// latestColumns are latest values turned for unnest, with what searches find them by.
type latestColumns struct {
	columns
	experiments, runs []int64
	keys              []string
}

func (c *latestColumns) add(r pendingPoint) {
	c.columns.add(r)
	c.experiments, c.runs, c.keys = append(c.experiments, r.place.experiment), append(c.runs, r.place.run), append(c.keys, r.name.key)
}

func (c *columns) arguments() []any { return []any{c.ids, c.steps, c.times, c.attempts, c.values} }

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
