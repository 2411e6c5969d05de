package market

import "fmt"

// Range is the half-open range of bars [From, To).
type Range struct{ From, To int }

// Len returns the number of bars.
func (r Range) Len() int { return r.To - r.From }

// SplitPlan cuts a history into train, validation and test, oldest first. The
// test part is the last and is never used to choose anything in a run. What lies before
// it is walked forward: fold i trains on all bars before its validation window.
type SplitPlan struct {
	// TestFraction and ValidationFraction are shares of all bars, over all folds.
	ValidationFraction float64
	TestFraction       float64
	// EmbargoBars are left out before validation and before test, so that a
	// return which reaches over the border is in neither.
	EmbargoBars int
	// Folds is the number of validation windows, Fold the one in use, from 0.
	Folds, Fold int
}

// DefaultSplit trains on the first half of history and keeps a quarter each for
// validation and test, with one month between.
func DefaultSplit() SplitPlan {
	return SplitPlan{ValidationFraction: 0.25, TestFraction: 0.25, EmbargoBars: 21, Folds: 1}
}

// Split is one fold.
type Split struct{ Train, Validation, Test Range }

// Apply cuts bars bars. The problems name the plan's fields.
func (p SplitPlan) Apply(bars int) (Split, []Problem) {
	var problems []Problem
	add := func(field, format string, args ...any) {
		problems = append(problems, Problem{Field: "split." + field, Description: fmt.Sprintf(format, args...)})
	}
	if !(p.ValidationFraction > 0 && p.ValidationFraction < 1) {
		add("validation_fraction", "%v is not between 0 and 1", p.ValidationFraction)
	}
	if !(p.TestFraction > 0 && p.TestFraction < 1) {
		add("test_fraction", "%v is not between 0 and 1", p.TestFraction)
	}
	if len(problems) == 0 && p.ValidationFraction+p.TestFraction >= 1 {
		add("test_fraction", "validation and test together leave no bars to train on")
	}
	if p.EmbargoBars < 1 {
		add("embargo_bars", "%d: at least 1, or a return reaches over the border", p.EmbargoBars)
	}
	if p.Folds < 1 || p.Fold < 0 || p.Fold >= max(p.Folds, 1) {
		add("fold", "%d of %d folds", p.Fold, p.Folds)
	}
	if len(problems) > 0 {
		return Split{}, problems
	}
	test := bars - int(float64(bars)*p.TestFraction)
	window := int(float64(bars)*p.ValidationFraction) / p.Folds
	first := test - window*p.Folds
	from := first + window*p.Fold
	s := Split{
		Train:      Range{0, from - p.EmbargoBars},
		Validation: Range{from, from + window - p.EmbargoBars},
		Test:       Range{test, bars},
	}
	for _, part := range []struct {
		name string
		Range
	}{{"train", s.Train}, {"validation", s.Validation}, {"test", s.Test}} {
		if part.Len() < 2 {
			add(part.name, "too little history: %d bars leave none for the %s part", bars, part.name)
		}
	}
	return s, problems
}
