// Package onnx writes a specialist's network as an ONNX model, for runtimes that
// are not ours. It encodes the few messages of the format that a feed-forward
// network needs (onnx.proto3, IR version 8, operator set 13) by hand: the official
// schema would be a dependency of ten thousand generated lines.
package onnx

import (
	"fmt"
	"maps"
	"slices"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/ultrathink-pilot/trainyard/libs/safetensors"
)

// Network names what is exported. Tensors are those of the learner: history.weight
// and .bias of a temporal trunk, trunk.N, policy and value, float32.
type Network struct {
	Observation int // width of the observation
	// Bars and Stride are of the temporal trunk; zero means none.
	Bars, Stride int
	Tensors      []safetensors.Tensor
	// Metadata goes into the model's properties.
	Metadata map[string]string
}

// Encode returns the model's bytes. Its input "observation" is [batch, Observation],
// with a temporal trunk "history" is [batch, Bars, features], oldest bar first, both
// standardised; its outputs are "logits" [batch, actions] and "value" [batch, 1].
func Encode(n Network) ([]byte, error) {
	g := &graph{network: n, byName: map[string]*safetensors.Tensor{}}
	for i := range n.Tensors {
		t := &n.Tensors[i]
		if t.DType != "F32" {
			return nil, fmt.Errorf("onnx: tensor %q is %s, not F32", t.Name, t.DType)
		}
		g.byName[t.Name] = t
	}
	if err := g.build(); err != nil {
		return nil, err
	}
	var m message
	m.number(1, 8) // ir_version
	m.text(2, "trainyard")
	m.bytes(7, g.encode())
	m.sub(8, func(o *message) { o.number(2, 13) }) // opset_import
	for _, key := range slices.Sorted(maps.Keys(n.Metadata)) {
		m.sub(14, func(p *message) { p.text(1, key); p.text(2, n.Metadata[key]) })
	}
	return m, nil
}

// graph collects the parts of a GraphProto.
type graph struct {
	network Network
	byName  map[string]*safetensors.Tensor
	nodes   message
	weights message
	inputs  message
	outputs message
}

func (g *graph) encode() []byte {
	var m message
	m = append(m, g.nodes...)
	m.text(2, "specialist")
	m = append(append(append(m, g.weights...), g.inputs...), g.outputs...)
	return m
}

func (g *graph) build() error {
	g.inputs.sub(11, valueInfo("observation", g.network.Observation))
	at := "observation"
	if g.network.Bars > 0 {
		w := g.byName["history.weight"]
		if w == nil || len(w.Shape) != 3 {
			return fmt.Errorf("onnx: a temporal trunk without history.weight")
		}
		if err := g.take("history"); err != nil {
			return err
		}
		g.inputs.sub(11, valueInfo("history", g.network.Bars, w.Shape[1]))
		g.node("Transpose", []string{"history"}, "by_feature", ints("perm", 0, 2, 1))
		g.node("Conv", []string{"by_feature", "history.weight", "history.bias"}, "convolved",
			ints("kernel_shape", w.Shape[2]), ints("strides", g.network.Stride))
		g.node("Relu", []string{"convolved"}, "active")
		g.node("Transpose", []string{"active"}, "by_position", ints("perm", 0, 2, 1))
		g.node("Flatten", []string{"by_position"}, "seen", number("axis", 1))
		g.node("Concat", []string{at, "seen"}, "joined", number("axis", 1))
		at = "joined"
	}
	for i := 0; ; i++ {
		name := fmt.Sprintf("trunk.%d", i)
		if g.byName[name+".weight"] == nil {
			break
		}
		if err := g.affine(name, at, name+".out"); err != nil {
			return err
		}
		g.node("Relu", []string{name + ".out"}, name+".active")
		at = name + ".active"
	}
	for _, head := range []struct{ name, out string }{{"policy", "logits"}, {"value", "value"}} {
		if err := g.affine(head.name, at, head.out); err != nil {
			return err
		}
		g.outputs.sub(12, valueInfo(head.out, g.byName[head.name+".weight"].Shape[0]))
	}
	return nil
}

// take adds a layer's weight and bias to the model.
func (g *graph) take(layer string) error {
	for _, name := range []string{layer + ".weight", layer + ".bias"} {
		t := g.byName[name]
		if t == nil {
			return fmt.Errorf("onnx: tensor %q is missing", name)
		}
		g.weights.sub(5, func(m *message) {
			for _, d := range t.Shape {
				m.number(1, uint64(d))
			}
			m.number(2, 1) // FLOAT
			m.text(8, name)
			m.bytes(9, t.Data) // raw_data: little-endian, as ours
		})
	}
	return nil
}

// affine is x*Wᵀ + b, with PyTorch's layout of W.
func (g *graph) affine(layer, from, to string) error {
	if err := g.take(layer); err != nil {
		return err
	}
	g.node("Gemm", []string{from, layer + ".weight", layer + ".bias"}, to, number("transB", 1))
	return nil
}

func (g *graph) node(operator string, inputs []string, output string, attributes ...func(*message)) {
	g.nodes.sub(1, func(m *message) {
		for _, in := range inputs {
			m.text(1, in)
		}
		m.text(2, output)
		m.text(3, output) // the node is named after its output
		m.text(4, operator)
		for _, a := range attributes {
			m.sub(5, a)
		}
	})
}

// number is an attribute of one integer.
func number(name string, v int) func(*message) {
	return func(m *message) {
		m.text(1, name)
		m.number(3, uint64(v))
		m.number(20, 2) // INT
	}
}

// ints is an attribute of several.
func ints(name string, values ...int) func(*message) {
	return func(m *message) {
		m.text(1, name)
		for _, v := range values {
			m.number(8, uint64(v))
		}
		m.number(20, 7) // INTS
	}
}

// valueInfo is a float tensor [batch, dims...].
func valueInfo(name string, dims ...int) func(*message) {
	return func(m *message) {
		m.text(1, name)
		m.sub(2, func(t *message) { // TypeProto
			t.sub(1, func(t *message) { // Tensor
				t.number(1, 1) // FLOAT
				t.sub(2, func(s *message) {
					s.sub(1, func(d *message) { d.text(2, "batch") })
					for _, n := range dims {
						s.sub(1, func(d *message) { d.number(1, uint64(n)) })
					}
				})
			})
		})
	}
}

// message is a protobuf message in the making.
type message []byte

func (m *message) number(field protowire.Number, v uint64) {
	*m = protowire.AppendVarint(protowire.AppendTag(*m, field, protowire.VarintType), v)
}

func (m *message) bytes(field protowire.Number, v []byte) {
	*m = protowire.AppendBytes(protowire.AppendTag(*m, field, protowire.BytesType), v)
}

func (m *message) text(field protowire.Number, v string) { m.bytes(field, []byte(v)) }

func (m *message) sub(field protowire.Number, fill func(*message)) {
	var inner message
	fill(&inner)
	m.bytes(field, inner)
}
