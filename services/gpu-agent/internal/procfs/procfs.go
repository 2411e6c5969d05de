// Package procfs reads the few facts of /proc that identify and measure a
// host's processes.
package procfs

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Identity names a process for good: a pid alone is used again.
type Identity struct {
	PID int `json:"pid"`
	// Start is the start time in clock ticks since boot.
	Start uint64 `json:"start"`
}

// Identify returns the identity of a live process.
func Identify(pid int) (Identity, error) {
	s, err := stat(pid)
	if err != nil {
		return Identity{}, err
	}
	return Identity{PID: pid, Start: s.start}, nil
}

// Alive says whether that very process still exists and is not a zombie.
func (id Identity) Alive() bool {
	s, err := stat(id.PID)
	return err == nil && s.start == id.Start && s.state != 'Z' && s.state != 'X'
}

// Signal reaches that very process, never a stranger with its number; one that is gone
// is no error.
func (id Identity) Signal(sig unix.Signal) error {
	fd, err := unix.PidfdOpen(id.PID, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil { // no pidfd on this kernel
		if !id.Alive() {
			return nil
		}
		return unix.Kill(id.PID, sig)
	}
	defer func() { _ = unix.Close(fd) }()
	if !id.Alive() {
		return nil
	}
	if err := unix.PidfdSendSignal(fd, sig, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return err
	}
	return nil
}

type status struct {
	state  byte
	parent int
	start  uint64
}

// stat parses /proc/<pid>/stat from the last ')': the command before it may
// hold anything.
func stat(pid int) (status, error) {
	raw, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return status{}, err
	}
	end := bytes.LastIndexByte(raw, ')')
	if end < 0 {
		return status{}, fmt.Errorf("/proc/%d/stat is malformed", pid)
	}
	fields := strings.Fields(string(raw[end+1:]))
	if len(fields) < 20 {
		return status{}, fmt.Errorf("/proc/%d/stat is malformed", pid)
	}
	parent, err := strconv.Atoi(fields[1])
	if err != nil {
		return status{}, err
	}
	start, err := strconv.ParseUint(fields[19], 10, 64)
	if err != nil {
		return status{}, err
	}
	return status{state: fields[0][0], parent: parent, start: start}, nil
}

// Descendants returns, for each root, the pids below it (not itself). The table
// is read once for all roots.
func Descendants(roots ...int) (map[int][]int, error) {
	dir, err := os.Open("/proc")
	if err != nil {
		return nil, err
	}
	names, err := dir.Readdirnames(-1)
	if closeErr := dir.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return nil, err
	}
	children := map[int][]int{}
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		if s, err := stat(pid); err == nil { // else it is gone already
			children[s.parent] = append(children[s.parent], pid)
		}
	}
	result := make(map[int][]int, len(roots))
	for _, root := range roots {
		below := append([]int(nil), children[root]...)
		for i := 0; i < len(below); i++ {
			below = append(below, children[below[i]]...)
		}
		result[root] = below
	}
	return result, nil
}

// PrivateBytes returns the anonymous and shared-memory pages of a process.
// Mapped files are left out: every trainer of a host maps the same feature
// cache, and the kernel can drop those pages at will.
func PrivateBytes(pid int) (int64, error) {
	raw, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
	if err != nil {
		return 0, err
	}
	var total, resident int64
	split := false
	scanner := bufio.NewScanner(bytes.NewReader(raw))
	for scanner.Scan() {
		name, rest, ok := strings.Cut(scanner.Text(), ":")
		if !ok {
			continue
		}
		switch name {
		case "RssAnon", "RssShmem", "VmRSS":
			fields := strings.Fields(rest)
			if len(fields) == 0 {
				continue
			}
			kib, err := strconv.ParseInt(fields[0], 10, 64)
			if err != nil {
				return 0, err
			}
			if name == "VmRSS" {
				resident = kib << 10
			} else {
				total += kib << 10
				split = true
			}
		}
	}
	if !split { // kernels before 4.5 and some sandboxes
		return resident, scanner.Err()
	}
	return total, scanner.Err()
}

// Memory returns the host's total and available memory in bytes.
func Memory() (total, available int64, err error) {
	raw, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0, 0, err
	}
	for _, line := range strings.Split(string(raw), "\n") {
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		kib, err := strconv.ParseInt(fields[1], 10, 64)
		if err != nil {
			continue
		}
		switch fields[0] {
		case "MemTotal:":
			total = kib << 10
		case "MemAvailable:":
			available = kib << 10
		}
	}
	return total, available, nil
}

// OOMKills returns how many processes the kernel has killed for memory since boot.
func OOMKills() int { return Counter("/proc/vmstat", "oom_kill") }

// Counter returns a value of a file whose lines are names and values, as the kernel
// writes many; 0 when it is not there.
func Counter(path, name string) int {
	raw, err := os.ReadFile(path)
	if err != nil {
		return 0
	}
	for _, line := range strings.Split(string(raw), "\n") {
		if rest, ok := strings.CutPrefix(line, name+" "); ok {
			if n, err := strconv.Atoi(rest); err == nil {
				return n
			}
		}
	}
	return 0
}

// CPUTicks returns the host's busy and total CPU time in clock ticks.
func CPUTicks() (busy, total uint64, err error) {
	raw, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, 0, err
	}
	line, _, _ := strings.Cut(string(raw), "\n")
	fields := strings.Fields(line)
	for i, f := range fields[min(1, len(fields)):] {
		n, err := strconv.ParseUint(f, 10, 64)
		if err != nil {
			return 0, 0, err
		}
		if i >= 8 { // guest time is part of user time
			break
		}
		total += n
		if i != 3 && i != 4 {
			busy += n
		}
	}
	return busy, total, nil
}
