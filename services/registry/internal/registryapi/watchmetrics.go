package registryapi

import (
	"time"

	"google.golang.org/grpc"

	"github.com/ultrathink-pilot/trainyard/libs/rpcerr"
	"github.com/ultrathink-pilot/trainyard/libs/rpcserver"
	registryv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/registry/v1"
	"github.com/ultrathink-pilot/trainyard/services/registry/internal/catalog"
)

const (
	// tailPage is the number of points of one frame.
	tailPage = 5000
	// tailPoll finds what another registry process has committed.
	tailPoll = time.Second
	// tailPause keeps a fast writer from costing a read per commit and follower.
	tailPause = 100 * time.Millisecond
)

// WatchMetrics reads from the database whenever something was committed, at the pace of its
// client: nothing is queued for it, so nothing can overflow.
func (s *runServer) WatchMetrics(r *registryv1.WatchMetricsRequest, stream grpc.ServerStreamingServer[registryv1.WatchMetricsResponse]) error {
	ctx := stream.Context()
	tail, err := s.Store.Follow(ctx, r.GetRunId(), r.AfterStep, r.GetKeys())
	if err != nil {
		return wire(err)
	}
	defer tail.Cancel()
	poll := time.NewTicker(tailPoll)
	defer poll.Stop()
	var told catalog.RunState
	for {
		points, state, err := tail.Next(ctx, tailPage)
		if err != nil {
			return wire(err)
		}
		if len(points) > 0 || state != told {
			frame := &registryv1.WatchMetricsResponse{State: runState(state)}
			for _, p := range points {
				frame.Metrics = append(frame.Metrics, &registryv1.Metric{Key: p.Key, Value: p.Value, Step: p.Step, Time: stamp(p.Time), Attempt: uint32(p.Attempt)})
			}
			if err := stream.Send(frame); err != nil {
				return err
			}
			told = state
		}
		switch {
		case len(points) > 0:
			// There may be more; after a pause, so that a burst becomes one frame.
			select {
			case <-time.After(tailPause):
			case <-rpcserver.Draining(ctx):
				return rpcerr.Draining()
			case <-ctx.Done():
				return ctx.Err()
			}
			continue
		case state == catalog.RunSucceeded:
			return nil
		}
		select {
		case <-tail.Wake():
		case <-poll.C:
		case <-rpcserver.Draining(ctx):
			return rpcerr.Draining()
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
