// Package agentapi serves agents: SynchronizeService. It turns protobuf into the
// scheduler's own words and back, and decides nothing.
package agentapi

import (
	"context"
	"errors"
	"math"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/ultrathink-pilot/trainyard/libs/identity"
	"github.com/ultrathink-pilot/trainyard/libs/rpcerr"
	"github.com/ultrathink-pilot/trainyard/libs/rpcserver"
	errorv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/error/v1"
	fleetv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/fleet/v1"
	jobv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/job/v1"
	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/cycle"
	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/failpoint"
	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/job"
	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/lease"
)

// Server is the SynchronizeService.
type Server struct {
	fleetv1.UnsafeSynchronizeServiceServer
	engine *cycle.Engine
	poll   time.Duration
}

// New serves agents from an engine. poll is how long a call is held when there
// is nothing to tell; it must be well below the lease duration.
func New(e *cycle.Engine, poll time.Duration) *Server { return &Server{engine: e, poll: poll} }

var _ fleetv1.SynchronizeServiceServer = (*Server)(nil)

// Synchronize takes the host's whole current state and answers with the whole
// desired one.
func (s *Server) Synchronize(ctx context.Context, in *fleetv1.SynchronizeRequest) (*fleetv1.SynchronizeResponse, error) {
	failpoint.Hit(failpoint.ReportArrived)
	defer failpoint.Hit(failpoint.BeforeOrders)
	name := in.GetReport().GetAgentName()
	if id, ok := identity.FromContext(ctx); ok && id.Name != name {
		return nil, rpcerr.New(codes.PermissionDenied, errorv1.Reason_REASON_CALLER_NOT_ALLOWED, "agent_name %q is not the certificate's %q", name, id.Name)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		select {
		case <-rpcserver.Draining(ctx):
			cancel(errDraining)
		case <-ctx.Done():
		}
	}()
	a, err := s.engine.Synchronize(ctx, reportOf(in), s.poll)
	switch {
	case errors.Is(context.Cause(ctx), errDraining):
		return nil, rpcerr.Draining()
	case errors.Is(err, cycle.ErrUnavailable), errors.Is(err, cycle.ErrRefused):
		return nil, rpcerr.Unavailable("the scheduler's database is away; call again after a short pause").WithCause(err)
	case err != nil:
		return nil, err
	}
	return answerTo(a)
}

var errDraining = errors.New("draining")

func reportOf(in *fleetv1.SynchronizeRequest) cycle.Report {
	r := in.GetReport()
	out := cycle.Report{
		Known: uint64(max(in.GetKnownRevision(), 0)),
		Agent: cycle.Agent{
			Name: r.GetAgentName(), Incarnation: r.GetIncarnation(), Version: r.GetVersion(), Address: r.GetAddress(), Labels: r.GetLabels(),
			CPUMillis: r.GetCpuMillis(), HostBytes: r.GetHostMemoryBytes(), DataOK: r.GetDataServiceReachable(), RegistryOK: r.GetRegistryReachable(),
		},
		Sample: cycle.Sample{Used: map[string]int64{}, Utilization: map[string]float64{}},
	}
	for _, d := range r.GetDevices() {
		fault := ""
		if !d.GetHealthy() {
			fault = d.GetHealthReason()
			if fault == "" {
				fault = "reported unhealthy"
			}
		}
		out.Agent.Devices = append(out.Agent.Devices, cycle.Device{
			ID: d.GetDeviceId(), Kind: d.GetKind(), Memory: d.GetMemoryBytes(), Headroom: d.GetHeadroomBytes(), Overhead: d.GetProcessOverheadBytes(),
			Fault: fault, Isolation: isolation(d.GetIsolation()), LinkGroup: d.GetLinkGroup(), Parent: d.GetParentDeviceId(), Profile: d.GetMigProfile(), NUMA: int(d.GetNumaNode()),
		})
		out.Sample.Used[d.GetDeviceId()] = d.GetMemoryUsedBytes()
		out.Sample.Utilization[d.GetDeviceId()] = finite(d.GetUtilization())
	}
	for _, h := range r.GetLeases() {
		out.Sample.Held = append(out.Sample.Held, lease.Held{
			Job: h.GetJobId(), Number: int(h.GetAttempt()), Fence: h.GetFence(), Stopping: h.GetPhase() == fleetv1.HeldLease_PHASE_STOPPING,
			Sight: job.Sight{
				Training: h.GetPhase() == fleetv1.HeldLease_PHASE_RUNNING, NoData: h.GetDataOutageSince() != nil,
				Isolation: isolation(h.GetIsolation()), Progress: progressOf(h.GetProgress()),
			},
		})
	}
	for _, x := range r.GetExits() {
		e := x.GetEvidence()
		out.Exits = append(out.Exits, cycle.ExitReport{
			Job: x.GetJobId(), Number: int(x.GetAttempt()), Fence: x.GetFence(),
			Exit: job.Exit{
				Outcome: outcomeOf(x.GetOutcome()), Failure: failureOf(x.GetFailureClass()), Progress: progressOf(x.GetProgress()),
				Evidence: job.Evidence{ExitCode: e.GetExitCode(), Signal: e.GetSignal(), Message: e.GetMessage(), Problems: e.GetProblems(), Stderr: e.GetStderrTail(), Samples: e.GetMemorySamplesBytes()},
			},
		})
	}
	return out
}

// progressOf keeps every number finite: one NaN would make the whole row
// unreadable as JSON.
func progressOf(p *jobv1.Progress) *job.Progress {
	if p == nil {
		return nil
	}
	out := &job.Progress{
		Epoch: int64(p.GetEpoch()), TotalEpochs: int64(p.GetTotalEpochs()), Step: p.GetStep(), Reward: finite(p.GetReward()),
		Objective: finite(p.GetObjective()), HasObjective: finite(p.GetObjective()) == p.GetObjective(), StepsPerSecond: finite(p.GetStepsPerSecond()),
		PeakBytes: p.GetPeakDeviceMemoryBytes(), Checkpoint: job.Checkpoint{ID: p.GetCheckpointId(), Step: p.GetCheckpointStep()},
		Remaining: max(p.GetRemaining().AsDuration(), 0),
	}
	if t := p.GetReportTime(); t.IsValid() {
		out.Reported = t.AsTime().Truncate(time.Millisecond)
	}
	return out
}

func finite(f float64) float64 {
	if math.IsNaN(f) || math.IsInf(f, 0) {
		return 0
	}
	return f
}

func isolation(i fleetv1.Isolation) string {
	if i == fleetv1.Isolation_ISOLATION_UNSPECIFIED {
		return ""
	}
	return strings.TrimPrefix(i.String(), "ISOLATION_")
}

func outcomeOf(o fleetv1.Exit_Outcome) job.Outcome {
	switch o {
	case fleetv1.Exit_OUTCOME_SUCCEEDED:
		return job.OutcomeSucceeded
	case fleetv1.Exit_OUTCOME_STOPPED:
		return job.OutcomeStopped
	case fleetv1.Exit_OUTCOME_FAILED, fleetv1.Exit_OUTCOME_UNSPECIFIED:
	}
	return job.OutcomeFailed
}

func failureOf(f jobv1.FailureClass) job.Failure {
	switch f {
	case jobv1.FailureClass_FAILURE_CLASS_UNSPECIFIED:
		return job.NoFailure
	case jobv1.FailureClass_FAILURE_CLASS_DEVICE_OOM_OWN:
		return job.DeviceOOM
	case jobv1.FailureClass_FAILURE_CLASS_DEVICE_OOM_NEIGHBOUR:
		return job.NeighbourOOM
	case jobv1.FailureClass_FAILURE_CLASS_HOST_OOM:
		return job.HostOOM
	case jobv1.FailureClass_FAILURE_CLASS_CRASH:
		return job.Crash
	case jobv1.FailureClass_FAILURE_CLASS_NETWORK:
		return job.Network
	case jobv1.FailureClass_FAILURE_CLASS_DATA_UNAVAILABLE:
		return job.DataUnavailable
	case jobv1.FailureClass_FAILURE_CLASS_AGENT_LOST:
		return job.AgentLost
	case jobv1.FailureClass_FAILURE_CLASS_PREEMPTED:
		return job.Preempted
	case jobv1.FailureClass_FAILURE_CLASS_DRAINED:
		return job.Drained
	case jobv1.FailureClass_FAILURE_CLASS_DIVERGED:
		return job.Diverged
	case jobv1.FailureClass_FAILURE_CLASS_BAD_CONFIGURATION:
		return job.BadConfiguration
	case jobv1.FailureClass_FAILURE_CLASS_STALLED:
		return job.Stalled
	case jobv1.FailureClass_FAILURE_CLASS_TIME_LIMIT:
		return job.TimeLimit
	}
	return job.Crash
}

func answerTo(a cycle.Answer) (*fleetv1.SynchronizeResponse, error) {
	out := &fleetv1.SynchronizeResponse{
		DesiredRevision: int64(a.Revision), LeaseDuration: durationpb.New(a.Lease), NextContact: durationpb.New(a.Next),
	}
	for _, o := range a.Run {
		spec := &jobv1.JobSpec{}
		if err := proto.Unmarshal(o.Job.Spec.Payload, spec); err != nil {
			return nil, rpcerr.Internal(err).With("job_id", o.Job.ID)
		}
		at := o.Attempt
		as := &fleetv1.Assignment{
			JobId: at.Job, Attempt: uint32(at.Number), Fence: at.Fence, Spec: spec, BatchSize: uint32(at.Batch), GradientAccumulation: uint32(at.Accumulate),
			Resume: at.Number > 1, Traceparent: at.Trace, LearningRateScale: at.RateScale, CpuMillis: at.CPUMillis, HostMemoryBytes: at.HostBytes,
		}
		for _, sh := range at.Shares {
			as.DeviceIds = append(as.DeviceIds, sh.Device)
			reserved := sh.Bytes
			if sh.Whole {
				reserved = 0
			}
			as.ReservedBytes = append(as.ReservedBytes, reserved)
		}
		if g := o.Gang; g != nil {
			as.Rendezvous = &fleetv1.Rendezvous{Address: g.Address, Port: uint32(g.Port), NodeRank: uint32(g.Rank), NodeCount: uint32(g.Hosts), Processes: uint32(g.Processes)}
		}
		out.Assignments = append(out.Assignments, as)
	}
	for _, st := range a.Stop {
		order := &fleetv1.StopOrder{JobId: st.Job, Attempt: uint32(st.Number), Fence: st.Fence, Reason: stopReason(st.Intent)}
		if st.Grace > 0 {
			order.Grace = durationpb.New(st.Grace)
		}
		out.Stops = append(out.Stops, order)
	}
	for _, x := range a.Acks {
		out.AcknowledgedExits = append(out.AcknowledgedExits, &fleetv1.ExitKey{JobId: x.Job, Attempt: uint32(x.Number), Fence: x.Fence})
	}
	return out, nil
}

func stopReason(i job.Intent) fleetv1.StopOrder_Reason {
	switch i {
	case job.IntentGang:
		return fleetv1.StopOrder_REASON_GANG_ENDED
	case job.IntentCancel:
		return fleetv1.StopOrder_REASON_CANCELLED
	case job.IntentPause:
		return fleetv1.StopOrder_REASON_PAUSED
	case job.IntentPreempt:
		return fleetv1.StopOrder_REASON_PREEMPTED
	case job.IntentDrain:
		return fleetv1.StopOrder_REASON_DRAINED
	case job.IntentTimeLimit:
		return fleetv1.StopOrder_REASON_TIME_LIMIT
	case job.IntentStall:
		return fleetv1.StopOrder_REASON_STALLED
	case job.IntentData:
		return fleetv1.StopOrder_REASON_DATA_UNAVAILABLE
	case job.NoIntent:
	}
	return fleetv1.StopOrder_REASON_FENCED
}
