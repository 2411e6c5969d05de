package postgres

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/ultrathink-pilot/trainyard/services/registry/internal/catalog"
	"github.com/ultrathink-pilot/trainyard/services/registry/internal/series"
)

// querier is what reads need; the pool and a transaction both are one.
type querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
	SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults
}

// ensureExperiment returns the id of the named experiment, made if it does not exist. A
// deleted one is revived: a job that names it was accepted after all.
func ensureExperiment(ctx context.Context, tx pgx.Tx, name string, now time.Time) (int64, error) {
	var id int64
	err := tx.QueryRow(ctx, `SELECT experiment_id FROM experiments WHERE name = $1 AND lifecycle = 'ACTIVE'`, name).Scan(&id)
	if !errors.Is(err, pgx.ErrNoRows) {
		return id, err
	}
	err = tx.QueryRow(ctx, `INSERT INTO experiments (name, create_time, update_time) VALUES ($1, $2, $2)
		ON CONFLICT (name) DO UPDATE SET lifecycle = 'ACTIVE', update_time = EXCLUDED.update_time RETURNING experiment_id`, name, now).Scan(&id)
	if err != nil {
		return 0, fmt.Errorf("make experiment: %w", err)
	}
	return id, nil
}

// ListExperiments returns the active experiments whose name starts with prefix, by name.
func (s *Store) ListExperiments(ctx context.Context, prefix string) ([]catalog.Experiment, error) {
	rows, err := s.pool.Query(ctx, `SELECT e.experiment_id, e.uid::text, e.name, e.lifecycle, e.create_time, e.update_time,
		(SELECT count(*) FROM runs r WHERE r.experiment_id = e.experiment_id AND r.lifecycle = 'ACTIVE')
		FROM experiments e WHERE e.lifecycle = 'ACTIVE' AND starts_with(e.name, $1) ORDER BY e.name`, prefix)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (catalog.Experiment, error) {
		var e catalog.Experiment
		err := row.Scan(&e.ID, &e.UID, &e.Name, &e.Lifecycle, &e.CreateTime, &e.UpdateTime, &e.RunCount)
		return e, err
	})
}

const runColumns = `r.run_id, r.experiment_id, e.name, e.artifact_root, r.display_name, r.state, r.lifecycle, r.tenant, r.user_id, r.model_name,
	r.attempt, r.fence, r.trace_parent, r.spec, r.agent_name, r.failure_class, r.start_time, r.end_time, r.update_time`

func scanRun(row pgx.CollectableRow) (catalog.Run, error) {
	var (
		r     catalog.Run
		fence int64
		end   *time.Time
	)
	err := row.Scan(&r.ID, &r.ExperimentID, &r.ExperimentName, &r.ArtifactRoot, &r.DisplayName, &r.State, &r.Lifecycle, &r.Tenant, &r.UserID,
		&r.ModelName, &r.Attempt, &fence, &r.TraceParent, &r.Spec, &r.AgentName, &r.FailureClass, &r.StartTime, &end, &r.UpdateTime)
	r.Fence, r.EndTime = uint64(fence), fromNull(end)
	return r, err
}

// GetRun returns a run with its params, tags and latest metrics.
func (s *Store) GetRun(ctx context.Context, runID string) (catalog.Run, error) {
	runs, err := s.readRuns(ctx, `WHERE r.run_id = $1`, runID)
	if err != nil {
		return catalog.Run{}, err
	}
	if len(runs) == 0 {
		return catalog.Run{}, catalog.NotFound("runs/" + runID)
	}
	return runs[0], nil
}

// RunFilter chooses runs; the zero value chooses all that are not deleted.
type RunFilter struct {
	ExperimentPrefix string
	States           []catalog.RunState
	// AfterTime and AfterID are the sort key of the last row of the previous page.
	AfterTime time.Time
	AfterID   string
	Limit     int
}

// ListRuns returns a page of runs, newest first, with params, tags and latest metrics.
func (s *Store) ListRuns(ctx context.Context, f RunFilter) ([]catalog.Run, error) {
	states := make([]string, 0, len(f.States))
	for _, st := range f.States {
		states = append(states, string(st))
	}
	return s.readRuns(ctx, `WHERE r.lifecycle = 'ACTIVE' AND starts_with(e.name, $1)
		AND (cardinality($2::text[]) = 0 OR r.state = ANY($2))
		AND ($3::timestamptz IS NULL OR (r.start_time, r.run_id) < ($3, $4))
		ORDER BY r.start_time DESC, r.run_id DESC LIMIT $5`,
		f.ExperimentPrefix, states, nullTime(f.AfterTime), f.AfterID, f.Limit)
}

func (s *Store) readRuns(ctx context.Context, where string, args ...any) ([]catalog.Run, error) {
	return readRunsBy(ctx, s.pool, where, args...)
}

func readRunsBy(ctx context.Context, q querier, where string, args ...any) ([]catalog.Run, error) {
	rows, err := q.Query(ctx, `SELECT `+runColumns+` FROM runs r JOIN experiments e USING (experiment_id) `+where, args...)
	if err != nil {
		return nil, err
	}
	runs, err := pgx.CollectRows(rows, scanRun)
	if err != nil || len(runs) == 0 {
		return nil, err
	}
	ids := make([]string, len(runs))
	at := make(map[string]*catalog.Run, len(runs))
	for i := range runs {
		ids[i] = runs[i].ID
		runs[i].Params, runs[i].Tags = map[string]string{}, map[string]string{}
		at[ids[i]] = &runs[i]
	}
	var batch pgx.Batch // one round trip for what belongs to the runs
	pairs := func(sql string, into func(*catalog.Run) map[string]string) {
		batch.Queue(sql, ids).Query(func(rows pgx.Rows) error {
			return scanPairs(rows, func(id, k, v string) { into(at[id])[k] = v })
		})
	}
	pairs(`SELECT run_id, key, value FROM run_params WHERE run_id = ANY($1)`, func(r *catalog.Run) map[string]string { return r.Params })
	pairs(`SELECT run_id, key, value FROM run_tags WHERE run_id = ANY($1)`, func(r *catalog.Run) map[string]string { return r.Tags })
	batch.Queue(`SELECT s.run_id, s.key, l.step, l.time, l.value FROM metric_series s
		JOIN metric_latest l USING (series_id) WHERE s.run_id = ANY($1) ORDER BY s.run_id, s.key`, ids).Query(func(rows pgx.Rows) error {
		var (
			id string
			m  catalog.LatestMetric
		)
		_, err := pgx.ForEachRow(rows, []any{&id, &m.Key, &m.Step, &m.Time, &m.Value}, func() error {
			at[id].Latest = append(at[id].Latest, m)
			return nil
		})
		return err
	})
	if err := q.SendBatch(ctx, &batch).Close(); err != nil {
		return nil, fmt.Errorf("read params, tags and latest metrics: %w", err)
	}
	return runs, nil
}

func eachPair(ctx context.Context, q querier, sql string, ids []string, fn func(id, key, value string)) error {
	rows, err := q.Query(ctx, sql, ids)
	if err != nil {
		return err
	}
	return scanPairs(rows, fn)
}

func scanPairs(rows pgx.Rows, fn func(id, key, value string)) error {
	var id, k, v string
	_, err := pgx.ForEachRow(rows, []any{&id, &k, &v}, func() error {
		fn(id, k, v)
		return nil
	})
	return err
}

// ListAttempts returns a run's attempts in order.
func (s *Store) ListAttempts(ctx context.Context, runID string) ([]catalog.Attempt, error) {
	rows, err := s.pool.Query(ctx, `SELECT attempt, fence, agent, restored_checkpoint, restored_step, hidden_above, last_sequence,
		open_time, close_time, outcome, detail FROM run_attempts WHERE run_id = $1 ORDER BY attempt`, runID)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (catalog.Attempt, error) {
		var (
			a           catalog.Attempt
			fence, last int64
			end         *time.Time
		)
		err := row.Scan(&a.Attempt, &fence, &a.Agent, &a.RestoredCheckpoint, &a.RestoredStep, &a.HiddenAbove, &last,
			&a.OpenTime, &end, &a.Outcome, &a.Detail)
		a.Fence, a.LastSequence, a.CloseTime = uint64(fence), uint64(last), fromNull(end)
		return a, err
	})
}

// MetricHistory returns the visible points of one series in order. A run that does not
// exist is an error; a key that was never logged is an empty series.
func (s *Store) MetricHistory(ctx context.Context, runID, key string) ([]series.Point, error) {
	var points []series.Point
	err := s.readSeries(ctx, runID, key, func(tx pgx.Tx, id int64) (err error) {
		points, err = visiblePoints(ctx, tx, runID, id, Everything, 0)
		return err
	})
	return points, err
}

// readSeries calls fn with a series in one snapshot, and not at all for a key that was never logged.
func (s *Store) readSeries(ctx context.Context, runID, key string, fn func(tx pgx.Tx, id int64) error) error {
	return pgx.BeginTxFunc(ctx, s.pool, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		var id *int64
		err := tx.QueryRow(ctx, `SELECT s.series_id FROM runs r LEFT JOIN metric_series s ON s.run_id = r.run_id AND s.key = $2
			WHERE r.run_id = $1`, runID, key).Scan(&id)
		if err != nil || id == nil {
			return found(err, "runs/"+runID)
		}
		return fn(tx, *id)
	})
}
