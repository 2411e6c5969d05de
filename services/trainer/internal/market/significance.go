package market

import (
	"math"
	"math/rand/v2"
	"sort"
)

// Interval is a bootstrap confidence interval.
type Interval struct {
	Low   float64 `json:"low"`
	High  float64 `json:"high"`
	Level float64 `json:"level"`
	Draws int     `json:"draws"`
}

// bootstrapBlock is the mean length of a block in bars: long enough to keep the
// clustering of volatility, short beside two years of bars.
const bootstrapBlock = 10

// BootstrapSharpe returns the 95 % intervals of the annualised Sharpe ratio of
// returns, and of its lead over the Sharpe ratio of other on the same bars, by
// the stationary bootstrap (Politis and Romano, 1994). Both tracks are resampled
// together: what they share cancels.
func BootstrapSharpe(returns, other []float64, barsPerYear float64, draws int, rng *rand.Rand) (sharpe, lead Interval) {
	n := len(returns)
	if n < 2 || len(other) != n || draws < 1 {
		return Interval{Level: 0.95}, Interval{Level: 0.95}
	}
	a, b := make([]float64, n), make([]float64, n)
	s, d := make([]float64, draws), make([]float64, draws)
	for k := range draws {
		at := rng.IntN(n)
		for i := range n {
			if i > 0 {
				if rng.IntN(bootstrapBlock) == 0 {
					at = rng.IntN(n)
				} else if at++; at == n {
					at = 0
				}
			}
			a[i], b[i] = returns[at], other[at]
		}
		s[k] = Sharpe(a, barsPerYear)
		d[k] = s[k] - Sharpe(b, barsPerYear)
	}
	return interval(s), interval(d)
}

func interval(x []float64) Interval {
	sort.Float64s(x)
	n := len(x)
	low, high := int(0.025*float64(n)), int(math.Ceil(0.975*float64(n)))-1
	return Interval{Low: x[low], High: x[max(high, low)], Level: 0.95, Draws: n}
}

// DeflatedSharpe is the probability that the true Sharpe ratio of returns is
// above what the best of trials worthless strategies would show by luck, given
// the spread of the trials' annualised Sharpe ratios (Bailey and López de Prado,
// 2014). Early stopping is such a choice: every epoch was a trial.
func DeflatedSharpe(returns []float64, barsPerYear float64, trials int, trialSD float64) float64 {
	n := float64(len(returns))
	mean, sd := moments(returns)
	if n < 3 || sd < 1e-12 {
		return 0
	}
	var skew, kurtosis float64
	for _, r := range returns {
		z := (r - mean) / sd
		skew += z * z * z
		kurtosis += z * z * z * z
	}
	skew, kurtosis = skew/n, kurtosis/n
	sr := mean / sd // per bar
	benchmark := 0.0
	if trials > 1 {
		k := float64(trials)
		const euler = 0.5772156649015329
		best := (1-euler)*quantile(1-1/k) + euler*quantile(1-1/(k*math.E))
		benchmark = trialSD / math.Sqrt(barsPerYear) * best
	}
	spread := 1 - skew*sr + (kurtosis-1)/4*sr*sr
	if spread <= 0 {
		return 0
	}
	return 0.5 * math.Erfc(-(sr-benchmark)*math.Sqrt(n-1)/math.Sqrt(spread)/math.Sqrt2)
}

// quantile is the inverse of the normal distribution function.
func quantile(p float64) float64 { return math.Sqrt2 * math.Erfinv(2*p-1) }
