package rpcserver_test

import (
	"context"
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/test/bufconn"

	"github.com/ultrathink-pilot/trainyard/libs/identity"
	"github.com/ultrathink-pilot/trainyard/libs/rpcclient"
	"github.com/ultrathink-pilot/trainyard/libs/rpcerr"
	"github.com/ultrathink-pilot/trainyard/libs/rpcserver"
	errorv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/error/v1"
	jobv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/job/v1"
	registryv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/registry/v1"
)

const (
	getJob   = "/trainyard.job.v1.JobService/GetJob"
	watch    = "/trainyard.job.v1.JobService/WatchJobs"
	ingest   = "/trainyard.registry.v1.IngestService/Ingest"
	uuid     = "0198c0de-0000-7000-8000-000000000001"
	otherJob = "0198c0de-0000-7000-8000-000000000002"
)

// jobs answers GetJob with a function and answers nothing else.
type jobs struct {
	jobv1.UnimplementedJobServiceServer
	get   func(ctx context.Context) error
	watch func(ctx context.Context) error
}

func (j *jobs) GetJob(ctx context.Context, _ *jobv1.GetJobRequest) (*jobv1.GetJobResponse, error) {
	if err := j.get(ctx); err != nil {
		return nil, err
	}
	return &jobv1.GetJobResponse{}, nil
}

func (j *jobs) WatchJobs(_ *jobv1.WatchJobsRequest, s grpc.ServerStreamingServer[jobv1.WatchJobsResponse]) error {
	return j.watch(s.Context())
}

// ingests echoes one result per frame.
type ingests struct {
	registryv1.UnimplementedIngestServiceServer
}

func (ingests) Ingest(s grpc.BidiStreamingServer[registryv1.IngestRequest, registryv1.IngestResponse]) error {
	for {
		if _, err := s.Recv(); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		if err := s.Send(&registryv1.IngestResponse{}); err != nil {
			return err
		}
	}
}

// everyMethod allows all methods of both services to the given roles.
func everyMethod(roles ...identity.Role) rpcserver.AllowTable {
	table := rpcserver.AllowTable{}
	for _, d := range []grpc.ServiceDesc{jobv1.JobService_ServiceDesc, registryv1.IngestService_ServiceDesc} {
		for _, m := range d.Methods {
			table["/"+d.ServiceName+"/"+m.MethodName] = roles
		}
		for _, m := range d.Streams {
			table["/"+d.ServiceName+"/"+m.StreamName] = roles
		}
	}
	return table
}

type bench struct {
	jobs    *jobs
	metrics *prometheus.Registry
	logs    *observer.ObservedLogs
	opts    rpcserver.Options
	stop    context.CancelFunc
	stopped chan error
	lis     *bufconn.Listener
}

// serve runs a server in memory; as says who calls.
func serve(t *testing.T, as identity.Role, change func(*rpcserver.Options)) *bench {
	t.Helper()
	core, logs := observer.New(zapcore.DebugLevel)
	b := &bench{
		jobs: &jobs{get: func(context.Context) error { return nil }, watch: func(context.Context) error { return nil }}, metrics: prometheus.NewRegistry(),
		logs: logs, stopped: make(chan error, 1), lis: bufconn.Listen(1 << 20),
	}
	b.opts = rpcserver.Options{
		Name: "test", Listener: b.lis, Log: zap.New(core), Metrics: b.metrics, Allow: everyMethod(identity.RolePerson, identity.RoleAgent),
		Authenticate: func(context.Context) (identity.ID, error) { return identity.ID{Role: as, Name: "tester"}, nil },
	}
	if change != nil {
		change(&b.opts)
	}
	s, err := rpcserver.New(b.opts)
	if err != nil {
		t.Fatal(err)
	}
	jobv1.RegisterJobServiceServer(s.GRPC(), b.jobs)
	registryv1.RegisterIngestServiceServer(s.GRPC(), ingests{})
	ctx, cancel := context.WithCancel(t.Context())
	b.stop = cancel
	go func() { b.stopped <- s.Run(ctx) }()
	t.Cleanup(cancel)
	return b
}

func (b *bench) dial(t *testing.T, wrap func(net.Conn) net.Conn) *grpc.ClientConn {
	t.Helper()
	conn, err := rpcclient.Dial("passthrough:///memory", rpcclient.Options{Dialer: func(ctx context.Context, _ string) (net.Conn, error) {
		c, err := b.lis.DialContext(ctx)
		if err == nil && wrap != nil {
			c = wrap(c)
		}
		return c, err
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
	})
	return conn
}

func (b *bench) client(t *testing.T) jobv1.JobServiceClient {
	return jobv1.NewJobServiceClient(b.dial(t, nil))
}

func get(ctx context.Context, c jobv1.JobServiceClient) error {
	_, err := c.GetJob(ctx, &jobv1.GetJobRequest{JobId: uuid})
	return err
}

func TestEveryMethodDeniesEveryRoleThatIsNotListed(t *testing.T) {
	t.Parallel()
	allowed := identity.RoleAgent
	for _, role := range identity.Roles() {
		t.Run(string(role), func(t *testing.T) {
			t.Parallel()
			b := serve(t, role, func(o *rpcserver.Options) { o.Allow = everyMethod(allowed) })
			conn := b.dial(t, nil)
			for method := range b.opts.Allow {
				stream, err := conn.NewStream(t.Context(), &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, method)
				if err != nil {
					t.Fatal(err)
				}
				// One frame that fails validation: an allowed caller gets that far, and no further.
				if err := errors.Join(stream.SendMsg(&jobv1.GetJobRequest{JobId: "x"}), stream.CloseSend()); err != nil && !errors.Is(err, io.EOF) {
					t.Fatal(err)
				}
				err = stream.RecvMsg(&jobv1.GetJobResponse{})
				denied := rpcerr.ReasonOf(err) == errorv1.Reason_REASON_CALLER_NOT_ALLOWED
				if denied != (role != allowed) {
					t.Errorf("%s as %s: %v", method, role, err)
				}
			}
			// Health is open to every authenticated caller.
			if _, err := healthv1.NewHealthClient(conn).Check(t.Context(), &healthv1.HealthCheckRequest{Service: "trainyard.job.v1.JobService"}); err != nil {
				t.Errorf("health as %s: %v", role, err)
			}
		})
	}
}

func TestUnknownCallerIsUnauthenticated(t *testing.T) {
	t.Parallel()
	b := serve(t, "", func(o *rpcserver.Options) {
		o.Authenticate = func(context.Context) (identity.ID, error) { return identity.ID{}, errors.New("no token") }
	})
	err := get(t.Context(), b.client(t))
	if rpcerr.ReasonOf(err) != errorv1.Reason_REASON_UNAUTHENTICATED {
		t.Errorf("got %v", err)
	}
	if n := testutil.CollectAndCount(b.metrics, "trainyard_rpc_denied_total"); n != 1 {
		t.Errorf("%d series of denied calls, want 1", n)
	}
}

func TestTheTableMustMatchTheMethods(t *testing.T) {
	t.Parallel()
	b := serve(t, identity.RolePerson, func(o *rpcserver.Options) {
		delete(o.Allow, getJob)
		o.Allow["/trainyard.job.v1.JobService/GetJobs"] = []identity.Role{identity.RolePerson}
		o.Allow[watch] = []identity.Role{"wizard"}
		o.LongPoll = []string{"/trainyard.job.v1.JobService/Poll"}
	})
	err := <-b.stopped
	if err == nil {
		t.Fatal("the server started with a wrong table")
	}
	for _, want := range []string{getJob + " has no entry", "GetJobs is not registered", `WatchJobs allows "wizard"`, "Poll is in LongPoll"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%v lacks %q", err, want)
		}
	}
}

func TestOptionsAreChecked(t *testing.T) {
	t.Parallel()
	_, err := rpcserver.New(rpcserver.Options{Name: "x"})
	if err == nil || !strings.Contains(err.Error(), "Listener, Log, Allow, exactly one of TLS and Authenticate") {
		t.Errorf("got %v", err)
	}
}

func TestErrorsCrossTheWireWithoutTheirCause(t *testing.T) {
	t.Parallel()
	b := serve(t, identity.RolePerson, nil)
	c := b.client(t)
	b.jobs.get = func(context.Context) error { return errors.New("pq: relation secret does not exist") }
	err := get(t.Context(), c)
	if rpcerr.ReasonOf(err) != errorv1.Reason_REASON_INTERNAL || strings.Contains(err.Error(), "secret") {
		t.Errorf("got %v, want INTERNAL without the driver's text", err)
	}
	b.jobs.get = func(context.Context) error { return rpcerr.Fenced("fence 3 is below 4").With("newest", "4") }
	err = get(t.Context(), c)
	if e := rpcerr.FromError(err); e == nil || e.Reason() != errorv1.Reason_REASON_LEASE_FENCED || e.Metadata("newest") != "4" || e.Message() != "fence 3 is below 4" {
		t.Errorf("got %v", err)
	}
	b.jobs.get = func(context.Context) error { panic("ouch") }
	if err = get(t.Context(), c); rpcerr.ReasonOf(err) != errorv1.Reason_REASON_INTERNAL || strings.Contains(err.Error(), "ouch") {
		t.Errorf("after a panic: %v", err)
	}
	line := b.logs.FilterMessage("rpc").FilterField(zap.String("method", getJob)).All()
	if len(line) != 3 || line[0].Level != zapcore.ErrorLevel || !strings.Contains(line[0].ContextMap()["cause"].(string), "relation secret") || line[0].ContextMap()["caller"] != "person/tester" {
		t.Errorf("the log has no cause or caller: %+v", line)
	}
	if n := testutil.ToFloat64(mustCounter(t, b.metrics, "trainyard_rpc_panics_total")); n != 1 {
		t.Errorf("panics = %v, want 1", n)
	}
}

// mustCounter finds the only series of a counter.
func mustCounter(t *testing.T, reg *prometheus.Registry, name string) prometheus.Collector {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name && len(f.GetMetric()) == 1 {
			c := prometheus.NewCounter(prometheus.CounterOpts{Name: name})
			c.Add(f.GetMetric()[0].GetCounter().GetValue())
			return c
		}
	}
	t.Fatalf("%s has not exactly one series", name)
	return nil
}

func TestValidationNamesEveryBadField(t *testing.T) {
	t.Parallel()
	b := serve(t, identity.RoleAgent, nil)
	conn := b.dial(t, nil)
	_, err := jobv1.NewJobServiceClient(conn).GetJob(t.Context(), &jobv1.GetJobRequest{JobId: "nope"})
	if v := rpcerr.Violations(err); len(v) != 1 || v[0].Field != "job_id" || v[0].Description == "" {
		t.Errorf("unary: %v", err)
	}
	s, err := registryv1.NewIngestServiceClient(conn).Ingest(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	good := &registryv1.IngestRequest{JobId: otherJob, Attempt: 1, Fence: 1, Sequence: 1, Batch: &registryv1.IngestRequest_Closed{Closed: &registryv1.RunClosed{}}}
	if err := s.Send(good); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Recv(); err != nil && rpcerr.ReasonOf(err) != errorv1.Reason_REASON_INVALID_FIELDS {
		t.Fatalf("first frame: %v", err)
	}
	s, err = registryv1.NewIngestServiceClient(conn).Ingest(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Send(&registryv1.IngestRequest{JobId: "nope"}); err != nil {
		t.Fatal(err)
	}
	_, err = s.Recv()
	var fields []string
	for _, v := range rpcerr.Violations(err) {
		fields = append(fields, v.Field)
	}
	for _, want := range []string{"job_id", "attempt", "fence", "sequence", "batch"} {
		if !slices.Contains(fields, want) {
			t.Errorf("stream: %v lacks %s", err, want)
		}
	}
}

func TestDeadlines(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var left time.Duration
		look := func(ctx context.Context) error {
			d, ok := ctx.Deadline()
			if !ok {
				return errors.New("no deadline")
			}
			left = time.Until(d)
			return nil
		}
		b := serve(t, identity.RolePerson, nil)
		b.jobs.get = look
		c := b.client(t)
		if err := get(t.Context(), c); err != nil || left != rpcserver.UnaryLimit {
			t.Errorf("no deadline of the caller: %v left, %v", left, err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 7*time.Second)
		defer cancel()
		if err := get(ctx, c); err != nil || left > 7*time.Second || left < 6*time.Second {
			t.Errorf("deadline of the caller: %v left, %v", left, err)
		}
		b.jobs.get = func(ctx context.Context) error { <-ctx.Done(); return errors.New("pq: canceling statement") }
		if err := get(t.Context(), c); rpcerr.ReasonOf(err) != errorv1.Reason_REASON_DEADLINE_EXCEEDED {
			t.Errorf("a handler past its deadline: %v", err)
		}

		p := serve(t, identity.RolePerson, func(o *rpcserver.Options) { o.LongPoll = []string{getJob} })
		p.jobs.get = look
		if err := get(t.Context(), p.client(t)); err != nil || left != rpcserver.LongPollLimit {
			t.Errorf("long poll: %v left, %v", left, err)
		}
		finish(t, b)
		finish(t, p)
	})
}

// finish stops the server inside a bubble, which must end with no goroutine.
func finish(t *testing.T, b *bench) {
	t.Helper()
	b.stop()
	if err := <-b.stopped; err != nil {
		t.Errorf("stop: %v", err)
	}
}

func TestDrain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := serve(t, identity.RolePerson, func(o *rpcserver.Options) { o.Drain = 10 * time.Second })
		b.jobs.get = func(ctx context.Context) error {
			select {
			case <-rpcserver.Draining(ctx):
				return rpcerr.Draining()
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		b.jobs.watch = func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
		conn := b.dial(t, nil)
		c := jobv1.NewJobServiceClient(conn)
		polite := make(chan error, 1)
		go func() {
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			polite <- get(ctx, c)
		}()
		deaf, err := c.WatchJobs(t.Context(), &jobv1.WatchJobsRequest{})
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		start := time.Now()
		b.stop()
		if err := <-b.stopped; err != nil {
			t.Errorf("Run: %v", err)
		}
		if took := time.Since(start); took != 10*time.Second {
			t.Errorf("the deaf stream was cut after %s, want the drain time", took)
		}
		if err := <-polite; rpcerr.FromError(err) == nil || rpcerr.FromError(err).Code() != codes.Unavailable {
			t.Errorf("a handler that watches Draining: %v", err)
		}
		if _, err := deaf.Recv(); err == nil {
			t.Error("the deaf stream lives")
		}
	})
}

// deadNet is a connection that can turn into a black hole: nothing arrives, nothing fails,
// and the other side does not even learn that this one has closed.
type deadNet struct {
	net.Conn
	dead   chan struct{}
	in     chan []byte
	rest   []byte
	closed chan struct{}
	once   sync.Once
}

func newDeadNet(c net.Conn, dead chan struct{}) *deadNet {
	d := &deadNet{Conn: c, dead: dead, in: make(chan []byte), closed: make(chan struct{})}
	go func() {
		for {
			b := make([]byte, 64<<10)
			n, err := c.Read(b)
			if err != nil {
				select {
				case <-d.dead: // nor does the other side's close arrive
				default:
					close(d.in)
				}
				return
			}
			select {
			case <-d.dead: // swallow it
				continue
			default:
			}
			select {
			case d.in <- b[:n]:
			case <-d.dead:
			case <-d.closed:
			}
		}
	}()
	return d
}

func (d *deadNet) Read(b []byte) (int, error) {
	if len(d.rest) == 0 {
		select {
		case chunk, ok := <-d.in:
			if !ok {
				return 0, io.EOF
			}
			d.rest = chunk
		case <-d.closed:
			return 0, net.ErrClosed
		}
	}
	n := copy(b, d.rest)
	d.rest = d.rest[n:]
	return n, nil
}

func (d *deadNet) Write(b []byte) (int, error) {
	select {
	case <-d.dead:
		return len(b), nil
	default:
		return d.Conn.Write(b)
	}
}

func (d *deadNet) Close() error {
	d.once.Do(func() { close(d.closed) })
	select {
	case <-d.dead:
		return nil
	default:
		return d.Conn.Close()
	}
}

func TestABlackHoleIsNoticedOnBothSides(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := serve(t, identity.RolePerson, nil)
		serverSaw := make(chan time.Time, 1)
		b.jobs.watch = func(ctx context.Context) error {
			<-ctx.Done()
			serverSaw <- time.Now()
			return ctx.Err()
		}
		dead := make(chan struct{})
		var wires []net.Conn
		conn := b.dial(t, func(c net.Conn) net.Conn {
			select {
			case <-dead:
				_ = c.Close() // the client reconnects: it shall not, and this is not what we measure
			default:
				wires = append(wires, c)
			}
			return newDeadNet(c, dead)
		})
		s, err := jobv1.NewJobServiceClient(conn).WatchJobs(t.Context(), &jobv1.WatchJobsRequest{})
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute) // a quiet stream on a good network lives
		synctest.Wait()
		start := time.Now()
		close(dead)
		if _, err := s.Recv(); rpcerr.FromError(err) == nil || rpcerr.FromError(err).Code() != codes.Unavailable {
			t.Errorf("client: %v, want UNAVAILABLE", err)
		}
		if took := time.Since(start); took > 15*time.Second {
			t.Errorf("the client noticed after %s", took)
		}
		if took := (<-serverSaw).Sub(start); took > 15*time.Second {
			t.Errorf("the server noticed after %s", took)
		}
		for _, w := range wires {
			_ = w.Close() // the bubble must end with no goroutine
		}
		finish(t, b)
	})
}
