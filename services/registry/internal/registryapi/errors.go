package registryapi

import (
	"errors"
	"strconv"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/ultrathink-pilot/trainyard/libs/objectstore"
	"github.com/ultrathink-pilot/trainyard/libs/pg"
	"github.com/ultrathink-pilot/trainyard/libs/rpcerr"
	errorv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/error/v1"
	"github.com/ultrathink-pilot/trainyard/services/registry/internal/catalog"
	"github.com/ultrathink-pilot/trainyard/services/registry/internal/ingest"
)

// notOpenRetry is how soon a write may be tried again whose run was not opened yet: the
// spool that carries RunOpened drains within that time when nothing is wrong.
const notOpenRetry = 500 * time.Millisecond

// wire maps every error of the catalogue and the stores to its one status.
func wire(err error) error {
	if err == nil {
		return nil
	}
	var own *rpcerr.Error
	if errors.As(err, &own) {
		return err
	}
	var e *catalog.Error
	switch {
	case errors.As(err, &e):
		return refusal(e)
	case errors.Is(err, objectstore.ErrUnavailable):
		return rpcerr.Unavailable("the object store is away; try again").WithCause(err)
	case errors.Is(err, objectstore.ErrUnsupported):
		return rpcerr.IllegalTransition("artifact store", "this registry keeps its artifacts in a directory, which cannot do that; set artifact-root to an S3 bucket").WithCause(err)
	case errors.Is(err, objectstore.ErrNotFound), errors.Is(err, objectstore.ErrDigestMismatch):
		return mismatch("%v", err)
	case errors.Is(err, ingest.ErrStopped):
		return rpcerr.Draining()
	case pg.IsUnavailable(err):
		return rpcerr.Unavailable("the database is away; try again").WithCause(err)
	}
	return err
}

func mismatch(format string, args ...any) *rpcerr.Error {
	return rpcerr.New(codes.FailedPrecondition, errorv1.Reason_REASON_DIGEST_MISMATCH, format, args...)
}

func refusal(e *catalog.Error) *rpcerr.Error {
	text := e.Error()
	switch e.Problem {
	case catalog.ProblemNotFound:
		return rpcerr.NotFound("%s", text)
	case catalog.ProblemAlreadyExists:
		return rpcerr.Exists("%s", text)
	case catalog.ProblemInvalid, catalog.ProblemParamConflict:
		return rpcerr.Invalid(rpcerr.Violation{Field: e.Field, Description: e.Detail})
	case catalog.ProblemFenced:
		return rpcerr.Fenced("%s", text).With("fence", strconv.FormatUint(e.CurrentFence, 10))
	case catalog.ProblemNotOpen:
		return rpcerr.Unavailable("%s", text).WithRetry(notOpenRetry)
	case catalog.ProblemState:
		return rpcerr.IllegalTransition(e.Detail, "%s", text)
	case catalog.ProblemEtag:
		return rpcerr.Conflict("%s", text)
	case catalog.ProblemGate:
		return rpcerr.New(codes.FailedPrecondition, errorv1.Reason_REASON_GATE_FAILED, "%s", text).With("gates", e.Detail)
	case catalog.ProblemMissingObject:
		return mismatch("%s", text)
	case catalog.ProblemRooted:
		return rpcerr.New(codes.FailedPrecondition, errorv1.Reason_REASON_OBJECT_REFERENCED, "%s", text)
	}
	return rpcerr.Internal(e)
}

// batchReason is the reason of a refused ingest batch. A missing RunOpened is a protocol
// error there: in one stream it cannot arrive later.
func batchReason(e *catalog.Error) errorv1.Reason {
	if e.Problem == catalog.ProblemNotOpen {
		return errorv1.Reason_REASON_PROTOCOL_VIOLATION
	}
	return refusal(e).Reason()
}
