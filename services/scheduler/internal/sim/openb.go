// Package sim drives the real decision core in virtual time: over traces of
// other clusters, to compare it with published schedulers, and over scenarios of
// its own. It reads traces from the caller; none are part of the product.
package sim

import (
	"hash/fnv"
	"io"
	"math"
	"math/rand"
	"sort"
	"strconv"
	"strings"

	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/job"
	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/placement"
)

const (
	// wholeGPU is one device in the trace's unit, a thousandth of a device.
	wholeGPU = 1000
	mib      = 1 << 20

	mostMillis  = 1e9
	mostMiB     = 1e12
	mostDevices = 1024
)

// Pod is one arrival of an openb trace.
type Pod struct {
	Name   string
	Demand job.Demand
	// GPUs and Milli are the demand as the trace says it.
	GPUs  int
	Milli int64
}

// amount is what the pod asks for, in thousandths of a device.
func (p *Pod) amount() int64 { return p.Milli * int64(p.GPUs) }

// ReadNodes reads a node list: sn, cpu_milli, memory_mib, gpu and, where there
// are several, model. Device memory is in thousandths of a device, without
// headroom or overhead.
func ReadNodes(r io.Reader) ([]placement.Node, error) {
	s, err := openSheet(r, "sn", "cpu_milli", "memory_mib", "gpu")
	if err != nil {
		return nil, err
	}
	var out []placement.Node
	seen := map[string]int{}
	for s.next() {
		n := placement.Node{Name: s.text("sn"), CPUMillis: s.integer("cpu_milli", 0, mostMillis), HostBytes: s.integer("memory_mib", 0, mostMiB) * mib}
		if n.Name == "" {
			s.complain("sn is empty")
		} else if first, twice := seen[n.Name]; twice {
			s.complain("sn %q is on line %d already", n.Name, first)
		}
		seen[n.Name] = s.line
		for i := range s.integer("gpu", 0, mostDevices) {
			n.Devices = append(n.Devices, placement.Device{ID: strconv.FormatInt(i, 10), Kind: s.text("model"), Memory: wholeGPU})
		}
		out = append(out, n)
	}
	if len(out) == 0 {
		s.complain("no node follows the header")
	}
	return out, s.err()
}

// ReadPods reads a pod list, sorted by name: name, cpu_milli, memory_mib,
// num_gpu, gpu_milli and, where pods name models, gpu_spec (models joined by a
// bar).
func ReadPods(r io.Reader) ([]Pod, error) {
	s, err := openSheet(r, "name", "cpu_milli", "memory_mib", "num_gpu", "gpu_milli")
	if err != nil {
		return nil, err
	}
	var out []Pod
	for s.next() {
		p := Pod{
			Name: s.text("name"), GPUs: int(s.integer("num_gpu", 0, mostDevices)),
			Demand: job.Demand{CPUMillis: s.integer("cpu_milli", 0, mostMillis), HostBytes: s.integer("memory_mib", 0, mostMiB) * mib},
		}
		if p.Demand.CPUMillis == 0 {
			p.Demand.CPUMillis = 100
		}
		if p.GPUs > 0 {
			p.Milli = s.integer("gpu_milli", 1, wholeGPU)
			g := job.DeviceDemand{Count: p.GPUs, Kind: models(s.text("gpu_spec"))}
			if p.Milli < wholeGPU {
				g.Bytes = p.Milli
			}
			p.Demand.Devices = []job.DeviceDemand{g}
		} else if s.text("gpu_milli") != "" {
			p.Milli = s.integer("gpu_milli", 0, wholeGPU)
		}
		out = append(out, p)
	}
	if len(out) == 0 {
		s.complain("no pod follows the header")
	}
	sort.SliceStable(out, func(i, k int) bool { return out[i].Name < out[k].Name })
	return out, s.err()
}

// models orders the models of a gpu_spec and drops repetitions, so that equal
// wishes are one shape.
func models(spec string) string {
	parts := strings.Split(spec, "|")
	sort.Strings(parts)
	out := parts[:0]
	for i, m := range parts {
		if m = strings.TrimSpace(m); m != "" && (i == 0 || m != parts[i-1]) {
			out = append(out, m)
		}
	}
	return strings.Join(out, "|")
}

// CapacityOf is a fleet's capacity in thousandths of a device.
func CapacityOf(nodes []placement.Node) int64 {
	var c int64
	for i := range nodes {
		c += int64(len(nodes[i].Devices)) * wholeGPU
	}
	return c
}

// Arrivals is the published arrival protocol: shuffle the sorted pods, then draw
// more of them until their demand is inflation times the capacity. The generator
// and the dropped first draw are part of the protocol. A list without any device
// demand is only shuffled: its demand would never grow.
func Arrivals(sorted []Pod, capacity int64, inflation float64, seed int64) []Pod {
	r := rand.New(rand.NewSource(seed))
	_ = r.Int()
	out := append([]Pod(nil), sorted...)
	r.Shuffle(len(out), func(i, k int) { out[i], out[k] = out[k], out[i] })
	var demand int64
	for i := range out {
		demand += out[i].amount()
	}
	limit := inflation * float64(capacity)
	for demand > 0 {
		p := sorted[r.Intn(len(sorted))]
		if float64(demand+p.Milli) > limit {
			break
		}
		out = append(out, p)
		demand += p.amount()
	}
	return out
}

// Policy places one demand after another on a fleet of its own.
type Policy interface {
	// Place takes what a pod asks for; false when nothing fits.
	Place(p *Pod) bool
	// Fleet is what has been promised so far.
	Fleet() []placement.Node
}

// Policies prepare the policies that a replay may compare, by name. What they
// return starts one replay. pods is the list that the arrivals are drawn from.
var Policies = map[string]func(nodes []placement.Node, pods []Pod) func(fleet []placement.Node) Policy{
	"default": func(nodes []placement.Node, pods []Pod) func([]placement.Node) Policy {
		typical := TypicalPods(pods)
		taste := placement.Rehearse(nodes, typical)
		return func(fleet []placement.Node) Policy {
			f := placement.NewFleet(fleet, typical)
			f.SetTaste(taste)
			return &corePolicy{f}
		}
	},
	"first-fit": published(func([]Pod) rule { return firstFit{} }),
	"best-fit":  published(func([]Pod) rule { return bestFit{} }),
	"fgd":       published(func(pods []Pod) rule { return newGradient(pods) }),
}

func published(r func([]Pod) rule) func([]placement.Node, []Pod) func([]placement.Node) Policy {
	return func(_ []placement.Node, pods []Pod) func([]placement.Node) Policy {
		score := r(pods)
		return func(fleet []placement.Node) Policy { return newReference(fleet, score) }
	}
}

// corePolicy is the product's own placement.
type corePolicy struct{ fleet *placement.Fleet }

func (c *corePolicy) Place(p *Pod) bool {
	node, shares, ok := c.fleet.Best(&p.Demand)
	if ok {
		c.fleet.Hold(node, shares, p.Demand.CPUMillis, p.Demand.HostBytes)
	}
	return ok
}

func (c *corePolicy) Fleet() []placement.Node { return c.fleet.Nodes() }

// Allocation is the outcome of one arrival replay.
type Allocation struct {
	// Percent is the mean allocated share of the capacity, in percent, while
	// the demand that had arrived was so many percent of it.
	Percent map[int]float64
	// Final is the allocated share at the end, in percent.
	Final float64
	// Placed and Dropped count pods; Overcommits must be zero.
	Placed, Dropped, Overcommits int
}

// Replay places each pod once, in order, and never removes one.
func Replay(nodes []placement.Node, arrivals []Pod, start func([]placement.Node) Policy) Allocation {
	fleet := make([]placement.Node, len(nodes))
	for i, n := range nodes {
		fleet[i] = n
		fleet[i].Devices = append([]placement.Device(nil), n.Devices...)
	}
	capacity := CapacityOf(nodes)
	choose := start(fleet)
	out := Allocation{Percent: map[int]float64{}}
	sum, n := map[int]float64{}, map[int]int{}
	var arrived, allocated int64
	for i := range arrivals {
		p := &arrivals[i]
		arrived += p.amount()
		if choose.Place(p) {
			allocated += p.amount()
			out.Placed++
		} else {
			out.Dropped++
		}
		bucket := int(math.RoundToEven(100 * float64(arrived) / float64(capacity)))
		sum[bucket] += math.Round(10000*float64(allocated)/float64(capacity)) / 100
		n[bucket]++
	}
	for b, s := range sum {
		out.Percent[b] = math.Round(100*s/float64(n[b])) / 100
	}
	out.Final = 100 * float64(allocated) / float64(capacity)
	for _, node := range choose.Fleet() {
		if node.UsedCPU > node.CPUMillis || node.UsedHost > node.HostBytes {
			out.Overcommits++
		}
		for _, d := range node.Devices {
			if d.Held > d.Memory || d.Exclusive && d.Holders > 1 {
				out.Overcommits++
			}
		}
	}
	return out
}

// Constrain names device kinds for part of the pods that want devices: about
// share of them, spread over the entries of weight, each one kind or several
// joined by a bar. It is a function of the pods' names, so that every policy
// sees the same list.
func Constrain(pods []Pod, share float64, weight map[string]float64) []Pod {
	kinds := make([]string, 0, len(weight))
	total := 0.0
	for k, w := range weight {
		kinds = append(kinds, k)
		total += w
	}
	sort.Strings(kinds)
	out := append([]Pod(nil), pods...)
	for i := range out {
		if len(out[i].Demand.Devices) == 0 {
			continue
		}
		h := fnv.New64a()
		_, _ = h.Write([]byte(out[i].Name))
		r := rand.New(rand.NewSource(int64(h.Sum64())))
		if r.Float64() >= share {
			continue
		}
		x := r.Float64() * total
		for _, k := range kinds {
			if x -= weight[k]; x < 0 {
				g := out[i].Demand.Devices[0]
				g.Kind = k
				out[i].Demand.Devices = []job.DeviceDemand{g}
				break
			}
		}
	}
	return out
}

// TypicalPods is what the published protocol takes for typical.
func TypicalPods(sorted []Pod) []placement.Typical {
	demands := make([]job.Demand, len(sorted))
	for i := range sorted {
		demands[i] = sorted[i].Demand
		demands[i].HostBytes = 0
	}
	return placement.TypicalOf(demands)
}
