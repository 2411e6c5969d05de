package sim

import (
	"cmp"
	"container/heap"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/job"
	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/placement"
)

// WorkloadClass is one sort of workload of the generator.
type WorkloadClass struct {
	Name string
	// Count is how many come per queue, one every Interval.
	Count    int
	CPUs     int64
	Runs     time.Duration
	Interval time.Duration
	Priority job.Priority
}

// KueueLoad describes a run of Kueue's scheduler load test.
type KueueLoad struct {
	Cohorts, Queues int
	// Quota is every queue's own CPUs, Borrow what it may take of its cohort's.
	Quota, Borrow int64
	Classes       []WorkloadClass
	// MinRuntime spares what has only begun from preemption.
	MinRuntime time.Duration
}

// kueuePresets are the published loads.
var kueuePresets = map[string]KueueLoad{
	"15k": {Cohorts: 5, Queues: 6, Quota: 20, Borrow: 100, Classes: []WorkloadClass{
		{"small", 350, 1, 200 * time.Millisecond, 100 * time.Millisecond, job.Batch},
		{"medium", 100, 5, 500 * time.Millisecond, 500 * time.Millisecond, job.Interactive},
		{"large", 50, 20, 1000 * time.Millisecond, 1200 * time.Millisecond, job.Production},
	}},
	"50k": {Cohorts: 10, Queues: 100, Quota: 20, Borrow: 100, Classes: []WorkloadClass{
		{"small", 35, 1, 150 * time.Millisecond, 60 * time.Millisecond, job.Batch},
		{"medium", 11, 5, 350 * time.Millisecond, 300 * time.Millisecond, job.Interactive},
		{"large", 4, 20, 700 * time.Millisecond, 700 * time.Millisecond, job.Production},
	}},
}

// KueueRow is the outcome for one class, or with Class "all" for the run.
type KueueRow struct {
	Class     string `json:"class"`
	Workloads int    `json:"workloads"`
	// Admission is the mean time from creation to the last start, in seconds.
	Admission float64 `json:"mean_admission_seconds"`
	// Virtual is when the last workload ended, Usage the useful part of all quota
	// until then, in percent.
	Virtual     float64 `json:"virtual_seconds,omitempty"`
	Usage       float64 `json:"usage_percent,omitempty"`
	Preemptions int     `json:"preemptions"`
	// Wall is the processor's time for the whole run in seconds.
	Wall float64 `json:"wall_seconds,omitempty"`
}

// workload is one generated job.
type workload struct {
	class   int
	queue   string
	created time.Duration
	started time.Duration
	start   int
	running bool
	done    bool
}

// Kueue runs the generator through the core in virtual time.
func Kueue(l KueueLoad) []KueueRow {
	begin := time.Now()
	core := placement.NewCore(placement.Rules{MinRuntime: l.MinRuntime})
	core.Host(placement.Node{Name: "quota-is-the-limit", CPUMillis: 1 << 50, HostBytes: 1 << 50})
	var tenants []placement.Tenant
	var all []workload
	for c := range l.Cohorts {
		for q := range l.Queues {
			name := fmt.Sprintf("cohort-%03d/queue-%03d", c, q)
			tenants = append(tenants, placement.Tenant{
				Name: name, Quota: true, Cohort: fmt.Sprintf("cohort-%03d", c),
				Nominal: placement.Amount{CPUMillis: 1000 * l.Quota, Millis: 1 << 40, HostBytes: 1 << 50}, Borrow: placement.Amount{CPUMillis: 1000 * l.Borrow},
			})
			for k, class := range l.Classes {
				for i := range class.Count {
					all = append(all, workload{class: k, queue: name, created: time.Duration(i) * class.Interval})
				}
			}
		}
	}
	slices.SortStableFunc(all, func(a, b workload) int { return cmp.Compare(a.created, b.created) })
	core.SetTenants(tenants)
	r := kueueRun{load: l, core: core, all: all, rows: make([]KueueRow, len(l.Classes)+1)}
	r.loop()
	return r.report(time.Since(begin))
}

const (
	// stopTime is what it takes until a victim's place is free for the next plan.
	stopTime = time.Millisecond
	// never is a start that no workload has.
	never = -2
)

type kueueRun struct {
	load   KueueLoad
	core   *placement.Core
	all    []workload
	rows   []KueueRow
	events productEvents
	seq    int
}

func (r *kueueRun) request(i int) placement.Request {
	w := &r.all[i]
	class := &r.load.Classes[w.class]
	return placement.Request{
		Job: strconv.Itoa(i), Priority: class.Priority, Tenant: w.queue, Place: int64(i), Demand: job.Demand{CPUMillis: 1000 * class.CPUs},
	}
}

func (r *kueueRun) push(at time.Duration, index, start int) {
	r.seq++
	heap.Push(&r.events, productEvent{float64(at), r.seq, index, start})
}

func (r *kueueRun) loop() {
	next := 0
	for next < len(r.all) || len(r.events) > 0 {
		var now time.Duration
		switch {
		case len(r.events) == 0 || next < len(r.all) && r.all[next].created <= time.Duration(r.events[0].at):
			now = r.all[next].created
		default:
			now = time.Duration(r.events[0].at)
		}
		for next < len(r.all) && r.all[next].created <= now {
			r.core.Wait(r.request(next))
			next++
		}
		for len(r.events) > 0 && time.Duration(r.events[0].at) <= now {
			e := heap.Pop(&r.events).(productEvent)
			if w := &r.all[e.index]; w.running && w.start == e.start {
				w.running, w.done = false, true
				r.core.Forget(strconv.Itoa(e.index))
				r.rows[len(r.rows)-1].Virtual = now.Seconds()
			}
		}
		if r.plan(now) {
			r.push(now+stopTime, 0, never)
		}
	}
}

// plan carries one plan out; true when another may find more to do.
func (r *kueueRun) plan(now time.Duration) bool {
	plan := r.core.Plan(epoch.Add(now))
	for _, v := range plan.Preempt {
		i, _ := strconv.Atoi(v.Job)
		w := &r.all[i]
		w.running = false
		w.start++
		r.rows[w.class].Preemptions++
		r.core.Wait(r.request(i))
	}
	for _, p := range plan.Place {
		i, _ := strconv.Atoi(p.Job)
		w := &r.all[i]
		w.running, w.started = true, now
		w.start++
		r.push(now+r.load.Classes[w.class].Runs, i, w.start)
		r.core.Run(r.request(i), []placement.Part{{Node: p.Node}}, placement.Life{Fence: uint64(r.seq), Started: epoch.Add(now), Saved: epoch.Add(now)})
	}
	return len(plan.Preempt) > 0
}

func (r *kueueRun) report(wall time.Duration) []KueueRow {
	all := &r.rows[len(r.rows)-1]
	all.Class, all.Wall = "all", wall.Seconds()
	useful := 0.0
	for i := range r.all {
		w := &r.all[i]
		row, class := &r.rows[w.class], &r.load.Classes[w.class]
		row.Class = class.Name
		row.Workloads++
		row.Admission += (w.started - w.created).Seconds()
		if w.done {
			useful += float64(class.CPUs) * class.Runs.Seconds()
		}
	}
	for k := range r.rows[:len(r.rows)-1] {
		row := &r.rows[k]
		all.Workloads += row.Workloads
		all.Admission += row.Admission
		all.Preemptions += row.Preemptions
		row.Admission /= float64(max(row.Workloads, 1))
	}
	all.Admission /= float64(max(all.Workloads, 1))
	if total := float64(int64(r.load.Cohorts*r.load.Queues)*r.load.Quota) * all.Virtual; total > 0 {
		all.Usage = 100 * useful / total
	}
	return r.rows
}

// RunKueue is the command "schedreplay kueue".
func RunKueue(args []string, out io.Writer) error {
	o := newOptions("kueue")
	preset := o.String("preset", "15k", "")
	cohorts, queues := o.Int("cohorts", 0, ""), o.Int("queues", 0, "")
	quota, borrow := o.Int64("quota", -1, ""), o.Int64("borrow", -1, "")
	minRuntime := o.Duration("min-runtime", productRules.MinRuntime, "")
	var classes []string
	o.Func("class", "", func(s string) error { classes = append(classes, s); return nil })
	if err := o.parse(args); err != nil {
		return err
	}
	load, ok := kueuePresets[*preset]
	if !ok {
		o.complain("--preset %q is unknown; use 15k or 50k", *preset)
	}
	load.MinRuntime = *minRuntime
	if *cohorts != 0 {
		load.Cohorts = *cohorts
	}
	if *queues != 0 {
		load.Queues = *queues
	}
	if *quota >= 0 {
		load.Quota = *quota
	}
	if *borrow >= 0 {
		load.Borrow = *borrow
	}
	if classes != nil {
		load.Classes = nil
		for _, s := range classes {
			load.Classes = append(load.Classes, o.class(s))
		}
	}
	o.check(load)
	if err := o.err(); err != nil {
		return err
	}
	rows := Kueue(load)
	var lines [][]string
	for _, r := range rows {
		line := []string{r.Class, strconv.Itoa(r.Workloads), fmt.Sprintf("%.2f", r.Admission), strconv.Itoa(r.Preemptions), "-", "-", "-"}
		if r.Class == "all" {
			line[4], line[5], line[6] = fmt.Sprintf("%.1f", r.Virtual), fmt.Sprintf("%.1f", r.Usage), fmt.Sprintf("%.1f", r.Wall)
		}
		lines = append(lines, line)
	}
	return o.print(out, rows, []string{"class", "workloads", "mean admission s", "preemptions", "virtual s", "usage %", "wall s"}, lines)
}

// class reads NAME:COUNT:CPUS:RUNS:INTERVAL:PRIORITY.
func (o *options) class(s string) WorkloadClass {
	p := strings.Split(s, ":")
	if len(p) != 6 {
		o.complain("--class %q is not NAME:COUNT:CPUS:RUNS:INTERVAL:PRIORITY, such as small:350:1:200ms:100ms:batch", s)
		return WorkloadClass{}
	}
	c := WorkloadClass{Name: p[0], Priority: job.ParsePriority(strings.ToUpper(p[5]))}
	var errs [4]error
	c.Count, errs[0] = strconv.Atoi(p[1])
	c.CPUs, errs[1] = strconv.ParseInt(p[2], 10, 64)
	c.Runs, errs[2] = time.ParseDuration(p[3])
	c.Interval, errs[3] = time.ParseDuration(p[4])
	for _, err := range errs {
		if err != nil {
			o.complain("--class %q: %w", s, err)
		}
	}
	if c.Priority == job.PriorityUnknown {
		o.complain("--class %q: priority %q is unknown; use batch, search, interactive or production", s, p[5])
	}
	return c
}

// check names what no run could do.
func (o *options) check(l KueueLoad) {
	if l.Cohorts < 1 || l.Queues < 1 || l.Cohorts > 10_000 || l.Queues > 10_000 {
		o.complain("--cohorts %d and --queues %d are not between 1 and 10000", l.Cohorts, l.Queues)
	}
	total := 0
	for _, c := range l.Classes {
		total += c.Count
		if c.Count < 0 || c.CPUs < 0 || c.Runs <= 0 || c.Interval < 0 {
			o.complain("class %s: count, CPUs and interval must not be negative, and it has to run for some time", c.Name)
		}
		if most := min(l.Quota+l.Borrow, l.Quota*int64(max(l.Queues, 1))); c.CPUs > most {
			o.complain("class %s asks for %d CPUs; no queue may ever use more than %d", c.Name, c.CPUs, most)
		}
	}
	if n := total * l.Cohorts * l.Queues; n > 5_000_000 {
		o.complain("%d workloads are more than this simulator is made for (5000000)", n)
	}
}

// Preset is a published load, with the service's own minimum runtime.
func Preset(name string) KueueLoad {
	l := kueuePresets[name]
	l.MinRuntime = productRules.MinRuntime
	return l
}
