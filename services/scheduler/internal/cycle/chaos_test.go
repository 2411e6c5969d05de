package cycle_test

import (
	"errors"
	"math/rand"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"

	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/cycle"
	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/job"
)

// People and hosts do whatever they like, in any order, with restarts, silent
// and forgetful hosts: the store's constraints (one live attempt per job, no
// device promised beyond its memory, no contradictory state) refuse nothing, no
// verb fails but by name, and once hosts behave and people stop, every job ends.
func TestAnythingInAnyOrder(t *testing.T) {
	t.Parallel()
	for seed := range int64(12) {
		inBubble(t, func(t *testing.T, b *bench) {
			rng := rand.New(rand.NewSource(seed))
			ctx := t.Context()
			hosts := []*host{b.host("h1"), b.host("h2"), b.host("h3")}
			var ids []string
			lawful := func(_ []byte, err error) {
				var illegal *job.IllegalError
				if err != nil && !errors.As(err, &illegal) && !errors.Is(err, cycle.ErrConflict) {
					t.Fatalf("seed %d: %v", seed, err)
				}
			}
			encode := func(cycle.AgentView) ([]byte, error) { return nil, nil }
			failures := []job.Failure{
				job.NoFailure, job.DeviceOOM, job.NeighbourOOM, job.HostOOM, job.Crash, job.Network, job.DataUnavailable, job.Diverged, job.Stalled, job.BadConfiguration,
			}
			end := func(h *host) {
				for _, l := range h.held {
					e := job.Exit{Outcome: job.Outcome(1 + rng.Intn(3)), Failure: failures[rng.Intn(len(failures))]}
					h.exit(l.Job, e)
					return
				}
			}
			for range 300 {
				pick := func() string { return ids[rng.Intn(len(ids))] }
				h := hosts[rng.Intn(len(hosts))]
				switch action := rng.Intn(20); {
				case action < 3 && len(ids) < 40 || len(ids) == 0:
					spec := sharing(int64(rng.Intn(14)) * gib)
					spec.Tenant = string(rune('a' + rng.Intn(3)))
					spec.StallLimit = time.Duration(rng.Intn(3)) * 20 * time.Second
					spec.RunLimit = time.Duration(rng.Intn(3)) * 90 * time.Second
					id := uuid.Must(uuid.NewV7()).String()
					lawful(b.engine.Submit(ctx, b.request(), cycle.NewJob{ID: id, Spec: spec, Priority: job.Priority(1 + rng.Intn(4))}))
					ids = append(ids, id)
				case action < 10:
					h.sync()
				case action < 12:
					end(h)
				case action < 13:
					lawful(b.engine.Pause(ctx, b.request(), pick(), "paused"))
				case action < 15:
					lawful(b.engine.Resume(ctx, b.request(), pick(), "ann"))
				case action < 16:
					lawful(b.engine.Reprioritize(ctx, b.request(), pick(), job.Priority(1+rng.Intn(4)), 0))
				case action < 17:
					if rng.Intn(3) == 0 {
						lawful(b.engine.Cancel(ctx, b.request(), pick(), "cancelled"))
					}
				case action < 18:
					lawful(b.engine.SetCordon(ctx, b.request(), h.name, cycle.Cordon(rng.Intn(3)), "", encode))
				case action < 19:
					switch rng.Intn(8) {
					case 0:
						h.reset() // its disk is gone
					case 1:
						b.stop()
						b.start()
					default:
						h.data = rng.Intn(4) > 0
					}
				default:
					time.Sleep(time.Duration(rng.Intn(8000)) * time.Millisecond)
				}
				synctest.Wait()
			}
			// From here on everybody behaves.
			for _, h := range hosts {
				h.data = true
				lawful(b.engine.SetCordon(ctx, b.request(), h.name, cycle.Open, "", encode))
			}
			for range 400 {
				for _, h := range hosts {
					h.sync()
					for _, l := range h.held {
						h.exit(l.Job, job.Exit{Outcome: job.OutcomeSucceeded})
						break
					}
				}
				for _, id := range ids {
					if v := b.view(id); v.Job.State == job.Paused && v.Job.Pause == job.PausedByPerson {
						lawful(b.engine.Resume(ctx, b.request(), id, "ann"))
					}
				}
				time.Sleep(2 * time.Second)
			}
			for _, id := range ids {
				v := b.view(id)
				if !v.Job.State.Terminal() {
					t.Errorf("seed %d: job %s is %s for ever: %s", seed, id, v.Job.State, v.Reason())
				}
				for i, a := range v.Attempts {
					if a.Live() || i > 0 && a.Fence <= v.Attempts[i-1].Fence {
						t.Errorf("seed %d: attempt %d is %s with fence %d", seed, a.Number, a.Phase, a.Fence)
					}
				}
			}
			for _, a := range b.engine.Agents() {
				for d, n := range a.Reserved {
					if n != 0 {
						t.Errorf("seed %d: %s/%s still promises %d bytes", seed, a.Agent.Name, d, n)
					}
				}
			}
		})
	}
}
