package telemetry

import (
	"context"
	"os"
	"strings"

	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
	"go.uber.org/zap"
)

// Inject returns the trace context of ctx as W3C fields (traceparent, tracestate,
// baggage), to be stored or sent as data. It is empty when ctx has none.
func Inject(ctx context.Context) map[string]string {
	carrier := propagation.MapCarrier{}
	propagator.Inject(ctx, carrier)
	return carrier
}

// Extract returns ctx with the trace context of Inject's fields as remote parent.
// Unreadable fields leave ctx as it is.
func Extract(ctx context.Context, fields map[string]string) context.Context {
	return propagator.Extract(ctx, propagation.MapCarrier(fields))
}

// TraceParent returns the W3C traceparent of ctx, "" when it has none.
func TraceParent(ctx context.Context) string {
	return Inject(ctx)["traceparent"]
}

// ContextWithTraceParent returns ctx with a stored traceparent as remote parent. ""
// and unreadable values leave ctx as it is.
func ContextWithTraceParent(ctx context.Context, traceparent string) context.Context {
	return Extract(ctx, map[string]string{"traceparent": traceparent})
}

// SpanContext reads a stored traceparent, for a link to a span that is not the
// parent. It is invalid (IsValid() false) for "" and unreadable values.
func SpanContext(traceparent string) trace.SpanContext {
	return trace.SpanContextFromContext(ContextWithTraceParent(context.Background(), traceparent))
}

// Environ returns the trace context of ctx as variables for a child process:
// TRACEPARENT, TRACESTATE, BAGGAGE.
func Environ(ctx context.Context) []string {
	var out []string
	for k, v := range Inject(ctx) {
		out = append(out, strings.ToUpper(k)+"="+v)
	}
	return out
}

// FromEnviron returns ctx with the trace context that a parent process left by
// Environ.
func FromEnviron(ctx context.Context) context.Context {
	fields := map[string]string{}
	for _, k := range propagator.Fields() {
		if v := os.Getenv(strings.ToUpper(k)); v != "" {
			fields[k] = v
		}
	}
	return Extract(ctx, fields)
}

// LogFields returns trace_id and span_id of ctx for a log line; none when ctx is
// in no trace.
func LogFields(ctx context.Context) []zap.Field {
	sc := trace.SpanContextFromContext(ctx)
	if !sc.IsValid() {
		return nil
	}
	return []zap.Field{zap.Stringer("trace_id", sc.TraceID()), zap.Stringer("span_id", sc.SpanID())}
}
