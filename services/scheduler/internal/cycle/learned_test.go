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

// What earlier runs needed is too little for this one. That is nobody's fault: the batch,
// the retries and the place in line stay, the next attempt gets a whole device, also after a
// restart, and what comes after reserves more.
func TestALearnedReservationThatIsTooSmallCostsNothing(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, b *bench) {
		h := b.host("h1")
		spec := sharing(0)
		spec.Kin, spec.Demand.Devices[0].Learn = "command/1", true
		light := b.submit(spec, job.Batch)
		h.sync()
		h.sync()
		h.progress(light, job.Progress{Step: 1, PeakBytes: gib})
		h.sync()
		h.exit(light, job.Exit{Outcome: job.OutcomeSucceeded})
		h.sync()
		heavy := b.submit(spec, job.Batch)
		h.sync()
		h.sync()
		small := b.is(heavy, job.Running).Attempts[0].Shares[0]
		if small.Whole {
			t.Fatal("nothing was learned")
		}
		h.exit(heavy, job.Exit{Outcome: job.OutcomeFailed, Failure: job.DeviceOOM})
		h.sync()
		b.stop()
		b.start()
		for range 3 {
			h.sync()
		}
		v := b.is(heavy, job.Running)
		if s := v.Attempts[1].Shares[0]; !s.Whole || v.Job.Batch != spec.Batch || len(v.Job.Spent.Map()) > 0 || len(v.Job.Warnings) != 1 {
			t.Errorf("the second attempt has %+v, batch %d, spent %v, warnings %q", s, v.Job.Batch, v.Job.Spent.Map(), v.Job.Warnings)
		}
		// Alone it is its own fault.
		h.exit(heavy, job.Exit{Outcome: job.OutcomeFailed, Failure: job.DeviceOOM})
		h.sync()
		for range 3 {
			h.sync()
		}
		if v := b.is(heavy, job.Running); v.Job.Batch != spec.Batch/2 || !v.Attempts[2].Shares[0].Whole {
			t.Errorf("after a second time batch %d, %+v", v.Job.Batch, v.Attempts[2].Shares)
		}
		h.exit(heavy, job.Exit{Outcome: job.OutcomeSucceeded})
		h.sync()
		next := b.submit(spec, job.Batch)
		for range 3 {
			h.sync()
		}
		if s := b.is(next, job.Running).Attempts[0].Shares[0]; s.Whole || s.Bytes <= small.Bytes {
			t.Errorf("the next one reserves %+v, this one was stopped at %+v", s, small)
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
