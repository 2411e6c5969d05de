package cycle

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/job"
	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/placement"
)

// capture is the inputs of one planning round that decided something, and what
// it decided.
type capture struct {
	id       int64
	snapshot placement.Snapshot
	plan     placement.Plan
}

func (c *capture) weight() int { return len(c.snapshot.Nodes) + len(c.snapshot.Queue) }

// captures are bounded by count and by what they hold: with a hundred thousand
// jobs in the queue the newest few are kept, with ten the newest few hundred.
const (
	captureCount  = 512
	captureWeight = 400_000
)

// captureEvery spares a long queue: to copy it costs more than a round.
const (
	captureSmall = 2048
	captureEvery = 5 * time.Second
)

// inputs takes the inputs of the next round, unless the world is large and that
// was done a moment ago. The caller holds the core's lock.
func (e *Engine) inputs(now time.Time) (placement.Snapshot, bool) {
	e.mu.RLock()
	size := len(e.st.records) + len(e.st.agents)
	recent := len(e.captures) > 0 && now.Sub(e.captures[len(e.captures)-1].snapshot.Now) < captureEvery
	e.mu.RUnlock()
	if size > captureSmall && recent {
		return placement.Snapshot{}, false
	}
	return e.live.core.Snapshot(now), true
}

// keepCapture remembers a round. Snapshots are never written to after their
// round, so they are kept as they are and encoded only when somebody asks.
func (e *Engine) keepCapture(s placement.Snapshot, p placement.Plan) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.captured++
	e.captures = append(e.captures, capture{id: e.captured, snapshot: s, plan: p})
	total := 0
	for i := len(e.captures) - 1; i >= 0; i-- {
		total += e.captures[i].weight()
		if len(e.captures)-i > captureCount || total > captureWeight && i < len(e.captures)-1 {
			e.captures = slices.Clone(e.captures[i+1:])
			break
		}
	}
}

// CaptureView is one captured round as a list shows it.
type CaptureView struct {
	ID                                 int64
	At                                 time.Time
	Hosts, Queued, Placed, Preemptions int
}

// Captures lists the captured rounds, newest first.
func (e *Engine) Captures() []CaptureView {
	e.mu.RLock()
	defer e.mu.RUnlock()
	out := make([]CaptureView, 0, len(e.captures))
	for i := len(e.captures) - 1; i >= 0; i-- {
		c := &e.captures[i]
		out = append(out, CaptureView{
			ID: c.id, At: c.snapshot.Now, Hosts: len(c.snapshot.Nodes), Queued: len(c.snapshot.Queue), Placed: len(c.plan.Place), Preemptions: len(c.plan.Preempt),
		})
	}
	return out
}

// Captured encodes one round as JSON, for a replay offline. id 0 is the newest,
// or, with a job, the newest that placed it.
func (e *Engine) Captured(id int64, jobID string) (int64, []byte, error) {
	c, ok := e.findCapture(func(c *capture) bool {
		return (id == 0 || c.id == id) && (jobID == "" || placedAt(&c.plan, jobID) >= 0)
	})
	if !ok {
		return 0, nil, ErrNotFound
	}
	raw, err := json.Marshal(c.snapshot)
	return c.id, raw, err
}

func (e *Engine) findCapture(which func(*capture) bool) (capture, bool) {
	e.mu.RLock()
	defer e.mu.RUnlock()
	for i := len(e.captures) - 1; i >= 0; i-- {
		if which(&e.captures[i]) {
			return e.captures[i], true
		}
	}
	return capture{}, false
}

func placedAt(p *placement.Plan, jobID string) int {
	return slices.IndexFunc(p.Place, func(x placement.Placed) bool { return x.Job == jobID })
}

// Candidate is one host as the planner saw it for one placement.
type Candidate struct {
	placement.Appraisal
	Chosen bool
	// Rank is 1 for the best of those that fitted.
	Rank int
	// Reason says why it was chosen, or what it lost by.
	Reason string
}

// PlacementView is the account of one placement.
type PlacementView struct {
	Attempt    job.Attempt
	Summary    string
	Candidates []Candidate
	// Ahead is how many jobs that round placed before.
	Ahead int
	// Capture is the round; 0 when it is no longer kept.
	Capture int64
	At      time.Time
}

// ExplainPlacement says why an attempt runs where it runs; number 0 is the newest.
func (e *Engine) ExplainPlacement(ctx context.Context, id string, number int) (PlacementView, error) {
	v, err := e.Get(ctx, id)
	if err != nil {
		return PlacementView{}, err
	}
	if number == 0 {
		number = len(v.Attempts)
	}
	if number < 1 || number > len(v.Attempts) {
		return PlacementView{}, fmt.Errorf("%w: job %s has %d attempt(s)", ErrNotFound, id, len(v.Attempts))
	}
	a := v.Attempts[number-1]
	out := PlacementView{Attempt: a, At: a.Created, Summary: fmt.Sprintf("%s: %s", a.Agent, a.Why)}
	c, ok := e.findCapture(func(c *capture) bool {
		i := placedAt(&c.plan, id)
		// A round's placement became this attempt when the job's number of attempts
		// before it says so: the revision is that of the job as it waited.
		return i >= 0 && c.plan.Place[i].Node == a.Agent && !c.snapshot.Now.After(a.Created)
	})
	if !ok {
		out.Summary += " (the inputs of that decision are no longer kept; this is what was recorded)"
		return out, nil
	}
	out.Capture, out.At = c.id, c.snapshot.Now
	at := slices.IndexFunc(c.snapshot.Queue, func(r placement.Request) bool { return r.Job == id })
	if at < 0 {
		return out, nil
	}
	out.Ahead = placedAt(&c.plan, id)
	fits := 0
	for _, x := range placement.Appraise(&c.snapshot, beforePlacement(&c, id), &c.snapshot.Queue[at].Demand) {
		k := Candidate{Appraisal: x, Chosen: a.Rank(x.Node) >= 0, Reason: x.Reason}
		if x.Fits {
			fits++
			k.Rank = fits
		}
		out.Candidates = append(out.Candidates, k)
	}
	compare(out.Candidates, a.Agent, a.Why)
	out.Summary += fmt.Sprintf("; %d of %d host(s) could take it", fits, len(out.Candidates))
	return out, nil
}

// compare says of every host that fitted what it lost by to the chosen one.
func compare(all []Candidate, chosen, why string) {
	at := slices.IndexFunc(all, func(k Candidate) bool { return k.Node == chosen })
	for i := range all {
		k := &all[i]
		switch {
		case k.Chosen:
			k.Reason = why
		case !k.Fits || at < 0:
		case !all[at].Fits || k.Rank < all[at].Rank:
			// Room had been kept there, for the job or for others.
			k.Reason = "fitted; " + chosen + " was chosen for the room that was kept there, or room was kept here for another job"
		case k.Guard > all[at].Guard:
			k.Reason = fmt.Sprintf("its device kind is kept for those who ask for it by name (pressure %.2f; %.2f on %s)", k.Pressure, all[at].Pressure, chosen)
		case k.Score < all[at].Score:
			k.Reason = fmt.Sprintf("scores %d, %d less than %s: %s idle device(s) more would be of no use to the usual jobs (%s there)",
				k.Score, all[at].Score-k.Score, chosen, spoiled(k), spoiled(&all[at]))
		default:
			k.Reason = fmt.Sprintf("equal to %s, which comes first in the order of names", chosen)
		}
	}
}

func spoiled(k *Candidate) string { return fmt.Sprintf("%+.2f", k.After-k.Before) }

// beforePlacement is the fleet as a round saw it when it came to a job: with
// what it had placed before.
func beforePlacement(c *capture, jobID string) []placement.Node {
	nodes := make([]placement.Node, len(c.snapshot.Nodes))
	at := make(map[string]int, len(nodes))
	for i, n := range c.snapshot.Nodes {
		n.Devices = slices.Clone(n.Devices)
		nodes[i], at[n.Name] = n, i
	}
	demands := make(map[string]*job.Demand, len(c.snapshot.Queue))
	for i := range c.snapshot.Queue {
		demands[c.snapshot.Queue[i].Job] = &c.snapshot.Queue[i].Demand
	}
	for _, p := range c.plan.Place {
		if p.Job == jobID {
			break
		}
		d := demands[p.Job]
		if d == nil {
			continue
		}
		for _, part := range append([]placement.Part{{Node: p.Node, Shares: p.Shares}}, p.Others...) {
			if i, ok := at[part.Node]; ok {
				nodes[i].Hold(part.Shares, d.CPUMillis, d.HostBytes)
			}
		}
	}
	return nodes
}
