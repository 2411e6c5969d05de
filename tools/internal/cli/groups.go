package cli

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	jobv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/job/v1"
)

// addLife adds what a job belongs to, waits for and was warned of.
func addLife(t *table, j *jobv1.Job) {
	if id := j.GetArrayId(); id != "" {
		t.add("array", fmt.Sprintf("%s, element %d", id, j.GetArrayIndex()))
	}
	if id := j.GetGraphId(); id != "" {
		t.add("graph", fmt.Sprintf("%s, node %s", id, j.GetGraphNode()))
	}
	if id := j.GetScheduleId(); id != "" {
		t.add("schedule", id)
	}
	if at := j.GetSpec().GetDeadline(); at != nil {
		t.add("deadline", timeText(at))
	}
	for _, d := range j.GetDependencies() {
		t.add("after", fmt.Sprintf("%s: %s", dependencyText(d.GetDependency()), strings.TrimSuffix(enumText(d.GetState().String(), "STATE_")+", "+d.GetReason(), ", ")))
	}
	for _, w := range j.GetWarnings() {
		t.add("warning", w)
	}
}

func dependencyText(d *jobv1.Dependency) string {
	switch {
	case d.GetModelPromoted() != nil:
		return "promotion of " + d.GetModelPromoted().GetModelName()
	case d.GetArray() != "":
		return "array " + d.GetArray()
	}
	return "job " + d.GetJob()
}

func (a *app) arrayCommand() *cobra.Command {
	var reason, request string
	var limit int
	list := &cobra.Command{
		Use: "list", Short: "List arrays, newest first", Args: arguments(cobra.NoArgs),
		RunE: a.with(func(ctx context.Context, s *session, _ []string) error {
			out := &jobv1.ListArraysResponse{}
			for token := ""; ; {
				page, err := s.Arrays.ListArrays(ctx, &jobv1.ListArraysRequest{PageSize: int32(min(limit, pageSize)), PageToken: token})
				if err != nil {
					return err
				}
				out.Arrays = append(out.Arrays, page.GetArrays()...)
				if token = page.GetNextPageToken(); token == "" || len(out.GetArrays()) >= limit {
					break
				}
			}
			return a.show(out, func(w io.Writer) error { return writeArrays(w, out.GetArrays()...) })
		}),
	}
	list.Flags().IntVar(&limit, "limit", 50, "at most so many")
	show := &cobra.Command{
		Use: "show ARRAY", Short: "Show an array's counts", Args: arguments(cobra.ExactArgs(1)),
		RunE: a.with(func(ctx context.Context, s *session, args []string) error {
			answer, err := s.Arrays.GetArray(ctx, &jobv1.GetArrayRequest{ArrayId: args[0]})
			if err != nil {
				return err
			}
			return a.show(answer, func(w io.Writer) error { return writeArrays(w, answer.GetArray()) })
		}),
	}
	explain := &cobra.Command{
		Use: "explain ARRAY", Short: "Say how the elements stand and what keeps the next one", Args: arguments(cobra.ExactArgs(1)),
		RunE: a.with(func(ctx context.Context, s *session, args []string) error {
			answer, err := s.Arrays.ExplainArray(ctx, &jobv1.ExplainArrayRequest{ArrayId: args[0]})
			if err != nil {
				return err
			}
			return a.show(answer, func(w io.Writer) error {
				if _, err := fmt.Fprintln(w, answer.GetSummary()); err != nil || len(answer.GetGroups()) == 0 {
					return err
				}
				t := newTable("ELEMENTS", "REASON", "SUCH AS").numbers(0)
				for _, g := range answer.GetGroups() {
					t.add(fmt.Sprint(g.GetCount()), g.GetReason(), g.GetJobIds()[0])
				}
				return t.write(w)
			})
		}),
	}
	cancel := &cobra.Command{
		Use: "cancel ARRAY", Short: "Cancel every element that is not final", Args: arguments(cobra.ExactArgs(1)),
		RunE: a.with(func(ctx context.Context, s *session, args []string) error {
			return s.traced(ctx, "cancel", func(ctx context.Context) error {
				answer, err := s.Arrays.CancelArray(ctx, &jobv1.CancelArrayRequest{RequestId: requestID(request), ArrayId: args[0], Reason: reason})
				if err != nil {
					return err
				}
				return a.show(answer, func(w io.Writer) error { return writeArrays(w, answer.GetArray()) })
			})
		}),
	}
	cancel.Flags().StringVar(&reason, "reason", "", "why, for the record")
	requestFlag(cancel, &request)
	return group("array", "Job arrays: one file, many jobs (submit a file with an \"array\" block)", list, show, explain, cancel)
}

func writeArrays(w io.Writer, arrays ...*jobv1.JobArray) error {
	t := newTable("ARRAY", "NAME", "ELEMENTS", "AT ONCE", "WAITING", "RUNNING", "SUCCEEDED", "FAILED", "CANCELLED", "SUBMITTED").numbers(2, 3, 4, 5, 6, 7, 8)
	for _, x := range arrays {
		most := "any"
		if x.GetMaxParallel() > 0 {
			most = fmt.Sprint(x.GetMaxParallel())
		}
		t.add(x.GetArrayId(), x.GetTemplate().GetDisplayName(), fmt.Sprint(x.GetCount()), most, fmt.Sprint(x.GetWaiting()), fmt.Sprint(x.GetRunning()),
			fmt.Sprint(x.GetSucceeded()), fmt.Sprint(x.GetFailed()), fmt.Sprint(x.GetCancelled()), timeText(x.GetCreateTime()))
	}
	return t.write(w)
}

// group is a noun with its verbs.
func group(noun, short string, verbs ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{Use: noun, Short: short, Args: arguments(cobra.NoArgs), RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() }}
	cmd.AddCommand(verbs...)
	return cmd
}

func (a *app) graphCommand() *cobra.Command {
	var reason, request string
	show := &cobra.Command{
		Use: "show GRAPH", Short: "Show a graph's jobs and what they wait for", Args: arguments(cobra.ExactArgs(1)),
		RunE: a.with(func(ctx context.Context, s *session, args []string) error {
			answer, err := s.Graphs.GetGraph(ctx, &jobv1.GetGraphRequest{GraphId: args[0]})
			if err != nil {
				return err
			}
			return a.show(answer, func(w io.Writer) error { return writeGraph(w, answer.GetJobs()) })
		}),
	}
	cancel := &cobra.Command{
		Use: "cancel GRAPH", Short: "Cancel every job of a graph that is not final", Args: arguments(cobra.ExactArgs(1)),
		RunE: a.with(func(ctx context.Context, s *session, args []string) error {
			return s.traced(ctx, "cancel", func(ctx context.Context) error {
				answer, err := s.Graphs.CancelGraph(ctx, &jobv1.CancelGraphRequest{RequestId: requestID(request), GraphId: args[0], Reason: reason})
				if err != nil {
					return err
				}
				return a.show(answer, func(w io.Writer) error { return writeGraph(w, answer.GetJobs()) })
			})
		}),
	}
	cancel.Flags().StringVar(&reason, "reason", "", "why, for the record")
	requestFlag(cancel, &request)
	return group("graph", "Graphs of jobs that wait for each other (submit a file with a \"graph\" list)", show, cancel)
}

func writeGraph(w io.Writer, jobs []*jobv1.Job) error {
	names := map[string]string{}
	for _, j := range jobs {
		names[j.GetJobId()] = j.GetGraphNode()
	}
	t := newTable("NODE", "JOB", "STATE", "AFTER", "REASON")
	for _, j := range jobs {
		var after []string
		for _, d := range j.GetDependencies() {
			if name := names[d.GetDependency().GetJob()]; name != "" {
				after = append(after, name)
			} else {
				after = append(after, dependencyText(d.GetDependency()))
			}
		}
		t.add(j.GetGraphNode(), j.GetJobId(), stateText(j), orDash(strings.Join(after, ", ")), j.GetStateReason())
	}
	return t.write(w)
}
