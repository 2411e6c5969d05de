package telemetry

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/pprof"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.uber.org/zap"
)

// RunAdmin serves the admin address until ctx ends; without one it only waits.
// pprof shows memory, so it is served on loopback only; /metrics has to be
// reachable by a scraper and is served everywhere.
func (t *Telemetry) RunAdmin(ctx context.Context) error {
	if t.admin == "" {
		<-ctx.Done()
		return nil
	}
	lis, err := (&net.ListenConfig{}).Listen(ctx, "tcp", t.admin)
	if err != nil {
		return fmt.Errorf("admin-listen %s: %w; choose a free port, or an empty value to serve none", t.admin, err)
	}
	return t.serveAdmin(ctx, lis)
}

func (t *Telemetry) serveAdmin(ctx context.Context, lis net.Listener) error {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(t.Metrics, promhttp.HandlerOpts{EnableOpenMetrics: true}))
	if addr, ok := lis.Addr().(*net.TCPAddr); ok && addr.IP.IsLoopback() {
		mux.HandleFunc("GET /debug/pprof/", pprof.Index)
		mux.HandleFunc("GET /debug/pprof/cmdline", pprof.Cmdline)
		mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
		mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
		mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	}
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, MaxHeaderBytes: 16 << 10}
	t.Log.Info("admin endpoint", zap.Stringer("address", lis.Addr()))
	served := make(chan error, 1)
	go func() { served <- srv.Serve(lis) }()
	select {
	case err := <-served:
		return fmt.Errorf("admin endpoint: %w", err)
	case <-ctx.Done():
	}
	sctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	if err := srv.Shutdown(sctx); err != nil {
		// A profile that is still running is not worth waiting for.
		return errors.Join(srv.Close(), ignoreTimeout(err))
	}
	return nil
}

func ignoreTimeout(err error) error {
	if errors.Is(err, context.DeadlineExceeded) {
		return nil
	}
	return err
}
