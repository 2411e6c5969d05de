package config

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"reflect"
	"regexp"
	"strings"

	"go.yaml.in/yaml/v3"
)

const configKey = "config"

// parseFlags reads --key=value, --key value and, for booleans, --key. The
// standard flag package stops at its first problem; we want all of them.
func (l *loader) parseFlags(args []string) (map[string]string, error) {
	out := map[string]string{}
	for i := 0; i < len(args); i++ {
		arg := args[i]
		name, ok := strings.CutPrefix(arg, "-")
		if !ok || name == "" {
			l.problem("unexpected argument %q; settings are given as --name=value", arg)
			continue
		}
		name = strings.TrimPrefix(name, "-")
		name, value, hasValue := strings.Cut(name, "=")
		if name == "help" || name == "h" {
			return nil, flag.ErrHelp
		}
		f, known := l.lookup(name)
		twin := l.isSecretTwin(name)
		if !known && !twin && name != configKey {
			l.problem("unknown flag --%s%s", name, l.suggest(name))
			// Skip its value too, or one typo is reported twice.
			if !hasValue && i+1 < len(args) && !strings.HasPrefix(args[i+1], "-") {
				i++
			}
			continue
		}
		if !hasValue {
			switch {
			case known && f.value.Kind() == reflect.Bool:
				value = "true"
			case i+1 < len(args):
				i++
				value = args[i]
			default:
				l.problem("--%s needs a value", name)
				continue
			}
		}
		if known && f.secret {
			l.problem("--%s is a secret and every process can read a command line; use %s or --%s-file", name, l.envName(name), name)
			continue
		}
		if _, again := out[name]; again {
			l.problem("--%s is given twice", name)
			continue
		}
		out[name] = value
	}
	return out, nil
}

// injected matches the variables that Kubernetes and container links add for a
// Service that is named like ours (TRAINYARD_SCHEDULER_PORT_7070_TCP_ADDR).
var injected = regexp.MustCompile(`^(SERVICE_HOST|SERVICE_PORT(_.*)?|PORT|PORT_\d+_(TCP|UDP)(_.*)?)$`)

func (l *loader) parseEnv(environ []string) map[string]string {
	out := map[string]string{}
	for _, kv := range environ {
		name, value, _ := strings.Cut(kv, "=")
		rest, ok := strings.CutPrefix(name, l.prefix)
		if !ok {
			continue
		}
		key := strings.ToLower(strings.ReplaceAll(rest, "_", "-"))
		_, known := l.lookup(key)
		switch {
		case known || key == configKey || l.isSecretTwin(key):
			out[key] = value
		case !injected.MatchString(rest):
			l.problem("unknown environment variable %s%s", name, l.suggest(key))
		}
	}
	return out
}

type fileValue struct{ text, where string }

func (l *loader) parseFile(flags, env map[string]string) map[string]fileValue {
	path, ok := flags[configKey]
	if !ok {
		path, ok = env[configKey]
	}
	if !ok || path == "" {
		return nil
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		l.problem("config: %v", err)
		return nil
	}
	dec := yaml.NewDecoder(bytes.NewReader(raw))
	var doc yaml.Node
	if err := dec.Decode(&doc); err != nil {
		if !errors.Is(err, io.EOF) {
			l.problem("config: %s is not YAML: %v", path, err)
		}
		return nil
	}
	if len(doc.Content) != 1 || doc.Content[0].Kind != yaml.MappingNode {
		l.problem("config: %s must hold a mapping of settings", path)
		return nil
	}
	out := map[string]fileValue{}
	l.flatten(path, "", doc.Content[0], out)
	return out
}

func (l *loader) flatten(path, prefix string, node *yaml.Node, out map[string]fileValue) {
	for i := 0; i+1 < len(node.Content); i += 2 {
		k, v := node.Content[i], node.Content[i+1]
		key := prefix + k.Value
		where := fmt.Sprintf("%s:%d", path, k.Line)
		f, known := l.lookup(key)
		switch {
		case !known && v.Kind == yaml.MappingNode:
			l.flatten(path, key+"-", v, out)
		case !known && !l.isSecretTwin(key):
			l.problem("%s: unknown key %q%s", where, key, l.suggest(key))
		case hasKey(out, key):
			l.problem("%s: %q is set twice in this file", where, key)
		default:
			text, err := nodeText(v, known && f.value.Kind() == reflect.Map)
			if err != nil {
				l.problem("%s: %q %v", where, key, err)
				continue
			}
			out[key] = fileValue{text: text, where: where}
		}
	}
}

func hasKey(m map[string]fileValue, k string) bool { _, ok := m[k]; return ok }

// nodeText gives a YAML value the text form that flags use.
func nodeText(n *yaml.Node, isMap bool) (string, error) {
	switch n.Kind {
	case yaml.ScalarNode:
		if n.Tag == "!!null" {
			return "", nil
		}
		return n.Value, nil
	case yaml.SequenceNode:
		parts := make([]string, len(n.Content))
		for i, c := range n.Content {
			if c.Kind != yaml.ScalarNode || strings.Contains(c.Value, ",") {
				return "", errors.New("must be a list of plain values without commas")
			}
			parts[i] = c.Value
		}
		return strings.Join(parts, ","), nil
	case yaml.MappingNode:
		if isMap {
			var parts []string
			for i := 0; i+1 < len(n.Content); i += 2 {
				parts = append(parts, n.Content[i].Value+"="+n.Content[i+1].Value)
			}
			return strings.Join(parts, ","), nil
		}
	}
	return "", errors.New("must be a plain value")
}

func (l *loader) isSecretTwin(key string) bool {
	base, ok := strings.CutSuffix(key, "-file")
	if !ok {
		return false
	}
	f, known := l.lookup(base)
	return known && f.secret
}

// suggest names the known key closest to a misspelt one, if any is close.
func (l *loader) suggest(key string) string {
	best, bestD := "", 3
	for _, f := range l.fields {
		if d := distance(key, f.key); d < bestD {
			best, bestD = f.key, d
		}
	}
	if best == "" {
		return "; --help lists every setting"
	}
	return fmt.Sprintf("; did you mean %q?", best)
}

func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diag := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			diag, row[j+1] = row[j+1], min(row[j+1]+1, row[j]+1, diag+cost)
		}
	}
	return row[len(b)]
}

func (l *loader) usage(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "Usage: %s [--name=value ...]\n\nEach setting is also read from %s<NAME> and from the YAML file of --config.\n\n", l.service, l.prefix)
	for _, f := range l.fields {
		name := f.key
		if f.secret {
			name += "-file"
		}
		fmt.Fprintf(&b, "  --%s\n      %s", name, f.usage)
		switch {
		case f.secret:
			b.WriteString(" (secret: name a file here, or use the environment)")
		case f.required:
			b.WriteString(" (required)")
		case f.def != "":
			fmt.Fprintf(&b, " (default %s)", f.def)
		}
		b.WriteString("\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}
