package mlflowapi

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"strconv"
	"strings"
	"time"

	"github.com/ultrathink-pilot/trainyard/services/registry/internal/catalog"
	"github.com/ultrathink-pilot/trainyard/services/registry/internal/postgres"
)

const (
	runNameTag     = "mlflow.runName"
	modelHistory   = "mlflow.log-model.history"
	searchRunsMost = 50_000
)

func (s *Server) runRoutes() {
	s.route("POST", "runs/create", s.createRun)
	s.route("GET", "runs/get", s.getRun)
	s.route("POST", "runs/update", s.updateRun)
	s.route("POST", "runs/search", s.searchRuns)
	s.route("POST", "runs/delete", s.runLifecycle(catalog.Deleted))
	s.route("POST", "runs/restore", s.runLifecycle(catalog.Active))
	s.route("POST", "runs/log-metric", s.logMetric)
	s.route("POST", "runs/log-parameter", s.logParam)
	s.route("POST", "runs/log-batch", s.logBatch)
	s.route("POST", "runs/set-tag", s.setTag)
	s.route("POST", "runs/delete-tag", s.deleteTag)
	s.route("POST", "runs/log-model", s.logModel)
	s.route("POST", "runs/log-inputs", s.logInputs)
}

// runError gives the refusals of run routes MLflow's own words.
func runError(err error, id string) error {
	var e *catalog.Error
	if !errors.As(err, &e) {
		return err
	}
	switch e.Problem {
	case catalog.ProblemNotFound:
		return missing("Run with id=%s not found", shownID(id))
	case catalog.ProblemParamConflict:
		return invalid("Changing param values is not allowed. Param with key='%s' was already logged with value='%s' for run ID='%s'. Attempted logging new value '%s'.",
			e.Param.Key, e.Param.Old, shownID(id), e.Param.New)
	case catalog.ProblemState:
		return invalid("%s", strings.ReplaceAll(e.Detail, id, shownID(id)))
	}
	return err
}

func (s *Server) createRun(ctx context.Context, in args) (any, error) {
	id, err := in.experimentID()
	if err != nil {
		return nil, err
	}
	tags, err := in.tags("tags")
	if err != nil {
		return nil, err
	}
	for k, v := range tags {
		if err := checkKey("tags[].key", k); err != nil {
			return nil, err
		}
		tags[k] = truncate(v, maxRunTag)
	}
	name, err := in.text("run_name")
	if err != nil {
		return nil, err
	}
	if tagged := tags[runNameTag]; name != "" && tagged != "" && name != tagged {
		return nil, invalid("Both 'run_name' argument and 'mlflow.runName' tag are specified, but with different values (run_name='%s', mlflow.runName='%s').", name, tagged)
	} else if name == "" {
		name = tagged
	}
	if name == "" {
		name = randomName()
	}
	tags[runNameTag] = name
	user, err := in.text("user_id")
	if err != nil {
		return nil, err
	}
	if user == "" {
		user = tags["mlflow.user"]
	}
	start, err := in.integer("start_time", time.Now().UnixMilli())
	if err != nil {
		return nil, err
	}
	n := postgres.NewRun{ID: newRunID(in.idempotencyKey), ExperimentID: id, DisplayName: name, UserID: user, StartTime: time.UnixMilli(start), Tags: tags}
	if err := s.do(ctx, func(t *postgres.Tx) error { return t.CreateRun(ctx, n) }); err != nil {
		return nil, noExperiment(err, id)
	}
	r, err := s.Store.GetRun(ctx, n.ID)
	if err != nil {
		return nil, runError(err, n.ID)
	}
	answer := runOf(r, nil, nil)
	answer.Outputs = nil // a run that was just made has none to show
	return map[string]any{"run": answer}, nil
}

// newRunID is a UUID. With an idempotency key it is the key's digest: a
// create that arrives twice finds the run that it made.
func newRunID(key string) string {
	var b [16]byte
	if key != "" {
		sum := sha256.Sum256([]byte("mlflow run " + key))
		copy(b[:], sum[:])
	} else {
		_, _ = rand.Read(b[:]) // crypto/rand.Read never fails
	}
	return keptID(hex.EncodeToString(b[:]))
}

// randomName makes a name like MLflow's own for runs that were given none.
func randomName() string {
	pick := func(words string) string {
		list := strings.Fields(words)
		n, err := rand.Int(rand.Reader, big.NewInt(int64(len(list))))
		if err != nil {
			return list[0]
		}
		return list[n.Int64()]
	}
	n, err := rand.Int(rand.Reader, big.NewInt(1000))
	if err != nil {
		n = big.NewInt(0)
	}
	return fmt.Sprintf("%s-%s-%d", pick("able bold brisk calm clever eager fair gentle grand keen lively merry proud quick quiet rapid sleek steady stoic swift"),
		pick("ant bear bull crane crow deer dove elk finch fox hare hawk heron lark lynx mole owl robin seal wren"), n)
}

func (s *Server) runAnswer(ctx context.Context, id string) (any, error) {
	r, err := s.Store.GetRun(ctx, id)
	if err != nil {
		return nil, runError(err, id)
	}
	inputs, outputs, err := s.Store.RunLinks(ctx, []string{id})
	if err != nil {
		return nil, err
	}
	return map[string]any{"run": runOf(r, inputs[id], outputs[id])}, nil
}

func (s *Server) getRun(ctx context.Context, in args) (any, error) {
	id, err := in.runID()
	if err != nil {
		return nil, err
	}
	return s.runAnswer(ctx, id)
}

func (s *Server) updateRun(ctx context.Context, in args) (any, error) {
	id, err := in.runID()
	if err != nil {
		return nil, err
	}
	var u postgres.RunUpdate
	if raw, ok := in.raw("status"); ok {
		u.State, _ = runStateOf(strings.Trim(string(raw), `"`)) // an unknown name of an enum counts as none
	}
	end, err := in.integer("end_time", 0)
	if err != nil {
		return nil, err
	}
	if end > 0 {
		u.EndTime = time.UnixMilli(end)
	}
	if u.DisplayName, err = in.text("run_name"); err != nil {
		return nil, err
	}
	if err := s.do(ctx, func(t *postgres.Tx) error { return t.UpdateRun(ctx, id, in.guard, u) }); err != nil {
		return nil, runError(err, id)
	}
	r, err := s.Store.GetRun(ctx, id)
	if err != nil {
		return nil, runError(err, id)
	}
	return map[string]any{"run_info": runInfoOf(r)}, nil
}

// experimentNumbers reads experiment ids. One that is no number exists as little as one
// that was never made.
func experimentNumbers(names []string) []int64 {
	out := make([]int64, 0, len(names))
	for _, n := range names {
		if id, err := strconv.ParseInt(n, 10, 64); err == nil {
			out = append(out, id)
		}
	}
	return out
}

func (s *Server) runLifecycle(to catalog.Lifecycle) handler {
	return func(ctx context.Context, in args) (any, error) {
		id, err := in.runID()
		if err != nil {
			return nil, err
		}
		return nil, runError(s.do(ctx, func(t *postgres.Tx) error { return t.SetRunLifecycle(ctx, id, to) }), id)
	}
}

// metricIn is a metric as it comes; Value and Timestamp are checked by hand, to name them.
type metricIn struct {
	Key       string          `json:"key"`
	Value     json.RawMessage `json:"value"`
	Timestamp json.RawMessage `json:"timestamp"`
	Step      json.RawMessage `json:"step"`

	ModelID       string `json:"model_id"`
	DatasetName   string `json:"dataset_name"`
	DatasetDigest string `json:"dataset_digest"`
}

// maxMillis is the last millisecond of the year 9999, the end of what the stores share.
const maxMillis = 253402300799999

func (m metricIn) point(path string) (catalog.MetricPoint, error) {
	p := catalog.MetricPoint{Key: m.Key}
	if err := checkKey(path+"name", m.Key); err != nil {
		return p, err
	}
	if len(m.Value) == 0 || string(m.Value) == "null" {
		return p, invalid("Missing value for required parameter '%svalue'.%s", path, apiDocs)
	}
	var err error
	if p.Value, err = parseNumber(m.Value); err != nil {
		return p, badValue(path+"value", m.Value)
	}
	if len(m.Timestamp) == 0 {
		return p, invalid("Missing value for required parameter '%stimestamp'.%s", path, apiDocs)
	}
	at, err := parseInteger(m.Timestamp)
	if err != nil {
		return p, badValue(path+"timestamp", m.Timestamp)
	}
	if at < 0 || at > maxMillis {
		return p, invalid("Invalid value %s for parameter '%stimestamp' supplied: metric '%s' (value=%s). Timestamp must be a nonnegative long (64-bit integer) ", compact(m.Timestamp), path, m.Key, pythonFloat(p.Value))
	}
	p.Time = time.UnixMilli(at)
	if len(m.Step) > 0 && string(m.Step) != "null" {
		if p.Step, err = parseInteger(m.Step); err != nil {
			return p, badValue(path+"step", m.Step)
		}
	}
	return p, nil
}

func (s *Server) logMetric(ctx context.Context, in args) (any, error) {
	id, err := in.runID()
	if err != nil {
		return nil, err
	}
	var m metricIn
	if m.Key, err = in.need("key"); err != nil {
		return nil, err
	}
	m.Value, _ = in.raw("value")
	m.Timestamp, _ = in.raw("timestamp")
	m.Step, _ = in.raw("step")
	for name, field := range map[string]*string{"model_id": &m.ModelID, "dataset_name": &m.DatasetName, "dataset_digest": &m.DatasetDigest} {
		if *field, err = in.text(name); err != nil {
			return nil, err
		}
	}
	p, err := m.point("")
	if err != nil {
		return nil, err
	}
	return nil, runError(s.log(ctx, in, id, entry{points: []catalog.MetricPoint{p}, models: modelMetrics([]metricIn{m}, []catalog.MetricPoint{p})}), id)
}

// entry is what one request logs to a run.
type entry struct {
	points []catalog.MetricPoint
	params []catalog.Param
	tags   map[string]string
	models []postgres.LoggedMetric
}

// modelMetrics picks the metrics that are a logged model's too.
func modelMetrics(in []metricIn, points []catalog.MetricPoint) []postgres.LoggedMetric {
	var out []postgres.LoggedMetric
	for i, m := range in {
		if m.ModelID != "" {
			out = append(out, postgres.LoggedMetric{MetricPoint: points[i], ModelID: m.ModelID, DatasetName: m.DatasetName, DatasetDigest: m.DatasetDigest})
		}
	}
	return out
}

// log writes one entry in one transaction.
func (s *Server) log(ctx context.Context, in args, id string, e entry) error {
	if len(e.params)+len(e.tags)+len(e.models) == 0 {
		return s.Store.LogMetrics(ctx, id, in.guard, e.points, time.Now())
	}
	err := s.do(ctx, func(t *postgres.Tx) error {
		if err := t.LogBatch(ctx, id, in.guard, e.points, e.params, e.tags); err != nil {
			return err
		}
		return t.LogModelMetrics(ctx, id, e.models)
	})
	if isProblem(err, catalog.ProblemNotFound) && strings.Contains(err.Error(), loggedModelPrefix) {
		return missing("%s", err.Error())
	}
	return err
}

func (s *Server) logParam(ctx context.Context, in args) (any, error) {
	id, err := in.runID()
	if err != nil {
		return nil, err
	}
	key, err := in.need("key")
	if err != nil {
		return nil, err
	}
	value, err := in.text("value")
	if err != nil {
		return nil, err
	}
	if err := checkKey("param key", key); err != nil {
		return nil, err
	}
	return nil, runError(s.log(ctx, in, id, entry{params: []catalog.Param{{Key: key, Value: truncate(value, maxParamValue)}}}), id)
}

func (s *Server) setTag(ctx context.Context, in args) (any, error) {
	id, err := in.runID()
	if err != nil {
		return nil, err
	}
	key, err := in.need("key")
	if err != nil {
		return nil, err
	}
	value, err := in.text("value")
	if err != nil {
		return nil, err
	}
	if err := checkKey("key", key); err != nil {
		return nil, err
	}
	return nil, runError(s.log(ctx, in, id, entry{tags: map[string]string{key: truncate(value, maxRunTag)}}), id)
}

func (s *Server) deleteTag(ctx context.Context, in args) (any, error) {
	id, err := in.runID()
	if err != nil {
		return nil, err
	}
	key, err := in.need("key")
	if err != nil {
		return nil, err
	}
	var removed bool
	err = s.do(ctx, func(t *postgres.Tx) error {
		var err error
		removed, err = t.DeleteRunTag(ctx, id, key, in.guard)
		return err
	})
	if err == nil && !removed {
		err = missing("No tag with name: %s in run with id %s", key, shownID(id))
	}
	return nil, runError(err, id)
}

// logBatch writes everything in one transaction, where MLflow uses three: a conflicting
// param then leaves no metric behind either.
func (s *Server) logBatch(ctx context.Context, in args) (any, error) {
	id, err := in.runID()
	if err != nil {
		return nil, err
	}
	var metrics []metricIn
	if raw, ok := in.raw("metrics"); ok {
		if err := json.Unmarshal(raw, &metrics); err != nil {
			return nil, badValue("metrics", raw)
		}
	}
	params, err := in.pairs("params")
	if err != nil {
		return nil, err
	}
	tags, err := in.pairs("tags")
	if err != nil {
		return nil, err
	}
	for _, limit := range []struct {
		name      string
		got, most int
	}{
		{"metrics", len(metrics), maxBatchMetrics}, {"params", len(params), maxBatchPairs}, {"tags", len(tags), maxBatchPairs},
		{"metrics, params, and tags", len(metrics) + len(params) + len(tags), maxBatchAll},
	} {
		if limit.got > limit.most {
			return nil, invalid("A batch logging request can contain at most %d %s. Got %d %s. Please split up %s across multiple requests and try again.",
				limit.most, limit.name, limit.got, limit.name, limit.name)
		}
	}
	points := make([]catalog.MetricPoint, 0, len(metrics))
	for i, m := range metrics {
		p, err := m.point(fmt.Sprintf("metrics[%d].", i))
		if err != nil {
			return nil, err
		}
		points = append(points, p)
	}
	list := make([]catalog.Param, 0, len(params))
	seen := map[string]bool{}
	for i, p := range params {
		if err := checkKey(fmt.Sprintf("params[%d].key", i), p.Key); err != nil {
			return nil, err
		}
		if seen[p.Key] {
			return nil, invalid("Duplicate parameter keys have been submitted: ['%s']. Please ensure the request contains only one param value per param key.", p.Key)
		}
		seen[p.Key] = true
		list = append(list, catalog.Param{Key: p.Key, Value: truncate(p.Value, maxParamValue)})
	}
	written := make(map[string]string, len(tags))
	for i, t := range tags {
		if err := checkKey(fmt.Sprintf("tags[%d].key", i), t.Key); err != nil {
			return nil, err
		}
		written[t.Key] = truncate(t.Value, maxRunTag)
	}
	err = s.log(ctx, in, id, entry{points, list, written, modelMetrics(metrics, points)})
	if refused := new(catalog.Error); errors.As(err, &refused) && refused.Problem == catalog.ProblemParamConflict {
		return nil, invalid("Changing param values is not allowed. Params were already logged='[{'key': '%s', 'old_value': '%s', 'new_value': '%s'}]' for run ID='%s'.",
			refused.Param.Key, refused.Param.Old, refused.Param.New, shownID(id))
	}
	return nil, runError(err, id)
}

func (s *Server) logModel(ctx context.Context, in args) (any, error) {
	id, err := in.runID()
	if err != nil {
		return nil, err
	}
	text, err := in.need("model_json")
	if err != nil {
		return nil, err
	}
	var model map[string]json.RawMessage
	if err := json.Unmarshal([]byte(text), &model); err != nil {
		return nil, invalid("Malformed model info. \n %s \n is not a valid JSON.", text)
	}
	var absent []string
	for _, field := range []string{"artifact_path", "flavors", "utc_time_created", "run_id"} {
		if _, ok := model[field]; !ok {
			absent = append(absent, field)
		}
	}
	if len(absent) > 0 {
		return nil, invalid("Model json is missing mandatory fields: {'%s'}", strings.Join(absent, "', '"))
	}
	err = s.do(ctx, func(t *postgres.Tx) error {
		return t.AppendRunTag(ctx, id, modelHistory, in.guard, json.RawMessage(text))
	})
	return nil, runError(err, id)
}

func (s *Server) logInputs(ctx context.Context, in args) (any, error) {
	id, err := in.runID()
	if err != nil {
		return nil, err
	}
	var documents []json.RawMessage
	if raw, ok := in.raw("datasets"); ok {
		if err := json.Unmarshal(raw, &documents); err != nil {
			return nil, badValue("datasets", raw)
		}
	}
	var inputs []postgres.Input
	for i, d := range documents {
		var known struct {
			Dataset *struct{ Name, Digest string } `json:"dataset"`
			Tags    []pair                         `json:"tags"`
		}
		if err := json.Unmarshal(d, &known); err != nil {
			return nil, badValue(fmt.Sprintf("datasets[%d]", i), d)
		}
		if known.Dataset == nil || known.Dataset.Name == "" || known.Dataset.Digest == "" {
			continue // as with MLflow, tags alone say nothing
		}
		input := postgres.Input{Name: known.Dataset.Name, Digest: known.Dataset.Digest, JSON: d}
		for _, t := range known.Tags {
			if t.Key == "mlflow.data.context" {
				input.Context = t.Value
			}
		}
		inputs = append(inputs, input)
	}
	return nil, runError(s.do(ctx, func(t *postgres.Tx) error { return t.LogInputs(ctx, id, in.guard, inputs) }), id)
}
