// Package rpcerr is the one form of an error that crosses the wire: a status code,
// one ErrorInfo whose reason is a value of trainyard.error.v1.Reason, BadRequest for
// bad fields (all of them at once) and RetryInfo for back-pressure. Servers return
// *Error, clients get *Error back, both branch on the reason and never on the text.
//
// The text of an Error is for people and says what to do. What a driver or a
// library said goes into the cause: it is logged by the server and never sent.
package rpcerr

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"time"

	errorv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/error/v1"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/durationpb"
)

// Domain is the domain of every ErrorInfo.
const Domain = "trainyard"

// Violation is one bad field: its path ("resources.devices[0].memory_bytes") and a
// sentence with what is wrong, the value found, and what would be right.
type Violation struct {
	Field       string
	Description string
}

// Error is an error with a wire form. Build it with New or a shortcut.
type Error struct {
	code       codes.Code
	reason     errorv1.Reason
	message    string
	metadata   map[string]string
	violations []Violation
	retry      time.Duration
	cause      error
}

// New makes an error. The text reaches the caller: no driver text, no secrets; use
// WithCause for those.
func New(code codes.Code, reason errorv1.Reason, format string, args ...any) *Error {
	return &Error{code: code, reason: reason, message: fmt.Sprintf(format, args...)}
}

// With adds metadata, for machines: the current state, the largest that fits.
func (e *Error) With(key, value string) *Error {
	c := *e
	c.metadata = maps.Clone(e.metadata)
	if c.metadata == nil {
		c.metadata = map[string]string{}
	}
	c.metadata[key] = value
	return &c
}

// WithViolations sets the bad fields.
func (e *Error) WithViolations(violations []Violation) *Error {
	c := *e
	c.violations = violations
	return &c
}

// WithRetry tells the caller not to try again before d.
func (e *Error) WithRetry(d time.Duration) *Error {
	c := *e
	c.retry = d
	return &c
}

// WithCause attaches what really happened, for errors.Is and the server's log. It is
// not sent.
func (e *Error) WithCause(err error) *Error {
	c := *e
	c.cause = err
	return &c
}

// Error gives the text with every bad field, one per line when there are several.
func (e *Error) Error() string {
	switch len(e.violations) {
	case 0:
		return e.message
	case 1:
		return e.message + ": " + e.violations[0].Field + ": " + e.violations[0].Description
	}
	var b strings.Builder
	b.WriteString(e.message)
	for _, v := range e.violations {
		b.WriteString("\n  - " + v.Field + ": " + v.Description)
	}
	return b.String()
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.cause }

// Code returns the status code.
func (e *Error) Code() codes.Code { return e.code }

// Reason returns the reason.
func (e *Error) Reason() errorv1.Reason { return e.reason }

// Message returns the text without the bad fields.
func (e *Error) Message() string { return e.message }

// Metadata returns the value that With stored, "" when there is none.
func (e *Error) Metadata(key string) string { return e.metadata[key] }

// Violations returns the bad fields.
func (e *Error) Violations() []Violation { return e.violations }

// Retry returns the pause the server asked for, zero when it named none.
func (e *Error) Retry() time.Duration { return e.retry }

// GRPCStatus makes the wire form; grpc-go calls it.
func (e *Error) GRPCStatus() *status.Status {
	details := []protoadapt.MessageV1{
		protoadapt.MessageV1Of(&errdetails.ErrorInfo{Reason: e.reason.String(), Domain: Domain, Metadata: e.metadata}),
	}
	if len(e.violations) > 0 {
		bad := &errdetails.BadRequest{}
		for _, v := range e.violations {
			bad.FieldViolations = append(bad.FieldViolations, &errdetails.BadRequest_FieldViolation{Field: v.Field, Description: v.Description})
		}
		details = append(details, protoadapt.MessageV1Of(bad))
	}
	if e.retry > 0 {
		details = append(details, protoadapt.MessageV1Of(&errdetails.RetryInfo{RetryDelay: durationpb.New(e.retry)}))
	}
	s, err := status.New(e.code, e.message).WithDetails(details...)
	if err != nil {
		// Only an OK code refuses details, and an error with code OK is a bug here.
		return status.New(codes.Internal, "internal error")
	}
	return s
}

// FromError returns the *Error in err's tree, or the one that a received status
// stands for, or nil for nil and for errors that are neither.
func FromError(err error) *Error {
	if err == nil {
		return nil
	}
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	s, ok := status.FromError(err)
	if !ok || s.Code() == codes.OK {
		return nil
	}
	return fromStatus(s)
}

func fromStatus(s *status.Status) *Error {
	e := &Error{code: s.Code(), message: s.Message()}
	for _, d := range s.Details() {
		switch d := d.(type) {
		case *errdetails.ErrorInfo:
			if d.GetDomain() == Domain {
				e.reason = errorv1.Reason(errorv1.Reason_value[d.GetReason()])
				e.metadata = d.GetMetadata()
			}
		case *errdetails.BadRequest:
			for _, v := range d.GetFieldViolations() {
				e.violations = append(e.violations, Violation{Field: v.GetField(), Description: v.GetDescription()})
			}
		case *errdetails.RetryInfo:
			e.retry = d.GetRetryDelay().AsDuration()
		}
	}
	return e
}

// ReasonOf returns the reason of err, REASON_UNSPECIFIED when it has none.
func ReasonOf(err error) errorv1.Reason {
	if e := FromError(err); e != nil {
		return e.reason
	}
	return errorv1.Reason_REASON_UNSPECIFIED
}

// Violations returns the bad fields of err, none when it has none.
func Violations(err error) []Violation {
	if e := FromError(err); e != nil {
		return e.violations
	}
	return nil
}

// Map gives any error a wire form, for the server's last interceptor. What it does not
// know is a bug: the caller gets INTERNAL without its text.
func Map(err error) *Error {
	var own *Error
	switch {
	case err == nil:
		return nil
	case errors.As(err, &own):
		return own
	case errors.Is(err, context.DeadlineExceeded):
		return New(codes.DeadlineExceeded, errorv1.Reason_REASON_DEADLINE_EXCEEDED, "the call's time ran out; try again with a longer deadline").WithCause(err)
	case errors.Is(err, context.Canceled):
		return New(codes.Canceled, errorv1.Reason_REASON_DEADLINE_EXCEEDED, "the caller went away").WithCause(err)
	}
	// A handler's own status (an Unimplemented server, a broken stream) keeps its code.
	// Its text may come from anywhere, so it is kept only for codes that our own
	// stack makes.
	if s, ok := status.FromError(err); ok {
		switch s.Code() {
		case codes.Canceled, codes.DeadlineExceeded:
			return New(s.Code(), errorv1.Reason_REASON_DEADLINE_EXCEEDED, "%s", s.Message()).WithCause(err)
		case codes.Unimplemented:
			return New(s.Code(), errorv1.Reason_REASON_UNSPECIFIED, "%s", s.Message()).WithCause(err)
		case codes.Unavailable:
			return New(s.Code(), errorv1.Reason_REASON_DEPENDENCY_UNAVAILABLE, "a service this call needs is away; try again").WithCause(err)
		}
	}
	return Internal(err)
}
