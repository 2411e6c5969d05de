package cycle_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"

	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/cycle"
	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/job"
	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/lease"
)

func TestAJobLivesFromSubmitToSuccess(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, b *bench) {
		id := b.submit(sharing(2*gib), job.Batch)
		if v := b.is(id, job.Queued); !strings.Contains(v.Reason(), "no host has joined") {
			t.Errorf("reason %q", v.Reason())
		}
		h := b.host("h1")
		for range 3 {
			if !h.holds(id) {
				h.sync()
			}
		}
		if v := b.is(id, job.Starting); v.Attempts[0].Fence == 0 || !h.holds(id) {
			t.Fatalf("attempt %+v, host holds %s", v.Attempts, h.jobs())
		}
		h.progress(id, job.Progress{Step: 7, Checkpoint: job.Checkpoint{ID: "c", Step: 5}})
		h.sync()
		if v := b.is(id, job.Running); v.Attempts[0].Progress.Step != 7 || v.Job.Checkpoint.ID != "c" {
			t.Errorf("progress %+v", v.Attempts[0].Progress)
		}
		h.exit(id, job.Exit{Outcome: job.OutcomeSucceeded})
		h.sync()
		b.is(id, job.Succeeded)
		if len(h.exits) != 0 {
			t.Error("the exit was not acknowledged")
		}
		x, err := b.engine.Explain(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		var actions []string
		for _, d := range x.Decisions {
			actions = append(actions, d.Action)
		}
		if got := strings.Join(actions, " "); got != "succeeded running placed accepted" {
			t.Errorf("decisions: %s", got)
		}
	})
}

func TestPriorityThenAgeDecidesWhoGetsTheDevice(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, b *bench) {
		whole := func() job.Spec {
			s := sharing(0)
			return s
		}
		var ids []string
		for _, p := range []job.Priority{job.Batch, job.Search, job.Production, job.Search, job.Interactive} {
			ids = append(ids, b.submit(whole(), p))
		}
		h := b.host("h1")
		for _, want := range []int{2, 4, 1, 3, 0} {
			h.sync()
			if !h.holds(ids[want]) {
				t.Fatalf("host holds %s, want job %d", h.jobs(), want)
			}
			h.sync()
			h.exit(ids[want], job.Exit{Outcome: job.OutcomeSucceeded})
			h.sync()
		}
	})
}

func TestJobsShareADeviceByReservation(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, b *bench) {
		h := b.host("h1")
		var ids []string
		for range 5 {
			ids = append(ids, b.submit(sharing(7*gib), job.Batch))
		}
		h.sync()
		// 23 GiB hold three of 7.5 GiB.
		if len(h.held) != 3 {
			t.Fatalf("host holds %d jobs, want 3", len(h.held))
		}
		v := b.is(ids[3], job.Queued)
		if !strings.Contains(v.Reason(), "needs 7 GiB on one device; largest free is 0 B on h1/g0") {
			t.Errorf("reason %q", v.Reason())
		}
		x, err := b.engine.Explain(t.Context(), ids[4])
		if err != nil || x.AheadCount != 1 || x.Ahead[0] != ids[3] || len(x.Hosts) != 1 || x.Hosts[0].Fits {
			t.Errorf("explanation %+v, %v", x, err)
		}
	})
}

func TestAnExitCountsOnce(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, b *bench) {
		h := b.host("h1")
		id := b.submit(sharing(gib), job.Batch)
		h.sync()
		h.sync()
		fail := job.Exit{Outcome: job.OutcomeFailed, Failure: job.Crash}
		h.exit(id, fail)
		repeated := h.exits
		for range 3 {
			h.exits = repeated
			h.sync()
		}
		if v := b.view(id); v.Job.Spent[job.Crash] != 1 || v.Job.Attempts > 2 {
			t.Errorf("%d crashes, %d attempts", v.Job.Spent[job.Crash], v.Job.Attempts)
		}
		time.Sleep(5 * time.Second) // beyond a first backoff
		h.sync()
		v := b.view(id)
		if v.Job.Attempts != 2 {
			t.Fatalf("%d attempts, want 2: %s", v.Job.Attempts, v.Reason())
		}
		// The first attempt's exit again, now under a stale fence.
		h.exits = []cycle.ExitReport{{Job: id, Number: 1, Fence: v.Attempts[0].Fence, Exit: job.Exit{Outcome: job.OutcomeSucceeded}}}
		h.sync()
		if v := b.view(id); v.Job.State.Terminal() || len(h.exits) != 0 {
			t.Errorf("a stale exit made the job %s; %d exits kept", v.Job.State, len(h.exits))
		}
	})
}

func TestALostHostsJobMovesOnlyAfterLeaseAndLockDelay(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, b *bench) {
		h1 := b.host("h1")
		id := b.submit(sharing(gib), job.Batch)
		h1.sync()
		h1.sync()
		b.is(id, job.Running)
		silent := time.Now()
		h2 := b.host("h2")
		for time.Since(silent) < terms.Duration+terms.LockDelay {
			h2.sync()
			if h2.holds(id) {
				t.Fatalf("moved after %s", time.Since(silent))
			}
			time.Sleep(500 * time.Millisecond)
		}
		time.Sleep(time.Second)
		h2.sync()
		if !h2.holds(id) {
			t.Fatalf("not moved after %s: %s", time.Since(silent), b.view(id).Reason())
		}
		v := b.view(id)
		if v.Job.Spent != (job.Spent{}) || v.Job.Free != 1 {
			t.Errorf("a lost host cost a retry: %v", v.Job.Spent.Map())
		}
		if agents := b.engine.Agents(); !agents[0].Agent.Lost {
			t.Error("the host is not marked lost")
		}
		// The zombie comes back: it is told to stop and nothing else happens.
		h1.sync()
		if len(h1.last.Stop) != 1 || h1.last.Stop[0].Intent != job.NoIntent || len(h1.held) != 0 {
			t.Errorf("the zombie was told %+v and holds %s", h1.last.Stop, h1.jobs())
		}
		if b.view(id).Attempts[1].Agent != "h2" || b.engine.Agents()[0].Agent.Lost {
			t.Error("the zombie's return moved the job, or it stayed lost")
		}
	})
}

func TestASuccessDuringAnOutageIsNotTrainedAgain(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, b *bench) {
		h := b.host("h1")
		id := b.submit(sharing(gib), job.Batch)
		h.sync()
		h.sync()
		time.Sleep(terms.Duration + terms.LockDelay + 2*time.Second)
		synctest.Wait()
		b.is(id, job.Queued)
		h.exit(id, job.Exit{Outcome: job.OutcomeSucceeded})
		h.sync()
		if v := b.is(id, job.Succeeded); v.Job.Attempts != 1 {
			t.Errorf("%d attempts", v.Job.Attempts)
		}
	})
}

func TestARestartKeepsEverythingAndGivesGrace(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, b *bench) {
		h := b.host("h1")
		running := b.submit(sharing(gib), job.Batch)
		h.sync()
		h.sync()
		if _, err := b.engine.Pause(t.Context(), b.request(), b.submit(sharing(gib), job.Batch), "paused"); err != nil {
			t.Fatal(err)
		}
		waiting := b.submit(sharing(23*gib), job.Production)
		b.stop()
		time.Sleep(time.Hour) // nobody reported to anybody
		b.start()
		fence := b.is(running, job.Running).Job.Fence
		b.is(waiting, job.Queued)
		time.Sleep(terms.Duration + terms.LockDelay - time.Second)
		synctest.Wait()
		if b.engine.Agents()[0].Agent.Lost {
			t.Fatal("lost within the grace of a restart")
		}
		h.sync()
		if !h.holds(running) || b.view(running).Job.Fence != fence {
			t.Errorf("host holds %s after the restart", h.jobs())
		}
		if h.known == 0 || h.last.Revision == 0 {
			t.Error("no revision")
		}
	})
}

func TestAForgetfulHostIsNotGivenTheSameFenceTwice(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, b *bench) {
		h := b.host("h1")
		id := b.submit(sharing(gib), job.Batch)
		h.sync()
		h.sync()
		fence := b.is(id, job.Running).Job.Fence
		h.held, h.known = map[uint64]lease.Held{}, 0 // its disk is gone
		h.sync()
		if len(h.last.Run) != 0 {
			t.Fatalf("offered fence %d again", fence)
		}
		h.sync()
		h.sync()
		if v := b.view(id); v.Job.Fence <= fence || v.Job.Spent != (job.Spent{}) {
			t.Errorf("fence %d after %d, spent %v, %s", v.Job.Fence, fence, v.Job.Spent.Map(), v.Reason())
		}
	})
}

func TestVerbsReachTheHost(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, b *bench) {
		ctx := t.Context()
		h := b.host("h1")
		id := b.submit(sharing(gib), job.Batch)
		h.sync()
		h.sync()
		if _, err := b.engine.Pause(ctx, b.request(), id, "paused by ann"); err != nil {
			t.Fatal(err)
		}
		b.is(id, job.Stopping)
		h.sync()
		if len(h.last.Stop) != 1 || h.last.Stop[0].Intent != job.IntentPause || h.last.Stop[0].Grace <= 0 {
			t.Fatalf("told %+v", h.last.Stop)
		}
		h.sync()
		b.is(id, job.Paused)
		if _, err := b.engine.Resume(ctx, b.request(), id, "ann"); err != nil {
			t.Fatal(err)
		}
		h.sync()
		h.sync()
		b.is(id, job.Running)
		if _, err := b.engine.Cancel(ctx, b.request(), id, "cancelled by ann"); err != nil {
			t.Fatal(err)
		}
		h.sync()
		h.sync()
		if v := b.is(id, job.Cancelled); v.Job.Reason != "cancelled by ann" {
			t.Errorf("reason %q", v.Job.Reason)
		}
		// A final job is left as it is, and says so.
		if raw, err := b.engine.Cancel(ctx, b.request(), id, "again"); err != nil || !strings.HasSuffix(string(raw), "CANCELLED") {
			t.Errorf("%s, %v", raw, err)
		}
		var illegal *job.IllegalError
		if _, err := b.engine.Pause(ctx, b.request(), id, "x"); !errors.As(err, &illegal) {
			t.Errorf("paused a final job: %v", err)
		}
		if _, err := b.engine.Cancel(ctx, b.request(), uuid.NewString(), "x"); !errors.Is(err, cycle.ErrNotFound) {
			t.Errorf("cancelled an unknown job: %v", err)
		}
	})
}

func TestACancelBeforeTheHostKnowsOfTheJob(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, b *bench) {
		h := b.host("h1")
		id := b.submit(sharing(gib), job.Batch)
		b.is(id, job.Starting)
		if _, err := b.engine.Cancel(t.Context(), b.request(), id, "cancelled"); err != nil {
			t.Fatal(err)
		}
		h.sync() // learns of the stop, holds nothing
		if len(h.held) != 0 {
			t.Fatalf("started a cancelled job: %s", h.jobs())
		}
		h.sync() // says so
		b.is(id, job.Cancelled)
	})
}

func TestADrainMovesJobsFreeOfCharge(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, b *bench) {
		h1 := b.host("h1")
		id := b.submit(sharing(gib), job.Batch)
		h1.sync()
		h1.sync()
		encode := func(v cycle.AgentView) ([]byte, error) { return []byte(v.Agent.Cordon.String()), nil }
		raw, err := b.engine.SetCordon(t.Context(), b.request(), "h1", cycle.Draining, "new fan", encode)
		if err != nil || string(raw) != "DRAINING" {
			t.Fatalf("%s, %v", raw, err)
		}
		h1.sync()
		h1.sync()
		if v := b.is(id, job.Queued); !strings.Contains(v.Reason(), "new fan") || v.Job.Spent != (job.Spent{}) {
			t.Errorf("reason %q, spent %v", v.Reason(), v.Job.Spent.Map())
		}
		h2 := b.host("h2")
		h2.sync()
		if !h2.holds(id) {
			t.Error("the job did not move")
		}
		if _, err := b.engine.SetCordon(t.Context(), b.request(), "nobody", cycle.Open, "", encode); !errors.Is(err, cycle.ErrNotFound) {
			t.Errorf("cordoned an unknown host: %v", err)
		}
	})
}

func TestADataOutageReleasesTheDeviceAndEndsByItself(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, b *bench) {
		h := b.host("h1")
		id := b.submit(sharing(gib), job.Batch)
		h.sync()
		h.sync()
		h.data = false
		h.exit(id, job.Exit{Outcome: job.OutcomeFailed, Failure: job.DataUnavailable})
		h.sync()
		for range 40 {
			time.Sleep(time.Second)
			h.sync()
		}
		if v := b.is(id, job.Paused); v.Job.Pause != job.PausedByDataOutage {
			t.Fatalf("paused by %s", v.Job.Pause)
		}
		h.data = true
		h.sync()
		time.Sleep(time.Second)
		h.sync()
		h.sync()
		if v := b.is(id, job.Running); v.Job.Spent != (job.Spent{}) {
			t.Errorf("an outage spent a retry: %v", v.Job.Spent.Map())
		}
	})
}

func TestLimitsStopAnAttempt(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, b *bench) {
		h := b.host("h1")
		spec := sharing(gib)
		spec.StallLimit = time.Minute
		id := b.submit(spec, job.Batch)
		h.sync()
		h.sync()
		for range 61 {
			time.Sleep(time.Second)
			h.sync()
		}
		h.sync()
		if v := b.view(id); v.Job.Spent[job.Stalled] != 1 || v.Attempts[0].Failure != job.Stalled {
			t.Errorf("spent %v, failure %s", v.Job.Spent.Map(), v.Attempts[0].Failure)
		}
	})
}

func TestALongPollIsWokenByTheCommit(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, b *bench) {
		h := b.host("h1")
		h.sync()
		begin := time.Now()
		got := make(chan cycle.Answer, 1)
		go func() {
			a, err := b.engine.Synchronize(context.Background(), h.report(), 5*time.Second)
			if err != nil {
				t.Error(err)
			}
			got <- a
		}()
		time.Sleep(time.Second)
		b.submit(sharing(gib), job.Batch)
		if a := <-got; len(a.Run) != 1 || time.Since(begin) != time.Second {
			t.Errorf("answered %+v after %s", a.Run, time.Since(begin))
		}
		// Nothing to tell: the call lasts as long as it may.
		h.sync()
		h.sync()
		begin = time.Now()
		if _, err := b.engine.Synchronize(t.Context(), h.report(), 5*time.Second); err != nil || time.Since(begin) != 5*time.Second {
			t.Errorf("%v after %s", err, time.Since(begin))
		}
	})
}

func TestProductionPreemptsBatchWithoutCostingARetry(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, b *bench) {
		h := b.host("h1")
		batch := b.submit(sharing(0), job.Batch)
		h.sync()
		h.sync()
		urgent := b.submit(sharing(0), job.Production)
		if b.is(batch, job.Running); !strings.Contains(b.is(urgent, job.Queued).Reason(), "needs a whole") {
			t.Errorf("reason %q", b.view(urgent).Reason())
		}
		for range 62 { // the minimum runtime
			time.Sleep(time.Second)
			h.sync()
		}
		h.sync()
		h.sync()
		b.is(urgent, job.Running)
		v := b.is(batch, job.Queued)
		if v.Job.Spent != (job.Spent{}) || v.Job.Free != 0 || v.Attempts[0].Failure != job.Preempted {
			t.Errorf("spent %v, free %d, failure %s", v.Job.Spent.Map(), v.Job.Free, v.Attempts[0].Failure)
		}
		h.exit(urgent, job.Exit{Outcome: job.OutcomeSucceeded})
		h.sync()
		h.sync()
		h.sync()
		if v := b.is(batch, job.Running); v.Job.Attempts != 2 {
			t.Errorf("%d attempts", v.Job.Attempts)
		}
	})
}

func TestTenantsShareFairly(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, b *bench) {
		spec := func(tenant string) job.Spec {
			s := sharing(7 * gib)
			s.Tenant = tenant
			return s
		}
		var many []string
		for range 6 {
			many = append(many, b.submit(spec("many"), job.Batch))
		}
		one := b.submit(spec("one"), job.Batch)
		h := b.host("h1") // has room for three
		h.sync()
		if !h.holds(one) || !h.holds(many[0]) || !h.holds(many[1]) {
			t.Errorf("host holds %s; the second tenant's first job is %s", h.jobs(), one)
		}
	})
}

func TestAFlappingHostIsQuarantined(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, b *bench) {
		for range 2 {
			b.host("h1")
			time.Sleep(terms.Duration + terms.LockDelay + time.Second)
			synctest.Wait()
		}
		h := b.host("h1")
		if a := b.engine.Agents()[0].Agent; a.Lost || a.Cordon != cycle.Open {
			t.Fatalf("quarantined after two losses: %+v", a)
		}
		time.Sleep(terms.Duration + terms.LockDelay + time.Second)
		synctest.Wait()
		id := b.submit(sharing(gib), job.Batch)
		h.sync()
		h.sync()
		if v := b.is(id, job.Queued); !strings.Contains(v.Reason(), "quarantined: lost 3 times") {
			t.Errorf("reason %q", v.Reason())
		}
		encode := func(v cycle.AgentView) ([]byte, error) { return []byte(v.Agent.Cordon.String()), nil }
		if _, err := b.engine.SetCordon(t.Context(), b.request(), "h1", cycle.Open, "", encode); err != nil {
			t.Fatal(err)
		}
		h.sync()
		if !h.holds(id) {
			t.Error("a person's word did not end the quarantine")
		}
	})
}
