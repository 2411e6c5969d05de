package metrics_test

import (
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/device"
	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/host"
	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/lease"
	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/metrics"
)

func observe(t *testing.T, snapshot func() host.Snapshot) (*metrics.Metrics, *prometheus.Registry) {
	t.Helper()
	registry := prometheus.NewRegistry()
	m, err := metrics.New(registry, "host-1")
	if err != nil {
		t.Fatal(err)
	}
	m.Watch(snapshot)
	return m, registry
}

func state(d device.Device, r device.Reading) host.DeviceState {
	return host.DeviceState{Device: d, Reading: r, Health: device.Judge(r)}
}

var (
	gpu   = device.Device{ID: "GPU-a", Kind: "Stub 9000", MemoryBytes: 24 << 30, HeadroomBytes: 1 << 30, Index: 1, PCIBusID: "00000000:3B:00.0"}
	slice = device.Device{ID: "MIG-b", ParentID: "GPU-c", MIGProfile: "1g.10gb", Kind: "Stub 9000 MIG 1g.10gb", MemoryBytes: 10 << 30, Index: 2, PCIBusID: "00000000:3C:00.0"}
	lane  = device.Device{ID: "cpu:0", Kind: device.CPULane, MemoryBytes: 1 << 30, HostMemory: true}
)

// GPUs carry dcgm-exporter's names, units and labels, so that its dashboards show
// them; a MIG instance its own memory, its board's figures once; a lane nothing.
func TestDCGM(t *testing.T) {
	t.Parallel()
	reading := device.Reading{MemoryUsedBytes: 3 << 30, Utilization: 0.75, TemperatureCelsius: 61, PowerWatts: 250, SMClockMHz: 1400, XIDs: []uint64{31, 13}}
	other := slice
	other.ID = "MIG-d"
	_, registry := observe(t, func() host.Snapshot {
		return host.Snapshot{Devices: []host.DeviceState{state(gpu, reading), state(slice, reading), state(other, reading), state(lane, reading)}}
	})
	want := `
# HELP DCGM_FI_DEV_FB_USED Framebuffer memory used (in MiB).
# TYPE DCGM_FI_DEV_FB_USED gauge
DCGM_FI_DEV_FB_USED{GPU_I_ID="",GPU_I_PROFILE="",Hostname="host-1",UUID="GPU-a",device="nvidia1",gpu="1",modelName="Stub 9000",pci_bus_id="00000000:3B:00.0"} 3072
DCGM_FI_DEV_FB_USED{GPU_I_ID="0",GPU_I_PROFILE="1g.10gb",Hostname="host-1",UUID="GPU-c",device="nvidia2",gpu="2",modelName="Stub 9000 MIG 1g.10gb",pci_bus_id="00000000:3C:00.0"} 3072
DCGM_FI_DEV_FB_USED{GPU_I_ID="1",GPU_I_PROFILE="1g.10gb",Hostname="host-1",UUID="GPU-c",device="nvidia2",gpu="2",modelName="Stub 9000 MIG 1g.10gb",pci_bus_id="00000000:3C:00.0"} 3072
# HELP DCGM_FI_DEV_GPU_UTIL GPU utilization (in %).
# TYPE DCGM_FI_DEV_GPU_UTIL gauge
DCGM_FI_DEV_GPU_UTIL{GPU_I_ID="",GPU_I_PROFILE="",Hostname="host-1",UUID="GPU-a",device="nvidia1",gpu="1",modelName="Stub 9000",pci_bus_id="00000000:3B:00.0"} 75
# HELP DCGM_FI_DEV_GPU_TEMP GPU temperature (in C).
# TYPE DCGM_FI_DEV_GPU_TEMP gauge
DCGM_FI_DEV_GPU_TEMP{GPU_I_ID="",GPU_I_PROFILE="",Hostname="host-1",UUID="GPU-a",device="nvidia1",gpu="1",modelName="Stub 9000",pci_bus_id="00000000:3B:00.0"} 61
DCGM_FI_DEV_GPU_TEMP{GPU_I_ID="",GPU_I_PROFILE="",Hostname="host-1",UUID="GPU-c",device="nvidia2",gpu="2",modelName="Stub 9000 MIG 1g.10gb",pci_bus_id="00000000:3C:00.0"} 61
# HELP DCGM_FI_DEV_XID_ERRORS Value of the last XID error encountered.
# TYPE DCGM_FI_DEV_XID_ERRORS gauge
DCGM_FI_DEV_XID_ERRORS{GPU_I_ID="",GPU_I_PROFILE="",Hostname="host-1",UUID="GPU-a",device="nvidia1",gpu="1",modelName="Stub 9000",pci_bus_id="00000000:3B:00.0"} 13
DCGM_FI_DEV_XID_ERRORS{GPU_I_ID="0",GPU_I_PROFILE="1g.10gb",Hostname="host-1",UUID="GPU-c",device="nvidia2",gpu="2",modelName="Stub 9000 MIG 1g.10gb",pci_bus_id="00000000:3C:00.0"} 13
DCGM_FI_DEV_XID_ERRORS{GPU_I_ID="1",GPU_I_PROFILE="1g.10gb",Hostname="host-1",UUID="GPU-c",device="nvidia2",gpu="2",modelName="Stub 9000 MIG 1g.10gb",pci_bus_id="00000000:3C:00.0"} 13
`
	if err := testutil.GatherAndCompare(registry, strings.NewReader(want),
		"DCGM_FI_DEV_FB_USED", "DCGM_FI_DEV_GPU_UTIL", "DCGM_FI_DEV_GPU_TEMP", "DCGM_FI_DEV_XID_ERRORS"); err != nil {
		t.Fatal(err)
	}
}

// Time is added up whether or not anyone scrapes: idle, allocated, and busy within
// that. An ill device is none of them.
func TestTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var over atomic.Bool
		held := []host.LeaseState{{Key: lease.Key{JobID: "job", Attempt: 2}, Claims: []lease.Claim{{Device: "GPU-a", Bytes: 4 << 30}}, MemoryBytes: 5 << 30, Phase: host.Running}}
		ill := gpu
		ill.ID = "GPU-ill"
		m, registry := observe(t, func() host.Snapshot {
			leases := held
			if over.Load() {
				leases = nil
			}
			return host.Snapshot{Leases: leases, Devices: []host.DeviceState{
				state(gpu, device.Reading{Utilization: 0.25}), state(lane, device.Reading{}), state(ill, device.Reading{Lost: "gone"}),
			}}
		})
		go func() { _ = m.Run(t.Context()) }() // it returns nil
		time.Sleep(100*time.Second + time.Millisecond)
		over.Store(true)
		time.Sleep(20 * time.Second)
		want := `
# HELP trainyard_gpu_allocated_seconds_total Seconds in which a device was leased to somebody.
# TYPE trainyard_gpu_allocated_seconds_total counter
trainyard_gpu_allocated_seconds_total{device_uuid="GPU-a"} 100
# HELP trainyard_gpu_busy_seconds_total Seconds in which a leased device computed: leased time times its utilization.
# TYPE trainyard_gpu_busy_seconds_total counter
trainyard_gpu_busy_seconds_total{device_uuid="GPU-a"} 25
`
		if err := testutil.GatherAndCompare(registry, strings.NewReader(want), "trainyard_gpu_allocated_seconds_total", "trainyard_gpu_busy_seconds_total"); err != nil {
			t.Fatal(err)
		}
	})
}

// A lease's memory is shown beside what it reserved, while it is held.
func TestLeases(t *testing.T) {
	t.Parallel()
	_, registry := observe(t, func() host.Snapshot {
		return host.Snapshot{
			Leases: []host.LeaseState{
				{Key: lease.Key{JobID: "job", Attempt: 2}, Claims: []lease.Claim{{Device: "GPU-a", Bytes: 4 << 30}}, MemoryBytes: 5 << 30, Phase: host.Running},
				{Key: lease.Key{JobID: "whole", Attempt: 1}, Claims: []lease.Claim{{Device: "MIG-b"}}, Phase: host.Stopping},
			},
			Devices: []host.DeviceState{state(gpu, device.Reading{}), state(slice, device.Reading{})}, Quarantine: "the journal",
			Spool: host.SpoolState{Bytes: 7, Records: 2, Failing: "no space left on device"},
		}
	})
	want := `
# HELP trainyard_agent_quarantined 1 while the host's journal cannot be trusted.
# TYPE trainyard_agent_quarantined gauge
trainyard_agent_quarantined 1
# HELP trainyard_device_healthy 1 while a device takes work.
# TYPE trainyard_device_healthy gauge
trainyard_device_healthy{device_uuid="GPU-a",kind="Stub 9000"} 0
trainyard_device_healthy{device_uuid="MIG-b",kind="Stub 9000 MIG 1g.10gb"} 0
# HELP trainyard_gpu_allocated Memory reserved on a device in bytes.
# TYPE trainyard_gpu_allocated gauge
trainyard_gpu_allocated{device_uuid="GPU-a",kind="Stub 9000"} 4.294967296e+09
trainyard_gpu_allocated{device_uuid="MIG-b",kind="Stub 9000 MIG 1g.10gb"} 1.073741824e+10
# HELP trainyard_lease_memory_bytes Memory that a lease uses on its fullest device.
# TYPE trainyard_lease_memory_bytes gauge
trainyard_lease_memory_bytes{attempt="1",job_id="whole"} 0
trainyard_lease_memory_bytes{attempt="2",job_id="job"} 5.36870912e+09
# HELP trainyard_leases_active Leases held on this host.
# TYPE trainyard_leases_active gauge
trainyard_leases_active{phase="running"} 1
trainyard_leases_active{phase="starting"} 0
trainyard_leases_active{phase="stopping"} 1
# HELP trainyard_spool_failing 1 while a spool cannot be written.
# TYPE trainyard_spool_failing gauge
trainyard_spool_failing 1
`
	if err := testutil.GatherAndCompare(registry, strings.NewReader(want), "trainyard_agent_quarantined", "trainyard_device_healthy", "trainyard_gpu_allocated",
		"trainyard_lease_memory_bytes", "trainyard_leases_active", "trainyard_spool_failing"); err != nil {
		t.Fatal(err)
	}
}

// Ends, refusals and out-of-memories are counted by their class and reason.
func TestCounts(t *testing.T) {
	t.Parallel()
	m, registry := observe(t, func() host.Snapshot { return host.Snapshot{} })
	m.Ended("failed", string(lease.ClassOwnOOM))
	m.Ended("succeeded", "")
	m.TrainRefused("Train", "PROTOCOL_VIOLATION")
	m.TrackingRefused("UNAUTHENTICATED")
	want := `
# HELP trainyard_attempts_ended_total Attempts that ended on this host.
# TYPE trainyard_attempts_ended_total counter
trainyard_attempts_ended_total{class="",outcome="succeeded"} 1
trainyard_attempts_ended_total{class="device oom, own fault",outcome="failed"} 1
# HELP trainyard_mlflow_proxy_refused_total Requests of MLflow clients that were not passed on.
# TYPE trainyard_mlflow_proxy_refused_total counter
trainyard_mlflow_proxy_refused_total{reason="UNAUTHENTICATED"} 1
# HELP trainyard_train_refused_total Calls of trainers that were refused.
# TYPE trainyard_train_refused_total counter
trainyard_train_refused_total{method="Train",reason="PROTOCOL_VIOLATION"} 1
# HELP trainyard_trainer_oom_total Out-of-memory ends.
# TYPE trainyard_trainer_oom_total counter
trainyard_trainer_oom_total{class="device oom, own fault"} 1
`
	if err := testutil.GatherAndCompare(registry, strings.NewReader(want), "trainyard_attempts_ended_total", "trainyard_mlflow_proxy_refused_total",
		"trainyard_train_refused_total", "trainyard_trainer_oom_total"); err != nil {
		t.Fatal(err)
	}
}
