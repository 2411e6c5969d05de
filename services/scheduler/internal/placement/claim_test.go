package placement_test

import (
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/job"
	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/placement"
)

// rig plays a core's plans out: a victim is gone some rounds after it was told.
type rig struct {
	core     *placement.Core
	now      time.Time
	requests map[string]placement.Request
	running  map[string]bool
	stopping []string
	fence    uint64
	stopped  map[string]int
}

func newRig(rules placement.Rules, nodes []placement.Node, tenants ...placement.Tenant) *rig {
	r := &rig{core: placement.NewCore(rules), now: t0, requests: map[string]placement.Request{}, running: map[string]bool{}, stopped: map[string]int{}}
	for _, n := range nodes {
		r.core.Host(n)
	}
	r.core.SetTenants(tenants)
	return r
}

func (r *rig) wait(q placement.Request) {
	q.Place = int64(len(r.requests))
	r.requests[q.Job] = q
	r.core.Wait(q)
}

// round plans, starts what is placed and tells victims to stop. gone says how many
// of those who were told before have stopped by now.
func (r *rig) round(gone int) placement.Plan {
	r.now = r.now.Add(time.Second)
	for range min(gone, len(r.stopping)) {
		id := r.stopping[0]
		r.stopping = r.stopping[1:]
		delete(r.running, id)
		r.core.Wait(r.requests[id])
	}
	p := r.core.Plan(r.now)
	for _, v := range p.Preempt {
		r.stopping = append(r.stopping, v.Job)
		r.stopped[v.Job]++
	}
	for _, x := range p.Place {
		r.fence++
		r.running[x.Job] = true
		r.core.Run(r.requests[x.Job], []placement.Part{{Node: x.Node, Shares: x.Shares}}, placement.Life{Fence: r.fence, Started: r.now, Saved: r.now})
	}
	return p
}

func gpus(name string, n int, labels map[string]string) placement.Node {
	node := placement.Node{Name: name, CPUMillis: 1 << 40, HostBytes: 1 << 50, Labels: labels}
	for i := range n {
		node.Devices = append(node.Devices, placement.Device{ID: fmt.Sprint(i), Kind: "gpu", Memory: 1 << 30})
	}
	return node
}

func devices(n int64) placement.Amount {
	return placement.Amount{Millis: 1000 * n, CPUMillis: 1 << 40, HostBytes: 1 << 50}
}

// Quota that is taken back goes to the job that it was taken back for, however
// slowly the victims stop and whoever else wants it: each victim stops once.
func TestQuotaTakenBackIsKeptUntilItIsThere(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(2, 8).Draw(t, "own devices of each")
		want := rapid.IntRange(1, n).Draw(t, "devices of the job")
		weight := rapid.SampledFrom([]float64{0.01, 1, 100}).Draw(t, "weight of the borrower")
		class := rapid.SampledFrom([]job.Priority{job.Batch, job.Interactive, job.Production}).Draw(t, "class")
		r := newRig(placement.Rules{}, []placement.Node{gpus("h", 2*n, nil)},
			placement.Tenant{Name: "borrower", Quota: true, Cohort: "c", Weight: weight, Nominal: devices(int64(n)), Borrow: devices(100)},
			placement.Tenant{Name: "lender", Quota: true, Cohort: "c", Nominal: devices(int64(n)), Borrow: devices(100)})
		for i := range 6 * n {
			r.wait(placement.Request{Job: fmt.Sprintf("b%d", i), Tenant: "borrower", Priority: class, Demand: whole(1)})
		}
		r.round(0)
		if len(r.running) != 2*n {
			t.Fatalf("the borrower runs %d jobs, not %d", len(r.running), 2*n)
		}
		r.wait(placement.Request{Job: "own", Tenant: "lender", Priority: class, Demand: whole(want)})
		for i := 0; !r.running["own"]; i++ {
			r.round(rapid.IntRange(0, 2).Draw(t, "gone"))
			if i > 200 {
				t.Fatalf("the lender's job never starts; %d were stopped for it", len(r.stopped))
			}
		}
		for range 20 {
			r.round(1)
		}
		total := 0
		for _, n := range r.stopped {
			total += n
		}
		if total != want {
			t.Fatalf("%d attempts were stopped for a job of %d devices: %v", total, want, r.stopped)
		}
	})
}

// A job that waits for quota which nobody can be made to give back gets it as it
// becomes free: small jobs behind it cannot take it away for ever.
func TestTheFirstThatWaitsForQuotaIsNotStarved(t *testing.T) {
	t.Parallel()
	r := newRig(placement.Rules{MinRuntime: time.Hour}, []placement.Node{gpus("h", 8, nil)},
		placement.Tenant{Name: "small", Quota: true, Cohort: "c", Nominal: devices(2), Borrow: devices(100)},
		placement.Tenant{Name: "large", Quota: true, Cohort: "c", Nominal: devices(3), Borrow: devices(100)})
	next := 0
	more := func() {
		r.wait(placement.Request{Job: fmt.Sprintf("s%d", next), Tenant: "small", Priority: job.Batch, Demand: whole(1)})
		next++
	}
	for range 6 {
		more()
	}
	r.round(0)
	r.wait(placement.Request{Job: "large", Tenant: "large", Priority: job.Batch, Demand: whole(3)})
	for i := range 20 {
		more()
		id := fmt.Sprintf("s%d", i)
		delete(r.running, id)
		r.core.Forget(id)
		r.round(0)
		if r.running["large"] {
			return
		}
		if i == 1 {
			if why := r.core.Why(r.now, "s6"); why.Reason != "the quota that tenant small could use is kept for a job ahead of it" {
				t.Errorf("a job behind it waits because %q", why.Reason)
			}
		}
	}
	t.Fatalf("the large job starves; %d small ones have run", next)
}

// What is a tenant's own it may always use: a job of whatever class that waits to
// borrow it keeps nobody from it.
func TestABorrowerThatWaitsTakesNothingFromOwners(t *testing.T) {
	t.Parallel()
	r := newRig(placement.Rules{MinRuntime: time.Hour}, []placement.Node{gpus("h", 4, nil)},
		placement.Tenant{Name: "borrower", Quota: true, Cohort: "c", Nominal: devices(1), Borrow: devices(100)},
		placement.Tenant{Name: "owner", Quota: true, Cohort: "c", Nominal: devices(3)})
	for i := range 40 {
		r.wait(placement.Request{Job: fmt.Sprintf("o%d", i), Tenant: "owner", Priority: job.Batch, Demand: whole(1)})
	}
	r.round(0)
	r.wait(placement.Request{Job: "large", Tenant: "borrower", Priority: job.Production, Demand: whole(3)})
	for i := range 20 {
		id := fmt.Sprintf("o%d", i)
		delete(r.running, id)
		r.core.Forget(id)
		r.round(0)
		if len(r.running) != 3 {
			t.Fatalf("the owner runs %d jobs on its 3 devices", len(r.running))
		}
	}
}

// Every part of the fleet has its own head: a job that waits for hosts of one label
// does not let a job for others starve behind small ones.
func TestEveryPartOfTheFleetKeepsRoomForItsHead(t *testing.T) {
	t.Parallel()
	r := newRig(placement.Rules{MinRuntime: time.Hour}, []placement.Node{gpus("a", 4, map[string]string{"part": "a"}), gpus("b", 4, map[string]string{"part": "b"})})
	add := func(name, part string, n int) {
		d := whole(n)
		d.Labels = map[string]string{"part": part}
		r.wait(placement.Request{Job: name, Priority: job.Batch, Demand: d})
	}
	for i := range 4 {
		add(fmt.Sprintf("a%d", i), "a", 1)
		add(fmt.Sprintf("b%d", i), "b", 1)
	}
	r.round(0)
	add("large-a", "a", 4)
	add("large-b", "b", 4)
	for i := range 40 {
		add(fmt.Sprintf("a%d", 4+i), "a", 1)
		add(fmt.Sprintf("b%d", 4+i), "b", 1)
		for _, part := range []string{"a", "b"} {
			id := fmt.Sprintf("%s%d", part, i)
			if r.running[id] {
				delete(r.running, id)
				r.core.Forget(id)
			}
		}
		r.round(0)
		if r.running["large-a"] && r.running["large-b"] {
			return
		}
	}
	t.Fatalf("large-a runs %v, large-b runs %v", r.running["large-a"], r.running["large-b"])
}
