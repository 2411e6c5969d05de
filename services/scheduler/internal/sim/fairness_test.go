package sim_test

import (
	"math"
	"testing"

	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/sim"
)

// Two equal tenants share two hosts. The first has twice the work: it may use what the second leaves, and neither is worse off
// than on a host of its own, but for one restart.
func TestEqualTenantsShareFairly(t *testing.T) {
	t.Parallel()
	var jobs []sim.TraceJob
	for i := range 12 {
		work := 20_000.0
		if i%2 == 1 {
			work = 10_000
		}
		jobs = append(jobs, sim.TraceJob{ID: string(rune('a' + i)), GPUs: 1 << (i % 4), Work: work, Overhead: 10})
	}
	got, err := sim.Share(jobs, sim.Cluster{Nodes: 2, PerNode: 8}, 2)
	if err != nil {
		t.Fatal(err)
	}
	if got.Jobs != 12 || got.Left != 0 || got.Tenant > 3.3 || got.Tenant <= 0 || math.IsInf(got.Job, 0) {
		t.Errorf("%+v", got)
	}
	t.Logf("%+v", got)
	if _, err := sim.Share(jobs, sim.Cluster{Nodes: 2, PerNode: 8}, 3); err == nil {
		t.Error("two hosts were divided by three")
	}
}
