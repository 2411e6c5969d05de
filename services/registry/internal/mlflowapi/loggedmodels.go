package mlflowapi

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"github.com/ultrathink-pilot/trainyard/services/registry/internal/catalog"
	"github.com/ultrathink-pilot/trainyard/services/registry/internal/filter"
	"github.com/ultrathink-pilot/trainyard/services/registry/internal/postgres"
)

// loggedModelPrefix begins the routes that carry a model's id in their path.
const loggedModelPrefix = "logged-models/"

func (s *Server) loggedModelRoutes() {
	s.route("POST", "logged-models", s.createLoggedModel)
	s.route("POST", "logged-models/search", s.searchLoggedModels)
	s.route("GET", "logged-models/{id}", s.getLoggedModel)
	s.route("PATCH", "logged-models/{id}", s.finishLoggedModel)
	s.route("DELETE", "logged-models/{id}", s.deleteLoggedModel)
	s.route("PATCH", "logged-models/{id}/tags", s.setLoggedModelTags)
	s.route("DELETE", "logged-models/{id}/tags/{key}", s.deleteLoggedModelTag)
	s.route("POST", "logged-models/{id}/params", s.logModelParams)
	s.route("GET", "logged-models/{id}/artifacts/directories", s.listModelDirectory)
	s.route("POST", "runs/outputs", s.logOutputs)
}

// pathFields maps a path with an id in it to its route and the fields it carries.
func pathFields(path string) (string, map[string]string) {
	rest, ok := strings.CutPrefix(path, loggedModelPrefix)
	if !ok || rest == "search" {
		return path, nil
	}
	id, rest, deeper := strings.Cut(rest, "/")
	fields := map[string]string{"model_id": id}
	route := loggedModelPrefix + "{id}"
	if !deeper {
		return route, fields
	}
	if key, isTag := strings.CutPrefix(rest, "tags/"); isTag {
		fields["tag_key"] = key
		return route + "/tags/{key}", fields
	}
	return route + "/" + rest, fields
}

type outputDTO struct {
	ModelID string `json:"model_id"`
	Step    int64  `json:"step"`
}

type loggedModelDTO struct {
	Info loggedInfoDTO `json:"info"`
	Data loggedDataDTO `json:"data"`
}

type loggedInfoDTO struct {
	ID            string            `json:"model_id"`
	ExperimentID  string            `json:"experiment_id"`
	Name          string            `json:"name"`
	Creation      int64             `json:"creation_timestamp_ms"`
	LastUpdate    int64             `json:"last_updated_timestamp_ms"`
	ArtifactURI   string            `json:"artifact_uri"`
	Status        string            `json:"status"`
	Type          string            `json:"model_type,omitempty"`
	RunID         string            `json:"source_run_id,omitempty"`
	Tags          []pair            `json:"tags,omitempty"`
	Registrations []registrationDTO `json:"registrations,omitempty"`
}

type registrationDTO struct {
	Name    string `json:"name"`
	Version string `json:"version"`
}

type loggedDataDTO struct {
	Params  []pair      `json:"params,omitempty"`
	Metrics []metricDTO `json:"metrics,omitempty"`
}

func loggedModelRoot(experiment int64, id string) string {
	return experimentRoot(experiment) + "/models/" + id + "/artifacts"
}

func loggedModelOf(m postgres.LoggedModel) loggedModelDTO {
	out := loggedModelDTO{Info: loggedInfoDTO{ID: m.ID, ExperimentID: strconv.FormatInt(m.ExperimentID, 10), Name: m.Name, Creation: ms(m.CreateTime),
		LastUpdate: ms(m.UpdateTime), ArtifactURI: loggedModelRoot(m.ExperimentID, m.ID), Status: "LOGGED_MODEL_" + m.Status, Type: m.Type, RunID: shownID(m.RunID), Tags: pairsOf(m.Tags)}}
	for _, r := range m.Registrations {
		out.Info.Registrations = append(out.Info.Registrations, registrationDTO{r.Model, strconv.Itoa(int(r.Version))})
	}
	out.Data.Params = pairsOf(m.Params)
	for _, x := range m.Metrics {
		out.Data.Metrics = append(out.Data.Metrics, metricDTO{Key: x.Key, Value: number(x.Value), Timestamp: ms(x.Time), Step: x.Step,
			RunID: shownID(x.RunID), ModelID: x.ModelID, DatasetName: x.DatasetName, DatasetDigest: x.DatasetDigest})
	}
	return out
}

func noLoggedModel(err error, id string) error {
	if isProblem(err, catalog.ProblemNotFound) {
		return missing("Logged model with ID '%s' not found.", id)
	}
	return err
}

func (s *Server) loggedModelAnswer(ctx context.Context, id string) (any, error) {
	m, err := s.Store.GetLoggedModel(ctx, id)
	if err != nil {
		return nil, noLoggedModel(err, id)
	}
	return map[string]any{"model": loggedModelOf(m)}, nil
}

func (s *Server) createLoggedModel(ctx context.Context, in args) (any, error) {
	experiment, err := in.experimentID()
	if err != nil {
		return nil, err
	}
	m := postgres.LoggedModel{ID: "m-" + shownID(newRunID(in.idempotencyKey)), ExperimentID: experiment}
	if m.Name, err = in.text("name"); err != nil {
		return nil, err
	}
	if m.Name == "" {
		m.Name = randomName()
	}
	if strings.ContainsAny(m.Name, `/:.%"'`) || len([]rune(m.Name)) > maxKey {
		return nil, invalid("Invalid model name ('%s') provided. Model name must be a non-empty string and cannot contain the following characters: ('/', ':', '.', '%%', '\"', \"'\")", m.Name)
	}
	if m.Type, err = in.text("model_type"); err != nil {
		return nil, err
	}
	if m.RunID, err = in.text("source_run_id"); err != nil {
		return nil, err
	}
	m.RunID = keptID(m.RunID)
	if m.Params, err = in.modelParams(); err != nil {
		return nil, err
	}
	if m.Tags, err = in.tags("tags"); err != nil {
		return nil, err
	}
	if err := s.do(ctx, func(t *postgres.Tx) error { return t.CreateLoggedModel(ctx, m) }); err != nil {
		if m.RunID != "" && isProblem(err, catalog.ProblemNotFound) && strings.Contains(err.Error(), m.RunID) {
			return nil, runError(err, m.RunID)
		}
		return nil, noExperiment(err, experiment)
	}
	return s.loggedModelAnswer(ctx, m.ID)
}

func (a args) modelParams() (map[string]string, error) {
	params, err := a.tags("params")
	if err != nil {
		return nil, err
	}
	for k, v := range params {
		if err := checkKey("params[].key", k); err != nil {
			return nil, err
		}
		params[k] = truncate(v, maxParamValue)
	}
	return params, nil
}

func (s *Server) getLoggedModel(ctx context.Context, in args) (any, error) {
	return s.loggedModelAnswer(ctx, in.path["model_id"])
}

func (s *Server) finishLoggedModel(ctx context.Context, in args) (any, error) {
	raw, ok := in.raw("status")
	if !ok {
		return nil, invalid("Missing value for required parameter 'status'.%s", apiDocs)
	}
	status := map[string]string{"LOGGED_MODEL_READY": "READY", "2": "READY", "LOGGED_MODEL_UPLOAD_FAILED": "UPLOAD_FAILED", "3": "UPLOAD_FAILED"}[strings.Trim(string(raw), `"`)]
	if status == "" {
		return nil, invalid("Invalid model status: %s. Expected statuses are READY and UPLOAD_FAILED.", compact(raw))
	}
	id := in.path["model_id"]
	if err := s.do(ctx, func(t *postgres.Tx) error { return t.FinishLoggedModel(ctx, id, status) }); err != nil {
		return nil, noLoggedModel(err, id)
	}
	return s.loggedModelAnswer(ctx, id)
}

func (s *Server) deleteLoggedModel(ctx context.Context, in args) (any, error) {
	id := in.path["model_id"]
	return nil, noLoggedModel(s.do(ctx, func(t *postgres.Tx) error { return t.DeleteLoggedModel(ctx, id) }), id)
}

func (s *Server) setLoggedModelTags(ctx context.Context, in args) (any, error) {
	id := in.path["model_id"]
	tags, err := in.tags("tags")
	if err != nil {
		return nil, err
	}
	for k := range tags {
		if err := checkKey("tags[].key", k); err != nil {
			return nil, err
		}
	}
	return nil, noLoggedModel(s.do(ctx, func(t *postgres.Tx) error { return t.SetLoggedModelTags(ctx, id, tags) }), id)
}

func (s *Server) deleteLoggedModelTag(ctx context.Context, in args) (any, error) {
	id := in.path["model_id"]
	key, removed := in.path["tag_key"], false
	err := s.do(ctx, func(t *postgres.Tx) (err error) {
		removed, err = t.DeleteLoggedModelTag(ctx, id, key)
		return err
	})
	if err == nil && !removed {
		return nil, missing("No tag with key '%s' found for model with ID '%s'.", key, id)
	}
	return nil, noLoggedModel(err, id)
}

func (s *Server) logModelParams(ctx context.Context, in args) (any, error) {
	id := in.path["model_id"]
	params, err := in.modelParams()
	if err != nil {
		return nil, err
	}
	return nil, noLoggedModel(s.do(ctx, func(t *postgres.Tx) error { return t.LogModelParams(ctx, id, params) }), id)
}

func (s *Server) listModelDirectory(ctx context.Context, in args) (any, error) {
	id := in.path["model_id"]
	m, err := s.Store.GetLoggedModel(ctx, id)
	if err != nil {
		return nil, noLoggedModel(err, id)
	}
	dir, err := in.text("artifact_directory_path")
	if err != nil {
		return nil, err
	}
	if err := checkRelative(dir); err != nil {
		return nil, err
	}
	all, err := s.Store.ListModelArtifacts(ctx, id)
	if err != nil {
		return nil, err
	}
	out := map[string]any{"root_uri": loggedModelRoot(m.ExperimentID, id)}
	if files := children(all, dir); len(files) > 0 {
		out["files"] = files
	}
	return out, nil
}

func (s *Server) searchLoggedModels(ctx context.Context, in args) (any, error) {
	if n, err := in.integer("max_results", 0); err == nil && n == 0 {
		delete(in.fields, "max_results") // 0 is no number of results but the absence of one
	}
	page, err := in.page(paging{100, 1000, positive})
	if err != nil {
		return nil, err
	}
	names, err := in.list("experiment_ids")
	if err != nil {
		return nil, err
	}
	if len(names) == 0 {
		return nil, invalid("Missing value for required parameter 'experiment_ids'.%s", apiDocs)
	}
	text, err := in.text("filter")
	if err != nil {
		return nil, err
	}
	clauses, err := filter.LoggedModels.Parse(text)
	if err != nil {
		return nil, err
	}
	keptIDs(clauses)
	for i, c := range clauses {
		if c.Entity == filter.Attribute && c.Key == "status" {
			clauses[i].Text = strings.TrimPrefix(c.Text, "LOGGED_MODEL_")
		}
	}
	if in.has("datasets") {
		if list, err := in.documents("datasets"); err != nil || len(list) > 0 {
			return nil, invalid("Filtering logged models by dataset is not supported by this server.")
		}
	}
	orders, err := in.modelOrders()
	if err != nil {
		return nil, err
	}
	models, err := s.Store.SearchLoggedModels(ctx, experimentNumbers(names), clauses, orders, page)
	if err != nil {
		return nil, err
	}
	models, next := cut(models, page)
	out := struct {
		Models []loggedModelDTO `json:"models,omitempty"`
		Next   string           `json:"next_page_token,omitempty"`
	}{Next: next}
	for _, m := range models {
		out.Models = append(out.Models, loggedModelOf(m))
	}
	return out, nil
}

// documents reads a list of JSON objects.
func (a args) documents(name string) ([]json.RawMessage, error) {
	raw, ok := a.raw(name)
	if !ok {
		return nil, nil
	}
	var out []json.RawMessage
	if err := json.Unmarshal(raw, &out); err != nil {
		return nil, badValue(name, raw)
	}
	return out, nil
}

// modelOrders reads the structured order_by of logged models.
func (a args) modelOrders() ([]filter.Order, error) {
	list, err := a.documents("order_by")
	if err != nil {
		return nil, err
	}
	var orders []filter.Order
	for i, raw := range list {
		term := struct {
			Field     string `json:"field_name"`
			Ascending *bool  `json:"ascending"`
		}{}
		if err := json.Unmarshal(raw, &term); err != nil {
			return nil, badValue(fmt.Sprintf("order_by[%d]", i), raw)
		}
		o, err := filter.LoggedModels.ParseOrder(term.Field)
		if err != nil {
			return nil, err
		}
		o.Descending = term.Ascending != nil && !*term.Ascending
		orders = append(orders, o)
	}
	return orders, nil
}

func (s *Server) logOutputs(ctx context.Context, in args) (any, error) {
	id, err := in.runID()
	if err != nil {
		return nil, err
	}
	list, err := in.documents("models")
	if err != nil {
		return nil, err
	}
	var outputs []postgres.Output
	for i, raw := range list {
		var o struct {
			ModelID string          `json:"model_id"`
			Step    json.RawMessage `json:"step"`
		}
		if err := json.Unmarshal(raw, &o); err != nil || o.ModelID == "" {
			return nil, badValue(fmt.Sprintf("models[%d]", i), raw)
		}
		output := postgres.Output{ModelID: o.ModelID}
		if len(o.Step) > 0 {
			if output.Step, err = parseInteger(o.Step); err != nil {
				return nil, badValue(fmt.Sprintf("models[%d].step", i), o.Step)
			}
		}
		outputs = append(outputs, output)
	}
	err = s.do(ctx, func(t *postgres.Tx) error { return t.LogOutputs(ctx, id, in.guard, outputs) })
	if isProblem(err, catalog.ProblemNotFound) && strings.Contains(err.Error(), "logged-models/") {
		return nil, missing("%s", err.Error())
	}
	return nil, runError(err, id)
}

// publishModelFile stores one file of a logged model.
func (s *Server) publishModelFile(ctx context.Context, model string, file catalog.File, u upload, mediaType string) error {
	var staged postgres.Artifact
	err := s.do(ctx, func(t *postgres.Tx) (err error) {
		staged, err = t.StageModelArtifact(ctx, model, file)
		return err
	})
	if err != nil {
		return noLoggedModel(err, model)
	}
	if err := s.store(ctx, staged, u); err != nil {
		return err
	}
	return noLoggedModel(s.do(ctx, func(t *postgres.Tx) error {
		return t.PublishModelArtifact(ctx, newArtifactID(), model, file, mediaType)
	}), model)
}
