package cli

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	fleetv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/fleet/v1"
	janitorv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/janitor/v1"
	jobv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/job/v1"
	registryv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/registry/v1"
	trainv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/train/v1"
)

const pageSize = 1000

// newRequestID makes a change idempotent: the client repeats it with the same id.
func newRequestID() string { return uuid.NewString() }

// allJobs returns jobs, newest first, at most limit (0 means all).
func allJobs(ctx context.Context, s *session, request *jobv1.ListJobsRequest, limit int) ([]*jobv1.Job, error) {
	var out []*jobv1.Job
	request.PageSize = pageSize
	if limit > 0 {
		request.PageSize = int32(min(limit, pageSize))
	}
	for {
		page, err := s.Jobs.ListJobs(ctx, request)
		if err != nil {
			return nil, err
		}
		out = append(out, page.GetJobs()...)
		if page.GetNextPageToken() == "" || limit > 0 && len(out) >= limit {
			return out, nil
		}
		request.PageToken = page.GetNextPageToken()
	}
}

// jobID resolves what a person typed: an id, an unambiguous part of one, or a
// name, of which the newest job counts.
func jobID(ctx context.Context, s *session, ref string) (string, error) {
	if id, err := uuid.Parse(ref); err == nil {
		return id.String(), nil
	}
	jobs, err := allJobs(ctx, s, &jobv1.ListJobsRequest{}, 0)
	if err != nil {
		return "", err
	}
	var found []string
	for _, j := range jobs {
		if j.GetSpec().GetDisplayName() == ref {
			return j.GetJobId(), nil
		}
		if strings.HasPrefix(j.GetJobId(), ref) || strings.HasSuffix(j.GetJobId(), ref) {
			found = append(found, j.GetJobId())
		}
	}
	switch len(found) {
	case 0:
		return "", fmt.Errorf("there is no job %q: `trainyard jobs` lists them", ref)
	case 1:
		return found[0], nil
	default:
		return "", fmt.Errorf("%q could be %s", ref, strings.Join(found, " or "))
	}
}

func stateText(j *jobv1.Job) string {
	if j.GetPoison() {
		return "poison"
	}
	return enumText(j.GetState().String(), "STATE_")
}

func final(state jobv1.Job_State) bool {
	return state == jobv1.Job_STATE_SUCCEEDED || state == jobv1.Job_STATE_FAILED || state == jobv1.Job_STATE_CANCELLED
}

func (a *app) jobsCommand() *cobra.Command {
	var states []string
	var experiment, array, graph, tenant string
	var limit int
	cmd := &cobra.Command{
		Use: "jobs", Short: "List jobs, newest first", Args: arguments(cobra.NoArgs),
		RunE: a.with(func(ctx context.Context, s *session, _ []string) error {
			request := &jobv1.ListJobsRequest{ExperimentPrefix: experiment, ArrayId: array, GraphId: graph, Tenant: tenant}
			for _, name := range states {
				value, ok := jobv1.Job_State_value["STATE_"+strings.ToUpper(name)]
				if !ok || value == 0 {
					return usageError{fmt.Errorf("--job-state %q is none of queued, starting, running, stopping, paused, succeeded, failed, cancelled", name)}
				}
				request.States = append(request.States, jobv1.Job_State(value))
			}
			jobs, err := allJobs(ctx, s, request, limit)
			if err != nil {
				return err
			}
			return a.show(&jobv1.ListJobsResponse{Jobs: jobs}, func(w io.Writer) error {
				t := newTable("JOB", "NAME", "STATE", "EPOCH", "OBJECTIVE", "STEPS/S", "AGE", "REASON").numbers(3, 4, 5, 6)
				for _, j := range jobs {
					p := j.GetProgress()
					t.add(j.GetJobId(), j.GetSpec().GetDisplayName(), stateText(j), epochText(p), objectiveText(p),
						speedText(p), ageText(j.GetCreateTime(), time.Now()), j.GetStateReason())
				}
				return t.write(w)
			})
		}),
	}
	cmd.Flags().StringSliceVar(&states, "job-state", nil, "only jobs in these states")
	cmd.Flags().StringVar(&experiment, "experiment", "", "only experiments that begin so")
	cmd.Flags().StringVar(&array, "array", "", "only the elements of this array")
	cmd.Flags().StringVar(&graph, "graph", "", "only the nodes of this graph")
	cmd.Flags().StringVar(&tenant, "tenant", "", "only this tenant's")
	cmd.Flags().IntVar(&limit, "limit", 50, "at most so many; 0 means all")
	return cmd
}

func (a *app) jobCommand() *cobra.Command {
	var history bool
	cmd := &cobra.Command{
		Use: "job JOB", Short: "Show a job with its attempts, or with --history all that was decided on it",
		Long: "With --history job shows all that was decided on a job, oldest first. It finds jobs by their whole id that have left the database\n" +
			"for the archive (the scheduler's --history-archive).",
		Args: arguments(cobra.ExactArgs(1)),
		RunE: a.with(func(ctx context.Context, s *session, args []string) error {
			id, err := jobID(ctx, s, args[0])
			if err != nil {
				return err
			}
			if history {
				return a.jobHistory(ctx, s, id)
			}
			answer, err := s.Jobs.GetJob(ctx, &jobv1.GetJobRequest{JobId: id})
			if err != nil {
				return err
			}
			return a.show(answer, func(w io.Writer) error { return writeJob(w, answer.GetJob()) })
		}),
	}
	cmd.Flags().BoolVar(&history, "history", false, "all that was decided on the job, archived or not")
	return cmd
}

func (a *app) jobHistory(ctx context.Context, s *session, id string) error {
	answer, err := s.Jobs.GetJobHistory(ctx, &jobv1.GetJobHistoryRequest{JobId: id})
	if err != nil {
		return err
	}
	return a.show(answer, func(w io.Writer) error {
		if err := writeJob(w, answer.GetHistory().GetJob()); err != nil {
			return err
		}
		if _, err := fmt.Fprintln(w); err != nil {
			return err
		}
		t := newTable("TIME", "DECISION", "ATTEMPT", "WHY").numbers(2)
		for _, d := range answer.GetHistory().GetDecisions() {
			attempt := "–"
			if n := d.GetAttempt(); n > 0 {
				attempt = strconv.Itoa(int(n))
			}
			t.add(timeText(d.GetTime()), d.GetAction(), attempt, d.GetReason())
		}
		if err := t.write(w); err != nil || answer.GetArchiveFile() == "" {
			return err
		}
		_, err := fmt.Fprintf(w, "read from the archive: %s\n", answer.GetArchiveFile())
		return err
	})
}

func writeJob(w io.Writer, j *jobv1.Job) error {
	p := j.GetProgress()
	t := newTable("JOB", j.GetJobId())
	t.add("name", j.GetSpec().GetDisplayName())
	t.add("experiment", j.GetSpec().GetExperiment())
	t.add("state", stateText(j))
	t.add("reason", orDash(j.GetStateReason()))
	t.add("priority", enumText(j.GetSpec().GetPriorityClass().String(), "PRIORITY_CLASS_"))
	addLife(t, j)
	t.add("submitter", j.GetSubmitter())
	t.add("submitted", timeText(j.GetCreateTime()))
	t.add("started", timeText(j.GetStartTime()))
	t.add("ended", timeText(j.GetEndTime()))
	t.add("epoch", epochText(p))
	t.add("objective", objectiveText(p))
	t.add("checkpoint", orDash(p.GetCheckpointId()))
	t.add("trace", orDash(traceID(j.GetTraceparent())))
	if err := t.write(w); err != nil || len(j.GetAttempts()) == 0 {
		return err
	}
	if _, err := fmt.Fprintln(w); err != nil {
		return err
	}
	attempts := newTable("ATTEMPT", "FENCE", "STATE", "AGENT", "DEVICES", "ISOLATION", "STARTED", "RAN", "ENDED AS").numbers(0, 1)
	for _, at := range j.GetAttempts() {
		ran := "–"
		if at.GetStartTime() != nil {
			end := time.Now()
			if at.GetEndTime() != nil {
				end = at.GetEndTime().AsTime()
			}
			ran = spanText(end.Sub(at.GetStartTime().AsTime()))
		}
		ended := ""
		if at.GetFailureClass() != 0 {
			ended = enumText(at.GetFailureClass().String(), "FAILURE_CLASS_")
			if m := at.GetEvidence().GetMessage(); m != "" {
				ended += ": " + m
			}
		}
		attempts.add(fmt.Sprint(at.GetAttempt()), fmt.Sprint(at.GetFence()), enumText(at.GetState().String(), "STATE_"), at.GetAgentName(),
			strings.Join(at.GetDeviceIds(), ","), orDash(at.GetIsolation()), timeText(at.GetStartTime()), ran, ended)
	}
	if err := attempts.write(w); err != nil {
		return err
	}
	for _, at := range j.GetAttempts() {
		for _, p := range at.GetEvidence().GetProblems() {
			if _, err := fmt.Fprintf(w, "attempt %d: %s\n", at.GetAttempt(), p); err != nil {
				return err
			}
		}
	}
	return nil
}

// traceID is the trace of a W3C traceparent, "" when it has none.
func traceID(traceparent string) string {
	parts := strings.Split(traceparent, "-")
	if len(parts) != 4 || len(parts[1]) != 32 {
		return ""
	}
	return parts[1]
}

func (a *app) cancelCommand() *cobra.Command {
	var reason, request string
	cmd := &cobra.Command{
		Use: "cancel JOB", Short: "Stop a job with a last checkpoint and end it", Args: arguments(cobra.ExactArgs(1)),
		RunE: a.with(func(ctx context.Context, s *session, args []string) error {
			return a.changeJob(ctx, s, "cancel", args[0], func(ctx context.Context, id string) (*jobv1.Job, error) {
				answer, err := s.Jobs.CancelJob(ctx, &jobv1.CancelJobRequest{RequestId: requestID(request), JobId: id, Reason: reason})
				return answer.GetJob(), err
			})
		}),
	}
	cmd.Flags().StringVar(&reason, "reason", "", "why, for the record")
	requestFlag(cmd, &request)
	return cmd
}

func (a *app) pauseCommand() *cobra.Command {
	var reason, request string
	cmd := &cobra.Command{
		Use: "pause JOB", Short: "Checkpoint a job and release its devices until it is resumed", Args: arguments(cobra.ExactArgs(1)),
		RunE: a.with(func(ctx context.Context, s *session, args []string) error {
			return a.changeJob(ctx, s, "pause", args[0], func(ctx context.Context, id string) (*jobv1.Job, error) {
				answer, err := s.Jobs.PauseJob(ctx, &jobv1.PauseJobRequest{RequestId: requestID(request), JobId: id, Reason: reason})
				return answer.GetJob(), err
			})
		}),
	}
	cmd.Flags().StringVar(&reason, "reason", "", "why, for the record")
	requestFlag(cmd, &request)
	return cmd
}

func (a *app) resumeCommand() *cobra.Command {
	var request string
	cmd := &cobra.Command{
		Use: "resume JOB", Short: "Queue a paused job again at its old place in line", Args: arguments(cobra.ExactArgs(1)),
		RunE: a.with(func(ctx context.Context, s *session, args []string) error {
			return a.changeJob(ctx, s, "resume", args[0], func(ctx context.Context, id string) (*jobv1.Job, error) {
				answer, err := s.Jobs.ResumeJob(ctx, &jobv1.ResumeJobRequest{RequestId: requestID(request), JobId: id})
				return answer.GetJob(), err
			})
		}),
	}
	requestFlag(cmd, &request)
	return cmd
}

func requestFlag(cmd *cobra.Command, into *string) {
	cmd.Flags().StringVar(into, "request-id", "", "UUID that makes the call idempotent (default: a new one)")
}

func requestID(given string) string {
	if given != "" {
		return given
	}
	return newRequestID()
}

func (a *app) changeJob(ctx context.Context, s *session, verb, ref string, change func(ctx context.Context, id string) (*jobv1.Job, error)) error {
	id, err := jobID(ctx, s, ref)
	if err != nil {
		return err
	}
	return s.traced(ctx, verb, func(ctx context.Context) error {
		job, err := change(ctx, id)
		if err != nil {
			return err
		}
		return a.show(job, func(w io.Writer) error {
			_, err := fmt.Fprintf(w, "%s  %s  %s\n", job.GetJobId(), stateText(job), job.GetStateReason())
			return err
		})
	})
}

func (a *app) explainCommand() *cobra.Command {
	var placement bool
	var attempt uint32
	cmd := &cobra.Command{
		Use: "explain JOB | explain checkpoint ID", Short: "Say why a job is where it is, or what becomes of a checkpoint",
		Args: arguments(cobra.RangeArgs(1, 2)),
		RunE: a.with(func(ctx context.Context, s *session, args []string) error {
			if args[0] == "checkpoint" && len(args) == 2 {
				return a.explainCheckpoint(ctx, s, args[1])
			}
			if args[0] == "job" && len(args) == 2 {
				args = args[1:]
			}
			if len(args) != 1 {
				return usageError{fmt.Errorf("explain JOB, or explain checkpoint ID")}
			}
			if placement {
				return a.explainPlacement(ctx, s, args[0], attempt)
			}
			return a.explainJob(ctx, s, args[0])
		}),
	}
	cmd.Flags().BoolVar(&placement, "placement", false, "say why it runs where it runs, host by host")
	cmd.Flags().Uint32Var(&attempt, "attempt", 0, "with --placement: which attempt; 0 means the newest")
	return cmd
}

func (a *app) explainJob(ctx context.Context, s *session, ref string) error {
	id, err := jobID(ctx, s, ref)
	if err != nil {
		return err
	}
	answer, err := s.Jobs.ExplainJob(ctx, &jobv1.ExplainJobRequest{JobId: id})
	if err != nil {
		return err
	}
	return a.show(answer, func(w io.Writer) error {
		var b strings.Builder
		fmt.Fprintf(&b, "%s (%s) is %s: %s\n", answer.GetJob().GetSpec().GetDisplayName(), id, stateText(answer.GetJob()), answer.GetSummary())
		if n := answer.GetAheadCount(); n > 0 {
			fmt.Fprintf(&b, "%d jobs are ahead of it, first %s\n", n, answer.GetAheadJobIds()[0])
		}
		if answer.GetEstimatedWait() != nil {
			fmt.Fprintf(&b, "expected wait: %s\n", spanText(answer.GetEstimatedWait().AsDuration()))
		}
		if _, err := io.WriteString(w, b.String()); err != nil {
			return err
		}
		if len(answer.GetHosts()) > 0 {
			t := newTable("AGENT", "FITS NOW", "WHY NOT")
			for _, h := range answer.GetHosts() {
				fits := "no"
				if h.GetFits() {
					fits = "yes"
				}
				t.add(h.GetAgentName(), fits, h.GetReason())
			}
			if err := t.write(w); err != nil {
				return err
			}
		}
		if len(answer.GetDecisions()) == 0 {
			return nil
		}
		t := newTable("WHEN", "DECISION", "ATTEMPT", "WHY").numbers(2)
		for _, d := range answer.GetDecisions() {
			t.add(timeText(d.GetTime()), d.GetAction(), fmt.Sprint(d.GetAttempt()), d.GetReason())
		}
		return t.write(w)
	})
}

func (a *app) explainCheckpoint(ctx context.Context, s *session, id string) error {
	answer, err := s.Janitor.ExplainCheckpoint(ctx, &janitorv1.ExplainCheckpointRequest{CheckpointId: id})
	if err != nil {
		return err
	}
	return a.show(answer, func(w io.Writer) error {
		d := answer.GetDecision()
		_, err := fmt.Fprintf(w, "%s is %s; a sweep now would %s it: %s\n", id, strings.ToLower(answer.GetState()),
			enumText(d.GetAction().String(), "ACTION_"), d.GetReason())
		return err
	})
}

func (a *app) agentsCommand() *cobra.Command {
	return &cobra.Command{
		Use: "agents", Short: "List hosts with their devices and reservations", Args: arguments(cobra.NoArgs),
		RunE: a.with(func(ctx context.Context, s *session, _ []string) error {
			answer, err := s.Fleet.ListAgents(ctx, &fleetv1.ListAgentsRequest{})
			if err != nil {
				return err
			}
			return a.show(answer, func(w io.Writer) error { return writeAgents(w, answer.GetAgents()) })
		}),
	}
}

func (a *app) logsCommand() *cobra.Command {
	var follow bool
	var attempt uint32
	var tail int64
	cmd := &cobra.Command{
		Use: "logs JOB", Short: "Print what a job's trainer wrote", Args: arguments(cobra.ExactArgs(1)),
		RunE: a.with(func(ctx context.Context, s *session, args []string) error {
			id, err := jobID(ctx, s, args[0])
			if err != nil {
				return err
			}
			address, err := agentAddress(ctx, s, id, attempt)
			if err != nil {
				return err
			}
			logs, err := s.Logs(address)
			if err != nil {
				return err
			}
			stream, err := logs.FollowLogs(ctx, &trainv1.FollowLogsRequest{JobId: id, Attempt: attempt, Follow: follow, TailBytes: tail})
			if err != nil {
				return err
			}
			for {
				piece, err := stream.Recv()
				if err == io.EOF {
					return nil
				}
				if err != nil {
					return err
				}
				if piece.GetTruncated() {
					if _, err := fmt.Fprintln(a.err, "(older output was rotated away)"); err != nil {
						return err
					}
				}
				if _, err := a.out.Write(piece.GetData()); err != nil {
					return err
				}
			}
		}),
	}
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on while the job runs")
	cmd.Flags().Uint32Var(&attempt, "attempt", 0, "which attempt; 0 means the newest")
	cmd.Flags().Int64Var(&tail, "tail-bytes", 0, "only so many bytes from the end; 0 means all")
	return cmd
}

// agentAddress finds the host of a job's attempt.
func agentAddress(ctx context.Context, s *session, id string, attempt uint32) (string, error) {
	answer, err := s.Jobs.GetJob(ctx, &jobv1.GetJobRequest{JobId: id})
	if err != nil {
		return "", err
	}
	name := ""
	for _, at := range answer.GetJob().GetAttempts() {
		if attempt == 0 || at.GetAttempt() == attempt {
			name = at.GetAgentName()
		}
	}
	if name == "" {
		return "", fmt.Errorf("%s has no such attempt: it is %s", id, stateText(answer.GetJob()))
	}
	agents, err := s.Fleet.ListAgents(ctx, &fleetv1.ListAgentsRequest{})
	if err != nil {
		return "", err
	}
	for _, agent := range agents.GetAgents() {
		if agent.GetAgentName() == name && agent.GetAddress() != "" {
			return agent.GetAddress(), nil
		}
	}
	return "", fmt.Errorf("host %s, which ran %s, serves no logs", name, id)
}

// runID resolves a job to its run: they have the same id.
func runID(ctx context.Context, s *session, ref string) (string, error) {
	if id, err := uuid.Parse(ref); err == nil {
		return id.String(), nil
	}
	return jobID(ctx, s, ref)
}

func latest(run *registryv1.Run) map[string]float64 {
	out := map[string]float64{}
	for _, m := range run.GetLatestMetrics() {
		out[m.GetKey()] = m.GetValue()
	}
	return out
}
