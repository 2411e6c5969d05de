package reward

import (
	"math"
	"testing"
)

func TestParse(t *testing.T) {
	t.Parallel()
	for _, n := range Names() {
		k, err := Parse(n)
		if err != nil || k.String() != n {
			t.Errorf("%q: %v, %v", n, k, err)
		}
	}
	_, err := Parse("sortino")
	if err == nil || err.Error() != `unknown reward "sortino": it is one of sharpe, differential_sharpe, total_return, risk_adjusted` {
		t.Errorf("unknown reward: %v", err)
	}
}

func TestTotalReturnAddsUp(t *testing.T) {
	t.Parallel()
	f := Default(TotalReturn)
	var s State
	sum, growth := 0.0, 1.0
	for _, r := range []float64{0.01, -0.02, 0.005, 0.03} {
		sum += f.Of(&s, Bar{Net: r, Volatility: 0.01})
		growth *= 1 + r
	}
	if want := 100 * math.Log(growth); math.Abs(sum-want) > 1e-9 {
		t.Errorf("sum of rewards %v, log growth %v", sum, want)
	}
}

func TestRiskAdjustedOrdersTheSameReturn(t *testing.T) {
	t.Parallel()
	f := Default(RiskAdjusted)
	var s State
	calm := f.Of(&s, Bar{Net: -0.01, Volatility: 0.01})
	deeper := f.Of(&s, Bar{Net: -0.01, NewDrawdown: 0.01, Volatility: 0.01})
	churned := f.Of(&s, Bar{Net: -0.01, NewDrawdown: 0.01, Turnover: 2, Volatility: 0.01})
	if !(calm > deeper && deeper > churned) {
		t.Errorf("calm %v, deeper %v, churned %v", calm, deeper, churned)
	}
}

// TestSharpePrefersTheSteadierPath: same total return, less variance, more reward.
func TestSharpePrefersTheSteadierPath(t *testing.T) {
	t.Parallel()
	for _, k := range []Kind{Sharpe, DifferentialSharpe} {
		f := Default(k)
		total := func(returns ...float64) float64 {
			var s State
			sum := 0.0
			for range 100 {
				for _, r := range returns {
					sum += f.Of(&s, Bar{Net: r, Volatility: 0.01})
				}
			}
			return sum
		}
		steady, wild := total(0.002, 0.004), total(0.03, -0.024)
		if steady <= wild {
			t.Errorf("%v: steady %v, wild %v", k, steady, wild)
		}
	}
}

// TestDifferentialSharpeIsTheDerivative checks the formula against the finite
// difference of the ratio in the decay.
func TestDifferentialSharpeIsTheDerivative(t *testing.T) {
	t.Parallel()
	f := Function{Kind: DifferentialSharpe, Decay: 1e-6}
	s := State{Mean: 0.001, Square: 0.0002}
	ratio := func(s State) float64 { return s.Mean / math.Sqrt(s.Square-s.Mean*s.Mean) }
	before := ratio(s)
	got := f.Of(&s, Bar{Net: 0.01, Volatility: 0.01})
	if want := (ratio(s) - before) / 1e-6; math.Abs(got-want) > 1e-3 {
		t.Errorf("reward %v, derivative %v", got, want)
	}
}

func TestRewardsStayFinite(t *testing.T) {
	t.Parallel()
	for _, k := range []Kind{Sharpe, DifferentialSharpe, TotalReturn, RiskAdjusted} {
		f := Default(k)
		var s State
		for _, net := range []float64{-1, 0, 0, 0, -5, 3} {
			if r := f.Of(&s, Bar{Net: net, Volatility: 1e-4, NewDrawdown: 1}); math.IsNaN(r) || math.IsInf(r, 0) {
				t.Errorf("%v: reward of %v is %v", k, net, r)
			}
		}
	}
}
