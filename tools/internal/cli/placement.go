package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	fleetv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/fleet/v1"
	jobv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/job/v1"
)

func (a *app) explainPlacement(ctx context.Context, s *session, ref string, attempt uint32) error {
	id, err := jobID(ctx, s, ref)
	if err != nil {
		return err
	}
	answer, err := s.Jobs.ExplainPlacement(ctx, &jobv1.ExplainPlacementRequest{JobId: id, Attempt: attempt})
	if err != nil {
		return err
	}
	return a.show(answer, func(w io.Writer) error {
		_, err := fmt.Fprintf(w, "attempt %d, decided %s, behind %d job(s) of that round\n%s\n", answer.GetAttempt().GetAttempt(), timeText(answer.GetDecisionTime()),
			answer.GetAheadCount(), answer.GetSummary())
		if err != nil || len(answer.GetCandidates()) == 0 {
			return err
		}
		t := newTable("RANK", "AGENT", "DEVICES", "GUARD", "SCORE", "WASTE", "WHY").numbers(0, 3, 4, 5)
		for _, c := range answer.GetCandidates() {
			rank, guard, score, waste := "–", "–", "–", "–"
			if c.GetFitted() {
				rank, guard, score = strconv.Itoa(int(c.GetRank())), strconv.Itoa(int(c.GetGuard())), strconv.Itoa(int(c.GetScore()))
				waste = fmt.Sprintf("%+.2f", c.GetWasteAfter()-c.GetWasteBefore())
			}
			name := c.GetAgentName()
			if c.GetChosen() {
				name += " (chosen)"
			}
			t.add(rank, name, orDash(strings.Join(c.GetDeviceIds(), " ")), guard, score, waste, c.GetReason())
		}
		if err := t.write(w); err != nil {
			return err
		}
		_, err = fmt.Fprintf(w, "`trainyard snapshot %d --out round.json` keeps its inputs; `schedreplay snapshot round.json` decides again\n", answer.GetSnapshotId())
		return err
	})
}

func (a *app) snapshotCommand() *cobra.Command {
	var out, job string
	cmd := &cobra.Command{
		Use: "snapshot [ID]", Short: "List the captured planning rounds, or fetch one for schedreplay",
		Long: "Without arguments snapshot lists the newest planning rounds that decided something. With an id, or with --job for the round\n" +
			"that placed a job, it writes that round's inputs as JSON, which `schedreplay snapshot` runs through the same core offline.",
		Args: arguments(cobra.MaximumNArgs(1)),
		RunE: a.with(func(ctx context.Context, s *session, args []string) error {
			if len(args) == 0 && job == "" {
				return a.listSnapshots(ctx, s)
			}
			request := &jobv1.GetSnapshotRequest{}
			var err error
			if len(args) == 1 {
				if request.SnapshotId, err = strconv.ParseInt(args[0], 10, 64); err != nil {
					return usageError{fmt.Errorf("%q is not the id of a snapshot", args[0])}
				}
			}
			if job != "" {
				if request.JobId, err = jobID(ctx, s, job); err != nil {
					return err
				}
			}
			return a.fetchSnapshot(ctx, s, request, out)
		}),
	}
	cmd.Flags().StringVar(&out, "out", "-", "file to write; - is the standard output")
	cmd.Flags().StringVar(&job, "job", "", "the round that placed this job")
	return cmd
}

func (a *app) listSnapshots(ctx context.Context, s *session) error {
	answer, err := s.Jobs.ListSnapshots(ctx, &jobv1.ListSnapshotsRequest{})
	if err != nil {
		return err
	}
	return a.show(answer, func(w io.Writer) error {
		t := newTable("SNAPSHOT", "WHEN", "HOSTS", "QUEUED", "PLACED", "PREEMPTED").numbers(0, 2, 3, 4, 5)
		for _, x := range answer.GetSnapshots() {
			t.add(fmt.Sprint(x.GetSnapshotId()), timeText(x.GetTime()), fmt.Sprint(x.GetHosts()), fmt.Sprint(x.GetQueued()), fmt.Sprint(x.GetPlaced()), fmt.Sprint(x.GetPreempted()))
		}
		return t.write(w)
	})
}

func (a *app) fetchSnapshot(ctx context.Context, s *session, request *jobv1.GetSnapshotRequest, out string) (err error) {
	stream, err := s.Jobs.GetSnapshot(ctx, request)
	if err != nil {
		return err
	}
	into := a.out
	if out != "-" {
		file, failed := os.Create(out)
		if failed != nil {
			return failed
		}
		defer func() { err = errors.Join(err, file.Close()) }()
		into = file
	}
	for {
		piece, err := stream.Recv()
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
		if _, err := into.Write(piece.GetChunk()); err != nil {
			return err
		}
	}
}

func (a *app) reprioritizeCommand() *cobra.Command {
	var request string
	cmd := &cobra.Command{
		Use: "reprioritize JOB CLASS", Short: "Move a waiting job to another class: production, interactive, search or batch", Args: arguments(cobra.ExactArgs(2)),
		RunE: a.with(func(ctx context.Context, s *session, args []string) error {
			class, ok := jobv1.PriorityClass_value["PRIORITY_CLASS_"+strings.ToUpper(args[1])]
			if !ok || class == 0 {
				return usageError{fmt.Errorf("%q is none of production, interactive, search, batch", args[1])}
			}
			return a.changeJob(ctx, s, "reprioritize", args[0], func(ctx context.Context, id string) (*jobv1.Job, error) {
				answer, err := s.Jobs.ReprioritizeJob(ctx, &jobv1.ReprioritizeJobRequest{RequestId: requestID(request), JobId: id, PriorityClass: jobv1.PriorityClass(class)})
				return answer.GetJob(), err
			})
		}),
	}
	requestFlag(cmd, &request)
	return cmd
}

func (a *app) cordonCommand() *cobra.Command {
	return a.hostCommand("cordon AGENT", "Keep new work away from a host", func(ctx context.Context, s *session, name, reason string) (*fleetv1.Agent, error) {
		answer, err := s.Fleet.CordonAgent(ctx, &fleetv1.CordonAgentRequest{RequestId: newRequestID(), AgentName: name, Reason: reason})
		return answer.GetAgent(), err
	})
}

func (a *app) drainCommand() *cobra.Command {
	return a.hostCommand("drain AGENT", "Cordon a host, checkpoint what runs there and move it away", func(ctx context.Context, s *session, name, reason string) (*fleetv1.Agent, error) {
		answer, err := s.Fleet.DrainAgent(ctx, &fleetv1.DrainAgentRequest{RequestId: newRequestID(), AgentName: name, Reason: reason})
		return answer.GetAgent(), err
	})
}

func (a *app) uncordonCommand() *cobra.Command {
	return a.hostCommand("uncordon AGENT", "Let a cordoned, drained or quarantined host take work again", func(ctx context.Context, s *session, name, _ string) (*fleetv1.Agent, error) {
		answer, err := s.Fleet.UncordonAgent(ctx, &fleetv1.UncordonAgentRequest{RequestId: newRequestID(), AgentName: name})
		return answer.GetAgent(), err
	})
}

func (a *app) hostCommand(use, short string, change func(ctx context.Context, s *session, name, reason string) (*fleetv1.Agent, error)) *cobra.Command {
	var reason string
	cmd := &cobra.Command{
		Use: use, Short: short, Args: arguments(cobra.ExactArgs(1)),
		RunE: a.with(func(ctx context.Context, s *session, args []string) error {
			agent, err := change(ctx, s, args[0], reason)
			if err != nil {
				return err
			}
			return a.show(agent, func(w io.Writer) error { return writeAgents(w, []*fleetv1.Agent{agent}) })
		}),
	}
	cmd.Flags().StringVar(&reason, "reason", "", "why, for the record")
	return cmd
}
