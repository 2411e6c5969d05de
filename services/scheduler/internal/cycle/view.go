package cycle

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/job"
	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/placement"
)

// View is a job as people see it.
type View struct {
	Record
	// Waits is the planner's newest word on why a queued job waits.
	Waits string
}

// Reason is why the job is in its state, in words that a person can act on.
func (v View) Reason() string {
	if v.Job.State == job.Queued && !v.Job.Blocked() && v.Waits != "" {
		return v.Waits
	}
	return v.Job.Reason
}

// AgentView is a host as people see it.
type AgentView struct {
	Agent  Agent
	Heard  time.Time
	Sample Sample
	// Reserved is what live attempts hold, by device id, in bytes.
	Reserved map[string]int64
}

func (e *Engine) peek(id string) (View, bool) {
	e.mu.RLock()
	defer e.mu.RUnlock()
	if e.st == nil {
		return View{}, false
	}
	r, ok := e.st.records[id]
	if !ok {
		return View{}, false
	}
	return e.viewLocked(r), true
}

func (e *Engine) viewLocked(r Record) View {
	v := View{Record: r}
	if a, ok := e.st.arrays[r.Job.Origin.Array]; ok && a.Max > 0 && r.Job.State == job.Queued {
		v.Waits = fmt.Sprintf("its array runs at most %d element(s) at the same time", a.Max)
	}
	if u, ok := e.reasons[r.Job.ID]; ok {
		v.Waits = u.Reason
	}
	return v
}

// Get reads one job.
func (e *Engine) Get(ctx context.Context, id string) (View, error) {
	if v, ok := e.peek(id); ok {
		if v.Job.State == job.Queued && !v.Job.Blocked() {
			// The newest plan said it in short; the core says it in full.
			v.Waits = e.why(time.Now(), id).Reason
		}
		return v, nil
	}
	r, err := e.o.Store.Record(ctx, id)
	switch {
	case errors.Is(err, ErrNotFound):
		return View{}, ErrNotFound
	case err != nil:
		return View{}, unavailable(ctx, err)
	}
	return View{Record: r}, nil
}

// List reads a page of jobs, newest first. Of those that are not final the
// memory knows more.
func (e *Engine) List(ctx context.Context, p Page) ([]View, error) {
	records, err := e.o.Store.List(ctx, p)
	if err != nil {
		return nil, unavailable(ctx, err)
	}
	out := make([]View, len(records))
	for i, r := range records {
		out[i] = View{Record: r}
		if v, ok := e.peek(r.Job.ID); ok && v.Job.Revision >= r.Job.Revision {
			out[i] = v
		}
	}
	e.sayWhy(time.Now(), out)
	return out, nil
}

// reasonsOfAPage bounds the looks at the whole fleet for one page: planning stands still
// meanwhile.
const reasonsOfAPage = 16

// sayWhy fills in why the jobs of a page wait that wait in line.
func (e *Engine) sayWhy(now time.Time, views []View) {
	at := map[string]*View{}
	var ids []string
	for i := range views {
		if v := &views[i]; v.Job.State == job.Queued && !v.Job.Blocked() {
			at[v.Job.ID] = v
			ids = append(ids, v.Job.ID)
		}
	}
	if len(ids) == 0 {
		return
	}
	e.live.mu.Lock()
	defer e.live.mu.Unlock()
	e.feed(now)
	free := ids[:0]
	for _, id := range ids {
		if held := e.live.held[id]; held != "" {
			at[id].Waits = held
		} else {
			free = append(free, id)
		}
	}
	for _, u := range e.live.core.ReasonsOf(now, free, reasonsOfAPage) {
		at[u.Job].Waits = u.Reason
	}
}

// Agents lists the fleet by name.
func (e *Engine) Agents() []AgentView {
	e.mu.RLock()
	defer e.mu.RUnlock()
	if e.st == nil {
		return nil
	}
	names := e.st.agentNames()
	out := make([]AgentView, len(names))
	for i, n := range names {
		out[i] = e.agentView(e.st.agents[n], e.st.liveOf(n))
	}
	return out
}

func (e *Engine) agentView(a Agent, live []job.Attempt) AgentView {
	v := AgentView{Agent: a, Reserved: map[string]int64{}}
	e.cmu.Lock()
	if c := e.contacts[a.Name]; c != nil {
		v.Heard, v.Sample = c.heard, c.sample
	}
	e.cmu.Unlock()
	for i := range live {
		for _, s := range live[i].Shares {
			v.Reserved[s.Device] += s.Held
		}
	}
	return v
}

// HostVerdict says why a host does not take a job now.
type HostVerdict struct {
	Agent  string
	Fits   bool
	Reason string
}

// Explanation says why a job is where it is.
type Explanation struct {
	View       View
	Summary    string
	Ahead      []string
	AheadCount int
	Hosts      []HostVerdict
	// Wait is the expected wait; 0 means unknown.
	Wait      time.Duration
	Decisions []Decision
	At        time.Time
}

const (
	aheadLimit    = 100
	decisionLimit = 50
)

// Explain says why a job waits, or what became of it.
func (e *Engine) Explain(ctx context.Context, id string) (Explanation, error) {
	v, err := e.Get(ctx, id)
	if err != nil {
		return Explanation{}, err
	}
	x := Explanation{View: v, At: time.Now()}
	if x.Decisions, err = e.o.Store.Decisions(ctx, id, decisionLimit); err != nil {
		return Explanation{}, unavailable(ctx, err)
	}
	if v.Job.State != job.Queued {
		x.Summary = settled(v, x.At)
		return x, nil
	}
	x.Ahead, x.AheadCount = e.ahead(x.At, id)
	nodes := e.Nodes()
	for i := range nodes {
		u, fits := placement.One(x.At, &nodes[i], &v.Job.Spec.Demand)
		x.Hosts = append(x.Hosts, HostVerdict{Agent: nodes[i].Name, Fits: fits, Reason: u.Reason})
	}
	u, fits := placement.Anywhere(x.At, nodes, &v.Job.Spec.Demand)
	if known := e.why(x.At, id); !known.At.IsZero() {
		u.At = known.At
	}
	if !u.At.IsZero() {
		x.Wait = max(u.At.Sub(x.At), 0)
	}
	switch {
	case v.Job.Blocked():
		x.Summary = v.Job.Reason
	case v.Job.NotBefore.After(x.At):
		x.Wait = max(x.Wait, v.Job.NotBefore.Sub(x.At))
		x.Summary = fmt.Sprintf("backs off for %s more; it keeps its place in line: %s", v.Job.NotBefore.Sub(x.At).Round(100*time.Millisecond), v.Job.Reason)
	case fits && v.Waits == "":
		x.Summary = "it fits now and starts with the next planning round"
	case v.Waits != "":
		// The planner's word counts: it knows of room that is kept.
		x.Summary = v.Waits
	default:
		x.Summary = u.Reason
	}
	if n := x.AheadCount; n > 0 {
		x.Summary += fmt.Sprintf("; %d job(s) ahead of it", n)
	}
	return x, nil
}

func settled(v View, now time.Time) string {
	j := v.Job
	a, _ := v.Latest()
	switch j.State {
	case job.Starting:
		return fmt.Sprintf("placed on %s %s ago: %s", a.Agent, now.Sub(a.Created).Round(time.Second), a.Why)
	case job.Running:
		return fmt.Sprintf("training on %s for %s: %s", a.Agent, now.Sub(a.Started).Round(time.Second), a.Why)
	case job.Stopping:
		return fmt.Sprintf("stopping on %s: %s", a.Agent, j.Reason)
	case job.Paused:
		return j.Reason
	}
	return fmt.Sprintf("%s after %d attempt(s): %s", j.State, j.Attempts, j.Reason)
}
