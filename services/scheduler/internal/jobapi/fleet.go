package jobapi

import (
	"context"

	"google.golang.org/protobuf/proto"

	fleetv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/fleet/v1"
	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/cycle"
)

// Fleet is the FleetService.
type Fleet struct {
	fleetv1.UnsafeFleetServiceServer
	engine *cycle.Engine
}

// NewFleet serves hosts from an engine.
func NewFleet(e *cycle.Engine) *Fleet { return &Fleet{engine: e} }

var _ fleetv1.FleetServiceServer = (*Fleet)(nil)

// ListAgents lists the hosts by name.
func (s *Fleet) ListAgents(context.Context, *fleetv1.ListAgentsRequest) (*fleetv1.ListAgentsResponse, error) {
	out := &fleetv1.ListAgentsResponse{}
	for _, v := range s.engine.Agents() {
		out.Agents = append(out.Agents, agentTo(v))
	}
	return out, nil
}

// CordonAgent keeps new work away from a host.
func (s *Fleet) CordonAgent(ctx context.Context, in *fleetv1.CordonAgentRequest) (*fleetv1.CordonAgentResponse, error) {
	r, err := request(ctx, in.GetRequestId(), "CordonAgent", in)
	if err != nil {
		return nil, err
	}
	raw, err := s.engine.SetCordon(ctx, r, in.GetAgentName(), cycle.Cordoned, in.GetReason(), func(v cycle.AgentView) ([]byte, error) {
		return proto.Marshal(&fleetv1.CordonAgentResponse{Agent: agentTo(v)})
	})
	return answer(raw, err, &fleetv1.CordonAgentResponse{}, "agent "+in.GetAgentName())
}

// DrainAgent cordons a host and moves away what runs there.
func (s *Fleet) DrainAgent(ctx context.Context, in *fleetv1.DrainAgentRequest) (*fleetv1.DrainAgentResponse, error) {
	r, err := request(ctx, in.GetRequestId(), "DrainAgent", in)
	if err != nil {
		return nil, err
	}
	raw, err := s.engine.SetCordon(ctx, r, in.GetAgentName(), cycle.Draining, in.GetReason(), func(v cycle.AgentView) ([]byte, error) {
		return proto.Marshal(&fleetv1.DrainAgentResponse{Agent: agentTo(v)})
	})
	return answer(raw, err, &fleetv1.DrainAgentResponse{}, "agent "+in.GetAgentName())
}

// UncordonAgent lets a host take work again.
func (s *Fleet) UncordonAgent(ctx context.Context, in *fleetv1.UncordonAgentRequest) (*fleetv1.UncordonAgentResponse, error) {
	r, err := request(ctx, in.GetRequestId(), "UncordonAgent", in)
	if err != nil {
		return nil, err
	}
	raw, err := s.engine.SetCordon(ctx, r, in.GetAgentName(), cycle.Open, "", func(v cycle.AgentView) ([]byte, error) {
		return proto.Marshal(&fleetv1.UncordonAgentResponse{Agent: agentTo(v)})
	})
	return answer(raw, err, &fleetv1.UncordonAgentResponse{}, "agent "+in.GetAgentName())
}

func agentTo(v cycle.AgentView) *fleetv1.Agent {
	a := v.Agent
	out := &fleetv1.Agent{
		AgentName: a.Name, State: fleetv1.Agent_STATE_READY, CpuMillis: a.CPUMillis, HostMemoryBytes: a.HostBytes, Labels: a.Labels,
		LastContactTime: timeTo(v.Heard), Version: a.Version, Address: a.Address,
	}
	switch {
	case a.Lost:
		out.State, out.StateReason = fleetv1.Agent_STATE_LOST, "it did not report in time; its leases are over"
	case a.Cordon == cycle.Draining:
		out.State, out.StateReason = fleetv1.Agent_STATE_DRAINING, a.CordonReason
	case a.Cordon == cycle.Cordoned:
		out.State, out.StateReason = fleetv1.Agent_STATE_CORDONED, a.CordonReason
	}
	for _, d := range a.Devices {
		out.Devices = append(out.Devices, &fleetv1.Device{
			DeviceId: d.ID, Kind: d.Kind, MemoryBytes: d.Memory, MemoryUsedBytes: v.Sample.Used[d.ID], HeadroomBytes: d.Headroom, ProcessOverheadBytes: d.Overhead,
			Healthy: d.Fault == "", HealthReason: d.Fault, Utilization: v.Sample.Utilization[d.ID], LinkGroup: d.LinkGroup, ParentDeviceId: d.Parent, MigProfile: d.Profile, NumaNode: int32(d.NUMA),
			Isolation: fleetv1.Isolation(fleetv1.Isolation_value["ISOLATION_"+d.Isolation]),
		})
		out.ReservedBytes = append(out.ReservedBytes, v.Reserved[d.ID])
	}
	for _, h := range v.Sample.Held {
		lease := &fleetv1.HeldLease{
			JobId: h.Job, Attempt: uint32(h.Number), Fence: h.Fence, Phase: fleetv1.HeldLease_PHASE_STARTING,
			Isolation: fleetv1.Isolation(fleetv1.Isolation_value["ISOLATION_"+h.Sight.Isolation]),
		}
		switch {
		case h.Stopping:
			lease.Phase = fleetv1.HeldLease_PHASE_STOPPING
		case h.Sight.Training:
			lease.Phase = fleetv1.HeldLease_PHASE_RUNNING
		}
		if h.Sight.Progress != nil {
			lease.Progress = progressTo(*h.Sight.Progress)
		}
		out.Leases = append(out.Leases, lease)
	}
	return out
}
