// Package postgres keeps the janitor's own record: plans, sweeps, holds, usage
// samples and the request ledger. Nothing in it can delete a checkpoint: what
// may go is decided by the registry, this is only the memory of what was asked.
package postgres

import (
	"context"
	"embed"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"google.golang.org/protobuf/proto"

	"github.com/ultrathink-pilot/trainyard/libs/idempotency"
	"github.com/ultrathink-pilot/trainyard/libs/pg"
	"github.com/ultrathink-pilot/trainyard/libs/rpcerr"
	"github.com/ultrathink-pilot/trainyard/services/checkpoint-janitor/internal/scrub"
)

// Schema is the janitor's schema.
const Schema = "janitor"

// Migrations make it.
//
//go:embed migrations/*.sql
var Migrations embed.FS

// Store is the janitor's schema.
type Store struct{ pool *pgxpool.Pool }

// New wraps a pool whose search_path is [Schema].
func New(pool *pgxpool.Pool) *Store { return &Store{pool: pool} }

// Tx is an open transaction with the writes that belong to a request.
type Tx struct{ tx pgx.Tx }

// Once runs fn in one transaction with the request's ledger row: a repeat gets
// the stored answer and changes nothing.
func Once[R proto.Message](ctx context.Context, s *Store, requestID, method string, payload proto.Message, now time.Time, fn func(Tx) (R, error)) (answer R, replayed bool, err error) {
	err = pg.InTx(ctx, s.pool, func(tx pgx.Tx) error {
		var ferr error
		answer, replayed, ferr = idempotency.Run(ctx, tx, requestID, method, payload, now, func() (R, error) { return fn(Tx{tx}) })
		return ferr
	})
	return answer, replayed, wire(err)
}

// wire hides the driver: what is away is UNAVAILABLE, the rest passes and
// becomes INTERNAL without its text.
func wire(err error) error {
	if err != nil && pg.IsUnavailable(err) {
		return rpcerr.Unavailable("the janitor's database is away; try again").WithCause(err)
	}
	return err
}

func (s *Store) inTx(ctx context.Context, fn func(tx pgx.Tx) error) error {
	return wire(pg.InTx(ctx, s.pool, fn))
}

// Prune forgets what nobody asks for any more: ledger rows after a week, the
// kept decisions and inventories of all but the newest plans, samples after two
// years. Decisions to let something go and sweeps stay.
func (s *Store) Prune(ctx context.Context, now time.Time) error {
	return s.inTx(ctx, func(tx pgx.Tx) error {
		if _, err := idempotency.Purge(ctx, tx, now.Add(-7*24*time.Hour)); err != nil {
			return err
		}
		const old = `SELECT plan_hash FROM plans ORDER BY create_time DESC, plan_hash OFFSET 50`
		for _, sql := range []string{
			`DELETE FROM decisions WHERE verdict = 'keep' AND plan_hash IN (` + old + `)`,
			`UPDATE plans SET inventory = '' WHERE inventory <> '' AND plan_hash IN (` + old + `)`,
			`DELETE FROM plans p WHERE plan_hash IN (` + old + `)
			    AND NOT EXISTS (SELECT FROM decisions d WHERE d.plan_hash = p.plan_hash)`,
		} {
			if _, err := tx.Exec(ctx, sql); err != nil {
				return err
			}
		}
		// A content that is still wanted is read within a month.
		if _, err := tx.Exec(ctx, `DELETE FROM scrubs WHERE check_time < $1`, now.Add(-3*scrub.Cycle)); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, `DELETE FROM usage_samples WHERE sample_time < $1`, now.AddDate(-2, 0, 0))
		return err
	})
}
