package jobapi

import (
	"math"
	"strconv"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	jobv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/job/v1"
	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/cycle"
	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/job"
)

// jobTo writes a job for people. A specification that cannot be decoded (a row
// from a future version) is left out and named: one row must not break a list.
func jobTo(v cycle.View, attempts bool) *jobv1.Job {
	j := v.Job
	out := &jobv1.Job{
		JobId: j.ID, State: stateTo(j.State), StateReason: v.Reason(), BatchSize: uint32(j.Batch), GradientAccumulation: uint32(j.Accumulate),
		Submitter: j.Submitter, CreateTime: timeTo(j.Submitted), StartTime: timeTo(firstStart(v)), EndTime: timeTo(j.Finished),
		Traceparent: j.Trace, Etag: strconv.FormatUint(j.Revision, 10), Revision: int64(j.Revision), NotBefore: timeTo(j.NotBefore),
		Warnings: j.Warnings, ArrayId: j.Origin.Array, ArrayIndex: uint32(j.Origin.Index), GraphId: j.Origin.Graph, GraphNode: j.Origin.Node, ScheduleId: j.Origin.Schedule, Poison: j.Poison,
	}
	spec := &jobv1.JobSpec{}
	if err := proto.Unmarshal(j.Spec.Payload, spec); err != nil {
		spec = &jobv1.JobSpec{DisplayName: j.Spec.Name, Experiment: j.Spec.Experiment}
		out.StateReason += " (its specification cannot be read by this version)"
	}
	// A person may have moved the job to another class since the submit.
	spec.PriorityClass = priorityTo(j.Priority)
	out.Spec, out.Dependencies = spec, afterTo(spec, j.After)
	if a, ok := v.Latest(); ok {
		out.Progress = progressTo(a.Progress)
	}
	if attempts {
		for _, a := range v.Attempts {
			out.Attempts = append(out.Attempts, attemptTo(a))
		}
	}
	return out
}

func firstStart(v cycle.View) time.Time {
	for _, a := range v.Attempts {
		if !a.Started.IsZero() {
			return a.Started
		}
	}
	if len(v.Attempts) == 0 {
		return v.Job.Started
	}
	return time.Time{}
}

func attemptTo(a job.Attempt) *jobv1.Attempt {
	out := &jobv1.Attempt{
		Attempt: uint32(a.Number), Fence: a.Fence, State: phaseTo(a.Phase), AgentName: a.Agent, BatchSize: uint32(a.Batch),
		GradientAccumulation: uint32(a.Accumulate), RestoredCheckpointId: a.Restore.ID, FailureClass: failureTo(a.Failure),
		CreateTime: timeTo(a.Created), StartTime: timeTo(a.Started), EndTime: timeTo(a.Ended), Isolation: a.Isolation,
	}
	for _, s := range a.Shares {
		out.DeviceIds = append(out.DeviceIds, s.Device)
	}
	if a.Gang() {
		out.Members = []*jobv1.GangMember{{AgentName: a.Agent, DeviceIds: out.GetDeviceIds(), Ended: a.FirstEnded || !a.Live()}}
		for i, m := range a.Others {
			member := &jobv1.GangMember{AgentName: m.Agent, NodeRank: uint32(i + 1), Ended: m.Ended || !a.Live()}
			for _, s := range m.Shares {
				member.DeviceIds = append(member.DeviceIds, s.Device)
			}
			out.Members = append(out.Members, member)
		}
	}
	if a.Phase == job.Ended && a.Outcome != job.OutcomeSucceeded {
		e := a.Evidence
		out.Evidence = &jobv1.Evidence{ExitCode: e.ExitCode, Signal: e.Signal, Message: e.Message, Problems: e.Problems, StderrTail: e.Stderr, MemorySamplesBytes: e.Samples}
	}
	return out
}

func progressTo(p job.Progress) *jobv1.Progress {
	out := &jobv1.Progress{
		Epoch: uint32(p.Epoch), TotalEpochs: uint32(p.TotalEpochs), Step: p.Step, Reward: p.Reward, Objective: math.NaN(), StepsPerSecond: p.StepsPerSecond,
		PeakDeviceMemoryBytes: p.PeakBytes, CheckpointStep: p.Checkpoint.Step, CheckpointId: p.Checkpoint.ID, ReportTime: timeTo(p.Reported),
	}
	if p.HasObjective {
		out.Objective = p.Objective
	}
	if p.Remaining > 0 {
		out.Remaining = durationpb.New(p.Remaining)
	}
	return out
}

func stateTo(s job.State) jobv1.Job_State {
	switch s {
	case job.Queued:
		return jobv1.Job_STATE_QUEUED
	case job.Starting:
		return jobv1.Job_STATE_STARTING
	case job.Running:
		return jobv1.Job_STATE_RUNNING
	case job.Stopping:
		return jobv1.Job_STATE_STOPPING
	case job.Paused:
		return jobv1.Job_STATE_PAUSED
	case job.Succeeded:
		return jobv1.Job_STATE_SUCCEEDED
	case job.Failed:
		return jobv1.Job_STATE_FAILED
	case job.Cancelled:
		return jobv1.Job_STATE_CANCELLED
	case job.StateUnknown:
	}
	return jobv1.Job_STATE_UNSPECIFIED
}

func stateOf(s jobv1.Job_State) job.State {
	for d := job.Queued; d <= job.Cancelled; d++ {
		if stateTo(d) == s {
			return d
		}
	}
	return job.StateUnknown
}

func phaseTo(p job.Phase) jobv1.Attempt_State {
	switch p {
	case job.Assigned:
		return jobv1.Attempt_STATE_STARTING
	case job.Training:
		return jobv1.Attempt_STATE_RUNNING
	case job.Ending:
		return jobv1.Attempt_STATE_STOPPING
	case job.Ended:
		return jobv1.Attempt_STATE_ENDED
	case job.PhaseUnknown:
	}
	return jobv1.Attempt_STATE_UNSPECIFIED
}

// failures pairs the classes with their names on the wire.
var failures = map[job.Failure]jobv1.FailureClass{
	job.NoFailure:        jobv1.FailureClass_FAILURE_CLASS_UNSPECIFIED,
	job.DeviceOOM:        jobv1.FailureClass_FAILURE_CLASS_DEVICE_OOM_OWN,
	job.NeighbourOOM:     jobv1.FailureClass_FAILURE_CLASS_DEVICE_OOM_NEIGHBOUR,
	job.HostOOM:          jobv1.FailureClass_FAILURE_CLASS_HOST_OOM,
	job.Crash:            jobv1.FailureClass_FAILURE_CLASS_CRASH,
	job.Network:          jobv1.FailureClass_FAILURE_CLASS_NETWORK,
	job.DataUnavailable:  jobv1.FailureClass_FAILURE_CLASS_DATA_UNAVAILABLE,
	job.AgentLost:        jobv1.FailureClass_FAILURE_CLASS_AGENT_LOST,
	job.Preempted:        jobv1.FailureClass_FAILURE_CLASS_PREEMPTED,
	job.Drained:          jobv1.FailureClass_FAILURE_CLASS_DRAINED,
	job.Diverged:         jobv1.FailureClass_FAILURE_CLASS_DIVERGED,
	job.BadConfiguration: jobv1.FailureClass_FAILURE_CLASS_BAD_CONFIGURATION,
	job.Stalled:          jobv1.FailureClass_FAILURE_CLASS_STALLED,
	job.TimeLimit:        jobv1.FailureClass_FAILURE_CLASS_TIME_LIMIT,
}

func failureTo(f job.Failure) jobv1.FailureClass { return failures[f] }

func timeTo(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}
