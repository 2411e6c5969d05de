package queue_test

import (
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/job"
	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/queue"
)

var t0 = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func entries() *rapid.Generator[[]queue.Entry] {
	return rapid.Custom(func(t *rapid.T) []queue.Entry {
		n := rapid.IntRange(0, 30).Draw(t, "n")
		places := rapid.Permutation(seq(n)).Draw(t, "places")
		out := make([]queue.Entry, n)
		for i := range out {
			out[i] = queue.Entry{
				Job: fmt.Sprintf("j%d", i), Place: int64(places[i]),
				Priority: job.Priority(rapid.IntRange(int(job.Batch), int(job.Production)).Draw(t, "priority")),
			}
			if rapid.Bool().Draw(t, "backs off") {
				out[i].NotBefore = t0.Add(time.Duration(rapid.IntRange(-60, 60).Draw(t, "until")) * time.Second)
			}
		}
		return out
	})
}

func seq(n int) []int {
	out := make([]int, n)
	for i := range out {
		out[i] = i
	}
	return out
}

// Backing off never inverts the order: those who may run stand exactly as they
// would if nobody backed off, and whoever's time has come stands where it stood.
func TestBackoffNeverInvertsTheOrder(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		all := entries().Draw(t, "entries")
		queue.Sort(all)
		ready, next := queue.Ready(all, t0)
		for i := 1; i < len(ready); i++ {
			a, b := ready[i-1], ready[i]
			if a.Priority < b.Priority || a.Priority == b.Priority && a.Place > b.Place {
				t.Fatalf("%+v goes before %+v", a, b)
			}
		}
		waiting := 0
		for _, e := range all {
			if e.NotBefore.After(t0) {
				waiting++
				if next.IsZero() || e.NotBefore.Before(next) {
					t.Fatalf("next look at %s misses %+v", next, e)
				}
			}
		}
		if len(ready)+waiting != len(all) {
			t.Fatalf("%d ready and %d waiting of %d", len(ready), waiting, len(all))
		}
		if waiting == 0 != next.IsZero() {
			t.Fatalf("%d wait, next look at %s", waiting, next)
		}
	})
}
