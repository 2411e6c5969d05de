package storetest

import (
	"errors"
	"reflect"
	"time"

	"github.com/google/uuid"

	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/cycle"
	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/job"
	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/learn"
)

func gang(b *bench) {
	j, k := b.job(), b.job()
	b.commit(cycle.Changes{Agents: []cycle.Agent{b.agent("h1"), b.agent("h2")}, NewJobs: []job.Job{j, k}})
	whole := job.Share{Device: "g0", Kind: "gpu", Bytes: 22 * gib, Held: 23 * gib, Whole: true}
	j, a := b.start(j, whole)
	a.Others = []job.Member{{Agent: "h2", Shares: []job.Share{whole}}}
	b.commit(cycle.Changes{Jobs: []job.Job{j}, NewAttempts: []job.Attempt{a}})

	// The second host's device is taken too, until its part is over.
	onSecond := func() (job.Job, job.Attempt) {
		next, w := b.start(k, whole)
		w.Agent = "h2"
		return next, w
	}
	n, w := onSecond()
	b.refused(cycle.Changes{Jobs: []job.Job{n}, NewAttempts: []job.Attempt{w}})

	a.Others = []job.Member{{Agent: "h2", Shares: []job.Share{whole}, Known: true, Ended: true}}
	a.Verdict = &job.Exit{Outcome: job.OutcomeFailed, Failure: job.Crash, Evidence: job.Evidence{ExitCode: 3, Message: "on h2"}}
	b.commit(cycle.Changes{Attempts: []job.Attempt{a}})
	got, err := b.store.Record(b.t.Context(), j.ID)
	if err != nil || len(got.Attempts) != 1 {
		b.t.Fatalf("%+v, %v", got, err)
	}
	if at := got.Attempts[0]; !reflect.DeepEqual(at.Others, a.Others) || !reflect.DeepEqual(at.Verdict, a.Verdict) || at.FirstEnded {
		b.t.Errorf("the gang came back as %+v", at)
	}
	n, w = onSecond()
	b.commit(cycle.Changes{Jobs: []job.Job{n}, NewAttempts: []job.Attempt{w}})

	// And a gang may not take what somebody holds on its second host.
	m := b.job()
	b.commit(cycle.Changes{Agents: []cycle.Agent{b.agent("h3")}, NewJobs: []job.Job{m}})
	m, a = b.start(m, whole)
	a.Agent, a.Others = "h3", []job.Member{{Agent: "h2", Shares: []job.Share{whole}}}
	b.refused(cycle.Changes{Jobs: []job.Job{m}, NewAttempts: []job.Attempt{a}})
}

func arrays(b *bench) {
	ctx := b.t.Context()
	array := cycle.Array{
		ID: uuid.Must(uuid.NewV7()).String(), Revision: b.next(), Template: []byte("template"), Count: 3, Max: 2, Submitter: "ann", Created: t0,
	}
	var jobs []job.Job
	for i := range 3 {
		j := b.job()
		j.Origin.Array, j.Origin.Index = array.ID, i
		jobs = append(jobs, j)
	}
	b.commit(cycle.Changes{Arrays: []cycle.Array{array}, NewJobs: jobs})
	jobs[0].State, jobs[0].Finished, jobs[0].Revision = job.Failed, t0, b.next()
	array.Broken = true
	b.commit(cycle.Changes{Arrays: []cycle.Array{array}, Jobs: jobs[:1]})

	want := map[job.State]int{job.Queued: 2, job.Failed: 1}
	v, err := b.store.Array(ctx, array.ID)
	if err != nil || !reflect.DeepEqual(v.Counts, want) || !v.Broken || v.Max != 2 || string(v.Template) != "template" || !v.Created.Equal(t0) {
		b.t.Errorf("%+v, %v", v, err)
	}
	all, err := b.store.Arrays(ctx, "", 10)
	if err != nil || len(all) != 1 || !reflect.DeepEqual(all[0].Counts, want) {
		b.t.Errorf("%+v, %v", all, err)
	}
	if below, err := b.store.Arrays(ctx, array.ID, 10); err != nil || len(below) != 0 {
		b.t.Errorf("%+v, %v", below, err)
	}
	if _, err := b.store.Array(ctx, uuid.NewString()); !errors.Is(err, cycle.ErrNotFound) {
		b.t.Errorf("an unknown array: %v", err)
	}
	w, err := b.store.Load(ctx)
	if err != nil || len(w.Arrays) != 1 || w.Arrays[0].ID != array.ID {
		b.t.Errorf("the world has %+v, %v", w.Arrays, err)
	}
	again := b.job()
	again.Origin.Array, again.Origin.Index = array.ID, 1
	if _, memory := b.store.(interface {
		Sabotage(func() error, func() error)
	}); !memory {
		b.refused(cycle.Changes{NewJobs: []job.Job{again}})
	}
}

func schedulesAndQuotas(b *bench) {
	ctx := b.t.Context()
	x := cycle.Schedule{
		ID: uuid.NewString(), Name: "nightly", Revision: b.next(), Payload: []byte("payload"), Cron: "30 2 * * *", Zone: "Europe/Berlin", Overlap: cycle.ReplaceOverlap,
		CatchUp: cycle.CatchUpAll, Submitter: "ann", Created: t0, Done: t0, Result: "", Skipped: 3,
	}
	borrow := 2.5
	q := cycle.Quota{Tenant: "quant", Revision: b.next(), Cohort: "research", Weight: 2, MaxJobs: 9, Devices: []cycle.DeviceQuota{{Kind: "gpu", Nominal: 4, Borrow: &borrow}, {Nominal: 1}}}
	p := learn.Peak{Key: "native/bull/64/gpu", Bytes: 3 * gib, Took: 90 * time.Second, Runs: 2, At: t0}
	b.commit(cycle.Changes{Schedules: []cycle.Schedule{x}, Quotas: []cycle.Quota{q}, Peaks: []learn.Peak{{Key: p.Key, Bytes: 1, At: t0}}})
	b.commit(cycle.Changes{Peaks: []learn.Peak{p}})
	x.Fired, x.Done, x.Result, x.Job, x.Paused = t0.Add(time.Hour), t0.Add(time.Hour), "submitted", uuid.NewString(), true
	b.commit(cycle.Changes{Schedules: []cycle.Schedule{x}})
	w, err := b.store.Load(ctx)
	if err != nil || len(w.Schedules) != 1 || len(w.Quotas) != 1 {
		b.t.Fatalf("%+v, %v", w, err)
	}
	s := &w.Schedules[0]
	s.Created, s.Done, s.Fired = s.Created.UTC(), s.Done.UTC(), s.Fired.UTC()
	if !reflect.DeepEqual(*s, x) {
		b.t.Errorf("schedule %+v, want %+v", *s, x)
	}
	if len(w.Peaks) == 1 {
		w.Peaks[0].At = w.Peaks[0].At.UTC()
	}
	if !reflect.DeepEqual(w.Peaks, []learn.Peak{p}) {
		b.t.Errorf("learned %+v, want %+v", w.Peaks, p)
	}
	if !reflect.DeepEqual(w.Quotas[0], q) {
		b.t.Errorf("quota %+v, want %+v", w.Quotas[0], q)
	}
	b.commit(cycle.Changes{GoneSchedules: []string{"nightly"}, GoneQuotas: []string{"quant"}})
	if w, err = b.store.Load(ctx); err != nil || len(w.Schedules)+len(w.Quotas) != 0 {
		b.t.Errorf("%+v, %v", w, err)
	}
}

func belongs(b *bench) {
	ctx := b.t.Context()
	graph, schedule := uuid.NewString(), uuid.NewString()
	first, second, other := b.job(), b.job(), b.job()
	first.Origin.Graph, first.Origin.Node = graph, "train"
	second.Origin.Graph, second.Origin.Node = graph, "evaluate"
	second.After = []job.Dependency{{Job: first.ID, OnFailure: job.HoldDependent}, {Model: "bull", State: job.DependencyMet, Reason: "promoted"}}
	second.Poison = true
	other.Origin.Schedule, other.Spec.Tenant = schedule, "quant"
	b.commit(cycle.Changes{Agents: []cycle.Agent{b.agent("h1")}, NewJobs: []job.Job{first, second, other}})
	first, a := b.start(first, some(gib))
	b.commit(cycle.Changes{Jobs: []job.Job{first}, NewAttempts: []job.Attempt{a}})

	list := func(p cycle.Page) []cycle.Record {
		b.t.Helper()
		p.Limit = 10
		got, err := b.store.List(ctx, p)
		if err != nil {
			b.t.Fatal(err)
		}
		return got
	}
	got := list(cycle.Page{Graph: graph})
	if len(got) != 2 || got[0].Job.ID != second.ID || !reflect.DeepEqual(got[0].Job.After, second.After) || !got[0].Job.Poison || got[0].Job.Origin != second.Origin {
		b.t.Fatalf("nodes %+v", got)
	}
	if len(got[1].Attempts) != 1 || got[1].Attempts[0].Fence != a.Fence {
		b.t.Errorf("a listed job lost its attempts: %+v", got[1])
	}
	for _, p := range []cycle.Page{{Schedule: schedule}, {Tenant: "quant"}} {
		if got := list(p); len(got) != 1 || got[0].Job.ID != other.ID {
			b.t.Errorf("%+v gives %+v", p, got)
		}
	}
}
