package market

import (
	"math"
	"math/rand/v2"
	"testing"
)

func noise(rng *rand.Rand, n int, mean float64) []float64 {
	out := make([]float64, n)
	for i := range out {
		out[i] = mean + 0.01*rng.NormFloat64()
	}
	return out
}

// TestBootstrapCoversTheTruth: of 200 samples with a known Sharpe ratio, about
// 95 % of the intervals hold it.
func TestBootstrapCoversTheTruth(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(1, 1))
	const mean = 0.0005
	truth := mean / 0.01 * math.Sqrt(252)
	hits, leads := 0, 0
	for range 200 {
		x, y := noise(rng, 400, mean), noise(rng, 400, mean)
		s, d := BootstrapSharpe(x, y, 252, 200, rng)
		if s.Low <= truth && truth <= s.High {
			hits++
		}
		if d.Low <= 0 && 0 <= d.High {
			leads++
		}
	}
	if hits < 175 || hits > 200 || leads < 175 {
		t.Errorf("%d of 200 intervals hold the truth, %d of 200 leads hold zero", hits, leads)
	}
	same := noise(rng, 300, mean)
	if _, d := BootstrapSharpe(same, same, 252, 100, rng); d.Low != 0 || d.High != 0 {
		t.Errorf("a track leads itself by %+v", d)
	}
	if s, _ := BootstrapSharpe(nil, nil, 252, 100, rng); s.Draws != 0 {
		t.Errorf("an interval of nothing: %+v", s)
	}
}

// TestDeflatedSharpePunishesTheChoice: the best of many worthless strategies looks
// good by itself and worthless once the choice is counted.
func TestDeflatedSharpePunishesTheChoice(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(2, 2))
	const trials, bars = 80, 600
	var best []float64
	var all []float64
	for range trials {
		x := noise(rng, bars, 0)
		s := Sharpe(x, 252)
		all = append(all, s)
		if best == nil || s > Sharpe(best, 252) {
			best = x
		}
	}
	_, sd := moments(all)
	alone, deflated := DeflatedSharpe(best, 252, 1, sd), DeflatedSharpe(best, 252, trials, sd)
	if alone < 0.95 || deflated > 0.9 || deflated >= alone {
		t.Errorf("the best of %d: %v alone, %v as a choice", trials, alone, deflated)
	}
	if p := DeflatedSharpe(noise(rng, bars, 0.003), 252, trials, sd); p < 0.99 {
		t.Errorf("a real edge: %v", p)
	}
	if p := DeflatedSharpe(make([]float64, bars), 252, trials, sd); p != 0 {
		t.Errorf("a flat track: %v", p)
	}
}
