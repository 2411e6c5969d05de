package sim

import (
	"fmt"
	"math"
	"sort"

	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/job"
	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/placement"
)

// reference replays a published policy with books of its own: what the core is
// compared with must not share the core's code, or its mistakes.
type reference struct {
	nodes []box
	names []placement.Node
	rule  rule
	// scores remember per shape what a node was worth, and at which of its
	// changes: only what has changed is scored again.
	scores map[string][]scored
}

// rule is a published score of a node for a pod.
type rule interface {
	// score rates a node that fits and picks the devices; the highest wins,
	// then the first node in order.
	score(b *box, p *Pod) (score int, devices []int)
}

type scored struct {
	change  uint32
	fits    bool
	value   int
	devices []int
}

// box is a node as the published simulators see it.
type box struct {
	cpu, host int64
	model     string
	left      []int64 // per device, in thousandths
	change    uint32
}

func newReference(nodes []placement.Node, r rule) *reference {
	out := &reference{names: nodes, rule: r, scores: map[string][]scored{}, nodes: make([]box, len(nodes))}
	for i := range nodes {
		b := &out.nodes[i]
		b.cpu, b.host, b.change = nodes[i].CPUMillis, nodes[i].HostBytes, 1
		for _, d := range nodes[i].Devices {
			b.model = d.Kind
			b.left = append(b.left, d.Memory)
		}
	}
	return out
}

// accepts reports whether a pod may use a node's model.
func (b *box) accepts(d *job.Demand) bool {
	return len(d.Devices) == 0 || d.Devices[0].Accepts(b.model)
}

func (b *box) fits(p *Pod) bool {
	return b.cpu >= p.Demand.CPUMillis && b.host >= p.Demand.HostBytes && b.accepts(&p.Demand) && len(b.first(p)) == p.GPUs
}

// first are the first devices with enough left.
func (b *box) first(p *Pod) []int {
	var out []int
	for i, left := range b.left {
		if len(out) < p.GPUs && left >= p.Milli {
			out = append(out, i)
		}
	}
	return out
}

// Place takes the best node.
func (r *reference) Place(p *Pod) bool {
	key := fmt.Sprintf("%d/%d/%d/%d/%s", p.Demand.CPUMillis, p.Demand.HostBytes, p.GPUs, p.Milli, specOf(p))
	memo := r.scores[key]
	if memo == nil {
		memo = make([]scored, len(r.nodes))
		r.scores[key] = memo
	}
	best := -1
	for i := range r.nodes {
		b, m := &r.nodes[i], &memo[i]
		if m.change != b.change {
			*m = scored{change: b.change, fits: b.fits(p)}
			if m.fits {
				m.value, m.devices = r.rule.score(b, p)
			}
		}
		if m.fits && (best < 0 || m.value > memo[best].value) {
			best = i
		}
	}
	if best < 0 {
		return false
	}
	b := &r.nodes[best]
	b.cpu -= p.Demand.CPUMillis
	b.host -= p.Demand.HostBytes
	shares := make([]job.Share, 0, p.GPUs)
	for _, k := range memo[best].devices {
		b.left[k] -= p.Milli
		shares = append(shares, job.Share{Device: r.names[best].Devices[k].ID, Bytes: p.Milli, Held: p.Milli, Whole: p.Milli == wholeGPU})
	}
	b.change++
	r.names[best].Hold(shares, p.Demand.CPUMillis, p.Demand.HostBytes)
	return true
}

// Fleet is what has been promised.
func (r *reference) Fleet() []placement.Node { return r.names }

func specOf(p *Pod) string {
	if len(p.Demand.Devices) == 0 {
		return ""
	}
	return p.Demand.Devices[0].Kind
}

// firstFit takes the first node that fits and there the first devices.
type firstFit struct{}

func (firstFit) score(b *box, p *Pod) (int, []int) { return 0, b.first(p) }

// bestFit takes the node with the least CPU and devices left, weighed equally,
// and there the tightest device.
type bestFit struct{}

func (bestFit) score(b *box, p *Pod) (int, []int) {
	var gpus int64
	for _, l := range b.left {
		gpus += l
	}
	cpuLeft, gpuLeft := float64(b.cpu-p.Demand.CPUMillis), float64(gpus-p.amount())
	devices := b.first(p)
	if p.GPUs > 0 {
		order := make([]int, 0, len(b.left))
		for i, l := range b.left {
			if l >= p.Milli {
				order = append(order, i)
			}
		}
		sort.SliceStable(order, func(i, k int) bool { return b.left[order[i]] < b.left[order[k]] })
		devices = order[:p.GPUs]
	}
	return int(100 * (1 - (0.5*cpuLeft/128000 + 0.5*gpuLeft/8000))), devices
}

// gradient is FGD as published (Weng et al., USENIX ATC 2023): the node whose
// expected fragmentation grows least.
type gradient struct{ typical []typicalPod }

type typicalPod struct {
	cpu, milli int64
	gpus       int
	demand     job.Demand
	weight     float64
}

// newGradient counts the shapes that cover 95 % of the pods.
func newGradient(pods []Pod) *gradient {
	at := map[string]int{}
	var all []typicalPod
	for i := range pods {
		p := &pods[i]
		key := fmt.Sprintf("%d/%d/%d/%s", p.Demand.CPUMillis, p.Milli, p.GPUs, specOf(p))
		k, ok := at[key]
		if !ok {
			k = len(all)
			at[key] = k
			all = append(all, typicalPod{cpu: p.Demand.CPUMillis, milli: p.Milli, gpus: p.GPUs, demand: p.Demand})
		}
		all[k].weight++
	}
	sort.SliceStable(all, func(i, k int) bool { return all[i].weight > all[k].weight })
	covered, total := 0.0, float64(len(pods))
	for i := range all {
		if covered += all[i].weight; covered >= 0.95*total {
			all = all[:i+1]
			break
		}
	}
	for i := range all {
		all[i].weight /= covered
	}
	return &gradient{all}
}

// fragments is the expected idle capacity that a typical pod cannot use.
func (g *gradient) fragments(b *box, cpu int64, left []int64) float64 {
	var idle int64
	for _, l := range left {
		idle += l
	}
	total := 0.0
	for i := range g.typical {
		t := &g.typical[i]
		unusable := idle
		if t.gpus > 0 && cpu >= t.cpu && b.accepts(&t.demand) {
			have, small := 0, int64(0)
			for _, l := range left {
				if l >= t.milli {
					have++
				} else {
					small += l
				}
			}
			if have >= t.gpus {
				unusable = small
			}
		}
		total += t.weight * float64(unusable)
	}
	return total
}

func (g *gradient) score(b *box, p *Pod) (int, []int) {
	before := g.fragments(b, b.cpu, b.left)
	left := make([]int64, len(b.left))
	rate := func(devices []int) int {
		copy(left, b.left)
		for _, k := range devices {
			left[k] -= p.Milli
		}
		after := g.fragments(b, b.cpu-p.Demand.CPUMillis, left)
		return int(100 / (1 + math.Exp(-(before-after)/1000)))
	}
	if p.GPUs != 1 || p.Milli == wholeGPU {
		devices := b.first(p)
		return rate(devices), devices
	}
	best, at := -1, 0
	for k, l := range b.left {
		if l < p.Milli {
			continue
		}
		if s := rate([]int{k}); s > best {
			best, at = s, k
		}
	}
	return best, []int{at}
}
