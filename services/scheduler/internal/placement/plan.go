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
		best, shares, score := -1, []job.Share(nil), 0
		for k := range nodes {
			sh, why := fit(&nodes[k], &r.Demand)
			if why != fits {
				continue
			}
			if sc := rate(&nodes[k], sh); best < 0 || sc > score {
				best, shares, score = k, sh, sc
			}
		}
		if best < 0 {
			u := Explain(s.Now, nodes, &r.Demand)
			blocked[key] = u
			u.Job = r.Job
			plan.Unplaced = append(plan.Unplaced, u)
			continue
		}
		n := &nodes[best]
		why := tell(n, shares)
		n.Hold(shares, r.Demand.CPUMillis, r.Demand.HostBytes)
		plan.Place = append(plan.Place, Placed{
			Job: r.Job, Revision: r.Revision, Node: n.Name, NodeRevision: n.Revision, Shares: shares, Why: why,
		})
	}
	return plan
}

// rate scores a fit in percent, higher is better: how full the touched devices
// become. It is coarse on purpose. An exact score lets tiny differences scatter
// jobs, where equal scores fall to the first node in order.
func rate(n *Node, shares []job.Share) int {
	if len(shares) == 0 {
		return 0
	}
	var have, held int64
	for _, s := range shares {
		for i := range n.Devices {
			if d := &n.Devices[i]; d.ID == s.Device {
				have += d.Memory - d.Headroom
				held += d.Held + s.Held
			}
		}
	}
	if have <= 0 {
		return 0
	}
	return int(100 * float64(held) / float64(have))
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
