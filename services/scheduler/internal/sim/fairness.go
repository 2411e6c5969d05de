package sim

import (
	"fmt"
	"strconv"
)

// Fairness is how equal tenants fare together. A ratio is a completion time in the shared cluster over that of the same job
// where its tenant has an equal part of the hosts to itself, under the same policy: finish-time fairness as in Themis (Mahajan et
// al., NSDI 2020). 1 is what a fixed partition gives.
type Fairness struct {
	// Tenant is the worst ratio of a tenant's mean completion times, Last of its last ends, and Job of any single job.
	Tenant, Last, Job float64
	// Unfair is the share of jobs whose ratio is above 1.
	Unfair float64
	// Jobs is how many took part, Left how many were left out: they do not fit the part of one tenant.
	Jobs, Left int
}

// Share spreads the jobs of a trace over equal tenants, one after another, and compares what each gets with a part of its own.
// The hosts must divide evenly.
func Share(jobs []TraceJob, c Cluster, tenants int) (Fairness, error) {
	if tenants < 1 || c.Nodes%tenants != 0 {
		return Fairness{}, fmt.Errorf("%d hosts do not divide into %d equal parts; choose a divisor", c.Nodes, tenants)
	}
	part := Cluster{Nodes: c.Nodes / tenants, PerNode: c.PerNode}
	kept, left := possible(jobs, part)
	out := Fairness{Jobs: len(kept), Left: len(left)}
	names := make([]string, len(kept))
	for i := range kept {
		names[i] = strconv.Itoa(i % tenants)
	}
	together := replayed(kept, c, names)
	for t := range tenants {
		var own []TraceJob
		var at []int
		for i := t; i < len(kept); i += tenants {
			own, at = append(own, kept[i]), append(at, i)
		}
		alone := replayed(own, part, nil)
		var a, b, lastA, lastB float64
		for k, i := range at {
			x, y := together.ends[i]-kept[i].Submit, alone.ends[k]-own[k].Submit
			a, b = a+x, b+y
			lastA, lastB = max(lastA, together.ends[i]), max(lastB, alone.ends[k])
			out.Job = max(out.Job, x/y)
			if x > y {
				out.Unfair += 1 / float64(len(kept))
			}
		}
		if b > 0 {
			out.Tenant, out.Last = max(out.Tenant, a/b), max(out.Last, lastA/lastB)
		}
	}
	return out, nil
}
