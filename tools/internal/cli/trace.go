package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"

	"github.com/spf13/cobra"

	jobv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/job/v1"
	"github.com/ultrathink-pilot/trainyard/tools/internal/tracefile"
)

var traceIDPattern = regexp.MustCompile(`^[0-9a-f]{32}$`)

func (a *app) traceCommand() *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use: "trace JOB | TRACE_ID", Short: "Print a trace as a waterfall, from submit to promotion", Args: arguments(cobra.ExactArgs(1)),
		RunE: a.with(func(ctx context.Context, s *session, args []string) error {
			if s.at.TraceFile == "" {
				return errors.New("this mesh sends its traces elsewhere: look there")
			}
			id := args[0]
			if !traceIDPattern.MatchString(id) {
				job, err := jobID(ctx, s, id)
				if err != nil {
					return err
				}
				answer, err := s.Jobs.GetJob(ctx, &jobv1.GetJobRequest{JobId: job})
				if err != nil {
					return err
				}
				if id = traceID(answer.GetJob().GetTraceparent()); id == "" {
					return fmt.Errorf("job %s has no trace", job)
				}
			}
			spans, err := tracefile.Read(s.at.TraceFile, id)
			if err != nil {
				return err
			}
			if len(spans) == 0 {
				return fmt.Errorf("no spans of trace %s were received (yet)", id)
			}
			if a.output == "json" {
				encoder := json.NewEncoder(a.out)
				encoder.SetIndent("", "  ")
				return encoder.Encode(spans)
			}
			roots := tracefile.Tree(spans)
			if !all {
				roots = tracefile.Collapse(roots)
			}
			return tracefile.Waterfall(a.out, roots)
		}),
	}
	cmd.Flags().BoolVar(&all, "all", false, "also every span of which there are many alike")
	return cmd
}
