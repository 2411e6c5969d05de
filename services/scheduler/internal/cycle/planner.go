package cycle

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
	"go.uber.org/zap"

	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/job"
	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/placement"
)

// breath bounds the pause between two rounds.
const breath = 3 * time.Second

// plans runs a planning round whenever the world changed or a backoff ended.
func (e *Engine) plans(ctx context.Context) {
	for {
		begin := time.Now()
		next := e.plan(ctx)
		// Half of the time at most: with a long queue, a round for every single
		// submit would leave no processor to those who submit.
		select {
		case <-ctx.Done():
			return
		case <-time.After(min(time.Since(begin), breath)):
		}
		var due <-chan time.Time
		if !next.IsZero() {
			due = time.After(time.Until(next))
		}
		select {
		case <-ctx.Done():
			return
		case <-e.wake:
		case <-due:
		}
	}
}

// plan runs one round and returns when the next is due by the clock.
func (e *Engine) plan(ctx context.Context) time.Time {
	begin := time.Now()
	p := e.decide(begin)
	if len(p.Place)+len(p.Preempt)+len(p.Warn) == 0 {
		return p.Next
	}
	err := e.commitPlan(ctx, p)
	switch {
	case errors.Is(err, context.Canceled):
		return p.Next
	case err != nil:
		e.disbelieve(p)
		return begin.Add(500 * time.Millisecond)
	}
	return p.Next
}

// decide asks the core what to do, and keeps what it was asked with.
func (e *Engine) decide(now time.Time) placement.Plan {
	e.live.mu.Lock()
	e.feed(now)
	inputs, captured := e.inputs(now)
	p := e.live.core.Plan(now)
	e.live.mu.Unlock()
	e.o.Meter.plan(time.Since(now), len(p.Place)+len(p.Unplaced))
	reasons := make(map[string]placement.Unplaced, len(p.Unplaced))
	for _, u := range p.Unplaced {
		reasons[u.Job] = u
	}
	e.mu.Lock()
	e.reasons = reasons
	e.mu.Unlock()
	if captured && len(p.Place)+len(p.Preempt) > 0 {
		e.keepCapture(inputs, p)
	}
	return p
}

// commitPlan makes a plan durable, as far as the world still agrees with it.
func (e *Engine) commitPlan(ctx context.Context, p placement.Plan) error {
	fences, err := e.o.Store.Fences(ctx, len(p.Place))
	if err != nil {
		if ctx.Err() == nil {
			e.log.Warn("cannot draw fences; planning again soon", zap.Error(err))
		}
		return err
	}
	var stale []string
	spans := make([]func(), 0, len(p.Place))
	err = e.do(ctx, func(t *tx) error {
		stale, spans = nil, spans[:0]
		hosts := usage{}
		for i, pl := range p.Place {
			end, ok := e.place(ctx, t, hosts, pl, fences[i])
			if !ok {
				stale = append(stale, pl.Job)
				continue
			}
			spans = append(spans, end)
		}
		for _, v := range p.Preempt {
			if !e.preempt(t, v) {
				stale = append(stale, v.Job)
			}
		}
		for _, w := range p.Warn {
			e.warn(t, w)
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, end := range spans {
		end()
	}
	e.o.Meter.placed(len(spans), len(stale))
	if len(stale) > 0 {
		e.live.again(stale...)
		e.kick()
	}
	return nil
}

// disbelieve has the core told again of everything that a plan which was not
// committed had decided.
func (e *Engine) disbelieve(p placement.Plan) {
	for _, pl := range p.Place {
		e.live.again(pl.Job)
	}
	for _, v := range p.Preempt {
		e.live.again(v.Job)
	}
}

// warn notes once that a deadline will probably be missed.
func (e *Engine) warn(t *tx, w placement.Warning) {
	rec, ok := t.record(w.Job)
	if !ok {
		return
	}
	if j, news := rec.Job.WarnOnce("deadline", w.Text, t.now); news {
		t.put(j, nil)
		t.decisions = append(t.decisions, Decision{Job: j.ID, At: t.now, Action: "warned", Reason: w.Text, Attempt: j.Attempts})
	}
}

// place applies one placement, or refuses it when the job or the host is no
// longer what the plan was made for.
func (e *Engine) place(ctx context.Context, t *tx, hosts usage, pl placement.Placed, fence uint64) (end func(), ok bool) {
	rec, found := t.record(pl.Job)
	if !found || rec.Job.Revision != pl.Revision || rec.Job.State != job.Queued {
		return nil, false
	}
	d := &rec.Job.Spec.Demand
	parts := append([]placement.Part{{Node: pl.Node, Shares: pl.Shares}}, pl.Others...)
	var others []job.Member
	for rank, part := range parts {
		host := hosts.of(t, part.Node)
		if host == nil || !placement.Fits(host, part.Shares, d.CPUMillis, d.HostBytes) {
			return nil, false
		}
		if rank > 0 {
			others = append(others, job.Member{Agent: part.Node, Shares: part.Shares})
		}
	}
	waited := t.now.Sub(rec.Job.Waiting)
	end, traceparent := e.tracePlacement(ctx, rec.Job, pl, fence, t.now)
	j, a, err := rec.Job.Assign(job.Assignment{Agent: pl.Node, Shares: pl.Shares, Others: others, Why: pl.Why, Trace: traceparent}, fence, t.now)
	if err != nil {
		e.log.Error("placement refused", zap.Error(err))
		return nil, false
	}
	t.put(j, &a)
	for _, part := range parts {
		hosts[part.Node].Hold(part.Shares, d.CPUMillis, d.HostBytes)
	}
	priority := j.Priority.String()
	done := end
	return func() {
		e.o.Meter.waited(priority, waited)
		done()
	}, true
}

// usage is the hosts that a plan takes from, with what the plan has taken so far:
// counting a full host's attempts anew for each placement would cost more than all
// the rest of a commit.
type usage map[string]*placement.Node

func (u usage) of(t *tx, name string) *placement.Node {
	if n := u[name]; n != nil {
		return n
	}
	a, ok := t.agent(name)
	if !ok {
		return nil
	}
	n := a.node(t.liveOf(name))
	u[name] = &n
	return &n
}

// preempt asks a victim to checkpoint and stop. One that has ended, or was told
// to stop already, is left alone.
func (e *Engine) preempt(t *tx, v placement.Preempted) bool {
	rec, ok := t.record(v.Job)
	if !ok {
		return false
	}
	a, ok := rec.Latest()
	if !ok || a.Fence != v.Fence || !a.Live() || rec.Job.State == job.Stopping {
		return false
	}
	t.put(rec.Job.Stop(&a, job.IntentPreempt, v.Why, t.now), &a)
	e.o.Meter.preempted(rec.Job.Priority.String())
	return true
}

// tracePlacement opens the spans of a job's wait and of its placement in the
// trace of its submit. They end only when the placement is durable: a refused
// one leaves no trace.
func (e *Engine) tracePlacement(ctx context.Context, j job.Job, pl placement.Placed, fence uint64, now time.Time) (end func(), traceparent string) {
	w3c := propagation.TraceContext{}
	parent := w3c.Extract(context.WithoutCancel(ctx), propagation.MapCarrier{"traceparent": j.Trace})
	attrs := trace.WithAttributes(
		attribute.String("trainyard.job_id", j.ID), attribute.Int("trainyard.attempt", j.Attempts+1),
		attribute.Int64("trainyard.fence", int64(fence)), attribute.String("trainyard.agent", pl.Node),
	)
	opts := []trace.SpanStartOption{attrs, trace.WithTimestamp(j.Waiting)}
	waitCtx, wait := e.o.Tracer.Start(parent, "queue.wait", append(opts, trace.WithAttributes(
		attribute.Int64("trainyard.queue.wait_ms", now.Sub(j.Waiting).Milliseconds()),
		attribute.String("trainyard.priority", j.Priority.String())))...)
	placeCtx, place := e.o.Tracer.Start(waitCtx, "place", attrs, trace.WithTimestamp(now), trace.WithAttributes(attribute.String("trainyard.why", pl.Why)))
	carrier := propagation.MapCarrier{}
	w3c.Inject(placeCtx, carrier)
	traceparent = carrier["traceparent"]
	if traceparent == "" {
		traceparent = j.Trace
	}
	return func() {
		place.End()
		wait.End(trace.WithTimestamp(now))
	}, traceparent
}

// Nodes is the fleet as placement sees it, for validation.
func (e *Engine) Nodes() []placement.Node {
	e.mu.RLock()
	defer e.mu.RUnlock()
	names := e.st.agentNames()
	nodes := make([]placement.Node, len(names))
	for i, n := range names {
		nodes[i] = e.st.agents[n].node(e.st.liveOf(n))
	}
	return nodes
}

// Prediction is where and when a job would run.
type Prediction struct {
	// Text is for people: "host-1/cpu:0", or why it would wait.
	Text string
	// Agent and Devices are empty when it would wait.
	Agent   string
	Devices []string
	// Start is zero when it cannot be told.
	Start time.Time
}

// Predict says where a job would be placed now, behind the queue of its class,
// or why it would wait and for how long.
func (e *Engine) Predict(n NewJob) Prediction {
	now := time.Now()
	j := job.Job{After: n.After}
	if j.Blocked() {
		return Prediction{Text: "would wait: it " + j.Waits()}
	}
	const id = "this job"
	e.live.mu.Lock()
	e.feed(now)
	s := e.live.core.Snapshot(now)
	e.live.mu.Unlock()
	s.Queue = append(s.Queue, placement.Request{
		Job: id, Demand: n.Spec.Demand, Priority: n.Priority, Tenant: n.Spec.Tenant, Place: math.MaxInt64, Longest: n.Spec.RunLimit, Deadline: n.Spec.Deadline, Expect: n.Spec.Expect,
	})
	plan := placement.Make(s)
	late := func(start time.Time) string {
		end := start.Add(n.Spec.Expect)
		if start.IsZero() || n.Spec.Expect == 0 || n.Spec.Deadline.IsZero() || !end.After(n.Spec.Deadline) {
			return ""
		}
		return fmt.Sprintf("; it would miss its deadline by %s", end.Sub(n.Spec.Deadline).Round(time.Second))
	}
	if i := placedAt(&plan, id); i >= 0 {
		p := Prediction{Agent: plan.Place[i].Node, Text: plan.Place[i].Node, Start: now}
		for k, sh := range plan.Place[i].Shares {
			p.Devices = append(p.Devices, sh.Device)
			if k == 0 {
				p.Text += "/" + sh.Device
			} else {
				p.Text += ", " + p.Agent + "/" + sh.Device
			}
		}
		p.Text += late(p.Start)
		return p
	}
	for _, u := range plan.Unplaced {
		if u.Job == id {
			return Prediction{Text: "would wait: " + u.Reason + late(u.At), Start: u.At}
		}
	}
	return Prediction{}
}
