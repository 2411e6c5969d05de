package learner

import (
	"math"
	"math/rand/v2"

	"github.com/ultrathink-pilot/trainyard/services/trainer/internal/learner/kernel"
	"github.com/ultrathink-pilot/trainyard/services/trainer/internal/market"
)

// heads is the width of the last layer: the action logits, then the value.
const heads = market.Actions + 1

// layer is one affine map within the flat parameter vector. Rows are inputs, so
// that x*W needs no transpose; widths are padded and the padding stays zero. The
// last layer, the heads, is the other way round: four rows make a quarter of the
// work of a matrix that is four of sixteen columns wide.
type layer struct {
	in, out       int // true widths
	used          int // inputs that are ever other than zero, the first ones
	inPad, outPad int // outPad of the heads is their number
	heads         bool
	w, b          int // offsets of the weights [inPad x outPad], of the heads [out x inPad], and biases
	end           int // offset behind the biases and their padding
	wt            int // offset of the transposed copy
}

// at returns the offset of one weight.
func (l *layer) at(in, out int) int {
	if l.heads {
		return l.w + out*l.inPad + in
	}
	return l.w + in*l.outPad + out
}

// net is the shape of the network; it holds no numbers.
type net struct {
	conv   *conv // nil without a temporal trunk
	layers []layer
	size   int // parameters, padding included
	wtSize int
	widest int // widest padded layer
}

// newNet lays the parameters out: the convolution, the trunk, the heads. features
// is how many an observation has; the rest of it, beside the position's values,
// stays zero, and nothing is computed with it.
func newNet(hidden []int, t Temporal, features int) *net {
	n := &net{}
	in, used := market.ObservationWidth, min(features+market.PositionSlots, market.ObservationWidth)
	if t.On() {
		n.conv = newConv(t, features)
		n.size = n.conv.b + t.Channels
		in += n.conv.outputs()
		used = in
	}
	inPad := kernel.Pad(in)
	for _, out := range append(append([]int(nil), hidden...), heads) {
		l := layer{in: in, out: out, used: used, inPad: inPad, outPad: kernel.Pad(out), w: n.size, wt: n.wtSize}
		if len(n.layers) == len(hidden) {
			l.heads, l.outPad = true, heads
		}
		l.b = l.w + l.inPad*l.outPad
		l.end = l.b + kernel.Pad(out)
		n.size = l.end
		n.wtSize += l.inPad * l.outPad
		n.widest = max(n.widest, l.outPad)
		n.layers = append(n.layers, l)
		in, used, inPad = out, out, l.outPad
	}
	return n
}

// trunkSize is the number of parameters before the heads.
func (n *net) trunkSize() int { return n.layers[len(n.layers)-1].w }

// initialise draws orthogonal weights: gain sqrt(2) under a ReLU, 1 for the
// value, and 0.01 for the policy, so that training starts from near-uniform
// actions. Biases start at zero.
func (n *net) initialise(params []float32, rng *rand.Rand) {
	clear(params)
	if n.conv != nil {
		n.conv.initialise(params, rng)
	}
	for i, l := range n.layers {
		q := orthogonal(l.in, l.out, rng)
		for r := range l.in {
			for c := range l.out {
				gain := math.Sqrt2
				if i == len(n.layers)-1 {
					gain = 0.01
					if c == heads-1 {
						gain = 1
					}
				}
				params[l.at(r, c)] = float32(gain * q[r*l.out+c])
			}
		}
	}
}

// orthogonal returns a rows x cols matrix whose shorter side is orthonormal
// (modified Gram-Schmidt on a normal matrix).
func orthogonal(rows, cols int, rng *rand.Rand) []float64 {
	short, long := min(rows, cols), max(rows, cols)
	v := make([]float64, short*long)
	for i := range v {
		v[i] = rng.NormFloat64()
	}
	for i := range short {
		a := v[i*long : (i+1)*long]
		for k := range i {
			b := v[k*long : (k+1)*long]
			dot := 0.0
			for j := range a {
				dot += float64(a[j] * b[j])
			}
			for j := range a {
				a[j] -= float64(dot * b[j])
			}
		}
		norm := 0.0
		for _, x := range a {
			norm += float64(x * x)
		}
		norm = math.Sqrt(norm)
		for j := range a {
			a[j] /= norm
		}
	}
	out := make([]float64, rows*cols)
	for i := range short {
		for j := range long {
			if rows <= cols {
				out[i*cols+j] = v[i*long+j]
			} else {
				out[j*cols+i] = v[i*long+j]
			}
		}
	}
	return out
}

// transpose refreshes the transposed copies: what the backward pass reads, and of
// the heads what the forward pass reads. The first layer needs none, unless a
// convolution feeds it: nobody asks for the gradient of an observation.
func (n *net) transpose(k *kernel.Set, wt, params []float32) {
	first := 1
	if n.conv != nil {
		first = 0
	}
	for _, l := range n.layers[first:] {
		rows, columns := l.inPad, l.outPad
		if l.heads {
			rows, columns = l.out, l.inPad
		}
		k.Transpose(wt[l.wt:l.wt+rows*columns], params[l.w:l.b], rows, columns)
	}
}

// workspace holds one block on its way through the network.
type workspace struct {
	x       []float32   // blockRows x inPad of the first layer: observation, then the convolution's outputs
	past    []float32   // blockRows x bars x features: what the convolution sees
	dx      []float32   // the gradient of x, with a convolution only
	acts    [][]float32 // per layer, blockRows x outPad; the last are logits and value
	grads   [][]float32 // the same shapes
	ones    []float32
	zeros   []float32 // one row of the widest layer
	lanes   [16]float32
	product kernel.Product
	odds    [blockRows / 16]kernel.Odds
	samples [blockRows / 16]kernel.Samples
	sums    kernel.LossSums
}

func (n *net) newWorkspace() *workspace {
	ws := &workspace{x: make([]float32, blockRows*n.layers[0].inPad), ones: make([]float32, blockRows)}
	if n.conv != nil {
		ws.past = make([]float32, blockRows*n.conv.row())
		ws.dx = make([]float32, len(ws.x))
	}
	for i := range ws.ones {
		ws.ones[i] = 1
	}
	ws.zeros = make([]float32, max(n.widest, n.layers[0].inPad))
	for _, l := range n.layers {
		ws.acts = append(ws.acts, make([]float32, blockRows*l.outPad))
		ws.grads = append(ws.grads, make([]float32, blockRows*l.outPad))
	}
	return ws
}

// forward computes the block of rows in x, as wide as the first layer's inPad, and
// leaves the outputs of the heads in the last of ws.acts. With a convolution x is
// ws.x, which takes its outputs too.
func (n *net) forward(k *kernel.Set, params, wt []float32, ws *workspace, x []float32, rows int) {
	if n.conv != nil {
		n.conv.forward(k, params, ws, rows, n.layers[0].inPad)
	}
	for i := range n.layers {
		l := &n.layers[i]
		out := ws.acts[i][:rows*l.outPad]
		bias := params[l.b:l.end]
		if l.heads {
			k.GemmFrom(&ws.product, bias, out, l.outPad, x, l.inPad, 1, wt[l.wt:], l.outPad, rows, l.outPad, l.used)
		} else {
			k.GemmRelu(&ws.product, bias, out, l.outPad, x, l.inPad, 1, params[l.w:l.b], l.outPad, rows, l.outPad, l.used)
		}
		x = out
	}
}

// last returns the outputs of the heads, and where their gradients go.
func (ws *workspace) last() (out, grad []float32) {
	return ws.acts[len(ws.acts)-1], ws.grads[len(ws.grads)-1]
}

// observe puts row r of the block together: its observation and, for a
// convolution, the bars before it.
func (n *net) observe(w *market.World, ws *workspace, r int, bar int32, observation []float32) {
	copy(ws.x[r*n.layers[0].inPad:], observation)
	n.recall(w, ws, r, bar)
}

// recall puts the bars before row r together, for a convolution.
func (n *net) recall(w *market.World, ws *workspace, r int, bar int32) {
	if c := n.conv; c != nil {
		w.History(bar, c.Bars, ws.past[r*c.row():(r+1)*c.row()])
	}
}

// backward adds the parameter gradients of the block to grad, of the heads alone
// when the trunk is frozen. The gradient of the last layer's output is in
// ws.grads[last].
func (n *net) backward(k *kernel.Set, params, wt, grad []float32, ws *workspace, rows int, frozen bool) {
	for i := len(n.layers) - 1; i >= 0; i-- {
		l := &n.layers[i]
		dy := ws.grads[i][:rows*l.outPad]
		in := ws.x
		if i > 0 {
			in = ws.acts[i-1]
		}
		back := wt[l.wt : l.wt+l.inPad*l.outPad]
		if l.heads {
			k.Gemm(&ws.product, grad[l.w:l.b], l.inPad, dy, 1, l.outPad, in, l.inPad, l.out, l.inPad, rows)
			k.Gemm(&ws.product, grad[l.b:l.end], l.outPad, ws.ones, 1, 1, dy, l.outPad, 1, l.outPad, rows)
			back = params[l.w:l.b]
		} else {
			k.Gemm(&ws.product, grad[l.w:l.b], l.outPad, in, 1, l.inPad, dy, l.outPad, l.used, l.outPad, rows)
			k.SumRows(grad[l.b:l.end], dy, l.outPad, rows)
		}
		if frozen || i == 0 && n.conv == nil {
			return
		}
		dx, y := ws.dx, ws.x
		if i > 0 {
			dx, y = ws.grads[i-1], ws.acts[i-1]
		}
		k.GemmGated(&ws.product, ws.zeros, dx, l.inPad, dy, l.outPad, 1, back, l.inPad, rows, l.inPad, l.out, y)
	}
	n.conv.backward(k, grad, ws, rows, n.layers[0].inPad)
}
