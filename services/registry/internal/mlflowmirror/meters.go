package mlflowmirror

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

type meters struct {
	lag, pending, dead, open prometheus.Gauge
	delivered, divergence    *prometheus.CounterVec
}

func newMeters(r prometheus.Registerer) (meters, error) {
	gauge := func(name, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts{Name: "trainyard_mirror_" + name, Help: help})
	}
	m := meters{
		lag:     gauge("lag_seconds", "Age of the oldest change that the MLflow server has not got."),
		pending: gauge("pending_rows", "Changes that wait for the MLflow server."),
		dead:    gauge("dead_letters", "Changes that the MLflow server refused for good and that a person must look at."),
		open:    gauge("breaker_open", "1 while the MLflow server is left alone because it does not answer."),
		delivered: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "trainyard_mirror_delivered_total",
			Help: "Changes that arrived at the MLflow server."}, []string{"kind"}),
		divergence: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "trainyard_mirror_divergence_total",
			Help: "Differences that a comparison with the MLflow server found."}, []string{"kind"}),
	}
	for _, c := range []prometheus.Collector{m.lag, m.pending, m.dead, m.open, m.delivered, m.divergence} {
		if err := r.Register(c); err != nil {
			return m, err
		}
	}
	return m, nil
}

// observe refreshes the gauges; what cannot be read keeps its last value.
func (m *Mirror) observe(ctx context.Context) {
	state, err := m.Store.Backlog(ctx)
	if err != nil {
		return
	}
	now := time.Now()
	lag := 0.0
	if !state.Oldest.IsZero() {
		lag = now.Sub(state.Oldest).Seconds()
	}
	m.meters.lag.Set(lag)
	m.meters.pending.Set(float64(state.Pending))
	m.meters.dead.Set(float64(state.Dead))
	open := 0.0
	if m.breaker.rest(now) > 0 {
		open = 1
	}
	m.meters.open.Set(open)
}

// Resting is how long the breaker leaves the server alone; 0 when it does not.
func (m *Mirror) Resting() time.Duration { return m.breaker.rest(time.Now()) }
