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
				Job: fmt.Sprintf("j%d", i), Place: int64(places[i]), Size: rapid.Float64Range(0, 0.5).Draw(t, "size"),
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
		all := queue.Order(entries().Draw(t, "entries"), queue.Tenants{})
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

// Whatever tenants use, the order keeps every job once, classes in order, and
// each tenant's jobs of a class by age; at every point the next job's tenant is
// the one with the least use for its weight.
func TestOrderIsFairInsideClasses(t *testing.T) {
	t.Parallel()
	names := []string{"a", "b", "c"}
	rapid.Check(t, func(t *rapid.T) {
		in := entries().Draw(t, "entries")
		tenants := queue.Tenants{Usage: map[string]float64{}, Weight: map[string]float64{}}
		for _, n := range names {
			tenants.Usage[n] = rapid.Float64Range(0, 1).Draw(t, "usage")
			tenants.Weight[n] = rapid.SampledFrom([]float64{1, 2, 5}).Draw(t, "weight")
		}
		for i := range in {
			in[i].Tenant = rapid.SampledFrom(names).Draw(t, "tenant")
		}
		out := queue.Order(in, tenants)
		if len(out) != len(in) {
			t.Fatalf("%d of %d", len(out), len(in))
		}
		use := map[string]float64{}
		for _, n := range names {
			use[n] = tenants.Usage[n] / tenants.Weight[n]
		}
		waits := func(from int, tenant string, class job.Priority) bool {
			for _, e := range out[from:] {
				if e.Tenant == tenant && e.Priority == class {
					return true
				}
			}
			return false
		}
		for i, e := range out {
			for _, other := range out[i+1:] {
				if other.Priority > e.Priority {
					t.Fatalf("%+v before %+v", e, other)
				}
				if other.Tenant == e.Tenant && other.Priority == e.Priority && other.Place < e.Place {
					t.Fatalf("%+v before the older %+v", e, other)
				}
			}
			for _, n := range names {
				if n != e.Tenant && use[n] < use[e.Tenant]-1e-9 && waits(i, n, e.Priority) {
					t.Fatalf("%s at %.3f goes before %s at %.3f", e.Tenant, use[e.Tenant], n, use[n])
				}
			}
			use[e.Tenant] += e.Size / tenants.Weight[e.Tenant]
		}
	})
}
