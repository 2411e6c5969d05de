package cycle

import (
	"bytes"
	"context"
	"errors"
	"time"

	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/job"
)

// Errors of the verbs, beside those of package job.
var (
	// ErrReused says that a request id came back with another payload.
	ErrReused = errors.New("this request_id was used before with another payload; use a new one")
	// ErrConflict says that the resource changed since the caller read it.
	ErrConflict = errors.New("it changed since it was read")
)

// Request makes a mutation idempotent. Encode turns the result into the bytes
// that a repetition of the request gets; it runs before the commit, so that the
// answer is as durable as the effect.
type Request struct {
	ID     string
	Method string
	Digest []byte
	Encode func(View) ([]byte, error)
}

// answered looks for the answer to an earlier request with the same id.
func (r Request) answered(got Receipt) ([]byte, error) {
	if got.Method != r.Method || !bytes.Equal(got.Digest, r.Digest) {
		return nil, ErrReused
	}
	return got.Response, nil
}

// once runs a mutation unless its request has been answered before. Most requests
// are new, so nothing is looked up first: the ledger's own key refuses a
// repetition, and only then, or when the mutation itself is refused, is the
// answer read.
func (e *Engine) once(ctx context.Context, r Request, run func(*tx) (View, error)) ([]byte, error) {
	var response []byte
	err := e.doAs(ctx, r.ID, func(t *tx) error {
		if got, ok := t.receipt(r.ID); ok {
			var err error
			response, err = r.answered(got)
			return err
		}
		v, err := run(t)
		if err != nil {
			return err
		}
		if response, err = r.Encode(v); err != nil {
			return err
		}
		t.putReceipt(Receipt{ID: r.ID, Method: r.Method, Digest: r.Digest, Response: response, At: t.now})
		return nil
	})
	if err == nil {
		return response, nil
	}
	if errors.Is(err, ErrUnavailable) || errors.Is(err, ErrReused) || errors.Is(err, errMoved) || ctx.Err() != nil {
		return nil, err
	}
	got, look := e.o.Store.Receipts(ctx, []string{r.ID})
	switch {
	case look != nil:
		return nil, unavailable(ctx, look)
	case len(got) == 1:
		return r.answered(got[0])
	}
	return nil, err
}

// Answered looks for the answer to an earlier request with the same id.
func (e *Engine) Answered(ctx context.Context, r Request) ([]byte, bool, error) {
	got, err := e.o.Store.Receipts(ctx, []string{r.ID})
	if err != nil {
		return nil, false, unavailable(ctx, err)
	}
	if len(got) == 0 {
		return nil, false, nil
	}
	raw, err := r.answered(got[0])
	return raw, err == nil, err
}

func unavailable(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return errors.Join(ErrUnavailable, err)
}

// NewJob is what a submit brings.
type NewJob struct {
	ID        string
	Spec      job.Spec
	Priority  job.Priority
	Submitter string
	Trace     string
	After     []job.Dependency
	Origin    job.Origin
}

// Submit accepts a job at the end of its class.
func (e *Engine) Submit(ctx context.Context, r Request, n NewJob) ([]byte, error) {
	encode := r.Encode
	return e.SubmitAll(ctx, r, Batch{Jobs: []NewJob{n}, Encode: func(v []View) ([]byte, error) { return encode(v[0]) }})
}

// change runs a transition on one job. A job that is no longer in memory is
// final: the transition then sees it as the store has it and may only read.
func (e *Engine) change(ctx context.Context, r Request, id string, move func(j job.Job, a *job.Attempt, now time.Time) (job.Job, error)) ([]byte, error) {
	final, err := e.final(ctx, id)
	if err != nil {
		return nil, err
	}
	return e.once(ctx, r, func(t *tx) (View, error) {
		rec, ok := t.record(id)
		if !ok {
			if final.Job.ID == "" {
				// It became final between the look-up and now.
				return View{}, ErrUnavailable
			}
			rec = final
		}
		var attempt *job.Attempt
		if a, ok := rec.Latest(); ok && a.Live() {
			attempt = &a
		}
		j, err := move(rec.Job, attempt, t.now)
		if err != nil {
			return View{}, err
		}
		if ok && (j.State != rec.Job.State || j.Reason != rec.Job.Reason || j.Intent != rec.Job.Intent || j.Priority != rec.Job.Priority || j.Pause != rec.Job.Pause) {
			j = t.put(j, attempt)
			rec, _ = t.record(id)
		}
		rec.Job = j
		return View{Record: rec}, nil
	})
}

// final reads a job that the memory no longer has.
func (e *Engine) final(ctx context.Context, id string) (Record, error) {
	if _, ok := e.peek(id); ok {
		return Record{}, nil
	}
	rec, err := e.o.Store.Record(ctx, id)
	switch {
	case errors.Is(err, ErrNotFound):
		return Record{}, ErrNotFound
	case err != nil:
		return Record{}, unavailable(ctx, err)
	}
	return rec, nil
}

// Cancel ends a job; a final one is left as it is.
func (e *Engine) Cancel(ctx context.Context, r Request, id, why string) ([]byte, error) {
	return e.change(ctx, r, id, func(j job.Job, a *job.Attempt, now time.Time) (job.Job, error) {
		return j.Cancel(a, why, now), nil
	})
}

// Pause takes a job off its devices until a person resumes it.
func (e *Engine) Pause(ctx context.Context, r Request, id, why string) ([]byte, error) {
	return e.change(ctx, r, id, func(j job.Job, a *job.Attempt, now time.Time) (job.Job, error) {
		return j.Hold(a, why, now)
	})
}

// Resume puts a paused job back at its old place in line.
func (e *Engine) Resume(ctx context.Context, r Request, id, who string) ([]byte, error) {
	return e.change(ctx, r, id, func(j job.Job, _ *job.Attempt, now time.Time) (job.Job, error) {
		return j.Resume(who, now)
	})
}

// Reprioritize moves a waiting job to another class. revision is what the
// caller read; 0 skips the check.
func (e *Engine) Reprioritize(ctx context.Context, r Request, id string, p job.Priority, revision uint64) ([]byte, error) {
	return e.change(ctx, r, id, func(j job.Job, _ *job.Attempt, now time.Time) (job.Job, error) {
		if revision != 0 && revision != j.Revision {
			return j, ErrConflict
		}
		return j.Reprioritize(p, now)
	})
}

// SetCordon opens, cordons or drains a host. A drain asks everything on it to
// checkpoint and stop; the jobs keep their places and spend no retry.
func (e *Engine) SetCordon(ctx context.Context, r Request, name string, c Cordon, why string, encode func(AgentView) ([]byte, error)) ([]byte, error) {
	var view AgentView
	r.Encode = func(View) ([]byte, error) { return encode(view) }
	return e.once(ctx, r, func(t *tx) (View, error) {
		a, ok := t.agent(name)
		if !ok {
			return View{}, ErrNotFound
		}
		if a.Cordon != c || a.CordonReason != why {
			a.Cordon, a.CordonReason = c, why
			a = t.putAgent(a)
		}
		live := t.liveOf(name)
		if c == Draining {
			for _, at := range live {
				rec, ok := t.record(at.Job)
				if !ok {
					continue
				}
				whole, _ := rec.Latest()
				j := rec.Job.Stop(&whole, job.IntentDrain, sentence("its host "+name+" is being drained", why), t.now)
				if j.State != rec.Job.State || j.Intent != rec.Job.Intent {
					t.put(j, &whole)
				}
			}
		}
		view = e.agentView(a, live)
		return View{}, nil
	})
}
