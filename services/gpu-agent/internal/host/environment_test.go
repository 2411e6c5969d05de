package host

import (
	"slices"
	"strings"
	"testing"

	"go.uber.org/zap"

	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/device"
	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/journal"
	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/lease"
)

func attemptOf(h *Host, a lease.Assignment) *Attempt {
	a.JobID = "018f0000-0000-7000-8000-00000000000a"
	return &Attempt{Key: a.Key, host: h, dir: "/state/attempts/x", lease: journal.Lease{Assignment: a}}
}

func value(env []string, name string) string {
	for _, v := range slices.Backward(env) { // the last one counts
		if rest, ok := strings.CutPrefix(v, name+"="); ok {
			return rest
		}
	}
	return ""
}

// Each kind of device gets the hardest hint that it has: a fraction for the
// framework, a pinned limit for a client of MPS, a collector's limit for a lane.
func TestDeviceEnvironment(t *testing.T) {
	t.Parallel()
	h := New(Settings{MPSPipe: "/mps"}, Deps{Log: zap.NewNop()})
	const gib = 1 << 30
	gpu := device.Device{ID: "GPU-a", MemoryBytes: 10 * gib, HeadroomBytes: gib, OverheadBytes: gib / 2, Isolation: device.Watched}
	shared := gpu
	shared.ID, shared.Isolation = "GPU-b", device.MPS
	slice := gpu
	slice.ID, slice.ParentID, slice.Isolation = "MIG-c", "GPU-c", device.MIG
	lane := device.Device{ID: "cpu:0", MemoryBytes: gib, HostMemory: true}
	h.SetDevices([]DeviceState{{Device: gpu}, {Device: shared}, {Device: slice}, {Device: lane}})
	for name, c := range map[string]struct {
		claims []lease.Claim
		want   map[string]string
	}{
		"whole GPU":    {[]lease.Claim{{Device: "GPU-a"}}, map[string]string{"CUDA_VISIBLE_DEVICES": "GPU-a", "TRAINYARD_DEVICE_MEMORY_FRACTION": "0.9000", "GOMEMLIMIT": ""}},
		"shared":       {[]lease.Claim{{Device: "GPU-a", Bytes: 5 * gib}}, map[string]string{"TRAINYARD_DEVICE_MEMORY_FRACTION": "0.5000", "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT": ""}},
		"MPS":          {[]lease.Claim{{Device: "GPU-a", Bytes: gib}, {Device: "GPU-b", Bytes: 2 * gib}}, map[string]string{"CUDA_VISIBLE_DEVICES": "GPU-a,GPU-b", "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT": "1=2560M", "CUDA_MPS_PIPE_DIRECTORY": "/mps"}},
		"whole by MPS": {[]lease.Claim{{Device: "GPU-b"}}, map[string]string{"CUDA_MPS_PINNED_DEVICE_MEM_LIMIT": "", "CUDA_MPS_PIPE_DIRECTORY": ""}},
		"MIG":          {[]lease.Claim{{Device: "MIG-c"}}, map[string]string{"CUDA_VISIBLE_DEVICES": "MIG-c"}},
		"lane":         {[]lease.Claim{{Device: "cpu:0", Bytes: 1000}}, map[string]string{"CUDA_VISIBLE_DEVICES": "", "GOMEMLIMIT": "850", "TRAINYARD_DEVICE_MEMORY_FRACTION": ""}},
	} {
		env := attemptOf(h, lease.Assignment{Claims: c.claims}).environment(secrets{})
		for variable, want := range c.want {
			if got := value(env, variable); got != want {
				t.Errorf("%s: %s is %q, want %q", name, variable, got, want)
			}
		}
	}
	if got := h.isolation(lease.Assignment{Claims: []lease.Claim{{Device: "MIG-c"}, {Device: "GPU-b"}, {Device: "GPU-a"}}}); got != device.Watched {
		t.Errorf("a lease is as hard as its softest device, not %s", got)
	}
}

// A gang's member learns where the others are, as torch.distributed and torchrun
// read it; the rank of a process stays torchrun's to give.
func TestRendezvous(t *testing.T) {
	t.Parallel()
	h := New(Settings{TrackingURL: "http://127.0.0.1:5000"}, Deps{Log: zap.NewNop()})
	a := lease.Assignment{
		Claims: make([]lease.Claim, 4), Experiment: "specialists",
		Rendezvous: &lease.Rendezvous{Address: "10.0.0.1", Port: 29500, NodeRank: 1, NodeCount: 2, Processes: 8},
	}
	env := attemptOf(h, a).environment(secrets{tracking: []byte{1}})
	for variable, want := range map[string]string{
		"MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29500", "NODE_RANK": "1", "NNODES": "2", "WORLD_SIZE": "8",
		"PET_MASTER_ADDR": "10.0.0.1", "PET_MASTER_PORT": "29500", "PET_NODE_RANK": "1", "PET_NNODES": "2", "PET_NPROC_PER_NODE": "4",
		"RANK": "", "LOCAL_RANK": "", "MLFLOW_RUN_ID": "", // only the first member speaks for the run
	} {
		if got := value(env, variable); got != want {
			t.Errorf("%s is %q, want %q", variable, got, want)
		}
	}
	a.Rendezvous.NodeRank = 0
	env = attemptOf(h, a).environment(secrets{tracking: []byte{1, 0xab}})
	for variable, want := range map[string]string{
		"MLFLOW_TRACKING_URI": "http://127.0.0.1:5000", "MLFLOW_TRACKING_TOKEN": "01ab",
		"MLFLOW_RUN_ID": "018f000000007000800000000000000a", "MLFLOW_EXPERIMENT_NAME": "specialists",
	} {
		if got := value(env, variable); got != want {
			t.Errorf("%s is %q, want %q", variable, got, want)
		}
	}
}
