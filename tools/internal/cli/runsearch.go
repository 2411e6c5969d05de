package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"

	"github.com/ultrathink-pilot/trainyard/libs/rpcerr"
	registryv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/registry/v1"
)

// runsTools are the subcommands of runs.
func (a *app) runsTools() []*cobra.Command {
	return []*cobra.Command{a.runsCompare(), a.runsEdit(), a.runsLifecycle("delete"), a.runsLifecycle("restore")}
}

// runIDs reads runs the way runID reads one.
func runIDs(ctx context.Context, s *session, refs []string) ([]string, error) {
	var ids []string
	var failed error
	for _, ref := range refs {
		id, err := runID(ctx, s, ref)
		failed = errors.Join(failed, err)
		ids = append(ids, id)
	}
	return ids, failed
}

func (a *app) runsCompare() *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use: "compare RUN RUN...", Short: "Lay parameters and latest metrics of runs side by side", Args: arguments(cobra.MinimumNArgs(2)),
		RunE: a.with(func(ctx context.Context, s *session, args []string) error {
			ids, err := runIDs(ctx, s, args)
			if err != nil {
				return err
			}
			answer, err := s.Runs.CompareRuns(ctx, &registryv1.CompareRunsRequest{RunIds: ids, OnlyDifferent: !all})
			if err != nil {
				return err
			}
			return a.show(answer, func(w io.Writer) error {
				header := []string{""}
				for _, r := range answer.GetRuns() {
					header = append(header, r.GetDisplayName()+" "+r.GetRunId()[max(0, len(r.GetRunId())-6):])
				}
				t := newTable(header...)
				for _, row := range answer.GetParams() {
					t.add(cellsOf("param "+row.GetKey(), row.GetPresent(), func(i int) string { return row.GetValues()[i] })...)
				}
				for _, row := range answer.GetMetrics() {
					t.add(cellsOf(row.GetKey(), row.GetPresent(), func(i int) string { return fmt.Sprintf("%.6g", row.GetValues()[i]) })...)
				}
				return t.write(w)
			})
		}),
	}
	cmd.Flags().BoolVar(&all, "all", false, "also what is the same in all of them")
	return cmd
}

func cellsOf(key string, present []bool, value func(i int) string) []string {
	cells := []string{key}
	for i, there := range present {
		if there {
			cells = append(cells, value(i))
		} else {
			cells = append(cells, "-")
		}
	}
	return cells
}

func (a *app) runsEdit() *cobra.Command {
	var name, notes, parent, request string
	var tags, untag []string
	cmd := &cobra.Command{
		Use: "edit RUN", Short: "Change a run's name, notes, tags and parent", Args: arguments(cobra.ExactArgs(1)),
	}
	cmd.RunE = a.with(func(ctx context.Context, s *session, args []string) error {
		id, err := runID(ctx, s, args[0])
		if err != nil {
			return err
		}
		ask := &registryv1.UpdateRunRequest{RequestId: requestID(request), RunId: id, DeleteTags: untag}
		for flag, into := range map[string]**string{"name": &ask.DisplayName, "notes": &ask.Notes, "parent": &ask.ParentRunId} {
			if cmd.Flags().Changed(flag) {
				value := map[string]string{"name": name, "notes": notes, "parent": parent}[flag]
				*into = &value
			}
		}
		for _, text := range tags {
			key, value, ok := strings.Cut(text, "=")
			if !ok || key == "" {
				return usageError{fmt.Errorf("--tag %q is not KEY=VALUE", text)}
			}
			if ask.SetTags == nil {
				ask.SetTags = map[string]string{}
			}
			ask.SetTags[key] = value
		}
		answer, err := s.Runs.UpdateRun(ctx, ask)
		if err != nil {
			return err
		}
		return a.show(answer, func(w io.Writer) error {
			r := answer.GetRun()
			_, err := fmt.Fprintf(w, "%s %s: %d tags, parent %s\n", r.GetRunId(), r.GetDisplayName(), len(r.GetTags()), orDash(r.GetParentRunId()))
			return err
		})
	})
	cmd.Flags().StringVar(&name, "name", "", "name for people")
	cmd.Flags().StringVar(&notes, "notes", "", "notes in Markdown")
	cmd.Flags().StringVar(&parent, "parent", "", "id of the run that it is a part of; empty takes it out")
	cmd.Flags().StringArrayVar(&tags, "tag", nil, "KEY=VALUE to write; may be repeated")
	cmd.Flags().StringArrayVar(&untag, "untag", nil, "KEY to remove; may be repeated")
	requestFlag(cmd, &request)
	return cmd
}

func (a *app) runsLifecycle(verb string) *cobra.Command {
	var experiment bool
	short := map[string]string{"delete": "Take runs out of listings; nothing of them is lost", "restore": "Bring deleted runs back"}[verb]
	cmd := &cobra.Command{
		Use: verb + " RUN...", Short: short, Args: arguments(cobra.MinimumNArgs(1)),
		RunE: a.with(func(ctx context.Context, s *session, args []string) error {
			ids := args
			if !experiment {
				var err error
				if ids, err = runIDs(ctx, s, args); err != nil {
					return err
				}
			}
			var failed error
			for _, id := range ids {
				var err error
				switch {
				case experiment && verb == "delete":
					_, err = s.Runs.DeleteExperiment(ctx, &registryv1.DeleteExperimentRequest{RequestId: requestID(""), Path: id})
				case experiment:
					_, err = s.Runs.RestoreExperiment(ctx, &registryv1.RestoreExperimentRequest{RequestId: requestID(""), Path: id})
				case verb == "delete":
					_, err = s.Runs.DeleteRun(ctx, &registryv1.DeleteRunRequest{RequestId: requestID(""), RunId: id})
				default:
					_, err = s.Runs.RestoreRun(ctx, &registryv1.RestoreRunRequest{RequestId: requestID(""), RunId: id})
				}
				if err == nil {
					_, err = fmt.Fprintf(a.out, "%s: %sd\n", id, verb)
				}
				failed = errors.Join(failed, err)
			}
			return failed
		}),
	}
	cmd.Flags().BoolVar(&experiment, "experiment", false, "the arguments are paths of experiments, which go with all of their runs")
	return cmd
}

// followMetrics prints points as they become durable.
func (a *app) followMetrics(ctx context.Context, s *session, id string, keys []string) error {
	var last int64 = -1 << 63
	for {
		stream, err := s.Runs.WatchMetrics(ctx, &registryv1.WatchMetricsRequest{RunId: id, Keys: keys, AfterStep: &last})
		for err == nil {
			var frame *registryv1.WatchMetricsResponse
			if frame, err = stream.Recv(); err != nil {
				break
			}
			for _, m := range frame.GetMetrics() {
				if _, err := fmt.Fprintf(a.out, "%s\t%d\t%s\t%.6g\n", timeText(m.GetTime()), m.GetStep(), m.GetKey(), m.GetValue()); err != nil {
					return err
				}
				last = max(last, m.GetStep())
			}
			if state := frame.GetState(); state == registryv1.Run_STATE_FAILED || state == registryv1.Run_STATE_STOPPED {
				_, err := fmt.Fprintf(a.out, "the run has %s\n", strings.ToLower(enumText(state.String(), "STATE_")))
				return err
			}
		}
		if errors.Is(err, io.EOF) || ctx.Err() != nil {
			return nil
		}
		if e := rpcerr.FromError(err); e == nil || e.Code() != codes.Unavailable {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(time.Second):
		}
	}
}
