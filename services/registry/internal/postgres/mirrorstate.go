package postgres

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/ultrathink-pilot/trainyard/services/registry/internal/catalog"
	"github.com/ultrathink-pilot/trainyard/services/registry/internal/outbox"
)

// MirrorState is the mirror's backlog and health.
type MirrorState struct {
	URL     string
	Since   time.Time
	Pending int64
	// Oldest is when the oldest row that waits was written; zero when none waits.
	Oldest time.Time
	Dead   int64
	// Lanes counts all, Unverified those that changed since their last comparison, and
	// Diverged those whose last comparison found a difference.
	Lanes, Unverified, Diverged int64
	Problems                    []LaneProblem
}

// LaneProblem is a lane that does not get on.
type LaneProblem struct {
	Lane     string
	Problem  string
	Failures int32
	Retry    time.Time
}

// MirrorState reads the mirror's state; a store without a mirror has an empty URL.
func (s *Store) MirrorState(ctx context.Context) (MirrorState, error) {
	var (
		m      MirrorState
		oldest *time.Time
	)
	err := s.pool.QueryRow(ctx, `SELECT COALESCE((SELECT url FROM mirror_target), ''), COALESCE((SELECT since FROM mirror_target), 'epoch'),
		(SELECT count(*) FROM mirror_outbox), (SELECT create_time FROM mirror_outbox ORDER BY seq LIMIT 1), (SELECT count(*) FROM mirror_dead),
		count(*), count(*) FILTER (WHERE verify_time < change_time), count(*) FILTER (WHERE divergence <> '') FROM mirror_lanes`).
		Scan(&m.URL, &m.Since, &m.Pending, &oldest, &m.Dead, &m.Lanes, &m.Unverified, &m.Diverged)
	if err != nil {
		return m, fmt.Errorf("read mirror state: %w", err)
	}
	m.Oldest = fromNull(oldest)
	rows, err := s.pool.Query(ctx, `SELECT lane, CASE WHEN problem <> '' THEN problem ELSE 'differs over there: ' || divergence END, failures, GREATEST(retry_time, 'epoch')
		FROM mirror_lanes WHERE problem <> '' OR divergence <> '' ORDER BY failures DESC, lane LIMIT 50`)
	if err != nil {
		return m, err
	}
	m.Problems, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (LaneProblem, error) {
		var p LaneProblem
		err := row.Scan(&p.Lane, &p.Problem, &p.Failures, &p.Retry)
		return p, err
	})
	return m, err
}

// DeadLetter is a change that the other side refused for good.
type DeadLetter struct {
	OutboxRow
	Reason string
	Dead   time.Time
}

// DeadLetters returns dead letters after a sequence number, oldest first.
func (s *Store) DeadLetters(ctx context.Context, after int64, limit int) ([]DeadLetter, error) {
	rows, err := s.pool.Query(ctx, `SELECT seq, lane, kind, payload, reason, create_time, dead_time FROM mirror_dead WHERE seq > $1 ORDER BY seq LIMIT $2`, after, limit)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (DeadLetter, error) {
		var d DeadLetter
		err := row.Scan(&d.Seq, &d.Lane, &d.Kind, &d.Payload, &d.Reason, &d.Created, &d.Dead)
		return d, err
	})
}

// Revive sends dead letters again, all of them when seqs is empty, and says how many. Tags
// and states go with what they are now: newer ones may have been sent since.
func (t *Tx) Revive(ctx context.Context, seqs []int64) (int64, error) {
	rows, err := t.tx.Query(ctx, `DELETE FROM mirror_dead WHERE cardinality($1::bigint[]) = 0 OR seq = ANY($1) RETURNING lane, kind, payload`, seqs)
	if err != nil {
		return 0, err
	}
	dead, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (outbox.Entry, error) {
		var e outbox.Entry
		err := row.Scan(&e.Lane, &e.Kind, &e.Payload)
		return e, err
	})
	if err != nil {
		return 0, fmt.Errorf("revive: %w", err)
	}
	var again []outbox.Entry
	for _, e := range dead {
		runID, isRun := outbox.RunOf(e.Lane)
		if !isRun || e.Kind != outbox.KindTags && e.Kind != outbox.KindUpdate {
			again = append(again, e)
			continue
		}
		runs, err := readRunsBy(ctx, t.tx, `WHERE r.run_id = $1`, runID)
		if err != nil {
			return 0, err
		}
		for _, r := range runs {
			if e.Kind == outbox.KindTags {
				again = append(again, outbox.Tags(e.Lane, r.Tags)...)
			} else {
				again = append(again, outbox.Updated(e.Lane, r.State, r.EndTime, r.DisplayName))
			}
		}
	}
	if _, err := t.tx.Exec(ctx, `UPDATE mirror_lanes SET retry_time = '-infinity', repairs = 0 WHERE lane = ANY($1)`, lanesOf(dead)); err != nil {
		return 0, err
	}
	return int64(len(dead)), enqueue(ctx, t.tx, t.now, again...)
}

func lanesOf(entries []outbox.Entry) []string {
	out := make([]string, 0, len(entries))
	for _, e := range entries {
		out = append(out, e.Lane)
	}
	return out
}

// CompareAll makes every lane due for a comparison and every model for a repair.
func (t *Tx) CompareAll(ctx context.Context) (int64, error) {
	tag, err := t.tx.Exec(ctx, `UPDATE mirror_lanes SET verify_time = '-infinity', repairs = 0, retry_time = '-infinity', change_time = LEAST(change_time, $1)`, t.now.Add(-time.Hour))
	if err != nil {
		return 0, fmt.Errorf("compare: %w", err)
	}
	return tag.RowsAffected(), t.TellModels(ctx)
}

// TellModels makes every model due that does not wait already.
func (t *Tx) TellModels(ctx context.Context) error {
	_, err := t.tx.Exec(ctx, `INSERT INTO mirror_outbox (lane, kind, payload, payload_hash, create_time)
		SELECT l.lane, $1, '{}', sha256('{}'), $2 FROM mirror_lanes l WHERE starts_with(l.lane, 'model/')
		AND NOT EXISTS (SELECT 1 FROM mirror_outbox o WHERE o.lane = l.lane)`, string(outbox.KindModel), t.now)
	if err != nil {
		return fmt.Errorf("tell models: %w", err)
	}
	return nil
}

// Backlog is the cheap part of MirrorState: rows that wait, counted up to a hundred thousand.
func (s *Store) Backlog(ctx context.Context) (MirrorState, error) {
	var (
		m      MirrorState
		oldest *time.Time
	)
	err := s.pool.QueryRow(ctx, `SELECT (SELECT count(*) FROM (SELECT 1 FROM mirror_outbox LIMIT 100000) x),
		(SELECT create_time FROM mirror_outbox ORDER BY seq LIMIT 1), (SELECT count(*) FROM mirror_dead)`).Scan(&m.Pending, &oldest, &m.Dead)
	m.Oldest = fromNull(oldest)
	return m, err
}

// CheckpointArtifacts are a checkpoint's files as files to send: none when it was released,
// for then its bytes may be gone.
func (s *Store) CheckpointArtifacts(ctx context.Context, id string) ([]Artifact, error) {
	c, err := s.GetCheckpoint(ctx, id)
	if err != nil {
		return nil, err
	}
	if c.State != catalog.Live {
		return nil, nil
	}
	return Files(c), nil
}
