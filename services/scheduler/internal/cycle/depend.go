package cycle

import (
	"context"
	"errors"
	"fmt"
	"sort"
	"time"

	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/job"
)

// keyOf names what a dependency waits for.
func keyOf(d job.Dependency) string {
	switch {
	case d.Model != "":
		return "model " + d.Model
	case d.Array != "":
		return "array " + d.Array
	}
	return "job " + d.Job
}

// waitersOf lists the jobs that wait for a key, the oldest first.
func (t *tx) waitersOf(key string) []Record {
	ids := map[string]bool{}
	for id := range t.base.waiters[key] {
		ids[id] = true
	}
	for x := t; x != nil; x = x.parent {
		for _, id := range x.waits[key] {
			ids[id] = true
		}
	}
	out := make([]Record, 0, len(ids))
	for id := range ids {
		if r, ok := t.record(id); ok && !r.Job.State.Terminal() {
			out = append(out, r)
		}
	}
	sort.Slice(out, func(i, k int) bool { return out[i].Job.Place < out[k].Job.Place })
	return out
}

// settle tells those who wait for a key that it has happened, or never will. It
// is a part of the transaction in which it happened: no crash can come between.
func (t *tx) settle(key string, happened bool, why string) {
	for _, r := range t.waitersOf(key) {
		// An earlier one of the loop may have moved it: read it again.
		now, ok := t.record(r.Job.ID)
		if !ok {
			continue
		}
		j := now.Job.Settle(func(d job.Dependency) bool { return keyOf(d) == key }, happened, why, t.now)
		if j.State != now.Job.State || j.Reason != now.Job.Reason || !sameDependencies(j.After, now.Job.After) {
			t.put(j, nil)
		}
	}
}

func sameDependencies(a, b []job.Dependency) bool {
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return len(a) == len(b)
}

// ended tells the dependents of a job that it is final.
func (t *tx) ended(j job.Job) {
	happened := j.State == job.Succeeded
	t.settle(keyOf(job.Dependency{Job: j.ID}), happened, outcome(&j))
	id := j.Origin.Array
	if id == "" {
		return
	}
	a, ok := t.array(id)
	if ok && !happened && !a.Broken {
		a.Broken = true
		t.putArray(a)
	}
	key := keyOf(job.Dependency{Array: id})
	switch {
	case !happened:
		t.settle(key, false, fmt.Sprintf("element %d: %s", j.Origin.Index, outcome(&j)))
	case !a.Broken && len(t.waitersOf(key)) > 0 && !t.unfinishedIn(id):
		t.settle(key, true, "every element of array "+id+" succeeded")
	}
}

func outcome(j *job.Job) string {
	if j.State == job.Succeeded {
		return "job " + j.ID + " succeeded"
	}
	return fmt.Sprintf("job %s ended as %s", j.ID, j.State)
}

// unfinishedIn reports whether an element of an array is not final.
func (t *tx) unfinishedIn(array string) bool {
	for id, r := range t.base.records {
		if r.Job.Origin.Array == array {
			if now, ok := t.record(id); ok && !now.Job.State.Terminal() {
				return true
			}
		}
	}
	for x := t; x != nil; x = x.parent {
		for id, r := range x.records {
			if r.Job.Origin.Array == array {
				if now, ok := t.record(id); ok && !now.Job.State.Terminal() {
					return true
				}
			}
		}
	}
	return false
}

// Unmet is a dependency that a submit cannot have.
type Unmet struct {
	// Job and At are the places in the submit of the job and of its dependency.
	Job, At int
	Text    string
}

// UnmetError lists all of them.
type UnmetError struct{ Problems []Unmet }

func (e *UnmetError) Error() string {
	return fmt.Sprintf("%d dependencies cannot be met, the first: %s", len(e.Problems), e.Problems[0].Text)
}

// errMoved says that the world moved between a look-up and its use.
var errMoved = errors.New("the world moved on")

// past is what the store says of jobs and arrays that are no longer in memory.
type past struct {
	jobs   map[string]job.Job
	arrays map[string]Array
}

// lookUp reads from the store what the dependencies of new jobs name and the
// memory does not have.
func (e *Engine) lookUp(ctx context.Context, jobs []NewJob) (past, error) {
	p := past{jobs: map[string]job.Job{}, arrays: map[string]Array{}}
	fresh := make(map[string]bool, len(jobs))
	for i := range jobs {
		fresh[jobs[i].ID] = true
	}
	for i := range jobs {
		for _, d := range jobs[i].After {
			switch {
			case d.Job != "" && !fresh[d.Job] && p.jobs[d.Job].ID == "":
				if _, ok := e.peek(d.Job); ok {
					continue
				}
				r, err := e.o.Store.Record(ctx, d.Job)
				if err == nil {
					p.jobs[d.Job] = r.Job
				} else if !errors.Is(err, ErrNotFound) {
					return p, unavailable(ctx, err)
				}
			case d.Array != "" && p.arrays[d.Array].ID == "":
				a, err := e.o.Store.Array(ctx, d.Array)
				if err == nil {
					p.arrays[d.Array] = a.Array
				} else if !errors.Is(err, ErrNotFound) {
					return p, unavailable(ctx, err)
				}
			}
		}
	}
	return p, nil
}

// Unmet lists the dependencies that these jobs could not have now. A submit
// checks them again when it is accepted.
func (e *Engine) Unmet(ctx context.Context, jobs []NewJob) ([]Unmet, error) {
	fresh := make(map[string]bool, len(jobs))
	some := false
	for i := range jobs {
		fresh[jobs[i].ID] = true
		some = some || len(jobs[i].After) > 0
	}
	if !some {
		return nil, nil
	}
	p, err := e.lookUp(ctx, jobs)
	if err != nil {
		return nil, err
	}
	e.mu.RLock()
	defer e.mu.RUnlock()
	t := newTx(e.st, nil, time.Now())
	var out []Unmet
	for i := range jobs {
		_, unmet, err := t.resolve(i, &jobs[i], fresh, p)
		if err != nil && !errors.Is(err, errMoved) {
			return nil, err
		}
		out = append(out, unmet...)
	}
	return out, nil
}

// resolve judges the dependencies of a new job as of now. It runs in the
// committer, so that nothing can end between the judgement and the wait.
func (t *tx) resolve(at int, n *NewJob, fresh map[string]bool, p past) (job.Job, []Unmet, error) {
	j := job.New(n.ID, n.Spec, n.Priority, 0, t.now)
	j.Submitter, j.Trace, j.Origin = n.Submitter, n.Trace, n.Origin
	j.After = append([]job.Dependency(nil), n.After...)
	var bad []Unmet
	for i, d := range n.After {
		known, over, happened, why := true, false, false, ""
		switch {
		case d.Job != "" && fresh[d.Job], d.Model != "", d == job.Dependency{OnFailure: d.OnFailure}:
			// Its condition lies ahead, or it names nothing and was refused for that.
		case d.Job != "":
			r, ok := t.record(d.Job)
			if !ok {
				if r.Job, ok = p.jobs[d.Job]; ok && !r.Job.State.Terminal() {
					return j, nil, errMoved
				}
			}
			known, over, happened, why = ok, r.Job.State.Terminal(), r.Job.State == job.Succeeded, outcome(&r.Job)
		default:
			a, ok := t.array(d.Array)
			if !ok {
				a, ok = p.arrays[d.Array]
			}
			known, over, why = ok, a.Broken || !t.unfinishedIn(d.Array), "every element of "+d.String()+" succeeded"
			if happened = !a.Broken; a.Broken {
				why = "an element of " + d.String() + " did not succeed"
			}
		}
		switch {
		case !known:
			bad = append(bad, Unmet{Job: at, At: i, Text: d.String() + " does not exist"})
		case over && !happened && d.OnFailure == job.CancelDependent:
			bad = append(bad, Unmet{Job: at, At: i, Text: why + "; set on_failure to ignore or hold to submit it all the same"})
		case over:
			j = j.Settle(func(x job.Dependency) bool { return keyOf(x) == keyOf(d) }, happened, why, t.now)
		}
	}
	if j.State == job.Queued && j.Blocked() {
		j.Reason = j.Waits()
	}
	return j, bad, nil
}
