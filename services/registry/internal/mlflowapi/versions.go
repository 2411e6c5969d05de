package mlflowapi

import (
	"context"
	"net/url"
	"strconv"
	"strings"

	"github.com/ultrathink-pilot/trainyard/services/registry/internal/catalog"
	"github.com/ultrathink-pilot/trainyard/services/registry/internal/filter"
	"github.com/ultrathink-pilot/trainyard/services/registry/internal/postgres"
)

type versionsDTO struct {
	Versions []versionDTO `json:"model_versions,omitempty"`
	Next     string       `json:"next_page_token,omitempty"`
}

func (s *Server) versionRoutes() {
	s.route("POST", "model-versions/create", s.createVersion)
	s.route("GET", "model-versions/get", s.getVersion)
	s.route("GET", "model-versions/search", s.searchVersions)
	s.route("PATCH", "model-versions/update", s.updateVersion)
	s.route("DELETE", "model-versions/delete", s.deleteVersion)
	s.route("POST", "model-versions/transition-stage", s.transition)
	s.route("GET", "model-versions/get-download-uri", s.downloadURI)
	s.route("POST", "model-versions/set-tag", s.setVersionTag)
	s.route("DELETE", "model-versions/delete-tag", s.deleteVersionTag)
}

// nameAndVersion reads the two fields that every version route has.
func (a args) nameAndVersion() (string, int32, error) {
	name, err := a.need("name")
	if err != nil {
		return "", 0, err
	}
	version, err := a.versionNumber("version")
	return name, version, err
}

func (s *Server) versionAnswer(ctx context.Context, name string, version int32) (any, error) {
	v, err := s.Store.GetVersion(ctx, name, version)
	if err != nil {
		return nil, noVersion(err, name, version)
	}
	return map[string]any{"model_version": versionOf(v)}, nil
}

func (s *Server) createVersion(ctx context.Context, in args) (any, error) {
	name, err := in.need("name")
	if err != nil {
		return nil, err
	}
	source, err := in.need("source")
	if err != nil {
		return nil, err
	}
	tags, err := in.registryTags()
	if err != nil {
		return nil, err
	}
	n := postgres.SourceVersion{Tags: tags}
	if n.RunID, err = in.text("run_id"); err != nil {
		return nil, err
	}
	n.RunID = keptID(n.RunID)
	if n.Description, err = in.text("description"); err != nil {
		return nil, err
	}
	if n.LoggedModel, err = in.text("model_id"); err != nil {
		return nil, err
	}
	var maker string
	if n.Source, maker, err = s.resolveSource(ctx, source); err != nil {
		return nil, err
	}
	if n.RunID == "" {
		n.RunID = maker
	}
	if id, ok := strings.CutPrefix(n.Source, loggedModelScheme); ok {
		n.LoggedModel = id
	}
	if n.LoggedModel != "" {
		m, err := s.Store.GetLoggedModel(ctx, n.LoggedModel)
		if err != nil {
			return nil, noLoggedModel(err, n.LoggedModel)
		}
		if n.RunID == "" {
			n.RunID = m.RunID
		}
	}
	if n.RunID != "" {
		if _, err := s.Store.GetRun(ctx, n.RunID); err != nil {
			return nil, runError(err, n.RunID)
		}
	}
	var v catalog.Version
	err = s.do(ctx, func(t *postgres.Tx) error {
		var err error
		// A version made from a checkpoint's own URI is that checkpoint's version: it
		// keeps its place in retention and in the history.
		if id, ok := strings.CutPrefix(n.Source, checkpointScheme); ok {
			v, err = t.RegisterVersion(ctx, name, id, by(ctx))
			return err
		}
		v, err = t.AddSourceVersion(ctx, name, n, by(ctx))
		return err
	})
	if err != nil {
		return nil, noModel(err, name)
	}
	return map[string]any{"model_version": versionOf(v)}, nil
}

// resolveSource checks a version's URI and resolves models:/ now, so that the version never
// moves with what it was made from. A version made from another one has its run too.
func (s *Server) resolveSource(ctx context.Context, source string) (uri, runID string, err error) {
	u, err := url.Parse(source)
	if err != nil {
		return "", "", invalid("Invalid model version source: '%s'.", source)
	}
	if err := checkPath(u.Path + u.Opaque); err != nil {
		return "", "", invalid("Invalid model version source: '%s'. If supplying a source as an http, https, local file path, ftp, objectstore, or mlflow-artifacts uri, an absolute path must be provided without relative path references present. Please provide an absolute path.", source)
	}
	switch u.Scheme {
	case "", "file":
		return "", "", invalid("Invalid model version source: '%s'. To use a local path as a model version source, the run_id request parameter has to be specified and the local path has to be contained within the artifact directory of the run specified by the run_id.", source)
	case "models":
		parts := strings.Split(strings.Trim(u.Path+u.Opaque, "/"), "/")
		if len(parts) == 1 && strings.HasPrefix(parts[0], "m-") {
			return loggedModelScheme + parts[0], "", nil
		}
		if len(parts) != 2 {
			return "", "", invalid("Not a proper models:/ URI: %s.", source)
		}
		if n, err := strconv.ParseInt(parts[1], 10, 32); err == nil {
			v, err := s.Store.GetVersion(ctx, parts[0], int32(n))
			if err != nil {
				return "", "", noVersion(err, parts[0], int32(n))
			}
			return versionOf(v).Source, v.RunID, nil
		}
		stage, err := stageOf(parts[1])
		if err != nil {
			return "", "", err
		}
		v, err := s.Store.VersionInStage(ctx, parts[0], stage)
		if err != nil {
			return "", "", noModel(err, parts[0])
		}
		return versionOf(v).Source, v.RunID, nil
	}
	return source, "", nil
}

func (s *Server) getVersion(ctx context.Context, in args) (any, error) {
	name, version, err := in.nameAndVersion()
	if err != nil {
		return nil, err
	}
	return s.versionAnswer(ctx, name, version)
}

func (s *Server) searchVersions(ctx context.Context, in args) (any, error) {
	page, err := in.page(paging{10_000, 200_000, "Invalid value for max_results. It must be a positive integer, but got %d"})
	if err != nil {
		return nil, err
	}
	clauses, orders, err := in.search(filter.Versions)
	if err != nil {
		return nil, err
	}
	versions, err := s.Store.SearchVersions(ctx, clauses, orders, page)
	if err != nil {
		return nil, err
	}
	versions, next := cut(versions, page)
	out := versionsDTO{Next: next}
	for _, v := range versions {
		out.Versions = append(out.Versions, versionOf(v))
	}
	return out, nil
}

func (s *Server) updateVersion(ctx context.Context, in args) (any, error) {
	name, version, err := in.nameAndVersion()
	if err != nil {
		return nil, err
	}
	description, err := in.text("description")
	if err != nil {
		return nil, err
	}
	if err := s.do(ctx, func(t *postgres.Tx) error { return t.DescribeVersion(ctx, name, version, description) }); err != nil {
		return nil, noVersion(err, name, version)
	}
	return s.versionAnswer(ctx, name, version)
}

func (s *Server) deleteVersion(ctx context.Context, in args) (any, error) {
	name, version, err := in.nameAndVersion()
	if err != nil {
		return nil, err
	}
	return nil, noVersion(s.do(ctx, func(t *postgres.Tx) error { return t.DeleteVersion(ctx, name, version, by(ctx)) }), name, version)
}

func (s *Server) transition(ctx context.Context, in args) (any, error) {
	name, version, err := in.nameAndVersion()
	if err != nil {
		return nil, err
	}
	text, err := in.need("stage")
	if err != nil {
		return nil, err
	}
	stage, err := stageOf(text)
	if err != nil {
		return nil, err
	}
	archive, err := in.flag("archive_existing_versions")
	if err != nil {
		return nil, err
	}
	if archive && stage != catalog.StageProduction && stage != catalog.StageStaging {
		return nil, invalid("Model version transition cannot archive existing model versions because '%s' is not an Active stage. Valid stages are ['Staging', 'Production']", stageNames[stage])
	}
	var v catalog.Version
	err = s.do(ctx, func(t *postgres.Tx) error {
		var err error
		v, _, err = t.Promote(ctx, postgres.Promotion{Model: name, Version: version, To: stage, By: by(ctx)})
		return err
	})
	if err != nil {
		return nil, noVersion(err, name, version)
	}
	return map[string]any{"model_version": versionOf(v)}, nil
}

func (s *Server) downloadURI(ctx context.Context, in args) (any, error) {
	name, version, err := in.nameAndVersion()
	if err != nil {
		return nil, err
	}
	v, err := s.Store.GetVersion(ctx, name, version)
	if err != nil {
		return nil, noVersion(err, name, version)
	}
	uri, err := s.filesOf(ctx, v)
	if err != nil {
		return nil, err
	}
	return map[string]string{"artifact_uri": uri}, nil
}

// loggedModelScheme is the source of versions that MLflow 3 clients register.
const loggedModelScheme = "models:/"

// filesOf is where a version's files are: its source, with a logged model's id resolved.
func (s *Server) filesOf(ctx context.Context, v catalog.Version) (string, error) {
	if v.LoggedModelID == "" {
		return versionOf(v).Source, nil
	}
	m, err := s.Store.GetLoggedModel(ctx, v.LoggedModelID)
	if err != nil {
		return "", noLoggedModel(err, v.LoggedModelID)
	}
	return loggedModelRoot(m.ExperimentID, m.ID), nil
}

func (s *Server) setVersionTag(ctx context.Context, in args) (any, error) {
	name, version, err := in.nameAndVersion()
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
	return nil, noVersion(s.do(ctx, func(t *postgres.Tx) error { return t.SetVersionTag(ctx, name, version, key, value) }), name, version)
}

func (s *Server) deleteVersionTag(ctx context.Context, in args) (any, error) {
	name, version, err := in.nameAndVersion()
	if err != nil {
		return nil, err
	}
	key, err := in.need("key")
	if err != nil {
		return nil, err
	}
	return nil, noVersion(s.do(ctx, func(t *postgres.Tx) error { return t.DeleteVersionTag(ctx, name, version, key) }), name, version)
}
