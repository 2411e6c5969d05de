package placement

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/job"
)

// Make plans a snapshot. In the order of classes, and inside a class of fair
// share and of age, each job takes what fits. One that does not may make room: by
// the ends of attempts that are told to stop, and by preempting others. The first
// that still waits gets room kept for when it is expected to fit, as in EASY,
// so that what is placed behind it never delays it.
//
// It is a pure function: see Core for planning again and again.
func Make(s Snapshot) Plan {
	c := Restore(s)
	plan := c.Plan(s.Now)
	plan.Unplaced = c.Reasons(s.Now)
	return plan
}

// Reasons says of every job that waits why, in the order in which they came.
func (c *Core) Reasons(now time.Time) []Unplaced {
	var ids []string
	for _, e := range c.waiting() {
		ids = append(ids, e.req.Job)
	}
	return c.ReasonsOf(now, ids, len(ids))
}

// ReasonsOf says of some jobs that wait why, in their order. Each reason that is not
// another's too costs a look at every host: most bounds those, and what is above it is
// left out.
func (c *Core) ReasonsOf(now time.Time, ids []string, most int) []Unplaced {
	var out []Unplaced
	looks := 0
	said := map[string]Unplaced{}
	for _, id := range ids {
		e := c.jobs[id]
		// What is alike waits for the same.
		key := ""
		if e != nil && e.room == nil && !e.req.NotBefore.After(now) {
			key = e.req.Tenant + "/" + e.req.Shape
		}
		u, ok := said[key]
		if !ok || key == "" {
			if looks++; looks > most {
				continue
			}
			u = c.Why(now, id)
			said[key] = u
		}
		u.Job = id
		out = append(out, u)
	}
	return out
}

// Restore is the core that a snapshot was taken of.
func Restore(s Snapshot) *Core {
	c := NewCore(s.Rules)
	c.now = s.Now
	c.SetTaste(s.Taste)
	c.typical = s.Typical
	if len(c.typical) == 0 {
		demands := make([]job.Demand, len(s.Queue))
		for i := range s.Queue {
			demands[i] = s.Queue[i].Demand
		}
		c.typical = TypicalOf(demands)
	}
	for i := range s.Nodes {
		n := s.Nodes[i].clone()
		n.unkeep()
		n.Holders = append([]Holder(nil), n.Holders...)
		split(&n)
		c.adopt(n)
	}
	c.settle()
	c.SetTenants(s.Tenants)
	for i := range c.fleet.nodes {
		for k := range c.fleet.nodes[i].Holders {
			c.admit(i, &c.fleet.nodes[i].Holders[k])
		}
	}
	for _, e := range c.jobs {
		slices.SortStableFunc(e.nodes, func(a, b string) int { return cmp.Compare(c.rankOn(e, a), c.rankOn(e, b)) })
		c.date(e)
		c.recharge(e)
	}
	for i := range s.Queue {
		c.Wait(s.Queue[i])
	}
	for _, r := range s.Rooms {
		c.restoreRoom(r)
	}
	return c
}

// rankOn is a host's place in a gang.
func (c *Core) rankOn(e *entry, node string) int {
	for _, h := range c.fleet.nodes[c.index[node]].Holders {
		if h.Job == e.req.Job {
			return h.Rank
		}
	}
	return 0
}

// admit takes a holder into the books whose shares the node counts already.
func (c *Core) admit(i int, h *Holder) {
	name := c.fleet.nodes[i].Name
	e := c.jobs[h.Job]
	if e == nil {
		c.seq++
		e = &entry{seq: c.seq, acct: c.account(h.Tenant)}
		e.req = Request{
			Job: h.Job, Priority: h.Priority, Tenant: h.Tenant, Attained: h.Attained, Deadline: h.Deadline,
			Demand: job.Demand{CPUMillis: h.CPUMillis, HostBytes: h.HostBytes},
		}
		c.jobs[h.Job] = e
	}
	e.nodes = append(e.nodes, name)
	c.count(i, h)
}

// Snapshot is all that the next plan at this moment depends on. It shares
// nothing with the core.
func (c *Core) Snapshot(now time.Time) Snapshot {
	c.settle()
	s := Snapshot{Now: now, Typical: c.typical, Rules: c.rules, Taste: c.taste}
	for i := range c.fleet.nodes {
		n := c.fleet.nodes[i].clone()
		n.unkeep()
		n.Holders = append([]Holder(nil), n.Holders...)
		for k := range n.Holders {
			n.Holders[k].claim = nil
		}
		s.Nodes = append(s.Nodes, n)
	}
	for _, e := range c.waiting() {
		s.Queue = append(s.Queue, e.req)
	}
	for _, name := range c.accountNames() {
		s.Tenants = append(s.Tenants, c.accounts[name].Tenant)
	}
	for _, r := range c.rooms {
		s.Rooms = append(s.Rooms, r.public())
	}
	return s
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

// tell words why a node was taken.
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
