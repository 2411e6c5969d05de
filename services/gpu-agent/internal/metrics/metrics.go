// Package metrics counts and shows what happens on a host, under the names of
// the fleet's dashboards; GPUs keep dcgm-exporter's names, so that stock
// dashboards work.
package metrics

import (
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/device"
	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/host"
)

// Metrics implements host.Counters and prometheus.Collector.
type Metrics struct {
	launched, selfFenced, damage, gaps, rejected, verifyFailures prometheus.Counter
	committedBytes                                               prometheus.Counter
	ended                                                        *prometheus.CounterVec
	refused                                                      *prometheus.CounterVec
	oom                                                          *prometheus.CounterVec
	idle                                                         *prometheus.CounterVec
	lastContact                                                  prometheus.Gauge
	saved                                                        prometheus.Histogram

	mu       sync.Mutex
	snapshot func() host.Snapshot
	observed time.Time
}

func counter(name, help string) prometheus.Counter {
	return prometheus.NewCounter(prometheus.CounterOpts{Namespace: "trainyard", Name: name, Help: help})
}

func counters(name, help string, labels ...string) *prometheus.CounterVec {
	return prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "trainyard", Name: name, Help: help}, labels)
}

// New registers the metrics. Watch gives them a host later: the host needs them first.
func New(registry prometheus.Registerer) (*Metrics, error) {
	m := &Metrics{
		launched:       counter("trainers_launched_total", "Trainers started on this host."),
		selfFenced:     counter("agent_self_fenced_total", "Times the host ended its trainers because the scheduler was silent for a whole lease."),
		damage:         counter("spool_damage_total", "Spools found damaged at a start."),
		gaps:           counter("train_sequence_gaps_total", "Train streams ended because of a gap in the sequence."),
		rejected:       counter("checkpoint_rejected_total", "Checkpoints and artifacts that failed validation or were refused."),
		verifyFailures: counter("checkpoint_verify_failures_total", "Checkpoints whose bytes did not match their digest at a restore."),
		committedBytes: counter("checkpoint_committed_bytes_total", "Bytes of committed checkpoints."),
		ended:          counters("attempts_ended_total", "Attempts that ended on this host.", "outcome", "class"),
		refused:        counters("ingest_refused_total", "Batches that the registry refused for ever.", "reason"),
		oom:            counters("trainer_oom_total", "Out-of-memory ends.", "class"),
		idle:           counters("gpu_idle_seconds_total", "Seconds in which a device was healthy and leased to nobody.", "device_uuid"),
		lastContact: prometheus.NewGauge(prometheus.GaugeOpts{
			Namespace: "trainyard", Name: "agent_last_contact_timestamp_seconds", Help: "Last good answer of the scheduler.",
		}),
	}
	m.saved = prometheus.NewHistogram(prometheus.HistogramOpts{
		Namespace: "trainyard", Name: "checkpoint_save_seconds", Help: "Time from a pushed checkpoint to its commit.",
		Buckets: prometheus.ExponentialBuckets(0.01, 2.5, 12),
	})
	for _, c := range []prometheus.Collector{
		m.saved,
		m.launched, m.selfFenced, m.damage, m.gaps, m.rejected, m.verifyFailures, m.committedBytes,
		m.ended, m.refused, m.oom, m.idle, m.lastContact, m,
	} {
		if err := registry.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// Watch begins to show a host's state.
func (m *Metrics) Watch(snapshot func() host.Snapshot) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.snapshot, m.observed = snapshot, time.Now()
}

// Launched implements host.Counters.
func (m *Metrics) Launched() { m.launched.Inc() }

// Ended implements host.Counters.
func (m *Metrics) Ended(outcome, class string) {
	m.ended.WithLabelValues(outcome, class).Inc()
	if class == "device oom, own fault" || class == "device oom, a neighbour's fault" || class == "host oom" {
		m.oom.WithLabelValues(class).Inc()
	}
}

// BatchRefused implements host.Counters.
func (m *Metrics) BatchRefused(reason string) { m.refused.WithLabelValues(reason).Inc() }

// CheckpointCommitted implements host.Counters.
func (m *Metrics) CheckpointCommitted(bytes int64, took time.Duration) {
	m.committedBytes.Add(float64(bytes))
	m.saved.Observe(took.Seconds())
}

// CheckpointRejected implements host.Counters.
func (m *Metrics) CheckpointRejected() { m.rejected.Inc() }

// CheckpointCorrupt counts a failed verification.
func (m *Metrics) CheckpointCorrupt() { m.verifyFailures.Inc() }

// SpoolDamage implements host.Counters.
func (m *Metrics) SpoolDamage() { m.damage.Inc() }

// SelfFenced implements host.Counters.
func (m *Metrics) SelfFenced() { m.selfFenced.Inc() }

// SequenceGap implements host.Counters.
func (m *Metrics) SequenceGap() { m.gaps.Inc() }

// Contacted notes a good answer of the scheduler.
func (m *Metrics) Contacted() { m.lastContact.SetToCurrentTime() }

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(name, help, labels, nil)
}

var (
	leasesActive  = desc("trainyard_leases_active", "Leases held on this host.", "phase")
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
	gpuUtil       = desc("DCGM_FI_DEV_GPU_UTIL", "GPU utilization (in %).", "UUID", "modelName")
	gpuUsed       = desc("DCGM_FI_DEV_FB_USED", "Framebuffer memory used (in MiB).", "UUID", "modelName")
	gpuTemp       = desc("DCGM_FI_DEV_GPU_TEMP", "GPU temperature (in C).", "UUID", "modelName")
	gpuPower      = desc("DCGM_FI_DEV_POWER_USAGE", "Power draw (in W).", "UUID", "modelName")
	gpuXID        = desc("DCGM_FI_DEV_XID_ERRORS", "Value of the last XID error encountered.", "UUID", "modelName")
)

var phases = map[host.Phase]string{host.Starting: "starting", host.Running: "running", host.Stopping: "stopping"}

// Describe implements prometheus.Collector.
func (m *Metrics) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		leasesActive, exitsPending, quarantined, spoolBytes, spoolRecords, spoolOldest, ackLag, spoolFailing, gpuCapacity,
		gpuAllocated, deviceHealthy, lastStep, gpuUtil, gpuUsed, gpuTemp, gpuPower, gpuXID,
	} {
		out <- d
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
	gauge := func(d *prometheus.Desc, value float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, labels...)
	}
	byPhase := map[host.Phase]int{}
	allocated, whole, leased, step := map[string]int64{}, map[string]bool{}, map[string]bool{}, map[string]time.Time{}
	for _, l := range s.Leases {
		byPhase[l.Phase]++
		for _, c := range l.Claims {
			allocated[c.Device] += c.Bytes
			whole[c.Device] = whole[c.Device] || c.Bytes == 0
			leased[c.Device] = true
			if l.LastStep.After(step[c.Device]) {
				step[c.Device] = l.LastStep
			}
		}
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
	elapsed := time.Since(m.observed).Seconds()
	m.observed = time.Now()
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
		if d.Health.OK && !leased[d.ID] {
			m.idle.WithLabelValues(d.ID).Add(elapsed)
		}
		if d.Kind == device.CPULane {
			continue // a lane is no GPU and does not pose as one
		}
		r := d.Reading
		gauge(gpuUtil, r.Utilization*100, d.ID, d.Kind)
		gauge(gpuUsed, float64(r.MemoryUsedBytes>>20), d.ID, d.Kind)
		gauge(gpuTemp, r.TemperatureCelsius, d.ID, d.Kind)
		gauge(gpuPower, r.PowerWatts, d.ID, d.Kind)
		xid := 0.0
		if len(r.XIDs) > 0 {
			xid = float64(r.XIDs[len(r.XIDs)-1])
		}
		gauge(gpuXID, xid, d.ID, d.Kind)
	}
}

func one(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
