// Package postgres keeps the scheduler's world in one schema of a Postgres
// database. It is the only package that knows SQL. A batch of changes is one
// transaction in one round trip. Time comes in as a parameter: the database's
// clock decides nothing but who leads.
package postgres

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/cycle"
)

// Migrations are the goose migrations of the schema.
//
//go:embed migrations/*.sql
var Migrations embed.FS

// Schema is the name of the schema.
const Schema = "scheduler"

// commitLimit bounds one commit. A database that takes longer is away for all
// that its callers care; the outcome is then read again.
const commitLimit = 30 * time.Second

// Store implements cycle.Store.
type Store struct{ pool *pgxpool.Pool }

// New makes a store over a pool whose search_path is the migrated schema.
func New(pool *pgxpool.Pool) *Store { return &Store{pool} }

var _ cycle.Store = (*Store)(nil)

// Lead takes the lead.
func (s *Store) Lead(ctx context.Context, holder string, ttl time.Duration) (uint64, error) {
	var term int64
	err := s.pool.QueryRow(ctx, `UPDATE leader SET term = term + 1, holder = $1, claim_time = clock_timestamp(), renew_time = clock_timestamp()
		WHERE holder = $1 OR renew_time < clock_timestamp() - make_interval(secs => $2) RETURNING term`, holder, ttl.Seconds()).Scan(&term)
	if errors.Is(err, pgx.ErrNoRows) {
		return 0, cycle.ErrLed
	}
	if err != nil {
		return 0, fmt.Errorf("take the lead: %w", err)
	}
	return uint64(term), nil
}

// Renew keeps the lead.
func (s *Store) Renew(ctx context.Context, term uint64) error {
	tag, err := s.pool.Exec(ctx, `UPDATE leader SET renew_time = clock_timestamp() WHERE term = $1`, int64(term))
	if err != nil {
		return fmt.Errorf("renew the lead: %w", err)
	}
	if tag.RowsAffected() == 0 {
		return cycle.ErrDeposed
	}
	return nil
}

// Yield gives the lead up.
func (s *Store) Yield(ctx context.Context, term uint64) error {
	if _, err := s.pool.Exec(ctx, `UPDATE leader SET renew_time = 'epoch' WHERE term = $1`, int64(term)); err != nil {
		return fmt.Errorf("give up the lead: %w", err)
	}
	return nil
}

// Fences draws n fences.
func (s *Store) Fences(ctx context.Context, n int) ([]uint64, error) {
	rows, err := s.pool.Query(ctx, `SELECT nextval('fences') FROM generate_series(1, $1)`, n)
	if err != nil {
		return nil, fmt.Errorf("draw fences: %w", err)
	}
	out, err := pgx.CollectRows(rows, func(r pgx.CollectableRow) (uint64, error) {
		var v int64
		err := r.Scan(&v)
		return uint64(v), err
	})
	if err != nil {
		return nil, fmt.Errorf("draw fences: %w", err)
	}
	return out, nil
}

// Load reads the world.
func (s *Store) Load(ctx context.Context) (cycle.World, error) {
	var w cycle.World
	// One snapshot for all reads: the world must be of one moment.
	err := pgx.BeginTxFunc(ctx, s.pool, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		var revision int64
		if err := tx.QueryRow(ctx, `SELECT revision FROM leader`).Scan(&revision); err != nil {
			return err
		}
		w.Revision = uint64(revision)
		rows, err := tx.Query(ctx, `SELECT name, revision, incarnation, version, address, labels, cpu_millis, host_bytes, devices,
			data_ok, registry_ok, cordon, cordon_reason, lost, update_time FROM agents ORDER BY name`)
		if err != nil {
			return err
		}
		if w.Agents, err = pgx.CollectRows(rows, scanAgent); err != nil {
			return err
		}
		if w.Arrays, err = rowsOf(ctx, tx, scanArray, `SELECT `+arrayColumns+` FROM arrays WHERE id IN
			(SELECT array_id FROM jobs WHERE state NOT IN ('SUCCEEDED', 'FAILED', 'CANCELLED'))`); err != nil {
			return err
		}
		if w.Schedules, err = rowsOf(ctx, tx, scanSchedule, `SELECT name, id::text, revision, payload, cron, zone, overlap, catch_up, paused, submitter, create_time,
			done_time, fire_time, result, coalesce(job_id::text, ''), skipped FROM schedules ORDER BY name`); err != nil {
			return err
		}
		if w.Quotas, err = rowsOf(ctx, tx, scanQuota, `SELECT tenant, revision, cohort, weight, devices, max_jobs FROM quotas ORDER BY tenant`); err != nil {
			return err
		}
		if w.Peaks, err = rowsOf(ctx, tx, scanPeak, `SELECT key, bytes, took_ms, runs, update_time FROM peaks ORDER BY key`); err != nil {
			return err
		}
		w.Records, err = records(ctx, tx, `WHERE state NOT IN ('SUCCEEDED', 'FAILED', 'CANCELLED') ORDER BY place`)
		return err
	})
	if err != nil {
		return cycle.World{}, fmt.Errorf("load the world: %w", err)
	}
	return w, nil
}

type querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

func rowsOf[T any](ctx context.Context, q querier, scan pgx.RowToFunc[T], sql string, args ...any) ([]T, error) {
	rows, err := q.Query(ctx, sql, args...)
	if err != nil {
		return nil, err
	}
	out, err := pgx.CollectRows(rows, scan)
	if len(out) == 0 {
		return nil, err
	}
	return out, err
}

// records reads jobs and their attempts. where is SQL of this package.
func records(ctx context.Context, q querier, where string, args ...any) ([]cycle.Record, error) {
	rows, err := q.Query(ctx, `SELECT `+jobColumns+` FROM jobs `+where, args...)
	if err != nil {
		return nil, err
	}
	jobs, err := pgx.CollectRows(rows, scanJob)
	if err != nil {
		return nil, err
	}
	ids := make([]string, len(jobs))
	at := make(map[string]int, len(jobs))
	out := make([]cycle.Record, len(jobs))
	for i, j := range jobs {
		ids[i], at[j.ID], out[i].Job = j.ID, i, j
	}
	rows, err = q.Query(ctx, `SELECT `+attemptColumns+` FROM attempts WHERE job_id = ANY($1::uuid[]) ORDER BY job_id, number`, ids)
	if err != nil {
		return nil, err
	}
	attempts, err := pgx.CollectRows(rows, scanAttempt)
	if err != nil {
		return nil, err
	}
	for _, a := range attempts {
		r := &out[at[a.Job]]
		r.Attempts = append(r.Attempts, a)
	}
	return out, nil
}

// Record reads a job with its attempts.
func (s *Store) Record(ctx context.Context, id string) (cycle.Record, error) {
	var out []cycle.Record
	err := pgx.BeginTxFunc(ctx, s.pool, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) (err error) {
		out, err = records(ctx, tx, `WHERE id = $1`, id)
		return err
	})
	if err != nil {
		return cycle.Record{}, fmt.Errorf("read job %s: %w", id, err)
	}
	if len(out) == 0 {
		return cycle.Record{}, cycle.ErrNotFound
	}
	return out[0], nil
}

// List reads a page of jobs, newest first.
func (s *Store) List(ctx context.Context, p cycle.Page) ([]cycle.Record, error) {
	states := make([]string, len(p.States))
	for i, st := range p.States {
		states[i] = st.String()
	}
	var out []cycle.Record
	err := pgx.BeginTxFunc(ctx, s.pool, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) (err error) {
		out, err = records(ctx, tx, `WHERE ($1::text[] = '{}' OR state = ANY($1)) AND starts_with(experiment, $2) AND ($3 = 0 OR place < $3)
			AND ($5::uuid IS NULL OR array_id = $5) AND ($6::uuid IS NULL OR graph_id = $6) AND ($7::uuid IS NULL OR schedule_id = $7) AND ($8 = '' OR tenant = $8)
			ORDER BY place DESC LIMIT $4`,
			states, p.ExperimentPrefix, p.Before, p.Limit, nullID(p.Array), nullID(p.Graph), nullID(p.Schedule), p.Tenant)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list jobs: %w", err)
	}
	return out, nil
}

// arrayViews selects arrays with their counts by state.
const arrayViews = `SELECT ` + arrayColumns + `, (SELECT coalesce(jsonb_object_agg(state, n), '{}') FROM
	(SELECT state, count(*) AS n FROM jobs WHERE array_id = arrays.id GROUP BY state) AS c) FROM arrays `

// Array reads an array with its counts.
func (s *Store) Array(ctx context.Context, id string) (cycle.ArrayView, error) {
	out, err := rowsOf(ctx, s.pool, scanArrayView, arrayViews+`WHERE id = $1`, id)
	if err != nil {
		return cycle.ArrayView{}, fmt.Errorf("read array %s: %w", id, err)
	}
	if len(out) == 0 {
		return cycle.ArrayView{}, cycle.ErrNotFound
	}
	return out[0], nil
}

// Arrays reads a page of arrays. Their ids rise with time.
func (s *Store) Arrays(ctx context.Context, before string, limit int) ([]cycle.ArrayView, error) {
	out, err := rowsOf(ctx, s.pool, scanArrayView, arrayViews+`WHERE $1::uuid IS NULL OR id < $1 ORDER BY id DESC LIMIT $2`, nullID(before), limit)
	if err != nil {
		return nil, fmt.Errorf("list arrays: %w", err)
	}
	return out, nil
}

// Since reads what changed above a revision.
func (s *Store) Since(ctx context.Context, revision uint64, ids []string, limit int) ([]cycle.Record, error) {
	if ids == nil {
		ids = []string{}
	}
	var out []cycle.Record
	err := pgx.BeginTxFunc(ctx, s.pool, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) (err error) {
		out, err = records(ctx, tx, `WHERE revision > $1 AND ($2::uuid[] = '{}' OR id = ANY($2::uuid[])) ORDER BY revision LIMIT $3`, int64(revision), ids, limit)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read changes: %w", err)
	}
	return out, nil
}

// Receipts finds the answers to requests.
func (s *Store) Receipts(ctx context.Context, ids []string) ([]cycle.Receipt, error) {
	out, err := rowsOf(ctx, s.pool, func(row pgx.CollectableRow) (cycle.Receipt, error) {
		var r cycle.Receipt
		err := row.Scan(&r.ID, &r.Method, &r.Digest, &r.Response, &r.At)
		return r, err
	}, `SELECT request_id, method, payload_hash, response, create_time FROM request_ledger WHERE request_id = ANY($1)`, orNone(ids))
	if err != nil {
		return nil, fmt.Errorf("read the request ledger: %w", err)
	}
	return out, nil
}

// Forget drops old receipts, lessons and arrays without jobs.
func (s *Store) Forget(ctx context.Context, receipts, lessons time.Time) error {
	if _, err := s.pool.Exec(ctx, `DELETE FROM request_ledger WHERE create_time < $1`, receipts); err != nil {
		return fmt.Errorf("trim the request ledger: %w", err)
	}
	if _, err := s.pool.Exec(ctx, `DELETE FROM peaks WHERE update_time < $1`, lessons); err != nil {
		return fmt.Errorf("trim what was learned: %w", err)
	}
	if _, err := s.pool.Exec(ctx, `DELETE FROM arrays WHERE create_time < $1 AND NOT EXISTS (SELECT FROM jobs WHERE array_id = arrays.id)`, lessons); err != nil {
		return fmt.Errorf("trim the history of arrays: %w", err)
	}
	return nil
}
