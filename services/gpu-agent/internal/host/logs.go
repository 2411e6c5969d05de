package host

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/disk"
	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/launch"
	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/lease"
)

// OutputFiles returns the attempt's log files, oldest first.
func (h *Host) OutputFiles(key lease.Key) []string {
	base := filepath.Join(h.AttemptDir(key), launch.LogFile)
	var files []string
	for _, path := range []string{base + ".1", base} {
		if _, err := os.Stat(path); err == nil {
			files = append(files, path)
		}
	}
	return files
}

// FindLogs returns a job's newest attempt on this host (number 0) or a certain
// one, running or ended.
func (h *Host) FindLogs(job string, attempt uint32) (lease.Key, bool) {
	names, err := disk.OS().List(h.attemptsDir())
	if err != nil {
		return lease.Key{}, false
	}
	var newest lease.Key
	for _, name := range names {
		key := lease.Key{JobID: job}
		if _, err := fmt.Sscanf(name, job+"-%d-%d", &key.Attempt, &key.Fence); err != nil || key.Directory() != name {
			continue
		}
		if (attempt == 0 || key.Attempt == attempt) && key.Fence > newest.Fence {
			newest = key
		}
	}
	return newest, newest.Fence > 0
}

// Running says whether an attempt may still write output.
func (h *Host) Running(key lease.Key) bool { return h.Attempt(key) != nil }
