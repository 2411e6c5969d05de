package postgres

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/ultrathink-pilot/trainyard/services/checkpoint-janitor/internal/retention"
	"github.com/ultrathink-pilot/trainyard/services/checkpoint-janitor/internal/sweep"
)

// CreateSweep opens a sweep; [sweep.Sweeper] carries it on from there.
func (t Tx) CreateSweep(ctx context.Context, w sweep.Sweep) error {
	_, err := t.tx.Exec(ctx, `
		INSERT INTO sweeps (sweep_id, trigger, caller, state, confirmed, plan_hash, create_time)
		VALUES ($1, $2, $3, 'OPEN', $4, $5, $6)`,
		w.ID, w.Trigger, w.Caller, w.Confirmed, w.PlanHash, w.CreateTime)
	return err
}

// OpenSweep opens a sweep that no request asked for.
func (s *Store) OpenSweep(ctx context.Context, w sweep.Sweep) error {
	return s.inTx(ctx, func(tx pgx.Tx) error { return Tx{tx}.CreateSweep(ctx, w) })
}

const sweepColumns = `sweep_id, trigger, caller, state, confirmed, plan_hash, grace_ms, catalogued, refusal_codes, refusals, create_time, start_time, end_time`

// LoadSweep reads a sweep; found is false when there is none.
func (s *Store) LoadSweep(ctx context.Context, id string) (w sweep.Sweep, found bool, err error) {
	rows, err := s.pool.Query(ctx, `SELECT `+sweepColumns+` FROM sweeps WHERE sweep_id = $1`, id)
	if err != nil {
		return sweep.Sweep{}, false, wire(err)
	}
	w, err = pgx.CollectExactlyOneRow(rows, scanSweep)
	if errors.Is(err, pgx.ErrNoRows) {
		return sweep.Sweep{}, false, nil
	}
	return w, err == nil, wire(err)
}

// UnfinishedSweeps lists what a crash or an outage left, oldest first.
func (s *Store) UnfinishedSweeps(ctx context.Context) ([]sweep.Sweep, error) {
	rows, err := s.pool.Query(ctx, `SELECT `+sweepColumns+` FROM sweeps WHERE end_time IS NULL ORDER BY create_time, sweep_id`)
	if err != nil {
		return nil, wire(err)
	}
	all, err := pgx.CollectRows(rows, scanSweep)
	return all, wire(err)
}

func scanSweep(row pgx.CollectableRow) (sweep.Sweep, error) {
	var w sweep.Sweep
	var state string
	var graceMillis int64
	var codes []string
	var start, end *time.Time
	err := row.Scan(&w.ID, &w.Trigger, &w.Caller, &state, &w.Confirmed, &w.PlanHash, &graceMillis, &w.Catalogued, &codes, &w.Refusals,
		&w.CreateTime, &start, &end)
	w.State, w.Grace = sweep.State(state), time.Duration(graceMillis)*time.Millisecond
	w.CreateTime, w.StartTime, w.EndTime = w.CreateTime.UTC(), orZero(start), orZero(end)
	for _, c := range codes {
		w.RefusalCodes = append(w.RefusalCodes, retention.RefusalCode(c))
	}
	return w, err
}

// LastRun is the start of the newest run that the guard let pass, and how many
// checkpoints it left in the catalogue: those it saw less those it deleted. The
// time is zero when there was none.
func (s *Store) LastRun(ctx context.Context) (start time.Time, catalogued int, err error) {
	err = s.pool.QueryRow(ctx, `
		SELECT w.start_time, w.catalogued - (
			SELECT count(*) FROM sweep_items i WHERE i.sweep_id = w.sweep_id AND i.task = 'delete' AND i.phase IN ('erased', 'done'))
		FROM sweeps w WHERE w.start_time IS NOT NULL ORDER BY w.start_time DESC LIMIT 1`).Scan(&start, &catalogued)
	if errors.Is(err, pgx.ErrNoRows) {
		return time.Time{}, 0, nil
	}
	return start.UTC(), catalogued, wire(err)
}

// LastEnd is when the newest finished run ended; zero when there was none.
func (s *Store) LastEnd(ctx context.Context) (time.Time, error) {
	var end *time.Time
	err := s.pool.QueryRow(ctx, `SELECT max(end_time) FROM sweeps WHERE state = 'DONE'`).Scan(&end)
	return orZero(end), wire(err)
}

// StartSweep moves OPEN to RUNNING with all its work. A sweep that has moved on
// already stays as it is.
func (s *Store) StartSweep(ctx context.Context, id, planHash string, grace time.Duration, catalogued int, work []sweep.Work, now time.Time) error {
	return s.inTx(ctx, func(tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, `
			UPDATE sweeps SET state = 'RUNNING', plan_hash = $2, grace_ms = $3, catalogued = $4, start_time = $5, last_error = ''
			WHERE sweep_id = $1 AND state = 'OPEN'`, id, planHash, grace.Milliseconds(), catalogued, now)
		if err != nil || tag.RowsAffected() == 0 {
			return err
		}
		return insertWork(ctx, tx, id, work)
	})
}

func insertWork(ctx context.Context, tx pgx.Tx, id string, work []sweep.Work) error {
	columns := []string{"sweep_id", "checkpoint_id", "task", "phase", "digests", "sizes", "size_bytes", "reason", "patterns"}
	_, err := tx.CopyFrom(ctx, pgx.Identifier{"sweep_items"}, columns, pgx.CopyFromSlice(len(work), func(i int) ([]any, error) {
		w := work[i]
		digests, sizes := make([]string, len(w.Files)), make([]int64, len(w.Files))
		for k, f := range w.Files {
			digests[k], sizes[k] = f.Digest, f.Bytes
		}
		patterns := w.Patterns
		if patterns == nil {
			patterns = []string{}
		}
		return []any{id, w.ID, w.Task.String(), w.Phase.String(), digests, sizes, w.Bytes, w.Reason, patterns}, nil
	}))
	return err
}

// Deletion is the record of a checkpoint whose bytes a sweep has deleted.
type Deletion struct {
	SweepID    string
	StartTime  time.Time
	FreedBytes int64
	Bytes      int64
	// Reason is what the plan said when the checkpoint was condemned.
	Reason string
}

// FindDeletion returns the record of a deleted checkpoint; found is false when no
// sweep has deleted it.
func (s *Store) FindDeletion(ctx context.Context, checkpointID string) (d Deletion, found bool, err error) {
	err = s.pool.QueryRow(ctx, `
		SELECT w.sweep_id::text, w.start_time, i.freed_bytes, i.size_bytes, COALESCE((
			SELECT t.reason FROM sweep_items t JOIN sweeps tw USING (sweep_id)
			WHERE t.checkpoint_id = i.checkpoint_id AND t.task = 'tombstone' AND t.phase = 'done' ORDER BY tw.start_time DESC LIMIT 1), i.reason)
		FROM sweep_items i JOIN sweeps w USING (sweep_id)
		WHERE i.checkpoint_id = $1 AND i.task = 'delete' AND i.phase IN ('erased', 'done') ORDER BY w.start_time DESC LIMIT 1`, checkpointID).
		Scan(&d.SweepID, &d.StartTime, &d.FreedBytes, &d.Bytes, &d.Reason)
	if errors.Is(err, pgx.ErrNoRows) {
		return Deletion{}, false, nil
	}
	d.StartTime = d.StartTime.UTC()
	return d, err == nil, wire(err)
}

// RefuseSweep ends an open sweep with the reasons.
func (s *Store) RefuseSweep(ctx context.Context, id string, refusals []retention.Refusal, now time.Time) error {
	codes, texts := make([]string, len(refusals)), make([]string, len(refusals))
	for i, r := range refusals {
		codes[i], texts[i] = string(r.Code), r.Text
	}
	_, err := s.pool.Exec(ctx, `
		UPDATE sweeps SET state = 'REFUSED', refusal_codes = $2, refusals = $3, end_time = $4 WHERE sweep_id = $1 AND state = 'OPEN'`,
		id, codes, texts, now)
	return wire(err)
}

// FinishSweep ends a running sweep.
func (s *Store) FinishSweep(ctx context.Context, id string, now time.Time) error {
	_, err := s.pool.Exec(ctx, `UPDATE sweeps SET state = 'DONE', end_time = $2, last_error = '' WHERE sweep_id = $1 AND state = 'RUNNING'`, id, now)
	return wire(err)
}

// NoteError remembers why a sweep does not get on.
func (s *Store) NoteError(ctx context.Context, id, text string) error {
	_, err := s.pool.Exec(ctx, `UPDATE sweeps SET last_error = $2 WHERE sweep_id = $1 AND end_time IS NULL`, id, text)
	return wire(err)
}

// taskOrder puts undo before condemnation before deletion, and what takes long last.
const taskOrder = `array_position(ARRAY['revive', 'tombstone', 'delete', 'archive'], task)`

const workColumns = `checkpoint_id, task, phase, digests, sizes, size_bytes, freed_bytes, reason, patterns, cold_bytes, dropped_bytes`

// OpenWork returns up to limit unfinished items of a sweep, in the order of work.
func (s *Store) OpenWork(ctx context.Context, id string, limit int) ([]sweep.Work, error) {
	return s.work(ctx, `
		SELECT `+workColumns+` FROM sweep_items
		WHERE sweep_id = $1 AND phase NOT IN ('done', 'refused') ORDER BY `+taskOrder+`, checkpoint_id LIMIT $2`, id, limit)
}

// AllWork returns every item of a sweep.
func (s *Store) AllWork(ctx context.Context, id string) ([]sweep.Work, error) {
	return s.work(ctx, `
		SELECT `+workColumns+` FROM sweep_items
		WHERE sweep_id = $1 ORDER BY `+taskOrder+`, checkpoint_id`, id)
}

func (s *Store) work(ctx context.Context, sql string, args ...any) ([]sweep.Work, error) {
	rows, err := s.pool.Query(ctx, sql, args...)
	if err != nil {
		return nil, wire(err)
	}
	all, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (sweep.Work, error) {
		var w sweep.Work
		var task, phase string
		var digests []string
		var sizes []int64
		err := row.Scan(&w.ID, &task, &phase, &digests, &sizes, &w.Bytes, &w.FreedBytes, &w.Reason, &w.Patterns, &w.ColdBytes, &w.DroppedBytes)
		w.Task, w.Phase = retention.ParseTask(task), retention.ParsePhase(phase)
		for i := range digests {
			w.Files = append(w.Files, retention.File{Digest: digests[i], Bytes: sizes[i]})
		}
		return w, err
	})
	return all, wire(err)
}

// Record stores how far items have come, and the work that follows from it, in
// one transaction.
func (s *Store) Record(ctx context.Context, id string, done, follow []sweep.Work) error {
	return s.inTx(ctx, func(tx pgx.Tx) error {
		batch := &pgx.Batch{}
		for _, w := range done {
			batch.Queue(`UPDATE sweep_items SET phase = $4, freed_bytes = $5, reason = $6, cold_bytes = $7, dropped_bytes = $8
				WHERE sweep_id = $1 AND checkpoint_id = $2 AND task = $3`,
				id, w.ID, w.Task.String(), w.Phase.String(), w.FreedBytes, w.Reason, w.ColdBytes, w.DroppedBytes)
		}
		if err := tx.SendBatch(ctx, batch).Close(); err != nil {
			return err
		}
		return insertWork(ctx, tx, id, follow)
	})
}
