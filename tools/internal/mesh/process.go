package mesh

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
)

// ProcessOf names a running process.
func ProcessOf(pid int) (Process, error) {
	ticks, _, err := stat(pid)
	return Process{PID: pid, StartTicks: ticks}, err
}

// Alive says whether that very process still runs; a zombie does not.
func (p Process) Alive() bool {
	if p.PID <= 0 {
		return false
	}
	ticks, state, err := stat(p.PID)
	return err == nil && ticks == p.StartTicks && state != 'Z' && state != 'X'
}

// stat reads the start time and the state of a process.
func stat(pid int) (ticks uint64, state byte, err error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, 0, err
	}
	// The second field is the name in parentheses, which may hold anything.
	end := bytes.LastIndexByte(data, ')')
	if end < 0 {
		return 0, 0, fmt.Errorf("/proc/%d/stat has an unknown form", pid)
	}
	fields := strings.Fields(string(data[end+1:]))
	if len(fields) < 20 {
		return 0, 0, fmt.Errorf("/proc/%d/stat has %d fields", pid, len(fields)+2)
	}
	ticks, err = strconv.ParseUint(fields[19], 10, 64)
	return ticks, fields[0][0], err
}
