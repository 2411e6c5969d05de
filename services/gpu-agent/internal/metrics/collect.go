package metrics

import (
	"fmt"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/device"
	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/host"
)

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(name, help, labels, nil)
}

var (
	leasesActive  = desc("trainyard_leases_active", "Leases held on this host.", "phase")
	leaseMemory   = desc("trainyard_lease_memory_bytes", "Memory that a lease uses on its fullest device.", "job_id", "attempt")
	leaseReserved = desc("trainyard_lease_reserved_bytes", "Memory that a lease reserved on all its devices; 0 means whole devices.", "job_id", "attempt")
	exitsPending  = desc("trainyard_exits_pending", "Exits that the scheduler has not recorded yet.")
	quarantined   = desc("trainyard_agent_quarantined", "1 while the host's journal cannot be trusted.")
	spoolBytes    = desc("trainyard_spool_bytes", "Bytes that the registry has not made durable yet.")
	spoolRecords  = desc("trainyard_spool_records", "Records that the registry has not made durable yet.")
	spoolOldest   = desc("trainyard_spool_oldest_seconds", "Age of the oldest record that the registry has not made durable yet.")
	ackLag        = desc("trainyard_metric_ack_lag_seconds", "How far the registry is behind the host: the age of its oldest missing record.")
	spoolFailing  = desc("trainyard_spool_failing", "1 while a spool cannot be written.")
	gpuCapacity   = desc("trainyard_gpu_capacity", "Memory of a device in bytes.", "device_uuid", "kind")
	gpuAllocated  = desc("trainyard_gpu_allocated", "Memory reserved on a device in bytes.", "device_uuid", "kind")
	deviceHealthy = desc("trainyard_device_healthy", "1 while a device takes work.", "device_uuid", "kind")
	lastStep      = desc("trainyard_trainer_last_step_timestamp_seconds", "Last time that any trainer of the device made a step.", "device_uuid")
)

// scope says what a figure is of.
type scope int

const (
	unit  scope = iota // a GPU or a MIG instance
	board              // a GPU, said once for all its instances
	whole              // a GPU that is not in MIG mode: instances have no such figure
)

// dcgm are the figures that dcgm-exporter has too, under its names, units and labels.
var dcgm = []struct {
	desc  *prometheus.Desc
	kind  prometheus.ValueType
	scope scope
	value func(device.Device, device.Reading) float64
}{
	{dcgmDesc("DEV_GPU_UTIL", "GPU utilization (in %)."), prometheus.GaugeValue, whole, func(_ device.Device, r device.Reading) float64 { return r.Utilization * 100 }},
	{dcgmDesc("DEV_MEM_COPY_UTIL", "Memory utilization (in %)."), prometheus.GaugeValue, whole, func(_ device.Device, r device.Reading) float64 { return r.MemoryUtilization * 100 }},
	{dcgmDesc("DEV_FB_USED", "Framebuffer memory used (in MiB)."), prometheus.GaugeValue, unit, func(_ device.Device, r device.Reading) float64 { return mebi(r.MemoryUsedBytes) }},
	{dcgmDesc("DEV_FB_FREE", "Framebuffer memory free (in MiB)."), prometheus.GaugeValue, unit, func(d device.Device, r device.Reading) float64 { return mebi(d.MemoryBytes - r.MemoryUsedBytes) }},
	{dcgmDesc("DEV_FB_TOTAL", "Framebuffer memory (in MiB)."), prometheus.GaugeValue, unit, func(d device.Device, _ device.Reading) float64 { return mebi(d.MemoryBytes) }},
	{dcgmDesc("DEV_GPU_TEMP", "GPU temperature (in C)."), prometheus.GaugeValue, board, func(_ device.Device, r device.Reading) float64 { return r.TemperatureCelsius }},
	{dcgmDesc("DEV_POWER_USAGE", "Power draw (in W)."), prometheus.GaugeValue, board, func(_ device.Device, r device.Reading) float64 { return r.PowerWatts }},
	{dcgmDesc("DEV_POWER_MGMT_LIMIT", "Power limit (in W)."), prometheus.GaugeValue, board, func(_ device.Device, r device.Reading) float64 { return r.PowerLimitWatts }},
	{dcgmDesc("DEV_SM_CLOCK", "SM clock frequency (in MHz)."), prometheus.GaugeValue, board, func(_ device.Device, r device.Reading) float64 { return r.SMClockMHz }},
	{dcgmDesc("DEV_MEM_CLOCK", "Memory clock frequency (in MHz)."), prometheus.GaugeValue, board, func(_ device.Device, r device.Reading) float64 { return r.MemoryClockMHz }},
	{dcgmDesc("DEV_CLOCK_THROTTLE_REASONS", "Current clock throttle reasons (bitmask)."), prometheus.GaugeValue, board, func(_ device.Device, r device.Reading) float64 { return float64(r.Throttle) }},
	{dcgmDesc("DEV_XID_ERRORS", "Value of the last XID error encountered."), prometheus.GaugeValue, unit, lastXID},
	{dcgmDesc("DEV_ECC_DBE_VOL_TOTAL", "Total number of double-bit volatile ECC errors."), prometheus.CounterValue, board, func(_ device.Device, r device.Reading) float64 { return float64(r.UncorrectableECC) }},
	{dcgmDesc("DEV_ECC_SBE_VOL_TOTAL", "Total number of single-bit volatile ECC errors."), prometheus.CounterValue, board, func(_ device.Device, r device.Reading) float64 { return float64(r.CorrectableECC) }},
	{dcgmDesc("DEV_UNCORRECTABLE_REMAPPED_ROWS", "Number of remapped rows for uncorrectable errors."), prometheus.CounterValue, board, func(_ device.Device, r device.Reading) float64 { return float64(r.RemappedRows) }},
	{dcgmDesc("DEV_ROW_REMAP_FAILURE", "Whether remapping of rows has failed."), prometheus.GaugeValue, board, func(_ device.Device, r device.Reading) float64 { return one(r.RowRemapFailed) }},
}

func dcgmDesc(name, help string) *prometheus.Desc {
	return desc("DCGM_FI_"+name, help, "gpu", "UUID", "pci_bus_id", "device", "modelName", "Hostname", "GPU_I_ID", "GPU_I_PROFILE")
}

func mebi(bytes int64) float64 { return float64(bytes >> 20) }

func lastXID(_ device.Device, r device.Reading) float64 {
	if len(r.XIDs) == 0 {
		return 0
	}
	return float64(r.XIDs[len(r.XIDs)-1])
}

var phases = map[host.Phase]string{host.Starting: "starting", host.Running: "running", host.Stopping: "stopping"}

// Describe implements prometheus.Collector.
func (m *Metrics) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		leasesActive, leaseMemory, leaseReserved, exitsPending, quarantined, spoolBytes, spoolRecords, spoolOldest, ackLag, spoolFailing,
		gpuCapacity, gpuAllocated, deviceHealthy, lastStep,
	} {
		out <- d
	}
	for _, f := range dcgm {
		out <- f.desc
	}
}

// Collect implements prometheus.Collector.
func (m *Metrics) Collect(out chan<- prometheus.Metric) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.snapshot == nil {
		return
	}
	s := m.snapshot()
	m.account(s)
	gauge := func(d *prometheus.Desc, value float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, labels...)
	}
	byPhase := map[host.Phase]int{}
	allocated, whole, step := map[string]int64{}, map[string]bool{}, map[string]time.Time{}
	for _, l := range s.Leases {
		byPhase[l.Phase]++
		var reserved int64
		for _, c := range l.Claims {
			reserved += c.Bytes
			allocated[c.Device] += c.Bytes
			whole[c.Device] = whole[c.Device] || c.Bytes == 0
			if l.LastStep.After(step[c.Device]) {
				step[c.Device] = l.LastStep
			}
		}
		attempt := strconv.FormatUint(uint64(l.Attempt), 10)
		gauge(leaseMemory, float64(l.MemoryBytes), l.JobID, attempt)
		gauge(leaseReserved, float64(reserved), l.JobID, attempt)
	}
	for phase, name := range phases {
		gauge(leasesActive, float64(byPhase[phase]), name)
	}
	gauge(exitsPending, float64(len(s.Exits)))
	gauge(quarantined, one(s.Quarantine != ""))
	gauge(spoolBytes, float64(s.Spool.Bytes))
	gauge(spoolRecords, float64(s.Spool.Records))
	age := 0.0
	if !s.Spool.Oldest.IsZero() {
		age = time.Since(s.Spool.Oldest).Seconds()
	}
	gauge(spoolOldest, age)
	gauge(ackLag, age)
	gauge(spoolFailing, one(s.Spool.Failing != ""))
	for _, d := range s.Devices {
		reserved := allocated[d.ID]
		if whole[d.ID] {
			reserved = d.MemoryBytes - d.HeadroomBytes
		}
		gauge(gpuCapacity, float64(d.MemoryBytes), d.ID, d.Kind)
		gauge(gpuAllocated, float64(reserved), d.ID, d.Kind)
		gauge(deviceHealthy, one(d.Health.OK && s.Quarantine == ""), d.ID, d.Kind)
		if at := step[d.ID]; !at.IsZero() {
			gauge(lastStep, float64(at.UnixMilli())/1000, d.ID)
		}
	}
	m.collectGPUs(out, s.Devices)
}

// collectGPUs shows GPUs and MIG instances as dcgm-exporter would; a CPU lane is
// no GPU and does not pose as one.
func (m *Metrics) collectGPUs(out chan<- prometheus.Metric, devices []host.DeviceState) {
	instances := map[string]int{}
	for _, d := range devices {
		if d.Kind == device.CPULane || d.Reading.Lost != "" {
			continue
		}
		uuid, instance := d.ID, ""
		if d.ParentID != "" {
			uuid, instance = d.ParentID, strconv.Itoa(instances[d.ParentID])
			instances[d.ParentID]++
		}
		for _, f := range dcgm {
			if d.ParentID != "" && (f.scope == whole || f.scope == board && instance != "0") {
				continue
			}
			id, profile := instance, d.MIGProfile
			if f.scope == board {
				id, profile = "", ""
			}
			out <- prometheus.MustNewConstMetric(f.desc, f.kind, f.value(d.Device, d.Reading),
				strconv.Itoa(d.Index), uuid, d.PCIBusID, fmt.Sprintf("nvidia%d", d.Index), d.Kind, m.hostname, id, profile)
		}
	}
}

func one(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
