//go:build results

package specialist

import (
	"math/rand/v2"
	"testing"

	"github.com/ultrathink-pilot/trainyard/services/trainer/internal/market"
	"github.com/ultrathink-pilot/trainyard/services/trainer/internal/markettest"
	"github.com/ultrathink-pilot/trainyard/services/trainer/internal/run"
)

// TestCampaignResume interrupts every specialist, dense and temporal, at a hundred
// random points each, and compares every bit of what it leaves.
func TestCampaignResume(t *testing.T) {
	t.Parallel()
	const points = 100
	table := markettest.SyntheticTable(6, 1600)
	for _, regime := range []market.Regime{market.RegimeBull, market.RegimeBear, market.RegimeSideways} {
		for kind, temporal := range map[string]bool{"dense": false, "temporal": true} {
			t.Run(regime.String()+"/"+kind, func(t *testing.T) {
				t.Parallel()
				rng := rand.New(rand.NewPCG(uint64(regime), 100))
				job := resumable(t, regime, temporal, table)
				whole := newListener()
				if e := mustTrain(t, job(), whole); e.Outcome != run.Succeeded {
					t.Fatalf("%+v", e)
				}
				for range points {
					resumed(t, job, whole, interruption{1 + rng.IntN(11), rng.IntN(2) == 0})
				}
			})
		}
	}
}
