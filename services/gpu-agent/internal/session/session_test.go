package session

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	fleetv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/fleet/v1"
	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/host"
	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/reconcile"
)

// scriptedScheduler answers every poll with revision 7 and records what each claimed to know.
type scriptedScheduler struct {
	grpc.ClientConnInterface
	known []int64
	calls chan struct{}
}

func (s *scriptedScheduler) Invoke(ctx context.Context, _ string, args, reply any, _ ...grpc.CallOption) error {
	known := args.(*fleetv1.SynchronizeRequest).GetKnownRevision()
	s.known = append(s.known, known)
	s.calls <- struct{}{}
	if known == 7 {
		<-ctx.Done()
		return ctx.Err()
	}
	proto.Merge(reply.(proto.Message), &fleetv1.SynchronizeResponse{DesiredRevision: 7, LeaseDuration: durationpb.New(time.Minute)})
	return nil
}

// slowHost fails to carry out the first answer.
type slowHost struct {
	applied int
	changed chan struct{}
}

func (h *slowHost) Snapshot() host.Snapshot  { return host.Snapshot{} }
func (h *slowHost) Changed() <-chan struct{} { return h.changed }
func (h *slowHost) Apply(context.Context, reconcile.Desired, time.Time) bool {
	h.applied++
	return h.applied > 1
}

// A report claims to know an answer only after its leases are in the journal: the scheduler takes a lease that such a report
// lacks for lost. Claiming it at once made two of three jobs that were placed together lose their host again and again.
func TestAnAnswerIsKnownOnlyWhenItIsCarriedOut(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		scheduler := &scriptedScheduler{calls: make(chan struct{}, 8)}
		yes := func() bool { return true }
		s := New(scheduler, Identity{Name: "h", DataService: yes, Registry: yes}, &slowHost{changed: make(chan struct{})}, func() {}, zap.NewNop())
		done := make(chan error, 1)
		go func() { done <- s.Run(ctx) }()
		for range 3 {
			<-scheduler.calls
		}
		cancel()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		want := []int64{0, 0, 7}
		for i, k := range scheduler.known {
			if i >= len(want) || k != want[i] {
				t.Fatalf("polls claimed to know %v, want %v", scheduler.known, want)
			}
		}
	})
}
