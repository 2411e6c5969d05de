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
		never, gone := s, s
		never.Queue, gone.Queue = nil, nil
		s.Typical = []placement.Typical{{Demand: whole(1), Weight: 1}}
		never.Typical, gone.Typical = s.Typical, s.Typical
		s.Queue = append([]placement.Request(nil), s.Queue...)
		for i := range s.Queue {
			r := &s.Queue[i]
			r.Priority, r.Place = job.Priority(rapid.IntRange(1, 4).Draw(t, "class")), int64(rapid.IntRange(0, 9).Draw(t, "place"))
			clean := *r
			never.Queue = append(never.Queue, clean)
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
