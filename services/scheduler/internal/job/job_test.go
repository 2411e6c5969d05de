package job_test

import (
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/job"
)

var t0 = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func running(t *testing.T, spec job.Spec) (job.Job, job.Attempt) {
	t.Helper()
	j := job.New("j", spec, job.Batch, 7, t0)
	j, a, err := j.Assign(job.Assignment{Agent: "h1"}, 10, t0)
	if err != nil {
		t.Fatal(err)
	}
	return j.Observe(a, a.Agent, job.Sight{Training: true}, t0.Add(time.Second))
}

// Every row of the design's failure table, as the first thing that happens to a
// running job.
func TestWhatComesNext(t *testing.T) {
	t.Parallel()
	fail := func(f job.Failure) job.Exit {
		return job.Exit{Outcome: job.OutcomeFailed, Failure: f, Evidence: job.Evidence{Message: "because"}}
	}
	for _, c := range []struct {
		name   string
		intent job.Intent
		exit   job.Exit
		state  job.State
		spent  job.Failure // the class whose budget pays; NoFailure means none
		free   int
		reason string
	}{
		{"success", job.NoIntent, job.Exit{Outcome: job.OutcomeSucceeded}, job.Succeeded, 0, 0, "finished"},
		{"own oom", job.NoIntent, fail(job.DeviceOOM), job.Queued, job.DeviceOOM, 0, "batch size 64"},
		{"neighbour oom", job.NoIntent, fail(job.NeighbourOOM), job.Queued, 0, 1, "free of charge"},
		{"host oom", job.NoIntent, fail(job.HostOOM), job.Queued, job.HostOOM, 0, "retry 1 of 3"},
		{"crash", job.NoIntent, fail(job.Crash), job.Queued, job.Crash, 0, "retry 1 of 3"},
		{"failed without a class is a crash", job.NoIntent, fail(job.NoFailure), job.Queued, job.Crash, 0, "crashed"},
		{"network", job.NoIntent, fail(job.Network), job.Queued, job.Network, 0, "retry 1 of 5"},
		{"data", job.NoIntent, fail(job.DataUnavailable), job.Paused, 0, 0, "resumes by itself"},
		{"agent lost", job.NoIntent, fail(job.AgentLost), job.Queued, 0, 1, "keeps its place"},
		{"stopped unasked is a lost host", job.NoIntent, job.Exit{Outcome: job.OutcomeStopped}, job.Queued, 0, 1, "host was lost"},
		{"diverged", job.NoIntent, fail(job.Diverged), job.Queued, job.Diverged, 0, "lower learning rate"},
		{"bad configuration", job.NoIntent, fail(job.BadConfiguration), job.Failed, 0, 0, "because"},
		{"stalled", job.NoIntent, fail(job.Stalled), job.Queued, job.Stalled, 0, "stalled"},
		{"time limit has no budget", job.NoIntent, fail(job.TimeLimit), job.Failed, 0, 0, "over its time limit, not retried: because"},
		{"preempted", job.IntentPreempt, job.Exit{Outcome: job.OutcomeStopped}, job.Queued, 0, 0, "preempted"},
		{"a kill while preempted is no crash", job.IntentPreempt, fail(job.Crash), job.Queued, 0, 0, "preempted"},
		{"drained", job.IntentDrain, job.Exit{Outcome: job.OutcomeStopped}, job.Queued, 0, 0, "drained"},
		{"diverged while drained still counts", job.IntentDrain, fail(job.Diverged), job.Queued, job.Diverged, 0, "diverged"},
		{"stall order", job.IntentStall, job.Exit{Outcome: job.OutcomeStopped}, job.Queued, job.Stalled, 0, "stalled"},
		{"data order", job.IntentData, job.Exit{Outcome: job.OutcomeStopped}, job.Paused, 0, 0, "resumes by itself"},
		{"cancelled", job.IntentCancel, job.Exit{Outcome: job.OutcomeStopped}, job.Cancelled, 0, 0, "asked"},
		{"cancelled wins over a crash", job.IntentCancel, fail(job.Crash), job.Cancelled, 0, 0, "asked"},
		{"finished before the cancel arrived", job.IntentCancel, job.Exit{Outcome: job.OutcomeSucceeded}, job.Succeeded, 0, 0, "finished"},
		{"paused", job.IntentPause, job.Exit{Outcome: job.OutcomeStopped}, job.Paused, 0, 0, "asked"},
		{"paused with a wrong configuration", job.IntentPause, fail(job.BadConfiguration), job.Failed, 0, 0, "configuration"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			j, a := running(t, job.Spec{Batch: 128, MinBatch: 32})
			j = j.Stop(&a, c.intent, "asked", t0.Add(2*time.Second))
			now := t0.Add(time.Minute)
			j, a, ok := j.End(a, c.exit, job.DefaultPolicy(), rand.New(rand.NewPCG(1, 2)), now)
			if !ok || j.State != c.state {
				t.Fatalf("state %s (%s), want %s", j.State, j.Reason, c.state)
			}
			if !strings.Contains(j.Reason, c.reason) {
				t.Errorf("reason %q does not say %q", j.Reason, c.reason)
			}
			var want job.Spent
			if c.spent != job.NoFailure {
				want[c.spent] = 1
			}
			if j.Spent != want || j.Free != c.free {
				t.Errorf("spent %v and %d free, want %v and %d", j.Spent.Map(), j.Free, want.Map(), c.free)
			}
			if a.Live() || !a.Ended.Equal(now) {
				t.Errorf("attempt is %s, ended %s", a.Phase, a.Ended)
			}
			if j.Place != 7 {
				t.Errorf("place became %d", j.Place)
			}
		})
	}
}

func TestOutOfMemoryHalvesTheBatchToItsFloor(t *testing.T) {
	t.Parallel()
	j, a := running(t, job.Spec{Batch: 256, Accumulate: 2, MinBatch: 60})
	var sizes []int
	fence := uint64(10)
	for {
		var ok bool
		effective := j.Batch * j.Accumulate
		j, _, ok = j.End(a, job.Exit{Outcome: job.OutcomeFailed, Failure: job.DeviceOOM}, job.DefaultPolicy(), nil, t0)
		if !ok {
			t.Fatal("exit refused")
		}
		if j.State == job.Failed {
			break
		}
		if j.Batch*j.Accumulate != effective {
			t.Fatalf("effective batch went from %d to %d", effective, j.Batch*j.Accumulate)
		}
		sizes = append(sizes, j.Batch)
		fence++
		var err error
		if j, a, err = j.Assign(job.Assignment{Agent: "h1"}, fence, t0); err != nil {
			t.Fatal(err)
		}
		if a.Batch != j.Batch || a.Accumulate != j.Accumulate {
			t.Fatalf("attempt got %d x %d, the job has %d x %d", a.Batch, a.Accumulate, j.Batch, j.Accumulate)
		}
	}
	if len(sizes) != 2 || sizes[0] != 128 || sizes[1] != 64 {
		t.Errorf("batch sizes %v, want 128 and 64", sizes)
	}
	if !strings.Contains(j.Reason, "the floor is 60") || len(j.Warnings) != 2 {
		t.Errorf("reason %q, warnings %q", j.Reason, j.Warnings)
	}
}

func TestOutOfMemoryWithoutABatchSize(t *testing.T) {
	t.Parallel()
	oom := job.Exit{Outcome: job.OutcomeFailed, Failure: job.DeviceOOM}
	j, a := running(t, job.Spec{})
	if j, _, _ = j.End(a, oom, job.DefaultPolicy(), nil, t0); j.State != job.Failed || !strings.Contains(j.Reason, "set batch_size") {
		t.Errorf("%s: %s", j.State, j.Reason)
	}
	j, a = running(t, job.Spec{UsualBatch: 256})
	if j, _, _ = j.End(a, oom, job.DefaultPolicy(), nil, t0); j.State != job.Queued || j.Batch != 128 || j.Accumulate != 2 {
		t.Errorf("%s with batch %d x %d", j.State, j.Batch, j.Accumulate)
	}
}

func TestDivergenceRollsBackOnceAndThenFails(t *testing.T) {
	t.Parallel()
	bad := job.Exit{Outcome: job.OutcomeFailed, Failure: job.Diverged}
	j, a := running(t, job.Spec{})
	j, a = j.Observe(a, a.Agent, job.Sight{Training: true, Progress: &job.Progress{Step: 90, Checkpoint: job.Checkpoint{ID: "c", Step: 80}}}, t0)
	j, _, _ = j.End(a, bad, job.DefaultPolicy(), nil, t0)
	if j.State != job.Queued || j.RateScale >= 1 {
		t.Fatalf("%s with rate scale %g", j.State, j.RateScale)
	}
	j, a, err := j.Assign(job.Assignment{Agent: "h1"}, 11, t0)
	if err != nil || a.Restore.ID != "c" || a.RateScale != j.RateScale {
		t.Fatalf("attempt restores %v at %g: %v", a.Restore, a.RateScale, err)
	}
	if j, _, _ = j.End(a, bad, job.DefaultPolicy(), nil, t0); j.State != job.Failed {
		t.Errorf("second divergence: %s", j.State)
	}
}

func TestFreeRequeuesAreCappedUntilProgress(t *testing.T) {
	t.Parallel()
	p := job.DefaultPolicy()
	j, a := running(t, job.Spec{})
	fence := uint64(10)
	lose := func() {
		j, _, _ = j.Lose(a, "gone", p, nil, t0)
	}
	again := func() {
		t.Helper()
		fence++
		var err error
		if j, a, err = j.Assign(job.Assignment{Agent: "h1"}, fence, t0); err != nil {
			t.Fatal(err)
		}
	}
	for range p.FreeCap {
		lose()
		again()
	}
	// A new checkpoint is proof of progress: the count starts again.
	j, a = j.Observe(a, a.Agent, job.Sight{Progress: &job.Progress{Checkpoint: job.Checkpoint{ID: "c1", Step: 5}}}, t0)
	for range p.FreeCap {
		lose()
		again()
	}
	lose()
	if j.State != job.Failed || !strings.Contains(j.Reason, "without a new checkpoint") {
		t.Errorf("%s: %s", j.State, j.Reason)
	}
}

func TestLateSuccessCountsOnlyWhileNothingNewerRuns(t *testing.T) {
	t.Parallel()
	win := job.Exit{Outcome: job.OutcomeSucceeded}
	j, a := running(t, job.Spec{})
	j, a, _ = j.Lose(a, "silent", job.DefaultPolicy(), nil, t0)
	if k, _, ok := j.Late(a, win, t0); !ok || k.State != job.Succeeded {
		t.Errorf("late success of the newest attempt: %v, %s", ok, k.State)
	}
	if _, _, ok := j.Late(a, job.Exit{Outcome: job.OutcomeFailed, Failure: job.Crash}, t0); ok {
		t.Error("a late failure had an effect")
	}
	j, _, err := j.Assign(job.Assignment{Agent: "h2"}, 11, t0)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, ok := j.Late(a, win, t0); ok {
		t.Error("a late success had an effect under a newer fence")
	}
}

func TestLimits(t *testing.T) {
	t.Parallel()
	j, a := running(t, job.Spec{RunLimit: time.Hour, StallLimit: 10 * time.Minute})
	start := t0.Add(time.Second)
	step := func(n int64, at time.Time) {
		j, a = j.Observe(a, a.Agent, job.Sight{Training: true, Progress: &job.Progress{Step: n}}, at)
	}
	step(1, start.Add(9*time.Minute))
	if why, _ := j.Overdue(a, start.Add(18*time.Minute)); why != job.NoIntent {
		t.Errorf("stalled although it moved 9 minutes ago: %s", why)
	}
	step(1, start.Add(19*time.Minute)) // the same step again is no progress
	if why, _ := j.Overdue(a, start.Add(20*time.Minute)); why != job.IntentStall {
		t.Errorf("not stalled after 11 minutes: %s", why)
	}
	step(2, start.Add(61*time.Minute))
	if why, _ := j.Overdue(a, start.Add(61*time.Minute)); why != job.IntentTimeLimit {
		t.Errorf("not over its hour: %s", why)
	}
}

func TestDataOutageIsPatientForItsTime(t *testing.T) {
	t.Parallel()
	j, a := running(t, job.Spec{StallLimit: time.Minute})
	j, a = j.Observe(a, a.Agent, job.Sight{Training: true, NoData: true}, t0)
	j, a = j.Observe(a, a.Agent, job.Sight{Training: true, NoData: true}, t0.Add(14*time.Minute))
	if why, _ := j.Overdue(a, t0.Add(15*time.Minute)); why != job.NoIntent {
		t.Errorf("stopped early: %s", why)
	}
	if why, _ := j.Overdue(a, t0.Add(15*time.Minute+time.Second)); why != job.IntentData {
		t.Errorf("not stopped: %s", why)
	}
	j, a = j.Observe(a, a.Agent, job.Sight{Training: true, Progress: &job.Progress{Step: 3}}, t0.Add(15*time.Minute))
	if why, _ := j.Overdue(a, t0.Add(15*time.Minute+time.Second)); why != job.NoIntent {
		t.Errorf("stopped although the data came back: %s", why)
	}
}

func TestVerbs(t *testing.T) {
	t.Parallel()
	j, a := running(t, job.Spec{})
	if _, err := j.Reprioritize(job.Production, t0); err == nil {
		t.Error("a running job changed its class")
	}
	p, err := j.Hold(&a, "paused by ann", t0)
	if err != nil || p.State != job.Stopping || a.Phase != job.Ending || a.Grace != job.DefaultStopGrace {
		t.Fatalf("pause: %s, %s, %v", p.State, a.Phase, err)
	}
	if _, err := p.Resume("ann", t0); err == nil {
		t.Error("resumed while stopping")
	}
	c := p.Cancel(&a, "cancelled by ann", t0)
	if c.Intent != job.IntentCancel {
		t.Errorf("cancel after pause: intent %s", c.Intent)
	}
	if d := c.Stop(&a, job.IntentPreempt, "preempted", t0); d.Intent != job.IntentCancel {
		t.Errorf("a preemption replaced a cancel: %s", d.Intent)
	}
	c, _, _ = c.End(a, job.Exit{Outcome: job.OutcomeStopped}, job.DefaultPolicy(), nil, t0)
	if c.State != job.Cancelled || c.Cancel(nil, "again", t0.Add(time.Hour)).Reason != "cancelled by ann" {
		t.Errorf("cancelled twice: %s, %s", c.State, c.Reason)
	}
	if _, err := c.Hold(nil, "late", t0); err == nil {
		t.Error("a final job was paused")
	}
}
