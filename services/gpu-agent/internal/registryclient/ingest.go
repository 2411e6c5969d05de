package registryclient

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	fleetv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/fleet/v1"
	registryv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/registry/v1"
	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/lease"
	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/spool"
	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/wire"
)

// Opened encodes the first batch of an attempt.
func (c *Client) Opened(a lease.Assignment, restored string, now time.Time) ([]byte, error) {
	var assignment fleetv1.Assignment
	if err := proto.Unmarshal(a.Payload, &assignment); err != nil {
		return nil, fmt.Errorf("the stored assignment of %s: %w", a.Key, err)
	}
	return proto.Marshal(&registryv1.IngestRequest{
		JobId: a.JobID, Attempt: a.Attempt, Fence: a.Fence, Traceparent: a.TraceParent,
		Batch: &registryv1.IngestRequest_Opened{Opened: &registryv1.RunOpened{
			Spec: assignment.Spec, AgentName: c.agentName, RestoredCheckpointId: restored,
			Traceparent: a.TraceParent, Time: timestamppb.New(now),
		}},
	})
}

// Closed encodes the last batch of an attempt.
func (c *Client) Closed(exit lease.Exit, traceparent string) ([]byte, error) {
	return proto.Marshal(&registryv1.IngestRequest{
		JobId: exit.JobID, Attempt: exit.Attempt, Fence: exit.Fence, Traceparent: traceparent,
		Batch: &registryv1.IngestRequest_Closed{Closed: &registryv1.RunClosed{
			Outcome: wire.Outcome(exit.Outcome), FailureClass: wire.Class(exit.Class),
			Message: wire.Truncate(exit.Evidence.Message, 10000), Time: timestamppb.New(exit.EndTime),
		}},
	})
}

// window bounds what is in flight on one stream without a result.
const (
	windowRecords = 512
	windowBytes   = 4 << 20
)

// Drain sends an attempt's spooled batches in order and frees what the registry
// has made durable, until ctx ends or the stream breaks; the caller calls again.
// refused is told of each batch that the registry will never take.
func (c *Client) Drain(ctx context.Context, s *spool.Spool, refused func(reason, message string)) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := c.ingest.Ingest(ctx)
	if err != nil {
		return err
	}
	var (
		wg       sync.WaitGroup
		sendErr  error
		inFlight = make(chan spool.Record, windowRecords)
	)
	wg.Go(func() {
		defer cancel()
		sendErr = c.send(ctx, stream.Send, s, inFlight)
	})
	recvErr := receive(ctx, stream.Recv, s, inFlight, refused)
	cancel()
	wg.Wait()
	return errors.Join(recvErr, ignoreEnd(sendErr))
}

func ignoreEnd(err error) error {
	if errors.Is(err, context.Canceled) || errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

func (c *Client) send(ctx context.Context, send func(*registryv1.IngestRequest) error, s *spool.Spool, inFlight chan<- spool.Record) error {
	var after uint64
	for {
		records, err := s.Next(ctx, after, windowBytes)
		if err != nil {
			return err
		}
		for _, r := range records {
			after = r.Sequence
			select {
			case inFlight <- spool.Record{Sequence: r.Sequence, Kind: r.Kind}:
			case <-ctx.Done():
				return ctx.Err()
			}
			if r.Kind != spool.Batch {
				continue
			}
			var batch registryv1.IngestRequest
			if err := proto.Unmarshal(r.Payload, &batch); err != nil {
				return fmt.Errorf("spooled record %d: %w", r.Sequence, err)
			}
			batch.Sequence = r.Sequence
			if err := send(&batch); err != nil {
				return err
			}
		}
	}
}

// receive matches results with what was sent; marks between batches need none.
func receive(ctx context.Context, recv func() (*registryv1.IngestResponse, error), s *spool.Spool, inFlight <-chan spool.Record, refused func(reason, message string)) error {
	for {
		var r spool.Record
		select {
		case r = <-inFlight:
		case <-ctx.Done():
			return ctx.Err()
		}
		if r.Kind != spool.Batch {
			s.Acked(r.Sequence)
			continue
		}
		result, err := recv()
		if err != nil {
			return err
		}
		if result.Sequence != r.Sequence {
			return fmt.Errorf("the registry answered for batch %d, expected %d", result.Sequence, r.Sequence)
		}
		switch result.Result {
		case registryv1.IngestResponse_RESULT_ACCEPTED:
		case registryv1.IngestResponse_RESULT_REFUSED:
			refused(result.Reason, result.Message)
		default:
			return fmt.Errorf("the registry answered batch %d with result %v", r.Sequence, result.Result)
		}
		s.Acked(r.Sequence)
	}
}
