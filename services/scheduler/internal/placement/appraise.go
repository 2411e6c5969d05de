package placement

import (
	"cmp"
	"slices"

	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/job"
)

// Appraisal is how one host compares for a demand, in the terms that decide: the
// lower guard goes first, then the higher score, then the first host in order.
type Appraisal struct {
	Node   string
	Fits   bool
	Reason string // why it does not fit
	// Devices is what it would give.
	Devices []string
	// Guard says how much its device kind is kept for those who ask for it by name,
	// in steps; Pressure is what that rests on.
	Guard    int
	Pressure float64
	// Score grades how little capacity the placement would spoil; Before and After
	// are the idle devices that the usual demands could not use.
	Score         int
	Before, After float64
	// Options compares its devices, when one of them would be shared.
	Options []Option
}

// Option is one device of a host.
type Option struct {
	Device string
	Chosen bool
	Score  int
	After  float64
}

// Appraise compares all hosts for a demand that fits on one, the best first and
// those that do not fit last. nodes are the snapshot's, with what its plan had placed
// before. It is made for explanations: it costs a look at every host.
func Appraise(s *Snapshot, nodes []Node, d *job.Demand) []Appraisal {
	typical := s.Typical
	if len(typical) == 0 {
		demands := make([]job.Demand, len(s.Queue))
		for i := range s.Queue {
			demands[i] = s.Queue[i].Demand
		}
		typical = TypicalOf(demands)
	}
	own := make([]Node, len(nodes))
	for i := range nodes {
		own[i] = nodes[i].clone()
	}
	slices.SortStableFunc(own, func(a, b Node) int { return cmp.Compare(a.Name, b.Name) })
	f := NewFleet(own, typical)
	f.SetTaste(s.Taste)
	f.guard.weigh(f)
	want := needOf(d)
	least := f.guard.least(f, &want)
	out := make([]Appraisal, len(own))
	for i := range own {
		out[i] = f.appraise(i, &want, least)
		if !out[i].Fits {
			u, _ := One(s.Now, &own[i], d)
			out[i].Reason = u.Reason
		}
	}
	slices.SortStableFunc(out, func(a, b Appraisal) int {
		if a.Fits != b.Fits {
			if a.Fits {
				return -1
			}
			return 1
		}
		return cmp.Or(cmp.Compare(a.Guard, b.Guard), cmp.Compare(b.Score, a.Score))
	})
	return out
}

// appraise takes one score apart.
func (f *Fleet) appraise(i int, d *need, least float64) Appraisal {
	n, k := &f.nodes[i], int(f.kindOf[i])
	a := Appraisal{Node: n.Name, Guard: f.step(k, least), Pressure: f.guard.pressure[k]}
	score, chosen := f.score(i, d)
	if score == 0 {
		return a
	}
	chosen = slices.Clone(chosen)
	a.Fits, a.Score, a.Before = true, int(score)-1, f.before[i]/1000
	levels := make([]level, len(n.Devices))
	for x := range n.Devices {
		levels[x] = levelOf(&n.Devices[x])
	}
	cpu := n.freeCPU() - d.CPUMillis
	then := func(p picks) float64 {
		after := slices.Clone(levels)
		for _, x := range p {
			after[x.device] = after[x.device].after(&n.Devices[x.device], d.Devices[x.group].Bytes)
		}
		return waste(f.wishes[i], after, cpu)
	}
	a.After = then(chosen) / 1000
	for _, x := range chosen {
		a.Devices = append(a.Devices, n.Devices[x.device].ID)
	}
	if len(d.Devices) != 1 || d.Devices[0].Count != 1 || d.Devices[0].Bytes == 0 {
		return a
	}
	g := &d.Devices[0]
	for x := range n.Devices {
		if dev := &n.Devices[x]; dev.takes(g) {
			after := then(picks{{x, 0}})
			a.Options = append(a.Options, Option{Device: dev.ID, Chosen: chosen[0].device == x, Score: f.taste.grade(f.before[i], after), After: after / 1000})
		}
	}
	return a
}
