package mlflowapi

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
)

// What only the interface asks for.
func TestTheInterfacesOwnRoutes(t *testing.T) {
	s := serve(t, "")
	run := s.run()
	s.ok("POST", "runs/log-inputs", `{"run_id":"`+run+`","datasets":[{"dataset":{"name":"prices","digest":"d1","source_type":"x","source":"y"},"tags":[{"key":"mlflow.data.context","value":"training"}]}]}`)
	ajax := "/ajax-api/2.0/mlflow/"
	if got := s.ok("POST", ajax+"experiments/search-datasets", `{"experiment_ids":["0"]}`); strings.TrimSpace(got.body) != `{"dataset_summaries":[{"experiment_id":"0","name":"prices","digest":"d1","context":"training"}]}` {
		t.Errorf("datasets %s", got.body)
	}
	upload := ajax + "upload-artifact?run_uuid=" + run + "&path="
	s.ok("POST", upload+"table%2Fnotes.txt", "some notes")
	if got := s.call("GET", "/get-artifact?run_uuid="+run+"&path=table/notes.txt", ""); got.status != 200 || got.body != "some notes" {
		t.Errorf("uploaded file: %d %q", got.status, got.body)
	}

	var made struct {
		Model struct {
			Info struct {
				ID string `json:"model_id"`
			} `json:"info"`
		} `json:"model"`
	}
	if err := json.Unmarshal([]byte(s.ok("POST", "logged-models", `{"experiment_id":"0","name":"m","source_run_id":"`+run+`"}`).body), &made); err != nil {
		t.Fatal(err)
	}
	id := made.Model.Info.ID
	// The page of a run asks for the models of a list of runs.
	for filter, want := range map[string]int{"source_run_id IN ('" + run + "')": 1, "source_run_id IN ('" + s.run() + "')": 0, "model_id IN ('" + id + "', 'm-x')": 1} {
		got := s.ok("POST", ajax+"logged-models/search", `{"experiment_ids":["0"],"filter":"`+filter+`"}`)
		if n := strings.Count(got.body, `"model_id"`); n != want {
			t.Errorf("%s: %s", filter, got.body)
		}
	}
	if got := s.call("PUT", "/api/2.0/mlflow-artifacts/artifacts/0/models/"+id+"/artifacts/MLmodel", "flavors: {}"); got.status != 200 {
		t.Fatalf("%d %s", got.status, got.body)
	}
	files := ajax + "logged-models/" + id + "/artifacts/files"
	if got := s.call("GET", files+"?artifact_file_path=MLmodel", ""); got.status != 200 || got.body != "flavors: {}" {
		t.Errorf("a logged model's file: %d %q", got.status, got.body)
	}
	for _, c := range []struct {
		method, path, body string
		status             int
	}{
		{"POST", ajax + "experiments/search-datasets", `{}`, 400},
		{"POST", ajax + "experiments/search-datasets", `{"experiment_ids":[` + strings.Repeat(`"1",`, 20) + `"1"]}`, 400},
		{"POST", upload, "x", 400},
		{"POST", upload + "..%2Fx", "x", 400},
		{"POST", upload + "empty", "", 400},
		{"POST", upload + "big", strings.Repeat("x", maxUIUpload+1), 400},
		{"POST", ajax + "upload-artifact?run_uuid=nope&path=x", "x", 404},
		{"GET", files, "", 400},
		{"GET", files + "?artifact_file_path=..%2FMLmodel", "", 400},
		{"GET", files + "?artifact_file_path=none", "", 404},
		{"POST", "/ajax-api/3.0/mlflow/traces/search", `{}`, http.StatusNotFound},
	} {
		if got := s.call(c.method, c.path, c.body); got.status != c.status {
			t.Errorf("%s %s: %d %s", c.method, c.path, got.status, got.body)
		}
	}
}
