package postgres

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/ultrathink-pilot/trainyard/services/checkpoint-janitor/internal/retention"
	"github.com/ultrathink-pilot/trainyard/services/checkpoint-janitor/internal/usage"
)

// AddHold keeps a restored checkpoint until the given time; a later one extends
// an earlier one.
func (t Tx) AddHold(ctx context.Context, checkpointID, caller string, now, until time.Time) error {
	_, err := t.tx.Exec(ctx, `
		INSERT INTO holds (checkpoint_id, caller, create_time, until_time) VALUES ($1, $2, $3, $4)
		ON CONFLICT (checkpoint_id) DO UPDATE SET caller = excluded.caller, create_time = excluded.create_time, until_time = excluded.until_time
		WHERE holds.until_time < excluded.until_time`, checkpointID, caller, now, until)
	return err
}

// Holds returns the holds that have not run out, as references.
func (s *Store) Holds(ctx context.Context, now time.Time) (map[string]retention.Reference, error) {
	rows, err := s.pool.Query(ctx, `SELECT checkpoint_id, caller, until_time FROM holds WHERE until_time > $1`, now)
	if err != nil {
		return nil, wire(err)
	}
	out := map[string]retention.Reference{}
	var id, caller string
	var until time.Time
	_, err = pgx.ForEachRow(rows, []any{&id, &caller, &until}, func() error {
		out[id] = retention.Reference{Kind: retention.RefRestored, Detail: caller, Until: until.UTC()}
		return nil
	})
	return out, wire(err)
}

// AddSamples stores the usage at one instant; the same instant twice is one.
func (s *Store) AddSamples(ctx context.Context, now time.Time, classes []usage.Class) error {
	batch := &pgx.Batch{}
	for _, c := range classes {
		batch.Queue(`
			INSERT INTO usage_samples (sample_time, class, objects, size_bytes) VALUES ($1, $2, $3, $4)
			ON CONFLICT (sample_time, class) DO NOTHING`, now, c.Name, c.Objects, c.Bytes)
	}
	return wire(s.pool.SendBatch(ctx, batch).Close())
}

// History returns the samples since the given time.
func (s *Store) History(ctx context.Context, since time.Time) (usage.History, error) {
	rows, err := s.pool.Query(ctx, `SELECT class, sample_time, size_bytes FROM usage_samples WHERE sample_time >= $1 ORDER BY sample_time`, since)
	if err != nil {
		return nil, wire(err)
	}
	out := usage.History{}
	var (
		class string
		p     usage.Point
	)
	_, err = pgx.ForEachRow(rows, []any{&class, &p.Time, &p.Bytes}, func() error {
		out[class] = append(out[class], usage.Point{Time: p.Time.UTC(), Bytes: p.Bytes})
		return nil
	})
	return out, wire(err)
}
