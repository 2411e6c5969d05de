// Package launch starts trainers, finds them again after a restart of the
// agent, and ends them with everything they started.
//
// Each trainer has a supervisor: this same binary, executed again (see
// SuperviseCommand). A lock on a file of the attempt's directory is held from before
// the supervisor is forked until its end, handed over as an open description:
// whoever finds it free knows for certain that nothing of the attempt runs.
package launch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/disk"
	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/procfs"
)

// Launcher starts supervisors.
type Launcher struct {
	// Program links this package: it is executed with SuperviseCommand and the
	// attempt's directory.
	Program string
}

// Process is a supervised trainer.
type Process struct {
	supervisor procfs.Identity
	trainer    procfs.Identity
	started    time.Time

	done chan struct{}
	exit Exit

	killOnce sync.Once
}

// Supervisor returns the pid at the root of the trainer's process tree.
func (p *Process) Supervisor() int { return p.supervisor.PID }

// Trainer returns the trainer's pid.
func (p *Process) Trainer() int { return p.trainer.PID }

// StartTime returns when the trainer was started.
func (p *Process) StartTime() time.Time { return p.started }

// Done is closed once the trainer and all it started are gone.
func (p *Process) Done() <-chan struct{} { return p.done }

// Exit returns how it ended; only after Done.
func (p *Process) Exit() Exit { return p.exit }

// Start runs spec in dir, which must exist and never have run anything. The
// token is readable by the trainer once, from descriptor TokenFD. It returns
// when the trainer process exists.
func (l *Launcher) Start(ctx context.Context, dir string, spec Spec, token []byte) (*Process, error) {
	if err := os.MkdirAll(filepath.Join(dir, WorkDir), 0o700); err != nil {
		return nil, err
	}
	if err := writeRecord(filepath.Join(dir, specFile), spec, disk.WriteVolatile); err != nil {
		return nil, err
	}
	lock, err := tryLock(dir)
	if err != nil {
		return nil, err
	}
	if lock == nil {
		return nil, fmt.Errorf("%s: something of this attempt still runs", filepath.Base(dir))
	}
	tokenR, tokenW, err := os.Pipe()
	if err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	readyR, readyW, err := os.Pipe()
	if err != nil {
		return nil, errors.Join(err, lock.Close(), tokenR.Close(), tokenW.Close())
	}
	cmd := exec.Command(l.Program, SuperviseCommand, dir)
	cmd.Env = []string{"PATH=/usr/local/bin:/usr/bin:/bin", "GOMAXPROCS=1", "GOGC=50"}
	for _, variable := range spec.Env {
		// So that whoever looks for what belongs to an agent finds this process too.
		if strings.HasPrefix(variable, "TRAINYARD_SOCKET=") {
			cmd.Env = append(cmd.Env, variable)
		}
	}
	cmd.Dir = dir
	cmd.ExtraFiles = []*os.File{tokenR, readyW, lock}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	startErr := cmd.Start()
	if startErr == nil {
		_, err = tokenW.Write(token) // far below a pipe's buffer: never blocks
	}
	err = errors.Join(startErr, err, tokenR.Close(), tokenW.Close(), readyW.Close(), lock.Close())
	if err != nil {
		return nil, errors.Join(err, readyR.Close())
	}
	p := &Process{done: make(chan struct{})}
	waited := make(chan struct{})
	go func() {
		// The status says nothing that the exit record does not say better.
		_ = cmd.Wait()
		close(waited)
	}()
	line, readErr := io.ReadAll(io.LimitReader(readyR, 16))
	err = readyR.Close()
	if readErr != nil || err != nil || string(line) != "started\n" {
		<-waited
		var exit Exit
		if err := readRecord(filepath.Join(dir, exitFile), &exit); err == nil && exit.Error != "" {
			return nil, errors.New(exit.Error)
		}
		return nil, errors.Join(errors.New("the supervisor ended before it had started the trainer"), readErr, err)
	}
	if err := p.load(dir); err != nil {
		return nil, err
	}
	go func() {
		<-waited
		p.finish(dir)
	}()
	return p, ctx.Err()
}

// load fills the identities from the started record.
func (p *Process) load(dir string) error {
	var s started
	if err := readRecord(filepath.Join(dir, startedFile), &s); err != nil {
		return err
	}
	p.supervisor, p.trainer, p.started = s.Supervisor, s.Trainer, s.Time
	return nil
}

// finish reads the exit record and ends whatever a killed supervisor left.
func (p *Process) finish(dir string) {
	p.exit = exitOf(dir)
	if !p.exit.Known && p.trainer.Alive() {
		_ = unix.Kill(-p.trainer.PID, unix.SIGKILL) // ESRCH: it was quicker
	}
	close(p.done)
}

func exitOf(dir string) Exit {
	var exit Exit
	err := readRecord(filepath.Join(dir, exitFile), &exit)
	if err == nil {
		return exit
	}
	var s started
	exit = Exit{Started: readRecord(filepath.Join(dir, startedFile), &s) == nil, ExitCode: -1, Time: time.Now()}
	if !errors.Is(err, fs.ErrNotExist) {
		exit.Error = err.Error()
	}
	return exit
}

// Adopt finds the trainer that an earlier agent started in dir. Its Done is
// closed already when nothing of the attempt runs any more.
func (l *Launcher) Adopt(ctx context.Context, dir string) (*Process, error) {
	p := &Process{done: make(chan struct{})}
	for {
		lock, err := tryLock(dir)
		if errors.Is(err, fs.ErrNotExist) {
			p.exit = Exit{ExitCode: -1, Time: time.Now()}
			close(p.done)
			return p, nil
		}
		if err != nil {
			return nil, err
		}
		if lock != nil {
			err := lock.Close()
			_ = p.load(dir) // absent when it never started
			p.finish(dir)
			return p, err
		}
		// The supervisor lives. It may be about to write its record.
		if err := p.load(dir); err == nil {
			break
		} else if !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(10 * time.Millisecond):
		}
	}
	go func() {
		p.watch()
		p.finish(dir)
	}()
	return p, nil
}

// watch returns when the supervisor is gone; it need not be our child.
func (p *Process) watch() {
	fd, err := unix.PidfdOpen(p.supervisor.PID, 0)
	if err == nil {
		defer func() { _ = unix.Close(fd) }()
	}
	for p.supervisor.Alive() {
		if err != nil { // no pidfd on this kernel: look again
			time.Sleep(50 * time.Millisecond)
			continue
		}
		// A timeout, because a zombie whose parent is slow is gone for us too.
		_, _ = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 1000)
	}
}

// Terminate sends SIGTERM to the trainer's process group.
func (p *Process) Terminate() error { return p.signal(unix.SIGTERM) }

// Kill ends the trainer's whole process tree, for certain: if the supervisor
// does not obey it is killed too, and its trainer dies with it.
func (p *Process) Kill() error {
	// The trainer itself needs no detour over its supervisor, which may wait for a
	// processor; that one ends the rest of the tree.
	_ = p.trainer.Signal(unix.SIGKILL)
	p.killOnce.Do(func() {
		go func() {
			select {
			case <-p.done:
				return
			case <-time.After(2 * time.Second):
			}
			if p.trainer.Alive() {
				_ = unix.Kill(-p.trainer.PID, unix.SIGKILL)
			}
			select {
			case <-p.done:
			case <-time.After(2 * time.Second):
				_ = p.signal(unix.SIGKILL)
			}
		}()
	})
	return p.signal(unix.SIGUSR1)
}

func (p *Process) signal(sig unix.Signal) error { return p.supervisor.Signal(sig) }

// tryLock returns the attempt's lock, nil when a supervisor holds it.
func tryLock(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, lockFile), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if err == nil {
		return f, nil
	}
	if closeErr := f.Close(); closeErr != nil || !errors.Is(err, unix.EWOULDBLOCK) {
		return nil, errors.Join(err, closeErr)
	}
	return nil, nil
}
