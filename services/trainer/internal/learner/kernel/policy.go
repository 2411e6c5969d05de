package kernel

import "math"

// Odds are the policy's log-probabilities and the value for sixteen rows of
// outputs, row r at Slot(r).
type Odds struct {
	Logp [3][16]float32
	// First is the probability of the first action, Second that of the first two:
	// the thresholds for a uniform number.
	First, Second [16]float32
	Value         [16]float32
}

// Samples are sixteen transitions as the loss sees them, transition r at Slot(r).
type Samples struct {
	Action    [16]float32 // 0, 1 or 2
	Logp      [16]float32 // under the policy that acted
	Advantage [16]float32
	Target    [16]float32 // of the value
	Live      [16]uint32  // all ones, or zero where there is no transition
}

// Slot is the place of a row within its group of sixteen: it saves the vector
// code from crossing its lanes.
func Slot(row int) int { return row&3<<2 | row>>2&3 }

// LossWeights are the coefficients of the loss, once per lane.
type LossWeights struct {
	Low, High, Clip, Value, Entropy [16]float32
}

// Set fills every lane: the policy ratio stays within 1 ± clip.
func (w *LossWeights) Set(clip, value, entropy float64) {
	for i := range 16 {
		w.Low[i], w.High[i], w.Clip[i] = float32(1-clip), float32(1+clip), float32(clip)
		w.Value[i], w.Entropy[i] = float32(value), float32(entropy)
	}
}

// LossSums are the sums over rows, lane by lane.
type LossSums struct {
	Policy, Value, Entropy, KL, Clipped [16]float32
}

// Odds computes the policy's odds for rows of Heads outputs. Rows come in sixteens;
// those beyond the last real one may hold anything.
func (s *Set) Odds(logits []float32, out []Odds) {
	if len(out) > 0 {
		_ = logits[len(out)*16*Heads-1]
		s.odds(logits, out)
	}
}

// Loss adds the losses of the rows to sums and writes the gradient of their
// outputs: the clipped surrogate, the squared value error and the entropy bonus.
// Rows come in sixteens; those that are not live count nothing.
func (s *Set) Loss(out, grad []float32, rows []Samples, w *LossWeights, sums *LossSums) {
	if len(rows) > 0 {
		_, _ = out[len(rows)*16*Heads-1], grad[len(rows)*16*Heads-1]
		s.loss(out, grad, rows, w, sums)
	}
}

// exp is e^x to a relative error of 1.5e-7 for x from -87 to 88, and the end's value
// beyond. For a NaN it is anything.
func exp(x float32) float32 {
	if !(-87 > x) {
		if 88 < x {
			x = 88
		}
	} else {
		x = -87
	}
	const round = 12582912 // 1.5 * 2^23: what is added to it loses its fraction
	t := fma(x, math.Log2E, round)
	n := t - round
	r := fma(n, -0.693359375, x)
	r = fma(n, 2.12194440e-4, r)
	q := fma(r, 1.0/5040, 1.0/720)
	q = fma(q, r, 1.0/120)
	q = fma(q, r, 1.0/24)
	q = fma(q, r, 1.0/6)
	q = fma(q, r, 0.5)
	q = fma(q, r, 1)
	q = fma(q, r, 1)
	return math.Float32frombits(math.Float32bits(q) + math.Float32bits(t)<<23)
}

// log is the logarithm of 1 to 3 to an absolute error of 2e-7:
// ln c + 2 artanh((x-c)/(x+c)) with c in the middle.
func log(x float32) float32 {
	const c, logC = float32(1.7320508), float32(0.54930615)
	z := (x - c) / (x + c)
	z2 := float32(z * z)
	q := fma(z2, 2.0/11, 2.0/9)
	q = fma(q, z2, 2.0/7)
	q = fma(q, z2, 2.0/5)
	q = fma(q, z2, 2.0/3)
	q = fma(q, z2, 2)
	return fma(q, z, logC)
}

// greatest is the vector instruction's: the second where one is a NaN.
func greatest(a, b float32) float32 {
	if a > b {
		return a
	}
	return b
}

func least(a, b float32) float32 {
	if a < b {
		return a
	}
	return b
}

func softmax(x []float32) (logp, p [3]float32) {
	top := greatest(greatest(x[0], x[1]), x[2])
	var e [3]float32
	for j := range 3 {
		logp[j] = x[j] - top
		e[j] = exp(logp[j])
	}
	sum := (e[0] + e[1]) + e[2]
	// A NaN among the logits must not get lost in exp.
	sum = fma((logp[0]+logp[1])+logp[2], 0, sum)
	inverse, l := 1/sum, log(sum)
	for j := range 3 {
		logp[j] -= l
		p[j] = float32(e[j] * inverse)
	}
	return logp, p
}

func oddsPortable(logits []float32, out []Odds) {
	for r := range len(out) * 16 {
		o, at, x := &out[r/16], Slot(r), logits[r*Heads:(r+1)*Heads]
		logp, p := softmax(x)
		for j := range 3 {
			o.Logp[j][at] = logp[j]
		}
		o.First[at], o.Second[at], o.Value[at] = p[0], p[0]+p[1], x[3]
	}
}

func lossPortable(out, grad []float32, rows []Samples, w *LossWeights, sums *LossSums) {
	for g := range rows {
		s := &rows[g]
		for r := range 16 {
			at := Slot(r)
			x, d := out[(g*16+r)*Heads:][:Heads], grad[(g*16+r)*Heads:][:Heads]
			add := func(to *[16]float32, v float32) {
				to[at] += math.Float32frombits(math.Float32bits(v) & s.Live[at])
			}
			delta := x[3] - s.Target[at]
			add(&sums.Value, float32(float32(delta*0.5)*delta))
			logp, p := softmax(x)
			entropy := 0 - ((float32(p[0]*logp[0]) + float32(p[1]*logp[1])) + float32(p[2]*logp[2]))
			add(&sums.Entropy, entropy)
			a := int(s.Action[at])
			diff := logp[a] - s.Logp[at]
			ratio := fma(diff, 0, exp(diff))
			less1 := ratio - 1
			add(&sums.KL, less1-diff)
			if less1 > w.Clip[at] || -less1 > w.Clip[at] {
				add(&sums.Clipped, 1)
			}
			free := float32(ratio * s.Advantage[at])
			bounded := float32(greatest(w.Low[at], least(w.High[at], ratio)) * s.Advantage[at])
			add(&sums.Policy, 0-least(bounded, free))
			// The gradient vanishes where the bounded branch is the smaller one.
			slope := float32(0)
			if free <= bounded {
				slope = 0 - free
			}
			for j := range 3 {
				onehot := float32(0)
				if j == a {
					onehot = 1
				}
				d[j] = float32(slope*(onehot-p[j])) + float32(float32(p[j]*w.Entropy[at])*(logp[j]+entropy))
			}
			d[3] = float32(delta * w.Value[at])
		}
	}
}
