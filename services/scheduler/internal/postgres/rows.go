package postgres

import (
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/cycle"
	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/job"
	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/learn"
)

const jobColumns = `id::text, revision, place, submitter, spec, payload, traceparent, submit_time, priority, state, reason, intent, pause,
	not_before, batch, accumulate, rate_scale, spent, free, attempts, fence, failure, checkpoint, warnings, update_time, wait_time, start_time, end_time,
	coalesce(array_id::text, ''), array_index, coalesce(graph_id::text, ''), graph_node, coalesce(schedule_id::text, ''), after, poison, alone`

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
		&started, &finished, &j.Origin.Array, &j.Origin.Index, &j.Origin.Graph, &j.Origin.Node, &j.Origin.Schedule, &j.After, &j.Poison, &j.Alone)
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
	if len(j.After) == 0 {
		j.After = nil
	}
	return j, nil
}

const attemptColumns = `job_id::text, number, fence, agent, shares, cpu_millis, host_bytes, batch, accumulate, rate_scale, restore, why, traceparent,
	create_time, phase, known, isolation, progress, grace_ms, outcome, failure, evidence, start_time, advance_time, outage_time, end_time,
	others, first_ended, verdict`

func scanAttempt(r pgx.CollectableRow) (job.Attempt, error) {
	var (
		a                                job.Attempt
		fence, grace                     int64
		phase, outcome, failure          string
		started, advanced, outage, ended *time.Time
	)
	err := r.Scan(&a.Job, &a.Number, &fence, &a.Agent, &a.Shares, &a.CPUMillis, &a.HostBytes, &a.Batch, &a.Accumulate, &a.RateScale, &a.Restore, &a.Why, &a.Trace,
		&a.Created, &phase, &a.Known, &a.Isolation, &a.Progress, &grace, &outcome, &failure, &a.Evidence, &started, &advanced, &outage, &ended,
		&a.Others, &a.FirstEnded, &a.Verdict)
	if err != nil {
		return a, err
	}
	a.Fence, a.Grace = uint64(fence), time.Duration(grace)*time.Millisecond
	a.Phase, a.Outcome, a.Failure = job.ParsePhase(phase), job.ParseOutcome(outcome), job.ParseFailure(failure)
	a.Started, a.Advanced, a.Outage, a.Ended = timeOf(started), timeOf(advanced), timeOf(outage), timeOf(ended)
	if len(a.Shares) == 0 {
		a.Shares = nil
	}
	if len(a.Others) == 0 {
		a.Others = nil
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

const arrayColumns = `id::text, revision, template, count, max_parallel, submitter, create_time, broken`

func arrayInto(a *cycle.Array, revision *int64) []any {
	return []any{&a.ID, revision, &a.Template, &a.Count, &a.Max, &a.Submitter, &a.Created, &a.Broken}
}

func scanArray(r pgx.CollectableRow) (cycle.Array, error) {
	var a cycle.Array
	var revision int64
	err := r.Scan(arrayInto(&a, &revision)...)
	a.Revision = uint64(revision)
	return a, err
}

// scanArrayView reads an array and, behind its columns, its counts by state.
func scanArrayView(r pgx.CollectableRow) (cycle.ArrayView, error) {
	var v cycle.ArrayView
	var revision int64
	var counts map[string]int
	if err := r.Scan(append(arrayInto(&v.Array, &revision), &counts)...); err != nil {
		return v, err
	}
	v.Revision, v.Counts = uint64(revision), make(map[job.State]int, len(counts))
	for state, n := range counts {
		v.Counts[job.ParseState(state)] = n
	}
	return v, nil
}

func scanSchedule(r pgx.CollectableRow) (cycle.Schedule, error) {
	var (
		x                cycle.Schedule
		revision         int64
		overlap, catchUp string
		fired            *time.Time
	)
	err := r.Scan(&x.Name, &x.ID, &revision, &x.Payload, &x.Cron, &x.Zone, &overlap, &catchUp, &x.Paused, &x.Submitter, &x.Created, &x.Done, &fired,
		&x.Result, &x.Job, &x.Skipped)
	x.Revision, x.Overlap, x.CatchUp, x.Fired = uint64(revision), cycle.ParseOverlap(overlap), cycle.ParseCatchUp(catchUp), timeOf(fired)
	return x, err
}

func scanQuota(r pgx.CollectableRow) (cycle.Quota, error) {
	var q cycle.Quota
	var revision int64
	err := r.Scan(&q.Tenant, &revision, &q.Cohort, &q.Weight, &q.Devices, &q.MaxJobs)
	q.Revision = uint64(revision)
	return q, err
}

func scanPeak(r pgx.CollectableRow) (learn.Peak, error) {
	var p learn.Peak
	var took int64
	err := r.Scan(&p.Key, &p.Bytes, &took, &p.Runs, &p.At)
	p.Took = time.Duration(took) * time.Millisecond
	return p, err
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
