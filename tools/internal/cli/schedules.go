package cli

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	jobv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/job/v1"
)

func (a *app) scheduleCommand() *cobra.Command {
	list := &cobra.Command{
		Use: "list", Short: "List schedules with their next fire times", Args: arguments(cobra.NoArgs),
		RunE: a.with(func(ctx context.Context, s *session, _ []string) error {
			answer, err := s.Timer.ListSchedules(ctx, &jobv1.ListSchedulesRequest{})
			if err != nil {
				return err
			}
			return a.show(answer, func(w io.Writer) error { return writeSchedules(w, answer.GetSchedules()...) })
		}),
	}
	show := &cobra.Command{
		Use: "show NAME", Short: "Show a schedule, its next fire times and its newest jobs", Args: arguments(cobra.ExactArgs(1)),
		RunE: a.with(func(ctx context.Context, s *session, args []string) error {
			answer, err := s.Timer.GetSchedule(ctx, &jobv1.GetScheduleRequest{Name: args[0]})
			if err != nil {
				return err
			}
			jobs, err := s.Jobs.ListJobs(ctx, &jobv1.ListJobsRequest{ScheduleId: answer.GetSchedule().GetScheduleId(), PageSize: 10})
			if err != nil {
				return err
			}
			return a.show(answer, func(w io.Writer) error { return writeSchedule(w, answer.GetSchedule(), jobs.GetJobs()) })
		}),
	}
	update := &cobra.Command{
		Use: "update FILE.yaml", Short: "Replace a schedule by what a job file with a \"schedule\" block says", Args: arguments(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			files, err := readJobFiles(args)
			if err != nil {
				return err
			}
			c := files[0]
			if c.Schedule == nil {
				return usageError{fmt.Errorf("%s has no \"schedule\" block", args[0])}
			}
			return a.with(func(ctx context.Context, s *session, _ []string) error {
				return a.changeSchedule(func() (*jobv1.Schedule, error) {
					answer, err := s.Timer.UpdateSchedule(ctx, &jobv1.UpdateScheduleRequest{RequestId: newRequestID(), Name: c.Schedule.Name, Spec: c.Schedule.Spec})
					return answer.GetSchedule(), err
				})
			})(cmd, nil)
		},
	}
	pause := &cobra.Command{
		Use: "pause NAME", Short: "Stop a schedule from firing", Args: arguments(cobra.ExactArgs(1)),
		RunE: a.with(func(ctx context.Context, s *session, args []string) error {
			return a.changeSchedule(func() (*jobv1.Schedule, error) {
				answer, err := s.Timer.PauseSchedule(ctx, &jobv1.PauseScheduleRequest{RequestId: newRequestID(), Name: args[0]})
				return answer.GetSchedule(), err
			})
		}),
	}
	resume := &cobra.Command{
		Use: "resume NAME", Short: "Let a schedule fire again, from now on", Args: arguments(cobra.ExactArgs(1)),
		RunE: a.with(func(ctx context.Context, s *session, args []string) error {
			return a.changeSchedule(func() (*jobv1.Schedule, error) {
				answer, err := s.Timer.ResumeSchedule(ctx, &jobv1.ResumeScheduleRequest{RequestId: newRequestID(), Name: args[0]})
				return answer.GetSchedule(), err
			})
		}),
	}
	remove := &cobra.Command{
		Use: "delete NAME", Short: "Forget a schedule; its jobs stay", Args: arguments(cobra.ExactArgs(1)),
		RunE: a.with(func(ctx context.Context, s *session, args []string) error {
			answer, err := s.Timer.DeleteSchedule(ctx, &jobv1.DeleteScheduleRequest{RequestId: newRequestID(), Name: args[0]})
			if err != nil {
				return err
			}
			return a.show(answer, func(w io.Writer) error {
				_, err := fmt.Fprintf(w, "schedule %s is gone\n", args[0])
				return err
			})
		}),
	}
	return group("schedule", "Jobs that are submitted by the clock (submit a file with a \"schedule\" block)", list, show, update, pause, resume, remove)
}

func (a *app) changeSchedule(change func() (*jobv1.Schedule, error)) error {
	x, err := change()
	if err != nil {
		return err
	}
	return a.showSchedule(x)
}

func (a *app) showSchedule(x *jobv1.Schedule) error {
	return a.show(x, func(w io.Writer) error { return writeSchedules(w, x) })
}

func writeSchedules(w io.Writer, schedules ...*jobv1.Schedule) error {
	t := newTable("SCHEDULE", "CRON", "ZONE", "NEXT", "LAST", "RESULT", "SKIPPED").numbers(6)
	for _, x := range schedules {
		zone := x.GetSpec().GetTimeZone()
		if zone == "" {
			zone = "UTC"
		}
		t.add(x.GetName(), x.GetSpec().GetCron(), zone, fireText(x), timeText(x.GetLastFireTime()), orDash(x.GetLastResult()), fmt.Sprint(x.GetSkipped()))
	}
	return t.write(w)
}

// fireText is the next fire time as the clocks of the schedule's zone show it.
func fireText(x *jobv1.Schedule) string {
	if x.GetPaused() {
		return "paused"
	}
	if len(x.GetNextFireTimes()) == 0 {
		return "never"
	}
	at := x.GetNextFireTimes()[0].AsTime()
	if zone, err := time.LoadLocation(x.GetSpec().GetTimeZone()); err == nil {
		at = at.In(zone)
	}
	return at.Format("2006-01-02 15:04 MST")
}

func writeSchedule(w io.Writer, x *jobv1.Schedule, jobs []*jobv1.Job) error {
	t := newTable("SCHEDULE", x.GetName())
	t.add("cron", x.GetSpec().GetCron())
	t.add("zone", orDash(x.GetSpec().GetTimeZone()))
	t.add("overlap", enumText(x.GetSpec().GetOverlap().String(), "OVERLAP_"))
	t.add("catch up", enumText(x.GetSpec().GetCatchUp().String(), "CATCH_UP_"))
	t.add("submitter", x.GetSubmitter())
	t.add("last", timeText(x.GetLastFireTime())+" "+x.GetLastResult())
	t.add("skipped", fmt.Sprint(x.GetSkipped()))
	if x.GetPaused() {
		t.add("next", "paused")
	}
	for _, at := range x.GetNextFireTimes() {
		t.add("next", timeText(at))
	}
	if err := t.write(w); err != nil || len(jobs) == 0 {
		return err
	}
	if _, err := fmt.Fprintln(w); err != nil {
		return err
	}
	list := newTable("JOB", "NAME", "STATE", "SUBMITTED", "REASON")
	for _, j := range jobs {
		list.add(j.GetJobId(), j.GetSpec().GetDisplayName(), stateText(j), timeText(j.GetCreateTime()), j.GetStateReason())
	}
	return list.write(w)
}
