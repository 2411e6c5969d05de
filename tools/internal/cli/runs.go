package cli

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	registryv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/registry/v1"
)

func (a *app) runsCommand() *cobra.Command {
	var experiment, where, parent string
	var order []string
	var deleted bool
	cmd := &cobra.Command{
		Use: "runs", Short: "Search what the registry recorded of jobs", Args: arguments(cobra.NoArgs),
		Example: `  trainyard runs --where 'metrics."validation/sharpe" > 1 AND params.seed = '"'7'"'' --order 'metrics."validation/sharpe" DESC'`,
		RunE: a.with(func(ctx context.Context, s *session, _ []string) error {
			ask := &registryv1.SearchRunsRequest{ExperimentPrefix: experiment, Filter: where, OrderBy: order, ParentRunId: parent, PageSize: pageSize}
			if deleted {
				ask.Lifecycle = registryv1.SearchRunsRequest_LIFECYCLE_DELETED
			}
			answer, err := s.Runs.SearchRuns(ctx, ask)
			if err != nil {
				return err
			}
			return a.show(answer, func(w io.Writer) error {
				t := newTable("RUN", "NAME", "EXPERIMENT", "STATE", "ATTEMPT", "VAL SHARPE", "REWARD", "AGE").numbers(4, 5, 6, 7)
				for _, r := range answer.GetRuns() {
					m := latest(r)
					t.add(r.GetRunId(), r.GetDisplayName(), r.GetExperiment(), enumText(r.GetState().String(), "STATE_"), fmt.Sprint(r.GetAttempt()),
						metricText(m, "validation/sharpe", "%.3f"), metricText(m, "train/reward", "%.4f"), ageText(r.GetCreateTime(), time.Now()))
				}
				return t.write(w)
			})
		}),
	}
	cmd.Flags().StringVar(&experiment, "experiment", "", "only experiments that begin so")
	cmd.Flags().StringVar(&where, "where", "", "conditions in MLflow's grammar, joined by AND")
	cmd.Flags().StringArrayVar(&order, "order", nil, "order, such as 'metrics.loss ASC'; may be repeated")
	cmd.Flags().StringVar(&parent, "parent", "", "only parts of this run")
	cmd.Flags().BoolVar(&deleted, "deleted", false, "deleted ones instead")
	cmd.AddCommand(a.runsTools()...)
	return cmd
}

func (a *app) metricsCommand() *cobra.Command {
	var points int32
	var follow bool
	cmd := &cobra.Command{
		Use: "metrics JOB [METRIC]", Short: "Show a job's parameters and latest metrics, or one metric's history",
		Args: arguments(cobra.RangeArgs(1, 2)),
		RunE: a.with(func(ctx context.Context, s *session, args []string) error {
			id, err := runID(ctx, s, args[0])
			if err != nil {
				return err
			}
			if follow {
				return a.followMetrics(ctx, s, id, args[1:])
			}
			if len(args) == 1 {
				answer, err := s.Runs.GetRun(ctx, &registryv1.GetRunRequest{RunId: id})
				if err != nil {
					return err
				}
				return a.show(answer, func(w io.Writer) error {
					t := newTable("METRIC", "LATEST", "STEP", "WHEN").numbers(1, 2)
					for _, m := range answer.GetRun().GetLatestMetrics() {
						t.add(m.GetKey(), fmt.Sprintf("%.6g", m.GetValue()), fmt.Sprint(m.GetStep()), timeText(m.GetTime()))
					}
					return t.write(w)
				})
			}
			answer, err := s.Runs.GetMetricHistory(ctx, &registryv1.GetMetricHistoryRequest{RunId: id, Key: args[1], MaxPoints: points})
			if err != nil {
				return err
			}
			return a.show(answer, func(w io.Writer) error {
				t := newTable("STEP", args[1], "WHEN").numbers(0, 1)
				for _, m := range answer.GetMetrics() {
					t.add(fmt.Sprint(m.GetStep()), fmt.Sprintf("%.6g", m.GetValue()), timeText(m.GetTime()))
				}
				if err := t.write(w); err != nil {
					return err
				}
				_, err := fmt.Fprintf(w, "%d of %d points\n", len(answer.GetMetrics()), answer.GetTotalPoints())
				return err
			})
		}),
	}
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "print every point, and new ones as they come, until the run ends")
	cmd.Flags().Int32Var(&points, "points", 0, "at most so many points, peaks kept; 0 means all")
	return cmd
}

func (a *app) checkpointsCommand() *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use: "checkpoints [JOB]", Short: "List checkpoints, newest first",
		Long: "SIZE is all of a checkpoint; SHARED is the part of it that other checkpoints hold too, stored once for all of them.", Args: arguments(cobra.MaximumNArgs(1)),
		RunE: a.with(func(ctx context.Context, s *session, args []string) error {
			ask := &registryv1.ListCheckpointsRequest{PageSize: pageSize}
			if len(args) == 1 {
				id, err := runID(ctx, s, args[0])
				if err != nil {
					return err
				}
				ask.RunId = id
			}
			if all {
				ask.States = []registryv1.Checkpoint_State{
					registryv1.Checkpoint_STATE_LIVE, registryv1.Checkpoint_STATE_TOMBSTONED, registryv1.Checkpoint_STATE_DELETING,
					registryv1.Checkpoint_STATE_DELETED, registryv1.Checkpoint_STATE_CORRUPT,
				}
			}
			answer, err := s.Runs.ListCheckpoints(ctx, ask)
			if err != nil {
				return err
			}
			return a.show(answer, func(w io.Writer) error {
				t := newTable("CHECKPOINT", "EXPERIMENT", "STEP", "STATE", "VAL SHARPE", "SIZE", "SHARED", "RESUMABLE", "AGE").numbers(2, 4, 5, 6, 8)
				for _, c := range answer.GetCheckpoints() {
					state := enumText(c.GetState().String(), "STATE_")
					if c.GetPinned() {
						state += ", pinned"
					}
					t.add(c.GetCheckpointId(), c.GetExperiment(), fmt.Sprint(c.GetStep()), state,
						metricText(c.GetMetrics(), "validation/sharpe", "%.3f"), bytesText(c.GetSizeBytes()), bytesText(c.GetSharedBytes()), fmt.Sprint(c.GetResumable()),
						ageText(c.GetCreateTime(), time.Now()))
				}
				return t.write(w)
			})
		}),
	}
	cmd.Flags().BoolVar(&all, "all", false, "deleted and corrupt ones too")
	return cmd
}
