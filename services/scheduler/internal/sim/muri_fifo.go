package sim

import (
	"container/heap"
	"slices"
)

// ending is a running job in the order of the ends.
type ending struct {
	at    float64
	index int
	took  []int // devices per node
}

type endings []ending

func (e endings) Len() int           { return len(e) }
func (e endings) Less(i, k int) bool { return e[i].at < e[k].at }
func (e endings) Swap(i, k int)      { e[i], e[k] = e[k], e[i] }
func (e *endings) Push(x any)        { *e = append(*e, x.(ending)) }
func (e *endings) Pop() any {
	last := len(*e) - 1
	x := (*e)[last]
	*e = (*e)[:last]
	return x
}

// inOrder runs jobs in the order of their arrival and never stops one. With skip
// whoever fits goes ahead of the first that does not.
func inOrder(jobs []TraceJob, c Cluster, skip bool) Completion {
	ends := make([]float64, len(jobs))
	free := make([]int, c.Nodes)
	for i := range free {
		free[i] = c.PerNode
	}
	var running endings
	var waiting []int
	next, now := 0, 0.0
	for next < len(jobs) || len(running) > 0 {
		switch {
		case next < len(jobs) && (len(running) == 0 || jobs[next].Submit <= running[0].at):
			now = jobs[next].Submit
			waiting = append(waiting, next)
			next++
		default:
			e := heap.Pop(&running).(ending)
			now = e.at
			ends[e.index] = now
			for i, n := range e.took {
				free[i] += n
			}
		}
		waiting = slices.DeleteFunc(waiting, startAll(jobs, c, skip, free, now, &running))
	}
	out := completionOf(jobs, ends)
	out.Starts = len(jobs)
	return out
}

// startAll starts a waiting job where it fits, and says whether it did.
func startAll(jobs []TraceJob, c Cluster, skip bool, free []int, now float64, running *endings) func(int) bool {
	stuck := false
	return func(i int) bool {
		if stuck {
			return false
		}
		before := slices.Clone(free)
		if !consolidated(free, c.PerNode, jobs[i].GPUs) {
			stuck = !skip
			return false
		}
		for k := range before {
			before[k] -= free[k]
		}
		heap.Push(running, ending{now + jobs[i].Overhead + jobs[i].Work, i, before})
		return true
	}
}
