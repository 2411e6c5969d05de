package placement

import (
	"fmt"
	"time"

	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/job"
)

// Make plans a snapshot. Each request in the order of the queue takes what fits.
// One that does not may make room: by the ends of attempts that are told to stop,
// and by preempting lower classes. The first that still waits gets room kept for
// when it is expected to fit, as in EASY, so that what is placed behind it
// never delays it.
func Make(s Snapshot) Plan {
	p := newPlanner(s)
	for i := range s.Queue {
		r := &s.Queue[i]
		key := r.Shape
		if key == "" {
			key = Shape(&r.Demand)
		}
		if !p.blocked[key] {
			if node, shares, ok := p.fleet.best(key, &r.Demand); ok {
				p.place(r, node, shares)
				continue
			}
			p.blocked[key] = true
		}
		if p.backfill(r) {
			continue
		}
		u, ok := p.makeRoom(r, key)
		if !ok {
			if u, ok = p.reasons[key]; !ok {
				u = Explain(s.Now, p.fleet.nodes, &r.Demand)
				p.reasons[key] = u
			}
		}
		u.Job = r.Job
		p.plan.Unplaced = append(p.plan.Unplaced, u)
	}
	return p.plan
}

// planner is the state of one planning round.
type planner struct {
	now   time.Time
	rules Rules
	fleet *Fleet
	plan  Plan
	// blocked shapes fit nowhere: a round only ever takes.
	blocked map[string]bool
	reasons map[string]Unplaced
	// stuck shapes cannot make room either.
	stuck map[string]bool
	// gone are the fences of this round's victims.
	gone map[uint64]bool
	// unborn counts down the stand-ins for fences of this round's placements.
	unborn uint64
	// rooms are kept for those who wait.
	rooms []room
	// loose nodes have a future that rests on a guess about an end.
	loose map[int]bool
	// headed says that the head of the queue has got its room.
	headed bool
}

func newPlanner(s Snapshot) *planner {
	nodes := make([]Node, len(s.Nodes))
	for i := range s.Nodes {
		nodes[i] = s.Nodes[i].clone()
	}
	typical := s.Typical
	if len(typical) == 0 {
		demands := make([]job.Demand, len(s.Queue))
		for i := range s.Queue {
			demands[i] = s.Queue[i].Demand
		}
		typical = TypicalOf(demands)
	}
	return &planner{
		now: s.Now, rules: s.Rules, fleet: NewFleet(nodes, typical),
		blocked: map[string]bool{}, reasons: map[string]Unplaced{}, stuck: map[string]bool{}, gone: map[uint64]bool{}, loose: map[int]bool{},
	}
}

// begun counts a job of this round among the holders when its limit says when it
// ends. Nobody may preempt it: it does not run yet.
func (p *planner) begun(n *Node, r *Request, shares []job.Share) {
	if r.Longest <= 0 {
		return
	}
	p.unborn--
	n.Holders = append(n.Holders, Holder{
		Job: r.Job, Fence: p.unborn, Priority: job.Production, Shares: shares, CPUMillis: r.Demand.CPUMillis, HostBytes: r.Demand.HostBytes,
		Started: p.now, End: p.now.Add(r.Longest),
	})
}

func (p *planner) place(r *Request, node int, shares []job.Share) {
	n := p.fleet.Node(node)
	why := tell(n, shares)
	p.fleet.Hold(node, shares, r.Demand.CPUMillis, r.Demand.HostBytes)
	p.begun(n, r, shares)
	p.plan.Place = append(p.plan.Place, Placed{
		Job: r.Job, Revision: r.Revision, Node: n.Name, NodeRevision: n.Revision, Shares: shares, Why: why,
	})
}

func tell(n *Node, shares []job.Share) string {
	if len(shares) == 0 {
		return "needs no device; " + n.Name + " has the CPU and host memory"
	}
	if shares[0].Whole {
		return fmt.Sprintf("%d whole device(s) were free on %s", len(shares), n.Name)
	}
	for i := range n.Devices {
		if d := &n.Devices[i]; d.ID == shares[0].Device {
			if d.Holders > 0 {
				return fmt.Sprintf("packed onto %s/%s beside %d other(s): least memory left over", n.Name, d.ID, d.Holders)
			}
			return fmt.Sprintf("%s/%s leaves the least memory over", n.Name, d.ID)
		}
	}
	return n.Name + " fits"
}

// Fits reports whether the shares can still be promised on the node exactly as
// planned. The committer asks it before it commits.
func Fits(n *Node, shares []job.Share, cpu, host int64) bool {
	if n.Blocked != "" || n.freeCPU() < cpu || n.freeHost() < host {
		return false
	}
	for _, s := range shares {
		ok := false
		for i := range n.Devices {
			d := &n.Devices[i]
			if d.ID != s.Device {
				continue
			}
			if s.Whole {
				ok = d.empty()
			} else {
				ok = d.Free() >= s.Bytes
			}
		}
		if !ok {
			return false
		}
	}
	return true
}
