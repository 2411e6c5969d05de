package mlflowapi

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"go.uber.org/zap"

	"github.com/ultrathink-pilot/trainyard/libs/objectstore"
	"github.com/ultrathink-pilot/trainyard/libs/pg"
	"github.com/ultrathink-pilot/trainyard/services/registry/internal/catalog"
	"github.com/ultrathink-pilot/trainyard/services/registry/internal/filter"
	"github.com/ultrathink-pilot/trainyard/services/registry/internal/postgres"
)

// apiError is an error in MLflow's form.
type apiError struct {
	code    string
	message string
}

func (e *apiError) Error() string { return e.code + ": " + e.message }

// statuses are MLflow's own. A client retries 429 and every 5xx, so only what may pass by
// itself gets one.
var statuses = map[string]int{
	"INVALID_PARAMETER_VALUE": http.StatusBadRequest, "BAD_REQUEST": http.StatusBadRequest, "RESOURCE_ALREADY_EXISTS": http.StatusBadRequest,
	"UNAUTHENTICATED": http.StatusUnauthorized, "PERMISSION_DENIED": http.StatusForbidden,
	"RESOURCE_DOES_NOT_EXIST": http.StatusNotFound, "ENDPOINT_NOT_FOUND": http.StatusNotFound,
	"RESOURCE_CONFLICT": http.StatusConflict, "NOT_IMPLEMENTED": http.StatusNotImplemented,
	"TEMPORARILY_UNAVAILABLE": http.StatusServiceUnavailable, "INTERNAL_ERROR": http.StatusInternalServerError,
}

func invalid(format string, args ...any) error {
	return &apiError{"INVALID_PARAMETER_VALUE", fmt.Sprintf(format, args...)}
}

func missing(format string, args ...any) error {
	return &apiError{"RESOURCE_DOES_NOT_EXIST", fmt.Sprintf(format, args...)}
}

func exists(format string, args ...any) error {
	return &apiError{"RESOURCE_ALREADY_EXISTS", fmt.Sprintf(format, args...)}
}

// fail answers with an error. What the catalogue refuses is 400 to 404; what is away is
// 503; anything else is a bug, logged and hidden.
func (s *Server) fail(w http.ResponseWriter, r *http.Request, err error) {
	e := wire(err)
	status := statuses[e.code]
	if status == 0 {
		status = http.StatusInternalServerError
	}
	if status >= 500 {
		s.Log.Error("MLflow request failed", zap.String("method", r.Method), zap.String("path", r.URL.Path), zap.Error(err))
		w.Header().Set("Retry-After", "1")
	}
	s.answer(w, status, map[string]string{"error_code": e.code, "message": e.message})
}

func wire(err error) *apiError {
	var (
		own     *apiError
		refused *catalog.Error
		badText *filter.Error
	)
	switch {
	case errors.As(err, &own):
		return own
	case errors.As(err, &badText):
		return &apiError{"INVALID_PARAMETER_VALUE", badText.Text}
	case errors.As(err, &refused):
		return refusal(refused)
	case errors.Is(err, postgres.ErrFenceNeeded):
		return &apiError{"PERMISSION_DENIED", err.Error()}
	case errors.Is(err, objectstore.ErrNotFound):
		return &apiError{"RESOURCE_DOES_NOT_EXIST", "the bytes are not in the artifact store"}
	case errors.Is(err, objectstore.ErrUnavailable), pg.IsUnavailable(err), errors.Is(err, context.DeadlineExceeded):
		return &apiError{"TEMPORARILY_UNAVAILABLE", "a store is away, try again"}
	case postgres.IsDataFault(err):
		return &apiError{"INVALID_PARAMETER_VALUE", "a value cannot be stored, such as one with a NUL character"}
	}
	return &apiError{"INTERNAL_ERROR", "internal error"}
}

func refusal(e *catalog.Error) *apiError {
	switch e.Problem {
	case catalog.ProblemNotFound:
		return &apiError{"RESOURCE_DOES_NOT_EXIST", e.Error()}
	case catalog.ProblemAlreadyExists:
		return &apiError{"RESOURCE_ALREADY_EXISTS", e.Error()}
	case catalog.ProblemFenced:
		return &apiError{"RESOURCE_CONFLICT", "LEASE_FENCED: " + e.Error()}
	case catalog.ProblemEtag:
		return &apiError{"RESOURCE_CONFLICT", e.Error()}
	case catalog.ProblemState:
		return &apiError{"INVALID_PARAMETER_VALUE", e.Detail}
	case catalog.ProblemInvalid, catalog.ProblemNotOpen, catalog.ProblemParamConflict, catalog.ProblemGate,
		catalog.ProblemMissingObject, catalog.ProblemRooted:
	}
	return &apiError{"INVALID_PARAMETER_VALUE", e.Error()}
}
