package childproc

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"syscall"
)

// Owner is one process: its id and the kernel's start time of it, because an id alone is
// reused.
type Owner struct {
	PID   int
	start string
}

// OwnerOf describes a living process.
func OwnerOf(pid int) (Owner, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return Owner{}, fmt.Errorf("look at process %d: %w", pid, err)
	}
	// Fields are counted after the command, which may hold spaces; 22 is the start time.
	_, after, _ := bytes.Cut(stat, []byte(") "))
	fields := bytes.Fields(after)
	if len(fields) < 20 {
		return Owner{}, errors.New("look at a process: /proc is not Linux's")
	}
	return Owner{PID: pid, start: string(fields[19])}, nil
}

// String is a name that no other process has until the machine restarts.
func (o Owner) String() string { return strconv.Itoa(o.PID) + "-" + o.start }

// waitForOwner polls: a process that is not our child offers a shell nothing to wait on.
const waitForOwner = `
pid=$1; start=$2; shift 2
while [ "$(sed 's/.*) //' "/proc/$pid/stat" 2>/dev/null | cut -d' ' -f20)" = "$start" ]; do sleep 0.5; done
`

// AfterExit runs a shell script with args ($1, $2 ...) once the owner has ended, however it
// ended: nothing inside a process can clean up after its own SIGKILL. It is for what a
// test run leaves behind.
func AfterExit(o Owner, script string, args ...string) error {
	argv := append([]string{"-c", waitForOwner + script, "trainyard-cleaner", strconv.Itoa(o.PID), o.start}, args...)
	cmd := exec.Command("/bin/sh", argv...)
	cmd.Dir = "/"
	// A session of its own: Ctrl-C on the run must not take the one that cleans up. No
	// stdio either: an inherited pipe would keep `go test` waiting for it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start the cleaner: %w", err)
	}
	go func() { _ = cmd.Wait() }() // it outlives us, or is reaped here
	return nil
}
