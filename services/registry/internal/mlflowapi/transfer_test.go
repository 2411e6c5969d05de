package mlflowapi

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"go.uber.org/zap"

	"github.com/ultrathink-pilot/trainyard/libs/identity"
	"github.com/ultrathink-pilot/trainyard/libs/objectstore/s3test"
	"github.com/ultrathink-pilot/trainyard/libs/pg/pgtest"
	"github.com/ultrathink-pilot/trainyard/services/registry/internal/catalog"
	"github.com/ultrathink-pilot/trainyard/services/registry/internal/postgres"
)

// stranger speaks TLS to whoever answers; the test's S3 server has a certificate of its own.
var stranger = &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}

func TestRangesOfAnArtifact(t *testing.T) {
	s := serve(t, "")
	run := s.run()
	path := "/api/2.0/mlflow-artifacts/artifacts/0/" + run + "/artifacts/data.bin"
	if got := s.call("PUT", path, "0123456789"); got.status != http.StatusOK {
		t.Fatalf("%d %s", got.status, got.body)
	}
	for ask, want := range map[string]string{"bytes=2-4": "234", "bytes=7-": "789", "bytes=-2": "89", "bytes=0-99": "0123456789"} {
		if got := s.call("GET", path, "", "Range", ask); got.status != http.StatusPartialContent || got.body != want {
			t.Errorf("%s: %d %q", ask, got.status, got.body)
		}
	}
	if got := s.call("GET", path, "", "Range", "bytes=10-"); got.status != http.StatusRequestedRangeNotSatisfiable {
		t.Errorf("beyond the end: %d %q", got.status, got.body)
	}
	if got := s.call("HEAD", path, ""); got.status != http.StatusOK || got.body != "" {
		t.Errorf("HEAD: %d %q", got.status, got.body)
	}
}

// A client uploads parts straight to the object store; the registry shows the file only when
// it is whole.
func TestUploadInParts(t *testing.T) {
	s := serve(t, "")
	run := s.run()
	base := "/api/2.0/mlflow-artifacts/mpu/"
	target := "/0/" + run + "/artifacts"
	first, second := bytes.Repeat([]byte("a"), 5<<20), []byte("the end")
	var made struct {
		ID    string    `json:"upload_id"`
		Parts []partDTO `json:"credentials"`
	}
	got := s.ok("POST", base+"create"+target, `{"path":"big.bin","num_parts":2}`)
	if err := json.Unmarshal([]byte(got.body), &made); err != nil || len(made.Parts) != 2 {
		t.Fatalf("%s: %v", got.body, err)
	}
	for i, content := range [][]byte{first, second} {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPut, made.Parts[i].URL, bytes.NewReader(content))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := stranger.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			t.Fatalf("part %d: %d", i, resp.StatusCode)
		}
		made.Parts[i].ETag = resp.Header.Get("ETag")
	}
	if got := s.call("GET", "/api/2.0/mlflow-artifacts/artifacts"+target+"/big.bin", ""); got.status != http.StatusNotFound {
		t.Errorf("half an upload is served: %d", got.status)
	}
	body, err := json.Marshal(map[string]any{"path": "big.bin", "upload_id": made.ID, "parts": made.Parts})
	if err != nil {
		t.Fatal(err)
	}
	s.ok("POST", base+"complete"+target, string(body))
	if got := s.call("GET", "/api/2.0/mlflow-artifacts/artifacts"+target+"/big.bin", ""); got.body != string(first)+string(second) {
		t.Errorf("%d bytes with status %d", len(got.body), got.status)
	}
	again := s.ok("POST", base+"create"+target, `{"path":"other.bin","num_parts":1}`)
	if err := json.Unmarshal([]byte(again.body), &made); err != nil {
		t.Fatal(err)
	}
	s.ok("POST", base+"abort"+target, `{"path":"other.bin","upload_id":"`+made.ID+`"}`)
	for _, bad := range []string{`{"path":"x"}`, `{"path":"x","num_parts":0}`, `{"path":"x","num_parts":10001}`, `{"path":"../x","num_parts":1}`, `{}`} {
		if got := s.call("POST", base+"create"+target, bad); got.status != http.StatusBadRequest {
			t.Errorf("create %s: %d %s", bad, got.status, got.body)
		}
	}
	for _, bad := range []string{"x", uploadID{"blobs/aa", "u"}.String(), uploadID{uploadsPrefix + "../blobs/a", "u"}.String()} {
		if got := s.call("POST", base+"complete"+target, `{"path":"x","upload_id":"`+bad+`","parts":[{"part_number":1,"etag":"e"}]}`); got.status != http.StatusBadRequest {
			t.Errorf("complete %s: %d %s", bad, got.status, got.body)
		}
	}
	if got := s.call("GET", "/api/2.0/mlflow-artifacts/presigned/x", ""); got.status != http.StatusNotImplemented {
		t.Errorf("presigned: %d", got.status)
	}
}

func TestTheInterfacesQuestions(t *testing.T) {
	s := serve(t, "")
	run := s.run()
	s.ok("POST", "runs/log-metric", `{"run_id":"`+run+`","key":"m","value":"NaN","timestamp":1700000000000,"step":2}`)
	for body, want := range map[string]string{
		`{"operationName":"GetRun","variables":{"data":{"runId":"` + run + `"}},"query":"query GetRun"}`:                                   `"metrics":[{"key":"m","step":"2","timestamp":"1700000000000","value":null}]`,
		`{"operationName":"GetRun","variables":{"data":{"runId":"nope"}}}`:                                                                 `"apiError":{"code":"RESOURCE_DOES_NOT_EXIST"`,
		`{"operationName":"MlflowGetExperimentQuery","variables":{"input":{"experimentId":"0"}}}`:                                          `"mlflowGetExperiment":{"apiError":null,"experiment":{"artifactLocation":"mlflow-artifacts:/0"`,
		`{"operationName":"SearchRuns","variables":{"data":{"experimentIds":["0"],"maxResults":5}}}`:                                       `"runUuid":"` + run + `"`,
		`{"operationName":"GetMetricHistoryBulkInterval","variables":{"data":{"runIds":["` + run + `"],"metricKey":"m","maxResults":10}}}`: `"mlflowGetMetricHistoryBulkInterval":{"apiError":null,"metrics":[{"key":"m","runId":"` + run + `"`,
		`{"operationName":"Other","query":"{ __schema { types { name } } }"}`:                                                              `"errors":[{"message":`,
	} {
		if got := s.ok("POST", "/graphql", body); !strings.Contains(got.body, want) {
			t.Errorf("%s: %s", body, got.body)
		}
	}
	// Every field that was asked for is there, empty ones too: the page of an experiment without
	// tags broke on their absence.
	got := s.ok("POST", "/graphql", `{"operationName":"MlflowGetExperimentQuery","variables":{"input":{"experimentId":"0"}}}`)
	for _, want := range []string{`"tags":[]`, `"apiError":null`} {
		if !strings.Contains(got.body, want) {
			t.Errorf("no %s in %s", want, got.body)
		}
	}
	got = s.ok("POST", "/graphql", `{"operationName":"GetRun","variables":{"data":{"runId":"`+s.run()+`"}}}`)
	for _, want := range []string{`"params":[]`, `"datasetInputs":[]`, `"modelInputs":[]`, `"modelOutputs":[]`, `"endTime":null`, `"modelVersions":[]`} {
		if !strings.Contains(got.body, want) {
			t.Errorf("no %s in %s", want, got.body)
		}
	}
	if got := s.call("POST", "/graphql", `[]`); got.status != http.StatusBadRequest {
		t.Errorf("no question: %d", got.status)
	}
}

func TestTheInterfaceIsServedWhenItIsThere(t *testing.T) {
	s := serve(t, "")
	if got := s.call("GET", "/", ""); got.status != http.StatusNotFound {
		t.Errorf("no interface: %d", got.status)
	}
	dir := t.TempDir()
	for name, content := range map[string]string{"index.html": "<html>MLflow</html>", "static/js/main.js": "run()"} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o750); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	s.server.UI = root
	if got := s.call("GET", "/", ""); got.status != 200 || got.body != "<html>MLflow</html>" {
		t.Errorf("index: %d %q", got.status, got.body)
	}
	if got := s.call("GET", "/static-files/static/js/main.js", ""); got.status != 200 || got.body != "run()" {
		t.Errorf("asset: %d %q", got.status, got.body)
	}
	for _, path := range []string{"/static-files/nope.js", "/static-files/..%2f..%2fetc/passwd", "/elsewhere"} {
		if got := s.call("GET", path, ""); got.status != http.StatusNotFound {
			t.Errorf("%s: %d", path, got.status)
		}
	}
}

// An agent's certificate speaks for an attempt; a person's token does not, whatever headers
// come with it. Both come in by one port.
func TestAgentsComeWithCertificates(t *testing.T) {
	t.Parallel()
	store := postgres.New(pgtest.New(t, postgres.Schema, postgres.Migrations))
	ca, err := identity.NewAuthority(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	files, err := ca.Issue(identity.RoleRegistry, "registry")
	if err != nil {
		t.Fatal(err)
	}
	config, err := identity.ServerTLS(files)
	if err != nil {
		t.Fatal(err)
	}
	plain, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: New(Deps{Store: store, Objects: s3test.New(t), Log: zap.NewNop(), Token: "secret"}), ReadHeaderTimeout: time.Minute}
	served := make(chan struct{})
	go func() { defer close(served); _ = server.Serve(Both(plain, config)) }()
	t.Cleanup(func() { _ = server.Close(); <-served })
	job, other := uuid.NewString(), uuid.NewString()
	for _, id := range []string{job, other} {
		_, err = store.ApplyBatches(t.Context(), []catalog.Batch{{Key: catalog.BatchKey{RunID: id, Attempt: 1, Fence: 9, Sequence: 1},
			Opened: &catalog.RunOpened{Experiment: "e", DisplayName: "job"}}}, time.Now())
		if err != nil {
			t.Fatal(err)
		}
	}
	as := func(role identity.Role) *http.Client {
		files, err := ca.Issue(role, "test")
		if err != nil {
			t.Fatal(err)
		}
		c, err := identity.ClientTLS(files, identity.RoleRegistry)
		if err != nil {
			t.Fatal(err)
		}
		return &http.Client{Transport: &http.Transport{TLSClientConfig: c}}
	}
	ask := func(client *http.Client, scheme, path, body string, headers ...string) (int, string) {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, scheme+"://"+plain.Addr().String()+"/api/2.0/mlflow/"+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Content-Type", "application/json")
		for i := 0; i < len(headers); i += 2 {
			r.Header.Set(headers[i], headers[i+1])
		}
		resp, err := client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		raw, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(raw)
	}
	agent, person := as(identity.RoleAgent), as(identity.RolePerson)
	metric := `{"run_id":"` + shownID(job) + `","key":"m","value":1,"timestamp":1}`
	bearer := []string{"Authorization", "Bearer secret"}
	for _, c := range []struct {
		name    string
		client  *http.Client
		scheme  string
		path    string
		body    string
		headers []string
		want    int
	}{
		{"the attempt", agent, "https", "runs/log-metric", metric, []string{JobHeader, job, FenceHeader, "9"}, 200},
		{"a zombie", agent, "https", "runs/log-metric", metric, []string{JobHeader, job, FenceHeader, "8"}, 409},
		{"a zombie about something else", agent, "https", "registered-models/create", `{"name":"m"}`, []string{JobHeader, job, FenceHeader, "8"}, 409},
		{"another job's attempt", agent, "https", "runs/log-metric", metric, []string{JobHeader, other, FenceHeader, "9"}, 403},
		{"an agent without a fence", agent, "https", "runs/log-metric", metric, nil, 403},
		{"a person with a fence", http.DefaultClient, "http", "runs/log-metric", metric, append(bearer, JobHeader, job, FenceHeader, "9"), 403},
		{"a person", http.DefaultClient, "http", "registered-models/create", `{"name":"m"}`, bearer, 200},
		{"nobody", http.DefaultClient, "http", "registered-models/create", `{"name":"n"}`, nil, 401},
		{"a person's certificate is no token", person, "https", "registered-models/create", `{"name":"n"}`, nil, 401},
	} {
		status, body := ask(c.client, c.scheme, c.path, c.body, c.headers...)
		if status != c.want || c.want == 409 && !strings.Contains(body, `"RESOURCE_CONFLICT"`) || c.want == 409 && !strings.Contains(body, "LEASE_FENCED") {
			t.Errorf("%s: %d %s", c.name, status, body)
		}
	}
	if status, _ := ask(stranger, "https", "registered-models/create", `{"name":"n"}`); status != 401 {
		t.Errorf("a stranger over TLS: %d", status)
	}
}
