package cycle

import (
	"slices"
	"sort"
	"time"

	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/job"
	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/learn"
	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/placement"
)

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
	arrays    map[string]Array
	// A nil entry says that it is gone.
	schedules map[string]*Schedule
	quotas    map[string]*Quota
	peaks     map[string]learn.Peak
	// waits are the jobs of this overlay that wait for a dependency, by its key.
	waits map[string][]string
	// added counts new jobs per tenant, less those that became final.
	added map[string]int
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

// liveOf lists an agent's live attempts as that host sees them, changes of this
// batch included.
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
			if a, ok := r.Latest(); ok && a.Rank(agent) >= 0 {
				if _, holds := a.On(agent); holds {
					seen[a.Fence] = a
				} else {
					delete(seen, a.Fence)
				}
			}
		}
	}
	out := make([]job.Attempt, 0, len(seen))
	for _, a := range seen {
		out = append(out, a.Seen(agent))
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
	t.count(j.Spec.Tenant, 1)
	for _, d := range j.After {
		if d.State == job.DependencyWaiting {
			if t.waits == nil {
				t.waits = map[string][]string{}
			}
			t.waits[keyOf(d)] = append(t.waits[keyOf(d)], j.ID)
		}
	}
	return j
}

func (t *tx) count(tenant string, n int) {
	if t.added == nil {
		t.added = map[string]int{}
	}
	t.added[tenant] += n
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
				t.bumpAll(attempt, j.Revision)
			}
		} else {
			if t.freshTry == nil {
				t.freshTry = map[uint64]bool{}
			}
			t.freshTry[attempt.Fence] = true
			rec.Attempts = append(rec.Attempts, *attempt)
			t.bumpAll(attempt, j.Revision)
		}
	}
	if old.Job.State != j.State || old.Job.Reason != j.Reason {
		t.decisions = append(t.decisions, Decision{Job: j.ID, At: t.now, Action: action(old.Job, j), Reason: j.Reason, Attempt: j.Attempts})
	}
	t.set(rec)
	if j.State.Terminal() && !old.Job.State.Terminal() {
		t.count(j.Spec.Tenant, -1)
		t.ended(j)
	}
	return j
}

func (t *tx) bumpAll(a *job.Attempt, revision uint64) {
	for _, agent := range a.Agents() {
		t.bump(agent, revision)
	}
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
	merge(&t.arrays, c.arrays)
	merge(&t.schedules, c.schedules)
	merge(&t.quotas, c.quotas)
	merge(&t.peaks, c.peaks)
	for key, ids := range c.waits {
		if t.waits == nil {
			t.waits = map[string][]string{}
		}
		t.waits[key] = append(t.waits[key], ids...)
	}
	for tenant, n := range c.added {
		t.count(tenant, n)
	}
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
	for _, a := range t.arrays {
		c.Arrays = append(c.Arrays, a)
	}
	for name, x := range t.schedules {
		if x == nil {
			c.GoneSchedules = append(c.GoneSchedules, name)
		} else {
			c.Schedules = append(c.Schedules, *x)
		}
	}
	for _, p := range t.peaks {
		c.Peaks = append(c.Peaks, p)
	}
	for tenant, q := range t.quotas {
		if q == nil {
			c.GoneQuotas = append(c.GoneQuotas, tenant)
		} else {
			c.Quotas = append(c.Quotas, *q)
		}
	}
	return c
}

// sameAttempt compares what may change in an attempt after its creation.
func sameAttempt(a, b job.Attempt) bool {
	return a.Phase == b.Phase && a.Known == b.Known && a.Isolation == b.Isolation && a.Outage.Equal(b.Outage) &&
		a.Advanced.Equal(b.Advanced) && a.Progress == b.Progress && a.Outcome == b.Outcome && a.Failure == b.Failure &&
		a.FirstEnded == b.FirstEnded && a.Verdict == b.Verdict && slices.EqualFunc(a.Others, b.Others, func(x, y job.Member) bool { return x.Ended == y.Ended && x.Known == y.Known })
}
