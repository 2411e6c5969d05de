package placement

import (
	"math"
	"slices"
	"sort"

	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/job"
)

// Typical is a demand that the fleet is expected to serve, with its share of
// all jobs. Weights need not add up to anything.
type Typical struct {
	Demand job.Demand
	Weight float64
}

const (
	typicalShare = 0.95
	typicalLimit = 48
)

// TypicalOf counts the shapes of demands, most frequent first. Ties keep the
// order in which shapes were first seen.
func TypicalOf(demands []job.Demand) []Typical {
	at := map[string]int{}
	var all []Typical
	for i := range demands {
		key := Shape(&demands[i])
		k, ok := at[key]
		if !ok {
			k = len(all)
			at[key] = k
			all = append(all, Typical{Demand: demands[i]})
		}
		all[k].Weight++
	}
	sort.SliceStable(all, func(i, k int) bool { return all[i].Weight > all[k].Weight })
	return all
}

// wish is a typical demand reduced to what waste is measured by.
type wish struct {
	weight float64
	cpu    int64
	labels map[string]string
	count  int
	bytes  int64 // 0 is a whole device
}

// hardest is the group by which a demand of several is measured, with the
// number of all its devices.
func hardest(d *job.Demand) (g job.DeviceDemand) {
	groups := hardestFirst(d.Devices)
	if len(groups) == 0 {
		return g
	}
	g = groups[0]
	g.Count = 0
	for i := range groups {
		g.Count += groups[i].Count
	}
	return g
}

// wishesFor are the typical demands that devices of a kind can serve: the most
// frequent shapes that cover 95 % of them. A demand for another kind says
// nothing about these devices. Were it counted as waste, devices of a rare kind
// would look wasted anyway, and be filled first by those who take any kind.
func wishesFor(kind string, typical []Typical) []wish {
	at := map[string]int{}
	var all []wish
	sum := 0.0
	for i := range typical {
		d := &typical[i].Demand
		g := hardest(d)
		if !g.Accepts(kind) {
			continue
		}
		g.Kind = ""
		key := Shape(&job.Demand{Devices: []job.DeviceDemand{g}, CPUMillis: d.CPUMillis, HostBytes: d.HostBytes, Labels: d.Labels})
		k, ok := at[key]
		if !ok {
			k = len(all)
			at[key] = k
			all = append(all, wish{cpu: d.CPUMillis, labels: d.Labels, count: g.Count, bytes: g.Bytes})
		}
		all[k].weight += typical[i].Weight
		sum += typical[i].Weight
	}
	sort.SliceStable(all, func(i, k int) bool { return all[i].weight > all[k].weight })
	covered := 0.0
	for i := range all {
		if covered += all[i].weight; covered >= typicalShare*sum || i+1 == typicalLimit {
			all = all[:i+1]
			break
		}
	}
	for i := range all {
		all[i].weight /= covered
	}
	return all
}

// level is how much of a device is left, as wishes see it.
type level struct {
	free  int64 // largest reservation that fits
	milli float64
	idle  bool
}

func levelOf(d *Device) level {
	l := level{free: d.Free(), idle: d.empty()}
	if u := d.Usable(); u > 0 {
		l.milli = 1000 * float64(l.free) / float64(u)
	}
	return l
}

// after is the level when a share of so many bytes is taken; 0 takes it whole.
func (l level) after(d *Device, bytes int64) level {
	l.idle = false
	if bytes == 0 {
		l.free, l.milli = 0, 0
		return l
	}
	l.free = max(l.free-bytes-d.Overhead, 0)
	if u := d.Usable(); u > 0 {
		l.milli = 1000 * float64(l.free) / float64(u)
	}
	return l
}

// waste is the expected idle capacity of a node, in thousandths of a device,
// that a typical demand could not use: the fragmentation of Weng et al. (USENIX
// ATC 2023).
func waste(wishes []wish, levels []level, cpuLeft int64) float64 {
	var idle float64
	for i := range levels {
		idle += levels[i].milli
	}
	if idle == 0 {
		return 0
	}
	total := 0.0
	for k := range wishes {
		w := &wishes[k]
		if w.count == 0 || cpuLeft < w.cpu {
			total += w.weight * idle
			continue
		}
		have, small := 0, 0.0
		for i := range levels {
			l := &levels[i]
			if w.bytes == 0 && l.idle || w.bytes > 0 && l.free >= w.bytes {
				have++
			} else {
				small += l.milli
			}
		}
		if have < w.count {
			small = idle
		}
		total += w.weight * small
	}
	return total
}

// grade turns a change of waste into a score from 0 to 100. It is quantised on
// purpose: an exact score lets tiny differences scatter jobs over the fleet,
// where equal scores fall to the first node in order.
func (t Taste) grade(before, after float64) int {
	return int(100/(1+math.Exp(-(before-after)/1000))) / t.Step
}

// labelled leaves out wishes for labels that the node has not.
func labelled(n *Node, wishes []wish) []wish {
	misses := func(w wish) bool {
		for key, v := range w.labels {
			if n.Labels[key] != v {
				return true
			}
		}
		return false
	}
	if !slices.ContainsFunc(wishes, misses) {
		return wishes
	}
	out := slices.DeleteFunc(slices.Clone(wishes), misses)
	sum := 0.0
	for i := range out {
		sum += out[i].weight
	}
	for i := range out {
		out[i].weight /= sum
	}
	return out
}
