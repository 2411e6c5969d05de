package learner

import (
	"fmt"
	"testing"

	"github.com/ultrathink-pilot/trainyard/services/trainer/internal/learner/kernel"
	"github.com/ultrathink-pilot/trainyard/services/trainer/internal/market"
	"github.com/ultrathink-pilot/trainyard/services/trainer/internal/markettest"
	"github.com/ultrathink-pilot/trainyard/services/trainer/internal/torchtest"
)

// wideWorld has as many features as an observation holds, so that none of the
// network's 64 inputs is known to be zero.
func wideWorld(t testing.TB) *market.World {
	t.Helper()
	table := markettest.SyntheticTable(1, 1500)
	const wide = market.ObservationWidth - market.PositionSlots
	narrow := len(table.FeatureNames)
	values := make([]float32, 0, table.Bars()*wide)
	for i := range table.Bars() {
		for j := range wide {
			// Later columns are older values.
			values = append(values, table.Row(max(0, i-j/narrow))[j%narrow])
		}
	}
	for j := narrow; j < wide; j++ {
		table.FeatureNames = append(table.FeatureNames, fmt.Sprint(table.FeatureNames[j%narrow], "_", j/narrow))
	}
	table.Features = values
	return worldOf(t, table)
}

// BenchmarkUpdate is one optimiser step (forward, loss, backward, Adam) of the
// specialists' network at several batch sizes, on one worker.
func BenchmarkUpdate(b *testing.B) {
	w := wideWorld(b)
	for _, name := range kernel.Names() {
		for _, batch := range []int{32, 256, 2048} {
			b.Run(fmt.Sprintf("%s/batch=%d", name, batch), func(b *testing.B) {
				c := Default()
				c.Kernel, c.BatchRows, c.Passes = name, batch, 1
				c.Envs, c.Steps = 128, 16
				l := newLearner(b, w, c)
				l.Collect()
				b.ReportAllocs()
				samples := 0
				began := torchtest.ProcessorTime(b)
				for b.Loop() {
					l.Update(rates)
					samples += l.Transitions()
				}
				b.ReportMetric(float64(samples)/b.Elapsed().Seconds(), "samples/s")
				b.ReportMetric(float64(samples)/(torchtest.ProcessorTime(b)-began), "samples/cpu-s")
			})
		}
	}
}

// BenchmarkRollout is the environments with the policy's forward pass.
func BenchmarkRollout(b *testing.B) {
	w := newWorld(b)
	for _, name := range kernel.Names() {
		b.Run(name, func(b *testing.B) {
			c := Default()
			c.Kernel = name
			l := newLearner(b, w, c)
			b.ReportAllocs()
			steps := 0
			began := torchtest.ProcessorTime(b)
			for b.Loop() {
				l.Collect()
				steps += l.Transitions()
			}
			b.ReportMetric(float64(steps)/b.Elapsed().Seconds(), "steps/s")
			b.ReportMetric(float64(steps)/(torchtest.ProcessorTime(b)-began), "steps/cpu-s")
		})
	}
}
