package childproc

import (
	"bufio"
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// parentEnv turns the test binary into a parent that starts a child and then waits to be
// killed.
const parentEnv = "CHILDPROC_TEST_PARENT"

func TestMain(m *testing.M) {
	if os.Getenv(parentEnv) != "" {
		p, err := Start(exec.Command("sleep", "300"), Options{OnParentDeath: syscall.SIGKILL})
		if err != nil {
			panic(err)
		}
		_, _ = os.Stdout.WriteString(strconv.Itoa(p.PID()) + "\n")
		<-p.Done()
	}
	os.Exit(m.Run())
}

func TestChildDiesWithAKilledParent(t *testing.T) {
	t.Parallel()
	parent := exec.Command(os.Args[0])
	parent.Env = append(os.Environ(), parentEnv+"=1")
	out, err := parent.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil {
		t.Fatal(err)
	}
	if err := parent.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = parent.Wait() // killed: its status is the signal
	for deadline := time.Now().Add(10 * time.Second); alive(pid); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("child %d still lives after its parent was killed", pid)
		}
	}
}

// alive does not count a zombie, which nobody may have reaped yet.
func alive(pid int) bool {
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return false
	}
	_, after, _ := bytes.Cut(stat, []byte(") "))
	return len(after) > 0 && after[0] != 'Z'
}

func TestErrShowsWhatTheChildSaid(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	p, err := Start(exec.Command("sh", "-c", "echo no such directory >&2; exit 3"), Options{Output: &out})
	if err != nil {
		t.Fatal(err)
	}
	err = p.Err()
	if err == nil || !strings.Contains(err.Error(), "exit status 3") || !strings.Contains(err.Error(), "no such directory") {
		t.Errorf("got %v, want the status and the output", err)
	}
	if out.String() != "no such directory\n" {
		t.Errorf("the output went nowhere: %q", out.String())
	}
}

func TestStopKillsADeafChild(t *testing.T) {
	t.Parallel()
	p, err := Start(exec.Command("sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.1; done"), Options{})
	if err != nil {
		t.Fatal(err)
	}
	for p.Tail() != "ready" {
		time.Sleep(time.Millisecond)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := p.Stop(ctx, syscall.SIGTERM); err == nil {
		t.Error("killing must be reported")
	}
	if alive(p.PID()) {
		t.Error("the child lives")
	}
	if err := p.Stop(t.Context(), syscall.SIGTERM); err != nil {
		t.Errorf("stopping again: %v", err)
	}
}

func TestStartReportsAMissingBinary(t *testing.T) {
	t.Parallel()
	if _, err := Start(exec.Command("/no/such/binary"), Options{}); err == nil {
		t.Error("want an error")
	}
}

func TestAfterExitRunsOnceTheOwnerHasEnded(t *testing.T) {
	t.Parallel()
	owner := exec.Command("sleep", "300")
	if err := owner.Start(); err != nil {
		t.Fatal(err)
	}
	o, err := OwnerOf(owner.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	mark := filepath.Join(t.TempDir(), "a mark")
	if err := AfterExit(o, `touch "$1"`, mark); err != nil {
		t.Fatal(err)
	}
	time.Sleep(1200 * time.Millisecond) // more than one poll
	if _, err := os.Stat(mark); err == nil {
		t.Fatal("it ran while the owner lived")
	}
	if err := owner.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = owner.Wait() // killed: its status is the signal
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if _, err := os.Stat(mark); err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("it never ran")
		}
	}
}
