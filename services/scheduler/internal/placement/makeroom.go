package placement

import (
	"cmp"
	"slices"
	"time"

	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/job"
)

// makeRoom lets a job that does not fit wait for something definite: for
// attempts that have been told to stop, for the victims of a preemption, or, for
// the head of the queue, for the expected ends of others.
func (c *Core) makeRoom(e *entry, head bool) bool {
	var natural []roomPart
	var ends time.Time
	known := false
	if head {
		natural, ends, known = c.opening(e, false)
	}
	if len(c.ending) > 0 {
		// Who ends by itself before those who were told to stop is not waited past.
		if parts, at, ok := c.opening(e, true); ok && !(known && ends.Before(at)) {
			c.keepRoom(e, parts, at, true)
			return e.room != nil
		} else if ok {
			c.keepRoom(e, natural, ends, false)
			return e.room != nil
		}
	}
	if c.preempt(e) {
		return true
	}
	if known {
		c.keepRoom(e, natural, ends, false)
	}
	return e.room != nil
}

// opening finds where the expected ends of others let a job start first. With
// stopping only those count who have been told to stop, so that the time is more
// than a guess.
func (c *Core) opening(e *entry, stopping bool) (parts []roomPart, at time.Time, ok bool) {
	at = c.now
	for _, p := range c.shapesOf(e.rank) {
		best := roomPart{rank: p}
		var bestAt time.Time
		look := func(i int) {
			n := &c.fleet.nodes[i]
			if n.Blocked != "" || c.loose[i] || slices.ContainsFunc(parts, func(x roomPart) bool { return x.node == n.Name }) {
				return
			}
			if t, leave, ok := c.earliest(i, &p.need, stopping, bestAt); ok {
				best.node, best.leave, bestAt = n.Name, leave, t
			}
		}
		if stopping && c.partsOf(e.rank) == nil {
			nodes := make([]int, 0, len(c.ending))
			for i := range c.ending {
				nodes = append(nodes, i)
			}
			slices.Sort(nodes)
			for _, i := range nodes {
				look(i)
			}
		} else {
			for i := range c.fleet.nodes {
				look(i)
			}
		}
		if best.node == "" {
			return nil, at, false
		}
		if bestAt.After(at) {
			at = bestAt
		}
		parts = append(parts, best)
	}
	return parts, at, true
}

// endOf is when an attempt is expected to end. Where nothing is known it is
// expected to last as long again as it has lasted.
func (c *Core) endOf(h *Holder) time.Time {
	if h.End.IsZero() {
		return c.now.Add(max(c.now.Sub(h.Started), time.Minute))
	}
	return h.End
}

// earliest is when a node first fits a need by the ends of its holders, if that
// is before a limit; a zero limit is none. Most hosts fall out before anything is
// copied or sorted.
func (c *Core) earliest(i int, want *need, stopping bool, limit time.Time) (time.Time, []string, bool) {
	if !limit.IsZero() && !c.fleet.brinkOf(i).endsBefore(limit, c.now) {
		return time.Time{}, nil, false
	}
	n := &c.fleet.nodes[i]
	// Of what this very plan begins nothing is known but its limit.
	ends := c.leavers[:0]
	for k := range n.Holders {
		h := &n.Holders[k]
		if h.claim != nil || stopping && !h.Ending || h.fresh && h.End.IsZero() {
			continue
		}
		if limit.IsZero() || c.endOf(h).Before(limit) {
			ends = append(ends, h)
		}
	}
	c.leavers = ends
	if len(ends) == 0 && !limit.IsZero() {
		return time.Time{}, nil, false
	}
	if _, why := fit(n, want, c.fleet.buf); why == fits {
		return c.now, nil, limit.IsZero() || c.now.Before(limit)
	}
	future := c.future(i)
	for _, h := range ends {
		future.release(h.Shares, h.CPUMillis, h.HostBytes)
	}
	if _, why := fit(future, want, c.fleet.buf); why != fits {
		return time.Time{}, nil, false
	}
	slices.SortStableFunc(ends, func(a, b *Holder) int { return c.endOf(a).Compare(c.endOf(b)) })
	future = c.future(i)
	for k, h := range ends {
		future.release(h.Shares, h.CPUMillis, h.HostBytes)
		if _, why := fit(future, want, c.fleet.buf); why == fits {
			at := c.endOf(h)
			if at.Before(c.now) {
				at = c.now
			}
			return at, names(ends[:k+1]), true
		}
	}
	return time.Time{}, nil, false
}

func names(hs []*Holder) []string {
	out := make([]string, len(hs))
	for i, h := range hs {
		out[i] = h.Job
	}
	return out
}

// future is a node as it will be when all its rooms have been used, valid until
// the next call.
func (c *Core) future(i int) *Node {
	f := c.fleet.future[i]
	if f == nil {
		return c.copy(i)
	}
	devices := append(c.scratch.Devices[:0], f.Devices...)
	c.scratch = *f
	c.scratch.Devices = devices
	c.scratch.unkeep()
	return &c.scratch
}

// cost of a preemption: the class that suffers most, then the work lost.
type cost struct {
	class int
	lost  float64
}

func (a cost) less(b cost) bool {
	if a.class != b.class {
		return a.class < b.class
	}
	return a.lost < b.lost
}

// costOf is what stopping one attempt costs. Of two search jobs the one that has
// got more service counts as the lower.
func (c *Core) costOf(h *Holder) cost {
	class := int(h.Priority) * 64
	if h.Priority == job.Search {
		class += 63 - min(tierOf(h.attained(c.now)), 63)
	}
	return cost{class, h.lost(c.now) + c.rules.Restart*float64(h.devices())}
}

// below reports whether an attempt may be stopped for a job: it is of a lower
// class, or a search job that has got more service by a level, and it has run
// long enough to have been worth its start.
func (c *Core) below(h *Holder, at rung) bool {
	if h.Ending || h.fresh || h.claim != nil || !c.worn(h) {
		return false
	}
	return h.Priority < at.class || h.Priority == at.class && at.class == job.Search && usualBand+tierOf(h.attained(c.now)) > at.band
}

// worn reports whether an attempt has run long enough to be stopped for others.
// Not even rules without a minimum runtime stop what began this very moment: two
// jobs could do so to each other for ever.
func (c *Core) worn(h *Holder) bool {
	return c.now.After(h.Started) && c.now.Sub(h.Started) >= c.rules.MinRuntime
}

// mayPreempt reports whether anybody below a rung runs at all.
func (c *Core) mayPreempt(at rung) bool {
	for class, n := range c.running {
		if n > 0 && (class < at.class || class == at.class && class == job.Search) {
			return true
		}
	}
	return false
}

// preempt stops others, as few and as cheap as possible, when that makes a job
// fit.
func (c *Core) preempt(e *entry) bool {
	at := e.line.at
	if !c.mayPreempt(at) {
		return false
	}
	shapes := c.shapesOf(e.rank)
	from, again := e.rank.stuck[at]
	if len(shapes) > 1 {
		// Which hosts its parts choose follows the costs, and those follow time.
		again = false
	}
	if again && from == len(c.fleet.log) {
		return false
	}
	var parts []roomPart
	var all []*Holder
	for _, p := range shapes {
		best, bestCost := -1, cost{}
		var bestVictims []*Holder
		look := func(i int) {
			n := &c.fleet.nodes[i]
			if n.Blocked != "" || c.loose[i] || slices.ContainsFunc(parts, func(x roomPart) bool { return x.node == n.Name }) {
				return
			}
			if victims, price, ok := c.victims(i, at, &p.need, len(shapes) > 1, best >= 0, bestCost); ok {
				best, bestCost, bestVictims = i, price, victims
			}
		}
		if again {
			c.fleet.since(from, look)
		} else {
			for i := range c.fleet.nodes {
				look(i)
			}
		}
		if best < 0 {
			if e.rank.stuck == nil {
				e.rank.stuck = map[rung]int{}
			}
			e.rank.stuck[at] = len(c.fleet.log)
			return false
		}
		n := &c.fleet.nodes[best]
		leave := names(bestVictims)
		for k := range n.Holders {
			if h := &n.Holders[k]; h.Ending && h.claim == nil {
				leave = append(leave, h.Job)
			}
		}
		parts = append(parts, roomPart{n.Name, p, leave})
		all = append(all, bestVictims...)
	}
	delete(e.rank.stuck, at)
	for _, id := range names(all) {
		c.stop(id, e)
	}
	c.keepRoom(e, parts, c.now, true)
	return e.room != nil
}

// since calls look for every node that has changed since a point of the log, in the
// order of the nodes: that of the changes is not part of a snapshot.
func (f *Fleet) since(from int, look func(int)) {
	f.stamp++
	var nodes []int32
	for _, n := range f.log[from:] {
		if f.seen[n] != f.stamp {
			f.seen[n] = f.stamp
			nodes = append(nodes, n)
		}
	}
	slices.Sort(nodes)
	for _, n := range nodes {
		look(int(n))
	}
}

// stop tells an attempt to stop, on all its hosts.
func (c *Core) stop(id string, forWhom *entry) {
	told := false
	for _, name := range c.jobs[id].nodes {
		i := c.index[name]
		n := &c.fleet.nodes[i]
		for k := range n.Holders {
			h := &n.Holders[k]
			if h.Job != id || h.Ending {
				continue
			}
			h.Ending, h.End = true, c.now.Add(time.Duration(c.rules.Restart*float64(time.Second)))
			c.ending[i]++
			c.fleet.touch(i) // others may count on its end
			if !told {
				c.plan.Preempt = append(c.plan.Preempt, Preempted{
					Job: id, Fence: h.Fence, Node: name, For: forWhom.req.Job,
					Why: "preempted by job " + forWhom.req.Job + " of class " + forWhom.req.Priority.String() + "; keeps its place, no retry is spent",
				})
				told = true
			}
		}
	}
}

// priced is an attempt that could be stopped, and what that costs.
type priced struct {
	h     *Holder
	price cost
}

// victims are the cheapest attempts of a node whose end makes a need fit, if they
// cost less than a limit. A part of a gang may find a node that needs none. Most
// hosts fall out before anything is copied or sorted.
func (c *Core) victims(i int, at rung, want *need, gang, limited bool, limit cost) ([]*Holder, cost, bool) {
	if limited && !gang && c.ending[i] == 0 && !c.fleet.brinkOf(i).least(c.now, c.rules.Restart).less(limit) {
		return nil, cost{}, false
	}
	n := &c.fleet.nodes[i]
	all := c.priced[:0]
	stay, sum := 0, cost{} // of those on devices
	for k := range n.Holders {
		h := &n.Holders[k]
		if h.Ending {
			continue
		}
		on := min(len(h.Shares), 1)
		if !c.below(h, at) {
			stay += on
			continue
		}
		// The last one taken is always in the way, so each alone is a lower bound.
		price := c.costOf(h)
		if limited && !price.less(limit) {
			stay += on
			continue
		}
		if on > 0 {
			sum.class, sum.lost = max(sum.class, price.class), sum.lost+price.lost
		}
		all = append(all, priced{h, price})
	}
	c.priced = all
	if len(all) == 0 && c.ending[i] == 0 && !gang {
		return nil, cost{}, false
	}
	if want.wholeHost(n) && (stay > 0 || limited && !sum.less(limit)) {
		return nil, cost{}, false // everybody would have to go
	}
	// Those who are leaving anyway count first.
	future := c.future(i)
	for k := range n.Holders {
		if h := &n.Holders[k]; h.Ending && h.claim == nil {
			future.release(h.Shares, h.CPUMillis, h.HostBytes)
		}
	}
	if _, why := fit(future, want, c.fleet.buf); why == fits {
		return nil, cost{}, !limited || cost{}.less(limit)
	}
	for _, x := range all {
		future.release(x.h.Shares, x.h.CPUMillis, x.h.HostBytes)
	}
	if _, why := fit(future, want, c.fleet.buf); why != fits {
		return nil, cost{}, false
	}
	slices.SortStableFunc(all, func(a, b priced) int {
		return cmp.Or(cmp.Compare(a.price.class, b.price.class), cmp.Compare(a.price.lost, b.price.lost))
	})
	// Spare whoever turns out not to be in the way, the dearest first.
	out := c.leavers[:0]
	sum = cost{}
	for k := len(all) - 1; k >= 0; k-- {
		h := all[k].h
		future.Hold(h.Shares, h.CPUMillis, h.HostBytes)
		if _, why := fit(future, want, c.fleet.buf); why == fits {
			continue
		}
		future.release(h.Shares, h.CPUMillis, h.HostBytes)
		sum.class, sum.lost = max(sum.class, all[k].price.class), sum.lost+all[k].price.lost
		if limited && !sum.less(limit) {
			return nil, cost{}, false
		}
		out = append(out, h)
	}
	c.leavers = out
	return slices.Clone(out), sum, true
}

// wholeHost reports whether a need takes every device of a node whole.
func (d *need) wholeHost(n *Node) bool {
	return len(d.Devices) == 1 && d.Devices[0].Bytes == 0 && d.Devices[0].Count == len(n.Devices)
}

// reclaim stops attempts so that a tenant gets the quota that a job needs: of
// its own lower classes, and of those in its cohort that have borrowed what is
// its own. It reports whether the job has its quota when all who stop have gone.
func (c *Core) reclaim(e *entry, want Amount, v verdict) bool {
	a := e.acct
	if v == beyond {
		return false
	}
	rests := reclaimed{first: e, verdict: v, changes: a.changes + c.roomTurns, mine: a.claims.amount}
	if a.cohort != nil {
		rests.cohort = a.cohort.held(v == lent)
	}
	if e.line.tried == rests {
		return e.line.enough
	}
	e.line.tried, e.line.enough = rests, false
	type candidate struct {
		h     *Holder
		e     *entry
		price cost
	}
	var all []candidate
	used, lentOut := a.used.plus(a.claims.amount), Amount{}
	if a.cohort != nil {
		lentOut = a.cohort.used.plus(rests.cohort)
	}
	weigh := func(from *account, foreign bool) {
		for _, id := range from.running() {
			x := from.runs[id]
			h := c.holderOf(x)
			switch {
			case h == nil:
			case h.Ending:
				if !foreign {
					used = used.minus(x.amount)
				}
				lentOut = lentOut.minus(x.amount)
			case c.below(h, e.line.at), foreign && h.Priority <= e.req.Priority && !h.fresh && c.worn(h):
				all = append(all, candidate{h, x, c.costOf(h)})
			}
		}
	}
	weigh(a, false)
	if v == lent && a.cohort != nil {
		for _, m := range a.cohort.members {
			if m != a && m.borrows() {
				weigh(m, true)
			}
		}
	}
	slices.SortStableFunc(all, func(x, y candidate) int {
		return cmp.Or(cmp.Compare(x.price.class, y.price.class), cmp.Compare(x.price.lost, y.price.lost), cmp.Compare(x.e.req.Job, y.e.req.Job))
	})
	// lacking has what is still too little, more than 0 where it is.
	lacking := func() (Amount, bool) {
		lack, most := used.plus(want).minus(a.own.plus(a.extra)), Amount{}
		if a.cohort != nil {
			most = lentOut.plus(want).minus(a.cohort.nominal)
		}
		lack = lack.most(most)
		return lack, lack.short(Amount{}, want) >= 0
	}
	var victims []string
	for _, x := range all {
		lack, more := lacking()
		if !more {
			break
		}
		if !x.e.acct.relieves(x.e.amount, lack, want, x.e.acct != a) {
			continue
		}
		if x.e.acct == a {
			used = used.minus(x.e.amount)
		}
		lentOut = lentOut.minus(x.e.amount)
		victims = append(victims, x.e.req.Job)
	}
	if _, more := lacking(); more {
		return false
	}
	e.line.enough = true
	for _, id := range victims {
		c.stop(id, e)
	}
	return true
}

// holderOf is the first holder of a running job.
func (c *Core) holderOf(e *entry) *Holder {
	for _, name := range e.nodes {
		if i, ok := c.index[name]; ok {
			n := &c.fleet.nodes[i]
			for k := range n.Holders {
				if n.Holders[k].Job == e.req.Job {
					return &n.Holders[k]
				}
			}
		}
	}
	return nil
}
