package placement

import (
	"fmt"

	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/job"
)

// Make plans a snapshot: each request in order takes what fits. A shape that
// failed once fails for the rest of the plan, since a plan only ever takes.
func Make(s Snapshot) Plan {
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
	f := NewFleet(nodes, typical)
	var plan Plan
	blocked := map[string]Unplaced{}
	for i := range s.Queue {
		r := &s.Queue[i]
		key := shape(&r.Demand)
		if u, ok := blocked[key]; ok {
			u.Job = r.Job
			plan.Unplaced = append(plan.Unplaced, u)
			continue
		}
		best, shares, ok := f.Best(&r.Demand)
		if !ok {
			u := Explain(s.Now, nodes, &r.Demand)
			blocked[key] = u
			u.Job = r.Job
			plan.Unplaced = append(plan.Unplaced, u)
			continue
		}
		n := f.Node(best)
		why := tell(n, shares)
		f.Hold(best, shares, r.Demand.CPUMillis, r.Demand.HostBytes)
		plan.Place = append(plan.Place, Placed{
			Job: r.Job, Revision: r.Revision, Node: n.Name, NodeRevision: n.Revision, Shares: shares, Why: why,
		})
	}
	return plan
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
	if n.Blocked != "" || n.CPUMillis-n.UsedCPU < cpu || n.HostBytes-n.UsedHost < host {
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
				ok = d.Fault == "" && d.Holders == 0
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
