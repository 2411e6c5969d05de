// Package queue is the order in which waiting jobs are looked at.
//
// The order is the priority class, then the place in line. A job that backs off
// is not looked at until its time comes, and then stands where it stood: its
// key does not depend on how often or how long it has waited.
package queue

import (
	"sort"
	"time"

	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/job"
)

// Entry is one waiting job.
type Entry struct {
	Job       string
	Priority  job.Priority
	Place     int64
	NotBefore time.Time
}

// Before reports whether a goes ahead of b. It is a strict total order as long
// as places differ, and it never looks at NotBefore.
func Before(a, b Entry) bool {
	if a.Priority != b.Priority {
		return a.Priority > b.Priority
	}
	if a.Place != b.Place {
		return a.Place < b.Place
	}
	return a.Job < b.Job
}

// Sort puts entries in order, in place.
func Sort(entries []Entry) {
	sort.Slice(entries, func(i, k int) bool { return Before(entries[i], entries[k]) })
}

// Ready splits sorted entries into those that may run now, still in order, and
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
