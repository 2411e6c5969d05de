package postgres

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/job"
)

// column is one column of a bulk statement: its SQL, and how it is read off the
// rows. One statement for all rows of a kind costs the server a tenth of one
// statement per row.
type column[R any] struct {
	name, sql string
	values    func(rows []R) any
}

func col[R, T any](name, sql string, get func(*R) T) column[R] {
	return column[R]{name, sql, func(rows []R) any {
		out := make([]T, len(rows))
		for i := range rows {
			out[i] = get(&rows[i])
		}
		return out
	}}
}

func args[R any](columns []column[R], rows []R) []any {
	out := make([]any, len(columns))
	for i, c := range columns {
		out[i] = c.values(rows)
	}
	return out
}

// unnest lists the parameters and the names of columns.
func unnest[R any](columns []column[R]) (params, names string) {
	p, n := make([]string, len(columns)), make([]string, len(columns))
	for i, c := range columns {
		p[i], n[i] = fmt.Sprintf("$%d::%s[]", i+1, c.sql), c.name
	}
	return strings.Join(p, ", "), strings.Join(n, ", ")
}

func insertSQL[R any](table string, columns []column[R]) string {
	params, names := unnest(columns)
	return fmt.Sprintf("INSERT INTO %s (%s) SELECT * FROM unnest(%s)", table, names, params)
}

// updateSQL matches rows by the first keys columns and writes the others.
func updateSQL[R any](table string, keys int, columns []column[R]) string {
	params, names := unnest(columns)
	var where, set []string
	for i, c := range columns {
		pair := fmt.Sprintf("%s = u.%s", c.name, c.name)
		if i < keys {
			where = append(where, table+"."+pair)
		} else {
			set = append(set, pair)
		}
	}
	return fmt.Sprintf("UPDATE %s SET %s FROM unnest(%s) AS u (%s) WHERE %s", table, strings.Join(set, ", "), params, names, strings.Join(where, " AND "))
}

// bulk queues one statement for all rows, if there are any.
func bulk[R any](b *pgx.Batch, sql string, columns []column[R], rows []R) {
	if len(rows) > 0 {
		b.Queue(sql, args(columns, rows)...)
	}
}

// text is a value as JSON. What the scheduler stores always has a JSON form:
// floats are made finite where they come in.
func text(v any) string {
	raw, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("a value without a JSON form: %v", err))
	}
	return string(raw)
}

func nullText[T any](v *T) *string {
	if v == nil {
		return nil
	}
	s := text(v)
	return &s
}

func nullID(id string) *string {
	if id == "" {
		return nil
	}
	return &id
}

// What was asked for never changes; what came of it does.
var jobGiven = []column[job.Job]{
	col("id", "uuid", func(j *job.Job) string { return j.ID }),
	col("revision", "bigint", func(j *job.Job) int64 { return int64(j.Revision) }),
	col("place", "bigint", func(j *job.Job) int64 { return j.Place }),
	col("display_name", "text", func(j *job.Job) string { return j.Spec.Name }),
	col("experiment", "text", func(j *job.Job) string { return j.Spec.Experiment }),
	col("tenant", "text", func(j *job.Job) string { return j.Spec.Tenant }),
	col("submitter", "text", func(j *job.Job) string { return j.Submitter }),
	col("spec", "jsonb", func(j *job.Job) string { return text(j.Spec) }),
	col("payload", "bytea", func(j *job.Job) []byte { return j.Spec.Payload }),
	col("traceparent", "text", func(j *job.Job) string { return j.Trace }),
	col("submit_time", "timestamptz", func(j *job.Job) time.Time { return j.Submitted }),
	col("array_id", "uuid", func(j *job.Job) *string { return nullID(j.Origin.Array) }),
	col("array_index", "integer", func(j *job.Job) int32 { return int32(j.Origin.Index) }),
	col("graph_id", "uuid", func(j *job.Job) *string { return nullID(j.Origin.Graph) }),
	col("graph_node", "text", func(j *job.Job) string { return j.Origin.Node }),
	col("schedule_id", "uuid", func(j *job.Job) *string { return nullID(j.Origin.Schedule) }),
}

var jobMoving = []column[job.Job]{
	col("revision", "bigint", func(j *job.Job) int64 { return int64(j.Revision) }),
	col("priority", "text", func(j *job.Job) string { return j.Priority.String() }),
	col("state", "text", func(j *job.Job) string { return j.State.String() }),
	col("reason", "text", func(j *job.Job) string { return j.Reason }),
	col("intent", "text", func(j *job.Job) string { return j.Intent.String() }),
	col("pause", "text", func(j *job.Job) string { return j.Pause.String() }),
	col("not_before", "timestamptz", func(j *job.Job) *time.Time { return nullTime(j.NotBefore) }),
	col("batch", "integer", func(j *job.Job) int32 { return int32(j.Batch) }),
	col("accumulate", "integer", func(j *job.Job) int32 { return int32(j.Accumulate) }),
	col("rate_scale", "double precision", func(j *job.Job) float64 { return j.RateScale }),
	col("spent", "jsonb", func(j *job.Job) string { return text(j.Spent.Map()) }),
	col("free", "integer", func(j *job.Job) int32 { return int32(j.Free) }),
	col("attempts", "integer", func(j *job.Job) int32 { return int32(j.Attempts) }),
	col("fence", "bigint", func(j *job.Job) int64 { return int64(j.Fence) }),
	col("failure", "text", func(j *job.Job) string { return j.Failure.String() }),
	col("checkpoint", "jsonb", func(j *job.Job) string { return text(j.Checkpoint) }),
	col("warnings", "jsonb", func(j *job.Job) string { return text(orNone(j.Warnings)) }),
	col("poison", "boolean", func(j *job.Job) bool { return j.Poison }),
	col("alone", "boolean", func(j *job.Job) bool { return j.Alone }),
	col("after", "jsonb", func(j *job.Job) string { return text(orNone(j.After)) }),
	col("update_time", "timestamptz", func(j *job.Job) time.Time { return j.Updated }),
	col("wait_time", "timestamptz", func(j *job.Job) time.Time { return j.Waiting }),
	col("start_time", "timestamptz", func(j *job.Job) *time.Time { return nullTime(j.Started) }),
	col("end_time", "timestamptz", func(j *job.Job) *time.Time { return nullTime(j.Finished) }),
}

var attemptGiven = []column[job.Attempt]{
	col("job_id", "uuid", func(a *job.Attempt) string { return a.Job }),
	col("number", "integer", func(a *job.Attempt) int32 { return int32(a.Number) }),
	col("fence", "bigint", func(a *job.Attempt) int64 { return int64(a.Fence) }),
	col("agent", "text", func(a *job.Attempt) string { return a.Agent }),
	col("shares", "jsonb", func(a *job.Attempt) string { return text(orNone(a.Shares)) }),
	col("cpu_millis", "bigint", func(a *job.Attempt) int64 { return a.CPUMillis }),
	col("host_bytes", "bigint", func(a *job.Attempt) int64 { return a.HostBytes }),
	col("batch", "integer", func(a *job.Attempt) int32 { return int32(a.Batch) }),
	col("accumulate", "integer", func(a *job.Attempt) int32 { return int32(a.Accumulate) }),
	col("rate_scale", "double precision", func(a *job.Attempt) float64 { return a.RateScale }),
	col("restore", "jsonb", func(a *job.Attempt) string { return text(a.Restore) }),
	col("why", "text", func(a *job.Attempt) string { return a.Why }),
	col("traceparent", "text", func(a *job.Attempt) string { return a.Trace }),
	col("create_time", "timestamptz", func(a *job.Attempt) time.Time { return a.Created }),
}

var attemptMoving = []column[job.Attempt]{
	col("phase", "text", func(a *job.Attempt) string { return a.Phase.String() }),
	col("known", "boolean", func(a *job.Attempt) bool { return a.Known }),
	col("isolation", "text", func(a *job.Attempt) string { return a.Isolation }),
	col("progress", "jsonb", func(a *job.Attempt) string { return text(a.Progress) }),
	col("grace_ms", "bigint", func(a *job.Attempt) int64 { return a.Grace.Milliseconds() }),
	col("outcome", "text", func(a *job.Attempt) string { return a.Outcome.String() }),
	col("failure", "text", func(a *job.Attempt) string { return a.Failure.String() }),
	col("evidence", "jsonb", func(a *job.Attempt) string { return text(a.Evidence) }),
	col("start_time", "timestamptz", func(a *job.Attempt) *time.Time { return nullTime(a.Started) }),
	col("advance_time", "timestamptz", func(a *job.Attempt) *time.Time { return nullTime(a.Advanced) }),
	col("outage_time", "timestamptz", func(a *job.Attempt) *time.Time { return nullTime(a.Outage) }),
	col("end_time", "timestamptz", func(a *job.Attempt) *time.Time { return nullTime(a.Ended) }),
	col("others", "jsonb", func(a *job.Attempt) string { return text(orNone(a.Others)) }),
	col("first_ended", "boolean", func(a *job.Attempt) bool { return a.FirstEnded }),
	col("verdict", "jsonb", func(a *job.Attempt) *string { return nullText(a.Verdict) }),
}

// holding is what a live attempt holds of one device.
type holding struct {
	fence         uint64
	agent, device string
	held          int64
	whole         bool
}

func holdingsOf(attempts []job.Attempt) []holding {
	var out []holding
	for i := range attempts {
		a := &attempts[i]
		for _, agent := range a.Agents() {
			shares, _ := a.On(agent)
			for _, s := range shares {
				out = append(out, holding{a.Fence, agent, s.Device, s.Held, s.Whole})
			}
		}
	}
	return out
}

// releasesOf lists the parts of attempts that are over.
func releasesOf(attempts []job.Attempt) []holding {
	var out []holding
	for i := range attempts {
		a := &attempts[i]
		for _, agent := range a.Agents() {
			if _, holds := a.On(agent); !holds {
				out = append(out, holding{fence: a.Fence, agent: agent})
			}
		}
	}
	return out
}

var (
	holdingKeys = []column[holding]{
		col("fence", "bigint", func(h *holding) int64 { return int64(h.fence) }),
		col("agent", "text", func(h *holding) string { return h.agent }),
	}
	holdingColumns = join(holdingKeys, []column[holding]{
		col("device", "text", func(h *holding) string { return h.device }),
		col("held", "bigint", func(h *holding) int64 { return h.held }),
		col("whole", "boolean", func(h *holding) bool { return h.whole }),
	})
)

func join[T any](a, b []T) []T { return append(append(make([]T, 0, len(a)+len(b)), a...), b...) }

var (
	jobAll          = join(jobGiven, jobMoving[1:])
	jobUpdate       = join(jobGiven[:1], jobMoving)
	attemptAll      = join(attemptGiven, attemptMoving)
	attemptUpdate   = join(attemptGiven[:2], attemptMoving)
	insertJobs      = insertSQL("jobs", jobAll)
	updateJobs      = updateSQL("jobs", 1, jobUpdate)
	insertAttempts  = insertSQL("attempts", attemptAll)
	updateAttempts  = updateSQL("attempts", 2, attemptUpdate)
	insertHoldings  = insertSQL("holdings", holdingColumns)
	releaseHoldings = `DELETE FROM holdings USING unnest($1::bigint[], $2::text[]) AS u (fence, agent) WHERE holdings.fence = u.fence AND holdings.agent = u.agent`
)
