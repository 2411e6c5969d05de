package learner

import "math"

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

// lossWeights are the coefficients of one update.
type lossWeights struct {
	clip, value, entropy float64
}

// sample is one transition as the loss sees it.
type sample struct {
	action    int8
	logp      float32 // under the policy that acted
	advantage float32
	target    float32 // of the value
}

// loss adds one row's losses to sums and writes the gradient of its outputs: the
// clipped surrogate, the squared value error and the entropy bonus.
func (w *lossWeights) loss(out, grad []float32, s *sample, sums *lossSums) {
	var logp, p [3]float64
	softmax(out, &logp, &p)
	a := int(s.action)
	diff := logp[a] - float64(s.logp)
	ratio := exp(diff)
	adv := float64(s.advantage)
	low, high := 1-w.clip, 1+w.clip
	bounded := max(low, min(high, ratio))
	surrogate := min(ratio*adv, bounded*adv)
	// The gradient vanishes where the bounded branch is the smaller one.
	g := 0.0
	if ratio*adv <= bounded*adv {
		g = -adv * ratio
	}
	entropy := -(float64(p[0]*logp[0]) + float64(p[1]*logp[1]) + float64(p[2]*logp[2]))
	for j := range 3 {
		onehot := 0.0
		if j == a {
			onehot = 1
		}
		grad[j] = float32(float64(g*(onehot-p[j])) + float64(w.entropy*p[j]*(logp[j]+entropy)))
	}
	delta := float64(out[3]) - float64(s.target)
	grad[3] = float32(w.value * delta)
	sums.policy -= surrogate
	sums.value += 0.5 * delta * delta
	sums.entropy += entropy
	sums.kl += (ratio - 1) - diff
	if math.Abs(ratio-1) > w.clip {
		sums.clipped++
	}
	sums.rows++
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
