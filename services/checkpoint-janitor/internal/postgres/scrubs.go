package postgres

import (
	"context"

	"github.com/jackc/pgx/v5"

	"github.com/ultrathink-pilot/trainyard/services/checkpoint-janitor/internal/scrub"
)

// Checks returns the last reading of every content, by digest.
func (s *Store) Checks(ctx context.Context) (map[string]scrub.Check, error) {
	rows, err := s.pool.Query(ctx, `SELECT digest, object_key, size_bytes, outcome = 'corrupt', check_time FROM scrubs`)
	if err != nil {
		return nil, wire(err)
	}
	out := map[string]scrub.Check{}
	var c scrub.Check
	_, err = pgx.ForEachRow(rows, []any{&c.Digest, &c.Key, &c.Bytes, &c.Corrupt, &c.Time}, func() error {
		c.Time = c.Time.UTC()
		out[c.Digest] = c
		return nil
	})
	return out, wire(err)
}

// SaveCheck stores a reading; the newest of a content counts.
func (s *Store) SaveCheck(ctx context.Context, c scrub.Check) error {
	outcome := "good"
	if c.Corrupt {
		outcome = "corrupt"
	}
	_, err := s.pool.Exec(ctx, `
		INSERT INTO scrubs (digest, object_key, size_bytes, outcome, check_time) VALUES ($1, $2, $3, $4, $5)
		ON CONFLICT (digest) DO UPDATE SET object_key = excluded.object_key, size_bytes = excluded.size_bytes, outcome = excluded.outcome,
			check_time = excluded.check_time`, c.Digest, c.Key, c.Bytes, outcome, c.Time)
	return wire(err)
}

// CorruptContents lists the contents whose last reading was bad.
func (s *Store) CorruptContents(ctx context.Context) (map[string]bool, error) {
	rows, err := s.pool.Query(ctx, `SELECT digest FROM scrubs WHERE outcome = 'corrupt'`)
	if err != nil {
		return nil, wire(err)
	}
	out := map[string]bool{}
	var digest string
	_, err = pgx.ForEachRow(rows, []any{&digest}, func() error {
		out[digest] = true
		return nil
	})
	return out, wire(err)
}

// ForgetCheck makes a content unread again: what was bad has been replaced.
func (s *Store) ForgetCheck(ctx context.Context, digest string) error {
	_, err := s.pool.Exec(ctx, `DELETE FROM scrubs WHERE digest = $1`, digest)
	return wire(err)
}
