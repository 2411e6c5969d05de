package cycle

import (
	"context"
	"errors"
	"math"
	"slices"
	"sort"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
	"go.uber.org/zap"

	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/job"
	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/placement"
	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/queue"
)

// replan is how soon a queue that waits is planned again when nothing happens.
const replan = 3 * time.Second

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
		case <-time.After(min(time.Since(begin), replan)):
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

// snapshot reads all that a plan depends on, and when the next job that backs
// off may be looked at.
func (e *Engine) snapshot(now time.Time) (placement.Snapshot, time.Time) {
	e.mu.RLock()
	defer e.mu.RUnlock()
	nodes := e.nodesLocked(now)
	s := placement.Snapshot{Now: now, Nodes: nodes, Typical: e.st.typical(), Rules: e.o.Rules}
	ready, next := queue.Ready(e.orderLocked(nodes), now)
	if held := e.st.throttled(now); len(held) > 0 {
		ready = slices.DeleteFunc(ready, func(q queue.Entry) bool { return held[q.Job] != "" })
	}
	s.Queue = make([]placement.Request, len(ready))
	for i, q := range ready {
		r := e.st.records[q.Job]
		j := &r.Job
		s.Queue[i] = placement.Request{Job: j.ID, Revision: j.Revision, Demand: j.Spec.Demand, Shape: r.shape, Priority: j.Priority, Longest: j.Spec.RunLimit}
	}
	return s, next
}

// orderLocked is the whole queue in order, those who back off included.
func (e *Engine) orderLocked(nodes []placement.Node) []queue.Entry {
	capacity := placement.CapacityOf(nodes)
	tenants := queue.Tenants{Usage: map[string]float64{}, Weight: e.o.Weights}
	var entries []queue.Entry
	for id, r := range e.st.records {
		j := &r.Job
		if j.State != job.Queued && !j.State.Live() || j.Blocked() {
			continue
		}
		size := capacity.Share(&j.Spec.Demand)
		if j.State.Live() {
			tenants.Usage[j.Spec.Tenant] += size
			continue
		}
		entries = append(entries, queue.Entry{Job: id, Priority: j.Priority, Tenant: j.Spec.Tenant, Place: j.Place, NotBefore: j.NotBefore, Size: size})
	}
	// Usage is a sum over a map: rounding must not make the order of equal
	// tenants depend on the order of iteration.
	for t, u := range tenants.Usage {
		tenants.Usage[t] = math.Round(u*1e9) / 1e9
	}
	return queue.Order(entries, tenants)
}

func (e *Engine) nodesLocked(now time.Time) []placement.Node {
	names := e.st.agentNames()
	nodes := make([]placement.Node, len(names))
	for i, n := range names {
		live := e.st.liveOf(n)
		nodes[i] = e.st.agents[n].node(live)
		for _, a := range live {
			j := e.st.records[a.Job].Job
			nodes[i].Holders = append(nodes[i].Holders, holder(a, &j, now))
		}
	}
	return nodes
}

// plan runs one round and returns when the next is due by the clock.
func (e *Engine) plan(ctx context.Context) time.Time {
	begin := time.Now()
	s, next := e.snapshot(begin)
	p := placement.Make(s)
	e.o.Meter.plan(time.Since(begin), len(s.Queue))
	reasons := make(map[string]placement.Unplaced, len(p.Unplaced))
	for _, u := range p.Unplaced {
		reasons[u.Job] = u
	}
	e.mu.Lock()
	e.reasons = reasons
	e.mu.Unlock()
	if soon := begin.Add(replan); len(p.Unplaced) > 0 && (next.IsZero() || next.After(soon)) {
		// Time alone can make room: a victim's minimum runtime ends, an
		// estimate moves. It also keeps the reasons fresh.
		next = soon
	}
	if len(p.Place)+len(p.Preempt) == 0 {
		return next
	}
	e.keepCapture(s, p)
	fences, err := e.o.Store.Fences(ctx, len(p.Place))
	if err != nil {
		if ctx.Err() == nil {
			e.log.Warn("cannot draw fences; planning again soon", zap.Error(err))
		}
		return begin.Add(500 * time.Millisecond)
	}
	stale := 0
	spans := make([]func(), 0, len(p.Place))
	err = e.do(ctx, func(t *tx) error {
		stale, spans = 0, spans[:0]
		for i, pl := range p.Place {
			end, ok := e.place(ctx, t, pl, fences[i])
			if !ok {
				stale++
				continue
			}
			spans = append(spans, end)
		}
		for _, v := range p.Preempt {
			e.preempt(t, v)
		}
		return nil
	})
	switch {
	case errors.Is(err, context.Canceled):
		return next
	case err != nil:
		return begin.Add(500 * time.Millisecond)
	}
	for _, end := range spans {
		end()
	}
	e.o.Meter.placed(len(p.Place)-stale, stale)
	if stale > 0 {
		e.kick()
	}
	return next
}

// place applies one placement, or refuses it when the job or the host is no
// longer what the plan was made for.
func (e *Engine) place(ctx context.Context, t *tx, pl placement.Placed, fence uint64) (end func(), ok bool) {
	rec, found := t.record(pl.Job)
	if !found || rec.Job.Revision != pl.Revision || rec.Job.State != job.Queued {
		return nil, false
	}
	agent, found := t.agent(pl.Node)
	if !found {
		return nil, false
	}
	node := agent.node(t.liveOf(pl.Node))
	if !placement.Fits(&node, pl.Shares, rec.Job.Spec.Demand.CPUMillis, rec.Job.Spec.Demand.HostBytes) {
		return nil, false
	}
	waited := t.now.Sub(rec.Job.Waiting)
	end, traceparent := e.tracePlacement(ctx, rec.Job, pl, fence, t.now)
	j, a, err := rec.Job.Assign(job.Assignment{Agent: pl.Node, Shares: pl.Shares, Why: pl.Why, Trace: traceparent}, fence, t.now)
	if err != nil {
		e.log.Error("placement refused", zap.Error(err))
		return nil, false
	}
	t.put(j, &a)
	priority := j.Priority.String()
	done := end
	return func() {
		e.o.Meter.waited(priority, waited)
		done()
	}, true
}

// preempt asks a victim to checkpoint and stop. One that has ended, or was told
// to stop already, is left alone.
func (e *Engine) preempt(t *tx, v placement.Preempted) {
	rec, ok := t.record(v.Job)
	if !ok {
		return
	}
	a, ok := rec.Latest()
	if !ok || a.Fence != v.Fence || !a.Live() || rec.Job.State == job.Stopping {
		return
	}
	t.put(rec.Job.Stop(&a, job.IntentPreempt, v.Why, t.now), &a)
	e.o.Meter.preempted(rec.Job.Priority.String())
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

// Nodes is the fleet as placement sees it, for validation and explanation.
func (e *Engine) Nodes() []placement.Node {
	e.mu.RLock()
	defer e.mu.RUnlock()
	return e.nodesLocked(time.Now())
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
	s, _ := e.snapshot(now)
	const id = "this job"
	e.mu.RLock()
	at := sort.Search(len(s.Queue), func(i int) bool {
		r, ok := e.st.records[s.Queue[i].Job]
		return ok && r.Job.Priority < n.Priority
	})
	e.mu.RUnlock()
	q := append([]placement.Request(nil), s.Queue[:at]...)
	q = append(q, placement.Request{Job: id, Demand: n.Spec.Demand, Priority: n.Priority})
	s.Queue = append(q, s.Queue[at:]...)
	plan := placement.Make(s)
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
		return p
	}
	for _, u := range plan.Unplaced {
		if u.Job == id {
			return Prediction{Text: "would wait: " + u.Reason, Start: u.At}
		}
	}
	return Prediction{}
}
