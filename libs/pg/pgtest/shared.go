package pgtest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/ultrathink-pilot/trainyard/libs/childproc"
	"github.com/ultrathink-pilot/trainyard/libs/pg/pgserver"
)

// shmEnough is the free space of /dev/shm from which on the cluster lives there.
const shmEnough = 512 << 20

// cleaner stops the server of $1 and removes its directory. The lock keeps it from
// meeting a start that is under way.
const cleaner = `
dir=$1
exec 9>>"$dir.lock"; flock 9 2>/dev/null
for signal in INT QUIT KILL; do
  pg=$(head -n 1 "$dir/data/postmaster.pid" 2>/dev/null) || break
  kill -$signal "$pg" 2>/dev/null || break
  n=0; while [ -e "$dir/data/postmaster.pid" ] && [ $n -lt 50 ]; do n=$((n+1)); sleep 0.1; done
done
rm -rf "$dir" "$dir.lock"
`

var own struct {
	server *pgserver.Server
}

// joinServer returns the connection string of the run's server, starting it when we are
// the first.
func joinServer(ctx context.Context) (string, error) {
	bin, err := pgserver.FindInstalled(ctx)
	if err != nil {
		return "", err
	}
	o, err := owner()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(baseDir(), fmt.Sprintf("trainyard-test-pg-%d-%s", os.Geteuid(), o))
	lock, err := os.OpenFile(dir+".lock", os.O_CREATE|os.O_RDWR|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return "", fmt.Errorf("lock the test server: %w", err)
	}
	defer func() { _ = lock.Close() }() // closing unlocks
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return "", fmt.Errorf("lock the test server: %w", err)
	}
	ready := filepath.Join(dir, "dsn")
	if raw, err := os.ReadFile(ready); err == nil {
		return string(raw), nil
	} else if !errors.Is(err, os.ErrNotExist) {
		return "", err
	}
	if err := childproc.AfterExit(o, cleaner, dir); err != nil {
		return "", err
	}
	s, err := pgserver.Start(ctx, pgserver.Options{Dir: dir, Binaries: bin, Detached: true})
	if err != nil {
		return "", err
	}
	if o.PID == os.Getpid() {
		own.server = s
	}
	dsn := s.DSN("postgres")
	return dsn, os.WriteFile(ready, []byte(dsn), 0o600)
}

// stopOwn saves the cleaner's half second when nobody shares the server.
func stopOwn() {
	if own.server != nil {
		_ = own.server.Stop() // the cleaner removes what is left
	}
}

// owner is the process whose end ends the server: the go command when it runs us, so that
// all test binaries of one run share a server (initdb costs more than most packages'
// tests); else this process.
func owner() (childproc.Owner, error) {
	pid := os.Getpid()
	if exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", os.Getppid())); err == nil && filepath.Base(exe) == "go" {
		pid = os.Getppid()
	}
	return childproc.OwnerOf(pid)
}

// baseDir must be enterable by the user that runs Postgres when we are root, which a
// test's own temporary directory is not.
func baseDir() string {
	if dir := os.Getenv(EnvDir); dir != "" {
		return dir
	}
	var st unix.Statfs_t
	if err := unix.Statfs("/dev/shm", &st); err == nil && st.Bavail*uint64(st.Bsize) > shmEnough {
		return "/dev/shm"
	}
	return os.TempDir()
}
