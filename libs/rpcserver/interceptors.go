package rpcserver

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"time"

	"buf.build/go/protovalidate"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/protobuf/proto"

	"github.com/ultrathink-pilot/trainyard/libs/identity"
	"github.com/ultrathink-pilot/trainyard/libs/rpcerr"
	"github.com/ultrathink-pilot/trainyard/libs/telemetry"
	errorv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/error/v1"
)

type handling struct {
	log          *zap.Logger
	metrics      *serverMetrics
	validator    protovalidate.Validator
	allow        AllowTable
	authenticate func(ctx context.Context) (identity.ID, error)
	longPoll     map[string]bool
	draining     chan struct{}
	further      func(ctx context.Context, m proto.Message) []rpcerr.Violation
}

// stream carries the context that the interceptors build up.
type stream struct {
	grpc.ServerStream
	ctx  context.Context
	recv func(m any) error
}

func (s *stream) Context() context.Context { return s.ctx }

func (s *stream) RecvMsg(m any) error {
	if err := s.ServerStream.RecvMsg(m); err != nil || s.recv == nil {
		return err
	}
	return s.recv(m)
}

// call is what one request's log line needs from interceptors further in.
type call struct{ caller identity.ID }

type callKey struct{}

func (h *handling) begin(ctx context.Context) (context.Context, *call) {
	c := &call{}
	ctx = context.WithValue(ctx, callKey{}, c)
	return context.WithValue(ctx, drainKey{}, h.draining), c
}

func (h *handling) unaryLog(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	start := time.Now()
	ctx, c := h.begin(ctx)
	resp, err := next(ctx, req)
	h.finish(ctx, c, info.FullMethod, start, err)
	return resp, err
}

func (h *handling) streamLog(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
	start := time.Now()
	ctx, c := h.begin(ss.Context())
	err := next(srv, &stream{ServerStream: ss, ctx: ctx})
	h.finish(ctx, c, info.FullMethod, start, err)
	return err
}

// finish writes one line and one sample per call. Calls of people and agents that went
// well are debug: a fleet polls all day, and the metrics count them.
func (h *handling) finish(ctx context.Context, c *call, method string, start time.Time, err error) {
	took := time.Since(start)
	code, level := codes.OK, zapcore.DebugLevel
	fields := append(telemetry.LogFields(ctx), zap.String("method", method), zap.Stringer("caller", c.caller), zap.Duration("took", took))
	if e := rpcerr.FromError(err); e != nil {
		code, level = e.Code(), zapcore.InfoLevel
		switch code {
		case codes.Internal, codes.Unknown, codes.DataLoss:
			level = zapcore.ErrorLevel
		case codes.Canceled:
			// A caller that left on its own is no event: agents replace a waiting
			// poll whenever their state changes.
			level = zapcore.DebugLevel
		}
		fields = append(fields, zap.Stringer("reason", e.Reason()), zap.String("error", e.Error()))
		if cause := e.Unwrap(); cause != nil {
			fields = append(fields, zap.NamedError("cause", cause))
		}
	}
	h.metrics.duration.WithLabelValues(method, code.String()).Observe(took.Seconds())
	h.log.Log(level, "rpc", append(fields, zap.Stringer("code", code))...)
}

func (h *handling) unaryMap(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	resp, err := next(ctx, req)
	if err != nil {
		return nil, mapped(ctx, err)
	}
	return resp, nil
}

func (h *handling) streamMap(srv any, ss grpc.ServerStream, _ *grpc.StreamServerInfo, next grpc.StreamHandler) error {
	if err := next(srv, ss); err != nil {
		return mapped(ss.Context(), err)
	}
	return nil
}

// mapped also blames the caller's deadline for what a handler's driver made of it.
func mapped(ctx context.Context, err error) error {
	e := rpcerr.Map(err)
	if ctx.Err() != nil && e.Code() == codes.Internal {
		return rpcerr.Map(ctx.Err()).WithCause(err)
	}
	return e
}

func (h *handling) unaryRecover(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (resp any, err error) {
	defer func() {
		if p := recover(); p != nil {
			resp, err = nil, h.panicked(ctx, info.FullMethod, p)
		}
	}()
	return next(ctx, req)
}

func (h *handling) streamRecover(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = h.panicked(ss.Context(), info.FullMethod, p)
		}
	}()
	return next(srv, ss)
}

func (h *handling) panicked(ctx context.Context, method string, p any) error {
	h.metrics.panics.WithLabelValues(method).Inc()
	h.log.Error("a handler panicked", append(telemetry.LogFields(ctx), zap.String("method", method), zap.Any("panic", p), zap.ByteString("stack", debug.Stack()))...)
	return rpcerr.Internal(fmt.Errorf("panic: %v", p))
}

// fromTLS reads the caller from the verified client certificate.
func fromTLS(ctx context.Context) (identity.ID, error) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return identity.ID{}, errors.New("the connection has no peer")
	}
	info, ok := p.AuthInfo.(credentials.TLSInfo)
	if !ok || len(info.State.VerifiedChains) == 0 {
		return identity.ID{}, errors.New("the connection showed no verified certificate")
	}
	return identity.FromCertificate(info.State.VerifiedChains[0][0])
}

// authorize returns the context with the caller, or the refusal.
func (h *handling) authorize(ctx context.Context, method string) (context.Context, error) {
	id, err := h.authenticate(ctx)
	if err != nil {
		h.metrics.denied.WithLabelValues(method, "unauthenticated").Inc()
		return nil, rpcerr.New(codes.Unauthenticated, errorv1.Reason_REASON_UNAUTHENTICATED,
			"this server could not tell who is calling; connect with a certificate of its CA").WithCause(err)
	}
	if c, ok := ctx.Value(callKey{}).(*call); ok {
		c.caller = id
	}
	if !isOpen(method) && !slices.Contains(h.allow[method], id.Role) {
		h.metrics.denied.WithLabelValues(method, "role").Inc()
		return nil, rpcerr.New(codes.PermissionDenied, errorv1.Reason_REASON_CALLER_NOT_ALLOWED,
			"%s may not call %s; the roles that may are %v", id, method, h.allow[method])
	}
	trace.SpanFromContext(ctx).SetAttributes(attribute.String("trainyard.caller", id.String()))
	return identity.NewContext(ctx, id), nil
}

func (h *handling) unaryAuth(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	ctx, err := h.authorize(ctx, info.FullMethod)
	if err != nil {
		return nil, err
	}
	return next(ctx, req)
}

func (h *handling) streamAuth(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
	ctx, err := h.authorize(ss.Context(), info.FullMethod)
	if err != nil {
		return err
	}
	return next(srv, &stream{ServerStream: ss, ctx: ctx})
}

func (h *handling) unaryDeadline(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	if _, has := ctx.Deadline(); has {
		return next(ctx, req)
	}
	limit := UnaryLimit
	if h.longPoll[info.FullMethod] {
		limit = LongPollLimit
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	resp, err := next(ctx, req)
	if err != nil {
		return nil, mapped(ctx, err) // only this context knows that our limit ended the call
	}
	return resp, nil
}

func (h *handling) unaryValidate(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	if err := h.validate(ctx, req); err != nil {
		return nil, err
	}
	return next(ctx, req)
}

func (h *handling) streamValidate(srv any, ss grpc.ServerStream, _ *grpc.StreamServerInfo, next grpc.StreamHandler) error {
	return next(srv, &stream{ServerStream: ss, ctx: ss.Context(), recv: func(m any) error { return h.validate(ss.Context(), m) }})
}

// validate checks a message against the rules in its .proto.
func (h *handling) validate(ctx context.Context, m any) error {
	msg, ok := m.(proto.Message)
	if !ok {
		return nil
	}
	err := h.validator.Validate(msg)
	var ve *protovalidate.ValidationError
	switch {
	case err == nil:
		return nil
	case !errors.As(err, &ve):
		return rpcerr.Internal(fmt.Errorf("validation rules of %s: %w", msg.ProtoReflect().Descriptor().FullName(), err))
	}
	violations := make([]rpcerr.Violation, 0, len(ve.Violations))
	for _, v := range ve.Violations {
		text := v.Proto.GetMessage()
		if text == "" {
			text = "breaks the rule " + v.Proto.GetRuleId()
		}
		violations = append(violations, rpcerr.Violation{Field: protovalidate.FieldPathString(v.Proto.GetField()), Description: text})
	}
	if h.further != nil {
		violations = append(violations, h.further(ctx, msg)...)
	}
	return rpcerr.Invalid(violations...)
}
