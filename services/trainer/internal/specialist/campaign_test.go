//go:build results

package specialist

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/ultrathink-pilot/trainyard/libs/benchtable"
	"github.com/ultrathink-pilot/trainyard/services/trainer/internal/market"
	"github.com/ultrathink-pilot/trainyard/services/trainer/internal/markettest"
	"github.com/ultrathink-pilot/trainyard/services/trainer/internal/run"
)

// TestCampaignResume interrupts the specialists, dense and temporal, at a hundred
// random points, and compares every bit of what they leave.
func TestCampaignResume(t *testing.T) {
	const points = 17 // of six kinds of run: a hundred and two in all
	section := benchtable.Section{
		Page: "trainer.md", Title: "Resumed at random points", Command: "make campaign ONLY=services/trainer RESULTS=TestCampaignResume",
		Intro: "Runs of 12 epochs, interrupted at a random epoch by a stop (which saves) or a kill (back to the last checkpoint), resumed in a new attempt: final " +
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
				if e := mustTrain(t, job(), whole); e.Outcome != run.Succeeded {
					t.Fatalf("%+v", e)
				}
				for range points {
					resumed(t, job, whole, interruption{1 + rng.IntN(11), rng.IntN(2) == 0})
					if !t.Failed() {
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
