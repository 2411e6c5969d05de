package cli

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	registryv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/registry/v1"
)

func (a *app) mirrorCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "mirror", Short: "Show how far the MLflow server has followed the registry", Args: arguments(cobra.NoArgs),
		RunE: a.with(func(ctx context.Context, s *session, _ []string) error {
			answer, err := s.Mirror.GetMirror(ctx, &registryv1.GetMirrorRequest{})
			if err != nil {
				return err
			}
			return a.show(answer, func(w io.Writer) error { return writeMirror(w, answer) })
		}),
	}
	cmd.AddCommand(a.mirrorDeadCommand(), a.mirrorRetryCommand(), a.mirrorCompareCommand())
	return cmd
}

func writeMirror(w io.Writer, m *registryv1.GetMirrorResponse) error {
	if m.GetTarget() == "" {
		_, err := fmt.Fprintln(w, "nothing is mirrored: start the registry with --mlflow-mirror http://HOST:PORT of an MLflow server")
		return err
	}
	lag := "up to date"
	if m.GetLag() != nil {
		lag = fmt.Sprintf("%d changes wait, the oldest for %s", m.GetPending(), m.GetLag().AsDuration().Round(time.Second))
	}
	if _, err := fmt.Fprintf(w, "%s since %s: %s\n%d runs and models followed, %d not compared since their last change, %d differ, %d dead letters\n",
		m.GetTarget(), timeText(m.GetSinceTime()), lag, m.GetLanes(), m.GetUncompared(), m.GetDiverged(), m.GetDeadLetters()); err != nil {
		return err
	}
	if m.GetResting() != nil {
		if _, err := fmt.Fprintf(w, "the server does not answer; next try in %s, nothing is lost meanwhile\n", m.GetResting().AsDuration().Round(time.Second)); err != nil {
			return err
		}
	}
	if m.GetDeadLetters() > 0 {
		if _, err := fmt.Fprintln(w, "`trainyard mirror dead` shows what it refused, `trainyard mirror retry` sends it again"); err != nil {
			return err
		}
	}
	if len(m.GetProblems()) == 0 {
		return nil
	}
	t := newTable("LANE", "TRIES", "NEXT TRY", "PROBLEM").numbers(1)
	for _, p := range m.GetProblems() {
		next := "-"
		if p.GetFailures() > 0 {
			next = timeText(p.GetRetryTime())
		}
		t.add(p.GetLane(), fmt.Sprint(p.GetFailures()), next, p.GetProblem())
	}
	return t.write(w)
}

func (a *app) mirrorDeadCommand() *cobra.Command {
	return &cobra.Command{
		Use: "dead", Short: "List changes that the MLflow server refused for good, with its reason", Args: arguments(cobra.NoArgs),
		RunE: a.with(func(ctx context.Context, s *session, _ []string) error {
			answer, err := s.Mirror.ListDeadLetters(ctx, &registryv1.ListDeadLettersRequest{PageSize: pageSize})
			if err != nil {
				return err
			}
			return a.show(answer, func(w io.Writer) error {
				t := newTable("SEQUENCE", "LANE", "KIND", "AGE", "REASON").numbers(0, 3)
				for _, d := range answer.GetDeadLetters() {
					t.add(fmt.Sprint(d.GetSequence()), d.GetLane(), d.GetKind(), ageText(d.GetCreateTime(), time.Now()), d.GetReason())
				}
				return t.write(w)
			})
		}),
	}
}

func (a *app) mirrorRetryCommand() *cobra.Command {
	var all bool
	var request string
	cmd := &cobra.Command{
		Use: "retry [SEQUENCE ...]", Short: "Send dead letters again, with what their tags and states are now",
		RunE: a.with(func(ctx context.Context, s *session, args []string) error {
			if all == (len(args) > 0) {
				return usageError{fmt.Errorf("name the dead letters by their sequence, or give --all")}
			}
			ask := &registryv1.RetryDeadLettersRequest{RequestId: requestID(request)}
			for _, text := range args {
				n, err := strconv.ParseInt(text, 10, 64)
				if err != nil {
					return usageError{fmt.Errorf("%q is no sequence number; `trainyard mirror dead` lists them", text)}
				}
				ask.Sequences = append(ask.Sequences, n)
			}
			answer, err := s.Mirror.RetryDeadLetters(ctx, ask)
			if err != nil {
				return err
			}
			return a.show(answer, func(w io.Writer) error {
				_, err := fmt.Fprintf(w, "%d dead letters are sent again\n", answer.GetRetried())
				return err
			})
		}),
	}
	cmd.Flags().BoolVar(&all, "all", false, "all of them")
	requestFlag(cmd, &request)
	return cmd
}

func (a *app) mirrorCompareCommand() *cobra.Command {
	var request string
	cmd := &cobra.Command{
		Use: "compare", Short: "Compare every run and model with the MLflow server, and repair what is missing there", Args: arguments(cobra.NoArgs),
		RunE: a.with(func(ctx context.Context, s *session, _ []string) error {
			answer, err := s.Mirror.CompareMirror(ctx, &registryv1.CompareMirrorRequest{RequestId: requestID(request)})
			if err != nil {
				return err
			}
			return a.show(answer, func(w io.Writer) error {
				_, err := fmt.Fprintf(w, "%d runs and models are compared in the background; `trainyard mirror` shows what differs\n", answer.GetLanes())
				return err
			})
		}),
	}
	requestFlag(cmd, &request)
	return cmd
}
