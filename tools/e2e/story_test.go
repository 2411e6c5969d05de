//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"math"
	"net/http"
	"slices"
	"strings"
	"testing"

	fleetv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/fleet/v1"
	janitorv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/janitor/v1"
	jobv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/job/v1"
	registryv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/registry/v1"
	"github.com/ultrathink-pilot/trainyard/tools/internal/tracefile"
)

// One job leaves a record at every stage: submit, queue, placement, lease, train, ingest, catalog, promotion, retention; and one
// connected trace joins them.
func TestOneJobLeavesARecordAtEveryStage(t *testing.T) {
	y := start(t)
	ctx := context.Background()
	job := y.submit(ctx, t, specialist(jobv1.Specialist_SPECIALIST_BULL, 12))

	lease := y.lease(ctx, t, job.GetJobId())
	done := y.finish(ctx, t, job.GetJobId())
	if done.GetState() != jobv1.Job_STATE_SUCCEEDED {
		t.Fatalf("job is %v: %s", done.GetState(), done.GetStateReason())
	}
	if len(done.GetAttempts()) != 1 {
		t.Fatalf("attempts: %v, want one", done.GetAttempts())
	}
	attempt := done.GetAttempts()[0]
	if attempt.GetFence() == 0 || attempt.GetFence() != lease.GetFence() || len(attempt.GetDeviceIds()) != 1 {
		t.Errorf("attempt %v does not match the lease that the host held: %v", attempt, lease)
	}
	run := y.metrics(ctx, t, done)
	version := y.promote(ctx, t, "bull_specialist")
	if version.GetRunId() != run.GetRunId() {
		t.Errorf("version %d is of run %s, want %s", version.GetVersion(), version.GetRunId(), run.GetRunId())
	}
	y.digests(ctx, t, version)
	y.mlflow(ctx, t, run, version)
	y.history(ctx, t, version)
	y.retention(ctx, t, version)
	y.sharedTrunk(ctx, t, version)
	y.connectedTrace(t, done.GetTraceparent())
}

// lease waits until a host reports the job's lease.
func (y *yard) lease(ctx context.Context, t *testing.T, id string) *fleetv1.HeldLease {
	t.Helper()
	var found *fleetv1.HeldLease
	eventually(t, "a host holds the lease", func() error {
		answer, err := y.Fleet.ListAgents(ctx, &fleetv1.ListAgentsRequest{})
		if err != nil {
			return err
		}
		for _, agent := range answer.GetAgents() {
			for _, l := range agent.GetLeases() {
				if l.GetJobId() == id {
					found = l
					return nil
				}
			}
		}
		return fmt.Errorf("no lease in %v", answer)
	})
	return found
}

// metrics asserts that every epoch of a job is in the registry once, without a gap.
func (y *yard) metrics(ctx context.Context, t *testing.T, job *jobv1.Job) *registryv1.Run {
	t.Helper()
	var run *registryv1.Run
	eventually(t, "the run is closed", func() error {
		answer, err := y.Runs.GetRun(ctx, &registryv1.GetRunRequest{RunId: job.GetJobId()})
		if err != nil {
			return err
		}
		run = answer.GetRun()
		if run.GetState() != registryv1.Run_STATE_SUCCEEDED {
			return fmt.Errorf("run is %v", run.GetState())
		}
		return nil
	})
	if len(run.GetParams()) == 0 {
		t.Error("the run has no parameters")
	}
	for _, key := range []string{"train/reward", "validation/sharpe"} {
		answer, err := y.Runs.GetMetricHistory(ctx, &registryv1.GetMetricHistoryRequest{RunId: run.GetRunId(), Key: key})
		if err != nil {
			t.Fatalf("history of %s: %v", key, err)
		}
		points := answer.GetMetrics()
		if len(points) < 2 || answer.GetTotalPoints() < int64(len(points)) {
			t.Fatalf("%s has %d points", key, len(points))
		}
		if key == "train/reward" && uint32(len(points)) != job.GetProgress().GetEpoch() {
			t.Errorf("%s: %d points for %d epochs", key, len(points), job.GetProgress().GetEpoch())
		}
		stride := points[1].GetStep() - points[0].GetStep()
		for i := 1; i < len(points); i++ {
			if points[i].GetStep()-points[i-1].GetStep() != stride {
				t.Errorf("%s has a gap or a double: step %d follows %d, the stride is %d", key, points[i].GetStep(), points[i-1].GetStep(), stride)
			}
		}
	}
	return run
}

// promote moves the best version to Production. Its registration follows the job's end within moments.
func (y *yard) promote(ctx context.Context, t *testing.T, model string) *registryv1.ModelVersion {
	t.Helper()
	eventually(t, "a version of "+model, func() error {
		_, err := y.Models.GetModel(ctx, &registryv1.GetModelRequest{ModelName: model})
		return err
	})
	answer, err := y.Models.PromoteModelVersion(ctx, &registryv1.PromoteModelVersionRequest{
		RequestId: newID(), ModelName: model, Stage: registryv1.Stage_STAGE_PRODUCTION, Reason: "end to end",
	})
	if err != nil {
		t.Fatalf("promote %s: %v", model, err)
	}
	if v := answer.GetVersion(); v.GetStage() != registryv1.Stage_STAGE_PRODUCTION || !finite(v.GetMetrics()["validation/sharpe"]) {
		t.Fatalf("promoted %v", v)
	}
	return answer.GetVersion()
}

func finite(v float64) bool { return !math.IsNaN(v) && !math.IsInf(v, 0) }

// digests downloads the production version as the inference service would, and hashes every byte.
func (y *yard) digests(ctx context.Context, t *testing.T, version *registryv1.ModelVersion) {
	t.Helper()
	answer, err := y.Models.ResolveModel(ctx, &registryv1.ResolveModelRequest{
		ModelName: version.GetModelName(), Selector: &registryv1.ResolveModelRequest_Stage{Stage: registryv1.Stage_STAGE_PRODUCTION},
	})
	if err != nil {
		t.Fatal(err)
	}
	if got := answer.GetCheckpoint().GetCheckpointId(); got != version.GetCheckpointId() {
		t.Errorf("production resolves to checkpoint %s, want %s", got, version.GetCheckpointId())
	}
	client, err := y.desc.Store()
	if err != nil {
		t.Fatal(err)
	}
	defer client.CloseIdleConnections()
	stored := map[string][]byte{}
	for _, d := range answer.GetDownloads() {
		req, err := http.NewRequestWithContext(ctx, d.GetMethod(), d.GetUrl(), nil)
		if err != nil {
			t.Fatal(err)
		}
		for k, v := range d.GetHeaders() {
			req.Header.Set(k, v)
		}
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		if cerr := resp.Body.Close(); err != nil || cerr != nil {
			t.Fatal(err, cerr)
		}
		if sum := sha256.Sum256(body); resp.StatusCode != http.StatusOK || int64(len(body)) != d.GetSizeBytes() || !bytes.Equal(sum[:], d.GetSha256()) {
			t.Errorf("download of %v: status %s, %d bytes, want %d with digest %x", d.GetPaths(), resp.Status, len(body), d.GetSizeBytes(), d.GetSha256())
		}
		stored[string(d.GetSha256())] = body
	}
	model := false
	for _, f := range answer.GetCheckpoint().GetFiles() {
		whole := stored[string(f.GetSha256())]
		for _, c := range f.GetChunks() {
			whole = append(whole, stored[string(c.GetSha256())]...)
		}
		if sum := sha256.Sum256(whole); !bytes.Equal(sum[:], f.GetSha256()) {
			t.Errorf("the downloads are not %s", f.GetPath())
		}
		model = model || f.GetPath() == "model.safetensors"
	}
	if !model {
		t.Errorf("the checkpoint has no model.safetensors: %v", answer.GetCheckpoint().GetFiles())
	}
}

// history asserts the chain of a model's events.
func (y *yard) history(ctx context.Context, t *testing.T, version *registryv1.ModelVersion) {
	t.Helper()
	answer, err := y.Models.ListModelHistory(ctx, &registryv1.ListModelHistoryRequest{ModelName: version.GetModelName()})
	if err != nil {
		t.Fatal(err)
	}
	events := answer.GetEvents()
	slices.Reverse(events)
	var actions []string
	var previous []byte
	for i, e := range events {
		actions = append(actions, e.GetAction())
		if e.GetSequence() != int64(i)+1 || !bytes.Equal(e.GetPreviousHash(), previous) || len(e.GetHash()) != sha256.Size {
			t.Errorf("event %d breaks the chain: %v", i+1, e)
		}
		if e.GetActor() == "" || e.GetTime() == nil {
			t.Errorf("event %d does not say who or when: %v", i+1, e)
		}
		previous = e.GetHash()
	}
	if !slices.Equal(actions, []string{"register", "promote"}) {
		t.Errorf("history is %v, want register, promote", actions)
	}
}

// retention asserts that a plan has a reason for every checkpoint and keeps production.
func (y *yard) retention(ctx context.Context, t *testing.T, version *registryv1.ModelVersion) {
	t.Helper()
	answer, err := y.Janitor.PlanSweep(ctx, &janitorv1.PlanSweepRequest{RequestId: newID()})
	if err != nil {
		t.Fatal(err)
	}
	listed, err := y.Runs.ListCheckpoints(ctx, &registryv1.ListCheckpointsRequest{RunId: version.GetRunId()})
	if err != nil {
		t.Fatal(err)
	}
	decided := map[string]*janitorv1.Decision{}
	for _, d := range answer.GetPlan().GetDecisions() {
		decided[d.GetCheckpointId()] = d
	}
	if len(listed.GetCheckpoints()) == 0 {
		t.Fatal("the run has no checkpoints")
	}
	for _, c := range listed.GetCheckpoints() {
		if d := decided[c.GetCheckpointId()]; d == nil || d.GetReason() == "" || len(d.GetRules()) == 0 {
			t.Errorf("the plan does not explain checkpoint %s: %v", c.GetCheckpointId(), d)
		}
	}
	explained, err := y.Janitor.ExplainCheckpoint(ctx, &janitorv1.ExplainCheckpointRequest{CheckpointId: version.GetCheckpointId()})
	if err != nil {
		t.Fatal(err)
	}
	d := explained.GetDecision()
	if d.GetAction() != janitorv1.Action_ACTION_KEEP || !strings.Contains(strings.ToLower(d.GetReason()), "production") {
		t.Errorf("production checkpoint: %v, want kept as production", d)
	}
	swept, err := y.Janitor.ExecuteSweep(ctx, &janitorv1.ExecuteSweepRequest{RequestId: newID(), PlanHash: answer.GetPlan().GetPlanHash(), ConfirmLarge: true})
	if err != nil {
		t.Fatal(err)
	}
	if len(swept.GetRefusals()) > 0 {
		t.Errorf("the registry refused what the plan condemned: %v", swept.GetRefusals())
	}
}

// connectedTrace asserts that one trace joins submit and promotion, and that no span of it lacks its parent.
func (y *yard) connectedTrace(t *testing.T, traceparent string) {
	t.Helper()
	parts := strings.Split(traceparent, "-")
	if len(parts) != 4 {
		t.Fatalf("traceparent %q", traceparent)
	}
	wanted := map[string]string{
		"SubmitJob": "scheduler", "promote_model_version": "registry",
	}
	services := []string{"scheduler", "gpu-agent", "trainer", "registry"}
	eventually(t, "one connected trace from submit to promotion", func() error {
		spans, err := tracefile.Read(y.desc.TraceFile, parts[1])
		if err != nil {
			return err
		}
		seen, from := map[string]bool{}, map[string]bool{}
		for _, s := range spans {
			from[s.Service] = true
			for name := range wanted {
				if strings.Contains(s.Name, name) {
					seen[name] = true
				}
			}
		}
		for name := range wanted {
			if !seen[name] {
				return fmt.Errorf("no span of %s among %d", name, len(spans))
			}
		}
		for _, s := range services {
			if !from[s] {
				return fmt.Errorf("no span of service %s; there are %v", s, from)
			}
		}
		if roots := tracefile.Tree(spans); len(roots) != 1 {
			var names []string
			for _, r := range roots {
				names = append(names, r.Span.Service+" "+r.Span.Name)
			}
			return fmt.Errorf("%d roots: %v", len(roots), names)
		}
		return nil
	})
}
