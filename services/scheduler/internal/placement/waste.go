package placement

import (
	"math"
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

// TypicalOf counts demands and keeps the most frequent shapes that cover 95 %
// of them. Ties keep the order in which shapes were first seen.
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
	sum, enough := 0.0, typicalShare*float64(len(demands))
	for i := range all {
		sum += all[i].Weight
		if sum >= enough || i+1 == typicalLimit {
			return all[:i+1]
		}
	}
	return all
}

// wish is a typical demand reduced to what waste is measured by.
type wish struct {
	weight float64
	cpu    int64
	labels map[string]string
	kind   string
	count  int
	bytes  int64 // 0 is a whole device
}

func wishesOf(typical []Typical) []wish {
	var sum float64
	for _, t := range typical {
		sum += t.Weight
	}
	out := make([]wish, 0, len(typical))
	for i := range typical {
		d := needOf(&typical[i].Demand)
		w := wish{weight: typical[i].Weight / sum, cpu: d.CPUMillis, labels: d.Labels}
		for g := range d.Devices {
			// A demand of several groups is measured by its hardest one.
			if g == 0 {
				w.kind, w.bytes = d.Devices[g].Kind, d.Devices[g].Bytes
			}
			w.count += d.Devices[g].Count
		}
		out = append(out, w)
	}
	return out
}

// level is how much of a device is left, as wishes see it.
type level struct {
	free  int64 // largest reservation that fits
	milli float64
	idle  bool
	kind  string
}

func levelOf(d *Device) level {
	l := level{free: d.Free(), kind: d.Kind, idle: d.empty()}
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
// ATC 2023). ok tells, per wish, whether the node has its labels.
func waste(wishes []wish, ok []bool, levels []level, cpuLeft int64) float64 {
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
		if w.count == 0 || !ok[k] || cpuLeft < w.cpu {
			total += w.weight * idle
			continue
		}
		have, small := 0, 0.0
		for i := range levels {
			l := &levels[i]
			fits := (w.kind == "" || l.kind == w.kind) && (w.bytes == 0 && l.idle || w.bytes > 0 && l.free >= w.bytes)
			if fits {
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
func grade(before, after float64) int {
	return int(100 / (1 + math.Exp(-(before-after)/1000)))
}
