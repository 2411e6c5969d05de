package mlflowapi

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/ultrathink-pilot/trainyard/libs/objectstore/s3test"
	"github.com/ultrathink-pilot/trainyard/libs/pg/pgtest"
	"github.com/ultrathink-pilot/trainyard/services/registry/internal/catalog"
	"github.com/ultrathink-pilot/trainyard/services/registry/internal/postgres"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

type site struct {
	*testing.T
	url    string
	store  *postgres.Store
	server *Server
	token  string
}

func serve(t *testing.T, token string) *site {
	t.Helper()
	t.Parallel()
	store := postgres.New(pgtest.New(t, postgres.Schema, postgres.Migrations))
	handler := New(Deps{Store: store, Objects: s3test.New(t), Log: zap.NewNop(), Token: token})
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	return &site{T: t, url: server.URL, store: store, server: handler, token: token}
}

type reply struct {
	status int
	body   string
	fields map[string]json.RawMessage
}

// call sends a request; a leading "/" in path keeps it as it is.
func (s *site) call(method, path, body string, headers ...string) reply {
	s.Helper()
	if !strings.HasPrefix(path, "/") {
		path = "/api/2.0/mlflow/" + path
	}
	r, err := http.NewRequestWithContext(s.Context(), method, s.url+path, bytes.NewReader([]byte(body)))
	if err != nil {
		s.Fatal(err)
	}
	if method != http.MethodGet {
		r.Header.Set("Content-Type", "application/json")
	}
	if s.token != "" {
		r.Header.Set("Authorization", "Bearer "+s.token)
	}
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		s.Fatal(err)
	}
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		s.Fatal(err)
	}
	if err := resp.Body.Close(); err != nil {
		s.Fatal(err)
	}
	out := reply{status: resp.StatusCode, body: string(raw)}
	_ = json.Unmarshal(raw, &out.fields) // files are not JSON
	return out
}

func (s *site) ok(method, path, body string) reply {
	s.Helper()
	got := s.call(method, path, body)
	if got.status != http.StatusOK {
		s.Fatalf("%s %s: %d %s", method, path, got.status, got.body)
	}
	return got
}

func (s *site) run() string {
	s.Helper()
	var created struct {
		Run struct {
			Info struct {
				ID string `json:"run_id"`
			} `json:"info"`
		} `json:"run"`
	}
	got := s.ok("POST", "runs/create", `{"experiment_id":"0","start_time":1700000000000,"user_id":"ann"}`)
	if err := json.Unmarshal([]byte(got.body), &created); err != nil {
		s.Fatal(err)
	}
	return created.Run.Info.ID
}

// The errors that clients branch on: code, status and, where clients show or parse it, text.
func TestErrorsAreMLflows(t *testing.T) {
	s := serve(t, "")
	run := s.run()
	s.ok("POST", "registered-models/create", `{"name":"m"}`)
	s.ok("POST", "runs/log-parameter", `{"run_id":"`+run+`","key":"lr","value":"1"}`)
	many := strings.Repeat(`{"key":"a","value":1,"timestamp":1},`, 1001)
	long := strings.Repeat("k", 251)
	for _, c := range []struct {
		method, path, body string
		status             int
		code, text         string
	}{
		{"GET", "experiments/get?experiment_id=77", "", 404, "RESOURCE_DOES_NOT_EXIST", "No Experiment with id=77 exists"},
		{"GET", "experiments/get-by-name?experiment_name=x", "", 404, "RESOURCE_DOES_NOT_EXIST", "Could not find experiment with name 'x'"},
		{"POST", "experiments/create", `{"name":"Default"}`, 400, "RESOURCE_ALREADY_EXISTS", "already exists"},
		{"POST", "experiments/create", `{}`, 400, "INVALID_PARAMETER_VALUE", "Missing value for required parameter 'name'."},
		{"POST", "experiments/create", `{"name":123}`, 400, "INVALID_PARAMETER_VALUE", "Invalid value 123 for parameter 'name' supplied"},
		{"POST", "experiments/create", `not json`, 400, "INVALID_PARAMETER_VALUE", "Missing value for required parameter 'name'."},
		{"POST", "experiments/create", `{"name":"a\u0000b"}`, 400, "INVALID_PARAMETER_VALUE", ""},
		{"GET", "runs/get?run_id=nope", "", 404, "RESOURCE_DOES_NOT_EXIST", "Run with id=nope not found"},
		{"POST", "runs/log-metric", `{"run_id":"` + run + `","key":"m","value":"abc","timestamp":1}`, 400, "INVALID_PARAMETER_VALUE", "Invalid value \"abc\" for parameter 'value' supplied"},
		{"POST", "runs/log-metric", `{"run_id":"` + run + `","key":"m","value":1,"timestamp":-1}`, 400, "INVALID_PARAMETER_VALUE", "nonnegative"},
		{"POST", "runs/log-metric", `{"run_id":"` + run + `","key":"m","value":1,"timestamp":9223372036854775807}`, 400, "INVALID_PARAMETER_VALUE", "timestamp"},
		{"POST", "runs/log-metric", `{"run_id":"` + run + `","key":"a//b","value":1,"timestamp":1}`, 400, "INVALID_PARAMETER_VALUE", "resolve to 'a/b'"},
		{"POST", "runs/log-metric", `{"run_id":"` + run + `","key":"` + long + `","value":1,"timestamp":1}`, 400, "INVALID_PARAMETER_VALUE", "250"},
		{"POST", "runs/log-metric", `{"run_id":"` + run + `","key":"a;b","value":1,"timestamp":1}`, 400, "INVALID_PARAMETER_VALUE", "Names may only contain"},
		{"POST", "runs/log-batch", `{"run_id":"` + run + `","metrics":[` + strings.TrimSuffix(many, ",") + `]}`, 400, "INVALID_PARAMETER_VALUE", "at most 1000 metrics. Got 1001"},
		{"POST", "runs/log-batch", `{"run_id":"` + run + `","params":[{"key":"a","value":"1"},{"key":"a","value":"1"}]}`, 400, "INVALID_PARAMETER_VALUE", "Duplicate parameter keys"},
		{"POST", "runs/log-parameter", `{"run_id":"` + run + `","key":"lr","value":"2"}`, 400, "INVALID_PARAMETER_VALUE", "Changing param values is not allowed. Param with key='lr' was already logged with value='1' for run ID='" + run + "'. Attempted logging new value '2'."},
		{"POST", "runs/search", `{"experiment_ids":["0"],"filter":"metrics.a OR 1=1"}`, 400, "INVALID_PARAMETER_VALUE", ""},
		{"POST", "runs/search", `{"experiment_ids":["0"],"page_token":"%%%"}`, 400, "INVALID_PARAMETER_VALUE", "page token"},
		{"POST", "runs/search", `{"experiment_ids":["0"],"max_results":50001}`, 400, "INVALID_PARAMETER_VALUE", "max_results"},
		{"POST", "runs/delete-tag", `{"run_id":"` + run + `","key":"x"}`, 404, "RESOURCE_DOES_NOT_EXIST", "No tag with name: x"},
		{"POST", "registered-models/create", `{"name":"m"}`, 400, "RESOURCE_ALREADY_EXISTS", "Registered Model (name=m) already exists"},
		{"GET", "registered-models/get?name=x", "", 404, "RESOURCE_DOES_NOT_EXIST", "Registered Model with name=x not found"},
		{"GET", "registered-models/alias?name=m&alias=a", "", 400, "INVALID_PARAMETER_VALUE", "Registered model alias a not found."},
		{"POST", "registered-models/alias", `{"name":"m","alias":"v1","version":"1"}`, 400, "INVALID_PARAMETER_VALUE", "reserved"},
		{"POST", "registered-models/alias", `{"name":"m","alias":"latest","version":"1"}`, 400, "INVALID_PARAMETER_VALUE", "reserved"},
		{"GET", "model-versions/get?name=m&version=9", "", 404, "RESOURCE_DOES_NOT_EXIST", "Model Version (name=m, version=9) not found"},
		{"GET", "model-versions/get?name=m&version=abc", "", 400, "INVALID_PARAMETER_VALUE", "must be an integer"},
		{"POST", "model-versions/create", `{"name":"m","source":"/etc/passwd"}`, 400, "INVALID_PARAMETER_VALUE", "Invalid model version source"},
		{"POST", "model-versions/create", `{"name":"m","source":"s3://b/%2e%2e/x"}`, 400, "INVALID_PARAMETER_VALUE", "Invalid model version source"},
		{"POST", "model-versions/transition-stage", `{"name":"m","version":"1","stage":"Live"}`, 400, "INVALID_PARAMETER_VALUE", "Invalid Model Version stage"},
		{"POST", "model-versions/transition-stage", `{"name":"m","version":"1","stage":"None","archive_existing_versions":true}`, 400, "INVALID_PARAMETER_VALUE", "not an Active stage"},
		{"POST", "logged-models", `{"experiment_id":"0","name":"a/b"}`, 400, "INVALID_PARAMETER_VALUE", "Invalid model name"},
		{"GET", "logged-models/m-" + strings.Repeat("0", 32), "", 404, "RESOURCE_DOES_NOT_EXIST", "not found"},
		{"POST", "runs/outputs", `{"run_id":"` + run + `","models":[{"model_id":"m-x"}]}`, 404, "RESOURCE_DOES_NOT_EXIST", "logged-models/m-x"},
		{"POST", "/api/2.0/mlflow/traces", `{}`, 404, "ENDPOINT_NOT_FOUND", ""},
		{"GET", "/api/3.0/mlflow/server-info", "", 404, "ENDPOINT_NOT_FOUND", ""},
	} {
		got := s.call(c.method, c.path, c.body)
		var e struct {
			Code    string `json:"error_code"`
			Message string `json:"message"`
		}
		if err := json.Unmarshal([]byte(got.body), &e); err != nil || got.status != c.status || e.Code != c.code || !strings.Contains(e.Message, c.text) {
			t.Errorf("%s %s %.80s: %d %s", c.method, c.path, c.body, got.status, got.body)
		}
	}
	if got := s.call("GET", "runs/create", ""); got.status != http.StatusMethodNotAllowed {
		t.Errorf("wrong method: %d", got.status)
	}
	if got := s.call("POST", "runs/create", `{"experiment_id":"0"}`, "Content-Type", "text/plain"); got.status != 400 {
		t.Errorf("wrong content type: %d", got.status)
	}
}

func TestOddRequestsOfRealClients(t *testing.T) {
	s := serve(t, "")
	run := s.run()
	// run_uuid, numbers as strings, unknown fields, JSON inside a JSON string.
	s.ok("POST", "runs/log-metric", `{"run_uuid":"`+run+`","key":"a","value":1.5,"timestamp":"1700000000001","step":"-3","unheard_of":{"x":1}}`)
	s.ok("POST", "runs/log-metric", `"{\"run_id\":\"`+run+`\",\"key\":\"a\",\"value\":\"NaN\",\"timestamp\":1700000000002}"`)
	s.ok("POST", "runs/log-metric", `{"run_id":"`+run+`","key":"a","value":"-Infinity","timestamp":1.700000000003e12,"step":7.0}`)
	got := s.ok("GET", "metrics/get-history?run_id="+run+"&metric_key=a", "")
	want := `{"metrics":[{"key":"a","value":1.5,"timestamp":1700000000001,"step":-3},{"key":"a","value":"NaN","timestamp":1700000000002,"step":0},{"key":"a","value":"-Infinity","timestamp":1700000000003,"step":7}]}`
	if strings.TrimSpace(got.body) != want {
		t.Errorf("history %s", got.body)
	}
	page := s.ok("GET", "metrics/get-history?run_id="+run+"&metric_key=a&max_results=2", "")
	var token string
	if err := json.Unmarshal(page.fields["next_page_token"], &token); err != nil {
		t.Fatal(err)
	}
	if rest := s.ok("GET", "metrics/get-history?run_id="+run+"&metric_key=a&max_results=2&page_token="+token, ""); strings.Count(rest.body, "key") != 1 {
		t.Errorf("second page %s", rest.body)
	}
	if got := s.ok("POST", "runs/set-tag", `{"run_id":"`+run+`","key":"t","value":"`+strings.Repeat("é", 9000)+`"}`); strings.TrimSpace(got.body) != "{}" {
		t.Errorf("empty success is %q", got.body)
	}
	r, err := s.store.GetRun(t.Context(), keptID(run))
	if err != nil || len([]rune(r.Tags["t"])) != maxRunTag {
		t.Errorf("tag of %d characters: %v", len([]rune(r.Tags["t"])), err)
	}
	if got := s.ok("GET", "/ajax-api/2.0/mlflow/runs/get?run_id="+run, ""); !strings.Contains(got.body, `"start_time":1700000000000`) || !strings.Contains(got.body, `"user_id":"ann"`) {
		t.Errorf("run %s", got.body)
	}
	s.ok("POST", "runs/log-model", `{"run_id":"`+run+`","model_json":"{\"artifact_path\":\"m\",\"flavors\":{},\"utc_time_created\":\"now\",\"run_id\":\"`+run+`\"}"}`)
	s.ok("POST", "runs/log-inputs", `{"run_id":"`+run+`","datasets":[{"dataset":{"name":"spx","digest":"d1","source":"x"},"tags":[{"key":"mlflow.data.context","value":"train"}]}]}`)
	if got := s.ok("POST", "runs/search", `{"experiment_ids":["0"],"filter":"dataset.name = 'spx' and dataset.context = 'train' and metrics.a < 0"}`); !strings.Contains(got.body, run) || !strings.Contains(got.body, `"dataset_inputs":[`) {
		t.Errorf("search %s", got.body)
	}
	first := s.call("POST", "runs/create", `{"experiment_id":"0"}`, "Idempotency-Key", "k")
	again := s.call("POST", "runs/create", `{"experiment_id":"0"}`, "Idempotency-Key", "k")
	if first.body != again.body {
		t.Errorf("a repeated create made two runs:\n%s\n%s", first.body, again.body)
	}
}

// A batch with a conflicting param leaves nothing behind, not half of itself.
func TestLogBatchIsAtomic(t *testing.T) {
	s := serve(t, "")
	run := s.run()
	s.ok("POST", "runs/log-parameter", `{"run_id":"`+run+`","key":"p","value":"1"}`)
	if got := s.call("POST", "runs/log-batch", `{"run_id":"`+run+`","metrics":[{"key":"m","value":1,"timestamp":1,"step":0}],"params":[{"key":"q","value":"1"},{"key":"p","value":"2"}],"tags":[{"key":"t","value":"1"}]}`); got.status != 400 {
		t.Fatalf("%d %s", got.status, got.body)
	}
	r, err := s.store.GetRun(t.Context(), keptID(run))
	if err != nil || len(r.Latest) != 0 || len(r.Params) != 1 || r.Tags["t"] != "" {
		t.Errorf("left behind: %+v %v", r, err)
	}
	s.ok("POST", "runs/delete", `{"run_id":"`+run+`"}`)
	if got := s.call("POST", "runs/set-tag", `{"run_id":"`+run+`","key":"t","value":"1"}`); got.status != 400 || !strings.Contains(got.body, "must be in the 'active' state") {
		t.Errorf("a deleted run took a write: %d %s", got.status, got.body)
	}
}

// The run of a job is written under its fence only.
func TestJobsRunsNeedTheirFence(t *testing.T) {
	s := serve(t, "")
	job := uuid.NewString()
	_, err := s.store.ApplyBatches(t.Context(), []catalog.Batch{{Key: catalog.BatchKey{RunID: job, Attempt: 1, Fence: 9, Sequence: 1},
		Opened: &catalog.RunOpened{Experiment: "e", DisplayName: "job"}}}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	body := `{"run_id":"` + job + `","key":"m","value":1,"timestamp":1}`
	for fence, want := range map[string]int{"": 403, "8": 409, "x": 400, "9": 200} {
		headers := []string{}
		if fence != "" {
			headers = []string{FenceHeader, fence, JobHeader, job}
		}
		if got := s.call("POST", "runs/log-metric", body, headers...); got.status != want {
			t.Errorf("fence %q: %d %s", fence, got.status, got.body)
		}
		if got := s.call("PUT", "/api/2.0/mlflow-artifacts/artifacts/1/"+job+"/artifacts/a.txt", "x", headers...); got.status != want {
			t.Errorf("artifact under fence %q: %d %s", fence, got.status, got.body)
		}
	}
	points, err := s.store.MetricHistory(t.Context(), job, "m")
	if err != nil || len(points) != 1 || points[0].Attempt != 1 {
		t.Errorf("points %+v %v", points, err)
	}
}

// A script that starts fast is here before its agent's RunOpened; a second attempt too, and what
// it logs must not count as the first one's, whose tail is cut when it opens.
func TestAnAttemptMayBeEarlierThanItsRunOpened(t *testing.T) {
	s := serve(t, "")
	waits := make(chan struct{}, 1)
	s.server.Log = zap.New(zapcore.NewCore(zapcore.NewJSONEncoder(zap.NewProductionEncoderConfig()), zapcore.AddSync(io.Discard), zap.DebugLevel),
		zap.Hooks(func(zapcore.Entry) error {
			select {
			case waits <- struct{}{}:
			default:
			}
			return nil
		}))
	job := uuid.NewString()
	for i, ask := range [][]string{{"GET", "runs/get?run_id=" + job, ""}, {"POST", "runs/log-metric", `{"run_id":"` + job + `","key":"m","value":1,"timestamp":1,"step":5}`}} {
		attempt, fence := int32(i+1), uint64(7+i)
		answer := make(chan reply)
		go func() {
			answer <- s.call(ask[0], ask[1], ask[2], JobHeader, job, FenceHeader, strconv.FormatUint(fence, 10))
		}()
		select {
		case <-waits:
		case got := <-answer:
			t.Fatalf("attempt %d did not wait: %d %s", attempt, got.status, got.body)
		}
		results, err := s.store.ApplyBatches(t.Context(), []catalog.Batch{{Key: catalog.BatchKey{RunID: job, Attempt: attempt, Fence: fence, Sequence: 1},
			Opened: &catalog.RunOpened{Experiment: "jobs"}}}, time.Now())
		if err != nil || results[0].Refusal != nil {
			t.Fatalf("%+v %v", results, err)
		}
		if got := <-answer; got.status != http.StatusOK {
			t.Errorf("attempt %d: %d %s", attempt, got.status, got.body)
		}
		select { // it may have waited once more
		case <-waits:
		default:
		}
	}
	points, err := s.store.MetricHistory(t.Context(), job, "m")
	if err != nil || len(points) != 1 || points[0].Attempt != 2 {
		t.Errorf("points %+v %v", points, err)
	}
}

func TestArtifactPathsCannotEscape(t *testing.T) {
	s := serve(t, "")
	run := s.run()
	base := "/api/2.0/mlflow-artifacts/artifacts/0/" + run + "/artifacts/"
	if got := s.call("PUT", base+"dir/a b.txt", "content"); got.status != 200 {
		t.Fatalf("%d %s", got.status, got.body)
	}
	if got := s.call("GET", base+"dir/a%20b.txt", ""); got.status != 200 || got.body != "content" {
		t.Errorf("%d %q", got.status, got.body)
	}
	for _, p := range []string{"%2e%2e/x", "dir/%2e%2e/%2e%2e/x", "%252e%252e/x", "..%5cx", "a%00b", "a%5cb", "dir/./x", "%2fetc/passwd%2f..", "a%252fb", "a%255cb"} {
		for _, method := range []string{"PUT", "GET", "DELETE"} {
			if got := s.call(method, base+p, "x"); got.status != 400 && got.status != 404 && got.status != 301 {
				t.Errorf("%s %s: %d %s", method, p, got.status, got.body)
			}
		}
	}
	for _, p := range []string{"/get-artifact?run_id=" + run + "&path=../x", "/get-artifact?run_id=" + run + "&path=/etc/passwd",
		"/get-artifact?run_id=" + run + "&path=file:x", "artifacts/list?run_id=" + run + "&path=..", "/api/2.0/mlflow-artifacts/artifacts?path=../.."} {
		if got := s.call("GET", p, ""); got.status != 400 && got.status != 404 {
			t.Errorf("%s: %d %s", p, got.status, got.body)
		}
	}
	if got := s.call("PUT", "/api/2.0/mlflow-artifacts/artifacts/checkpoints/x/model.bin", "evil"); got.status != 403 {
		t.Errorf("a checkpoint was written through the proxy: %d", got.status)
	}
	if got := s.ok("GET", "artifacts/list?run_id="+run+"&path=dir", ""); !strings.Contains(got.body, `"path":"dir/a b.txt","is_dir":false,"file_size":7`) {
		t.Errorf("list %s", got.body)
	}
	s.ok("DELETE", base+"dir", "")
	if got := s.call("GET", base+"dir/a%20b.txt", ""); got.status != 404 {
		t.Errorf("a deleted artifact is served: %d", got.status)
	}
}

func TestTokenGuardsEverythingButHealth(t *testing.T) {
	s := serve(t, "secret")
	s.ok("GET", "experiments/get?experiment_id=0", "")
	s.token = ""
	for _, path := range []string{"experiments/get?experiment_id=0", "/api/2.0/mlflow-artifacts/artifacts?path=0/x/artifacts", "/get-artifact?run_id=a&path=b", "nowhere"} {
		for _, header := range []string{"", "Bearer wrong", "Basic dTp3cm9uZw=="} {
			if got := s.call("GET", path, "", "Authorization", header); got.status != 401 || strings.Contains(got.body, "secret") {
				t.Errorf("%s with %q: %d", path, header, got.status)
			}
		}
	}
	if got := s.call("GET", "experiments/get?experiment_id=0", "", "Authorization", "Basic dTpzZWNyZXQ="); got.status != 200 {
		t.Errorf("the token as a basic password: %d", got.status)
	}
	if got := s.call("GET", "/health", ""); got.status != 200 || got.body != "OK" {
		t.Errorf("health: %+v", got)
	}
}

func TestNumbersAreWrittenAsClientsReadThem(t *testing.T) {
	t.Parallel()
	for v, want := range map[float64]string{math.NaN(): `"NaN"`, math.Inf(1): `"Infinity"`, math.Inf(-1): `"-Infinity"`, 0.1: "0.1", 1e300: "1e+300", 3: "3"} {
		got, err := json.Marshal(number(v))
		if err != nil || string(got) != want {
			t.Errorf("%v is written %s: %v", v, got, err)
		}
		back, err := parseNumber(got)
		if err != nil || back != v && !(math.IsNaN(back) && math.IsNaN(v)) {
			t.Errorf("%s is read %v: %v", got, back, err)
		}
	}
}

func TestHistoriesAreWrittenLikeAllElse(t *testing.T) {
	t.Parallel()
	for _, h := range []historyDTO{
		{Metrics: []metricDTO{}}, {Metrics: []metricDTO{{Key: "a \"quoted\" one", Value: 1e-9, Timestamp: 5, Step: -3}, {Key: "b", Value: number(math.NaN()), RunID: "r", ModelID: "m"},
			{Key: "b", Value: 2.5, DatasetName: "d", DatasetDigest: "x"}}, Next: "token="},
	} {
		want, err := json.Marshal(h)
		if err != nil {
			t.Fatal(err)
		}
		var a, b map[string]any
		if err := errors.Join(json.Unmarshal(want, &a), json.Unmarshal(h.appendJSON(nil), &b)); err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(a, b) {
			t.Errorf("%s, want %s", h.appendJSON(nil), want)
		}
	}
}

// MLflow's own Python clients tell their whole story. TRAINYARD_TEST_MLFLOW_PYTHON names Pythons
// that have mlflow, separated by colons; `make test` installs a 2.x and a 3.x.
func TestMLflowsOwnClients(t *testing.T) {
	t.Parallel()
	pythons := filepath.SplitList(os.Getenv("TRAINYARD_TEST_MLFLOW_PYTHON"))
	if len(pythons) == 0 {
		t.Skip("SKIPPED, NOT TESTED: run tools/dev/setup mlflow and set TRAINYARD_TEST_MLFLOW_PYTHON to .cache/bin/mlflow2-python:.cache/bin/mlflow3-python")
	}
	for _, python := range pythons {
		t.Run(filepath.Base(python), func(t *testing.T) {
			s := serve(t, "")
			major, err := exec.CommandContext(t.Context(), python, "-c", "import mlflow.version; print(mlflow.version.VERSION.split('.')[0])").Output()
			if err != nil {
				t.Fatalf("%s has no mlflow: %v", python, err)
			}
			stories := []string{"testdata/story.py"}
			if strings.TrimSpace(string(major)) != "2" {
				stories = append(stories, "testdata/story3.py")
			}
			for _, story := range stories {
				cmd := exec.CommandContext(t.Context(), python, story, s.url)
				cmd.Env = append(os.Environ(), "MLFLOW_HTTP_REQUEST_MAX_RETRIES=1", "HOME="+t.TempDir(), "GIT_PYTHON_REFRESH=quiet")
				out, err := cmd.CombinedOutput()
				if err != nil || !strings.Contains(string(out), "story told") {
					t.Errorf("%s: %v\n%s", story, err, out)
				}
			}
		})
	}
}
