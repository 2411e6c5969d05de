package host

import (
	"encoding/hex"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/device"
	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/launch"
	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/lease"
)

// environment is a trainer's whole environment: nothing of the agent's own is
// inherited, so that no setting or secret of the host leaks into a job.
func (a *Attempt) environment(s secrets) []string {
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
	env = append(env, rendezvousEnviron(a.lease.Rendezvous, len(a.lease.Claims))...)
	if a.host.TrackingURL != "" && a.lease.Member() == 0 {
		env = append(env, trackingEnviron(a.lease.Assignment, a.host.TrackingURL, hex.EncodeToString(s.tracking))...)
	}
	return append(env, a.host.TrainerEnv...)
}

// deviceEnviron shows a trainer its own devices and hides all others. The memory
// figures are hints, except the last: a framework that follows them fails at its
// own allocation instead of being evicted.
func (a *Attempt) deviceEnviron() []string {
	a.host.mu.Lock()
	defer a.host.mu.Unlock()
	var gpus, pinned []string
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
			if d.Isolation == device.MPS && c.Bytes > 0 {
				// By the number that the trainer sees, not the host's.
				pinned = append(pinned, fmt.Sprintf("%d=%dM", len(gpus), (c.Bytes+d.OverheadBytes)>>20))
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
	if len(pinned) > 0 {
		// The MPS server refuses what goes beyond; a client cannot raise it.
		env = append(env, "CUDA_MPS_PIPE_DIRECTORY="+a.host.MPSPipe, "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT="+strings.Join(pinned, ","))
	}
	if hostLimit > 0 {
		// Below the reservation, so that the collector works before the watchdog.
		env = append(env, fmt.Sprintf("GOMEMLIMIT=%d", hostLimit*85/100))
	}
	return env
}

// rendezvousEnviron tells a gang's member where the others are, in the words of
// torch.distributed and, with PET_, as the defaults of torchrun's own options.
// RANK and LOCAL_RANK are torchrun's to give to each process.
func rendezvousEnviron(r *lease.Rendezvous, devices int) []string {
	if r == nil {
		return nil
	}
	port, rank, nodes := strconv.Itoa(int(r.Port)), strconv.Itoa(int(r.NodeRank)), strconv.Itoa(int(r.NodeCount))
	return []string{
		"MASTER_ADDR=" + r.Address, "MASTER_PORT=" + port, "NODE_RANK=" + rank, "GROUP_RANK=" + rank, "NNODES=" + nodes,
		"WORLD_SIZE=" + strconv.Itoa(int(r.Processes)),
		"PET_MASTER_ADDR=" + r.Address, "PET_MASTER_PORT=" + port, "PET_NODE_RANK=" + rank, "PET_NNODES=" + nodes,
		"PET_NPROC_PER_NODE=" + strconv.Itoa(max(devices, 1)),
	}
}

// trackingEnviron points an MLflow client at the host's proxy, as this attempt's run.
func trackingEnviron(a lease.Assignment, url, token string) []string {
	env := []string{
		"MLFLOW_TRACKING_URI=" + url, "MLFLOW_TRACKING_TOKEN=" + token,
		"MLFLOW_RUN_ID=" + strings.ReplaceAll(a.JobID, "-", ""),
	}
	if a.Experiment != "" {
		env = append(env, "MLFLOW_EXPERIMENT_NAME="+a.Experiment)
	}
	return env
}
