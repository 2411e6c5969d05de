package placement

import (
	"math/rand/v2"

	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/job"
)

// Taste is how finely a fleet tells a good place from a better one.
type Taste struct {
	// Step is the width of one score in percent of the sigmoid. Wider steps leave
	// more to the fixed order of the nodes.
	Step int `json:"step"`
	// Guard is the pressure from which a device kind is kept for those who ask for
	// it by name. It lies below 1 because demand comes in lumps, and a gang needs
	// its devices on one host.
	Guard float64 `json:"guard"`
}

var (
	// usualTaste is right for most demands; Rehearse finds out.
	usualTaste = Taste{Step: 2, Guard: 0.5}
	// tastes are what a rehearsal tries. A step of 101 makes all places equal:
	// that is first-fit.
	tastes = []Taste{usualTaste, {1, 0.5}, {3, 0.5}, {2, 0.8}, {1, 0.8}, {101, 0.8}, {1, unguarded}, {101, unguarded}}
)

// unguarded is a pressure that is never reached.
const unguarded = 1e9

const (
	// rehearsalNodes bounds a rehearsal; a larger fleet sends every n-th host.
	rehearsalNodes = 1500
	// rehearsalFrom and rehearsalTo are between which shares of the capacity, in
	// demand that has arrived, tastes are compared.
	rehearsalFrom, rehearsalTo = 0.75, 1.3
	rehearsals                 = 2
	rehearsalSteps             = 12
)

// Rehearse fills an empty copy of the fleet with typical demand once for every
// taste and returns the one that allocates most. No single taste is right
// for all demands: how much of it names a device kind, comes in gangs or needs
// much CPU decides, and on some the plain first fit beats every score. It is a
// pure function of its arguments; it takes about 30 us for each device and is
// worth repeating when the fleet or its demand has changed by a good part.
func Rehearse(nodes []Node, typical []Typical) Taste {
	stride := (len(nodes) + rehearsalNodes - 1) / rehearsalNodes
	var stage []Node
	for i := 0; i < len(nodes); i += max(stride, 1) {
		stage = append(stage, *empty(&nodes[i]))
	}
	reached := make([][rehearsalSteps]float64, len(tastes))
	for round := range rehearsals {
		for k, t := range tastes {
			perform(stage, typical, t, uint64(round), &reached[k])
		}
	}
	// Best is who falls least behind the best of each moment.
	best, bestLag := 0, 0.0
	for k := range reached {
		lag, mean := 0.0, 0.0
		for s := range rehearsalSteps {
			top := 0.0
			for other := range reached {
				top = max(top, reached[other][s])
			}
			lag = max(lag, top-reached[k][s])
			mean += (top - reached[k][s]) / rehearsalSteps
		}
		// Ties within the noise go to the smaller mean, then to the usual taste.
		if lag += mean / 2; k == 0 || lag < bestLag-1e-4 {
			best, bestLag = k, lag
		}
	}
	return tastes[best]
}

// perform plays one taste and adds what it had allocated at each step.
func perform(stage []Node, typical []Typical, t Taste, seed uint64, reached *[rehearsalSteps]float64) {
	nodes := make([]Node, len(stage))
	capacity := 0.0
	for i := range stage {
		nodes[i] = stage[i].clone()
		for k := range nodes[i].Devices {
			capacity += float64(nodes[i].Devices[k].Usable())
		}
	}
	sums := make([]float64, len(typical))
	total := 0.0
	for i := range typical {
		total += typical[i].Weight
		sums[i] = total
	}
	if capacity == 0 || total == 0 {
		return
	}
	f := NewFleet(nodes, typical)
	f.SetTaste(t)
	each := capacity / float64(max(devicesOf(nodes), 1))
	rng := rand.New(rand.NewPCG(seed, 1))
	arrived, allocated, step := 0.0, 0.0, 0
	for range 64 * (devicesOf(nodes) + 16) {
		x := rng.Float64() * total
		at := 0
		for at < len(sums)-1 && sums[at] <= x {
			at++
		}
		d := &typical[at].Demand
		amount := bytesOf(d, each)
		arrived += amount
		if node, shares, ok := f.Best(d); ok {
			f.Hold(node, shares, d.CPUMillis, d.HostBytes)
			allocated += amount
		}
		for step < rehearsalSteps && arrived >= capacity*(rehearsalFrom+float64(step+1)*(rehearsalTo-rehearsalFrom)/rehearsalSteps) {
			reached[step] += allocated / capacity
			step++
		}
		if step == rehearsalSteps {
			return
		}
	}
}

func devicesOf(nodes []Node) int {
	n := 0
	for i := range nodes {
		n += len(nodes[i].Devices)
	}
	return n
}

// bytesOf is what a demand takes of the devices when a whole one counts as each.
func bytesOf(d *job.Demand, each float64) float64 {
	sum := 0.0
	for _, g := range d.Devices {
		if g.Bytes == 0 {
			sum += float64(g.Count) * each
		} else {
			sum += float64(g.Count) * float64(g.Bytes)
		}
	}
	return sum
}

// SetTaste changes how places are judged from now on.
func (f *Fleet) SetTaste(t Taste) {
	if t.Step < 1 {
		t = usualTaste
	}
	if t == f.taste {
		return
	}
	f.taste = t
	for _, r := range f.shapes {
		r.trees = nil
	}
}
