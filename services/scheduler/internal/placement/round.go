package placement

import (
	"cmp"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/job"
)

// Plan decides what to do now. Afterwards the core believes its plan: confirm
// every placement with Run when it is durable, or take it back with Wait.
func (c *Core) Plan(now time.Time) Plan {
	c.begin(now)
	for i := 0; i < len(c.bands); i++ {
		if b := c.bands[i]; len(b.order) > 0 {
			c.serve(b)
			b.tidy()
		}
	}
	c.lapse()
	c.warn()
	c.plan.Next = c.next()
	return *c.plan
}

// begin brings everything up to date that time has changed.
func (c *Core) begin(now time.Time) {
	c.now, c.plan, c.heads = now, &Plan{}, c.heads[:0]
	c.unclaim()
	c.settle()
	for len(c.clock.items) > 0 && !c.clock.items[0].at.After(now) {
		d := c.clock.pop()
		if e := c.jobs[d.job]; e != nil && e.seq == d.seq && e.nodes == nil {
			if e.line != nil {
				e.line.remove(e)
				e.line = nil
			}
			c.queue(e)
		}
	}
	for len(c.ripening.items) > 0 && !c.ripening.items[0].at.After(now) {
		r := c.ripening.pop()
		i, ok := c.index[r.node]
		if !ok {
			continue
		}
		for k := range c.fleet.nodes[i].Holders {
			if h := &c.fleet.nodes[i].Holders[k]; h.Fence == r.fence && h.Job == r.job {
				c.fleet.touch(i)
				c.ripen(i, h)
				c.account(h.Tenant).changed()
			}
		}
	}
	c.checkRooms()
}

// next is when time alone can change the plan.
func (c *Core) next() time.Time {
	var at time.Time
	sooner := func(t time.Time) {
		if t.After(c.now) && (at.IsZero() || t.Before(at)) {
			at = t
		}
	}
	if len(c.clock.items) > 0 {
		sooner(c.clock.items[0].at)
	}
	if len(c.ripening.items) > 0 && c.anyWaiting() {
		sooner(c.ripening.items[0].at)
	}
	for _, r := range c.rooms {
		sooner(r.at)
	}
	return at
}

func (c *Core) anyWaiting() bool {
	for _, b := range c.bands {
		for _, l := range b.order {
			if l.len() > 0 {
				return true
			}
		}
	}
	return false
}

// turn is a tenant in one band, with its lines that may still have a job to place.
type turn struct {
	acct *account
	due  float64
	// borrows says that its next job would run on what others of its cohort lend.
	borrows bool
	lines   heap[*cursor]
}

// look brings up to date where the tenant stands.
func (t *turn) look(c *Core) {
	if t.acct != nil {
		t.due = t.acct.due()
		if t.borrows = t.acct.Quota; t.borrows {
			want := c.wants(t.lines.items[0].e)
			t.borrows = !t.acct.own.enough(t.acct.used.plus(want), want)
		}
	}
}

// cursor is where in a line the round stands: so many jobs from its front have
// been looked at and wait.
type cursor struct {
	line *line
	past int
	e    *entry
}

func (k *cursor) load() bool {
	if k.past >= k.line.len() {
		return false
	}
	k.e = k.line.jobs[k.line.head+k.past]
	return true
}

// serve looks at the jobs of one band in their order: always the oldest job of
// the tenant that uses the least for its weight, those who would borrow after those
// who ask for what is their own: else a lender would take it back again and again.
// A job that waits leaves its line
// out of the rest of the round; what is behind it is the same to every host.
func (c *Core) serve(b *band) {
	turns := heap[*turn]{less: func(x, y **turn) bool {
		if (*x).borrows != (*y).borrows {
			return (*y).borrows
		}
		if (*x).due != (*y).due {
			return (*x).due < (*y).due
		}
		return (*x).lines.items[0].e.ahead((*y).lines.items[0].e)
	}}
	byTenant := map[string]*turn{}
	for _, l := range b.order {
		k := &cursor{line: l}
		if !k.load() {
			continue
		}
		t := byTenant[l.tenant]
		if t == nil {
			t = &turn{lines: heap[*cursor]{less: func(x, y **cursor) bool { return (*x).e.ahead((*y).e) }}}
			if b.at.band != urgentBand {
				t.acct = l.acct
			}
			byTenant[l.tenant] = t
			turns.items = append(turns.items, t)
		}
		t.lines.items = append(t.lines.items, k)
	}
	for _, t := range turns.items {
		t.lines.init()
		t.look(c)
	}
	turns.init()
	for len(turns.items) > 0 {
		t := turns.items[0]
		k := t.lines.items[0]
		switch c.consider(k.e) {
		case placed: // the line has closed up
		case kept:
			k.past++
		case blocked:
			c.fillBehind(k)
			k.past = k.line.len()
		}
		if k.load() {
			t.lines.down(0)
		} else {
			t.lines.pop()
		}
		if len(t.lines.items) == 0 {
			turns.pop()
			continue
		}
		t.look(c)
		turns.down(0)
	}
}

// outcome is what became of a job in a round.
type outcome uint8

const (
	placed outcome = iota
	// kept waits, with room kept for it.
	kept
	// blocked waits, and so does what is like it.
	blocked
)

// consider does what can be done for one job.
func (c *Core) consider(e *entry) outcome {
	if !e.acct.Quota {
		return c.seat(e)
	}
	want := c.wants(e)
	if v := e.acct.admits(want); v != allowed {
		c.claim(e, want, v, c.reclaim(e, want, v))
		return blocked
	}
	out := c.seat(e)
	if out == kept {
		// Who has room must find its quota there when the room is.
		c.claim(e, want, allowed, true)
	}
	return out
}

// seat finds a place for a job that its quota admits.
func (c *Core) seat(e *entry) outcome {
	if e.room != nil && e.room.ready && c.enter(e) {
		return placed
	}
	if c.tryPlace(e) {
		return placed
	}
	if c.yield(e) && c.tryPlace(e) {
		return placed
	}
	head := c.leads(e)
	if head && c.displace(e) && c.tryPlace(e) {
		return placed
	}
	head = head && !c.taken(e)
	if e.room != nil {
		// Who can never have room is no head: those behind would starve with it.
		c.lead(e)
		c.hasten(e)
		return kept
	}
	if c.backfill(e) {
		return placed
	}
	if c.makeRoom(e, head) {
		c.lead(e)
		return kept
	}
	return blocked
}

// wants is what a job will count for.
func (c *Core) wants(e *entry) Amount { return c.amountOf(e.acct, &e.req.Demand, c.hostsOf(e.rank)) }

// tryPlace gives a job the best places that are free.
func (c *Core) tryPlace(e *entry) bool {
	spots, ok := c.spots(e.rank)
	if !ok {
		return false
	}
	why := ""
	if len(spots) == 1 {
		why = tell(&c.fleet.nodes[spots[0].node], spots[0].shares)
	} else {
		why = "a gang on " + strconv.Itoa(len(spots)) + " hosts, as its topology asks"
	}
	c.place(e, spots, why)
	return true
}

// spot is the part of a placement on one node.
type spot struct {
	node   int
	shares []job.Share
}

// place puts a job where it was decided and writes it into the plan.
func (c *Core) place(e *entry, spots []spot, why string) {
	if e.line != nil {
		e.line.remove(e)
		e.line = nil
	}
	c.dropRoom(e.room)
	p := Placed{Job: e.req.Job, Revision: e.req.Revision, Why: why}
	devices := 0
	for _, s := range spots {
		devices += len(s.shares)
	}
	end := time.Time{}
	if e.req.Longest > 0 {
		end = c.now.Add(e.req.Longest)
	}
	parts := make([]Part, len(spots))
	for k, s := range spots {
		n := &c.fleet.nodes[s.node]
		parts[k] = Part{Node: n.Name, NodeRevision: n.Revision, Shares: s.shares}
		c.hold(s.node, Holder{
			Job: e.req.Job, Priority: e.req.Priority, Shares: s.shares, CPUMillis: e.req.Demand.CPUMillis, HostBytes: e.req.Demand.HostBytes,
			Started: c.now, End: end, Saved: c.now, Tenant: e.req.Tenant, Attained: e.req.Attained, Devices: devices, Rank: k, Deadline: e.req.Deadline,
			fresh: true,
		})
		e.nodes = append(e.nodes, n.Name)
	}
	p.Node, p.NodeRevision, p.Shares = parts[0].Node, parts[0].NodeRevision, parts[0].Shares
	if len(parts) > 1 {
		p.Others = parts[1:]
	}
	c.charge(e, parts)
	c.plan.Place = append(c.plan.Place, p)
}

// fillBehind looks behind a job that waits for some that are gone before kept
// room is needed: their limits differ, though their shape is the same.
func (c *Core) fillBehind(k *cursor) {
	const depth = 32
	if len(c.rooms) == 0 {
		return
	}
	at := k.past + 1
	for seen := 0; seen < depth && at < k.line.len(); seen++ {
		e := k.line.jobs[k.line.head+at]
		if e.room != nil || e.req.Longest <= 0 || e.acct.admits(c.wants(e)) != allowed || !c.backfill(e) {
			at++
		}
	}
}

// waiting lists the jobs that wait, those that back off included, as they came.
func (c *Core) waiting() []*entry {
	var out []*entry
	for _, e := range c.jobs {
		if e.nodes == nil {
			out = append(out, e)
		}
	}
	slices.SortFunc(out, func(a, b *entry) int { return cmp.Compare(a.seq, b.seq) })
	return out
}

func (c *Core) accountNames() []string { return slices.Sorted(maps.Keys(c.accounts)) }
