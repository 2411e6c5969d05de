package sim

import (
	"fmt"
	"io"
	"maps"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/placement"
)

// buckets are the arrival levels that a table shows, in percent.
var buckets = []int{60, 80, 90, 95, 100, 110, 120, 130}

// OpenbRow is the outcome of one policy and seed, or with Seed "mean" of all its
// seeds. JSON has every arrival level, the table a few.
type OpenbRow struct {
	Policy      string             `json:"policy"`
	Seed        string             `json:"seed"`
	Allocated   map[string]float64 `json:"allocated_percent"`
	Final       float64            `json:"final_percent"`
	Placed      int                `json:"placed"`
	Dropped     int                `json:"dropped"`
	Impossible  int                `json:"impossible"`
	Overcommits int                `json:"overcommits"`
	Microsecond float64            `json:"microseconds_per_pod"`
}

// RunOpenb is the command "schedreplay openb".
func RunOpenb(args []string, out io.Writer) error {
	o := newOptions("openb")
	nodesFile, podsFile := o.String("nodes", "", ""), o.String("pods", "", "")
	seeds := o.String("seeds", "42-51", "")
	inflation := o.Float64("inflation", 1.3, "")
	policy := o.String("policy", "default", "")
	if err := o.parse(args); err != nil {
		return err
	}
	policies := o.choices("policy", *policy, slices.Sorted(maps.Keys(Policies)))
	from, to := o.seeds(*seeds)
	if !(*inflation > 0 && *inflation <= 100) {
		o.complain("--inflation %g is not between 0 and 100", *inflation)
	}
	nodes := load(o, "nodes", *nodesFile, ReadNodes)
	pods := load(o, "pods", *podsFile, ReadPods)
	if len(o.problems) == 0 && CapacityOf(nodes) == 0 {
		o.complain("--nodes %s: no node has a device; there is nothing to allocate", *nodesFile)
	}
	if err := o.err(); err != nil {
		return err
	}
	rows := make([]OpenbRow, len(policies)*int(to-from+1))
	var jobs []func()
	for i, p := range policies {
		start := Policies[p](nodes, pods)
		for seed := from; seed <= to; seed++ {
			at := i*int(to-from+1) + int(seed-from)
			jobs = append(jobs, func() { rows[at] = replaySeed(nodes, pods, *inflation, seed, p, start) })
		}
	}
	atOnce(jobs)
	var all []OpenbRow
	for i := range policies {
		part := rows[i*int(to-from+1) : (i+1)*int(to-from+1)]
		all = append(append(all, part...), meanOf(part))
	}
	return printOpenb(o, out, all)
}

// atOnce runs jobs on all processors.
func atOnce(jobs []func()) {
	var wg sync.WaitGroup
	tokens := make(chan struct{}, runtime.GOMAXPROCS(0))
	for _, run := range jobs {
		tokens <- struct{}{}
		wg.Go(func() {
			run()
			<-tokens
		})
	}
	wg.Wait()
}

func replaySeed(nodes []placement.Node, pods []Pod, inflation float64, seed int64, policy string, start func([]placement.Node) Policy) OpenbRow {
	arrivals := Arrivals(pods, CapacityOf(nodes), inflation, seed)
	begin := time.Now()
	a := Replay(nodes, arrivals, start)
	row := OpenbRow{
		Policy: policy, Seed: strconv.FormatInt(seed, 10), Allocated: map[string]float64{}, Final: a.Final, Placed: a.Placed, Dropped: a.Dropped,
		Impossible: impossible(nodes, arrivals), Overcommits: a.Overcommits,
		Microsecond: float64(time.Since(begin).Microseconds()) / float64(max(len(arrivals), 1)),
	}
	for b, v := range a.Percent {
		row.Allocated[strconv.Itoa(b)] = v
	}
	return row
}

// impossible counts the pods that not even an empty fleet could take.
func impossible(nodes []placement.Node, pods []Pod) int {
	known := map[string]bool{}
	n := 0
	for i := range pods {
		key := placement.Shape(&pods[i].Demand)
		bad, ok := known[key]
		if !ok {
			bad = len(placement.Impossible(nodes, &pods[i].Demand)) > 0
			known[key] = bad
		}
		if bad {
			n++
		}
	}
	return n
}

func meanOf(rows []OpenbRow) OpenbRow {
	m := OpenbRow{Policy: rows[0].Policy, Seed: "mean", Allocated: map[string]float64{}}
	n := float64(len(rows))
	for _, r := range rows {
		for b, v := range r.Allocated {
			m.Allocated[b] += v / n
		}
		m.Final += r.Final / n
		m.Microsecond += r.Microsecond / n
		m.Placed += r.Placed
		m.Dropped += r.Dropped
		m.Impossible += r.Impossible
		m.Overcommits += r.Overcommits
	}
	return m
}

func printOpenb(o *options, out io.Writer, rows []OpenbRow) error {
	head := []string{"policy", "seed"}
	for _, b := range buckets {
		head = append(head, fmt.Sprintf("@%d %%", b))
	}
	head = append(head, "placed", "dropped", "impossible", "over-commits", "us/pod")
	var lines [][]string
	for _, r := range rows {
		line := []string{r.Policy, r.Seed}
		for _, b := range buckets {
			if v, ok := r.Allocated[strconv.Itoa(b)]; ok {
				line = append(line, fmt.Sprintf("%.2f", v))
			} else {
				line = append(line, "-")
			}
		}
		lines = append(lines, append(line, strconv.Itoa(r.Placed), strconv.Itoa(r.Dropped), strconv.Itoa(r.Impossible), strconv.Itoa(r.Overcommits), fmt.Sprintf("%.1f", r.Microsecond)))
	}
	return o.print(out, rows, head, lines)
}
