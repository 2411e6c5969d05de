package host

import (
	"fmt"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/launch"
	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/lease"
)

// environment is a trainer's whole environment: nothing of the agent's own is
// inherited, so that no setting or secret of the host leaks into a job.
func (a *Attempt) environment() []string {
	work := filepath.Join(a.dir, launch.WorkDir)
	threads := strconv.Itoa(lease.Threads(a.lease.CPUMillis))
	env := []string{
		"PATH=/usr/local/bin:/usr/bin:/bin",
		"HOME=" + work,
		"TMPDIR=" + work,
		"LANG=C.UTF-8",
		"TRAINYARD_SOCKET=" + a.host.Socket,
		"TRAINYARD_TOKEN_FD=" + strconv.Itoa(launch.TokenFD),
		"GOMAXPROCS=" + threads,
		"OMP_NUM_THREADS=" + threads,
		"MKL_NUM_THREADS=" + threads,
		"OPENBLAS_NUM_THREADS=" + threads,
	}
	env = append(env, a.traceEnviron()...)
	env = append(env, a.deviceEnviron()...)
	return append(env, a.host.TrainerEnv...)
}

// deviceEnviron shows a trainer its own devices and hides all others. The memory
// figures are hints: a framework that follows them fails at its own allocation
// instead of being evicted.
func (a *Attempt) deviceEnviron() []string {
	a.host.mu.Lock()
	defer a.host.mu.Unlock()
	var gpus []string
	fraction := 1.0
	var hostLimit int64
	for _, c := range a.lease.Claims {
		for _, d := range a.host.devices {
			if d.ID != c.Device {
				continue
			}
			limit := c.Bytes
			if limit == 0 {
				limit = d.MemoryBytes - d.HeadroomBytes
			}
			if d.HostMemory {
				hostLimit += limit
				continue
			}
			gpus = append(gpus, d.ID)
			if d.MemoryBytes > 0 {
				fraction = min(fraction, float64(limit)/float64(d.MemoryBytes))
			}
		}
	}
	env := []string{
		"CUDA_VISIBLE_DEVICES=" + strings.Join(gpus, ","),
		"CUDA_DEVICE_ORDER=PCI_BUS_ID",
	}
	if len(gpus) > 0 {
		env = append(env, fmt.Sprintf("TRAINYARD_DEVICE_MEMORY_FRACTION=%.4f", fraction))
	}
	if hostLimit > 0 {
		// Below the reservation, so that the collector works before the watchdog.
		env = append(env, fmt.Sprintf("GOMEMLIMIT=%d", hostLimit*85/100))
	}
	return env
}
