package pgtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/ultrathink-pilot/trainyard/libs/pg/pgserver"
)

// owner is the process whose end ends the server: the go command when it runs us, so that
// all test binaries of one run share a server (initdb costs more than most
// packages' tests); else this process.
type owner struct {
	pid   int
	start string // the kernel's start time: a reused pid is another process
}

// shmEnough is the free space of /dev/shm from which on the cluster lives there.
const shmEnough = 512 << 20

// reaper waits for the owner to end, stops the server, then removes the directory. It is
// a process of its own because nothing in the owner or in us runs after a SIGKILL.
const reaper = `
dir=$1; pid=$2; start=$3
while [ "$(sed 's/.*) //' /proc/$pid/stat 2>/dev/null | cut -d' ' -f20)" = "$start" ]; do sleep 0.2; done
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
	o, err := findOwner()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(baseDir(), fmt.Sprintf("trainyard-test-pg-%d-%d-%s", os.Geteuid(), o.pid, o.start))
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
	if err := startReaper(dir, o); err != nil {
		return "", err
	}
	s, err := pgserver.Start(ctx, pgserver.Options{Dir: dir, Binaries: bin, Detached: true})
	if err != nil {
		return "", err
	}
	if o.pid == os.Getpid() {
		own.server = s
	}
	dsn := s.DSN("postgres")
	return dsn, os.WriteFile(ready, []byte(dsn), 0o600)
}

// stopOwn saves the reaper's half second when nobody shares the server.
func stopOwn() {
	if own.server != nil {
		_ = own.server.Stop() // the reaper removes what is left
	}
}

func findOwner() (owner, error) {
	pid := os.Getpid()
	if exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", os.Getppid())); err == nil && filepath.Base(exe) == "go" {
		pid = os.Getppid()
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return owner{}, fmt.Errorf("find the test run: %w", err)
	}
	// Fields are counted after the command, which may hold spaces; 22 is the start time.
	_, after, _ := bytes.Cut(stat, []byte(") "))
	fields := bytes.Fields(after)
	if len(fields) < 20 {
		return owner{}, errors.New("find the test run: /proc is not Linux's")
	}
	return owner{pid: pid, start: string(fields[19])}, nil
}

// baseDir must be enterable by the user that runs Postgres when we are root, which a
// test's own temporary directory is not.
func baseDir() string {
	var st unix.Statfs_t
	if err := unix.Statfs("/dev/shm", &st); err == nil && st.Bavail*uint64(st.Bsize) > shmEnough {
		return "/dev/shm"
	}
	return os.TempDir()
}

func startReaper(dir string, o owner) error {
	cmd := exec.Command("/bin/sh", "-c", reaper, "trainyard-test-reaper", dir, strconv.Itoa(o.pid), o.start)
	cmd.Dir = "/"
	// A session of its own: Ctrl-C on the run must not take the one that cleans up. No
	// stdio: an inherited pipe would keep `go test` waiting for it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start the reaper of the test server: %w", err)
	}
	go func() { _ = cmd.Wait() }() // it outlives us, or is reaped here
	return nil
}
