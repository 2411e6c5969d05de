package dataservice

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"syscall"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/ultrathink-pilot/trainyard/libs/lifecycle"
	"github.com/ultrathink-pilot/trainyard/libs/telemetry"
)

// Config is the configuration of the dataservice process.
type Config struct {
	Listen       string `conf:"listen" default:"127.0.0.1:8086" usage:"host:port to serve HTTP on"`
	DataDir      string `conf:"data-dir" usage:"directory of SYMBOL_TIMEFRAME.csv files to serve beside the built-in SPX"`
	AdminListen  string `conf:"admin-listen" usage:"host:port of /metrics and pprof; empty means neither"`
	OTLPEndpoint string `conf:"otlp-endpoint" usage:"OTLP gRPC receiver of traces; empty exports nothing"`
	LogLevel     string `conf:"log-level" default:"info" usage:"debug, info, warn or error"`
}

// drain bounds how long a stopping server waits for answers under way.
const drain = 5 * time.Second

// Run serves until ctx ends.
func Run(ctx context.Context, cfg Config) error {
	tel, err := telemetry.Start(ctx, telemetry.Config{
		Service: "dataservice", OTLPEndpoint: cfg.OTLPEndpoint, LogLevel: cfg.LogLevel, AdminAddress: cfg.AdminListen,
	})
	if err != nil {
		return err
	}
	var group lifecycle.Group
	group.OnStop("telemetry", tel.Shutdown)
	server, err := NewServer(cfg.DataDir, tel.Log)
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", cfg.Listen)
	if errors.Is(err, syscall.EADDRINUSE) {
		return fmt.Errorf("%s is in use by another process: stop that one or choose another --listen", cfg.Listen)
	}
	if err != nil {
		return err
	}
	group.Add("admin", tel.RunAdmin)
	group.Add("http", func(ctx context.Context) error {
		return serve(ctx, listener, traced(tel.Tracer("dataservice"), server))
	})
	return group.Run(ctx)
}

func serve(ctx context.Context, listener net.Listener, handler http.Handler) error {
	s := &http.Server{Handler: handler, ReadHeaderTimeout: 10 * time.Second, WriteTimeout: time.Minute, IdleTimeout: time.Minute}
	stopped := make(chan error, 1)
	go func() {
		<-ctx.Done()
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), drain)
		defer cancel()
		stopped <- s.Shutdown(ctx)
	}()
	if err := s.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return <-stopped
}

// traced puts each request that carries a trace into it. Requests without one
// (health probes) would fill the trace store with roots of no interest.
func traced(tracer trace.Tracer, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx := otel.GetTextMapPropagator().Extract(r.Context(), propagation.HeaderCarrier(r.Header))
		if trace.SpanContextFromContext(ctx).IsValid() {
			var span trace.Span
			ctx, span = tracer.Start(ctx, "GET "+r.URL.Path, trace.WithSpanKind(trace.SpanKindServer),
				trace.WithAttributes(attribute.String("http.request.method", r.Method), attribute.String("url.path", r.URL.Path)))
			defer span.End()
		}
		next.ServeHTTP(w, r.WithContext(ctx))
	})
}
