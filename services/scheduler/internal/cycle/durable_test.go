package cycle_test

import (
	"context"
	"errors"
	"math/rand"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"

	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/cycle"
	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/job"
)

func TestARequestHasOneEffect(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, b *bench) {
		ctx := t.Context()
		r := requestFor(uuid.NewString(), "a")
		send := func(r cycle.Request) (string, error) {
			raw, err := b.engine.Submit(ctx, r, cycle.NewJob{ID: uuid.NewString(), Spec: sharing(gib), Priority: job.Batch})
			return string(raw), err
		}
		var wg sync.WaitGroup
		answers := make([]string, 20)
		for i := range answers {
			wg.Go(func() {
				var err error
				if answers[i], err = send(r); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		for _, a := range answers {
			if a != answers[0] {
				t.Errorf("two answers to one request: %q and %q", a, answers[0])
			}
		}
		if _, err := send(requestFor(r.ID, "b")); !errors.Is(err, cycle.ErrReused) {
			t.Errorf("the id with another payload: %v", err)
		}
		b.stop()
		b.start()
		if again, err := send(r); err != nil || again != answers[0] {
			t.Errorf("after a restart: %q, %v", again, err)
		}
		if jobs, err := b.engine.List(ctx, cycle.Page{Limit: 10}); err != nil || len(jobs) != 1 {
			t.Errorf("%d jobs, %v", len(jobs), err)
		}
	})
}

func TestADeposedSchedulerStopsAndChangesNothing(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, b *bench) {
		old, stop := b.engine, b.stop
		b.start() // under the same name: it takes over at once
		_, err := old.Submit(t.Context(), b.request(), cycle.NewJob{ID: uuid.NewString(), Spec: sharing(gib), Priority: job.Batch})
		if !errors.Is(err, cycle.ErrUnavailable) {
			t.Errorf("a deposed scheduler accepted a job: %v", err)
		}
		stop()
		if jobs, err := b.engine.List(t.Context(), cycle.Page{Limit: 10}); err != nil || len(jobs) != 0 {
			t.Errorf("%d jobs, %v", len(jobs), err)
		}
	})
}

// Commits fail at random, half of them after they were applied, and the
// scheduler restarts now and then: every job that was accepted ends exactly
// once, none is lost, no fence is used twice, and nobody else appears.
func TestNothingIsLostOrDoubledWhenCommitsFail(t *testing.T) {
	t.Parallel()
	for seed := range int64(20) {
		inBubble(t, func(t *testing.T, b *bench) {
			rng, luck := rand.New(rand.NewSource(seed)), rand.New(rand.NewSource(-seed))
			// The store asks under its own lock.
			flaky := func() error {
				if luck.Intn(10) == 0 {
					return errors.New("the network is gone")
				}
				return nil
			}
			b.store.Sabotage(flaky, flaky)
			retry := func(call func() error) {
				for range 100 {
					err := call()
					if err == nil {
						return
					}
					if !errors.Is(err, cycle.ErrUnavailable) {
						t.Fatalf("seed %d: %v", seed, err)
					}
					time.Sleep(100 * time.Millisecond)
				}
				t.Fatalf("seed %d: never works", seed)
			}
			hosts := []*host{}
			for _, n := range []string{"h1", "h2"} {
				h := &host{b: b, name: n, data: true}
				h.reset()
				hosts = append(hosts, h)
			}
			accepted := map[string]bool{}
			runs := map[uint64]string{}
			for round := range 200 {
				if round%2 == 0 && len(accepted) < 25 {
					r, id := b.request(), uuid.Must(uuid.NewV7()).String()
					retry(func() error {
						_, err := b.engine.Submit(t.Context(), r, cycle.NewJob{ID: id, Spec: sharing(5 * gib), Priority: job.Batch})
						return err
					})
					accepted[id] = true
				}
				for _, h := range hosts {
					retry(h.try)
					for f, l := range h.held {
						if was, ok := runs[f]; ok && was != h.name+l.Job {
							t.Fatalf("seed %d: fence %d runs as %s and %s", seed, f, was, h.name+l.Job)
						}
						runs[f] = h.name + l.Job
						if rng.Intn(4) == 0 {
							h.exit(l.Job, job.Exit{Outcome: job.OutcomeSucceeded})
						}
					}
				}
				if round%60 == 59 {
					b.stop()
					b.start()
				}
				time.Sleep(300 * time.Millisecond)
				synctest.Wait()
			}
			jobs, err := b.engine.List(t.Context(), cycle.Page{Limit: 1000})
			if err != nil {
				t.Fatal(err)
			}
			for _, v := range jobs {
				if !accepted[v.Job.ID] {
					t.Errorf("seed %d: job %s was never accepted", seed, v.Job.ID)
				}
				if v.Job.State != job.Succeeded || v.Job.Attempts != 1 {
					t.Errorf("seed %d: job is %s after %d attempts: %s", seed, v.Job.State, v.Job.Attempts, v.Reason())
				}
			}
			if len(jobs) != len(accepted) {
				t.Errorf("seed %d: %d jobs of %d accepted", seed, len(jobs), len(accepted))
			}
		})
	}
}

// A watcher that reconnects with its token at random instants, across restarts
// and failing commits, ends with exactly the state of every job.
func TestAWatchHasNoGaps(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, b *bench) {
		rng := rand.New(rand.NewSource(3))
		seen := map[string]uint64{}
		states := map[string]job.State{}
		var token uint64
		watch := func(d time.Duration) {
			ctx, cancel := context.WithTimeout(t.Context(), d)
			defer cancel()
			err := b.engine.Watch(ctx, token, nil, func(f cycle.Frame) error {
				if f.Revision < token {
					t.Errorf("token went back from %d to %d", token, f.Revision)
				}
				for _, v := range f.Views {
					if v.Job.Revision < seen[v.Job.ID] {
						t.Errorf("job went back from %d to %d", seen[v.Job.ID], v.Job.Revision)
					}
					seen[v.Job.ID], states[v.Job.ID] = v.Job.Revision, v.Job.State
				}
				token = f.Revision
				return nil
			})
			if !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, cycle.ErrUnavailable) {
				t.Errorf("watch: %v", err)
			}
		}
		h := b.host("h1")
		for round := range 60 {
			var wg sync.WaitGroup
			patience := time.Duration(rng.Intn(900)) * time.Millisecond
			wg.Go(func() { watch(patience) })
			for range rng.Intn(3) {
				b.submit(sharing(3*gib), job.Batch)
			}
			h.sync()
			for _, l := range h.held {
				if rng.Intn(3) == 0 {
					h.exit(l.Job, job.Exit{Outcome: job.OutcomeSucceeded})
				}
			}
			time.Sleep(time.Second)
			wg.Wait()
			if round%20 == 19 {
				b.stop()
				b.start()
			}
		}
		h.sync()
		watch(time.Second)
		jobs, err := b.engine.List(t.Context(), cycle.Page{Limit: 1000})
		if err != nil {
			t.Fatal(err)
		}
		for _, v := range jobs {
			if states[v.Job.ID] != v.Job.State {
				t.Errorf("watched %s, is %s", states[v.Job.ID], v.Job.State)
			}
		}
		if len(jobs) != len(states) || len(jobs) == 0 {
			t.Errorf("watched %d jobs of %d", len(states), len(jobs))
		}
	})
}

// The standby takes over within its TTL of the leader's last word, and until
// then the two never both lead.
func TestAStandbyTakesOver(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, b *bench) {
		id := b.submit(sharing(gib), job.Batch)
		second := cycle.New(cycle.Options{Store: b.store, Terms: terms, Holder: "second", LeadTTL: 5 * time.Second})
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- second.Run(ctx) }()
		time.Sleep(time.Minute)
		select {
		case <-second.Ready():
			t.Fatal("two lead")
		default:
		}
		b.store.Sabotage(func() error { return errors.New("cut off") }, nil)
		begin := time.Now()
		<-second.Ready()
		h := &host{b: b, name: "h1"}
		h.reset()
		if err := h.try(); !errors.Is(err, cycle.ErrUnavailable) {
			t.Errorf("the cut-off leader answers an agent: %v", err)
		}
		b.store.Sabotage(nil, nil)
		if took := time.Since(begin); took > 10*time.Second {
			t.Errorf("took over after %s", took)
		}
		if v, err := second.Get(t.Context(), id); err != nil || v.Job.State != job.Queued {
			t.Errorf("%v, %v", v.Job.State, err)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
