package modelfile

import (
	"fmt"
	"slices"
	"strings"
)

// guess finds out what each layer is: of the policy or of the value by its name,
// the head by what nobody takes, the order by the widths, and by the order of the
// file where widths leave it open.
func guess(layers []*Layer) error {
	prefix := common(layers)
	var trunk, actor, critic []*Layer
	for _, l := range layers {
		name := l.From[len(prefix):]
		p, v := role(name, policyWords), role(name, valueWords)
		switch {
		case len(l.weight.Shape) == 3:
			if slices.ContainsFunc(layers, func(o *Layer) bool { return o.To == "history" }) {
				return fmt.Errorf("there are several convolutions: the learner has one; keep the network as it is with --as-is")
			}
			l.To = "history"
		case p > v:
			actor = append(actor, l)
		case v > p:
			critic = append(critic, l)
		default:
			trunk = append(trunk, l)
		}
	}
	if len(actor) == 0 {
		head := only(trunk, func(l *Layer) bool { return l.Outputs == 3 })
		if head == nil {
			return fmt.Errorf("which layer is the policy? %s: none of their names tells, nor has exactly one of them three outputs", names(layers))
		}
		trunk, actor = remove(trunk, head), []*Layer{head}
	}
	if len(critic) == 0 {
		if head := only(trunk, func(l *Layer) bool { return l.Outputs == 1 }); head != nil {
			trunk, critic = remove(trunk, head), []*Layer{head}
		}
	}
	actor, critic = headLast(actor), headLast(critic)
	width := actor[0].Inputs
	trunk = chain(trunk, 0, width)
	if len(trunk) > 0 {
		width = trunk[len(trunk)-1].Outputs
	}
	actor, critic = headed(actor, width), headed(critic, width)
	number(trunk, "trunk", "")
	number(actor, "actor", "policy")
	number(critic, "critic", "value")
	return nil
}

// common is the dotted prefix of all names, up to and including a dot.
func common(layers []*Layer) string {
	prefix := layers[0].From
	for _, l := range layers[1:] {
		for !strings.HasPrefix(l.From, prefix) {
			prefix = prefix[:len(prefix)-1]
		}
	}
	if len(layers) == 1 {
		return ""
	}
	return prefix[:strings.LastIndexByte(prefix, '.')+1]
}

// only returns the one layer of which it is so; nil for none or several.
func only(layers []*Layer, is func(l *Layer) bool) (found *Layer) {
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

func remove(layers []*Layer, l *Layer) []*Layer {
	return slices.DeleteFunc(slices.Clone(layers), func(x *Layer) bool { return x == l })
}

// headLast moves the layer behind the others whose outputs no other of them takes,
// if there is exactly one.
func headLast(layers []*Layer) []*Layer {
	head := only(layers, func(l *Layer) bool {
		return !slices.ContainsFunc(layers, func(o *Layer) bool { return o != l && o.Inputs == l.Outputs })
	})
	if head == nil {
		return layers
	}
	return append(remove(layers, head), head)
}

// headed orders a tower from that width, its head staying last.
func headed(layers []*Layer, width int) []*Layer {
	if len(layers) < 2 {
		return layers
	}
	head := layers[len(layers)-1]
	return append(chain(layers[:len(layers)-1], width, head.Inputs), head)
}

// chain orders layers so that each takes what the one before gives, the first from
// from (0: anything) and the last giving to, and as given where that is open. What
// cannot be ordered stays as it is, for join to say why.
func chain(layers []*Layer, from, to int) []*Layer {
	tries := 0
	var walk func(done, rest []*Layer, width int) []*Layer
	walk = func(done, rest []*Layer, width int) []*Layer {
		if tries++; tries > 10_000 {
			return nil
		}
		if len(rest) == 0 {
			if width == to {
				return done
			}
			return nil
		}
		for _, l := range rest {
			if width != 0 && l.Inputs != width {
				continue
			}
			if out := walk(append(slices.Clone(done), l), remove(rest, l), l.Outputs); out != nil {
				return out
			}
		}
		return nil
	}
	if out := walk(nil, layers, from); len(out) > 0 {
		return out
	}
	return layers
}

// number gives the roles; the last layer is the head where there is one.
func number(layers []*Layer, kind, head string) {
	for i, l := range layers {
		l.To = fmt.Sprintf("%s.%d", kind, i)
		if head != "" && i == len(layers)-1 {
			l.To = head
		}
	}
}
