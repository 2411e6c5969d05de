package placement

import (
	"slices"

	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/job"
)

// partsOf splits a demand that may span hosts: the shapes of its parts, in the
// order of their ranks. A demand that one host can serve is not split.
func (c *Core) partsOf(r *ranking) []*ranking {
	if r.split {
		return r.parts
	}
	r.split, r.parts = true, nil
	if len(r.need.Devices) != 1 || !r.need.Devices[0].Topology.Spans() {
		return nil
	}
	g := r.need.Devices[0]
	counts := c.splitOver(&r.need, g.Count)
	if len(counts) < 2 {
		return nil
	}
	for _, n := range counts {
		d := r.need.Demand
		part := g
		part.Count, part.Topology = n, job.SameHost
		d.Devices = []job.DeviceDemand{part}
		r.parts = append(r.parts, c.fleet.rank(Shape(&d), &d))
	}
	return r.parts
}

// splitOver says how many devices each host of a gang serves. Packed: as few
// hosts as possible, whole ones first and the remainder last. Spread: one device
// each, as far as there are hosts.
func (c *Core) splitOver(d *need, count int) []int {
	g := d.Devices[0]
	var sizes []int
	for i := range c.fleet.nodes {
		n := empty(&c.fleet.nodes[i])
		have := 0
		for k := range n.Devices {
			if n.Devices[k].takes(&g) {
				have++
			}
		}
		for ; have > 0; have-- {
			part := need{Demand: d.Demand}
			part.Devices = []job.DeviceDemand{g}
			part.Devices[0].Count, part.Devices[0].Topology = have, job.SameHost
			if _, why := fit(n, &part, nil); why == fits {
				break
			}
		}
		if have > 0 {
			sizes = append(sizes, have)
		}
	}
	slices.SortFunc(sizes, func(a, b int) int { return b - a })
	var out []int
	if g.Topology == job.SpreadHosts {
		hosts := min(len(sizes), count)
		for i := range hosts {
			out = append(out, (count+hosts-1-i)/hosts)
		}
		for i := range out {
			if out[i] > sizes[i] {
				return nil
			}
		}
		return out
	}
	// The largest size of which there are enough hosts: not every fleet has as
	// many of its largest hosts as a gang needs.
	for at, size := range sizes {
		if size >= count {
			return []int{count}
		}
		whole, rest := count/size, count%size
		if at+1 < len(sizes) && sizes[at+1] == size {
			continue
		}
		if fitting := at + 1; fitting < whole || rest > 0 && fitting == whole && (at+1 >= len(sizes) || !slices.ContainsFunc(sizes[at+1:], func(s int) bool { return s >= rest })) {
			continue
		}
		for range whole {
			out = append(out, size)
		}
		if rest > 0 {
			out = append(out, rest)
		}
		return out
	}
	return nil
}

// hostsOf is on how many hosts a job will run.
func (c *Core) hostsOf(r *ranking) int { return max(len(c.partsOf(r)), 1) }

// shapesOf are the shapes of a job's parts; itself when it is not split.
func (c *Core) shapesOf(r *ranking) []*ranking {
	if parts := c.partsOf(r); parts != nil {
		return parts
	}
	return []*ranking{r}
}

// spots finds the best places for a shape: all of a gang or none.
func (c *Core) spots(r *ranking) ([]spot, bool) {
	parts := c.partsOf(r)
	if parts == nil {
		if !c.fleet.opens(r) {
			return nil, false
		}
		node, shares, ok := c.fleet.best(r)
		return []spot{{node, shares}}, ok
	}
	for _, p := range parts {
		if !c.fleet.opens(p) {
			return nil, false
		}
	}
	// On a scratch overlay: what is tried is taken back at the end.
	var out []spot
	ok := true
	for _, p := range parts {
		node, shares, fit := c.elsewhere(p, out)
		if !fit {
			ok = false
			break
		}
		c.fleet.Hold(node, shares, p.need.CPUMillis, p.need.HostBytes)
		out = append(out, spot{node, shares})
	}
	for k, s := range out {
		c.fleet.Release(s.node, s.shares, parts[k].need.CPUMillis, parts[k].need.HostBytes)
	}
	return out, ok
}

// elsewhere finds the best node for a part of a gang that has none of it yet.
func (c *Core) elsewhere(r *ranking, taken []spot) (int, []job.Share, bool) {
	used := func(node int) bool { return slices.ContainsFunc(taken, func(s spot) bool { return s.node == node }) }
	node, shares, ok := c.fleet.best(r)
	if !ok || !used(node) {
		return node, shares, ok
	}
	best, score := -1, int32(0)
	for i := range c.fleet.nodes {
		if used(i) {
			continue
		}
		if s, _ := c.fleet.score(i, &r.need); s > score {
			best, score = i, s
		}
	}
	if best < 0 {
		return -1, nil, false
	}
	_, chosen := c.fleet.score(best, &r.need)
	return best, chosen.shares(&c.fleet.nodes[best], &r.need), true
}
