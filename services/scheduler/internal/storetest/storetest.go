// Package storetest is the conformance suite of cycle.Store. Every store passes
// it, so that what is proved over one holds over the other.
package storetest

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/cycle"
	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/job"
)

var t0 = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

const gib = int64(1) << 30

// bench is one test's store with what every test needs first.
type bench struct {
	t     *testing.T
	store cycle.Store
	term  uint64
	rev   uint64
}

// Run runs the suite; open gives a fresh store.
func Run(t *testing.T, open func(t *testing.T) cycle.Store) {
	for name, test := range map[string]func(*bench){
		"everything comes back as it was":      roundTrip,
		"a deposed scheduler writes nothing":   deposed,
		"one leads at a time":                  lead,
		"fences only grow":                     fences,
		"a refused commit writes nothing":      atomic,
		"no job has two live attempts":         oneLive,
		"no device is promised beyond itself":  noOvercommit,
		"a whole device is alone":              wholeIsAlone,
		"a device given back can be given out": reuse,
		"a request is answered once":           receipts,
		"states that contradict are refused":   contradictions,
		"pages meet without gap or repeat":     pages,
		"changes come in order and merge":      since,
		"history is newest first":              decisions,
		"final jobs leave the world":           final,
		"a gang holds devices on every host":   gang,
		"arrays count their elements":          arrays,
		"schedules and quotas come back":       schedulesAndQuotas,
		"a job is found by what it belongs to": belongs,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := &bench{t: t, store: open(t)}
			var err error
			if b.term, err = b.store.Lead(t.Context(), "test", time.Hour); err != nil {
				t.Fatal(err)
			}
			test(b)
		})
	}
}

func (b *bench) next() uint64 {
	b.rev++
	return b.rev
}

func (b *bench) try(c cycle.Changes) error {
	c.Revision = b.rev
	return b.store.Commit(b.t.Context(), b.term, c)
}

func (b *bench) commit(c cycle.Changes) {
	b.t.Helper()
	if err := b.try(c); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) refused(c cycle.Changes) {
	b.t.Helper()
	if err := b.try(c); !errors.Is(err, cycle.ErrRefused) {
		b.t.Fatalf("not refused: %v", err)
	}
}

func (b *bench) agent(name string) cycle.Agent {
	return cycle.Agent{
		Name: name, Revision: b.next(), Incarnation: "i", Version: "v1", Address: "h:1", Labels: map[string]string{"zone": "x"}, CPUMillis: 4000, HostBytes: 8 * gib,
		Devices: []cycle.Device{{ID: "g0", Kind: "gpu", Memory: 24 * gib, Headroom: gib, Overhead: gib / 2, Isolation: "WATCHED"}},
		DataOK:  true, Cordon: cycle.Cordoned, CordonReason: "fan", Updated: t0,
	}
}

func (b *bench) job() job.Job {
	spec := job.Spec{
		Name: "n", Experiment: "a/b", Tenant: "t", Demand: job.Demand{Devices: []job.DeviceDemand{{Count: 1, Bytes: gib}}, Labels: map[string]string{"k": "v"}},
		Batch: 64, Budgets: map[string]int{"CRASH": 1}, Payload: []byte{1, 2, 0},
	}
	j := job.New(uuid.Must(uuid.NewV7()).String(), spec, job.Search, 0, t0)
	j.Revision = b.next()
	j.Place, j.Submitter, j.Trace = int64(j.Revision), "person/ann", "00-1-2-01"
	return j
}

func (b *bench) start(j job.Job, share job.Share) (job.Job, job.Attempt) {
	b.t.Helper()
	f, err := b.store.Fences(b.t.Context(), 1)
	if err != nil {
		b.t.Fatal(err)
	}
	j, a, err := j.Assign(job.Assignment{Agent: "h1", Shares: []job.Share{share}, Why: "fits", Trace: "00-3-4-01"}, f[0], t0.Add(time.Minute))
	if err != nil {
		b.t.Fatal(err)
	}
	j.Revision = b.next()
	return j, a
}

func (b *bench) finish(j job.Job, a job.Attempt) (job.Job, job.Attempt) {
	b.t.Helper()
	j, a, ok := j.End(a, job.Exit{Outcome: job.OutcomeSucceeded}, job.DefaultPolicy(), nil, t0.Add(time.Hour))
	if !ok {
		b.t.Fatal("exit refused")
	}
	j.Revision = b.next()
	return j, a
}

func some(bytes int64) job.Share {
	return job.Share{Device: "g0", Kind: "gpu", Bytes: bytes - gib/2, Held: bytes}
}

func roundTrip(b *bench) {
	a, j := b.agent("h1"), b.job()
	b.commit(cycle.Changes{Agents: []cycle.Agent{a}, NewJobs: []job.Job{j}})
	j, at := b.start(j, some(2*gib))
	j, at = j.Observe(at, at.Agent, job.Sight{Training: true, NoData: true, Isolation: "MPS", Progress: &job.Progress{
		Step: 5, Objective: 1.25, HasObjective: true, Remaining: time.Minute, Checkpoint: job.Checkpoint{ID: "c1", Step: 4}, Reported: t0,
	}}, t0.Add(2*time.Minute))
	b.commit(cycle.Changes{Jobs: []job.Job{j}, NewAttempts: []job.Attempt{at}})

	w, err := b.store.Load(b.t.Context())
	if err != nil {
		b.t.Fatal(err)
	}
	want := cycle.World{Revision: b.rev, Agents: []cycle.Agent{a}, Records: []cycle.Record{{Job: j, Attempts: []job.Attempt{at}}}}
	utc(&w)
	if !reflect.DeepEqual(w, want) {
		b.t.Errorf("loaded\n%+v\nwant\n%+v", w, want)
	}

	// A second life of the job: failed, backing off, with all that changes.
	j, at, _ = j.End(at, job.Exit{Outcome: job.OutcomeFailed, Failure: job.DeviceOOM, Evidence: job.Evidence{
		ExitCode: 3, Signal: "SIGKILL", Message: "m", Problems: []string{"p"}, Stderr: "tail", Samples: []int64{1, 2},
	}}, job.DefaultPolicy(), nil, t0.Add(3*time.Minute))
	j.NotBefore, j.Revision = t0.Add(time.Hour), b.next()
	j.Poison, j.Alone = true, true
	a.Lost, a.Revision = true, b.next()
	b.commit(cycle.Changes{Agents: []cycle.Agent{a}, Jobs: []job.Job{j}, Attempts: []job.Attempt{at}})
	if w, err = b.store.Load(b.t.Context()); err != nil {
		b.t.Fatal(err)
	}
	utc(&w)
	want = cycle.World{Revision: b.rev, Agents: []cycle.Agent{a}, Records: []cycle.Record{{Job: j, Attempts: []job.Attempt{at}}}}
	if !reflect.DeepEqual(w, want) {
		b.t.Errorf("loaded\n%+v\nwant\n%+v", w, want)
	}
}

// utc puts times into one location: a store may read them in any.
func utc(w *cycle.World) {
	at := func(t *time.Time) {
		if !t.IsZero() {
			*t = t.UTC()
		}
	}
	for i := range w.Agents {
		at(&w.Agents[i].Updated)
	}
	for i := range w.Records {
		j := &w.Records[i].Job
		for _, t := range []*time.Time{&j.Submitted, &j.Updated, &j.Waiting, &j.Started, &j.Finished, &j.NotBefore} {
			at(t)
		}
		w.Records[i].Attempts = slices.Clone(w.Records[i].Attempts)
		for k := range w.Records[i].Attempts {
			a := &w.Records[i].Attempts[k]
			for _, t := range []*time.Time{&a.Created, &a.Started, &a.Ended, &a.Advanced, &a.Outage, &a.Progress.Reported} {
				at(t)
			}
		}
	}
}

func deposed(b *bench) {
	if _, err := b.store.Lead(b.t.Context(), "test", time.Hour); err != nil {
		b.t.Fatal(err)
	}
	if err := b.store.Renew(b.t.Context(), b.term); !errors.Is(err, cycle.ErrDeposed) {
		b.t.Fatalf("renewal under an old term: %v", err)
	}
	j := b.job()
	if err := b.try(cycle.Changes{NewJobs: []job.Job{j}}); !errors.Is(err, cycle.ErrDeposed) {
		b.t.Fatalf("commit under an old term: %v", err)
	}
	if _, err := b.store.Record(b.t.Context(), j.ID); !errors.Is(err, cycle.ErrNotFound) {
		b.t.Errorf("it was written: %v", err)
	}
}

func lead(b *bench) {
	ctx := b.t.Context()
	if _, err := b.store.Lead(ctx, "other", time.Hour); !errors.Is(err, cycle.ErrLed) {
		b.t.Fatalf("two lead: %v", err)
	}
	if err := b.store.Renew(ctx, b.term); err != nil {
		b.t.Errorf("renewal: %v", err)
	}
	if err := b.store.Yield(ctx, b.term); err != nil {
		b.t.Fatal(err)
	}
	other, err := b.store.Lead(ctx, "other", time.Hour)
	if err != nil || other <= b.term {
		b.t.Fatalf("after the lead was given up: term %d, %v", other, err)
	}
	// One who has been deposed cannot give up the other's lead.
	if err := b.store.Yield(ctx, b.term); err != nil {
		b.t.Fatal(err)
	}
	if _, err := b.store.Lead(ctx, "test", time.Hour); !errors.Is(err, cycle.ErrLed) {
		b.t.Errorf("an old leader took the lead back: %v", err)
	}
	if _, err := b.store.Lead(ctx, "test", 0); err != nil {
		b.t.Errorf("a lead that has run out was not taken: %v", err)
	}
}

func fences(b *bench) {
	var last uint64
	for range 3 {
		got, err := b.store.Fences(b.t.Context(), 4)
		if err != nil || len(got) != 4 {
			b.t.Fatalf("%v, %v", got, err)
		}
		for _, f := range got {
			if f <= last {
				b.t.Fatalf("fence %d after %d", f, last)
			}
			last = f
		}
	}
}

func atomic(b *bench) {
	good, bad := b.job(), b.job()
	bad.State = job.Paused // without a cause
	b.refused(cycle.Changes{NewJobs: []job.Job{good, bad}})
	if _, err := b.store.Record(b.t.Context(), good.ID); !errors.Is(err, cycle.ErrNotFound) {
		b.t.Errorf("half of it was written: %v", err)
	}
}

func oneLive(b *bench) {
	j := b.job()
	b.commit(cycle.Changes{Agents: []cycle.Agent{b.agent("h1")}, NewJobs: []job.Job{j}})
	started, first := b.start(j, some(gib))
	b.commit(cycle.Changes{Jobs: []job.Job{started}, NewAttempts: []job.Attempt{first}})
	j.Attempts, j.Fence = started.Attempts, started.Fence
	again, second := b.start(j, some(gib))
	b.refused(cycle.Changes{Jobs: []job.Job{again}, NewAttempts: []job.Attempt{second}})
}

func noOvercommit(b *bench) {
	j, k := b.job(), b.job()
	b.commit(cycle.Changes{Agents: []cycle.Agent{b.agent("h1")}, NewJobs: []job.Job{j, k}})
	j, a := b.start(j, some(12*gib))
	b.commit(cycle.Changes{Jobs: []job.Job{j}, NewAttempts: []job.Attempt{a}})
	k1, over := b.start(k, some(11*gib+1))
	b.refused(cycle.Changes{Jobs: []job.Job{k1}, NewAttempts: []job.Attempt{over}})
	k2, fits := b.start(k, some(11*gib))
	b.commit(cycle.Changes{Jobs: []job.Job{k2}, NewAttempts: []job.Attempt{fits}})
}

func wholeIsAlone(b *bench) {
	j, k := b.job(), b.job()
	b.commit(cycle.Changes{Agents: []cycle.Agent{b.agent("h1")}, NewJobs: []job.Job{j, k}})
	j, a := b.start(j, some(gib))
	b.commit(cycle.Changes{Jobs: []job.Job{j}, NewAttempts: []job.Attempt{a}})
	k, w := b.start(k, job.Share{Device: "g0", Held: gib, Whole: true})
	b.refused(cycle.Changes{Jobs: []job.Job{k}, NewAttempts: []job.Attempt{w}})
}

func reuse(b *bench) {
	j, k := b.job(), b.job()
	b.commit(cycle.Changes{Agents: []cycle.Agent{b.agent("h1")}, NewJobs: []job.Job{j, k}})
	whole := job.Share{Device: "g0", Bytes: 22 * gib, Held: 23 * gib, Whole: true}
	j, a := b.start(j, whole)
	b.commit(cycle.Changes{Jobs: []job.Job{j}, NewAttempts: []job.Attempt{a}})
	// The end of one holder and the beginning of the next in one commit.
	j, a = b.finish(j, a)
	k, next := b.start(k, whole)
	b.commit(cycle.Changes{Jobs: []job.Job{j, k}, Attempts: []job.Attempt{a}, NewAttempts: []job.Attempt{next}})
}

func receipts(b *bench) {
	ctx := b.t.Context()
	if got, err := b.store.Receipts(ctx, []string{"r1"}); err != nil || len(got) != 0 {
		b.t.Fatalf("unknown request: %v, %v", got, err)
	}
	digest := make([]byte, 32)
	r := cycle.Receipt{ID: "r1", Method: "SubmitJob", Digest: digest, Response: []byte("answer"), At: t0}
	b.commit(cycle.Changes{Receipts: []cycle.Receipt{r}})
	got, err := b.store.Receipts(ctx, []string{"r0", "r1"})
	if err != nil || len(got) != 1 {
		b.t.Fatalf("got %+v, %v", got, err)
	}
	if got[0].At = got[0].At.UTC(); !reflect.DeepEqual(got[0], r) {
		b.t.Errorf("got %+v", got)
	}
	b.refused(cycle.Changes{Receipts: []cycle.Receipt{r}})
	if err := b.store.Forget(ctx, t0.Add(time.Second), t0); err != nil {
		b.t.Fatal(err)
	}
	if got, err := b.store.Receipts(ctx, []string{"r1"}); err != nil || len(got) != 0 {
		b.t.Errorf("not forgotten: %v, %v", got, err)
	}
}

func contradictions(b *bench) {
	for name, spoil := range map[string]func(*job.Job){
		"final without an end":       func(j *job.Job) { j.State = job.Succeeded },
		"an end without being final": func(j *job.Job) { j.Finished = t0 },
		"a pause without a cause":    func(j *job.Job) { j.State = job.Paused },
		"a cause without a pause":    func(j *job.Job) { j.Pause = job.PausedByPerson },
		"stopping without intent":    func(j *job.Job) { j.State, j.Attempts, j.Fence = job.Stopping, 1, 1 },
		"running without a fence":    func(j *job.Job) { j.State = job.Running },
		"backing off while paused":   func(j *job.Job) { j.State, j.Pause, j.NotBefore = job.Paused, job.PausedByPerson, t0 },
	} {
		j := b.job()
		spoil(&j)
		if err := b.try(cycle.Changes{NewJobs: []job.Job{j}}); !errors.Is(err, cycle.ErrRefused) {
			b.t.Errorf("%s: %v", name, err)
		}
	}
}

func pages(b *bench) {
	var all []string
	for i := range 7 {
		j := b.job()
		if i%2 == 1 {
			j.Spec.Experiment = "other"
		} else {
			all = append([]string{j.ID}, all...)
		}
		b.commit(cycle.Changes{NewJobs: []job.Job{j}})
	}
	var got []string
	page := cycle.Page{ExperimentPrefix: "a/", States: []job.State{job.Queued, job.Failed}, Limit: 3}
	for {
		jobs, err := b.store.List(b.t.Context(), page)
		if err != nil {
			b.t.Fatal(err)
		}
		if len(jobs) == 0 {
			break
		}
		for _, j := range jobs {
			got = append(got, j.Job.ID)
		}
		page.Before = jobs[len(jobs)-1].Job.Place
	}
	if !slices.Equal(got, all) {
		b.t.Errorf("pages give %v, want %v", got, all)
	}
	page = cycle.Page{States: []job.State{job.Failed}, Limit: 3}
	if jobs, err := b.store.List(b.t.Context(), page); err != nil || len(jobs) != 0 {
		b.t.Errorf("no job has failed: %v, %v", jobs, err)
	}
}

func since(b *bench) {
	j, k := b.job(), b.job()
	b.commit(cycle.Changes{NewJobs: []job.Job{j, k}})
	mark := b.rev
	k.Reason, k.Revision = "changed", b.next()
	b.commit(cycle.Changes{Jobs: []job.Job{k}})
	j.Reason, j.Revision = "changed later", b.next()
	b.commit(cycle.Changes{Jobs: []job.Job{j}})
	k.Reason, k.Revision = "changed last", b.next()
	b.commit(cycle.Changes{Jobs: []job.Job{k}})
	check := func(revision uint64, ids []string, limit int, want ...string) {
		b.t.Helper()
		got, err := b.store.Since(b.t.Context(), revision, ids, limit)
		if err != nil {
			b.t.Fatal(err)
		}
		var texts []string
		for _, r := range got {
			texts = append(texts, r.Job.Reason)
		}
		if fmt.Sprint(texts) != fmt.Sprint(want) {
			b.t.Errorf("since %d: %q, want %q", revision, texts, want)
		}
	}
	check(mark, nil, 10, "changed later", "changed last")
	check(mark, nil, 1, "changed later")
	check(mark, []string{k.ID}, 10, "changed last")
	check(b.rev, nil, 10)
}

func decisions(b *bench) {
	j := b.job()
	b.commit(cycle.Changes{NewJobs: []job.Job{j}, Decisions: []cycle.Decision{{Job: j.ID, At: t0, Action: "accepted", Reason: "r"}}})
	b.commit(cycle.Changes{Decisions: []cycle.Decision{{Job: j.ID, At: t0, Action: "placed", Reason: "s", Attempt: 1}, {Job: j.ID, At: t0, Action: "running", Attempt: 1}}})
	got, err := b.store.Decisions(b.t.Context(), j.ID, 2)
	if err != nil || len(got) != 2 || got[0].Action != "running" || got[1].Action != "placed" || got[1].Attempt != 1 {
		b.t.Errorf("%+v, %v", got, err)
	}
}

func final(b *bench) {
	j := b.job()
	b.commit(cycle.Changes{Agents: []cycle.Agent{b.agent("h1")}, NewJobs: []job.Job{j}})
	j, a := b.start(j, some(gib))
	b.commit(cycle.Changes{Jobs: []job.Job{j}, NewAttempts: []job.Attempt{a}})
	j, a = b.finish(j, a)
	b.commit(cycle.Changes{Jobs: []job.Job{j}, Attempts: []job.Attempt{a}})
	w, err := b.store.Load(b.t.Context())
	if err != nil || len(w.Records) != 0 {
		b.t.Errorf("%d unfinished jobs, %v", len(w.Records), err)
	}
	r, err := b.store.Record(b.t.Context(), j.ID)
	if err != nil || r.Job.State != job.Succeeded || len(r.Attempts) != 1 || r.Attempts[0].Outcome != job.OutcomeSucceeded {
		b.t.Errorf("%+v, %v", r, err)
	}
	b.commit(cycle.Changes{Decisions: []cycle.Decision{{Job: j.ID, At: t0, Action: "placed", Attempt: 1}, {Job: j.ID, At: t0, Action: "succeeded", Attempt: 1}}})
	// Its history goes by age, and a job that waits never does.
	waiting := b.job()
	b.commit(cycle.Changes{NewJobs: []job.Job{waiting}})
	for _, c := range []struct {
		before time.Time
		gone   bool
	}{{r.Job.Finished, false}, {r.Job.Finished.Add(time.Second), true}} {
		old, err := b.store.Ended(b.t.Context(), c.before, 10)
		if err != nil || (len(old) == 1) != c.gone {
			b.t.Fatalf("ended before %s: %d, %v", c.before, len(old), err)
		}
		ids := []string{waiting.ID}
		for _, h := range old {
			ids = append(ids, h.Job.ID)
			if len(h.Attempts) != 1 || len(h.Decisions) != 2 || h.Decisions[0].Action != "placed" {
				b.t.Errorf("its history is %+v", h)
			}
		}
		if err := b.store.Drop(b.t.Context(), ids); err != nil {
			b.t.Fatal(err)
		}
		if err := b.store.Forget(b.t.Context(), t0, c.before); err != nil {
			b.t.Fatal(err)
		}
		if _, err := b.store.Record(b.t.Context(), j.ID); errors.Is(err, cycle.ErrNotFound) != c.gone {
			b.t.Errorf("history before %s: %v", c.before, err)
		}
	}
	if _, err := b.store.Record(b.t.Context(), waiting.ID); err != nil {
		b.t.Errorf("a waiting job was dropped: %v", err)
	}
}
