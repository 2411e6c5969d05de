package cycle

import (
	"slices"
	"time"

	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/job"
	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/learn"
	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/placement"
)

func (t *tx) peak(key string) learn.Peak {
	for x := t; x != nil; x = x.parent {
		if p, ok := x.peaks[key]; ok {
			return p
		}
	}
	p := t.base.peaks[key]
	p.Key = key
	return p
}

// observe remembers what an attempt used and took, for its kind of device and for
// any.
func (t *tx) observe(j *job.Job, a *job.Attempt) {
	peak := a.Progress.PeakBytes
	if len(a.Shares) > 0 && a.Failure == job.DeviceOOM && !a.Shares[0].Whole {
		// What it was stopped at is less than what it needs.
		peak = max(peak, a.Shares[0].Bytes)
	}
	if j.Spec.Kin == "" || peak <= 0 || len(a.Shares) == 0 {
		return
	}
	if t.peaks == nil {
		t.peaks = map[string]learn.Peak{}
	}
	for _, device := range []string{a.Shares[0].Kind, ""} {
		p := t.peak(learn.Key(j.Spec.Kin, a.Batch, device)).Saw(peak, t.now)
		if a.Outcome == job.OutcomeSucceeded && a.Number == 1 && !a.Started.IsZero() {
			p = p.Ran(a.Ended.Sub(a.Started))
		}
		t.peaks[p.Key] = p
	}
}

// learned is a demand with the reservations that earlier runs teach. One that was
// too small once is not tried again: the job then gets whole devices.
func (s *state) learned(j *job.Job) (job.Demand, bool) {
	d := j.Spec.Demand
	if !slices.ContainsFunc(d.Devices, func(g job.DeviceDemand) bool { return g.Learn }) {
		return d, false
	}
	d.Devices = slices.Clone(d.Devices)
	changed := false
	for i := range d.Devices {
		g := &d.Devices[i]
		if !g.Learn {
			continue
		}
		if j.Alone {
			g.Bytes, changed = 0, true
			continue
		}
		if j.Spec.Kin == "" {
			continue
		}
		if r := s.peaks[learn.Key(j.Spec.Kin, j.Batch, g.Kind)].Reservation(); r > g.Bytes && r <= s.largest(g) {
			g.Bytes, changed = r, true
		}
	}
	return d, changed
}

// largest is the most that any device could reserve for a demand: what was learned
// on a host that has left must not keep a job waiting for ever. It is worked out
// once for each change of the fleet.
func (s *state) largest(g *job.DeviceDemand) int64 {
	if s.most == nil {
		s.most = map[string]int64{}
		for _, a := range s.agents {
			for _, d := range a.Devices {
				s.most[d.Kind] = max(s.most[d.Kind], d.Memory-d.Headroom-d.Overhead)
			}
		}
	}
	largest := int64(0)
	for kind, bytes := range s.most {
		if g.Accepts(kind) {
			largest = max(largest, bytes)
		}
	}
	return largest
}

// expected is how long a job will run, as far as anybody knows: what the person
// said, what earlier runs took, its limit.
func (s *state) expected(j *job.Job) time.Duration {
	if j.Spec.Expect > 0 {
		return j.Spec.Expect
	}
	if took := s.peaks[learn.Key(j.Spec.Kin, j.Batch, "")].Took; took > 0 {
		return took
	}
	return j.Spec.RunLimit
}

// requestOf is a job as the core knows it.
func (s *state) requestOf(r *Record) placement.Request {
	j := &r.Job
	q := placement.Request{
		Job: j.ID, Revision: j.Revision, Demand: j.Spec.Demand, Shape: r.shape, Priority: j.Priority, Tenant: j.Spec.Tenant, Place: j.Place,
		NotBefore: j.NotBefore, Longest: j.Spec.RunLimit, Deadline: j.Spec.Deadline, Expect: s.expected(j),
	}
	if d, changed := s.learned(j); changed {
		q.Demand, q.Shape = d, placement.Shape(&d)
	}
	for i := range r.Attempts {
		if a := &r.Attempts[i]; !a.Live() && !a.Started.IsZero() {
			q.Attained += a.Ended.Sub(a.Started).Seconds() * float64(max(a.Processes(), 1))
		}
	}
	return q
}

// learners lists the waiting jobs that what was just learned may concern.
func (s *state) learners(peaks map[string]learn.Peak) []string {
	var out []string
	for id, r := range s.records {
		if r.Job.State != job.Queued || r.Job.Spec.Kin == "" {
			continue
		}
		for _, g := range r.Job.Spec.Demand.Devices {
			if _, news := peaks[learn.Key(r.Job.Spec.Kin, r.Job.Batch, g.Kind)]; news && g.Learn {
				out = append(out, id)
				break
			}
		}
	}
	return out
}
