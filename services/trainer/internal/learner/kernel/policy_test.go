package kernel

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"unsafe"
)

// TestExpAndLog keeps the documented bounds: exp over its range in steps of a
// thousandth, log over every 37th float32 from 1 to 3.
func TestExpAndLog(t *testing.T) {
	t.Parallel()
	worst := 0.0
	for x := float32(-87); x <= 88; x += 1.0 / 1024 {
		want := math.Exp(float64(x))
		worst = max(worst, math.Abs(float64(exp(x))/want-1))
	}
	if worst > 1.5e-7 {
		t.Errorf("exp: relative error %v", worst)
	}
	worst = 0
	for b := math.Float32bits(1); b <= math.Float32bits(3); b += 37 {
		x := math.Float32frombits(b)
		worst = max(worst, math.Abs(float64(log(x))-math.Log(float64(x))))
	}
	if worst > 2e-7 {
		t.Errorf("log: absolute error %v", worst)
	}
}

// floats views a value made of 32-bit numbers.
func floats[T any](x []T) []float32 {
	var one T
	return unsafe.Slice((*float32)(unsafe.Pointer(&x[0])), len(x)*int(unsafe.Sizeof(one))/4)
}

func batch(rng *rand.Rand, groups int) (logits []float32, rows []Samples) {
	logits, rows = random(rng, groups*16*Heads), make([]Samples, groups)
	for g := range rows {
		s := &rows[g]
		for i := range 16 {
			s.Action[i], s.Logp[i] = float32(rng.IntN(3)), float32(-1-0.5*rng.Float64())
			s.Advantage[i], s.Target[i] = float32(rng.NormFloat64()), float32(rng.NormFloat64())
			if rng.IntN(5) > 0 {
				s.Live[i] = math.MaxUint32
			}
		}
	}
	return logits, rows
}

// TestPolicySetsGiveTheSameBits compares odds and loss over ordinary, extreme and
// broken outputs.
func TestPolicySetsGiveTheSameBits(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(11, 12))
	const groups = 40
	logits, rows := batch(rng, groups)
	for i := range 16 * Heads {
		logits[i] *= 40
		logits[64+i] *= 1e20
	}
	rows[2].Logp[3], rows[2].Logp[4] = -200, 200
	logits[3*64+1], logits[3*64+6], logits[3*64+11] = float32(math.NaN()), float32(math.Inf(1)), float32(math.Inf(-1))
	w := new(LossWeights)
	w.Set(0.2, 0.5, 0.05)
	apply := func(s *Set) []float32 {
		odds, grad, sums := make([]Odds, groups), make([]float32, len(logits)), LossSums{}
		s.Odds(logits, odds)
		s.Loss(logits, grad, rows, w, &sums)
		return slices.Concat(floats(odds), grad, floats([]LossSums{sums}))
	}
	want := apply(portable)
	for _, s := range sets {
		for i, v := range apply(s) {
			if math.Float32bits(v) != math.Float32bits(want[i]) && (v == v || want[i] == want[i]) {
				t.Fatalf("%s: element %d is %v, portable has %v", s.name, i, v, want[i])
			}
		}
	}
	if o := (len(logits) / 64) * 96; !math.IsNaN(float64(want[3*96+Slot(0)])) || o == 0 {
		t.Error("a NaN among the logits is lost")
	}
}

// TestLossAgainstFloat64 checks the loss and its gradient row by row against the
// textbook in double precision.
func TestLossAgainstFloat64(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(13, 14))
	const groups = 8
	logits, rows := batch(rng, groups)
	const clip, value, entropy = 0.2, 0.5, 0.05
	w := new(LossWeights)
	w.Set(clip, value, entropy)
	for _, s := range sets {
		grad, sums := make([]float32, len(logits)), LossSums{}
		s.Loss(logits, grad, rows, w, &sums)
		var want [5]float64
		for r := range groups * 16 {
			x, g, at := logits[r*Heads:], &rows[r/16], Slot(r)
			total := 0.0
			for j := range 3 {
				total += math.Exp(float64(x[j]))
			}
			var p, logp [3]float64
			h := 0.0
			for j := range 3 {
				p[j] = math.Exp(float64(x[j])) / total
				logp[j] = math.Log(p[j])
				h -= p[j] * logp[j]
			}
			a := int(g.Action[at])
			diff := logp[a] - float64(g.Logp[at])
			ratio, adv := math.Exp(diff), float64(g.Advantage[at])
			bounded := min(max(ratio, 1-clip), 1+clip) * adv
			slope := 0.0
			if ratio*adv <= bounded {
				slope = -ratio * adv
			}
			d := float64(x[3]) - float64(g.Target[at])
			gradient := [4]float64{3: value * d}
			for j := range 3 {
				gradient[j] = -slope*p[j] + entropy*p[j]*(logp[j]+h)
			}
			gradient[a] += slope
			for j, v := range gradient {
				if got := float64(grad[r*Heads+j]); math.Abs(got-v) > 2e-6 {
					t.Fatalf("%s: gradient %d of row %d is %v, want %v", s.name, j, r, got, v)
				}
			}
			if g.Live[at] == 0 {
				continue
			}
			clipped := 0.0
			if math.Abs(ratio-1) > clip {
				clipped = 1
			}
			for i, v := range []float64{-min(ratio*adv, bounded), d * d / 2, h, ratio - 1 - diff, clipped} {
				want[i] += v
			}
		}
		for i, lanes := range [][16]float32{sums.Policy, sums.Value, sums.Entropy, sums.KL, sums.Clipped} {
			got := 0.0
			for _, v := range lanes {
				got += float64(v)
			}
			if math.Abs(got-want[i]) > 1e-4 {
				t.Errorf("%s: sum %d is %v, want %v", s.name, i, got, want[i])
			}
		}
	}
}

// TestNoise has the mean and the variance that its users count on, and no trace of
// the element before.
func TestNoise(t *testing.T) {
	t.Parallel()
	const n, rows = 64, 4096
	x, scale, seeds := make([]float32, n*rows), make([]float32, n), make([]uint64, rows)
	rng := rand.New(rand.NewPCG(15, 16))
	for i := range seeds {
		seeds[i] = rng.Uint64()
	}
	for j := range scale {
		scale[j] = 1 / 37837.23
	}
	Best().Noise(x, n, scale, seeds)
	var sum, square, next, down float64
	for i, v := range x {
		sum += float64(v)
		square += float64(v) * float64(v)
		if i > 0 {
			next += float64(v) * float64(x[i-1])
		}
		if i >= n {
			down += float64(v) * float64(x[i-n])
		}
	}
	for _, c := range []struct {
		what      string
		got, want float64
	}{{"mean", sum, 0}, {"variance", square, 1}, {"correlation along a row", next, 0}, {"correlation down a column", down, 0}} {
		if math.Abs(c.got/(n*rows)-c.want) > 0.01 {
			t.Errorf("%s: %v, want %v", c.what, c.got/(n*rows), c.want)
		}
	}
}
