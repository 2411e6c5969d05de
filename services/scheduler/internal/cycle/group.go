package cycle

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sort"
	"time"

	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/job"
)

// QuotaError says that a tenant has as many unfinished jobs as it may.
type QuotaError struct {
	Tenant    string
	Have, Max int
	// Asked is how many jobs the submit would have added.
	Asked int
}

func (e *QuotaError) Error() string {
	return fmt.Sprintf("tenant %s has %d of at most %d unfinished jobs and asks for %d more", e.Tenant, e.Have, e.Max, e.Asked)
}

// Batch is jobs that are accepted together or not at all.
type Batch struct {
	Jobs []NewJob
	// Array is set when the jobs are its elements.
	Array *Array
	// Encode makes the answer; it replaces Request.Encode.
	Encode func([]View) ([]byte, error)
}

// SubmitAll accepts a batch at the end of its classes.
func (e *Engine) SubmitAll(ctx context.Context, r Request, b Batch) ([]byte, error) {
	fresh := make(map[string]bool, len(b.Jobs))
	for i := range b.Jobs {
		fresh[b.Jobs[i].ID] = true
	}
	var views []View
	r.Encode = func(View) ([]byte, error) { return b.Encode(views) }
	for range 3 {
		p, err := e.lookUp(ctx, b.Jobs)
		if err != nil {
			return nil, err
		}
		raw, err := e.once(ctx, r, func(t *tx) (View, error) {
			var err error
			views, err = t.accept(&b, fresh, p)
			return View{}, err
		})
		if !errors.Is(err, errMoved) {
			return raw, err
		}
	}
	return nil, ErrUnavailable
}

// accept adds a batch to the world.
func (t *tx) accept(b *Batch, fresh map[string]bool, p past) ([]View, error) {
	jobs := make([]job.Job, len(b.Jobs))
	asked := map[string]int{}
	var bad []Unmet
	for i := range b.Jobs {
		j, unmet, err := t.resolve(i, &b.Jobs[i], fresh, p)
		if err != nil {
			return nil, err
		}
		jobs[i], bad = j, append(bad, unmet...)
		asked[j.Spec.Tenant]++
	}
	if len(bad) > 0 {
		return nil, &UnmetError{bad}
	}
	for tenant, n := range asked {
		if err := t.mayAdd(tenant, n); err != nil {
			return nil, err
		}
	}
	if b.Array != nil {
		a := *b.Array
		a.Created = t.now
		t.putArray(a)
	}
	views := make([]View, len(jobs))
	for i, j := range jobs {
		views[i] = View{Record: Record{Job: t.take(j)}}
	}
	return views, nil
}

// take adds an accepted job and notes it in its history.
func (t *tx) take(j job.Job) job.Job {
	j = t.putNew(j)
	reason := "priority " + j.Priority.String()
	if j.State != job.Queued || j.Blocked() {
		reason += "; " + j.Reason
	}
	t.decisions = append(t.decisions, Decision{Job: j.ID, At: t.now, Action: "accepted", Reason: reason})
	return j
}

// mayAdd checks a tenant's bound on unfinished jobs.
func (t *tx) mayAdd(tenant string, n int) error {
	q, ok := t.quota(tenant)
	if !ok || q.MaxJobs == 0 {
		return nil
	}
	have := t.base.unfinished[tenant]
	for x := t; x != nil; x = x.parent {
		have += x.added[tenant]
	}
	if have+n > q.MaxJobs {
		return &QuotaError{Tenant: tenant, Have: have, Max: q.MaxJobs, Asked: n}
	}
	return nil
}

func (t *tx) array(id string) (Array, bool) {
	for x := t; x != nil; x = x.parent {
		if a, ok := x.arrays[id]; ok {
			return a, true
		}
	}
	a, ok := t.base.arrays[id]
	return a, ok
}

func (t *tx) putArray(a Array) {
	a.Revision = t.next()
	if t.arrays == nil {
		t.arrays = map[string]Array{}
	}
	t.arrays[a.ID] = a
}

// CancelAll ends every unfinished job that which selects, in one transaction.
func (e *Engine) CancelAll(ctx context.Context, r Request, which func(*job.Job) bool, why string, encode func() ([]byte, error)) ([]byte, error) {
	r.Encode = func(View) ([]byte, error) { return encode() }
	return e.once(ctx, r, func(t *tx) (View, error) {
		var ids []string
		for id := range t.base.records {
			ids = append(ids, id)
		}
		for x := t; x != nil; x = x.parent {
			for id := range x.records {
				ids = append(ids, id)
			}
		}
		sort.Strings(ids)
		for _, id := range slices.Compact(ids) {
			rec, ok := t.record(id)
			if !ok || rec.Job.State.Terminal() || !which(&rec.Job) {
				continue
			}
			var attempt *job.Attempt
			if a, ok := rec.Latest(); ok && a.Live() {
				attempt = &a
			}
			if j := rec.Job.Cancel(attempt, why, t.now); j.State != rec.Job.State || j.Intent != rec.Job.Intent {
				t.put(j, attempt)
			}
		}
		return View{}, nil
	})
}

// Array reads an array.
func (e *Engine) Array(ctx context.Context, id string) (ArrayView, error) {
	a, err := e.o.Store.Array(ctx, id)
	if err != nil && !errors.Is(err, ErrNotFound) {
		return a, unavailable(ctx, err)
	}
	return a, err
}

// Arrays reads a page of arrays, newest first.
func (e *Engine) Arrays(ctx context.Context, before string, limit int) ([]ArrayView, error) {
	out, err := e.o.Store.Arrays(ctx, before, limit)
	if err != nil {
		return nil, unavailable(ctx, err)
	}
	return out, nil
}

// WaitGroup is the waiting elements of an array with one reason.
type WaitGroup struct {
	Reason string
	Count  int
	// Jobs are some of them.
	Jobs []string
}

const groupSample = 10

// ExplainArray groups the waiting elements of an array by what they wait for.
func (e *Engine) ExplainArray(id string) []WaitGroup {
	e.mu.RLock()
	defer e.mu.RUnlock()
	at := map[string]int{}
	var out []WaitGroup
	var waiting []Record
	for _, r := range e.st.records {
		if r.Job.Origin.Array == id && !r.Job.State.Live() {
			waiting = append(waiting, r)
		}
	}
	sort.Slice(waiting, func(i, k int) bool { return waiting[i].Job.Origin.Index < waiting[k].Job.Origin.Index })
	for _, r := range waiting {
		reason := e.viewLocked(r).Reason()
		i, ok := at[reason]
		if !ok {
			i = len(out)
			at[reason] = i
			out = append(out, WaitGroup{Reason: reason})
		}
		if out[i].Count++; out[i].Count <= groupSample {
			out[i].Jobs = append(out[i].Jobs, r.Job.ID)
		}
	}
	sort.SliceStable(out, func(i, k int) bool { return out[i].Count > out[k].Count })
	return out
}

// throttled lists the waiting elements that their array's limit keeps from being
// looked at: it gives the planner the oldest that may run, and no more.
func (s *state) throttled(now time.Time) map[string]string {
	type load struct {
		live    int
		waiting []job.Job
	}
	limited := false
	for _, a := range s.arrays {
		limited = limited || a.Max > 0
	}
	if !limited {
		return nil
	}
	loads := map[string]*load{}
	for _, r := range s.records {
		a, ok := s.arrays[r.Job.Origin.Array]
		if !ok || a.Max == 0 {
			continue
		}
		l := loads[a.ID]
		if l == nil {
			l = &load{}
			loads[a.ID] = l
		}
		switch {
		case r.Job.State.Live():
			l.live++
		case r.Job.State == job.Queued && !r.Job.Blocked() && !r.Job.NotBefore.After(now):
			l.waiting = append(l.waiting, r.Job)
		}
	}
	out := map[string]string{}
	for id, l := range loads {
		most := s.arrays[id].Max
		room := max(most-l.live, 0)
		if len(l.waiting) <= room {
			continue
		}
		sort.Slice(l.waiting, func(i, k int) bool { return l.waiting[i].Place < l.waiting[k].Place })
		for _, j := range l.waiting[room:] {
			out[j.ID] = fmt.Sprintf("its array runs at most %d element(s) at the same time", most)
		}
	}
	return out
}
