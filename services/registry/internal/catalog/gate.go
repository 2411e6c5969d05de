package catalog

import (
	"fmt"
	"strconv"
	"time"
)

// Comparison is the direction of a gate.
type Comparison string

// Comparisons.
const (
	AtLeast Comparison = "AT_LEAST"
	AtMost  Comparison = "AT_MOST"
	// AboveProduction compares with the version in Production plus the threshold.
	AboveProduction Comparison = "ABOVE_PRODUCTION"
	// Checked and Approved are not about metrics: a named check, and people's approvals.
	Checked  Comparison = "CHECKED"
	Approved Comparison = "APPROVED"
)

// Gate is a condition on a metric that a version must meet to be promoted.
type Gate struct {
	Metric    string     `json:"metric"`
	Compare   Comparison `json:"compare"`
	Threshold float64    `json:"threshold"`
	// Window, when not empty, is the evaluation window that the metric must come from.
	Window string `json:"window,omitempty"`
}

// Policy is what every promotion of a model into Production must meet.
type Policy struct {
	Gates          []Gate   `json:"gates,omitempty"`
	RequiredChecks []string `json:"required_checks,omitempty"`
	Approvals      int      `json:"approvals,omitempty"`
}

// Check is the newest outcome of a named check of a version.
type Check struct {
	Name   string
	Passed bool
	Detail string
	Actor  string
	At     time.Time
}

// Approval is a person's approval of a version.
type Approval struct {
	Actor  string
	Reason string
	At     time.Time
}

// GateResult records how a gate was met; it goes into the history with the decision.
type GateResult struct {
	Metric    string     `json:"metric"`
	Compare   Comparison `json:"compare"`
	Threshold float64    `json:"threshold"`
	Passed    bool       `json:"passed"`
	// Observed is absent when the metric is missing or not finite: JSON has no NaN.
	Observed *float64 `json:"observed,omitempty"`
	Reason   string   `json:"reason"`
}

// Measured is what gates look at: a version's metrics and the window they come from.
type Measured struct {
	Metrics map[string]float64
	Window  string
}

// EvaluateGates judges every gate, never stopping at the first failure, so that a
// person sees all that is missing at once. production is nil when nothing is in Production.
func EvaluateGates(gates []Gate, candidate Measured, production *Measured) (results []GateResult, passed bool) {
	passed = true
	for _, g := range gates {
		r := evaluate(g, candidate, production)
		passed = passed && r.Passed
		results = append(results, r)
	}
	return results, passed
}

func evaluate(g Gate, candidate Measured, production *Measured) GateResult {
	r := GateResult{Metric: g.Metric, Compare: g.Compare, Threshold: g.Threshold}
	v, ok := candidate.Metrics[g.Metric]
	text, limit := number(v), number(g.Threshold)
	switch {
	case !ok:
		r.Reason = g.Metric + " was never measured"
		return r
	case !Finite(v):
		r.Reason = g.Metric + " is " + text
		return r
	case g.Window != "" && g.Window != candidate.Window:
		r.Reason = fmt.Sprintf("%s comes from the window %s, not %s", g.Metric, window(candidate.Window), g.Window)
		return r
	}
	r.Observed = &v
	switch g.Compare {
	case AtMost:
		r.Passed = v <= g.Threshold
		r.Reason = g.Metric + " " + text + ", at most " + limit + " wanted"
	case AboveProduction:
		r.Passed, r.Reason = aboveProduction(g, v, candidate.Window, production)
	case AtLeast, Checked, Approved:
		r.Passed = v >= g.Threshold
		r.Reason = g.Metric + " " + text + ", at least " + limit + " wanted"
	}
	return r
}

// aboveProduction compares only what was measured on the same data: a better number on
// another window says nothing.
func aboveProduction(g Gate, v float64, on string, production *Measured) (bool, string) {
	if production == nil {
		return true, g.Metric + " " + number(v) + ", nothing is in Production to compare with"
	}
	if on == "" || on != production.Window {
		return false, fmt.Sprintf("%s cannot be compared with Production: it was measured on %s, Production on %s", g.Metric, window(on), window(production.Window))
	}
	held, ok := production.Metrics[g.Metric]
	if !ok || !Finite(held) {
		return true, g.Metric + " " + number(v) + ", Production has no finite value to compare with"
	}
	return v-held >= g.Threshold, g.Metric + " " + number(v) + ", Production has " + number(held) + ", a lead of at least " + number(g.Threshold) + " wanted"
}

// EvaluatePolicy judges the parts of a policy that are not about metrics. The one who
// promotes cannot be his own second pair of eyes.
func EvaluatePolicy(p Policy, checks []Check, approvals []Approval, promoter string) (results []GateResult, passed bool) {
	passed = true
	add := func(r GateResult) {
		passed = passed && r.Passed
		results = append(results, r)
	}
	for _, name := range p.RequiredChecks {
		r := GateResult{Metric: name, Compare: Checked, Reason: "the check " + name + " was not made"}
		for _, c := range checks {
			if c.Name == name {
				r.Passed, r.Reason = c.Passed, "the check "+name+" passed, by "+c.Actor
				if !c.Passed {
					r.Reason = "the check " + name + " failed: " + c.Detail
				}
			}
		}
		add(r)
	}
	if p.Approvals > 0 {
		others := 0.0
		for _, a := range approvals {
			if a.Actor != promoter {
				others++
			}
		}
		add(GateResult{Metric: "approvals", Compare: Approved, Threshold: float64(p.Approvals), Observed: &others, Passed: others >= float64(p.Approvals),
			Reason: fmt.Sprintf("%d of %d approvals by others than %s", int(others), p.Approvals, promoter)})
	}
	return results, passed
}

func number(v float64) string { return strconv.FormatFloat(v, 'g', 6, 64) }

func window(w string) string {
	if w == "" {
		return "an unknown window"
	}
	return w
}
