package modelfile

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
)

// Outputs computes the action logits and the value (0 where there is none) of one
// observation, and of the history as [features x bars] where there is a
// convolution, with the layers as they are in the file. The weights must have been
// converted before.
func (a *Architecture) Outputs(observation, history []float32) (logits []float64, value float64) {
	x := make([]float64, 0, len(observation))
	for _, v := range observation {
		x = append(x, float64(v))
	}
	if t := a.Temporal; t != nil {
		x = append(x, a.convolve(t, history)...)
	}
	for _, l := range a.shared {
		x = a.activate(affineMap(l.w, l.b, x))
	}
	tower := func(layers []*Layer) []float64 {
		y := x
		for i, l := range layers {
			y = affineMap(l.w, l.b, y)
			if i < len(layers)-1 {
				y = a.activate(y)
			}
		}
		return y
	}
	logits = tower(a.actor)
	if len(a.critic) > 0 {
		value = tower(a.critic)[0]
	}
	return logits, value
}

// convolve returns channel by channel, as PyTorch flattens.
func (a *Architecture) convolve(t *Temporal, history []float32) []float64 {
	var out []float64
	for c := range t.Channels {
		for p := range t.positions() {
			sum := float64(a.history.b[c])
			for f := range t.Features {
				for k := range t.Width {
					sum += float64(a.history.w[(c*t.Features+f)*t.Width+k]) * float64(history[f*t.Bars+p*t.Stride+k])
				}
			}
			out = append(out, sum)
		}
	}
	return a.activate(out)
}

func affineMap(w, b []float32, x []float64) []float64 {
	out := make([]float64, len(b))
	for o := range out {
		sum := float64(b[o])
		for i, v := range x {
			sum += float64(w[o*len(x)+i]) * v
		}
		out[o] = sum
	}
	return out
}

func (a *Architecture) activate(x []float64) []float64 {
	for i, v := range x {
		if a.Activation == "tanh" {
			x[i] = math.Tanh(v)
		} else {
			x[i] = max(v, 0)
		}
	}
	return x
}

// prove runs both forms on a few observations.
func (a *Architecture) prove(layers []dense) error {
	rng := rand.New(rand.NewPCG(1, 1)) //nolint:gosec // the same observations each time
	for range 4 {
		observation := random(rng, a.Inputs)
		var history []float32
		x := make([]float64, 0, layers[0].inputs)
		for _, v := range observation {
			x = append(x, float64(v))
		}
		if t := a.Temporal; t != nil {
			history = random(rng, t.Features*t.Bars)
			flat, n := a.convolve(t, history), t.positions()
			for p := range n {
				for c := range t.Channels {
					x = append(x, flat[c*n+p])
				}
			}
		}
		logits, value := a.Outputs(observation, history)
		for i := range layers {
			l := &layers[i]
			y := affineMap(l.w, l.b, x)
			switch l.name {
			case "policy":
				for j, v := range y {
					if far(v, logits[j]) {
						return fmt.Errorf("the converted network's logit %d is %g where the file's layers give %g", j, v, logits[j])
					}
				}
			case "value":
				if far(y[0], value) {
					return fmt.Errorf("the converted network's value is %g where the file's layers give %g", y[0], value)
				}
			default:
				x = a.activate(y)
			}
		}
		if math.IsNaN(logits[0]) || math.IsInf(logits[0], 0) {
			return errors.New("the weights are so large that the outputs are no numbers")
		}
	}
	return nil
}

func far(a, b float64) bool { return !(math.Abs(a-b) <= 1e-6*(1+math.Abs(b))) }

func random(rng *rand.Rand, n int) []float32 {
	out := make([]float32, n)
	for i := range out {
		out[i] = float32(rng.NormFloat64())
	}
	return out
}
