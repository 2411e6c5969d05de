package cycle_test

import (
	"errors"
	"os"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"

	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/cycle"
	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/job"
	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/lease"
	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/storetest"
)

// seeds is how many seeds a property tries: a few in every run, as many as asked
// for in a campaign.
func seeds(t *testing.T, usual int) int {
	t.Helper()
	text := os.Getenv("TRAINYARD_TEST_SEEDS")
	if text == "" {
		return usual
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// Over a store that fails one call in twelve, half of them after it has done what
// was asked, and says nothing of which: every accepted request has one job,
// every job ends once, and a watcher that resumes sees every job end.
func TestUnknownOutcomesHaveOneEffect(t *testing.T) {
	t.Parallel()
	for seed := range seeds(t, 25) {
		inBubble(t, func(t *testing.T, b *bench) {
			b.stop()
			flaky := storetest.NewFlaky(b.store, 0.08, uint64(seed))
			b.over = flaky
			b.start()
			watched := b.watchAll()
			defer watched.stop()
			h := &host{b: b, name: "h1", held: map[uint64]lease.Held{}, data: true}
			ids := map[string]string{}
			for i := range 12 {
				r := b.request()
				for try := 0; ; try++ {
					// A person who gets no answer asks again with the same request; each
					// try brings a new id, as the API does.
					raw, err := b.engine.Submit(t.Context(), r, cycle.NewJob{ID: uuid.Must(uuid.NewV7()).String(), Spec: sharing(gib), Priority: job.Batch})
					if err == nil {
						ids[r.ID] = string(raw)[:36]
						break
					}
					if !errors.Is(err, cycle.ErrUnavailable) && !errors.Is(err, storetest.ErrInjected) || try > 200 {
						t.Fatalf("seed %d: %v", seed, err)
					}
					time.Sleep(100 * time.Millisecond)
				}
				if i%3 == 0 {
					_ = h.try()
				}
			}
			for range 400 {
				for _, l := range h.held {
					h.exit(l.Job, job.Exit{Outcome: job.OutcomeSucceeded})
					break
				}
				_ = h.try()
				time.Sleep(200 * time.Millisecond)
			}
			flaky.Heal()
			for range 40 {
				for _, l := range h.held {
					h.exit(l.Job, job.Exit{Outcome: job.OutcomeSucceeded})
				}
				h.sync()
				time.Sleep(time.Second)
			}
			synctest.Wait()
			all, err := b.store.List(t.Context(), cycle.Page{Limit: 1000})
			if err != nil || len(all) != len(ids) {
				t.Fatalf("seed %d: %d requests made %d jobs: %v", seed, len(ids), len(all), err)
			}
			for _, r := range all {
				won := 0
				for _, a := range r.Attempts {
					if a.Outcome == job.OutcomeSucceeded {
						won++
					}
				}
				if r.Job.State != job.Succeeded || won != 1 {
					t.Errorf("seed %d: job %s is %s with %d successes: %s", seed, r.Job.ID, r.Job.State, won, r.Job.Reason)
				}
				if got := watched.state(r.Job.ID); got != job.Succeeded {
					t.Errorf("seed %d: the watcher believes that %s is %s", seed, r.Job.ID, got)
				}
			}
		})
	}
}
