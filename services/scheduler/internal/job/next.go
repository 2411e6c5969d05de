package job

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"time"
)

// Policy is the rules of retry that hold for every job.
type Policy struct {
	// Budgets is how many retries each class may spend in one job's life. A
	// class without an entry has none.
	Budgets map[Failure]int
	// FreeCap bounds requeues that cost no retry, counted since the last
	// committed checkpoint: a flapping host must not hold a job for ever.
	FreeCap int
	// Base and Ceiling bound the exponential backoff.
	Base, Ceiling time.Duration
	// DivergedScale multiplies the learning rate after a divergence.
	DivergedScale float64
}

// DefaultPolicy is the policy of the design's failure table.
func DefaultPolicy() Policy {
	return Policy{
		Budgets: map[Failure]int{
			DeviceOOM: 6, HostOOM: 3, Crash: 3, Network: 5, Diverged: 1, Stalled: 2, TimeLimit: 0,
		},
		FreeCap: 12, Base: 2 * time.Second, Ceiling: 5 * time.Minute, DivergedScale: 0.3,
	}
}

// Exit is how an attempt ended, as its agent's journal or the scheduler's own
// clock tells it.
type Exit struct {
	Outcome  Outcome
	Failure  Failure
	Evidence Evidence
	Progress *Progress
}

// End applies an exit to a job and its live attempt. It is the whole table of
// what comes next. An exit of an attempt that is not the newest, or that has
// ended, changes nothing and reports false: that is what makes a repeated
// report harmless.
func (j Job) End(a Attempt, e Exit, p Policy, rng *rand.Rand, now time.Time) (Job, Attempt, bool) {
	if a.Job != j.ID || a.Fence != j.Fence || !a.Live() || !j.State.Live() {
		return j, a, false
	}
	if e.Progress != nil {
		last := *e.Progress
		if last.Checkpoint.ID == "" {
			last.Checkpoint = a.Progress.Checkpoint
		}
		a.Progress = last
	}
	if c := a.Progress.Checkpoint; c.ID != "" && c != j.Checkpoint {
		j.Checkpoint, j.Free = c, 0
	}
	e = j.reclass(e)
	a.Phase, a.Ended, a.Outcome, a.Failure, a.Evidence = Ended, now, e.Outcome, e.Failure, e.Evidence
	j.Failure = e.Failure
	return j.next(&a, e, p, rng, now), a, true
}

// reclass lets the intent speak before the exit code: a trainer that dies of
// the kill after a preemption has not crashed.
func (j Job) reclass(e Exit) Exit {
	if e.Outcome == OutcomeSucceeded {
		e.Failure = NoFailure
		return e
	}
	stopped := func(f Failure) Exit {
		e.Outcome, e.Failure = OutcomeStopped, f
		return e
	}
	switch j.Intent {
	case IntentCancel, IntentPause:
		if e.Outcome == OutcomeStopped {
			e.Failure = NoFailure
		}
	case IntentPreempt:
		if e.Failure != BadConfiguration && e.Failure != Diverged {
			return stopped(Preempted)
		}
	case IntentDrain:
		if e.Failure != BadConfiguration && e.Failure != Diverged {
			return stopped(Drained)
		}
	case IntentStall:
		return stopped(Stalled)
	case IntentTimeLimit:
		return stopped(TimeLimit)
	case IntentData:
		return stopped(DataUnavailable)
	case NoIntent:
		if e.Outcome == OutcomeStopped && e.Failure == NoFailure {
			// The host stopped it without being asked: a shutdown or a
			// self-fence. The job is not to blame.
			e.Failure = AgentLost
		}
	}
	if e.Outcome == OutcomeFailed && e.Failure == NoFailure {
		e.Failure = Crash
	}
	return e
}

func (j Job) next(a *Attempt, e Exit, p Policy, rng *rand.Rand, now time.Time) Job {
	if e.Outcome == OutcomeSucceeded {
		return j.finish(Succeeded, "finished", now)
	}
	switch j.Intent {
	case IntentCancel:
		return j.finish(Cancelled, j.Reason, now)
	case IntentPause:
		if e.Failure != BadConfiguration {
			reason := j.Reason
			j = j.requeue(reason, time.Time{}, now)
			j.State, j.Pause = Paused, PausedByPerson
			return j
		}
	}
	switch e.Failure {
	case BadConfiguration:
		return j.finish(Failed, sentence("its configuration is wrong", e.Evidence.Summary()), now)
	case DeviceOOM:
		if !j.Alone && j.guessed(a) {
			return j.alone(a, now)
		}
		return j.shrink(e, p, now)
	case NeighbourOOM:
		return j.free("a neighbour took its device memory; retried free of charge", e, p, now)
	case AgentLost:
		return j.free("its host was lost", e, p, now)
	case Preempted:
		return j.requeue("preempted by a job of a higher class; keeps its place", time.Time{}, now)
	case Drained:
		return j.requeue("its host is being drained; keeps its place", time.Time{}, now)
	case DataUnavailable:
		j = j.requeue(sentence("paused: its data service is unreachable; resumes by itself", e.Evidence.Summary()), time.Time{}, now)
		j.State, j.Pause = Paused, PausedByDataOutage
		return j
	case Diverged:
		return j.diverged(e, p, now)
	case HostOOM, Crash, Network, Stalled, TimeLimit:
		return j.retry(e, p, rng, now)
	}
	return j.retry(e, p, rng, now)
}

// guessed reports whether an attempt had less than a whole device by a reservation that
// nobody asked for: one that was learned, or the default.
func (j Job) guessed(a *Attempt) bool {
	return slices.ContainsFunc(j.Spec.Demand.Devices, func(g DeviceDemand) bool { return g.Learn }) &&
		slices.ContainsFunc(a.Shares, func(s Share) bool { return !s.Whole })
}

// alone gives a job whole devices from now on. The mistake was not its own: neither its
// batch nor its retries pay.
func (j Job) alone(a *Attempt, now time.Time) Job {
	j.Alone = true
	j.warn(fmt.Sprintf("out of device memory with %d MiB, which nobody had asked for: it gets whole devices", a.Shares[0].Bytes>>20))
	return j.requeue("out of device memory with a reservation that nobody had asked for; gets a whole device and keeps its place", time.Time{}, now)
}

// shrink halves the batch and doubles the accumulation, so that the effective
// batch stays what the person asked for.
func (j Job) shrink(e Exit, p Policy, now time.Time) Job {
	floor := max(j.Spec.MinBatch, 1)
	if j.Batch == 0 {
		j.Batch = j.Spec.UsualBatch
	}
	half := j.Batch / 2
	if j.Batch == 0 {
		return j.finish(Failed, sentence("out of device memory; set batch_size, so that it can be halved, or reserve more memory", e.Evidence.Summary()), now)
	}
	if n := j.budget(DeviceOOM, p); j.Spent[DeviceOOM] >= n {
		return j.finish(Failed, sentence(fmt.Sprintf("out of device memory after %d halvings, at batch size %d", n, j.Batch), e.Evidence.Summary()), now)
	}
	if half < floor {
		return j.finish(Failed, sentence(fmt.Sprintf("out of device memory at batch size %d, the floor is %d", j.Batch, floor), e.Evidence.Summary()), now)
	}
	j.Spent[DeviceOOM]++
	j.warn(fmt.Sprintf("out of device memory at batch size %d: continuing with %d and %d accumulation steps", j.Batch, half, j.Accumulate*2))
	j.Batch, j.Accumulate = half, j.Accumulate*2
	return j.requeue(fmt.Sprintf("out of device memory; retrying with batch size %d", half), time.Time{}, now)
}

func (j Job) free(why string, e Exit, p Policy, now time.Time) Job {
	j.Free++
	if p.FreeCap > 0 && j.Free > p.FreeCap {
		return j.finish(Failed, sentence(fmt.Sprintf("%s, %d times without a new checkpoint in between", why, j.Free), e.Evidence.Summary()), now)
	}
	return j.requeue(why+"; keeps its place", time.Time{}, now)
}

func (j Job) diverged(e Exit, p Policy, now time.Time) Job {
	if j.Spent[Diverged] >= j.budget(Diverged, p) {
		return j.finish(Failed, sentence("training diverged again", e.Evidence.Summary()), now)
	}
	j.Spent[Diverged]++
	j.RateScale *= p.DivergedScale
	j.warn(fmt.Sprintf("training diverged: rolled back to step %d with the learning rate times %.3g", j.Checkpoint.Step, j.RateScale))
	return j.requeue("training diverged; rolled back once with a lower learning rate", time.Time{}, now)
}

func (j Job) retry(e Exit, p Policy, rng *rand.Rand, now time.Time) Job {
	budget := j.budget(e.Failure, p)
	spent := j.Spent[e.Failure]
	if spent >= budget {
		// It never got as far as a checkpoint, whatever it was given: whoever runs
		// it again burns a device for nothing.
		if j.Poison = spent > 0 && j.Checkpoint.ID == "" && (e.Failure == Crash || e.Failure == HostOOM); j.Poison {
			return j.finish(Failed, sentence(fmt.Sprintf("poison: %s at each of its %d starts and never came to a checkpoint", phrase(e.Failure), j.Attempts), e.Evidence.Summary()), now)
		}
		after := ", not retried"
		if budget > 0 {
			after = fmt.Sprintf(", retries spent: %d of %d", spent, budget)
		}
		return j.finish(Failed, sentence(phrase(e.Failure)+after, e.Evidence.Summary()), now)
	}
	j.Spent[e.Failure]++
	wait := Backoff(spent, p.Base, p.Ceiling, rng)
	return j.requeue(fmt.Sprintf("%s; retry %d of %d after %s, keeps its place",
		phrase(e.Failure), spent+1, budget, wait.Round(100*time.Millisecond)), now.Add(wait), now)
}

func (j Job) budget(f Failure, p Policy) int {
	if n, ok := j.Spec.Budgets[f.String()]; ok {
		return n
	}
	return p.Budgets[f]
}

// Backoff draws a wait with full jitter: uniform between zero and the doubled
// bound. Equal jitter would keep half of a thundering herd together.
func Backoff(spent int, base, ceiling time.Duration, rng *rand.Rand) time.Duration {
	bound := base
	for range spent {
		if bound >= ceiling {
			break
		}
		bound *= 2
	}
	bound = min(bound, ceiling)
	if bound <= 0 {
		return 0
	}
	return time.Duration(rng.Int64N(int64(bound) + 1))
}

// Lose ends an attempt whose agent is gone.
func (j Job) Lose(a Attempt, why string, p Policy, rng *rand.Rand, now time.Time) (Job, Attempt, bool) {
	return j.End(a, Exit{Outcome: OutcomeStopped, Failure: AgentLost, Evidence: Evidence{Message: why}}, p, rng, now)
}

// Late accepts the success of an attempt that had been given up for lost, as
// long as nothing newer has begun: training it again would only burn a device.
// Any other late exit changes nothing.
func (j Job) Late(a Attempt, e Exit, now time.Time) (Job, Attempt, bool) {
	if a.Fence != j.Fence || a.Live() || a.Failure != AgentLost || e.Outcome != OutcomeSucceeded || j.State != Queued {
		return j, a, false
	}
	a.Outcome, a.Failure, a.Evidence = OutcomeSucceeded, NoFailure, e.Evidence
	if e.Progress != nil {
		a.Progress = *e.Progress
		if a.Progress.Checkpoint.ID != "" {
			j.Checkpoint = a.Progress.Checkpoint
		}
	}
	j.Failure = NoFailure
	return j.finish(Succeeded, "finished while its host was out of contact", now), a, true
}

// DataBack wakes a job that a data outage paused.
func (j Job) DataBack(now time.Time) (Job, bool) {
	if j.State != Paused || j.Pause != PausedByDataOutage {
		return j, false
	}
	return j.requeue("its data service is reachable again", time.Time{}, now), true
}

func phrase(f Failure) string {
	switch f {
	case HostOOM:
		return "out of host memory"
	case Network:
		return "a network failure"
	case Stalled:
		return "stalled"
	case TimeLimit:
		return "over its time limit"
	}
	return "crashed"
}

func sentence(head, detail string) string {
	if detail == "" {
		return head
	}
	return head + ": " + detail
}
