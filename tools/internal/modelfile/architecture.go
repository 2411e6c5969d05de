package modelfile

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/ultrathink-pilot/trainyard/libs/pth"
	"github.com/ultrathink-pilot/trainyard/libs/safetensors"
)

// Architecture is what a file's weights compute: a policy and a value over dense
// layers, which they share, have of their own, or both, and perhaps a convolution
// over the last bars. Convert makes the one form of it that the built-in learner
// trains and serves: a shared trunk with a policy and a value on top.
type Architecture struct {
	Inputs int `json:"inputs"`
	// Hidden are the widths of the converted trunk: layers that policy and value
	// had of their own stand side by side in it.
	Hidden  []int `json:"hidden"`
	Actions int   `json:"actions"`
	// Activation follows every layer but the last ones: "relu" or "tanh". A file
	// does not say it.
	Activation string    `json:"activation"`
	Temporal   *Temporal `json:"temporal,omitempty"`
	// Layers are in the order of the computation, the shared ones first.
	Layers []Layer `json:"layers"`
	// Ignored are the tensors that are not part of it, such as the optimizer's.
	Ignored []string `json:"ignored,omitempty"`

	history               *Layer
	shared, actor, critic []*Layer // actor and critic end with the heads; critic may be empty
}

// Temporal is a 1-D convolution over the features of the last bars, whose outputs
// join the observation.
type Temporal struct {
	Bars     int `json:"bars" yaml:"bars"`
	Stride   int `json:"stride" yaml:"stride"`
	Width    int `json:"width" yaml:"-"`
	Channels int `json:"channels" yaml:"-"`
	Features int `json:"features" yaml:"-"`
}

func (t *Temporal) positions() int { return (t.Bars-t.Width)/t.Stride + 1 }

// Layer is one affine map.
type Layer struct {
	// From is its name in the file, To its role: trunk.N is shared, actor.N and
	// critic.N are of one of them, then policy, value, and history for a convolution.
	From    string `json:"from"`
	To      string `json:"to"`
	Inputs  int    `json:"inputs"`
	Outputs int    `json:"outputs"`
	weight  *safetensors.Tensor
	bias    *safetensors.Tensor // nil means zeros
	w, b    []float32           // their values, once they are needed
}

// join orders the layers by their roles and checks that each fits on the one before.
func (a *Architecture) join(layers []*Layer, m *Mapping) error {
	byRole := map[string]*Layer{}
	for _, l := range layers {
		if other := byRole[l.To]; other != nil {
			return fmt.Errorf("%q and %q are both %s", other.From, l.From, l.To)
		}
		byRole[l.To] = l
	}
	policy, value := byRole["policy"], byRole["value"]
	if policy == nil {
		return errors.New("no layer is the policy")
	}
	taken := 0
	series := func(role string) (out []*Layer) {
		for i := 0; byRole[fmt.Sprintf("%s.%d", role, i)] != nil; i++ {
			out = append(out, byRole[fmt.Sprintf("%s.%d", role, i)])
		}
		taken += len(out)
		return out
	}
	a.shared, a.actor, a.critic = series("trunk"), append(series("actor"), policy), series("critic")
	taken++
	if value != nil {
		a.critic = append(a.critic, value)
		taken++
	}
	if a.history = byRole["history"]; a.history != nil {
		taken++
	}
	switch {
	case taken != len(layers):
		return errors.New("layers are not numbered without a gap from trunk.0, actor.0 or critic.0")
	case value == nil && len(a.critic) > 0:
		return errors.New("there are critic layers, but no layer is the value")
	}
	a.Inputs = append(slices.Clone(a.shared), a.actor...)[0].Inputs
	width := a.Inputs
	for i, l := range a.shared {
		if i > 0 && l.Inputs != width {
			return fmt.Errorf("%q takes %d inputs, but the layer before it gives %d: the order or the roles are other ones", l.From, l.Inputs, width)
		}
		width = l.Outputs
	}
	for _, tower := range [][]*Layer{a.actor, a.critic} {
		at := width
		for i, l := range tower {
			switch {
			case i == 0 && l.Inputs != at && len(tower) == 1:
				return fmt.Errorf("the %s %q takes %d inputs, but the trunk gives %d: they do not share one trunk", l.To, l.From, l.Inputs, at)
			case l.Inputs != at:
				return fmt.Errorf("%q takes %d inputs, but the layer before it gives %d: the order or the roles are other ones", l.From, l.Inputs, at)
			}
			at = l.Outputs
		}
	}
	if value != nil && value.Outputs != 1 {
		return fmt.Errorf("the value %q has %d outputs, not one", value.From, value.Outputs)
	}
	a.Actions = policy.Outputs
	a.Activation = m.Activation
	if a.Activation == "" {
		a.Activation = presumed(layers)
	}
	if err := a.joinHistory(m); err != nil {
		return err
	}
	for _, l := range slices.Concat(a.shared, a.actor, a.critic) {
		a.Layers = append(a.Layers, *l)
	}
	return a.widths()
}

// mostBars bounds what a history takes, mostWidth a layer in which policy and value
// stand side by side: it is as wide as the learner's may be.
const (
	mostBars  = 4096
	mostWidth = 4096
)

// joinHistory checks the convolution against the first layer that it feeds.
func (a *Architecture) joinHistory(m *Mapping) error {
	l := a.history
	switch {
	case l == nil && m.Temporal != nil:
		return errors.New("the mapping has a temporal part, but no layer is the history")
	case l == nil:
		return nil
	case m.Temporal == nil:
		return fmt.Errorf("%q is a convolution: how many bars it sees and its stride are not in the file; say them in a mapping: temporal: {bars: N, stride: N}", l.From)
	}
	shape := l.weight.Shape
	t := &Temporal{Bars: m.Temporal.Bars, Stride: m.Temporal.Stride, Channels: shape[0], Features: shape[1], Width: shape[2]}
	if t.Bars < t.Width || t.Stride < 1 {
		return fmt.Errorf("temporal: filters of %d bars do not fit on %d bars with a stride of %d", t.Width, t.Bars, t.Stride)
	}
	if t.Bars > mostBars || t.Features > mostBars {
		return fmt.Errorf("temporal: %d bars of %d features: at most %d of each", t.Bars, t.Features, mostBars)
	}
	if len(a.shared) == 0 {
		return fmt.Errorf("the convolution %q feeds no shared layer: the learner has one convolution for both policy and value", l.From)
	}
	observation := a.Inputs - t.positions()*t.Channels
	if observation < 1 {
		return fmt.Errorf("temporal: %d positions of %d channels are more than the %d inputs of %q", t.positions(), t.Channels, a.Inputs, a.shared[0].From)
	}
	a.Temporal, a.Inputs = t, observation
	a.Layers = append(a.Layers, *l)
	return nil
}

// widths computes the converted trunk's, and says why there is none.
func (a *Architecture) widths() error {
	for _, l := range a.shared {
		a.Hidden = append(a.Hidden, l.Outputs)
	}
	if len(a.critic) == 0 {
		for _, l := range a.actor[:len(a.actor)-1] {
			a.Hidden = append(a.Hidden, l.Outputs)
		}
		return nil
	}
	deep := max(len(a.actor), len(a.critic)) - 1
	if len(a.actor) != len(a.critic) {
		short := min(len(a.actor), len(a.critic)) - 1
		if a.Activation != "relu" {
			return fmt.Errorf("policy and value have %d and %d layers of their own: only under relu can the shorter be carried along (if they do use it, say activation: relu in a mapping)", len(a.actor)-1, len(a.critic)-1)
		}
		if short == 0 && len(a.shared) == 0 {
			return errors.New("policy or value takes the observation directly, the other through layers: a shared trunk cannot carry the observation along")
		}
	}
	for i := range deep {
		width := a.side(a.actor, i) + a.side(a.critic, i)
		if width > mostWidth {
			return fmt.Errorf("policy and value side by side are %d wide: the learner has at most %d", width, mostWidth)
		}
		a.Hidden = append(a.Hidden, width)
	}
	return nil
}

// side is the width of a tower at a level of the trunk: that of its last layer
// where it is shorter.
func (a *Architecture) side(tower []*Layer, level int) int {
	if own := len(tower) - 1; own > 0 {
		return tower[min(level, own-1)].Outputs
	}
	return a.shared[len(a.shared)-1].Outputs
}

// read converts the weights to float32.
func (a *Architecture) read() error {
	all := slices.Concat(a.shared, a.actor, a.critic)
	if a.history != nil {
		all = append(all, a.history)
	}
	for _, l := range all {
		var err error
		if l.w, err = float32s(l.weight); err != nil {
			return err
		}
		l.b = make([]float32, l.Outputs)
		if l.bias != nil {
			if l.b, err = float32s(l.bias); err != nil {
				return err
			}
		}
	}
	return nil
}

// dense is a layer of the converted network.
type dense struct {
	name            string
	inputs, outputs int
	w, b            []float32
}

func newDense(name string, inputs, outputs int) dense {
	return dense{name, inputs, outputs, make([]float32, inputs*outputs), make([]float32, outputs)}
}

// put copies a layer to a corner of the matrix; a nil layer passes width values on.
func (d *dense) put(l *Layer, width, row, column int) {
	if l == nil {
		for i := range width {
			d.w[(row+i)*d.inputs+column+i] = 1
		}
		return
	}
	for o := range l.Outputs {
		copy(d.w[(row+o)*d.inputs+column:], l.w[o*l.Inputs:(o+1)*l.Inputs])
		d.b[row+o] = l.b[o]
	}
}

// merged puts layers of policy and value beside each other. What a shorter tower
// gives is not negative, so that a relu passes it on unchanged.
func (a *Architecture) merged() []dense {
	var out []dense
	at := 0
	add := func(outputs int, build func(d *dense)) {
		d := newDense(fmt.Sprintf("trunk.%d", len(out)), at, outputs)
		build(&d)
		out, at = append(out, d), outputs
	}
	at = append(slices.Clone(a.shared), a.actor...)[0].Inputs
	for _, l := range a.shared {
		add(l.Outputs, func(d *dense) { d.put(l, 0, 0, 0) })
	}
	own := func(tower []*Layer, i int) *Layer {
		if i < len(tower)-1 {
			return tower[i]
		}
		return nil
	}
	right := 0 // the column of the critic's side; at first it shares all of them
	for i := range len(a.Hidden) - len(a.shared) {
		if len(a.critic) == 0 {
			add(a.actor[i].Outputs, func(d *dense) { d.put(a.actor[i], 0, 0, 0) })
			continue
		}
		p, v := a.side(a.actor, i), a.side(a.critic, i)
		add(p+v, func(d *dense) {
			d.put(own(a.actor, i), p, 0, 0)
			d.put(own(a.critic, i), v, p, right)
		})
		right = p
	}
	policy := a.actor[len(a.actor)-1]
	d := newDense("policy", at, policy.Outputs)
	d.put(policy, 0, 0, 0)
	out = append(out, d)
	if len(a.critic) > 0 {
		value := a.critic[len(a.critic)-1]
		d := newDense("value", at, 1)
		d.put(value, 0, 0, right)
		out = append(out, d)
	}
	a.turnHistory(out)
	return out
}

// turnHistory brings the columns of what the convolution gives to the learner's
// order: position by position, where PyTorch's flatten goes channel by channel.
func (a *Architecture) turnHistory(layers []dense) {
	t := a.Temporal
	if t == nil {
		return
	}
	first, n := &layers[0], t.positions()
	for o := range first.outputs {
		row := first.w[o*first.inputs+a.Inputs:][:n*t.Channels]
		old := slices.Clone(row)
		for c := range t.Channels {
			for p := range n {
				row[p*t.Channels+c] = old[c*n+p]
			}
		}
	}
}

// Convert returns the weights under the learner's names, as float32. A layer
// without a bias gets zeros. The conversion is tried out: that it computes what the
// file's layers compute is not taken for granted.
func (a *Architecture) Convert() ([]safetensors.Tensor, error) {
	if err := a.read(); err != nil {
		return nil, err
	}
	layers := a.merged()
	if err := a.prove(layers); err != nil {
		return nil, err
	}
	var out []safetensors.Tensor
	if t := a.Temporal; t != nil {
		out = append(out, safetensors.Float32("history.weight", a.history.w, t.Channels, t.Features, t.Width), safetensors.Float32("history.bias", a.history.b, t.Channels))
	}
	for _, l := range layers {
		out = append(out, safetensors.Float32(l.name+".weight", l.w, l.outputs, l.inputs), safetensors.Float32(l.name+".bias", l.b, l.outputs))
	}
	return out, nil
}

func float32s(t *safetensors.Tensor) ([]float32, error) {
	p := pth.Tensor{Name: t.Name, DType: t.DType, Shape: t.Shape, Data: t.Data}
	if n := notFinite(t.DType, t.Data); n > 0 {
		return nil, fmt.Errorf("the tensor %q has %d values that are NaN or infinite", t.Name, n)
	}
	values, err := p.Float32s()
	if err != nil {
		return nil, err
	}
	for _, v := range values {
		if math.IsInf(float64(v), 0) {
			return nil, fmt.Errorf("the tensor %q has values that a float32 cannot hold", t.Name)
		}
	}
	return values, nil
}

func floating(dtype string) bool {
	return dtype == "F32" || dtype == "F64" || dtype == "F16" || dtype == "BF16"
}

// String describes the network in a line.
func (a *Architecture) String() string {
	text := fmt.Sprintf("%d inputs, hidden %v, %d actions, %s", a.Inputs, a.Hidden, a.Actions, a.Activation)
	if t := a.Temporal; t != nil {
		text += fmt.Sprintf(", %d filters of %d bars at every %d of %d", t.Channels, t.Width, t.Stride, t.Bars)
	}
	if own := func(tower []*Layer) int { return max(len(tower)-1, 0) }; own(a.critic) > 0 || len(a.critic) > 0 && own(a.actor) > 0 {
		text += fmt.Sprintf(" (%d layers shared, %d of the policy and %d of the value side by side)", len(a.shared), own(a.actor), own(a.critic))
	}
	return text
}

func names(layers []*Layer) string {
	all := make([]string, len(layers))
	for i, l := range layers {
		all[i] = fmt.Sprintf("%s [%d x %d]", l.From, l.Outputs, l.Inputs)
	}
	return list(all)
}

// list joins names, the first dozen of them.
func list(names []string) string {
	const most = 12
	if len(names) > most {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), len(names)-most)
	}
	return strings.Join(names, ", ")
}
