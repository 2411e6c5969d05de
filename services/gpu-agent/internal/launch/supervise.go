package launch

import (
	"errors"
	"fmt"
	"math"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/disk"
	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/procfs"
)

// supervise runs the trainer of one attempt directory and is the whole program
// of its process: the agent executes itself with this entry point. It outlives
// the agent, so that there is always a parent who learns the exit status, writes
// it durably and leaves no process behind. Adopting bare trainers after a
// restart was the alternative; the exit code of one that ends meanwhile is then
// lost, because only a parent can wait for it.
//
// SIGTERM is passed on to the trainer's process group, SIGUSR1 kills it.
func supervise(dir string) error {
	// Pdeathsig and no_new_privs belong to the thread that forks.
	runtime.LockOSThread()
	// Whatever the agent was given by its own parent ends here too.
	if err := unix.CloseRange(tokenFD, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		for _, fd := range []int{tokenFD, readyFD, lockFD} { // a kernel before 5.11
			unix.CloseOnExec(fd)
		}
	}
	var spec Spec
	if err := readRecord(filepath.Join(dir, specFile), &spec); err != nil {
		return err
	}
	s := &supervisor{dir: dir, spec: spec, oomBefore: procfs.OOMKills()}
	exit := s.run()
	exit.Time = time.Now()
	return writeRecord(filepath.Join(dir, exitFile), exit, disk.WriteSealed)
}

type supervisor struct {
	dir       string
	spec      Spec
	oomBefore int

	mu     sync.Mutex
	group  int       // 0 when the trainer was reaped: its number may be in use again
	absent time.Time // since when no agent lives; zero while one does
}

func (s *supervisor) run() Exit {
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, unix.SIGTERM, unix.SIGUSR1)
	signal.Ignore(unix.SIGINT, unix.SIGHUP, unix.SIGQUIT, unix.SIGPIPE)
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return Exit{Error: "becoming a subreaper: " + err.Error()}
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return Exit{Error: "setting no_new_privs: " + err.Error()}
	}
	out, err := newOutput(filepath.Join(s.dir, LogFile), s.spec.LogBytes)
	if err != nil {
		return Exit{Error: err.Error()}
	}
	pid, copies, err := s.start(out)
	if err != nil {
		return Exit{Error: errors.Join(err, out.close(), s.disband(&Exit{})).Error()}
	}
	stop := make(chan struct{})
	go s.obey(signals, stop)
	go s.guard(stop)
	exit := s.wait(pid)
	exit.Orphaned = s.orphaned()
	close(stop)
	copies.Wait()
	exit.StderrTail = out.stderrTail()
	if err := errors.Join(s.disband(&exit), out.close()); err != nil {
		exit.Error = err.Error()
	}
	return exit
}

// disband notes what the kernel did at the group's limit and removes the group.
func (s *supervisor) disband(exit *Exit) error {
	g := s.spec.Group
	if g == nil {
		return nil
	}
	if exit.LimitKills = g.Kills(); exit.LimitKills > 0 {
		exit.LimitBytes = g.Limit()
	}
	// The last process of it was reaped a moment ago; the kernel may lag.
	var err error
	for range 50 {
		if err = g.Remove(); !errors.Is(err, unix.EBUSY) {
			return err
		}
		time.Sleep(10 * time.Millisecond)
	}
	return err
}

// start forks the trainer in its own session and says so.
func (s *supervisor) start(out *output) (int, *sync.WaitGroup, error) {
	null, err := os.Open(os.DevNull)
	if err != nil {
		return 0, nil, err
	}
	stdoutR, stdoutW, err := os.Pipe()
	if err != nil {
		return 0, nil, err
	}
	stderrR, stderrW, err := os.Pipe()
	if err != nil {
		return 0, nil, err
	}
	token := os.NewFile(tokenFD, "token")
	var process *os.Process
	fork := func(attr *syscall.SysProcAttr) error {
		attr.Setsid, attr.Pdeathsig = true, syscall.SIGKILL
		process, err = os.StartProcess(s.spec.Argv[0], s.spec.Argv, &os.ProcAttr{
			Dir: filepath.Join(s.dir, WorkDir), Env: s.spec.Env, Files: []*os.File{null, stdoutW, stderrW, token}, Sys: attr,
		})
		return err
	}
	if s.spec.Group != nil {
		err = s.spec.Group.Fork(fork)
	} else {
		err = fork(&syscall.SysProcAttr{})
	}
	err = errors.Join(err, null.Close(), stdoutW.Close(), stderrW.Close(), token.Close())
	if err != nil && process == nil {
		return 0, nil, err
	}
	s.mu.Lock()
	s.group = process.Pid
	s.mu.Unlock()
	var copies sync.WaitGroup
	copies.Go(func() { out.copyFrom(stdoutR, false) })
	copies.Go(func() { out.copyFrom(stderrR, true) })

	self, selfErr := procfs.Identify(os.Getpid())
	trainer, trainerErr := procfs.Identify(process.Pid)
	err = errors.Join(err, selfErr, trainerErr)
	if err == nil {
		err = writeRecord(filepath.Join(s.dir, startedFile), started{Supervisor: self, Trainer: trainer, Time: time.Now()}, disk.WriteVolatile)
	}
	if err != nil {
		s.signal(unix.SIGKILL)
		s.wait(process.Pid)
		return 0, nil, err
	}
	ready := os.NewFile(readyFD, "ready")
	if _, err := ready.WriteString("started\n"); err != nil && !errors.Is(err, unix.EPIPE) {
		return process.Pid, &copies, nil // the agent is gone; it will adopt us
	}
	if err := ready.Close(); err != nil {
		return process.Pid, &copies, nil
	}
	return process.Pid, &copies, nil
}

// signal reaches the trainer's process group, and only while the trainer is
// not reaped: until then its number cannot belong to anyone else.
func (s *supervisor) signal(sig unix.Signal) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.group > 0 {
		// ESRCH only means that the group is empty already.
		_ = unix.Kill(-s.group, sig)
	}
}

func (s *supervisor) obey(signals <-chan os.Signal, stop <-chan struct{}) {
	for {
		select {
		case <-stop:
			return
		case sig := <-signals:
			if sig == unix.SIGTERM {
				s.signal(unix.SIGTERM)
				s.signal(unix.SIGCONT)
				continue
			}
			s.signal(unix.SIGKILL)
		}
	}
}

// guard ends the trainer when no agent lived for the orphan timeout. The
// trainer's own timer is the polite way; this one holds for any program.
func (s *supervisor) guard(stop <-chan struct{}) {
	if s.spec.AgentLock == "" || s.spec.OrphanTimeout <= 0 {
		return
	}
	const grace = 10 * time.Second
	ticker := time.NewTicker(s.look())
	defer ticker.Stop()
	for {
		select {
		case <-stop:
			return
		case <-ticker.C:
		}
		lives := agentLives(s.spec.AgentLock)
		s.mu.Lock()
		switch {
		case lives:
			s.absent = time.Time{}
		case s.absent.IsZero():
			s.absent = time.Now()
		}
		since := s.absent
		s.mu.Unlock()
		switch {
		case since.IsZero():
		case time.Since(since) > s.spec.OrphanTimeout+grace:
			s.signal(unix.SIGKILL)
		case time.Since(since) > s.spec.OrphanTimeout:
			s.signal(unix.SIGTERM)
		}
	}
}

// look is the pause between two looks for the agent.
func (s *supervisor) look() time.Duration { return min(time.Second, s.spec.OrphanTimeout/4) }

// orphaned says whether no agent had lived for the orphan timeout. A trainer that
// counts for itself began up to two looks before this supervisor noticed.
func (s *supervisor) orphaned() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.absent.IsZero() && time.Since(s.absent) > s.spec.OrphanTimeout-2*s.look()
}

func agentLives(path string) bool {
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB)
	_ = f.Close() // read-only; closing drops the lock
	return errors.Is(err, unix.EWOULDBLOCK)
}

// wait reaps until the trainer is gone, then kills and reaps whatever it left
// behind: orphans of the tree come to this process, their subreaper.
func (s *supervisor) wait(pid int) Exit {
	var exit Exit
	for {
		var info unix.WaitStatus
		var usage unix.Rusage
		got, err := unix.Wait4(-1, &info, 0, &usage)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.ECHILD):
			return exit
		case err != nil:
			exit.Error = fmt.Sprintf("waiting: %v", err)
			return exit
		}
		if got == pid {
			s.mu.Lock()
			s.group = 0
			s.mu.Unlock()
			exit = Exit{Started: true, Known: true, ExitCode: info.ExitStatus(), PeakRSS: usage.Maxrss << 10}
			if info.Signaled() {
				exit.ExitCode, exit.Signal = -1, unix.SignalName(info.Signal())
				if info.Signal() == unix.SIGKILL {
					exit.OOMKills = procfs.OOMKills() - s.oomBefore
				}
			}
		}
		if exit.Started {
			killChildren()
		}
	}
}

func killChildren() {
	below, err := procfs.Descendants(os.Getpid())
	if err != nil {
		return
	}
	for _, pid := range below[os.Getpid()] {
		_ = unix.Kill(pid, unix.SIGKILL) // ESRCH: gone already
	}
}
