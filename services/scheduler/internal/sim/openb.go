// Package sim drives the real decision core in virtual time: over traces of
// other clusters, to compare it with published schedulers, and over scenarios of
// its own. It reads traces from the caller; none are part of the product.
package sim

import (
	"encoding/csv"
	"errors"
	"fmt"
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
)

// Pod is one arrival of an openb trace.
type Pod struct {
	Name   string
	Demand job.Demand
	// GPUs and Milli are the demand as the trace says it.
	GPUs  int
	Milli int64
}

// ReadNodes reads a node list: sn, cpu_milli, memory_mib, gpu, model. Device
// memory is in thousandths of a device, without headroom or overhead.
func ReadNodes(r io.Reader) ([]placement.Node, error) {
	rows, err := table(r, "sn", "cpu_milli", "memory_mib", "gpu", "model")
	if err != nil {
		return nil, err
	}
	var out []placement.Node
	for line, row := range rows {
		cpu, e1 := strconv.ParseInt(row[1], 10, 64)
		mem, e2 := strconv.ParseInt(row[2], 10, 64)
		gpus, e3 := strconv.Atoi(row[3])
		if err := errors.Join(e1, e2, e3); err != nil {
			return nil, fmt.Errorf("node list, row %d: %w", line+2, err)
		}
		n := placement.Node{Name: row[0], CPUMillis: cpu, HostBytes: mem * mib}
		for i := range gpus {
			n.Devices = append(n.Devices, placement.Device{ID: strconv.Itoa(i), Kind: row[4], Memory: wholeGPU})
		}
		out = append(out, n)
	}
	return out, nil
}

// ReadPods reads a pod list, sorted by name: name, cpu_milli, memory_mib,
// num_gpu, gpu_milli, gpu_spec.
func ReadPods(r io.Reader) ([]Pod, error) {
	rows, err := table(r, "name", "cpu_milli", "memory_mib", "num_gpu", "gpu_milli", "gpu_spec")
	if err != nil {
		return nil, err
	}
	var out []Pod
	for line, row := range rows {
		cpu, e1 := strconv.ParseInt(row[1], 10, 64)
		mem, e2 := strconv.ParseInt(row[2], 10, 64)
		gpus, e3 := strconv.Atoi(row[3])
		milli, e4 := strconv.ParseInt(row[4], 10, 64)
		if err := errors.Join(e1, e2, e3, e4); err != nil {
			return nil, fmt.Errorf("pod list, row %d: %w", line+2, err)
		}
		if cpu == 0 {
			cpu = 100
		}
		p := Pod{Name: row[0], GPUs: gpus, Milli: milli, Demand: job.Demand{CPUMillis: cpu, HostBytes: mem * mib}}
		if gpus > 0 {
			g := job.DeviceDemand{Count: gpus, Bytes: milli}
			if milli >= wholeGPU {
				g.Bytes = 0
			}
			if row[5] != "" {
				if strings.Contains(row[5], "|") {
					return nil, fmt.Errorf("pod list, row %d: gpu_spec %q names several models; a demand names one", line+2, row[5])
				}
				g.Kind = row[5]
			}
			p.Demand.Devices = []job.DeviceDemand{g}
		}
		out = append(out, p)
	}
	sort.SliceStable(out, func(i, k int) bool { return out[i].Name < out[k].Name })
	return out, nil
}

// table reads CSV columns by name, in any order.
func table(r io.Reader, columns ...string) ([][]string, error) {
	c := csv.NewReader(r)
	c.FieldsPerRecord = -1
	head, err := c.Read()
	if err != nil {
		return nil, fmt.Errorf("no header: %w", err)
	}
	at := make([]int, len(columns))
	var missing []string
	for i, want := range columns {
		at[i] = -1
		for k, h := range head {
			if strings.TrimSpace(h) == want {
				at[i] = k
			}
		}
		if at[i] < 0 {
			missing = append(missing, want)
		}
	}
	if missing != nil {
		return nil, fmt.Errorf("the header lacks the columns %s", strings.Join(missing, ", "))
	}
	var out [][]string
	for {
		rec, err := c.Read()
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return nil, err
		}
		row := make([]string, len(columns))
		for i, k := range at {
			if k >= len(rec) {
				return nil, fmt.Errorf("row %d has %d columns, the header has %d", len(out)+2, len(rec), len(head))
			}
			row[i] = strings.TrimSpace(rec[k])
		}
		out = append(out, row)
	}
}

// Arrivals is the published arrival protocol: shuffle the sorted pods, then draw
// more of them until their demand is inflation times the capacity. The generator
// and the dropped first draw are part of the protocol.
func Arrivals(sorted []Pod, capacity int64, inflation float64, seed int64) []Pod {
	r := rand.New(rand.NewSource(seed))
	_ = r.Int()
	out := append([]Pod(nil), sorted...)
	r.Shuffle(len(out), func(i, k int) { out[i], out[k] = out[k], out[i] })
	var demand int64
	for _, p := range out {
		demand += p.Milli * int64(p.GPUs)
	}
	limit := inflation * float64(capacity)
	for len(sorted) > 0 {
		p := sorted[r.Intn(len(sorted))]
		if float64(demand+p.Milli) > limit {
			return out
		}
		out = append(out, p)
		demand += p.Milli * int64(p.GPUs)
	}
	return out
}

// Policy chooses a node for a demand; ok is false when none fits.
type Policy func(f *placement.Fleet, d *job.Demand) (node int, shares []job.Share, ok bool)

// Policies are the policies that a replay may compare, by name.
var Policies = map[string]Policy{
	// The published policy: the score without the guard of scarce kinds.
	"fgd":       func(f *placement.Fleet, d *job.Demand) (int, []job.Share, bool) { return f.Unguarded().Best(d) },
	"default":   func(f *placement.Fleet, d *job.Demand) (int, []job.Share, bool) { return f.Best(d) },
	"first-fit": func(f *placement.Fleet, d *job.Demand) (int, []job.Share, bool) { return f.First(d) },
}

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
func Replay(nodes []placement.Node, arrivals []Pod, typical []placement.Typical, choose Policy) Allocation {
	fleet := make([]placement.Node, len(nodes))
	var capacity int64
	for i, n := range nodes {
		fleet[i] = n
		fleet[i].Devices = append([]placement.Device(nil), n.Devices...)
		capacity += int64(len(n.Devices)) * wholeGPU
	}
	f := placement.NewFleet(fleet, typical)
	out := Allocation{Percent: map[int]float64{}}
	sum, n := map[int]float64{}, map[int]int{}
	var arrived, allocated int64
	for i := range arrivals {
		p := &arrivals[i]
		amount := p.Milli * int64(p.GPUs)
		arrived += amount
		if node, shares, ok := choose(f, &p.Demand); ok {
			f.Hold(node, shares, p.Demand.CPUMillis, p.Demand.HostBytes)
			allocated += amount
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
	for _, node := range f.Nodes() {
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

// Constrain names a device kind for part of the pods that want devices: about
// share of them, spread over the kinds by weight. It is a function of the pods'
// names, so that every policy sees the same list.
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
