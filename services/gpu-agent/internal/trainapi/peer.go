package trainapi

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/ultrathink-pilot/trainyard/libs/identity"
)

// maxSocketPath is what fits into a unix socket's address.
const maxSocketPath = 107

// Listen makes the socket, mode 0600, in place of a dead one. Connections of
// other users are closed before a byte is read: the directory may be more open
// than the operator thinks.
func Listen(path string) (net.Listener, error) {
	if len(path) > maxSocketPath {
		return nil, fmt.Errorf("the socket's path %s has %d bytes, over the system's limit of %d: choose a shorter state-dir or set socket",
			path, len(path), maxSocketPath)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	// The socket must never exist with a wider mode, not even for a moment.
	umaskLock.Lock()
	old := syscall.Umask(0o177)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	syscall.Umask(old)
	umaskLock.Unlock()
	if err != nil {
		return nil, err
	}
	return &ownListener{l}, nil
}

// umaskLock: the mask belongs to the process, and tests start several servers.
var umaskLock sync.Mutex

type ownListener struct{ *net.UnixListener }

// Accept returns connections of this user and of root only.
func (l *ownListener) Accept() (net.Conn, error) {
	for {
		conn, err := l.AcceptUnix()
		if err != nil {
			return nil, err
		}
		if own(conn) {
			return conn, nil
		}
		_ = conn.Close() // a stranger is owed nothing
	}
}

func own(conn *net.UnixConn) bool {
	raw, err := conn.SyscallConn()
	if err != nil {
		return false
	}
	var cred *unix.Ucred
	var credErr error
	err = raw.Control(func(fd uintptr) { cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	return err == nil && credErr == nil && (cred.Uid == 0 || int(cred.Uid) == os.Getuid())
}

// Authenticate gives every caller the trainer's role: reaching the socket proves
// the user, and each method checks the lease token itself.
func Authenticate(context.Context) (identity.ID, error) {
	return identity.ID{Role: identity.RoleTrainer, Name: "socket"}, nil
}
