package cycle

import (
	"context"
	"errors"
	"fmt"
	"sort"
	"time"

	"go.uber.org/zap"

	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/job"
)

// ErrExists says that a name is taken.
var ErrExists = errors.New("the name is taken")

const (
	// punctual is how late a fire time may be dealt with and still count as on
	// time: what is later passed while no scheduler ran.
	punctual = time.Minute
	// catchUpLimit bounds how many missed fire times are made up for.
	catchUpLimit = 100
)

// Compose makes the job of a fire time.
type Compose func(s Schedule, fire time.Time) (NewJob, error)

func (t *tx) schedule(name string) (Schedule, bool) {
	for x := t; x != nil; x = x.parent {
		if s, ok := x.schedules[name]; ok {
			if s == nil {
				return Schedule{}, false
			}
			return *s, true
		}
	}
	s, ok := t.base.schedules[name]
	return s, ok
}

func (t *tx) putSchedule(s Schedule) Schedule {
	s.Revision = t.next()
	t.setSchedule(s.Name, &s)
	return s
}

func (t *tx) setSchedule(name string, s *Schedule) {
	if t.schedules == nil {
		t.schedules = map[string]*Schedule{}
	}
	t.schedules[name] = s
}

// ChangeSchedule creates, changes or, when change returns nil, forgets a
// schedule. change sees what there is; nil means nothing.
func (e *Engine) ChangeSchedule(ctx context.Context, r Request, name string, change func(was *Schedule, now time.Time) (*Schedule, error), encode func(*Schedule) ([]byte, error)) ([]byte, error) {
	var result *Schedule
	r.Encode = func(View) ([]byte, error) { return encode(result) }
	return e.once(ctx, r, func(t *tx) (View, error) {
		var was *Schedule
		if s, ok := t.schedule(name); ok {
			was = &s
		}
		now, err := change(was, t.now)
		if err != nil {
			return View{}, err
		}
		if result = now; now == nil {
			t.setSchedule(name, nil)
			return View{}, nil
		}
		s := t.putSchedule(*now)
		result = &s
		return View{}, nil
	})
}

// Schedule reads one schedule.
func (e *Engine) Schedule(name string) (Schedule, error) {
	e.mu.RLock()
	defer e.mu.RUnlock()
	if s, ok := e.st.schedules[name]; ok {
		return s, nil
	}
	return Schedule{}, ErrNotFound
}

// Schedules lists the schedules by name.
func (e *Engine) Schedules() []Schedule {
	e.mu.RLock()
	defer e.mu.RUnlock()
	out := make([]Schedule, 0, len(e.st.schedules))
	for _, s := range e.st.schedules {
		out = append(out, s)
	}
	sort.Slice(out, func(i, k int) bool { return out[i].Name < out[k].Name })
	return out
}

// dueFires lists the schedules with a fire time at or before now.
func (s *state) dueFires(now time.Time) []string {
	var out []string
	for name, x := range s.schedules {
		if next := x.Next(x.Done, 1); len(next) > 0 && !next[0].After(now) {
			out = append(out, name)
		}
	}
	sort.Strings(out)
	return out
}

// fires lists the fire times that are to be submitted now, and how many passed
// by without one.
func (s *Schedule) fires(now time.Time) (submit []time.Time, skipped int64, newest time.Time) {
	line, err := s.Line()
	if err != nil {
		return nil, 0, time.Time{}
	}
	var missed []time.Time
	for at := line.Next(s.Done); !at.IsZero() && !at.After(now); at = line.Next(at) {
		newest = at
		if now.Sub(at) <= punctual {
			submit = append(submit, at)
			continue
		}
		if missed = append(missed, at); len(missed) > catchUpLimit {
			missed = missed[1:]
			skipped++
		}
	}
	switch {
	case s.CatchUp == CatchUpAll:
		submit = append(missed, submit...)
	case s.CatchUp == CatchUpLatest && len(missed) > 0 && len(submit) == 0:
		submit = missed[len(missed)-1:]
		skipped += int64(len(missed) - 1)
	default:
		skipped += int64(len(missed))
	}
	return submit, skipped, newest
}

// fire deals with every fire time of a schedule that has come. The jobs and the
// memory of it are one transaction: a fire time is submitted once, whatever
// crashes.
func (e *Engine) fire(t *tx, name string) error {
	s, ok := t.schedule(name)
	if !ok || s.Paused {
		return nil
	}
	submit, skipped, newest := s.fires(t.now)
	if newest.IsZero() {
		return nil
	}
	s.Skipped += skipped
	s.Done, s.Fired, s.Result = newest, newest, "skipped: it passed while no scheduler ran"
	for _, at := range submit {
		s.Fired = at
		id, result, err := e.fireOnce(t, s, at)
		if err != nil {
			return err
		}
		if s.Result = result; id == "" {
			s.Skipped++
			continue
		}
		s.Job = id
	}
	t.putSchedule(s)
	e.log.Info("schedule fired", zap.String("schedule", name), zap.Time("fire_time", s.Fired), zap.String("result", s.Result), zap.String("job_id", s.Job))
	return nil
}

func (e *Engine) fireOnce(t *tx, s Schedule, at time.Time) (id, result string, err error) {
	if last, ok := t.record(s.Job); ok && !last.Job.State.Terminal() {
		switch s.Overlap {
		case ForbidOverlap:
			return "", fmt.Sprintf("skipped: job %s is still %s", s.Job, last.Job.State), nil
		case ReplaceOverlap:
			var attempt *job.Attempt
			if a, ok := last.Latest(); ok && a.Live() {
				attempt = &a
			}
			t.put(last.Job.Cancel(attempt, "replaced by the next fire time of schedule "+s.Name, t.now), attempt)
		case AllowOverlap:
		}
	}
	n, err := e.o.Compose(s, at)
	if err != nil {
		return "", "skipped: its specification cannot be read: " + err.Error(), nil
	}
	if err := t.mayAdd(n.Spec.Tenant, 1); err != nil {
		return "", "skipped: " + err.Error(), nil
	}
	n.Origin.Schedule = s.ID
	j, unmet, err := t.resolve(0, &n, nil, past{})
	switch {
	case err != nil:
		return "", "", err
	case len(unmet) > 0:
		return "", "skipped: " + unmet[0].Text, nil
	}
	return t.take(j).ID, "submitted", nil
}
