package placement

import (
	"cmp"
	"math"
	"slices"
)

// guard keeps scarce device kinds for those who ask for them by name: whoever
// has a choice takes a kind under less pressure first.
type guard struct {
	named []namedDemand
	// pressure is, per kind, the demand that has no other choice for every part
	// of what is left: at 1 it uses the kind up exactly when the fleet is full.
	pressure []float64
	load     []float64 // scratch
	order    []int     // scratch
}

// namedDemand is the part of all demand that asks for the same kinds by name.
type namedDemand struct {
	kinds  []int
	amount float64
}

// guardSlack is how much more pressure than the least one counts as equal.
const guardSlack = 0.1

func newGuard(f *Fleet, typical []Typical) guard {
	g := guard{pressure: make([]float64, len(f.kinds)), load: make([]float64, len(f.kinds))}
	usable, devices := 0.0, 0.0
	for i := range f.nodes {
		for k := range f.nodes[i].Devices {
			usable += float64(f.nodes[i].Devices[k].Usable())
			devices++
		}
	}
	if len(f.kinds) < 2 || usable == 0 {
		return g
	}
	all, at := 0.0, map[string]int{}
	for i := range typical {
		want := hardest(&typical[i].Demand)
		amount := typical[i].Weight * float64(want.Count)
		if want.Bytes > 0 {
			amount *= min(float64(want.Bytes)*devices/usable, 1)
		}
		all += amount
		if want.Kind == "" || amount == 0 {
			continue
		}
		k, ok := at[want.Kind]
		if !ok {
			k = len(g.named)
			at[want.Kind] = k
			n := namedDemand{}
			for x := range f.kinds {
				if f.kinds[x].name != "" && want.Accepts(f.kinds[x].name) {
					n.kinds = append(n.kinds, x)
				}
			}
			g.named = append(g.named, n)
		}
		g.named[k].amount += amount
	}
	for i := range g.named {
		g.named[i].amount /= all
	}
	// Those with the least choice first: the others give way to them.
	slices.SortStableFunc(g.named, func(a, b namedDemand) int { return cmp.Compare(len(a.kinds), len(b.kinds)) })
	return g
}

// weigh brings the pressures up to date with what is free.
func (g *guard) weigh(f *Fleet) {
	if len(g.named) == 0 {
		return
	}
	total := int64(0)
	for k := range f.kinds {
		g.load[k] = 0
		total += f.kinds[k].free
	}
	for i := range g.named {
		g.pour(f, &g.named[i])
	}
	for k := range f.kinds {
		g.pressure[k] = g.load[k] * float64(total) / float64(max(f.kinds[k].free, 1))
	}
}

// pour spreads a demand over its kinds so that the fullest becomes as little full
// as can be.
func (g *guard) pour(f *Fleet, n *namedDemand) {
	if len(n.kinds) == 1 {
		g.load[n.kinds[0]] += n.amount
		return
	}
	free := func(k int) float64 { return float64(f.kinds[k].free) }
	g.order = append(g.order[:0], n.kinds...)
	slices.SortStableFunc(g.order, func(a, b int) int { return cmp.Compare(g.load[a]*free(b), g.load[b]*free(a)) })
	room, sum, wet := 0.0, n.amount, 0
	for _, k := range g.order {
		if wet > 0 && room > 0 && sum*free(k) <= g.load[k]*room {
			break
		}
		room += free(k)
		sum += g.load[k]
		wet++
	}
	if room == 0 {
		return
	}
	for _, k := range g.order[:wet] {
		g.load[k] = max(g.load[k], sum/room*free(k))
	}
}

// least is the lowest pressure among the kinds that a demand may take. Who wants
// no device takes none away: hosts of every kind are equal to it.
func (g *guard) least(f *Fleet, d *need) float64 {
	if len(d.Devices) == 0 {
		return math.Inf(1)
	}
	least, choice := 0.0, 0
	for k := range f.kinds {
		if f.kinds[k].free == 0 || !d.accepts(f.kinds[k].name) {
			continue
		}
		if choice++; choice == 1 || g.pressure[k] < least {
			least = g.pressure[k]
		}
	}
	return least
}

// step orders the kinds for a demand whose least pressure is given: 0 goes first,
// then by pressure in coarse steps. The guard follows the fleet: a fixed order
// of the kinds would fill the first ones to the brim, and their last corners
// with them.
func (f *Fleet) step(k int, least float64) int {
	g := &f.guard
	if len(g.named) == 0 || g.pressure[k] <= max(f.taste.Guard, least*(1+guardSlack)) {
		return 0
	}
	return 1 + int(min(10*g.pressure[k], 1e6))
}

// accepts reports whether a device of the kind may serve a part of the need.
func (d *need) accepts(kind string) bool {
	for i := range d.Devices {
		if d.Devices[i].Accepts(kind) {
			return true
		}
	}
	return false
}
