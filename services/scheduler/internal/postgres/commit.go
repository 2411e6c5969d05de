package postgres

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/cycle"
	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/job"
)

// Commit writes a batch of changes in one transaction, sent in one round trip.
func (s *Store) Commit(ctx context.Context, term uint64, c cycle.Changes) error {
	ctx, cancel := context.WithTimeout(ctx, commitLimit)
	defer cancel()
	b := &pgx.Batch{}
	deposed := false
	b.Queue(`UPDATE leader SET revision = $2, renew_time = clock_timestamp() WHERE term = $1 RETURNING term`, int64(term), int64(c.Revision)).QueryRow(func(r pgx.Row) error {
		var t int64
		err := r.Scan(&t)
		if errors.Is(err, pgx.ErrNoRows) {
			deposed = true
			return cycle.ErrDeposed
		}
		return err
	})
	for _, a := range c.Agents {
		queueAgent(b, a)
	}
	// A revision moves from row to row inside a batch only upwards, so that the
	// unique index is never violated on the way.
	for _, j := range c.NewJobs {
		queueNewJob(b, j)
	}
	for _, j := range c.Jobs {
		queueJob(b, j)
	}
	// Ends come before beginnings: a device given back and given out in one
	// batch, or a job's old and new attempt, must not meet.
	for _, a := range c.Attempts {
		queueAttempt(b, a)
	}
	for _, a := range c.NewAttempts {
		queueNewAttempt(b, a)
	}
	for _, r := range c.Receipts {
		b.Queue(`INSERT INTO request_ledger (request_id, method, payload_hash, response, create_time) VALUES ($1, $2, $3, $4, $5)`,
			r.ID, r.Method, r.Digest, r.Response, r.At)
	}
	for _, d := range c.Decisions {
		b.Queue(`INSERT INTO decisions (job_id, time, action, reason, attempt) VALUES ($1, $2, $3, $4, $5)`, d.Job, d.At, d.Action, d.Reason, d.Attempt)
	}
	err := pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error { return tx.SendBatch(ctx, b).Close() })
	if deposed {
		return cycle.ErrDeposed
	}
	var refused *pgconn.PgError
	if errors.As(err, &refused) && (strings.HasPrefix(refused.Code, "22") || strings.HasPrefix(refused.Code, "23")) {
		return fmt.Errorf("%w: %w", cycle.ErrRefused, err)
	}
	if err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	return nil
}

func queueAgent(b *pgx.Batch, a cycle.Agent) {
	b.Queue(`INSERT INTO agents (name, revision, incarnation, version, address, labels, cpu_millis, host_bytes, devices,
			data_ok, registry_ok, cordon, cordon_reason, lost, update_time)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)
		ON CONFLICT (name) DO UPDATE SET revision = $2, incarnation = $3, version = $4, address = $5, labels = $6, cpu_millis = $7, host_bytes = $8,
			devices = $9, data_ok = $10, registry_ok = $11, cordon = $12, cordon_reason = $13, lost = $14, update_time = $15`,
		a.Name, int64(a.Revision), a.Incarnation, a.Version, a.Address, orEmpty(a.Labels), a.CPUMillis, a.HostBytes, orNone(a.Devices),
		a.DataOK, a.RegistryOK, a.Cordon.String(), a.CordonReason, a.Lost, a.Updated)
}

func queueNewJob(b *pgx.Batch, j job.Job) {
	b.Queue(`INSERT INTO jobs (id, revision, place, display_name, experiment, tenant, submitter, spec, payload, traceparent, submit_time,
			priority, state, reason, intent, pause, not_before, batch, accumulate, rate_scale, spent, free, attempts, fence, failure,
			checkpoint, warnings, update_time, wait_time, start_time, end_time)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, $23, $24, $25,
			$26, $27, $28, $29, $30, $31)`,
		j.ID, int64(j.Revision), j.Place, j.Spec.Name, j.Spec.Experiment, j.Spec.Tenant, j.Submitter, j.Spec, j.Spec.Payload, j.Trace, j.Submitted,
		j.Priority.String(), j.State.String(), j.Reason, j.Intent.String(), j.Pause.String(), nullTime(j.NotBefore), j.Batch, j.Accumulate,
		j.RateScale, j.Spent.Map(), j.Free, j.Attempts, int64(j.Fence), j.Failure.String(), j.Checkpoint, orNone(j.Warnings),
		j.Updated, j.Waiting, nullTime(j.Started), nullTime(j.Finished))
}

// queueJob writes what may change; what was asked for never does.
func queueJob(b *pgx.Batch, j job.Job) {
	b.Queue(`UPDATE jobs SET revision = $2, priority = $3, state = $4, reason = $5, intent = $6, pause = $7, not_before = $8, batch = $9,
			accumulate = $10, rate_scale = $11, spent = $12, free = $13, attempts = $14, fence = $15, failure = $16, checkpoint = $17,
			warnings = $18, update_time = $19, wait_time = $20, start_time = $21, end_time = $22
		WHERE id = $1`,
		j.ID, int64(j.Revision), j.Priority.String(), j.State.String(), j.Reason, j.Intent.String(), j.Pause.String(), nullTime(j.NotBefore), j.Batch,
		j.Accumulate, j.RateScale, j.Spent.Map(), j.Free, j.Attempts, int64(j.Fence), j.Failure.String(), j.Checkpoint,
		orNone(j.Warnings), j.Updated, j.Waiting, nullTime(j.Started), nullTime(j.Finished))
}

func queueNewAttempt(b *pgx.Batch, a job.Attempt) {
	b.Queue(`INSERT INTO attempts (job_id, number, fence, agent, shares, cpu_millis, host_bytes, batch, accumulate, rate_scale, restore, why,
			traceparent, create_time, phase, known, isolation, progress, grace_ms, outcome, failure, evidence, start_time, advance_time, outage_time, end_time)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, $23, $24, $25, $26)`,
		a.Job, a.Number, int64(a.Fence), a.Agent, orNone(a.Shares), a.CPUMillis, a.HostBytes, a.Batch, a.Accumulate, a.RateScale, a.Restore, a.Why,
		a.Trace, a.Created, a.Phase.String(), a.Known, a.Isolation, a.Progress, a.Grace.Milliseconds(), a.Outcome.String(), a.Failure.String(), a.Evidence,
		nullTime(a.Started), nullTime(a.Advanced), nullTime(a.Outage), nullTime(a.Ended))
	if !a.Live() {
		return
	}
	for _, sh := range a.Shares {
		b.Queue(`INSERT INTO holdings (fence, agent, device, held, whole) VALUES ($1, $2, $3, $4, $5)`, int64(a.Fence), a.Agent, sh.Device, sh.Held, sh.Whole)
	}
}

func queueAttempt(b *pgx.Batch, a job.Attempt) {
	b.Queue(`UPDATE attempts SET phase = $3, known = $4, isolation = $5, progress = $6, grace_ms = $7, outcome = $8, failure = $9, evidence = $10,
			start_time = $11, advance_time = $12, outage_time = $13, end_time = $14
		WHERE job_id = $1 AND number = $2`,
		a.Job, a.Number, a.Phase.String(), a.Known, a.Isolation, a.Progress, a.Grace.Milliseconds(), a.Outcome.String(), a.Failure.String(), a.Evidence,
		nullTime(a.Started), nullTime(a.Advanced), nullTime(a.Outage), nullTime(a.Ended))
	if !a.Live() {
		b.Queue(`DELETE FROM holdings WHERE fence = $1`, int64(a.Fence))
	}
}
