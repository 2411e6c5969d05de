package jobapi

import (
	"errors"

	"google.golang.org/grpc/codes"

	"github.com/ultrathink-pilot/trainyard/libs/rpcerr"
	errorv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/error/v1"
	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/cycle"
	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/job"
)

// wire gives the engine's errors their form on the wire. what names the resource.
func wire(err error, what string) error {
	var illegal *job.IllegalError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &illegal):
		return rpcerr.IllegalTransition(illegal.State.String(), "%s", illegal.Error())
	case errors.Is(err, cycle.ErrNotFound):
		return rpcerr.NotFound("%s does not exist", what)
	case errors.Is(err, cycle.ErrReused):
		return rpcerr.New(codes.InvalidArgument, errorv1.Reason_REASON_REQUEST_ID_REUSED, "%s", cycle.ErrReused.Error()).
			WithViolations([]rpcerr.Violation{{Field: "request_id", Description: cycle.ErrReused.Error()}})
	case errors.Is(err, cycle.ErrConflict):
		return rpcerr.Conflict("%s changed since it was read; read it again, then retry", what)
	case errors.Is(err, cycle.ErrEnded):
		return rpcerr.Draining()
	case errors.Is(err, cycle.ErrDeposed):
		return rpcerr.New(codes.Unavailable, errorv1.Reason_REASON_NOT_LEADER, "another scheduler leads; connect to it")
	case errors.Is(err, cycle.ErrUnavailable):
		return rpcerr.Unavailable("the scheduler's database is away or did not confirm; repeat the request with the same request_id").WithCause(err)
	}
	return err
}
