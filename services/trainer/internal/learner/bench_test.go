package learner

import (
	"fmt"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ultrathink-pilot/trainyard/services/trainer/internal/learner/kernel"
)

// processorTime returns the processor seconds of this process: on a busy machine
// they say more than the clock.
func processorTime(b *testing.B) float64 {
	b.Helper()
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return float64(u.Utime.Nano()+u.Stime.Nano()) / 1e9
}

// BenchmarkUpdate is one optimiser step (forward, loss, backward, Adam) of the
// specialists' network at several batch sizes, on one worker.
func BenchmarkUpdate(b *testing.B) {
	w := newWorld(b)
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
				began := processorTime(b)
				for b.Loop() {
					l.Update(rates)
					samples += l.Transitions()
				}
				b.ReportMetric(float64(samples)/b.Elapsed().Seconds(), "samples/s")
				b.ReportMetric(float64(samples)/(processorTime(b)-began), "samples/cpu-s")
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
			began := processorTime(b)
			for b.Loop() {
				l.Collect()
				steps += l.Transitions()
			}
			b.ReportMetric(float64(steps)/b.Elapsed().Seconds(), "steps/s")
			b.ReportMetric(float64(steps)/(processorTime(b)-began), "steps/cpu-s")
		})
	}
}
