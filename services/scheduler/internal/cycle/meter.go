package cycle

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/job"
)

// Meter holds the scheduler's metrics. Job ids are never labels: they would
// grow without bound.
type Meter struct {
	depth     *prometheus.GaugeVec
	oldest    *prometheus.GaugeVec
	wait      *prometheus.HistogramVec
	leases    prometheus.Gauge
	expiredN  *prometheus.CounterVec
	staleN    *prometheus.CounterVec
	double    prometheus.Counter
	allocated prometheus.Gauge
	capacity  prometheus.Gauge
	planTime  prometheus.Histogram
	planSize  prometheus.Histogram
	placedN   prometheus.Counter
	refusedN  prometheus.Counter
	commitT   prometheus.Histogram
	batch     prometheus.Histogram
	commitErr prometheus.Counter
	moves     *prometheus.CounterVec
	preempts  *prometheus.CounterVec
	archivedN prometheus.Counter
	archErr   prometheus.Counter
}

// NewMeter registers the metrics; a nil registry measures into the void.
func NewMeter(r prometheus.Registerer) *Meter {
	fast := prometheus.ExponentialBuckets(0.0001, 2, 18)
	waits := prometheus.ExponentialBuckets(0.01, 3, 16)
	gauge := func(name, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts{Name: "trainyard_" + name, Help: help})
	}
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: "trainyard_" + name, Help: help})
	}
	histogram := func(name, help string, b []float64) prometheus.Histogram {
		return prometheus.NewHistogram(prometheus.HistogramOpts{Name: "trainyard_" + name, Help: help, Buckets: b})
	}
	m := &Meter{
		depth:     prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "trainyard_queue_depth", Help: "Queued jobs."}, []string{"queue", "priority"}),
		oldest:    prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "trainyard_queue_oldest_age_seconds", Help: "Age of the job that waits longest."}, []string{"queue", "priority"}),
		wait:      prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "trainyard_queue_wait_seconds", Help: "Wait between becoming ready and being placed.", Buckets: waits}, []string{"priority"}),
		leases:    gauge("leases_active", "Live attempts."),
		expiredN:  prometheus.NewCounterVec(prometheus.CounterOpts{Name: "trainyard_lease_expired_total", Help: "Leases that ended without a word from their holder."}, []string{"reason"}),
		staleN:    prometheus.NewCounterVec(prometheus.CounterOpts{Name: "trainyard_stale_fence_rejected_total", Help: "Claims under a fence that is over."}, []string{"rpc"}),
		double:    counter("double_lease_detected_total", "Devices found promised beyond their memory. Must stay 0."),
		allocated: gauge("gpu_allocated", "Devices with at least one holder."),
		capacity:  gauge("gpu_capacity", "Devices of hosts that report."),
		planTime:  histogram("scheduler_plan_seconds", "Time of one planning round.", fast),
		planSize:  histogram("scheduler_plan_jobs", "Jobs looked at in one planning round.", prometheus.ExponentialBuckets(1, 4, 10)),
		placedN:   counter("scheduler_placed_total", "Placements committed."),
		refusedN:  counter("scheduler_stale_plan_total", "Placements refused because the world had moved on."),
		commitT:   histogram("scheduler_commit_seconds", "Time of one commit.", fast),
		batch:     histogram("scheduler_commit_operations", "Operations in one commit.", prometheus.ExponentialBuckets(1, 2, 10)),
		commitErr: counter("scheduler_commit_errors_total", "Commits whose outcome was unknown."),
		archivedN: counter("scheduler_history_archived_total", "Ended jobs that were archived before they left the database."),
		archErr:   counter("scheduler_history_archive_errors_total", "Failures to archive ended jobs; they stay in the database."),
		moves:     prometheus.NewCounterVec(prometheus.CounterOpts{Name: "trainyard_scheduler_decisions_total", Help: "Decisions on jobs."}, []string{"action"}),
	}
	m.preempts = prometheus.NewCounterVec(prometheus.CounterOpts{Name: "trainyard_scheduler_preemptions_total", Help: "Attempts told to stop for a job of a higher class."}, []string{"priority"})
	if r != nil {
		r.MustRegister(m.depth, m.oldest, m.wait, m.leases, m.expiredN, m.staleN, m.double, m.allocated, m.capacity,
			m.planTime, m.planSize, m.placedN, m.refusedN, m.commitT, m.batch, m.commitErr, m.moves, m.preempts, m.archivedN, m.archErr)
	}
	return m
}

type levels struct {
	depth     map[job.Priority]int
	oldest    map[job.Priority]time.Duration
	leases    int
	allocated int
	capacity  int
	double    int
}

const queueLabel = "default"

func (m *Meter) levels(l levels) {
	for p := job.Batch; p <= job.Production; p++ {
		m.depth.WithLabelValues(queueLabel, p.String()).Set(float64(l.depth[p]))
		m.oldest.WithLabelValues(queueLabel, p.String()).Set(l.oldest[p].Seconds())
	}
	m.leases.Set(float64(l.leases))
	m.allocated.Set(float64(l.allocated))
	m.capacity.Set(float64(l.capacity))
	m.double.Add(float64(l.double))
}

func (m *Meter) commit(d time.Duration, operations int, err error) {
	m.commitT.Observe(d.Seconds())
	m.batch.Observe(float64(operations))
	if err != nil {
		m.commitErr.Inc()
	}
}

func (m *Meter) plan(d time.Duration, jobs int) {
	m.planTime.Observe(d.Seconds())
	m.planSize.Observe(float64(jobs))
}

func (m *Meter) placed(placed, refused int) {
	m.placedN.Add(float64(placed))
	m.refusedN.Add(float64(refused))
}

func (m *Meter) waited(priority string, d time.Duration) {
	m.wait.WithLabelValues(priority).Observe(d.Seconds())
}

func (m *Meter) preempted(priority string) { m.preempts.WithLabelValues(priority).Inc() }

func (m *Meter) archive(jobs int, err error) {
	m.archivedN.Add(float64(jobs))
	if err != nil {
		m.archErr.Inc()
	}
}

func (m *Meter) stale(rpc string, n int) { m.staleN.WithLabelValues(rpc).Add(float64(n)) }

func (m *Meter) expired(reason string, n int) { m.expiredN.WithLabelValues(reason).Add(float64(n)) }

func (m *Meter) decisions(d []Decision) {
	for _, x := range d {
		m.moves.WithLabelValues(x.Action).Inc()
	}
}
