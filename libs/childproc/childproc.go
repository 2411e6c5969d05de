// Package childproc runs a server as a child process that never outlives its parent:
// when the parent dies, however it dies, the kernel signals the child. The
// embedded Postgres and S3 servers are such children.
package childproc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Options of a child.
type Options struct {
	// OnParentDeath is what the kernel sends the child when this process dies; zero
	// sends nothing, and the child may outlive its parent.
	OnParentDeath syscall.Signal
	// Output gets what the child writes to stdout and stderr; nil drops it. The last
	// lines are kept for messages in any case.
	Output io.Writer
}

// Process is a started child.
type Process struct {
	cmd  *exec.Cmd
	tail *tail
	done chan struct{}
	err  error
}

// outputDelay bounds the wait for output that a grandchild still holds open.
const outputDelay = 2 * time.Second

// Start starts cmd. The child gets a process group of its own: Ctrl-C at a terminal goes
// to the whole foreground group, and a database that stops before its clients
// do makes every one of them fail on the way out.
func Start(cmd *exec.Cmd, opts Options) (*Process, error) {
	p := &Process{cmd: cmd, tail: &tail{next: opts.Output}, done: make(chan struct{})}
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setpgid = true
	cmd.SysProcAttr.Pdeathsig = opts.OnParentDeath
	if cmd.Stdout == nil && cmd.Stderr == nil {
		cmd.Stdout, cmd.Stderr = p.tail, p.tail
	}
	cmd.WaitDelay = outputDelay
	started := make(chan error, 1)
	go func() {
		// The death signal belongs to the thread that forked, not to the process: this
		// thread has to live as long as the child.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		if err := cmd.Start(); err != nil {
			started <- err
			return
		}
		started <- nil
		p.err = cmd.Wait()
		close(p.done)
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", cmd.Path, err)
	}
	return p, nil
}

// PID is the child's process id.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Done closes when the child has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Err says how the child ended, with its last lines of output. Call it after Done.
func (p *Process) Err() error {
	<-p.done
	if p.err == nil {
		return nil
	}
	if text := p.Tail(); text != "" {
		return fmt.Errorf("%w; it said: %s", p.err, text)
	}
	return p.err
}

// Tail is the end of the child's output.
func (p *Process) Tail() string { return p.tail.String() }

// Signal sends s; a child that has already ended is no error.
func (p *Process) Signal(s os.Signal) error {
	if err := p.cmd.Process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	return nil
}

// Stop sends polite and waits; when ctx ends first it kills the child, waits, and returns
// an error that says so. The child's own exit status is not an error here: it
// was asked to go.
func (p *Process) Stop(ctx context.Context, polite os.Signal) error {
	select {
	case <-p.done:
		return nil
	default:
	}
	if err := p.Signal(polite); err != nil {
		return err
	}
	select {
	case <-p.done:
		return nil
	case <-ctx.Done():
	}
	if err := p.Signal(os.Kill); err != nil {
		return err
	}
	<-p.done
	return fmt.Errorf("%s did not stop in time and was killed", p.cmd.Path)
}

// tailSize keeps a few lines: enough for the reason, short enough for a message.
const tailSize = 2 << 10

type tail struct {
	mu   sync.Mutex
	buf  []byte
	next io.Writer
}

func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, b...)
	if over := len(t.buf) - tailSize; over > 0 {
		t.buf = append(t.buf[:0], t.buf[over:]...)
	}
	if t.next != nil {
		// A full disk under the log must not stop the child with a broken pipe.
		_, _ = t.next.Write(b)
	}
	return len(b), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.TrimSpace(string(t.buf))
}
