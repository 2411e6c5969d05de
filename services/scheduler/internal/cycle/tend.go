package cycle

import (
	"context"
	"fmt"
	"time"

	"go.uber.org/zap"

	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/job"
)

// tends looks at everything that the clock decides: silent agents, limits,
// data that came back.
func (e *Engine) tends(ctx context.Context) {
	tick := time.NewTicker(e.o.Tick)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			due := e.due(time.Now())
			if len(due) > 0 {
				// A failure has been logged by the committer; the next tick
				// finds the same facts again.
				_ = e.do(ctx, func(t *tx) error {
					for _, act := range due {
						act(t)
					}
					return nil
				})
			}
			e.gauge(time.Now())
		}
	}
}

// due collects what the clock decides now. Each act looks again before it acts:
// the world may have moved between the look and the commit.
func (e *Engine) due(now time.Time) []func(*tx) {
	heard := e.heard()
	e.mu.RLock()
	defer e.mu.RUnlock()
	var acts []func(*tx)
	reachable := false
	for name, a := range e.st.agents {
		if a.Lost {
			continue
		}
		if e.o.Terms.Lost(heard[name], e.started, now) {
			acts = append(acts, func(t *tx) { e.loseAgent(t, name, now) })
			continue
		}
		reachable = reachable || a.DataOK && !heard[name].IsZero()
	}
	for id, r := range e.st.records {
		switch {
		case r.Job.State == job.Running:
			if a, ok := r.Latest(); ok {
				if why, _ := r.Job.Overdue(a, now); why != job.NoIntent {
					acts = append(acts, func(t *tx) { e.overdue(t, id) })
				}
			}
		case reachable && r.Job.Pause == job.PausedByDataOutage && e.heardSince(heard, r.Job.Updated):
			acts = append(acts, func(t *tx) { e.dataBack(t, id) })
		}
	}
	for _, name := range e.st.dueFires(now) {
		acts = append(acts, func(t *tx) {
			if err := e.fire(t, name); err != nil {
				e.log.Error("a schedule could not fire; trying again", zap.String("schedule", name), zap.Error(err))
			}
		})
	}
	return acts
}

func (e *Engine) heard() map[string]time.Time {
	e.cmu.Lock()
	defer e.cmu.Unlock()
	out := make(map[string]time.Time, len(e.contacts))
	for n, c := range e.contacts {
		out[n] = c.heard
	}
	return out
}

// heardSince reports whether an agent that reaches the data service has said so
// after the given time. An older word may be from before the outage.
func (e *Engine) heardSince(heard map[string]time.Time, since time.Time) bool {
	for name, a := range e.st.agents {
		if a.DataOK && !a.Lost && heard[name].After(since) {
			return true
		}
	}
	return false
}

func (e *Engine) loseAgent(t *tx, name string, seen time.Time) {
	a, ok := t.agent(name)
	if !ok || a.Lost || e.heard()[name].After(seen) {
		return
	}
	e.log.Warn("agent lost: it has not reported in time", zap.String("agent", name), zap.Duration("lease", e.o.Terms.Duration), zap.Duration("lock_delay", e.o.Terms.LockDelay))
	a.Lost = true
	if e.flaps(name, t.now) && a.Cordon == Open {
		a.Cordon = Cordoned
		a.CordonReason = fmt.Sprintf("quarantined: lost %d times within %s; uncordon it when it is repaired", flapLimit, flapWindow)
		e.log.Warn("agent quarantined", zap.String("agent", name), zap.String("reason", a.CordonReason))
	}
	t.putAgent(a)
	for _, at := range t.liveOf(name) {
		e.lose(t, at, name, "its host "+name+" has not reported in time", "agent_lost")
	}
}

const (
	// flapLimit losses within flapWindow make a host a flapping one: each loss
	// costs every job on it the work since its last checkpoint.
	flapLimit  = 3
	flapWindow = time.Hour
)

// flaps notes a loss and reports whether the host is lost too often.
func (e *Engine) flaps(name string, now time.Time) bool {
	e.cmu.Lock()
	defer e.cmu.Unlock()
	c := e.contact(name)
	recent := []time.Time{now}
	for _, at := range c.losses {
		if now.Sub(at) < flapWindow && len(recent) < flapLimit {
			recent = append(recent, at)
		}
	}
	c.losses = recent
	return len(recent) >= flapLimit
}

func (e *Engine) overdue(t *tx, id string) {
	rec, ok := t.record(id)
	if !ok {
		return
	}
	a, ok := rec.Latest()
	if !ok {
		return
	}
	why, reason := rec.Job.Overdue(a, t.now)
	if why == job.NoIntent {
		return
	}
	t.put(rec.Job.Stop(&a, why, reason, t.now), &a)
}

func (e *Engine) dataBack(t *tx, id string) {
	if rec, ok := t.record(id); ok {
		if j, woke := rec.Job.DataBack(t.now); woke {
			t.put(j, nil)
		}
	}
}

// gauge measures the queue and the leases.
func (e *Engine) gauge(now time.Time) {
	e.mu.RLock()
	defer e.mu.RUnlock()
	g := levels{depth: map[job.Priority]int{}, oldest: map[job.Priority]time.Duration{}}
	for _, r := range e.st.records {
		if r.Job.State == job.Queued {
			p := r.Job.Priority
			g.depth[p]++
			g.oldest[p] = max(g.oldest[p], now.Sub(r.Job.Waiting))
		}
	}
	for name, a := range e.st.agents {
		live := e.st.liveOf(name)
		g.leases += len(live)
		if a.Lost {
			continue
		}
		n := a.node(live)
		for i := range n.Devices {
			d := &n.Devices[i]
			g.capacity++
			if d.Holders > 0 {
				g.allocated++
			}
			if d.Held > d.Memory-d.Headroom && d.Memory > 0 || d.Exclusive && d.Holders > 1 {
				g.double++
			}
		}
	}
	e.o.Meter.levels(g)
}
