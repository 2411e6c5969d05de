package learner

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/ultrathink-pilot/trainyard/libs/safetensors"
	"github.com/ultrathink-pilot/trainyard/services/trainer/internal/market"
)

// Tensors returns the weights by name, in PyTorch's layouts: history.weight
// [channels x features x width] and history.bias of a temporal trunk, then
// trunk.N.weight [outputs x inputs], trunk.N.bias, policy.weight, policy.bias,
// value.weight, value.bias. They are copies.
func (l *Learner) Tensors() []safetensors.Tensor { return l.net.tensors(l.params) }

func (n *net) tensors(params []float32) []safetensors.Tensor {
	var out []safetensors.Tensor
	if c := n.conv; c != nil {
		values := make([]float32, 0, c.Channels*c.features*c.Width)
		c.each(func(at int) { values = append(values, params[at]) })
		out = append(out, safetensors.Float32("history.weight", values, c.Channels, c.features, c.Width),
			safetensors.Float32("history.bias", params[c.b:c.b+c.Channels], c.Channels))
	}
	for _, p := range n.parts() {
		values := make([]float32, 0, p.outputs*p.layer.in)
		for o := p.from; o < p.from+p.outputs; o++ {
			for i := range p.layer.in {
				values = append(values, params[p.layer.at(i, o)])
			}
		}
		bias := params[p.layer.b+p.from : p.layer.b+p.from+p.outputs]
		out = append(out, safetensors.Float32(p.name+".weight", values, p.outputs, p.layer.in),
			safetensors.Float32(p.name+".bias", bias, p.outputs))
	}
	return out
}

// part is a named slice of a layer's outputs.
type part struct {
	name          string
	layer         layer
	from, outputs int
}

func (n *net) parts() []part {
	var out []part
	last := len(n.layers) - 1
	for i, l := range n.layers[:last] {
		out = append(out, part{fmt.Sprintf("trunk.%d", i), l, 0, l.out})
	}
	return append(out, part{"policy", n.layers[last], 0, market.Actions}, part{"value", n.layers[last], market.Actions, 1})
}

// SetTrunk takes the trunk from another network's tensors and leaves policy and
// value as they are.
func (l *Learner) SetTrunk(tensors []safetensors.Tensor) error {
	var mixed []safetensors.Tensor
	for _, t := range tensors {
		if !head(t.Name) {
			mixed = append(mixed, t)
		}
	}
	for _, t := range l.Tensors() {
		if head(t.Name) {
			mixed = append(mixed, t)
		}
	}
	return l.SetTensors(mixed)
}

// head reports whether a tensor is of the policy or the value.
func head(name string) bool {
	return strings.HasPrefix(name, "policy.") || strings.HasPrefix(name, "value.")
}

// SetTensors replaces the weights. Every tensor of the network must be there with
// its shape and finite values; others are refused. Optimizer state is kept.
func (l *Learner) SetTensors(tensors []safetensors.Tensor) error {
	params := make([]float32, l.net.size)
	if err := l.net.setTensors(params, tensors); err != nil {
		return err
	}
	copy(l.params, params)
	l.net.transpose(l.kernel, l.wt, l.params)
	return nil
}

func (n *net) setTensors(params []float32, tensors []safetensors.Tensor) error {
	byName := make(map[string]*safetensors.Tensor, len(tensors))
	for i := range tensors {
		byName[tensors[i].Name] = &tensors[i]
	}
	take := func(name string, shape ...int) ([]float32, error) {
		t := byName[name]
		if t == nil {
			return nil, fmt.Errorf("weights: tensor %q is missing", name)
		}
		delete(byName, name)
		if !slices.Equal(t.Shape, shape) {
			return nil, fmt.Errorf("weights: tensor %q has shape %v, this network needs %v", name, t.Shape, shape)
		}
		values, err := t.Float32s()
		if err != nil {
			return nil, err
		}
		for _, v := range values {
			if v != v || math.IsInf(float64(v), 0) {
				return nil, fmt.Errorf("weights: tensor %q has a value that is not finite", name)
			}
		}
		return values, nil
	}
	if c := n.conv; c != nil {
		values, err := take("history.weight", c.Channels, c.features, c.Width)
		if err != nil {
			return err
		}
		i := 0
		c.each(func(at int) {
			params[at] = values[i]
			i++
		})
		bias, err := take("history.bias", c.Channels)
		if err != nil {
			return err
		}
		copy(params[c.b:], bias)
	}
	for _, p := range n.parts() {
		values, err := take(p.name+".weight", p.outputs, p.layer.in)
		if err != nil {
			return err
		}
		for o := range p.outputs {
			for i := range p.layer.in {
				params[p.layer.at(i, p.from+o)] = values[o*p.layer.in+i]
			}
		}
		bias, err := take(p.name+".bias", p.outputs)
		if err != nil {
			return err
		}
		copy(params[p.layer.b+p.from:], bias)
	}
	for name := range byName {
		return fmt.Errorf("weights: tensor %q does not belong to this network", name)
	}
	return nil
}

// Finite reports whether every weight is a number.
func (l *Learner) Finite() bool {
	for _, v := range l.params {
		if v != v || math.IsInf(float64(v), 0) {
			return false
		}
	}
	return true
}

// stateHeader guards a state against another configuration.
type stateHeader struct {
	Size, Envs, Shards, Steps, BatchRows, Passes uint64
	Seed                                         uint64
}

func (l *Learner) header() stateHeader {
	c := &l.cfg
	return stateHeader{uint64(l.net.size), uint64(c.Envs), Shards, uint64(c.Steps), uint64(c.BatchRows), uint64(c.Passes), c.Seed}
}

// State returns everything but the weights that the next Collect and Update
// depend on: optimizer, random sources, environments. Weights are in Tensors.
func (l *Learner) State() ([]byte, error) {
	var b bytes.Buffer
	put := func(v any) error { return binary.Write(&b, binary.LittleEndian, v) }
	if err := errors.Join(put(l.header()), put(l.adamSteps), put(l.adamM), put(l.adamV)); err != nil {
		return nil, err
	}
	sources := append([]interface{ MarshalBinary() ([]byte, error) }{l.shuffle}, l.shards[0].src, l.shards[1].src, l.shards[2].src, l.shards[3].src)
	for _, src := range sources {
		data, err := src.MarshalBinary()
		if err != nil {
			return nil, err
		}
		if err := errors.Join(put(uint64(len(data))), put(data)); err != nil {
			return nil, err
		}
	}
	for _, s := range l.shards {
		if err := put(s.envs); err != nil {
			return nil, err
		}
	}
	return b.Bytes(), nil
}

// SetState restores State. Without environments they stay as they are: the
// history may have changed since. The learner is unchanged when it fails.
func (l *Learner) SetState(data []byte, environments bool) error {
	r := bytes.NewReader(data)
	get := func(v any) error { return binary.Read(r, binary.LittleEndian, v) }
	var h stateHeader
	if err := get(&h); err != nil {
		return fmt.Errorf("learner state: %w", err)
	}
	if h != l.header() {
		return fmt.Errorf("learner state: it belongs to another configuration (%+v, this one is %+v)", h, l.header())
	}
	var steps uint64
	m, v := make([]float32, l.net.size), make([]float32, l.net.size)
	if err := errors.Join(get(&steps), get(m), get(v)); err != nil {
		return fmt.Errorf("learner state: %w", err)
	}
	var sources [1 + Shards][]byte
	for i := range sources {
		var n uint64
		if err := get(&n); err != nil || n > 256 {
			return errors.New("learner state: malformed random source")
		}
		sources[i] = make([]byte, n)
		if err := get(sources[i]); err != nil {
			return fmt.Errorf("learner state: %w", err)
		}
	}
	envs := make([][]market.Env, Shards)
	for i := range envs {
		envs[i] = make([]market.Env, l.cfg.Envs/Shards)
		if err := get(envs[i]); err != nil {
			return fmt.Errorf("learner state: %w", err)
		}
		for _, e := range envs[i] {
			if environments && (e.Bar < 0 || e.End > int32(l.world.Split.Train.To) || e.Bar >= e.End || e.Position < -1 || e.Position > 1) {
				return errors.New("learner state: an environment is outside the training bars")
			}
		}
	}
	if r.Len() != 0 {
		return fmt.Errorf("learner state: %d bytes too many", r.Len())
	}
	if err := l.shuffle.UnmarshalBinary(sources[0]); err != nil {
		return fmt.Errorf("learner state: %w", err)
	}
	for i, s := range l.shards {
		if err := s.src.UnmarshalBinary(sources[1+i]); err != nil {
			return fmt.Errorf("learner state: %w", err)
		}
		if environments {
			copy(s.envs, envs[i])
		}
	}
	l.adamSteps = steps
	copy(l.adamM, m)
	copy(l.adamV, v)
	return nil
}
