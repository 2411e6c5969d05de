package rpcerr

import (
	errorv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/error/v1"
	"google.golang.org/grpc/codes"
)

// NotFound says that the named resource does not exist.
func NotFound(format string, args ...any) *Error {
	return New(codes.NotFound, errorv1.Reason_REASON_RESOURCE_NOT_FOUND, format, args...)
}

// Exists says that another resource has this name.
func Exists(format string, args ...any) *Error {
	return New(codes.AlreadyExists, errorv1.Reason_REASON_RESOURCE_EXISTS, format, args...)
}

// Invalid says that these fields are wrong. Give all of them.
func Invalid(violations ...Violation) *Error {
	return New(codes.InvalidArgument, errorv1.Reason_REASON_INVALID_FIELDS, "the request has bad fields").WithViolations(violations)
}

// PageTokenInvalid says that the page token is malformed or belongs to another filter.
func PageTokenInvalid(cause error) *Error {
	return New(codes.InvalidArgument, errorv1.Reason_REASON_PAGE_TOKEN_INVALID, "the page token cannot be used").
		WithViolations([]Violation{{Field: "page_token", Description: cause.Error()}}).WithCause(cause)
}

// Fenced says that the writer's lease is over; it must stop writing.
func Fenced(format string, args ...any) *Error {
	return New(codes.FailedPrecondition, errorv1.Reason_REASON_LEASE_FENCED, format, args...)
}

// IllegalTransition says that the resource's state, which goes into the metadata
// "state", does not allow the call.
func IllegalTransition(state, format string, args ...any) *Error {
	return New(codes.FailedPrecondition, errorv1.Reason_REASON_ILLEGAL_TRANSITION, format, args...).With("state", state)
}

// Conflict says that the etag or revision is not the current one; read again, then retry.
func Conflict(format string, args ...any) *Error {
	return New(codes.Aborted, errorv1.Reason_REASON_CONFLICT, format, args...)
}

// Protocol says that a stream frame is unknown, out of place or too large.
func Protocol(format string, args ...any) *Error {
	return New(codes.InvalidArgument, errorv1.Reason_REASON_PROTOCOL_VIOLATION, format, args...)
}

// Unavailable says that something this call depends on is away; retry with backoff.
func Unavailable(format string, args ...any) *Error {
	return New(codes.Unavailable, errorv1.Reason_REASON_DEPENDENCY_UNAVAILABLE, format, args...)
}

// Draining says that this server is going down; retry elsewhere or after its restart.
func Draining() *Error {
	return New(codes.Unavailable, errorv1.Reason_REASON_DRAINING, "the server is going down for a restart; try again")
}

// Internal stands for a bug. The cause is logged under the trace id and hidden from the caller.
func Internal(cause error) *Error {
	return New(codes.Internal, errorv1.Reason_REASON_INTERNAL, "internal error; the server's log has the details under this call's trace id").WithCause(cause)
}
