//go:build results

package specialist

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/ultrathink-pilot/trainyard/libs/benchtable"
	"github.com/ultrathink-pilot/trainyard/services/trainer/internal/market"
	"github.com/ultrathink-pilot/trainyard/services/trainer/internal/markettest"
	"github.com/ultrathink-pilot/trainyard/services/trainer/internal/run"
)

// TestCampaignResume interrupts each specialist, dense and temporal, at a hundred
// random instants, and compares every bit of what they leave.
func TestCampaignResume(t *testing.T) {
	const points = 50 // of two kinds of run: a hundred of each specialist
	section := benchtable.Section{
		Page: "trainer.md", Title: "Resumed at random points", Command: "make campaign ONLY=services/trainer CAMPAIGN=TestCampaignResume",
		Intro: "Runs of 12 epochs, interrupted at a random instant, also within an epoch, by a stop (which ends the epoch and saves) or a kill (back to the last checkpoint), resumed in a new attempt: final " +
			"weights, optimizer and random state, metrics, evaluation, pictures and ONNX are compared with those of the whole run, byte by byte.",
	}
	table := markettest.SyntheticTable(6, 1600)
	for _, regime := range []market.Regime{market.RegimeBull, market.RegimeBear, market.RegimeSideways} {
		for _, kind := range []string{"dense", "temporal"} {
			temporal := kind == "temporal"
			same := 0
			t.Run(regime.String()+"/"+kind, func(t *testing.T) {
				rng := rand.New(rand.NewPCG(uint64(regime), 100))
				job := resumable(t, regime, temporal, table)
				whole := newListener()
				began := time.Now()
				if e := mustTrain(t, job(), whole); e.Outcome != run.Succeeded {
					t.Fatalf("%+v", e)
				}
				took := time.Since(began)
				for same < points && !t.Failed() {
					at := interruption{after: 1 + time.Duration(rng.Int64N(int64(took))), kill: rng.IntN(2) == 0}
					if resumed(t, job, whole, at) && !t.Failed() {
						same++
					}
				}
			})
			section.Rows = append(section.Rows, benchtable.Row{What: fmt.Sprintf("%s, %s", regime, kind), Asked: "all the same bits",
				Ours: benchtable.Of(fmt.Sprintf("of %d", points), float64(same))})
		}
	}
	section.Write(t)
}
