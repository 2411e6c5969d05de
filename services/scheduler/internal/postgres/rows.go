package postgres

import (
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/cycle"
	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/job"
)

const jobColumns = `id::text, revision, place, submitter, spec, payload, traceparent, submit_time, priority, state, reason, intent, pause,
	not_before, batch, accumulate, rate_scale, spent, free, attempts, fence, failure, checkpoint, warnings, update_time, wait_time, start_time, end_time`

func scanJob(r pgx.CollectableRow) (job.Job, error) {
	var (
		j                                       job.Job
		revision, fence                         int64
		priority, state, intent, pause, failure string
		spent                                   map[string]int
		notBefore, started, finished            *time.Time
		payload                                 []byte
	)
	err := r.Scan(&j.ID, &revision, &j.Place, &j.Submitter, &j.Spec, &payload, &j.Trace, &j.Submitted, &priority, &state, &j.Reason, &intent, &pause,
		&notBefore, &j.Batch, &j.Accumulate, &j.RateScale, &spent, &j.Free, &j.Attempts, &fence, &failure, &j.Checkpoint, &j.Warnings, &j.Updated, &j.Waiting,
		&started, &finished)
	if err != nil {
		return j, err
	}
	j.Spec.Payload = payload
	j.Revision, j.Fence = uint64(revision), uint64(fence)
	j.Priority, j.State, j.Intent = job.ParsePriority(priority), job.ParseState(state), job.ParseIntent(intent)
	j.Pause, j.Failure, j.Spent = job.ParsePauseCause(pause), job.ParseFailure(failure), job.SpentOf(spent)
	j.NotBefore, j.Started, j.Finished = timeOf(notBefore), timeOf(started), timeOf(finished)
	if len(j.Warnings) == 0 {
		j.Warnings = nil
	}
	return j, nil
}

const attemptColumns = `job_id::text, number, fence, agent, shares, cpu_millis, host_bytes, batch, accumulate, rate_scale, restore, why, traceparent,
	create_time, phase, known, isolation, progress, grace_ms, outcome, failure, evidence, start_time, advance_time, outage_time, end_time`

func scanAttempt(r pgx.CollectableRow) (job.Attempt, error) {
	var (
		a                                job.Attempt
		fence, grace                     int64
		phase, outcome, failure          string
		started, advanced, outage, ended *time.Time
	)
	err := r.Scan(&a.Job, &a.Number, &fence, &a.Agent, &a.Shares, &a.CPUMillis, &a.HostBytes, &a.Batch, &a.Accumulate, &a.RateScale, &a.Restore, &a.Why, &a.Trace,
		&a.Created, &phase, &a.Known, &a.Isolation, &a.Progress, &grace, &outcome, &failure, &a.Evidence, &started, &advanced, &outage, &ended)
	if err != nil {
		return a, err
	}
	a.Fence, a.Grace = uint64(fence), time.Duration(grace)*time.Millisecond
	a.Phase, a.Outcome, a.Failure = job.ParsePhase(phase), job.ParseOutcome(outcome), job.ParseFailure(failure)
	a.Started, a.Advanced, a.Outage, a.Ended = timeOf(started), timeOf(advanced), timeOf(outage), timeOf(ended)
	if len(a.Shares) == 0 {
		a.Shares = nil
	}
	return a, nil
}

func scanAgent(r pgx.CollectableRow) (cycle.Agent, error) {
	var (
		a        cycle.Agent
		revision int64
		cordon   string
	)
	err := r.Scan(&a.Name, &revision, &a.Incarnation, &a.Version, &a.Address, &a.Labels, &a.CPUMillis, &a.HostBytes, &a.Devices,
		&a.DataOK, &a.RegistryOK, &cordon, &a.CordonReason, &a.Lost, &a.Updated)
	a.Revision, a.Cordon = uint64(revision), cycle.ParseCordon(cordon)
	return a, err
}

func nullTime(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

func timeOf(t *time.Time) time.Time {
	if t == nil {
		return time.Time{}
	}
	return *t
}

// orNone keeps a nil slice from becoming the JSON word null.
func orNone[T any](v []T) []T {
	if v == nil {
		return []T{}
	}
	return v
}

func orEmpty(m map[string]string) map[string]string {
	if m == nil {
		return map[string]string{}
	}
	return m
}
