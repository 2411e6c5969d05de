// Package tracefile keeps the spans of an embedded mesh: an OTLP gRPC receiver
// that appends OTLP JSON lines to a file, a reader that finds one trace in it,
// and its waterfall as text.
//
// The lines are what the OpenTelemetry collector's file exporter writes, so a
// trace explorer can load them. A bundled trace store was rejected: the file
// needs no process and no port, and `trainyard trace` needs no more.
package tracefile

import (
	"sort"
	"time"
)

// Span is one span as it was received.
type Span struct {
	TraceID, SpanID, ParentID string
	Name, Service             string
	Start, End                time.Time
	// Attributes are rendered as text.
	Attributes map[string]string
	// Failed is true for a status of ERROR; Message is its text.
	Failed  bool
	Message string
	// Links are "trace id/span id" of other traces.
	Links []string
}

// Duration is the span's length.
func (s *Span) Duration() time.Duration { return s.End.Sub(s.Start) }

// Node is a span with its children, earliest first.
type Node struct {
	Span     *Span
	Children []*Node

	// merged is how many more spans than its own it stands for.
	merged int
}

// size is the number of spans of a tree.
func (n *Node) size() int {
	count := 1 + n.merged
	for _, c := range n.Children {
		count += c.size()
	}
	return count
}

// Tree orders the spans of one trace by parent. A span whose parent was not
// received is a root: several roots mean that part of the trace is missing (or
// still running). A span received twice is kept once.
func Tree(spans []Span) []*Node {
	nodes := make(map[string]*Node, len(spans))
	order := make([]*Node, 0, len(spans))
	for i := range spans {
		s := &spans[i]
		if _, twice := nodes[s.SpanID]; twice {
			continue
		}
		n := &Node{Span: s}
		nodes[s.SpanID] = n
		order = append(order, n)
	}
	var roots []*Node
	for _, n := range order {
		if parent := nodes[n.Span.ParentID]; parent != nil && parent != n {
			parent.Children = append(parent.Children, n)
		} else {
			roots = append(roots, n)
		}
	}
	byStart := func(list []*Node) {
		sort.SliceStable(list, func(i, j int) bool { return list[i].Span.Start.Before(list[j].Span.Start) })
	}
	byStart(roots)
	for _, n := range order {
		byStart(n.Children)
	}
	return roots
}
