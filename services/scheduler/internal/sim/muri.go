package sim

import (
	"io"
	"math"
	"sort"
	"strconv"
)

// TraceJob is one job of a job-completion trace.
type TraceJob struct {
	ID   string
	GPUs int
	// Submit and Work are in seconds; Work is the whole running time alone.
	Submit, Work float64
	// Overhead is what a start costs, in seconds.
	Overhead float64
}

// workFactor is in the published simulator, and the published figures need it.
const workFactor = 1.015

// mostSeconds is about thirty thousand years.
const mostSeconds = 1e12

// usualOverhead is for model and size pairs that the overhead table lacks.
const usualOverhead = 10

// ReadOverheads reads a table of start overheads in seconds: num_gpu and one
// column per model. An empty cell is a pair that is not known.
func ReadOverheads(r io.Reader) (map[string]float64, error) {
	s, err := openSheet(r, "num_gpu")
	if err != nil {
		return nil, err
	}
	out := map[string]float64{}
	for s.next() {
		gpus := s.integer("num_gpu", 1, mostDevices)
		for model := range s.at {
			if model != "num_gpu" && s.text(model) != "" {
				out[pair(model, gpus)] = s.number(model, 0, mostSeconds)
			}
		}
	}
	return out, s.err()
}

func pair(model string, gpus int64) string { return model + "/" + strconv.FormatInt(gpus, 10) }

// Cluster is the hosts of a job trace.
type Cluster struct{ Nodes, PerNode int }

// ReadCluster reads a cluster: num_switch, num_node_p_switch, num_gpu_p_node.
func ReadCluster(r io.Reader) (Cluster, error) {
	s, err := openSheet(r, "num_switch", "num_node_p_switch", "num_gpu_p_node")
	if err != nil {
		return Cluster{}, err
	}
	var c Cluster
	for s.next() {
		if c.Nodes > 0 {
			s.complain("a second cluster; one row describes the whole of it")
			continue
		}
		c.Nodes = int(s.integer("num_switch", 1, 1e4) * s.integer("num_node_p_switch", 1, 1e4))
		c.PerNode = int(s.integer("num_gpu_p_node", 1, mostDevices))
		if c.Nodes > 1e5 {
			s.complain("%d nodes are more than this simulator is made for", c.Nodes)
		}
	}
	if c.Nodes == 0 {
		s.complain("no cluster follows the header")
	}
	return c, s.err()
}

// ReadJobs reads a job trace: job_id, num_gpu, submit_time (ms), iterations,
// model_name, iteration_time (ms).
func ReadJobs(r io.Reader, overheads map[string]float64) ([]TraceJob, error) {
	s, err := openSheet(r, "job_id", "num_gpu", "submit_time", "iterations", "model_name", "iteration_time")
	if err != nil {
		return nil, err
	}
	var out []TraceJob
	seen := map[string]int{}
	for s.next() {
		j := TraceJob{ID: s.text("job_id"), GPUs: int(s.integer("num_gpu", 1, 1e6)), Submit: s.number("submit_time", 0, 1e15) / 1000}
		j.Work = s.number("iterations", 0, 1e15) * s.number("iteration_time", 0, 1e12) * workFactor / 1000
		overhead, ok := overheads[pair(s.text("model_name"), int64(j.GPUs))]
		if !ok {
			overhead = usualOverhead
		}
		j.Overhead = overhead
		if first, twice := seen[j.ID]; twice {
			s.complain("job_id %q is on line %d already", j.ID, first)
		}
		seen[j.ID] = s.line
		if j.Work > mostSeconds {
			s.complain("a running time of %.3g s is absurd", j.Work)
		}
		out = append(out, j)
	}
	if len(out) == 0 {
		s.complain("no job follows the header")
	}
	sort.SliceStable(out, func(i, k int) bool { return out[i].Submit < out[k].Submit })
	return out, s.err()
}

// Completion is the outcome of a job-completion replay, in seconds.
type Completion struct {
	Mean, P99, Makespan float64
	// Ratio is the worst finish-time ratio, Starts the number of placements; 0 where
	// a policy does not count them.
	Ratio  float64
	Starts int
}

func completionOf(jobs []TraceJob, ends []float64) Completion {
	var c Completion
	jct := make([]float64, len(jobs))
	for i := range jobs {
		jct[i] = ends[i] - jobs[i].Submit
		c.Mean += jct[i] / float64(len(jobs))
		c.Makespan = max(c.Makespan, ends[i])
	}
	sort.Float64s(jct)
	if len(jct) > 0 {
		c.P99 = jct[int(0.99*float64(len(jct)))]
	}
	return c
}

// traceRun is a job in a replay.
type traceRun struct {
	index   int
	left    float64
	ran     float64
	running bool
	end     float64
}

// consolidated places a job on nodes with so many free devices: on one node
// when it fits one, and otherwise whole idle nodes first and the rest on the
// first other node with room.
func consolidated(free []int, perNode, gpus int) bool {
	if gpus <= perNode {
		for i := range free {
			if free[i] >= gpus {
				free[i] -= gpus
				return true
			}
		}
		return false
	}
	var whole []int
	for i := range free {
		if free[i] == perNode && len(whole) < gpus/perNode {
			whole = append(whole, i)
		}
	}
	if len(whole) < gpus/perNode {
		return false
	}
	rest, last := gpus%perNode, -1
	if rest > 0 {
		used := map[int]bool{}
		for _, i := range whole {
			used[i] = true
		}
		for i := range free {
			if !used[i] && free[i] >= rest {
				last = i
				break
			}
		}
		if last < 0 {
			return false
		}
		free[last] -= rest
	}
	for _, i := range whole {
		free[i] = 0
	}
	return true
}

// ShortestRemaining replays SRTF, or with service SRSF (remaining time times
// devices), as the published simulator does: it knows running times, and it
// charges the start overhead to every running job at every event.
func ShortestRemaining(jobs []TraceJob, nodes, perNode int, service bool) Completion {
	ends := make([]float64, len(jobs))
	var list []*traceRun
	next, now := 0, 0.0
	if len(jobs) > 0 {
		now = jobs[0].Submit
	}
	last := now
	for next < len(jobs) || len(list) > 0 {
		elapsed := now - last
		keep := list[:0]
		for _, r := range list {
			if r.running && r.end <= now {
				ends[r.index] = now
				continue
			}
			if r.running {
				r.left -= max(elapsed-jobs[r.index].Overhead, 0)
			}
			keep = append(keep, r)
		}
		list = keep
		for next < len(jobs) && jobs[next].Submit <= now {
			list = append(list, &traceRun{index: next, left: jobs[next].Work})
			next++
		}
		key := func(r *traceRun) float64 {
			if service {
				return r.left * float64(jobs[r.index].GPUs)
			}
			return r.left
		}
		sort.SliceStable(list, func(i, k int) bool { return key(list[i]) < key(list[k]) })
		free := make([]int, nodes)
		for i := range free {
			free[i] = perNode
		}
		at := math.Inf(1)
		for _, r := range list {
			if r.running = consolidated(free, perNode, jobs[r.index].GPUs); r.running {
				r.end = now + r.left
				at = min(at, r.end)
			}
		}
		if next < len(jobs) {
			at = min(at, jobs[next].Submit)
		}
		if math.IsInf(at, 1) {
			break
		}
		last, now = now, at
	}
	return completionOf(jobs, ends)
}

// tiresiasLimits are the attained services at which a job is demoted, in
// device-seconds.
var tiresiasLimits = []float64{3250, 7200}

// almost absorbs the rounding of summed times: a job that misses its limit by
// it would cause one more event, and every event costs everyone an overhead.
const almost = 1e-6

// Tiresias replays Tiresias-L as the published simulator does: attained service
// in three queues, without knowledge of running times.
func Tiresias(jobs []TraceJob, devices int) Completion {
	ends := make([]float64, len(jobs))
	queues := make([][]*traceRun, len(tiresiasLimits)+1)
	next, now := 0, 0.0
	if len(jobs) > 0 {
		now = jobs[0].Submit
	}
	last, unfinished := now, len(jobs)
	for unfinished > 0 {
		elapsed := now - last
		demoted := make([][]*traceRun, len(queues))
		for q := range queues {
			keep := queues[q][:0]
			for _, r := range queues[q] {
				if r.running && r.end <= now {
					ends[r.index] = now
					unfinished--
					continue
				}
				if r.running {
					done := max(elapsed-jobs[r.index].Overhead, 0)
					r.left -= done
					r.ran += elapsed
					if q < len(tiresiasLimits) && r.ran*float64(jobs[r.index].GPUs) >= tiresiasLimits[q]-almost {
						demoted[q+1] = append(demoted[q+1], r)
						continue
					}
				}
				keep = append(keep, r)
			}
			queues[q] = keep
		}
		for next < len(jobs) && jobs[next].Submit <= now {
			queues[0] = append(queues[0], &traceRun{index: next, left: jobs[next].Work})
			next++
		}
		for q := range demoted {
			// Those demoted at the same moment keep the order of their arrival.
			sort.Slice(demoted[q], func(i, k int) bool { return demoted[q][i].index < demoted[q][k].index })
			queues[q] = append(queues[q], demoted[q]...)
		}
		free, at := devices, math.Inf(1)
		for q := range queues {
			var run, wait []*traceRun
			for _, r := range queues[q] {
				gpus := jobs[r.index].GPUs
				if r.running = gpus <= free; !r.running {
					wait = append(wait, r)
					continue
				}
				free -= gpus
				run = append(run, r)
				r.end = now + r.left
				at = min(at, r.end)
				if q < len(tiresiasLimits) {
					if d := now + math.Ceil(tiresiasLimits[q]/float64(gpus)) - r.ran; d > now {
						at = min(at, d)
					}
				}
			}
			queues[q] = append(run, wait...)
		}
		if next < len(jobs) {
			at = min(at, jobs[next].Submit)
		}
		if math.IsInf(at, 1) {
			break
		}
		last, now = now, at
	}
	return completionOf(jobs, ends)
}
