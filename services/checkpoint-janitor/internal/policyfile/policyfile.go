// Package policyfile reads retention policies written in YAML. It is strict: an
// unknown key is an error, because a mistyped protection would silently be none,
// and every problem of a file is reported in one go, each with its line.
package policyfile

import (
	_ "embed" // the built-in policies
	"errors"
	"fmt"
	"os"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/ultrathink-pilot/trainyard/services/checkpoint-janitor/internal/retention"
)

// Names of the built-in policies, for use in place of a path.
const (
	BuiltinDefault     = "builtin:default"
	BuiltinDevelopment = "builtin:development"
)

//go:embed default.yaml
var defaultText []byte

//go:embed development.yaml
var developmentText []byte

// maxSize is far above any policy a person writes.
const maxSize = 1 << 20

// Load reads the policy at path, or a built-in one; empty means the default. It
// returns the text as well, which is stored with every plan made from it.
func Load(path string) (retention.Policy, []byte, error) {
	var text []byte
	switch path {
	case "", BuiltinDefault:
		text = defaultText
	case BuiltinDevelopment:
		text = developmentText
	default:
		if strings.HasPrefix(path, "builtin:") {
			return retention.Policy{}, nil, fmt.Errorf("there is no policy %s; the built-in ones are %s and %s", path, BuiltinDefault, BuiltinDevelopment)
		}
		info, err := os.Stat(path)
		if err != nil {
			return retention.Policy{}, nil, fmt.Errorf("read the retention policy: %w", err)
		}
		if info.Size() > maxSize {
			return retention.Policy{}, nil, fmt.Errorf("the retention policy %s has %d bytes, more than %d; is it the right file?", path, info.Size(), maxSize)
		}
		if text, err = os.ReadFile(path); err != nil {
			return retention.Policy{}, nil, fmt.Errorf("read the retention policy: %w", err)
		}
	}
	policy, err := Parse(text)
	if err != nil {
		return retention.Policy{}, nil, fmt.Errorf("%s: %w", name(path), err)
	}
	return policy, text, nil
}

func name(path string) string {
	if path == "" {
		return BuiltinDefault
	}
	return path
}

// Parse reads and validates a policy. The error is a [retention.PolicyError]
// with all problems, or says why the text is no YAML at all.
func Parse(text []byte) (retention.Policy, error) {
	var doc yaml.Node
	if err := yaml.Unmarshal(text, &doc); err != nil {
		return retention.Policy{}, fmt.Errorf("the retention policy is not YAML: %w", err)
	}
	if len(doc.Content) == 0 {
		return retention.Policy{}, &retention.PolicyError{Problems: []retention.Problem{
			{Path: "rules", Text: "the file is empty; an empty policy is refused because every checkpoint would lose its protection"}}}
	}
	r := &reader{}
	policy := r.policy(doc.Content[0])
	found := r.problems
	var invalid *retention.PolicyError
	switch err := policy.Validate(); {
	case errors.As(err, &invalid):
		// A field that could not be read has been named already, with its line.
		for _, p := range invalid.Problems {
			if !r.failed[p.Path] {
				found = append(found, p)
			}
		}
	case err != nil:
		return retention.Policy{}, err
	}
	if len(found) > 0 {
		return retention.Policy{}, &retention.PolicyError{Problems: found}
	}
	return policy, nil
}

func (r *reader) policy(n *yaml.Node) retention.Policy {
	p := retention.Policy{Caps: retention.DefaultCaps(), Watermark: retention.DefaultWatermark(), Grace: retention.DefaultPolicy().Grace}
	r.mapping(n, "", map[string]func(*yaml.Node, string){
		"version":     func(n *yaml.Node, at string) { p.Version = int(r.count(n, at)) },
		"revision":    func(n *yaml.Node, at string) { p.Revision = r.text(n, at) },
		"development": func(n *yaml.Node, at string) { p.Development = r.flag(n, at) },
		"grace":       func(n *yaml.Node, at string) { p.Grace = r.age(n, at) },
		"rules": func(n *yaml.Node, at string) {
			r.sequence(n, at, func(n *yaml.Node, at string) { p.Rules = append(p.Rules, r.rule(n, at)) })
		},
		"caps":      func(n *yaml.Node, at string) { r.caps(n, at, &p.Caps) },
		"watermark": func(n *yaml.Node, at string) { r.watermark(n, at, &p.Watermark) },
	})
	return p
}

func (r *reader) rule(n *yaml.Node, at string) retention.Rule {
	rule := retention.DefaultRule()
	r.mapping(n, at, map[string]func(*yaml.Node, string){
		"name": func(n *yaml.Node, at string) { rule.Name = r.text(n, at) },
		"experiments": func(n *yaml.Node, at string) {
			r.sequence(n, at, func(n *yaml.Node, at string) { rule.Experiments = append(rule.Experiments, r.text(n, at)) })
		},
		"keep_top":               func(n *yaml.Node, at string) { rule.KeepTop = int(r.count(n, at)) },
		"min_trades":             func(n *yaml.Node, at string) { rule.MinTrades = r.count(n, at) },
		"keep_last_per_live_job": func(n *yaml.Node, at string) { rule.KeepLastPerLiveJob = int(r.count(n, at)) },
		"young_for":              func(n *yaml.Node, at string) { rule.YoungFor = r.age(n, at) },
		"drop_outranked_after":   func(n *yaml.Node, at string) { rule.DropOutrankedAfter = r.age(n, at) },
		"archive_after":          func(n *yaml.Node, at string) { rule.ArchiveAfter = r.age(n, at) },
		"delete_abandoned_after": func(n *yaml.Node, at string) { rule.DeleteAbandonedAfter = r.age(n, at) },
		"rank_by":                func(n *yaml.Node, at string) { rule.RankBy = retention.Figure(r.text(n, at)) },
		"confidence":             func(n *yaml.Node, at string) { rule.Confidence = r.fraction(n, at) },
		"drop_training_state": func(n *yaml.Node, at string) {
			if r.flag(n, at) {
				rule.DropFiles = append(rule.DropFiles, retention.TrainingState()...)
			}
		},
		"drop_files": func(n *yaml.Node, at string) {
			r.sequence(n, at, func(n *yaml.Node, at string) { rule.DropFiles = append(rule.DropFiles, r.text(n, at)) })
		},
	})
	return rule
}

func (r *reader) caps(n *yaml.Node, at string, c *retention.Caps) {
	r.mapping(n, at, map[string]func(*yaml.Node, string){
		"max_drop_fraction":    func(n *yaml.Node, at string) { c.MaxDropFraction = r.fraction(n, at) },
		"small_drop_bytes":     func(n *yaml.Node, at string) { c.SmallDropBytes = r.size(n, at) },
		"max_clock_jump":       func(n *yaml.Node, at string) { c.MaxClockJump = r.age(n, at) },
		"max_missing_fraction": func(n *yaml.Node, at string) { c.MaxMissingFraction = r.fraction(n, at) },
		"small_missing":        func(n *yaml.Node, at string) { c.SmallMissing = int(r.count(n, at)) },
	})
}

func (r *reader) watermark(n *yaml.Node, at string, w *retention.Watermark) {
	r.mapping(n, at, map[string]func(*yaml.Node, string){
		"alert_at":               func(n *yaml.Node, at string) { w.AlertAt = r.fraction(n, at) },
		"tighten_at":             func(n *yaml.Node, at string) { w.TightenAt = r.fraction(n, at) },
		"keep_top":               func(n *yaml.Node, at string) { w.KeepTop = int(r.count(n, at)) },
		"archive_after":          func(n *yaml.Node, at string) { w.ArchiveAfter = r.age(n, at) },
		"delete_abandoned_after": func(n *yaml.Node, at string) { w.DeleteAbandonedAfter = r.age(n, at) },
	})
}
