//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"testing"

	registryv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/registry/v1"
)

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
