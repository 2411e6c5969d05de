package placement

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/job"
)

// Core is the planner's living memory: the fleet with its indexes, what runs and
// what waits. It is told of every change and answers with a Plan, at a cost that
// follows what has changed and not the size of the world. A plan from a Core is
// the plan that Make gives for its Snapshot. One goroutine may use it at a time.
type Core struct {
	rules   Rules
	typical []Typical
	taste   Taste
	now     time.Time

	fleet *Fleet
	index map[string]int
	// inventory is what hosts have, without what is promised of them.
	stale    bool // hosts have come or gone since the fleet was built
	capacity Capacity
	each     float64 // usable memory of an average device
	// kinds are the device kinds that quotas count apart, sorted.
	kinds []string

	jobs     map[string]*entry
	accounts map[string]*account
	cohorts  map[string]*cohort
	dated    map[string]*entry // jobs with a deadline
	bands    []*band
	seq      uint64
	clock    heap[due]
	ripening heap[ripe]
	rooms    []*room
	// roomTurns counts rooms that came or went: whom they claim may not be stopped.
	roomTurns int
	ending    map[int]int // nodes with attempts that have been told to stop
	running   map[job.Priority]int
	plan      *Plan
	// heads are the jobs of this round that wait for the ends of others by a guess:
	// the first of each part of the fleet. claimed is the quota that it keeps.
	heads   []*ranking
	claimed []claimant
	scratch Node
	leavers []*Holder    // scratch
	priced  []priced     // scratch
	loose   map[int]bool // nodes whose future rests on a guess about an end
}

// due is a moment at which a waiting job changes its line.
type due struct {
	at  time.Time
	job string
	seq uint64
}

// ripe is a moment at which an attempt may first be preempted by somebody new.
type ripe struct {
	at    time.Time
	node  string
	fence uint64
	job   string
}

// NewCore makes an empty core.
func NewCore(rules Rules) *Core {
	c := &Core{
		rules: rules, taste: usualTaste, jobs: map[string]*entry{}, dated: map[string]*entry{}, accounts: map[string]*account{}, cohorts: map[string]*cohort{},
		ending: map[int]int{}, loose: map[int]bool{}, index: map[string]int{}, running: map[job.Priority]int{},
		clock: heap[due]{less: func(a, b *due) bool {
			return cmp.Or(a.at.Compare(b.at), cmp.Compare(a.seq, b.seq)) < 0
		}},
		ripening: heap[ripe]{less: func(a, b *ripe) bool {
			return cmp.Or(a.at.Compare(b.at), cmp.Compare(a.node, b.node), cmp.Compare(a.fence, b.fence)) < 0
		}},
	}
	c.fleet = NewFleet(nil, nil)
	return c
}

// SetTypical says what the fleet is expected to serve. It costs a new index: call
// it when the demand has changed by a good part, and not for every job.
func (c *Core) SetTypical(typical []Typical) { c.typical, c.stale = typical, true }

// SetTaste changes how places are judged; see Rehearse.
func (c *Core) SetTaste(t Taste) {
	c.fleet.SetTaste(t)
	c.taste = c.fleet.taste
}

// SetTenants replaces weights, quotas and cohorts. Usage is kept.
func (c *Core) SetTenants(tenants []Tenant) {
	c.cohorts = map[string]*cohort{}
	known := map[string]Tenant{}
	for _, t := range tenants {
		known[t.Name] = t
		if t.Cohort != "" && t.Quota {
			h := c.cohorts[t.Cohort]
			if h == nil {
				h = &cohort{}
				c.cohorts[t.Cohort] = h
			}
			h.nominal = h.nominal.plus(t.Nominal)
		}
		c.account(t.Name)
	}
	for _, name := range c.accountNames() {
		a := c.accounts[name]
		a.Tenant, a.cohort = known[name], nil
		a.Name = name
		if a.Cohort != "" && a.Quota {
			a.cohort = c.cohorts[a.Cohort]
			a.cohort.used = a.cohort.used.plus(a.used)
			a.cohort.members = append(a.cohort.members, a)
		}
		a.changes++
	}
	c.countApart(tenants)
	for _, e := range c.jobs {
		if e.nodes != nil {
			c.recharge(e)
		}
	}
}

func (c *Core) account(tenant string) *account {
	a := c.accounts[tenant]
	if a == nil {
		a = &account{Tenant: Tenant{Name: tenant}, runs: map[string]*entry{}}
		c.accounts[tenant] = a
	}
	return a
}

// Host adds a host or replaces what is known of it. What runs there stays
// promised; what n says of promises and holders is not looked at.
func (c *Core) Host(n Node) {
	n = *bare(&n)
	split(&n)
	i, known := c.index[n.Name]
	if !known {
		c.adopt(n)
		return
	}
	old := &c.fleet.nodes[i]
	for k := range old.Holders {
		h := &old.Holders[k]
		n.Hold(h.Shares, h.CPUMillis, h.HostBytes)
	}
	n.Holders = old.Holders
	same := len(n.Devices) == len(old.Devices) && maps.Equal(n.Labels, old.Labels) && n.CPUMillis == old.CPUMillis && n.HostBytes == old.HostBytes
	for k := 0; same && k < len(n.Devices); k++ {
		a, b := &n.Devices[k], &old.Devices[k]
		same = a.ID == b.ID && a.Kind == b.Kind && a.Memory == b.Memory && a.Headroom == b.Headroom && a.Overhead == b.Overhead && a.Profile == b.Profile && a.Link == b.Link
	}
	*old = n
	if !same || c.stale {
		c.stale = true
		return
	}
	c.fleet.changed(i)
	c.disturb(i)
}

// adopt takes a host as it is.
func (c *Core) adopt(n Node) {
	c.index[n.Name] = len(c.fleet.nodes)
	c.fleet.nodes = append(c.fleet.nodes, n)
	c.stale = true
}

// Drop forgets a host. What ran there is no longer promised anywhere.
func (c *Core) Drop(host string) {
	i, ok := c.index[host]
	if !ok {
		return
	}
	c.fleet.nodes = slices.Delete(c.fleet.nodes, i, i+1)
	c.reindex()
	c.stale = true
}

func (c *Core) reindex() {
	clear(c.index)
	for i := range c.fleet.nodes {
		c.index[c.fleet.nodes[i].Name] = i
	}
}

// bare is a copy of a host with nothing promised.
func bare(n *Node) *Node {
	b := n.clone()
	b.UsedCPU, b.UsedHost, b.aheadCPU, b.aheadHost, b.Holders = 0, 0, 0, 0, nil
	for i := range b.Devices {
		d := &b.Devices[i]
		d.Held, d.Holders, d.Exclusive, d.ahead, d.kept = 0, 0, false, 0, false
	}
	return &b
}

// split marks the GPUs that have been cut into MIG instances.
func split(n *Node) {
	for i := range n.Devices {
		if p := n.Devices[i].Parent; p != "" {
			for k := range n.Devices {
				if d := &n.Devices[k]; d.ID == p && d.Fault == "" {
					d.Fault = "cut into MIG instances; ask for one of their profiles"
				}
			}
		}
	}
}

// Wait puts a job in line, or back in line at its place: after a refused
// placement, a preemption, a change of its class. Repeating it does no harm.
func (c *Core) Wait(r Request) {
	if r.Shape == "" {
		r.Shape = Shape(&r.Demand)
	}
	e := c.jobs[r.Job]
	if e != nil {
		c.leave(e)
		if e.req.Shape != r.Shape || e.req.Priority != r.Priority || r.NotBefore.After(c.now) {
			c.dropRoom(e.room)
		}
	} else {
		c.seq++
		e = &entry{seq: c.seq}
		c.jobs[r.Job] = e
	}
	e.req = r
	e.rank = c.fleet.rank(r.Shape, &e.req.Demand)
	e.acct = c.account(r.Tenant)
	c.date(e)
	c.queue(e)
}

// queue puts an entry into the line where it stands now.
func (c *Core) queue(e *entry) {
	r := &e.req
	if r.NotBefore.After(c.now) {
		c.clock.push(due{r.NotBefore, r.Job, e.seq})
		return
	}
	if at := r.rises(); at.After(c.now) {
		c.clock.push(due{at, r.Job, e.seq})
	}
	at := r.rungAt(c.now)
	e.order = r.Place
	tenant := r.Tenant
	if at.band == urgentBand {
		// The next to be late goes first, whoever's it is.
		e.order, tenant = r.Deadline.Add(-r.Expect).UnixNano(), ""
	}
	e.line = c.lineOf(at, tenant, e.rank, e.acct)
	e.line.add(e)
}

// leave takes an entry out of its line or off its devices.
func (c *Core) leave(e *entry) {
	if e.nodes != nil {
		c.settle()
	}
	if e.line != nil {
		e.line.remove(e)
		e.line = nil
	}
	if e.nodes == nil {
		return
	}
	for _, name := range e.nodes {
		if i, ok := c.index[name]; ok {
			c.vacate(i, e.req.Job)
		}
	}
	e.nodes = nil
	e.acct.sub(e.amount, e.share)
	delete(e.acct.runs, e.req.Job)
	e.amount, e.share = Amount{}, 0
}

// vacate ends a holder on a node.
func (c *Core) vacate(i int, id string) {
	n := &c.fleet.nodes[i]
	for k := range n.Holders {
		h := &n.Holders[k]
		if h.Job != id {
			continue
		}
		if h.Ending {
			c.unend(i)
		}
		c.running[h.Priority]--
		shares, cpu, host := h.Shares, h.CPUMillis, h.HostBytes
		n.Holders = slices.Delete(n.Holders, k, k+1)
		c.fleet.Release(i, shares, cpu, host)
		c.disturb(i)
		return
	}
}

func (c *Core) unend(i int) {
	if c.ending[i]--; c.ending[i] <= 0 {
		delete(c.ending, i)
	}
}

// disturb has the rooms on a node looked at again.
func (c *Core) disturb(i int) {
	name := c.fleet.nodes[i].Name
	for _, r := range c.rooms {
		for k := range r.parts {
			if r.parts[k].node == name {
				r.dirty = true
			}
		}
	}
}

// Life is what is known of a running attempt. See Holder for the fields.
type Life struct {
	Fence   uint64
	Started time.Time
	End     time.Time
	Saved   time.Time
	Lost    float64
	Ending  bool
}

// Run says that a job holds its parts of hosts. Call it when a placement is
// durable, and again when its life has news; the request is what it would wait
// with. The first part is rank 0 of a gang.
func (c *Core) Run(r Request, parts []Part, life Life) {
	c.settle()
	e := c.jobs[r.Job]
	if e == nil {
		c.seq++
		e = &entry{seq: c.seq}
		c.jobs[r.Job] = e
	} else {
		c.leave(e)
		c.dropRoom(e.room)
	}
	e.req = r
	if e.req.Shape == "" {
		e.req.Shape = Shape(&r.Demand)
	}
	e.rank = c.fleet.rank(e.req.Shape, &e.req.Demand)
	e.acct = c.account(r.Tenant)
	c.date(e)
	devices := 0
	for _, p := range parts {
		devices += len(p.Shares)
	}
	for rank, p := range parts {
		i, ok := c.index[p.Node]
		if !ok {
			continue
		}
		h := Holder{
			Job: r.Job, Fence: life.Fence, Priority: r.Priority, Shares: p.Shares, CPUMillis: r.Demand.CPUMillis, HostBytes: r.Demand.HostBytes,
			Started: life.Started, End: life.End, Lost: life.Lost, Saved: life.Saved, Ending: life.Ending, Tenant: r.Tenant, Attained: r.Attained,
			Devices: devices, Rank: rank, Deadline: r.Deadline,
		}
		c.hold(i, h)
	}
	for _, p := range parts {
		e.nodes = append(e.nodes, p.Node)
	}
	c.charge(e, parts)
}

// hold adds a holder to a node.
func (c *Core) hold(i int, h Holder) {
	n := &c.fleet.nodes[i]
	n.Holders = append(n.Holders, h)
	c.fleet.Hold(i, h.Shares, h.CPUMillis, h.HostBytes)
	c.count(i, &h)
	c.disturb(i)
}

// count enters a holder into the books that are kept beside the nodes.
func (c *Core) count(i int, h *Holder) {
	c.running[h.Priority]++
	if h.Ending {
		c.ending[i]++
	}
	c.ripen(i, h)
}

// ripen notes when somebody new may preempt the holder.
func (c *Core) ripen(i int, h *Holder) {
	name := c.fleet.nodes[i].Name
	if at := h.Started.Add(c.rules.MinRuntime); at.After(c.now) {
		c.ripening.push(ripe{at, name, h.Fence, h.Job})
		return
	}
	if h.Priority == job.Search {
		rate := float64(h.devices())
		left := tierEnds(tierOf(h.attained(c.now))) - h.attained(c.now)
		c.ripening.push(ripe{c.now.Add(time.Duration(left/rate*float64(time.Second)) + time.Millisecond), name, h.Fence, h.Job})
	}
}

// charge books what a job holds with its tenant.
func (c *Core) charge(e *entry, parts []Part) {
	e.amount = Amount{CPUMillis: e.req.Demand.CPUMillis * int64(len(parts)), HostBytes: e.req.Demand.HostBytes * int64(len(parts))}
	bytes := 0.0
	for _, p := range parts {
		for _, s := range p.Shares {
			bytes += float64(s.Bytes)
			millis := int64(1000)
			if !s.Whole {
				millis = millisOf(s.Bytes, c.each)
			}
			e.acct.count(&e.amount, c.slot(s.Kind), millis)
		}
	}
	e.share = c.capacity.part(bytes, float64(e.amount.CPUMillis), float64(e.amount.HostBytes))
	e.acct.add(e.amount, e.share)
	e.acct.runs[e.req.Job] = e
}

// Forget removes a job that has ended, or that neither waits nor runs.
func (c *Core) Forget(id string) {
	e := c.jobs[id]
	if e == nil {
		return
	}
	c.leave(e)
	c.dropRoom(e.room)
	delete(c.jobs, id)
	delete(c.dated, id)
}

// date remembers who has a deadline.
func (c *Core) date(e *entry) {
	if e.req.Deadline.IsZero() {
		delete(c.dated, e.req.Job)
		return
	}
	c.dated[e.req.Job] = e
}

// settle builds the indexes again after hosts have come or gone.
func (c *Core) settle() {
	if !c.stale {
		return
	}
	c.stale = false
	nodes := c.fleet.nodes
	for i := range c.fleet.future {
		nodes[i].unkeep()
	}
	slices.SortStableFunc(nodes, func(a, b Node) int { return cmp.Compare(a.Name, b.Name) })
	shapes := c.fleet.shapes
	c.fleet = NewFleet(nodes, c.typical)
	c.fleet.SetTaste(c.taste)
	for _, r := range shapes {
		r.trees, r.read, r.stuck, r.split, r.parts, r.where = nil, 0, nil, false, nil, nil
	}
	c.fleet.shapes = shapes
	c.reindex()
	c.capacity = CapacityOf(nodes)
	c.each = 0
	if c.capacity.devices > 0 {
		c.each = c.capacity.bytes / c.capacity.devices
	}
	clear(c.ending)
	clear(c.loose)
	for i := range nodes {
		for k := range nodes[i].Holders {
			h := &nodes[i].Holders[k]
			h.claim = nil // the rooms claim anew when they are checked
			if h.Ending {
				c.ending[i]++
			}
		}
	}
	for _, e := range c.jobs {
		if e.nodes != nil {
			c.recharge(e)
		}
	}
	for _, r := range slices.Clone(c.rooms) {
		r.dirty = true
		if !c.matches(r) {
			c.dropRoom(r)
		}
	}
}

// recharge books a running job again after the capacity has changed.
func (c *Core) recharge(e *entry) {
	var parts []Part
	for _, name := range e.nodes {
		p := Part{Node: name}
		if i, ok := c.index[name]; ok {
			for _, h := range c.fleet.nodes[i].Holders {
				if h.Job == e.req.Job {
					p.Shares = h.Shares
				}
			}
		}
		parts = append(parts, p)
	}
	e.acct.sub(e.amount, e.share)
	c.charge(e, parts)
}
