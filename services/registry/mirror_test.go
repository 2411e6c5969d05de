package registry

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"math"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/ultrathink-pilot/trainyard/libs/pg"
	"github.com/ultrathink-pilot/trainyard/libs/pg/pgtest"
	"github.com/ultrathink-pilot/trainyard/services/registry/internal/postgres"
)

// mlflowServers are the Pythons of TRAINYARD_TEST_MLFLOW_SERVER, separated by colons.
func mlflowServers(t *testing.T) []string {
	t.Helper()
	pythons := filepath.SplitList(os.Getenv("TRAINYARD_TEST_MLFLOW_SERVER"))
	if len(pythons) == 0 {
		t.Skip("SKIPPED, NOT TESTED: set TRAINYARD_TEST_MLFLOW_SERVER to a Python that can run `mlflow server`")
	}
	return pythons
}

// realMLflow starts MLflow's own server and returns its address.
func realMLflow(t *testing.T, python string) string {
	t.Helper()
	free, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	port := free.Addr().(*net.TCPAddr).Port
	must(t, free.Close())
	dir := t.TempDir()
	cmd := exec.Command(python, "-m", "mlflow", "server", "--backend-store-uri", "sqlite:///"+filepath.Join(dir, "mlflow.db"),
		"--artifacts-destination", filepath.Join(dir, "artifacts"), "--host", "127.0.0.1", "--port", fmt.Sprint(port), "--workers", "2")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "HOME="+dir, "GIT_PYTHON_REFRESH=quiet", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false")
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	// Its workers are its children: they are ended as one group.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	must(t, cmd.Start())
	t.Cleanup(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // it may have ended by itself
		_ = cmd.Wait()                                      // killed is what it is
		if t.Failed() {
			t.Logf("MLflow's log ends: %s", said.Bytes()[max(0, said.Len()-2000):])
		}
	})
	base := fmt.Sprintf("http://127.0.0.1:%d", port)
	for range 600 {
		if resp, err := http.Get(base + "/health"); err == nil {
			must(t, resp.Body.Close())
			if resp.StatusCode == http.StatusOK {
				return base
			}
		}
		time.Sleep(100 * time.Millisecond)
	}
	t.Fatalf("MLflow did not start: %s", said.Bytes())
	return ""
}

// losses is the share of requests that are lost, in percent, and how many were: before they
// arrived, and their answers after they were carried out.
type losses struct{ share, requests, answers atomic.Int64 }

// lossy passes requests on and loses some.
func lossy(t *testing.T, target string, loss *losses) string {
	t.Helper()
	to, err := url.Parse(target)
	must(t, err)
	proxy := httputil.NewSingleHostReverseProxy(to)
	proxy.ErrorLog = log.New(io.Discard, "", 0) // requests of killed processes break off by the hundred
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		dice := rand.Int64N(100)
		if dice < loss.share.Load()/2 {
			loss.requests.Add(1)
			panic(http.ErrAbortHandler)
		}
		if dice >= loss.share.Load() {
			proxy.ServeHTTP(w, r)
			return
		}
		loss.answers.Add(1)
		proxy.ServeHTTP(httptest.NewRecorder(), r) // carried out, and the answer is lost
		panic(http.ErrAbortHandler)
	}))
	t.Cleanup(server.Close)
	return server.URL
}

// rest is a plain client of an MLflow server.
type rest struct {
	t    *testing.T
	base string
}

func (r rest) call(method, path string, in any) (map[string]any, error) {
	var body io.Reader
	if in != nil {
		raw, err := json.Marshal(in)
		must(r.t, err)
		body = bytes.NewReader(raw)
	}
	req, err := http.NewRequestWithContext(r.t.Context(), method, r.base+path, body)
	must(r.t, err)
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	raw, err := io.ReadAll(resp.Body)
	must(r.t, resp.Body.Close())
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s %s: %d %s", method, path, resp.StatusCode, raw)
	}
	out := map[string]any{}
	_ = json.Unmarshal(raw, &out) // files are not JSON
	out["raw"] = string(raw)
	return out, nil
}

// must repeats a call until the server, which is killed now and then, has taken it.
func (r rest) must(method, path string, in any) map[string]any {
	var last error
	for range 600 {
		out, err := r.call(method, path, in)
		if err == nil {
			return out
		}
		if last = err; strings.Contains(err.Error(), "RESOURCE_ALREADY_EXISTS") {
			return nil
		}
		time.Sleep(50 * time.Millisecond)
	}
	r.t.Errorf("%v", last)
	return map[string]any{}
}

const v2 = "/api/2.0/mlflow/"

// story is everything of a server that a mirror must show, with ids left out.
func (r rest) story(experiment string) map[string]any {
	out := map[string]any{}
	e := r.must("GET", v2+"experiments/get-by-name?experiment_name="+url.QueryEscape(experiment), nil)
	id := dig(e, "experiment", "experiment_id")
	found := r.must("POST", v2+"runs/search", map[string]any{"experiment_ids": []any{id}, "run_view_type": "ALL", "max_results": 1000})
	for _, run := range list(found["runs"]) {
		name := dig(run, "info", "run_name").(string)
		if _, double := out[name]; double {
			r.t.Errorf("run %s is there twice", name)
		}
		runID := dig(run, "info", "run_id").(string)
		one := map[string]any{"status": dig(run, "info", "status"), "stage": dig(run, "info", "lifecycle_stage")}
		for _, kind := range []string{"params", "tags"} {
			pairs := map[string]any{}
			for _, p := range list(dig(run, "data", kind)) {
				if key := dig(p, "key").(string); !strings.HasPrefix(key, "trainyard.") {
					pairs[key] = dig(p, "value")
				}
			}
			one[kind] = pairs
		}
		for _, latest := range list(dig(run, "data", "metrics")) {
			key := dig(latest, "key").(string)
			var points []string
			for _, p := range list(r.must("GET", v2+"metrics/get-history?run_id="+runID+"&metric_key="+url.QueryEscape(key), nil)["metrics"]) {
				value := fmt.Sprint(dig(p, "value"))
				if value == "Infinity" {
					value = fmt.Sprint(math.MaxFloat64)
				}
				points = append(points, fmt.Sprint(dig(p, "step"), " ", dig(p, "timestamp"), " ", value))
			}
			slices.Sort(points)
			one["metric "+key] = strings.Join(points, ", ")
		}
		root := strings.TrimPrefix(dig(run, "info", "artifact_uri").(string), "mlflow-artifacts:/")
		r.files(root, "", one)
		out[name] = one
	}
	return out
}

func (r rest) files(root, dir string, into map[string]any) {
	for _, f := range list(r.must("GET", "/api/2.0/mlflow-artifacts/artifacts?path="+url.QueryEscape(strings.Trim(root+"/"+dir, "/")), nil)["files"]) {
		path := strings.Trim(dir+"/"+dig(f, "path").(string), "/")
		if dig(f, "is_dir") == true {
			if path != "checkpoints" {
				r.files(root, path, into)
			}
			continue
		}
		into["file "+path] = r.must("GET", "/api/2.0/mlflow-artifacts/artifacts/"+root+"/"+path, nil)["raw"]
	}
}

func (r rest) model(name string) map[string]any {
	out := map[string]any{}
	numbers := map[string]string{}
	for _, v := range list(r.must("GET", v2+"model-versions/search?max_results=1000&filter="+url.QueryEscape("name='"+name+"'"), nil)["model_versions"]) {
		tags := map[string]any{}
		number := ""
		for _, p := range list(dig(v, "tags")) {
			if key := dig(p, "key").(string); key == "number" {
				number = dig(p, "value").(string)
			} else if !strings.HasPrefix(key, "trainyard.") {
				tags[key] = dig(p, "value")
			}
		}
		if _, double := out[number]; double {
			r.t.Errorf("version %s is there twice", number)
		}
		numbers[dig(v, "version").(string)] = number
		_, path, _ := strings.Cut(dig(v, "source").(string), "/artifacts")
		description := dig(v, "description")
		if description == nil {
			description = ""
		}
		out[number] = map[string]any{"stage": dig(v, "current_stage"), "description": description, "tags": tags, "path": path}
	}
	one := r.must("GET", v2+"registered-models/get?name="+url.QueryEscape(name), nil)
	aliases := map[string]any{}
	for _, a := range list(dig(one, "registered_model", "aliases")) {
		aliases[dig(a, "alias").(string)] = numbers[dig(a, "version").(string)]
	}
	out["aliases"] = aliases
	return out
}

func dig(v any, path ...string) any {
	for _, p := range path {
		m, ok := v.(map[string]any)
		if !ok {
			return nil
		}
		v = m[p]
	}
	return v
}

func list(v any) []any {
	l, _ := v.([]any)
	return l
}

// Writers log to a registry that is killed by SIGKILL again and again, while the way to a
// real MLflow server loses requests, and answers after their commit. In the end both show
// the same, and nothing twice.
func TestMirrorSurvivesKillsAndLostAnswers(t *testing.T) {
	mirrorCampaign(t, mlflowServers(t)[0], 6, 8)
}

// mirrored is what a campaign did.
type mirrored struct {
	version                 string
	requests, answers, dead int64
	runs, versions          int
	metrics, files          int
}

func mirrorCampaign(t *testing.T, python string, writers, kills int) (did mirrored) {
	_, cfg := prepare(t)
	target := realMLflow(t, python)
	version, err := rest{t, target}.call("GET", "/version", nil)
	must(t, err)
	did.version = version["raw"].(string)
	cfg.DSN = pgtest.DSN(t, postgres.Schema, postgres.Migrations)
	var loss losses
	loss.share.Store(12)
	free, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	front := free.Addr().String()
	must(t, free.Close())
	cfg.Listen = "127.0.0.1:0"
	cfg.MLflow = MLflow{Listen: front, Insecure: true, Mirror: lossy(t, target, &loss), MirrorLease: 2 * time.Second}
	registry := startVictim(t, cfg)
	t.Cleanup(registry.stop)
	ours, theirs := rest{t, "http://" + front}, rest{t, target}

	ours.must("POST", v2+"experiments/create", map[string]string{"name": "specialists"})
	id := dig(ours.must("GET", v2+"experiments/get-by-name?experiment_name=specialists", nil), "experiment", "experiment_id")
	ours.must("POST", v2+"registered-models/create", map[string]string{"name": "bull"})
	var writing sync.WaitGroup
	for w := range writers {
		writing.Go(func() { writeMirrored(ours, id, w) })
	}
	done := make(chan struct{})
	go func() { writing.Wait(); close(done) }()
	for range kills {
		time.Sleep(time.Duration(300+rand.IntN(900)) * time.Millisecond)
		registry.kill()
	}
	<-done
	registry.kill()
	loss.share.Store(0)
	did.requests, did.answers = loss.requests.Load(), loss.answers.Load()

	pool, err := pg.Open(t.Context(), pg.Config{DSN: cfg.DSN, Schema: postgres.Schema, MaxConns: 2}, nil)
	must(t, err)
	defer pool.Close()
	store := postgres.New(pool)
	for i := 0; ; i++ {
		state, err := store.MirrorState(t.Context())
		must(t, err)
		if state.Pending == 0 {
			did.dead = state.Dead
			if state.Dead > 0 {
				letters, err := store.DeadLetters(t.Context(), 0, 10)
				t.Errorf("dead letters: %+v %v", letters, err)
			}
			break
		}
		if i == 1200 {
			t.Fatalf("the mirror did not drain: %+v", state)
		}
		time.Sleep(100 * time.Millisecond)
	}
	story, model := ours.story("specialists"), ours.model("bull")
	same(t, "runs", story, theirs.story("specialists"))
	same(t, "model", model, theirs.model("bull"))
	did.runs, did.versions = len(story), len(model)-1 // beside the aliases
	for _, run := range story {
		for what, value := range run.(map[string]any) {
			switch {
			case strings.HasPrefix(what, "metric "):
				did.metrics += 1 + strings.Count(value.(string), ", ")
			case strings.HasPrefix(what, "file "):
				did.files++
			}
		}
	}
	if did.runs != writers || did.versions != writers {
		t.Errorf("%d runs and %d versions of %d writers", did.runs, did.versions, writers)
	}
	t.Logf("%+v after %d kills", did, kills)
	return did
}

func same(t *testing.T, what string, want, got map[string]any) {
	t.Helper()
	if len(want) == 0 {
		t.Errorf("no %s at all", what)
	}
	for k := range want {
		a, _ := json.MarshalIndent(want[k], "", " ")
		b, _ := json.MarshalIndent(got[k], "", " ")
		if !bytes.Equal(a, b) {
			t.Errorf("%s %s is\n%.3000s\nand over there\n%.3000s", what, k, a, b)
		}
	}
	for k := range got {
		if _, ok := want[k]; !ok {
			t.Errorf("%s %s is only over there", what, k)
		}
	}
}

// writeMirrored tells one run's story. Each call is repeated until it is acknowledged.
func writeMirrored(r rest, experiment any, w int) {
	name := fmt.Sprintf("run-%d", w)
	made := map[string]any{"experiment_id": experiment, "run_name": name, "start_time": 1_700_000_000_000 + w, "tags": []any{map[string]string{"key": "writer", "value": name}}}
	// A create whose answer was lost is found again, as a careful client would.
	var id string
	for id == "" {
		found := r.must("POST", v2+"runs/search", map[string]any{"experiment_ids": []any{experiment}, "filter": "tags.writer = '" + name + "'"})
		if runs := list(found["runs"]); len(runs) > 0 {
			id = dig(runs[0], "info", "run_id").(string)
			break
		}
		if _, err := r.call("POST", v2+"runs/create", made); err != nil {
			time.Sleep(50 * time.Millisecond)
		}
	}
	for step := range 25 {
		var metrics []map[string]any
		for k := range 20 {
			metrics = append(metrics, map[string]any{"key": fmt.Sprintf("m%d", k), "value": float64(step*k) / 7, "step": step, "timestamp": 1_700_000_000_000 + step})
		}
		metrics = append(metrics, map[string]any{"key": "nan", "value": "NaN", "step": step, "timestamp": 1_700_000_000_000},
			map[string]any{"key": "inf", "value": "Infinity", "step": step, "timestamp": 1_700_000_000_000})
		r.must("POST", v2+"runs/log-batch", map[string]any{"run_id": id, "metrics": metrics,
			"params": []map[string]string{{"key": fmt.Sprintf("p%d", step), "value": fmt.Sprint(w)}},
			"tags":   []map[string]string{{"key": "progress", "value": fmt.Sprint(step)}}})
		if step%8 == 0 {
			r.must("PUT", fmt.Sprintf("/api/2.0/mlflow-artifacts/artifacts/%v/%s/artifacts/model/part-%d.bin", experiment, id, step), map[string]int{"content": step})
		}
	}
	r.must("PUT", fmt.Sprintf("/api/2.0/mlflow-artifacts/artifacts/%v/%s/artifacts/model/MLmodel", experiment, id), map[string]string{"flavors": "none"})
	r.must("POST", v2+"runs/update", map[string]any{"run_id": id, "status": "FINISHED", "end_time": 1_700_000_100_000})
	number := ""
	for number == "" {
		found := r.must("GET", v2+"model-versions/search?filter="+url.QueryEscape("name='bull' and run_id='"+id+"'"), nil)
		if versions := list(found["model_versions"]); len(versions) > 0 {
			number = dig(versions[0], "version").(string)
			break
		}
		if _, err := r.call("POST", v2+"model-versions/create", map[string]any{"name": "bull", "source": fmt.Sprintf("mlflow-artifacts:/%v/%s/artifacts/model", experiment, id),
			"run_id": id, "description": name}); err != nil {
			time.Sleep(50 * time.Millisecond)
		}
	}
	r.must("POST", v2+"model-versions/set-tag", map[string]string{"name": "bull", "version": number, "key": "number", "value": number})
	r.must("POST", v2+"model-versions/transition-stage", map[string]any{"name": "bull", "version": number, "stage": "Production", "archive_existing_versions": true})
	r.must("POST", v2+"registered-models/alias", map[string]string{"name": "bull", "alias": "newest", "version": number})
}
