//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	jobv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/job/v1"
	registryv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/registry/v1"
)

// asClient makes this test's own program a job: a training script that knows MLflow and nothing of Trainyard.
const asClient = "E2E_AS_MLFLOW_CLIENT"

func TestMain(m *testing.M) {
	if os.Getenv(asClient) == "" {
		os.Exit(m.Run())
	}
	if err := logToMLflow(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// logToMLflow does what MLflow's client does with its environment: log-metric for the run that it is told to continue.
func logToMLflow() error {
	body, err := json.Marshal(map[string]any{
		"run_id": os.Getenv("MLFLOW_RUN_ID"), "key": "script/loss", "value": 0.5, "timestamp": time.Now().UnixMilli(), "step": 3,
	})
	if err != nil {
		return err
	}
	request, err := http.NewRequest(http.MethodPost, os.Getenv("MLFLOW_TRACKING_URI")+"/api/2.0/mlflow/runs/log-metric", bytes.NewReader(body))
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("Authorization", "Bearer "+os.Getenv("MLFLOW_TRACKING_TOKEN"))
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	answer, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("log-metric: %s: %s", response.Status, answer)
	}
	return errors.Join(err, response.Body.Close())
}

// A script that logs through MLflow's client alone lands in the job's own run: the host's proxy adds who it is and under which fence.
func TestAScriptThatKnowsOnlyMLflowLogsToItsRun(t *testing.T) {
	y := start(t)
	ctx := context.Background()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	spec := specialist(jobv1.Specialist_SPECIALIST_BULL, 1)
	spec.DisplayName, spec.Experiment, spec.ModelName = "mlflow-script", "scripts/mlflow", ""
	spec.Runtime = &jobv1.JobSpec_Command{Command: &jobv1.CommandSpec{Argv: []string{self}, Env: map[string]string{asClient: "1"}}}
	job := y.submit(ctx, t, spec)
	done := y.finish(ctx, t, job.GetJobId())
	if done.GetState() != jobv1.Job_STATE_SUCCEEDED {
		t.Fatalf("job is %v: %s", done.GetState(), done.GetStateReason())
	}
	eventually(t, "the script's metric is in its run", func() error {
		answer, err := y.Runs.GetMetricHistory(ctx, &registryv1.GetMetricHistoryRequest{RunId: job.GetJobId(), Key: "script/loss"})
		if err != nil {
			return err
		}
		if points := answer.GetMetrics(); len(points) != 1 || points[0].GetValue() != 0.5 || points[0].GetStep() != 3 {
			return fmt.Errorf("points: %v", points)
		}
		return nil
	})
}

// mlflow asserts that an MLflow client finds the run with its metrics and the model's Production version: the same facts as over
// gRPC, from the same tables.
func (y *yard) mlflow(ctx context.Context, t *testing.T, run *registryv1.Run, version *registryv1.ModelVersion) {
	t.Helper()
	var found struct {
		Run struct {
			Info struct {
				Status string `json:"status"`
			} `json:"info"`
			Data struct {
				Metrics []struct {
					Key string `json:"key"`
				} `json:"metrics"`
			} `json:"data"`
		} `json:"run"`
	}
	id := strings.ReplaceAll(run.GetRunId(), "-", "")
	y.mlflowGet(ctx, t, "runs/get", url.Values{"run_id": {id}}, &found)
	if found.Run.Info.Status != "FINISHED" || len(found.Run.Data.Metrics) == 0 {
		t.Errorf("MLflow's view of run %s: %+v", id, found)
	}
	var latest struct {
		Versions []struct {
			Version string `json:"version"`
			Stage   string `json:"current_stage"`
		} `json:"model_versions"`
	}
	y.mlflowGet(ctx, t, "registered-models/get-latest-versions", url.Values{"name": {version.GetModelName()}, "stages": {"Production"}}, &latest)
	if len(latest.Versions) != 1 || latest.Versions[0].Version != strconv.FormatInt(version.GetVersion(), 10) {
		t.Errorf("MLflow's Production of %s: %+v, want version %d alone", version.GetModelName(), latest, version.GetVersion())
	}
}

func (y *yard) mlflowGet(ctx context.Context, t *testing.T, route string, query url.Values, into any) {
	t.Helper()
	address := fmt.Sprintf("%s/api/2.0/mlflow/%s?%s", y.desc.MLflow, route, query.Encode())
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := response.Body.Close(); err != nil {
			t.Error(err)
		}
	}()
	if response.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s", address, response.Status)
	}
	if err := json.NewDecoder(response.Body).Decode(into); err != nil {
		t.Fatalf("%s: %v", address, err)
	}
}
