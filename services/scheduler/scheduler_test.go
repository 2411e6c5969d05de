package scheduler_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/ultrathink-pilot/trainyard/libs/identity"
	"github.com/ultrathink-pilot/trainyard/libs/pg/pgtest"
	"github.com/ultrathink-pilot/trainyard/libs/rpcerr"
	"github.com/ultrathink-pilot/trainyard/libs/telemetry"
	errorv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/error/v1"
	fleetv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/fleet/v1"
	jobv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/job/v1"
	"github.com/ultrathink-pilot/trainyard/services/scheduler"
	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/postgres"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

const gib = int64(1) << 30

// mesh is one scheduler, as it runs in production, on an in-memory network.
type mesh struct {
	t    testing.TB
	dsn  string
	ca   *identity.Authority
	self identity.Files
	// listen begins a network for one life of the scheduler, connect reaches it.
	listen  func() net.Listener
	connect func(context.Context) (net.Conn, error)
	stop    func()
	// history and archive are what the next start gets.
	history time.Duration
	archive string
	s3      scheduler.S3
}

func newMesh(t testing.TB) *mesh {
	t.Helper()
	m := &mesh{t: t}
	m.listen = func() net.Listener {
		lis := bufconn.Listen(1 << 20)
		m.connect = lis.DialContext
		return lis
	}
	return m.begin()
}

// begin makes the database and the authority and starts the scheduler.
func (m *mesh) begin() *mesh {
	t := m.t
	t.Helper()
	m.dsn = pgtest.DSN(t, postgres.Schema, postgres.Migrations)
	var err error
	if m.ca, err = identity.NewAuthority(t.TempDir()); err != nil {
		t.Fatal(err)
	}
	m.self = m.issue(identity.RoleScheduler, "one")
	m.start()
	t.Cleanup(func() { m.stop() })
	return m
}

func (m *mesh) issue(role identity.Role, name string) identity.Files {
	m.t.Helper()
	f, err := m.ca.Issue(role, name)
	if err != nil {
		m.t.Fatal(err)
	}
	return f
}

func (m *mesh) start() {
	m.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	tel, err := telemetry.Start(ctx, telemetry.Config{Service: "scheduler", LogLevel: "error"})
	if err != nil {
		m.t.Fatal(err)
	}
	lis := m.listen()
	s, err := scheduler.New(ctx, scheduler.Config{
		TLSCert: m.self.Cert, TLSKey: m.self.Key, TLSCA: m.self.CA, DSN: m.dsn, Lease: 10 * time.Second, LockDelay: time.Second, Poll: 4 * time.Second, LeadTTL: 5 * time.Second, MinRuntime: time.Minute, History: m.history, HistoryArchive: m.archive, S3: m.s3,
		DefaultReservation: 1 << 29, DefaultCPUMillis: 100, DefaultHostMemory: 1 << 20, DefaultStallLimit: time.Minute,
	}, scheduler.Deps{Listener: lis, Telemetry: tel})
	if err != nil {
		m.t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	m.stop = func() {
		cancel()
		if err := <-done; err != nil {
			m.t.Errorf("scheduler: %v", err)
		}
		if err := tel.Shutdown(context.Background()); err != nil {
			m.t.Errorf("telemetry: %v", err)
		}
		m.stop = func() {}
	}
}

func (m *mesh) dial(role identity.Role, name string) *grpc.ClientConn {
	m.t.Helper()
	tls, err := identity.ClientTLS(m.issue(role, name), identity.RoleScheduler)
	if err != nil {
		m.t.Fatal(err)
	}
	conn, err := grpc.NewClient("passthrough:///scheduler", grpc.WithTransportCredentials(credentials.NewTLS(tls)),
		grpc.WithDefaultCallOptions(grpc.WaitForReady(true)),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return m.connect(ctx) }))
	if err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func (m *mesh) people() jobv1.JobServiceClient {
	return jobv1.NewJobServiceClient(m.dial(identity.RolePerson, "ann"))
}

func spec(bytes int64) *jobv1.JobSpec {
	return &jobv1.JobSpec{
		DisplayName: "bull", Experiment: "specialists/bull", PriorityClass: jobv1.PriorityClass_PRIORITY_CLASS_INTERACTIVE, BatchSize: 64,
		Resources: &jobv1.Resources{Devices: []*jobv1.DeviceDemand{{MemoryBytes: bytes}}},
		Runtime:   &jobv1.JobSpec_Native{Native: &jobv1.NativeSpec{Specialist: jobv1.Specialist_SPECIALIST_BULL, Symbol: "SPX", Timeframe: "1d", Seed: 1}},
	}
}

func (m *mesh) submit(c jobv1.JobServiceClient, s *jobv1.JobSpec) *jobv1.Job {
	m.t.Helper()
	r, err := c.SubmitJob(m.t.Context(), &jobv1.SubmitJobRequest{RequestId: uuid.NewString(), Spec: s})
	if err != nil {
		m.t.Fatal(err)
	}
	return r.GetJob()
}

// agent is a host that reports what the test says.
type agent struct {
	t      testing.TB
	client fleetv1.SynchronizeServiceClient
	report *fleetv1.AgentReport
	known  int64
}

func (m *mesh) agent(name string) *agent {
	return &agent{
		t: m.t, client: fleetv1.NewSynchronizeServiceClient(m.dial(identity.RoleAgent, name)),
		report: &fleetv1.AgentReport{
			AgentName: name, Incarnation: uuid.NewString(), CpuMillis: 4000, HostMemoryBytes: 16 * gib, DataServiceReachable: true, RegistryReachable: true,
			Devices: []*fleetv1.Device{{
				DeviceId: "cpu:0", Kind: "cpu-lane", MemoryBytes: 24 * gib, HeadroomBytes: gib, ProcessOverheadBytes: gib, Healthy: true,
				Isolation: fleetv1.Isolation_ISOLATION_WATCHED, Utilization: math.NaN(),
			}},
		},
	}
}

func (a *agent) sync() *fleetv1.SynchronizeResponse {
	a.t.Helper()
	r, err := a.client.Synchronize(a.t.Context(), &fleetv1.SynchronizeRequest{Report: a.report, KnownRevision: a.known})
	if err != nil {
		a.t.Fatal(err)
	}
	a.known = r.GetDesiredRevision()
	return r
}

// until repeats reports until the answer is what the test waits for.
func (a *agent) until(what string, ok func(*fleetv1.SynchronizeResponse) bool) *fleetv1.SynchronizeResponse {
	a.t.Helper()
	for range 50 {
		if r := a.sync(); ok(r) {
			return r
		}
	}
	a.t.Fatalf("never: %s", what)
	return nil
}

func TestAJobThroughTheAPI(t *testing.T) {
	t.Parallel()
	m := newMesh(t)
	people := m.people()
	host := m.agent("h1")
	host.sync()

	watch, err := people.WatchJobs(t.Context(), &jobv1.WatchJobsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	states := make(chan jobv1.Job_State, 100)
	go func() {
		defer close(states)
		for {
			f, err := watch.Recv()
			if err != nil {
				return
			}
			for _, j := range f.GetJobs() {
				states <- j.GetState()
			}
		}
	}()

	j := m.submit(people, spec(2*gib))
	if j.GetState() != jobv1.Job_STATE_QUEUED || j.GetSubmitter() != "person/ann" || j.GetTraceparent() == "" {
		t.Errorf("accepted as %v", j)
	}
	as := host.until("assignment", func(r *fleetv1.SynchronizeResponse) bool { return len(r.GetAssignments()) == 1 }).GetAssignments()[0]
	if as.GetJobId() != j.GetJobId() || as.GetFence() == 0 || as.GetDeviceIds()[0] != "cpu:0" || as.GetReservedBytes()[0] != 2*gib || as.GetBatchSize() != 64 || as.GetResume() {
		t.Errorf("assignment %v", as)
	}
	if as.GetSpec().GetNative().GetSymbol() != "SPX" {
		t.Errorf("the specification did not arrive: %v", as.GetSpec())
	}
	// One trace: the placement is in the submit's.
	if traceID(as.GetTraceparent()) != traceID(j.GetTraceparent()) || as.GetTraceparent() == j.GetTraceparent() {
		t.Errorf("placement %q is not a child of submit %q", as.GetTraceparent(), j.GetTraceparent())
	}
	host.report.Leases = []*fleetv1.HeldLease{{
		JobId: j.GetJobId(), Attempt: 1, Fence: as.GetFence(), Phase: fleetv1.HeldLease_PHASE_RUNNING, Isolation: fleetv1.Isolation_ISOLATION_WATCHED,
		Progress: &jobv1.Progress{Epoch: 3, TotalEpochs: 9, Step: 300, Objective: 1.5, Reward: math.Inf(1), Remaining: durationpb.New(time.Minute), CheckpointId: "c1", CheckpointStep: 200},
	}}
	host.known = 0 // an agent may always ask for the whole answer
	host.sync()
	got, err := people.GetJob(t.Context(), &jobv1.GetJobRequest{JobId: j.GetJobId()})
	if err != nil {
		t.Fatal(err)
	}
	if g := got.GetJob(); g.GetState() != jobv1.Job_STATE_RUNNING || g.GetProgress().GetEpoch() != 3 || g.GetProgress().GetObjective() != 1.5 ||
		g.GetAttempts()[0].GetIsolation() != "WATCHED" || g.GetStartTime() == nil {
		t.Errorf("running as %v", g)
	}
	fleet := fleetv1.NewFleetServiceClient(m.dial(identity.RolePerson, "bob"))
	agents, err := fleet.ListAgents(t.Context(), &fleetv1.ListAgentsRequest{})
	if err != nil || len(agents.GetAgents()) != 1 {
		t.Fatalf("%v, %v", agents, err)
	}
	if a := agents.GetAgents()[0]; a.GetState() != fleetv1.Agent_STATE_READY || a.GetReservedBytes()[0] != 3*gib || len(a.GetLeases()) != 1 {
		t.Errorf("agent %v", a)
	}
	host.report.Exits = []*fleetv1.Exit{{JobId: j.GetJobId(), Attempt: 1, Fence: as.GetFence(), Outcome: fleetv1.Exit_OUTCOME_SUCCEEDED}}
	host.report.Leases = nil
	if r := host.sync(); len(r.GetAcknowledgedExits()) != 1 {
		t.Errorf("exit not acknowledged: %v", r)
	}
	// Changes may be merged, never reordered or lost.
	order := []jobv1.Job_State{jobv1.Job_STATE_QUEUED, jobv1.Job_STATE_STARTING, jobv1.Job_STATE_RUNNING, jobv1.Job_STATE_SUCCEEDED}
	at := 0
	for s := range states {
		for at < len(order) && order[at] != s {
			at++
		}
		if at == len(order) {
			t.Fatalf("watched %s out of order", s)
		}
		if s == jobv1.Job_STATE_SUCCEEDED {
			break
		}
	}
}

func traceID(traceparent string) string {
	parts := strings.Split(traceparent, "-")
	if len(parts) != 4 {
		return traceparent
	}
	return parts[1]
}

func TestBadSubmitsAreRefusedWhole(t *testing.T) {
	t.Parallel()
	m := newMesh(t)
	people := m.people()
	host := m.agent("h1")
	host.sync()
	ctx := t.Context()

	big := spec(96 * gib)
	big.Resources.CpuMillis = 99000
	_, err := people.SubmitJob(ctx, &jobv1.SubmitJobRequest{RequestId: uuid.NewString(), Spec: big})
	if rpcerr.ReasonOf(err) != errorv1.Reason_REASON_DEMAND_IMPOSSIBLE {
		t.Errorf("impossible demand: %v", err)
	}
	if got := fmt.Sprint(rpcerr.Violations(err)); !strings.Contains(got, "spec.resources.devices[0].memory_bytes 96 GiB is more than any device has (largest 22 GiB)") || !strings.Contains(got, "spec.resources.cpu_millis") {
		t.Errorf("violations: %s", got)
	}

	wrong := spec(96 * gib)
	wrong.Runtime = &jobv1.JobSpec_Command{Command: &jobv1.CommandSpec{Argv: []string{"x"}, Env: map[string]string{"TRAINYARD_TOKEN": "1"}}}
	wrong.RetryPolicy = &jobv1.RetryPolicy{MinBatchSize: 128}
	wrong.Resources.Devices[0].Kind = "A100| H100"
	_, err = people.SubmitJob(ctx, &jobv1.SubmitJobRequest{RequestId: uuid.NewString(), Spec: wrong})
	if rpcerr.ReasonOf(err) != errorv1.Reason_REASON_INVALID_FIELDS || len(rpcerr.Violations(err)) != 4 {
		t.Errorf("wrong fields with an impossible demand: %v", err)
	}

	_, err = people.SubmitJob(ctx, &jobv1.SubmitJobRequest{RequestId: "no uuid", Spec: &jobv1.JobSpec{}})
	if rpcerr.ReasonOf(err) != errorv1.Reason_REASON_INVALID_FIELDS || len(rpcerr.Violations(err)) < 3 {
		t.Errorf("an empty specification: %v", err)
	}

	list, err := people.ListJobs(ctx, &jobv1.ListJobsRequest{})
	if err != nil || len(list.GetJobs()) != 0 {
		t.Errorf("refused submits left %v, %v", list, err)
	}

	big.WaitForCapacity = true
	big.Resources.CpuMillis = 0
	j := m.submit(people, big)
	x, err := people.ExplainJob(ctx, &jobv1.ExplainJobRequest{JobId: j.GetJobId()})
	if err != nil || !strings.Contains(x.GetSummary(), "96 GiB is more than any device has (largest 22 GiB)") {
		t.Errorf("%v, %v", x, err)
	}
	dry, err := people.SubmitJob(ctx, &jobv1.SubmitJobRequest{RequestId: uuid.NewString(), Spec: spec(gib), ValidateOnly: true})
	if err != nil || dry.GetPrediction() != "h1/cpu:0" || dry.GetJob().GetJobId() != "" {
		t.Errorf("prediction %v, %v", dry, err)
	}
	late := spec(gib)
	late.Deadline, late.ExpectedDuration = timestamppb.New(time.Now().Add(time.Hour)), durationpb.New(3*time.Hour)
	dry, err = people.SubmitJob(ctx, &jobv1.SubmitJobRequest{RequestId: uuid.NewString(), Spec: late, ValidateOnly: true})
	if err != nil || !strings.HasPrefix(dry.GetPrediction(), "h1/cpu:0; it would miss its deadline by 2h0m0") {
		t.Errorf("prediction of a miss %v, %v", dry.GetPrediction(), err)
	}
}

func TestRequestsAreIdempotentOverTheWireAndRestarts(t *testing.T) {
	t.Parallel()
	m := newMesh(t)
	people := m.people()
	ctx := t.Context()
	in := &jobv1.SubmitJobRequest{RequestId: uuid.NewString(), Spec: spec(gib)}
	first, err := people.SubmitJob(ctx, in)
	if err != nil {
		t.Fatal(err)
	}
	m.stop()
	m.start()
	again, err := m.people().SubmitJob(ctx, in)
	if err != nil || again.GetJob().GetJobId() != first.GetJob().GetJobId() {
		t.Fatalf("%v, %v", again, err)
	}
	in.Spec.Tenant = "other"
	if _, err = m.people().SubmitJob(ctx, in); rpcerr.ReasonOf(err) != errorv1.Reason_REASON_REQUEST_ID_REUSED {
		t.Errorf("another payload: %v", err)
	}
	in.Spec.Tenant = ""
	other := jobv1.NewJobServiceClient(m.dial(identity.RolePerson, "eve"))
	if _, err = other.SubmitJob(ctx, in); rpcerr.ReasonOf(err) != errorv1.Reason_REASON_REQUEST_ID_REUSED {
		t.Errorf("another caller: %v", err)
	}
}

func TestPagesAndVerbs(t *testing.T) {
	t.Parallel()
	m := newMesh(t)
	people := m.people()
	ctx := t.Context()
	var want []string
	for range 5 {
		want = append([]string{m.submit(people, spec(gib)).GetJobId()}, want...)
	}
	var got []string
	in := &jobv1.ListJobsRequest{PageSize: 2, ExperimentPrefix: "specialists/"}
	for {
		r, err := people.ListJobs(ctx, in)
		if err != nil {
			t.Fatal(err)
		}
		for _, j := range r.GetJobs() {
			got = append(got, j.GetJobId())
			if !strings.Contains(j.GetStateReason(), "no host has joined") {
				t.Errorf("listed as waiting because %q", j.GetStateReason())
			}
		}
		if in.PageToken = r.GetNextPageToken(); in.PageToken == "" {
			break
		}
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("pages %v, want %v", got, want)
	}
	r, err := people.ListJobs(ctx, &jobv1.ListJobsRequest{PageSize: 2})
	if err != nil {
		t.Fatal(err)
	}
	_, err = people.ListJobs(ctx, &jobv1.ListJobsRequest{PageToken: r.GetNextPageToken(), ExperimentPrefix: "x"})
	if rpcerr.ReasonOf(err) != errorv1.Reason_REASON_PAGE_TOKEN_INVALID {
		t.Errorf("token of another filter: %v", err)
	}

	id := want[0]
	paused, err := people.PauseJob(ctx, &jobv1.PauseJobRequest{RequestId: uuid.NewString(), JobId: id, Reason: "lunch"})
	if err != nil || paused.GetJob().GetState() != jobv1.Job_STATE_PAUSED || paused.GetJob().GetStateReason() != "paused by person/ann: lunch" {
		t.Errorf("%v, %v", paused, err)
	}
	_, err = people.ReprioritizeJob(ctx, &jobv1.ReprioritizeJobRequest{RequestId: uuid.NewString(), JobId: id, PriorityClass: jobv1.PriorityClass_PRIORITY_CLASS_PRODUCTION, Etag: "1"})
	if rpcerr.ReasonOf(err) != errorv1.Reason_REASON_CONFLICT {
		t.Errorf("stale etag: %v", err)
	}
	up, err := people.ReprioritizeJob(ctx, &jobv1.ReprioritizeJobRequest{
		RequestId: uuid.NewString(), JobId: id, PriorityClass: jobv1.PriorityClass_PRIORITY_CLASS_PRODUCTION, Etag: paused.GetJob().GetEtag(),
	})
	if err != nil || up.GetJob().GetSpec().GetPriorityClass() != jobv1.PriorityClass_PRIORITY_CLASS_PRODUCTION {
		t.Errorf("%v, %v", up, err)
	}
	if _, err = people.ResumeJob(ctx, &jobv1.ResumeJobRequest{RequestId: uuid.NewString(), JobId: id}); err != nil {
		t.Error(err)
	}
	x, err := people.ExplainJob(ctx, &jobv1.ExplainJobRequest{JobId: want[1]})
	if err != nil || x.GetAheadCount() != 4 || x.GetAheadJobIds()[0] != id || !strings.Contains(x.GetSummary(), "no host has joined") {
		t.Errorf("%v, %v", x, err)
	}
	c, err := people.CancelJob(ctx, &jobv1.CancelJobRequest{RequestId: uuid.NewString(), JobId: id})
	if err != nil || c.GetJob().GetState() != jobv1.Job_STATE_CANCELLED {
		t.Errorf("%v, %v", c, err)
	}
	_, err = people.PauseJob(ctx, &jobv1.PauseJobRequest{RequestId: uuid.NewString(), JobId: id})
	if rpcerr.ReasonOf(err) != errorv1.Reason_REASON_ILLEGAL_TRANSITION || rpcerr.FromError(err).Metadata("state") != "CANCELLED" {
		t.Errorf("paused a final job: %v", err)
	}
	if _, err = people.GetJob(ctx, &jobv1.GetJobRequest{JobId: uuid.NewString()}); rpcerr.ReasonOf(err) != errorv1.Reason_REASON_RESOURCE_NOT_FOUND {
		t.Errorf("unknown job: %v", err)
	}
}

func TestCallersAreChecked(t *testing.T) {
	t.Parallel()
	m := newMesh(t)
	ctx := t.Context()
	asAgent := jobv1.NewJobServiceClient(m.dial(identity.RoleAgent, "h1"))
	if _, err := asAgent.SubmitJob(ctx, &jobv1.SubmitJobRequest{RequestId: uuid.NewString(), Spec: spec(gib)}); rpcerr.ReasonOf(err) != errorv1.Reason_REASON_CALLER_NOT_ALLOWED {
		t.Errorf("an agent submitted: %v", err)
	}
	asPerson := fleetv1.NewSynchronizeServiceClient(m.dial(identity.RolePerson, "ann"))
	host := m.agent("h1")
	if _, err := asPerson.Synchronize(ctx, &fleetv1.SynchronizeRequest{Report: host.report}); rpcerr.ReasonOf(err) != errorv1.Reason_REASON_CALLER_NOT_ALLOWED {
		t.Errorf("a person synchronized: %v", err)
	}
	host.report.AgentName = "h2"
	if _, err := host.client.Synchronize(ctx, &fleetv1.SynchronizeRequest{Report: host.report}); rpcerr.ReasonOf(err) != errorv1.Reason_REASON_CALLER_NOT_ALLOWED {
		t.Errorf("h1 spoke for h2: %v", err)
	}
}

func TestAWatchResumesAcrossARestart(t *testing.T) {
	t.Parallel()
	m := newMesh(t)
	first := m.submit(m.people(), spec(gib))
	watch, err := m.people().WatchJobs(t.Context(), &jobv1.WatchJobsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	token := ""
	for {
		f, err := watch.Recv()
		if err != nil {
			t.Fatal(err)
		}
		token = f.GetResumeToken()
		if f.GetComplete() {
			break
		}
		if len(f.GetJobs()) != 1 || f.GetJobs()[0].GetJobId() != first.GetJobId() {
			t.Errorf("complete state %v", f)
		}
	}
	m.stop()
	if _, err := watch.Recv(); err == nil || errors.Is(err, context.Canceled) {
		t.Errorf("the watch survived its server: %v", err)
	}
	m.start()
	second := m.submit(m.people(), spec(gib))
	watch, err = m.people().WatchJobs(t.Context(), &jobv1.WatchJobsRequest{ResumeToken: token})
	if err != nil {
		t.Fatal(err)
	}
	var ids []string
	for len(ids) == 0 {
		f, err := watch.Recv()
		if err != nil {
			t.Fatal(err)
		}
		for _, j := range f.GetJobs() {
			ids = append(ids, j.GetJobId())
		}
	}
	if len(ids) != 1 || ids[0] != second.GetJobId() {
		t.Errorf("resumed with %v, want only %s", ids, second.GetJobId())
	}
}

func TestConfigNamesEveryProblem(t *testing.T) {
	t.Parallel()
	c := scheduler.Config{Lease: time.Second, LockDelay: -1, Poll: time.Minute, MinRuntime: -1}
	if got := c.Validate(); len(got) != 7 {
		t.Errorf("%q", got)
	}
	good := scheduler.Config{Lease: 15 * time.Second, LockDelay: 5 * time.Second, Poll: 4 * time.Second, LeadTTL: 5 * time.Second, DefaultReservation: 1, History: time.Hour}
	if got := good.Validate(); got != nil {
		t.Errorf("%q", got)
	}
}
