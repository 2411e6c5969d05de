package procfs_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/procfs"
)

// A process is known by its number and its start together: a signal for another one
// that had the number does not reach it.
func TestIdentity(t *testing.T) {
	t.Parallel()
	cmd := exec.Command("sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	id, err := procfs.Identify(cmd.Process.Pid)
	if err != nil || !id.Alive() {
		t.Fatal(id, err)
	}
	below, err := procfs.Descendants(os.Getpid())
	if err != nil || !slices.Contains(below[os.Getpid()], id.PID) {
		t.Errorf("not among our children: %v %v", below, err)
	}
	if bytes, err := procfs.PrivateBytes(id.PID); err != nil || bytes <= 0 {
		t.Errorf("%d bytes, %v", bytes, err)
	}
	earlier := procfs.Identity{PID: id.PID, Start: id.Start - 1}
	if err := earlier.Signal(unix.SIGKILL); err != nil || earlier.Alive() || !id.Alive() {
		t.Fatalf("a stranger was reached: %v", err)
	}
	if err := id.Signal(unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // it was killed
	if id.Alive() {
		t.Error("it lives")
	}
	if err := id.Signal(unix.SIGKILL); err != nil {
		t.Errorf("one that is gone: %v", err)
	}
}

// A counter is found by its whole name; a file or a name that is not there counts nothing.
func TestCounter(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "memory.events")
	if err := os.WriteFile(path, []byte("oom 3\noom_kill 2\noom_group_kill x\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]int{"oom": 3, "oom_kill": 2, "oom_group_kill": 0, "kill": 0} {
		if got := procfs.Counter(path, name); got != want {
			t.Errorf("%s: %d", name, got)
		}
	}
	if procfs.Counter(path+"-", "oom") != 0 {
		t.Error("a missing file counted")
	}
	if total, available, err := procfs.Memory(); err != nil || available <= 0 || total < available {
		t.Errorf("memory %d, %d, %v", total, available, err)
	}
	if busy, total, err := procfs.CPUTicks(); err != nil || total < busy {
		t.Errorf("ticks %d, %d, %v", busy, total, err)
	}
}
