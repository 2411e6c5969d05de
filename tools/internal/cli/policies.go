package cli

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/ultrathink-pilot/trainyard/libs/modelclient"
	registryv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/registry/v1"
)

// modelTools are the subcommands of models.
func (a *app) modelTools() []*cobra.Command {
	return []*cobra.Command{a.policyCommand(), a.checkCommand(), a.approveCommand(), a.verifyCommand(), a.lineageCommand()}
}

func (a *app) policyCommand() *cobra.Command {
	var gates, checks []string
	var approvals uint32
	var reason, request string
	cmd := &cobra.Command{
		Use: "policy MODEL", Short: "Set what every promotion into production must meet", Args: arguments(cobra.ExactArgs(1)),
		Long: "Set what every promotion of a model into production must meet, whoever asks and by whichever API.\nWithout flags it asks for nothing any more.",
		RunE: a.with(func(ctx context.Context, s *session, args []string) error {
			p := &registryv1.PromotionPolicy{RequiredChecks: checks, Approvals: approvals}
			for _, text := range gates {
				gate, err := parseGate(text)
				if err != nil {
					return err
				}
				p.Gates = append(p.Gates, gate)
			}
			answer, err := s.Models.SetPromotionPolicy(ctx, &registryv1.SetPromotionPolicyRequest{RequestId: requestID(request), ModelName: args[0], Policy: p, Reason: reason})
			if err != nil {
				return err
			}
			return a.show(answer, func(w io.Writer) error {
				_, err := fmt.Fprintf(w, "%s: %d gates, checks %s, %d approvals\n", args[0], len(p.GetGates()), orDash(strings.Join(checks, ", ")), approvals)
				return err
			})
		}),
	}
	cmd.Flags().StringArrayVar(&gates, "gate", nil, gateUsage)
	cmd.Flags().StringArrayVar(&checks, "check", nil, "name of a check that must have passed; may be repeated")
	cmd.Flags().Uint32Var(&approvals, "approvals", 0, "people other than the one who promotes who must have approved")
	cmd.Flags().StringVar(&reason, "reason", "", "why, for the record")
	requestFlag(cmd, &request)
	return cmd
}

// versionArgument reads MODEL VERSION.
func versionArgument(text string) (int64, error) {
	v, err := strconv.ParseInt(text, 10, 32)
	if err != nil || v < 1 {
		return 0, usageError{fmt.Errorf("%q is no version number", text)}
	}
	return v, nil
}

func (a *app) checkCommand() *cobra.Command {
	var failed bool
	var detail, request string
	cmd := &cobra.Command{
		Use: "check MODEL VERSION NAME", Short: "Record the outcome of a named check of a version", Args: arguments(cobra.ExactArgs(3)),
		RunE: a.with(func(ctx context.Context, s *session, args []string) error {
			v, err := versionArgument(args[1])
			if err != nil {
				return err
			}
			answer, err := s.Models.RecordCheck(ctx, &registryv1.RecordCheckRequest{RequestId: requestID(request), ModelName: args[0], Version: v, Name: args[2], Passed: !failed, Detail: detail})
			if err != nil {
				return err
			}
			return a.show(answer, func(w io.Writer) error { return writeStanding(w, answer.GetVersion()) })
		}),
	}
	cmd.Flags().BoolVar(&failed, "failed", false, "it failed")
	cmd.Flags().StringVar(&detail, "detail", "", "what was found")
	requestFlag(cmd, &request)
	return cmd
}

func (a *app) approveCommand() *cobra.Command {
	var reason, request string
	cmd := &cobra.Command{
		Use: "approve MODEL VERSION", Short: "Approve a version for production", Args: arguments(cobra.ExactArgs(2)),
		RunE: a.with(func(ctx context.Context, s *session, args []string) error {
			v, err := versionArgument(args[1])
			if err != nil {
				return err
			}
			answer, err := s.Models.ApproveModelVersion(ctx, &registryv1.ApproveModelVersionRequest{RequestId: requestID(request), ModelName: args[0], Version: v, Reason: reason})
			if err != nil {
				return err
			}
			return a.show(answer, func(w io.Writer) error { return writeStanding(w, answer.GetVersion()) })
		}),
	}
	cmd.Flags().StringVar(&reason, "reason", "", "why, for the record")
	requestFlag(cmd, &request)
	return cmd
}

func writeStanding(w io.Writer, v *registryv1.ModelVersion) error {
	t := newTable("WHAT", "OUTCOME", "BY", "WHEN")
	for _, c := range v.GetChecks() {
		outcome := "passed"
		if !c.GetPassed() {
			outcome = "failed"
		}
		t.add("check "+c.GetName(), strings.TrimSuffix(outcome+": "+c.GetDetail(), ": "), c.GetActor(), timeText(c.GetTime()))
	}
	for _, p := range v.GetApprovals() {
		t.add("approval", orDash(p.GetReason()), p.GetActor(), timeText(p.GetTime()))
	}
	return t.write(w)
}

func (a *app) verifyCommand() *cobra.Command {
	return &cobra.Command{
		Use: "verify MODEL", Short: "Check the hash chain of a model's history", Args: arguments(cobra.ExactArgs(1)),
		RunE: a.with(func(ctx context.Context, s *session, args []string) error {
			answer, err := s.Models.VerifyModelHistory(ctx, &registryv1.VerifyModelHistoryRequest{ModelName: args[0]})
			if err != nil {
				return err
			}
			if !answer.GetIntact() {
				return fmt.Errorf("the history of %s does not hold: %s", args[0], answer.GetProblem())
			}
			return a.show(answer, func(w io.Writer) error {
				_, err := fmt.Fprintf(w, "%d events, all of them hold; the newest is %x\n", answer.GetEvents(), answer.GetHeadHash())
				return err
			})
		}),
	}
}

func (a *app) lineageCommand() *cobra.Command {
	return &cobra.Command{
		Use: "lineage CHECKPOINT", Short: "Show where a checkpoint comes from and what was made of it", Args: arguments(cobra.ExactArgs(1)),
		RunE: a.with(func(ctx context.Context, s *session, args []string) error {
			answer, err := s.Runs.GetCheckpointLineage(ctx, &registryv1.GetCheckpointLineageRequest{CheckpointId: args[0]})
			if err != nil {
				return err
			}
			return a.show(answer, func(w io.Writer) error {
				t := newTable("", "CHECKPOINT", "RUN", "ATTEMPT", "STEP", "DATA", "FEATURES", "CODE").numbers(3, 4)
				row := func(what string, c *registryv1.Checkpoint) {
					t.add(what, c.GetCheckpointId(), c.GetRunId(), fmt.Sprint(c.GetAttempt()), fmt.Sprint(c.GetStep()), orDash(c.GetDataVersion()), orDash(c.GetFeatureSchema()), orDash(c.GetCodeVersion()))
				}
				for i, c := range answer.GetAncestry() {
					row(map[bool]string{true: "this", false: "from"}[i == 0], c)
				}
				for _, c := range answer.GetChildren() {
					row("became", c)
				}
				if err := t.write(w); err != nil {
					return err
				}
				for _, v := range answer.GetVersions() {
					if _, err := fmt.Fprintf(w, "%s version %d\n", v.GetModelName(), v.GetVersion()); err != nil {
						return err
					}
				}
				return nil
			})
		}),
	}
}

// pullCommand is the inference service's client for one download.
func (a *app) pullCommand() *cobra.Command {
	var dir, alias, stage string
	var version int64
	cmd := &cobra.Command{
		Use: "pull MODEL", Short: "Download a model version into a cache, every file proven", Args: arguments(cobra.ExactArgs(1)),
		RunE: a.with(func(ctx context.Context, s *session, args []string) error {
			which := modelclient.Selector{Version: version, Alias: alias}
			var err error
			if version == 0 && alias == "" {
				if which.Stage, err = parseStage(stage); err != nil {
					return err
				}
			}
			client, err := modelclient.Open(modelclient.Config{Conn: s.Registry(), Dir: dir})
			if err != nil {
				return err
			}
			model, err := client.Fetch(ctx, args[0], which)
			if err == nil {
				_, err = fmt.Fprintf(a.out, "%s version %d: %d files in %s\n", model.Name, model.Version, len(model.Files), model.Dir)
			}
			if cerr := client.Close(); err == nil {
				err = cerr
			}
			return err
		}),
	}
	cmd.Flags().StringVar(&dir, "dir", "models", "the cache's directory")
	cmd.Flags().StringVar(&stage, "stage", "production", "the version in this stage")
	cmd.Flags().StringVar(&alias, "alias", "", "the version with this alias")
	cmd.Flags().Int64Var(&version, "version", 0, "this version")
	return cmd
}
