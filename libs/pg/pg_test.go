package pg_test

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/ultrathink-pilot/trainyard/libs/pg"
	"github.com/ultrathink-pilot/trainyard/libs/pg/pgtest"
)

//go:embed testdata/migrations/*.sql
var migrations embed.FS

func TestMain(m *testing.M) { pgtest.Main(m) }

func TestEveryTestHasItsOwnMigratedDatabase(t *testing.T) {
	t.Parallel()
	for i := range 4 {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			t.Parallel()
			pool := pgtest.New(t, "bank", migrations)
			if _, err := pool.Exec(t.Context(), "INSERT INTO account VALUES ('a', $1)", i); err != nil {
				t.Fatal(err)
			}
			var schema, zone string
			var n int
			if err := pool.QueryRow(t.Context(), "SELECT current_schema, current_setting('timezone'), (SELECT count(*) FROM bank.account)").Scan(&schema, &zone, &n); err != nil {
				t.Fatal(err)
			}
			if schema != "bank" || zone != "UTC" || n != 1 {
				t.Errorf("schema %q, zone %q, %d rows; want bank, UTC, 1", schema, zone, n)
			}
		})
	}
}

func TestMigrateTwiceAndAtOnce(t *testing.T) {
	t.Parallel()
	dsn := pgtest.DSN(t, "bank", migrations)
	var wg sync.WaitGroup
	errs := make([]error, 6)
	for i := range errs {
		schema := []string{"bank", "fresh"}[i%2]
		wg.Go(func() { errs[i] = pg.Migrate(t.Context(), dsn, schema, migrations) })
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	pool, err := pg.Open(t.Context(), pg.Config{DSN: dsn, Schema: "fresh"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	if _, err := pool.Exec(t.Context(), "INSERT INTO account VALUES ('x', 1)"); err != nil {
		t.Errorf("the second schema was not migrated: %v", err)
	}
}

func TestInTxRetriesUntilSerializable(t *testing.T) {
	t.Parallel()
	pool := pgtest.New(t, "bank", migrations)
	ctx := t.Context()
	if _, err := pool.Exec(ctx, "INSERT INTO account VALUES ('a', 0)"); err != nil {
		t.Fatal(err)
	}
	const writers = 4
	var wg sync.WaitGroup
	errs := make([]error, writers)
	for i := range writers {
		wg.Go(func() {
			errs[i] = pg.InTx(ctx, pool, func(tx pgx.Tx) error {
				var b int
				if err := tx.QueryRow(ctx, "SELECT balance FROM account WHERE name = 'a'").Scan(&b); err != nil {
					return err
				}
				_, err := tx.Exec(ctx, "UPDATE account SET balance = $1 WHERE name = 'a'", b+1)
				return err
			}, pgx.TxOptions{IsoLevel: pgx.Serializable})
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	var b int
	if err := pool.QueryRow(ctx, "SELECT balance FROM account").Scan(&b); err != nil || b != writers {
		t.Errorf("balance %d, %v; want %d: an update was lost", b, err, writers)
	}
}

func TestInTxRollsBackOnErrorPanicAndCancel(t *testing.T) {
	t.Parallel()
	pool := pgtest.New(t, "bank", migrations)
	insert := func(ctx context.Context, tx pgx.Tx) error {
		_, err := tx.Exec(ctx, "INSERT INTO account VALUES ('gone', 1)")
		return err
	}
	boom := errors.New("boom")
	err := pg.InTx(t.Context(), pool, func(tx pgx.Tx) error {
		return errors.Join(insert(t.Context(), tx), boom)
	})
	if !errors.Is(err, boom) {
		t.Errorf("got %v, want the function's own error", err)
	}
	func() {
		defer func() {
			if recover() == nil {
				t.Error("the panic was swallowed")
			}
		}()
		_ = pg.InTx(t.Context(), pool, func(tx pgx.Tx) error {
			if err := insert(t.Context(), tx); err != nil {
				t.Error(err)
			}
			panic("in fn")
		})
	}()
	ctx, cancel := context.WithCancel(t.Context())
	err = pg.InTx(ctx, pool, func(tx pgx.Tx) error {
		defer cancel()
		return insert(ctx, tx)
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want canceled", err)
	}
	var n int
	if err := pool.QueryRow(t.Context(), "SELECT count(*) FROM account").Scan(&n); err != nil || n != 0 {
		t.Errorf("%d rows, %v; want none", n, err)
	}
	if used := pool.Stat().AcquiredConns(); used != 0 {
		t.Errorf("%d connections were not given back", used)
	}
}

func TestViolationsAreRecognized(t *testing.T) {
	t.Parallel()
	pool := pgtest.New(t, "bank", migrations)
	if _, err := pool.Exec(t.Context(), "INSERT INTO account VALUES ('a', 1)"); err != nil {
		t.Fatal(err)
	}
	_, dup := pool.Exec(t.Context(), "INSERT INTO account VALUES ('a', 1)")
	_, neg := pool.Exec(t.Context(), "INSERT INTO account VALUES ('b', -1)")
	if !pg.IsUnique(dup, "account_pkey") || !pg.IsUnique(dup, "") || pg.IsUnique(dup, "other") || pg.IsUnique(neg, "") {
		t.Errorf("unique: %v / %v", dup, neg)
	}
	if !pg.IsCheck(neg, "account_not_overdrawn") || pg.IsCheck(dup, "") {
		t.Errorf("check: %v / %v", neg, dup)
	}
}

func TestIsUnavailable(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		err  error
		want bool
	}{
		"nil":            {nil, false},
		"canceled":       {fmt.Errorf("x: %w", context.Canceled), false},
		"shutdown":       {fmt.Errorf("x: %w", &pgconn.PgError{Code: "57P01"}), true},
		"starting":       {&pgconn.PgError{Code: "57P03"}, true},
		"connection":     {&pgconn.PgError{Code: "08006"}, true},
		"syntax":         {&pgconn.PgError{Code: "42601"}, false},
		"lost":           {fmt.Errorf("x: %w", io.ErrUnexpectedEOF), true},
		"refused":        {&net.OpError{Op: "dial", Err: errors.New("refused")}, true},
		"something else": {errors.New("no"), false},
	} {
		if got := pg.IsUnavailable(c.err); got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}

func TestOpenFailsClearly(t *testing.T) {
	t.Parallel()
	const secret = "hunter2"
	_, err := pg.Open(t.Context(), pg.Config{DSN: "postgres:///x?host=" + t.TempDir() + "&user=u&password=" + secret, Wait: 100 * time.Millisecond}, nil)
	if err == nil || !strings.Contains(err.Error(), "is the server running") {
		t.Errorf("got %v, want advice", err)
	}
	if err != nil && strings.Contains(err.Error(), secret) {
		t.Error("the password is in the message")
	}
	if _, err := pg.Open(t.Context(), pg.Config{DSN: "postgres://u:" + secret + "@[bad"}, nil); err == nil || strings.Contains(err.Error(), secret) {
		t.Errorf("bad DSN: %v", err)
	}
}
