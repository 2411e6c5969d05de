package modelfile

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/ultrathink-pilot/trainyard/libs/pth"
	"github.com/ultrathink-pilot/trainyard/libs/safetensors"
)

// Architecture is a shared trunk of dense layers with a policy and a value on top:
// what the built-in learner trains and serves.
type Architecture struct {
	Inputs  int   `json:"inputs"`
	Hidden  []int `json:"hidden"`
	Actions int   `json:"actions"`
	// Layers are in the order of the computation, policy and value last.
	Layers []Layer `json:"layers"`
	// Ignored are the tensors that are not part of it, such as the optimizer's.
	Ignored []string `json:"ignored,omitempty"`
}

// Layer is one affine map.
type Layer struct {
	// From is its name in the file, To its name here: trunk.0, ..., policy, value.
	From    string `json:"from"`
	To      string `json:"to"`
	Inputs  int    `json:"inputs"`
	Outputs int    `json:"outputs"`
	weight  *safetensors.Tensor
	bias    *safetensors.Tensor // nil means zeros
}

// Mapping names layers whose roles their names do not tell.
type Mapping struct {
	// Layers maps a layer's name in the file to trunk.N, policy or value.
	Layers map[string]string `yaml:"layers"`
	// Ignore are patterns (* matches anything but a slash) of tensors to leave out.
	Ignore []string `yaml:"ignore"`
}

// ParseMapping reads a mapping file. All problems come at once.
func ParseMapping(text []byte) (*Mapping, error) {
	m := &Mapping{}
	d := yaml.NewDecoder(strings.NewReader(string(text)))
	d.KnownFields(true)
	if err := d.Decode(m); err != nil {
		return nil, fmt.Errorf("the mapping is not what it should be (layers: {NAME: trunk.N | policy | value}, ignore: [PATTERN]): %w", err)
	}
	var problems []error
	for from, to := range m.Layers {
		if to != "policy" && to != "value" {
			var n int
			if _, err := fmt.Sscanf(to, "trunk.%d", &n); err != nil || n < 0 || to != fmt.Sprintf("trunk.%d", n) {
				problems = append(problems, fmt.Errorf("layers.%s: %q is none of trunk.N, policy, value", from, to))
			}
		}
	}
	for _, pattern := range m.Ignore {
		if _, err := path.Match(pattern, ""); err != nil {
			problems = append(problems, fmt.Errorf("ignore: %q is not a pattern", pattern))
		}
	}
	return m, errors.Join(problems...)
}

// Words of a layer's name that tell its role, and of subtrees that are no weights.
var (
	policyWords = []string{"policy", "actor", "pi", "action", "actions", "logits", "act"}
	valueWords  = []string{"value", "critic", "vf", "v"}
	otherWords  = []string{"optimizer", "optim", "opt", "scheduler", "ema", "target", "rng"}
)

// Infer finds the architecture in the tensors. The error says what a mapping has
// to name.
func Infer(tensors []safetensors.Tensor, m *Mapping) (*Architecture, error) {
	if m == nil {
		m = &Mapping{}
	}
	layers, ignored, err := affine(tensors, m)
	if err != nil {
		return nil, err
	}
	if len(m.Layers) > 0 {
		err = assign(layers, m)
	} else {
		err = guess(layers)
	}
	if err != nil {
		return nil, err
	}
	a := &Architecture{Ignored: ignored}
	return a, a.join(layers)
}

// affine collects the layers: a matrix NAME.weight and its vector NAME.bias.
func affine(tensors []safetensors.Tensor, m *Mapping) (layers []*Layer, ignored []string, err error) {
	byName := map[string]*safetensors.Tensor{}
	for i := range tensors {
		byName[tensors[i].Name] = &tensors[i]
	}
	used := map[string]bool{}
	for i := range tensors {
		t := &tensors[i]
		name, ok := strings.CutSuffix(t.Name, ".weight")
		if !ok || len(t.Shape) != 2 || !floating(t.DType) || leftOut(t.Name, m) {
			continue
		}
		l := &Layer{From: name, Inputs: t.Shape[1], Outputs: t.Shape[0], weight: t}
		used[t.Name] = true
		if b := byName[name+".bias"]; b != nil && slices.Equal(b.Shape, []int{l.Outputs}) && floating(b.DType) {
			l.bias = b
			used[b.Name] = true
		}
		layers = append(layers, l)
	}
	var stray []string
	for i := range tensors {
		switch name := tensors[i].Name; {
		case used[name]:
		case leftOut(name, m):
			ignored = append(ignored, name)
		default:
			stray = append(stray, name)
		}
	}
	switch {
	case len(layers) == 0:
		return nil, nil, errors.New("no tensor NAME.weight with two dimensions: not a network of dense layers")
	case len(stray) > 0:
		return nil, nil, fmt.Errorf("these tensors belong to no dense layer: %s", list(stray))
	}
	return layers, ignored, nil
}

// leftOut reports whether a tensor is not part of the network.
func leftOut(name string, m *Mapping) bool {
	for _, pattern := range m.Ignore {
		if ok, _ := path.Match(pattern, name); ok {
			return true
		}
	}
	if len(m.Layers) > 0 {
		for from := range m.Layers {
			if name == from+".weight" || name == from+".bias" {
				return false
			}
		}
	}
	return hasWord(name, otherWords)
}

// hasWord looks for a word in the parts of a dotted name.
func hasWord(name string, words []string) bool {
	for _, part := range strings.FieldsFunc(strings.ToLower(name), func(r rune) bool { return r == '.' || r == '_' || r == '-' }) {
		if slices.Contains(words, strings.TrimRight(part, "0123456789")) {
			return true
		}
	}
	return false
}

// assign follows the mapping.
func assign(layers []*Layer, m *Mapping) error {
	var problems []error
	seen := map[string]bool{}
	for _, l := range layers {
		l.To = m.Layers[l.From]
		seen[l.From] = true
		if l.To == "" {
			problems = append(problems, fmt.Errorf("the mapping says nothing of the layer %q", l.From))
		}
	}
	for from := range m.Layers {
		if !seen[from] {
			problems = append(problems, fmt.Errorf("the mapping names a layer %q that the file does not have", from))
		}
	}
	return errors.Join(problems...)
}

// guess finds the heads by their names, else by their widths; the rest is the trunk
// in the order of the file, which is the order in which PyTorch was given it.
func guess(layers []*Layer) error {
	policy, value := heads(layers)
	if policy == nil {
		return fmt.Errorf("which layer is the policy? %s: none of their names tells, nor has exactly one of them three outputs", names(layers))
	}
	policy.To = "policy"
	if value != nil {
		value.To = "value"
	}
	n := 0
	for _, l := range layers {
		if l.To == "" {
			l.To = fmt.Sprintf("trunk.%d", n)
			n++
		}
	}
	return nil
}

func heads(layers []*Layer) (policy, value *Layer) {
	only := func(is func(l *Layer) bool) *Layer {
		var found *Layer
		for _, l := range layers {
			if is(l) {
				if found != nil {
					return nil
				}
				found = l
			}
		}
		return found
	}
	policy = only(func(l *Layer) bool { return hasWord(l.From, policyWords) && !hasWord(l.From, valueWords) })
	if policy == nil {
		policy = only(func(l *Layer) bool { return l.Outputs == 3 })
	}
	value = only(func(l *Layer) bool { return l != policy && l.Outputs == 1 && hasWord(l.From, valueWords) })
	if value == nil {
		value = only(func(l *Layer) bool { return l != policy && l.Outputs == 1 })
	}
	return policy, value
}

// join orders the layers and checks that each fits on the one before.
func (a *Architecture) join(layers []*Layer) error {
	byRole := map[string]*Layer{}
	for _, l := range layers {
		if other := byRole[l.To]; other != nil {
			return fmt.Errorf("%q and %q are both %s", other.From, l.From, l.To)
		}
		byRole[l.To] = l
	}
	policy := byRole["policy"]
	if policy == nil {
		return errors.New("no layer is the policy")
	}
	width := 0
	for i := 0; ; i++ {
		l := byRole[fmt.Sprintf("trunk.%d", i)]
		if l == nil {
			break
		}
		if i == 0 {
			a.Inputs = l.Inputs
		} else if l.Inputs != width {
			return fmt.Errorf("%q takes %d inputs, but the layer before it gives %d: the order or the roles are other ones", l.From, l.Inputs, width)
		}
		width = l.Outputs
		a.Hidden = append(a.Hidden, width)
		a.Layers = append(a.Layers, *l)
	}
	if len(a.Hidden) == 0 {
		a.Inputs, width = policy.Inputs, policy.Inputs
	}
	for _, role := range []string{"policy", "value"} {
		l := byRole[role]
		if l == nil {
			continue
		}
		if l.Inputs != width {
			return fmt.Errorf("the %s %q takes %d inputs, but the trunk gives %d: they do not share one trunk", role, l.From, l.Inputs, width)
		}
		a.Layers = append(a.Layers, *l)
	}
	if v := byRole["value"]; v != nil && v.Outputs != 1 {
		return fmt.Errorf("the value %q has %d outputs, not one", v.From, v.Outputs)
	}
	if len(a.Layers) != len(layers) {
		return errors.New("the trunk's layers are not numbered without a gap from trunk.0")
	}
	a.Actions = policy.Outputs
	return nil
}

// Convert returns the weights under their names here, as float32. A layer without
// a bias gets zeros.
func (a *Architecture) Convert() ([]safetensors.Tensor, error) {
	var out []safetensors.Tensor
	for _, l := range a.Layers {
		w, err := float32s(l.weight)
		if err != nil {
			return nil, err
		}
		b := make([]float32, l.Outputs)
		if l.bias != nil {
			if b, err = float32s(l.bias); err != nil {
				return nil, err
			}
		}
		out = append(out, safetensors.Float32(l.To+".weight", w, l.Outputs, l.Inputs), safetensors.Float32(l.To+".bias", b, l.Outputs))
	}
	return out, nil
}

func float32s(t *safetensors.Tensor) ([]float32, error) {
	p := pth.Tensor{Name: t.Name, DType: t.DType, Shape: t.Shape, Data: t.Data}
	if n := notFinite(t.DType, t.Data); n > 0 {
		return nil, fmt.Errorf("the tensor %q has %d values that are NaN or infinite", t.Name, n)
	}
	return p.Float32s()
}

func floating(dtype string) bool {
	return dtype == "F32" || dtype == "F64" || dtype == "F16" || dtype == "BF16"
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
