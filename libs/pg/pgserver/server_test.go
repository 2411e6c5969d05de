package pgserver_test

import (
	"bufio"
	"context"
	"errors"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/ultrathink-pilot/trainyard/libs/pg/pgserver"
	"github.com/ultrathink-pilot/trainyard/libs/pg/pgtest"
)

// parentEnv turns the test binary into a process that starts a server in the directory it
// names, prints the server's id and waits to be killed.
const parentEnv = "PGSERVER_TEST_PARENT"

func TestMain(m *testing.M) {
	if dir := os.Getenv(parentEnv); dir != "" {
		s, err := pgserver.Start(context.Background(), pgserver.Options{Dir: dir, Durable: true})
		if err != nil {
			panic(err)
		}
		_, _ = os.Stdout.WriteString(strconv.Itoa(s.PID()) + "\n")
		<-s.Done()
	}
	os.Exit(m.Run())
}

func TestTheServerDiesWithAKilledParentAndStartsAgain(t *testing.T) {
	t.Parallel()
	bin := binaries(t)
	dir := filepath.Join(t.TempDir(), "pg")
	parent := exec.Command(os.Args[0])
	parent.Env = append(os.Environ(), parentEnv+"="+dir, pgserver.EnvBin+"="+bin.Dir)
	parent.Stderr = os.Stderr
	out, err := parent.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil {
		t.Fatal(err)
	}
	if err := parent.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = parent.Wait() // killed: its status is the signal
	// At once, while the old server is still on its way out.
	s := start(t, dir, true)
	if got := query(t, s, "SELECT 'back'"); got != "back" {
		t.Errorf("got %q", got)
	}
	if s.PID() == pid || syscall.Kill(pid, 0) == nil && !zombie(pid) {
		t.Errorf("the old server %d still runs", pid)
	}
}

// zombie: it has ended, and nobody has asked for its status yet.
func zombie(pid int) bool {
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	_, after, _ := strings.Cut(string(stat), ") ")
	return err != nil || strings.HasPrefix(after, "Z")
}

func binaries(t *testing.T) pgserver.Binaries {
	t.Helper()
	bin, err := pgserver.FindInstalled(t.Context())
	var none *pgserver.NotFoundError
	if errors.As(err, &none) && os.Getenv(pgtest.EnvRequire) == "" {
		t.Skipf("SKIPPED, NOT TESTED: this test needs a real Postgres. %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	return bin
}

func start(t *testing.T, dir string, durable bool) *pgserver.Server {
	t.Helper()
	s, err := pgserver.Start(t.Context(), pgserver.Options{Dir: dir, Durable: durable, Binaries: binaries(t)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func query(t *testing.T, s *pgserver.Server, sql string) string {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), s.DSN("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	var out string
	err = conn.QueryRow(t.Context(), sql).Scan(&out)
	if err := errors.Join(err, conn.Close(t.Context())); err != nil {
		t.Fatal(err)
	}
	return out
}

// TestDurableClusterSurvivesAKill also runs where nobody but us may enter: t.TempDir is
// below a 0700 directory when the tests run as root.
func TestDurableClusterSurvivesAKill(t *testing.T) {
	t.Parallel()
	parent := filepath.Join(t.TempDir(), "closed")
	if err := os.Mkdir(parent, 0o700); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(parent, "pg")
	s := start(t, dir, true)
	settings := query(t, s, "SELECT concat_ws(' ', current_setting('fsync'), current_setting('synchronous_commit'), current_setting('full_page_writes'), current_setting('listen_addresses'))")
	if strings.TrimSpace(settings) != "on on on" {
		t.Errorf("settings %q: a durable cluster needs fsync, synchronous_commit and full_page_writes on, and no TCP", settings)
	}
	if err := s.EnsureDatabase(t.Context(), "trainyard"); err != nil {
		t.Fatal(err)
	}
	if err := s.EnsureDatabase(t.Context(), "trainyard"); err != nil {
		t.Errorf("a second time: %v", err)
	}
	query(t, s, "SELECT pg_catalog.set_config('a.b', 'c', false)")
	conn, err := pgx.Connect(t.Context(), s.DSN("trainyard"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Exec(t.Context(), "CREATE TABLE kept (n int); INSERT INTO kept VALUES (42)"); err != nil {
		t.Fatal(err)
	}
	// This worker does not notice the death of its server before its query ends.
	busy, err := pgx.Connect(t.Context(), s.DSN("trainyard"))
	if err != nil {
		t.Fatal(err)
	}
	lost := make(chan error, 1)
	go func() {
		_, err := busy.Exec(context.Background(), "SELECT count(*) FROM generate_series(1, 5000000) a")
		lost <- err
	}()
	for query(t, s, "SELECT count(*)::text FROM pg_stat_activity WHERE state = 'active' AND query LIKE '%generate_series(1, 5%' AND pid <> pg_backend_pid()") == "0" {
		time.Sleep(time.Millisecond)
	}
	if err := syscall.Kill(s.PID(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	_ = conn.Close(t.Context()) // the server is gone
	runErr := s.Run(t.Context())
	if runErr == nil || !strings.Contains(runErr.Error(), "ended by itself") {
		t.Errorf("Run after a kill: %v", runErr)
	}
	again := start(t, dir, true)
	conn, err = pgx.Connect(t.Context(), again.DSN("trainyard"))
	if err != nil {
		t.Fatal(err)
	}
	var n int
	err = conn.QueryRow(t.Context(), "SELECT n FROM kept").Scan(&n)
	if err := errors.Join(err, conn.Close(t.Context())); err != nil || n != 42 {
		t.Errorf("after recovery: %d, %v", n, err)
	}
	if <-lost == nil {
		t.Log("the busy worker had ended before the kill: nothing to wait for was left")
	}
	_ = busy.Close(t.Context()) // its server is gone
}

func TestTwoServersCannotShareADirectory(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "pg")
	first := start(t, dir, false)
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	if s, err := pgserver.Start(ctx, pgserver.Options{Dir: dir, Binaries: binaries(t)}); err == nil {
		_ = s.Stop()
		t.Error("a second server started")
	}
	if got := query(t, first, "SELECT 'alive'"); got != "alive" {
		t.Errorf("the first server says %q", got)
	}
}

func TestAClusterOfAnotherVersionIsNotTouched(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "pg")
	if err := os.MkdirAll(filepath.Join(dir, "data"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "data", "PG_VERSION"), []byte("9\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := pgserver.Start(t.Context(), pgserver.Options{Dir: dir, Binaries: binaries(t)})
	if err == nil || !strings.Contains(err.Error(), "was made by PostgreSQL 9") || !strings.Contains(err.Error(), pgserver.EnvBin) {
		t.Errorf("got %v", err)
	}
}

func TestAHalfMadeClusterIsMadeAgain(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "pg")
	if err := os.MkdirAll(filepath.Join(dir, "data.new", "base"), 0o700); err != nil {
		t.Fatal(err)
	}
	s := start(t, dir, false)
	if got := query(t, s, "SELECT current_setting('fsync')"); got != "off" {
		t.Errorf("fsync %s in a test cluster", got)
	}
}

func TestALongPathStillHasASocket(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), strings.Repeat("long/", 20), "pg")
	s := start(t, dir, false)
	if got := query(t, s, "SELECT 'reached'"); got != "reached" {
		t.Errorf("got %q", got)
	}
	if err := s.Stop(); err != nil {
		t.Error(err)
	}
	dsn, err := url.Parse(s.DSN("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(dsn.Query().Get("host")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket's directory is left behind: %v", err)
	}
}

func TestARelativeDirectoryIsRefused(t *testing.T) {
	t.Parallel()
	if _, err := pgserver.Start(t.Context(), pgserver.Options{Dir: "pg"}); err == nil || !strings.Contains(err.Error(), "absolute") {
		t.Errorf("got %v", err)
	}
}
