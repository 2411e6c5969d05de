package rpcclient_test

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/reflection/grpc_reflection_v1"

	"github.com/ultrathink-pilot/trainyard/libs/identity"
	"github.com/ultrathink-pilot/trainyard/libs/rpcclient"
	"github.com/ultrathink-pilot/trainyard/libs/rpcerr"
	"github.com/ultrathink-pilot/trainyard/libs/rpcserver"
	errorv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/error/v1"
	fleetv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/fleet/v1"
)

type fleet struct {
	fleetv1.UnimplementedFleetServiceServer
	calls  atomic.Int32
	answer func(ctx context.Context, n int32) error
}

func (f *fleet) ListAgents(ctx context.Context, _ *fleetv1.ListAgentsRequest) (*fleetv1.ListAgentsResponse, error) {
	if err := f.answer(ctx, f.calls.Add(1)); err != nil {
		return nil, err
	}
	return &fleetv1.ListAgentsResponse{}, nil
}

type mesh struct {
	authority *identity.Authority
	address   string
	fleet     *fleet
	stop      func()
}

// start runs a scheduler with real certificates on a real port.
func start(t *testing.T) *mesh {
	t.Helper()
	a, err := identity.NewAuthority(filepath.Join(t.TempDir(), "pki"))
	if err != nil {
		t.Fatal(err)
	}
	lis, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return serve(t, a, lis)
}

// serve runs a scheduler on a listener until stop is called or the test ends.
func serve(t *testing.T, a *identity.Authority, lis net.Listener) *mesh {
	t.Helper()
	m := &mesh{authority: a, fleet: &fleet{answer: func(context.Context, int32) error { return nil }}}
	files, err := a.Issue(identity.RoleScheduler, "main")
	if err != nil {
		t.Fatal(err)
	}
	tlsConfig, err := identity.ServerTLS(files)
	if err != nil {
		t.Fatal(err)
	}
	m.address = lis.Addr().String()
	allow := rpcserver.AllowTable{}
	for _, d := range fleetv1.FleetService_ServiceDesc.Methods {
		allow["/"+fleetv1.FleetService_ServiceDesc.ServiceName+"/"+d.MethodName] = []identity.Role{identity.RolePerson}
	}
	s, err := rpcserver.New(rpcserver.Options{Name: "scheduler", Listener: lis, TLS: tlsConfig, Log: zap.NewNop(), Allow: allow, Drain: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	fleetv1.RegisterFleetServiceServer(s.GRPC(), m.fleet)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	m.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(m.stop)
	return m
}

func (m *mesh) dial(t *testing.T, role, server identity.Role) *grpc.ClientConn {
	t.Helper()
	return m.dialAt(t, m.address, role, server)
}

func (m *mesh) dialAt(t *testing.T, target string, role, server identity.Role) *grpc.ClientConn {
	t.Helper()
	files, err := m.authority.Issue(role, "tester")
	if err != nil {
		t.Fatal(err)
	}
	tlsConfig, err := identity.ClientTLS(files, server)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := rpcclient.Dial(target, rpcclient.Options{TLS: tlsConfig})
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

func list(ctx context.Context, conn *grpc.ClientConn) error {
	_, err := fleetv1.NewFleetServiceClient(conn).ListAgents(ctx, &fleetv1.ListAgentsRequest{})
	return err
}

func TestOnlyUnavailableIsRetried(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		err   error
		calls int32
		code  codes.Code
	}{
		{"unavailable twice, then well", rpcerr.Unavailable("database away"), 3, codes.OK},
		{"conflict", rpcerr.Conflict("etag"), 1, codes.Aborted},
		{"quota", rpcerr.New(codes.ResourceExhausted, errorv1.Reason_REASON_QUOTA_EXCEEDED, "full"), 1, codes.ResourceExhausted},
		{"bug", errors.New("bug"), 1, codes.Internal},
		{"fenced", rpcerr.Fenced("late"), 1, codes.FailedPrecondition},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			m := start(t)
			m.fleet.answer = func(_ context.Context, n int32) error {
				if n < 3 {
					return c.err
				}
				return nil
			}
			err := list(t.Context(), m.dial(t, identity.RolePerson, identity.RoleScheduler))
			got := codes.OK
			if e := rpcerr.FromError(err); e != nil {
				got = e.Code()
			}
			if got != c.code || m.fleet.calls.Load() != c.calls {
				t.Errorf("%v after %d calls; want %v after %d", got, m.fleet.calls.Load(), c.code, c.calls)
			}
		})
	}
}

func TestCertificatesDecide(t *testing.T) {
	t.Parallel()
	m := start(t)
	if err := list(t.Context(), m.dial(t, identity.RolePerson, identity.RoleScheduler)); err != nil {
		t.Errorf("person: %v", err)
	}
	err := list(t.Context(), m.dial(t, identity.RoleAgent, identity.RoleScheduler))
	if rpcerr.ReasonOf(err) != errorv1.Reason_REASON_CALLER_NOT_ALLOWED || !strings.Contains(err.Error(), "agent/tester may not call") {
		t.Errorf("agent: %v", err)
	}
	err = list(t.Context(), m.dial(t, identity.RolePerson, identity.RoleRegistry))
	if err == nil || !strings.Contains(err.Error(), "wants a registry") {
		t.Errorf("a client that looks for a registry: %v", err)
	}
	if n := m.fleet.calls.Load(); n != 1 {
		t.Errorf("the handler ran %d times, want 1", n)
	}
	// grpcurl needs reflection, and any certificate of the CA is enough for it.
	s, err := grpc_reflection_v1.NewServerReflectionClient(m.dial(t, identity.RoleInference, identity.RoleScheduler)).ServerReflectionInfo(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Send(&grpc_reflection_v1.ServerReflectionRequest{MessageRequest: &grpc_reflection_v1.ServerReflectionRequest_ListServices{}}); err != nil {
		t.Fatal(err)
	}
	resp, err := s.Recv()
	if err != nil || len(resp.GetListServicesResponse().GetService()) < 3 {
		t.Errorf("reflection: %v, %v", resp, err)
	}
	if err := s.CloseSend(); err != nil {
		t.Error(err)
	}
}

func TestErrorsOfOurOwnSideHaveReasonsToo(t *testing.T) {
	t.Parallel()
	m := start(t)
	m.fleet.answer = func(ctx context.Context, _ int32) error { <-ctx.Done(); return ctx.Err() }
	conn := m.dial(t, identity.RolePerson, identity.RoleScheduler)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	err := list(ctx, conn)
	if rpcerr.ReasonOf(err) != errorv1.Reason_REASON_DEADLINE_EXCEEDED || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("deadline: %v", err)
	}
	ctx, cancel = context.WithCancel(t.Context())
	time.AfterFunc(20*time.Millisecond, cancel)
	if err := list(ctx, conn); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: %v", err)
	}
	dead, err := rpcclient.Dial("passthrough:///nowhere", rpcclient.Options{Dialer: func(context.Context, string) (net.Conn, error) { return nil, errors.New("refused") }})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = dead.Close() }()
	err = list(t.Context(), dead)
	if rpcerr.ReasonOf(err) != errorv1.Reason_REASON_DEPENDENCY_UNAVAILABLE || !strings.Contains(err.Error(), "is it running") {
		t.Errorf("nobody there: %v", err)
	}
}

func TestANetworkAddressNeedsTLS(t *testing.T) {
	t.Parallel()
	if _, err := rpcclient.Dial("host:1", rpcclient.Options{}); err == nil || !strings.Contains(err.Error(), "needs TLS") {
		t.Errorf("got %v", err)
	}
	conn, err := rpcclient.Dial("unix:///run/none.sock", rpcclient.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := conn.Close(); err != nil {
		t.Error(err)
	}
}
