package registry

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/uuid"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/propagation"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/ultrathink-pilot/trainyard/libs/identity"
	"github.com/ultrathink-pilot/trainyard/libs/objectstore"
	"github.com/ultrathink-pilot/trainyard/libs/objectstore/s3test"
	"github.com/ultrathink-pilot/trainyard/libs/pg/pgtest"
	"github.com/ultrathink-pilot/trainyard/libs/rpcclient"
	"github.com/ultrathink-pilot/trainyard/libs/rpcerr"
	errorv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/error/v1"
	fleetv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/fleet/v1"
	jobv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/job/v1"
	registryv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/registry/v1"
	trainv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/train/v1"
	"github.com/ultrathink-pilot/trainyard/services/registry/internal/postgres"
)

func TestMain(m *testing.M) {
	otel.SetTextMapPropagator(propagation.TraceContext{})
	if raw := os.Getenv(childEnv); raw != "" {
		os.Exit(runChild(raw))
	}
	pgtest.Main(m)
}

// mesh is a whole registry process in this process: mutual TLS, real Postgres, real S3.
type mesh struct {
	*testing.T
	ctx     context.Context
	addr    string
	ca      *identity.Authority
	objects *objectstore.Store
	http    *http.Client

	agent     registryv1.IngestServiceClient
	runs      registryv1.RunServiceClient
	models    registryv1.ModelServiceClient
	retention registryv1.RetentionServiceClient
}

func start(t *testing.T) *mesh {
	t.Helper()
	return startWith(t, func(*Config) {})
}

// prepare makes everything that a registry process needs but its database.
func prepare(t *testing.T) (*mesh, Config) {
	t.Helper()
	if !measuring {
		t.Parallel()
	}
	s3 := s3test.Config(t)
	ca, err := identity.NewAuthority(t.TempDir())
	must(t, err)
	files, err := ca.Issue(identity.RoleRegistry, "registry")
	must(t, err)
	cfg := Config{TLSCert: files.Cert, TLSKey: files.Key, TLSCA: files.CA, LogLevel: "error", MaxConns: 8,
		S3: S3{Endpoint: s3.Endpoint, AccessKey: s3.AccessKey, SecretKey: s3.SecretKey, Bucket: s3.Bucket, CA: s3.CA, Insecure: s3.Insecure}}
	m := &mesh{T: t, ctx: t.Context(), ca: ca}
	m.objects, err = objectstore.Open(s3)
	must(t, err)
	m.http = &http.Client{Transport: &http.Transport{TLSClientConfig: trust(t, s3.CA)}}
	return m, cfg
}

func startWith(t *testing.T, change func(*Config)) *mesh {
	t.Helper()
	m, cfg := prepare(t)
	cfg.DSN = pgtest.DSN(t, postgres.Schema, postgres.Migrations)
	change(&cfg)
	// Open from the start: clients wait in its queue until the registry is ready.
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	m.addr = listener.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- run(ctx, cfg, "test", listener) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("registry: %v", err)
		}
	})
	m.connect()
	return m
}

// connect makes the clients; gRPC connects when they are used.
func (m *mesh) connect() {
	m.Helper()
	m.agent = registryv1.NewIngestServiceClient(m.as(identity.RoleAgent))
	person := m.as(identity.RolePerson)
	m.runs, m.models = registryv1.NewRunServiceClient(person), registryv1.NewModelServiceClient(person)
	m.retention = registryv1.NewRetentionServiceClient(m.as(identity.RoleJanitor))
}

func trust(t *testing.T, ca string) *tls.Config {
	t.Helper()
	if ca == "" {
		return nil
	}
	raw, err := os.ReadFile(filepath.Clean(ca))
	must(t, err)
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(raw)
	return &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// as connects with an identity of the role.
func (m *mesh) as(role identity.Role) *grpc.ClientConn {
	m.Helper()
	files, err := m.ca.Issue(role, "test")
	must(m.T, err)
	return m.dial(files)
}

// dial connects with a certificate.
func (m *mesh) dial(files identity.Files) *grpc.ClientConn {
	m.Helper()
	config, err := identity.ClientTLS(files, identity.RoleRegistry)
	must(m.T, err)
	conn, err := rpcclient.Dial(m.addr, rpcclient.Options{TLS: config})
	must(m.T, err)
	m.Cleanup(func() { _ = conn.Close() })
	return conn
}

func (m *mesh) reason(err error, want errorv1.Reason) {
	m.Helper()
	if got := rpcerr.ReasonOf(err); got != want {
		m.Errorf("reason %s, want %s (%v)", got, want, err)
	}
}

const jobTrace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

func spec(model string) *jobv1.JobSpec {
	return &jobv1.JobSpec{DisplayName: "bull on SPX", Experiment: "specialists/bull", ModelName: model, Labels: map[string]string{"team": "desk"},
		Runtime: &jobv1.JobSpec_Native{Native: &jobv1.NativeSpec{Specialist: jobv1.Specialist_SPECIALIST_BULL, Symbol: "SPX", Timeframe: "1d", Seed: 7}}}
}

// writer sends one attempt's batches and numbers them.
type writer struct {
	m       *mesh
	job     string
	attempt uint32
	fence   uint64
	next    uint64
	stream  grpc.BidiStreamingClient[registryv1.IngestRequest, registryv1.IngestResponse]
}

func (m *mesh) writer(job string, attempt uint32, fence uint64) *writer {
	m.Helper()
	stream, err := m.agent.Ingest(m.ctx)
	must(m.T, err)
	return &writer{m: m, job: job, attempt: attempt, fence: fence, stream: stream}
}

func (w *writer) send(r *registryv1.IngestRequest) *registryv1.IngestResponse {
	w.m.Helper()
	w.next++
	r.JobId, r.Attempt, r.Fence, r.Sequence = w.job, w.attempt, w.fence, w.next
	must(w.m.T, w.stream.Send(r))
	got, err := w.stream.Recv()
	must(w.m.T, err)
	if got.GetSequence() != w.next || got.GetJobId() != w.job {
		w.m.Fatalf("answer %+v to sequence %d", got, w.next)
	}
	return got
}

func (w *writer) accept(r *registryv1.IngestRequest) {
	w.m.Helper()
	if got := w.send(r); got.GetResult() != registryv1.IngestResponse_RESULT_ACCEPTED {
		w.m.Fatalf("refused: %s %s", got.GetReason(), got.GetMessage())
	}
}

func (w *writer) open(model, restored string) {
	w.m.Helper()
	w.accept(&registryv1.IngestRequest{Batch: &registryv1.IngestRequest_Opened{Opened: &registryv1.RunOpened{Spec: spec(model), AgentName: "host-1",
		Traceparent: jobTrace, RestoredCheckpointId: restored, Time: timestamppb.Now()}}})
}

func points(key string, from int64, values ...float64) *registryv1.IngestRequest {
	batch := &trainv1.MetricBatch{}
	for i, v := range values {
		batch.Points = append(batch.Points, &trainv1.MetricPoint{Key: key, Value: v, Step: from + int64(i), Time: timestamppb.New(time.Unix(1_700_000_000+from+int64(i), 0))})
	}
	return &registryv1.IngestRequest{Batch: &registryv1.IngestRequest_Metrics{Metrics: batch}}
}

func closing(outcome fleetv1.Exit_Outcome) *registryv1.IngestRequest {
	return &registryv1.IngestRequest{Batch: &registryv1.IngestRequest_Closed{Closed: &registryv1.RunClosed{Outcome: outcome, Time: timestamppb.Now()}}}
}

func file(path, content string) *registryv1.CheckpointFile {
	sum := sha256.Sum256([]byte(content))
	return &registryv1.CheckpointFile{Path: path, Sha256: sum[:], SizeBytes: int64(len(content))}
}

// put sends a presigned upload as it is told and returns the status.
func (m *mesh) put(u *registryv1.TransferURL, content string) int {
	m.Helper()
	r, err := http.NewRequestWithContext(m.ctx, u.GetMethod(), u.GetUrl(), bytes.NewReader([]byte(content)))
	must(m.T, err)
	for k, v := range u.GetHeaders() {
		r.Header.Set(k, v)
	}
	resp, err := m.http.Do(r)
	must(m.T, err)
	must(m.T, resp.Body.Close())
	return resp.StatusCode
}

func (m *mesh) get(u *registryv1.TransferURL) string {
	m.Helper()
	r, err := http.NewRequestWithContext(m.ctx, u.GetMethod(), u.GetUrl(), nil)
	must(m.T, err)
	resp, err := m.http.Do(r)
	must(m.T, err)
	body, err := io.ReadAll(resp.Body)
	must(m.T, err)
	must(m.T, resp.Body.Close())
	return string(body)
}

// checkpoint stages, uploads and commits one.
func (w *writer) checkpoint(step int64, sharpe float64, weights string) *registryv1.Checkpoint {
	w.m.Helper()
	contents := map[string]string{"model.safetensors": weights, "meta.json": `{"step":` + uuid.NewString() + `}`}
	begin := &registryv1.BeginCheckpointRequest{RequestId: uuid.NewString(), JobId: w.job, Attempt: w.attempt, Fence: w.fence, Step: step}
	for path, content := range contents {
		begin.Files = append(begin.Files, file(path, content))
	}
	staged, err := w.m.agent.BeginCheckpoint(w.m.ctx, begin)
	must(w.m.T, err)
	for _, u := range staged.GetUploads() {
		if status := w.m.put(u, contents[u.GetPaths()[0]]); status != http.StatusOK {
			w.m.Fatalf("upload of %v: status %d", u.GetPaths(), status)
		}
	}
	done, err := w.m.agent.CommitCheckpoint(w.m.ctx, &registryv1.CommitCheckpointRequest{CheckpointId: staged.GetCheckpointId(), Fence: w.fence,
		Metrics: map[string]float64{"validation/sharpe": sharpe}, Resumable: true, FeatureSchema: "v1"})
	must(w.m.T, err)
	return done.GetCheckpoint()
}
