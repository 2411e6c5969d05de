package mlflowapi

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"os"
	"path"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"go.uber.org/zap"

	"github.com/ultrathink-pilot/trainyard/libs/objectstore"
	"github.com/ultrathink-pilot/trainyard/services/registry/internal/catalog"
	"github.com/ultrathink-pilot/trainyard/services/registry/internal/contents"
	"github.com/ultrathink-pilot/trainyard/services/registry/internal/postgres"
)

const (
	// artifactScheme is the root of everything that clients reach through this proxy.
	artifactScheme = "mlflow-artifacts:/"
	// checkpointScheme is where a checkpoint's files are found by the same proxy.
	checkpointScheme = artifactScheme + "checkpoints/"
	// maxArtifact is the object store's bound for one upload.
	maxArtifact = 5 << 30
)

// serveFiles answers the routes that carry files instead of JSON fields.
func (s *Server) serveFiles(w http.ResponseWriter, r *http.Request) bool {
	for _, prefix := range []string{"/api/2.0/mlflow-artifacts/", "/ajax-api/2.0/mlflow-artifacts/"} {
		rest, ok := strings.CutPrefix(r.URL.Path, prefix)
		if !ok {
			continue
		}
		var err error
		switch file, isFile := strings.CutPrefix(rest, "artifacts/"); {
		case rest == "artifacts" && r.Method == http.MethodGet:
			err = s.listProxied(w, r)
		case isFile && (r.Method == http.MethodGet || r.Method == http.MethodHead):
			err = s.getProxied(w, r, file)
		case isFile && r.Method == http.MethodPut:
			err = s.putProxied(w, r, file)
		case isFile && r.Method == http.MethodDelete:
			err = s.deleteProxied(w, r, file)
		case strings.HasPrefix(rest, "mpu/"):
			err = s.serveParts(w, r, rest)
		case strings.HasPrefix(rest, "presigned/"):
			err = &apiError{"NOT_IMPLEMENTED", "Presigned downloads are not supported by this server: download through it"}
		default:
			err = &apiError{"ENDPOINT_NOT_FOUND", "No route for " + r.Method + " " + r.URL.Path}
		}
		if err != nil {
			s.fail(w, r, err)
		}
		return true
	}
	switch {
	case r.Method == http.MethodPost && r.URL.Path == "/graphql":
		if err := s.serveGraphQL(w, r); err != nil {
			s.fail(w, r, err)
		}
		return true
	case r.Method == http.MethodGet && r.URL.Path == "/get-artifact":
		q := r.URL.Query()
		if err := s.sendRunFile(w, r, keptID(q.Get("run_id")+q.Get("run_uuid")), q.Get("path")); err != nil {
			s.fail(w, r, err)
		}
		return true
	case r.Method == http.MethodGet && r.URL.Path == "/model-versions/get-artifact":
		if err := s.sendVersionFile(w, r); err != nil {
			s.fail(w, r, err)
		}
		return true
	}
	if rest, ok := apiPath(r.URL.Path); ok && rest == "artifacts/list" && r.Method == http.MethodGet {
		if err := s.listRun(w, r); err != nil {
			s.fail(w, r, err)
		}
		return true
	}
	served, err := s.serveUIFiles(w, r)
	if err != nil {
		s.fail(w, r, err)
	}
	return served
}

// checkPath refuses every path that could mean another one: a path here is only a label in
// the catalogue, but a client that downloads it makes it a file name.
func checkPath(p string) error {
	lower := strings.ToLower(p)
	bad := strings.ContainsAny(p, "\\\x00") || strings.Contains(lower, "%2e") || strings.Contains(lower, "%2f") || strings.Contains(lower, "%5c") ||
		strings.Contains(lower, "%00") || strings.HasPrefix(lower, "file:")
	for _, part := range strings.Split(strings.TrimPrefix(p, "/"), "/") {
		bad = bad || part == ".." || part == "."
	}
	if bad {
		return invalid("Invalid path")
	}
	return nil
}

// checkRelative is checkPath for a path below a root, which may not be absolute either.
func checkRelative(p string) error {
	if strings.HasPrefix(p, "/") {
		return invalid("Invalid path")
	}
	return checkPath(p)
}

// location is what a proxied path points at: a run's artifact or a checkpoint's file.
type location struct {
	run        string
	checkpoint string
	model      string
	path       string
	// shown is the path as errors name it, from the artifact root.
	shown string
}

// locate reads "<root>/<run>/artifacts/<path>", "<root>/models/<id>/artifacts/<path>"
// and "checkpoints/<id>/<path>".
func locate(p string) (location, error) {
	if err := checkPath(p); err != nil || strings.HasPrefix(p, "/") {
		return location{}, invalid("Invalid path")
	}
	parts := strings.Split(strings.Trim(p, "/"), "/")
	if len(parts) >= 2 && parts[0] == "checkpoints" {
		return location{checkpoint: parts[1], path: strings.Join(parts[2:], "/")}, nil
	}
	for i := 1; i < len(parts); i++ { // the root before is the experiment's own, and may be long
		switch {
		case parts[i] != "artifacts":
		case i >= 2 && parts[i-2] == "models" && strings.HasPrefix(parts[i-1], "m-"):
			return location{model: parts[i-1], path: strings.Join(parts[i+1:], "/")}, nil
		case keptID(parts[i-1]) != parts[i-1] || len(parts[i-1]) == 36:
			return location{run: keptID(parts[i-1]), path: strings.Join(parts[i+1:], "/")}, nil
		}
	}
	return location{}, missing("No such artifact: '%s'", p)
}

// files lists what lies at a location, by path.
func (s *Server) files(ctx context.Context, l location) ([]postgres.Artifact, error) {
	if l.run != "" {
		return s.Store.ListArtifacts(ctx, l.run)
	}
	if l.model != "" {
		return s.Store.ListModelArtifacts(ctx, l.model)
	}
	c, err := s.Store.GetCheckpoint(ctx, l.checkpoint)
	if err != nil {
		return nil, err
	}
	return postgres.Files(c), nil
}

type fileDTO struct {
	Path  string `json:"path"`
	IsDir bool   `json:"is_dir"`
	Size  int64  `json:"file_size,omitempty"`
}

// children are the entries directly under dir: files, and directories once each.
func children(all []postgres.Artifact, dir string) []fileDTO {
	prefix := ""
	if dir = strings.Trim(dir, "/"); dir != "" {
		prefix = dir + "/"
	}
	seen := map[string]bool{}
	out := []fileDTO{}
	for _, a := range all {
		rest, ok := strings.CutPrefix(a.Path, prefix)
		if !ok || rest == "" {
			continue
		}
		name, _, deeper := strings.Cut(rest, "/")
		if seen[name] {
			continue
		}
		seen[name] = true
		f := fileDTO{Path: prefix + name, IsDir: deeper}
		if !deeper {
			f.Size = a.Size
		}
		out = append(out, f)
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Path < out[j].Path })
	return out
}

// listProxied answers with base names, as clients of the proxy expect.
func (s *Server) listProxied(w http.ResponseWriter, r *http.Request) error {
	l, err := locate(r.URL.Query().Get("path"))
	if err != nil {
		return err
	}
	all, err := s.files(r.Context(), l)
	if err != nil {
		return err
	}
	files := children(all, l.path)
	for i := range files {
		files[i].Path = path.Base(files[i].Path)
	}
	out := map[string]any{}
	if len(files) > 0 {
		out["files"] = files
	}
	s.answer(w, http.StatusOK, out)
	return nil
}

// listRun answers artifacts/list: paths from the run's root.
func (s *Server) listRun(w http.ResponseWriter, r *http.Request) error {
	q := r.URL.Query()
	id := keptID(q.Get("run_id") + q.Get("run_uuid"))
	if id == "" {
		return invalid("Missing value for required parameter 'run_id'.%s", apiDocs)
	}
	if err := checkRelative(q.Get("path")); err != nil {
		return err
	}
	run, err := s.Store.GetRun(r.Context(), id)
	if err != nil {
		return runError(err, id)
	}
	all, err := s.Store.ListArtifacts(r.Context(), id)
	if err != nil {
		return err
	}
	out := map[string]any{"root_uri": runRoot(run)}
	if files := children(all, q.Get("path")); len(files) > 0 {
		out["files"] = files
	}
	s.answer(w, http.StatusOK, out)
	return nil
}

func (s *Server) getProxied(w http.ResponseWriter, r *http.Request, p string) error {
	l, err := locate(p)
	if err != nil {
		return err
	}
	l.shown = p
	return s.send(w, r, l)
}

func (s *Server) sendRunFile(w http.ResponseWriter, r *http.Request, run, p string) error {
	if run == "" || p == "" {
		return invalid("Missing value for required parameter 'run_id' or 'path'.%s", apiDocs)
	}
	if err := checkRelative(p); err != nil {
		return err
	}
	found, err := s.Store.GetRun(r.Context(), run)
	if err != nil {
		return runError(err, run)
	}
	return s.send(w, r, location{run: run, path: p, shown: strings.TrimPrefix(runRoot(found), artifactScheme) + "/" + p})
}

// sendVersionFile serves a file of a model version for the UI.
func (s *Server) sendVersionFile(w http.ResponseWriter, r *http.Request) error {
	q := r.URL.Query()
	n, err := strconv.ParseInt(q.Get("version"), 10, 32)
	if err != nil {
		return invalid("Parameter 'version' must be an integer, got '%s'.", q.Get("version"))
	}
	v, err := s.Store.GetVersion(r.Context(), q.Get("name"), int32(n))
	if err != nil {
		return noVersion(err, q.Get("name"), int32(n))
	}
	uri, err := s.filesOf(r.Context(), v)
	if err != nil {
		return err
	}
	root, ok := strings.CutPrefix(uri, artifactScheme)
	if !ok {
		return invalid("The files of this version are not in this server's artifact store: %s", v.Source)
	}
	return s.getProxied(w, r, root+"/"+strings.TrimPrefix(q.Get("path"), "/"))
}

// send streams one file. Bytes that do not have their digest end in a broken connection: a
// clean end would make them a good download.
func (s *Server) send(w http.ResponseWriter, r *http.Request, l location) error {
	all, err := s.files(r.Context(), l)
	if err != nil {
		return err
	}
	for _, a := range all {
		if a.Path != l.path {
			continue
		}
		kind := mime.TypeByExtension(path.Ext(a.Path))
		if kind == "" || strings.Contains(kind, "html") || strings.Contains(kind, "svg") {
			kind = "application/octet-stream" // what a browser would run is only saved
		}
		w.Header().Set("Content-Type", kind)
		w.Header().Set("Content-Disposition", "attachment; filename*=UTF-8''"+url.PathEscape(path.Base(a.Path)))
		w.Header().Set("X-Content-Type-Options", "nosniff")
		w.Header().Set("ETag", `"`+a.SHA256+`"`)
		if r.Header.Get("Range") != "" || r.Method == http.MethodHead {
			piece := &ranged{ctx: r.Context(), objects: s.Objects, file: a.File()}
			http.ServeContent(w, r, "", a.Commit, piece)
			return piece.Close()
		}
		body, err := contents.Open(r.Context(), s.Objects, a.File())
		if err != nil {
			return err
		}
		defer func() { _ = body.Close() }() // only read; the verifier has judged by then
		w.Header().Set("Accept-Ranges", "bytes")
		w.Header().Set("Content-Length", strconv.FormatInt(a.Size, 10))
		if _, err := io.Copy(w, body); err != nil {
			s.Log.Error("download broken off", zap.String("path", a.Path), zap.String("sha256", a.SHA256), zap.Error(err))
			panic(http.ErrAbortHandler)
		}
		return nil
	}
	return missing("No such artifact: '%s'", l.shown)
}

// putProxied stores an upload.
func (s *Server) putProxied(w http.ResponseWriter, r *http.Request, p string) error {
	l, err := locate(p)
	if err != nil {
		return err
	}
	if l.run == "" && l.model == "" || l.path == "" {
		return &apiError{"PERMISSION_DENIED", "Only the artifacts of runs and logged models can be written here"}
	}
	u, file, err := spool(w, r)
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }() // unlinked: closing frees it
	if err := s.publish(r.Context(), l, u, r.Header.Get("Content-Type")); err != nil {
		return err
	}
	s.answer(w, http.StatusOK, struct{}{})
	return nil
}

// upload is bytes that arrived, with what they turned out to be.
type upload struct {
	size   int64
	digest string
	open   func() (io.ReadCloser, error)
}

func newArtifactID() string { return uuid.Must(uuid.NewV7()).String() }

// store puts an upload under its key unless the same bytes are there.
func (s *Server) store(ctx context.Context, staged postgres.Artifact, u upload) error {
	if staged.Present {
		return nil
	}
	body, err := u.open()
	if err != nil {
		return err
	}
	defer func() { _ = body.Close() }() // only read
	_, err = s.Objects.Put(ctx, staged.ObjectKey, body, u.size, u.digest)
	if errors.Is(err, objectstore.ErrDigestMismatch) {
		return &apiError{"TEMPORARILY_UNAVAILABLE", "the upload was damaged on its way to the store, try again"}
	}
	return err
}

// spool takes a request's body to an unlinked file: its digest, which is its key, is known
// only at the end, and memory stays flat.
func spool(w http.ResponseWriter, r *http.Request) (upload, *os.File, error) {
	f, err := os.CreateTemp("", "trainyard-upload-*")
	if err != nil {
		return upload{}, nil, fmt.Errorf("spool upload: %w", err)
	}
	if err := os.Remove(f.Name()); err != nil {
		return upload{}, nil, errors.Join(fmt.Errorf("spool upload: %w", err), f.Close())
	}
	sum := sha256.New()
	size, err := io.Copy(io.MultiWriter(f, sum), http.MaxBytesReader(w, r.Body, maxArtifact))
	if err != nil {
		var large *http.MaxBytesError
		if errors.As(err, &large) {
			err = invalid("An artifact can have at most %d bytes", int64(maxArtifact))
		} else {
			err = &apiError{"BAD_REQUEST", "the upload ended early"}
		}
		return upload{}, nil, errors.Join(err, f.Close())
	}
	open := func() (io.ReadCloser, error) { return io.NopCloser(io.NewSectionReader(f, 0, size)), nil }
	return upload{size, hex.EncodeToString(sum.Sum(nil)), open}, f, nil
}

// deleteProxied hides a path or everything under it; the janitor frees the bytes.
func (s *Server) deleteProxied(w http.ResponseWriter, r *http.Request, p string) error {
	l, err := locate(p)
	if err != nil {
		return err
	}
	if l.run == "" || l.path == "" {
		return &apiError{"PERMISSION_DENIED", "Only a run's artifacts can be deleted here"}
	}
	g := guardOf(r.Context())
	ctx, cancel := context.WithTimeout(r.Context(), 30*time.Second)
	defer cancel()
	if err := s.do(ctx, func(t *postgres.Tx) error { return t.HideArtifacts(ctx, l.run, g, l.path) }); err != nil {
		if isProblem(err, catalog.ProblemNotFound) {
			return missing("No such artifact: '%s'", p)
		}
		return err
	}
	s.answer(w, http.StatusOK, struct{}{})
	return nil
}
