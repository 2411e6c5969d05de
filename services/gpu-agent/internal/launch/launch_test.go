package launch_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/cgroup"
	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/launch"
	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/procfs"
)

// TestMain lets the test's own program be the trainer and the agent that is killed;
// the supervisor it is before.
func TestMain(m *testing.M) {
	if len(os.Args) > 2 && os.Args[1] == "trainer" {
		trainer(os.Args[2:])
	}
	if len(os.Args) > 2 && os.Args[1] == "agent" {
		agent(os.Args[2:])
	}
	os.Exit(m.Run())
}

func trainer(args []string) {
	switch args[0] {
	case "show": // what it was given
		token, err := io.ReadAll(os.NewFile(launch.TokenFD, "token"))
		fmt.Printf("token %s %v\nenv %s\n", token, err, strings.Join(os.Environ(), " "))
		for fd := 3; fd < 32; fd++ {
			if _, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil && fd > launch.TokenFD {
				target, _ := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
				fmt.Printf("fd %d %s\n", fd, target)
			}
		}
		fmt.Fprintln(os.Stderr, "a last word")
		os.Exit(7)
	case "tree": // leaves a grandchild in another session, ignores SIGTERM
		signal.Ignore(syscall.SIGTERM)
		cmd := exec.Command(os.Args[0], "trainer", "sleep")
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		if err := cmd.Start(); err != nil {
			panic(err)
		}
		fmt.Println("grandchild", cmd.Process.Pid)
		time.Sleep(time.Hour)
	case "leave": // ends at once, its child goes on
		if err := exec.Command(os.Args[0], "trainer", "sleep").Start(); err != nil {
			panic(err)
		}
		os.Exit(0)
	case "grow":
		for held := [][]byte{}; ; {
			page := make([]byte, 1<<20)
			for i := 0; i < len(page); i += 4096 {
				page[i] = 1
			}
			held = append(held, page)
		}
	case "sleep":
		time.Sleep(time.Hour)
	case "until": // exits with a code when a file appears
		for {
			if _, err := os.Stat(args[1]); err == nil {
				code, _ := strconv.Atoi(args[2])
				os.Exit(code)
			}
			time.Sleep(5 * time.Millisecond)
		}
	case "print":
		for i := range 20000 {
			fmt.Printf("line %06d\n", i)
		}
		os.Exit(0)
	}
}

// agent starts a trainer in each directory and then waits to be killed.
func agent(args []string) {
	l := launch.Launcher{Program: os.Args[0]}
	for _, dir := range args[1:] {
		if _, err := l.Start(context.Background(), dir, launch.Spec{
			Argv: []string{os.Args[0], "trainer", "until", args[0], "5"}, LogBytes: 1 << 20,
		}, []byte("t")); err != nil {
			fmt.Println("failed", err)
			os.Exit(1)
		}
	}
	fmt.Println("started")
	time.Sleep(time.Hour)
}

type bench struct {
	launch.Launcher
	dir string
}

func newBench(t *testing.T) *bench {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "attempt")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	return &bench{Launcher: launch.Launcher{Program: self}, dir: dir}
}

func (b *bench) start(t *testing.T, spec launch.Spec, args ...string) *launch.Process {
	t.Helper()
	spec.Argv = append([]string{b.Program, "trainer"}, args...)
	if spec.LogBytes == 0 {
		spec.LogBytes = 1 << 20
	}
	p, err := b.Start(t.Context(), b.dir, spec, []byte("secret"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Kill(); err != nil {
			t.Error(err)
		}
		<-p.Done()
	})
	return p
}

func await(t *testing.T, p *launch.Process) launch.Exit {
	t.Helper()
	select {
	case <-p.Done():
		return p.Exit()
	case <-time.After(60 * time.Second):
		t.Fatal("the process did not end")
		return launch.Exit{}
	}
}

func (b *bench) log(t *testing.T) string {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(b.dir, launch.LogFile))
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

// A trainer sees its token, its environment and nothing else; its end is recorded.
func TestCleanEnvironmentAndExit(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	exit := await(t, b.start(t, launch.Spec{Env: []string{"A=1"}}, "show"))
	if !exit.Known || exit.ExitCode != 7 || exit.Signal != "" || !strings.Contains(exit.StderrTail, "a last word") {
		t.Fatalf("exit %+v", exit)
	}
	log := b.log(t)
	if !strings.Contains(log, "token secret <nil>") || !strings.Contains(log, "\nenv A=1\n") || strings.Contains(log, "lock") {
		t.Fatalf("the trainer saw:\n%s", log)
	}
}

// Killing ends the whole tree, a grandchild in its own session included.
func TestKillLeavesNothing(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	p := b.start(t, launch.Spec{}, "tree")
	grandchild := 0
	for deadline := time.Now().Add(10 * time.Second); grandchild == 0 && time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if _, err := fmt.Sscanf(b.log(t), "grandchild %d", &grandchild); err != nil {
			continue
		}
	}
	id, err := procfs.Identify(grandchild)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Terminate(); err != nil { // ignored by the trainer
		t.Fatal(err)
	}
	if err := p.Kill(); err != nil {
		t.Fatal(err)
	}
	if exit := await(t, p); exit.Signal != "SIGKILL" {
		t.Fatalf("exit %+v", exit)
	}
	if id.Alive() {
		t.Fatal("the grandchild lives")
	}
}

// A trainer that ends by itself takes its children along.
func TestNoOrphanAfterExit(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	p := b.start(t, launch.Spec{}, "leave")
	if exit := await(t, p); !exit.Known || exit.ExitCode != 0 {
		t.Fatalf("exit %+v", exit)
	}
	below, err := procfs.Descendants(p.Supervisor())
	if err != nil || len(below[p.Supervisor()]) > 0 {
		t.Fatalf("left behind: %v %v", below, err)
	}
}

// The agent is killed; the next one adopts what runs, learns the exit code of
// what ended meanwhile, and nothing can be started twice.
func TestAdoptAfterAgentWasKilled(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	root := t.TempDir()
	first, second := filepath.Join(root, "1"), filepath.Join(root, "2")
	for _, dir := range []string{first, second} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	signalFile := filepath.Join(root, "go")
	cmd := exec.Command(b.Program, "agent", signalFile, first, second)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "started\n" {
		t.Fatalf("agent said %q, %v", line, err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // killed on purpose

	running, err := b.Adopt(t.Context(), first)
	if err != nil {
		t.Fatal(err)
	}
	select {
	case <-running.Done():
		t.Fatalf("the trainer died with its agent: %+v", running.Exit())
	default:
	}
	if _, err := b.Start(t.Context(), first, launch.Spec{Argv: []string{"/bin/true"}}, nil); err == nil {
		t.Fatal("an attempt was started twice")
	}
	if err := os.WriteFile(signalFile, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if exit := await(t, running); !exit.Known || exit.ExitCode != 5 {
		t.Fatalf("exit %+v", exit)
	}
	var late *launch.Process
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if late, err = b.Adopt(t.Context(), second); err != nil {
			t.Fatal(err)
		}
		select {
		case <-late.Done():
			if exit := late.Exit(); !exit.Known || exit.ExitCode != 5 {
				t.Fatalf("exit %+v", exit)
			}
			return
		default:
		}
	}
	t.Fatal("the second trainer did not end")
}

// A killed supervisor takes its trainer along, and the end is unknown, not a success.
func TestSupervisorKilled(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	p := b.start(t, launch.Spec{}, "sleep")
	trainer, err := procfs.Identify(p.Trainer())
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Kill(p.Supervisor(), unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if exit := await(t, p); exit.Known || !exit.Started {
		t.Fatalf("exit %+v", exit)
	}
	for deadline := time.Now().Add(5 * time.Second); trainer.Alive(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the trainer lives on")
		}
	}
}

// A stopped supervisor does not save its trainer from a kill.
func TestKillOfStoppedSupervisor(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	p := b.start(t, launch.Spec{}, "sleep")
	trainer, err := procfs.Identify(p.Trainer())
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Kill(p.Supervisor(), unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	if err := p.Kill(); err != nil {
		t.Fatal(err)
	}
	await(t, p)
	if trainer.Alive() {
		t.Fatal("the trainer lives on")
	}
}

// Without an agent a trainer ends after the orphan timeout.
func TestOrphanTimeout(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	path := filepath.Join(t.TempDir(), "agent.lock")
	lock, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	p := b.start(t, launch.Spec{AgentLock: path, OrphanTimeout: 300 * time.Millisecond}, "sleep")
	select {
	case <-p.Done():
		t.Fatal("ended while its agent lived")
	case <-time.After(time.Second):
	}
	if err := lock.Close(); err != nil {
		t.Fatal(err)
	}
	if exit := await(t, p); exit.Signal != "SIGTERM" || !exit.Orphaned {
		t.Fatalf("exit %+v", exit)
	}
}

// A trainer that counts the orphan timeout for itself and goes first is an
// orphan too; one that ends soon after its agent is not.
func TestOrphanEndsByItself(t *testing.T) {
	t.Parallel()
	for name, timeout := range map[string]time.Duration{"at its timeout": time.Second, "long before": time.Hour} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t)
			end := filepath.Join(t.TempDir(), "end")
			p := b.start(t, launch.Spec{AgentLock: filepath.Join(t.TempDir(), "none"), OrphanTimeout: timeout}, "until", end, "1")
			time.Sleep(900 * time.Millisecond)
			if err := os.WriteFile(end, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			if exit := await(t, p); exit.ExitCode != 1 || exit.Orphaned != (timeout == time.Second) {
				t.Fatalf("exit %+v", exit)
			}
		})
	}
}

// The kernel's kill at the trainer's own limit is in the record, and its group is gone.
func TestLimit(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	groups, err := cgroup.Detect("/proc", b.dir)
	if err != nil {
		t.Skipf("this host lets us make no control group: %v", err)
	}
	group, err := groups.Create("test", 48<<20)
	if err != nil {
		t.Fatal(err)
	}
	exit := await(t, b.start(t, launch.Spec{Group: group}, "grow"))
	if exit.Signal != "SIGKILL" || exit.LimitKills == 0 || exit.LimitBytes != 48<<20 || exit.Error != "" {
		t.Fatalf("exit %+v", exit)
	}
	if _, err := os.Stat(group.Dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the group stayed: %v", err)
	}
}

// Output is bounded to two files, the newest part kept.
func TestOutputIsBounded(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	await(t, b.start(t, launch.Spec{LogBytes: 64 << 10}, "print"))
	var total int64
	for _, name := range []string{launch.LogFile, launch.LogFile + ".1"} {
		info, err := os.Stat(filepath.Join(b.dir, name))
		if err != nil {
			t.Fatal(err)
		}
		total += info.Size()
	}
	if total > 2*(64<<10) || !strings.HasSuffix(b.log(t), "line 019999\n") {
		t.Fatalf("%d bytes kept", total)
	}
}

// A program that does not exist is an error that names it.
func TestMissingProgram(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	_, err := b.Start(t.Context(), b.dir, launch.Spec{Argv: []string{"/no/such/program"}, LogBytes: 1}, nil)
	if err == nil || !strings.Contains(err.Error(), "/no/such/program") || errors.Is(err, context.Canceled) {
		t.Fatalf("error %v", err)
	}
}
