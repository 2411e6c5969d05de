package jobapi

import (
	"context"
	"strings"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/ultrathink-pilot/trainyard/libs/rpcerr"
	jobv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/job/v1"
	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/cron"
	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/cycle"
)

// Schedules is the ScheduleService.
type Schedules struct {
	jobv1.UnsafeScheduleServiceServer
	jobs *Jobs
}

// NewSchedules serves schedules beside jobs.
func NewSchedules(j *Jobs) *Schedules { return &Schedules{jobs: j} }

var _ jobv1.ScheduleServiceServer = (*Schedules)(nil)

// Composer makes the jobs of schedules for the engine.
func Composer(d Defaults) cycle.Compose {
	return func(s cycle.Schedule, fire time.Time) (cycle.NewJob, error) {
		in := &jobv1.ScheduleSpec{}
		if err := proto.Unmarshal(s.Payload, in); err != nil {
			return cycle.NewJob{}, err
		}
		in.Job = fired(in, fire)
		spec, priority, bad, err := specOf("spec.job", in.GetJob(), d)
		if err == nil && len(bad) > 0 {
			err = rpcerr.Invalid(bad...)
		}
		if err != nil {
			return cycle.NewJob{}, err
		}
		after, bad := afterOf("spec.job", in.GetJob().GetAfter(), nil)
		if len(bad) > 0 {
			return cycle.NewJob{}, rpcerr.Invalid(bad...)
		}
		id, err := uuid.NewV7()
		if err != nil {
			return cycle.NewJob{}, err
		}
		return cycle.NewJob{ID: id.String(), Spec: spec, Priority: priority, Submitter: s.Submitter, After: after}, nil
	}
}

// fired is the specification of one fire time.
func fired(in *jobv1.ScheduleSpec, fire time.Time) *jobv1.JobSpec {
	out := proto.CloneOf(in.GetJob())
	out.DisplayName = strings.ReplaceAll(out.GetDisplayName(), "{fire_time}", fire.UTC().Format(time.RFC3339))
	if in.GetCompleteWithin() != nil {
		out.Deadline = timestamppb.New(fire.Add(in.GetCompleteWithin().AsDuration()))
	}
	return out
}

// scheduleDraft checks a schedule: its line, its zone and the job of its next
// fire time.
func (s *Jobs) scheduleDraft(in *jobv1.ScheduleSpec, now time.Time) (*draft, error) {
	d := &draft{}
	if in == nil {
		return d, nil
	}
	zone, err := time.LoadLocation(in.GetTimeZone())
	if err != nil || in.GetTimeZone() == "Local" {
		d.bad = append(d.bad, rpcerr.Violation{Field: "spec.time_zone", Description: "\"" + in.GetTimeZone() + "\" is not an IANA time zone such as Europe/Berlin; empty means UTC"})
		zone = time.UTC
	}
	if _, err := cron.Parse(in.GetCron(), zone); err != nil {
		for _, line := range strings.Split(err.Error(), "\n") {
			d.bad = append(d.bad, rpcerr.Violation{Field: "spec.cron", Description: line})
		}
	}
	if in.GetJob().GetDeadline() != nil {
		d.bad = append(d.bad, rpcerr.Violation{Field: "spec.job.deadline", Description: "is the same for every fire time; set complete_within"})
	}
	if in.GetJob() == nil {
		return d, nil
	}
	return d, d.add(s, "spec.job", "", fired(in, now), nil)
}

// change runs a mutation of one schedule.
func (s *Schedules) change(ctx context.Context, id, method, name string, in proto.Message, change func(was *cycle.Schedule, now time.Time) (*cycle.Schedule, error), into proto.Message, encode func(*jobv1.Schedule) proto.Message) error {
	r, err := request(ctx, id, method, in)
	if err != nil {
		return err
	}
	raw, err := s.jobs.engine.ChangeSchedule(ctx, r, name, change, func(x *cycle.Schedule) ([]byte, error) {
		if x == nil {
			return proto.Marshal(encode(nil))
		}
		return proto.Marshal(encode(scheduleTo(*x, time.Now())))
	})
	_, err = answer(raw, err, into, "schedule "+name)
	return err
}

// existing refuses a change of a schedule that is not there.
func existing(change func(s *cycle.Schedule, now time.Time)) func(*cycle.Schedule, time.Time) (*cycle.Schedule, error) {
	return func(was *cycle.Schedule, now time.Time) (*cycle.Schedule, error) {
		if was == nil {
			return nil, cycle.ErrNotFound
		}
		s := *was
		change(&s, now)
		return &s, nil
	}
}

// set fills a schedule from its specification.
func set(s *cycle.Schedule, in *jobv1.ScheduleSpec, now time.Time) error {
	payload, err := proto.Marshal(in)
	if err != nil {
		return rpcerr.Internal(err)
	}
	s.Payload, s.Cron, s.Zone, s.Done = payload, in.GetCron(), in.GetTimeZone(), now
	s.Overlap = cycle.ParseOverlap(strings.TrimPrefix(in.GetOverlap().String(), "OVERLAP_"))
	s.CatchUp = cycle.ParseCatchUp(strings.TrimPrefix(in.GetCatchUp().String(), "CATCH_UP_"))
	return nil
}

// checked judges a specification before it is stored.
func (s *Schedules) checked(ctx context.Context, in *jobv1.ScheduleSpec) error {
	d, err := s.jobs.scheduleDraft(in, time.Now())
	if err != nil {
		return err
	}
	if err := d.meet(ctx, s.jobs); err != nil {
		return err
	}
	return d.refusal()
}

// CreateSchedule accepts a schedule.
func (s *Schedules) CreateSchedule(ctx context.Context, in *jobv1.CreateScheduleRequest) (*jobv1.CreateScheduleResponse, error) {
	if err := s.checked(ctx, in.GetSpec()); err != nil {
		return nil, err
	}
	fresh := func(now time.Time) (*cycle.Schedule, error) {
		id, err := uuid.NewV7()
		if err != nil {
			return nil, rpcerr.Internal(err)
		}
		x := &cycle.Schedule{ID: id.String(), Name: in.GetName(), Submitter: caller(ctx), Created: now}
		return x, set(x, in.GetSpec(), now)
	}
	if in.GetValidateOnly() {
		x, err := fresh(time.Now())
		if err != nil {
			return nil, err
		}
		x.ID = ""
		return &jobv1.CreateScheduleResponse{Schedule: scheduleTo(*x, time.Now())}, nil
	}
	out := &jobv1.CreateScheduleResponse{}
	return out, s.change(ctx, in.GetRequestId(), "CreateSchedule", in.GetName(), in, func(was *cycle.Schedule, now time.Time) (*cycle.Schedule, error) {
		if was != nil {
			return nil, cycle.ErrExists
		}
		return fresh(now)
	}, out, func(x *jobv1.Schedule) proto.Message { return &jobv1.CreateScheduleResponse{Schedule: x} })
}

// GetSchedule reads one schedule.
func (s *Schedules) GetSchedule(_ context.Context, in *jobv1.GetScheduleRequest) (*jobv1.GetScheduleResponse, error) {
	x, err := s.jobs.engine.Schedule(in.GetName())
	if err != nil {
		return nil, wire(err, "schedule "+in.GetName())
	}
	return &jobv1.GetScheduleResponse{Schedule: scheduleTo(x, time.Now())}, nil
}

// ListSchedules lists the schedules by name.
func (s *Schedules) ListSchedules(context.Context, *jobv1.ListSchedulesRequest) (*jobv1.ListSchedulesResponse, error) {
	out := &jobv1.ListSchedulesResponse{}
	for _, x := range s.jobs.engine.Schedules() {
		out.Schedules = append(out.Schedules, scheduleTo(x, time.Now()))
	}
	return out, nil
}

// UpdateSchedule replaces what a schedule does.
func (s *Schedules) UpdateSchedule(ctx context.Context, in *jobv1.UpdateScheduleRequest) (*jobv1.UpdateScheduleResponse, error) {
	if err := s.checked(ctx, in.GetSpec()); err != nil {
		return nil, err
	}
	out := &jobv1.UpdateScheduleResponse{}
	var failed error
	err := s.change(ctx, in.GetRequestId(), "UpdateSchedule", in.GetName(), in, existing(func(x *cycle.Schedule, now time.Time) { failed = set(x, in.GetSpec(), now) }),
		out, func(x *jobv1.Schedule) proto.Message { return &jobv1.UpdateScheduleResponse{Schedule: x} })
	if failed != nil {
		return nil, failed
	}
	return out, err
}

// PauseSchedule stops a schedule from firing.
func (s *Schedules) PauseSchedule(ctx context.Context, in *jobv1.PauseScheduleRequest) (*jobv1.PauseScheduleResponse, error) {
	out := &jobv1.PauseScheduleResponse{}
	return out, s.change(ctx, in.GetRequestId(), "PauseSchedule", in.GetName(), in, existing(func(x *cycle.Schedule, _ time.Time) { x.Paused = true }),
		out, func(x *jobv1.Schedule) proto.Message { return &jobv1.PauseScheduleResponse{Schedule: x} })
}

// ResumeSchedule lets a paused schedule fire again. What passed meanwhile is
// skipped for good.
func (s *Schedules) ResumeSchedule(ctx context.Context, in *jobv1.ResumeScheduleRequest) (*jobv1.ResumeScheduleResponse, error) {
	out := &jobv1.ResumeScheduleResponse{}
	return out, s.change(ctx, in.GetRequestId(), "ResumeSchedule", in.GetName(), in, existing(func(x *cycle.Schedule, now time.Time) {
		if x.Paused {
			x.Paused, x.Done = false, now
		}
	}), out, func(x *jobv1.Schedule) proto.Message { return &jobv1.ResumeScheduleResponse{Schedule: x} })
}

// DeleteSchedule forgets a schedule.
func (s *Schedules) DeleteSchedule(ctx context.Context, in *jobv1.DeleteScheduleRequest) (*jobv1.DeleteScheduleResponse, error) {
	out := &jobv1.DeleteScheduleResponse{}
	return out, s.change(ctx, in.GetRequestId(), "DeleteSchedule", in.GetName(), in, func(was *cycle.Schedule, _ time.Time) (*cycle.Schedule, error) {
		if was == nil {
			return nil, cycle.ErrNotFound
		}
		return nil, nil
	}, out, func(*jobv1.Schedule) proto.Message { return &jobv1.DeleteScheduleResponse{} })
}

const nextFires = 5

func scheduleTo(x cycle.Schedule, now time.Time) *jobv1.Schedule {
	out := &jobv1.Schedule{
		ScheduleId: x.ID, Name: x.Name, Paused: x.Paused, Submitter: x.Submitter, CreateTime: timeTo(x.Created), LastFireTime: timeTo(x.Fired),
		LastResult: x.Result, LastJobId: x.Job, Skipped: x.Skipped,
	}
	spec := &jobv1.ScheduleSpec{}
	if err := proto.Unmarshal(x.Payload, spec); err == nil {
		out.Spec = spec
	}
	for _, at := range x.Next(now, nextFires) {
		out.NextFireTimes = append(out.NextFireTimes, timestamppb.New(at))
	}
	return out
}
