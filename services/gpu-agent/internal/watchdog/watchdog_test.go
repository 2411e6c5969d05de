package watchdog

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/zap"

	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/device"
	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/device/devicetest"
	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/host"
	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/lease"
)

// fleet is the host that a watchdog is over.
type fleet struct {
	leases   []host.LeaseState
	devices  map[string]host.DeviceState
	observed map[lease.Key]int64
	evicted  map[lease.Key]lease.OOM
	over     map[lease.Key]int64
}

func newFleet(leases ...host.LeaseState) *fleet {
	return &fleet{leases: leases, devices: map[string]host.DeviceState{}, observed: map[lease.Key]int64{}, evicted: map[lease.Key]lease.OOM{}, over: map[lease.Key]int64{}}
}

func (f *fleet) Leases() []host.LeaseState { return f.leases }
func (f *fleet) SetDevices(devices []host.DeviceState) {
	f.devices = map[string]host.DeviceState{}
	for _, d := range devices {
		f.devices[d.ID] = d
	}
}
func (f *fleet) ObserveMemory(key lease.Key, bytes int64) { f.observed[key] = bytes }
func (f *fleet) Evict(key lease.Key, oom lease.OOM)       { f.evicted[key] = oom }
func (f *fleet) OverQuota(key lease.Key, bytes int64)     { f.over[key] = bytes }

func key(job string) lease.Key { return lease.Key{JobID: job, Attempt: 1, Fence: 1} }

func gpu(id string) device.Device {
	return device.Device{ID: id, Kind: "Stub", MemoryBytes: 1000, HeadroomBytes: 100, OverheadBytes: 50}
}

func newWatchdog(t *testing.T, source device.Source) *Watchdog {
	t.Helper()
	w, err := New(source, zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// held starts a real child, so that the lease has a process tree, and returns the
// lease with the pid of that child: a supervisor's trainer.
func held(t *testing.T, job string, claims ...lease.Claim) (host.LeaseState, int) {
	t.Helper()
	// The shell is the supervisor, its child the trainer.
	cmd := exec.Command("sh", "-c", "sleep 1000 & echo $!; wait")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 32)
	n, err := out.Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	trainer := 0
	for _, c := range strings.TrimSpace(string(buf[:n])) {
		trainer = trainer*10 + int(c-'0')
	}
	t.Cleanup(func() {
		if p, err := os.FindProcess(trainer); err == nil {
			_ = p.Kill() // gone already when the test did it
		}
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // it was killed
	})
	return host.LeaseState{Key: key(job), Claims: claims, Supervisor: cmd.Process.Pid}, trainer
}

// On a shared GPU the one over its reservation is evicted, with what was seen; its
// neighbour, and the process of no lease, are left alone.
func TestOverUser(t *testing.T) {
	t.Parallel()
	source := devicetest.New(gpu("GPU-1"))
	greedy, greedyPID := held(t, "greedy", lease.Claim{Device: "GPU-1", Bytes: 300})
	modest, modestPID := held(t, "modest", lease.Claim{Device: "GPU-1", Bytes: 300})
	f := newFleet(greedy, modest)
	w := newWatchdog(t, source)
	source.SetUses(device.Use{Device: "GPU-1", PID: greedyPID, Bytes: 340}, device.Use{Device: "GPU-1", PID: modestPID, Bytes: 200}, device.Use{Device: "GPU-1", PID: 1, Bytes: 900})
	w.sample(f)
	if len(f.evicted) != 0 || f.observed[greedy.Key] != 340 || f.observed[modest.Key] != 200 {
		t.Fatalf("evicted %v, observed %v", f.evicted, f.observed) // 340 is within 300 and the overhead of 50
	}
	source.SetUses(device.Use{Device: "GPU-1", PID: greedyPID, Bytes: 351}, device.Use{Device: "GPU-1", PID: modestPID, Bytes: 200})
	w.sample(f)
	oom, ok := f.evicted[greedy.Key]
	if !ok || len(f.evicted) != 1 || oom.Class != lease.ClassOwnOOM || len(oom.Samples) != 2 || oom.Device != "GPU-1" {
		t.Fatalf("evicted %v", f.evicted)
	}
	// The neighbour's out-of-memory a moment later is charged to the over-user.
	verdict := w.Attribute(modest.Key, lease.OOM{Device: "GPU-1", At: oom.At, Message: "CUDA out of memory"})
	if verdict.Class != lease.ClassNeighbourOOM || !strings.Contains(verdict.Message, "greedy") {
		t.Fatalf("%+v", verdict)
	}
}

// A lane's memory is that of the process tree; host memory of a GPU's trainer is
// bounded beside its device's.
func TestHostMemory(t *testing.T) {
	t.Parallel()
	source := devicetest.New(device.Device{ID: "cpu:0", Kind: device.CPULane, MemoryBytes: 1 << 30, HostMemory: true}, gpu("GPU-1"))
	lane, _ := held(t, "lane", lease.Claim{Device: "cpu:0", Bytes: 1 << 30})
	small, _ := held(t, "small", lease.Claim{Device: "cpu:0", Bytes: 1})
	both, _ := held(t, "both", lease.Claim{Device: "GPU-1", Bytes: 300})
	both.HostMemoryBytes = 1
	f := newFleet(lane, small, both)
	w := newWatchdog(t, source)
	w.sample(f)
	if _, ok := f.evicted[lane.Key]; ok || f.observed[lane.Key] <= 0 {
		t.Errorf("the lane used %d", f.observed[lane.Key])
	}
	if f.evicted[small.Key].Class != lease.ClassOwnOOM || f.evicted[both.Key].Class != lease.ClassHostOOM {
		t.Errorf("evicted %+v", f.evicted)
	}
	if f.observed[both.Key] != 0 {
		t.Error("host memory was learned as a device's")
	}
}

// An ill device is told with its reason, one that vanishes stays known as removed,
// one that comes is added, and one that recovers takes work again.
func TestDevices(t *testing.T) {
	t.Parallel()
	source := devicetest.New(gpu("GPU-1"), gpu("GPU-2"))
	f := newFleet()
	w := newWatchdog(t, source)
	reason := func(id string) string {
		w.ReadDevices(f)
		if h := f.devices[id].Health; !h.OK {
			return h.Reason
		}
		return ""
	}
	if reason("GPU-1") != "" || len(f.devices) != 2 {
		t.Fatalf("%+v", f.devices)
	}
	source.SetReading(device.Reading{ID: "GPU-1", XIDs: []uint64{31, 48}})
	if got := reason("GPU-1"); !strings.Contains(got, "XID 48") || !f.devices["GPU-2"].Health.OK {
		t.Errorf("%q", got)
	}
	source.SetReading(device.Reading{ID: "GPU-1"})
	source.Set(gpu("GPU-1"), gpu("GPU-3"))
	if got := reason("GPU-2"); !strings.Contains(got, "removed") || !f.devices["GPU-1"].Health.OK || !f.devices["GPU-3"].Health.OK {
		t.Errorf("%q, %+v", got, f.devices)
	}
	source.Fail(errors.New("driver"))
	if got := reason("GPU-1"); got != "cannot be read" {
		t.Errorf("%q", got)
	}
	source.Fail(nil)
	if source.Set(gpu("GPU-1"), gpu("GPU-2")); reason("GPU-2") != "" {
		t.Errorf("%+v", f.devices)
	}
}

// A work directory over its quota is told; holes and second names cost nothing.
func TestQuota(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := errors.Join(
		os.MkdirAll(filepath.Join(dir, "deep"), 0o700),
		os.WriteFile(filepath.Join(dir, "deep", "file"), make([]byte, 100<<10), 0o600),
		os.Link(filepath.Join(dir, "deep", "file"), filepath.Join(dir, "again")),
		os.Symlink("/usr", filepath.Join(dir, "elsewhere")),
		os.WriteFile(filepath.Join(dir, "hole"), nil, 0o600),
		os.Truncate(filepath.Join(dir, "hole"), 1<<40),
	); err != nil {
		t.Fatal(err)
	}
	f := newFleet(
		host.LeaseState{Key: key("over"), WorkDir: dir, WorkBytes: 64 << 10},
		host.LeaseState{Key: key("within"), WorkDir: dir, WorkBytes: 256 << 10},
		host.LeaseState{Key: key("no quota"), WorkDir: dir},
	)
	newWatchdog(t, devicetest.New()).checkQuotas(context.Background(), f)
	if len(f.over) != 1 || f.over[key("over")] < 100<<10 {
		t.Fatalf("%v", f.over)
	}
}
