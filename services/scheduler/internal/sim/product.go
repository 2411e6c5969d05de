package sim

import (
	"container/heap"
	"fmt"
	"math"
	"strconv"
	"time"

	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/job"
	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/placement"
)

// epoch is when virtual time begins.
var epoch = time.Unix(0, 0).UTC()

// moment turns trace seconds into the core's time. Traces span decades: a
// nanosecond clock still holds them.
func moment(seconds float64) time.Time {
	return epoch.Add(time.Duration(seconds * float64(time.Second)))
}

// product runs a job trace through the real core, in virtual time. All jobs are of
// the search class, and the core does not know how long they run. A job that is
// stopped keeps its work, as a checkpoint would, and pays for every start.
type product struct {
	jobs []TraceJob
	core *placement.Core
	runs []productRun
	ends []float64
	// tenants names each job's tenant; nil is one for all.
	tenants []string
	events  productEvents
	starts  int
	seq     int
}

type productRun struct {
	left     float64 // work left
	attained float64
	started  float64
	running  bool
	start    int // counts starts: an end of an earlier one is void
}

type productEvent struct {
	at    float64
	seq   int
	index int
	start int // -1: submit
}

type productEvents []productEvent

func (e productEvents) Len() int { return len(e) }
func (e productEvents) Less(i, k int) bool {
	if e[i].at != e[k].at {
		return e[i].at < e[k].at
	}
	return e[i].seq < e[k].seq
}
func (e productEvents) Swap(i, k int) { e[i], e[k] = e[k], e[i] }
func (e *productEvents) Push(x any)   { *e = append(*e, x.(productEvent)) }
func (e *productEvents) Pop() any {
	last := len(*e) - 1
	x := (*e)[last]
	*e = (*e)[:last]
	return x
}

// productRules are the service's own defaults.
var productRules = placement.DefaultRules()

// Product replays a job trace with the product's own policy.
func Product(jobs []TraceJob, c Cluster) Completion {
	p := replayed(jobs, c, nil)
	out := completionOf(jobs, p.ends)
	out.Starts = p.starts
	return out
}

// replayed is a replay with a tenant for each job; nil is one for all.
func replayed(jobs []TraceJob, c Cluster, tenants []string) *product {
	p := &product{
		jobs: jobs, core: placement.NewCore(productRules), runs: make([]productRun, len(jobs)), ends: make([]float64, len(jobs)), tenants: tenants,
	}
	width := len(strconv.Itoa(c.Nodes))
	for i := range c.Nodes {
		n := placement.Node{Name: fmt.Sprintf("n%0*d", width, i), CPUMillis: 1 << 40, HostBytes: 1 << 50}
		for d := range c.PerNode {
			n.Devices = append(n.Devices, placement.Device{ID: strconv.Itoa(d), Kind: "gpu", Memory: wholeGPU})
		}
		p.core.Host(n)
	}
	var typical []placement.Typical
	for i := range jobs {
		typical = append(typical, placement.Typical{Demand: demandOf(&jobs[i], c), Weight: 1})
	}
	p.core.SetTypical(mergeTypical(typical))
	for i := range jobs {
		p.runs[i].left = jobs[i].Work
		p.push(jobs[i].Submit, i, -1)
	}
	p.loop(c)
	return p
}

func mergeTypical(t []placement.Typical) []placement.Typical {
	demands := make([]job.Demand, len(t))
	for i := range t {
		demands[i] = t[i].Demand
	}
	return placement.TypicalOf(demands)
}

// demandOf asks for whole devices; a job that is larger than a host spans as few
// as it can.
func demandOf(j *TraceJob, c Cluster) job.Demand {
	g := job.DeviceDemand{Count: j.GPUs}
	if j.GPUs > c.PerNode {
		g.Topology = job.PackedHosts
	}
	return job.Demand{Devices: []job.DeviceDemand{g}}
}

func (p *product) push(at float64, index, start int) {
	p.seq++
	heap.Push(&p.events, productEvent{at, p.seq, index, start})
}

func (p *product) request(i int, c Cluster) placement.Request {
	r := placement.Request{Job: strconv.Itoa(i), Priority: job.Search, Place: int64(i), Demand: demandOf(&p.jobs[i], c), Attained: p.runs[i].attained}
	if p.tenants != nil {
		r.Tenant = p.tenants[i]
	}
	return r
}

func (p *product) loop(c Cluster) {
	var wake time.Time
	now := 0.0
	for len(p.events) > 0 || !wake.IsZero() {
		next := math.Inf(1)
		if len(p.events) > 0 {
			next = p.events[0].at
		}
		if !wake.IsZero() {
			// A float of so many seconds may round to before the moment it names.
			next = min(next, wake.Sub(epoch).Seconds()+1e-6)
		}
		if math.IsInf(next, 1) {
			return
		}
		now = max(now, next)
		for len(p.events) > 0 && p.events[0].at <= now {
			e := heap.Pop(&p.events).(productEvent)
			r := &p.runs[e.index]
			switch {
			case e.start < 0:
				p.core.Wait(p.request(e.index, c))
			case r.running && r.start == e.start:
				r.running = false
				p.ends[e.index] = e.at
				p.core.Forget(strconv.Itoa(e.index))
			}
		}
		wake = p.plan(now, c)
	}
}

// plan carries plans out until nothing more can be done at this moment: a victim
// stops at once, its checkpoint being the one it has.
func (p *product) plan(now float64, c Cluster) time.Time {
	for {
		plan := p.core.Plan(moment(now))
		for _, v := range plan.Preempt {
			i, _ := strconv.Atoi(v.Job)
			r := &p.runs[i]
			ran := now - r.started
			r.left -= max(ran-p.jobs[i].Overhead, 0)
			r.attained += ran * float64(p.jobs[i].GPUs)
			r.running = false
			r.start++
			p.core.Wait(p.request(i, c))
		}
		for _, pl := range plan.Place {
			i, _ := strconv.Atoi(pl.Job)
			r := &p.runs[i]
			r.running, r.started = true, now
			r.start++
			p.starts++
			p.push(now+p.jobs[i].Overhead+max(r.left, 0), i, r.start)
			p.core.Run(p.request(i, c), append([]placement.Part{{Node: pl.Node, Shares: pl.Shares}}, pl.Others...), placement.Life{Fence: uint64(p.starts), Started: moment(now), Saved: moment(now)})
		}
		if len(plan.Preempt) == 0 {
			if len(p.events) == 0 {
				return time.Time{}
			}
			return plan.Next
		}
	}
}
