package pgtest

import (
	"bufio"
	"context"
	"embed"
	"errors"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

//go:embed testdata/migrations/*.sql
var migrations embed.FS

// childEnv turns the test binary into a run of its own that starts a server, prints where
// it is and waits to be killed.
const childEnv = "PGTEST_TEST_CHILD"

func TestMain(m *testing.M) {
	if os.Getenv(childEnv) != "" {
		dsn, err := joinServer(context.Background())
		if err != nil {
			panic(err)
		}
		_, _ = os.Stdout.WriteString(dsn + "\n")
		select {}
	}
	Main(m)
}

func TestDatabasesAreFreshAndGoAway(t *testing.T) {
	t.Parallel()
	var names []string
	for range 2 {
		t.Run("one", func(t *testing.T) {
			pool := New(t, "things", migrations)
			var n int
			var name string
			if err := pool.QueryRow(t.Context(), "SELECT (SELECT count(*) FROM thing), current_database()").Scan(&n, &name); err != nil {
				t.Fatal(err)
			}
			if n != 0 {
				t.Errorf("%d rows of another test", n)
			}
			if _, err := pool.Exec(t.Context(), "INSERT INTO thing VALUES (1)"); err != nil {
				t.Fatal(err)
			}
			names = append(names, name)
		})
	}
	if len(names) < 2 {
		t.Skip("the runs above were skipped")
	}
	conn, err := pgx.Connect(t.Context(), server.dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(t.Context()) }()
	var left int
	if err := conn.QueryRow(t.Context(), "SELECT count(*) FROM pg_database WHERE datname = ANY($1)", names).Scan(&left); err != nil || left != 0 {
		t.Errorf("%d databases are left, %v", left, err)
	}
}

func TestAKilledRunLeavesNothing(t *testing.T) {
	t.Parallel()
	DSN(t, "things", migrations) // skips without Postgres
	run := exec.Command(os.Args[0])
	run.Env = append(os.Environ(), childEnv+"=1", EnvServer+"=")
	out, err := run.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := run.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(strings.TrimSpace(line))
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Dir(u.Query().Get("host"))
	if _, err := os.Stat(filepath.Join(dir, "data", "postmaster.pid")); err != nil {
		t.Fatalf("no server in %s: %v", dir, err)
	}
	if err := run.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = run.Wait() // killed: its status is the signal
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		left, err := filepath.Glob(dir + "*")
		if err != nil {
			t.Fatal(err)
		}
		if len(left) == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("left behind: %v", left)
		}
	}
}

func TestWithDatabase(t *testing.T) {
	t.Parallel()
	for dsn, want := range map[string]string{
		"postgres:///postgres?host=%2Frun&port=5432": "postgres:///other?host=%2Frun&port=5432",
		"postgres://u:p@h:1/db?sslmode=disable":      "postgres://u:p@h:1/other?sslmode=disable",
		"host=h user=u dbname=db":                    "host=h user=u dbname=db dbname=other",
	} {
		got, err := withDatabase(dsn, "other")
		if err != nil || got != want {
			t.Errorf("%s: %s, %v; want %s", dsn, got, err, want)
		}
		if cfg, err := pgx.ParseConfig(got); err != nil || cfg.Database != "other" {
			t.Errorf("%s: the driver reads another database (%v)", got, err)
		}
	}
	if _, err := withDatabase("postgres://%zz", "x"); err == nil || errors.Is(err, context.Canceled) {
		t.Errorf("a bad connection string: %v", err)
	}
}
