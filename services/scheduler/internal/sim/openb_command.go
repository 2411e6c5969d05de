package sim

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"sort"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/placement"
)

// buckets are the arrival levels that a replay prints, in percent.
var buckets = []int{60, 80, 90, 95, 100, 110, 120, 130}

// OpenbRow is the outcome of one seed, or with Seed "mean" of all.
type OpenbRow struct {
	Seed        string             `json:"seed"`
	Allocated   map[string]float64 `json:"allocated_percent"`
	Final       float64            `json:"final_percent"`
	Placed      int                `json:"placed"`
	Dropped     int                `json:"dropped"`
	Overcommits int                `json:"overcommits"`
	Microsecond float64            `json:"microseconds_per_pod"`
}

// RunOpenb is the command "schedreplay openb".
func RunOpenb(args []string, out io.Writer) error {
	fs := flag.NewFlagSet("openb", flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	nodesFile := fs.String("nodes", "", "")
	podsFile := fs.String("pods", "", "")
	seeds := fs.String("seeds", "42-51", "")
	inflation := fs.Float64("inflation", 1.3, "")
	policy := fs.String("policy", "default", "")
	format := fs.String("o", "table", "")
	if err := fs.Parse(args); err != nil {
		return err
	}
	var problems []error
	complain := func(format string, args ...any) { problems = append(problems, fmt.Errorf(format, args...)) }
	choose, ok := Policies[*policy]
	if !ok {
		complain("--policy %q is unknown; use %s", *policy, strings.Join(policyNames(), " or "))
	}
	from, to, err := seedRange(*seeds)
	if err != nil {
		problems = append(problems, err)
	}
	if *format != "table" && *format != "json" {
		complain("-o %q is unknown; use table or json", *format)
	}
	if *inflation <= 0 || *inflation > 100 {
		complain("--inflation %g is not between 0 and 100", *inflation)
	}
	nodes, err := readFile(*nodesFile, "nodes", ReadNodes)
	if err != nil {
		problems = append(problems, err)
	}
	pods, err := readFile(*podsFile, "pods", ReadPods)
	if err != nil {
		problems = append(problems, err)
	}
	if len(problems) > 0 {
		return errors.Join(problems...)
	}
	var rows []OpenbRow
	for seed := from; seed <= to; seed++ {
		rows = append(rows, replaySeed(nodes, pods, *inflation, seed, choose))
	}
	rows = append(rows, meanOf(rows))
	if *format == "json" {
		e := json.NewEncoder(out)
		e.SetIndent("", "  ")
		return e.Encode(rows)
	}
	return printOpenb(out, rows)
}

func policyNames() []string {
	var out []string
	for n := range Policies {
		out = append(out, n)
	}
	sort.Strings(out)
	return out
}

func seedRange(s string) (from, to int64, err error) {
	a, b, ranged := strings.Cut(s, "-")
	if !ranged {
		b = a
	}
	from, e1 := strconv.ParseInt(a, 10, 64)
	to, e2 := strconv.ParseInt(b, 10, 64)
	if e1 != nil || e2 != nil || to < from {
		return 0, 0, fmt.Errorf("--seeds %q is not a number or a range such as 42-51", s)
	}
	return from, to, nil
}

func readFile[T any](path, flag string, read func(io.Reader) (T, error)) (out T, err error) {
	if path == "" {
		return out, fmt.Errorf("--%s is required", flag)
	}
	f, err := os.Open(path)
	if err != nil {
		return out, fmt.Errorf("--%s: %w", flag, err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if out, err = read(f); err != nil {
		return out, fmt.Errorf("--%s %s: %w", flag, path, err)
	}
	return out, nil
}

func replaySeed(nodes []placement.Node, pods []Pod, inflation float64, seed int64, choose Policy) OpenbRow {
	var capacity int64
	for i := range nodes {
		capacity += int64(len(nodes[i].Devices)) * wholeGPU
	}
	arrivals := Arrivals(pods, capacity, inflation, seed)
	begin := time.Now()
	a := Replay(nodes, arrivals, TypicalPods(pods), choose)
	row := OpenbRow{
		Seed: strconv.FormatInt(seed, 10), Allocated: map[string]float64{}, Final: a.Final, Placed: a.Placed, Dropped: a.Dropped, Overcommits: a.Overcommits,
		Microsecond: float64(time.Since(begin).Microseconds()) / float64(max(len(arrivals), 1)),
	}
	for _, b := range buckets {
		if v, ok := a.Percent[b]; ok {
			row.Allocated[strconv.Itoa(b)] = v
		}
	}
	return row
}

func meanOf(rows []OpenbRow) OpenbRow {
	m := OpenbRow{Seed: "mean", Allocated: map[string]float64{}}
	n := float64(len(rows))
	for _, r := range rows {
		for b, v := range r.Allocated {
			m.Allocated[b] += v / n
		}
		m.Final += r.Final / n
		m.Microsecond += r.Microsecond / n
		m.Placed += r.Placed
		m.Dropped += r.Dropped
		m.Overcommits += r.Overcommits
	}
	return m
}

func printOpenb(out io.Writer, rows []OpenbRow) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	head := "seed\t"
	for _, b := range buckets {
		head += fmt.Sprintf("@%d %%\t", b)
	}
	var lines strings.Builder
	lines.WriteString(head + "placed\tdropped\tover-commits\tus/pod\t\n")
	for _, r := range rows {
		line := r.Seed + "\t"
		for _, b := range buckets {
			if v, ok := r.Allocated[strconv.Itoa(b)]; ok {
				line += fmt.Sprintf("%.2f\t", v)
			} else {
				line += "-\t"
			}
		}
		lines.WriteString(line + fmt.Sprintf("%d\t%d\t%d\t%.1f\t\n", r.Placed, r.Dropped, r.Overcommits, r.Microsecond))
	}
	if _, err := io.WriteString(w, lines.String()); err != nil {
		return err
	}
	return w.Flush()
}
