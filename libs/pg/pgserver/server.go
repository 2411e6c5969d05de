// Package pgserver runs a private Postgres cluster: it finds the binaries, makes the
// cluster, drops root by itself, listens on a unix socket only and leaves no
// process behind. It is what `trainyard up` and the tests store in; a fleet points
// its services at a managed server instead.
package pgserver

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"go.uber.org/zap"

	"github.com/ultrathink-pilot/trainyard/libs/childproc"
)

// Options of a cluster.
type Options struct {
	// Dir holds the cluster; it is made when missing. It has to be absolute.
	Dir string
	// Durable keeps every commit through a power loss. Without it the cluster is for
	// tests: faster, and worthless after a crash.
	Durable bool
	// Binaries from Find; zero means that Start calls Find.
	Binaries Binaries
	// Log may be nil.
	Log *zap.Logger
	// Detached lets the server outlive this process; the caller then owns its end. Only
	// pgtest, whose server is shared by several processes, wants that.
	Detached bool
}

// Server is a running cluster.
type Server struct {
	proc   *childproc.Process
	socket string
	// outside is the socket's directory when it is not in the cluster's.
	outside string
	log     *os.File
}

const (
	superuser = "postgres"
	// The port only names the socket file.
	port = 5432
	// nobody is the user the server runs as when we are root: initdb and postgres
	// refuse uid 0.
	nobody = 65534

	startTimeout = 60 * time.Second
	stopTimeout  = 20 * time.Second
	// otherServerWait is how long a predecessor that lost its parent gets to end.
	otherServerWait = 10 * time.Second
)

var durableSettings = []string{"fsync=on", "synchronous_commit=on", "full_page_writes=on", "max_connections=200", "shared_buffers=128MB"}

// mmap keeps dynamic shared memory inside the cluster's directory: a killed server leaves
// nothing in /dev/shm.
var testSettings = []string{
	"fsync=off", "synchronous_commit=off", "full_page_writes=off", "wal_level=minimal", "max_wal_senders=0",
	"max_connections=500", "shared_buffers=64MB", "autovacuum=off", "dynamic_shared_memory_type=mmap", "max_wal_size=4GB",
}

// Start makes the cluster when Dir has none and starts it; it returns when the server
// answers. Two processes cannot use one Dir: the second is told who the first is.
func Start(ctx context.Context, opts Options) (*Server, error) {
	if opts.Log == nil {
		opts.Log = zap.NewNop()
	}
	if !filepath.IsAbs(opts.Dir) {
		return nil, fmt.Errorf("the Postgres directory %q must be an absolute path", opts.Dir)
	}
	if opts.Binaries.Dir == "" {
		bin, err := Find(ctx, opts.Log)
		if err != nil {
			return nil, err
		}
		opts.Binaries = bin
	}
	l, err := newLayout(opts.Dir)
	if err != nil {
		return nil, err
	}
	defer l.close()
	if err := l.initialize(ctx, opts); err != nil {
		return nil, err
	}
	if err := l.waitForPredecessor(ctx); err != nil {
		return nil, err
	}
	for deadline := time.Now().Add(otherServerWait); ; {
		s, err := l.launch(ctx, opts)
		if err == nil || !errors.Is(err, errInUse) || time.Now().After(deadline) {
			return s, err
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(ctx.Err(), err)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// errInUse: the server itself was killed, but one of its workers is still busy and will
// notice only when its query ends.
var errInUse = errors.New("a worker of the previous server is still running")

// initialize runs initdb beside the final place and renames: an interrupted initdb leaves
// nothing that looks like a cluster.
func (l *layout) initialize(ctx context.Context, opts Options) error {
	raw, err := os.ReadFile(filepath.Join(l.dir, "data", "PG_VERSION"))
	if err == nil {
		have := strings.TrimSpace(string(raw))
		if have != strconv.Itoa(opts.Binaries.Major) {
			return fmt.Errorf("the cluster in %s was made by PostgreSQL %s, the binaries in %s are %d; point %s at the bin directory of PostgreSQL %s, or move the cluster away to begin with an empty one",
				l.dir, have, opts.Binaries.Dir, opts.Binaries.Major, EnvBin, have)
		}
		return nil
	}
	if !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("read the cluster: %w", err)
	}
	fresh := filepath.Join(l.dir, "data.new")
	if err := os.RemoveAll(fresh); err != nil {
		return fmt.Errorf("remove a half-made cluster: %w", err)
	}
	if err := l.makeOwned(fresh); err != nil {
		return err
	}
	args := []string{"-D", l.path("data.new"), "-U", superuser, "-A", "trust", "-E", "UTF8", "--locale=C"}
	if !opts.Durable {
		args = append(args, "-N")
	}
	opts.Log.Info("making a Postgres cluster", zap.String("dir", l.dir), zap.Int("version", opts.Binaries.Major))
	cmd := l.command(opts.Binaries, "initdb", args...)
	p, err := childproc.Start(cmd, childproc.Options{OnParentDeath: syscall.SIGKILL})
	if err != nil {
		return err
	}
	select {
	case <-p.Done():
	case <-ctx.Done():
		return errors.Join(ctx.Err(), p.Signal(os.Kill))
	}
	if err := p.Err(); err != nil {
		return fmt.Errorf("initdb in %s: %w", l.dir, err)
	}
	return os.Rename(fresh, filepath.Join(l.dir, "data"))
}

// waitForPredecessor gives a server that lost its parent time to end.
func (l *layout) waitForPredecessor(ctx context.Context) error {
	for deadline := time.Now().Add(otherServerWait); ; {
		pid := l.runningPID()
		if pid == 0 {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("another Postgres (process %d) is using %s; stop the mesh that started it, or choose another state directory", pid, l.dir)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// runningPID returns the process that postmaster.pid names when it really is a server on
// this directory. The number alone proves nothing: it may have been reused.
func (l *layout) runningPID() int {
	raw, err := os.ReadFile(filepath.Join(l.dir, "data", "postmaster.pid"))
	if err != nil {
		return 0
	}
	line, _, _ := strings.Cut(string(raw), "\n")
	pid, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil {
		return 0
	}
	cwd, err := os.Stat(fmt.Sprintf("/proc/%d/cwd", pid))
	if err != nil {
		return 0
	}
	data, err := os.Stat(filepath.Join(l.dir, "data"))
	if err != nil || !os.SameFile(cwd, data) {
		return 0
	}
	return pid
}

func (l *layout) launch(ctx context.Context, opts Options) (*Server, error) {
	socket, err := l.socketDir()
	if err != nil {
		return nil, err
	}
	logFile, err := os.OpenFile(filepath.Join(l.dir, "postgres.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the Postgres log: %w", err)
	}
	args := []string{"-D", l.path("data"), "-k", l.socketArg(socket), "-h", "", "-p", strconv.Itoa(port)}
	settings := testSettings
	if opts.Durable {
		settings = durableSettings
	}
	for _, s := range append([]string{"unix_socket_permissions=0700", "log_min_messages=warning", "timezone=UTC", "log_timezone=UTC"}, settings...) {
		args = append(args, "-c", s)
	}
	cmd := l.command(opts.Binaries, "postgres", args...)
	po := childproc.Options{OnParentDeath: syscall.SIGQUIT, Output: logFile}
	if opts.Detached {
		po.OnParentDeath = 0
		cmd.Stdout, cmd.Stderr = logFile, logFile // no pipe that breaks with this process
	}
	proc, err := childproc.Start(cmd, po)
	if err != nil {
		return nil, errors.Join(err, logFile.Close())
	}
	s := &Server{proc: proc, socket: socket, log: logFile}
	if !l.holds(socket) {
		s.outside = socket
	}
	if err := s.waitReady(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("start Postgres in %s: %w", l.dir, err), s.Stop())
	}
	return s, nil
}

func (s *Server) waitReady(ctx context.Context) error {
	timeout := time.NewTimer(startTimeout)
	defer timeout.Stop()
	for {
		cctx, cancel := context.WithTimeout(ctx, time.Second)
		conn, err := pgx.Connect(cctx, s.DSN("postgres"))
		if err == nil {
			err = conn.Close(cctx)
		}
		cancel()
		if err == nil {
			return nil
		}
		var pe *pgconn.PgError
		if errors.As(err, &pe) {
			// It answers, but is still recovering from a crash, which takes what it takes.
			timeout.Reset(startTimeout)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-s.proc.Done():
			if strings.Contains(s.proc.Tail(), "still in use") {
				return fmt.Errorf("%w: %w", errInUse, s.proc.Err())
			}
			return fmt.Errorf("the server ended: %w", s.proc.Err())
		case <-timeout.C:
			return fmt.Errorf("no answer within %s; its log is postgres.log: %w", startTimeout, err)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// DSN is the connection string of a database of this cluster, for its superuser.
func (s *Server) DSN(database string) string {
	q := url.Values{"host": {s.socket}, "port": {strconv.Itoa(port)}, "user": {superuser}, "sslmode": {"disable"}}
	return "postgres:///" + url.PathEscape(database) + "?" + q.Encode()
}

// PID is the process id of the server.
func (s *Server) PID() int { return s.proc.PID() }

// EnsureDatabase creates a database when it is missing.
func (s *Server) EnsureDatabase(ctx context.Context, name string) (err error) {
	conn, err := pgx.Connect(ctx, s.DSN("postgres"))
	if err != nil {
		return fmt.Errorf("create database %s: %w", name, err)
	}
	defer func() { err = errors.Join(err, conn.Close(context.WithoutCancel(ctx))) }()
	_, err = conn.Exec(ctx, "CREATE DATABASE "+pgx.Identifier{name}.Sanitize())
	var pe *pgconn.PgError
	if errors.As(err, &pe) && pe.Code == "42P04" { // duplicate_database
		return nil
	}
	return err
}

// Done closes when the server has ended, by Stop or by itself.
func (s *Server) Done() <-chan struct{} { return s.proc.Done() }

// Run blocks until ctx ends, then stops the server; it returns an error when the server
// ends by itself. It fits lifecycle.Group.Add.
func (s *Server) Run(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return s.Stop()
	case <-s.proc.Done():
		return fmt.Errorf("the Postgres server ended by itself; its log is postgres.log in its directory: %w", errors.Join(s.proc.Err(), s.log.Close()))
	}
}

// Stop ends the server: a fast shutdown, that is, open transactions are rolled back and
// everything committed is on disk.
func (s *Server) Stop() error {
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	err := s.proc.Stop(ctx, syscall.SIGINT)
	if s.outside != "" {
		_ = os.Remove(s.outside) // only when empty, which a clean stop leaves it
	}
	if cerr := s.log.Close(); cerr != nil && !errors.Is(cerr, os.ErrClosed) {
		err = errors.Join(err, cerr)
	}
	return err
}

// command prepares a Postgres program: as nobody when we are root, in a directory that
// user may enter, without our environment (PGDATA, PGPORT and locale would steer it).
func (l *layout) command(bin Binaries, program string, args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(bin.Dir, program), args...)
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C", "TZ=UTC"}
	if v := os.Getenv("LD_LIBRARY_PATH"); v != "" {
		cmd.Env = append(cmd.Env, "LD_LIBRARY_PATH="+v)
	}
	if l.handle != nil {
		cmd.ExtraFiles = []*os.File{l.handle}
	}
	if l.asNobody {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	}
	return cmd
}
