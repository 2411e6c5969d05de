package sim

import (
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"math"
	"sort"
	"strconv"
	"strings"
)

// TraceJob is one job of a job-completion trace.
type TraceJob struct {
	ID   int
	GPUs int
	// Submit and Work are in seconds; Work is the whole running time alone.
	Submit, Work float64
	// Overhead is what a start costs, in seconds.
	Overhead float64
}

// workFactor is in the published simulator, and the published figures need it.
const workFactor = 1.015

// usualOverhead is for model and size pairs that the overhead table lacks.
const usualOverhead = 10

// ReadOverheads reads a table of start overheads in seconds: num_gpu and one
// column per model.
func ReadOverheads(r io.Reader) (map[string]float64, error) {
	rows, err := csv.NewReader(r).ReadAll()
	if err != nil {
		return nil, err
	}
	if len(rows) == 0 || rows[0][0] != "num_gpu" {
		return nil, errors.New("the overhead table does not begin with the column num_gpu")
	}
	out := map[string]float64{}
	for line, row := range rows[1:] {
		for c := 1; c < len(row); c++ {
			v, err := strconv.ParseFloat(strings.TrimSpace(row[c]), 64)
			if err != nil {
				return nil, fmt.Errorf("overhead table, row %d: %w", line+2, err)
			}
			out[rows[0][c]+"/"+strings.TrimSpace(row[0])] = v
		}
	}
	return out, nil
}

// ReadJobs reads a job trace: job_id, num_gpu, submit_time (ms), iterations,
// model_name, iteration_time (ms).
func ReadJobs(r io.Reader, overheads map[string]float64) ([]TraceJob, error) {
	rows, err := table(r, "job_id", "num_gpu", "submit_time", "iterations", "model_name", "iteration_time")
	if err != nil {
		return nil, err
	}
	var out []TraceJob
	for line, row := range rows {
		id, e1 := strconv.Atoi(row[0])
		gpus, e2 := strconv.Atoi(row[1])
		submit, e3 := strconv.ParseFloat(row[2], 64)
		iterations, e4 := strconv.ParseFloat(row[3], 64)
		each, e5 := strconv.ParseFloat(row[5], 64)
		if err := errors.Join(e1, e2, e3, e4, e5); err != nil {
			return nil, fmt.Errorf("job trace, row %d: %w", line+2, err)
		}
		overhead, ok := overheads[row[4]+"/"+row[1]]
		if !ok {
			overhead = usualOverhead
		}
		out = append(out, TraceJob{ID: id, GPUs: gpus, Submit: submit / 1000, Work: iterations * each * workFactor / 1000, Overhead: overhead})
	}
	sort.SliceStable(out, func(i, k int) bool { return out[i].Submit < out[k].Submit })
	return out, nil
}

// Completion is the outcome of a job-completion replay, in seconds.
type Completion struct {
	Mean, P99, Makespan float64
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
