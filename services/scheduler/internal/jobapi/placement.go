package jobapi

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/timestamppb"

	jobv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/job/v1"
)

// ExplainPlacement says why an attempt runs where it runs.
func (s *Jobs) ExplainPlacement(ctx context.Context, in *jobv1.ExplainPlacementRequest) (*jobv1.ExplainPlacementResponse, error) {
	v, err := s.engine.ExplainPlacement(ctx, in.GetJobId(), int(in.GetAttempt()))
	if err != nil {
		return nil, wire(err, "that attempt of job "+in.GetJobId())
	}
	out := &jobv1.ExplainPlacementResponse{
		Attempt: attemptTo(v.Attempt), Summary: v.Summary, AheadCount: int64(v.Ahead), SnapshotId: v.Capture, DecisionTime: timeTo(v.At),
	}
	for _, c := range v.Candidates {
		k := &jobv1.ExplainPlacementResponse_Candidate{
			AgentName: c.Node, Fitted: c.Fits, Chosen: c.Chosen, Reason: c.Reason, DeviceIds: c.Devices, Rank: uint32(c.Rank), Guard: uint32(c.Guard),
			Pressure: c.Pressure, Score: uint32(c.Score), WasteBefore: c.Before, WasteAfter: c.After,
		}
		for _, o := range c.Options {
			k.Devices = append(k.Devices, &jobv1.ExplainPlacementResponse_DeviceScore{DeviceId: o.Device, Chosen: o.Chosen, Score: uint32(o.Score), WasteAfter: o.After})
		}
		out.Candidates = append(out.Candidates, k)
	}
	return out, nil
}

// ListSnapshots lists the captured planning rounds.
func (s *Jobs) ListSnapshots(context.Context, *jobv1.ListSnapshotsRequest) (*jobv1.ListSnapshotsResponse, error) {
	out := &jobv1.ListSnapshotsResponse{}
	for _, c := range s.engine.Captures() {
		out.Snapshots = append(out.Snapshots, &jobv1.ListSnapshotsResponse_Snapshot{
			SnapshotId: c.ID, Time: timestamppb.New(c.At), Hosts: int64(c.Hosts), Queued: int64(c.Queued), Placed: int64(c.Placed), Preempted: int64(c.Preemptions),
		})
	}
	return out, nil
}

// chunk keeps a message well below every limit on its way.
const chunk = 1 << 20

// GetSnapshot sends one captured round.
func (s *Jobs) GetSnapshot(in *jobv1.GetSnapshotRequest, stream grpc.ServerStreamingServer[jobv1.GetSnapshotResponse]) error {
	id, raw, err := s.engine.Captured(in.GetSnapshotId(), in.GetJobId())
	if err != nil {
		return wire(err, "that snapshot")
	}
	for len(raw) > 0 {
		n := min(len(raw), chunk)
		if err := stream.Send(&jobv1.GetSnapshotResponse{SnapshotId: id, Chunk: raw[:n]}); err != nil {
			return err
		}
		raw = raw[n:]
	}
	return nil
}
