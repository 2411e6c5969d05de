package placement_test

import (
	"fmt"
	"reflect"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/job"
	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/placement"
)

// Backoff inverts no priority: once it is over the plan is what it would be had the job never backed off, and until then what it
// would be were the job not there.
func TestBackoffInvertsNoPriority(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		s := busy().Draw(t, "busy fleet")
		s.Typical = []placement.Typical{{Demand: whole(1), Weight: 1}}
		gone := s
		gone.Queue = nil
		s.Queue = append([]placement.Request(nil), s.Queue...)
		for i := range s.Queue {
			r := &s.Queue[i]
			r.Priority, r.Place = job.Priority(rapid.IntRange(1, 4).Draw(t, "class")), int64(rapid.IntRange(0, 9).Draw(t, "place"))
			clean := *r
			switch rapid.IntRange(0, 2).Draw(t, "backoff") {
			case 0:
				r.NotBefore = t0.Add(-time.Duration(rapid.IntRange(0, 600).Draw(t, "over since")) * time.Second)
				gone.Queue = append(gone.Queue, clean)
			case 1:
				gone.Queue = append(gone.Queue, clean)
			default:
				r.NotBefore = t0.Add(time.Duration(rapid.IntRange(1, 600).Draw(t, "until")) * time.Second)
			}
		}
		same := func(what string, a, b placement.Plan) {
			if !reflect.DeepEqual(a.Place, b.Place) || !reflect.DeepEqual(a.Preempt, b.Preempt) {
				t.Fatalf("%s:\n%s\n%s", what, brief(a), brief(b))
			}
		}
		same("those who back off are in the way", placement.Make(s), placement.Make(gone))
		// All backoffs have ended, some only this very moment.
		core := placement.Restore(s)
		after := t0.Add(10 * time.Minute)
		later := core.Snapshot(after)
		for i := range later.Queue {
			later.Queue[i].NotBefore = time.Time{}
		}
		same("a backoff that is over still counts", core.Plan(after), placement.Make(later))
	})
}

// Nobody starves: while jobs of the same class, some smaller and all younger, come without end, each with a limit on its time, a
// job that an empty fleet could hold starts before everything that was ahead of it could have run twice, one after another.
func TestNobodyStarves(t *testing.T) {
	t.Parallel()
	const limit = 10 * time.Minute
	rapid.Check(t, func(t *rapid.T) {
		core := placement.NewCore(placement.Rules{MinRuntime: time.Minute, Restart: 30})
		hosts, devices := rapid.IntRange(1, 3).Draw(t, "hosts"), rapid.IntRange(1, 4).Draw(t, "devices")
		for i := range hosts {
			n := host(fmt.Sprintf("h%d", i))
			for d := range devices {
				n.Devices = append(n.Devices, gpu(fmt.Sprint(d), 24*gib))
			}
			core.Host(n)
		}
		class := job.Priority(rapid.IntRange(1, 4).Draw(t, "class"))
		asked := map[string]placement.Request{}
		next := 0
		submit := func(d job.Demand) string {
			next++
			r := placement.Request{
				Job: fmt.Sprintf("j%04d", next), Place: int64(next), Priority: class, Demand: d, Tenant: rapid.SampledFrom([]string{"x", "y"}).Draw(t, "tenant"),
				Longest: time.Duration(rapid.IntRange(1, 10).Draw(t, "minutes")) * time.Minute,
			}
			asked[r.Job] = r
			core.Wait(r)
			return r.Job
		}
		small := func() job.Demand {
			if rapid.Bool().Draw(t, "shared") {
				return shared(int64(rapid.IntRange(1, 20).Draw(t, "gib")) * gib)
			}
			return whole(rapid.IntRange(1, devices).Draw(t, "count"))
		}
		ahead := rapid.IntRange(0, 6).Draw(t, "ahead")
		for range ahead {
			submit(small())
		}
		target := submit(whole(devices))
		now, fence := t0, uint64(0)
		ends := map[string]time.Time{}
		for !now.After(t0.Add(2 * time.Duration(ahead+1) * limit)) {
			for range rapid.IntRange(1, 3).Draw(t, "younger") {
				submit(small())
			}
			for i := 1; i <= next; i++ {
				if id := fmt.Sprintf("j%04d", i); !ends[id].IsZero() && !ends[id].After(now) {
					delete(ends, id)
					core.Forget(id)
				}
			}
			plan := core.Plan(now)
			for _, v := range plan.Preempt {
				delete(ends, v.Job)
				r := asked[v.Job]
				core.Wait(r)
			}
			for _, p := range plan.Place {
				if p.Job == target {
					return
				}
				fence++
				r := asked[p.Job]
				ends[p.Job] = now.Add(r.Longest)
				core.Run(r, append([]placement.Part{{Node: p.Node, Shares: p.Shares}}, p.Others...), placement.Life{Fence: fence, Started: now, Saved: now, End: ends[p.Job]})
			}
			now = now.Add(time.Duration(rapid.IntRange(10, 120).Draw(t, "seconds")) * time.Second)
		}
		t.Fatalf("%s waits still after %s", target, now.Sub(t0))
	})
}

// A tenant that uses nothing goes first, and still does not take the room of the head: it gets the next.
func TestTheHeadKeepsItsRoomFromANeedierTenant(t *testing.T) {
	t.Parallel()
	core := placement.NewCore(placement.Rules{MinRuntime: time.Minute, Restart: 30})
	core.Host(host("h", gpu("g0", 24*gib), gpu("g1", 24*gib)))
	core.Host(host("h2", gpu("g0", 24*gib)))
	for id, on := range map[string]string{"y0": "h", "y2": "h2"} {
		end := t0.Add(10 * time.Minute)
		if on == "h2" {
			end = t0.Add(time.Hour)
		}
		core.Run(placement.Request{Job: id, Tenant: "y", Priority: job.Batch, Demand: whole(1)},
			[]placement.Part{{Node: on, Shares: []job.Share{{Device: "g0", Kind: "gpu", Bytes: 22 * gib, Held: 23 * gib, Whole: true}}}},
			placement.Life{Fence: 1, Started: t0, Saved: t0, End: end})
	}
	core.Wait(placement.Request{Job: "y1", Place: 1, Tenant: "y", Priority: job.Batch, Demand: whole(2)})
	core.Plan(t0)
	core.Wait(placement.Request{Job: "x1", Place: 2, Tenant: "x", Priority: job.Batch, Demand: whole(1), Longest: time.Hour})
	if p := core.Plan(t0.Add(time.Second)); len(p.Place) != 0 {
		t.Errorf("the head's room went to %s", p.Place[0].Job)
	}
	core.Forget("y0")
	if p := core.Plan(t0.Add(10 * time.Minute)); len(p.Place) != 1 || p.Place[0].Job != "y1" {
		t.Errorf("placed %s", brief(p))
	}
}

// A cheaper attempt that is not in the way is spared.
func TestOnlyThoseInTheWayAreStopped(t *testing.T) {
	t.Parallel()
	core := placement.NewCore(placement.Rules{MinRuntime: time.Minute, Restart: 30})
	core.Host(host("h", gpu("g0", 24*gib), gpu("g1", 24*gib)))
	run := func(id, device string, class job.Priority, saved time.Duration) {
		core.Run(placement.Request{Job: id, Priority: class, Demand: shared(8 * gib)},
			[]placement.Part{{Node: "h", Shares: []job.Share{{Device: device, Kind: "gpu", Bytes: 8 * gib, Held: 8*gib + gib/2}}}},
			placement.Life{Fence: 1, Started: t0.Add(-time.Hour), Saved: t0.Add(-saved)})
	}
	run("cheap", "g0", job.Batch, time.Second)
	run("beside", "g0", job.Production, 0)
	run("dear", "g1", job.Batch, time.Minute)
	core.Wait(placement.Request{Job: "p", Priority: job.Production, Demand: whole(1)})
	if p := core.Plan(t0); len(p.Preempt) != 1 || p.Preempt[0].Job != "dear" {
		t.Errorf("stopped %+v", p.Preempt)
	}
}
