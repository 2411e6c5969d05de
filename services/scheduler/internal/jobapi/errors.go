package jobapi

import (
	"errors"
	"strconv"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/ultrathink-pilot/trainyard/libs/rpcerr"
	errorv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/error/v1"
	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/cycle"
	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/job"
)

// quotaRetry is when a submit beyond a quota is worth another try: about as long
// as the shortest jobs take.
const quotaRetry = 10 * time.Second

// wire gives the engine's errors their form on the wire. what names the resource.
func wire(err error, what string) error {
	var illegal *job.IllegalError
	var quota *cycle.QuotaError
	var kinds *cycle.KindsError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &illegal):
		return rpcerr.IllegalTransition(illegal.State.String(), "%s", illegal.Error())
	case errors.Is(err, cycle.ErrNotFound):
		return rpcerr.NotFound("%s does not exist", what)
	case errors.As(err, &quota):
		return rpcerr.New(codes.ResourceExhausted, errorv1.Reason_REASON_QUOTA_EXCEEDED, "%s; wait until some have ended, or ask for a larger quota", quota.Error()).
			With("tenant", quota.Tenant).With("max_jobs", strconv.Itoa(quota.Max)).WithRetry(quotaRetry)
	case errors.As(err, &kinds):
		return rpcerr.Invalid(rpcerr.Violation{Field: "quota.devices", Description: kinds.Error() + "; bound the others together, by an entry without a kind"})
	case errors.Is(err, cycle.ErrExists):
		return rpcerr.Exists("%s exists", what)
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
