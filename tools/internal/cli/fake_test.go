package cli

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"go.uber.org/zap"
	"google.golang.org/grpc"

	"github.com/ultrathink-pilot/trainyard/libs/identity"
	"github.com/ultrathink-pilot/trainyard/libs/rpcerr"
	"github.com/ultrathink-pilot/trainyard/libs/rpcserver"
	fleetv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/fleet/v1"
	jobv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/job/v1"
	registryv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/registry/v1"
	"github.com/ultrathink-pilot/trainyard/tools/internal/mesh"
)

// fakeMesh is the services' edge over real mutual TLS, with scripted answers.
type fakeMesh struct {
	jobv1.UnimplementedJobServiceServer
	nouns
	registryv1.UnimplementedModelServiceServer
	registryv1.UnimplementedImportServiceServer

	mu        sync.Mutex
	submitted []*jobv1.SubmitJobRequest
	refuse    error
	jobs      []*jobv1.Job
	// frames are what each WatchJobs call sends; a call ends with UNAVAILABLE
	// when its frames are sent and more calls are scripted.
	frames  [][]*jobv1.WatchJobsResponse
	tokens  []string
	promote *registryv1.PromoteModelVersionRequest
	begun   *registryv1.BeginImportRequest
	store   string // where imports are uploaded to
	state   string
}

func newFakeMesh(t *testing.T) *fakeMesh {
	t.Helper()
	f := &fakeMesh{state: t.TempDir()}
	authority, err := identity.NewAuthority(filepath.Join(f.state, "certs"))
	if err != nil {
		t.Fatal(err)
	}
	issue := func(role identity.Role) identity.Files {
		files, err := authority.Issue(role, "test")
		if err != nil {
			t.Fatal(err)
		}
		return files
	}
	data := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte(`{"symbols":[{"symbol":"SPX","timeframe":"1d"},{"symbol":"SPX","timeframe":"1w"},
			{"symbol":"BAD","timeframe":"1d","refused":true,"source":"BAD_1d.csv","problems":["line 3: short"]}]}`))
	}))
	t.Cleanup(data.Close)
	self, err := mesh.ProcessOf(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	m := &mesh.Mesh{
		State: f.state, Launcher: self, DataService: data.URL, Person: issue(identity.RolePerson),
		Scheduler: f.serve(t, issue(identity.RoleScheduler), func(g *grpc.Server) {
			jobv1.RegisterJobServiceServer(g, f)
			f.register(g)
		}),
		Registry: f.serve(t, issue(identity.RoleRegistry), func(g *grpc.Server) {
			registryv1.RegisterModelServiceServer(g, f)
			registryv1.RegisterImportServiceServer(g, f)
		}),
		Janitor: "127.0.0.1:1",
	}
	if err := m.Write(); err != nil {
		t.Fatal(err)
	}
	return f
}

func (f *fakeMesh) serve(t *testing.T, files identity.Files, register func(*grpc.Server)) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	config, err := identity.ServerTLS(files)
	if err != nil {
		t.Fatal(err)
	}
	allow := rpcserver.AllowTable{}
	for _, service := range []grpc.ServiceDesc{
		jobv1.JobService_ServiceDesc, jobv1.ArrayService_ServiceDesc, jobv1.GraphService_ServiceDesc, jobv1.ScheduleService_ServiceDesc,
		jobv1.QuotaService_ServiceDesc, fleetv1.FleetService_ServiceDesc, registryv1.ModelService_ServiceDesc, registryv1.ImportService_ServiceDesc,
	} {
		for _, method := range service.Methods {
			allow["/"+service.ServiceName+"/"+method.MethodName] = []identity.Role{identity.RolePerson}
		}
		for _, method := range service.Streams {
			allow["/"+service.ServiceName+"/"+method.StreamName] = []identity.Role{identity.RolePerson}
		}
	}
	server, err := rpcserver.New(rpcserver.Options{Name: "fake", Listener: listener, TLS: config, Log: zap.NewNop(), Allow: trim(allow, register)})
	if err != nil {
		t.Fatal(err)
	}
	register(server.GRPC())
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- server.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return listener.Addr().String()
}

// trim keeps the rows of the methods that register brings.
func trim(allow rpcserver.AllowTable, register func(*grpc.Server)) rpcserver.AllowTable {
	probe := grpc.NewServer()
	register(probe)
	out := rpcserver.AllowTable{}
	for method, roles := range allow {
		service, _, _ := strings.Cut(strings.TrimPrefix(method, "/"), "/")
		if _, ok := probe.GetServiceInfo()[service]; ok {
			out[method] = roles
		}
	}
	return out
}

func (f *fakeMesh) SubmitJob(_ context.Context, r *jobv1.SubmitJobRequest) (*jobv1.SubmitJobResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.refuse != nil {
		return nil, f.refuse
	}
	if r.GetValidateOnly() {
		return &jobv1.SubmitJobResponse{Job: &jobv1.Job{Spec: r.GetSpec()}, Prediction: "would run on local/cpu:0"}, nil
	}
	f.submitted = append(f.submitted, r)
	job := &jobv1.Job{JobId: "01990000-0000-7000-8000-00000000000" + string(rune('0'+len(f.submitted))), Spec: r.GetSpec(), State: jobv1.Job_STATE_QUEUED}
	f.jobs = append([]*jobv1.Job{job}, f.jobs...)
	return &jobv1.SubmitJobResponse{Job: job}, nil
}

// ListJobs pages by one job, so that every caller has to follow the token.
func (f *fakeMesh) ListJobs(_ context.Context, r *jobv1.ListJobsRequest) (*jobv1.ListJobsResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	at := len(r.GetPageToken())
	if at >= len(f.jobs) {
		return &jobv1.ListJobsResponse{}, nil
	}
	answer := &jobv1.ListJobsResponse{Jobs: f.jobs[at : at+1]}
	if at+1 < len(f.jobs) {
		answer.NextPageToken = strings.Repeat("x", at+1)
	}
	return answer, nil
}

func (f *fakeMesh) WatchJobs(r *jobv1.WatchJobsRequest, stream grpc.ServerStreamingServer[jobv1.WatchJobsResponse]) error {
	f.mu.Lock()
	f.tokens = append(f.tokens, r.GetResumeToken())
	var frames []*jobv1.WatchJobsResponse
	if len(f.frames) > 0 {
		frames, f.frames = f.frames[0], f.frames[1:]
	}
	more := len(f.frames) > 0
	f.mu.Unlock()
	for _, frame := range frames {
		if err := stream.Send(frame); err != nil {
			return err
		}
	}
	if more {
		return rpcerr.Unavailable("restarting")
	}
	<-stream.Context().Done()
	return stream.Context().Err()
}

func (f *fakeMesh) PromoteModelVersion(_ context.Context, r *registryv1.PromoteModelVersionRequest) (*registryv1.PromoteModelVersionResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.promote = r
	return &registryv1.PromoteModelVersionResponse{
		Version: &registryv1.ModelVersion{ModelName: r.GetModelName(), Version: 4},
		Event:   &registryv1.ModelEvent{Sequence: 9, FromStage: registryv1.Stage_STAGE_NONE, ToStage: r.GetStage(), Actor: "person/test"},
	}, nil
}
