package postgres

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/ultrathink-pilot/trainyard/services/checkpoint-janitor/internal/drill"
	"github.com/ultrathink-pilot/trainyard/services/checkpoint-janitor/internal/inventory"
	"github.com/ultrathink-pilot/trainyard/services/checkpoint-janitor/internal/sweep"
)

// SeeOrphans remembers which orphans there are now, and since when.
func (s *Store) SeeOrphans(ctx context.Context, seen []inventory.Orphan, now time.Time) error {
	keys, details := make([]string, len(seen)), make([]string, len(seen))
	sizes, times := make([]int64, len(seen)), make([]time.Time, len(seen))
	for i, o := range seen {
		keys[i], sizes[i], times[i], details[i] = o.Key, o.Bytes, o.ModTime, o.Detail
	}
	return s.inTx(ctx, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `DELETE FROM orphans WHERE object_key <> ALL($1)`, keys); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, `
			INSERT INTO orphans (object_key, size_bytes, mod_time, detail, first_seen)
			SELECT k, n, m, d, $5 FROM unnest($1::text[], $2::bigint[], $3::timestamptz[], $4::text[]) AS u(k, n, m, d)
			ON CONFLICT (object_key) DO UPDATE SET size_bytes = excluded.size_bytes, mod_time = excluded.mod_time, detail = excluded.detail,
				first_seen = CASE WHEN orphans.size_bytes = excluded.size_bytes AND orphans.mod_time = excluded.mod_time THEN orphans.first_seen ELSE excluded.first_seen END`,
			keys, sizes, times, details, now)
		return err
	})
}

// DueOrphans lists orphans that have been seen for the whole grace, and are as old themselves.
// Both clocks must agree: ours and the store's.
func (s *Store) DueOrphans(ctx context.Context, now time.Time, grace time.Duration) ([]sweep.Orphan, error) {
	rows, err := s.pool.Query(ctx, `SELECT object_key, size_bytes FROM orphans WHERE first_seen <= $1 AND mod_time <= $1 ORDER BY object_key`, now.Add(-grace))
	if err != nil {
		return nil, wire(err)
	}
	all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[sweep.Orphan])
	return all, wire(err)
}

// OrphansSeen tells since when each orphan is known.
func (s *Store) OrphansSeen(ctx context.Context) (map[string]time.Time, error) {
	rows, err := s.pool.Query(ctx, `SELECT object_key, first_seen FROM orphans`)
	if err != nil {
		return nil, wire(err)
	}
	out := map[string]time.Time{}
	var key string
	var seen time.Time
	_, err = pgx.ForEachRow(rows, []any{&key, &seen}, func() error {
		out[key] = seen.UTC()
		return nil
	})
	return out, wire(err)
}

// SaveDrill stores a drill.
func (s *Store) SaveDrill(ctx context.Context, d drill.Record) error {
	failures := d.Failures
	if failures == nil {
		failures = []string{}
	}
	_, err := s.pool.Exec(ctx, `INSERT INTO drills (drill_id, caller, checkpoints, size_bytes, failures, end_time) VALUES ($1, $2, $3, $4, $5, $6)
		ON CONFLICT (drill_id) DO NOTHING`, d.ID, d.Caller, d.Checkpoints, d.Bytes, failures, d.EndTime)
	return wire(err)
}

// LastDrill returns the newest drill; found is false when there was none.
func (s *Store) LastDrill(ctx context.Context) (drill.Record, bool, error) {
	return s.drill(ctx, `ORDER BY end_time DESC LIMIT 1`)
}

// FindDrill returns one drill.
func (s *Store) FindDrill(ctx context.Context, id string) (drill.Record, bool, error) {
	return s.drill(ctx, `WHERE drill_id = $1`, id)
}

func (s *Store) drill(ctx context.Context, where string, args ...any) (d drill.Record, found bool, err error) {
	err = s.pool.QueryRow(ctx, `SELECT drill_id::text, caller, checkpoints, size_bytes, failures, end_time FROM drills `+where, args...).
		Scan(&d.ID, &d.Caller, &d.Checkpoints, &d.Bytes, &d.Failures, &d.EndTime)
	if errors.Is(err, pgx.ErrNoRows) {
		return d, false, nil
	}
	d.EndTime = d.EndTime.UTC()
	return d, err == nil, wire(err)
}
