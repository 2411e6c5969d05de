package cycle

import (
	"sort"
	"time"

	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/job"
	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/placement"
)

// state is the committed world in memory. Only the committer writes it, under
// the engine's lock; it may read it without.
type state struct {
	revision uint64
	records  map[string]Record
	agents   map[string]Agent
	// live are the live attempts per agent, by fence.
	live map[string]map[uint64]job.Attempt
	// desired is the revision at which an agent's desired state last changed.
	desired map[string]uint64
	// loaded is the revision of the last load: what an agent without an entry
	// in desired has, since nobody knows what it was told before.
	loaded uint64
	// receipts are those of the newest requests, so that a repetition that
	// overtook the durable look-up is seen.
	receipts map[string]Receipt
	recent   []string
	// asked are the demands of the newest submits: what the fleet is expected
	// to serve. usual is derived from them, now and then.
	asked  []job.Demand
	usual  []placement.Typical
	counts int
}

const (
	recentReceipts = 8192
	recentDemands  = 4096
	// usualEvery is after how many submits the usual demands are counted again.
	usualEvery = 64
)

// ask notes a demand.
func (s *state) ask(d job.Demand) {
	if len(s.asked) == recentDemands {
		s.asked = append(s.asked[:0:0], s.asked[recentDemands/4:]...)
	}
	s.asked = append(s.asked, d)
	if s.counts++; s.counts%usualEvery == 0 || len(s.asked) <= usualEvery {
		s.usual = placement.TypicalOf(s.asked)
	}
}

func (s *state) typical() []placement.Typical { return s.usual }

func newState(w World) *state {
	s := &state{
		revision: w.Revision + 1, records: make(map[string]Record, len(w.Records)), agents: make(map[string]Agent, len(w.Agents)),
		live: map[string]map[uint64]job.Attempt{}, desired: map[string]uint64{}, receipts: map[string]Receipt{},
	}
	s.loaded = s.revision
	for _, a := range w.Agents {
		s.agents[a.Name] = a
	}
	for _, r := range w.Records {
		r.shape = placement.Shape(&r.Job.Spec.Demand)
		s.records[r.Job.ID] = r
		for _, a := range r.Attempts {
			s.index(a)
		}
		s.ask(r.Job.Spec.Demand)
	}
	return s
}

func (s *state) index(a job.Attempt) {
	m := s.live[a.Agent]
	if !a.Live() {
		delete(m, a.Fence)
		return
	}
	if m == nil {
		m = map[uint64]job.Attempt{}
		s.live[a.Agent] = m
	}
	m[a.Fence] = a
}

func (s *state) desiredOf(agent string) uint64 {
	if r, ok := s.desired[agent]; ok {
		return r
	}
	return s.loaded
}

// liveOf lists the live attempts of an agent by fence.
func (s *state) liveOf(agent string) []job.Attempt {
	out := make([]job.Attempt, 0, len(s.live[agent]))
	for _, a := range s.live[agent] {
		out = append(out, a)
	}
	sort.Slice(out, func(i, k int) bool { return out[i].Fence < out[k].Fence })
	return out
}

func (s *state) agentNames() []string {
	out := make([]string, 0, len(s.agents))
	for n := range s.agents {
		out = append(out, n)
	}
	sort.Strings(out)
	return out
}

// tx is an overlay: operations of one batch see each other's changes, readers
// of the state see none of them before they are durable. An operation gets a
// child of the batch's overlay, which is dropped when the operation fails.
type tx struct {
	base   *state
	parent *tx
	now    time.Time

	revision  uint64
	records   map[string]Record
	fresh     map[string]bool
	freshTry  map[uint64]bool
	agents    map[string]Agent
	receipts  map[string]Receipt
	decisions []Decision
	desired   map[string]uint64
}

func newTx(base *state, parent *tx, now time.Time) *tx {
	t := &tx{base: base, parent: parent, now: now, revision: base.revision}
	if parent != nil {
		t.revision = parent.revision
	}
	return t
}

func (t *tx) next() uint64 {
	t.revision++
	return t.revision
}

func (t *tx) record(id string) (Record, bool) {
	for x := t; x != nil; x = x.parent {
		if r, ok := x.records[id]; ok {
			return r, true
		}
	}
	r, ok := t.base.records[id]
	return r, ok
}

func (t *tx) agent(name string) (Agent, bool) {
	for x := t; x != nil; x = x.parent {
		if a, ok := x.agents[name]; ok {
			return a, true
		}
	}
	a, ok := t.base.agents[name]
	return a, ok
}

func (t *tx) receipt(id string) (Receipt, bool) {
	for x := t; x != nil; x = x.parent {
		if r, ok := x.receipts[id]; ok {
			return r, true
		}
	}
	r, ok := t.base.receipts[id]
	return r, ok
}

func (t *tx) desiredOf(agent string) uint64 {
	for x := t; x != nil; x = x.parent {
		if r, ok := x.desired[agent]; ok {
			return r
		}
	}
	return t.base.desiredOf(agent)
}

// liveOf lists an agent's live attempts, changes of this batch included.
func (t *tx) liveOf(agent string) []job.Attempt {
	seen := map[uint64]job.Attempt{}
	for f, a := range t.base.live[agent] {
		seen[f] = a
	}
	var chain []*tx
	for x := t; x != nil; x = x.parent {
		chain = append(chain, x)
	}
	for i := len(chain) - 1; i >= 0; i-- {
		for _, r := range chain[i].records {
			if a, ok := r.Latest(); ok && a.Agent == agent {
				if a.Live() {
					seen[a.Fence] = a
				} else {
					delete(seen, a.Fence)
				}
			}
		}
	}
	out := make([]job.Attempt, 0, len(seen))
	for _, a := range seen {
		out = append(out, a)
	}
	sort.Slice(out, func(i, k int) bool { return out[i].Fence < out[k].Fence })
	return out
}

// putNew adds a job.
func (t *tx) putNew(j job.Job) job.Job {
	j.Revision = t.next()
	j.Place = int64(j.Revision)
	if t.fresh == nil {
		t.fresh = map[string]bool{}
	}
	t.fresh[j.ID] = true
	t.set(Record{Job: j, shape: placement.Shape(&j.Spec.Demand)})
	return j
}

// put changes a job and, where given, its attempt: an existing one is replaced
// by number, a new one appended. It notes a decision when the state or its
// reason changed.
func (t *tx) put(j job.Job, attempt *job.Attempt) job.Job {
	old, _ := t.record(j.ID)
	j.Revision = t.next()
	rec := Record{Job: j, Attempts: old.Attempts, shape: old.shape}
	if attempt != nil {
		rec.Attempts = append([]job.Attempt(nil), old.Attempts...)
		if attempt.Number <= len(rec.Attempts) {
			was := rec.Attempts[attempt.Number-1]
			rec.Attempts[attempt.Number-1] = *attempt
			if was.Live() != attempt.Live() || (was.Phase == job.Ending) != (attempt.Phase == job.Ending) || old.Job.Intent != j.Intent {
				t.bump(attempt.Agent, j.Revision)
			}
		} else {
			if t.freshTry == nil {
				t.freshTry = map[uint64]bool{}
			}
			t.freshTry[attempt.Fence] = true
			rec.Attempts = append(rec.Attempts, *attempt)
			t.bump(attempt.Agent, j.Revision)
		}
	}
	if old.Job.State != j.State || old.Job.Reason != j.Reason {
		t.decisions = append(t.decisions, Decision{Job: j.ID, At: t.now, Action: action(old.Job, j), Reason: j.Reason, Attempt: j.Attempts})
	}
	t.set(rec)
	return j
}

// bump marks that an agent must be told something new.
func (t *tx) bump(agent string, revision uint64) {
	if t.desired == nil {
		t.desired = map[string]uint64{}
	}
	t.desired[agent] = revision
}

func (t *tx) set(r Record) {
	if t.records == nil {
		t.records = map[string]Record{}
	}
	t.records[r.Job.ID] = r
}

func (t *tx) putAgent(a Agent) Agent {
	a.Revision, a.Updated = t.next(), t.now
	if t.agents == nil {
		t.agents = map[string]Agent{}
	}
	t.agents[a.Name] = a
	return a
}

func (t *tx) putReceipt(r Receipt) {
	if t.receipts == nil {
		t.receipts = map[string]Receipt{}
	}
	t.receipts[r.ID] = r
}

// adopt takes over the changes of a child whose operation succeeded.
func (t *tx) adopt(c *tx) {
	t.revision = c.revision
	for _, r := range c.records {
		t.set(r)
	}
	merge(&t.fresh, c.fresh)
	merge(&t.freshTry, c.freshTry)
	merge(&t.agents, c.agents)
	merge(&t.receipts, c.receipts)
	merge(&t.desired, c.desired)
	t.decisions = append(t.decisions, c.decisions...)
}

func merge[K comparable, V any](into *map[K]V, from map[K]V) {
	if len(from) == 0 {
		return
	}
	if *into == nil {
		*into = make(map[K]V, len(from))
	}
	for k, v := range from {
		(*into)[k] = v
	}
}

// changes lists what the batch writes, in the order of revisions.
func (t *tx) changes() Changes {
	c := Changes{Revision: t.revision, Decisions: t.decisions}
	records := make([]Record, 0, len(t.records))
	for _, r := range t.records {
		records = append(records, r)
	}
	sort.Slice(records, func(i, k int) bool { return records[i].Job.Revision < records[k].Job.Revision })
	for _, r := range records {
		if t.fresh[r.Job.ID] {
			c.NewJobs = append(c.NewJobs, r.Job)
		} else {
			c.Jobs = append(c.Jobs, r.Job)
		}
		old := t.base.records[r.Job.ID].Attempts
		for i, a := range r.Attempts {
			switch {
			case t.freshTry[a.Fence]:
				c.NewAttempts = append(c.NewAttempts, a)
			case i >= len(old) || !sameAttempt(old[i], a):
				c.Attempts = append(c.Attempts, a)
			}
		}
	}
	for _, a := range t.agents {
		c.Agents = append(c.Agents, a)
	}
	sort.Slice(c.Agents, func(i, k int) bool { return c.Agents[i].Name < c.Agents[k].Name })
	for _, r := range t.receipts {
		c.Receipts = append(c.Receipts, r)
	}
	return c
}

// sameAttempt compares what may change in an attempt after its creation.
func sameAttempt(a, b job.Attempt) bool {
	return a.Phase == b.Phase && a.Known == b.Known && a.Isolation == b.Isolation && a.Outage.Equal(b.Outage) &&
		a.Advanced.Equal(b.Advanced) && a.Progress == b.Progress && a.Outcome == b.Outcome && a.Failure == b.Failure
}

// apply makes a committed batch visible. Final jobs leave the memory.
func (s *state) apply(t *tx) {
	s.revision = t.revision
	for id, r := range t.records {
		for _, a := range r.Attempts {
			s.index(a)
		}
		if t.fresh[id] {
			s.ask(r.Job.Spec.Demand)
		}
		if r.Job.State.Terminal() {
			delete(s.records, id)
			continue
		}
		s.records[id] = r
	}
	for n, a := range t.agents {
		s.agents[n] = a
	}
	for a, r := range t.desired {
		s.desired[a] = r
	}
	for id, r := range t.receipts {
		s.receipts[id] = r
		s.recent = append(s.recent, id)
	}
	for len(s.recent) > recentReceipts {
		delete(s.receipts, s.recent[0])
		s.recent = s.recent[1:]
	}
}

func action(old, now job.Job) string {
	switch {
	case now.State == job.Starting:
		return "placed"
	case now.State == job.Running:
		return "running"
	case now.State == job.Stopping:
		return "stopping"
	case now.State == job.Queued && old.State.Live():
		return "requeued"
	case now.State == job.Queued && old.State == job.Paused:
		return "resumed"
	case now.State == job.Paused:
		return "paused"
	case now.State == job.Succeeded:
		return "succeeded"
	case now.State == job.Failed:
		return "failed"
	case now.State == job.Cancelled:
		return "cancelled"
	}
	return "noted"
}
