package cycle

import (
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/job"
	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/placement"
)

// living is the planner's core and what it has not been told yet. The committer
// notes what moved; the planner feeds it to the core before each round, so that
// a round costs what has changed and not what exists.
//
// Its lock is taken before the engine's, never after.
type living struct {
	mu   sync.Mutex
	core *placement.Core
	// held are the elements that their array's limit keeps away from the core.
	held map[string]string
	// tasted is when the usual demands were last told.
	tasted time.Time

	// moves has its own lock: the committer must not wait for a round.
	moves   sync.Mutex
	jobs    map[string]bool
	agents  map[string]bool
	tenants bool
	anew    bool
}

func newLiving() *living {
	return &living{jobs: map[string]bool{}, agents: map[string]bool{}, anew: true}
}

// moved notes what a committed batch changed.
func (l *living) moved(t *tx) {
	l.moves.Lock()
	defer l.moves.Unlock()
	for id := range t.records {
		l.jobs[id] = true
	}
	for name := range t.agents {
		l.agents[name] = true
	}
	l.tenants = l.tenants || len(t.quotas) > 0
	if len(t.peaks) > 0 {
		for _, id := range t.base.learners(t.peaks) {
			l.jobs[id] = true
		}
	}
}

// again has jobs told to the core once more: it believes something of them that
// did not happen.
func (l *living) again(ids ...string) {
	l.moves.Lock()
	defer l.moves.Unlock()
	for _, id := range ids {
		l.jobs[id] = true
	}
}

// reload has everything told anew.
func (l *living) reload() {
	l.moves.Lock()
	defer l.moves.Unlock()
	l.anew = true
}

// take hands over what moved.
func (l *living) take() (jobs, agents map[string]bool, tenants, anew bool) {
	l.moves.Lock()
	defer l.moves.Unlock()
	jobs, agents, tenants, anew = l.jobs, l.agents, l.tenants, l.anew
	l.jobs, l.agents, l.tenants, l.anew = map[string]bool{}, map[string]bool{}, false, false
	return jobs, agents, tenants, anew
}

// retaste is how often the core may be told anew what the fleet usually serves:
// it costs it a new index.
const retaste = time.Minute

// feed brings the core up to date. The caller holds its lock.
func (e *Engine) feed(now time.Time) {
	l := e.live
	jobs, agents, tenants, anew := l.take()
	e.mu.RLock()
	defer e.mu.RUnlock()
	st := e.st
	if anew || l.core == nil {
		l.core, l.held, l.tasted = placement.NewCore(e.o.Rules), nil, time.Time{}
		tenants = true
		for name := range st.agents {
			agents[name] = true
		}
		for id := range st.records {
			jobs[id] = true
		}
	}
	if now.Sub(l.tasted) >= retaste && len(st.usual) > 0 {
		l.core.SetTypical(st.usual)
		l.tasted = now
	}
	if tenants {
		l.core.SetTenants(st.parties(e.o.Weights))
	}
	for _, name := range st.agentNames() {
		if agents[name] {
			l.core.Host(st.agents[name].node(nil))
		}
	}
	held := st.throttled(now)
	for id := range held {
		jobs[id] = jobs[id] || l.held[id] == ""
	}
	for id := range l.held {
		jobs[id] = jobs[id] || held[id] == ""
	}
	l.held = held
	for id := range jobs {
		e.tell(l.core, id, held)
	}
}

// tell says what became of one job.
func (e *Engine) tell(core *placement.Core, id string, held map[string]string) {
	r, ok := e.st.records[id]
	j := &r.Job
	switch {
	case !ok || j.State == job.Paused || j.Blocked() || held[id] != "":
		core.Forget(id)
	case j.State == job.Queued:
		core.Wait(e.st.requestOf(&r))
	default:
		a, _ := r.Latest()
		core.Run(e.st.requestOf(&r), partsOf(&a), lifeOf(&a, j))
	}
}

func partsOf(a *job.Attempt) []placement.Part {
	parts := make([]placement.Part, 0, 1+len(a.Others))
	for _, agent := range a.Agents() {
		if shares, holds := a.On(agent); holds {
			parts = append(parts, placement.Part{Node: agent, Shares: shares})
		}
	}
	return parts
}

// lifeOf is what is known of a live attempt: when it is expected to end and since
// when its work is not safe.
func lifeOf(a *job.Attempt, j *job.Job) placement.Life {
	l := placement.Life{Fence: a.Fence, Started: a.Created, Ending: a.Phase == job.Ending}
	if !a.Started.IsZero() {
		l.Started = a.Started
	}
	l.Saved = l.Started
	if rate := a.Progress.StepsPerSecond; rate > 0 && a.Progress.Checkpoint.ID != "" && !a.Advanced.IsZero() {
		behind := float64(a.Progress.Step-a.Progress.Checkpoint.Step) / rate
		if at := a.Advanced.Add(-time.Duration(max(behind, 0) * float64(time.Second))); at.After(l.Started) {
			l.Saved = at
		}
	}
	switch {
	case l.Ending:
		l.End = j.Updated.Add(a.Grace)
	case a.Progress.Remaining > 0:
		l.End = a.Advanced.Add(a.Progress.Remaining)
	case j.Spec.RunLimit > 0:
		l.End = l.Started.Add(j.Spec.RunLimit)
	}
	return l
}

// boundless is more than any fleet has, and small enough to be added up.
const boundless = int64(1) << 45

// parties are the tenants with their quotas, by name. A weight that the process
// was started with yields to one that was set.
func (s *state) parties(weights map[string]float64) []placement.Tenant {
	seen := map[string]placement.Tenant{}
	for name, w := range weights {
		seen[name] = placement.Tenant{Name: name, Weight: w}
	}
	for name, q := range s.quotas {
		t := placement.Tenant{Name: name, Weight: q.Weight, Cohort: q.Cohort, Quota: len(q.Devices) > 0}
		if t.Weight == 0 {
			t.Weight = weights[name]
		}
		// Devices of kinds that no entry names have no bound.
		t.Nominal = placement.Amount{Millis: boundless, CPUMillis: boundless, HostBytes: boundless}
		for _, d := range q.Devices {
			own, borrow := millis(d.Nominal), boundless
			if d.Borrow != nil {
				borrow = millis(*d.Borrow)
			}
			if d.Kind == "" {
				t.Nominal.Millis, t.Borrow.Millis = own, borrow
			} else {
				t.Kinds = append(t.Kinds, placement.KindQuota{Kind: d.Kind, Nominal: own, Borrow: borrow})
			}
		}
		slices.SortFunc(t.Kinds, func(a, b placement.KindQuota) int { return strings.Compare(a.Kind, b.Kind) })
		seen[name] = t
	}
	out := make([]placement.Tenant, 0, len(seen))
	for _, name := range sortedKeys(seen) {
		out = append(out, seen[name])
	}
	return out
}

func millis(devices float64) int64 { return int64(math.Round(devices * 1000)) }

// why is the core's word on why a job waits.
func (e *Engine) why(now time.Time, id string) placement.Unplaced {
	e.live.mu.Lock()
	defer e.live.mu.Unlock()
	e.feed(now)
	if held := e.live.held[id]; held != "" {
		return placement.Unplaced{Job: id, Reason: held}
	}
	return e.live.core.Why(now, id)
}

// ahead lists jobs that are looked at before a job, and counts them all.
func (e *Engine) ahead(now time.Time, id string) ([]string, int) {
	e.live.mu.Lock()
	defer e.live.mu.Unlock()
	e.feed(now)
	return e.live.core.Ahead(id, aheadLimit)
}
