package cycle

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"
	"go.uber.org/zap"

	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/job"
	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/lease"
	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/placement"
)

// ErrUnavailable says that the store is away or that the outcome of a commit is
// unknown. The caller may repeat the same request.
var ErrUnavailable = errors.New("the scheduler's database is away; repeat the request")

// Options are the engine's parts. Zero durations mean the defaults.
type Options struct {
	Store Store
	Log   *zap.Logger
	Meter *Meter
	// Tracer makes the spans of waiting and placing; nil makes none.
	Tracer trace.Tracer
	Holder string
	Terms  lease.Terms
	Policy job.Policy
	Rules  placement.Rules
	// Weights of tenants in the fair share; a tenant without one has 1.
	Weights map[string]float64
	// Seed of the backoff's jitter.
	Seed uint64
	// LeadTTL is how long the lead lives without being renewed.
	LeadTTL time.Duration
	// Tick is how often the clock-driven rules are looked at.
	Tick time.Duration
	// ReceiptAge is how long answers to requests are kept.
	ReceiptAge time.Duration
	// HistoryAge is how long final jobs are kept. Archive takes them afterwards; nil
	// lets them go.
	HistoryAge time.Duration
	Archive    Archive
	// Compose makes the jobs of schedules.
	Compose Compose
	// Promotions answers for dependencies on models; nil means that nobody does.
	Promotions Promotions
}

// Engine is the scheduler's heart: see the package comment.
type Engine struct {
	o    Options
	log  *zap.Logger
	ops  chan *operation
	rng  *rand.Rand // only the committer draws
	term uint64

	mu      sync.RWMutex // guards st and the fields below
	st      *state
	started time.Time
	renewed time.Time
	reasons map[string]placement.Unplaced
	// captures are the newest planning rounds that decided something.
	captures []capture
	captured int64

	cmu      sync.Mutex // guards contacts
	contacts map[string]*contact

	// live is the planner's core.
	live  *living
	hub   *hub
	wake  chan struct{}
	ready chan struct{}
	open  sync.Once
}

type operation struct {
	// request is the request id that the operation answers; empty means none.
	request string
	run     func(*tx) error
	done    chan error
}

// New makes an engine. Run must be called before it answers anything.
func New(o Options) *Engine {
	if o.Log == nil {
		o.Log = zap.NewNop()
	}
	if o.Meter == nil {
		o.Meter = NewMeter(nil)
	}
	if o.Tracer == nil {
		o.Tracer = noop.NewTracerProvider().Tracer("")
	}
	if o.Terms.Duration == 0 {
		o.Terms = lease.Terms{Duration: 15 * time.Second, LockDelay: 5 * time.Second}
	}
	if o.Policy.Budgets == nil {
		o.Policy = job.DefaultPolicy()
	}
	if o.Rules == (placement.Rules{}) {
		o.Rules = placement.DefaultRules()
	}
	if o.LeadTTL == 0 {
		o.LeadTTL = 5 * time.Second
	}
	if o.Tick == 0 {
		o.Tick = 500 * time.Millisecond
	}
	if o.ReceiptAge == 0 {
		o.ReceiptAge = 7 * 24 * time.Hour
	}
	if o.HistoryAge == 0 {
		o.HistoryAge = 180 * 24 * time.Hour
	}
	return &Engine{
		o: o, log: o.Log, ops: make(chan *operation, 1024), rng: rand.New(rand.NewPCG(o.Seed, o.Seed)),
		contacts: map[string]*contact{}, live: newLiving(), hub: newHub(), wake: make(chan struct{}, 1), ready: make(chan struct{}),
		reasons: map[string]placement.Unplaced{},
	}
}

// Ready is closed when the engine has loaded the world and answers.
func (e *Engine) Ready() <-chan struct{} { return e.ready }

// Run leads, loads and works until ctx ends or a newer scheduler takes over.
func (e *Engine) Run(ctx context.Context) error {
	if err := e.lead(ctx); err != nil {
		return err
	}
	if err := e.load(ctx); err != nil {
		return err
	}
	e.mu.Lock()
	e.started = time.Now()
	e.mu.Unlock()
	e.open.Do(func() { close(e.ready) })
	e.log.Info("leading", zap.Uint64("term", e.term), zap.Int("unfinished_jobs", len(e.st.records)), zap.Int("agents", len(e.st.agents)))

	inner, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	wg.Go(func() { e.plans(inner) })
	wg.Go(func() { e.tends(inner) })
	wg.Go(func() { e.promotions(inner) })
	wg.Go(func() { e.remembers(inner) })
	wg.Go(func() {
		if err := e.renews(inner); err != nil {
			cancel(err)
		}
	})
	err := e.commits(inner)
	if err == nil && ctx.Err() == nil {
		err = context.Cause(inner)
	}
	cancel(nil)
	wg.Wait()
	e.hub.close()
	if !errors.Is(err, ErrDeposed) {
		out, done := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer done()
		if err := e.o.Store.Yield(out, e.term); err != nil {
			e.log.Warn("cannot give up the lead; it runs out by itself", zap.Error(err))
		}
	}
	return err
}

// lead waits until this scheduler leads.
func (e *Engine) lead(ctx context.Context) error {
	told := false
	for {
		begin := time.Now()
		term, err := retry(ctx, e.log, "take the lead", func() (uint64, error) { return e.o.Store.Lead(ctx, e.o.Holder, e.o.LeadTTL) })
		if err == nil {
			e.term = term
			e.renewedAt(begin)
			return nil
		}
		if !errors.Is(err, ErrLed) {
			return err
		}
		if !told {
			e.log.Info("standing by: another scheduler leads")
			told = true
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(e.o.LeadTTL / 5):
		}
	}
}

// renews keeps the lead until ctx ends or somebody else has it.
func (e *Engine) renews(ctx context.Context) error {
	tick := time.NewTicker(e.o.LeadTTL / 4)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			begin := time.Now()
			err := e.o.Store.Renew(ctx, e.term)
			switch {
			case errors.Is(err, ErrDeposed):
				e.log.Error("deposed: another scheduler has taken over")
				return err
			case err != nil && ctx.Err() == nil:
				e.log.Warn("cannot renew the lead, trying again", zap.Error(err))
			case err == nil:
				e.renewedAt(begin)
			}
		}
	}
}

func (e *Engine) renewedAt(sent time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if sent.After(e.renewed) {
		e.renewed = sent
	}
}

// leads reports whether nobody else can have taken the lead yet. An answer that
// needed no commit is given only then: it would extend an agent's leases that a
// newer leader may believe to have run out.
func (e *Engine) leads() bool {
	e.mu.RLock()
	defer e.mu.RUnlock()
	return time.Since(e.renewed) < e.o.LeadTTL
}

// load replaces the memory by the store's truth.
func (e *Engine) load(ctx context.Context) error {
	w, err := retry(ctx, e.log, "load the world", func() (World, error) { return e.o.Store.Load(ctx) })
	if err != nil {
		return err
	}
	st := newState(w)
	e.mu.Lock()
	if e.st != nil {
		// Revisions handed out for a commit that did not happen stay used: a
		// watcher must never see one number mean two things.
		st.revision = max(st.revision, e.st.revision+1)
		st.loaded = st.revision
	}
	e.st = st
	e.mu.Unlock()
	e.live.reload()
	e.hub.forget(st.revision)
	e.kick()
	return nil
}

// retry repeats a store call until it works or ctx ends.
func retry[T any](ctx context.Context, log *zap.Logger, what string, call func() (T, error)) (T, error) {
	wait := 50 * time.Millisecond
	for {
		v, err := call()
		if err == nil || errors.Is(err, ErrDeposed) || errors.Is(err, ErrLed) {
			return v, err
		}
		if ctx.Err() != nil {
			return v, ctx.Err()
		}
		log.Warn("cannot "+what+", trying again", zap.Error(err), zap.Duration("wait", wait))
		select {
		case <-ctx.Done():
			return v, ctx.Err()
		case <-time.After(wait):
		}
		wait = min(2*wait, 2*time.Second)
	}
}

// do hands an operation to the committer and waits until it is durable. When
// ctx ends first, the operation may still happen.
func (e *Engine) do(ctx context.Context, run func(*tx) error) error { return e.doAs(ctx, "", run) }

// doAs is do for an operation that answers a request.
func (e *Engine) doAs(ctx context.Context, request string, run func(*tx) error) error {
	op := &operation{request: request, run: run, done: make(chan error, 1)}
	select {
	case <-e.ready:
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case e.ops <- op:
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case err := <-op.done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

const batchLimit = 256

// commits is the committer: the only place that changes the world.
func (e *Engine) commits(ctx context.Context) error {
	for {
		var batch []*operation
		select {
		case <-ctx.Done():
			e.refuse(ErrUnavailable)
			return nil
		case op := <-e.ops:
			batch = append(batch, op)
		}
	more:
		for len(batch) < batchLimit {
			select {
			case op := <-e.ops:
				batch = append(batch, op)
			default:
				break more
			}
		}
		if err := e.commit(ctx, batch); err != nil {
			e.refuse(ErrUnavailable)
			return err
		}
	}
}

// refuse answers what still waits when the committer ends.
func (e *Engine) refuse(err error) {
	for {
		select {
		case op := <-e.ops:
			op.done <- err
		default:
			return
		}
	}
}

func (e *Engine) commit(ctx context.Context, batch []*operation) error {
	t := newTx(e.st, nil, time.Now())
	results := make([]error, len(batch))
	for i, op := range batch {
		child := newTx(e.st, t, t.now)
		if results[i] = op.run(child); results[i] == nil {
			t.adopt(child)
		}
	}
	c := t.changes()
	if !c.Empty() {
		begin := time.Now()
		// A shutdown must not cut a commit in half and leave its callers
		// without an answer: the store's own time-outs bound it.
		err := e.o.Store.Commit(context.WithoutCancel(ctx), e.term, c)
		e.o.Meter.commit(time.Since(begin), len(batch), err)
		if err == nil {
			e.renewedAt(begin)
		}
		if errors.Is(err, ErrRefused) {
			return e.isolate(ctx, batch, err)
		}
		if err != nil {
			e.log.Error("commit failed; its outcome is unknown, reading the truth again", zap.Error(err), zap.Int("operations", len(batch)))
			for _, op := range batch {
				op.done <- fmt.Errorf("%w", ErrUnavailable)
			}
			if errors.Is(err, ErrDeposed) {
				return err
			}
			return e.load(ctx)
		}
	}
	e.mu.Lock()
	e.st.apply(t)
	e.mu.Unlock()
	e.live.moved(t)
	e.wakeAgents(t.desired)
	if len(t.records) > 0 || len(t.agents) > 0 || len(t.quotas) > 0 {
		e.hub.publish(t.records)
		e.kick()
	}
	e.o.Meter.decisions(c.Decisions)
	for i, op := range batch {
		op.done <- results[i]
	}
	return nil
}

// errAnswered says that the ledger has an answer to the request already.
var errAnswered = errors.New("the request has been answered before")

// isolate finds the operations that a constraint refused, so that one does not
// take its neighbours in the batch with it. Nothing has been written yet. Most
// often they are requests that were answered before the memory began: the ledger
// names them in one look.
func (e *Engine) isolate(ctx context.Context, batch []*operation, cause error) error {
	var ids []string
	for _, op := range batch {
		if op.request != "" {
			ids = append(ids, op.request)
		}
	}
	if got, err := e.o.Store.Receipts(ctx, ids); err == nil && len(got) > 0 {
		answered := make(map[string]bool, len(got))
		for _, r := range got {
			answered[r.ID] = true
		}
		var rest []*operation
		for _, op := range batch {
			if answered[op.request] {
				op.done <- errAnswered
			} else {
				rest = append(rest, op)
			}
		}
		if len(rest) == 0 {
			return nil
		}
		return e.commit(ctx, rest)
	}
	if len(batch) == 1 {
		e.log.Error("the store refused an operation; this is a bug", zap.Error(cause))
		batch[0].done <- cause
		return nil
	}
	for i := range batch {
		if err := e.commit(ctx, batch[i:i+1]); err != nil {
			for _, op := range batch[i+1:] {
				op.done <- ErrUnavailable
			}
			return err
		}
	}
	return nil
}

// kick asks for a planning round; rounds that are asked for twice run once.
func (e *Engine) kick() {
	select {
	case e.wake <- struct{}{}:
	default:
	}
}

func (e *Engine) contact(agent string) *contact {
	c := e.contacts[agent]
	if c == nil {
		c = &contact{wake: make(chan struct{})}
		e.contacts[agent] = c
	}
	return c
}

func (e *Engine) wakeAgents(desired map[string]uint64) {
	if len(desired) == 0 {
		return
	}
	e.cmu.Lock()
	defer e.cmu.Unlock()
	for name := range desired {
		c := e.contact(name)
		close(c.wake)
		c.wake = make(chan struct{})
	}
}
