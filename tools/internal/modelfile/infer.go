package modelfile

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/ultrathink-pilot/trainyard/libs/safetensors"
)

// Mapping names layers whose roles their names do not tell, and what no file tells.
type Mapping struct {
	// Layers maps a layer's name in the file to trunk.N, actor.N, critic.N, policy,
	// value or history.
	Layers map[string]string `yaml:"layers"`
	// Ignore are patterns (* matches anything but a slash) of tensors to leave out.
	Ignore []string `yaml:"ignore"`
	// Activation is relu or tanh. Without it relu is presumed, and tanh for the names
	// that Stable-Baselines3 gives, as that is its default.
	Activation string `yaml:"activation"`
	// Temporal says how many bars a convolution sees, and its stride.
	Temporal *Temporal `yaml:"temporal"`
}

// ParseMapping reads a mapping file. All problems come at once.
func ParseMapping(text []byte) (*Mapping, error) {
	m := &Mapping{}
	d := yaml.NewDecoder(strings.NewReader(string(text)))
	d.KnownFields(true)
	if err := d.Decode(m); err != nil {
		return nil, fmt.Errorf("the mapping is not what it should be (layers: {NAME: ROLE}, ignore: [PATTERN], activation: relu, temporal: {bars: N, stride: N}): %w", err)
	}
	var problems []error
	for from, to := range m.Layers {
		if !isRole(to) {
			problems = append(problems, fmt.Errorf("layers.%s: %q is none of trunk.N, actor.N, critic.N, policy, value, history", from, to))
		}
	}
	for _, pattern := range m.Ignore {
		if _, err := path.Match(pattern, ""); err != nil {
			problems = append(problems, fmt.Errorf("ignore: %q is not a pattern", pattern))
		}
	}
	if !slices.Contains([]string{"", "relu", "tanh"}, m.Activation) {
		problems = append(problems, fmt.Errorf("activation: %q is neither relu nor tanh: keep another network as it is with --as-is", m.Activation))
	}
	if t := m.Temporal; t != nil && (t.Bars < 1 || t.Stride < 1) {
		problems = append(problems, fmt.Errorf("temporal: %d bars with a stride of %d: both are at least 1", t.Bars, t.Stride))
	}
	return m, errors.Join(problems...)
}

func isRole(to string) bool {
	if slices.Contains([]string{"policy", "value", "history"}, to) {
		return true
	}
	kind, number, _ := strings.Cut(to, ".")
	n, err := strconv.Atoi(number)
	return slices.Contains([]string{"trunk", "actor", "critic"}, kind) && err == nil && n >= 0 && number == strconv.Itoa(n)
}

// Words of a layer's name that tell its role, and of subtrees that are no weights.
var (
	policyWords = []string{"policy", "actor", "pi", "action", "actions", "logits", "act"}
	valueWords  = []string{"value", "values", "critic", "vf", "v"}
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
	if err := a.join(layers, m); err != nil {
		return nil, err
	}
	return a, nil
}

// mostLayers bounds what a hostile file can ask for.
const mostLayers = 128

// affine collects the layers: a matrix NAME.weight and its vector NAME.bias, or a
// convolution's weight of three dimensions.
func affine(tensors []safetensors.Tensor, m *Mapping) (layers []*Layer, ignored []string, err error) {
	byName := map[string]*safetensors.Tensor{}
	order := make([]string, len(tensors))
	for i := range tensors {
		byName[tensors[i].Name] = &tensors[i]
		order[i] = tensors[i].Name
	}
	if slices.IsSorted(order) {
		// A sorted file has lost the order of the computation; numbers bring some of it back.
		slices.SortStableFunc(order, natural)
	}
	used := map[string]bool{}
	for _, full := range order {
		t := byName[full]
		name, ok := strings.CutSuffix(full, ".weight")
		if !ok || len(t.Shape) != 2 && len(t.Shape) != 3 || !floating(t.DType) || leftOut(full, m) || t.Shape[0] < 1 || t.Shape[1] < 1 {
			continue
		}
		l := &Layer{From: name, Inputs: t.Shape[1], Outputs: t.Shape[0], weight: t}
		used[full] = true
		if b := byName[name+".bias"]; b != nil && slices.Equal(b.Shape, []int{l.Outputs}) && floating(b.DType) {
			l.bias = b
			used[b.Name] = true
		}
		layers = append(layers, l)
	}
	var stray []string
	for _, name := range order {
		switch {
		case used[name]:
		case leftOut(name, m):
			ignored = append(ignored, name)
		default:
			stray = append(stray, name)
		}
	}
	switch {
	case len(stray) > 0:
		return nil, nil, whatIsStray(stray, byName)
	case len(layers) > mostLayers:
		return nil, nil, fmt.Errorf("%d layers are more than the learner has: at most %d", len(layers), mostLayers)
	case len(layers) == 0:
		return nil, nil, errors.New("no tensor NAME.weight with two dimensions: not a network of dense layers")
	}
	return layers, ignored, nil
}

// whatIsStray says what to do about tensors that belong to no dense layer.
func whatIsStray(stray []string, byName map[string]*safetensors.Tensor) error {
	for _, name := range stray {
		module, leaf := "", name
		if i := strings.LastIndexByte(name, '.'); i >= 0 {
			module, leaf = name[:i], name[i+1:]
		}
		t := byName[name]
		switch {
		case byName[module+".running_mean"] != nil:
			return fmt.Errorf("%q is a batch normalisation, which the learner does not have: fold it into the layer before it in PyTorch "+
				"(torch.nn.utils.fusion.fuse_linear_bn_eval(linear, norm), in eval mode) and save again, or keep the network as it is with --as-is", module)
		case leaf == "weight_ih_l0" || leaf == "weight_hh_l0":
			kind := "recurrent network"
			if hidden := byName[module+".weight_hh_l0"]; hidden != nil && len(hidden.Shape) == 2 && hidden.Shape[1] > 0 {
				kind = map[int]string{1: "plain recurrent network", 3: "GRU", 4: "LSTM"}[hidden.Shape[0]/hidden.Shape[1]]
			}
			return fmt.Errorf("%q is a %s: the learner looks back with a convolution and has no equal of it. Keep the network as it is with --as-is; the command runtime trains it on", module, kind)
		case leaf == "weight" && len(t.Shape) == 1 && byName[module+".bias"] != nil:
			return fmt.Errorf("%q is a layer normalisation, which depends on each observation and cannot be folded into a layer: "+
				"train without it, or keep the network as it is with --as-is", module)
		case leaf == "weight_g" || leaf == "weight_v" || leaf == "original0" || leaf == "original1":
			return fmt.Errorf("%q is under a parametrisation such as weight_norm: remove it in PyTorch (torch.nn.utils.remove_weight_norm, "+
				"torch.nn.utils.parametrize.remove_parametrizations) and save again", module)
		case leaf == "log_std":
			return fmt.Errorf("%q is the spread of continuous actions: specialists choose one of three, short, flat or long", name)
		}
	}
	return fmt.Errorf("these tensors belong to no dense layer: %s", list(stray))
}

// natural compares names with the numbers in them as numbers.
func natural(a, b string) int {
	digits := func(s string) int {
		n := 0
		for n < len(s) && s[n] >= '0' && s[n] <= '9' {
			n++
		}
		return n
	}
	for a != "" && b != "" {
		if n, k := digits(a), digits(b); n > 0 && k > 0 {
			x, y := strings.TrimLeft(a[:n], "0"), strings.TrimLeft(b[:k], "0")
			if x != y {
				if len(x) != len(y) {
					return len(x) - len(y)
				}
				return strings.Compare(x, y)
			}
			a, b = a[n:], b[k:]
			continue
		}
		if a[0] != b[0] {
			return int(a[0]) - int(b[0])
		}
		a, b = a[1:], b[1:]
	}
	return len(a) - len(b)
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
	return role(name, otherWords) >= 0 || strings.HasSuffix(name, ".num_batches_tracked")
}

// role returns where the last of the words stands in a dotted name, -1 for nowhere.
func role(name string, words []string) int {
	last := -1
	parts := strings.FieldsFunc(strings.ToLower(name), func(r rune) bool { return r == '.' || r == '_' || r == '-' })
	for i, part := range parts {
		if slices.Contains(words, strings.TrimRight(part, "0123456789")) {
			last = i
		}
	}
	return last
}

// presumed is the activation where nobody says it.
func presumed(layers []*Layer) string {
	for _, l := range layers {
		if strings.Contains(l.From, "mlp_extractor.") {
			return "tanh"
		}
	}
	return "relu"
}

// assign follows the mapping.
func assign(layers []*Layer, m *Mapping) error {
	var problems []error
	seen := map[string]bool{}
	for _, l := range layers {
		l.To = m.Layers[l.From]
		seen[l.From] = true
		switch {
		case l.To == "":
			problems = append(problems, fmt.Errorf("the mapping says nothing of the layer %q", l.From))
		case (l.To == "history") != (len(l.weight.Shape) == 3):
			problems = append(problems, fmt.Errorf("%q cannot be %s: its weight has %d dimensions, a history has 3 and any other layer 2", l.From, l.To, len(l.weight.Shape)))
		}
	}
	for from := range m.Layers {
		if !seen[from] {
			problems = append(problems, fmt.Errorf("the mapping names a layer %q that the file does not have", from))
		}
	}
	return errors.Join(problems...)
}
