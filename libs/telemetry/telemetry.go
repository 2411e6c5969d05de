// Package telemetry gives a process its logger, tracer and metrics, and carries a
// trace through places that gRPC metadata does not reach: a database row, a
// lease, a child's environment. A job's work outlives the call that asked for it,
// so its trace context is data here and not only a header.
package telemetry

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// Config says what a process calls itself and where its signals go.
type Config struct {
	Service string
	Version string
	// OTLPEndpoint is host:port of an OTLP gRPC receiver, or an http:// or https://
	// URL; https means TLS. Empty exports nothing: spans still get ids, so logs
	// and rows can be joined.
	OTLPEndpoint string
	// LogLevel is debug, info, warn or error; empty means info.
	LogLevel string
	// AdminAddress serves /metrics, and on a loopback address also /debug/pprof.
	// Empty serves neither.
	AdminAddress string
}

// Telemetry holds the process's signals.
type Telemetry struct {
	Log     *zap.Logger
	Metrics *prometheus.Registry

	provider *sdktrace.TracerProvider
	admin    string
}

// exportTimeout bounds one export and the flush at shutdown: a collector that is
// away must not hold a stopping process.
const exportTimeout = 5 * time.Second

// Start sets the global OpenTelemetry provider and the W3C propagator of this
// process. A collector that is down delays nothing: spans are batched, retried and
// finally dropped. Call Shutdown last.
func Start(ctx context.Context, cfg Config) (*Telemetry, error) {
	if cfg.Service == "" {
		return nil, errors.New("telemetry: the service has no name")
	}
	log, err := newLogger(cfg)
	if err != nil {
		return nil, err
	}
	opts := []sdktrace.TracerProviderOption{
		// Parent-based with everything sampled: one trace per job is the product's
		// promise, and jobs are few next to requests of a web site.
		sdktrace.WithSampler(sdktrace.ParentBased(sdktrace.AlwaysSample())),
		sdktrace.WithResource(resource.NewSchemaless(
			attribute.String("service.name", cfg.Service),
			attribute.String("service.version", cfg.Version),
			attribute.Int("process.pid", os.Getpid()),
		)),
	}
	if cfg.OTLPEndpoint != "" {
		exporter, err := newExporter(ctx, cfg.OTLPEndpoint)
		if err != nil {
			return nil, err
		}
		opts = append(opts, sdktrace.WithBatcher(exporter, sdktrace.WithBatchTimeout(time.Second)))
	}
	provider := sdktrace.NewTracerProvider(opts...)
	otel.SetTracerProvider(provider)
	otel.SetTextMapPropagator(propagator)
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) { log.Warn("telemetry export", zap.Error(err)) }))

	metrics := prometheus.NewRegistry()
	metrics.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "trainyard_build_info", Help: "1, with the version of this process.",
			ConstLabels: prometheus.Labels{"service": cfg.Service, "version": cfg.Version},
		}, func() float64 { return 1 }),
	)
	return &Telemetry{Log: log, Metrics: metrics, provider: provider, admin: cfg.AdminAddress}, nil
}

// Tracer returns a tracer; name is the package that makes the spans.
func (t *Telemetry) Tracer(name string) trace.Tracer { return t.provider.Tracer(name) }

// Shutdown flushes spans and logs.
func (t *Telemetry) Shutdown(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, exportTimeout)
	defer cancel()
	err := t.provider.Shutdown(ctx)
	_ = t.Log.Sync() // stderr on a terminal cannot sync and says so
	return err
}

func newLogger(cfg Config) (*zap.Logger, error) {
	level := zapcore.InfoLevel
	if cfg.LogLevel != "" {
		if err := level.UnmarshalText([]byte(cfg.LogLevel)); err != nil {
			return nil, fmt.Errorf("log-level: %q is none of debug, info, warn, error", cfg.LogLevel)
		}
	}
	zc := zap.NewProductionConfig()
	zc.Level = zap.NewAtomicLevelAt(level)
	zc.EncoderConfig.EncodeTime = zapcore.RFC3339NanoTimeEncoder
	zc.EncoderConfig.TimeKey = "time"
	// Sampling drops lines by message; the one that matters is often the one dropped.
	zc.Sampling = nil
	zc.InitialFields = map[string]any{"service": cfg.Service}
	log, err := zc.Build()
	if err != nil {
		return nil, fmt.Errorf("build the logger: %w", err)
	}
	return log, nil
}

func newExporter(ctx context.Context, endpoint string) (*otlptrace.Exporter, error) {
	opts := []otlptracegrpc.Option{otlptracegrpc.WithTimeout(exportTimeout)}
	if strings.Contains(endpoint, "://") {
		u, err := url.Parse(endpoint)
		if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") {
			return nil, fmt.Errorf("otlp-endpoint: %q must be host:port or an http:// or https:// URL", endpoint)
		}
		opts = append(opts, otlptracegrpc.WithEndpoint(u.Host))
		if u.Scheme == "http" {
			opts = append(opts, otlptracegrpc.WithInsecure())
		}
	} else {
		opts = append(opts, otlptracegrpc.WithEndpoint(endpoint), otlptracegrpc.WithInsecure())
	}
	e, err := otlptracegrpc.New(ctx, opts...)
	if err != nil {
		return nil, fmt.Errorf("otlp-endpoint %q: %w", endpoint, err)
	}
	return e, nil
}

var propagator = propagation.NewCompositeTextMapPropagator(propagation.TraceContext{}, propagation.Baggage{})
