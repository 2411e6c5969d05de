package launch

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/ultrathink-pilot/trainyard/libs/childproc"
)

// child is a running part of the mesh.
type child interface {
	PID() int
	// Done closes when it has ended.
	Done() <-chan struct{}
	// Err says why it ended; call it after Done.
	Err() error
	// Stop asks it to end and waits, at most as long as it takes.
	Stop(ctx context.Context) error
}

// stopGrace is what a service gets to drain before it is killed.
const stopGrace = 20 * time.Second

// maxLogBytes is when a log starts a new generation; one old one is kept.
const maxLogBytes = 32 << 20

// program describes a service process.
type program struct {
	name   string
	binary string
	args   []string
	env    []string
	log    string
}

// processChild is a service as a process.
type processChild struct {
	*childproc.Process
	name string
	log  *os.File
}

// start runs a program with its output in its log.
func (p program) start(context.Context) (child, error) {
	log, err := openLog(p.log)
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(p.binary, p.args...)
	cmd.Env = append(os.Environ(), p.env...)
	// SIGKILL, not SIGTERM: a launcher that was killed can no longer wait for a
	// drain, and every service survives a kill by design.
	process, err := childproc.Start(cmd, childproc.Options{OnParentDeath: syscall.SIGKILL, Output: log})
	if err != nil {
		return nil, errors.Join(err, log.Close())
	}
	return &processChild{Process: process, name: p.name, log: log}, nil
}

func (c *processChild) Err() error {
	err := c.Process.Err()
	if err == nil {
		return fmt.Errorf("it ended by itself; its log is %s", c.log.Name())
	}
	return fmt.Errorf("%w (log: %s)", err, c.log.Name())
}

func (c *processChild) Stop(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, stopGrace)
	defer cancel()
	err := c.Process.Stop(ctx, syscall.SIGTERM)
	if cerr := c.log.Close(); cerr != nil && !errors.Is(cerr, fs.ErrClosed) {
		err = errors.Join(err, cerr)
	}
	return err
}

func openLog(path string) (*os.File, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	if info, err := os.Stat(path); err == nil && info.Size() > maxLogBytes {
		if err := os.Rename(path, path+".1"); err != nil {
			return nil, err
		}
	}
	return os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
}

// server is what the libraries' embedded servers have in common.
type server interface {
	PID() int
	Done() <-chan struct{}
	Stop() error
}

// serverChild is an embedded Postgres or S3 server.
type serverChild struct {
	server
	name string
}

func (c serverChild) Err() error { return fmt.Errorf("%s ended by itself", c.name) }

func (c serverChild) Stop(context.Context) error { return c.server.Stop() }

// MissingError names every program that is not there.
type MissingError struct {
	Dir      string
	Programs []string
}

func (e *MissingError) Error() string {
	return fmt.Sprintf("%s has no %s: run `make build`, or name the directory of the programs with --bin", e.Dir, strings.Join(e.Programs, ", "))
}

// findPrograms returns the directory of the service programs: dir, or the one
// of this program, and an error that names all that are missing.
func findPrograms(dir string, names []string) (string, error) {
	if dir == "" {
		self, err := os.Executable()
		if err != nil {
			return "", err
		}
		if self, err = filepath.EvalSymlinks(self); err != nil {
			return "", err
		}
		dir = filepath.Dir(self)
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	missing := &MissingError{Dir: dir}
	for _, name := range names {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil || info.IsDir() || info.Mode().Perm()&0o111 == 0 {
			missing.Programs = append(missing.Programs, name)
		}
	}
	if len(missing.Programs) > 0 {
		return "", missing
	}
	return dir, nil
}
