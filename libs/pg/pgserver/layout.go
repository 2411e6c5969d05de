package pgserver

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// layout is where a cluster's files are and how its processes reach them.
//
// As root the server runs as nobody, which cannot pass a parent directory like a
// 0700 /root, though that is just where root keeps a checkout. The processes then
// get the directory as an inherited descriptor and name it /proc/self/fd/3: that
// link needs no search permission on the parents. The alternatives were worse: to
// widen the permissions of a user's home, or to keep the data in another place than
// the one asked for.
type layout struct {
	dir      string
	asNobody bool
	handle   *os.File
}

// inherited is how the children name the handle, their first extra file.
const inherited = "/proc/self/fd/3"

// maxSocketPath is the longest path of a unix socket on Linux, less the terminator.
const maxSocketPath = 107

func newLayout(dir string) (*layout, error) {
	l := &layout{dir: filepath.Clean(dir), asNobody: os.Geteuid() == 0}
	if err := l.makeOwned(l.dir); err != nil {
		return nil, err
	}
	if !l.asNobody || l.searchable() == nil {
		return l, nil
	}
	fd, err := unix.Open(l.dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", l.dir, err)
	}
	l.handle = os.NewFile(uintptr(fd), l.dir)
	return l, nil
}

func (l *layout) close() {
	if l.handle != nil {
		_ = l.handle.Close() // opened for its path only: there is nothing to lose
	}
}

// makeOwned makes a private directory that belongs to the user the server runs as.
func (l *layout) makeOwned(dir string) error {
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return fmt.Errorf("make the Postgres directory: %w", err)
	}
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("make the Postgres directory: %w", err)
	}
	if !l.asNobody {
		return nil
	}
	if err := os.Chown(dir, nobody, nobody); err != nil {
		return fmt.Errorf("give %s to the user that runs Postgres: %w", dir, err)
	}
	return nil
}

// searchable says which parent keeps the server's user out.
func (l *layout) searchable() error {
	for dir := filepath.Dir(l.dir); ; dir = filepath.Dir(dir) {
		if err := mayEnter(dir); err != nil {
			return err
		}
		if dir == "/" {
			return nil
		}
	}
}

func mayEnter(dir string) error {
	info, err := os.Stat(dir)
	if err != nil {
		return err
	}
	mode := info.Mode().Perm()
	st, ok := info.Sys().(*syscall.Stat_t)
	switch {
	case ok && st.Uid == nobody && mode&0o100 != 0:
	case ok && st.Gid == nobody && mode&0o010 != 0:
	case mode&0o001 != 0:
	default:
		return fmt.Errorf("%s is closed to other users (mode %s)", dir, mode)
	}
	return nil
}

// path names a file of the cluster for the children.
func (l *layout) path(name string) string {
	if l.handle != nil {
		return inherited + "/" + name
	}
	return filepath.Join(l.dir, name)
}

// socketDir makes the directory of the socket: in the cluster's, or, when that path is too
// long for a socket, one in the temporary directory that is named after it.
func (l *layout) socketDir() (string, error) {
	dir := filepath.Join(l.dir, "run")
	if len(dir)+len("/.s.PGSQL.5432") > maxSocketPath {
		sum := sha256.Sum256([]byte(l.dir))
		dir = filepath.Join(os.TempDir(), "trainyard-pg-"+hex.EncodeToString(sum[:6]))
		if info, err := os.Lstat(dir); err == nil {
			// /tmp is everyone's: a directory of another user is not ours to use.
			st, ok := info.Sys().(*syscall.Stat_t)
			if !ok || !info.IsDir() || (int(st.Uid) != os.Geteuid() && (!l.asNobody || st.Uid != nobody)) {
				return "", fmt.Errorf("%s belongs to somebody else; remove it, or choose a state directory with a shorter path", dir)
			}
		}
	}
	return dir, l.makeOwned(dir)
}

// socketArg is the name of the socket directory for the server.
func (l *layout) socketArg(socket string) string {
	if l.holds(socket) {
		return l.path(strings.TrimPrefix(socket, l.dir+"/"))
	}
	return socket
}

func (l *layout) holds(path string) bool { return strings.HasPrefix(path, l.dir+"/") }
