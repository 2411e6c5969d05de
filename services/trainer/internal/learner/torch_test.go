package learner

import (
	"encoding/binary"
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/ultrathink-pilot/trainyard/libs/pth"
	"github.com/ultrathink-pilot/trainyard/libs/safetensors"
	"github.com/ultrathink-pilot/trainyard/services/trainer/internal/learner/kernel"
	"github.com/ultrathink-pilot/trainyard/services/trainer/internal/market"
)

// TestAgreesWithPyTorch reads weights, inputs, outputs, loss and gradients that
// PyTorch computed (libs/pth/testdata/fixtures.py) and computes them again, with
// every kernel: forward to 1e-5, gradients to 1e-4 of their size.
func TestAgreesWithPyTorch(t *testing.T) {
	t.Parallel()
	agree(t, newNet([]int{128, 128}, Temporal{}, market.ObservationWidth), filepath.Join("..", "..", "..", "..", "libs", "pth", "testdata", "specialist.pth"))
}

// TestTheTemporalTrunkAgreesWithPyTorch does the same with a convolution whose
// filters overlap (testdata/temporal.py).
func TestTheTemporalTrunkAgreesWithPyTorch(t *testing.T) {
	t.Parallel()
	agree(t, newNet([]int{32, 32}, Temporal{Bars: 14, Width: 5, Stride: 3, Channels: 16}, 22), filepath.Join("testdata", "temporal.pth"))
}

func agree(t *testing.T, n *net, path string) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	file, err := pth.Read(data, pth.Options{})
	if err != nil {
		t.Fatal(err)
	}
	byName := map[string]pth.Tensor{}
	var weights, grads []safetensors.Tensor
	for _, x := range file.Tensors {
		byName[x.Name] = x
		for prefix, list := range map[string]*[]safetensors.Tensor{"weights.": &weights, "grads.": &grads} {
			if len(x.Name) > len(prefix) && x.Name[:len(prefix)] == prefix {
				*list = append(*list, safetensors.Tensor{Name: x.Name[len(prefix):], DType: x.DType, Shape: x.Shape, Data: x.Data})
			}
		}
	}
	values := func(name string) []float32 {
		x := byName[name]
		v, err := x.Float32s()
		if err != nil || len(v) == 0 {
			t.Fatalf("%s: %v", name, err)
		}
		return v
	}
	params, want, wt := make([]float32, n.size), make([]float32, n.size), make([]float32, n.wtSize)
	if err := n.setTensors(params, weights); err != nil {
		t.Fatal(err)
	}
	if err := n.setTensors(want, grads); err != nil {
		t.Fatal(err)
	}
	x, logits, value := values("x"), values("logits"), values("value")
	old, adv, target := values("old"), values("adv"), values("target")
	actions := byName["actions"].Data
	rows := len(value)
	for _, name := range kernel.Names() {
		k, err := kernel.Named(name)
		if err != nil {
			t.Fatal(err)
		}
		ws := n.newWorkspace()
		n.transpose(k, wt, params)
		stride := n.layers[0].inPad
		for r := range rows {
			copy(ws.x[r*stride:], x[r*market.ObservationWidth:(r+1)*market.ObservationWidth])
			if c := n.conv; c != nil {
				past := values("past")
				for b := range c.Bars {
					copy(ws.past[r*c.row()+b*c.width:], past[(r*c.Bars+b)*c.features:(r*c.Bars+b+1)*c.features])
				}
			}
		}
		n.forward(k, params, wt, ws, ws.x, rows)
		out, dout := ws.last()
		weights := new(kernel.LossWeights)
		weights.Set(0.2, 0.5, 0.05)
		for r := range rows {
			for a := range market.Actions {
				if d := math.Abs(float64(out[r*heads+a] - logits[r*market.Actions+a])); d > 1e-5 {
					t.Fatalf("%s: logit %d of row %d differs by %v", name, a, r, d)
				}
			}
			if d := math.Abs(float64(out[r*heads+heads-1] - value[r])); d > 1e-5 {
				t.Fatalf("%s: value of row %d differs by %v", name, r, d)
			}
			ws.place(r, int8(binary.LittleEndian.Uint64(actions[8*r:])), old[r], adv[r], target[r])
		}
		k.Loss(out, dout, ws.samples[:ws.groups(rows)], weights, &ws.sums)
		var sums lossSums
		sums.take(&ws.sums, rows)
		loss := sums.policy + 0.5*sums.value - 0.05*sums.entropy
		if d := math.Abs(loss - float64(values("loss")[0])); d > 1e-5 {
			t.Errorf("%s: the loss differs by %v", name, d)
		}
		grad := make([]float32, n.size)
		n.backward(k, params, wt, grad, ws, rows, false)
		for i := range want {
			if d := math.Abs(float64(grad[i] - want[i])); d > 1e-5+1e-4*math.Abs(float64(want[i])) {
				t.Fatalf("%s: gradient %d is %v, PyTorch has %v", name, i, grad[i], want[i])
			}
		}
	}
}
