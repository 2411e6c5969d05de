// Package session is the agent's side of fleet.v1.SynchronizeService: one call
// in flight, which carries the host's whole state up and brings the whole
// desired state down. It keeps no state that a new call would not restore; any
// error ends the call and the next one starts from nothing.
package session

import (
	"context"
	"math/rand/v2"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	fleetv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/fleet/v1"
	jobv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/job/v1"
	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/device"
	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/host"
	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/lease"
	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/reconcile"
	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/wire"
)

// Host is what a session reports and steers.
type Host interface {
	Snapshot() host.Snapshot
	// Changed closes when the report would differ.
	Changed() <-chan struct{}
	Apply(ctx context.Context, desired reconcile.Desired, leaseUntil time.Time) bool
}

// Identity is what the agent says of itself in every report.
type Identity struct {
	Name, Incarnation, Version, Address string
	CPUMillis, MemoryBytes              int64
	Labels                              map[string]string
	// DataService and Registry say whether the host reaches them now.
	DataService, Registry func() bool
}

// Session runs the loop.
type Session struct {
	client   fleetv1.SynchronizeServiceClient
	identity Identity
	host     Host
	log      *zap.Logger
	// contacted is told of every good answer.
	contacted func()
}

// New returns a session over conn.
func New(conn grpc.ClientConnInterface, identity Identity, h Host, contacted func(), log *zap.Logger) *Session {
	return &Session{client: fleetv1.NewSynchronizeServiceClient(conn), identity: identity, host: h, contacted: contacted, log: log}
}

const (
	minPause = 100 * time.Millisecond
	maxPause = 3 * time.Second
	// callLimit bounds a long poll whose answer was lost; keepalive usually
	// notices a dead peer long before.
	callLimit = 2 * time.Minute
	// settle gathers local changes that come together into one report.
	settle = 2 * time.Millisecond
	// renewShare is the part of a lease after which it is renewed at the latest.
	renewShare = 3
)

// Run synchronizes until ctx ends.
func (s *Session) Run(ctx context.Context) error {
	var revision int64
	backoff := minPause
	lost := false
	// renew is when the next answer is due for the lease's sake. A busy trainer
	// changes the report more often than a poll takes: were every poll cut short
	// for a change, no answer would ever come, and the host would fence itself.
	var renew time.Time
	for ctx.Err() == nil {
		known, due := revision, !renew.IsZero() && !time.Now().Before(renew)
		if due {
			known = 0 // what is not known is answered at once
		}
		answer, sent, err := s.call(ctx, known, !due)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			if !lost {
				lost = true
				s.log.Warn("the scheduler does not answer; trying again", zap.Error(err))
			}
			revision = 0 // it may have restarted: take its whole answer again
			pause(ctx, backoff/2+rand.N(backoff))
			backoff = min(2*backoff, maxPause)
			continue
		case answer == nil:
			continue // a local change: report it
		}
		if lost {
			lost = false
			s.log.Info("the scheduler answers again")
		}
		backoff = minPause
		s.contacted()
		renew = sent.Add(answer.LeaseDuration.AsDuration() / renewShare)
		if s.host.Apply(ctx, s.desired(answer), sent.Add(answer.LeaseDuration.AsDuration())) {
			revision = answer.DesiredRevision
			continue
		}
		revision = 0 // not carried out: take the whole answer again
		pause(ctx, minPause)
	}
	return nil
}

// call makes one poll. It returns nothing when a local change cut it short, which
// may happen if short is allowed. sent is taken before the request leaves: the lease must never be thought longer
// than the scheduler thinks it is.
func (s *Session) call(ctx context.Context, revision int64, short bool) (*fleetv1.SynchronizeResponse, time.Time, error) {
	changed := s.host.Changed()
	if !short {
		changed = nil
	}
	report := s.report()
	callCtx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	type result struct {
		answer *fleetv1.SynchronizeResponse
		err    error
	}
	done := make(chan result, 1)
	sent := time.Now()
	go func() {
		answer, err := s.client.Synchronize(callCtx, &fleetv1.SynchronizeRequest{Report: report, KnownRevision: revision})
		done <- result{answer, err}
	}()
	select {
	case r := <-done:
		return r.answer, sent, r.err
	case <-changed:
	}
	// The poll may be answered just now: give it the moment in which other
	// changes gather too, then cancel and report again.
	timer := time.NewTimer(settle)
	defer timer.Stop()
	select {
	case r := <-done:
		return r.answer, sent, r.err
	case <-timer.C:
	}
	cancel()
	<-done
	return nil, sent, nil
}

func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// report is the host's whole state in wire form.
func (s *Session) report() *fleetv1.AgentReport {
	state := s.host.Snapshot()
	out := &fleetv1.AgentReport{
		AgentName: s.identity.Name, Incarnation: s.identity.Incarnation, Version: s.identity.Version,
		Address: s.identity.Address, CpuMillis: s.identity.CPUMillis, HostMemoryBytes: s.identity.MemoryBytes,
		Labels: s.identity.Labels, DataServiceReachable: s.identity.DataService(), RegistryReachable: s.identity.Registry(),
		AgentTime: timestamppb.Now(),
	}
	for _, d := range state.Devices {
		health := d.Health
		if state.Quarantine != "" {
			health = device.Health{Reason: state.Quarantine}
		}
		out.Devices = append(out.Devices, wire.Device(d.Device, d.Reading, health))
	}
	for _, l := range state.Leases {
		out.Leases = append(out.Leases, held(l))
	}
	for _, x := range state.Exits {
		out.Exits = append(out.Exits, exit(x))
	}
	return out
}

var phases = map[host.Phase]fleetv1.HeldLease_Phase{
	host.Starting: fleetv1.HeldLease_PHASE_STARTING,
	host.Running:  fleetv1.HeldLease_PHASE_RUNNING,
	host.Stopping: fleetv1.HeldLease_PHASE_STOPPING,
}

func held(l host.LeaseState) *fleetv1.HeldLease {
	return &fleetv1.HeldLease{
		JobId: l.JobID, Attempt: l.Attempt, Fence: l.Fence, Phase: phases[l.Phase],
		Progress: wire.Progress(l.Progress), Isolation: wire.Isolation(device.Isolation(l.Isolation)),
		StartTime: wire.Timestamp(l.StartTime), DataOutageSince: wire.Timestamp(l.DataOutage), LastStepTime: wire.Timestamp(l.LastStep),
	}
}

// Limits on what an exit carries, so that thousands of them fit one report.
const (
	maxMessage  = 2000
	maxProblems = 50
	maxTail     = 4096
)

func exit(x lease.Exit) *fleetv1.Exit {
	evidence := &jobv1.Evidence{
		ExitCode: int32(x.Evidence.ExitCode), Signal: x.Evidence.Signal,
		Message: wire.Truncate(x.Evidence.Message, maxMessage), StderrTail: wire.Truncate(x.Evidence.StderrTail, maxTail),
		MemorySamplesBytes: x.Evidence.MemorySamples,
	}
	for _, p := range x.Evidence.Problems[:min(len(x.Evidence.Problems), maxProblems)] {
		evidence.Problems = append(evidence.Problems, wire.Truncate(p, maxMessage))
	}
	return &fleetv1.Exit{
		JobId: x.JobID, Attempt: x.Attempt, Fence: x.Fence, Outcome: wire.Outcome(x.Outcome), FailureClass: wire.Class(x.Class),
		Evidence: evidence, Progress: wire.Progress(x.Progress), EndTime: wire.Timestamp(x.EndTime),
	}
}

// desired turns an answer into reconcile's words. An assignment that cannot be
// kept is logged and left out: the scheduler sees that it does not start.
func (s *Session) desired(answer *fleetv1.SynchronizeResponse) reconcile.Desired {
	out := reconcile.Desired{Known: true}
	for _, a := range answer.Assignments {
		payload, err := proto.Marshal(a)
		if err != nil {
			s.log.Error("an assignment cannot be kept", zap.String("job_id", a.JobId), zap.Error(err))
			continue
		}
		assignment := lease.Assignment{
			Key: lease.Key{JobID: a.JobId, Attempt: a.Attempt, Fence: a.Fence}, CPUMillis: a.CpuMillis,
			HostMemoryBytes: a.HostMemoryBytes, Resume: a.Resume, TraceParent: a.Traceparent, Payload: payload,
			Experiment: a.GetSpec().GetExperiment(), WarmStart: a.GetSpec().GetNative().GetWarmStart().GetCheckpointId(),
			Rendezvous: wire.RendezvousOf(a.Rendezvous),
		}
		for i, id := range a.DeviceIds {
			claim := lease.Claim{Device: id}
			if i < len(a.ReservedBytes) {
				claim.Bytes = a.ReservedBytes[i]
			}
			assignment.Claims = append(assignment.Claims, claim)
		}
		out.Assignments = append(out.Assignments, assignment)
	}
	for _, order := range answer.Stops {
		stop := reconcile.Stop{
			Key:    lease.Key{JobID: order.JobId, Attempt: order.Attempt, Fence: order.Fence},
			Reason: wire.StopReasonOf(order.Reason), Grace: order.Grace.AsDuration(),
		}
		out.Stops = append(out.Stops, stop)
	}
	for _, k := range answer.AcknowledgedExits {
		out.Recorded = append(out.Recorded, lease.Key{JobID: k.JobId, Attempt: k.Attempt, Fence: k.Fence})
	}
	return out
}
