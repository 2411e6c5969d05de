// Package metrics counts what the janitor plans and does. Names and labels are
// those of the alerts: they are part of the interface.
package metrics

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/ultrathink-pilot/trainyard/services/checkpoint-janitor/internal/drill"
	"github.com/ultrathink-pilot/trainyard/services/checkpoint-janitor/internal/inventory"
	"github.com/ultrathink-pilot/trainyard/services/checkpoint-janitor/internal/retention"
	"github.com/ultrathink-pilot/trainyard/services/checkpoint-janitor/internal/scrub"
	"github.com/ultrathink-pilot/trainyard/services/checkpoint-janitor/internal/sweep"
	"github.com/ultrathink-pilot/trainyard/services/checkpoint-janitor/internal/usage"
)

// Janitor holds the service's metrics.
type Janitor struct {
	planObjects  *prometheus.GaugeVec
	classBytes   *prometheus.GaugeVec
	bucketBytes  prometheus.Gauge
	capacity     prometheus.Gauge
	usedRatio    prometheus.Gauge
	growth       prometheus.Gauge
	alert        *prometheus.GaugeVec
	missing      prometheus.Gauge
	mismatched   prometheus.Gauge
	uncatalogued prometheus.Gauge
	sweeps       *prometheus.CounterVec
	refusals     *prometheus.CounterVec
	work         *prometheus.CounterVec
	freed        prometheus.Counter
	scrubbed     prometheus.Counter
	corrupt      prometheus.Counter
	repaired     prometheus.Counter
	coldBytes    prometheus.Gauge
	coldContent  prometheus.Gauge
	orphans      prometheus.Gauge
	archived     *prometheus.CounterVec
	lastDrill    prometheus.Gauge
	drills       *prometheus.CounterVec
	webhooks     *prometheus.CounterVec
	scrubOldest  prometheus.Gauge
	lastSuccess  prometheus.Gauge
	lastPlan     prometheus.Gauge
}

// New registers the metrics.
func New(r prometheus.Registerer) *Janitor {
	gauge := func(name, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts{Namespace: "trainyard", Name: name, Help: help})
	}
	gauges := func(name, help string, labels ...string) *prometheus.GaugeVec {
		return prometheus.NewGaugeVec(prometheus.GaugeOpts{Namespace: "trainyard", Name: name, Help: help}, labels)
	}
	counters := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "trainyard", Name: name, Help: help}, labels)
	}
	m := &Janitor{
		planObjects:  gauges("janitor_plan_objects", "Checkpoints in the newest plan by decision and deciding reason.", "decision", "reason"),
		classBytes:   gauges("checkpoint_bytes", "Bytes of checkpoints by class; shared contents count for each.", "state"),
		bucketBytes:  gauge("janitor_bucket_bytes", "Bytes of all objects in the bucket."),
		capacity:     gauge("janitor_capacity_bytes", "Capacity of the store; 0 when unknown."),
		usedRatio:    gauge("janitor_disk_used_ratio", "Used part of the capacity, 0 to 1; 0 when unknown."),
		growth:       gauge("janitor_disk_growth_bytes_per_day", "Growth of the bucket over the last 7 days."),
		alert:        gauges("janitor_alert", "1 while the named alert is open.", "alert"),
		missing:      gauge("janitor_missing_objects", "Catalogued contents that the bucket lacks."),
		mismatched:   gauge("janitor_mismatched_objects", "Objects whose size is not the catalogued one."),
		uncatalogued: gauge("janitor_uncatalogued_bytes", "Bytes of objects that no checkpoint holds: run artifacts and leftovers."),
		sweeps:       counters("janitor_sweeps_total", "Ended sweeps.", "trigger", "state"),
		refusals:     counters("janitor_refusals_total", "Sweeps held back, by cap.", "reason"),
		work:         counters("janitor_tasks_total", "Tasks of sweeps that are over.", "task", "outcome"),
		freed:        prometheus.NewCounter(prometheus.CounterOpts{Namespace: "trainyard", Name: "janitor_freed_bytes_total", Help: "Bytes deleted from the bucket."}),
		scrubbed:     prometheus.NewCounter(prometheus.CounterOpts{Namespace: "trainyard", Name: "janitor_scrubbed_bytes_total", Help: "Bytes read back and compared."}),
		corrupt: prometheus.NewCounter(prometheus.CounterOpts{Namespace: "trainyard", Name: "checkpoint_verify_failures_total",
			Help: "Objects whose bytes did not match their digest."}),
		repaired: prometheus.NewCounter(prometheus.CounterOpts{Namespace: "trainyard", Name: "janitor_repaired_objects_total",
			Help: "Bad objects whose content was taken from another copy."}),
		coldBytes:   gauge("janitor_cold_bytes", "Bytes of packed copies in the cold tier."),
		coldContent: gauge("janitor_cold_content_bytes", "Bytes of the contents that the packed copies stand for."),
		orphans:     gauge("janitor_orphan_bytes", "Bytes of objects of ours that nothing refers to."),
		archived:    counters("janitor_archived_bytes_total", "Bytes of archived checkpoints: before, in the cold tier, and given up.", "kind"),
		lastDrill:   gauge("janitor_last_drill_timestamp_seconds", "When the last restore drill passed; 0 when none has."),
		drills:      counters("janitor_drills_total", "Restore drills.", "outcome"),
		webhooks:    counters("janitor_webhooks_total", "Reports sent to the webhook.", "outcome"),
		scrubOldest: gauge("janitor_scrub_oldest_timestamp_seconds", "When the object that waits longest was last read back; 0 when one never was."),
		lastSuccess: gauge("janitor_last_success_timestamp_seconds", "When the last sweep was done."),
		lastPlan:    gauge("janitor_last_plan_timestamp_seconds", "When the last plan was made."),
	}
	r.MustRegister(m.planObjects, m.classBytes, m.bucketBytes, m.capacity, m.usedRatio, m.growth, m.alert, m.missing, m.mismatched,
		m.uncatalogued, m.sweeps, m.refusals, m.work, m.freed, m.scrubbed, m.corrupt, m.repaired, m.coldBytes, m.coldContent,
		m.orphans, m.archived, m.lastDrill, m.drills, m.webhooks, m.scrubOldest, m.lastSuccess, m.lastPlan)
	return m
}

// Planned shows the newest plan and stock.
func (m *Janitor) Planned(plan retention.Plan, stock inventory.Stock) {
	m.planObjects.Reset()
	for _, t := range plan.ByReason() {
		m.planObjects.WithLabelValues(t.Verdict.String(), string(t.Code)).Set(float64(t.Objects))
	}
	m.classBytes.Reset()
	for _, c := range usage.Classes(plan) {
		m.classBytes.WithLabelValues(c.Name).Set(float64(c.Bytes))
	}
	m.bucketBytes.Set(float64(stock.BucketBytes))
	m.capacity.Set(float64(stock.Usage.CapacityBytes))
	m.usedRatio.Set(stock.Usage.Fraction())
	m.missing.Set(float64(stock.Bucket.Missing))
	m.mismatched.Set(float64(len(stock.Mismatched)))
	m.uncatalogued.Set(float64(stock.Uncatalogued.Bytes))
	m.coldBytes.Set(float64(stock.ColdBytes))
	m.coldContent.Set(float64(stock.ColdContent))
	m.orphans.Set(float64(stock.Bucket.OrphanBytes))
	m.lastPlan.Set(float64(plan.Now.Unix()))
}

// Grew shows the growth and which alerts are open.
func (m *Janitor) Grew(perDay float64, open map[string]bool) {
	m.growth.Set(perDay)
	for name, is := range open {
		v := 0.0
		if is {
			v = 1
		}
		m.alert.WithLabelValues(name).Set(v)
	}
}

// SweepEnded counts a sweep.
func (m *Janitor) SweepEnded(w sweep.Sweep, at time.Time) {
	m.sweeps.WithLabelValues(w.Trigger, string(w.State)).Inc()
	for _, r := range w.RefusalCodes {
		m.refusals.WithLabelValues(string(r)).Inc()
	}
	if w.State == sweep.Done {
		m.lastSuccess.Set(float64(at.Unix()))
	}
}

// Scrubbed counts a round of reading back.
func (m *Janitor) Scrubbed(r scrub.Result) {
	m.scrubbed.Add(float64(r.Bytes))
	for _, f := range r.Bad {
		m.corrupt.Inc()
		if f.Repaired {
			m.repaired.Inc()
		}
	}
	oldest := 0.0
	if !r.Oldest.IsZero() {
		oldest = float64(r.Oldest.Unix())
	}
	m.scrubOldest.Set(oldest)
}

// WorkDone counts a task.
func (m *Janitor) WorkDone(w sweep.Work) {
	m.work.WithLabelValues(w.Task.String(), w.Phase.String()).Inc()
	m.freed.Add(float64(w.FreedBytes))
	if w.Task == retention.TaskArchive && w.Phase == retention.PhaseDone {
		m.archived.WithLabelValues("before").Add(float64(w.Bytes))
		m.archived.WithLabelValues("cold").Add(float64(w.ColdBytes))
		m.archived.WithLabelValues("dropped").Add(float64(w.DroppedBytes))
	}
}

// Removed counts objects that the registry had released.
func (m *Janitor) Removed(_ int, bytes int64) { m.freed.Add(float64(bytes)) }

// Drilled counts a restore drill.
func (m *Janitor) Drilled(r drill.Record) {
	if len(r.Failures) > 0 {
		m.drills.WithLabelValues("failed").Inc()
		return
	}
	m.drills.WithLabelValues("passed").Inc()
	m.lastDrill.Set(float64(r.EndTime.Unix()))
}

// Sent counts a report to the webhook.
func (m *Janitor) Sent(err error) {
	outcome := "sent"
	if err != nil {
		outcome = "failed"
	}
	m.webhooks.WithLabelValues(outcome).Inc()
}
