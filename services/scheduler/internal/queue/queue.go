// Package queue is the order in which waiting jobs are looked at: the priority
// class first, then fair share between tenants, then the place in line.
//
// A job that backs off is not looked at until its time comes, and then stands
// where it stood: the order does not depend on how often or how long anybody has
// backed off.
package queue

import (
	"container/heap"
	"sort"
	"time"

	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/job"
)

// Entry is one waiting job.
type Entry struct {
	Job       string
	Priority  job.Priority
	Tenant    string
	Place     int64
	NotBefore time.Time
	// Size is the part of the fleet that the job asks for.
	Size float64
}

// Tenants is what the tenants use now, and their weights.
type Tenants struct {
	// Usage is the part of the fleet that a tenant's live attempts hold.
	Usage map[string]float64
	// Weight is a tenant's weight; a tenant without one has 1.
	Weight map[string]float64
}

func (t Tenants) weight(tenant string) float64 {
	if w := t.Weight[tenant]; w > 0 {
		return w
	}
	return 1
}

// Order sorts entries. Inside a class the next job is always the oldest one of
// the tenant that uses the least for its weight, counting what has been put
// before it: start-time fair queueing. With one tenant it is the place in line.
func Order(entries []Entry, t Tenants) []Entry {
	sorted := append([]Entry(nil), entries...)
	sort.Slice(sorted, func(i, k int) bool {
		a, b := &sorted[i], &sorted[k]
		if a.Priority != b.Priority {
			return a.Priority > b.Priority
		}
		if a.Place != b.Place {
			return a.Place < b.Place
		}
		return a.Job < b.Job
	})
	out := make([]Entry, 0, len(sorted))
	usage := map[string]float64{}
	for _, e := range sorted {
		if _, ok := usage[e.Tenant]; !ok {
			usage[e.Tenant] = t.Usage[e.Tenant] / t.weight(e.Tenant)
		}
	}
	for from := 0; from < len(sorted); {
		to := from
		for to < len(sorted) && sorted[to].Priority == sorted[from].Priority {
			to++
		}
		out = interleave(out, sorted[from:to], usage, t)
		from = to
	}
	return out
}

// line is one tenant's jobs of one class, oldest first.
type line struct {
	tenant string
	jobs   []Entry
	usage  float64
}

type lines []*line

func (l lines) Len() int { return len(l) }
func (l lines) Less(i, k int) bool {
	if l[i].usage != l[k].usage {
		return l[i].usage < l[k].usage
	}
	return l[i].jobs[0].Place < l[k].jobs[0].Place
}
func (l lines) Swap(i, k int) { l[i], l[k] = l[k], l[i] }
func (l *lines) Push(x any)   { *l = append(*l, x.(*line)) }
func (l *lines) Pop() any {
	last := len(*l) - 1
	x := (*l)[last]
	*l = (*l)[:last]
	return x
}

func interleave(out, class []Entry, usage map[string]float64, t Tenants) []Entry {
	at := map[string]*line{}
	var h lines
	for _, e := range class {
		l := at[e.Tenant]
		if l == nil {
			l = &line{tenant: e.Tenant, usage: usage[e.Tenant]}
			at[e.Tenant] = l
			h = append(h, l)
		}
		l.jobs = append(l.jobs, e)
	}
	if len(h) == 1 {
		for _, e := range class {
			usage[e.Tenant] += e.Size / t.weight(e.Tenant)
		}
		return append(out, class...)
	}
	heap.Init(&h)
	for len(h) > 0 {
		l := h[0]
		e := l.jobs[0]
		out = append(out, e)
		l.jobs = l.jobs[1:]
		l.usage += e.Size / t.weight(e.Tenant)
		usage[l.tenant] = l.usage
		if len(l.jobs) == 0 {
			heap.Pop(&h)
			continue
		}
		heap.Fix(&h, 0)
	}
	return out
}

// Ready splits ordered entries into those that may run now, still in order, and
// the time when the next of the others may; zero when none waits for a time.
func Ready(entries []Entry, now time.Time) (ready []Entry, next time.Time) {
	for _, e := range entries {
		if e.NotBefore.After(now) {
			if next.IsZero() || e.NotBefore.Before(next) {
				next = e.NotBefore
			}
			continue
		}
		ready = append(ready, e)
	}
	return ready, next
}
