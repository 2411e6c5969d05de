// Package wire converts between the agent's own words and those of the
// contracts, for the packages at its edges. Conversions are total: what one
// side does not know becomes the other's zero.
package wire

import (
	"math"
	"strings"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	fleetv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/fleet/v1"
	jobv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/job/v1"
	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/device"
	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/lease"
)

var outcomes = map[lease.Outcome]fleetv1.Exit_Outcome{
	lease.Succeeded: fleetv1.Exit_OUTCOME_SUCCEEDED,
	lease.Failed:    fleetv1.Exit_OUTCOME_FAILED,
	lease.Stopped:   fleetv1.Exit_OUTCOME_STOPPED,
}

var classes = map[lease.Class]jobv1.FailureClass{
	lease.ClassOwnOOM:           jobv1.FailureClass_FAILURE_CLASS_DEVICE_OOM_OWN,
	lease.ClassNeighbourOOM:     jobv1.FailureClass_FAILURE_CLASS_DEVICE_OOM_NEIGHBOUR,
	lease.ClassHostOOM:          jobv1.FailureClass_FAILURE_CLASS_HOST_OOM,
	lease.ClassCrash:            jobv1.FailureClass_FAILURE_CLASS_CRASH,
	lease.ClassNetwork:          jobv1.FailureClass_FAILURE_CLASS_NETWORK,
	lease.ClassDataUnavailable:  jobv1.FailureClass_FAILURE_CLASS_DATA_UNAVAILABLE,
	lease.ClassAgentLost:        jobv1.FailureClass_FAILURE_CLASS_AGENT_LOST,
	lease.ClassPreempted:        jobv1.FailureClass_FAILURE_CLASS_PREEMPTED,
	lease.ClassDrained:          jobv1.FailureClass_FAILURE_CLASS_DRAINED,
	lease.ClassDiverged:         jobv1.FailureClass_FAILURE_CLASS_DIVERGED,
	lease.ClassBadConfiguration: jobv1.FailureClass_FAILURE_CLASS_BAD_CONFIGURATION,
	lease.ClassStalled:          jobv1.FailureClass_FAILURE_CLASS_STALLED,
	lease.ClassTimeLimit:        jobv1.FailureClass_FAILURE_CLASS_TIME_LIMIT,
}

var stopReasons = map[lease.StopReason]fleetv1.StopOrder_Reason{
	lease.StopCancelled:       fleetv1.StopOrder_REASON_CANCELLED,
	lease.StopPaused:          fleetv1.StopOrder_REASON_PAUSED,
	lease.StopPreempted:       fleetv1.StopOrder_REASON_PREEMPTED,
	lease.StopDrained:         fleetv1.StopOrder_REASON_DRAINED,
	lease.StopFenced:          fleetv1.StopOrder_REASON_FENCED,
	lease.StopTimeLimit:       fleetv1.StopOrder_REASON_TIME_LIMIT,
	lease.StopStalled:         fleetv1.StopOrder_REASON_STALLED,
	lease.StopDataUnavailable: fleetv1.StopOrder_REASON_DATA_UNAVAILABLE,
}

var isolations = map[device.Isolation]fleetv1.Isolation{
	device.Watched: fleetv1.Isolation_ISOLATION_WATCHED,
	device.MPS:     fleetv1.Isolation_ISOLATION_MPS,
	device.Cgroup:  fleetv1.Isolation_ISOLATION_CGROUP,
	device.MIG:     fleetv1.Isolation_ISOLATION_MIG,
}

// Outcome converts an outcome.
func Outcome(o lease.Outcome) fleetv1.Exit_Outcome { return outcomes[o] }

// OutcomeOf converts back; an unknown outcome is a failure.
func OutcomeOf(o fleetv1.Exit_Outcome) lease.Outcome {
	for own, wire := range outcomes {
		if wire == o {
			return own
		}
	}
	return lease.Failed
}

// Class converts a failure class.
func Class(c lease.Class) jobv1.FailureClass { return classes[c] }

// ClassOf converts back; UNSPECIFIED is ClassNone.
func ClassOf(c jobv1.FailureClass) lease.Class {
	for own, wire := range classes {
		if wire == c {
			return own
		}
	}
	return lease.ClassNone
}

// StopReason converts a reason; expiry and over-use, which only the agent
// knows, are FENCED to a trainer.
func StopReason(r lease.StopReason) fleetv1.StopOrder_Reason {
	if reason, ok := stopReasons[r]; ok {
		return reason
	}
	return fleetv1.StopOrder_REASON_FENCED
}

// StopReasonOf converts back; an unknown reason is the strictest.
func StopReasonOf(r fleetv1.StopOrder_Reason) lease.StopReason {
	for own, wire := range stopReasons {
		if wire == r {
			return own
		}
	}
	return lease.StopFenced
}

// Isolation converts an isolation level.
func Isolation(i device.Isolation) fleetv1.Isolation { return isolations[i] }

// Progress converts a progress report; a missing objective is NaN.
func Progress(p *lease.Progress) *jobv1.Progress {
	if p == nil {
		return nil
	}
	objective := math.NaN()
	if p.HasObjective {
		objective = p.Objective
	}
	out := &jobv1.Progress{
		Epoch: p.Epoch, TotalEpochs: p.TotalEpochs, Step: p.Step, Reward: p.Reward, Objective: objective,
		StepsPerSecond: p.StepsPerSecond, PeakDeviceMemoryBytes: p.PeakMemory,
		CheckpointStep: p.CheckpointStep, CheckpointId: p.CheckpointID, ReportTime: Timestamp(p.ReportTime),
	}
	if p.Remaining > 0 {
		out.Remaining = durationpb.New(p.Remaining)
	}
	return out
}

// ProgressOf converts back, without the fields that the agent itself knows
// (memory, checkpoint). JSON has no infinities: they become zero.
func ProgressOf(p *jobv1.Progress, now time.Time) lease.Progress {
	out := lease.Progress{
		Epoch: p.Epoch, TotalEpochs: p.TotalEpochs, Step: p.Step, Reward: finite(p.Reward),
		StepsPerSecond: finite(p.StepsPerSecond), Remaining: p.Remaining.AsDuration(), ReportTime: now,
	}
	if finite(p.Objective) == p.Objective {
		out.Objective, out.HasObjective = p.Objective, true
	}
	return out
}

func finite(v float64) float64 {
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return 0
	}
	return v
}

// Timestamp converts a time; the zero time is unset.
func Timestamp(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}

// Truncate makes any bytes a valid string of at most limit bytes.
func Truncate(s string, limit int) string {
	s = strings.ToValidUTF8(s, "\uFFFD")
	if len(s) <= limit {
		return s
	}
	s = s[:limit]
	for len(s) > 0 {
		if r, size := utf8.DecodeLastRuneInString(s); r != utf8.RuneError || size > 1 {
			break
		}
		s = s[:len(s)-1]
	}
	return s
}

// RendezvousOf converts where a gang meets; nil means that there is no gang.
func RendezvousOf(r *fleetv1.Rendezvous) *lease.Rendezvous {
	if r == nil {
		return nil
	}
	return &lease.Rendezvous{Address: r.Address, Port: r.Port, NodeRank: r.NodeRank, NodeCount: r.NodeCount, Processes: r.Processes}
}

// Device converts a device with its last reading.
func Device(d device.Device, r device.Reading, h device.Health) *fleetv1.Device {
	return &fleetv1.Device{
		DeviceId: d.ID, Kind: d.Kind, MemoryBytes: d.MemoryBytes, MemoryUsedBytes: r.MemoryUsedBytes,
		HeadroomBytes: d.HeadroomBytes, ProcessOverheadBytes: d.OverheadBytes, Healthy: h.OK, HealthReason: h.Reason,
		Utilization: r.Utilization, Isolation: Isolation(d.Isolation), LinkGroup: d.LinkGroup,
		ParentDeviceId: d.ParentID, MigProfile: d.MIGProfile, NumaNode: int32(d.NUMANode),
	}
}
