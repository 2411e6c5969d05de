// Package market is the trading world of the native trainer: bars with their
// features, the split of history into train, validation and test, the
// environment that turns actions into returns after costs, and the figures
// that judge an equity curve.
//
// The package is pure: no clock, no I/O, no global randomness. A table comes in
// from the features client, random sources come in as arguments.
package market

import (
	"fmt"
	"math"
)

// Regime is the label of one bar. The Data Service computes it from trailing
// data only, so the label of a bar is known when its close is known.
type Regime uint8

// The regimes. RegimeUnknown marks a bar that no specialist trades.
const (
	RegimeUnknown Regime = iota
	RegimeBull
	RegimeBear
	RegimeSideways
)

// regimeNames are the wire names, indexed by Regime.
var regimeNames = [...]string{"unknown", "bull", "bear", "sideways"}

// String returns the wire name: "bull", "bear", "sideways" or "unknown".
func (r Regime) String() string {
	if int(r) < len(regimeNames) {
		return regimeNames[r]
	}
	return fmt.Sprintf("regime(%d)", uint8(r))
}

// ParseRegime is the inverse of String. ok is false for any other text.
func ParseRegime(name string) (r Regime, ok bool) {
	for i, n := range regimeNames {
		if n == name {
			return Regime(i), true
		}
	}
	return RegimeUnknown, false
}

// Table is the feature history of one symbol at one timeframe, oldest bar
// first. It is read-only once made: many environments share one.
//
// The Data Service leaves out the warm-up bars whose longest feature is not
// defined yet, so every value in a valid table is finite.
type Table struct {
	Symbol    string
	Timeframe string
	// SchemaVersion names the feature definitions. A model trained under one
	// version refuses a table of another.
	SchemaVersion string
	// FeatureNames has one name per column of Features, in column order.
	FeatureNames []string
	// Dates are the bars' opening times in seconds since 1970-01-01 UTC,
	// strictly increasing.
	Dates []int64
	// Close is the closing price of each bar, in the quote currency, positive.
	Close []float64
	// Features is row-major: bar i, column j is Features[i*len(FeatureNames)+j].
	// Values are raw, not standardised.
	Features []float32
	// Regimes has one label per bar.
	Regimes []Regime
	// Digest is the lower-case hex SHA-256 of the table's content as served.
	Digest string
}

// Bars returns the number of bars.
func (t *Table) Bars() int { return len(t.Dates) }

// Row returns the raw features of bar i. The slice aliases the table.
func (t *Table) Row(i int) []float32 {
	w := len(t.FeatureNames)
	return t.Features[i*w : (i+1)*w : (i+1)*w]
}

// maxProblems bounds how many bad values one table names: a column of NaN
// would otherwise make a message as long as the history.
const maxProblems = 16

// Problem is one thing wrong with an input, with the path of the field at fault.
type Problem struct {
	Field       string
	Description string
}

// String returns "field: description".
func (p Problem) String() string { return p.Field + ": " + p.Description }

// Check returns everything that makes the table unusable, nil when it is sound.
// Lengths that disagree are reported alone, as the rest cannot be read then.
func (t *Table) Check() []Problem {
	var out []Problem
	add := func(field, format string, args ...any) {
		out = append(out, Problem{Field: field, Description: fmt.Sprintf(format, args...)})
	}
	n, w := len(t.Dates), len(t.FeatureNames)
	if n == 0 {
		add("table.dates", "the table has no bars")
	}
	if w == 0 {
		add("table.feature_names", "the table has no features")
	}
	if t.SchemaVersion == "" {
		add("table.schema_version", "the table names no feature schema version")
	}
	if len(t.Close) != n {
		add("table.close", "%d prices for %d bars", len(t.Close), n)
	}
	if len(t.Regimes) != n {
		add("table.regimes", "%d labels for %d bars", len(t.Regimes), n)
	}
	if len(t.Features) != n*w {
		add("table.features", "%d values for %d bars of %d features", len(t.Features), n, w)
	}
	if len(out) > 0 {
		return out
	}
	seen := make(map[string]bool, w)
	for _, name := range t.FeatureNames {
		if seen[name] {
			add("table.feature_names", "%q appears twice", name)
		}
		seen[name] = true
	}
	more := 0
	bad := func(field, format string, args ...any) {
		if len(out) >= maxProblems {
			more++
			return
		}
		add(field, format, args...)
	}
	for i := range n {
		if i > 0 && t.Dates[i] <= t.Dates[i-1] {
			bad(fmt.Sprintf("table.dates[%d]", i), "not after the bar before it")
		}
		if c := t.Close[i]; !(c > 0) || math.IsInf(c, 0) {
			bad(fmt.Sprintf("table.close[%d]", i), "%v is not a positive finite price", c)
		}
		if t.Regimes[i] > RegimeSideways {
			bad(fmt.Sprintf("table.regimes[%d]", i), "unknown label %d", t.Regimes[i])
		}
		for j, v := range t.Row(i) {
			if v != v || math.IsInf(float64(v), 0) {
				bad(fmt.Sprintf("table.features[%d].%s", i, t.FeatureNames[j]), "%v is not finite", v)
			}
		}
	}
	if more > 0 {
		add("table", "and %d more values like these", more)
	}
	return out
}
