package postgres

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/ultrathink-pilot/trainyard/services/registry/internal/outbox"
)

// Lane is a lane that its holder may send; only one holder has it until Until.
type Lane struct {
	Name       string
	RemoteID   string
	RemoteRoot string
	Failures   int
	Holder     string
}

// OutboxRow is one frozen change with its place in its lane.
type OutboxRow struct {
	outbox.Entry
	Seq     int64
	Created time.Time
}

// ErrLaneLost says that somebody else holds the lane now: nothing more may be sent from it.
var ErrLaneLost = errors.New("the lane's lease passed to another holder")

// pendingLanes walks the outbox's index from lane to lane instead of over its rows: it costs
// one probe per lane that waits, however long the backlog is.
const pendingLanes = `WITH RECURSIVE pending(lane) AS (
	(SELECT lane FROM mirror_outbox ORDER BY lane LIMIT 1)
	UNION ALL
	SELECT (SELECT o.lane FROM mirror_outbox o WHERE o.lane > p.lane ORDER BY o.lane LIMIT 1) FROM pending p WHERE p.lane IS NOT NULL) `

// ClaimLane leases the lane that waits longest; false when none may be sent now.
func (s *Store) ClaimLane(ctx context.Context, holder string, now time.Time, lease time.Duration) (Lane, bool, error) {
	l := Lane{Holder: holder}
	err := s.pool.QueryRow(ctx, pendingLanes+`, free AS (
		SELECT l.lane FROM pending p JOIN mirror_lanes l USING (lane) WHERE l.lease_until <= $2 AND l.retry_time <= $2
		ORDER BY l.served_time, l.lane LIMIT 1 FOR UPDATE OF l SKIP LOCKED)
		UPDATE mirror_lanes l SET holder = $1, lease_until = $3 FROM free WHERE l.lane = free.lane
		RETURNING l.lane, l.remote_id, l.remote_root, l.failures`, holder, now, now.Add(lease)).Scan(&l.Name, &l.RemoteID, &l.RemoteRoot, &l.Failures)
	if errors.Is(err, pgx.ErrNoRows) {
		return l, false, nil
	}
	return l, err == nil, err
}

// ClaimUnverified leases a lane whose last change is older than quiet and was not compared since.
func (s *Store) ClaimUnverified(ctx context.Context, holder string, now time.Time, lease, quiet time.Duration) (Lane, bool, error) {
	l := Lane{Holder: holder}
	err := s.pool.QueryRow(ctx, `WITH free AS (
		SELECT l.lane FROM mirror_lanes l WHERE l.lease_until <= $2 AND l.retry_time <= $2 AND l.verify_time < l.change_time AND l.change_time < $4
		AND NOT EXISTS (SELECT 1 FROM mirror_outbox o WHERE o.lane = l.lane) ORDER BY l.verify_time, l.change_time LIMIT 1 FOR UPDATE OF l SKIP LOCKED)
		UPDATE mirror_lanes l SET holder = $1, lease_until = $3 FROM free WHERE l.lane = free.lane
		RETURNING l.lane, l.remote_id, l.remote_root, l.failures`, holder, now, now.Add(lease), now.Add(-quiet)).Scan(&l.Name, &l.RemoteID, &l.RemoteRoot, &l.Failures)
	if errors.Is(err, pgx.ErrNoRows) {
		return l, false, nil
	}
	return l, err == nil, err
}

// held runs one change of a lane that only its holder may make.
func (s *Store) held(ctx context.Context, l Lane, set string, args ...any) error {
	tag, err := s.pool.Exec(ctx, `UPDATE mirror_lanes SET `+set+` WHERE lane = $1 AND holder = $2`, append([]any{l.Name, l.Holder}, args...)...)
	if err == nil && tag.RowsAffected() == 0 {
		return ErrLaneLost
	}
	return err
}

// ExtendLane keeps a lane for longer.
func (s *Store) ExtendLane(ctx context.Context, l Lane, until time.Time) error {
	return s.held(ctx, l, `lease_until = $3`, until)
}

// MapLane remembers the run over there.
func (s *Store) MapLane(ctx context.Context, l Lane, remoteID, remoteRoot string) error {
	return s.held(ctx, l, `remote_id = $3, remote_root = $4`, remoteID, remoteRoot)
}

// ReleaseLane gives a lane back after its rows were sent.
func (s *Store) ReleaseLane(ctx context.Context, l Lane, now time.Time) error {
	return s.held(ctx, l, `holder = '', lease_until = '-infinity', served_time = $3, failures = 0, problem = ''`, now)
}

// PostponeLane gives a lane back until it is worth another try.
func (s *Store) PostponeLane(ctx context.Context, l Lane, now, retry time.Time, problem string) error {
	return s.held(ctx, l, `holder = '', lease_until = '-infinity', served_time = $3, retry_time = $4, failures = failures + 1, problem = $5`, now, retry, problem)
}

// LaneVerified records a comparison: "" when both sides are equal.
func (s *Store) LaneVerified(ctx context.Context, l Lane, now time.Time, divergence string) error {
	return s.held(ctx, l, `verify_time = $3, divergence = $4, repairs = CASE WHEN $4 = '' THEN 0 ELSE repairs END`, now, divergence)
}

// LaneRows reads the front of a lane.
func (s *Store) LaneRows(ctx context.Context, lane string, limit int) ([]OutboxRow, error) {
	rows, err := s.pool.Query(ctx, `SELECT seq, lane, kind, payload, payload_hash, create_time FROM mirror_outbox WHERE lane = $1 ORDER BY seq LIMIT $2`, lane, limit)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (OutboxRow, error) {
		var (
			r    OutboxRow
			hash []byte
		)
		if err := row.Scan(&r.Seq, &r.Lane, &r.Kind, &r.Payload, &hash, &r.Created); err != nil {
			return r, err
		}
		if sum := sha256.Sum256([]byte(r.Payload)); string(sum[:]) != string(hash) {
			return r, fmt.Errorf("outbox row %d was changed after it was written", r.Seq)
		}
		return r, nil
	})
}

// LaneHasBefore reports whether a lane still holds rows older than seq.
func (s *Store) LaneHasBefore(ctx context.Context, lane string, seq int64) (bool, error) {
	var yes bool
	err := s.pool.QueryRow(ctx, `SELECT EXISTS (SELECT 1 FROM mirror_outbox WHERE lane = $1 AND seq < $2)`, lane, seq).Scan(&yes)
	return yes, err
}

// Delivered removes rows that arrived.
func (s *Store) Delivered(ctx context.Context, l Lane, now time.Time, seqs []int64) error {
	return s.inTx(ctx, func(tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, `UPDATE mirror_lanes SET change_time = $3 WHERE lane = $1 AND holder = $2`, l.Name, l.Holder, now)
		if err == nil && tag.RowsAffected() == 0 {
			return ErrLaneLost
		}
		if err != nil {
			return err
		}
		_, err = tx.Exec(ctx, `DELETE FROM mirror_outbox WHERE seq = ANY($1)`, seqs)
		return err
	})
}

// Bury moves what was refused for good out of the lane's way. rest replaces the row's payload
// in its grave when only a part of it was refused.
func (s *Store) Bury(ctx context.Context, r OutboxRow, rest, reason string, now time.Time) error {
	if rest == "" {
		rest = r.Payload
	}
	return s.inTx(ctx, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `INSERT INTO mirror_dead (seq, lane, kind, payload, reason, create_time, dead_time) VALUES ($1, $2, $3, $4, $5, $6, $7)
			ON CONFLICT (seq) DO UPDATE SET reason = EXCLUDED.reason, payload = EXCLUDED.payload, dead_time = EXCLUDED.dead_time`,
			r.Seq, r.Lane, r.Kind, rest, reason, r.Created, now); err != nil {
			return fmt.Errorf("bury: %w", err)
		}
		_, err := tx.Exec(ctx, `DELETE FROM mirror_outbox WHERE seq = $1`, r.Seq)
		return err
	})
}

// RepairLane enqueues entries that a comparison found missing, unless it did so too often:
// what three repairs did not mend is not worth a fourth.
func (s *Store) RepairLane(ctx context.Context, l Lane, now time.Time, entries []outbox.Entry) (bool, error) {
	repaired := false
	err := s.inTx(ctx, func(tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, `UPDATE mirror_lanes SET repairs = repairs + 1 WHERE lane = $1 AND holder = $2 AND repairs < 3`, l.Name, l.Holder)
		if err != nil {
			return err
		}
		repaired = tag.RowsAffected() == 1
		if !repaired {
			return nil
		}
		return enqueue(ctx, tx, now, entries...)
	})
	return repaired, err
}

// RestartLane forgets a run over there that is gone, and enqueues the run anew, whole.
func (s *Store) RestartLane(ctx context.Context, l Lane) error {
	return s.inTx(ctx, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `DELETE FROM mirror_outbox WHERE lane = $1`, l.Name); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, `DELETE FROM mirror_lanes WHERE lane = $1 AND holder = $2`, l.Name, l.Holder)
		return err
	})
}

// RemoteRun is where a run is over there; both are empty while it was not sent yet.
func (s *Store) RemoteRun(ctx context.Context, runID string) (id, root string, err error) {
	err = s.pool.QueryRow(ctx, `SELECT remote_id, remote_root FROM mirror_lanes WHERE lane = $1`, outbox.RunLane(runID)).Scan(&id, &root)
	if errors.Is(err, pgx.ErrNoRows) {
		err = nil
	}
	return id, root, err
}
