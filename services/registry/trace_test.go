package registry

import (
	"context"
	"encoding/hex"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	tracev1 "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"

	fleetv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/fleet/v1"
	registryv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/registry/v1"
)

// receiver is an OTLP collector in this process.
type receiver struct {
	collector.UnimplementedTraceServiceServer
	mu    sync.Mutex
	spans map[string]*tracev1.Span
	grew  chan struct{}
}

func (r *receiver) Export(_ context.Context, in *collector.ExportTraceServiceRequest) (*collector.ExportTraceServiceResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, rs := range in.GetResourceSpans() {
		for _, ss := range rs.GetScopeSpans() {
			for _, s := range ss.GetSpans() {
				r.spans[s.GetName()] = s
			}
		}
	}
	select {
	case r.grew <- struct{}{}:
	default:
	}
	return &collector.ExportTraceServiceResponse{}, nil
}

// wait returns the span of that name as soon as it was exported.
func (r *receiver) wait(t *testing.T, name string) *tracev1.Span {
	t.Helper()
	for {
		r.mu.Lock()
		s := r.spans[name]
		r.mu.Unlock()
		if s != nil {
			return s
		}
		select {
		case <-r.grew:
		case <-t.Context().Done():
			t.Fatalf("span %s was never exported", name)
		case <-time.After(30 * time.Second):
			t.Fatalf("span %s was never exported", name)
		}
	}
}

func TestRegisterAndPromoteJoinTheJobsTrace(t *testing.T) {
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	r := &receiver{spans: map[string]*tracev1.Span{}, grew: make(chan struct{}, 1)}
	server := grpc.NewServer()
	collector.RegisterTraceServiceServer(server, r)
	go func() { _ = server.Serve(lis) }()
	t.Cleanup(server.Stop)

	m := startWith(t, func(c *Config) { c.OTLPEndpoint = lis.Addr().String() })
	w := m.writer(uuid.NewString(), 1, 1)
	w.open("m", "")
	w.checkpoint(1, 1, "weights")
	w.accept(closing(fleetv1.Exit_OUTCOME_SUCCEEDED))
	_, err = m.models.PromoteModelVersion(m.ctx, &registryv1.PromoteModelVersionRequest{RequestId: uuid.NewString(), ModelName: "m", Version: 1, Stage: registryv1.Stage_STAGE_PRODUCTION})
	must(t, err)
	for _, name := range []string{"registry.open_run", "registry.register_model_version", "registry.promote_model_version"} {
		s := r.wait(t, name)
		if got := hex.EncodeToString(s.GetTraceId()) + "/" + hex.EncodeToString(s.GetParentSpanId()); got != "0af7651916cd43dd8448eb211c80319c/b7ad6b7169203331" {
			t.Errorf("%s hangs at %s, not under the job's span", name, got)
		}
		if len(s.GetLinks()) != 1 || hex.EncodeToString(s.GetLinks()[0].GetTraceId()) == "0af7651916cd43dd8448eb211c80319c" {
			t.Errorf("%s has no link to its caller: %v", name, s.GetLinks())
		}
	}
}
