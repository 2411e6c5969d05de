package cli

import (
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/timestamppb"

	registryv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/registry/v1"
)

func stageText(s registryv1.Stage) string { return enumText(s.String(), "STAGE_") }

func parseStage(name string) (registryv1.Stage, error) {
	value, ok := registryv1.Stage_value["STAGE_"+strings.ToUpper(name)]
	if !ok || value == 0 {
		return 0, usageError{fmt.Errorf("--stage %q is none of none, staging, production, archived", name)}
	}
	return registryv1.Stage(value), nil
}

func (a *app) modelsCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "models [MODEL]", Short: "List models with their versions", Args: arguments(cobra.MaximumNArgs(1)),
		RunE: a.with(func(ctx context.Context, s *session, args []string) error {
			answer := &registryv1.ListModelsResponse{}
			if len(args) == 1 {
				one, err := s.Models.GetModel(ctx, &registryv1.GetModelRequest{ModelName: args[0]})
				if err != nil {
					return err
				}
				answer.Models = []*registryv1.Model{one.GetModel()}
			} else {
				var err error
				if answer, err = s.Models.ListModels(ctx, &registryv1.ListModelsRequest{}); err != nil {
					return err
				}
			}
			return a.show(answer, func(w io.Writer) error {
				t := newTable("MODEL", "VERSION", "STAGE", "VAL SHARPE", "BUY&HOLD", "TEST SHARPE", "ALIASES", "CHECKPOINT", "AGE").numbers(1, 3, 4, 5, 8)
				for _, m := range answer.GetModels() {
					for _, v := range m.GetVersions() {
						t.add(m.GetName(), fmt.Sprint(v.GetVersion()), stageText(v.GetStage()),
							metricText(v.GetMetrics(), "validation/sharpe", "%.3f"), metricText(v.GetMetrics(), "validation/buy_and_hold_sharpe", "%.3f"),
							metricText(v.GetMetrics(), "test/sharpe", "%.3f"), orDash(strings.Join(v.GetAliases(), ",")),
							v.GetCheckpointId(), ageText(v.GetCreateTime(), time.Now()))
					}
				}
				return t.write(w)
			})
		}),
	}
	cmd.AddCommand(a.modelTools()...)
	return cmd
}

func (a *app) promoteCommand() *cobra.Command {
	var version int64
	var stage, reason, request string
	var gates []string
	cmd := &cobra.Command{
		Use: "promote MODEL", Short: "Move a model version to a stage", Args: arguments(cobra.ExactArgs(1)),
		RunE: a.with(func(ctx context.Context, s *session, args []string) error {
			to, err := parseStage(stage)
			if err != nil {
				return err
			}
			ask := &registryv1.PromoteModelVersionRequest{
				RequestId: requestID(request), ModelName: args[0], Version: version, Stage: to, Reason: reason,
			}
			for _, text := range gates {
				gate, err := parseGate(text)
				if err != nil {
					return err
				}
				ask.Gates = append(ask.Gates, gate)
			}
			return s.traced(ctx, "promote", func(ctx context.Context) error {
				answer, err := s.Models.PromoteModelVersion(ctx, ask)
				if err != nil {
					return err
				}
				return a.show(answer, func(w io.Writer) error { return writeMoved(w, answer.GetVersion(), answer.GetEvent()) })
			})
		}),
	}
	cmd.Flags().Int64Var(&version, "version", 0, "which version; 0 means the one with the best validation Sharpe")
	cmd.Flags().StringVar(&stage, "stage", "production", "none, staging, production or archived")
	cmd.Flags().StringVar(&reason, "reason", "", "why, for the record")
	cmd.Flags().StringArrayVar(&gates, "gate", nil, gateUsage)
	requestFlag(cmd, &request)
	return cmd
}

const gateUsage = "condition that must hold, may be repeated: METRIC>=NUMBER, METRIC<=NUMBER, or METRIC>=production+NUMBER (measured on the same window)"

func parseGate(text string) (*registryv1.PromotionGate, error) {
	bad := usageError{fmt.Errorf("--gate %q is not METRIC>=NUMBER, METRIC<=NUMBER or METRIC>=production+NUMBER, such as validation/sharpe>=0.5", text)}
	metric, number, least := strings.Cut(text, ">=")
	if !least {
		var most bool
		if metric, number, most = strings.Cut(text, "<="); !most {
			return nil, bad
		}
	}
	gate := &registryv1.PromotionGate{Metric: strings.TrimSpace(metric)}
	number = strings.TrimSpace(number)
	margin, compared := strings.CutPrefix(number, "production")
	if compared && margin == "" {
		margin = "0"
	}
	value, err := strconv.ParseFloat(map[bool]string{true: margin, false: number}[compared], 64)
	switch {
	case err != nil || gate.Metric == "" || compared && !least:
		return nil, bad
	case compared:
		gate.ProductionMargin = &value
	case least:
		gate.Minimum = value
	default:
		gate.Maximum = &value
	}
	return gate, nil
}

func writeMoved(w io.Writer, v *registryv1.ModelVersion, e *registryv1.ModelEvent) error {
	_, err := fmt.Fprintf(w, "%s version %d: %s -> %s (event %d by %s)\n", v.GetModelName(), v.GetVersion(),
		stageText(e.GetFromStage()), stageText(e.GetToStage()), e.GetSequence(), e.GetActor())
	return err
}

func (a *app) rollbackCommand() *cobra.Command {
	var reason, request string
	cmd := &cobra.Command{
		Use: "rollback MODEL", Short: "Make the previous production version the production version again", Args: arguments(cobra.ExactArgs(1)),
		RunE: a.with(func(ctx context.Context, s *session, args []string) error {
			return s.traced(ctx, "rollback", func(ctx context.Context) error {
				answer, err := s.Models.RollbackModel(ctx, &registryv1.RollbackModelRequest{
					RequestId: requestID(request), ModelName: args[0], Reason: reason,
				})
				if err != nil {
					return err
				}
				return a.show(answer, func(w io.Writer) error { return writeMoved(w, answer.GetVersion(), answer.GetEvent()) })
			})
		}),
	}
	cmd.Flags().StringVar(&reason, "reason", "", "why, for the record")
	requestFlag(cmd, &request)
	return cmd
}

func (a *app) resolveCommand() *cobra.Command {
	var stage, alias string
	var version int64
	cmd := &cobra.Command{
		Use: "resolve MODEL", Short: "Show a model version with downloads of its files", Args: arguments(cobra.ExactArgs(1)),
		RunE: a.with(func(ctx context.Context, s *session, args []string) error {
			ask := &registryv1.ResolveModelRequest{ModelName: args[0]}
			switch {
			case version > 0:
				ask.Selector = &registryv1.ResolveModelRequest_Version{Version: version}
			case alias != "":
				ask.Selector = &registryv1.ResolveModelRequest_Alias{Alias: alias}
			default:
				to, err := parseStage(stage)
				if err != nil {
					return err
				}
				ask.Selector = &registryv1.ResolveModelRequest_Stage{Stage: to}
			}
			answer, err := s.Models.ResolveModel(ctx, ask)
			if err != nil {
				return err
			}
			return a.show(answer, func(w io.Writer) error {
				v := answer.GetVersion()
				if _, err := fmt.Fprintf(w, "%s version %d (%s), checkpoint %s at step %d, manifest %x\n", v.GetModelName(), v.GetVersion(),
					stageText(v.GetStage()), v.GetCheckpointId(), answer.GetCheckpoint().GetStep(), v.GetManifestSha256()); err != nil {
					return err
				}
				t := newTable("FILE", "SIZE", "SHA-256").numbers(1)
				for _, f := range answer.GetCheckpoint().GetFiles() {
					t.add(f.GetPath(), bytesText(f.GetSizeBytes()), hex.EncodeToString(f.GetSha256()))
				}
				// The presigned URLs are secrets while they live: `-o json` has them.
				return t.write(w)
			})
		}),
	}
	cmd.Flags().StringVar(&stage, "stage", "production", "the version in this stage")
	cmd.Flags().StringVar(&alias, "alias", "", "the version with this alias")
	cmd.Flags().Int64Var(&version, "version", 0, "this version")
	return cmd
}

func (a *app) historyCommand() *cobra.Command {
	var at string
	cmd := &cobra.Command{
		Use: "history MODEL", Short: "List every promotion, demotion and rollback of a model", Args: arguments(cobra.ExactArgs(1)),
		RunE: a.with(func(ctx context.Context, s *session, args []string) error {
			ask := &registryv1.ListModelHistoryRequest{ModelName: args[0], PageSize: pageSize}
			if at != "" {
				t, err := time.Parse(time.RFC3339, at)
				if err != nil {
					return usageError{fmt.Errorf("--at %q is not RFC 3339, such as 2026-11-23T18:00:00Z", at)}
				}
				ask.AtTime = timestamppb.New(t)
			}
			answer, err := s.Models.ListModelHistory(ctx, ask)
			if err != nil {
				return err
			}
			return a.show(answer, func(w io.Writer) error {
				if at != "" {
					if _, err := fmt.Fprintf(w, "in production at %s: version %d (0 means none)\n", at, answer.GetProductionVersionAtTime()); err != nil {
						return err
					}
				}
				t := newTable("#", "WHEN", "VERSION", "ACTION", "FROM", "TO", "BY", "WHY").numbers(0, 2)
				for _, e := range answer.GetEvents() {
					t.add(fmt.Sprint(e.GetSequence()), timeText(e.GetTime()), fmt.Sprint(e.GetVersion()), e.GetAction(),
						stageText(e.GetFromStage()), stageText(e.GetToStage()), e.GetActor(), orDash(e.GetReason()))
				}
				return t.write(w)
			})
		}),
	}
	cmd.Flags().StringVar(&at, "at", "", "also say what was in production at this time")
	return cmd
}
