package mlflowmirror

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/ultrathink-pilot/trainyard/libs/objectstore"
	"github.com/ultrathink-pilot/trainyard/libs/objectstore/s3test"
	"github.com/ultrathink-pilot/trainyard/libs/pg/pgtest"
	"github.com/ultrathink-pilot/trainyard/services/registry/internal/catalog"
	"github.com/ultrathink-pilot/trainyard/services/registry/internal/filter"
	"github.com/ultrathink-pilot/trainyard/services/registry/internal/mlflowapi"
	"github.com/ultrathink-pilot/trainyard/services/registry/internal/postgres"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// pair is a registry whose mirror follows a second one over its MLflow API, the nearest
// thing to an MLflow server that a unit test can start. trap sees each request first and
// answers it itself by returning true.
type pair struct {
	*testing.T
	here, there *postgres.Store
	objects     *objectstore.Store
	mirror      *Mirror

	mu    sync.Mutex
	trap  func(w http.ResponseWriter, r *http.Request, next http.Handler) bool
	paths []string
}

func start(t *testing.T) *pair {
	t.Helper()
	p := prepare(t)
	p.follow()
	return p
}

func prepare(t *testing.T) *pair {
	t.Helper()
	t.Parallel()
	p := &pair{T: t, objects: s3test.New(t)}
	p.here = postgres.New(pgtest.New(t, postgres.Schema, postgres.Migrations))
	p.there = postgres.New(pgtest.New(t, postgres.Schema, postgres.Migrations))
	return p
}

func (p *pair) follow() {
	p.Helper()
	facade := mlflowapi.New(mlflowapi.Deps{Store: p.there, Objects: p.objects, Log: zap.NewNop()})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.mu.Lock()
		p.paths = append(p.paths, r.Method+" "+r.URL.Path)
		trap := p.trap
		p.mu.Unlock()
		if trap == nil || !trap(w, r, facade) {
			facade.ServeHTTP(w, r)
		}
	}))
	p.Cleanup(server.Close)
	var err error
	p.mirror, err = New(p.Context(), Config{Store: p.here, Objects: p.objects, Log: zap.NewNop(), Metrics: prometheus.NewRegistry(), Target: server.URL,
		Timing: Timing{Poll: 2 * time.Millisecond, Lease: 4 * time.Second, Request: 2 * time.Second, Backoff: 2 * time.Millisecond,
			MaxBackoff: 20 * time.Millisecond, Quiet: time.Millisecond, Reconcile: time.Hour}})
	p.must(err)
	ctx, cancel := context.WithCancel(context.WithoutCancel(p.Context()))
	done := make(chan error, 1)
	go func() { done <- p.mirror.Run(ctx) }()
	p.Cleanup(func() {
		cancel()
		p.must(<-done)
	})
}

func (p *pair) must(err error) {
	p.Helper()
	if err != nil {
		p.Fatal(err)
	}
}

func (p *pair) set(trap func(w http.ResponseWriter, r *http.Request, next http.Handler) bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.trap = trap
}

// once answers the first request to a route by itself.
func once(route string, answer func(w http.ResponseWriter, r *http.Request, next http.Handler)) func(http.ResponseWriter, *http.Request, http.Handler) bool {
	var first sync.Once
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) (taken bool) {
		if strings.HasSuffix(r.URL.Path, route) {
			first.Do(func() {
				taken = true
				answer(w, r, next)
			})
		}
		return taken
	}
}

// loseAnswer lets a request be carried out and breaks its connection.
func loseAnswer(_ http.ResponseWriter, r *http.Request, next http.Handler) {
	next.ServeHTTP(httptest.NewRecorder(), r)
	panic(http.ErrAbortHandler)
}

func (p *pair) do(fn func(*postgres.Tx) error) {
	p.Helper()
	p.must(p.here.Do(p.Context(), time.Now(), fn))
}

var began = time.UnixMilli(1_700_000_000_000).UTC()

// run makes a run with some of everything.
func (p *pair) run(tags map[string]string) string {
	p.Helper()
	id := uuid.NewString()
	p.do(func(t *postgres.Tx) error {
		if err := t.CreateRun(p.Context(), postgres.NewRun{ID: id, DisplayName: "first", UserID: "ann", StartTime: began, Tags: tags}); err != nil {
			return err
		}
		return t.LogBatch(p.Context(), id, postgres.Guard{}, points(250), []catalog.Param{{Key: "lr", Value: "0.1"}, {Key: "symbol", Value: "SPX"}}, map[string]string{"note": "it's \"odd\"\n"})
	})
	return id
}

func points(n int) []catalog.MetricPoint {
	var out []catalog.MetricPoint
	for i := range n {
		v := float64(i) / 3
		switch i {
		case 7:
			v = math.NaN()
		case 9:
			v = math.Inf(-1)
		}
		out = append(out, catalog.MetricPoint{Key: "loss", Step: int64(i), Time: began, Value: v})
	}
	return out
}

// drained waits until nothing waits and everything was compared.
func (p *pair) drained() postgres.MirrorState {
	p.Helper()
	runs, err := p.here.SearchRunPage(p.Context(), postgres.RunSearch{Lifecycles: []catalog.Lifecycle{catalog.Active, catalog.Deleted}, Limit: 10})
	p.must(err)
	models, err := p.here.ListModels(p.Context(), "")
	p.must(err)
	tick := time.NewTicker(3 * time.Millisecond)
	defer tick.Stop()
	for {
		state, err := p.here.MirrorState(p.Context())
		p.must(err)
		if state.Pending == 0 && state.Unverified == 0 && state.Lanes >= int64(len(runs)+len(models)) {
			return state
		}
		select {
		case <-p.Context().Done():
			p.Fatalf("the mirror did not drain: %+v", state)
		case <-tick.C:
		}
	}
}

// only returns the one run that the other side has, and refuses two.
func (p *pair) only() catalog.Run {
	p.Helper()
	runs, err := p.there.SearchRunPage(p.Context(), postgres.RunSearch{Lifecycles: []catalog.Lifecycle{catalog.Active, catalog.Deleted}, Limit: 10})
	p.must(err)
	if len(runs) != 1 {
		p.Fatalf("%d runs over there", len(runs))
	}
	return runs[0].Run
}

// equal fails unless both sides show the same run.
func (p *pair) equal(id string) {
	p.Helper()
	want, err := p.here.MirroredRun(p.Context(), id)
	p.must(err)
	got, err := p.there.MirroredRun(p.Context(), p.only().ID)
	p.must(err)
	if got.Run.Tags[uidTag] != id {
		p.Errorf("the run over there is tagged %q", got.Run.Tags[uidTag])
	}
	delete(got.Run.Tags, uidTag)
	if want.Run.Tags["mlflow.runName"] == "" {
		delete(got.Run.Tags, "mlflow.runName") // what a run is called is a tag over there
	}
	show := func(m postgres.MirroredRun) string {
		var files []string
		for _, f := range m.Files {
			files = append(files, f.Path+" "+f.SHA256)
		}
		return fmt.Sprint(m.Run.State, m.Run.Lifecycle, m.Run.Params, m.Run.Tags, m.Run.EndTime, m.Run.Latest, files, len(m.Points), " points ",
			objectstore.Digest([]byte(fmt.Sprint(m.Points))))
	}
	if show(want) != show(got) {
		p.Errorf("here\n%s\nthere\n%s", show(want), show(got))
	}
}

func TestEverythingOfARunArrivesOnce(t *testing.T) {
	p := start(t)
	id := p.run(map[string]string{"desk": "alpha"})
	g := postgres.Guard{}
	p.do(func(t *postgres.Tx) error {
		return t.LogInputs(p.Context(), id, g, []postgres.Input{{Name: "spx", Digest: "d1", JSON: json.RawMessage(`{"dataset":{"name":"spx","digest":"d1","source_type":"x","source":"y"}}`)}})
	})
	p.do(func(t *postgres.Tx) error { _, err := t.DeleteRunTag(p.Context(), id, "desk", g); return err })
	p.publish(id, "model/MLmodel", "flavors")
	p.publish(id, "model/weights.bin", strings.Repeat("w", 5000))
	p.publish(id, "notes/a.txt", "going")
	p.do(func(t *postgres.Tx) error { return t.HideArtifacts(p.Context(), id, g, "notes") })
	p.do(func(t *postgres.Tx) error {
		return t.UpdateRun(p.Context(), id, g, postgres.RunUpdate{State: catalog.RunSucceeded, EndTime: began.Add(time.Hour), DisplayName: "renamed"})
	})
	p.do(func(t *postgres.Tx) error { return t.SetRunLifecycle(p.Context(), id, catalog.Deleted) })
	if state := p.drained(); state.Dead != 0 || state.Diverged != 0 {
		letters, err := p.here.DeadLetters(t.Context(), 0, 10)
		t.Errorf("%+v %+v %v", state, letters, err)
	}
	p.equal(id)
}

func (p *pair) publish(run, path, content string) {
	p.Helper()
	file := catalog.File{Name: path, SHA256: objectstore.Digest([]byte(content)), Size: int64(len(content))}
	var staged postgres.Artifact
	p.do(func(t *postgres.Tx) (err error) {
		staged, err = t.StageArtifact(p.Context(), run, postgres.Guard{}, file)
		return err
	})
	_, err := p.objects.Put(p.Context(), staged.ObjectKey, strings.NewReader(content), file.Size, file.SHA256)
	p.must(err)
	p.do(func(t *postgres.Tx) error {
		_, err := t.PublishArtifact(p.Context(), uuid.NewString(), run, postgres.Guard{}, file, "")
		return err
	})
}

// A create whose answer is lost is found by the next try, and so is everything else.
func TestLostAnswersDoubleNothing(t *testing.T) {
	for _, route := range []string{"experiments/get-by-name", "runs/search", "runs/create", "runs/log-batch", "artifacts/model/MLmodel", "runs/update"} {
		t.Run(route, func(t *testing.T) {
			p := start(t)
			p.set(once(route, loseAnswer))
			id := p.run(nil)
			p.publish(id, "model/MLmodel", "flavors")
			p.do(func(t *postgres.Tx) error {
				return t.UpdateRun(p.Context(), id, postgres.Guard{}, postgres.RunUpdate{State: catalog.RunFailed, EndTime: began})
			})
			p.drained()
			p.equal(id)
		})
	}
}

// Releases of MLflow refuse a whole batch for one point that they have.
func TestABatchThatWasHalfAppliedIsCompleted(t *testing.T) {
	p := start(t)
	p.set(once("runs/log-batch", func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		raw, err := io.ReadAll(r.Body)
		p.must(err)
		var batch map[string]any
		p.must(json.Unmarshal(raw, &batch))
		if metrics, ok := batch["metrics"].([]any); ok {
			batch["metrics"] = metrics[:len(metrics)/2]
		}
		half, err := json.Marshal(batch)
		p.must(err)
		again := httptest.NewRequest(r.Method, r.URL.Path, strings.NewReader(string(half)))
		again.Header = r.Header
		next.ServeHTTP(httptest.NewRecorder(), again)
		w.WriteHeader(http.StatusBadRequest)
		_, _ = io.WriteString(w, `{"error_code":"BAD_REQUEST","message":"(psycopg2.errors.UniqueViolation) duplicate key value violates unique constraint \"metric_pk\""}`)
	}))
	id := p.run(nil)
	p.drained()
	p.equal(id)
}

// A param that another hand set over there is one dead letter, and stops nothing else.
func TestAConflictIsADeadLetterThatCanBeRetried(t *testing.T) {
	p := start(t)
	first := once("runs/log-batch", func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		foreign := p.only().ID
		p.must(p.there.Do(p.Context(), time.Now(), func(t *postgres.Tx) error {
			return t.LogBatch(p.Context(), foreign, postgres.Guard{}, nil, []catalog.Param{{Key: "lr", Value: "9"}}, nil)
		}))
		next.ServeHTTP(w, r)
	})
	p.set(first)
	p.run(nil)
	state := p.drained()
	letters, err := p.here.DeadLetters(t.Context(), 0, 10)
	if err != nil || len(letters) == 0 || !strings.Contains(letters[0].Reason, `param "lr" is "9" over there and cannot become "0.1"`) || strings.Contains(letters[0].Payload, "symbol") {
		t.Fatalf("%+v %+v %v", state, letters, err)
	}
	if r := p.only(); r.Params["symbol"] != "SPX" || len(r.Latest) != 1 {
		t.Errorf("the rest did not arrive: %+v", r)
	}
	var revived int64
	p.do(func(t *postgres.Tx) (err error) {
		revived, err = t.Revive(p.Context(), []int64{letters[0].Seq})
		return err
	})
	p.drained()
	if again, err := p.here.DeadLetters(t.Context(), 0, 10); err != nil || revived != 1 || slices.ContainsFunc(again, func(d postgres.DeadLetter) bool { return d.Seq == letters[0].Seq }) {
		t.Errorf("revived %d: %+v %v", revived, again, err)
	}
}

// While the server is away nothing is lost, and it is left alone more and more.
func TestAnOutageOpensTheBreakerAndLosesNothing(t *testing.T) {
	p := start(t)
	asked := 0
	back := make(chan struct{})
	p.set(func(w http.ResponseWriter, _ *http.Request, _ http.Handler) bool {
		p.mu.Lock()
		asked++
		n := asked
		p.mu.Unlock()
		select {
		case <-back:
			return false
		default:
		}
		if n == breakerFailures+2 {
			close(back)
		}
		w.Header().Set("Retry-After", "0")
		w.WriteHeader(http.StatusServiceUnavailable)
		return true
	})
	id := p.run(nil)
	p.drained()
	p.equal(id)
	var b breaker
	b.first, b.most = time.Second, time.Minute
	for range breakerFailures {
		if b.rest(began) != 0 {
			t.Error("open too early")
		}
		b.fail(began)
	}
	if b.rest(began) != time.Second || !b.probing() {
		t.Errorf("rests %s", b.rest(began))
	}
	b.fail(began)
	if b.rest(began) != 2*time.Second {
		t.Errorf("rests %s after the probe failed", b.rest(began))
	}
	if b.succeed(); b.rest(began) != 0 {
		t.Error("still open")
	}
}

// What was there before the mirror goes over too, and a run that was wiped there comes back.
func TestBackfillAndAWipedRun(t *testing.T) {
	p := prepare(t)
	id := p.run(map[string]string{"old": "yes"})
	p.publish(id, "a/b.txt", "text")
	p.do(func(t *postgres.Tx) error {
		return t.CreateModel(p.Context(), "bull", "described", map[string]string{"k": "v"})
	})
	p.follow()
	p.drained()
	p.equal(id)
	if m, err := p.there.GetModel(t.Context(), "bull"); err != nil || m.Description != "described" || m.Tags["k"] != "v" {
		t.Errorf("%+v %v", m, err)
	}
	gone := p.only().ID
	p.set(func(w http.ResponseWriter, r *http.Request, next http.Handler) bool {
		raw, err := io.ReadAll(r.Body)
		p.must(err)
		if strings.Contains(string(raw), gone) || strings.Contains(r.URL.RawQuery, gone) {
			w.WriteHeader(http.StatusNotFound)
			_, _ = io.WriteString(w, `{"error_code":"RESOURCE_DOES_NOT_EXIST","message":"Run with id=`+gone+` not found"}`)
			return true
		}
		if strings.HasSuffix(r.URL.Path, "runs/search") {
			_, _ = io.WriteString(w, `{}`)
			return true
		}
		r.Body = io.NopCloser(strings.NewReader(string(raw)))
		next.ServeHTTP(w, r)
		return true
	})
	p.do(func(t *postgres.Tx) error {
		return t.LogBatch(p.Context(), id, postgres.Guard{}, nil, nil, map[string]string{"late": "tag"})
	})
	p.drained()
	lane, _, err := p.here.RemoteRun(t.Context(), id)
	if err != nil || lane == gone || lane == "" {
		t.Fatalf("the run is still mapped to %q: %v", lane, err)
	}
	again, err := p.there.MirroredRun(t.Context(), dashed(lane))
	if err != nil || len(again.Points) != 250 || again.Run.Tags["late"] != "tag" || len(again.Files) != 1 {
		t.Errorf("the run sent anew: %+v %v", again.Run, err)
	}
}

func dashed(id string) string {
	u, err := uuid.Parse(id)
	if err != nil {
		return id
	}
	return u.String()
}

// A comparison finds what is missing over there and sends it again.
func TestAComparisonRepairs(t *testing.T) {
	p := start(t)
	p.set(once("runs/log-batch", func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
		_, _ = io.WriteString(w, "{}") // says it took the batch, and did not
	}))
	id := p.run(map[string]string{"desk": "alpha"})
	p.drained()
	p.equal(id)
}

// Versions, stages, aliases, tags and descriptions become equal whatever happens on the way,
// and a hand that moves them over there is corrected.
func TestAModelIsReadBackAndRepaired(t *testing.T) {
	for _, route := range []string{"", "registered-models/create", "model-versions/create", "model-versions/transition-stage", "registered-models/alias", "registered-models/rename"} {
		t.Run("lost "+route, func(t *testing.T) {
			p := start(t)
			if route != "" {
				p.set(once(route, loseAnswer))
			}
			run := p.run(nil)
			by := postgres.By{Actor: "ann"}
			p.do(func(t *postgres.Tx) error { return t.CreateModel(p.Context(), "bear", "", nil) })
			for i := range 3 {
				p.do(func(t *postgres.Tx) error {
					_, err := t.AddSourceVersion(p.Context(), "bear", postgres.SourceVersion{Source: "mlflow-artifacts:/0/" + run + "/artifacts/model", RunID: run,
						Tags: map[string]string{"i": fmt.Sprint(i)}}, by)
					return err
				})
				p.do(func(t *postgres.Tx) error {
					_, _, err := t.Promote(p.Context(), postgres.Promotion{Model: "bear", Version: int32(i + 1), To: catalog.StageProduction, By: by})
					return err
				})
			}
			p.drained()
			p.do(func(t *postgres.Tx) error { return t.SetAlias(p.Context(), "bear", "champion", 2, by) })
			p.do(func(t *postgres.Tx) error { return t.DeleteVersion(p.Context(), "bear", 1, by) })
			p.do(func(t *postgres.Tx) error { return t.RenameModel(p.Context(), "bear", "grizzly") })
			p.drained()
			p.sameModel()
			p.must(p.there.Do(t.Context(), time.Now(), func(t *postgres.Tx) error {
				_, _, err := t.Promote(p.Context(), postgres.Promotion{Model: "grizzly", Version: 2, To: catalog.StageProduction, By: by})
				return err
			}))
			p.do(func(t *postgres.Tx) error { _, err := t.CompareAll(p.Context()); return err })
			p.drained()
			p.sameModel()
			p.do(func(t *postgres.Tx) error {
				_, _, err := t.Promote(p.Context(), postgres.Promotion{Model: "grizzly", Version: 3, To: catalog.StageArchived, By: by})
				return err
			})
			p.do(func(t *postgres.Tx) error { return t.DeleteModel(p.Context(), "grizzly", by) })
			p.drained()
			if all, err := p.there.SearchModels(t.Context(), []filter.Clause{}, nil, postgres.Page{Limit: 9}); err != nil || len(all) != 0 {
				t.Errorf("left over there: %+v %v", all, err)
			}
		})
	}
}

func (p *pair) sameModel() {
	p.Helper()
	show := func(s *postgres.Store) string {
		m, err := s.GetModel(p.Context(), "grizzly")
		p.must(err)
		versions, err := s.Versions(p.Context(), "grizzly")
		p.must(err)
		out := fmt.Sprint(m.Description, m.Aliases)
		for _, v := range versions {
			delete(v.Tags, versionTag)
			out += fmt.Sprint("\n", v.Version, v.Stage, v.Tags, v.Aliases, strings.HasSuffix(v.Source, "/artifacts/model"))
		}
		return out
	}
	if here, there := show(p.here), show(p.there); here != there {
		p.Errorf("here %s\nthere %s", here, there)
	}
}

// Who sees an MLmodel over there finds the files that it names.
func TestManifestsGoLast(t *testing.T) {
	p := prepare(t)
	id := p.run(nil)
	for _, path := range []string{"MLmodel", "model/MLmodel", "model/weights.bin", "z.txt"} {
		p.publish(id, path, "content of "+path)
	}
	p.follow()
	p.drained()
	p.equal(id)
	var order []string
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, path := range p.paths {
		if rest, ok := strings.CutPrefix(path, "PUT "); ok {
			order = append(order, rest[strings.Index(rest, "/artifacts/0/"):][len("/artifacts/0/"):][32+len("/artifacts/"):])
		}
	}
	if i := slices.Index(order, "MLmodel"); i < 2 || len(order) != 4 {
		t.Errorf("sent in the order %q", order)
	}
}
