// Package postgres is the registry's storage: hand-written SQL over pgx, one schema,
// every decision taken under row locks and asked of the pure catalog package.
//
// Lock order, everywhere: runs by run_id, models by name, checkpoints by id, blobs by
// digest. Methods take now as an argument and return *catalog.Error for every refusal;
// any other error is the database's.
package postgres

import (
	"context"
	"embed"
	"errors"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/ultrathink-pilot/trainyard/libs/pg"
)

// Migrations is the schema, embedded so that a binary can never run without it.
//
//go:embed migrations/*.sql
var Migrations embed.FS

// Schema is the one schema that the registry owns.
const Schema = "registry"

// ModelChannel is the NOTIFY channel that carries the name of a changed model.
const ModelChannel = "registry_models"

// Settings are the parameters that the registry's connections want. A search hashes the sets of its clauses, up to a
// million runs each; and it is short, so that more processes for it would only cost their start.
var Settings = map[string]string{"work_mem": "32MB", "max_parallel_workers_per_gather": "0"}

// Store is the registry's database.
type Store struct {
	pool   *pgxpool.Pool
	series seriesCache
	// mirrored makes every change leave outbox rows; see FollowTarget.
	mirrored bool
	tails    tails
	rolls    rolls
}

// New wraps a migrated pool.
func New(pool *pgxpool.Pool) *Store {
	return &Store{pool: pool}
}

// inTx runs fn in one transaction that is retried on serialization failures and deadlocks.
func (s *Store) inTx(ctx context.Context, fn func(tx pgx.Tx) error) error {
	return pg.InTx(ctx, s.pool, fn)
}

// IsDataFault reports whether the database refused a value rather than failed: retrying the
// same rows cannot help, retrying the others can.
func IsDataFault(err error) bool {
	var pe *pgconn.PgError
	return errors.As(err, &pe) && len(pe.Code) == 5 && (pe.Code[:2] == "22" || pe.Code[:2] == "23")
}

// restricted reports whether a trigger or a RESTRICT key of ours refused.
func restricted(err error) bool {
	var pe *pgconn.PgError
	return errors.As(err, &pe) && pe.Code == "23001"
}

// nullTime maps the zero time to SQL NULL.
func nullTime(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

// fromNull is nullTime's inverse; times leave this package in UTC.
func fromNull(t *time.Time) time.Time {
	if t == nil {
		return time.Time{}
	}
	return t.UTC()
}

// seriesCache maps (run, key) to the series id. Rows are never deleted or renumbered, so
// an entry is right for ever once its transaction committed; it is only bounded.
type seriesCache struct {
	mu  sync.Mutex
	ids map[seriesName]int64
}

type seriesName struct{ run, key string }

const seriesCacheLimit = 200_000

func (c *seriesCache) get(n seriesName) (int64, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	id, ok := c.ids[n]
	return id, ok
}

// put adds committed ids. A full cache starts over: cheaper than an LRU on the hot path,
// and refilled by one query per group.
func (c *seriesCache) put(fresh map[seriesName]int64) {
	if len(fresh) == 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ids == nil || len(c.ids)+len(fresh) > seriesCacheLimit {
		c.ids = make(map[seriesName]int64, len(fresh))
	}
	for n, id := range fresh {
		c.ids[n] = id
	}
}
