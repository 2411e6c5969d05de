package postgres

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/cycle"
)

func scanDecision(r pgx.CollectableRow) (cycle.Decision, error) {
	var d cycle.Decision
	err := r.Scan(&d.Job, &d.At, &d.Action, &d.Reason, &d.Attempt)
	return d, err
}

// Decisions reads a job's history, newest first.
func (s *Store) Decisions(ctx context.Context, id string, limit int) ([]cycle.Decision, error) {
	out, err := rowsOf(ctx, s.pool, scanDecision, `SELECT job_id::text, time, action, reason, attempt FROM decisions WHERE job_id = $1 ORDER BY id DESC LIMIT $2`, id, limit)
	if err != nil {
		return nil, fmt.Errorf("read decisions: %w", err)
	}
	return out, nil
}

// Ended reads the final jobs that ended before a time, with all their history.
func (s *Store) Ended(ctx context.Context, before time.Time, limit int) ([]cycle.History, error) {
	var out []cycle.History
	err := pgx.BeginTxFunc(ctx, s.pool, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		jobs, err := records(ctx, tx, `WHERE end_time < $1 ORDER BY end_time, id LIMIT $2`, before, limit)
		if err != nil {
			return err
		}
		ids, at := make([]string, len(jobs)), make(map[string]int, len(jobs))
		out = make([]cycle.History, len(jobs))
		for i, r := range jobs {
			ids[i], at[r.Job.ID], out[i].Record = r.Job.ID, i, r
		}
		decisions, err := rowsOf(ctx, tx, scanDecision, `SELECT job_id::text, time, action, reason, attempt FROM decisions WHERE job_id = ANY($1::uuid[]) ORDER BY id`, ids)
		for _, d := range decisions {
			h := &out[at[d.Job]]
			h.Decisions = append(h.Decisions, d)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read old jobs: %w", err)
	}
	return out, nil
}

// Drop forgets final jobs; their attempts and decisions go with them.
func (s *Store) Drop(ctx context.Context, ids []string) error {
	if _, err := s.pool.Exec(ctx, `DELETE FROM jobs WHERE id = ANY($1::uuid[]) AND end_time IS NOT NULL`, ids); err != nil {
		return fmt.Errorf("drop old jobs: %w", err)
	}
	return nil
}
