// Package idempotency makes a mutation happen once however often it is sent. The
// first call writes a ledger row in the caller's own transaction, beside its effect;
// a repeat finds the row and gets the stored answer. Row and effect commit or
// vanish together: a ledger in another store could do one without the other.
package idempotency

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/ultrathink-pilot/trainyard/libs/identity"
	"github.com/ultrathink-pilot/trainyard/libs/rpcerr"
	errorv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/error/v1"
)

// Schema is the ledger table. A service's own migration creates it in the service's
// schema with exactly these columns; Run finds it by search_path.
const Schema = `CREATE TABLE request_ledger (
    request_id   text        PRIMARY KEY,
    method       text        NOT NULL,
    payload_hash bytea       NOT NULL CHECK (octet_length(payload_hash) = 32),
    response     bytea,
    create_time  timestamptz NOT NULL
);
CREATE INDEX request_ledger_create_time ON request_ledger (create_time);`

// Run calls fn once per requestID and stores its answer in tx. A repeat with the
// same method, payload and caller returns the stored answer and replayed = true
// without calling fn; one that differs in any of them is INVALID_ARGUMENT with
// REASON_REQUEST_ID_REUSED. Two at once: the second waits for the first's
// transaction. When fn fails the caller must roll tx back, and the id is free again.
//
// payload is the whole request. Its hash is of the deterministic encoding, which is
// stable for one version of the message: a repeat that straddles an upgrade that
// added a field may be refused, never wrongly replayed.
func Run[R proto.Message](ctx context.Context, tx pgx.Tx, requestID, method string, payload proto.Message, now time.Time, fn func() (R, error)) (response R, replayed bool, err error) {
	var none R
	if requestID == "" {
		return none, false, rpcerr.Invalid(rpcerr.Violation{Field: "request_id", Description: "is empty; send a new UUID with every new request and the same one when you retry"})
	}
	hash, err := payloadHash(ctx, method, payload)
	if err != nil {
		return none, false, err
	}
	tag, err := tx.Exec(ctx, `INSERT INTO request_ledger (request_id, method, payload_hash, create_time)
		VALUES ($1, $2, $3, $4) ON CONFLICT (request_id) DO NOTHING`, requestID, method, hash, now)
	if err != nil {
		return none, false, fmt.Errorf("write the request ledger: %w", err)
	}
	if tag.RowsAffected() == 0 {
		return replay[R](ctx, tx, requestID, method, hash)
	}
	response, err = fn()
	if err != nil {
		return none, false, err
	}
	raw, err := proto.Marshal(response)
	if err != nil {
		return none, false, fmt.Errorf("store the answer of %s: %w", method, err)
	}
	if raw == nil {
		raw = []byte{} // an empty message is an answer; NULL is none
	}
	if _, err := tx.Exec(ctx, `UPDATE request_ledger SET response = $2 WHERE request_id = $1`, requestID, raw); err != nil {
		return none, false, fmt.Errorf("store the answer of %s: %w", method, err)
	}
	return response, false, nil
}

func replay[R proto.Message](ctx context.Context, tx pgx.Tx, requestID, method string, hash []byte) (R, bool, error) {
	var none R
	var storedMethod string
	var storedHash, raw []byte
	err := tx.QueryRow(ctx, `SELECT method, payload_hash, response FROM request_ledger WHERE request_id = $1`, requestID).
		Scan(&storedMethod, &storedHash, &raw)
	if err != nil {
		return none, false, fmt.Errorf("read the request ledger: %w", err)
	}
	if storedMethod != method || subtle.ConstantTimeCompare(storedHash, hash) != 1 {
		return none, false, rpcerr.New(codes.InvalidArgument, errorv1.Reason_REASON_REQUEST_ID_REUSED,
			"request_id %q was used before with another request; use a new one for a new request", requestID)
	}
	if raw == nil {
		// The caller committed after fn had failed, or calls Run inside fn.
		return none, false, rpcerr.Internal(errors.New("request ledger row without an answer: " + requestID))
	}
	response := none.ProtoReflect().New().Interface().(R)
	if err := proto.Unmarshal(raw, response); err != nil {
		return none, false, fmt.Errorf("read the stored answer of %s: %w", method, err)
	}
	return response, true, nil
}

// payloadHash includes the caller: an id that leaked must not show one person another's
// answer.
func payloadHash(ctx context.Context, method string, payload proto.Message) ([]byte, error) {
	raw, err := proto.MarshalOptions{Deterministic: true}.Marshal(payload)
	if err != nil {
		return nil, fmt.Errorf("hash the request of %s: %w", method, err)
	}
	caller, _ := identity.FromContext(ctx)
	h := sha256.New()
	h.Write([]byte(caller.String()))
	h.Write([]byte{0})
	h.Write(raw)
	return h.Sum(nil), nil
}

// Purge removes rows made before the given time and returns how many. A row must
// outlive the longest time in which a client still retries; a day is plenty.
func Purge(ctx context.Context, tx pgx.Tx, before time.Time) (int64, error) {
	tag, err := tx.Exec(ctx, `DELETE FROM request_ledger WHERE create_time < $1`, before)
	if err != nil {
		return 0, fmt.Errorf("purge the request ledger: %w", err)
	}
	return tag.RowsAffected(), nil
}
