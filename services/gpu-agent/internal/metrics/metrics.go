// Package metrics counts and shows what happens on a host, under the names of
// the fleet's dashboards; GPUs keep dcgm-exporter's names, so that stock
// dashboards work.
package metrics

import (
	"context"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/host"
)

// Metrics implements host.Counters and prometheus.Collector.
type Metrics struct {
	launched, selfFenced, damage, gaps, rejected, verifyFailures prometheus.Counter
	committedBytes, sentBytes                                    prometheus.Counter
	ended                                                        *prometheus.CounterVec
	refused                                                      *prometheus.CounterVec
	oom                                                          *prometheus.CounterVec
	idle, allocated, busy                                        *prometheus.CounterVec
	trainRefused, trackingRefused                                *prometheus.CounterVec
	lastContact                                                  prometheus.Gauge
	saved                                                        prometheus.Histogram

	hostname string

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
// hostname is what dcgm-exporter's dashboards call the host.
func New(registry prometheus.Registerer, hostname string) (*Metrics, error) {
	m := &Metrics{
		hostname:        hostname,
		launched:        counter("trainers_launched_total", "Trainers started on this host."),
		selfFenced:      counter("agent_self_fenced_total", "Times the host ended its trainers because the scheduler was silent for a whole lease."),
		damage:          counter("spool_damage_total", "Spools found damaged at a start."),
		gaps:            counter("train_sequence_gaps_total", "Train streams ended because of a gap in the sequence."),
		rejected:        counter("checkpoint_rejected_total", "Checkpoints and artifacts that failed validation or were refused."),
		verifyFailures:  counter("checkpoint_verify_failures_total", "Checkpoints whose bytes did not match their digest at a restore."),
		committedBytes:  counter("checkpoint_committed_bytes_total", "Bytes of committed checkpoints."),
		sentBytes:       counter("checkpoint_uploaded_bytes_total", "Bytes of committed checkpoints that the store lacked; the rest it had already."),
		ended:           counters("attempts_ended_total", "Attempts that ended on this host.", "outcome", "class"),
		refused:         counters("ingest_refused_total", "Batches that the registry refused for ever.", "reason"),
		oom:             counters("trainer_oom_total", "Out-of-memory ends.", "class"),
		idle:            counters("gpu_idle_seconds_total", "Seconds in which a device was healthy and leased to nobody.", "device_uuid"),
		allocated:       counters("gpu_allocated_seconds_total", "Seconds in which a device was leased to somebody.", "device_uuid"),
		busy:            counters("gpu_busy_seconds_total", "Seconds in which a leased device computed: leased time times its utilization.", "device_uuid"),
		trainRefused:    counters("train_refused_total", "Calls of trainers that were refused.", "method", "reason"),
		trackingRefused: counters("mlflow_proxy_refused_total", "Requests of MLflow clients that were not passed on.", "reason"),
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
		m.launched, m.selfFenced, m.damage, m.gaps, m.rejected, m.verifyFailures, m.committedBytes, m.sentBytes,
		m.ended, m.refused, m.oom, m.idle, m.allocated, m.busy, m.trainRefused, m.trackingRefused, m.lastContact, m,
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
func (m *Metrics) CheckpointCommitted(bytes, sent int64, took time.Duration) {
	m.committedBytes.Add(float64(bytes))
	m.sentBytes.Add(float64(sent))
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

// TrainRefused counts a refused call of a trainer.
func (m *Metrics) TrainRefused(method, reason string) {
	m.trainRefused.WithLabelValues(method, reason).Inc()
}

// TrackingRefused counts a refused request of an MLflow client.
func (m *Metrics) TrackingRefused(reason string) { m.trackingRefused.WithLabelValues(reason).Inc() }

// Contacted notes a good answer of the scheduler.
func (m *Metrics) Contacted() { m.lastContact.SetToCurrentTime() }

// accountEvery is how often the time of the devices is added up, scraped or not.
const accountEvery = time.Second

// Run adds up what the devices do until ctx ends.
func (m *Metrics) Run(ctx context.Context) error {
	ticker := time.NewTicker(accountEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
			m.mu.Lock()
			if m.snapshot != nil {
				m.account(m.snapshot())
			}
			m.mu.Unlock()
		}
	}
}

// account adds the time since the last call to what each device was. With m.mu held.
func (m *Metrics) account(s host.Snapshot) {
	elapsed := time.Since(m.observed).Seconds()
	m.observed = time.Now()
	leased := map[string]bool{}
	for _, l := range s.Leases {
		for _, c := range l.Claims {
			leased[c.Device] = true
		}
	}
	for _, d := range s.Devices {
		switch {
		case leased[d.ID]:
			m.allocated.WithLabelValues(d.ID).Add(elapsed)
			m.busy.WithLabelValues(d.ID).Add(elapsed * min(max(d.Reading.Utilization, 0), 1))
		case d.Health.OK:
			m.idle.WithLabelValues(d.ID).Add(elapsed)
		}
	}
}
