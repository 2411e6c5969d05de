// Package pg opens, migrates and uses one schema of a Postgres server. It hides no
// SQL: services write theirs by hand in their postgres package. What lives here
// is what every one of them would get wrong in its own way: waiting for a server
// that is still starting, one schema per service, transactions that are functions
// and safe to retry, and the reading of driver errors.
package pg

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"go.uber.org/zap"
)

// Config says which schema of which server.
type Config struct {
	// DSN is a connection string, "postgres://..." or "host=... dbname=...".
	DSN string
	// Schema becomes the search_path of every connection.
	Schema string
	// MaxConns bounds the pool; zero means 8.
	MaxConns int32
	// Settings are the server's parameters that the connections set for themselves.
	Settings map[string]string
	// Wait is how long Open waits for a server that does not answer yet; zero means 30 s.
	Wait time.Duration
}

const (
	defaultMaxConns = 8
	defaultWait     = 30 * time.Second
)

// Open returns a pool whose connections work in cfg.Schema and in UTC. It waits
// with backoff for a server that is starting; a server that answers with a refusal
// (password, unknown database) fails at once, because waiting cannot cure it.
func Open(ctx context.Context, cfg Config, log *zap.Logger) (*pgxpool.Pool, error) {
	pc, err := pgxpool.ParseConfig(cfg.DSN)
	if err != nil {
		// The driver's text may hold the DSN and with it a password.
		return nil, errors.New("the Postgres connection string cannot be read; write it like postgres://user@host:5432/database")
	}
	if cfg.Schema != "" {
		pc.ConnConfig.RuntimeParams["search_path"] = pgx.Identifier{cfg.Schema}.Sanitize()
	}
	pc.ConnConfig.RuntimeParams["timezone"] = "UTC"
	pc.ConnConfig.RuntimeParams["application_name"] = "trainyard-" + cfg.Schema
	// A client that hangs inside a transaction must not hold its locks for ever.
	pc.ConnConfig.RuntimeParams["idle_in_transaction_session_timeout"] = "60000"
	maps.Copy(pc.ConnConfig.RuntimeParams, cfg.Settings)
	pc.MaxConns = cfg.MaxConns
	if pc.MaxConns == 0 {
		pc.MaxConns = defaultMaxConns
	}
	pool, err := pgxpool.NewWithConfig(ctx, pc)
	if err != nil {
		return nil, fmt.Errorf("open the Postgres pool: %w", err)
	}
	wait := cfg.Wait
	if wait == 0 {
		wait = defaultWait
	}
	if err := waitReady(ctx, wait, log, pool.Ping); err != nil {
		pool.Close()
		return nil, fmt.Errorf("postgres at %s:%d, database %q: %w", pc.ConnConfig.Host, pc.ConnConfig.Port, pc.ConnConfig.Database, err)
	}
	return pool, nil
}

func waitReady(ctx context.Context, wait time.Duration, log *zap.Logger, ping func(context.Context) error) error {
	deadline := time.Now().Add(wait)
	for attempt := 0; ; attempt++ {
		pctx, cancel := context.WithTimeout(ctx, 5*time.Second)
		err := ping(pctx)
		cancel()
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case !IsUnavailable(err):
			return err
		}
		pause := backoff(attempt)
		if time.Now().Add(pause).After(deadline) {
			return fmt.Errorf("no answer in %s; is the server running, and is the address right? %w", wait, err)
		}
		if log != nil && attempt > 2 {
			log.Warn("waiting for Postgres", zap.Int("attempt", attempt), zap.Duration("pause", pause), zap.Error(err))
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause):
		}
	}
}

// backoff grows from 25 ms to 2 s with jitter, so that services that lost the
// server together do not come back together.
func backoff(attempt int) time.Duration {
	base := 25 * time.Millisecond << min(attempt, 6)
	base = min(base, 2*time.Second)
	return base/2 + rand.N(base/2+1)
}

// maxTxAttempts bounds the retries of InTx. Ten conflicts in a row mean a hot row,
// which more attempts only make hotter.
const maxTxAttempts = 10

// Beginner starts transactions; *pgxpool.Pool and *pgx.Conn are Beginners.
type Beginner interface {
	BeginTx(ctx context.Context, opts pgx.TxOptions) (pgx.Tx, error)
}

// InTx runs fn in a transaction and commits it. After a serialization failure or a
// deadlock it runs fn again from the start, so fn must do nothing that a rollback
// does not undo, and must not keep results of an earlier run. Any error of fn rolls
// back and is returned as it is. opts holds at most one value; none means read
// committed.
func InTx(ctx context.Context, db Beginner, fn func(tx pgx.Tx) error, opts ...pgx.TxOptions) error {
	var o pgx.TxOptions
	if len(opts) > 0 {
		o = opts[0]
	}
	for attempt := 0; ; attempt++ {
		err := once(ctx, db, o, fn)
		if err == nil || !isRetryable(err) || attempt+1 == maxTxAttempts {
			return err
		}
		select {
		case <-ctx.Done():
			return errors.Join(ctx.Err(), err)
		case <-time.After(backoff(attempt)):
		}
	}
}

func once(ctx context.Context, db Beginner, o pgx.TxOptions, fn func(tx pgx.Tx) error) (err error) {
	tx, err := db.BeginTx(ctx, o)
	if err != nil {
		return fmt.Errorf("begin: %w", err)
	}
	defer func() {
		// After a commit this is a no-op; after a panic or an error it frees the locks.
		// It has its own context: the caller's may be what ended fn.
		rctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		if rerr := tx.Rollback(rctx); rerr != nil && !errors.Is(rerr, pgx.ErrTxClosed) && err == nil {
			err = fmt.Errorf("roll back: %w", rerr)
		}
	}()
	if err := fn(tx); err != nil {
		return err
	}
	if err := tx.Commit(ctx); err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	return nil
}
