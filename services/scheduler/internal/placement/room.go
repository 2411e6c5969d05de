package placement

import (
	"sort"
	"time"

	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/job"
)

// room is space on a node that is kept for a job that waits.
type room struct {
	node int
	// at is when the job is expected to come.
	at time.Time
}

// keepsRoom reports whether something on the node is kept for a waiting job.
func (n *Node) keepsRoom() bool {
	if n.aheadCPU > 0 || n.aheadHost > 0 {
		return true
	}
	for i := range n.Devices {
		if n.Devices[i].ahead > 0 || n.Devices[i].kept {
			return true
		}
	}
	return false
}

// futureOf is a copy of the node as it will be, free of room that is kept on it.
func (f *Fleet) futureOf(i int) *Node {
	base := &f.nodes[i]
	if n := f.future[i]; n != nil {
		base = n
	}
	c := base.clone()
	c.aheadCPU, c.aheadHost = 0, 0
	for k := range c.Devices {
		c.Devices[k].ahead, c.Devices[k].kept = 0, false
	}
	return &c
}

// keep makes a future binding: from now on a job fits on the node only if it
// also leaves the future as it is. Several futures of one node bind together,
// since a later one may count on ends that an earlier one cannot wait for.
func (f *Fleet) keep(i int, future *Node) {
	f.future[i] = future
	n := &f.nodes[i]
	n.aheadCPU = max(n.aheadCPU, (n.CPUMillis-n.UsedCPU)-(future.CPUMillis-future.UsedCPU))
	n.aheadHost = max(n.aheadHost, (n.HostBytes-n.UsedHost)-(future.HostBytes-future.UsedHost))
	for k := range n.Devices {
		d, then := &n.Devices[k], &future.Devices[k]
		d.ahead = max(d.ahead, then.Held-d.Held)
		d.kept = d.kept || then.Holders > 0
	}
	f.changed(i)
}

// makeRoom lets a job that does not fit wait for something definite: for
// attempts that have been told to stop, for the victims of a preemption, or, for
// the head of the queue, for the expected ends of others.
func (p *planner) makeRoom(r *Request, key string) (Unplaced, bool) {
	if p.stuck[key] && p.headed {
		return Unplaced{}, false
	}
	want := needOf(&r.Demand)
	natural, ends := opening{}, false
	if !p.headed {
		natural, ends = p.shadow(&want, false)
	}
	if !p.stuck[key] {
		if s, ok := p.shadow(&want, true); ok && (!ends || !natural.at.Before(s.at)) {
			return p.wait(r, &want, s, true), true
		} else if !ok {
			if u, ok := p.preempt(r, &want); ok {
				return u, true
			}
			p.stuck[key] = true
		}
	}
	if !ends {
		return Unplaced{}, false
	}
	p.headed = true
	return p.wait(r, &want, natural, false), true
}

// opening is where and when a job is expected to fit first.
type opening struct {
	node   int
	at     time.Time
	future *Node
	// leave are those who have to end first.
	leave []*Holder
}

// shadow finds where the expected ends of others let a job start first. Where an
// end is not known, an attempt is expected to last as long again as it has
// lasted. With stopping only those count who have been told to stop, so that the
// time is more than a guess.
func (p *planner) shadow(want *need, stopping bool) (opening, bool) {
	best := opening{node: -1}
	for i := range p.fleet.nodes {
		n := &p.fleet.nodes[i]
		if n.Blocked != "" || p.loose[i] {
			continue
		}
		type end struct {
			at time.Time
			h  *Holder
		}
		ends := make([]end, 0, len(n.Holders))
		for k := range n.Holders {
			h := &n.Holders[k]
			if p.gone[h.Fence] || stopping && !h.Ending {
				continue
			}
			at := h.End
			if at.IsZero() {
				at = p.now.Add(max(p.now.Sub(h.Started), time.Minute))
			}
			ends = append(ends, end{at, h})
		}
		sort.SliceStable(ends, func(a, b int) bool { return ends[a].at.Before(ends[b].at) })
		if len(ends) == 0 {
			continue
		}
		future := p.fleet.futureOf(i)
		var leave []*Holder
		for _, e := range ends {
			if best.node >= 0 && !e.at.Before(best.at) {
				break
			}
			future.release(e.h.Shares, e.h.CPUMillis, e.h.HostBytes)
			leave = append(leave, e.h)
			if _, why := fit(future, want, nil); why == fits {
				best = opening{i, e.at, future, leave}
				break
			}
		}
	}
	return best, best.node >= 0
}

// wait keeps the room of an opening for a job.
func (p *planner) wait(r *Request, want *need, s opening, stopping bool) Unplaced {
	n := &p.fleet.nodes[s.node]
	var u Unplaced
	if stopping {
		u = Unplaced{Reason: "waits for job " + s.leave[len(s.leave)-1].Job + " to stop on " + n.Name + "; the room is kept for it", At: s.at}
	} else {
		u = Explain(p.now, p.fleet.nodes, &r.Demand)
		u.Reason += "; it is next, and room is kept for it on " + n.Name
		p.loose[s.node] = true
	}
	u.Room = n.Name
	for _, h := range s.leave {
		// Their ends are spoken for: nobody else may count on them.
		p.gone[h.Fence] = true
	}
	chosen, _ := fit(s.future, want, nil)
	s.future.Hold(chosen.shares(s.future, want), r.Demand.CPUMillis, r.Demand.HostBytes)
	p.fleet.keep(s.node, s.future)
	p.rooms = append(p.rooms, room{s.node, s.at})
	return u
}

// backfill places a job into kept room when its own limit says that it is gone
// before the room is needed.
func (p *planner) backfill(r *Request) bool {
	if r.Longest <= 0 {
		return false
	}
	gone := p.now.Add(r.Longest)
	for _, k := range p.rooms {
		late := false
		for _, other := range p.rooms {
			late = late || other.node == k.node && gone.After(other.at)
		}
		if late {
			continue
		}
		bare := p.fleet.nodes[k.node].clone()
		bare.aheadCPU, bare.aheadHost = 0, 0
		for i := range bare.Devices {
			bare.Devices[i].ahead, bare.Devices[i].kept = 0, false
		}
		want := needOf(&r.Demand)
		chosen, why := fit(&bare, &want, nil)
		if why != fits {
			continue
		}
		shares := chosen.shares(&bare, &want)
		n := p.fleet.Node(k.node)
		p.plan.Place = append(p.plan.Place, Placed{
			Job: r.Job, Revision: r.Revision, Node: n.Name, NodeRevision: n.Revision, Shares: shares,
			Why: "fills room on " + n.Name + " that is kept for a job ahead: its time limit ends before that job can start",
		})
		// It is gone before the future comes: only the present changes.
		n.Hold(shares, r.Demand.CPUMillis, r.Demand.HostBytes)
		p.fleet.keep(k.node, p.fleet.future[k.node])
		return true
	}
	return false
}

// preempt stops attempts of lower classes, as few and as cheap as possible, when
// that makes the job fit.
func (p *planner) preempt(r *Request, want *need) (Unplaced, bool) {
	best, bestCost := -1, cost{}
	var bestVictims []*Holder
	var bestFuture *Node
	for i := range p.fleet.nodes {
		if p.fleet.nodes[i].Blocked != "" || p.loose[i] {
			continue
		}
		victims, future := p.victims(i, r.Priority, want)
		if victims == nil {
			continue
		}
		c := p.costOf(victims)
		if best < 0 || c.less(bestCost) {
			best, bestCost, bestVictims, bestFuture = i, c, victims, future
		}
	}
	if best < 0 {
		return Unplaced{}, false
	}
	n := &p.fleet.nodes[best]
	for k := range n.Holders {
		if n.Holders[k].Ending {
			p.gone[n.Holders[k].Fence] = true
		}
	}
	who := ""
	for _, h := range bestVictims {
		p.gone[h.Fence] = true
		p.plan.Preempt = append(p.plan.Preempt, Preempted{
			Job: h.Job, Fence: h.Fence, Node: n.Name, For: r.Job,
			Why: "preempted by job " + r.Job + " of class " + r.Priority.String() + "; keeps its place, no retry is spent",
		})
		if who != "" {
			who += ", "
		}
		who += h.Job
	}
	chosen, _ := fit(bestFuture, want, nil)
	bestFuture.Hold(chosen.shares(bestFuture, want), r.Demand.CPUMillis, r.Demand.HostBytes)
	p.fleet.keep(best, bestFuture)
	p.rooms = append(p.rooms, room{best, p.now})
	return Unplaced{Reason: "preempts " + who + " on " + n.Name + " and starts when that has stopped", Room: n.Name}, true
}

// cost of a preemption: the class that suffers most, then the work lost.
type cost struct {
	class job.Priority
	lost  float64
}

func (c cost) less(d cost) bool {
	if c.class != d.class {
		return c.class < d.class
	}
	return c.lost < d.lost
}

func (p *planner) costOf(victims []*Holder) cost {
	var c cost
	for _, h := range victims {
		c.class = max(c.class, h.Priority)
		c.lost += h.Lost + p.rules.Restart*float64(max(len(h.Shares), 1))
	}
	return c
}

// victims are the cheapest attempts of a node whose end makes a need fit; nil
// when none do. It also returns the node without them.
func (p *planner) victims(i int, class job.Priority, want *need) ([]*Holder, *Node) {
	n := &p.fleet.nodes[i]
	var all []*Holder
	for k := range n.Holders {
		h := &n.Holders[k]
		if h.Priority < class && !h.Ending && !p.gone[h.Fence] && p.now.Sub(h.Started) >= p.rules.MinRuntime {
			all = append(all, h)
		}
	}
	if len(all) == 0 {
		return nil, nil
	}
	sort.SliceStable(all, func(a, b int) bool {
		return p.costOf(all[a : a+1]).less(p.costOf(all[b : b+1]))
	})
	// Those who are leaving anyway count first.
	future := p.fleet.futureOf(i)
	for k := range n.Holders {
		if h := &n.Holders[k]; h.Ending && !p.gone[h.Fence] {
			future.release(h.Shares, h.CPUMillis, h.HostBytes)
		}
	}
	taken := 0
	for _, h := range all {
		future.release(h.Shares, h.CPUMillis, h.HostBytes)
		taken++
		if _, why := fit(future, want, nil); why == fits {
			break
		}
	}
	if _, why := fit(future, want, nil); why != fits {
		return nil, nil
	}
	// Spare whoever turns out not to be in the way, the dearest first.
	var victims []*Holder
	for k := taken - 1; k >= 0; k-- {
		h := all[k]
		future.Hold(h.Shares, h.CPUMillis, h.HostBytes)
		if _, why := fit(future, want, nil); why == fits {
			continue
		}
		future.release(h.Shares, h.CPUMillis, h.HostBytes)
		victims = append(victims, h)
	}
	return victims, future
}
