package cycle_test

import (
	"testing"
	"time"

	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/job"
)

func TestTheFirstRunIsAloneAndTeachesTheNext(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, b *bench) {
		h := b.host("h1")
		spec := sharing(0)
		spec.Kin, spec.Demand.Devices[0].Learn = "native/bull/1", true
		first, second := b.submit(spec, job.Batch), b.submit(spec, job.Batch)
		h.sync()
		h.sync()
		if !b.is(first, job.Running).Attempts[0].Shares[0].Whole {
			t.Error("the first run shares its device")
		}
		b.is(second, job.Queued)
		h.progress(first, job.Progress{Step: 1, PeakBytes: 3 * gib})
		h.sync()
		time.Sleep(5 * time.Second)
		h.exit(first, job.Exit{Outcome: job.OutcomeSucceeded})
		h.sync()
		// What was learned survives a restart.
		b.stop()
		b.start()
		third := b.submit(spec, job.Batch)
		for range 3 {
			h.sync()
		}
		for _, id := range []string{second, third} {
			s := b.is(id, job.Running).Attempts[0].Shares[0]
			if s.Whole || s.Bytes < 3*gib || s.Bytes > 4*gib {
				t.Errorf("reserves %+v after a peak of 3 GiB", s)
			}
		}
	})
}

func TestAJobThatNeverGetsAnywhereIsNamedPoison(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, b *bench) {
		h := b.host("h1")
		id, neighbour := b.submit(sharing(gib), job.Batch), b.submit(sharing(gib), job.Batch)
		for range 60 {
			h.sync()
			if h.holds(id) {
				h.exit(id, job.Exit{Outcome: job.OutcomeFailed, Failure: job.Crash, Evidence: job.Evidence{ExitCode: 139}})
			}
			time.Sleep(time.Second)
		}
		if v := b.is(id, job.Failed); !v.Job.Poison || v.Job.Attempts != 4 {
			t.Errorf("poison %v after %d attempts: %s", v.Job.Poison, v.Job.Attempts, v.Reason())
		}
		if v := b.is(neighbour, job.Running); v.Job.Attempts != 1 {
			t.Errorf("its neighbour has %d attempts", v.Job.Attempts)
		}
	})
}
