package command

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/ultrathink-pilot/trainyard/services/trainer/internal/run"
)

// The sentences by which the common frameworks say that memory ran out.
var (
	deviceOOM = []string{"CUDA out of memory", "torch.cuda.OutOfMemoryError", "torch.OutOfMemoryError",
		"CUDA_ERROR_OUT_OF_MEMORY", "RESOURCE_EXHAUSTED: Out of memory", "HIP out of memory"}
	hostOOM = []string{"DefaultCPUAllocator: can't allocate memory", "DefaultCPUAllocator: not enough memory", "Cannot allocate memory",
		"std::bad_alloc"}
)

// memory tells whether a failure was one of memory: by the program's own report, by
// what it printed, or by the kernel's count of kills in this control group.
type memory struct {
	events string
	before string
}

// watchMemory remembers the kernel's count.
func watchMemory() memory {
	text, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return memory{}
	}
	for _, line := range strings.Split(string(text), "\n") {
		if group, ok := strings.CutPrefix(line, "0::"); ok {
			m := memory{events: filepath.Join("/sys/fs/cgroup", group, "memory.events")}
			m.before = m.kills()
			return m
		}
	}
	return memory{}
}

// kills is the kernel's line of processes that it killed for memory, "" where there
// is none.
func (m memory) kills() string {
	text, err := os.ReadFile(m.events)
	if err != nil {
		return ""
	}
	for _, line := range strings.Split(string(text), "\n") {
		if strings.HasPrefix(line, "oom_kill ") {
			return line
		}
	}
	return ""
}

// judge returns the class of a failed program and its evidence; ClassNone when
// memory was not the reason.
func (m memory) judge(stderr, reported string) (run.Class, string) {
	if reported != "" {
		if strings.EqualFold(reported, "host") || contains(reported, hostOOM) {
			return run.ClassHostOOM, reported
		}
		return run.ClassDeviceOOM, reported
	}
	last := lastLine(stderr)
	switch now := m.kills(); {
	case contains(stderr, deviceOOM):
		return run.ClassDeviceOOM, last
	case now != m.before:
		return run.ClassHostOOM, fmt.Sprintf("the kernel killed a process of its control group (%s, before %s)", now, m.before)
	// Python's own exception is the last line of its traceback.
	case contains(stderr, hostOOM), last == "MemoryError", strings.HasPrefix(last, "MemoryError:"):
		return run.ClassHostOOM, last
	}
	return run.ClassNone, ""
}

func contains(text string, sentences []string) bool {
	for _, s := range sentences {
		if strings.Contains(text, s) {
			return true
		}
	}
	return false
}
