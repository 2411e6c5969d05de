package tracefile

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
)

// TestRealExporter sends spans with the exporter that the services use.
func TestRealExporter(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "traces.jsonl")
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	receiver, err := NewReceiver(listener, path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- receiver.Run(ctx) }()

	exporter, err := otlptracegrpc.New(ctx, otlptracegrpc.WithEndpoint(listener.Addr().String()), otlptracegrpc.WithInsecure(),
		otlptracegrpc.WithCompressor("gzip"))
	if err != nil {
		t.Fatal(err)
	}
	provider := sdktrace.NewTracerProvider(sdktrace.WithBatcher(exporter),
		sdktrace.WithResource(resource.NewSchemaless(attribute.String("service.name", "tester"))))
	tracer := provider.Tracer("x")
	spanCtx, root := tracer.Start(ctx, "submit")
	_, child := tracer.Start(spanCtx, "place")
	child.SetAttributes(attribute.Int("devices", 2), attribute.Bool("gang", true))
	child.SetStatus(codes.Error, "no room\nat all")
	child.End()
	root.End()
	_, other := tracer.Start(ctx, "another trace")
	other.End()
	if err := provider.Shutdown(ctx); err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}

	// A crash of the receiver may leave half a line: it must not hide the rest.
	file, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	id := root.SpanContext().TraceID().String()
	if _, err := file.WriteString(`{"resourceSpans":[{"traceId":"` + id); err != nil || file.Close() != nil {
		t.Fatal(err)
	}
	spans, err := Read(path, id)
	if err != nil || len(spans) != 2 {
		t.Fatalf("%d spans, %v", len(spans), err)
	}
	roots := Tree(spans)
	if len(roots) != 1 || roots[0].Span.Name != "submit" || len(roots[0].Children) != 1 {
		t.Fatalf("%+v", roots)
	}
	place := roots[0].Children[0].Span
	if place.Service != "tester" || place.Attributes["devices"] != "2" || place.Attributes["gang"] != "true" || !place.Failed || place.End.Before(place.Start) {
		t.Errorf("%+v", place)
	}
	var out strings.Builder
	if err := Waterfall(&out, roots); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"trace " + id, "2 spans of 1 services", "\ntester: submit", "\n  tester: place", "! no room\n"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q not in:\n%s", want, out.String())
		}
	}
}

func TestReadWithoutAFile(t *testing.T) {
	t.Parallel()
	spans, err := Read(filepath.Join(t.TempDir(), "none"), strings.Repeat("a", 32))
	if err != nil || spans != nil {
		t.Fatal(spans, err)
	}
}

func TestTheFileIsBounded(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "traces.jsonl")
	w, err := openWriter(path)
	if err != nil {
		t.Fatal(err)
	}
	w.limit = 2000
	id := strings.Repeat("ab", 16)
	line := []byte(`{"resourceSpans":[{"scopeSpans":[{"spans":[{"traceId":"` + id + `","spanId":"` + strings.Repeat("cd", 8) +
		`","name":"s","startTimeUnixNano":"1","endTimeUnixNano":"2"}]}]}]}`)
	export, err := unmarshal(line)
	if err != nil {
		t.Fatal(err)
	}
	for range 100 {
		if err := w.write(export); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.close(); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{path, path + ".1"} {
		if info, err := os.Stat(name); err != nil || info.Size() > 2000 {
			t.Errorf("%s: %v %v", name, info, err)
		}
	}
	spans, err := Read(path, id)
	if err != nil || len(spans) < 8 || len(Tree(spans)) != 1 {
		t.Errorf("%d spans, %v", len(spans), err)
	}
	if err := w.write(export); !errors.Is(err, os.ErrClosed) {
		t.Errorf("write after close: %v", err)
	}
}

func TestASpanWithoutItsParentIsARoot(t *testing.T) {
	t.Parallel()
	now := time.Unix(100, 0)
	roots := Tree([]Span{
		{SpanID: "2", ParentID: "lost", Start: now.Add(time.Second)}, {SpanID: "1", Start: now}, {SpanID: "3", ParentID: "2", Start: now}, {SpanID: "3", ParentID: "2"},
	})
	if len(roots) != 2 || roots[0].Span.SpanID != "1" || len(roots[1].Children) != 1 {
		t.Fatalf("%+v", roots)
	}
}

func TestCollapseMergesManyOfAKind(t *testing.T) {
	t.Parallel()
	at := time.Unix(100, 0)
	children := make([]*Node, 0, 7)
	for i := range 6 {
		start := at.Add(time.Duration(i) * time.Second)
		children = append(children, &Node{Span: &Span{Service: "s", Name: "push", Start: start, End: start.Add(time.Second), Failed: i == 3, Message: "x"}})
	}
	children = append(children, &Node{Span: &Span{Service: "s", Name: "trainyard.job.v1.JobService/GetJob", Start: at, End: at}})
	got := Collapse([]*Node{{Span: &Span{Name: "root"}, Children: children}})
	if len(got) != 1 || len(got[0].Children) != 2 {
		t.Fatalf("%+v", got)
	}
	if m := got[0].Children[0].Span; m.Name != "push (6 times)" || m.Duration() != 6*time.Second || !m.Failed {
		t.Errorf("%+v", m)
	}
	if children[0].Span.Name != "push" {
		t.Error("the tree that was given has changed")
	}
	if got[0].size() != 8 {
		t.Errorf("it stands for %d spans, want 8", got[0].size())
	}
	if l := label(got[0].Children[1].Span); l != "s: JobService/GetJob" {
		t.Errorf("%q", l)
	}
}
