//go:build results

package registry

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/ultrathink-pilot/trainyard/libs/benchtable"
	"github.com/ultrathink-pilot/trainyard/services/registry/internal/postgres"
)

const searchCommand = "tools/dev/setup mlflow && TRAINYARD_TEST_MLFLOW_SERVER=$PWD/.cache/bin/mlflow2-python make bench ONLY=services/registry RESULTS=TestResultsSearch"

// herd is 10,000 runs, each with 8 metrics, 8 params and 4 tags, written straight into the tables
// of both: over MLflow's API it would take minutes.
func (c *contestant) herd(t *testing.T) {
	t.Helper()
	c.must("POST", v2+"experiments/create", map[string]string{"name": "herd"})
	const (
		metrics = `unnest(ARRAY['loss','acc','f1','auc','val_loss','val_acc','rate','grad']) WITH ORDINALITY AS k(key, n)`
		number  = `(((i * 7919 + n * 104729) % 10007) / 10007.0)`
		params  = `unnest(ARRAY['lr','batch','depth','optimizer','seed','schedule','decay','momentum']) WITH ORDINALITY AS k(key, n)`
		param   = `CASE key WHEN 'lr' THEN (i % 10)::text WHEN 'optimizer' THEN (ARRAY['adam','adamw','sgd','rmsprop','lion'])[1 + i % 5] ELSE key || '-' || (i * n) % 50 END`
		tags    = `unnest(ARRAY['mlflow.runName','mlflow.user','mlflow.source.name','team']) AS k(key)`
		tag     = `CASE key WHEN 'mlflow.runName' THEN 'run-' || i WHEN 'mlflow.user' THEN 'ann' WHEN 'team' THEN 'desk-' || i % 100 ELSE 'train.py' END`
		many    = ` FROM generate_series(1, 10000) i`
	)
	if c.name != "ours" {
		c.run(t, "public", []string{
			`INSERT INTO runs (run_uuid, name, user_id, status, start_time, end_time, lifecycle_stage, artifact_uri, experiment_id)
				SELECT md5(i::text), 'run-' || i, 'ann', 'FINISHED', 1700000000000 + i * 1000, 1700000000000 + i * 2000, 'active', 'mlflow-artifacts:/1/' || md5(i::text) || '/artifacts', 1` + many,
			`INSERT INTO params (key, value, run_uuid) SELECT key, ` + param + `, md5(i::text)` + many + `, ` + params,
			`INSERT INTO tags (key, value, run_uuid) SELECT key, ` + tag + `, md5(i::text)` + many + `, ` + tags,
			`INSERT INTO latest_metrics (key, value, timestamp, run_uuid, step, is_nan) SELECT key, ` + number + `, 1700000000000 + i * 1000, md5(i::text), 1, false` + many + `, ` + metrics,
			`VACUUM ANALYZE`,
		})
		return
	}
	c.run(t, postgres.Schema, []string{
		`INSERT INTO runs (run_id, experiment_id, display_name, state, user_id, start_time, end_time, create_time, update_time)
			SELECT md5(i::text)::uuid::text, 1, 'run-' || i, 'SUCCEEDED', 'ann', to_timestamp(1700000000 + i), to_timestamp(1700000000 + 2 * i), now(), now()` + many,
		`INSERT INTO run_params (run_id, key, value) SELECT md5(i::text)::uuid::text, key, ` + param + many + `, ` + params,
		`INSERT INTO run_tags (run_id, key, value) SELECT md5(i::text)::uuid::text, key, ` + tag + many + `, ` + tags,
		`INSERT INTO metric_series (run_id, key) SELECT md5(i::text)::uuid::text, key` + many + `, ` + metrics,
		`INSERT INTO metric_latest (series_id, step, time, attempt, value) SELECT s.series_id, 1, to_timestamp(1700000000 + i), 0, ` + number + many + `, ` + metrics + `
			JOIN metric_series s USING (key) WHERE s.run_id = md5(i::text)::uuid::text`,
		`VACUUM ANALYZE`,
	})
}

// answer sends one search and returns the runs' names in order, and the token of the next page.
func (c *contestant) answer(t *testing.T, body string) (names []string, next string) {
	t.Helper()
	resp, err := c.client.Post(c.base+v2+"runs/search", "application/json", strings.NewReader(body))
	must(t, err)
	raw, err := io.ReadAll(resp.Body)
	must(t, err)
	must(t, resp.Body.Close())
	var got struct {
		Runs []struct {
			Info struct {
				Name string `json:"run_name"`
			} `json:"info"`
		} `json:"runs"`
		Next string `json:"next_page_token"`
	}
	must(t, json.NewDecoder(bytes.NewReader(raw)).Decode(&got))
	for _, r := range got.Runs {
		names = append(names, r.Info.Name)
	}
	return names, got.Next
}

// Searches of several shapes over 10,000 runs, on both. Each shape must give the same runs in the
// same order on both sides before it is measured.
func TestResultsSearch(t *testing.T) {
	ours, theirs := duel(t)
	ours.herd(t)
	theirs.herd(t)
	section := benchtable.Section{Page: "mlflow.md", Title: "Search over 10,000 runs", Command: searchCommand,
		Intro: "Each run has 8 metrics, 8 params and 4 tags. Both servers as above, vacuumed and analysed, 4 clients. Every search gives the same runs in the same order on both before it is measured."}
	for _, shape := range []struct {
		what   string
		body   map[string]any
		second bool
	}{
		{what: "no filter, newest first, 100 results", body: map[string]any{"order_by": []string{"attributes.start_time DESC"}, "max_results": 100}},
		{what: "the same, 1,000 results", body: map[string]any{"order_by": []string{"attributes.start_time DESC"}, "max_results": 1000}},
		{what: "metric and param, ordered by the metric, 100", body: map[string]any{"filter": "metrics.loss < 0.5 and params.lr = '3'", "order_by": []string{"metrics.loss DESC"}, "max_results": 100}},
		{what: "metric, ordered by it, 100", body: map[string]any{"filter": "metrics.loss < 0.5", "order_by": []string{"metrics.loss DESC"}, "max_results": 100}},
		{what: "the same, second page of 1,000", body: map[string]any{"filter": "metrics.loss < 0.5", "order_by": []string{"metrics.loss DESC"}, "max_results": 1000}, second: true},
		{what: "two metrics, ordered by a third, 100", body: map[string]any{"filter": "metrics.loss < 0.5 and metrics.acc > 0.5", "order_by": []string{"metrics.f1 ASC"}, "max_results": 100}},
		{what: "no filter, ordered by a metric, 100", body: map[string]any{"order_by": []string{"metrics.auc DESC"}, "max_results": 100}},
		{what: "param and tag LIKE, newest first, 100", body: map[string]any{"filter": "params.optimizer LIKE 'adam%' and tags.team LIKE '%-1%'", "max_results": 100}},
		{what: "tag ILIKE and param unequal, ordered by a param, second page of 100", body: map[string]any{"filter": "tags.team ILIKE 'DESK-%' and params.lr != '3'", "order_by": []string{"params.batch ASC"}, "max_results": 100}, second: true},
	} {
		if only := os.Getenv("TRAINYARD_SEARCH_SHAPE"); !strings.Contains(shape.what, only) {
			continue
		}
		bodies := map[*contestant]string{}
		var names [2][]string
		for i, c := range []*contestant{ours, theirs} {
			body := maps.Clone(shape.body)
			body["experiment_ids"] = []string{"1"}
			raw, err := json.Marshal(body)
			must(t, err)
			if shape.second {
				_, body["page_token"] = c.answer(t, string(raw))
				raw, err = json.Marshal(body)
				must(t, err)
			}
			bodies[c] = string(raw)
			names[i], _ = c.answer(t, bodies[c])
		}
		if len(names[0]) == 0 || fmt.Sprint(names[0]) != fmt.Sprint(names[1]) {
			t.Errorf("%s: %d runs here, %d there, or another order: %.100v, %.100v", shape.what, len(names[0]), len(names[1]), names[0], names[1])
			continue
		}
		search := func(c *contestant, _, _ int) error { return c.post(v2+"runs/search", bodies[c]) }
		o, p := ours.drive(t, 4, 1500*time.Millisecond, search), theirs.drive(t, 4, 1500*time.Millisecond, search)
		t.Logf("%s: %.0f req/s %.3f ms, MLflow %.1f req/s %.2f ms", shape.what, o.rates, o.cpu, p.rates, p.cpu)
		section.Rows = append(section.Rows, benchtable.Row{What: shape.what, Asked: ">= 10x", Ours: benchtable.Of("req/s", o.rates...), Peer: benchtable.Of("req/s", p.rates...), PeerName: theirs.name,
			Note: fmt.Sprintf("%.2g and %.2g ms of the server's processor", benchtable.Of("", o.cpu...).Median(), benchtable.Of("", p.cpu...).Median())})
	}
	section.Write(t)
}
