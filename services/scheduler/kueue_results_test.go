//go:build results

package scheduler_test

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/ultrathink-pilot/trainyard/libs/benchtable"
	"github.com/ultrathink-pilot/trainyard/libs/identity"
	fleetv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/fleet/v1"
	jobv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/job/v1"
)

// class is one sort of workload of Kueue's generator.
type class struct {
	name     string
	cpus     int64
	runs     time.Duration
	every    time.Duration
	count    int
	priority jobv1.PriorityClass
}

// generator is Kueue's load test: queues of cohorts, each with its own stream of
// every class. A queue is a tenant with its own quota, that may borrow from its
// cohort. A cohort's capacity is the sum of its queues' quotas, on hosts with the
// cohort's label. Our quotas count devices: a host's CPUs are one device, of which
// a workload reserves its part.
type generator struct {
	cohorts, queues int
	classes         []class
	// hosts of a cohort, and the CPUs of each.
	hosts int
	cpus  int64
	// quota is a queue's own CPUs, borrow what it may take of its cohort's.
	quota, borrow int64
}

var (
	generator15k = generator{cohorts: 5, queues: 6, hosts: 1, cpus: 120, quota: 20, borrow: 100, classes: []class{
		{"small", 1, 200 * time.Millisecond, 100 * time.Millisecond, 350, jobv1.PriorityClass_PRIORITY_CLASS_BATCH},
		{"medium", 5, 500 * time.Millisecond, 500 * time.Millisecond, 100, jobv1.PriorityClass_PRIORITY_CLASS_INTERACTIVE},
		{"large", 20, time.Second, 1200 * time.Millisecond, 50, jobv1.PriorityClass_PRIORITY_CLASS_PRODUCTION},
	}}
	generator50k = generator{cohorts: 10, queues: 100, hosts: 4, cpus: 500, quota: 20, borrow: 100, classes: []class{
		{"small", 1, 150 * time.Millisecond, 60 * time.Millisecond, 35, jobv1.PriorityClass_PRIORITY_CLASS_BATCH},
		{"medium", 5, 350 * time.Millisecond, 300 * time.Millisecond, 11, jobv1.PriorityClass_PRIORITY_CLASS_INTERACTIVE},
		{"large", 20, 700 * time.Millisecond, 700 * time.Millisecond, 4, jobv1.PriorityClass_PRIORITY_CLASS_PRODUCTION},
	}}
)

// lanes is a host of CPUs that runs nothing: its jobs end when their time is
// over. It speaks the agents' protocol to the letter.
type lanes struct {
	client fleetv1.SynchronizeServiceClient
	report *fleetv1.AgentReport
	runs   map[string]time.Duration // by display name
	// begun, where set, is told of every start.
	begun func()
	// failed counts calls that failed.
	failed atomic.Int64

	mu    sync.Mutex
	held  map[uint64]*fleetv1.HeldLease
	exits map[uint64]*fleetv1.Exit
	wake  context.CancelFunc
}

func (m *mesh) lanes(name, cohort string, cpus int64, runs map[string]time.Duration) *lanes {
	return &lanes{
		client: fleetv1.NewSynchronizeServiceClient(m.dial(identity.RoleAgent, name)), runs: runs,
		held: map[uint64]*fleetv1.HeldLease{}, exits: map[uint64]*fleetv1.Exit{},
		report: laneReport(name, cohort, cpus),
	}
}

func laneReport(name, cohort string, cpus int64) *fleetv1.AgentReport {
	return &fleetv1.AgentReport{
		AgentName: name, Incarnation: uuid.NewString(), CpuMillis: cpus * 1000, HostMemoryBytes: 1 << 44, DataServiceReachable: true, RegistryReachable: true,
		Labels:  map[string]string{"cohort": cohort},
		Devices: []*fleetv1.Device{{DeviceId: "cpu:0", Kind: "cpu-lane", MemoryBytes: cpus * gib, Healthy: true, Isolation: fleetv1.Isolation_ISOLATION_WATCHED}},
	}
}

// run keeps one call in flight until ctx ends. A change of its own state cancels
// that call. A call that fails is repeated after a pause; when its leases have run
// out meanwhile, the host ends what it held, without a word.
func (l *lanes) run(ctx context.Context) {
	known := int64(0)
	until := time.Now().Add(time.Hour)
	for ctx.Err() == nil {
		call, cancel := context.WithCancel(ctx)
		l.mu.Lock()
		l.wake = cancel
		l.report.Leases = slices.Collect(maps.Values(l.held))
		l.report.Exits = slices.Collect(maps.Values(l.exits))
		l.mu.Unlock()
		sent := time.Now()
		r, err := l.client.Synchronize(call, &fleetv1.SynchronizeRequest{Report: l.report, KnownRevision: known})
		interrupted := call.Err() != nil
		cancel()
		switch {
		case err == nil:
			known, until = r.GetDesiredRevision(), sent.Add(r.GetLeaseDuration().AsDuration())
			l.apply(r)
		case ctx.Err() == nil && !interrupted:
			l.failed.Add(1)
			known = 0
			select {
			case <-ctx.Done():
			case <-time.After(100 * time.Millisecond):
			}
		}
		if time.Now().After(until) {
			l.mu.Lock()
			clear(l.held)
			l.mu.Unlock()
		}
	}
}

func (l *lanes) apply(r *fleetv1.SynchronizeResponse) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, k := range r.GetAcknowledgedExits() {
		delete(l.exits, k.GetFence())
	}
	for _, s := range r.GetStops() {
		if h := l.held[s.GetFence()]; h != nil {
			l.end(h, fleetv1.Exit_OUTCOME_STOPPED)
		}
	}
	for _, a := range r.GetAssignments() {
		if l.held[a.GetFence()] != nil || l.exits[a.GetFence()] != nil {
			continue
		}
		h := &fleetv1.HeldLease{JobId: a.GetJobId(), Attempt: a.GetAttempt(), Fence: a.GetFence(), Phase: fleetv1.HeldLease_PHASE_RUNNING, Isolation: fleetv1.Isolation_ISOLATION_WATCHED}
		l.held[a.GetFence()] = h
		if l.begun != nil {
			l.begun()
		}
		time.AfterFunc(l.runs[a.GetSpec().GetDisplayName()], func() {
			l.mu.Lock()
			defer l.mu.Unlock()
			if l.held[h.GetFence()] == h {
				l.end(h, fleetv1.Exit_OUTCOME_SUCCEEDED)
				l.wake()
			}
		})
	}
}

// end moves a lease to the exit journal. The caller holds the lock.
func (l *lanes) end(h *fleetv1.HeldLease, outcome fleetv1.Exit_Outcome) {
	delete(l.held, h.GetFence())
	l.exits[h.GetFence()] = &fleetv1.Exit{JobId: h.GetJobId(), Attempt: h.GetAttempt(), Fence: h.GetFence(), Outcome: outcome}
}

// admitted is what became of a generator's workloads.
type admitted struct {
	wall time.Duration
	end  time.Time
	// usage is the part of the CPUs' time that was spent on work.
	usage float64
	// wait is the mean time from the submit to the placement, by class.
	wait map[string]float64
	// spare is the mean time that an attempt held its place beyond its run.
	spare float64
	// again counts attempts beyond one for each workload.
	again int
}

func (g generator) total() int {
	n := 0
	for _, c := range g.classes {
		n += c.count
	}
	return n * g.cohorts * g.queues
}

// play runs a generator against a mesh.
func (g generator) play(t *testing.T, m *mesh) admitted {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	runs := map[string]time.Duration{}
	for _, c := range g.classes {
		runs[c.name] = c.runs
	}
	var fleet, submits sync.WaitGroup
	defer fleet.Wait()
	defer cancel()
	for c := range g.cohorts {
		for h := range g.hosts {
			l := m.lanes(fmt.Sprintf("c%d-h%d", c, h), fmt.Sprintf("c%d", c), g.cpus, runs)
			fleet.Go(func() { l.run(ctx) })
		}
	}
	clients := make([]jobv1.JobServiceClient, 8)
	for i := range clients {
		clients[i] = jobv1.NewJobServiceClient(m.dial(identity.RolePerson, "kueue"))
	}
	g.limit(t, jobv1.NewQuotaServiceClient(m.dial(identity.RolePerson, "kueue")))
	done := g.watch(ctx, t, clients[0])
	begin := time.Now()
	for c := range g.cohorts {
		for q := range g.queues {
			for _, k := range g.classes {
				client := clients[(c*g.queues+q)%len(clients)]
				submits.Go(func() { g.create(ctx, t, client, c, q, k, begin) })
			}
		}
	}
	submits.Wait()
	out := <-done
	out.wall = out.end.Sub(begin)
	work := 0.0
	for _, k := range g.classes {
		work += float64(k.cpus) * k.runs.Seconds() * float64(k.count*g.cohorts*g.queues)
	}
	out.usage = work / (out.wall.Seconds() * float64(int64(g.cohorts*g.hosts)*g.cpus))
	return out
}

// limit gives every queue its quota.
func (g generator) limit(t *testing.T, client jobv1.QuotaServiceClient) {
	t.Helper()
	devices := func(cpus int64) float64 { return float64(cpus) / float64(g.cpus) }
	borrow := devices(g.borrow)
	for c := range g.cohorts {
		for q := range g.queues {
			_, err := client.SetQuota(t.Context(), &jobv1.SetQuotaRequest{RequestId: uuid.NewString(), Quota: &jobv1.Quota{
				Tenant: tenant(c, q), Cohort: fmt.Sprintf("c%d", c), Devices: []*jobv1.DeviceQuota{{Nominal: devices(g.quota), BorrowLimit: &borrow}},
			}})
			if err != nil {
				t.Fatal(err)
			}
		}
	}
}

func tenant(cohort, queue int) string { return fmt.Sprintf("c%d-q%d", cohort, queue) }

// create submits one queue's stream of one class, at its pace.
func (g generator) create(ctx context.Context, t *testing.T, client jobv1.JobServiceClient, cohort, queue int, k class, begin time.Time) {
	spec := &jobv1.JobSpec{
		DisplayName: k.name, Experiment: "kueue", Tenant: tenant(cohort, queue), PriorityClass: k.priority, WaitForCapacity: true,
		Resources: &jobv1.Resources{
			CpuMillis: k.cpus * 1000, HostMemoryBytes: 1 << 20,
			Devices: []*jobv1.DeviceDemand{{MemoryBytes: k.cpus * gib, Labels: map[string]string{"cohort": fmt.Sprintf("c%d", cohort)}}},
		},
		Runtime: &jobv1.JobSpec_Command{Command: &jobv1.CommandSpec{Argv: []string{"sleep"}}},
	}
	for i := range k.count {
		select {
		case <-ctx.Done():
			return
		case <-time.After(time.Until(begin.Add(time.Duration(i) * k.every))):
		}
		if _, err := client.SubmitJob(ctx, &jobv1.SubmitJobRequest{RequestId: uuid.NewString(), Spec: spec}); err != nil {
			t.Errorf("submit: %v", err)
			return
		}
	}
}

// watch follows every job to its end.
func (g generator) watch(ctx context.Context, t *testing.T, client jobv1.JobServiceClient) <-chan admitted {
	out := make(chan admitted, 1)
	stream, err := client.WatchJobs(ctx, &jobv1.WatchJobsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	runs := map[string]time.Duration{}
	for _, k := range g.classes {
		runs[k.name] = k.runs
	}
	go func() {
		ended := map[string]bool{}
		a, counts := admitted{wait: map[string]float64{}}, map[string]float64{}
		for len(ended) < g.total() {
			f, err := stream.Recv()
			if err != nil {
				t.Errorf("watch: %v", err)
				break
			}
			for _, j := range f.GetJobs() {
				if j.GetState() != jobv1.Job_STATE_SUCCEEDED || ended[j.GetJobId()] {
					continue
				}
				ended[j.GetJobId()] = true
				name := j.GetSpec().GetDisplayName()
				last := j.GetAttempts()[len(j.GetAttempts())-1]
				a.again += len(j.GetAttempts()) - 1
				a.wait[name] += last.GetCreateTime().AsTime().Sub(j.GetCreateTime().AsTime()).Seconds()
				a.spare += (last.GetEndTime().AsTime().Sub(last.GetCreateTime().AsTime()) - runs[name]).Seconds() / float64(g.total())
				counts[name]++
			}
		}
		a.end = time.Now()
		for name := range a.wait {
			a.wait[name] /= counts[name]
		}
		out <- a
	}()
	return out
}

const kueuePeer = "Kueue's published run, its CI's machines, no durable store of its own"

const kueueIntro = "Kueue's scheduler load test rebuilt from its parameters. A queue is a tenant with its quota, which may borrow its cohort's; a cohort's capacity is a set of hosts with its label; classes small, medium and large are " +
	"batch, interactive and production. Every workload is a durable job: submitted, placed, run and ended over gRPC with mutual TLS by hosts that speak the agents' protocol. " +
	"Scheduler, database (on disk), hosts and submitters share this machine. Admission is from the accepted submit to the placement."

// row compares a class's mean wait.
func (a admitted) row(name, asked string, peer float64) benchtable.Row {
	r := benchtable.Row{What: "mean admission, " + name, Asked: asked, Ours: benchtable.Of("s", a.wait[name])}
	if peer > 0 {
		r.Peer, r.PeerName = benchtable.Of("s", peer), kueuePeer
	}
	return r
}

func (a admitted) overhead() benchtable.Row {
	return benchtable.Row{
		What: "a place is held beyond the run", Ours: benchtable.Of("ms", 1000*a.spare),
		Note: fmt.Sprintf("from the placement to the durable end, less the run itself: what the way to the host and back costs; %d attempts were stopped for others", a.again),
	}
}

// Kueue's scheduler load test, end to end: gRPC with mutual TLS, validation, the
// durable store, and hosts that speak the agents' protocol.
func TestResultsKueue(t *testing.T) {
	a := generator15k.play(t, newLoopbackMesh(t))
	benchtable.Section{
		Page: "scheduler-service.md", Title: "Kueue's generator through the API, 15k workloads", Command: "make bench ONLY=services/scheduler RESULTS='TestResultsKueue$'",
		Intro: kueueIntro,
		Rows: []benchtable.Row{
			{What: "wall time", Asked: "<= 80 s", Ours: benchtable.Of("s", a.wall.Seconds()), Peer: benchtable.Of("s", 351.1), PeerName: kueuePeer},
			{What: "usage of the CPUs", Asked: ">= 85 %", Ours: benchtable.Of("%", 100*a.usage), Peer: benchtable.Of("%", 55.9), PeerName: kueuePeer},
			a.row("large", "<= 1 s", 16.5), a.row("medium", "<= 45 s", 76.8), a.row("small", "<= 60 s", 215.5), a.overhead(),
		},
		Notes: []string{"The peer's figures are published ones, not measured here: its test needs a Kubernetes API server."},
	}.Write(t)
}

// The same with ten times the queues and short lives: bound by how fast jobs are
// created, placed and ended.
func TestResultsKueueLarge(t *testing.T) {
	a := generator50k.play(t, newLoopbackMesh(t))
	benchtable.Section{
		Page: "scheduler-service.md", Title: "Kueue's generator through the API, 50k workloads", Command: "make bench ONLY=services/scheduler RESULTS='TestResultsKueueLarge$'",
		Intro: kueueIntro,
		Rows: []benchtable.Row{
			{What: "wall time", Asked: "<= 60 s", Ours: benchtable.Of("s", a.wall.Seconds()), Peer: benchtable.Of("s", 1179), PeerName: kueuePeer},
			{What: "usage of the CPUs", Ours: benchtable.Of("%", 100*a.usage), Peer: benchtable.Of("%", 38.6), PeerName: kueuePeer},
			a.row("large", "", 0), a.row("medium", "", 0), a.row("small", "", 0), a.overhead(),
		},
		Notes: []string{"The peer's figures are published ones, not measured here: its test needs a Kubernetes API server."},
	}.Write(t)
}

// The generator in small, so that a change that breaks it is seen in a minute.
func TestResultsKueueInSmall(t *testing.T) {
	g := generator15k
	g.cohorts, g.queues, g.cpus = 1, 2, 40
	g.classes = slices.Clone(g.classes)
	for i := range g.classes {
		g.classes[i].count /= 10
	}
	a := g.play(t, newMesh(t))
	t.Logf("%d workloads in %s, usage %.0f %%, admission %v, held %.1f ms beyond the run, %d stopped", g.total(), a.wall, 100*a.usage, a.wait, 1000*a.spare, a.again)
}
