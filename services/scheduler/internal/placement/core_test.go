package placement_test

import (
	"encoding/json"
	"fmt"
	"reflect"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/job"
	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/placement"
)

// world drives a core the way a scheduler does: jobs come, are placed, refused,
// stopped and end, hosts come and go, and time passes.
type world struct {
	t     *rapid.T
	core  *placement.Core
	now   time.Time
	fence uint64
	next  int
	// waiting and running are the truth that the core has been told.
	waiting map[string]placement.Request
	running map[string]run
	hosts   map[string]placement.Node
}

type run struct {
	req   placement.Request
	parts []placement.Part
	life  placement.Life
}

func newWorld(t *rapid.T) *world {
	w := &world{
		t: t, core: placement.NewCore(placement.Rules{MinRuntime: time.Minute, Restart: 30}), now: t0,
		waiting: map[string]placement.Request{}, running: map[string]run{}, hosts: map[string]placement.Node{},
	}
	if rapid.Bool().Draw(t, "quotas") {
		var tenants []placement.Tenant
		kinds := rapid.Bool().Draw(t, "quotas by kind")
		for _, name := range []string{"x", "y", "z"} {
			tenant := placement.Tenant{
				Name: name, Weight: rapid.SampledFrom([]float64{0, 1, 3}).Draw(t, "weight"), Quota: name != "z", Cohort: "c",
				Nominal: placement.Amount{Millis: int64(rapid.IntRange(0, 4).Draw(t, "quota")) * 1000, CPUMillis: 1 << 40, HostBytes: 1 << 60},
				Borrow:  placement.Amount{Millis: int64(rapid.IntRange(0, 4).Draw(t, "borrow")) * 1000},
			}
			if kinds && rapid.Bool().Draw(t, "by kind") {
				tenant.Kinds = []placement.KindQuota{{Kind: "a", Nominal: int64(rapid.IntRange(0, 3).Draw(t, "own")) * 1000, Borrow: int64(rapid.IntRange(0, 3).Draw(t, "more")) * 1000}}
			}
			tenants = append(tenants, tenant)
		}
		w.core.SetTenants(tenants)
	}
	w.core.SetTypical([]placement.Typical{{Demand: whole(1), Weight: 2}, {Demand: shared(4 * gib), Weight: 1}})
	for range rapid.IntRange(1, 4).Draw(t, "hosts") {
		w.host()
	}
	return w
}

func (w *world) host() {
	n := placement.Node{Name: fmt.Sprintf("h%d", rapid.IntRange(0, 5).Draw(w.t, "host")), CPUMillis: 16000, HostBytes: 64 * gib}
	for d := range rapid.IntRange(0, 4).Draw(w.t, "devices") {
		dev := gpu(fmt.Sprintf("g%d", d), 24*gib)
		dev.Kind = rapid.SampledFrom([]string{"a", "b"}).Draw(w.t, "kind")
		dev.Link = rapid.SampledFrom([]string{"", "l1"}).Draw(w.t, "link")
		n.Devices = append(n.Devices, dev)
	}
	if rapid.IntRange(0, 8).Draw(w.t, "blocked") == 0 {
		n.Blocked = "cordoned"
	}
	if old, ok := w.hosts[n.Name]; ok && rapid.Bool().Draw(w.t, "same devices") {
		n.Devices = old.Devices
	} else if ok && w.used(n.Name) {
		n.Devices = old.Devices // an agent's devices do not change under its attempts
	}
	w.hosts[n.Name] = n
	w.core.Host(n)
}

func (w *world) used(host string) bool {
	for _, r := range w.running {
		for _, p := range r.parts {
			if p.Node == host {
				return true
			}
		}
	}
	return false
}

func (w *world) submit() {
	w.next++
	r := placement.Request{
		Job: fmt.Sprintf("j%03d", w.next), Place: int64(w.next), Tenant: rapid.SampledFrom([]string{"x", "y", "z"}).Draw(w.t, "tenant"),
		Priority: job.Priority(rapid.IntRange(1, 4).Draw(w.t, "class")), Demand: job.Demand{CPUMillis: int64(rapid.IntRange(1, 4).Draw(w.t, "cpu")) * 1000},
	}
	g := job.DeviceDemand{Count: rapid.IntRange(1, 5).Draw(w.t, "count"), Topology: job.Topology(rapid.IntRange(0, 3).Draw(w.t, "topology"))}
	if rapid.Bool().Draw(w.t, "shared") {
		g.Bytes = int64(rapid.SampledFrom([]int{2, 4, 11}).Draw(w.t, "bytes")) * gib
	}
	if rapid.IntRange(0, 3).Draw(w.t, "named") == 0 {
		g.Kind = rapid.SampledFrom([]string{"a", "b", "a|b"}).Draw(w.t, "kind")
	}
	r.Demand.Devices = []job.DeviceDemand{g}
	if rapid.Bool().Draw(w.t, "limited") {
		r.Longest = time.Duration(rapid.IntRange(1, 30).Draw(w.t, "limit")) * time.Minute
	}
	if rapid.IntRange(0, 5).Draw(w.t, "dated") == 0 {
		r.Deadline = w.now.Add(time.Duration(rapid.IntRange(1, 120).Draw(w.t, "deadline")) * time.Minute)
		r.Expect = time.Duration(rapid.IntRange(1, 60).Draw(w.t, "expect")) * time.Minute
	}
	if rapid.IntRange(0, 5).Draw(w.t, "backs off") == 0 {
		r.NotBefore = w.now.Add(time.Duration(rapid.IntRange(1, 300).Draw(w.t, "until")) * time.Second)
	}
	w.wait(r)
}

func (w *world) wait(r placement.Request) {
	w.waiting[r.Job] = r
	delete(w.running, r.Job)
	w.core.Wait(r)
}

// some picks a job of a map, or none.
func some[V any](t *rapid.T, m map[string]V, what string) (string, bool) {
	if len(m) == 0 {
		return "", false
	}
	keys := make([]string, 0, len(m))
	for i := 0; i < 1000; i++ {
		if k := fmt.Sprintf("j%03d", i); len(keys) < len(m) {
			if _, ok := m[k]; ok {
				keys = append(keys, k)
			}
		}
	}
	return rapid.SampledFrom(keys).Draw(t, what), true
}

func (w *world) end() {
	if id, ok := some(w.t, w.running, "ends"); ok {
		r := w.running[id]
		delete(w.running, id)
		if r.life.Ending || rapid.IntRange(0, 3).Draw(w.t, "again") == 0 {
			r.req.Attained += w.now.Sub(r.life.Started).Seconds()
			w.wait(r.req)
			return
		}
		w.core.Forget(id)
	}
}

func (w *world) cancel() {
	if id, ok := some(w.t, w.waiting, "cancelled"); ok {
		delete(w.waiting, id)
		w.core.Forget(id)
	}
}

// news is a report of progress: a checkpoint, or a better estimate.
func (w *world) news() {
	if id, ok := some(w.t, w.running, "reports"); ok {
		r := w.running[id]
		r.life.Saved = w.now
		if rapid.Bool().Draw(w.t, "estimated") {
			r.life.End = w.now.Add(time.Duration(rapid.IntRange(1, 60).Draw(w.t, "remaining")) * time.Minute)
		}
		w.running[id] = r
		w.core.Run(r.req, r.parts, r.life)
	}
}

// plan plans, checks the plan against that of the snapshot, and carries it out;
// a few placements are refused, as a committer does with what went stale.
func (w *world) plan() {
	s := w.core.Snapshot(w.now)
	raw, err := json.Marshal(s)
	if err != nil {
		w.t.Fatal(err)
	}
	var again placement.Snapshot
	if err := json.Unmarshal(raw, &again); err != nil {
		w.t.Fatal(err)
	}
	got := w.core.Plan(w.now)
	want := placement.Make(again)
	if !reflect.DeepEqual(got.Place, want.Place) || !reflect.DeepEqual(got.Preempt, want.Preempt) || !reflect.DeepEqual(got.Warn, want.Warn) {
		w.t.Fatalf("the core's plan is not that of its snapshot:\n%s\n%s\nrooms %+v\nsnapshot %s", brief(got), brief(want), s.Rooms, raw)
	}
	for _, p := range got.Place {
		r, ok := w.waiting[p.Job]
		if !ok {
			w.t.Fatalf("%s is placed and does not wait", p.Job)
		}
		if rapid.IntRange(0, 9).Draw(w.t, "refused") == 0 {
			w.wait(r)
			continue
		}
		delete(w.waiting, p.Job)
		w.fence++
		x := run{req: r, parts: append([]placement.Part{{Node: p.Node, Shares: p.Shares}}, p.Others...), life: placement.Life{Fence: w.fence, Started: w.now, Saved: w.now}}
		if r.Longest > 0 {
			x.life.End = w.now.Add(r.Longest)
		}
		w.running[p.Job] = x
		w.core.Run(x.req, x.parts, x.life)
	}
	for _, v := range got.Preempt {
		x, ok := w.running[v.Job]
		if !ok || x.life.Fence != v.Fence {
			w.t.Fatalf("%s is preempted and does not run under fence %d", v.Job, v.Fence)
		}
		if w.now.Sub(x.life.Started) < time.Minute {
			w.t.Fatalf("%s is preempted after %s", v.Job, w.now.Sub(x.life.Started))
		}
		x.life.Ending, x.life.End = true, w.now.Add(30*time.Second)
		w.running[v.Job] = x
		w.core.Run(x.req, x.parts, x.life)
	}
	w.safe()
}

// brief words a plan for a failed comparison.
func brief(p placement.Plan) string {
	out := ""
	for _, x := range p.Place {
		out += fmt.Sprintf("%s on %s %v (%s); ", x.Job, x.Node, x.Shares, x.Why)
	}
	for _, x := range p.Preempt {
		out += fmt.Sprintf("%s stops %s on %s; ", x.For, x.Job, x.Node)
	}
	for _, x := range p.Unplaced {
		out += fmt.Sprintf("%s waits: %s; ", x.Job, x.Room)
	}
	return out + fmt.Sprintf("%v", p.Warn)
}

// safe checks that no device, CPU or host is promised beyond what it has, by
// books of its own.
func (w *world) safe() {
	type spot struct{ host, device string }
	held, holders, alone, cpu := map[spot]int64{}, map[spot]int{}, map[spot]bool{}, map[string]int64{}
	for id, r := range w.running {
		devices := 0
		hosts := map[string]bool{}
		for _, p := range r.parts {
			if hosts[p.Node] {
				w.t.Fatalf("%s has two parts on %s", id, p.Node)
			}
			hosts[p.Node] = true
			cpu[p.Node] += r.req.Demand.CPUMillis
			for _, s := range p.Shares {
				k := spot{p.Node, s.Device}
				held[k] += s.Held
				holders[k]++
				alone[k] = alone[k] || s.Whole
				devices++
			}
		}
		if want := r.req.Demand.Devices[0].Count; devices != want {
			w.t.Fatalf("%s has %d devices and asked for %d", id, devices, want)
		}
	}
	for k, h := range held {
		if h > 23*gib {
			w.t.Fatalf("%v is promised %d", k, h)
		}
		if alone[k] && holders[k] > 1 {
			w.t.Fatalf("%v is whole and shared", k)
		}
	}
	for host, millis := range cpu {
		if millis > 16000 {
			w.t.Fatalf("%s is promised %d CPU", host, millis)
		}
	}
}

func (w *world) step() {
	switch rapid.IntRange(0, 11).Draw(w.t, "step") {
	case 0, 1, 2, 3:
		w.submit()
	case 4, 5:
		w.end()
	case 6:
		w.cancel()
	case 7:
		w.news()
	case 8:
		w.host()
	default:
		w.now = w.now.Add(time.Duration(rapid.IntRange(0, 200).Draw(w.t, "seconds")) * time.Second)
		w.plan()
	}
}

// Who may be stopped by now is looked at in the order of the hosts, not in that in which something changed on them: of two that
// cost the same, the first host's is stopped, as a core built from scratch would have it.
func TestVictimsAreFoundInTheOrderOfHosts(t *testing.T) {
	t.Parallel()
	c := placement.NewCore(placement.Rules{MinRuntime: time.Minute, Restart: 30})
	for k, ends := range []time.Duration{10 * time.Minute, time.Minute} { // room is kept on the second host first
		name := fmt.Sprintf("h%d", k)
		c.Host(host(name, gpu("g0", 24*gib)))
		share := job.Share{Device: "g0", Kind: "gpu", Bytes: 22 * gib, Held: 23 * gib, Whole: true}
		c.Run(placement.Request{Job: "on-" + name, Priority: job.Batch, Demand: whole(1)}, []placement.Part{{Node: name, Shares: []job.Share{share}}},
			placement.Life{Fence: uint64(k + 1), Started: t0, Saved: t0, End: t0.Add(ends)})
	}
	c.Wait(placement.Request{Job: "p", Priority: job.Production, Demand: whole(1)})
	if p := c.Plan(t0.Add(30 * time.Second)); len(p.Preempt) != 0 {
		t.Fatalf("stopped too early: %+v", p.Preempt)
	}
	later := t0.Add(2 * time.Minute)
	s := c.Snapshot(later)
	got, want := c.Plan(later).Preempt, placement.Make(s).Preempt
	if len(got) != 1 || got[0].Job != "on-h0" || !reflect.DeepEqual(got, want) {
		t.Errorf("stopped %+v, a core built from scratch %+v", got, want)
	}
}

// A host that comes back with fewer devices changes how a gang is split: the room of the old split is gone at once, not only when the
// next plan finds out, which a core built from scratch could not know.
func TestRoomOfAnOldSplitIsGone(t *testing.T) {
	t.Parallel()
	c := placement.NewCore(placement.Rules{MinRuntime: time.Minute, Restart: 30})
	three, four := host("h0"), host("h1")
	for k := range 4 {
		four.Devices = append(four.Devices, gpu(fmt.Sprintf("g%d", k), 24*gib))
	}
	three.Devices = four.Devices[:3]
	c.Host(three)
	c.Host(four)
	old := placement.Request{Job: "old", Priority: job.Batch, Demand: whole(1)}
	share := job.Share{Device: "g0", Kind: "gpu", Bytes: 22 * gib, Held: 23 * gib, Whole: true}
	c.Run(old, []placement.Part{{Node: "h1", Shares: []job.Share{share}}}, placement.Life{Fence: 1, Started: t0.Add(-time.Hour), Saved: t0})
	c.Wait(placement.Request{Job: "gang", Priority: job.Production, Demand: job.Demand{Devices: []job.DeviceDemand{{Count: 5, Bytes: 2 * gib, Topology: job.PackedHosts}}}})
	c.Wait(placement.Request{Job: "wide", Place: 1, Priority: job.Production, Demand: job.Demand{Devices: []job.DeviceDemand{{Count: 7, Topology: job.PackedHosts}}}})
	c.Plan(t0)
	c.Wait(old)
	four.Devices = four.Devices[:3]
	c.Host(four)
	s := c.Snapshot(t0)
	if len(s.Rooms) != 0 {
		t.Errorf("rooms %+v", s.Rooms)
	}
	if got, want := c.Plan(t0), placement.Make(s); !reflect.DeepEqual(got.Place, want.Place) {
		t.Errorf("the core's plan is not that of its snapshot:\n%s\n%s", brief(got), brief(want))
	}
}

// Whoever a room claimed may be stopped again once its job has entered it: who found nobody to take quota back from looks again.
func TestAnEnteredRoomClaimsNobody(t *testing.T) {
	t.Parallel()
	c := placement.NewCore(placement.Rules{MinRuntime: time.Minute, Restart: 30})
	c.SetTenants([]placement.Tenant{{Name: "x", Quota: true, Nominal: placement.Amount{Millis: 1000, CPUMillis: 1 << 40, HostBytes: 1 << 60}}, {Name: "z"}})
	c.Host(host("h0", gpu("g0", 24*gib), gpu("g1", 24*gib)))
	run := func(id, tenant string, fence uint64, end time.Duration, device string) {
		share := job.Share{Device: device, Kind: "gpu", Bytes: 22 * gib, Held: 23 * gib, Whole: true}
		c.Run(placement.Request{Job: id, Tenant: tenant, Priority: job.Batch, Demand: whole(1)},
			[]placement.Part{{Node: "h0", Shares: []job.Share{share}}}, placement.Life{Fence: fence, Started: t0.Add(-time.Hour), Saved: t0, End: t0.Add(end)})
	}
	run("own", "x", 1, 10*time.Minute, "g0")
	run("other", "z", 2, 20*time.Minute, "g1")
	c.Wait(placement.Request{Job: "head", Tenant: "z", Priority: job.Batch, Demand: whole(1)})
	c.Plan(t0) // its room claims the first to end; then another ends sooner
	c.Wait(placement.Request{Job: "wants", Tenant: "x", Place: 1, Priority: job.Production, Demand: whole(1)})
	c.Forget("other")
	if p := c.Plan(t0); len(p.Place) != 1 || len(p.Preempt) != 0 {
		t.Fatalf("first %s", brief(p))
	}
	run("head", "z", 3, time.Hour, "g1")
	s := c.Snapshot(t0)
	got, want := c.Plan(t0).Preempt, placement.Make(s).Preempt
	if len(got) != 1 || got[0].Job != "own" || !reflect.DeepEqual(got, want) {
		t.Errorf("stopped %+v, a core built from scratch %+v", got, want)
	}
}

// Whatever happens, in whatever order: a core that was told of every change plans
// exactly as if it were built from scratch, no device is promised beyond what it
// has, a gang is placed completely and on as many different hosts as it has
// parts, and nobody is preempted who has only begun.
func TestTheCorePlansAsItsSnapshot(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t)
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			w.step()
		}
		w.plan()
	})
}
