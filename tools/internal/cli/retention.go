package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	janitorv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/janitor/v1"
)

func (a *app) sweepCommand() *cobra.Command {
	var dryRun, large, verbose bool
	var plan, request string
	cmd := &cobra.Command{
		Use: "sweep", Short: "Decide about every checkpoint and condemn what the policy drops", Args: arguments(cobra.NoArgs),
		RunE: a.with(func(ctx context.Context, s *session, _ []string) error {
			if dryRun {
				answer, err := s.Janitor.PlanSweep(ctx, &janitorv1.PlanSweepRequest{RequestId: requestID(request)})
				if err != nil {
					return err
				}
				return a.show(answer, func(w io.Writer) error { return writePlan(w, answer.GetPlan(), true) })
			}
			return s.traced(ctx, "sweep", func(ctx context.Context) error {
				answer, err := s.Janitor.ExecuteSweep(ctx, &janitorv1.ExecuteSweepRequest{
					RequestId: requestID(request), PlanHash: plan, ConfirmLarge: large,
				})
				if err != nil {
					return err
				}
				return a.show(answer, func(w io.Writer) error { return writeSweep(w, answer, verbose) })
			})
		}),
	}
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "plan only, with the reason for every checkpoint")
	cmd.Flags().BoolVar(&large, "confirm-large", false, "accept a sweep above the policy's cap")
	cmd.Flags().BoolVarP(&verbose, "verbose", "v", false, "print the reason for every checkpoint")
	cmd.Flags().StringVar(&plan, "plan", "", "hash of a plan to carry out (default: a fresh one)")
	requestFlag(cmd, &request)
	return cmd
}

func writePlan(w io.Writer, plan *janitorv1.Plan, every bool) error {
	if every {
		t := newTable("ACTION", "CHECKPOINT", "EXPERIMENT", "STEP", "SIZE", "WHY").numbers(3, 4)
		for _, d := range plan.GetDecisions() {
			t.add(enumText(d.GetAction().String(), "ACTION_"), d.GetCheckpointId(), d.GetExperiment(), fmt.Sprint(d.GetStep()),
				bytesText(d.GetSizeBytes()), d.GetReason())
		}
		if err := t.write(w); err != nil {
			return err
		}
		if _, err := fmt.Fprintln(w); err != nil {
			return err
		}
	}
	t := newTable("ACTION", "RULE", "CHECKPOINTS", "SIZE").numbers(2, 3)
	for _, total := range plan.GetTotals() {
		t.add(enumText(total.GetAction().String(), "ACTION_"), total.GetRule(), fmt.Sprint(total.GetCount()), bytesText(total.GetSizeBytes()))
	}
	if err := t.write(w); err != nil {
		return err
	}
	_, err := fmt.Fprintf(w, "plan %s of policy %s\n", plan.GetPlanHash(), plan.GetPolicyVersion())
	return err
}

func writeSweep(w io.Writer, answer *janitorv1.ExecuteSweepResponse, every bool) error {
	if err := writePlan(w, answer.GetPlan(), every); err != nil {
		return err
	}
	if _, err := fmt.Fprintln(w, sweepLine(answer)); err != nil {
		return err
	}
	for _, refusal := range answer.GetRefusals() {
		if _, err := fmt.Fprintf(w, "kept by the registry: %s\n", refusal); err != nil {
			return err
		}
	}
	return nil
}

func sweepLine(answer *janitorv1.ExecuteSweepResponse) string {
	kept := 0
	for _, d := range answer.GetPlan().GetDecisions() {
		if d.GetAction() == janitorv1.Action_ACTION_KEEP {
			kept++
		}
	}
	line := fmt.Sprintf("%d checkpoints kept, %d condemned (%s), %d deleted (%s)", kept,
		answer.GetTombstonedCount(), bytesText(answer.GetTombstonedBytes()), answer.GetDeletedCount(), bytesText(answer.GetDeletedBytes()))
	if answer.GetArchivedCount() > 0 {
		line += fmt.Sprintf(", %d archived (%s in %s)", answer.GetArchivedCount(), bytesText(answer.GetArchivedBytes()), bytesText(answer.GetColdBytes()))
	}
	return line
}

func (a *app) reportCommand() *cobra.Command {
	var html string
	cmd := &cobra.Command{
		Use: "report", Short: "Show disk usage, growth and forecast of checkpoints", Args: arguments(cobra.NoArgs),
		RunE: a.with(func(ctx context.Context, s *session, _ []string) error {
			ask := &janitorv1.GetReportRequest{Format: janitorv1.GetReportRequest_FORMAT_TEXT}
			if html != "" {
				ask.Format = janitorv1.GetReportRequest_FORMAT_HTML
			}
			answer, err := s.Janitor.GetReport(ctx, ask)
			if err != nil {
				return err
			}
			if html != "" {
				if err := os.WriteFile(html, []byte(answer.GetRendered()), 0o644); err != nil {
					return err
				}
				path, err := filepath.Abs(html)
				if err != nil {
					return err
				}
				_, err = fmt.Fprintln(a.out, path)
				return err
			}
			return a.show(answer, func(w io.Writer) error {
				_, err := fmt.Fprintln(w, answer.GetRendered())
				return err
			})
		}),
	}
	cmd.Flags().StringVar(&html, "html", "", "write the report as a page to this file")
	return cmd
}
