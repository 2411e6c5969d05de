package placement_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/job"
	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/placement"
)

// large is a core with so many 8-device hosts, and demands of 120 shapes.
func large(hosts int) (*placement.Core, []job.Demand) {
	rng := rand.New(rand.NewPCG(1, 2))
	demands := make([]job.Demand, 120)
	var typical []placement.Typical
	for i := range demands {
		g := job.DeviceDemand{Count: 1}
		switch {
		case i%2 == 0:
			g.Bytes = int64(1+rng.IntN(60)) * gib
		case i%5 == 0:
			g.Count = 1 << rng.IntN(4)
		}
		demands[i] = job.Demand{Devices: []job.DeviceDemand{g}, CPUMillis: int64(1+rng.IntN(16)) * 1000, HostBytes: int64(1+rng.IntN(64)) * gib}
		typical = append(typical, placement.Typical{Demand: demands[i], Weight: 1})
	}
	c := placement.NewCore(placement.Rules{MinRuntime: time.Minute, Restart: 30})
	c.SetTypical(typical[:40])
	for i := range hosts {
		n := placement.Node{Name: fmt.Sprintf("h%05d", i), CPUMillis: 128000, HostBytes: 1024 * gib}
		for d := range 8 {
			n.Devices = append(n.Devices, placement.Device{ID: fmt.Sprint(d), Kind: "gpu", Memory: 80 * gib, Headroom: gib, Overhead: gib / 2})
		}
		c.Host(n)
	}
	return c, demands
}

// load is a full fleet with a queue behind it.
type load struct {
	core    *placement.Core
	demands []job.Demand
	shapes  []string
	rng     *rand.Rand
	now     time.Time
	live    []string
	asked   map[string]placement.Request
	next    int
	fence   uint64
	// submits is how long all submits took; decisions are the times of single plans.
	submits   time.Duration
	decisions []time.Duration
}

func (l *load) request(class job.Priority) placement.Request {
	k := l.rng.IntN(len(l.demands))
	l.next++
	return placement.Request{Job: fmt.Sprintf("j%07d", l.next), Place: int64(l.next), Priority: class, Demand: l.demands[k], Shape: l.shapes[k], Tenant: "t"}
}

func (l *load) confirm(p placement.Plan) {
	for i := range p.Place {
		x := &p.Place[i]
		l.fence++
		r := l.asked[x.Job]
		delete(l.asked, x.Job)
		l.core.Run(r, append([]placement.Part{{Node: x.Node, Shares: x.Shares}}, x.Others...), placement.Life{Fence: l.fence, Started: l.now.Add(-time.Hour), Saved: l.now.Add(-time.Duration(l.rng.IntN(3600)) * time.Second)})
		l.live = append(l.live, x.Job)
	}
}

func newLoad(hosts, queued int) *load {
	l := &load{rng: rand.New(rand.NewPCG(3, 4)), now: t0, asked: map[string]placement.Request{}}
	l.core, l.demands = large(hosts)
	for i := range l.demands {
		l.shapes = append(l.shapes, placement.Shape(&l.demands[i]))
	}
	fill := make([]placement.Request, queued+14*hosts)
	for i := range fill {
		fill[i] = l.request(job.Batch)
		l.asked[fill[i].Job] = fill[i]
	}
	begin := time.Now()
	for i := range fill {
		l.core.Wait(fill[i])
	}
	l.submits = time.Since(begin)
	l.confirm(l.core.Plan(l.now))
	return l
}

// turn is one completion and the decision that follows it.
func (l *load) turn() {
	i := l.rng.IntN(len(l.live))
	id := l.live[i]
	l.live[i] = l.live[len(l.live)-1]
	l.live = l.live[:len(l.live)-1]
	l.now = l.now.Add(time.Second)
	l.core.Forget(id)
	begin := time.Now()
	p := l.core.Plan(l.now)
	l.decisions = append(l.decisions, time.Since(begin))
	l.confirm(p)
	for range p.Place {
		r := l.request(job.Batch)
		l.asked[r.Job] = r
		l.core.Wait(r)
	}
}

func quantile(d []time.Duration, q float64) time.Duration {
	s := slices.Clone(d)
	slices.Sort(s)
	return s[min(int(q*float64(len(s))), len(s)-1)]
}

// One completion and one placement on a full fleet of 12,424 devices with
// 100,000 jobs behind it: what an event costs the core.
func BenchmarkEvent(b *testing.B) {
	l := newLoad(1553, 100_000)
	b.ReportMetric(float64(len(l.asked)), "waiting")
	for b.Loop() {
		l.turn()
	}
	b.ReportMetric(float64(quantile(l.decisions, 0.99).Microseconds()), "p99-us")
}

// A production job that has to stop somebody, on the same fleet.
func BenchmarkPreemption(b *testing.B) {
	l := newLoad(1553, 100_000)
	for b.Loop() {
		r := l.request(job.Production)
		l.core.Wait(r)
		l.now = l.now.Add(time.Second)
		p := l.core.Plan(l.now)
		b.StopTimer()
		for _, v := range p.Preempt {
			l.core.Forget(v.Job)
		}
		l.core.Plan(l.now)
		l.core.Forget(r.Job)
		b.StartTimer()
	}
}
