package sim

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
)

// options are the flags of one command, and all that is wrong with them.
type options struct {
	*flag.FlagSet
	format   *string
	problems []error
}

func newOptions(name string) *options {
	fs := flag.NewFlagSet(name, flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	return &options{FlagSet: fs, format: fs.String("o", "table", "")}
}

func (o *options) parse(args []string) error {
	if err := o.Parse(args); err != nil {
		return fmt.Errorf("schedreplay %s: %w; run schedreplay --help", o.Name(), err)
	}
	if *o.format != "table" && *o.format != "json" {
		o.complain("-o %q is unknown; use table or json", *o.format)
	}
	return nil
}

func (o *options) complain(format string, args ...any) {
	o.problems = append(o.problems, fmt.Errorf(format, args...))
}

func (o *options) err() error { return errors.Join(o.problems...) }

// choices reads a list of names; "all" is all of them.
func (o *options) choices(flag, list string, known []string) []string {
	if list == "all" {
		return known
	}
	var out []string
	for _, name := range strings.Split(list, ",") {
		name = strings.ReplaceAll(strings.ToLower(strings.TrimSpace(name)), "_", "-")
		switch {
		case !slices.Contains(known, name):
			o.complain("--%s %q is unknown; use all, or some of %s", flag, name, strings.Join(known, ","))
		case !slices.Contains(out, name):
			out = append(out, name)
		}
	}
	return out
}

// seeds reads a number or a range such as 42-51.
func (o *options) seeds(s string) (from, to int64) {
	a, b, ranged := strings.Cut(s, "-")
	if !ranged {
		b = a
	}
	from, e1 := strconv.ParseInt(a, 10, 64)
	to, e2 := strconv.ParseInt(b, 10, 64)
	switch {
	case e1 != nil || e2 != nil || to < from:
		o.complain("--seeds %q is not a number or a range such as 42-51", s)
	case to-from >= 10_000:
		o.complain("--seeds %q is more than 10000 seeds", s)
	default:
		return from, to
	}
	return 0, 0
}

// load reads the file of a flag.
func load[T any](o *options, flag, path string, read func(io.Reader) (T, error)) (out T) {
	if path == "" {
		o.complain("--%s is required", flag)
		return out
	}
	f, err := os.Open(path)
	if err != nil {
		o.complain("--%s: %w", flag, err)
		return out
	}
	defer func() {
		if err := f.Close(); err != nil {
			o.complain("--%s: %w", flag, err)
		}
	}()
	if out, err = read(f); err != nil {
		o.complain("--%s %s:\n%w", flag, path, err)
	}
	return out
}

// print writes rows as JSON, or as a table with the given head and lines.
func (o *options) print(out io.Writer, rows any, head []string, lines [][]string, notes ...string) error {
	if *o.format == "json" {
		e := json.NewEncoder(out)
		e.SetIndent("", "  ")
		return e.Encode(rows)
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	text := strings.Join(head, "\t") + "\t\n"
	for _, l := range lines {
		text += strings.Join(l, "\t") + "\t\n"
	}
	if _, err := io.WriteString(w, text); err != nil {
		return err
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for _, n := range notes {
		if _, err := fmt.Fprintln(out, n); err != nil {
			return err
		}
	}
	return nil
}
