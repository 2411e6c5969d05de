package modelfile

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/ultrathink-pilot/trainyard/libs/safetensors"
)

// Member is one network of a file that holds several.
type Member struct {
	Name         string        `json:"name"` // what --member takes, such as models.0
	Architecture *Architecture `json:"architecture"`
	tensors      []safetensors.Tensor
}

// Members finds the networks of an ensemble: all weights are below numbered parts
// of one module, and what is below each is a network of its own. They may differ in
// size. Nil means that the file is no ensemble.
func Members(tensors []safetensors.Tensor, m *Mapping) []Member {
	if m == nil {
		m = &Mapping{}
	}
	var weights []safetensors.Tensor
	for _, t := range tensors {
		if !leftOut(t.Name, m) {
			weights = append(weights, t)
		}
	}
	if len(weights) == 0 {
		return nil
	}
	// A number right before the leaf is a layer of a Sequential.
	parts := strings.Split(weights[0].Name, ".")
	for depth := 0; depth < len(parts)-2; depth++ {
		if _, err := strconv.Atoi(parts[depth]); err != nil {
			continue
		}
		if out := membersBelow(weights, parts[:depth], m); len(out) > 1 {
			return out
		}
	}
	return nil
}

func membersBelow(weights []safetensors.Tensor, base []string, m *Mapping) []Member {
	var out []Member
	at := map[string]int{}
	for _, t := range weights {
		parts := strings.Split(t.Name, ".")
		if len(parts) < len(base)+3 || !slices.Equal(parts[:len(base)], base) {
			return nil
		}
		if _, err := strconv.Atoi(parts[len(base)]); err != nil {
			return nil
		}
		name := strings.Join(parts[:len(base)+1], ".")
		i, ok := at[name]
		if !ok {
			i = len(out)
			at[name] = i
			out = append(out, Member{Name: name})
		}
		out[i].tensors = append(out[i].tensors, t)
	}
	for i := range out {
		a, err := Infer(out[i].tensors, &Mapping{Activation: m.Activation, Temporal: m.Temporal, Ignore: m.Ignore})
		if err != nil {
			return nil
		}
		out[i].Architecture = a
	}
	return out
}

// member returns the tensors of one network of an ensemble.
func member(tensors []safetensors.Tensor, name string, m *Mapping) ([]safetensors.Tensor, error) {
	all := Members(tensors, m)
	if len(all) == 0 {
		return nil, fmt.Errorf("there is no member %q: the file is not an ensemble of networks", name)
	}
	for _, x := range all {
		if x.Name == name {
			return x.tensors, nil
		}
	}
	return nil, fmt.Errorf("there is no member %q: %s", name, memberNames(all))
}

func memberNames(all []Member) string {
	text := make([]string, len(all))
	for i, x := range all {
		text[i] = fmt.Sprintf("%s (%s)", x.Name, x.Architecture)
	}
	return fmt.Sprintf("the file is an ensemble of %d networks: %s", len(all), list(text))
}
