package job_test

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/job"
)

// world is one job under a random life, with every attempt it ever had.
type world struct {
	job      job.Job
	attempts []job.Attempt
	fence    uint64
	now      time.Time
	rng      *rand.Rand
	policy   job.Policy
}

func (w *world) latest() *job.Attempt {
	if len(w.attempts) == 0 {
		return nil
	}
	return &w.attempts[len(w.attempts)-1]
}

func (w *world) liveAttempt() *job.Attempt {
	if a := w.latest(); a != nil && a.Live() {
		return a
	}
	return nil
}

func exits() *rapid.Generator[job.Exit] {
	return rapid.Custom(func(t *rapid.T) job.Exit {
		e := job.Exit{
			Outcome: rapid.SampledFrom([]job.Outcome{job.OutcomeSucceeded, job.OutcomeFailed, job.OutcomeStopped}).Draw(t, "outcome"),
			Failure: rapid.SampledFrom([]job.Failure{
				job.NoFailure, job.DeviceOOM, job.NeighbourOOM, job.HostOOM, job.Crash, job.Network, job.DataUnavailable,
				job.AgentLost, job.Diverged, job.BadConfiguration, job.Stalled, job.TimeLimit,
			}).Draw(t, "failure"),
		}
		if rapid.Bool().Draw(t, "checkpointed") {
			step := rapid.Int64Range(1, 1000).Draw(t, "step")
			e.Progress = &job.Progress{Step: step, Checkpoint: job.Checkpoint{ID: "c", Step: step}}
		}
		return e
	})
}

// A job under any order of events keeps its invariants: it has a live attempt
// if and only if its state says so, its place never changes, fences only grow, a
// stale fence has no effect, a final state is final, and preemption and loss
// never spend a retry.
func TestLifeInvariants(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		w := &world{
			job:    job.New("j", job.Spec{Batch: 1 << rapid.IntRange(0, 10).Draw(t, "batch"), MinBatch: 8}, job.Batch, 42, t0),
			now:    t0,
			rng:    rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 1)),
			policy: job.DefaultPolicy(),
		}
		t.Repeat(map[string]func(*rapid.T){
			"time": func(t *rapid.T) {
				w.now = w.now.Add(time.Duration(rapid.Int64Range(0, int64(10*time.Minute)).Draw(t, "step")))
			},
			"assign": func(t *rapid.T) {
				w.fence += uint64(rapid.IntRange(1, 3).Draw(t, "gap"))
				j, a, err := w.job.Assign(job.Assignment{Agent: "h"}, w.fence, w.now)
				if (err == nil) != (w.job.State == job.Queued) {
					t.Fatalf("assign of a %s job: %v", w.job.State, err)
				}
				if err == nil {
					w.job, w.attempts = j, append(w.attempts, a)
				}
			},
			"observe": func(t *rapid.T) {
				if a := w.latest(); a != nil {
					p := job.Progress{Step: rapid.Int64Range(0, 1000).Draw(t, "step")}
					w.job, *a = w.job.Observe(*a, a.Agent, job.Sight{Training: rapid.Bool().Draw(t, "training"), Progress: &p}, w.now)
				}
			},
			"end": func(t *rapid.T) {
				a := w.liveAttempt()
				if a == nil {
					t.Skip("nothing runs")
				}
				before := w.job
				e := exits().Draw(t, "exit")
				j, b, ok := w.job.End(*a, e, w.policy, w.rng, w.now)
				if !ok {
					t.Fatal("a live attempt could not end")
				}
				free := before.Intent == job.IntentPreempt || before.Intent == job.IntentDrain || e.Failure == job.AgentLost || e.Failure == job.NeighbourOOM
				counts := e.Failure == job.Diverged && (before.Intent == job.IntentPreempt || before.Intent == job.IntentDrain)
				stall := before.Intent == job.IntentStall || before.Intent == job.IntentTimeLimit
				if free && !counts && !stall && j.Spent != before.Spent {
					t.Fatalf("%s under %s spent a retry: %v", e.Failure, before.Intent, j.Spent.Map())
				}
				w.job, *a = j, b
			},
			"end again": func(t *rapid.T) {
				// A repeated exit, or one under an old fence, changes nothing.
				for _, a := range w.attempts {
					if a.Live() {
						continue
					}
					if j, _, ok := w.job.End(a, exits().Draw(t, "exit"), w.policy, w.rng, w.now); ok || j.Revision != w.job.Revision || j.State != w.job.State {
						t.Fatalf("the exit of ended attempt %d had an effect", a.Number)
					}
				}
			},
			"stop": func(t *rapid.T) {
				intent := rapid.SampledFrom([]job.Intent{job.IntentStall, job.IntentTimeLimit, job.IntentData, job.IntentDrain, job.IntentPreempt, job.IntentPause, job.IntentCancel}).Draw(t, "intent")
				was := w.job.Intent
				w.job = w.job.Stop(w.liveAttempt(), intent, "told to", w.now)
				if w.job.Intent < was {
					t.Fatalf("intent fell from %s to %s", was, w.job.Intent)
				}
			},
			"cancel": func(*rapid.T) { w.job = w.job.Cancel(w.liveAttempt(), "cancelled", w.now) },
			"pause": func(*rapid.T) {
				if j, err := w.job.Hold(w.liveAttempt(), "paused", w.now); err == nil {
					w.job = j
				}
			},
			"resume": func(*rapid.T) {
				if j, err := w.job.Resume("ann", w.now); err == nil {
					w.job = j
				}
			},
			"data back": func(*rapid.T) { w.job, _ = w.job.DataBack(w.now) },
			"": func(t *rapid.T) {
				live := 0
				for i, a := range w.attempts {
					if a.Live() {
						live++
					}
					if i > 0 && a.Fence <= w.attempts[i-1].Fence {
						t.Fatalf("fence of attempt %d does not grow", a.Number)
					}
				}
				if live > 1 || (live == 1) != w.job.State.Live() {
					t.Fatalf("%s with %d live attempts", w.job.State, live)
				}
				if w.job.Place != 42 {
					t.Fatalf("place became %d", w.job.Place)
				}
				if (w.job.State == job.Paused) != (w.job.Pause != job.NotPaused) {
					t.Fatalf("%s with pause cause %s", w.job.State, w.job.Pause)
				}
				if (w.job.State == job.Stopping) != (w.job.Intent != job.NoIntent) {
					t.Fatalf("%s with intent %s", w.job.State, w.job.Intent)
				}
				if w.job.State.Terminal() == w.job.Finished.IsZero() {
					t.Fatalf("%s, finished %s", w.job.State, w.job.Finished)
				}
				if !w.job.NotBefore.IsZero() && w.job.State != job.Queued {
					t.Fatalf("%s backs off", w.job.State)
				}
				if len(w.job.Warnings) > 16 {
					t.Fatalf("%d warnings", len(w.job.Warnings))
				}
				for f, n := range w.job.Spent {
					if n > w.policy.Budgets[job.Failure(f)] {
						t.Fatalf("%s spent %d of %d", job.Failure(f), n, w.policy.Budgets[job.Failure(f)])
					}
				}
			},
		})
	})
}

// Backoff stays within zero and its doubled, capped bound.
func TestBackoffIsBounded(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		base := time.Duration(rapid.Int64Range(1, int64(time.Minute)).Draw(t, "base"))
		ceiling := time.Duration(rapid.Int64Range(int64(base), int64(time.Hour)).Draw(t, "ceiling"))
		n := rapid.IntRange(0, 200).Draw(t, "spent")
		got := job.Backoff(n, base, ceiling, rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 1)))
		bound := ceiling
		if f := float64(base) * math.Pow(2, float64(n)); f < float64(ceiling) {
			bound = time.Duration(f)
		}
		if got < 0 || got > bound {
			t.Fatalf("waits %s, bound %s", got, bound)
		}
	})
}
