// Package benchtable writes measured figures into the pages of docs/results: what was asked, what was reached beside a peer
// measured in the same run, on which machine, by which command.
//
// A page is a list of sections, one per test; running one test again replaces its own section and leaves the others alone.
package benchtable

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// Section is one table of a page.
type Section struct {
	// Page is the file below docs/results, such as "registry.md".
	Page string
	// Title is the section's heading; it identifies the section within the page.
	Title string
	// Command is what a reader types to measure again, from the root of the repository.
	Command string
	// Intro says in a sentence or two what was measured and how; may be empty.
	Intro string
	// Rows are the figures.
	Rows []Row
	// Notes follow the table: shortfalls, their reasons, what comes next.
	Notes []string
}

// Row is one figure.
type Row struct {
	// What was measured, with its conditions.
	What string
	// Asked is the goal in words, such as ">= 100k rows/s"; empty means none was set.
	Asked string
	// Ours holds our runs.
	Ours Sample
	// Peer holds the peer's runs, measured in the same command; empty means there is none.
	Peer Sample
	// PeerName names the peer with its version.
	PeerName string
	// Note is a short remark; may be empty.
	Note string
}

// Sample is a figure over several runs.
type Sample struct {
	// Unit follows the number, such as "rows/s" or "ms"; empty for counts.
	Unit string
	// Values has one element per run. Empty means not measured.
	Values []float64
}

// Of returns a sample.
func Of(unit string, values ...float64) Sample { return Sample{Unit: unit, Values: values} }

// Durations returns a sample in milliseconds.
func Durations(values ...time.Duration) Sample {
	s := Sample{Unit: "ms"}
	for _, v := range values {
		s.Values = append(s.Values, float64(v)/float64(time.Millisecond))
	}
	return s
}

// Median returns the middle value, NaN without values. Of an even number it is the mean of the two in the middle.
func (s Sample) Median() float64 { return Quantile(s.Values, 0.5) }

// Quantile returns the q-quantile (0 to 1) of values by linear interpolation, NaN without values.
func Quantile(values []float64, q float64) float64 {
	if len(values) == 0 {
		return math.NaN()
	}
	sorted := slices.Sorted(slices.Values(values))
	at := q * float64(len(sorted)-1)
	low := int(at)
	if low+1 == len(sorted) {
		return sorted[low]
	}
	return sorted[low] + (at-float64(low))*(sorted[low+1]-sorted[low])
}

// String is the median with its unit and, of several runs, the spread: "12.3 ms [11.9, 14.0]".
func (s Sample) String() string {
	if len(s.Values) == 0 {
		return ""
	}
	text := number(s.Median())
	if s.Unit != "" {
		text += " " + s.Unit
	}
	if len(s.Values) > 1 {
		text += fmt.Sprintf(" [%s, %s]", number(slices.Min(s.Values)), number(slices.Max(s.Values)))
	}
	return text
}

// number keeps three significant digits and groups thousands: a fourth digit of a measured figure is noise. Whole numbers are
// counts and stay whole.
func number(v float64) string {
	switch {
	case math.IsNaN(v) || math.IsInf(v, 0):
		return strconv.FormatFloat(v, 'g', -1, 64)
	case v == math.Trunc(v) && math.Abs(v) < 1e15:
		return group(strconv.FormatFloat(v, 'f', 0, 64))
	case math.Abs(v) >= 1000:
		digits := math.Pow(10, math.Floor(math.Log10(math.Abs(v)))-2)
		return group(strconv.FormatFloat(math.Round(v/digits)*digits, 'f', 0, 64))
	case math.Abs(v) >= 0.001:
		decimals := max(0, 2-int(math.Floor(math.Log10(math.Abs(v)))))
		return strconv.FormatFloat(v, 'f', decimals, 64)
	default:
		return strconv.FormatFloat(v, 'e', 2, 64)
	}
}

// group puts a comma between thousands.
func group(digits string) string {
	sign := ""
	if strings.HasPrefix(digits, "-") {
		sign, digits = "-", digits[1:]
	}
	for at := len(digits) - 3; at > 0; at -= 3 {
		digits = digits[:at] + "," + digits[at:]
	}
	return sign + digits
}

// Write puts the section into its page, in place of the section with the same title, else at the end. The page is written
// beside its old version and renamed, so a reader never sees half of it.
func (s Section) Write(tb testing.TB) {
	tb.Helper()
	root, err := repositoryRoot()
	if err != nil {
		tb.Fatalf("docs/results: %v", err)
	}
	path := filepath.Join(root, "docs", "results", s.Page)
	before, err := os.ReadFile(path)
	if err != nil && !os.IsNotExist(err) {
		tb.Fatal(err)
	}
	if len(before) == 0 {
		before = []byte("# " + strings.TrimSuffix(s.Page, ".md") + ": figures\n")
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		tb.Fatal(err)
	}
	if err := os.WriteFile(path+".new", []byte(replace(string(before), s.Title, s.text())), 0o644); err != nil {
		tb.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		tb.Fatal(err)
	}
	tb.Logf("%s\n%s", path, s.text())
}

// text renders the section in Markdown.
func (s Section) text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "## %s\n\n", s.Title)
	if s.Intro != "" {
		fmt.Fprintf(&b, "%s\n\n", s.Intro)
	}
	fmt.Fprintf(&b, "%s, %s. Again: `%s`\n\n", Machine(), time.Now().UTC().Format("2 January 2006"), s.Command)
	asked := slices.ContainsFunc(s.Rows, func(r Row) bool { return r.Asked != "" })
	peer := slices.ContainsFunc(s.Rows, func(r Row) bool { return len(r.Peer.Values) > 0 })
	note := slices.ContainsFunc(s.Rows, func(r Row) bool { return r.Note != "" })
	header, rule := "| what |", "| --- |"
	column := func(title string) { header, rule = header+" "+title+" |", rule+" --- |" }
	if asked {
		column("asked")
	}
	column("reached")
	if peer {
		column("peer")
		column("ours / peer")
	}
	if note {
		column("note")
	}
	fmt.Fprintf(&b, "%s\n%s\n", header, rule)
	for _, r := range s.Rows {
		fmt.Fprintf(&b, "| %s |", cell(r.What))
		if asked {
			fmt.Fprintf(&b, " %s |", cell(r.Asked))
		}
		fmt.Fprintf(&b, " %s |", r.Ours)
		if peer {
			fmt.Fprintf(&b, " %s | %s |", cell(strings.TrimSpace(r.PeerName+" "+r.Peer.String())), ratio(r.Ours, r.Peer))
		}
		if note {
			fmt.Fprintf(&b, " %s |", cell(r.Note))
		}
		b.WriteByte('\n')
	}
	for _, n := range s.Notes {
		fmt.Fprintf(&b, "\n- %s", n)
	}
	if len(s.Notes) > 0 {
		b.WriteByte('\n')
	}
	return b.String()
}

func cell(text string) string { return strings.ReplaceAll(text, "|", "\\|") }

func ratio(ours, peer Sample) string {
	if len(ours.Values) == 0 || len(peer.Values) == 0 || ours.Unit != peer.Unit || peer.Median() == 0 {
		return ""
	}
	return number(ours.Median()/peer.Median()) + "x"
}

// replace swaps the section with this title, or appends it.
func replace(page, title, section string) string {
	lines := strings.SplitAfter(page, "\n")
	begin := slices.IndexFunc(lines, func(l string) bool { return strings.TrimSpace(l) == "## "+title })
	if begin < 0 {
		return strings.TrimRight(page, "\n") + "\n\n" + section
	}
	end := begin + 1
	for end < len(lines) && !strings.HasPrefix(lines[end], "## ") {
		end++
	}
	if end < len(lines) {
		section += "\n"
	}
	return strings.Join(lines[:begin], "") + section + strings.Join(lines[end:], "")
}

// repositoryRoot is the folder of go.work at or above the working directory: tests run in their package's folder.
func repositoryRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.work")); err == nil {
			return dir, nil
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", fmt.Errorf("no go.work at or above the working directory: run from a checkout")
		}
		dir = parent
	}
}
