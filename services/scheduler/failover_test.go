package scheduler_test

import (
	"context"
	"net"
	"testing"

	"google.golang.org/grpc"

	"github.com/ultrathink-pilot/trainyard/libs/identity"
	"github.com/ultrathink-pilot/trainyard/libs/rpcclient"
	fleetv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/fleet/v1"
	jobv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/job/v1"
)

// onLoopback has a mesh listen on the loopback network instead of in memory, and
// tells the address of each life of its scheduler.
func (m *mesh) onLoopback(at func(address string)) {
	m.listen = func() net.Listener {
		lis, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			m.t.Fatal(err)
		}
		at(lis.Addr().String())
		m.connect = func(ctx context.Context) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "tcp", lis.Addr().String())
		}
		return lis
	}
}

func (m *mesh) dialList(list string, role identity.Role, name string) *grpc.ClientConn {
	m.t.Helper()
	tls, err := identity.ClientTLS(m.issue(role, name), identity.RoleScheduler)
	if err != nil {
		m.t.Fatal(err)
	}
	conn, err := rpcclient.Dial(list, rpcclient.Options{TLS: tls})
	if err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// Agents and people know the addresses of all schedulers, no load balancer stands
// before them, and a failover costs neither the running attempt nor a call.
func TestAFailoverIsFollowedByTheListOfAddresses(t *testing.T) {
	t.Parallel()
	var addresses []string
	note := func(address string) { addresses = append(addresses, address) }
	leader := &mesh{t: t}
	leader.onLoopback(note)
	leader.begin()
	people := jobv1.NewJobServiceClient(leader.dial(identity.RolePerson, "ann"))
	leader.submit(people, func() *jobv1.JobSpec { s := spec(gib); s.WaitForCapacity = true; return s }())

	standby := &mesh{t: t, dsn: leader.dsn, ca: leader.ca, self: leader.self}
	standby.onLoopback(note)
	standby.start()
	t.Cleanup(func() { standby.stop() })

	list := addresses[1] + "," + addresses[0] // the one that stands by comes first
	person := jobv1.NewJobServiceClient(leader.dialList(list, identity.RolePerson, "bob"))
	host := leader.agent("h1")
	host.client = fleetv1.NewSynchronizeServiceClient(leader.dialList(list, identity.RoleAgent, "h1"))
	as := host.assignment()
	host.report.Leases = []*fleetv1.HeldLease{{JobId: as.GetJobId(), Attempt: 1, Fence: as.GetFence(), Phase: fleetv1.HeldLease_PHASE_RUNNING}}
	host.known = 0
	host.sync()

	leader.stop()
	host.known = 0
	if r := host.sync(); len(r.GetAssignments()) != 1 || r.GetAssignments()[0].GetFence() != as.GetFence() {
		t.Errorf("the new leader wants %v, not the attempt that runs", r)
	}
	host.finish(as, fleetv1.Exit_OUTCOME_SUCCEEDED)
	got, err := person.GetJob(t.Context(), &jobv1.GetJobRequest{JobId: as.GetJobId()})
	if err != nil {
		t.Fatal(err)
	}
	if j := got.GetJob(); j.GetState() != jobv1.Job_STATE_SUCCEEDED || len(j.GetAttempts()) != 1 {
		t.Errorf("after the failover %v", j)
	}
}
