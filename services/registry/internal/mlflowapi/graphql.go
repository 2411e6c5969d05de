package mlflowapi

import (
	"context"
	"encoding/json"
	"net/http"
	"strconv"
	"strings"

	"github.com/ultrathink-pilot/trainyard/services/registry/internal/catalog"
	"github.com/ultrathink-pilot/trainyard/services/registry/internal/filter"
	"github.com/ultrathink-pilot/trainyard/services/registry/internal/postgres"
)

// MLflow's user interface asks four questions in GraphQL. They are known by their operation
// names and answered whole; a client takes the fields that it asked for. An engine would
// bring a language, and its denials of service, for four answers.

// question is a GraphQL request.
type question struct {
	Operation string                                `json:"operationName"`
	Variables map[string]map[string]json.RawMessage `json:"variables"`
	Query     string                                `json:"query"`
}

func (s *Server) serveGraphQL(w http.ResponseWriter, r *http.Request) error {
	var q question
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody)).Decode(&q); err != nil {
		return invalid("Bad Request. The body is not a GraphQL request")
	}
	answers := map[string]struct {
		field  string
		answer func(context.Context, args) (any, error)
	}{
		"GetRun":                       {"mlflowGetRun", s.graphRun},
		"MlflowGetExperimentQuery":     {"mlflowGetExperiment", s.getExperiment},
		"SearchRuns":                   {"mlflowSearchRuns", s.graphSearch},
		"GetMetricHistoryBulkInterval": {"mlflowGetMetricHistoryBulkInterval", s.historyInterval},
	}
	op, known := answers[q.Operation]
	if !known {
		s.answer(w, http.StatusOK, map[string]any{"data": nil, "errors": []any{map[string]string{"message": "operation " + strconv.Quote(q.Operation) + " is not served here"}}})
		return nil
	}
	in := args{fields: map[string]json.RawMessage{}}
	for _, fields := range q.Variables { // one variable, called data or input
		for name, value := range fields {
			in.fields[snake(name)] = value
		}
	}
	answer, err := op.answer(r.Context(), in)
	if err != nil {
		e := wire(err)
		if statuses[e.code] >= http.StatusInternalServerError || statuses[e.code] == 0 {
			return err
		}
		answer = map[string]any{"apiError": map[string]string{"code": e.code, "message": e.message}}
	}
	plain, err := json.Marshal(answer)
	if err != nil {
		return err
	}
	var shown any
	decoder := json.NewDecoder(strings.NewReader(string(plain)))
	decoder.UseNumber()
	if err := decoder.Decode(&shown); err != nil {
		return err
	}
	s.answer(w, http.StatusOK, map[string]any{"data": map[string]any{op.field: graph("answer", shown)}})
	return nil
}

// graphRun is a run with its experiment and the versions that were made from it.
func (s *Server) graphRun(ctx context.Context, in args) (any, error) {
	id, err := in.runID()
	if err != nil {
		return nil, err
	}
	r, err := s.Store.GetRun(ctx, id)
	if err != nil {
		return nil, runError(err, id)
	}
	inputs, outputs, err := s.Store.RunLinks(ctx, []string{id})
	if err != nil {
		return nil, err
	}
	runs, err := s.graphRuns(ctx, []catalog.Run{r}, []runDTO{runOf(r, inputs[id], outputs[id])})
	if err != nil {
		return nil, err
	}
	return map[string]any{"run": runs[0]}, nil
}

type graphRunDTO struct {
	runDTO
	Experiment experimentDTO `json:"experiment"`
	Versions   []versionDTO  `json:"model_versions"`
}

func (s *Server) graphSearch(ctx context.Context, in args) (any, error) {
	rows, next, err := s.foundRuns(ctx, in)
	if err != nil {
		return nil, err
	}
	if err := s.Store.FillRuns(ctx, rows); err != nil {
		return nil, err
	}
	runs, plain := make([]catalog.Run, len(rows)), make([]runDTO, len(rows))
	for i := range rows {
		runs[i], plain[i] = rows[i].Run, rowOf(&rows[i])
	}
	all, err := s.graphRuns(ctx, runs, plain)
	return map[string]any{"runs": all, "next_page_token": next}, err
}

// graphRuns adds to runs, and to their documents, what the interface asks for beside them.
func (s *Server) graphRuns(ctx context.Context, runs []catalog.Run, plain []runDTO) ([]graphRunDTO, error) {
	experiments := map[int64]experimentDTO{}
	out := make([]graphRunDTO, 0, len(runs))
	for i, r := range runs {
		if _, read := experiments[r.ExperimentID]; !read {
			e, err := s.Store.GetExperiment(ctx, r.ExperimentID)
			if err != nil {
				return nil, noExperiment(err, r.ExperimentID)
			}
			experiments[r.ExperimentID] = experimentOf(e)
		}
		versions, err := s.Store.SearchVersions(ctx, []filter.Clause{{Entity: filter.Attribute, Key: "run_id", Op: "=", Text: r.ID}}, nil, postgres.Page{Limit: 100})
		if err != nil {
			return nil, err
		}
		one := graphRunDTO{runDTO: plain[i], Experiment: experiments[r.ExperimentID], Versions: []versionDTO{}}
		for _, v := range versions {
			one.Versions = append(one.Versions, versionOf(v))
		}
		out = append(out, one)
	}
	return out, nil
}

// asked are fields that the interface asks for and REST leaves out when they are empty: lists,
// and single values. GraphQL answers with every field that was asked for; pages break without.
var asked = map[string]struct{ lists, values []string }{
	"answer":         {values: []string{"apiError"}},
	"apiError":       {values: []string{"helpUrl"}},
	"experiment":     {[]string{"tags"}, []string{"effectiveTraceArchivalRetention", "creationTime", "lastUpdateTime"}},
	"info":           {values: []string{"endTime", "userId"}},
	"data":           {lists: []string{"metrics", "params", "tags"}},
	"inputs":         {lists: []string{"datasetInputs", "modelInputs"}},
	"outputs":        {lists: []string{"modelOutputs"}},
	"dataset_inputs": {lists: []string{"tags"}},
	"dataset":        {values: []string{"profile", "schema", "source", "sourceType"}},
}

// metricValue is the one number that stays a number; a param may be called NaN, too.
const metricValue = "metric value"

// graph turns a REST answer into a GraphQL one: camel case, 64-bit numbers as strings, and
// null where a number is none.
func graph(name string, v any) any {
	switch x := v.(type) {
	case map[string]any:
		out := make(map[string]any, len(x))
		for _, field := range asked[name].lists {
			out[field] = []any{}
		}
		for _, field := range asked[name].values {
			out[field] = nil
		}
		for k, field := range x {
			inner := k
			if name == "metrics" && k == "value" {
				inner = metricValue
			}
			out[camel(k)] = graph(inner, field)
		}
		return out
	case []any:
		for i := range x {
			x[i] = graph(name, x[i])
		}
		return x
	case json.Number:
		if name != metricValue {
			return x.String()
		}
		return x
	case string:
		if name == metricValue && (x == "NaN" || x == "Infinity" || x == "-Infinity") {
			return nil
		}
	}
	return v
}

func camel(name string) string {
	parts := strings.Split(name, "_")
	for i := 1; i < len(parts); i++ {
		if parts[i] != "" {
			parts[i] = strings.ToUpper(parts[i][:1]) + parts[i][1:]
		}
	}
	return strings.Join(parts, "")
}

func snake(name string) string {
	var b strings.Builder
	for _, r := range name {
		if r >= 'A' && r <= 'Z' {
			b.WriteByte('_')
			r += 'a' - 'A'
		}
		b.WriteRune(r)
	}
	return b.String()
}
