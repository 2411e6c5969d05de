package session_test

import (
	"context"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/types/known/durationpb"

	fleetv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/fleet/v1"
	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/host"
	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/lease"
	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/reconcile"
	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/session"
)

const leaseDuration = 15 * time.Second

// scheduler answers after a delay, unless it is cut off.
type scheduler struct {
	fleetv1.UnimplementedSynchronizeServiceServer
	mu       sync.Mutex
	cut      bool
	delay    time.Duration
	atOnce   bool      // a report that does not know the desired state is answered without delay
	received time.Time // of the last report that it heard
	calls    int
	leases   int
}

func (s *scheduler) Synchronize(ctx context.Context, req *fleetv1.SynchronizeRequest) (*fleetv1.SynchronizeResponse, error) {
	s.mu.Lock()
	if s.cut {
		s.mu.Unlock()
		return nil, status.Error(codes.Unavailable, "cut")
	}
	s.received, s.calls, s.leases = time.Now(), s.calls+1, len(req.Report.Leases)
	delay := s.delay
	if s.atOnce && req.KnownRevision != 7 {
		delay = 0
	}
	s.mu.Unlock()
	select {
	case <-time.After(delay):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cut { // the answer is lost
		return nil, status.Error(codes.Unavailable, "cut")
	}
	return &fleetv1.SynchronizeResponse{
		DesiredRevision: 7, LeaseDuration: durationpb.New(leaseDuration),
		Assignments: []*fleetv1.Assignment{{JobId: "j", Attempt: 1, Fence: 3, DeviceIds: []string{"cpu:0"}, ReservedBytes: []int64{5}}},
	}, nil
}

// agent is a host that only remembers.
type agent struct {
	mu      sync.Mutex
	changed chan struct{}
	until   time.Time
	desired reconcile.Desired
	leases  []host.LeaseState
}

func (a *agent) Snapshot() host.Snapshot {
	a.mu.Lock()
	defer a.mu.Unlock()
	return host.Snapshot{Leases: slices.Clone(a.leases)}
}

func (a *agent) Changed() <-chan struct{} {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.changed
}

func (a *agent) Apply(_ context.Context, d reconcile.Desired, until time.Time) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.desired, a.until = d, until
	return true
}

func (a *agent) change(fn func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	fn()
	close(a.changed)
	a.changed = make(chan struct{})
}

func run(t *testing.T, s *scheduler, body func(a *agent)) {
	t.Helper()
	listener := bufconn.Listen(1 << 20)
	server := grpc.NewServer()
	fleetv1.RegisterSynchronizeServiceServer(server, s)
	var wg sync.WaitGroup
	wg.Go(func() { _ = server.Serve(listener) })
	conn, err := grpc.NewClient("passthrough:///scheduler", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	a := &agent{changed: make(chan struct{})}
	yes := func() bool { return true }
	loop := session.New(conn, session.Identity{Name: "a", DataService: yes, Registry: yes}, a, func() {}, zap.NewNop())
	wg.Go(func() {
		if err := loop.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	body(a)
	cancel()
	if err := conn.Close(); err != nil {
		t.Error(err)
	}
	server.Stop()
	wg.Wait()
}

// In every partition the agent's lease is over before the scheduler may give
// its devices to another: the lease counts from the request's sending, which is
// before the scheduler's receipt, whether or not the answer arrives.
func TestLeaseEndsBeforeTheSchedulerMayThinkSo(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &scheduler{delay: time.Second}
		rng := rand.New(rand.NewPCG(1, 2))
		run(t, s, func(a *agent) {
			for range 1000 {
				time.Sleep(time.Duration(rng.IntN(5000)) * time.Millisecond)
				s.mu.Lock()
				s.cut = true
				s.mu.Unlock()
				time.Sleep(time.Duration(rng.IntN(60)) * time.Second)
				s.mu.Lock()
				a.mu.Lock()
				if lost := s.received.Add(leaseDuration); !a.until.IsZero() && a.until.After(lost) {
					t.Errorf("the agent holds until %v, the scheduler only until %v", a.until, lost)
				}
				a.mu.Unlock()
				s.cut = false
				s.mu.Unlock()
			}
			time.Sleep(10 * time.Second)
			a.mu.Lock()
			defer a.mu.Unlock()
			if time.Until(a.until) <= 0 {
				t.Error("no contact after the last partition")
			}
		})
	})
}

// A local change cuts the poll short: it is reported at once, not after the poll.
func TestLocalChangeIsReportedAtOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &scheduler{delay: time.Minute}
		run(t, s, func(a *agent) {
			time.Sleep(time.Second)
			a.change(func() { a.leases = []host.LeaseState{{Key: lease.Key{JobID: "j", Attempt: 1, Fence: 3}}} })
			time.Sleep(10 * time.Millisecond)
			s.mu.Lock()
			defer s.mu.Unlock()
			if s.calls != 2 || s.leases != 1 {
				t.Errorf("%d calls, %d leases in the last", s.calls, s.leases)
			}
		})
	})
}

// Trainers that report all the time cut every poll short; the lease is renewed
// all the same, long before it ends.
func TestABusyHostKeepsItsLease(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &scheduler{delay: 4 * time.Second, atOnce: true}
		run(t, s, func(a *agent) {
			time.Sleep(time.Second)
			for range 600 {
				time.Sleep(100 * time.Millisecond)
				a.change(func() {})
				a.mu.Lock()
				left := time.Until(a.until)
				a.mu.Unlock()
				if left < leaseDuration/2 {
					t.Fatalf("only %v of the lease are left", left)
				}
			}
		})
	})
}

// An answer becomes reconcile's words in full.
func TestAnswerIsApplied(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		run(t, &scheduler{delay: time.Second}, func(a *agent) {
			time.Sleep(1500 * time.Millisecond)
			a.mu.Lock()
			defer a.mu.Unlock()
			if len(a.desired.Assignments) != 1 || !a.desired.Known {
				t.Fatalf("%+v", a.desired)
			}
			got := a.desired.Assignments[0]
			if got.Key != (lease.Key{JobID: "j", Attempt: 1, Fence: 3}) || !slices.Equal(got.Claims, []lease.Claim{{Device: "cpu:0", Bytes: 5}}) {
				t.Fatalf("%+v", got)
			}
		})
	})
}
