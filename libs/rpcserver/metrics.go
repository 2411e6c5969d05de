package rpcserver

import (
	"errors"
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
)

// serverMetrics follows OpenTelemetry's name for the duration
// (rpc.server.call.duration) in Prometheus form.
type serverMetrics struct {
	duration *prometheus.HistogramVec
	panics   *prometheus.CounterVec
	denied   *prometheus.CounterVec
}

func newMetrics(reg prometheus.Registerer) (*serverMetrics, error) {
	m := &serverMetrics{
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "rpc_server_call_duration_seconds",
			Help:    "How long calls took, by method and status code; a stream counts when it ends.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60},
		}, []string{"rpc_method", "rpc_status_code"}),
		panics: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "trainyard_rpc_panics_total", Help: "Handlers that panicked; each one is a bug.",
		}, []string{"rpc_method"}),
		denied: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "trainyard_rpc_denied_total", Help: "Calls refused before their handler, by cause: unauthenticated or role.",
		}, []string{"rpc_method", "cause"}),
	}
	if reg == nil {
		return m, nil
	}
	// A process with two servers (the agent) shares the metrics between them.
	var err error
	if m.duration, err = register(reg, m.duration); err != nil {
		return nil, err
	}
	if m.panics, err = register(reg, m.panics); err != nil {
		return nil, err
	}
	m.denied, err = register(reg, m.denied)
	return m, err
}

func register[C prometheus.Collector](reg prometheus.Registerer, c C) (C, error) {
	err := reg.Register(c)
	var are prometheus.AlreadyRegisteredError
	if errors.As(err, &are) {
		if known, ok := are.ExistingCollector.(C); ok {
			return known, nil
		}
	}
	if err != nil {
		return c, fmt.Errorf("register the server's metrics: %w", err)
	}
	return c, nil
}
