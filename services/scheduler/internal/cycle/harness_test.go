package cycle_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"

	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/cycle"
	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/job"
	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/lease"
	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/memstore"
)

const gib = int64(1) << 30

var terms = lease.Terms{Duration: 10 * time.Second, LockDelay: 3 * time.Second}

// bench is a scheduler over a store in memory, in a bubble of virtual time.
type bench struct {
	t      *testing.T
	store  *memstore.Store
	engine *cycle.Engine
	stop   func()
	// promotions and over, a store in front of store, are what the next start gets.
	promotions cycle.Promotions
	over       cycle.Store
	history    time.Duration
	archive    cycle.Archive
}

// inBubble runs a test in virtual time with a running scheduler.
func inBubble(t *testing.T, test func(t *testing.T, b *bench)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		b := testBench(t)
		b.start()
		defer func() { b.stop() }()
		test(t, b)
	})
}

// testBench makes a bench that has not been started.
func testBench(t *testing.T) *bench { return &bench{t: t, store: memstore.New()} }

// start begins a new life of the scheduler over the same store.
func (b *bench) start() {
	var store cycle.Store = b.store
	if b.over != nil {
		store = b.over
	}
	e := cycle.New(cycle.Options{Store: store, Terms: terms, Holder: "test", Promotions: b.promotions, HistoryAge: b.history, Archive: b.archive, Compose: func(s cycle.Schedule, _ time.Time) (cycle.NewJob, error) {
		return cycle.NewJob{ID: uuid.Must(uuid.NewV7()).String(), Spec: sharing(gib), Priority: job.Batch}, nil
	}})
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := e.Run(ctx); err != nil && !errors.Is(err, cycle.ErrDeposed) {
			b.t.Errorf("engine: %v", err)
		}
	})
	b.engine = e
	b.stop = func() {
		cancel()
		wg.Wait()
	}
	<-e.Ready()
	synctest.Wait()
}

func (b *bench) request() cycle.Request {
	return requestFor(uuid.NewString(), "payload")
}

func requestFor(id, payload string) cycle.Request {
	d := sha256.Sum256([]byte(payload))
	return cycle.Request{ID: id, Method: "M", Digest: d[:], Encode: func(v cycle.View) ([]byte, error) { return []byte(v.Job.ID + " " + v.Job.State.String()), nil }}
}

func sharing(bytes int64) job.Spec {
	return job.Spec{Name: "n", Experiment: "e", Demand: job.Demand{Devices: []job.DeviceDemand{{Count: 1, Bytes: bytes}}}, Batch: 64, MinBatch: 8}
}

func (b *bench) submit(spec job.Spec, p job.Priority) string {
	b.t.Helper()
	id := uuid.Must(uuid.NewV7()).String()
	if _, err := b.engine.Submit(b.t.Context(), b.request(), cycle.NewJob{ID: id, Spec: spec, Priority: p}); err != nil {
		b.t.Fatal(err)
	}
	synctest.Wait()
	return id
}

func (b *bench) view(id string) cycle.View {
	b.t.Helper()
	v, err := b.engine.Get(b.t.Context(), id)
	if err != nil {
		b.t.Fatal(err)
	}
	return v
}

func (b *bench) is(id string, want job.State) cycle.View {
	b.t.Helper()
	v := b.view(id)
	if v.Job.State != want {
		b.t.Fatalf("job is %s (%s), want %s", v.Job.State, v.Reason(), want)
	}
	return v
}

// host is an agent that does what it is told, one step at a time.
type host struct {
	b     *bench
	name  string
	known uint64
	data  bool
	held  map[uint64]lease.Held
	exits []cycle.ExitReport
	// last is the newest answer.
	last cycle.Answer
}

func (b *bench) host(name string) *host {
	h := &host{b: b, name: name, held: map[uint64]lease.Held{}, data: true}
	h.sync()
	return h
}

func (h *host) report() cycle.Report {
	r := cycle.Report{
		Known: h.known,
		Agent: cycle.Agent{
			Name: h.name, Incarnation: "1", CPUMillis: 8000, HostBytes: 32 * gib, DataOK: h.data,
			Devices: []cycle.Device{{ID: "g0", Kind: "gpu", Memory: 24 * gib, Headroom: gib, Overhead: gib / 2}},
		},
		Exits: h.exits,
	}
	for _, l := range h.held {
		r.Sample.Held = append(r.Sample.Held, l)
	}
	return r
}

// try reports once and applies the answer.
func (h *host) try() error {
	synctest.Wait() // whatever the planner is at comes first
	a, err := h.b.engine.Synchronize(h.b.t.Context(), h.report(), 0)
	if err != nil {
		return err
	}
	h.apply(a)
	synctest.Wait()
	return nil
}

func (h *host) sync() {
	h.b.t.Helper()
	if err := h.try(); err != nil {
		h.b.t.Fatal(err)
	}
}

func (h *host) apply(a cycle.Answer) {
	h.last, h.known = a, a.Revision
	for _, o := range a.Run {
		if _, ok := h.held[o.Attempt.Fence]; !ok {
			h.held[o.Attempt.Fence] = lease.Held{Job: o.Job.ID, Number: o.Attempt.Number, Fence: o.Attempt.Fence, Sight: job.Sight{Training: true}}
		}
	}
	for _, s := range a.Stop {
		if l, ok := h.held[s.Fence]; ok {
			delete(h.held, s.Fence)
			if s.Intent != job.NoIntent {
				h.exits = append(h.exits, cycle.ExitReport{Job: l.Job, Number: l.Number, Fence: l.Fence, Exit: job.Exit{Outcome: job.OutcomeStopped}})
			}
		}
	}
	acked := map[uint64]bool{}
	for _, x := range a.Acks {
		acked[x.Fence] = true
	}
	var rest []cycle.ExitReport
	for _, x := range h.exits {
		if !acked[x.Fence] {
			rest = append(rest, x)
		}
	}
	h.exits = rest
}

// exit ends the attempt of a job that the host holds.
func (h *host) exit(id string, e job.Exit) {
	h.b.t.Helper()
	for f, l := range h.held {
		if l.Job == id {
			delete(h.held, f)
			h.exits = append(h.exits, cycle.ExitReport{Job: id, Number: l.Number, Fence: f, Exit: e})
			return
		}
	}
	h.b.t.Fatalf("%s does not hold %s", h.name, id)
}

func (h *host) progress(id string, p job.Progress) {
	for f, l := range h.held {
		if l.Job == id {
			l.Sight.Progress = &p
			h.held[f] = l
		}
	}
}

func (h *host) jobs() string {
	out := ""
	for _, l := range h.held {
		out += l.Job + " "
	}
	return fmt.Sprintf("[%s]", out)
}

func (h *host) holds(id string) bool {
	for _, l := range h.held {
		if l.Job == id {
			return true
		}
	}
	return false
}

func (h *host) reset() { h.held, h.known = map[uint64]lease.Held{}, 0 }

// watched is what a watcher believes that resumes whenever its watch breaks.
type watched struct {
	mu     sync.Mutex
	states map[string]job.State
	stop   func()
}

func (w *watched) state(id string) job.State {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.states[id]
}

func (b *bench) watchAll() *watched {
	ctx, cancel := context.WithCancel(context.Background())
	w := &watched{states: map[string]job.State{}}
	var wg sync.WaitGroup
	wg.Go(func() {
		var token uint64
		for ctx.Err() == nil {
			_ = b.engine.Watch(ctx, token, nil, func(f cycle.Frame) error {
				w.mu.Lock()
				defer w.mu.Unlock()
				for _, v := range f.Views {
					w.states[v.Job.ID] = v.Job.State
				}
				token = f.Revision
				return nil
			})
			select {
			case <-ctx.Done():
			case <-time.After(100 * time.Millisecond):
			}
		}
	})
	w.stop = func() {
		cancel()
		wg.Wait()
	}
	return w
}
