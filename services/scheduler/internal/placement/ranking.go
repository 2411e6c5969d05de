package placement

import (
	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/job"
)

// ranking is the tournaments of one shape, one per device kind.
type ranking struct {
	need  need
	trees []tree
	read  int // how much of the fleet's log has been applied
	// stuck says, per class and band, up to where in the log it is known that
	// nobody could be preempted for this shape.
	stuck map[rung]int
	// parts are the shapes that a gang over several hosts is split into; nil when
	// it fits on one host.
	parts []*ranking
	split bool // parts is up to date
	// where has a bit for every node that could ever serve the shape.
	where []uint64
}

// tree is a tournament: node[1] is the root, the leaves from size on hold the
// scores, 0 when a node does not fit. The leftmost maximum wins.
type tree struct {
	node []int32
	size int
}

func newTree(leaves int) tree {
	size := 1
	for size < leaves {
		size *= 2
	}
	return tree{make([]int32, 2*size), size}
}

func (t *tree) build() {
	for i := t.size - 1; i >= 1; i-- {
		t.node[i] = max(t.node[2*i], t.node[2*i+1])
	}
}

func (t *tree) set(leaf int, score int32) {
	i := t.size + leaf
	if t.node[i] == score {
		return
	}
	t.node[i] = score
	for i /= 2; i >= 1; i /= 2 {
		m := max(t.node[2*i], t.node[2*i+1])
		if t.node[i] == m {
			return
		}
		t.node[i] = m
	}
}

func (t *tree) best() (leaf int, score int32) {
	i := 1
	for i < t.size {
		if i *= 2; t.node[i+1] > t.node[i] {
			i++
		}
	}
	return i - t.size, t.node[1]
}

// Best finds the best node for a demand and what it would take there. Of the kinds
// that it accepts those under the least pressure go first, then the higher
// score, then the first node in order.
func (f *Fleet) Best(d *job.Demand) (node int, shares []job.Share, ok bool) {
	return f.best(f.rank(Shape(d), d))
}

// rank finds the ranking of a shape.
func (f *Fleet) rank(key string, d *job.Demand) *ranking {
	r := f.shapes[key]
	if r == nil {
		r = &ranking{need: needOf(d)}
		f.shapes[key] = r
	}
	return r
}

// opens reports whether a shape fits anywhere now.
func (f *Fleet) opens(r *ranking) bool {
	f.repair(r)
	for k := range r.trees {
		if r.trees[k].node[1] > 0 {
			return true
		}
	}
	return false
}

func (f *Fleet) best(r *ranking) (node int, shares []job.Share, ok bool) {
	f.repair(r)
	node, score, kept := -1, int32(0), 0
	f.guard.weigh(f)
	least := f.guard.least(f, &r.need)
	for k := range r.trees {
		leaf, s := r.trees[k].best()
		for s == unscored {
			s, _ = f.score(int(f.kinds[k].nodes[leaf]), &r.need)
			r.trees[k].set(leaf, s)
			leaf, s = r.trees[k].best()
		}
		if s == 0 {
			continue
		}
		n, guard := int(f.kinds[k].nodes[leaf]), f.step(k, least)
		if node < 0 || guard < kept || guard == kept && (s > score || s == score && n < node) {
			node, score, kept = n, s, guard
		}
	}
	if node < 0 {
		return -1, nil, false
	}
	_, chosen := f.score(node, &r.need)
	return node, chosen.shares(&f.nodes[node], &r.need), true
}

// unscored stands for the score of a node that fits and was not looked at
// closely. It is above every score, so that no node wins before it is known.
const unscored = 1 << 20

// glance says whether a node fits. Its score waits until somebody wants to know:
// most shapes are only asked whether they fit anywhere.
func (f *Fleet) glance(i int, d *need) int32 {
	chosen, why := fit(&f.nodes[i], d, f.buf)
	f.buf = chosen
	if why != fits {
		return 0
	}
	return unscored
}

// repair brings a ranking up to date.
func (f *Fleet) repair(r *ranking) {
	if r.trees == nil {
		r.trees = make([]tree, len(f.kinds))
		for k := range f.kinds {
			t := newTree(len(f.kinds[k].nodes))
			for at, n := range f.kinds[k].nodes {
				t.node[t.size+at] = f.glance(int(n), &r.need)
			}
			t.build()
			r.trees[k] = t
		}
		r.read = len(f.log)
		return
	}
	f.stamp++
	for _, n := range f.log[r.read:] {
		if f.seen[n] == f.stamp {
			continue
		}
		f.seen[n] = f.stamp
		r.trees[f.kindOf[n]].set(int(f.at[n]), f.glance(int(n), &r.need))
	}
	r.read = len(f.log)
}

// score rates a node for a need, 0 when it does not fit, and picks the devices.
// The picks are valid until the next call.
func (f *Fleet) score(i int, d *need) (int32, picks) {
	n := &f.nodes[i]
	chosen, why := fit(n, d, f.buf)
	f.buf = chosen
	if why != fits {
		return 0, nil
	}
	f.levels = f.levels[:0]
	for k := range n.Devices {
		f.levels = append(f.levels, levelOf(&n.Devices[k]))
	}
	if !f.fresh[i] {
		f.before[i], f.fresh[i] = waste(f.wishes[i], f.levels, n.freeCPU()), true
	}
	cpu := n.freeCPU() - d.CPUMillis
	best := 0
	if len(d.Devices) == 1 && d.Devices[0].Count == 1 && d.Devices[0].Bytes > 0 {
		best = f.tryEach(i, d, chosen, cpu)
	} else {
		for _, p := range chosen {
			f.levels[p.device] = f.levels[p.device].after(&n.Devices[p.device], d.Devices[p.group].Bytes)
		}
		best = f.taste.grade(f.before[i], waste(f.wishes[i], f.levels, cpu))
	}
	return int32(best + 1), chosen
}

// tryEach tries a single share on every device that takes it and leaves the
// best one in chosen. It starts from the tightest, which wins among equals.
func (f *Fleet) tryEach(i int, d *need, chosen picks, cpu int64) int {
	n, g := &f.nodes[i], &d.Devices[0]
	first := chosen[0].device
	best := -1
	try := func(k int) {
		was := f.levels[k]
		f.levels[k] = was.after(&n.Devices[k], g.Bytes)
		if s := f.taste.grade(f.before[i], waste(f.wishes[i], f.levels, cpu)); s > best {
			best, chosen[0].device = s, k
		}
		f.levels[k] = was
	}
	try(first)
	for k := range n.Devices {
		dev := &n.Devices[k]
		if k == first || !dev.serves(g) || dev.Fault != "" || f.levels[k].free < g.Bytes || f.twin(n, k, first) {
			continue
		}
		try(k)
	}
	return best
}

// twin reports whether an earlier device, or the first tried, is in every way
// like device k: then trying k says nothing new.
func (f *Fleet) twin(n *Node, k, first int) bool {
	same := func(i int) bool {
		return f.levels[i] == f.levels[k] && n.Devices[i].Memory == n.Devices[k].Memory && n.Devices[i].Fault == n.Devices[k].Fault
	}
	if same(first) {
		return true
	}
	for i := range k {
		if same(i) {
			return true
		}
	}
	return false
}
