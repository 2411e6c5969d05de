package postgres

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/cycle"
)

// overTerm is the error code of hold_lead.
const overTerm = "TY001"

// Commit writes a batch of changes in one transaction and one round trip: the
// server takes what is sent up to one sync as a transaction, and the first
// statement fails when the term is over.
func (s *Store) Commit(ctx context.Context, term uint64, c cycle.Changes) error {
	ctx, cancel := context.WithTimeout(ctx, commitLimit)
	defer cancel()
	b := &pgx.Batch{}
	b.Queue(`SELECT hold_lead($1, $2)`, int64(term), int64(c.Revision))
	for _, a := range c.Agents {
		queueAgent(b, a)
	}
	queueParts(b, &c)
	bulk(b, insertJobs, jobAll, c.NewJobs)
	bulk(b, updateJobs, jobUpdate, c.Jobs)
	// Ends come before beginnings: a device given back and given out in one
	// batch, or a job's old and new attempt, must not meet.
	bulk(b, updateAttempts, attemptUpdate, c.Attempts)
	bulk(b, releaseHoldings, holdingKeys, releasesOf(c.Attempts))
	bulk(b, insertAttempts, attemptAll, c.NewAttempts)
	bulk(b, insertHoldings, holdingColumns, holdingsOf(c.NewAttempts))
	bulk(b, insertReceipts, receiptColumns, c.Receipts)
	bulk(b, insertDecisions, decisionColumns, c.Decisions)
	err := s.pool.SendBatch(ctx, b).Close()
	var refused *pgconn.PgError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &refused) && refused.Code == overTerm:
		return cycle.ErrDeposed
	case refused != nil && (strings.HasPrefix(refused.Code, "22") || strings.HasPrefix(refused.Code, "23")):
		return fmt.Errorf("%w: %w", cycle.ErrRefused, err)
	}
	return fmt.Errorf("commit: %w", err)
}

var (
	receiptColumns = []column[cycle.Receipt]{
		col("request_id", "text", func(r *cycle.Receipt) string { return r.ID }),
		col("method", "text", func(r *cycle.Receipt) string { return r.Method }),
		col("payload_hash", "bytea", func(r *cycle.Receipt) []byte { return r.Digest }),
		col("response", "bytea", func(r *cycle.Receipt) []byte { return r.Response }),
		col("create_time", "timestamptz", func(r *cycle.Receipt) time.Time { return r.At }),
	}
	insertReceipts  = insertSQL("request_ledger", receiptColumns)
	decisionColumns = []column[cycle.Decision]{
		col("job_id", "uuid", func(d *cycle.Decision) string { return d.Job }),
		col("time", "timestamptz", func(d *cycle.Decision) time.Time { return d.At }),
		col("action", "text", func(d *cycle.Decision) string { return d.Action }),
		col("reason", "text", func(d *cycle.Decision) string { return d.Reason }),
		col("attempt", "integer", func(d *cycle.Decision) int32 { return int32(d.Attempt) }),
	}
	insertDecisions = insertSQL("decisions", decisionColumns)
)

func queueAgent(b *pgx.Batch, a cycle.Agent) {
	b.Queue(`INSERT INTO agents (name, revision, incarnation, version, address, labels, cpu_millis, host_bytes, devices,
			data_ok, registry_ok, cordon, cordon_reason, lost, update_time)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)
		ON CONFLICT (name) DO UPDATE SET revision = $2, incarnation = $3, version = $4, address = $5, labels = $6, cpu_millis = $7, host_bytes = $8,
			devices = $9, data_ok = $10, registry_ok = $11, cordon = $12, cordon_reason = $13, lost = $14, update_time = $15`,
		a.Name, int64(a.Revision), a.Incarnation, a.Version, a.Address, orEmpty(a.Labels), a.CPUMillis, a.HostBytes, orNone(a.Devices),
		a.DataOK, a.RegistryOK, a.Cordon.String(), a.CordonReason, a.Lost, a.Updated)
}

// queueParts writes what is rare, one statement a row.
func queueParts(b *pgx.Batch, c *cycle.Changes) {
	for _, a := range c.Arrays {
		b.Queue(`INSERT INTO arrays (id, revision, template, count, max_parallel, submitter, create_time, broken) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
			ON CONFLICT (id) DO UPDATE SET revision = $2, broken = $8`,
			a.ID, int64(a.Revision), a.Template, a.Count, a.Max, a.Submitter, a.Created, a.Broken)
	}
	for _, name := range c.GoneSchedules {
		b.Queue(`DELETE FROM schedules WHERE name = $1`, name)
	}
	for _, x := range c.Schedules {
		b.Queue(`INSERT INTO schedules (name, id, revision, payload, cron, zone, overlap, catch_up, paused, submitter, create_time, done_time, fire_time, result, job_id, skipped)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16)
			ON CONFLICT (name) DO UPDATE SET id = $2, revision = $3, payload = $4, cron = $5, zone = $6, overlap = $7, catch_up = $8, paused = $9, submitter = $10,
				create_time = $11, done_time = $12, fire_time = $13, result = $14, job_id = $15, skipped = $16`,
			x.Name, x.ID, int64(x.Revision), x.Payload, x.Cron, x.Zone, x.Overlap.String(), x.CatchUp.String(), x.Paused, x.Submitter, x.Created, x.Done,
			nullTime(x.Fired), x.Result, nullID(x.Job), x.Skipped)
	}
	for _, p := range c.Peaks {
		b.Queue(`INSERT INTO peaks (key, bytes, took_ms, runs, update_time) VALUES ($1, $2, $3, $4, $5)
			ON CONFLICT (key) DO UPDATE SET bytes = $2, took_ms = $3, runs = $4, update_time = $5`, p.Key, p.Bytes, p.Took.Milliseconds(), p.Runs, p.At)
	}
	for _, tenant := range c.GoneQuotas {
		b.Queue(`DELETE FROM quotas WHERE tenant = $1`, tenant)
	}
	for _, q := range c.Quotas {
		b.Queue(`INSERT INTO quotas (tenant, revision, cohort, weight, devices, max_jobs) VALUES ($1, $2, $3, $4, $5, $6)
			ON CONFLICT (tenant) DO UPDATE SET revision = $2, cohort = $3, weight = $4, devices = $5, max_jobs = $6`,
			q.Tenant, int64(q.Revision), q.Cohort, q.Weight, orNone(q.Devices), q.MaxJobs)
	}
}
