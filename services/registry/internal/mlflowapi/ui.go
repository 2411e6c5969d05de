package mlflowapi

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"strings"
)

// maxUIUpload is what MLflow takes from its user interface at once.
const maxUIUpload = 10 << 20

func (s *Server) uiRoutes() {
	s.route("POST", "experiments/search-datasets", s.searchDatasets)
}

type datasetDTO struct {
	ExperimentID string `json:"experiment_id"`
	Name         string `json:"name"`
	Digest       string `json:"digest"`
	Context      string `json:"context,omitempty"`
}

// searchDatasets lists what the runs of experiments read, for the filter of the runs' page.
func (s *Server) searchDatasets(ctx context.Context, in args) (any, error) {
	const most = 20
	ids, err := in.list("experiment_ids")
	if err != nil {
		return nil, err
	}
	if len(ids) == 0 {
		return nil, invalid("SearchDatasets request must specify at least one experiment_id.")
	}
	if len(ids) > most {
		return nil, invalid("SearchDatasets request cannot specify more than %d experiment_ids. Received %d experiment_ids.", most, len(ids))
	}
	found, err := s.Store.Datasets(ctx, experimentNumbers(ids))
	if err != nil {
		return nil, err
	}
	var out struct {
		Summaries []datasetDTO `json:"dataset_summaries,omitempty"`
	}
	for _, d := range found {
		out.Summaries = append(out.Summaries, datasetDTO{ExperimentID: strconv.FormatInt(d.ExperimentID, 10), Name: d.Name, Digest: d.Digest, Context: d.Context})
	}
	return out, nil
}

// serveUIFiles serves the two ways in which only the interface moves files.
func (s *Server) serveUIFiles(w http.ResponseWriter, r *http.Request) (bool, error) {
	rest, _ := apiPath(r.URL.Path)
	if rest == "upload-artifact" && r.Method == http.MethodPost {
		return true, s.uploadArtifact(w, r)
	}
	if id, ok := strings.CutSuffix(rest, "/artifacts/files"); ok && r.Method == http.MethodGet {
		if id, ok = strings.CutPrefix(id, loggedModelPrefix); ok {
			p := r.URL.Query().Get("artifact_file_path")
			if p == "" {
				return true, &apiError{"BAD_REQUEST", "Request must include the \"artifact_file_path\" query parameter."}
			}
			if err := checkRelative(p); err != nil {
				return true, err
			}
			return true, s.send(w, r, location{model: id, path: p, shown: p})
		}
	}
	return false, nil
}

func (s *Server) uploadArtifact(w http.ResponseWriter, r *http.Request) error {
	q := r.URL.Query()
	l := location{run: keptID(q.Get("run_uuid")), path: q.Get("path"), shown: q.Get("path")}
	switch {
	case l.run == "":
		return invalid("Request must specify run_uuid.")
	case l.path == "":
		return invalid("Request must specify path.")
	case r.ContentLength > maxUIUpload:
		return invalid("Artifact size is too large. Max size is 10MB.")
	}
	if err := checkRelative(l.path); err != nil {
		return err
	}
	r.Body = http.MaxBytesReader(w, r.Body, maxUIUpload)
	u, file, err := spool(w, r)
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }() // unlinked: closing frees it
	if u.size == 0 {
		return invalid("Request must specify data.")
	}
	if err := runError(s.publish(r.Context(), l, u, r.Header.Get("Content-Type")), l.run); err != nil {
		return err
	}
	s.answer(w, http.StatusOK, struct{}{})
	return nil
}

// serveUI serves MLflow's user interface when its assets are there, as a build of MLflow
// lays them: index.html, and under static-files what it loads.
func (s *Server) serveUI(w http.ResponseWriter, r *http.Request) bool {
	if s.UI == nil || r.Method != http.MethodGet && r.Method != http.MethodHead {
		return false
	}
	name := strings.TrimPrefix(r.URL.Path, "/")
	switch rest, asset := strings.CutPrefix(name, "static-files/"); {
	case name == "":
		name = "index.html"
	case asset:
		name = rest
	default:
		return false
	}
	if _, err := s.UI.Stat(name); err != nil {
		s.fail(w, r, errors.Join(&apiError{"RESOURCE_DOES_NOT_EXIST", "no such file of the user interface"}, err))
		return true
	}
	if name == "index.html" {
		name = "" // the file server would redirect to the directory
	}
	again := r.Clone(r.Context())
	again.URL.Path = "/" + name
	http.FileServerFS(s.UI.FS()).ServeHTTP(w, again)
	return true
}
