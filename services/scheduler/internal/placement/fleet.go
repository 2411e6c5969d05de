package placement

import (
	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/job"
)

// Fleet is the nodes under planning, indexed by shape. For each shape of demand
// that was asked for it keeps the score of every node in tournament trees, one
// per device kind, and repairs them only where nodes have changed since their
// last use: the cost of a decision follows what changed, and not the size of the
// fleet.
type Fleet struct {
	nodes  []Node
	wishes [][]wish // per node
	before []float64
	fresh  []bool // per node: before is up to date
	free   []int64

	kinds []kind
	// kindOf and at say where a node stands: its kind, and its place there.
	kindOf, at []int32
	guard      guard
	taste      Taste

	shapes map[string]*ranking
	// future is, for nodes on which room is kept, the node as it will be when
	// those who leave have left and those who wait have come.
	future map[int]*Node
	// log holds the changed nodes in order.
	log []int32

	levels []level // scratch
	buf    picks   // scratch
	seen   []uint32
	brinks []brink
	stamp  uint32
}

// kind is the nodes with devices of one kind. A node with several counts for
// its first: hosts of mixed kinds are rare, and judged a little worse, never
// wrongly.
type kind struct {
	name  string
	nodes []int32
	// free is what is left of the devices, in thousandths of a device.
	free int64
}

// NewFleet takes over the nodes. typical weighs what is waste.
func NewFleet(nodes []Node, typical []Typical) *Fleet {
	n := len(nodes)
	f := &Fleet{
		nodes: nodes, taste: usualTaste, wishes: make([][]wish, n), shapes: map[string]*ranking{}, future: map[int]*Node{}, before: make([]float64, n),
		fresh: make([]bool, n), free: make([]int64, n), kindOf: make([]int32, n), at: make([]int32, n), seen: make([]uint32, n), brinks: make([]brink, n),
	}
	byName := map[string]int{}
	var wishes [][]wish
	for i := range nodes {
		name := ""
		if len(nodes[i].Devices) > 0 {
			name = nodes[i].Devices[0].Kind
		}
		k, ok := byName[name]
		if !ok {
			k = len(f.kinds)
			byName[name] = k
			f.kinds = append(f.kinds, kind{name: name})
			wishes = append(wishes, wishesFor(name, typical))
		}
		f.kindOf[i], f.at[i] = int32(k), int32(len(f.kinds[k].nodes))
		f.kinds[k].nodes = append(f.kinds[k].nodes, int32(i))
		f.wishes[i] = labelled(&nodes[i], wishes[k])
		f.recount(i)
	}
	f.guard = newGuard(f, typical)
	return f
}

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

// recount brings the free devices of a node and its kind up to date.
func (f *Fleet) recount(i int) {
	var free int64
	for k := range f.nodes[i].Devices {
		free += int64(levelOf(&f.nodes[i].Devices[k]).milli)
	}
	f.kinds[f.kindOf[i]].free += free - f.free[i]
	f.free[i] = free
}

func (f *Fleet) changed(i int) {
	f.fresh[i], f.brinks[i].known = false, false
	f.recount(i)
	f.log = append(f.log, int32(i))
	if len(f.log) > 2*len(f.nodes)+4096 {
		f.compact()
	}
}

// touch has a node looked at again though it has not changed: time has passed.
func (f *Fleet) touch(i int) {
	f.brinks[i].known = false
	f.log = append(f.log, int32(i))
}

// compact drops the part of the log that everybody has read. Trees that lag far
// behind are cheaper to build again than to repair.
func (f *Fleet) compact() {
	keep := len(f.log)
	for _, r := range f.shapes {
		if r.read < len(f.log)/2 {
			r.trees, r.read = nil, len(f.log)
		}
		for class, at := range r.stuck {
			if at < len(f.log)/2 {
				delete(r.stuck, class)
			} else {
				keep = min(keep, at)
			}
		}
		if r.trees != nil {
			keep = min(keep, r.read)
		}
	}
	for _, r := range f.shapes {
		r.read -= keep
		for class := range r.stuck {
			r.stuck[class] -= keep
		}
	}
	f.log = append(f.log[:0], f.log[keep:]...)
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
				if !dev.serves(group) || dev.Fault != "" || chosen.has(k) {
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
