package mlflowapi

import (
	"context"
	"encoding/json"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"unicode/utf8"

	"go.uber.org/zap"

	"github.com/ultrathink-pilot/trainyard/services/registry/internal/filter"
	"github.com/ultrathink-pilot/trainyard/services/registry/internal/postgres"
)

// runsAtOnce is how many runs of an answer are in memory with all that belongs to them: a page of
// 50,000 is written while it is read.
const runsAtOnce = 1000

// runPage is the answer of runs/search.
type runPage struct {
	store *postgres.Store
	// rows are the page's runs; the first runsAtOnce are filled.
	rows []postgres.RunRow
	next string
}

// foundRuns searches as the request says, and makes the token of the next page. The rows are not filled.
func (s *Server) foundRuns(ctx context.Context, in args) (rows []postgres.RunRow, next string, err error) {
	find := postgres.RunFind{Lifecycles: in.view("run_view_type")}
	if find.Page, err = in.page(paging{1000, searchRunsMost, positive}); err != nil {
		return nil, "", err
	}
	names, err := in.list("experiment_ids")
	if err != nil {
		return nil, "", err
	}
	find.Experiments = experimentNumbers(names)
	if find.Clauses, find.Orders, err = in.search(filter.Runs); err != nil {
		return nil, "", err
	}
	for i, c := range find.Clauses {
		if c.Entity == filter.Attribute && c.Key == "status" {
			if state, ok := runStateOf(c.Text); ok {
				find.Clauses[i].Text = string(state)
			}
		}
	}
	if rows, err = s.Store.FindRuns(ctx, find); err != nil {
		return nil, "", err
	}
	rows, next = cut(rows, find.Page)
	return rows, next, nil
}

func (s *Server) searchRuns(ctx context.Context, in args) (any, error) {
	rows, next, err := s.foundRuns(ctx, in)
	if err != nil {
		return nil, err
	}
	return runPage{s.Store, rows, next}, s.Store.FillRuns(ctx, rows[:min(len(rows), runsAtOnce)])
}

var pageBuffers = sync.Pool{New: func() any { return new([]byte) }}

// send writes the page. What cannot be read any more after the first part breaks the answer off.
func (p runPage) send(ctx context.Context, w http.ResponseWriter, log *zap.Logger) {
	buffer := pageBuffers.Get().(*[]byte)
	defer pageBuffers.Put(buffer)
	b := append((*buffer)[:0], '{')
	if len(p.rows) > 0 {
		b = append(b, `"runs":[`...)
	}
	w.Header().Set("Content-Type", "application/json")
	for first, part := range slices.Collect(slices.Chunk(p.rows, runsAtOnce)) {
		if first > 0 {
			_, _ = w.Write(b) // whoever does not read any more misses nothing
			b = b[:0]
			if err := p.store.FillRuns(ctx, part); err != nil {
				log.Warn("answer broken off", zap.Error(err))
				panic(http.ErrAbortHandler)
			}
		}
		for i := range part {
			if first+i > 0 {
				b = append(b, ',')
			}
			b = appendRun(b, &part[i])
			part[i] = postgres.RunRow{}
		}
	}
	if len(p.rows) > 0 {
		b = append(b, ']')
	}
	if p.next != "" {
		b = appendText(append(b, `,"next_page_token":`...), p.next)
	}
	b = append(b, '}')
	if len(p.rows) <= runsAtOnce {
		w.Header().Set("Content-Length", strconv.Itoa(len(b)))
	}
	_, _ = w.Write(b)
	*buffer = b
}

// appendRun is a run in MLflow's form; rowOf says the same to encoding/json, which takes ten times as long.
func appendRun(b []byte, r *postgres.RunRow) []byte {
	info := runInfoOf(r.Run)
	b = appendText(append(b, `{"info":{"run_id":`...), info.ID)
	b = appendText(append(b, `,"run_uuid":`...), info.UUID)
	b = appendText(append(b, `,"run_name":`...), info.Name)
	b = appendText(append(b, `,"experiment_id":`...), info.ExperimentID)
	b = appendText(append(b, `,"user_id":`...), info.UserID)
	b = appendText(append(b, `,"status":`...), info.Status)
	b = strconv.AppendInt(append(b, `,"start_time":`...), info.Start, 10)
	if info.End != 0 {
		b = strconv.AppendInt(append(b, `,"end_time":`...), info.End, 10)
	}
	b = appendText(append(b, `,"artifact_uri":`...), info.ArtifactURI)
	b = appendText(append(b, `,"lifecycle_stage":`...), info.Lifecycle)
	b = append(b, `},"data":{`...)
	started := len(b)
	list := func(name string, n int, one func(i int)) {
		if n == 0 {
			return
		}
		if len(b) > started {
			b = append(b, ',')
		}
		b = append(append(append(b, '"'), name...), `":[`...)
		for i := range n {
			if i > 0 {
				b = append(b, ',')
			}
			one(i)
		}
		b = append(b, ']')
	}
	list("metrics", len(r.Latest), func(i int) {
		m := &r.Latest[i]
		b = appendText(append(b, `{"key":`...), m.Key)
		b = number(m.Value).append(append(b, `,"value":`...))
		b = strconv.AppendInt(append(b, `,"timestamp":`...), ms(m.Time), 10)
		b = append(strconv.AppendInt(append(b, `,"step":`...), m.Step, 10), '}')
	})
	pairs := func(name string, all []postgres.Pair) {
		list(name, len(all), func(i int) {
			b = appendText(append(b, `{"key":`...), all[i].Key)
			b = append(appendText(append(b, `,"value":`...), all[i].Value), '}')
		})
	}
	pairs("params", r.Params)
	pairs("tags", namedTags(r))
	b = append(b, `},"inputs":{`...)
	started = len(b)
	list("dataset_inputs", len(r.Inputs), func(i int) { b = append(b, compact(r.Inputs[i])...) })
	b = append(b, `},"outputs":{`...)
	started = len(b)
	list("model_outputs", len(r.Outputs), func(i int) {
		b = appendText(append(b, `{"model_id":`...), r.Outputs[i].ModelID)
		b = append(strconv.AppendInt(append(b, `,"step":`...), r.Outputs[i].Step, 10), '}')
	})
	return append(b, `}}`...)
}

// namedTags are a run's tags. Runs of jobs were never tagged by a client; MLflow's tools expect the name.
func namedTags(r *postgres.RunRow) []postgres.Pair {
	if r.DisplayName == "" || slices.ContainsFunc(r.Tags, func(p postgres.Pair) bool { return p.Key == runNameTag }) {
		return r.Tags
	}
	return append(r.Tags, postgres.Pair{Key: runNameTag, Value: r.DisplayName})
}

// appendText is a JSON string.
func appendText(b []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c == '"' || c == '\\' || c >= utf8.RuneSelf {
			quoted, _ := json.Marshal(s) // a string always marshals
			return append(b, quoted...)
		}
	}
	return append(append(append(b, '"'), s...), '"')
}

// rowOf is a row as a document.
func rowOf(r *postgres.RunRow) runDTO {
	out := runDTO{Info: runInfoOf(r.Run), Inputs: runInputsDTO{r.Inputs}, Outputs: &runOutputsDTO{}}
	for _, o := range r.Outputs {
		out.Outputs.Models = append(out.Outputs.Models, outputDTO{o.ModelID, o.Step})
	}
	for _, m := range r.Latest {
		out.Data.Metrics = append(out.Data.Metrics, metricDTO{Key: m.Key, Value: number(m.Value), Timestamp: ms(m.Time), Step: m.Step})
	}
	for _, p := range r.Params {
		out.Data.Params = append(out.Data.Params, pair(p))
	}
	for _, p := range namedTags(r) {
		out.Data.Tags = append(out.Data.Tags, pair(p))
	}
	return out
}
