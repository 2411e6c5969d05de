package mesh

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func TestAProcessIsKnownByItsStart(t *testing.T) {
	t.Parallel()
	cmd := exec.Command("sleep", "60")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p, err := ProcessOf(cmd.Process.Pid)
	if err != nil || !p.Alive() {
		t.Fatalf("%+v %v", p, err)
	}
	if other := (Process{PID: p.PID, StartTicks: p.StartTicks - 1}); other.Alive() {
		t.Error("a process that had the pid before is alive")
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // "signal: killed", as it was asked to
	if p.Alive() {
		t.Error("a killed process is alive")
	}
}

func TestFind(t *testing.T) {
	t.Parallel()
	state := t.TempDir()
	var away *NotRunningError
	if _, err := Find(state, true); !errors.As(err, &away) || !strings.Contains(err.Error(), "trainyard up") {
		t.Fatal(err)
	}
	self, err := ProcessOf(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	m := &Mesh{State: state, Launcher: self, Scheduler: "127.0.0.1:1"}
	if err := m.Write(); err != nil {
		t.Fatal(err)
	}
	if got, err := Find(state, true); err != nil || got.Scheduler != m.Scheduler {
		t.Fatal(got, err)
	}
	m.Launcher.StartTicks++
	if err := m.Write(); err != nil {
		t.Fatal(err)
	}
	if _, err := Find(state, true); !errors.As(err, &away) {
		t.Fatalf("the mesh of a dead launcher was found: %v", err)
	}
	if err := os.WriteFile(filepath.Join(state, FileName), []byte(`{"version": 99}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Find(state, true); err == nil || !strings.Contains(err.Error(), "version 99") {
		t.Fatal(err)
	}
	if err := m.Remove(); err != nil || m.Remove() != nil {
		t.Fatal(err)
	}
}
