package scheduler_test

import (
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/uuid"

	"github.com/ultrathink-pilot/trainyard/libs/identity"
	jobv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/job/v1"
)

// Durable submits through mutual TLS, validation and Postgres, by 64 callers.
func BenchmarkSubmitJob(b *testing.B) {
	m := newMesh(b)
	clients := make([]jobv1.JobServiceClient, 8)
	for i := range clients {
		clients[i] = jobv1.NewJobServiceClient(m.dial(identity.RolePerson, "ann"))
	}
	s := spec(gib)
	s.WaitForCapacity = true
	var failed atomic.Int64
	for b.Loop() {
		var wg sync.WaitGroup
		for c := range 64 {
			wg.Go(func() {
				for range 16 {
					if _, err := clients[c%8].SubmitJob(b.Context(), &jobv1.SubmitJobRequest{RequestId: uuid.NewString(), Spec: s}); err != nil {
						failed.Add(1)
					}
				}
			})
		}
		wg.Wait()
	}
	b.ReportMetric(float64(64*16*b.N)/b.Elapsed().Seconds(), "submits/s")
	if n := failed.Load(); n > 0 {
		b.Errorf("%d submits failed", n)
	}
}
