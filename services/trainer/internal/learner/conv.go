package learner

import (
	"math"
	"math/rand/v2"

	"github.com/ultrathink-pilot/trainyard/services/trainer/internal/learner/kernel"
	"github.com/ultrathink-pilot/trainyard/services/trainer/internal/market"
)

// conv is the temporal trunk: a 1-D convolution over the features of the last bars.
// The bars of one row lie behind each other, so that what a filter sees at one
// position is one contiguous piece, and each position is one matrix product over
// all rows of a block: no packing.
type conv struct {
	Temporal
	features, width int // true and padded number of features
	positions       int
	w, b            int // offsets of the weights [Width*width x Channels] and biases
}

func newConv(t Temporal, features int) *conv {
	c := &conv{Temporal: t, features: features, width: kernel.Pad(features), positions: t.Positions()}
	c.b = c.Width * c.width * c.Channels
	return c
}

// outputs is how many values it adds to the observation.
func (c *conv) outputs() int { return c.positions * c.Channels }

// row is the length of one row's past.
func (c *conv) row() int { return c.Bars * c.width }

func (c *conv) initialise(params []float32, rng *rand.Rand) {
	q := orthogonal(c.Width*c.features, c.Channels, rng)
	for tap := range c.Width {
		for f := range c.features {
			for o := range c.Channels {
				params[c.w+(tap*c.width+f)*c.Channels+o] = float32(math.Sqrt2 * q[(tap*c.features+f)*c.Channels+o])
			}
		}
	}
}

// each calls use with the offset of every weight, in PyTorch's order: channel,
// feature, bar of the filter from the oldest.
func (c *conv) each(use func(at int)) {
	for o := range c.Channels {
		for f := range c.features {
			for tap := range c.Width {
				use(c.w + (tap*c.width+f)*c.Channels + o)
			}
		}
	}
}

// forward writes its outputs behind the observations in ws.x, whose rows are
// stride long: position by position, channels within.
func (c *conv) forward(k *kernel.Set, params []float32, ws *workspace, rows, stride int) {
	bias := params[c.b : c.b+c.Channels]
	for p := range c.positions {
		at := market.ObservationWidth + p*c.Channels
		k.GemmRelu(&ws.product, bias, ws.x[at:], stride, ws.past[p*c.Stride*c.width:], c.row(), 1, params[c.w:c.b], c.Channels, rows, c.Channels, c.Width*c.width)
	}
}

// backward adds its parameters' gradients. The gradient of its outputs is in ws.dx.
func (c *conv) backward(k *kernel.Set, grad []float32, ws *workspace, rows, stride int) {
	for p := range c.positions {
		dy := ws.dx[market.ObservationWidth+p*c.Channels:]
		k.Gemm(&ws.product, grad[c.w:c.b], c.Channels, ws.past[p*c.Stride*c.width:], 1, c.row(), dy, stride, c.Width*c.width, c.Channels, rows)
		k.SumRows(grad[c.b:c.b+c.Channels], dy, stride, rows)
	}
}
