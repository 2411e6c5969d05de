package placement

import (
	"cmp"
	"slices"
	"time"

	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/job"
)

// rung is where a job stands in the order of classes: the class, and inside it
// the band, 0 first.
type rung struct {
	class job.Priority
	band  int
}

func (a rung) above(b rung) bool { return a.class > b.class || a.class == b.class && a.band < b.band }

const (
	// urgentBand is for jobs whose deadline is near.
	urgentBand = 0
	usualBand  = 1
	// usualBand + tier is for search jobs by the service that they have got.
)

// attainedFirst and attainedSecond are, in device-seconds, where a search job
// falls a tier (Gu et al., Tiresias, NSDI 2019). From there on every doubling
// is a tier: with two thresholds alone, all long jobs end in one line, and the
// short ones among them wait for the longest.
const attainedFirst, attainedSecond = 3250, 7200

// tierOf is the service that a search job has got, in coarse steps.
func tierOf(attained float64) int {
	switch {
	case attained < attainedFirst:
		return 0
	case attained < attainedSecond:
		return 1
	}
	n := 2
	for limit := 2.0 * attainedSecond; attained >= limit && n < 40; limit *= 2 {
		n++
	}
	return n
}

// tierEnds is the service at which a tier ends.
func tierEnds(tier int) float64 {
	switch tier {
	case 0:
		return attainedFirst
	case 1:
		return attainedSecond
	}
	limit := 2.0 * attainedSecond
	for range tier - 2 {
		limit *= 2
	}
	return limit
}

// rises is when a job with a deadline goes ahead of its class: early enough that
// a quarter of its time may go wrong. Zero means never.
func (r *Request) rises() time.Time {
	if r.Deadline.IsZero() {
		return time.Time{}
	}
	return r.Deadline.Add(-r.Expect - max(r.Expect/4, 15*time.Minute))
}

// rungAt is where a waiting job stands.
func (r *Request) rungAt(now time.Time) rung {
	if at := r.rises(); !at.IsZero() && !now.Before(at) {
		return rung{r.Priority, urgentBand}
	}
	if r.Priority == job.Search {
		return rung{r.Priority, usualBand + tierOf(r.Attained)}
	}
	return rung{r.Priority, usualBand}
}

// entry is one job that the core knows: it waits or it runs.
type entry struct {
	req  Request
	rank *ranking
	seq  uint64
	acct *account
	// amount and share are what it counts for while it runs.
	amount Amount
	share  int64

	line  *line // nil while it runs or backs off
	order int64 // its place inside the line
	room  *room

	nodes []string // where it runs
}

// ahead is the order inside a line.
func (e *entry) ahead(o *entry) bool {
	if e.order != o.order {
		return e.order < o.order
	}
	return e.seq < o.seq
}

// line is the waiting jobs of one rung, tenant and shape, oldest first. To the
// fleet they are all the same: when the first does not fit, none does.
type line struct {
	at     rung
	tenant string
	rank   *ranking
	acct   *account
	jobs   []*entry // the first ones may be gone: see head
	head   int
	// tried is the state of the account at which it was last known what can be
	// reclaimed for its first job, and enough what was known.
	tried  reclaimed
	enough bool
}

func (l *line) len() int { return len(l.jobs) - l.head }

func (l *line) find(e *entry) int {
	i, _ := slices.BinarySearchFunc(l.jobs[l.head:], e, func(a, b *entry) int {
		return cmp.Or(cmp.Compare(a.order, b.order), cmp.Compare(a.seq, b.seq))
	})
	return l.head + i
}

func (l *line) add(e *entry) {
	if n := len(l.jobs); n == l.head || l.jobs[n-1].ahead(e) {
		l.jobs = append(l.jobs, e)
		return
	}
	i := l.find(e)
	if l.head > 0 && i == l.head {
		l.head--
		l.jobs[l.head] = e
		return
	}
	l.jobs = slices.Insert(l.jobs, i, e)
}

func (l *line) remove(e *entry) {
	i := l.find(e)
	if i >= len(l.jobs) || l.jobs[i] != e {
		return
	}
	if i == l.head {
		l.jobs[i] = nil
		l.head++
		if l.head > 64 && l.head > len(l.jobs)/2 {
			l.jobs = append(l.jobs[:0], l.jobs[l.head:]...)
			l.head = 0
		}
		return
	}
	l.jobs = slices.Delete(l.jobs, i, i+1)
}

// band is the lines of one rung.
type band struct {
	at    rung
	lines map[lineKey]*line
	// order are the lines as they came: iteration must not depend on a map.
	order []*line
}

// reclaimed is what the outcome of a reclaim rests on.
type reclaimed struct {
	first   *entry
	verdict verdict
	changes int
	mine    Amount
	cohort  Amount
}

type lineKey struct {
	tenant string
	rank   *ranking
}

// lineOf finds or makes the line of a job.
func (c *Core) lineOf(at rung, tenant string, rank *ranking, acct *account) *line {
	i, ok := slices.BinarySearchFunc(c.bands, at, func(b *band, at rung) int {
		switch {
		case b.at.above(at):
			return -1
		case at.above(b.at):
			return 1
		}
		return 0
	})
	if !ok {
		c.bands = slices.Insert(c.bands, i, &band{at: at, lines: map[lineKey]*line{}})
	}
	b := c.bands[i]
	key := lineKey{tenant, rank}
	l := b.lines[key]
	if l == nil {
		l = &line{at: at, tenant: tenant, rank: rank, acct: acct}
		b.lines[key] = l
		b.order = append(b.order, l)
	}
	return l
}

// tidy forgets lines that have been empty: a shape that comes no more must not
// cost every round.
func (b *band) tidy() {
	if len(b.order) < 64 {
		return
	}
	empty := 0
	for _, l := range b.order {
		if l.len() == 0 {
			empty++
		}
	}
	if empty*2 < len(b.order) {
		return
	}
	b.order = slices.DeleteFunc(b.order, func(l *line) bool {
		if l.len() > 0 {
			return false
		}
		delete(b.lines, lineKey{l.tenant, l.rank})
		return true
	})
}
