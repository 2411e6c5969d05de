package placement

import (
	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/job"
)

// Fleet is the nodes under planning, indexed by shape. For each shape of demand
// that was asked for it keeps the score of every node in a tournament tree, and
// repairs a tree only where nodes have changed since its last use: the cost of
// a decision follows what changed, and not the size of the fleet.
type Fleet struct {
	nodes  []Node
	wishes []wish
	ok     [][]bool // per node and wish: the labels match
	before []float64
	fresh  []bool // per node: before is up to date
	scarce map[string]bool

	shapes map[string]*ranking
	// future is, for nodes on which room is kept, the node as it will be when
	// those who leave have left and those who wait have come.
	future map[int]*Node
	// log holds the changed nodes in order.
	log []int32

	levels []level // scratch
	buf    picks   // scratch
	seen   []uint32
	stamp  uint32
}

// ranking is the tournament of one shape. tree[1] is the root; leaves hold the
// score of a node, 0 when it does not fit.
type ranking struct {
	need need
	tree []int32
	size int
	read int // how much of the log has been applied
}

// NewFleet takes over the nodes. typical weighs what is waste.
func NewFleet(nodes []Node, typical []Typical) *Fleet {
	f := &Fleet{
		nodes: nodes, wishes: wishesOf(typical), shapes: map[string]*ranking{}, future: map[int]*Node{},
		ok: make([][]bool, len(nodes)), before: make([]float64, len(nodes)), fresh: make([]bool, len(nodes)), seen: make([]uint32, len(nodes)),
	}
	for i := range nodes {
		f.ok[i] = make([]bool, len(f.wishes))
		for k := range f.wishes {
			f.ok[i][k] = true
			for key, v := range f.wishes[k].labels {
				f.ok[i][k] = f.ok[i][k] && nodes[i].Labels[key] == v
			}
		}
	}
	f.scarce = scarceKinds(nodes, f.wishes)
	return f
}

// scarceKinds are device kinds that typical demands ask for by name more than
// the fleet can spare: a demand that takes any kind leaves them to those.
func scarceKinds(nodes []Node, wishes []wish) map[string]bool {
	have, total := map[string]float64{}, 0.0
	for i := range nodes {
		for k := range nodes[i].Devices {
			have[nodes[i].Devices[k].Kind]++
			total++
		}
	}
	named, all := map[string]float64{}, 0.0
	for _, w := range wishes {
		amount := w.weight * float64(w.count)
		all += amount
		if w.kind != "" {
			named[w.kind] += amount
		}
	}
	out := map[string]bool{}
	for kind, amount := range named {
		if n := have[kind]; n > 0 && n < total && amount/all > scarceShare*n/total {
			out[kind] = true
		}
	}
	return out
}

// scarceShare is how much of a kind's part of the fleet its named demand may
// be before the kind is guarded.
const scarceShare = 0.5

// Node gives one node; it must not be changed.
func (f *Fleet) Node(i int) *Node { return &f.nodes[i] }

// Nodes gives all nodes; they must not be changed.
func (f *Fleet) Nodes() []Node { return f.nodes }

// Hold promises shares of a node.
func (f *Fleet) Hold(i int, shares []job.Share, cpu, host int64) {
	f.nodes[i].Hold(shares, cpu, host)
	if n := f.future[i]; n != nil {
		n.Hold(shares, cpu, host)
	}
	f.changed(i)
}

// Release takes a promise back.
func (f *Fleet) Release(i int, shares []job.Share, cpu, host int64) {
	f.nodes[i].release(shares, cpu, host)
	if n := f.future[i]; n != nil {
		n.release(shares, cpu, host)
	}
	f.changed(i)
}

func (f *Fleet) changed(i int) {
	f.fresh[i] = false
	f.log = append(f.log, int32(i))
	if len(f.log) > 8*len(f.nodes)+1024 {
		// Trees that lag this far behind are cheaper to build again.
		f.log = f.log[:0]
		for _, r := range f.shapes {
			r.tree = nil
		}
	}
}

// Best finds the best node for a demand and what it would take there. The
// first node in order wins among equals.
func (f *Fleet) Best(d *job.Demand) (node int, shares []job.Share, ok bool) {
	return f.best(Shape(d), d)
}

func (f *Fleet) best(key string, d *job.Demand) (node int, shares []job.Share, ok bool) {
	r := f.shapes[key]
	if r == nil {
		r = &ranking{need: needOf(d)}
		f.shapes[key] = r
	}
	f.repair(r)
	if len(f.nodes) == 0 || r.tree[1] == 0 {
		return -1, nil, false
	}
	i := 1
	for i < r.size {
		if i *= 2; r.tree[i+1] > r.tree[i] {
			i++
		}
	}
	node = i - r.size
	n := &f.nodes[node]
	_, chosen := f.score(node, &r.need)
	return node, chosen.shares(n, &r.need), true
}

// repair brings a ranking up to date.
func (f *Fleet) repair(r *ranking) {
	if r.tree == nil {
		r.size = 1
		for r.size < len(f.nodes) {
			r.size *= 2
		}
		r.tree = make([]int32, 2*r.size)
		for i := range f.nodes {
			s, _ := f.score(i, &r.need)
			r.tree[r.size+i] = s
		}
		for i := r.size - 1; i >= 1; i-- {
			r.tree[i] = max(r.tree[2*i], r.tree[2*i+1])
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
		s, _ := f.score(int(n), &r.need)
		i := r.size + int(n)
		if r.tree[i] == s {
			continue
		}
		r.tree[i] = s
		for i /= 2; i >= 1; i /= 2 {
			m := max(r.tree[2*i], r.tree[2*i+1])
			if r.tree[i] == m {
				break
			}
			r.tree[i] = m
		}
	}
	r.read = len(f.log)
}

// unguarded is added to the score of a node whose kinds nobody asks for by
// name, so that it comes before every guarded one.
const unguarded = 1000

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
		f.before[i], f.fresh[i] = waste(f.wishes, f.ok[i], f.levels, n.freeCPU()), true
	}
	cpu := n.freeCPU() - d.CPUMillis
	best := 0
	if len(d.Devices) == 1 && d.Devices[0].Count == 1 && d.Devices[0].Bytes > 0 {
		best = f.tryEach(i, d, chosen, cpu)
	} else {
		for _, p := range chosen {
			f.levels[p.device] = f.levels[p.device].after(&n.Devices[p.device], d.Devices[p.group].Bytes)
		}
		best = grade(f.before[i], waste(f.wishes, f.ok[i], f.levels, cpu))
	}
	s := int32(best + 1)
	for _, p := range chosen {
		if d.Devices[p.group].Kind == "" && f.scarce[n.Devices[p.device].Kind] {
			return s, chosen
		}
	}
	return s + unguarded, chosen
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
		if s := grade(f.before[i], waste(f.wishes, f.ok[i], f.levels, cpu)); s > best {
			best, chosen[0].device = s, k
		}
		f.levels[k] = was
	}
	try(first)
	for k := range n.Devices {
		dev := &n.Devices[k]
		if k == first || g.Kind != "" && dev.Kind != g.Kind || dev.Fault != "" || f.levels[k].free < g.Bytes || f.twin(n, k, first) {
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

// First finds the first node in order that fits, and there the first devices:
// the baseline that any score has to beat.
func (f *Fleet) First(d *job.Demand) (node int, shares []job.Share, ok bool) {
	want := needOf(d)
	for i := range f.nodes {
		n := &f.nodes[i]
		if _, why := fit(n, &want, f.buf); why != fits {
			continue
		}
		var chosen picks
		for g := range want.Devices {
			group := &want.Devices[g]
			left := group.Count
			for k := range n.Devices {
				dev := &n.Devices[k]
				if left == 0 {
					break
				}
				if group.Kind != "" && dev.Kind != group.Kind || dev.Fault != "" || chosen.has(k) {
					continue
				}
				if group.Bytes == 0 && dev.empty() || group.Bytes > 0 && dev.Free() >= group.Bytes {
					chosen = append(chosen, pick{k, g})
					left--
				}
			}
		}
		return i, chosen.shares(n, &want), true
	}
	return -1, nil, false
}
