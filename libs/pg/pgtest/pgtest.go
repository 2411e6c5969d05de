// Package pgtest gives every test a fresh, migrated database of a real Postgres in
// about ten milliseconds: one server, one template per set of migrations, one clone
// per test.
//
// The server is the one that TRAINYARD_TEST_PG names (a connection string of a
// superuser), or a private one that all test binaries of one `go test` run share; it
// ends and its files vanish with that run, even when it is killed.
package pgtest

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/ultrathink-pilot/trainyard/libs/pg"
	"github.com/ultrathink-pilot/trainyard/libs/pg/pgserver"
)

const (
	// EnvServer is the connection string of a server to use instead of a private one.
	EnvServer = "TRAINYARD_TEST_PG"
	// EnvDir names the directory below which the server keeps its data. Measurements
	// of durable things set it to one on a real disk: the usual one is in memory.
	EnvDir = "TRAINYARD_TEST_PG_DIR"
	// EnvRequire names a variable that, when not empty, turns the skip without Postgres
	// (or S3) into a failure.
	EnvRequire = "TRAINYARD_TEST_REQUIRE"

	setupTimeout = 2 * time.Minute
)

// Main runs the tests of a package and exits. It is not needed: a package without it
// only leaves its server running for half a second longer.
func Main(m *testing.M) {
	code := m.Run()
	stopOwn()
	os.Exit(code)
}

// New returns a pool on a fresh database with the migrations applied to schema, closed and
// dropped after the test. Without Postgres the test is skipped, loudly.
func New(t testing.TB, schema string, migrations fs.FS) *pgxpool.Pool {
	t.Helper()
	dsn := DSN(t, schema, migrations)
	pool, err := pg.Open(t.Context(), pg.Config{DSN: dsn, Schema: schema, MaxConns: 4}, nil)
	if err != nil {
		t.Fatalf("pgtest: %v", err)
	}
	t.Cleanup(pool.Close)
	return pool
}

// DSN is New for code that opens its own pool.
func DSN(t testing.TB, schema string, migrations fs.FS) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), setupTimeout)
	defer cancel()
	admin := adminDSN(ctx, t)
	template, err := ensureTemplate(ctx, admin, schema, migrations)
	if err != nil {
		t.Fatalf("pgtest: %v", err)
	}
	name := "t_" + randomHex()
	if err := clone(ctx, admin, template, name); err != nil {
		t.Fatalf("pgtest: %v", err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), setupTimeout)
		defer cancel()
		err := runSQL(ctx, admin, "DROP DATABASE IF EXISTS "+name+" WITH (FORCE)")
		if err != nil {
			t.Errorf("pgtest: drop %s: %v", name, err)
		}
	})
	dsn, err := withDatabase(admin, name)
	if err != nil {
		t.Fatalf("pgtest: %v", err)
	}
	return dsn
}

var server struct {
	once sync.Once
	dsn  string
	err  error
}

func adminDSN(ctx context.Context, t testing.TB) string {
	t.Helper()
	server.once.Do(func() {
		if server.dsn = os.Getenv(EnvServer); server.dsn == "" {
			server.dsn, server.err = joinServer(ctx)
		}
	})
	var none *pgserver.NotFoundError
	switch {
	case server.err == nil:
		return server.dsn
	case errors.As(server.err, &none) && os.Getenv(EnvRequire) == "":
		t.Skipf("SKIPPED, NOT TESTED: this test needs a real Postgres. %v", server.err)
	default:
		t.Fatalf("pgtest: %v", server.err)
	}
	return ""
}

// ensureTemplate migrates a database once per set of migrations. The advisory lock makes
// the binaries of one run wait for each other; the rename at the end makes a
// template complete or absent.
func ensureTemplate(ctx context.Context, admin, schema string, migrations fs.FS) (name string, err error) {
	sum, err := digest(schema, migrations)
	if err != nil {
		return "", err
	}
	name = "tmpl_" + sum
	conn, err := pgx.Connect(ctx, admin)
	if err != nil {
		return "", fmt.Errorf("connect to the test server: %w", err)
	}
	// Closing the session also releases its lock.
	defer func() { err = errors.Join(err, conn.Close(context.WithoutCancel(ctx))) }()
	if _, err := conn.Exec(ctx, "SELECT pg_advisory_lock(hashtextextended($1, 0))", name); err != nil {
		return "", fmt.Errorf("lock the template: %w", err)
	}
	var ready bool
	if err := conn.QueryRow(ctx, "SELECT EXISTS (SELECT 1 FROM pg_database WHERE datname = $1)", name).Scan(&ready); err != nil {
		return "", fmt.Errorf("look for the template: %w", err)
	}
	if ready {
		return name, nil
	}
	building := name + "_new"
	for _, sql := range []string{"DROP DATABASE IF EXISTS " + building + " WITH (FORCE)", "CREATE DATABASE " + building} {
		if _, err := conn.Exec(ctx, sql); err != nil {
			return "", fmt.Errorf("make the template: %w", err)
		}
	}
	dsn, err := withDatabase(admin, building)
	if err != nil {
		return "", err
	}
	if err := pg.Migrate(ctx, dsn, schema, migrations); err != nil {
		return "", err
	}
	if _, err := conn.Exec(ctx, "ALTER DATABASE "+building+" RENAME TO "+name); err != nil {
		return "", fmt.Errorf("finish the template: %w", err)
	}
	return name, nil
}

// clone copies the template's files: a third of the time of the WAL-logged default.
func clone(ctx context.Context, admin, template, name string) error {
	if err := runSQL(ctx, admin, "CREATE DATABASE "+name+" TEMPLATE "+template+" STRATEGY file_copy"); err != nil {
		return fmt.Errorf("clone %s: %w", template, err)
	}
	return nil
}

func runSQL(ctx context.Context, dsn, sql string) (err error) {
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close(context.WithoutCancel(ctx))) }()
	_, err = conn.Exec(ctx, sql)
	return err
}

func digest(schema string, migrations fs.FS) (string, error) {
	h := sha256.New()
	h.Write([]byte(schema + "\x00"))
	err := fs.WalkDir(migrations, ".", func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		raw, err := fs.ReadFile(migrations, p)
		if err != nil {
			return err
		}
		sum := sha256.Sum256(raw)
		h.Write([]byte(p + "\x00"))
		h.Write(sum[:])
		return nil
	})
	if err != nil {
		return "", fmt.Errorf("read the migrations: %w", err)
	}
	return hex.EncodeToString(h.Sum(nil)[:10]), nil
}

// withDatabase points a connection string at another database of the same server.
func withDatabase(dsn, database string) (string, error) {
	if !strings.Contains(dsn, "://") {
		return dsn + " dbname=" + database, nil // the last keyword wins
	}
	u, err := url.Parse(dsn)
	if err != nil {
		return "", fmt.Errorf("%s is not a connection string: write it like postgres://user@host:5432/postgres", EnvServer)
	}
	u.Path = "/" + database
	return u.String(), nil
}

func randomHex() string {
	b := make([]byte, 8)
	_, _ = rand.Read(b) // crypto/rand.Read never fails
	return hex.EncodeToString(b)
}
