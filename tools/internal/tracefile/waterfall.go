package tracefile

import (
	"fmt"
	"io"
	"strings"
	"time"
)

// barWidth is the width of a waterfall's time axis in characters.
const barWidth = 40

// collapseFrom is how many siblings of one name are shown as one line.
const collapseFrom = 4

// Collapse replaces siblings of the same service and name by one node, where
// there are collapseFrom of them or more: a training pushes the same kind of file
// hundreds of times. The node spans them all, its name says how many they are,
// and it has no children.
func Collapse(roots []*Node) []*Node {
	type kind struct{ service, name string }
	counts := map[kind]int{}
	for _, n := range roots {
		counts[kind{n.Span.Service, n.Span.Name}]++
	}
	merged := map[kind]*Node{}
	var out []*Node
	for _, n := range roots {
		k := kind{n.Span.Service, n.Span.Name}
		if counts[k] < collapseFrom {
			out = append(out, &Node{Span: n.Span, Children: Collapse(n.Children)})
			continue
		}
		m := merged[k]
		if m == nil {
			all := *n.Span
			all.Name = fmt.Sprintf("%s (%d times)", n.Span.Name, counts[k])
			m = &Node{Span: &all, merged: -1}
			merged[k] = m
			out = append(out, m)
		}
		m.merged += n.size()
		if n.Span.End.After(m.Span.End) {
			m.Span.End = n.Span.End
		}
		if n.Span.Failed && !m.Span.Failed {
			m.Span.Failed, m.Span.Message = true, "at least one failed: "+n.Span.Message
		}
	}
	return out
}

// label is a span's line without its bar. The contracts' package names are left
// out: the service is named already.
func label(s *Span) string {
	name := s.Name
	if rest, ok := strings.CutPrefix(name, "trainyard."); ok {
		parts := strings.SplitN(rest, ".", 3)
		if len(parts) == 3 {
			name = parts[2]
		}
	}
	return s.Service + ": " + name
}

// Waterfall writes a trace as text: one line per span, children under their
// parent, with a bar on the trace's time axis.
func Waterfall(w io.Writer, roots []*Node) error {
	var first, last time.Time
	services, count, depth := map[string]bool{}, 0, 0
	var look func(n *Node, level int)
	look = func(n *Node, level int) {
		count += 1 + n.merged
		services[n.Span.Service] = true
		width := 2*level + len([]rune(label(n.Span)))
		depth = max(depth, width)
		if first.IsZero() || n.Span.Start.Before(first) {
			first = n.Span.Start
		}
		if n.Span.End.After(last) {
			last = n.Span.End
		}
		for _, c := range n.Children {
			look(c, level+1)
		}
	}
	for _, n := range roots {
		look(n, 0)
	}
	if count == 0 {
		return nil
	}
	if _, err := fmt.Fprintf(w, "trace %s   %d spans of %d services in %s, from %s\n", roots[0].Span.TraceID, count, len(services),
		short(last.Sub(first)), first.Local().Format(time.RFC3339)); err != nil {
		return err
	}
	if len(roots) > 1 {
		if _, err := fmt.Fprintf(w, "%d spans have a parent that was not received (yet): each begins a tree of its own\n", len(roots)-1); err != nil {
			return err
		}
	}
	var print func(n *Node, level int) error
	print = func(n *Node, level int) error {
		s := n.Span
		text := strings.Repeat("  ", level) + label(s)
		mark := ""
		if s.Failed {
			mark = "  ! " + firstLine(s.Message)
		}
		line := fmt.Sprintf("%-*s  %s  %8s +%-8s%s", depth, text, bar(first, last, s), short(s.Duration()), short(s.Start.Sub(first)), mark)
		if _, err := fmt.Fprintln(w, strings.TrimRight(line, " ")); err != nil {
			return err
		}
		for _, c := range n.Children {
			if err := print(c, level+1); err != nil {
				return err
			}
		}
		return nil
	}
	for _, n := range roots {
		if err := print(n, 0); err != nil {
			return err
		}
	}
	return nil
}

func bar(first, last time.Time, s *Span) string {
	total := last.Sub(first)
	if total <= 0 {
		total = 1
	}
	from := int(float64(s.Start.Sub(first)) / float64(total) * barWidth)
	to := int(float64(s.End.Sub(first)) / float64(total) * barWidth)
	from = min(max(from, 0), barWidth-1)
	to = min(max(to, from+1), barWidth)
	return "│" + strings.Repeat(" ", from) + strings.Repeat("█", to-from) + strings.Repeat(" ", barWidth-to) + "│"
}

func short(d time.Duration) string {
	switch {
	case d < time.Millisecond:
		return fmt.Sprintf("%dµs", d.Microseconds())
	case d < time.Second:
		return fmt.Sprintf("%.1fms", float64(d)/float64(time.Millisecond))
	case d < time.Minute:
		return fmt.Sprintf("%.2fs", d.Seconds())
	default:
		return d.Round(time.Second).String()
	}
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return line
}
