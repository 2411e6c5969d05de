package jobfile

import (
	"fmt"
	"math"
	"sort"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// decoder walks a document and collects every problem. A struct decoder was
// rejected: it stops at a value's first problem and knows no lines of good ones,
// which the services' findings need.
type decoder struct {
	problems  []Problem
	lines     map[string]int
	warmModel ModelVersion
}

// field decodes one value.
type field func(n *yaml.Node, path string)

type fields map[string]field

func (d *decoder) add(n *yaml.Node, path, format string, args ...any) {
	d.problems = append(d.problems, Problem{Line: n.Line, Path: path, Description: fmt.Sprintf(format, args...)})
}

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

// resolve follows an alias to its anchor.
func resolve(n *yaml.Node) *yaml.Node {
	for n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	return n
}

func kindName(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a block of fields"
	case yaml.SequenceNode:
		return "a list"
	default:
		if n.Tag == "!!null" {
			return "empty"
		}
		return fmt.Sprintf("%q", n.Value)
	}
}

// object decodes a mapping strictly and returns the names that were there, nil
// when it is no mapping.
func (d *decoder) object(n *yaml.Node, path string, known fields) map[string]bool {
	n = resolve(n)
	if n.Kind != yaml.MappingNode {
		what := path
		if what == "" {
			what = "the file"
		}
		d.add(n, path, "%s is %s, not a block of fields", what, kindName(n))
		return nil
	}
	seen := map[string]bool{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		name, value := n.Content[i], resolve(n.Content[i+1])
		at := join(path, name.Value)
		decode, ok := known[name.Value]
		switch {
		case !ok:
			d.add(name, at, "unknown field%s", didYouMean(name.Value, known))
		case seen[name.Value]:
			d.add(name, at, "appears twice")
		default:
			seen[name.Value] = true
			d.lines[at] = name.Line
			decode(value, at)
		}
	}
	return seen
}

// require names fields that a block must have.
func (d *decoder) require(n *yaml.Node, seen map[string]bool, path string, names ...string) {
	if seen == nil {
		return
	}
	for _, name := range names {
		if !seen[name] {
			d.add(resolve(n), join(path, name), "is missing")
		}
	}
}

func (d *decoder) list(item field) field {
	return func(n *yaml.Node, path string) {
		if n.Kind != yaml.SequenceNode {
			d.add(n, path, "%s is not a list", kindName(n))
			return
		}
		for i, child := range n.Content {
			at := fmt.Sprintf("%s[%d]", path, i)
			d.lines[at] = child.Line
			item(resolve(child), at)
		}
	}
}

// scalar returns the text of a single value that is not empty.
func (d *decoder) scalar(n *yaml.Node, path, want string) (string, bool) {
	if n.Kind != yaml.ScalarNode || n.Tag == "!!null" {
		d.add(n, path, "is %s, not %s", kindName(n), want)
		return "", false
	}
	return strings.TrimSpace(n.Value), true
}

func (d *decoder) text(into *string) field {
	return func(n *yaml.Node, path string) {
		if v, ok := d.scalar(n, path, "a text"); ok {
			*into = v
		}
	}
}

func (d *decoder) flag(into *bool) field {
	return func(n *yaml.Node, path string) {
		v, ok := d.scalar(n, path, "true or false")
		if !ok {
			return
		}
		if v != "true" && v != "false" {
			d.add(n, path, "%q is neither true nor false", v)
			return
		}
		*into = v == "true"
	}
}

func (d *decoder) whole(into *int64) field {
	return func(n *yaml.Node, path string) {
		text, ok := d.scalar(n, path, "a whole number")
		if !ok {
			return
		}
		v, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			d.add(n, path, "%q is not a whole number", text)
			return
		}
		*into = v
	}
}

func (d *decoder) count(into *uint32, most int64) field {
	return func(n *yaml.Node, path string) {
		var v int64
		before := len(d.problems)
		d.whole(&v)(n, path)
		if len(d.problems) > before {
			return
		}
		if v < 0 || v > most {
			d.add(n, path, "%d is not between 0 and %d", v, most)
			return
		}
		*into = uint32(v)
	}
}

func (d *decoder) number(into *float64, most float64) field {
	return func(n *yaml.Node, path string) {
		text, ok := d.scalar(n, path, "a number")
		if !ok {
			return
		}
		v, err := strconv.ParseFloat(text, 64)
		switch {
		case err != nil || math.IsNaN(v) || math.IsInf(v, 0):
			d.add(n, path, "%q is not a number", text)
		case v < 0 || v > most:
			d.add(n, path, "%s is not between 0 and %g", text, most)
		default:
			*into = v
		}
	}
}

// weight is a number for which zero and absent are two things.
func (d *decoder) weight(into **float64, most float64) field {
	return func(n *yaml.Node, path string) {
		v := math.NaN()
		if d.number(&v, most)(n, path); !math.IsNaN(v) {
			*into = &v
		}
	}
}

// units of sizes. Both families are there because people write both.
var units = map[string]float64{
	"": 1, "b": 1,
	"k": 1e3, "kb": 1e3, "m": 1e6, "mb": 1e6, "g": 1e9, "gb": 1e9, "t": 1e12, "tb": 1e12,
	"ki": 1 << 10, "kib": 1 << 10, "mi": 1 << 20, "mib": 1 << 20, "gi": 1 << 30, "gib": 1 << 30, "ti": 1 << 40, "tib": 1 << 40,
}

func (d *decoder) bytes(into *int64, most int64) field {
	return func(n *yaml.Node, path string) {
		const want = "a size such as 512MiB or 24GiB"
		text, ok := d.scalar(n, path, want)
		if !ok {
			return
		}
		cut := len(text)
		for cut > 0 && (text[cut-1] >= 'A' && text[cut-1] <= 'Z' || text[cut-1] >= 'a' && text[cut-1] <= 'z') {
			cut--
		}
		unit, known := units[strings.ToLower(text[cut:])]
		v, err := strconv.ParseFloat(strings.TrimSpace(text[:cut]), 64)
		size := v * unit
		switch {
		case err != nil || !known || math.IsNaN(size):
			d.add(n, path, "%q is not %s", text, want)
		case size < 0:
			d.add(n, path, "%s is negative", text)
		case size > float64(most):
			d.add(n, path, "%s is more than the largest possible, %dTiB", text, most>>40)
		case size != math.Trunc(size):
			d.add(n, path, "%s is not a whole number of bytes", text)
		default:
			*into = int64(size)
		}
	}
}

// cores decodes "1.5" or "1500m" to thousandths of a core.
func (d *decoder) cores(into *int64, most int64) field {
	return func(n *yaml.Node, path string) {
		const want = "a number of cores such as 2, 0.5 or 500m"
		text, ok := d.scalar(n, path, want)
		if !ok {
			return
		}
		number, scale := text, 1000.0
		if trimmed, milli := strings.CutSuffix(text, "m"); milli {
			number, scale = trimmed, 1
		}
		v, err := strconv.ParseFloat(number, 64)
		millis := math.Round(v * scale)
		switch {
		case err != nil || math.IsNaN(v):
			d.add(n, path, "%q is not %s", text, want)
		case millis < 0:
			d.add(n, path, "%s is negative", text)
		case millis > float64(most):
			d.add(n, path, "%s is more than the largest possible, %d cores", text, most/1000)
		default:
			*into = int64(millis)
		}
	}
}

func (d *decoder) pairs(into *map[string]string) field {
	return func(n *yaml.Node, path string) {
		if n.Kind != yaml.MappingNode {
			d.add(n, path, "%s is not a block of names and values", kindName(n))
			return
		}
		*into = map[string]string{}
		for i := 0; i+1 < len(n.Content); i += 2 {
			name := n.Content[i].Value
			at := join(path, name)
			d.lines[at] = n.Content[i].Line
			if v, ok := d.scalar(resolve(n.Content[i+1]), at, "a text"); ok {
				(*into)[name] = v
			}
		}
	}
}

func choice[T ~int32](d *decoder, into *T, options map[string]T) field {
	return func(n *yaml.Node, path string) {
		v, ok := d.scalar(n, path, "one of "+names(options))
		if !ok {
			return
		}
		value, known := options[v]
		if !known {
			d.add(n, path, "unknown value %q%s; it is one of %s", v, didYouMean(v, options), names(options))
			return
		}
		*into = value
	}
}

func names[T any](options map[string]T) string {
	out := make([]string, 0, len(options))
	for name := range options {
		out = append(out, name)
	}
	sort.Strings(out)
	return strings.Join(out, ", ")
}

// didYouMean names the closest known name when it is close, all of them otherwise.
func didYouMean[T any](got string, known map[string]T) string {
	best, least := "", math.MaxInt
	for name := range known {
		if distance := edits(strings.ToLower(got), name); distance < least || distance == least && name < best {
			best, least = name, distance
		}
	}
	if least <= max(1, len(got)/3) {
		return fmt.Sprintf(", did you mean %q?", best)
	}
	return ""
}

// edits is the Levenshtein distance, in bytes.
func edits(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			diagonal, row[j+1] = row[j+1], min(row[j+1]+1, row[j]+1, diagonal+cost)
		}
	}
	return row[len(b)]
}
