package sim

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"
)

// MuriRow is the outcome of one policy on one job trace. Times are in seconds.
type MuriRow struct {
	Policy   string  `json:"policy"`
	Jobs     int     `json:"jobs"`
	Mean     float64 `json:"mean_jct_seconds"`
	P99      float64 `json:"p99_jct_seconds"`
	Makespan float64 `json:"makespan_seconds"`
	// Ratio is the worst finish-time ratio: the completion time divided by what it
	// would be alone on an equal part of the cluster.
	Ratio float64 `json:"worst_finish_time_ratio,omitempty"`
	// Starts counts placements, restarts after a preemption included.
	Starts int `json:"starts,omitempty"`
	// Impossible are the jobs that ask for more than the cluster has. They are
	// left out of the figures.
	Impossible []string `json:"impossible,omitempty"`
	Wall       float64  `json:"wall_seconds"`
}

// completionPolicies replay a job trace, by name. srtf, srsf and tiresias-l are
// the published simulator's, bookkeeping included; the others charge the start
// overhead at every start and at nothing else.
var completionPolicies = map[string]func(jobs []TraceJob, c Cluster) Completion{
	"srtf":       func(jobs []TraceJob, c Cluster) Completion { return ShortestRemaining(jobs, c.Nodes, c.PerNode, false) },
	"srsf":       func(jobs []TraceJob, c Cluster) Completion { return ShortestRemaining(jobs, c.Nodes, c.PerNode, true) },
	"tiresias-l": func(jobs []TraceJob, c Cluster) Completion { return Tiresias(jobs, c.Nodes*c.PerNode) },
	"default":    Product,
	"fifo":       func(jobs []TraceJob, c Cluster) Completion { return inOrder(jobs, c, false) },
	"fifo-skip":  func(jobs []TraceJob, c Cluster) Completion { return inOrder(jobs, c, true) },
}

// completionNames are the policies in the order of a table.
var completionNames = []string{"default", "tiresias-l", "srtf", "srsf", "fifo", "fifo-skip"}

// RunMuri is the command "schedreplay muri".
func RunMuri(args []string, out io.Writer) error {
	o := newOptions("muri")
	clusterFile, traceFile, overheadFile := o.String("cluster", "", ""), o.String("trace", "", ""), o.String("overheads", "", "")
	policy := o.String("policy", "default", "")
	if err := o.parse(args); err != nil {
		return err
	}
	policies := o.choices("policy", *policy, completionNames)
	cluster := load(o, "cluster", *clusterFile, ReadCluster)
	overheads := map[string]float64{}
	if beside := filepath.Join(filepath.Dir(*traceFile), usualOverheads); *overheadFile == "" && exists(beside) {
		*overheadFile = beside
	}
	if *overheadFile != "" {
		overheads = load(o, "overheads", *overheadFile, ReadOverheads)
	}
	jobs := load(o, "trace", *traceFile, func(r io.Reader) ([]TraceJob, error) { return ReadJobs(r, overheads) })
	if err := o.err(); err != nil {
		return err
	}
	jobs, impossible := possible(jobs, cluster)
	rows := make([]MuriRow, len(policies))
	var runs []func()
	for i, p := range policies {
		runs = append(runs, func() {
			begin := time.Now()
			c := completionPolicies[p](slices.Clone(jobs), cluster)
			rows[i] = MuriRow{
				Policy: p, Jobs: len(jobs), Mean: c.Mean, P99: c.P99, Makespan: c.Makespan, Ratio: c.Ratio, Starts: c.Starts,
				Impossible: impossible, Wall: time.Since(begin).Seconds(),
			}
		})
	}
	atOnce(runs)
	return printMuri(o, out, rows, impossible)
}

// usualOverheads is the overhead table that lies beside the published traces.
const usualOverheads = "start_overhead_seconds.csv"

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// possible leaves out the jobs that could never run.
func possible(jobs []TraceJob, c Cluster) (kept []TraceJob, impossible []string) {
	for _, j := range jobs {
		if j.GPUs > c.Nodes*c.PerNode {
			impossible = append(impossible, j.ID)
			continue
		}
		kept = append(kept, j)
	}
	return kept, impossible
}

func printMuri(o *options, out io.Writer, rows []MuriRow, impossible []string) error {
	head := []string{"policy", "jobs", "mean JCT s", "p99 JCT s", "makespan s", "starts", "wall s"}
	var lines [][]string
	for _, r := range rows {
		starts := "-"
		if r.Starts > 0 {
			starts = strconv.Itoa(r.Starts)
		}
		lines = append(lines, []string{
			r.Policy, strconv.Itoa(r.Jobs), fmt.Sprintf("%.2f", r.Mean), fmt.Sprintf("%.2f", r.P99), fmt.Sprintf("%.2f", r.Makespan), starts, fmt.Sprintf("%.1f", r.Wall),
		})
	}
	var notes []string
	if n := len(impossible); n > 0 {
		notes = append(notes, fmt.Sprintf("%d job(s) ask for more devices than the cluster has and are left out: %v", n, impossible[:min(n, 20)]))
	}
	return o.print(out, rows, head, lines, notes...)
}
