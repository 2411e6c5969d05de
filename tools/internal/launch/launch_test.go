package launch

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ultrathink-pilot/trainyard/tools/internal/mesh"
)

func TestTwoLaunchersOnOneStateRefuse(t *testing.T) {
	t.Parallel()
	state := t.TempDir()
	unlock, err := lockState(state)
	if err != nil {
		t.Fatal(err)
	}
	var busy *BusyError
	if _, err := lockState(state); !errors.As(err, &busy) || busy.PID != os.Getpid() {
		t.Fatalf("%v", err)
	}
	if err := unlock(); err != nil {
		t.Fatal(err)
	}
	again, err := lockState(state)
	if err != nil {
		t.Fatal(err)
	}
	if err := again(); err != nil {
		t.Fatal(err)
	}
}

func TestMissingProgramsAreAllNamed(t *testing.T) {
	t.Parallel()
	err := Run(t.Context(), Options{State: t.TempDir(), BinDir: t.TempDir()}, nil)
	var missing *MissingError
	if !errors.As(err, &missing) || len(missing.Programs) != 7 || !strings.Contains(err.Error(), "make build") {
		t.Fatal(err)
	}
}

func TestPortsAreKeptAndChangedWhenTaken(t *testing.T) {
	t.Parallel()
	state := t.TempDir()
	first := addresses(t, state, nil, "a", "b")
	if first["a"] == first["b"] {
		t.Fatalf("two listeners on %s", first["a"])
	}
	if again := addresses(t, state, nil, "a", "b"); again["a"] != first["a"] || again["b"] != first["b"] {
		t.Fatalf("%v, then %v", first, again)
	}
	listener, err := net.Listen("tcp", first["a"])
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	if moved := addresses(t, state, nil, "a", "b"); moved["a"] == first["a"] || moved["b"] != first["b"] {
		t.Fatalf("%v, then %v with a's port taken", first, moved)
	}
	port := listener.Addr().(*net.TCPAddr).Port
	p, err := openPorts(state, map[string]int{"a": port})
	if err != nil {
		t.Fatal(err)
	}
	var inUse *PortError
	if _, err := p.address("a"); !errors.As(err, &inUse) || !strings.Contains(err.Error(), "in use") {
		t.Fatal(err)
	}
	if err := p.unknownFixed([]string{"b"}); err == nil {
		t.Error("a port for an unknown listener was accepted")
	}
}

func addresses(t *testing.T, state string, fixed map[string]int, names ...string) map[string]string {
	t.Helper()
	p, err := openPorts(state, fixed)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for _, name := range names {
		if out[name], err = p.address(name); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.write(); err != nil {
		t.Fatal(err)
	}
	return out
}

func TestLeftoversAreEnded(t *testing.T) {
	t.Parallel()
	state := t.TempDir()
	r, err := openRecords(state)
	if err != nil {
		t.Fatal(err)
	}
	stubborn := exec.Command("sh", "-c", "sleep 1000 & trap '' TERM; wait; wait")
	trainer := exec.Command("sleep", "1000")
	trainer.Env = []string{"A=b", "TRAINYARD_SOCKET=" + state + "/agent/agent.sock"}
	// Any program that takes these arguments and stays: a shell whose script is "supervise".
	supervisor := exec.Command("sh", "supervise", state+"/agent/attempts/x")
	supervisor.Dir = t.TempDir()
	if err := os.WriteFile(filepath.Join(supervisor.Dir, "supervise"), []byte("trap '' TERM; while :; do sleep 0.05; done\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	bystander := exec.Command("sleep", "1000")
	bystander.Env = []string{"TRAINYARD_SOCKET=" + state + "-other/agent.sock"}
	for _, cmd := range []*exec.Cmd{stubborn, trainer, supervisor, bystander} {
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		exited := make(chan struct{})
		go func() { defer close(exited); _ = cmd.Wait() }() // reaps, or the dead would look alive
		t.Cleanup(func() { _ = cmd.Process.Kill(); <-exited })
	}
	if err := r.put("registry", stubborn.Process.Pid); err != nil {
		t.Fatal(err)
	}
	next, err := openRecords(state)
	if err != nil {
		t.Fatal(err)
	}
	// A process that now has a recorded pid is not the recorded one.
	other, err := mesh.ProcessOf(bystander.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	next.units["reused"] = mesh.Process{PID: other.PID, StartTicks: other.StartTicks + 1}
	var swept []string
	if err := next.sweep(func(e Event) { swept = append(swept, e.Unit) }); err != nil {
		t.Fatal(err)
	}
	if len(swept) != 1 || swept[0] != "registry" {
		t.Errorf("swept %v", swept)
	}
	// The environment of a process is there only after its exec.
	for i := 0; ; i++ {
		supervisors, rest := trainersOf(state)
		if len(supervisors) == 1 && len(rest) == 1 {
			break
		}
		if i == 500 {
			t.Fatalf("found supervisors %v and trainers %v", supervisors, rest)
		}
		time.Sleep(10 * time.Millisecond)
	}
	if err := endTrainers(state); err != nil {
		t.Fatal(err)
	}
	if supervisors, rest := trainersOf(state); len(supervisors)+len(rest) > 0 {
		t.Errorf("left %v and %v", supervisors, rest)
	}
	if !other.Alive() {
		t.Error("a bystander was ended")
	}
}

// recorder collects events.
type recorder struct {
	mu     sync.Mutex
	events []Event
	signal chan struct{}
}

func (r *recorder) event(e Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events = append(r.events, e)
	select {
	case r.signal <- struct{}{}:
	default:
	}
}

// wait returns the first event that fits.
func (r *recorder) wait(t *testing.T, unit string, kind Kind) Event {
	t.Helper()
	deadline := time.After(30 * time.Second)
	for {
		r.mu.Lock()
		for i, e := range r.events {
			if e.Unit == unit && e.Kind == kind {
				r.events = append(r.events[:i:i], r.events[i+1:]...)
				r.mu.Unlock()
				return e
			}
		}
		r.mu.Unlock()
		select {
		case <-r.signal:
		case <-deadline:
			t.Fatalf("no event %d of %s", kind, unit)
		}
	}
}

// script is a unit that runs a shell script, ready when it has made a file.
func script(dir, name, text string) *unit {
	p := program{name: name, binary: "/bin/sh", args: []string{"-c", text}, env: []string{"DIR=" + dir, "NAME=" + name}, log: filepath.Join(dir, name+".log")}
	return &unit{name: name, start: p.start, ready: func(context.Context) error {
		_, err := os.Stat(filepath.Join(dir, name+".ready"))
		return err
	}}
}

const server1 = `trap 'echo stopped $NAME >> $DIR/order; exit 0' TERM; touch $DIR/$NAME.ready; while :; do sleep 0.02; done`

func TestSupervisorRestartsAndStopsInReverseOrder(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	r := &recorder{signal: make(chan struct{}, 1)}
	pids := map[string]int{}
	var mu sync.Mutex
	s := &supervisor{event: r.event, started: func(name string, pid int) {
		mu.Lock()
		defer mu.Unlock()
		pids[name] = pid
	}}
	if err := s.up(t.Context(), script(dir, "one", server1)); err != nil {
		t.Fatal(err)
	}
	if err := s.up(t.Context(), script(dir, "two", server1), script(dir, "three", server1)); err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	victim := pids["two"]
	mu.Unlock()
	// The next one must not be taken for ready before it listens to signals.
	if err := os.Remove(filepath.Join(dir, "two.ready")); err != nil {
		t.Fatal(err)
	}
	process, err := os.FindProcess(victim)
	if err != nil || process.Kill() != nil {
		t.Fatal(err)
	}
	if e := r.wait(t, "two", Died); e.Err == nil || !strings.Contains(e.Err.Error(), "killed") {
		t.Errorf("%+v", e)
	}
	if e := r.wait(t, "two", Restarted); e.PID == victim || e.PID == 0 {
		t.Errorf("%+v", e)
	}
	if err := s.down(); err != nil {
		t.Fatal(err)
	}
	order, err := os.ReadFile(filepath.Join(dir, "order"))
	if want := "stopped three\nstopped two\nstopped one\n"; err != nil || string(order) != want {
		t.Fatalf("%q %v", order, err)
	}
}

func TestAUnitThatCannotStartFailsItsStageAndStopsTheRest(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := &supervisor{event: func(Event) {}, started: func(string, int) {}}
	err := s.up(t.Context(), script(dir, "good", server1), script(dir, "bad", `echo no such database >&2; exit 3`))
	if err == nil || !strings.Contains(err.Error(), "bad: ended while it started") || !strings.Contains(err.Error(), "no such database") {
		t.Fatal(err)
	}
	if err := s.down(); err != nil {
		t.Fatal(err)
	}
	order, err := os.ReadFile(filepath.Join(dir, "order"))
	if err != nil || string(order) != "stopped good\n" {
		t.Fatalf("%q %v", order, err)
	}
}

func TestChildrenDieWithTheirLauncher(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	cmd := exec.Command(os.Args[0], "-test.run=^TestHelperLauncher$")
	cmd.Env = append(os.Environ(), "LAUNCH_HELPER_DIR="+dir)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var pid int
	if _, err := fmt.Fscanf(out, "pid %d\n", &pid); err != nil {
		t.Fatal(err)
	}
	child, err := mesh.ProcessOf(pid)
	if err != nil || !child.Alive() {
		t.Fatal(child, err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // "signal: killed", as it was asked to
	for i := 0; child.Alive(); i++ {
		if i == 1000 {
			t.Fatal("the child outlived its launcher")
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// TestHelperLauncher is the launcher that TestChildrenDieWithTheirLauncher kills.
func TestHelperLauncher(t *testing.T) {
	dir := os.Getenv("LAUNCH_HELPER_DIR")
	if dir == "" {
		t.Skip("runs as a child of TestChildrenDieWithTheirLauncher")
	}
	s := &supervisor{event: func(Event) {}, started: func(_ string, pid int) { fmt.Printf("pid %d\n", pid) }}
	if err := s.up(t.Context(), script(dir, "one", server1)); err != nil {
		t.Fatal(err)
	}
	time.Sleep(time.Minute)
}
