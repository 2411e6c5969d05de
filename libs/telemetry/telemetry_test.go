package telemetry

import (
	"context"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.opentelemetry.io/otel/trace"
	collectorv1 "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/grpc"
)

const parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

func TestATraceSurvivesBeingStored(t *testing.T) {
	t.Parallel()
	ctx := ContextWithTraceParent(context.Background(), parent)
	if got := TraceParent(ctx); got != parent {
		t.Errorf("%s came back as %s", parent, got)
	}
	if got := TraceParent(Extract(context.Background(), Inject(ctx))); got != parent {
		t.Errorf("through a map: %s", got)
	}
	sc := SpanContext(parent)
	if !sc.IsValid() || !sc.IsSampled() || sc.SpanID().String() != "b7ad6b7169203331" {
		t.Errorf("span context %+v", sc)
	}
	if env := Environ(ctx); !slices.Contains(env, "TRACEPARENT="+parent) {
		t.Errorf("environment of a child: %v", env)
	}
	fields := LogFields(ctx)
	if len(fields) != 2 || fields[0].Key != "trace_id" || fields[1].Key != "span_id" {
		t.Errorf("log fields %v", fields)
	}
	for _, bad := range []string{"", "junk", parent[:40], strings.Replace(parent, "0af7", "zzzz", 1)} {
		ctx := ContextWithTraceParent(context.Background(), bad)
		if trace.SpanContextFromContext(ctx).IsValid() || TraceParent(ctx) != "" || LogFields(ctx) != nil {
			t.Errorf("%q gave a trace", bad)
		}
	}
}

// The tests below set process-wide providers or variables, so they do not run in parallel.

func TestAChildReadsItsParentsTrace(t *testing.T) {
	t.Setenv("TRACEPARENT", parent)
	if got := TraceParent(FromEnviron(context.Background())); got != parent {
		t.Errorf("got %q", got)
	}
}

// receiver is an OTLP collector.
type receiver struct {
	collectorv1.UnimplementedTraceServiceServer
	mu    sync.Mutex
	spans []string
}

func (r *receiver) Export(_ context.Context, req *collectorv1.ExportTraceServiceRequest) (*collectorv1.ExportTraceServiceResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, rs := range req.GetResourceSpans() {
		service := ""
		for _, a := range rs.GetResource().GetAttributes() {
			if a.GetKey() == "service.name" {
				service = a.GetValue().GetStringValue()
			}
		}
		for _, ss := range rs.GetScopeSpans() {
			for _, s := range ss.GetSpans() {
				r.spans = append(r.spans, service+" "+s.GetName())
			}
		}
	}
	return &collectorv1.ExportTraceServiceResponse{}, nil
}

func TestSpansReachTheCollectorAtShutdown(t *testing.T) {
	lis, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &receiver{}
	srv := grpc.NewServer()
	collectorv1.RegisterTraceServiceServer(srv, r)
	go func() { _ = srv.Serve(lis) }() // ends with Stop
	defer srv.Stop()
	for _, endpoint := range []string{lis.Addr().String(), "http://" + lis.Addr().String()} {
		tel, err := Start(t.Context(), Config{Service: "scheduler", Version: "1", OTLPEndpoint: endpoint, LogLevel: "error"})
		if err != nil {
			t.Fatal(err)
		}
		ctx, span := tel.Tracer("test").Start(ContextWithTraceParent(t.Context(), parent), "submit")
		if !strings.Contains(TraceParent(ctx), "0af7651916cd43dd8448eb211c80319c") {
			t.Errorf("the span left its stored parent: %s", TraceParent(ctx))
		}
		span.End()
		if err := tel.Shutdown(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if !slices.Equal(r.spans, []string{"scheduler submit", "scheduler submit"}) {
		t.Errorf("the collector got %v", r.spans)
	}
}

func TestACollectorThatIsAwayDoesNotHoldShutdown(t *testing.T) {
	tel, err := Start(t.Context(), Config{Service: "s", OTLPEndpoint: "127.0.0.1:1", LogLevel: "fatal"})
	if err != nil {
		t.Fatal(err)
	}
	_, span := tel.Tracer("test").Start(t.Context(), "work")
	span.End()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := tel.Shutdown(ctx); err == nil {
		t.Error("lost spans must be reported")
	}
}

func TestAdmin(t *testing.T) {
	tel, err := Start(t.Context(), Config{Service: "scheduler", Version: "1.2"})
	if err != nil {
		t.Fatal(err)
	}
	fetch := func(address, path string) (int, string) {
		t.Helper()
		resp, err := http.Get("http://" + address + path)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		if err := resp.Body.Close(); err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(body)
	}
	serve := func(listen string) (address string, stop func()) {
		t.Helper()
		lis, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", listen)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- tel.serveAdmin(ctx, lis) }()
		_, port, err := net.SplitHostPort(lis.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		return "127.0.0.1:" + port, func() {
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
	}
	local, stop := serve("127.0.0.1:0")
	if status, body := fetch(local, "/metrics"); status != http.StatusOK || !strings.Contains(body, `trainyard_build_info{service="scheduler",version="1.2"} 1`) {
		t.Errorf("metrics: %d %.200s", status, body)
	}
	if status, _ := fetch(local, "/debug/pprof/goroutine?debug=1"); status != http.StatusOK {
		t.Errorf("pprof on loopback: %d", status)
	}
	stop()
	open, stop := serve("0.0.0.0:0")
	if status, _ := fetch(open, "/metrics"); status != http.StatusOK {
		t.Errorf("metrics on all addresses: %d", status)
	}
	if status, _ := fetch(open, "/debug/pprof/"); status != http.StatusNotFound {
		t.Errorf("pprof is open to the network: %d", status)
	}
	stop()

	tel.admin = local + "0000"
	if err := tel.RunAdmin(t.Context()); err == nil || !strings.Contains(err.Error(), "admin-listen") {
		t.Errorf("a bad address: %v", err)
	}
}

func TestBadConfigSaysWhatToDo(t *testing.T) {
	for want, c := range map[string]Config{
		"has no name":   {},
		"log-level":     {Service: "s", LogLevel: "loud"},
		"otlp-endpoint": {Service: "s", OTLPEndpoint: "ftp://x"},
	} {
		if _, err := Start(t.Context(), c); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want %q", c, err, want)
		}
	}
}
