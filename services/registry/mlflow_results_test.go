//go:build results

package registry

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/ultrathink-pilot/trainyard/libs/benchtable"
	"github.com/ultrathink-pilot/trainyard/libs/pg"
	"github.com/ultrathink-pilot/trainyard/libs/pg/pgserver"
	"github.com/ultrathink-pilot/trainyard/services/registry/internal/postgres"
)

// contestant is one of the two servers: its address, and the processes whose time counts.
type contestant struct {
	rest
	name     string
	pid      int
	database string
	client   *http.Client
}

const resultsCommand = "tools/dev/setup mlflow && TRAINYARD_TEST_MLFLOW_SERVER=$PWD/.cache/bin/mlflow2-python make bench ONLY=services/registry RESULTS=TestResultsMLflow"

// duel starts both servers on one durable Postgres, each in a database of its own.
func duel(t *testing.T) (ours, theirs *contestant) {
	python := mlflowServers(t)[0]
	bin, err := pgserver.Find(t.Context(), nil)
	must(t, err)
	dir, err := os.MkdirTemp("", "trainyard-results-*")
	must(t, err)
	t.Cleanup(func() { must(t, os.RemoveAll(dir)) })
	must(t, os.Chmod(dir, 0o755))
	database, err := pgserver.Start(t.Context(), pgserver.Options{Dir: filepath.Join(dir, "pg"), Durable: true, Binaries: bin})
	must(t, err)
	t.Cleanup(func() { must(t, database.Stop()) })
	must(t, database.EnsureDatabase(t.Context(), "ours"))
	must(t, database.EnsureDatabase(t.Context(), "theirs"))
	return startOurs(t, database.DSN("ours"), dir), startTheirs(t, python, database.DSN("theirs"), dir)
}

// Ours and MLflow's own server, one after the other, on the same machine and the same
// Postgres, each in a database of its own.
func TestResultsMLflow(t *testing.T) {
	ours, theirs := duel(t)
	section := benchtable.Section{Page: "mlflow.md", Title: "Head to head with MLflow's own server", Command: resultsCommand,
		Intro: "Both servers on one machine and one durable Postgres, each in its own database; MLflow with 4 workers. 8 clients keep a connection each; " +
			"4 for histories and searches. CPU is the server's own, without Postgres."}
	row := func(what, askedRate, askedCPU string, o, p load) {
		section.Rows = append(section.Rows,
			benchtable.Row{What: what + ": requests", Asked: askedRate, Ours: benchtable.Of("req/s", o.rates...), Peer: benchtable.Of("req/s", p.rates...), PeerName: theirs.name})
		if askedCPU != "" {
			section.Rows = append(section.Rows,
				benchtable.Row{What: what + ": server CPU per request", Asked: askedCPU, Ours: benchtable.Of("ms", o.cpu...), Peer: benchtable.Of("ms", p.cpu...), PeerName: theirs.name})
		}
	}
	both := func(what, askedRate, askedCPU string, clients int, span time.Duration, request func(c *contestant, client, i int) error) {
		o, p := ours.drive(t, clients, span, request), theirs.drive(t, clients, span, request)
		t.Logf("%s: %.0f req/s %.3f ms, MLflow %.1f req/s %.2f ms", what, o.rates, o.cpu, p.rates, p.cpu)
		row(what, askedRate, askedCPU, o, p)
	}
	runs := map[*contestant][]string{}
	for _, c := range []*contestant{ours, theirs} {
		for range 8 {
			made := c.must("POST", v2+"runs/create", map[string]any{"experiment_id": "0", "start_time": 1_700_000_000_000})
			runs[c] = append(runs[c], dig(made, "run", "info", "run_id").(string))
		}
	}
	both("log-metric", ">= 8x", ">= 15x less", 8, 3*time.Second, func(c *contestant, client, i int) error {
		return c.post(v2+"runs/log-metric", fmt.Sprintf(`{"run_id":%q,"key":"m","value":%d.5,"timestamp":%d,"step":%d}`, runs[c][client], i, 1_700_000_000_000+i, i))
	})
	for _, size := range []int{10, 100} {
		both(fmt.Sprintf("log-batch of %d metrics", size), ">= 8x", ">= 15x less", 8, 3*time.Second, func(c *contestant, client, i int) error {
			var b strings.Builder
			fmt.Fprintf(&b, `{"run_id":%q,"metrics":[`, runs[c][client])
			for k := range size {
				if k > 0 {
					b.WriteByte(',')
				}
				fmt.Fprintf(&b, `{"key":"b%d_%d","value":%d.25,"timestamp":%d,"step":%d}`, size, k, i, 1_700_000_000_000+i, i)
			}
			b.WriteString("]}")
			return c.post(v2+"runs/log-batch", b.String())
		})
	}
	both("runs/create", "", "", 8, 2*time.Second, func(c *contestant, _, _ int) error {
		return c.post(v2+"runs/create", `{"experiment_id":"0","start_time":1700000000000}`)
	})
	for _, c := range []*contestant{ours, theirs} {
		c.fill(t, runs[c][0])
	}
	both("get-history of 10,000 points", ">= 30x", "", 4, 4*time.Second, func(c *contestant, _, _ int) error {
		return c.fetch(v2 + "metrics/get-history?metric_key=long&max_results=25000&run_id=" + runs[c][0])
	})
	both("search over 10,000 runs, by metric and param, ordered, 100 results", ">= 10x", "", 4, 4*time.Second, func(c *contestant, _, _ int) error {
		return c.post(v2+"runs/search", `{"experiment_ids":["`+crowd+`"],"filter":"metrics.loss < 0.5 and params.lr = '3'","order_by":["metrics.loss DESC"],"max_results":100}`)
	})
	section.Rows = append(section.Rows,
		benchtable.Row{What: "resident memory after that", Asked: "< 100 MB", Ours: benchtable.Of("MB", ours.resident(t)), Peer: benchtable.Of("MB", theirs.resident(t)), PeerName: theirs.name},
		benchtable.Row{What: "6 callers promote at once: rounds that end with exactly one Production", Asked: "all", Ours: benchtable.Of("% of 1,000 rounds", ours.race(t, 1000)),
			Peer: benchtable.Of("% of 20 rounds", theirs.race(t, 20)), PeerName: theirs.name})
	section.Write(t)
}

// Alone on an empty database: from the start of the process to the first good answer.
func TestResultsReady(t *testing.T) {
	var took []time.Duration
	for range 5 {
		dsn, dir := nobodysDSN(t), t.TempDir()
		cmd, address := ourProcess(t, dsn, dir)
		began := time.Now()
		must(t, cmd.Start())
		for {
			resp, err := http.Get("http://" + address + v2 + "experiments/get?experiment_id=0")
			if err == nil {
				must(t, resp.Body.Close())
				if resp.StatusCode == http.StatusOK {
					break
				}
			}
			if time.Since(began) > time.Minute {
				t.Fatalf("not ready: %v", err)
			}
			time.Sleep(2 * time.Millisecond)
		}
		took = append(took, time.Since(began))
		_ = cmd.Process.Kill() // it serves until then
		_ = cmd.Wait()         // killed is what it is
	}
	benchtable.Section{Page: resultsPage, Title: "Ready", Command: again("TestResultsReady"),
		Intro: "The registry alone (--mlflow-listen, --artifact-root=DIRECTORY) on an empty database: from the start of the process, with all migrations, to the first answer of experiments/get.",
		Rows:  []benchtable.Row{{What: "ready on an empty database", Asked: "< 2 s", Ours: benchtable.Durations(took...)}}}.Write(t)
}

// ourProcess is a registry alone, not started yet, and where its facade will be.
func ourProcess(t *testing.T, dsn, dir string) (*exec.Cmd, string) {
	t.Helper()
	free, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	address := free.Addr().String()
	must(t, free.Close())
	cfg := Config{Listen: "127.0.0.1:0", LogLevel: "error", DSN: dsn, MaxConns: 16, ArtifactRoot: filepath.Join(dir, "artifacts"), MLflow: MLflow{Listen: address, Insecure: true}}
	raw, err := json.Marshal(cfg)
	must(t, err)
	cmd := exec.Command(os.Args[0], "-test.run=^$")
	cmd.Env = append(os.Environ(), childEnv+"="+string(raw))
	cmd.Stderr = os.Stderr
	return cmd, address
}

func startOurs(t *testing.T, dsn, dir string) *contestant {
	cmd, address := ourProcess(t, dsn, dir)
	return startContestant(t, cmd, "ours", address, dsn)
}

func startTheirs(t *testing.T, python, dsn, dir string) *contestant {
	version, err := exec.Command(python, "-c", "import mlflow.version; print(mlflow.version.VERSION)").Output()
	must(t, err)
	free, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	address := free.Addr().String()
	must(t, free.Close())
	_, port, _ := net.SplitHostPort(address)
	cmd := exec.Command(python, "-m", "mlflow", "server", "--backend-store-uri", sqlalchemy(dsn), "--artifacts-destination", filepath.Join(dir, "theirs"),
		"--host", "127.0.0.1", "--port", port, "--workers", "4")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "HOME="+dir, "GIT_PYTHON_REFRESH=quiet", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false")
	return startContestant(t, cmd, "MLflow "+strings.TrimSpace(string(version)), address, dsn)
}

// sqlalchemy rewrites a connection string for psycopg2.
func sqlalchemy(dsn string) string {
	u, err := url.Parse(dsn)
	if err == nil && u.Scheme != "" {
		u.Scheme = "postgresql+psycopg2"
		return u.String()
	}
	q := url.Values{}
	user, database := "postgres", "postgres"
	for _, field := range strings.Fields(dsn) {
		k, v, _ := strings.Cut(field, "=")
		switch v = strings.Trim(v, "'"); k {
		case "user":
			user = v
		case "dbname":
			database = v
		default:
			q.Set(k, v)
		}
	}
	return "postgresql+psycopg2://" + user + "@/" + database + "?" + q.Encode()
}

func startContestant(t *testing.T, cmd *exec.Cmd, name, address, dsn string) *contestant {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	must(t, cmd.Start())
	t.Cleanup(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // it may have ended by itself
		_ = cmd.Wait()                                      // killed is what it is
	})
	c := &contestant{rest: rest{t, "http://" + address}, name: name, pid: cmd.Process.Pid, database: dsn,
		client: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 16}, Timeout: time.Minute}}
	for range 1200 {
		if resp, err := c.client.Get(c.base + "/health"); err == nil {
			must(t, resp.Body.Close())
			if resp.StatusCode == http.StatusOK {
				return c
			}
		}
		time.Sleep(100 * time.Millisecond)
	}
	t.Fatalf("%s did not start", name)
	return nil
}

// load is what one side did under one kind of request: requests per second, and milliseconds
// of the server's processor time per request.
type load struct{ rates, cpu []float64 }

// repeats is how often each load is measured.
const repeats = 3

func (c *contestant) drive(t *testing.T, clients int, span time.Duration, request func(c *contestant, client, i int) error) load {
	t.Helper()
	var out load
	var serial atomic.Int64
	for range repeats {
		var done atomic.Int64
		var group sync.WaitGroup
		before, began := c.cpu(t), time.Now()
		for client := range clients {
			group.Go(func() {
				for time.Since(began) < span {
					if err := request(c, client, int(serial.Add(1))); err != nil {
						t.Errorf("%s: %v", c.name, err)
						return
					}
					done.Add(1)
				}
			})
		}
		group.Wait()
		took := time.Since(began)
		out.rates = append(out.rates, float64(done.Load())/took.Seconds())
		out.cpu = append(out.cpu, (c.cpu(t)-before).Seconds()*1000/float64(done.Load()))
	}
	return out
}

func (c *contestant) post(path, body string) error {
	resp, err := c.client.Post(c.base+path, "application/json", strings.NewReader(body))
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }() // read to its end
	raw, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %d %.300s", path, resp.StatusCode, raw)
	}
	return err
}

// fetch reads the long series, whole.
func (c *contestant) fetch(path string) error {
	const points = 10_000
	resp, err := c.client.Get(c.base + path)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }() // read to its end
	raw, err := io.ReadAll(resp.Body)
	if got := bytes.Count(raw, []byte(`"step"`)); err == nil && got != points {
		err = fmt.Errorf("%d points, %d wanted: %.200s", got, points, raw)
	}
	return err
}

// group lists the processes of the server: its own and its workers.
func (c *contestant) group(t *testing.T) []string {
	t.Helper()
	all, err := filepath.Glob("/proc/[0-9]*/stat")
	must(t, err)
	var out []string
	for _, file := range all {
		raw, err := os.ReadFile(file)
		if err != nil {
			continue // it ended meanwhile
		}
		_, rest, ok := strings.Cut(string(raw), ") ")
		if fields := strings.Fields(rest); ok && len(fields) > 2 && fields[2] == strconv.Itoa(c.pid) {
			out = append(out, filepath.Dir(file))
		}
	}
	return out
}

// cpu is the processor time that the server's processes used so far; the clock ticks 100 times a second.
func (c *contestant) cpu(t *testing.T) time.Duration {
	var ticks int64
	for _, dir := range c.group(t) {
		raw, err := os.ReadFile(filepath.Join(dir, "stat"))
		if err != nil {
			continue
		}
		_, rest, _ := strings.Cut(string(raw), ") ")
		for _, field := range strings.Fields(rest)[11:13] {
			n, err := strconv.ParseInt(field, 10, 64)
			must(t, err)
			ticks += n
		}
	}
	return time.Duration(ticks) * 10 * time.Millisecond
}

func (c *contestant) resident(t *testing.T) float64 {
	total := 0.0
	for _, dir := range c.group(t) {
		raw, err := os.ReadFile(filepath.Join(dir, "statm"))
		if err != nil {
			continue
		}
		pages, err := strconv.ParseFloat(strings.Fields(string(raw))[1], 64)
		must(t, err)
		total += pages * float64(os.Getpagesize()) / 1e6
	}
	return total
}

// crowd is the experiment of ten thousand runs: the first after Default on both sides.
const crowd = "1"

// fill writes a series of 10,000 points and an experiment of 10,000 runs straight into the
// tables: over MLflow's API it would take minutes.
func (c *contestant) fill(t *testing.T, run string) {
	t.Helper()
	c.must("POST", v2+"experiments/create", map[string]string{"name": "crowd"})
	schema := "public"
	statements := []string{
		`INSERT INTO metrics (key, value, timestamp, run_uuid, step, is_nan) SELECT 'long', i * 0.5, 1700000000000 + i, '` + run + `', i, false FROM generate_series(1, 10000) i`,
		`INSERT INTO runs (run_uuid, name, user_id, status, start_time, lifecycle_stage, artifact_uri, experiment_id)
			SELECT md5(i::text), 'run-' || i, 'ann', 'FINISHED', 1700000000000 + i, 'active', 'mlflow-artifacts:/1/' || md5(i::text), 1 FROM generate_series(1, 10000) i`,
		`INSERT INTO params (key, value, run_uuid) SELECT 'lr', (i % 10)::text, md5(i::text) FROM generate_series(1, 10000) i`,
		`INSERT INTO tags (key, value, run_uuid) SELECT 'mlflow.runName', 'run-' || i, md5(i::text) FROM generate_series(1, 10000) i`,
		`INSERT INTO latest_metrics (key, value, timestamp, run_uuid, step, is_nan) SELECT 'loss', (i % 1000) / 1000.0, 1700000000000 + i, md5(i::text), 1, false FROM generate_series(1, 10000) i`,
		`VACUUM ANALYZE`,
	}
	if c.name == "ours" {
		schema = postgres.Schema
		for i := range 20 { // the facade itself, 500 points a time
			var points []map[string]any
			for k := range 500 {
				n := i*500 + k + 1
				points = append(points, map[string]any{"key": "long", "value": float64(n) * 0.5, "timestamp": 1_700_000_000_000 + n, "step": n})
			}
			c.must("POST", v2+"runs/log-batch", map[string]any{"run_id": run, "metrics": points})
		}
		statements = []string{
			`INSERT INTO runs (run_id, experiment_id, display_name, state, user_id, start_time, end_time, create_time, update_time)
				SELECT md5(i::text)::uuid::text, 1, 'run-' || i, 'SUCCEEDED', 'ann', to_timestamp(1700000000 + i), now(), now(), now() FROM generate_series(1, 10000) i`,
			`INSERT INTO run_params (run_id, key, value) SELECT md5(i::text)::uuid::text, 'lr', (i % 10)::text FROM generate_series(1, 10000) i`,
			`INSERT INTO run_tags (run_id, key, value) SELECT md5(i::text)::uuid::text, 'mlflow.runName', 'run-' || i FROM generate_series(1, 10000) i`,
			`INSERT INTO metric_series (run_id, key) SELECT md5(i::text)::uuid::text, 'loss' FROM generate_series(1, 10000) i`,
			`INSERT INTO metric_latest (series_id, step, time, attempt, value) SELECT s.series_id, 1, now(), 0, (i % 1000) / 1000.0
				FROM generate_series(1, 10000) i JOIN metric_series s ON s.run_id = md5(i::text)::uuid::text`,
			`VACUUM ANALYZE`,
		}
	}
	c.run(t, schema, statements)
}

// run executes statements in the contestant's own database.
func (c *contestant) run(t *testing.T, schema string, statements []string) {
	t.Helper()
	pool, err := pg.Open(t.Context(), pg.Config{DSN: c.database, Schema: schema, MaxConns: 2}, nil)
	must(t, err)
	defer pool.Close()
	for _, statement := range statements {
		if _, err := pool.Exec(t.Context(), statement); err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
	}
}

// race lets six callers promote six versions at the same time, and says in how many rounds,
// in percent, exactly one of them is in Production afterwards.
func (c *contestant) race(t *testing.T, rounds int) float64 {
	t.Helper()
	c.must("POST", v2+"registered-models/create", map[string]string{"name": "racer"})
	for range 6 {
		c.must("POST", v2+"model-versions/create", map[string]string{"name": "racer", "source": "s3://bucket/model"})
	}
	good := 0
	for range rounds {
		var callers sync.WaitGroup
		for v := range 6 {
			callers.Go(func() {
				_ = c.post(v2+"model-versions/transition-stage", fmt.Sprintf(`{"name":"racer","version":"%d","stage":"Production","archive_existing_versions":true}`, v+1))
			})
		}
		callers.Wait()
		live := 0
		for _, v := range list(c.must("GET", v2+"model-versions/search?filter="+url.QueryEscape("name='racer'"), nil)["model_versions"]) {
			if dig(v, "current_stage") == "Production" {
				live++
			}
		}
		if live == 1 {
			good++
		}
		for v := range 6 { // and back, one by one
			must(t, c.post(v2+"model-versions/transition-stage", fmt.Sprintf(`{"name":"racer","version":"%d","stage":"None","archive_existing_versions":false}`, v+1)))
		}
	}
	return 100 * float64(good) / float64(rounds)
}
