package mlflowapi

import (
	"context"
	"strconv"
	"strings"

	"github.com/ultrathink-pilot/trainyard/services/registry/internal/catalog"
	"github.com/ultrathink-pilot/trainyard/services/registry/internal/filter"
	"github.com/ultrathink-pilot/trainyard/services/registry/internal/postgres"
)

const experimentsMost = 50_000

func (s *Server) experimentRoutes() {
	s.route("POST", "experiments/create", s.createExperiment)
	s.route("GET", "experiments/get", s.getExperiment)
	s.route("GET", "experiments/get-by-name", s.getExperimentByName)
	s.route("GET+POST", "experiments/search", s.searchExperiments)
	s.route("POST", "experiments/update", s.updateExperiment)
	s.route("POST", "experiments/delete", s.lifecycleOf(catalog.Deleted))
	s.route("POST", "experiments/restore", s.lifecycleOf(catalog.Active))
	s.route("POST", "experiments/set-experiment-tag", s.setExperimentTag)
	s.route("POST", "experiments/delete-experiment-tag", s.deleteExperimentTag)
}

// experimentID reads an experiment's number. One that is no number cannot exist here.
func (a args) experimentID() (int64, error) {
	text, err := a.need("experiment_id")
	if err != nil {
		return 0, err
	}
	id, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return 0, invalid("Invalid experiment ID '%s'. Experiment ID must be a valid integer.", text)
	}
	return id, nil
}

func noExperiment(err error, id int64) error {
	if isProblem(err, catalog.ProblemState) {
		return invalid("The experiment %d must be in the 'active' state. Current state is deleted.", id)
	}
	if isProblem(err, catalog.ProblemNotFound) {
		return missing("No Experiment with id=%d exists", id)
	}
	return err
}

func experimentTaken(err error, name string) error {
	if isProblem(err, catalog.ProblemAlreadyExists) {
		return exists("Experiment(name=%s) already exists.", name)
	}
	return err
}

func (s *Server) createExperiment(ctx context.Context, in args) (any, error) {
	name, err := in.need("name")
	if err != nil {
		return nil, err
	}
	if err := checkExperimentName(name); err != nil {
		return nil, err
	}
	tags, err := in.tags("tags")
	if err != nil {
		return nil, err
	}
	for k, v := range tags {
		if err := checkExperimentTag(k, v); err != nil {
			return nil, err
		}
	}
	var id int64
	location, err := in.text("artifact_location")
	if err != nil {
		return nil, err
	}
	if strings.ContainsAny(location, "#;?") {
		return nil, invalid("'artifact_location' URL can't include fragments or params.")
	}
	if err := checkPath(location); err != nil {
		return nil, err
	}
	err = s.do(ctx, func(t *postgres.Tx) error {
		var err error
		id, err = t.CreateExperiment(ctx, name, strings.TrimRight(location, "/"), tags)
		return err
	})
	if err != nil {
		return nil, experimentTaken(err, name)
	}
	return map[string]string{"experiment_id": strconv.FormatInt(id, 10)}, nil
}

func checkExperimentTag(key, value string) error {
	if err := checkKey("key", key); err != nil {
		return err
	}
	return checkLength("value", value, maxExperimentTag)
}

func (s *Server) getExperiment(ctx context.Context, in args) (any, error) {
	id, err := in.experimentID()
	if err != nil {
		return nil, err
	}
	e, err := s.Store.GetExperiment(ctx, id)
	if err != nil {
		return nil, noExperiment(err, id)
	}
	return map[string]any{"experiment": experimentOf(e)}, nil
}

func (s *Server) getExperimentByName(ctx context.Context, in args) (any, error) {
	name, err := in.need("experiment_name")
	if err != nil {
		return nil, err
	}
	e, err := s.Store.GetExperimentByName(ctx, name)
	if isProblem(err, catalog.ProblemNotFound) {
		return nil, missing("Could not find experiment with name '%s'", name)
	}
	if err != nil {
		return nil, err
	}
	return map[string]any{"experiment": experimentOf(e)}, nil
}

func (s *Server) searchExperiments(ctx context.Context, in args) (any, error) {
	limit, err := in.integer("max_results", 0)
	if err != nil {
		return nil, err
	}
	if limit > experimentsMost {
		return nil, invalid("Invalid value %d for parameter 'max_results' supplied. It must be at most %d", limit, experimentsMost)
	}
	page, err := in.page(paging{0, experimentsMost, positive})
	if err != nil {
		return nil, err
	}
	clauses, orders, err := in.search(filter.Experiments)
	if err != nil {
		return nil, err
	}
	all, err := s.Store.SearchExperiments(ctx, clauses, orders, in.view("view_type"), page)
	if err != nil {
		return nil, err
	}
	all, next := cut(all, page)
	out := struct {
		Experiments []experimentDTO `json:"experiments,omitempty"`
		Next        string          `json:"next_page_token,omitempty"`
	}{Next: next}
	for _, e := range all {
		out.Experiments = append(out.Experiments, experimentOf(e))
	}
	return out, nil
}

// search reads filter and order_by.
func (a args) search(g filter.Grammar) ([]filter.Clause, []filter.Order, error) {
	text, err := a.text("filter")
	if err != nil {
		return nil, nil, err
	}
	clauses, err := g.Parse(text)
	if err != nil {
		return nil, nil, err
	}
	keptIDs(clauses)
	terms, err := a.list("order_by")
	if err != nil {
		return nil, nil, err
	}
	var orders []filter.Order
	for _, term := range terms {
		o, err := g.ParseOrder(term)
		if err != nil {
			return nil, nil, err
		}
		orders = append(orders, o)
	}
	return clauses, orders, nil
}

func (s *Server) updateExperiment(ctx context.Context, in args) (any, error) {
	id, err := in.experimentID()
	if err != nil {
		return nil, err
	}
	name, err := in.need("new_name")
	if err != nil {
		return nil, err
	}
	if err := checkExperimentName(name); err != nil {
		return nil, err
	}
	err = s.do(ctx, func(t *postgres.Tx) error { return t.RenameExperiment(ctx, id, name) })
	if isProblem(err, catalog.ProblemState) {
		return nil, invalid("Cannot rename a non-active experiment.")
	}
	return nil, noExperiment(experimentTaken(err, name), id)
}

func (s *Server) lifecycleOf(to catalog.Lifecycle) handler {
	return func(ctx context.Context, in args) (any, error) {
		id, err := in.experimentID()
		if err != nil {
			return nil, err
		}
		err = s.do(ctx, func(t *postgres.Tx) error { return t.SetExperimentLifecycle(ctx, id, to) })
		return nil, noExperiment(err, id)
	}
}

func (s *Server) setExperimentTag(ctx context.Context, in args) (any, error) {
	id, err := in.experimentID()
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
	if err := checkExperimentTag(key, value); err != nil {
		return nil, err
	}
	err = s.do(ctx, func(t *postgres.Tx) error { return t.SetExperimentTag(ctx, id, key, value) })
	return nil, noExperiment(err, id)
}

func (s *Server) deleteExperimentTag(ctx context.Context, in args) (any, error) {
	id, err := in.experimentID()
	if err != nil {
		return nil, err
	}
	key, err := in.need("key")
	if err != nil {
		return nil, err
	}
	removed := false
	err = s.do(ctx, func(t *postgres.Tx) (err error) {
		removed, err = t.DeleteExperimentTag(ctx, id, key)
		return err
	})
	if err == nil && !removed {
		err = missing("No tag with name: %s in experiment with id %d", key, id)
	}
	return nil, noExperiment(err, id)
}
