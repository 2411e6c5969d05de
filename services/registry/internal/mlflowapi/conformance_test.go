package mlflowapi

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"sort"
	"strings"
	"testing"
)

// exchange is one request of the corpus with what MLflow's own server answered to it.
// Placeholders such as {run} stand for ids that earlier answers held.
type exchange struct {
	Method string `json:"method"`
	Path   string `json:"path"`
	// Body is sent as it is; Type is its content type, JSON when empty.
	Body string `json:"body,omitempty"`
	Type string `json:"type,omitempty"`
	// Save names ids of the answer, by the path of their field.
	Save map[string]string `json:"save,omitempty"`
	// Differs says why we answer otherwise on purpose; then only our own status is checked.
	Differs string `json:"differs,omitempty"`
	Ours    int    `json:"ours,omitempty"`

	Status int `json:"status"`
	// Answer is the recorded answer with ids, times and unsorted lists normalized.
	Answer string `json:"answer"`
}

const corpus = "testdata/conformance.json"

// What MLflow's own server answers to a corpus of good and bad requests is recorded in
// testdata; we answer the same. To record again, after adding requests:
//
//	TRAINYARD_RECORD_MLFLOW=http://127.0.0.1:5000 go test -run TestConformance ./internal/mlflowapi
func TestConformance(t *testing.T) {
	raw, err := os.ReadFile(corpus)
	if err != nil {
		t.Fatal(err)
	}
	var all []exchange
	if err := json.Unmarshal(raw, &all); err != nil {
		t.Fatal(err)
	}
	if server := os.Getenv("TRAINYARD_RECORD_MLFLOW"); server != "" {
		record(t, server, all)
		return
	}
	s := serve(t, "")
	ids := map[string]string{}
	for i, x := range all {
		status, answer := x.send(t, s.url, ids)
		if x.Differs != "" {
			if x.Ours != 0 && status != x.Ours {
				t.Errorf("%d %s %s: %d %s, of our own we say %d", i, x.Method, x.Path, status, answer, x.Ours)
			}
			continue
		}
		if status != x.Status || answer != x.Answer {
			t.Errorf("%d %s %s %.200s\n  MLflow %d %s\n  we     %d %s", i, x.Method, x.Path, x.Body, x.Status, x.Answer, status, answer)
		}
	}
}

func record(t *testing.T, server string, all []exchange) {
	ids := map[string]string{}
	for i := range all {
		all[i].Status, all[i].Answer = all[i].send(t, server, ids)
	}
	var b bytes.Buffer
	for i, x := range all {
		line, err := json.Marshal(x)
		if err != nil {
			t.Fatal(err)
		}
		line = []byte(strings.NewReplacer(`\u003c`, "<", `\u003e`, ">", `\u0026`, "&").Replace(string(line)))
		separator := ",\n"
		if i == 0 {
			separator = "[\n"
		}
		b.WriteString(separator)
		b.Write(line)
	}
	b.WriteString("\n]\n")
	if err := os.WriteFile(filepath.Clean(corpus), b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
}

func (x exchange) send(t *testing.T, server string, ids map[string]string) (int, string) {
	t.Helper()
	fill := func(text string) string {
		for name, id := range ids {
			text = strings.ReplaceAll(text, "{"+name+"}", id)
		}
		return regexp.MustCompile(`\{(\w+)\*(\d+)\}`).ReplaceAllStringFunc(text, func(m string) string {
			var n int
			what, times, _ := strings.Cut(strings.Trim(m, "{}"), "*")
			if _, err := fmt.Sscan(times, &n); err != nil {
				t.Fatal(err)
			}
			return strings.Repeat(what, n)
		})
	}
	path := fill(x.Path)
	if !strings.HasPrefix(path, "/") {
		path = "/api/2.0/mlflow/" + path
	}
	r, err := http.NewRequestWithContext(t.Context(), x.Method, server+path, strings.NewReader(fill(x.Body)))
	if err != nil {
		t.Fatal(err)
	}
	switch {
	case x.Type != "":
		r.Header.Set("Content-Type", x.Type)
	case x.Method != http.MethodGet:
		r.Header.Set("Content-Type", "application/json")
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if err := resp.Body.Close(); err != nil {
		t.Fatal(err)
	}
	var answer any
	if json.Unmarshal(raw, &answer) != nil {
		if resp.StatusCode == http.StatusMethodNotAllowed || len(raw) > 0 && raw[0] == '<' {
			return resp.StatusCode, "" // a page of HTML says nothing to a client
		}
		return resp.StatusCode, string(raw)
	}
	for name, at := range x.Save {
		v := answer
		for _, part := range strings.Split(at, ".") {
			m, _ := v.(map[string]any)
			v = m[part]
		}
		if id, ok := v.(string); ok {
			ids[name] = id
		}
	}
	plain, err := json.Marshal(normal(answer, ids))
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, strings.NewReplacer(`\u003c`, "<", `\u003e`, ">", `\u0026`, "&").Replace(string(plain))
}

var (
	clockField  = regexp.MustCompile(`_time$|_timestamp$|_timestamp_ms$|^timestamp$`)
	listedField = map[string]string{"tags": "key", "params": "key", "aliases": "alias"}
)

// normal hides what no two servers share: ids become placeholders, clocks "<ms>", tokens
// "<token>", lists without an order of their own are sorted, and the database's own words and
// Python's unordered sets are cut off a message.
func normal(v any, ids map[string]string) any {
	switch x := v.(type) {
	case string:
		for name, id := range ids {
			if len(id) >= 8 {
				x = strings.ReplaceAll(x, id, "{"+name+"}")
			} else {
				x = strings.ReplaceAll(x, "mlflow-artifacts:/"+id+"/", "mlflow-artifacts:/{"+name+"}/")
			}
		}
		return x
	case []any:
		for i := range x {
			x[i] = normal(x[i], ids)
		}
		return x
	case map[string]any:
		for _, k := range []string{"error_class", "sqlstate", "workspace"} {
			delete(x, k) // 3.17 adds them; clients do not read them
		}
		for k, field := range x {
			x[k] = normal(field, ids)
			text, isText := field.(string)
			if n, isNumber := field.(float64); isNumber && math.Abs(n) == math.MaxFloat64 {
				x[k] = "Infinity" // which is what was logged, and what we keep
			}
			switch n, isNumber := field.(float64); {
			case isNumber && clockField.MatchString(k) && n > 1.75e12:
				x[k] = "<ms>"
			case isText && k == "next_page_token" && text != "":
				x[k] = "<token>"
			case isText && (k == "experiment_id" || k == "artifact_location"):
				for name, id := range ids {
					if strings.TrimPrefix(text, "mlflow-artifacts:/") == id {
						x[k] = strings.TrimSuffix(text, id) + "{" + name + "}"
					}
				}
			case isText && k == "message":
				for _, tail := range []string{" Error: (", "Valid keys are", "(sqlite3.", "not one of", "missing mandatory fields"} {
					text, _, _ = strings.Cut(text, tail)
				}
				for name, id := range ids {
					text = regexp.MustCompile(`\b`+regexp.QuoteMeta(id)+`\b`).ReplaceAllString(text, "{"+name+"}")
				}
				x[k] = text
			}
			if l, ok := field.([]any); ok && listedField[k] != "" {
				by := listedField[k]
				sort.SliceStable(l, func(i, j int) bool { return fmt.Sprint(at(l[i], by)) < fmt.Sprint(at(l[j], by)) })
			}
			if l, ok := field.([]any); ok && k == "metrics" {
				order := func(v any) string { return fmt.Sprint(at(v, "key"), at(v, "step"), at(v, "timestamp"), at(v, "value")) }
				sort.SliceStable(l, func(i, j int) bool { return order(l[i]) < order(l[j]) })
			}
		}
		return x
	}
	return v
}

func at(v any, key string) any {
	m, _ := v.(map[string]any)
	return m[key]
}
