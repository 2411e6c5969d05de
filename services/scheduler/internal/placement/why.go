package placement

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// Why says why a job waits, and when that is expected to change. The core need
// not have planned at this moment.
func (c *Core) Why(now time.Time, id string) Unplaced {
	e := c.jobs[id]
	switch {
	case e == nil:
		return Unplaced{Job: id, Reason: "not known to the planner; it is looked at in the next round"}
	case e.nodes != nil:
		return Unplaced{Job: id, Reason: "is placed on " + strings.Join(e.nodes, ", ")}
	case e.req.NotBefore.After(now):
		return Unplaced{Job: id, Reason: fmt.Sprintf("backs off for %s more; it keeps its place in line", roughly(e.req.NotBefore.Sub(now))), At: e.req.NotBefore}
	}
	c.settle()
	u := Unplaced{Job: id}
	want := c.wants(e)
	switch v, behind := c.judge(e, want); {
	case behind:
		u.Reason = "the quota that tenant " + e.acct.Name + " could use is kept for a job ahead of it"
		return u
	case v != allowed:
		u.Reason = e.acct.tell(v, want)
		return u
	}
	switch {
	case e.room == nil:
		x := c.miss(e)
		u.Reason, u.At = x.Reason, x.At
	case e.room.stopping:
		return c.whyRoom(e)
	default:
		back := c.without(e.room)
		u.Reason = c.miss(e).Reason
		back()
		u.Room, u.At = e.room.parts[0].node, e.room.at
		u.Reason += "; it is next, and room is kept for it on " + u.Room
	}
	return u
}

// miss says why a job does not fit the fleet as it is.
func (c *Core) miss(e *entry) Unplaced {
	if parts := c.partsOf(e.rank); parts != nil {
		return c.whyGang(c.now, parts)
	}
	return Explain(c.now, c.fleet.nodes, &e.req.Demand)
}

func (c *Core) whyRoom(e *entry) Unplaced {
	var stopping []string
	for _, p := range e.room.parts {
		if i, ok := c.index[p.node]; ok {
			for k := range c.fleet.nodes[i].Holders {
				if h := &c.fleet.nodes[i].Holders[k]; slices.Contains(p.leave, h.Job) && !slices.Contains(stopping, h.Job) {
					stopping = append(stopping, h.Job)
				}
			}
		}
	}
	u := Unplaced{Job: e.req.Job, Room: e.room.parts[0].node, At: e.room.at}
	u.Reason = "waits for job " + strings.Join(stopping, ", ") + " to stop on " + u.Room + "; the room is kept for it"
	if len(stopping) == 0 {
		u.Reason = "its room on " + u.Room + " is being made"
	}
	return u
}

// whyGang explains a gang over several hosts by the part that has no place.
func (c *Core) whyGang(now time.Time, parts []*ranking) Unplaced {
	have := map[*ranking]int{}
	for i := range c.fleet.nodes {
		for _, p := range parts {
			if _, seen := have[p]; !seen {
				have[p] = 0
			}
		}
		for p := range have {
			if _, why := fit(&c.fleet.nodes[i], &p.need, c.fleet.buf); why == fits {
				have[p]++
			}
		}
	}
	for _, p := range parts {
		need := 0
		for _, q := range parts {
			if q == p {
				need++
			}
		}
		if have[p] < need {
			u := Explain(now, c.fleet.nodes, &p.need.Demand)
			if have[p] > 0 {
				u.Reason = "no more of them are free than that"
			}
			u.Reason = fmt.Sprintf("needs %d hosts at once; %d host(s) with %d device(s) each are free and %d are needed; %s", len(parts), have[p], p.need.Devices[0].Count, need, u.Reason)
			return u
		}
	}
	return Unplaced{Reason: fmt.Sprintf("needs %d hosts at once, and its parts get in each other's way", len(parts))}
}

// Ahead lists the jobs that are looked at before a job, at most so many, and
// counts them all.
func (c *Core) Ahead(id string, limit int) (first []string, count int) {
	e := c.jobs[id]
	if e == nil || e.line == nil {
		return nil, 0
	}
	var all []*entry
	for _, b := range c.bands {
		if !b.at.above(e.line.at) && b.at != e.line.at {
			break
		}
		for _, l := range b.order {
			for _, x := range l.jobs[l.head:] {
				if b.at.above(e.line.at) || l.acct != e.acct && l.acct.due() < e.acct.due() || l.acct == e.acct && x.ahead(e) {
					all = append(all, x)
				}
			}
		}
	}
	slices.SortFunc(all, func(a, b *entry) int {
		switch {
		case a.line.at.above(b.line.at), a.line.at == b.line.at && a.ahead(b):
			return -1
		}
		return 1
	})
	for _, x := range all[:min(limit, len(all))] {
		first = append(first, x.req.Job)
	}
	return first, len(all)
}

// warn predicts which deadlines will be missed.
func (c *Core) warn() {
	for _, id := range slices.Sorted(maps.Keys(c.dated)) {
		e := c.dated[id]
		w := Warning{Job: id}
		switch {
		case e.nodes != nil:
			h := c.holderOf(e)
			if h == nil || h.End.IsZero() || !h.End.After(e.req.Deadline) {
				continue
			}
			w.Finish = h.End
		default:
			start := c.now
			if e.req.NotBefore.After(start) {
				start = e.req.NotBefore
			}
			if e.room != nil && e.room.at.After(start) {
				start = e.room.at
			}
			w.Finish = start.Add(e.req.Expect)
			if !w.Finish.After(e.req.Deadline) {
				continue
			}
		}
		w.Text = fmt.Sprintf("is expected to finish %s after its deadline", roughly(w.Finish.Sub(e.req.Deadline)))
		c.plan.Warn = append(c.plan.Warn, w)
	}
}
