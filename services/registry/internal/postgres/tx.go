package postgres

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/proto"

	"github.com/ultrathink-pilot/trainyard/libs/idempotency"
)

// Tx is one transaction of the catalogue. Its methods compose; the driver's type stays
// inside this package.
type Tx struct {
	tx  pgx.Tx
	now time.Time
	// series is the store's cache; effects is what the commit adds to it, and more.
	series  *seriesCache
	effects *effects
	// mirrored is the store's.
	mirrored bool
}

// Do runs fn in one transaction. fn may run again after a deadlock, so it must keep no
// result of an earlier run.
func (s *Store) Do(ctx context.Context, now time.Time, fn func(*Tx) error) error {
	var out *effects
	err := s.inTx(ctx, func(tx pgx.Tx) error {
		out = newEffects()
		return fn(&Tx{tx: tx, now: now, series: &s.series, effects: out, mirrored: s.mirrored})
	})
	if err == nil {
		s.settle(out)
	}
	return err
}

// Once is Do for a mutation that carries a request id: fn's answer is kept with the
// request in the same transaction, and a resent request gets that answer without fn. A
// refused request leaves no row: sent again later, it is judged again. The messages are
// opaque here, they only pass through to the ledger.
func Once[R proto.Message](ctx context.Context, s *Store, requestID, method string, payload proto.Message, now time.Time, fn func(*Tx) (R, error)) (R, error) {
	var (
		response R
		out      *effects
	)
	err := s.inTx(ctx, func(tx pgx.Tx) error {
		out = newEffects()
		var err error
		response, _, err = idempotency.Run(ctx, tx, requestID, method, payload, now, func() (R, error) {
			return fn(&Tx{tx: tx, now: now, series: &s.series, effects: out, mirrored: s.mirrored})
		})
		return err
	})
	if err == nil {
		s.settle(out)
	}
	return response, err
}

// ForgetRequests drops ledger rows made before the given time.
func (s *Store) ForgetRequests(ctx context.Context, before time.Time) error {
	return s.inTx(ctx, func(tx pgx.Tx) error {
		_, err := idempotency.Purge(ctx, tx, before)
		return err
	})
}
