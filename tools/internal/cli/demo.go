package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/ultrathink-pilot/trainyard/libs/rpcerr"
	errorv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/error/v1"
	janitorv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/janitor/v1"
	jobv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/job/v1"
	registryv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/registry/v1"
	"github.com/ultrathink-pilot/trainyard/tools/examples"
	"github.com/ultrathink-pilot/trainyard/tools/internal/jobfile"
	"github.com/ultrathink-pilot/trainyard/tools/internal/launch"
	"github.com/ultrathink-pilot/trainyard/tools/internal/mesh"
	"github.com/ultrathink-pilot/trainyard/tools/internal/report"
)

const (
	// registerPatience is how long after a job's end its version and evaluation
	// may take to arrive: the agent sends them after the trainer is gone.
	registerPatience = 60 * time.Second
	registerPoll     = 100 * time.Millisecond
	// evaluationFile is the trainer's artifact with figures and equity curves.
	evaluationFile = "evaluation.json"
	// curvePoints is how much of a metric's history the report draws.
	curvePoints = 600
)

func (a *app) demoCommand() *cobra.Command {
	var f launchFlags
	var page string
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Train three specialists on real market history, promote the best, report, stop",
		Long: "demo starts the mesh (or uses the one that runs), trains the bull, bear and sideways specialists at the same time\n" +
			"on the S&P 500 history, promotes the best version of each, runs one retention sweep and writes a report.\n" +
			"Its state is the directory \"demo\" below the default one, unless --state or TRAINYARD_STATE names another.",
		Args: arguments(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !a.explicit && os.Getenv(mesh.EnvState) == "" {
				a.state = filepath.Join(a.state, "demo")
			}
			o, err := f.options(a.state, a.announce)
			if err != nil {
				return err
			}
			if m, err := mesh.Find(a.state, a.explicit); err == nil {
				if _, err := fmt.Fprintf(a.err, "using the mesh that runs on %s\n", m.State); err != nil {
					return err
				}
				return a.demo(cmd.Context(), m, page)
			}
			if _, err := fmt.Fprintf(a.err, "starting the mesh on %s\n", a.state); err != nil {
				return err
			}
			err = launch.Run(cmd.Context(), o, func(ctx context.Context, m *mesh.Mesh) error { return a.demo(ctx, m, page) })
			if err == nil && cmd.Context().Err() == nil {
				_, err = fmt.Fprintf(a.err, "\nthe mesh is stopped; `trainyard up --state %s` starts it again with everything it knows\n", a.state)
			}
			return err
		},
	}
	// Nothing waits under the development policy, so that one sweep shows the whole
	// way to deleted bytes. For the same reason the demo has a state of its own.
	f.register(cmd, "builtin:development")
	cmd.Flags().StringVar(&page, "report", defaultReport(), "where to write the report")
	return cmd
}

// trained is one specialist's way through the demo.
type trained struct {
	specialist string
	job        *jobv1.Job
	run        *registryv1.Run
	version    *registryv1.ModelVersion
	evaluation *report.Evaluation
	rewards    []report.Point
	sharpes    []report.Point
}

func (a *app) demo(ctx context.Context, m *mesh.Mesh, page string) (err error) {
	s, err := a.connectTo(ctx, m)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close(ctx)) }()
	devices, err := waitForDevices(ctx, s)
	if err != nil {
		return fmt.Errorf("no device was reported: %w", friendly(err))
	}
	begun := time.Now()
	if _, err := fmt.Fprintf(a.out, "\ntraining three specialists at the same time on %s\n\n", devices); err != nil {
		return err
	}
	results, err := a.trainSpecialists(ctx, s)
	if err != nil {
		return friendly(err)
	}
	for _, r := range results {
		if err := a.promoteBest(ctx, s, r); err != nil {
			return fmt.Errorf("%s: %w", r.specialist, friendly(err))
		}
	}
	took := time.Since(begun)
	sweep, err := demoSweep(ctx, s)
	if err != nil {
		return fmt.Errorf("retention sweep: %w", friendly(err))
	}
	for _, r := range results {
		if err := collect(ctx, s, r); err != nil {
			return fmt.Errorf("%s: %w", r.specialist, friendly(err))
		}
	}
	if err := writeReport(page, devices, took, results, sweep); err != nil {
		return err
	}
	return a.closing(results, sweep, took, page)
}

// trainSpecialists submits the three jobs and follows them to their end.
func (a *app) trainSpecialists(ctx context.Context, s *session) ([]*trained, error) {
	var candidates []candidate
	for _, name := range examples.Specialists {
		data, err := examples.Files.ReadFile(name + ".yaml")
		if err != nil {
			return nil, err
		}
		file, problems := jobfile.Parse(data)
		if problems != nil {
			return nil, &problemsError{files: []fileProblems{{name + ".yaml", problems}}}
		}
		candidates = append(candidates, candidate{name + ".yaml", file})
	}
	if _, err := a.checkAll(ctx, s, candidates); err != nil {
		return nil, err
	}
	var results []*trained
	for i, c := range candidates {
		job, err := submitOne(ctx, s, c.Spec, newRequestID())
		if err != nil {
			return nil, fmt.Errorf("%s: %w", c.name, err)
		}
		results = append(results, &trained{specialist: examples.Specialists[i], job: job})
	}
	watched := make([]string, len(results))
	for i, r := range results {
		watched[i] = r.job.GetJobId()
	}
	jobs, err := a.follow(ctx, s, watched)
	if err != nil {
		return nil, err
	}
	var failed []string
	for i, j := range jobs {
		results[i].job = j
		if j.GetState() != jobv1.Job_STATE_SUCCEEDED {
			failed = append(failed, fmt.Sprintf("%s is %s: %s", j.GetSpec().GetDisplayName(), stateText(j), j.GetStateReason()))
		}
	}
	if len(failed) > 0 {
		return nil, fmt.Errorf("%w:\n  %s", errJobsFailed, strings.Join(failed, "\n  "))
	}
	return results, nil
}

// promoteBest waits for the version that the job's success registers, then moves
// the model's best version to Production.
func (a *app) promoteBest(ctx context.Context, s *session, r *trained) error {
	model := r.job.GetSpec().GetModelName()
	if err := waitForVersion(ctx, s, model, r.job.GetJobId()); err != nil {
		return err
	}
	return s.traced(ctx, "promote", func(ctx context.Context) error {
		answer, err := s.Models.PromoteModelVersion(ctx, &registryv1.PromoteModelVersionRequest{
			RequestId: newRequestID(), ModelName: model, Stage: registryv1.Stage_STAGE_PRODUCTION, Reason: "demo: best validation Sharpe",
		})
		if err != nil {
			return err
		}
		r.version = answer.GetVersion()
		return nil
	})
}

// poll calls check until it is done, fails, or patience ends.
func poll(ctx context.Context, waitingFor string, check func(ctx context.Context) (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, registerPatience)
	defer cancel()
	for {
		done, err := check(ctx)
		if done || err != nil && ctx.Err() == nil {
			return err
		}
		select {
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.DeadlineExceeded) {
				return fmt.Errorf("%s did not come within %s", waitingFor, registerPatience)
			}
			return context.Cause(ctx)
		case <-time.After(registerPoll):
		}
	}
}

func waitForVersion(ctx context.Context, s *session, model, run string) error {
	return poll(ctx, "the registration of "+model, func(ctx context.Context) (bool, error) {
		answer, err := s.Models.GetModel(ctx, &registryv1.GetModelRequest{ModelName: model})
		if rpcerr.ReasonOf(err) == errorv1.Reason_REASON_RESOURCE_NOT_FOUND {
			return false, nil
		}
		for _, v := range answer.GetModel().GetVersions() {
			if v.GetRunId() == run {
				return true, nil
			}
		}
		return false, err
	})
}

func demoSweep(ctx context.Context, s *session) (*janitorv1.ExecuteSweepResponse, error) {
	var answer *janitorv1.ExecuteSweepResponse
	err := s.traced(ctx, "sweep", func(ctx context.Context) (err error) {
		// A few small runs: what the policy drops of them may well be most of the store.
		answer, err = s.Janitor.ExecuteSweep(ctx, &janitorv1.ExecuteSweepRequest{RequestId: newRequestID(), ConfirmLarge: true})
		return err
	})
	return answer, err
}

// collect reads what the registry has of the promoted version's run. That may be
// an earlier run than this demo's: the best of all versions was promoted.
func collect(ctx context.Context, s *session, r *trained) error {
	id := r.version.GetRunId()
	answer, err := s.Runs.GetRun(ctx, &registryv1.GetRunRequest{RunId: id})
	if err != nil {
		return err
	}
	r.run = answer.GetRun()
	if r.rewards, err = history(ctx, s, id, "train/reward"); err != nil {
		return err
	}
	if r.sharpes, err = history(ctx, s, id, "validation/sharpe"); err != nil {
		return err
	}
	data, err := download(ctx, s, id, evaluationFile)
	if rpcerr.ReasonOf(err) == errorv1.Reason_REASON_RESOURCE_NOT_FOUND {
		return nil
	}
	if err != nil {
		return err
	}
	r.evaluation, err = report.ParseEvaluation(data)
	return err
}

func history(ctx context.Context, s *session, run, metric string) ([]report.Point, error) {
	answer, err := s.Runs.GetMetricHistory(ctx, &registryv1.GetMetricHistoryRequest{RunId: run, Key: metric, MaxPoints: curvePoints})
	if rpcerr.ReasonOf(err) == errorv1.Reason_REASON_RESOURCE_NOT_FOUND {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var out []report.Point
	for _, m := range answer.GetMetrics() {
		out = append(out, report.Point{X: float64(m.GetStep()), Y: m.GetValue()})
	}
	return out, nil
}

func download(ctx context.Context, s *session, run, path string) ([]byte, error) {
	stream, err := s.Runs.DownloadArtifact(ctx, &registryv1.DownloadArtifactRequest{RunId: run, Path: path})
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	for {
		piece, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return b.Bytes(), nil
		}
		if err != nil {
			return nil, err
		}
		b.Write(piece.GetChunk())
	}
}

func writeReport(path, devices string, took time.Duration, results []*trained, sweep *janitorv1.ExecuteSweepResponse) error {
	session := &report.Session{Time: time.Now(), Mesh: devices, Took: took, Sweep: sweepLine(sweep)}
	for _, r := range results {
		run := report.Run{
			Specialist: r.specialist, Job: r.version.GetRunId(), Trace: traceID(r.version.GetTraceparent()), Model: r.version.GetModelName(),
			Version: r.version.GetVersion(), Stage: stageText(r.version.GetStage()), Checkpoint: r.version.GetCheckpointId(),
			Epochs: r.job.GetProgress().GetEpoch(), Took: r.job.GetEndTime().AsTime().Sub(r.job.GetStartTime().AsTime()),
			Evaluation: r.evaluation, Reward: r.rewards, Sharpe: r.sharpes,
		}
		session.Runs = append(session.Runs, run)
	}
	for _, d := range sweep.GetPlan().GetDecisions() {
		session.Decisions = append(session.Decisions, report.Decision{
			Action: enumText(d.GetAction().String(), "ACTION_"), Checkpoint: d.GetCheckpointId(), Experiment: d.GetExperiment(),
			Reason: d.GetReason(), Step: d.GetStep(),
		})
	}
	var b bytes.Buffer
	if err := report.Write(&b, session); err != nil {
		return fmt.Errorf("report: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("report: %w", err)
	}
	if err := os.WriteFile(path, b.Bytes(), 0o644); err != nil {
		return fmt.Errorf("report: %w", err)
	}
	return nil
}

// closing prints the table that the demo ends with.
func (a *app) closing(results []*trained, sweep *janitorv1.ExecuteSweepResponse, took time.Duration, page string) error {
	var b strings.Builder
	fmt.Fprintf(&b, "\nin Production after %.1f s\n\n", took.Seconds())
	t := newTable("SPECIALIST", "EPOCHS", "VAL SHARPE", "BUY&HOLD", "UNTRAINED", "RETURN", "DRAWDOWN", "TEST SHARPE", "BUY&HOLD", "TEST RETURN", "MODEL").
		numbers(1, 2, 3, 4, 5, 6, 7, 8, 9)
	for _, r := range results {
		model := fmt.Sprintf("%s v%d (%s)", r.version.GetModelName(), r.version.GetVersion(), stageText(r.version.GetStage()))
		epochs := fmt.Sprint(r.job.GetProgress().GetEpoch())
		if e := r.evaluation; e != nil {
			v, held := e.Validation, e.Test
			t.add(r.specialist, epochs, numberText(v.Strategy.Sharpe, "%.2f"), numberText(v.BuyAndHold.Sharpe, "%.2f"), numberText(v.Untrained.Mean, "%.2f"),
				percentText(v.Strategy.TotalReturn), numberText(-100*math.Abs(v.Strategy.MaxDrawdown), "%.1f %%"),
				numberText(held.Strategy.Sharpe, "%.2f"), numberText(held.BuyAndHold.Sharpe, "%.2f"), percentText(held.Strategy.TotalReturn), model)
			continue
		}
		m := r.version.GetMetrics()
		t.add(r.specialist, epochs, metricText(m, "validation/sharpe", "%.2f"), metricText(m, "validation/buy_and_hold_sharpe", "%.2f"), "–",
			metricPercent(m, "validation/total_return"), metricPercent(m, "validation/max_drawdown"),
			metricText(m, "test/sharpe", "%.2f"), metricText(m, "test/buy_and_hold_sharpe", "%.2f"), metricPercent(m, "test/total_return"), model)
	}
	if err := t.write(&b); err != nil {
		return err
	}
	b.WriteString("\nValidation chose the best epoch, so its figures flatter. The test part chose nothing in this run: it is what to expect.\n\n")
	ids := newTable("SPECIALIST", "JOB", "CHECKPOINT", "TRACE")
	for _, r := range results {
		ids.add(r.specialist, r.version.GetRunId(), r.version.GetCheckpointId(), orDash(traceID(r.version.GetTraceparent())))
	}
	if err := ids.write(&b); err != nil {
		return err
	}
	fmt.Fprintf(&b, "\nretention  %s\nreport     %s\n", sweepLine(sweep), page)
	_, err := io.WriteString(a.out, b.String())
	return err
}
