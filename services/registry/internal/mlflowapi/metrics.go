package mlflowapi

import (
	"context"
	"encoding/json"
	"math"
	"strconv"
	"strings"

	"github.com/ultrathink-pilot/trainyard/services/registry/internal/catalog"
	"github.com/ultrathink-pilot/trainyard/services/registry/internal/postgres"
	"github.com/ultrathink-pilot/trainyard/services/registry/internal/series"
)

const (
	historyMost  = 1_000_000
	bulkRuns     = 100
	bulkStandard = 320
	bulkMost     = 2500
)

func (s *Server) metricRoutes() {
	s.route("GET", "metrics/get-history", s.history)
	s.route("GET", "metrics/get-history-bulk-interval", s.historyInterval)
	s.route("GET", "metrics/get-history-bulk", s.historyBulk)
}

func (s *Server) points(ctx context.Context, run, key string) ([]series.Point, error) {
	points, err := s.Store.MetricHistory(ctx, run, key)
	return points, runError(err, run)
}

func metricOf(key string, p series.Point) metricDTO {
	return metricDTO{Key: key, Value: number(p.Value), Timestamp: ms(p.Time), Step: p.Step}
}

type historyDTO struct {
	Metrics []metricDTO `json:"metrics,omitempty"`
	Next    string      `json:"next_page_token,omitempty"`
}

// appendJSON is MarshalJSON by hand: a history has 25,000 points a page, and encoding/json
// takes more time over them than the database over reading them.
func (h historyDTO) appendJSON(b []byte) []byte {
	text := func(name, value string) {
		if value == "" {
			return
		}
		quoted, _ := json.Marshal(value) // a string always marshals
		b = append(append(append(append(b, ',', '"'), name...), '"', ':'), quoted...)
	}
	if len(h.Metrics) == 0 { // then there is no next page either
		return append(b, "{}"...)
	}
	b = append(b, `{"metrics":[`...)
	var key string
	var quoted []byte
	for i, m := range h.Metrics {
		if i > 0 {
			b = append(b, ',')
		}
		if quoted == nil || m.Key != key {
			key = m.Key
			quoted, _ = json.Marshal(key)
		}
		b = append(append(b, `{"key":`...), quoted...)
		b = number.append(m.Value, append(b, `,"value":`...))
		b = strconv.AppendInt(append(b, `,"timestamp":`...), m.Timestamp, 10)
		b = strconv.AppendInt(append(b, `,"step":`...), m.Step, 10)
		text("run_id", m.RunID)
		text("model_id", m.ModelID)
		text("dataset_name", m.DatasetName)
		text("dataset_digest", m.DatasetDigest)
		b = append(b, '}')
	}
	b = append(b, ']')
	text("next_page_token", h.Next)
	return append(b, '}')
}

func (s *Server) history(ctx context.Context, in args) (any, error) {
	id, err := in.runID()
	if err != nil {
		return nil, err
	}
	key, err := in.need("metric_key")
	if err != nil {
		return nil, err
	}
	page := postgres.Page{Limit: historyMost + 1}
	if in.has("max_results") || in.has("page_token") {
		if page, err = in.page(paging{25_000, historyMost, positive + "."}); err != nil {
			return nil, err
		}
	}
	points, err := s.points(ctx, id, key)
	if err != nil && !isMissing(err) { // of a run that is not there nothing was logged
		return nil, err
	}
	points = points[min(page.Offset, len(points)):]
	points = points[:min(page.Limit, len(points))]
	points, next := cut(points, page)
	out := historyDTO{Next: next, Metrics: make([]metricDTO, 0, len(points))}
	for _, p := range points {
		out.Metrics = append(out.Metrics, metricOf(key, p))
	}
	return out, nil
}

// runKeys reads what the two bulk routes share.
func (a args) runKeys(most int) (runs []string, key string, err error) {
	if runs, err = a.list("run_ids"); err != nil {
		return nil, "", err
	}
	if len(runs) == 0 {
		if runs, err = a.list("run_id"); err != nil {
			return nil, "", err
		}
	}
	if len(runs) == 0 {
		return nil, "", invalid("Missing value for required parameter 'run_ids'.%s", apiDocs)
	}
	if len(runs) > most {
		return nil, "", invalid("GetMetricHistoryBulk request cannot specify more than %d run_ids. Received %d run_ids.", most, len(runs))
	}
	kept := make([]string, len(runs))
	for i, id := range runs {
		kept[i] = keptID(id)
	}
	key, err = a.need("metric_key")
	return kept, key, err
}

func (s *Server) historyInterval(ctx context.Context, in args) (any, error) {
	runs, key, err := in.runKeys(bulkRuns)
	if err != nil {
		return nil, err
	}
	limit, err := in.integer("max_results", bulkStandard)
	if err != nil {
		return nil, err
	}
	if limit < 1 || limit > bulkMost {
		return nil, invalid("max_results must be between 1 and %d.%s", bulkMost, apiDocs)
	}
	if in.has("start_step") != in.has("end_step") {
		return nil, invalid("If either start step or end step are specified, both must be specified.")
	}
	low, err := in.integer("start_step", -1<<63)
	if err != nil {
		return nil, err
	}
	high, err := in.integer("end_step", 1<<63-1)
	if err != nil {
		return nil, err
	}
	if low > high {
		return nil, invalid("end_step must be greater than start_step. Found start_step=%d and end_step=%d.", low, high)
	}
	out := historyDTO{}
	for _, run := range runs {
		points, err := s.points(ctx, run, key)
		if err != nil && !isMissing(err) {
			return nil, err
		}
		var within []series.Point
		for _, p := range points {
			if p.Step >= low && p.Step <= high {
				within = append(within, p)
			}
		}
		for _, p := range series.MinMax(within, int(limit)) {
			m := metricOf(key, p)
			m.RunID = shownID(run)
			out.Metrics = append(out.Metrics, m)
		}
	}
	return out, nil
}

func isMissing(err error) bool { return wire(err).code == "RESOURCE_DOES_NOT_EXIST" }

func (s *Server) historyBulk(ctx context.Context, in args) (any, error) {
	if ids, err := in.list("run_id"); err == nil && len(ids) == 0 {
		return nil, invalid("GetMetricHistoryBulk request must specify at least one run_id.")
	}
	if !in.has("metric_key") {
		return nil, invalid("GetMetricHistoryBulk request must specify a metric_key.")
	}
	runs, key, err := in.runKeys(bulkRuns)
	if err != nil {
		return nil, err
	}
	limit, err := in.integer("max_results", 25_000)
	if err != nil {
		return nil, err
	}
	out := historyDTO{Metrics: []metricDTO{}}
	for _, run := range runs {
		points, err := s.points(ctx, run, key)
		if err != nil && !isMissing(err) {
			return nil, err
		}
		for _, p := range points {
			if int64(len(out.Metrics)) >= limit {
				return out, nil
			}
			m := metricOf(key, p)
			m.RunID = shownID(run)
			out.Metrics = append(out.Metrics, m)
		}
	}
	return out, nil
}

// versionNumber reads a version, which travels as a string.
func (a args) versionNumber(name string) (int32, error) {
	raw, ok := a.raw(name)
	if !ok {
		return 0, invalid("Missing value for required parameter '%s'.%s", name, apiDocs)
	}
	n, err := parseInteger(raw)
	if err != nil {
		return 0, invalid("Parameter '%s' must be an integer, got '%s'.", name, strings.Trim(compact(raw), `"`))
	}
	if n < 0 || n > math.MaxInt32 {
		n = -1 // no version has this number, and the catalogue says so
	}
	return int32(n), nil
}

func noModel(err error, name string) error {
	if isProblem(err, catalog.ProblemNotFound) {
		return missing("Registered Model with name=%s not found", name)
	}
	return err
}

func noVersion(err error, name string, version int32) error {
	if isProblem(err, catalog.ProblemNotFound) {
		return missing("Model Version (name=%s, version=%s) not found", name, strconv.Itoa(int(version)))
	}
	return err
}
