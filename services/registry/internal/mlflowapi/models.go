package mlflowapi

import (
	"context"
	"strings"

	"github.com/ultrathink-pilot/trainyard/services/registry/internal/catalog"
	"github.com/ultrathink-pilot/trainyard/services/registry/internal/filter"
	"github.com/ultrathink-pilot/trainyard/services/registry/internal/postgres"
)

func (s *Server) modelRoutes() {
	s.route("POST", "registered-models/create", s.createModel)
	s.route("GET", "registered-models/get", s.getModel)
	s.route("GET", "registered-models/search", s.searchModels)
	s.route("POST", "registered-models/rename", s.renameModel)
	s.route("PATCH", "registered-models/update", s.updateModel)
	s.route("DELETE", "registered-models/delete", s.deleteModel)
	s.route("POST+GET", "registered-models/get-latest-versions", s.latestVersions)
	s.route("POST", "registered-models/set-tag", s.setModelTag)
	s.route("DELETE", "registered-models/delete-tag", s.deleteModelTag)
	s.route("POST", "registered-models/alias", s.setAlias)
	s.route("GET", "registered-models/alias", s.getAlias)
	s.route("DELETE", "registered-models/alias", s.deleteAlias)
}

func (s *Server) modelAnswer(ctx context.Context, name string) (any, error) {
	m, err := s.Store.GetModel(ctx, name)
	if err != nil {
		return nil, noModel(err, name)
	}
	versions, err := s.Store.Versions(ctx, name)
	if err != nil {
		return nil, err
	}
	return map[string]any{"registered_model": modelOf(m, latestPerStage(versions, nil))}, nil
}

func checkModelName(name string) error {
	if strings.ContainsAny(name, "/:") {
		return invalid("Invalid model name '%s'. Names cannot contain '/' or ':'.", name)
	}
	return checkLength("name", name, maxKey)
}

func checkRegistryTag(key, value string) error {
	if err := checkKey("key", key); err != nil {
		return err
	}
	return checkLength("value", value, maxRegistryTag)
}

func (a args) registryTags() (map[string]string, error) {
	tags, err := a.tags("tags")
	if err != nil {
		return nil, err
	}
	for k, v := range tags {
		if err := checkRegistryTag(k, v); err != nil {
			return nil, err
		}
	}
	return tags, nil
}

func modelTaken(err error, name string) error {
	if isProblem(err, catalog.ProblemAlreadyExists) {
		return exists("Registered Model (name=%s) already exists.", name)
	}
	return err
}

func (s *Server) createModel(ctx context.Context, in args) (any, error) {
	name, err := in.need("name")
	if err != nil {
		return nil, err
	}
	if err := checkModelName(name); err != nil {
		return nil, err
	}
	tags, err := in.registryTags()
	if err != nil {
		return nil, err
	}
	description, err := in.text("description")
	if err != nil {
		return nil, err
	}
	if err := s.do(ctx, func(t *postgres.Tx) error { return t.CreateModel(ctx, name, description, tags) }); err != nil {
		return nil, modelTaken(err, name)
	}
	return s.modelAnswer(ctx, name)
}

func (s *Server) getModel(ctx context.Context, in args) (any, error) {
	name, err := in.need("name")
	if err != nil {
		return nil, err
	}
	return s.modelAnswer(ctx, name)
}

func (s *Server) searchModels(ctx context.Context, in args) (any, error) {
	page, err := in.page(paging{100, 1000, positive})
	if err != nil {
		return nil, err
	}
	clauses, orders, err := in.search(filter.Models)
	if err != nil {
		return nil, err
	}
	models, err := s.Store.SearchModels(ctx, clauses, orders, page)
	if err != nil {
		return nil, err
	}
	models, next := cut(models, page)
	out := struct {
		Models []modelDTO `json:"registered_models,omitempty"`
		Next   string     `json:"next_page_token,omitempty"`
	}{Next: next}
	for _, m := range models {
		versions, err := s.Store.Versions(ctx, m.Name)
		if err != nil {
			return nil, err
		}
		out.Models = append(out.Models, modelOf(m, latestPerStage(versions, nil)))
	}
	return out, nil
}

func (s *Server) renameModel(ctx context.Context, in args) (any, error) {
	name, err := in.need("name")
	if err != nil {
		return nil, err
	}
	to, err := in.need("new_name")
	if err != nil {
		return nil, err
	}
	if err := checkModelName(to); err != nil {
		return nil, err
	}
	if err := s.do(ctx, func(t *postgres.Tx) error { return t.RenameModel(ctx, name, to) }); err != nil {
		return nil, modelTaken(noModel(err, name), to)
	}
	return s.modelAnswer(ctx, to)
}

func (s *Server) updateModel(ctx context.Context, in args) (any, error) {
	name, err := in.need("name")
	if err != nil {
		return nil, err
	}
	description, err := in.text("description")
	if err != nil {
		return nil, err
	}
	if err := s.do(ctx, func(t *postgres.Tx) error { return t.DescribeModel(ctx, name, description) }); err != nil {
		return nil, noModel(err, name)
	}
	return s.modelAnswer(ctx, name)
}

func (s *Server) deleteModel(ctx context.Context, in args) (any, error) {
	name, err := in.need("name")
	if err != nil {
		return nil, err
	}
	return nil, noModel(s.do(ctx, func(t *postgres.Tx) error { return t.DeleteModel(ctx, name, by(ctx)) }), name)
}

func (s *Server) latestVersions(ctx context.Context, in args) (any, error) {
	name, err := in.need("name")
	if err != nil {
		return nil, err
	}
	names, err := in.list("stages")
	if err != nil {
		return nil, err
	}
	var stages []catalog.Stage
	for _, n := range names {
		stage, err := stageOf(n)
		if err != nil {
			return nil, err
		}
		stages = append(stages, stage)
	}
	if _, err := s.Store.GetModel(ctx, name); err != nil {
		return nil, noModel(err, name)
	}
	versions, err := s.Store.Versions(ctx, name)
	if err != nil {
		return nil, err
	}
	out := versionsDTO{}
	for _, v := range latestPerStage(versions, stages) {
		out.Versions = append(out.Versions, versionOf(v))
	}
	return out, nil
}

func (s *Server) setModelTag(ctx context.Context, in args) (any, error) {
	name, err := in.need("name")
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
	if err := checkRegistryTag(key, value); err != nil {
		return nil, err
	}
	return nil, noModel(s.do(ctx, func(t *postgres.Tx) error { return t.SetModelTag(ctx, name, key, value) }), name)
}

func (s *Server) deleteModelTag(ctx context.Context, in args) (any, error) {
	name, err := in.need("name")
	if err != nil {
		return nil, err
	}
	key, err := in.need("key")
	if err != nil {
		return nil, err
	}
	return nil, noModel(s.do(ctx, func(t *postgres.Tx) error { return t.DeleteModelTag(ctx, name, key) }), name)
}

func (s *Server) setAlias(ctx context.Context, in args) (any, error) {
	name, err := in.need("name")
	if err != nil {
		return nil, err
	}
	alias, err := in.need("alias")
	if err != nil {
		return nil, err
	}
	if err := checkAlias(alias); err != nil {
		return nil, err
	}
	version, err := in.versionNumber("version")
	if err != nil {
		return nil, err
	}
	return nil, noVersion(s.do(ctx, func(t *postgres.Tx) error { return t.SetAlias(ctx, name, alias, version, by(ctx)) }), name, version)
}

func (s *Server) getAlias(ctx context.Context, in args) (any, error) {
	name, err := in.need("name")
	if err != nil {
		return nil, err
	}
	alias, err := in.need("alias")
	if err != nil {
		return nil, err
	}
	if err := checkAlias(alias); err != nil {
		return nil, err
	}
	v, err := s.Store.VersionByAlias(ctx, name, alias)
	if isProblem(err, catalog.ProblemNotFound) {
		if _, err := s.Store.GetModel(ctx, name); err != nil {
			return nil, noModel(err, name)
		}
		// 400 and not 404: clients of every release expect exactly this.
		return nil, invalid("Registered model alias %s not found.", alias)
	}
	if err != nil {
		return nil, err
	}
	return map[string]any{"model_version": versionOf(v)}, nil
}

func (s *Server) deleteAlias(ctx context.Context, in args) (any, error) {
	name, err := in.need("name")
	if err != nil {
		return nil, err
	}
	alias, err := in.need("alias")
	if err != nil {
		return nil, err
	}
	if err := checkAlias(alias); err != nil {
		return nil, err
	}
	return nil, noModel(s.do(ctx, func(t *postgres.Tx) error { return t.DeleteAlias(ctx, name, alias, by(ctx)) }), name)
}
