package learner

import (
	"math"

	"github.com/ultrathink-pilot/trainyard/services/trainer/internal/learner/kernel"
)

// lossSums are the sums over the rows of a batch; the learner divides.
type lossSums struct {
	policy, value, entropy, kl, clipped float64
	rows                                int
}

func (s *lossSums) add(o *lossSums) {
	s.policy += o.policy
	s.value += o.value
	s.entropy += o.entropy
	s.kl += o.kl
	s.clipped += o.clipped
	s.rows += o.rows
}

// take moves a block's sums over, lane by lane.
func (s *lossSums) take(k *kernel.LossSums, rows int) {
	for i := range 16 {
		s.policy += float64(k.Policy[i])
		s.value += float64(k.Value[i])
		s.entropy += float64(k.Entropy[i])
		s.kl += float64(k.KL[i])
		s.clipped += float64(k.Clipped[i])
	}
	s.rows += rows
	*k = kernel.LossSums{}
}

// place puts a transition at its row of the block.
func (ws *workspace) place(row int, action int8, logp, advantage, target float32) {
	g, at := &ws.samples[row/16], kernel.Slot(row)
	g.Action[at], g.Logp[at], g.Advantage[at], g.Target[at], g.Live[at] = float32(action), logp, advantage, target, math.MaxUint32
}

// groups returns how many groups of sixteen rows make, after marking the rows of
// the last one that hold no transition.
func (ws *workspace) groups(rows int) int {
	for r := rows; r%16 != 0; r++ {
		ws.samples[r/16].Live[kernel.Slot(r)] = 0
	}
	return (rows + 15) / 16
}

// advantages runs generalised advantage estimation backwards over each
// environment's steps. Index i is step*envs+env. An episode that ended inside
// carries nothing over; the last step bootstraps from last.
func advantages(gamma, lambda float64, envs int, reward, value []float32, done []bool, last, adv, target []float32) {
	steps := len(reward) / envs
	for e := range envs {
		next, gae := float64(last[e]), 0.0
		for t := steps - 1; t >= 0; t-- {
			i := t*envs + e
			if done[i] {
				next, gae = 0, 0
			}
			delta := float64(reward[i]) + float64(gamma*next) - float64(value[i])
			gae = delta + float64(gamma*lambda*gae)
			adv[i] = float32(gae)
			target[i] = float32(gae + float64(value[i]))
			next = float64(value[i])
		}
	}
}

// normalise brings the advantages to mean 0 and standard deviation 1.
func normalise(adv []float32) {
	var sum, square float64
	for _, v := range adv {
		sum += float64(v)
	}
	mean := sum / float64(len(adv))
	for _, v := range adv {
		d := float64(v) - mean
		square += float64(d * d)
	}
	scale := 1 / (math.Sqrt(square/float64(len(adv))) + 1e-8)
	for i, v := range adv {
		adv[i] = float32((float64(v) - mean) * scale)
	}
}
