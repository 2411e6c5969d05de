package placement

import (
	"slices"
	"time"
)

// room is space that is kept for a job that waits.
type room struct {
	e     *entry
	parts []roomPart
	at    time.Time
	// stopping says that those in the way have been told to stop; a room without
	// it rests on a guess and is for the head of the queue alone.
	stopping bool
	// dirty has the room checked before it is counted on again; ready says that
	// something has changed and the job may fit now.
	dirty, ready bool
}

type roomPart struct {
	node  string
	rank  *ranking
	leave []string // jobs that have to end first
}

func (r *room) public() Room {
	out := Room{Job: r.e.req.Job, At: r.at, Stopping: r.stopping}
	for _, p := range r.parts {
		out.Parts = append(out.Parts, RoomPart{Node: p.node, Leave: slices.Clone(p.leave)})
	}
	return out
}

func (r *room) on(node string) bool {
	return slices.ContainsFunc(r.parts, func(p roomPart) bool { return p.node == node })
}

func (c *Core) restoreRoom(r Room) {
	e := c.jobs[r.Job]
	if e == nil || e.line == nil {
		return
	}
	shapes := c.shapesOf(e.rank)
	if len(r.Parts) != len(shapes) {
		return
	}
	out := &room{e: e, at: r.At, stopping: r.Stopping, dirty: true}
	for k, p := range r.Parts {
		out.parts = append(out.parts, roomPart{p.Node, shapes[k], slices.Clone(p.Leave)})
	}
	e.room = out
	c.rooms = append(c.rooms, out)
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

// unkeep gives all kept room of a node back.
func (n *Node) unkeep() {
	n.aheadCPU, n.aheadHost = 0, 0
	for i := range n.Devices {
		n.Devices[i].ahead, n.Devices[i].kept = 0, false
	}
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
}

// checkRooms looks at the rooms whose nodes have changed, and gives up those that
// can no longer be had, or whose guess has not come true.
func (c *Core) checkRooms() {
	for _, r := range slices.Clone(c.rooms) {
		if !r.stopping && !r.at.After(c.now) && !c.cleared(r) || r.stopping && c.spared(r) {
			c.dropRoom(r)
		}
	}
	for again := true; again; {
		again = false
		for _, r := range c.rooms {
			if !r.dirty {
				continue
			}
			r.dirty, r.ready = false, true
			if !c.refit(r) {
				again = true
				break
			}
		}
	}
}

// cleared reports whether everybody that a room waits for has left.
func (c *Core) cleared(r *room) bool {
	for _, p := range r.parts {
		i, ok := c.index[p.node]
		if !ok {
			return false
		}
		if slices.ContainsFunc(c.fleet.nodes[i].Holders, func(h Holder) bool { return slices.Contains(p.leave, h.Job) }) {
			return false
		}
	}
	return true
}

// matches reports whether a job is still split in the way its room is.
func (c *Core) matches(r *room) bool {
	shapes := c.shapesOf(r.e.rank)
	if len(shapes) != len(r.parts) {
		return false
	}
	for k := range shapes {
		if shapes[k] != r.parts[k].rank {
			return false
		}
	}
	return true
}

// spared reports whether somebody that a room waits for has not been told to
// stop after all.
func (c *Core) spared(r *room) bool {
	for _, p := range r.parts {
		i, ok := c.index[p.node]
		if !ok {
			return true
		}
		n := &c.fleet.nodes[i]
		for k := range n.Holders {
			if h := &n.Holders[k]; !h.Ending && h.End.IsZero() && slices.Contains(p.leave, h.Job) {
				return true
			}
		}
	}
	return false
}

// refit computes the futures of a room's nodes again; false when a room on them
// had to be given up.
func (c *Core) refit(r *room) bool {
	for _, p := range r.parts {
		i, ok := c.index[p.node]
		if !ok {
			c.dropRoom(r)
			return false
		}
		if broken := c.foresee(i); broken != nil {
			c.dropRoom(broken)
			return false
		}
	}
	return true
}

// foresee computes what a node will be when those who leave have left and those
// who wait have come. It returns a room that can no longer be had, if any.
func (c *Core) foresee(i int) (broken *room) {
	n := &c.fleet.nodes[i]
	had := n.keepsRoom()
	n.unkeep()
	delete(c.fleet.future, i)
	delete(c.loose, i)
	for k := range n.Holders {
		n.Holders[k].claim = nil
	}
	var future *Node
	for _, r := range c.rooms {
		for _, p := range r.parts {
			if p.node != n.Name {
				continue
			}
			if future == nil {
				f := n.clone()
				future = &f
			}
			for k := range n.Holders {
				if h := &n.Holders[k]; h.claim == nil && slices.Contains(p.leave, h.Job) {
					h.claim = r
					future.release(h.Shares, h.CPUMillis, h.HostBytes)
				}
			}
			want := &p.rank.need
			chosen, why := fit(future, want, nil)
			if why != fits {
				c.fleet.changed(i)
				return r
			}
			future.Hold(chosen.shares(future, want), want.CPUMillis, want.HostBytes)
			f := future.clone()
			c.fleet.keep(i, &f)
			if !r.stopping {
				c.loose[i] = true
			}
		}
	}
	if had || future != nil {
		c.fleet.changed(i)
	}
	return nil
}

// keepRoom keeps room for a job from now on.
func (c *Core) keepRoom(e *entry, parts []roomPart, at time.Time, stopping bool) {
	// Dirty: what it waits for may be gone by the next round without a trace.
	r := &room{e: e, parts: parts, at: at, stopping: stopping, dirty: true}
	e.room = r
	c.rooms = append(c.rooms, r)
	c.roomTurns++
	for _, p := range parts {
		if broken := c.foresee(c.index[p.node]); broken != nil {
			c.dropRoom(broken)
		}
	}
	if e.room == nil {
		return
	}
	// The whole reason costs a look at every host: see Why.
	node := parts[0].node
	c.plan.Unplaced = append(c.plan.Unplaced, Unplaced{Job: e.req.Job, Reason: "room is kept for it on " + node, At: at, Room: node})
}

// dropRoom gives a room up.
func (c *Core) dropRoom(r *room) {
	if r == nil {
		return
	}
	r.e.room = nil
	c.roomTurns++
	c.rooms = slices.DeleteFunc(c.rooms, func(x *room) bool { return x == r })
	for _, p := range r.parts {
		if i, ok := c.index[p.node]; ok && !c.stale {
			c.foresee(i)
			c.disturb(i)
		}
	}
}

// enter places a job in the room that was kept for it, when it is there.
func (c *Core) enter(e *entry) bool {
	r := e.room
	r.ready = false
	var spots []spot
	back := c.without(r)
	for _, p := range r.parts {
		i := c.index[p.node]
		n := &c.fleet.nodes[i]
		if chosen, why := fit(n, &p.rank.need, nil); why == fits {
			spots = append(spots, spot{i, chosen.shares(n, &p.rank.need)})
		}
	}
	if len(spots) == len(r.parts) && len(spots) > 0 {
		e.room = nil
		c.roomTurns++ // whom it claimed may be stopped for others again
		c.place(e, spots, "the room on "+r.parts[0].node+" was kept for it")
		return true
	}
	back()
	return false
}

// hasten preempts for a job that waits for the ends of others by a guess: by now
// some of them may have run long enough to be stopped.
func (c *Core) hasten(e *entry) {
	r := e.room
	if r.stopping || !c.mayPreempt(e.line.at) {
		return
	}
	back := c.without(r)
	e.room = nil
	if c.preempt(e) {
		return
	}
	e.room = r
	back()
}

// without takes a room out of the books for a moment.
func (c *Core) without(r *room) (back func()) {
	at := slices.Index(c.rooms, r)
	c.rooms = slices.Delete(c.rooms, at, at+1)
	look := func() {
		for _, p := range r.parts {
			if i, ok := c.index[p.node]; ok {
				c.foresee(i)
			}
		}
	}
	look()
	return func() {
		c.rooms = slices.Insert(c.rooms, at, r)
		look()
	}
}

// yield takes the rooms of lower classes back when a job of a higher one is
// blocked.
func (c *Core) yield(e *entry) bool {
	return c.dropRooms(func(r *room) bool { return r.e.req.Priority < e.req.Priority })
}

// displace takes the head's room from a job that is behind another now.
func (c *Core) displace(e *entry) bool {
	return c.dropRooms(func(r *room) bool { return !r.stopping && r.e != e && e.before(r.e) && c.meet(r.e.rank, e.rank) })
}

// before reports whether a job goes before another whatever their tenants use. Who is neediest changes with every end: were the
// room of one tenant's head lost each time, a large job would starve between two tenants' small ones.
func (e *entry) before(o *entry) bool {
	if e.line.at != o.line.at {
		return e.line.at.above(o.line.at)
	}
	return e.line.tenant == o.line.tenant && e.ahead(o)
}

// taken reports whether another job is the head of the same part already.
func (c *Core) taken(e *entry) bool {
	return slices.ContainsFunc(c.rooms, func(r *room) bool { return !r.stopping && r.e != e && c.meet(r.e.rank, e.rank) })
}

// lapse gives up what was kept for a moment that has come: the job could have had it in this round.
func (c *Core) lapse() {
	c.dropRooms(func(r *room) bool { return !r.stopping && !r.at.After(c.now) })
}

// leads reports whether no job before this one that waits by a guess could ever
// want the same hosts. One head for the whole fleet would be simpler: then whoever
// waits for a host of one kind lets the jobs that wait for another kind starve.
func (c *Core) leads(e *entry) bool {
	return !slices.ContainsFunc(c.heads, func(r *ranking) bool { return c.meet(r, e.rank) })
}

// lead notes that a job with room by a guess is the head of its part.
func (c *Core) lead(e *entry) {
	if !e.room.stopping && !slices.Contains(c.heads, e.rank) {
		c.heads = append(c.heads, e.rank)
	}
}

// meet reports whether some host could serve both shapes.
func (c *Core) meet(a, b *ranking) bool {
	if a == b {
		return true
	}
	x, y := c.whereOf(a), c.whereOf(b)
	for i := range x {
		if x[i]&y[i] != 0 {
			return true
		}
	}
	return false
}

// whereOf marks the nodes whose labels and kinds serve a shape, however full or
// small they are.
func (c *Core) whereOf(r *ranking) []uint64 {
	if r.where == nil {
		r.where = make([]uint64, (len(c.fleet.nodes)+63)/64)
		for i := range c.fleet.nodes {
			if c.fleet.nodes[i].suits(&r.need) {
				r.where[i/64] |= 1 << (i % 64)
			}
		}
	}
	return r.where
}

// suits reports whether a node has the labels and sorts of devices that a need
// names.
func (n *Node) suits(d *need) bool {
	for k, v := range d.Labels {
		if n.Labels[k] != v {
			return false
		}
	}
	for g := range d.Devices {
		if !slices.ContainsFunc(n.Devices, func(x Device) bool { return x.serves(&d.Devices[g]) }) {
			return false
		}
	}
	return true
}

func (c *Core) dropRooms(which func(*room) bool) bool {
	some := false
	for _, r := range slices.Clone(c.rooms) {
		if which(r) {
			c.dropRoom(r)
			some = true
		}
	}
	return some
}

// backfill places a job into kept room when its own limit says that it is gone
// before the room is needed.
func (c *Core) backfill(e *entry) bool {
	if e.req.Longest <= 0 || len(c.rooms) == 0 || c.partsOf(e.rank) != nil {
		return false
	}
	gone := c.now.Add(e.req.Longest)
	for _, r := range c.rooms {
		for _, p := range r.parts {
			late := slices.ContainsFunc(c.rooms, func(o *room) bool { return o.on(p.node) && gone.After(o.at) })
			i, ok := c.index[p.node]
			if late || !ok {
				continue
			}
			now := c.copy(i)
			chosen, why := fit(now, &e.rank.need, nil)
			if why != fits {
				continue
			}
			shares := chosen.shares(now, &e.rank.need)
			for _, o := range c.rooms {
				for k := range o.parts {
					if o.parts[k].node == p.node {
						o.parts[k].leave = append(o.parts[k].leave, e.req.Job)
					}
				}
			}
			c.place(e, []spot{{i, shares}}, "fills room on "+p.node+" that is kept for a job ahead: its time limit ends before that job can start")
			c.foresee(i)
			return true
		}
	}
	return false
}

// copy is a node free of kept room, valid until the next call.
func (c *Core) copy(i int) *Node {
	devices := append(c.scratch.Devices[:0], c.fleet.nodes[i].Devices...)
	c.scratch = c.fleet.nodes[i]
	c.scratch.Devices = devices
	c.scratch.unkeep()
	return &c.scratch
}
