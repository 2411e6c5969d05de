package janitor

import (
	"context"
	"crypto/tls"
	"fmt"
	"math"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"go.uber.org/zap"

	"github.com/ultrathink-pilot/trainyard/libs/config"
	"github.com/ultrathink-pilot/trainyard/libs/identity"
	"github.com/ultrathink-pilot/trainyard/libs/objectstore"
	"github.com/ultrathink-pilot/trainyard/libs/objectstore/s3test"
	"github.com/ultrathink-pilot/trainyard/libs/pg/pgtest"
	"github.com/ultrathink-pilot/trainyard/libs/rpcclient"
	"github.com/ultrathink-pilot/trainyard/libs/rpcerr"
	"github.com/ultrathink-pilot/trainyard/libs/rpcserver"
	errorv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/error/v1"
	janitorv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/janitor/v1"
	registryv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/registry/v1"
	"github.com/ultrathink-pilot/trainyard/services/checkpoint-janitor/internal/postgres"
	"github.com/ultrathink-pilot/trainyard/services/checkpoint-janitor/internal/registryfake"
)

// mesh is the janitor as a process would run it: its own Postgres schema, a real
// bucket, mutual TLS on both sides, and the registry's contract behind it.
type mesh struct {
	registry  *registryfake.Registry
	authority *identity.Authority
	cfg       Config
	address   string
}

func start(t *testing.T, change func(*Config)) *mesh {
	t.Helper()
	s3 := s3test.Config(t)
	bucket, err := objectstore.Open(s3)
	if err != nil {
		t.Fatal(err)
	}
	if err := bucket.EnsureBucket(t.Context()); err != nil {
		t.Fatal(err)
	}
	authority, err := identity.NewAuthority(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	m := &mesh{registry: registryfake.New(bucket), authority: authority}
	files, err := authority.Issue(identity.RoleJanitor, "janitor-1")
	if err != nil {
		t.Fatal(err)
	}
	m.cfg = Config{
		Listen: "127.0.0.1:0", TLSCert: files.Cert, TLSKey: files.Key, TLSCA: files.CA, LogLevel: "error",
		DSN: config.Secret(pgtest.DSN(t, postgres.Schema, postgres.Migrations)), Registry: serveRegistry(t, authority, m.registry),
		S3: S3Config{Endpoint: s3.Endpoint, AccessKey: s3.AccessKey, SecretKey: config.Secret(s3.SecretKey), Bucket: s3.Bucket, Region: s3.Region,
			CA: s3.CA, Insecure: s3.Insecure},
		Policy: "builtin:development", Hold: time.Hour, Capacity: 1 << 40,
	}
	if change != nil {
		change(&m.cfg)
	}
	j, err := New(t.Context(), m.cfg, Deps{})
	if err != nil {
		t.Fatal(err)
	}
	m.address = j.Address
	run(t, j.Run)
	return m
}

// run runs a server until the test ends.
func run(t *testing.T, serve func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan error, 1)
	go func() { done <- serve(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("the server ended with %v", err)
		}
	})
}

func serveRegistry(t *testing.T, authority *identity.Authority, registry *registryfake.Registry) string {
	t.Helper()
	files, err := authority.Issue(identity.RoleRegistry, "registry-1")
	if err != nil {
		t.Fatal(err)
	}
	serverTLS, err := identity.ServerTLS(files)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	allow := rpcserver.AllowTable{}
	for _, m := range registryv1.RetentionService_ServiceDesc.Methods {
		allow["/"+registryv1.RetentionService_ServiceDesc.ServiceName+"/"+m.MethodName] = []identity.Role{identity.RoleJanitor}
	}
	server, err := rpcserver.New(rpcserver.Options{Name: "registry", Listener: listener, TLS: serverTLS, Log: zap.NewNop(), Allow: allow})
	if err != nil {
		t.Fatal(err)
	}
	registryv1.RegisterRetentionServiceServer(server.GRPC(), registry)
	run(t, server.Run)
	return listener.Addr().String()
}

func (m *mesh) client(t *testing.T, role identity.Role) janitorv1.JanitorServiceClient {
	t.Helper()
	files, err := m.authority.Issue(role, strings.ToLower(t.Name()[:8]))
	if err != nil {
		t.Fatal(err)
	}
	var clientTLS *tls.Config
	if clientTLS, err = identity.ClientTLS(files, identity.RoleJanitor); err != nil {
		t.Fatal(err)
	}
	conn, err := rpcclient.Dial(m.address, rpcclient.Options{TLS: clientTLS})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
	})
	return janitorv1.NewJanitorServiceClient(conn)
}

func id(n int) string { return fmt.Sprintf("00000000-0000-7000-8000-%012d", n) }

func (m *mesh) fill(t *testing.T) {
	t.Helper()
	for n := range 8 {
		sharpe := 2 - float64(n)/10
		if n == 7 {
			sharpe = math.NaN()
		}
		m.registry.Commit(t, id(n), "bull", time.Duration(20-n)*time.Hour, sharpe, fmt.Sprint("weights ", n))
	}
	m.registry.Root(id(5), registryv1.Root_KIND_PRODUCTION, "version 1 of bull_specialist")
}

func TestPlanExplainSweepReport(t *testing.T) {
	t.Parallel()
	m := start(t, nil)
	m.fill(t)
	c, ctx := m.client(t, identity.RolePerson), t.Context()

	planRequest := &janitorv1.PlanSweepRequest{RequestId: uuid.NewString()}
	planned, err := c.PlanSweep(ctx, planRequest)
	if err != nil {
		t.Fatal(err)
	}
	plan := planned.GetPlan()
	if len(plan.GetDecisions()) != 8 || plan.GetPolicyVersion() != "development-1" || len(plan.GetPlanHash()) != 64 {
		t.Fatalf("got %v", plan)
	}
	again, err := c.PlanSweep(ctx, planRequest)
	if err != nil || again.GetPlan().GetPlanHash() != plan.GetPlanHash() || len(again.GetPlan().GetDecisions()) != 8 {
		t.Fatalf("the repeated call has another plan: %v %v", again.GetPlan().GetPlanHash(), err)
	}
	for n := range 8 {
		if m.registry.State(id(n)) != registryv1.Checkpoint_STATE_LIVE {
			t.Fatal("a dry run touched a checkpoint")
		}
	}

	for n, want := range map[int]string{
		2: "kept: rank 3 of 5, Sharpe 1.80", 5: "kept: version 1 of bull_specialist (Production); also rank 6, Sharpe 1.50",
		6: "to be deleted: rank 7, only the best 5 stay, Sharpe 1.40, age 14 h; nothing refers to it",
		7: "to be deleted: it cannot rank: its Sharpe is not finite, age 13 h; nothing refers to it",
	} {
		e, err := c.ExplainCheckpoint(ctx, &janitorv1.ExplainCheckpointRequest{CheckpointId: id(n)})
		if err != nil || e.GetDecision().GetReason() != want || e.GetState() != "LIVE" {
			t.Errorf("%d: got %q in %s, %v; want %q", n, e.GetDecision().GetReason(), e.GetState(), err, want)
		}
	}

	request := &janitorv1.ExecuteSweepRequest{RequestId: uuid.NewString(), PlanHash: plan.GetPlanHash()}
	swept, err := c.ExecuteSweep(ctx, request)
	if err != nil {
		t.Fatal(err)
	}
	if swept.GetTombstonedCount() != 2 || swept.GetDeletedCount() != 2 || swept.GetDeletedBytes() != int64(2*len("weights 0")) ||
		swept.GetPlan().GetPlanHash() != plan.GetPlanHash() || swept.GetEndTime() == nil || len(swept.GetRefusals()) != 0 {
		t.Fatalf("got %v", swept)
	}
	repeated, err := c.ExecuteSweep(ctx, request)
	if err != nil || repeated.GetSweepId() != swept.GetSweepId() || repeated.GetDeletedCount() != 2 {
		t.Fatalf("the repeated call gives %v, %v", repeated, err)
	}
	for n := range 8 {
		want := registryv1.Checkpoint_STATE_LIVE
		if n >= 6 {
			want = registryv1.Checkpoint_STATE_DELETED
		}
		if got := m.registry.State(id(n)); got != want {
			t.Errorf("checkpoint %d is %v, want %v", n, got, want)
		}
	}

	gone, err := c.ExplainCheckpoint(ctx, &janitorv1.ExplainCheckpointRequest{CheckpointId: id(6)})
	if err != nil || gone.GetState() != "DELETED" || !strings.Contains(gone.GetDecision().GetReason(), "it was to be deleted: rank 7, only the best 5 stay") ||
		!strings.Contains(gone.GetDecision().GetReason(), swept.GetSweepId()) {
		t.Errorf("a deleted checkpoint is explained by %v, %v", gone, err)
	}

	for format, want := range map[janitorv1.GetReportRequest_Format]string{
		janitorv1.GetReportRequest_FORMAT_TEXT: "Checkpoint store,", janitorv1.GetReportRequest_FORMAT_HTML: "<!doctype html>",
		janitorv1.GetReportRequest_FORMAT_JSON: `"capacity_bytes": 1099511627776`, janitorv1.GetReportRequest_FORMAT_UNSPECIFIED: "",
	} {
		r, err := c.GetReport(ctx, &janitorv1.GetReportRequest{Format: format})
		if err != nil || !strings.Contains(r.GetRendered(), want) || r.GetTotalBytes() != int64(6*len("weights 0")) || r.GetLastSweepTime() == nil {
			t.Errorf("%v: got %v, %v", format, r, err)
		}
	}
}

func TestRestoreSticks(t *testing.T) {
	t.Parallel()
	m := start(t, func(c *Config) {
		path := filepath.Join(t.TempDir(), "policy.yaml")
		text := "version: 1\nrevision: undo\ndevelopment: true\ngrace: 1h\nrules:\n  - experiments: [\"*\"]\n    young_for: 0s\n    drop_outranked_after: 0s\n"
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		c.Policy = path
	})
	m.fill(t)
	c, ctx := m.client(t, identity.RolePerson), t.Context()
	sweepOnce := func() *janitorv1.ExecuteSweepResponse {
		r, err := c.ExecuteSweep(ctx, &janitorv1.ExecuteSweepRequest{RequestId: uuid.NewString()})
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	if r := sweepOnce(); r.GetTombstonedCount() != 2 || r.GetDeletedCount() != 0 {
		t.Fatalf("got %v", r)
	}
	e, err := c.ExplainCheckpoint(ctx, &janitorv1.ExplainCheckpointRequest{CheckpointId: id(6)})
	if err != nil || e.GetState() != "TOMBSTONED" || !strings.HasPrefix(e.GetDecision().GetReason(), "tombstoned, to be deleted after ") {
		t.Fatalf("got %v, %v", e, err)
	}
	request := &janitorv1.RestoreCheckpointRequest{RequestId: uuid.NewString(), CheckpointId: id(6)}
	for range 2 {
		if r, err := c.RestoreCheckpoint(ctx, request); err != nil || r.GetState() != "LIVE" {
			t.Fatalf("got %v, %v", r, err)
		}
	}
	if r := sweepOnce(); r.GetTombstonedCount() != 0 {
		t.Fatalf("the next sweep undid the undo: %v", r)
	}
	if got := m.registry.State(id(6)); got != registryv1.Checkpoint_STATE_LIVE {
		t.Fatalf("the restored checkpoint is %v", got)
	}
	_, err = c.RestoreCheckpoint(ctx, &janitorv1.RestoreCheckpointRequest{RequestId: uuid.NewString(), CheckpointId: id(99)})
	if rpcerr.ReasonOf(err) != errorv1.Reason_REASON_ILLEGAL_TRANSITION {
		t.Fatalf("got %v", err)
	}
}

func TestTheReportIsWrittenAtTheStart(t *testing.T) {
	t.Parallel()
	reportFile := filepath.Join(t.TempDir(), "report.html")
	start(t, func(c *Config) { c.ReportFile = reportFile })
	deadline := time.Now().Add(30 * time.Second)
	for {
		if raw, err := os.ReadFile(reportFile); err == nil && strings.Contains(string(raw), "Checkpoint store") {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("no report was written")
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	m := start(t, func(c *Config) {
		path := filepath.Join(t.TempDir(), "policy.yaml")
		text := "version: 1\nrevision: caps\ndevelopment: true\ngrace: 0s\nrules:\n  - experiments: [\"*\"]\n    young_for: 0s\n    drop_outranked_after: 0s\ncaps:\n  small_drop_bytes: 0\n"
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		c.Policy = path
	})
	m.fill(t)
	c, ctx := m.client(t, identity.RolePerson), t.Context()
	_, err := c.ExecuteSweep(ctx, &janitorv1.ExecuteSweepRequest{RequestId: uuid.NewString()})
	e := rpcerr.FromError(err)
	if rpcerr.ReasonOf(err) != errorv1.Reason_REASON_CAP_EXCEEDED || e.Metadata("cap") != "TOO_MUCH_AT_ONCE" || !strings.Contains(err.Error(), "more than 10 % needs a confirmation") {
		t.Fatalf("got %v", err)
	}
	if got := m.registry.State(id(7)); got != registryv1.Checkpoint_STATE_LIVE {
		t.Fatalf("a refused sweep left %v", got)
	}
	if r, err := c.ExecuteSweep(ctx, &janitorv1.ExecuteSweepRequest{RequestId: uuid.NewString(), ConfirmLarge: true}); err != nil || r.GetDeletedCount() != 2 {
		t.Fatalf("a confirmed sweep gives %v, %v", r, err)
	}
	for name, c := range map[string]struct {
		call func() error
		want errorv1.Reason
	}{
		"unknown plan": {func() error {
			_, err := c.ExecuteSweep(ctx, &janitorv1.ExecuteSweepRequest{RequestId: uuid.NewString(), PlanHash: strings.Repeat("a", 64)})
			return err
		}, errorv1.Reason_REASON_RESOURCE_NOT_FOUND},
		"unknown checkpoint": {func() error {
			_, err := c.ExplainCheckpoint(ctx, &janitorv1.ExplainCheckpointRequest{CheckpointId: id(99)})
			return err
		}, errorv1.Reason_REASON_RESOURCE_NOT_FOUND},
		"no request id": {func() error {
			_, err := c.PlanSweep(ctx, &janitorv1.PlanSweepRequest{})
			return err
		}, errorv1.Reason_REASON_INVALID_FIELDS},
		"an agent": {func() error {
			_, err := m.client(t, identity.RoleAgent).ExecuteSweep(ctx, &janitorv1.ExecuteSweepRequest{RequestId: uuid.NewString()})
			return err
		}, errorv1.Reason_REASON_CALLER_NOT_ALLOWED},
	} {
		if err := c.call(); rpcerr.ReasonOf(err) != c.want {
			t.Errorf("%s: got %v, want %v", name, err, c.want)
		}
	}
}

func TestConfigProblemsComeAllAtOnce(t *testing.T) {
	t.Parallel()
	got := strings.Join(Config{Interval: -1, ReportFile: "x.pdf", Capacity: 1, CapacityPath: "/"}.Validate(), "\n")
	for _, want := range []string{"interval is negative", "hold must be positive", "capacity and capacity-path are both set", `report-file "x.pdf"`} {
		if !strings.Contains(got, want) {
			t.Errorf("missing %q in %s", want, got)
		}
	}
	if _, err := New(t.Context(), Config{Policy: "absent.yaml"}, Deps{}); err == nil || !strings.Contains(err.Error(), "absent.yaml") {
		t.Errorf("got %v", err)
	}
}
