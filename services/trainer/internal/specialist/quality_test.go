package specialist

import (
	"encoding/json"
	"testing"

	"github.com/ultrathink-pilot/trainyard/services/trainer/internal/market"
	"github.com/ultrathink-pilot/trainyard/services/trainer/internal/markettest"
	"github.com/ultrathink-pilot/trainyard/services/trainer/internal/run"
)

// TestSpecialistsBeatTheUntrained trains each specialist with the defaults on
// twenty years of the S&P 500. On its own regime's validation bars it must beat
// untrained networks by a clear margin while really trading. The held-out test
// figures are logged as they are: nothing is asserted of them, because choosing
// by them would spoil them.
func TestSpecialistsBeatTheUntrained(t *testing.T) {
	t.Parallel()
	table := markettest.SP500(t)
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
			if v.Strategy.Sharpe < v.Untrained.Mean+v.Untrained.SD || v.Strategy.Exposure < 0.1 {
				t.Errorf("validation Sharpe %.2f does not clearly beat untrained %.2f±%.2f", v.Strategy.Sharpe, v.Untrained.Mean, v.Untrained.SD)
			}
		})
	}
}
