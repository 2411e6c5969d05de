package placement_test

import (
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/job"
	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/placement"
)

// Backoff is no inversion of priority: whoever has backed off is back at its place
// as soon as its time is over, before all that came later, and a class never waits
// for a lower one that is ready.
func TestBackoffCostsNoPlaceInLine(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		r := newRig(placement.Rules{MinRuntime: time.Hour}, []placement.Node{gpus("h", 1, nil)})
		n := rapid.IntRange(2, 12).Draw(t, "jobs")
		for i := range n {
			q := placement.Request{Job: fmt.Sprintf("j%d", i), Priority: rapid.SampledFrom([]job.Priority{job.Batch, job.Interactive, job.Production}).Draw(t, "class"), Demand: whole(1)}
			if rapid.Bool().Draw(t, "backs off") {
				q.NotBefore = t0.Add(time.Duration(rapid.IntRange(1, 8).Draw(t, "until")) * time.Second)
			}
			r.wait(q)
		}
		done := map[string]bool{}
		for range 4 * n {
			p := r.round(0)
			for _, x := range p.Place {
				got := r.requests[x.Job]
				for id, q := range r.requests {
					if id == x.Job || done[id] || r.running[id] || q.NotBefore.After(r.now) {
						continue
					}
					if q.Priority > got.Priority || q.Priority == got.Priority && q.Place < got.Place {
						t.Fatalf("%s (%s, place %d) went before %s (%s, place %d)", x.Job, got.Priority, got.Place, id, q.Priority, q.Place)
					}
				}
			}
			if rapid.Bool().Draw(t, "ends") {
				for id := range r.running {
					delete(r.running, id)
					done[id] = true
					r.core.Forget(id)
				}
			}
		}
	})
}

// Nobody starves: a job of any size that the fleet could hold starts, though smaller
// ones of its own and of other tenants never stop coming, with quotas and without.
func TestNobodyStarvesUnderQuotas(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		hosts := rapid.IntRange(1, 3).Draw(t, "hosts")
		each := rapid.IntRange(2, 8).Draw(t, "devices of each")
		var nodes []placement.Node
		for i := range hosts {
			nodes = append(nodes, gpus(fmt.Sprintf("h%d", i), each, nil))
		}
		var tenants []placement.Tenant
		names := []string{"a", "b"}
		want := rapid.IntRange(1, each).Draw(t, "devices of the large job")
		if rapid.Bool().Draw(t, "quotas") {
			total := int64(hosts * each)
			own := max(total/2, int64(want))
			tenants = []placement.Tenant{
				{Name: "a", Quota: true, Cohort: "c", Nominal: devices(own), Borrow: devices(total)},
				{Name: "b", Quota: true, Cohort: "c", Nominal: devices(total - own), Borrow: devices(total)},
			}
		}
		r := newRig(placement.Rules{MinRuntime: rapid.SampledFrom([]time.Duration{0, 3 * time.Second, time.Hour}).Draw(t, "minimum runtime")}, nodes, tenants...)
		ends := map[string]time.Time{}
		next := 0
		arrive := func() {
			for range rapid.IntRange(1, 2*each).Draw(t, "arrivals") {
				r.wait(placement.Request{Job: fmt.Sprintf("s%d", next), Tenant: rapid.SampledFrom(names).Draw(t, "tenant"), Priority: job.Batch, Demand: whole(1)})
				next++
			}
		}
		step := func() {
			for id, at := range ends {
				if r.running[id] && !at.After(r.now) {
					delete(r.running, id)
					delete(ends, id)
					r.core.Forget(id)
				}
			}
			for _, x := range r.round(2).Place {
				ends[x.Job] = r.now.Add(time.Duration(rapid.IntRange(1, 6).Draw(t, "runs")) * time.Second)
			}
		}
		for range 3 {
			arrive()
			step()
		}
		r.wait(placement.Request{Job: "large", Tenant: "a", Priority: job.Batch, Demand: whole(want)})
		for range 400 {
			arrive()
			step()
			if r.running["large"] {
				return
			}
		}
		t.Fatalf("the large job has not started while %d small ones came", next)
	})
}
