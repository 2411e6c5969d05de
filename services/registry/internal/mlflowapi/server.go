// Package mlflowapi serves MLflow's REST API to unchanged MLflow clients. It writes the
// same tables as the gRPC services, in one transaction per request, and answers in
// MLflow's own forms: snake case, 64-bit numbers as numbers, its error codes, and never a
// 5xx for an error that a retry cannot cure, because its clients retry those for minutes.
//
// One rule differs on purpose: at most one version of a model is in Production and one
// in Staging, whatever archive_existing_versions says.
package mlflowapi

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"go.opentelemetry.io/otel/trace"
	"go.uber.org/zap"

	"github.com/ultrathink-pilot/trainyard/libs/objectstore"
	"github.com/ultrathink-pilot/trainyard/services/registry/internal/catalog"
	"github.com/ultrathink-pilot/trainyard/services/registry/internal/postgres"
)

// Version is what /version says: the oldest MLflow with everything that is here.
const Version = "3.0.0"

// maxBody bounds a JSON request: MLflow's own log-batch limit, with room for its framing.
const maxBody = 8 << 20

// Deps is what the facade works with.
type Deps struct {
	Store   *postgres.Store
	Objects *objectstore.Store
	Log     *zap.Logger
	// Token, when not empty, must come with every request: as a bearer token
	// (MLFLOW_TRACKING_TOKEN) or as the password of basic authentication.
	Token string
	// UI is a build of MLflow's user interface; nil serves none.
	UI *os.Root
}

// Server is the facade's HTTP handler.
type Server struct {
	Deps
	routes map[string]map[string]handler
}

// handler answers one route; its answer is encoded as JSON, nil as {}.
type handler func(ctx context.Context, in args) (any, error)

// New returns the handler.
func New(deps Deps) *Server {
	s := &Server{Deps: deps, routes: map[string]map[string]handler{}}
	s.experimentRoutes()
	s.runRoutes()
	s.metricRoutes()
	s.modelRoutes()
	s.versionRoutes()
	s.loggedModelRoutes()
	s.uiRoutes()
	return s
}

func (s *Server) route(method, path string, h handler) {
	for _, m := range strings.Split(method, "+") {
		if s.routes[path] == nil {
			s.routes[path] = map[string]handler{}
		}
		s.routes[path][m] = h
	}
}

// Run serves on the listener until ctx ends, then lets requests finish.
func (s *Server) Run(ctx context.Context, listener net.Listener) error {
	server := &http.Server{Handler: s, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 64 << 10,
		BaseContext: func(net.Listener) context.Context { return context.WithoutCancel(ctx) }}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	s.Log.Info("serving", zap.String("server", "mlflow"), zap.Stringer("address", listener.Addr()))
	select {
	case err := <-served:
		return err
	case <-ctx.Done():
	}
	limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	if err := server.Shutdown(limited); err != nil {
		return errors.Join(err, server.Close())
	}
	if err := <-served; !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	defer func() {
		if p := recover(); p == http.ErrAbortHandler {
			panic(p) // a download is broken off on purpose
		} else if p != nil {
			s.Log.Error("panic", zap.Any("panic", p), zap.String("path", r.URL.Path), zap.Stack("stack"))
			s.fail(w, r, &apiError{code: "INTERNAL_ERROR", message: "internal error"})
		}
	}()
	switch r.URL.Path {
	case "/health":
		_, _ = io.WriteString(w, "OK")
		return
	case "/version":
		_, _ = io.WriteString(w, Version)
		return
	}
	r, err := s.admit(r)
	if err != nil {
		if wire(err).code == "UNAUTHENTICATED" {
			w.Header().Set("WWW-Authenticate", `Basic realm="trainyard"`)
		}
		s.fail(w, r, err)
		return
	}
	if s.serveFiles(w, r) || s.serveUI(w, r) {
		return
	}
	path, ok := apiPath(r.URL.Path)
	path, fields := pathFields(path)
	methods := s.routes[path]
	if !ok || methods == nil {
		s.fail(w, r, &apiError{code: "ENDPOINT_NOT_FOUND", message: "No route for " + r.Method + " " + r.URL.Path})
		return
	}
	h := methods[r.Method]
	if h == nil {
		w.WriteHeader(http.StatusMethodNotAllowed)
		return
	}
	in, err := readArgs(w, r)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	in.path = fields
	answer, err := h(r.Context(), in)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	if page, ok := answer.(runPage); ok {
		page.send(r.Context(), w, s.Log)
		return
	}
	if answer == nil {
		answer = struct{}{}
	}
	s.answer(w, http.StatusOK, answer)
}

// apiPath strips the prefixes under which every route lives.
func apiPath(path string) (string, bool) {
	for _, prefix := range []string{"/api/2.0/mlflow/", "/ajax-api/2.0/mlflow/"} {
		if rest, ok := strings.CutPrefix(path, prefix); ok {
			return rest, true
		}
	}
	return "", false
}

func (s *Server) answer(w http.ResponseWriter, status int, v any) {
	var b bytes.Buffer
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	if quick, ok := v.(interface{ appendJSON(b []byte) []byte }); ok {
		b.Write(quick.appendJSON(b.AvailableBuffer()))
	} else if err := encoder.Encode(v); err != nil {
		s.Log.Error("encode answer", zap.Error(err))
		status = http.StatusInternalServerError
		b.Reset()
		b.WriteString(`{"error_code":"INTERNAL_ERROR","message":"internal error"}`)
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(b.Len()))
	w.WriteHeader(status)
	_, _ = w.Write(b.Bytes())
}

// by describes the caller of a facade request. MLflow clients say who they are in tags at
// most, so the history names the door they came through.
func by(ctx context.Context) postgres.By {
	b := postgres.By{Actor: "mlflow", Reason: "MLflow client"}
	if sc := trace.SpanContextFromContext(ctx); sc.HasTraceID() {
		b.TraceID = sc.TraceID().String()
	}
	return b
}

// do runs one mutation.
func (s *Server) do(ctx context.Context, fn func(*postgres.Tx) error) error {
	return s.Store.Do(ctx, time.Now(), fn)
}

// isProblem reports whether err is a refusal of that class.
func isProblem(err error, p catalog.Problem) bool {
	var e *catalog.Error
	return errors.As(err, &e) && e.Problem == p
}
