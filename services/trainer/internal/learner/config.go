// Package learner is the native actor-critic: a float32 network with hand-made
// gradients, vectorised environments, proximal policy optimisation and Adam.
//
// Its results are a function of the configuration and the seed alone. Work is cut
// into a fixed number of shards, each with its own random source and gradient
// buffer, and the buffers are added in shard order; how many workers share the
// shards, and which vector instructions they use, changes no bit.
//
// The steady loop (Collect, Update) allocates nothing.
package learner

import (
	"fmt"
	"math"

	"github.com/ultrathink-pilot/trainyard/services/trainer/internal/learner/kernel"
	"github.com/ultrathink-pilot/trainyard/services/trainer/internal/market"
)

// Config shapes the network and the optimisation. Start from Default.
type Config struct {
	// Hidden are the widths of the trunk's layers, each with a ReLU.
	Hidden []int
	// Temporal is a convolution over the last bars beside the observation; the
	// zero value is none.
	Temporal Temporal
	// FreezeTrunk trains policy and value alone.
	FreezeTrunk bool
	// Envs is the number of environments, a multiple of Shards; Steps is the
	// number of bars that each walks per Collect.
	Envs, Steps int
	// BatchRows is the number of transitions in one optimiser step, the
	// EFFECTIVE batch; Accumulation is in how many parts they are processed.
	// More parts use less memory and give the same bits as long as a part is a
	// multiple of 128 rows.
	BatchRows, Accumulation int
	// Passes is how often each transition is used.
	Passes int
	// Gamma discounts, Lambda blends the advantage estimates.
	Gamma, Lambda float64
	// Clip bounds the policy ratio to 1 ± Clip.
	Clip float64
	// ValueWeight weighs the value loss.
	ValueWeight float64
	// MaxGradientNorm clips the gradient.
	MaxGradientNorm float64
	// WeightDecay shrinks the weights by rate*WeightDecay per optimiser step
	// (decoupled from Adam's moments).
	WeightDecay float64
	// FeatureNoise is the standard deviation of the noise on training
	// observations, in standard deviations of a feature.
	FeatureNoise float64
	// Seed fixes everything random.
	Seed uint64
	// Workers is how many goroutines share the shards, at most Shards.
	Workers int
	// Kernel names the vector form, "" for the best of the machine.
	Kernel string
}

// Temporal shapes a 1-D convolution along time over the features of the last Bars
// bars, the present one included. Each of Channels filters covers Width bars and
// starts at every Stride-th. Its outputs, with a ReLU, join the observation.
type Temporal struct{ Bars, Width, Stride, Channels int }

// DefaultTemporal looks back three weeks of daily bars, four at a time.
func DefaultTemporal() Temporal { return Temporal{Bars: 16, Width: 4, Stride: 4, Channels: 16} }

// On reports whether there is a convolution.
func (t Temporal) On() bool { return t != Temporal{} }

// Positions returns where a filter can stand.
func (t Temporal) Positions() int {
	if !t.On() {
		return 0
	}
	return (t.Bars-t.Width)/t.Stride + 1
}

// Shards is the fixed number of parts of all parallel work.
const Shards = 4

// blockRows is the number of rows that go through the network at a time: the
// activations of one block stay in the second-level cache.
const blockRows = 128

// Default returns the configuration of the specialists. One Collect is 8,192
// transitions: less than a tenth of a second on one core, so that people see it
// move and a stop is prompt. Noise and weight decay follow the mean validation
// Sharpe over all epochs, not the best epoch's, of a few settings with three seeds
// each; this very pair was not among them.
func Default() Config {
	return Config{
		Hidden: []int{128, 128}, Envs: 128, Steps: 64, BatchRows: 2048, Accumulation: 1, Passes: 4,
		Gamma: 0.9, Lambda: 0.9, Clip: 0.2, ValueWeight: 0.5, MaxGradientNorm: 0.5, WeightDecay: 1,
		FeatureNoise: 0.3, Workers: 1,
	}
}

// Check returns everything wrong with the configuration.
func (c *Config) Check() []market.Problem {
	var out []market.Problem
	add := func(field, format string, args ...any) {
		out = append(out, market.Problem{Field: "learner." + field, Description: fmt.Sprintf(format, args...)})
	}
	if len(c.Hidden) < 1 || len(c.Hidden) > 8 {
		add("hidden", "%d layers: between 1 and 8", len(c.Hidden))
	}
	for i, h := range c.Hidden {
		if h < 1 || h > 4096 {
			add(fmt.Sprintf("hidden[%d]", i), "%d units: between 1 and 4096", h)
		}
	}
	if t := c.Temporal; t.On() {
		if t.Bars < 1 || t.Bars > 256 || t.Width < 1 || t.Width > max(t.Bars, 1) || t.Stride < 1 || t.Stride > 256 {
			add("temporal", "%d bars under filters of %d at every %d: up to 256 bars, a filter within them, a stride from 1 to 256", t.Bars, t.Width, t.Stride)
		} else if n := t.Positions() * t.Channels; n > 4096 {
			add("temporal", "%d positions of %d channels give %d values: at most 4096", t.Positions(), t.Channels, n)
		}
		if t.Channels < 16 || t.Channels > 1024 || t.Channels%kernel.Width != 0 {
			add("temporal.channels", "%d: a multiple of %d up to 1024", t.Channels, kernel.Width)
		}
	}
	if c.Envs < Shards || c.Envs > 1<<14 || c.Envs%Shards != 0 {
		add("environments", "%d: a multiple of %d up to %d", c.Envs, Shards, 1<<14)
	}
	if c.Steps < 1 || c.Steps > 1<<14 {
		add("steps", "%d: between 1 and %d", c.Steps, 1<<14)
	}
	if n := c.Envs * c.Steps; n > 1<<22 {
		add("steps", "%d transitions per iteration: at most %d", n, 1<<22)
	}
	if c.BatchRows < 1 || c.BatchRows > 1<<22 {
		add("batch_size", "%d rows per optimiser step: between 1 and %d", c.BatchRows, 1<<22)
	}
	if c.Accumulation < 1 || c.Accumulation > max(c.BatchRows, 1) {
		add("gradient_accumulation", "%d parts of %d rows", c.Accumulation, c.BatchRows)
	}
	if c.Passes < 1 || c.Passes > 100 {
		add("passes", "%d: between 1 and 100", c.Passes)
	}
	unit := func(field string, v float64) {
		if !(v > 0 && v <= 1) {
			add(field, "%v is not in (0, 1]", v)
		}
	}
	unit("gamma", c.Gamma)
	unit("lambda", c.Lambda)
	unit("clip", c.Clip)
	notNegative := func(field string, v float64) {
		if !(v >= 0) || math.IsInf(v, 0) {
			add(field, "%v is not a finite number of at least 0", v)
		}
	}
	notNegative("value_weight", c.ValueWeight)
	notNegative("weight_decay", c.WeightDecay)
	notNegative("feature_noise", c.FeatureNoise)
	if !(c.MaxGradientNorm > 0) {
		add("max_gradient_norm", "%v is not positive", c.MaxGradientNorm)
	}
	if _, err := kernel.Named(c.Kernel); err != nil {
		add("kernel", "%v", err)
	}
	return out
}
