package policyfile

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/ultrathink-pilot/trainyard/services/checkpoint-janitor/internal/retention"
)

// reader walks YAML nodes instead of decoding into a struct: the decoder stops
// at the first unknown key and has no lines for what comes after it.
type reader struct {
	problems []retention.Problem
	failed   map[string]bool
}

func (r *reader) fail(n *yaml.Node, at, format string, args ...any) {
	if r.failed == nil {
		r.failed = map[string]bool{}
	}
	r.failed[at] = true
	if at == "" {
		at = "the file"
	}
	r.problems = append(r.problems, retention.Problem{Path: at, Text: fmt.Sprintf(format, args...) + fmt.Sprintf(" (line %d)", n.Line)})
}

func (r *reader) mapping(n *yaml.Node, at string, fields map[string]func(*yaml.Node, string)) {
	n = target(n)
	if n.Kind != yaml.MappingNode {
		r.fail(n, at, "must be a mapping of keys to values")
		return
	}
	seen := map[string]bool{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		path := key.Value
		if at != "" {
			path = at + "." + key.Value
		}
		read, known := fields[key.Value]
		switch {
		case !known:
			r.fail(key, path, "is no key of a retention policy; known here: %s", strings.Join(slices.Sorted(maps.Keys(fields)), ", "))
		case seen[key.Value]:
			r.fail(key, path, "is given twice")
		default:
			seen[key.Value] = true
			read(value, path)
		}
	}
}

func (r *reader) sequence(n *yaml.Node, at string, each func(*yaml.Node, string)) {
	n = target(n)
	if n.Kind != yaml.SequenceNode {
		r.fail(n, at, "must be a list")
		return
	}
	for i, item := range n.Content {
		each(item, fmt.Sprintf("%s[%d]", at, i))
	}
}

func target(n *yaml.Node) *yaml.Node {
	if n.Kind == yaml.AliasNode {
		return n.Alias
	}
	return n
}

func (r *reader) text(n *yaml.Node, at string) string {
	n = target(n)
	if n.Kind != yaml.ScalarNode || n.Tag == "!!null" {
		r.fail(n, at, "must be a text")
		return ""
	}
	return n.Value
}

func (r *reader) flag(n *yaml.Node, at string) bool {
	v, err := strconv.ParseBool(r.text(n, at))
	if err != nil {
		r.fail(n, at, "must be true or false")
	}
	return v
}

func (r *reader) count(n *yaml.Node, at string) int64 {
	text := r.text(n, at)
	v, err := strconv.ParseInt(text, 10, 32)
	if err != nil {
		r.fail(n, at, "is %q; give a whole number", text)
	}
	return v
}

func (r *reader) fraction(n *yaml.Node, at string) float64 {
	text := strings.TrimSpace(r.text(n, at))
	number, percent := strings.CutSuffix(text, "%")
	v, err := strconv.ParseFloat(strings.TrimSpace(number), 64)
	if err != nil {
		r.fail(n, at, "is %q; give a fraction such as 0.1 or 10%%", text)
	}
	if percent {
		v /= 100
	}
	return v
}

func (r *reader) age(n *yaml.Node, at string) time.Duration {
	text := r.text(n, at)
	d, err := parseAge(text)
	if err != nil {
		r.fail(n, at, "is %q; give an age such as 30d, 36h, 90m or never", text)
	}
	return d
}

func parseAge(text string) (time.Duration, error) {
	text = strings.TrimSpace(text)
	if text == "never" {
		return retention.Never, nil
	}
	if number, ok := strings.CutSuffix(text, "d"); ok {
		days, err := strconv.ParseFloat(number, 64)
		if err != nil || math.IsNaN(days) || math.Abs(days) > 36500 {
			return 0, fmt.Errorf("%q is no number of days", number)
		}
		return time.Duration(days * 24 * float64(time.Hour)), nil
	}
	return time.ParseDuration(text)
}

var sizeUnits = []struct {
	suffix string
	factor float64
}{
	{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"TiB", 1 << 40},
	{"kB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"TB", 1e12}, {"B", 1}, {"", 1},
}

func (r *reader) size(n *yaml.Node, at string) int64 {
	text := strings.TrimSpace(r.text(n, at))
	for _, u := range sizeUnits {
		number, ok := strings.CutSuffix(text, u.suffix)
		if !ok {
			continue
		}
		v, err := strconv.ParseFloat(strings.TrimSpace(number), 64)
		if err != nil || math.IsNaN(v) || math.Abs(v*u.factor) > 1<<60 {
			break
		}
		return int64(v * u.factor)
	}
	r.fail(n, at, "is %q; give a size such as 1GiB or 500MB", text)
	return 0
}
