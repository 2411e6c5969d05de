package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/spf13/cobra"

	janitorv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/janitor/v1"
	registryv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/registry/v1"
)

func (a *app) restoreCommand() *cobra.Command {
	var request string
	cmd := &cobra.Command{
		Use: "restore CHECKPOINT", Short: "Take a condemned checkpoint back, or bring an archived one back to the hot tier", Args: arguments(cobra.ExactArgs(1)),
		RunE: a.with(func(ctx context.Context, s *session, args []string) error {
			return s.traced(ctx, "restore", func(ctx context.Context) error {
				answer, err := s.Janitor.RestoreCheckpoint(ctx, &janitorv1.RestoreCheckpointRequest{RequestId: requestID(request), CheckpointId: args[0]})
				if err != nil {
					return err
				}
				return a.show(answer, func(w io.Writer) error {
					_, err := fmt.Fprintf(w, "checkpoint %s is %s; no sweep takes it for the time of the hold\n", args[0], answer.GetState())
					return err
				})
			})
		}),
	}
	requestFlag(cmd, &request)
	return cmd
}

func (a *app) pinCommand() *cobra.Command {
	var off bool
	var reason, request string
	cmd := &cobra.Command{
		Use: "pin CHECKPOINT", Short: "Keep a checkpoint whatever the policy says (--off: no longer)", Args: arguments(cobra.ExactArgs(1)),
		RunE: a.with(func(ctx context.Context, s *session, args []string) error {
			return s.traced(ctx, "pin", func(ctx context.Context) error {
				answer, err := s.Runs.SetCheckpointPin(ctx, &registryv1.SetCheckpointPinRequest{
					RequestId: requestID(request), CheckpointId: args[0], Pinned: !off, Reason: reason,
				})
				if err != nil {
					return err
				}
				return a.show(answer, func(w io.Writer) error {
					text := "is pinned"
					if off {
						text = "is no longer pinned"
					}
					_, err := fmt.Fprintf(w, "checkpoint %s %s\n", args[0], text)
					return err
				})
			})
		}),
	}
	cmd.Flags().BoolVar(&off, "off", false, "take the pin away")
	cmd.Flags().StringVar(&reason, "reason", "", "why, for the record")
	requestFlag(cmd, &request)
	return cmd
}

func (a *app) holdCommand() *cobra.Command {
	var off bool
	var reason, request string
	cmd := &cobra.Command{
		Use: "hold CHECKPOINT", Short: "Put a checkpoint under a legal hold (--off: lift it)", Args: arguments(cobra.ExactArgs(1)),
		RunE: a.with(func(ctx context.Context, s *session, args []string) error {
			if reason == "" {
				return usageError{errors.New("--reason is missing; a legal hold, and its end, need one for the record")}
			}
			return s.traced(ctx, "hold", func(ctx context.Context) error {
				answer, err := s.Janitor.SetLegalHold(ctx, &janitorv1.SetLegalHoldRequest{
					RequestId: requestID(request), CheckpointId: args[0], Held: !off, Reason: reason,
				})
				if err != nil {
					return err
				}
				return a.show(answer, func(w io.Writer) error {
					text := "is under a legal hold: nobody can archive or delete it"
					if off {
						text = "is no longer under a legal hold"
					}
					_, err := fmt.Fprintf(w, "checkpoint %s (%s) %s\n", args[0], answer.GetState(), text)
					return err
				})
			})
		}),
	}
	cmd.Flags().BoolVar(&off, "off", false, "lift the hold")
	cmd.Flags().StringVar(&reason, "reason", "", "why, for the record")
	requestFlag(cmd, &request)
	return cmd
}

func (a *app) janitorCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "janitor", Short: "Look after the checkpoint store: findings, drills, directories of old files"}
	cmd.AddCommand(a.findingsCommand(), a.drillCommand(),
		a.offlineCommand("adopt", "adopt [flags] DIR", "Bring a directory of old checkpoint files under a policy; a dry run without --apply"),
		a.offlineCommand("plan", "plan --inventory FILE --now TIME [flags]", "Decide about an inventory file, without any service"),
		a.offlineCommand("pack", "pack -o FILE FILE", "Pack one checkpoint file without loss"),
		a.offlineCommand("unpack", "unpack -o FILE FILE", "Unpack a packed checkpoint file"))
	return cmd
}

func (a *app) findingsCommand() *cobra.Command {
	var limit int32
	cmd := &cobra.Command{
		Use: "findings", Short: "Compare the catalogue with the bucket: orphans, foreign, missing and damaged objects", Args: arguments(cobra.NoArgs),
		RunE: a.with(func(ctx context.Context, s *session, _ []string) error {
			answer, err := s.Janitor.ListFindings(ctx, &janitorv1.ListFindingsRequest{Limit: limit})
			if err != nil {
				return err
			}
			return a.show(answer, func(w io.Writer) error { return writeFindings(w, answer) })
		}),
	}
	cmd.Flags().Int32Var(&limit, "limit", 0, "at most this many (default 500)")
	return cmd
}

func writeFindings(w io.Writer, answer *janitorv1.ListFindingsResponse) error {
	if answer.GetTotalCount() == 0 {
		_, err := fmt.Fprintln(w, "the catalogue and the bucket agree")
		return err
	}
	t := newTable("KIND", "OBJECT", "SIZE", "WHAT", "GOES AFTER").numbers(2)
	for _, f := range answer.GetFindings() {
		due := ""
		if f.GetDueTime() != nil {
			due = f.GetDueTime().AsTime().Format("2006-01-02 15:04")
		}
		t.add(enumText(f.GetKind().String(), "KIND_"), f.GetObjectKey(), bytesText(f.GetSizeBytes()), f.GetDetail(), due)
	}
	if err := t.write(w); err != nil {
		return err
	}
	_, err := fmt.Fprintf(w, "%d of %d findings\n", len(answer.GetFindings()), answer.GetTotalCount())
	return err
}

func (a *app) drillCommand() *cobra.Command {
	var sample int32
	var request string
	cmd := &cobra.Command{
		Use: "drill", Short: "Restore everything in production and a sample of the rest, compare every byte, throw the copies away", Args: arguments(cobra.NoArgs),
		RunE: a.with(func(ctx context.Context, s *session, _ []string) error {
			return s.traced(ctx, "drill", func(ctx context.Context) error {
				answer, err := s.Janitor.RunDrill(ctx, &janitorv1.RunDrillRequest{RequestId: requestID(request), SampleSize: sample})
				if err != nil {
					return err
				}
				if err := a.show(answer, func(w io.Writer) error {
					_, err := fmt.Fprintf(w, "%d checkpoints with %s restored and compared, %d problems\n",
						answer.GetCheckpointCount(), bytesText(answer.GetSizeBytes()), len(answer.GetFailures()))
					for _, f := range answer.GetFailures() {
						if err == nil {
							_, err = fmt.Fprintln(w, f)
						}
					}
					return err
				}); err != nil {
					return err
				}
				if n := len(answer.GetFailures()); n > 0 {
					return fmt.Errorf("the drill has failed: %d contents could not be restored", n)
				}
				return nil
			})
		}),
	}
	cmd.Flags().Int32Var(&sample, "sample", 0, "checkpoints beside those in production (default 5)")
	requestFlag(cmd, &request)
	return cmd
}

// offlineCommand hands a command that needs no mesh to the janitor's own program.
func (a *app) offlineCommand(name, use, short string) *cobra.Command {
	return &cobra.Command{
		Use: use, Short: short, DisableFlagParsing: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			const program = "checkpoint-janitor"
			path := program
			if self, err := os.Executable(); err == nil {
				if beside := filepath.Join(filepath.Dir(self), program); exists(beside) {
					path = beside
				}
			}
			run := exec.CommandContext(cmd.Context(), path, append([]string{name}, args...)...)
			run.Stdin, run.Stdout, run.Stderr = os.Stdin, a.out, a.err
			err := run.Run()
			var exit *exec.ExitError
			switch {
			case errors.Is(err, exec.ErrNotFound):
				return fmt.Errorf("%s is neither beside trainyard nor in PATH; build it with: make build", program)
			case errors.As(err, &exit):
				return exitError{exit.ExitCode()}
			}
			return err
		},
	}
}

// exitError passes a program's exit code on; the program has said what is wrong.
type exitError struct{ code int }

func (e exitError) Error() string {
	return fmt.Sprintf("checkpoint-janitor ended with exit code %d", e.code)
}

func (e exitError) ExitCode() int { return e.code }

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
