package postgres

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/ultrathink-pilot/trainyard/services/registry/internal/catalog"
)

// roundTripRows is the number of rows up to which LogMetrics sends all in one message.
const roundTripRows = 256

// LogMetrics writes points of one run. What a training loop logs over and over, a few points of
// known series, goes to the database in one message instead of five: nearly all of what such
// a request costs is the waiting and waking between them.
func (s *Store) LogMetrics(ctx context.Context, runID string, g Guard, points []catalog.MetricPoint, now time.Time) error {
	if !s.mirrored && len(points) > 0 && len(points) <= roundTripRows {
		done, err := s.logAtOnce(ctx, runID, g, points)
		if done || err != nil {
			return err
		}
	}
	return s.Do(ctx, now, func(t *Tx) error { return t.LogBatch(ctx, runID, g, points, nil, nil) })
}

// writable is lockRun's guard in SQL; $2 says whether the caller shows a fence of this run, $3 which.
const writable = `SELECT attempt, experiment_id, run_key FROM runs WHERE run_id = $1 AND lifecycle = 'ACTIVE' AND (fence = 0 OR ($2 AND $3 >= fence))`

// logAtOnce reports false, and has written nothing, when a series is not known yet, or when the
// run refuses the write: the long way then says why. The statements are one transaction,
// because the messages of a batch share one sync.
func (s *Store) logAtOnce(ctx context.Context, runID string, g Guard, points []catalog.MetricPoint) (bool, error) {
	p := pendingPoints{effects: newEffects()}
	p.add(runID, place{}, 0, points)
	for i := range p.rows {
		id, ok := s.series.get(p.rows[i].name)
		if !ok {
			return false, nil
		}
		p.rows[i].id = id
	}
	p.sort()
	latest, lowest := p.touch()
	var all columns
	for _, r := range p.rows {
		all.add(r)
	}
	shown, fence := g.HasFence && (g.Job == "" || g.Job == runID), int64(min(g.Fence, 1<<63-1))
	var batch pgx.Batch
	// Alone, so that the next statement sees what whoever held the run committed.
	batch.Queue(writable+` FOR NO KEY UPDATE`, runID, shown, fence)
	batch.Queue(`WITH run AS (`+writable+`),
		points AS (INSERT INTO metric_points (series_id, step, time, attempt, value)
			SELECT u.series_id, u.step, u.time, run.attempt, u.value
			FROM run, unnest($4::bigint[], $5::bigint[], $6::timestamptz[], $7::float8[]) AS u(series_id, step, time, value) ON CONFLICT DO NOTHING),
		rollups AS (DELETE FROM metric_rollups r USING run, unnest($8::bigint[], $12::bigint[]) AS u(series_id, step)
			WHERE r.series_id = u.series_id AND r.last_step >= u.step)
		INSERT INTO metric_latest AS l (series_id, step, time, attempt, value, experiment_id, run_key, key)
		SELECT u.series_id, u.step, u.time, run.attempt, u.value, run.experiment_id, run.run_key, u.key
		FROM run, unnest($8::bigint[], $9::bigint[], $10::timestamptz[], $11::float8[], $13::text[]) AS u(series_id, step, time, value, key)`+raiseLatest,
		runID, shown, fence, all.ids, all.steps, all.times, all.values, latest.ids, latest.steps, latest.times, latest.values, lowest, latest.keys)
	results := s.pool.SendBatch(ctx, &batch)
	locked := results.QueryRow().Scan(nil, nil, nil)
	_, wrote := results.Exec()
	err := errors.Join(wrote, results.Close())
	switch refused := new(pgconn.PgError); {
	case errors.As(err, &refused):
		return false, nil // nothing was written; the long way knows deadlocks and values that cannot be stored
	case err != nil:
		return false, fmt.Errorf("log metrics: %w", err)
	case errors.Is(locked, pgx.ErrNoRows):
		return false, nil
	case locked != nil:
		return false, fmt.Errorf("lock run: %w", locked)
	}
	s.settle(p.effects)
	return true, nil
}
