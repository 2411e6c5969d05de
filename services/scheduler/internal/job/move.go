package job

import (
	"fmt"
	"time"
)

// IllegalError says that a verb does not apply in the job's state.
type IllegalError struct {
	Job   string
	Verb  string
	State State
}

func (e *IllegalError) Error() string {
	return fmt.Sprintf("job %s is %s and cannot be %s", e.Job, e.State, e.Verb)
}

// Assignment is where the planner put a job.
type Assignment struct {
	Agent  string
	Shares []Share
	// Others are a gang's parts on further hosts, by rank from 1.
	Others []Member
	Why    string
	Trace  string
}

// Assign starts the next attempt of a queued job under a new fence.
func (j Job) Assign(to Assignment, fence uint64, now time.Time) (Job, Attempt, error) {
	if j.State != Queued || j.Blocked() {
		return j, Attempt{}, &IllegalError{j.ID, "placed", j.State}
	}
	if fence <= j.Fence {
		return j, Attempt{}, fmt.Errorf("job %s: fence %d does not grow past %d", j.ID, fence, j.Fence)
	}
	j.Attempts++
	j.Fence = fence
	j.State = Starting
	j.Reason = "starting on " + to.Agent
	j.NotBefore = time.Time{}
	j.Updated = now
	if j.Started.IsZero() {
		j.Started = now
	}
	return j, Attempt{
		Job: j.ID, Number: j.Attempts, Fence: fence, Agent: to.Agent, Shares: to.Shares, Others: to.Others,
		CPUMillis: j.Spec.Demand.CPUMillis, HostBytes: j.Spec.Demand.HostBytes,
		Phase: Assigned, Created: now, Advanced: now,
		Batch: j.Batch, Accumulate: j.Accumulate, RateScale: j.RateScale, Restore: j.Checkpoint,
		Why: to.Why, Trace: to.Trace,
	}, nil
}

// Sight is what one report says about a live attempt.
type Sight struct {
	Training  bool
	NoData    bool
	Isolation string
	Progress  *Progress
}

// Observe folds an agent's report of a live attempt into it: the trainer runs,
// and this is how far it is. A report of an attempt that is not the job's
// newest changes nothing. Of a gang, the first host speaks for all.
func (j Job) Observe(a Attempt, agent string, s Sight, now time.Time) (Job, Attempt) {
	if a.Job != j.ID || a.Fence != j.Fence || !a.Live() || !j.State.Live() {
		return j, a
	}
	a.know(agent)
	if a.Agent != agent {
		return j, a
	}
	a.Isolation = s.Isolation
	switch {
	case !s.NoData:
		a.Outage = time.Time{}
	case a.Outage.IsZero():
		a.Outage = now
	}
	if s.Training && a.Phase == Assigned {
		a.Phase, a.Started, a.Advanced = Training, now, now
		if j.State == Starting {
			j.State, j.Reason, j.Updated = Running, "training on "+a.Agent, now
		}
	}
	if s.Progress == nil {
		return j, a
	}
	p := *s.Progress
	if p.Checkpoint.ID == "" {
		// An agent that restarted may not know of a checkpoint that it has
		// reported before; what is committed stays committed.
		p.Checkpoint = a.Progress.Checkpoint
	}
	if p.Step > a.Progress.Step {
		a.Advanced = now
	}
	if !p.Same(a.Progress) {
		a.Progress = p
	}
	if p.Checkpoint.ID != "" && p.Checkpoint != j.Checkpoint {
		j.Checkpoint, j.Free, j.Updated = p.Checkpoint, 0, now
	}
	return j, a
}

// Cancel ends a waiting job, or asks a live attempt to stop for good.
// A final job is left as it is: a person's retry must not fail.
func (j Job) Cancel(a *Attempt, why string, now time.Time) Job {
	switch {
	case j.State.Terminal():
		return j
	case j.State.Live():
		return j.Stop(a, IntentCancel, why, now)
	}
	return j.finish(Cancelled, why, now)
}

// Hold pauses a waiting job, or asks a live attempt to checkpoint and stop.
func (j Job) Hold(a *Attempt, why string, now time.Time) (Job, error) {
	switch {
	case j.State.Terminal() || j.Intent == IntentCancel:
		return j, &IllegalError{j.ID, "paused", j.State}
	case j.State == Paused:
		j.Pause, j.Reason, j.Updated = PausedByPerson, why, now
		return j, nil
	case j.State.Live():
		return j.Stop(a, IntentPause, why, now), nil
	}
	// A pause ends a backoff: when a person resumes the job, its time has come.
	j.State, j.Pause, j.NotBefore, j.Reason, j.Updated = Paused, PausedByPerson, time.Time{}, why, now
	return j, nil
}

// Resume puts a paused job back at its old place in line. Resuming a job that
// waits or runs changes nothing.
func (j Job) Resume(who string, now time.Time) (Job, error) {
	switch {
	case j.State.Terminal() || j.State == Stopping:
		return j, &IllegalError{j.ID, "resumed", j.State}
	case j.State != Paused:
		return j, nil
	}
	if j.Pause == PausedByDependency {
		j.waive(who)
	}
	j.State, j.Pause, j.NotBefore = Queued, NotPaused, time.Time{}
	j.Reason, j.Waiting, j.Updated = "resumed by "+who, now, now
	return j, nil
}

// Reprioritize moves a waiting job to another class. It keeps its place by age
// there. A running one is refused: its class has already had its effect.
func (j Job) Reprioritize(p Priority, now time.Time) (Job, error) {
	if j.State != Queued && j.State != Paused {
		return j, &IllegalError{j.ID, "reprioritized", j.State}
	}
	if j.Priority != p {
		j.Priority, j.Updated = p, now
	}
	return j, nil
}

// DefaultStopGrace is how long a trainer may take to save a checkpoint when its
// specification says nothing.
const DefaultStopGrace = 30 * time.Second

// DataPatience is how long an attempt trains on from its cache without the data
// service before the job is paused and its devices are released.
const DataPatience = 15 * time.Minute

// Stop asks a live attempt to end. A stronger intent replaces a weaker one, and
// never the other way round: a cancel must not turn into a preemption.
func (j Job) Stop(a *Attempt, why Intent, reason string, now time.Time) Job {
	if !j.State.Live() || why <= j.Intent {
		return j
	}
	j.State, j.Intent, j.Reason, j.Updated = Stopping, why, reason, now
	if a != nil && a.Phase != Ending && a.Live() {
		grace := j.Spec.StopGrace
		if grace <= 0 {
			grace = DefaultStopGrace
		}
		a.Phase, a.Grace = Ending, grace
	}
	return j
}

// Overdue names the limit that a live attempt has broken, if any. A trainer
// that has not begun is judged by the run limit alone: loading data is no stall.
func (j Job) Overdue(a Attempt, now time.Time) (Intent, string) {
	if j.State != Running || a.Fence != j.Fence || a.Phase != Training {
		return NoIntent, ""
	}
	if !a.Outage.IsZero() && now.Sub(a.Outage) > DataPatience {
		return IntentData, fmt.Sprintf("no training data for %s", DataPatience)
	}
	if l := j.Spec.RunLimit; l > 0 && now.Sub(a.Started) > l {
		return IntentTimeLimit, fmt.Sprintf("ran longer than its limit of %s", l)
	}
	if l := j.Spec.StallLimit; l > 0 && a.Outage.IsZero() && now.Sub(a.Advanced) > l {
		return IntentStall, fmt.Sprintf("no step for %s (limit %s), last step %d", now.Sub(a.Advanced).Round(time.Second), l, a.Progress.Step)
	}
	return NoIntent, ""
}

func (j Job) finish(s State, reason string, now time.Time) Job {
	j.State, j.Reason, j.Intent, j.Pause, j.NotBefore = s, reason, NoIntent, NotPaused, time.Time{}
	j.Finished, j.Updated = now, now
	return j
}

// requeue puts the job back at the same place in line.
func (j Job) requeue(reason string, notBefore, now time.Time) Job {
	j.State, j.Reason, j.Intent, j.Pause, j.NotBefore = Queued, reason, NoIntent, NotPaused, notBefore
	j.Waiting, j.Updated = now, now
	return j
}
