package learner

import (
	"math/rand/v2"

	"github.com/ultrathink-pilot/trainyard/services/trainer/internal/market"
)

// greedy is the policy of some weights without exploration.
type greedy struct {
	l      *Learner
	params []float32
	wt     []float32
	ws     *workspace
}

// Policy returns the greedy policy of the current weights. It follows later
// updates; it must not run during one.
func (l *Learner) Policy() market.Policy { return &l.policy }

// UntrainedPolicies returns n greedy policies as a learner of another seed
// starts with: the baseline of training.
func (l *Learner) UntrainedPolicies(n int) []market.Policy {
	out := make([]market.Policy, n)
	for i := range out {
		params, wt := make([]float32, l.net.size), make([]float32, l.net.wtSize)
		l.net.initialise(params, rand.New(rand.NewPCG(l.cfg.Seed, uint64(1000+i))))
		l.net.transpose(l.kernel, wt, params)
		out[i] = &greedy{l: l, params: params, wt: wt, ws: l.policy.ws}
	}
	return out
}

// Act implements market.Policy. Ties go to the first action.
func (g *greedy) Act(bars []int32, observations []float32, actions []int8) {
	const width = market.ObservationWidth
	for from := 0; from < len(actions); from += blockRows {
		rows := min(blockRows, len(actions)-from)
		for r := range rows {
			i := from + r
			g.l.net.observe(g.l.world, g.ws, r, bars[i], observations[i*width:(i+1)*width])
		}
		g.l.net.forward(g.l.kernel, g.params, g.wt, g.ws, g.ws.x, rows)
		out, _ := g.ws.last()
		for r := range rows {
			y, best := out[r*heads:], int8(0)
			for a := int8(1); a < market.Actions; a++ {
				if y[a] > y[best] {
					best = a
				}
			}
			actions[from+r] = best
		}
	}
}
