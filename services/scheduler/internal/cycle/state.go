package cycle

import (
	"sort"

	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/job"
	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/learn"
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
	// arrays are those with unfinished elements, left how many each has.
	arrays map[string]Array
	left   map[string]int
	// schedules are by name, quotas by tenant.
	schedules map[string]Schedule
	quotas    map[string]Quota
	// peaks are what runs of a kind used, by key.
	peaks map[string]learn.Peak
	// most is the largest reservation per device kind; nil after a change of the
	// fleet.
	most map[string]int64
	// waiters are the jobs that wait for a dependency, by its key.
	waiters map[string]map[string]bool
	// unfinished counts a tenant's jobs that are not final.
	unfinished map[string]int
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

func newState(w World) *state {
	s := &state{
		revision: w.Revision + 1, records: make(map[string]Record, len(w.Records)), agents: make(map[string]Agent, len(w.Agents)),
		live: map[string]map[uint64]job.Attempt{}, desired: map[string]uint64{}, receipts: map[string]Receipt{},
		arrays: make(map[string]Array, len(w.Arrays)), left: map[string]int{}, schedules: make(map[string]Schedule, len(w.Schedules)),
		quotas: make(map[string]Quota, len(w.Quotas)), waiters: map[string]map[string]bool{}, peaks: make(map[string]learn.Peak, len(w.Peaks)), unfinished: map[string]int{},
	}
	s.loaded = s.revision
	for _, a := range w.Agents {
		s.agents[a.Name] = a
	}
	for _, a := range w.Arrays {
		s.arrays[a.ID] = a
	}
	for _, x := range w.Schedules {
		s.schedules[x.Name] = x
	}
	for _, p := range w.Peaks {
		s.peaks[p.Key] = p
	}
	for _, q := range w.Quotas {
		s.quotas[q.Tenant] = q
	}
	for _, r := range w.Records {
		r.shape = placement.Shape(&r.Job.Spec.Demand)
		s.keep(r)
		s.ask(r.Job.Spec.Demand)
	}
	return s
}

// keep takes the newest form of a record in and brings every index up to date.
func (s *state) keep(r Record) {
	j := &r.Job
	old, known := s.records[j.ID]
	for _, a := range r.Attempts {
		s.index(a)
	}
	for i := range old.Job.After {
		if key := keyOf(old.Job.After[i]); s.waiters[key] != nil {
			delete(s.waiters[key], j.ID)
			if len(s.waiters[key]) == 0 {
				delete(s.waiters, key)
			}
		}
	}
	if !known && !j.State.Terminal() {
		s.unfinished[j.Spec.Tenant]++
		if j.Origin.Array != "" {
			s.left[j.Origin.Array]++
		}
	}
	if j.State.Terminal() {
		if known {
			s.drop(&old.Job)
		}
		return
	}
	s.records[j.ID] = r
	for i := range j.After {
		if d := j.After[i]; d.State == job.DependencyWaiting {
			key := keyOf(d)
			if s.waiters[key] == nil {
				s.waiters[key] = map[string]bool{}
			}
			s.waiters[key][j.ID] = true
		}
	}
}

// drop lets a final job leave the memory.
func (s *state) drop(j *job.Job) {
	delete(s.records, j.ID)
	if s.unfinished[j.Spec.Tenant]--; s.unfinished[j.Spec.Tenant] == 0 {
		delete(s.unfinished, j.Spec.Tenant)
	}
	if a := j.Origin.Array; a != "" {
		if s.left[a]--; s.left[a] == 0 {
			delete(s.left, a)
			delete(s.arrays, a)
		}
	}
}

// index files an attempt under every host that holds a part of it.
func (s *state) index(a job.Attempt) {
	for _, agent := range a.Agents() {
		m := s.live[agent]
		if _, holds := a.On(agent); !holds {
			delete(m, a.Fence)
			continue
		}
		if m == nil {
			m = map[uint64]job.Attempt{}
			s.live[agent] = m
		}
		m[a.Fence] = a
	}
}

func (s *state) desiredOf(agent string) uint64 {
	if r, ok := s.desired[agent]; ok {
		return r
	}
	return s.loaded
}

// liveOf lists the live attempts of an agent by fence, each as that host sees it.
func (s *state) liveOf(agent string) []job.Attempt {
	out := make([]job.Attempt, 0, len(s.live[agent]))
	for _, a := range s.live[agent] {
		out = append(out, a.Seen(agent))
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

// apply makes a committed batch visible. Final jobs leave the memory.
func (s *state) apply(t *tx) {
	s.revision = t.revision
	for id, a := range t.arrays {
		s.arrays[id] = a
	}
	for id, r := range t.records {
		if t.fresh[id] {
			s.ask(r.Job.Spec.Demand)
		}
		s.keep(r)
	}
	for name, x := range t.schedules {
		if x == nil {
			delete(s.schedules, name)
		} else {
			s.schedules[name] = *x
		}
	}
	for tenant, q := range t.quotas {
		if q == nil {
			delete(s.quotas, tenant)
		} else {
			s.quotas[tenant] = *q
		}
	}
	for key, p := range t.peaks {
		s.peaks[key] = p
	}
	for n, a := range t.agents {
		s.agents[n] = a
		s.most = nil
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
