package cycle

import (
	"context"
	"net"
	"time"

	"go.uber.org/zap"

	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/job"
	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/lease"
)

// ExitReport is the end of an attempt from a host's journal.
type ExitReport struct {
	Job    string
	Number int
	Fence  uint64
	Exit   job.Exit
}

// Report is an agent's whole current state.
type Report struct {
	// Agent carries the inventory; the fields that people and the scheduler own
	// are ignored.
	Agent  Agent
	Sample Sample
	Exits  []ExitReport
	// Known is the revision of the last answer that the agent applied.
	Known uint64
}

// Order is an attempt, or its part on this host, that the agent must be running.
type Order struct {
	Job     job.Job
	Attempt job.Attempt
	// Gang is where the parts of a gang meet; nil for an attempt on one host.
	Gang *Gang
}

// Gang tells one part of a gang where the others are.
type Gang struct {
	// Address is the first host's, Port is on it.
	Address string
	Port    int
	// Rank is this part's, of Hosts; Processes are one per device of all.
	Rank, Hosts, Processes int
}

// Ports of gangs lie below the range that kernels hand out by themselves. The
// fence spreads them: two gangs that meet on one host have different ones.
const (
	firstGangPort = 20000
	gangPorts     = 12000
)

// gangLocked works out a gang's meeting point; nil for an attempt on one host.
func (e *Engine) gangLocked(a *job.Attempt, agent string) *Gang {
	if !a.Gang() {
		return nil
	}
	address := e.st.agents[a.Agent].Address
	if host, _, err := net.SplitHostPort(address); err == nil {
		address = host
	}
	if address == "" {
		address = a.Agent
	}
	return &Gang{
		Address: address, Port: firstGangPort + int(a.Fence%gangPorts), Rank: a.Rank(agent), Hosts: len(a.Agents()), Processes: a.Processes(),
	}
}

// Stop is an attempt that the agent must end.
type Stop struct {
	Job    string
	Number int
	Fence  uint64
	// Intent is why; NoIntent means that the lease is not, or no longer, valid.
	Intent job.Intent
	// Grace is zero for an immediate kill.
	Grace time.Duration
}

// Answer is an agent's whole desired state.
type Answer struct {
	Revision uint64
	Run      []Order
	Stop     []Stop
	Acks     []ExitReport
	Lease    time.Duration
	Next     time.Duration
}

// Synchronize records a report and answers with the desired state as soon as it
// differs from what the agent knows, or when wait is over.
func (e *Engine) Synchronize(ctx context.Context, r Report, wait time.Duration) (Answer, error) {
	select {
	case <-e.ready:
	case <-ctx.Done():
		return Answer{}, ctx.Err()
	}
	name := r.Agent.Name
	e.cmu.Lock()
	c := e.contact(name)
	c.heard = time.Now()
	c.turn++
	turn := c.turn
	c.sample = r.Sample
	// Taken before the report is recorded, so that no change is missed between
	// the recording and the wait.
	wake := c.wake
	e.cmu.Unlock()

	if err := e.do(ctx, func(t *tx) error { return e.record(t, r) }); err != nil {
		return Answer{}, err
	}
	deadline := time.NewTimer(wait)
	defer deadline.Stop()
	for {
		if !e.leads() {
			return Answer{}, ErrUnavailable
		}
		a := e.answer(r)
		if a.Revision != r.Known || len(r.Exits) > 0 || wait <= 0 {
			return a, nil
		}
		select {
		case <-ctx.Done():
			return Answer{}, ctx.Err()
		case <-deadline.C:
			if !e.leads() {
				return Answer{}, ErrUnavailable
			}
			return a, nil
		case <-wake:
		}
		e.cmu.Lock()
		wake = c.wake
		superseded := c.turn != turn
		e.cmu.Unlock()
		if superseded {
			return a, nil
		}
	}
}

// record folds a report into the world. It runs in the committer.
func (e *Engine) record(t *tx, r Report) error {
	agent, known := t.agent(r.Agent.Name)
	fresh := known && !agent.Lost && r.Known == t.desiredOf(r.Agent.Name)
	e.inventory(t, agent, known, r)

	exits := make(map[uint64]bool, len(r.Exits))
	for _, x := range r.Exits {
		exits[x.Fence] = true
		e.exit(t, r.Agent.Name, x)
	}
	for _, h := range r.Sample.Held {
		if exits[h.Fence] {
			continue
		}
		rec, ok := t.record(h.Job)
		if !ok {
			continue
		}
		a, ok := rec.Latest()
		if !ok || a.Fence != h.Fence || a.Rank(r.Agent.Name) < 0 {
			continue
		}
		j, b := rec.Job.Observe(a, r.Agent.Name, h.Sight, t.now)
		if !sameAttempt(a, b) || j.State != rec.Job.State || j.Checkpoint != rec.Job.Checkpoint {
			t.put(j, &b)
		}
	}
	v := lease.Judge(t.liveOf(r.Agent.Name), r.Sample.Held, exits, fresh)
	for _, a := range v.Settled {
		e.end(t, a, r.Agent.Name, job.Exit{Outcome: job.OutcomeStopped, Evidence: job.Evidence{Message: "nothing was running"}})
	}
	for _, a := range v.Vanished {
		e.log.Warn("an agent no longer holds an attempt that it was given", zap.String("agent", r.Agent.Name), zap.String("job_id", a.Job), zap.Uint64("fence", a.Fence))
		e.lose(t, a, r.Agent.Name, "its host forgot it", "vanished")
	}
	if len(v.Fenced) > 0 {
		e.o.Meter.stale("Synchronize", len(v.Fenced))
	}
	return nil
}

// inventory stores what the report says about the host itself.
func (e *Engine) inventory(t *tx, old Agent, known bool, r Report) {
	now := r.Agent
	now.Cordon, now.CordonReason, now.Lost = old.Cordon, old.CordonReason, false
	if known && !old.Lost && old.sameReport(now) {
		return
	}
	t.putAgent(now)
	if !known || old.Lost {
		// Whatever it was told before is void.
		t.bump(now.Name, t.revision)
		e.log.Info("agent joined", zap.String("agent", now.Name), zap.Int("devices", len(now.Devices)), zap.Bool("was_lost", old.Lost))
	}
}

// exit records the end of an attempt. A repeated, stale or unknown exit has no
// effect and is acknowledged all the same: the host may forget it.
func (e *Engine) exit(t *tx, agent string, x ExitReport) {
	rec, ok := t.record(x.Job)
	if !ok {
		return
	}
	a, ok := rec.Latest()
	if !ok || a.Fence != x.Fence || a.Rank(agent) < 0 {
		e.o.Meter.stale("Synchronize", 1)
		return
	}
	if a.Live() {
		e.end(t, a, agent, x.Exit)
		return
	}
	if j, b, ok := rec.Job.Late(a, x.Exit, t.now); ok {
		t.put(j, &b)
	}
}

// end applies the end of an attempt, or of a gang's part, on one host.
func (e *Engine) end(t *tx, a job.Attempt, agent string, x job.Exit) {
	rec, ok := t.record(a.Job)
	if !ok {
		return
	}
	// A gang's other parts may have ended in this very batch.
	if newest, ok := rec.Latest(); ok && newest.Fence == a.Fence {
		a = newest
	}
	j, b, ok := rec.Job.EndOn(a, agent, x, e.o.Policy, e.rng, t.now)
	if !ok {
		return
	}
	t.put(j, &b)
	if b.Live() {
		return
	}
	t.observe(&j, &b)
	e.log.Info("attempt ended", zap.String("job_id", j.ID), zap.Int("attempt", b.Number), zap.Uint64("fence", b.Fence), zap.String("agent", b.Agent),
		zap.Stringer("outcome", b.Outcome), zap.Stringer("failure", b.Failure), zap.Stringer("job_state", j.State), zap.String("reason", j.Reason))
}

func (e *Engine) lose(t *tx, a job.Attempt, agent, why, reason string) {
	e.o.Meter.expired(reason, 1)
	e.end(t, a, agent, job.Exit{Outcome: job.OutcomeStopped, Failure: job.AgentLost, Evidence: job.Evidence{Message: why}})
}

// answer reads an agent's desired state from the committed world.
func (e *Engine) answer(r Report) Answer {
	e.mu.RLock()
	defer e.mu.RUnlock()
	a := Answer{Revision: e.st.desiredOf(r.Agent.Name), Acks: r.Exits, Lease: e.o.Terms.Duration, Next: e.o.Terms.Duration / 3}
	explained := make(map[uint64]bool, len(r.Exits))
	for _, x := range r.Exits {
		explained[x.Fence] = true
	}
	v := lease.Judge(e.st.liveOf(r.Agent.Name), r.Sample.Held, explained, false)
	for _, at := range v.Run {
		rec := e.st.records[at.Job]
		whole, _ := rec.Latest()
		a.Run = append(a.Run, Order{Job: rec.Job, Attempt: at, Gang: e.gangLocked(&whole, r.Agent.Name)})
	}
	for _, at := range v.Stop {
		a.Stop = append(a.Stop, Stop{Job: at.Job, Number: at.Number, Fence: at.Fence, Intent: e.st.records[at.Job].Job.Intent, Grace: at.Grace})
	}
	for _, h := range v.Fenced {
		a.Stop = append(a.Stop, Stop{Job: h.Job, Number: h.Number, Fence: h.Fence})
	}
	return a
}
