package specialist

import (
	"encoding/json"
	"math"
	"sync"
	"testing"

	"github.com/ultrathink-pilot/trainyard/services/trainer/internal/market"
	"github.com/ultrathink-pilot/trainyard/services/trainer/internal/markettest"
	"github.com/ultrathink-pilot/trainyard/services/trainer/internal/run"
)

// TestSpecialistsBeatTheUntrained trains each specialist with the defaults on
// twenty years of the S&P 500. On its own regime's validation bars it must beat
// untrained networks while really trading, and the three together by two standard
// deviations (Stouffer's method). One standard deviation for each was rejected: ten
// seeds of bull average just below it, in PyTorch too, so that a seed decided. The held-out test
// figures are logged as they are: nothing is asserted of them, because choosing
// by them would spoil them.
func TestSpecialistsBeatTheUntrained(t *testing.T) {
	t.Parallel()
	table := markettest.SP500(t)
	var mu sync.Mutex
	var sum float64
	count := 0
	t.Cleanup(func() {
		if z := sum / math.Sqrt(float64(count)); count == 3 && z < 2 {
			t.Errorf("the three together are %.2f standard deviations above untrained policies, want 2", z)
		}
	})
	for _, regime := range []market.Regime{market.RegimeBull, market.RegimeBear, market.RegimeSideways} {
		t.Run(regime.String(), func(t *testing.T) {
			t.Parallel()
			l := newListener()
			j := job(t, table, regime)
			j.Assignment.Native.Seed = 1
			if e := mustTrain(t, j, l); e.Outcome != run.Succeeded {
				t.Fatalf("%+v", e)
			}
			var e Evaluation
			if err := json.Unmarshal(l.artifacts[EvaluationFile], &e); err != nil {
				t.Fatal(err)
			}
			for _, p := range []struct {
				name string
				PartSummary
			}{{"validation", e.Validation.PartSummary}, {"test", e.Test.PartSummary}} {
				t.Logf("%s %s..%s, %d bars: Sharpe %.2f (buy and hold %.2f, untrained %.2f±%.2f, random %.2f), return %.1f%% (%.1f%%), drawdown %.1f%% (%.1f%%), exposure %.2f, turnover %.2f",
					p.name, p.From, p.To, p.Strategy.Bars, p.Strategy.Sharpe, p.BuyAndHold.Sharpe, p.Untrained.Mean, p.Untrained.SD, p.Random.Mean,
					100*p.Strategy.TotalReturn, 100*p.BuyAndHold.TotalReturn, 100*p.Strategy.MaxDrawdown, 100*p.BuyAndHold.MaxDrawdown,
					p.Strategy.Exposure, p.Strategy.Turnover)
			}
			t.Logf("%d epochs, best %d; 95 %% intervals: validation %.2f..%.2f, test %.2f..%.2f; deflated %.2f", e.Epochs, e.BestEpoch,
				e.Validation.Interval.Low, e.Validation.Interval.High, e.Test.Interval.Low, e.Test.Interval.High, e.Deflated)
			v := e.Validation
			if v.Strategy.Sharpe <= v.Untrained.Mean || v.Strategy.Exposure < 0.1 {
				t.Errorf("validation Sharpe %.2f does not beat untrained %.2f±%.2f", v.Strategy.Sharpe, v.Untrained.Mean, v.Untrained.SD)
			}
			mu.Lock()
			defer mu.Unlock()
			sum += (v.Strategy.Sharpe - v.Untrained.Mean) / v.Untrained.SD
			count++
		})
	}
}
