// Package series holds the rules of metric series: which points count after a restore,
// which value is the latest, and how a long series is thinned for a screen.
//
// It is pure. Points are ordered by (step, time, value); NaN orders below every number,
// as MLflow's latest-metric rule has it.
package series

import (
	"cmp"
	"math"
	"slices"
	"time"
)

// Point is one value of a series. Value may be NaN or infinite.
type Point struct {
	Step    int64
	Time    time.Time
	Value   float64
	Attempt int32
}

// Compare orders points by step, then time, then value; a NaN is lower than any number,
// so that it becomes the latest value only when nothing else was logged at that instant.
func Compare(a, b Point) int {
	return cmp.Or(cmp.Compare(a.Step, b.Step), a.Time.Compare(b.Time), cmp.Compare(a.Value, b.Value),
		cmp.Compare(a.Attempt, b.Attempt))
}

// Latest returns the greatest point, false for an empty series.
func Latest(points []Point) (Point, bool) {
	if len(points) == 0 {
		return Point{}, false
	}
	return slices.MaxFunc(points, Compare), true
}

// Cutoff hides an attempt's points above a step: a later attempt restored from there and
// logs them again.
type Cutoff struct {
	Attempt     int32
	HiddenAbove int64
}

// Raise computes the cutoffs after an attempt opened that resumed at restoredStep. Each
// earlier attempt keeps the lower of its old cutoff and the new one: an attempt that
// went further back hides more, never less.
func Raise(cutoffs []Cutoff, earlier []int32, restoredStep int64) []Cutoff {
	old := make(map[int32]int64, len(cutoffs))
	for _, c := range cutoffs {
		old[c.Attempt] = c.HiddenAbove
	}
	out := make([]Cutoff, 0, len(earlier))
	for _, a := range earlier {
		at := restoredStep
		if o, ok := old[a]; ok && o < at {
			at = o
		}
		out = append(out, Cutoff{a, at})
	}
	return out
}

// Visible drops superseded points and exact repeats, and sorts the rest. Of a step that
// two attempts logged (an evaluation repeated at the very step of a restore) only the
// newer attempt's points stay.
func Visible(points []Point, cutoffs []Cutoff) []Point {
	limit := make(map[int32]int64, len(cutoffs))
	for _, c := range cutoffs {
		limit[c.Attempt] = c.HiddenAbove
	}
	out := make([]Point, 0, len(points))
	for _, p := range points {
		if at, ok := limit[p.Attempt]; ok && p.Step > at {
			continue
		}
		out = append(out, p)
	}
	if slices.ContainsFunc(out, func(p Point) bool { return p.Attempt != out[0].Attempt }) {
		newest := make(map[int64]int32)
		for _, p := range out {
			newest[p.Step] = max(newest[p.Step], p.Attempt)
		}
		out = slices.DeleteFunc(out, func(p Point) bool { return p.Attempt < newest[p.Step] })
	}
	if !slices.IsSortedFunc(out, Compare) {
		slices.SortFunc(out, Compare)
	}
	return slices.CompactFunc(out, func(a, b Point) bool { return Compare(a, b) == 0 })
}

// Bounds are the exact extremes of the finite values, kept beside a thinned series so
// that a chart's axis is right even where the extreme itself was thinned away.
type Bounds struct {
	Min, Max float64
	// Finite counts the values the extremes rest on; 0 means there are none.
	Finite int
	// NonFinite counts NaN and infinite values.
	NonFinite int
}

// BoundsOf computes Bounds.
func BoundsOf(points []Point) Bounds {
	var b Bounds
	for _, p := range points {
		if math.IsNaN(p.Value) || math.IsInf(p.Value, 0) {
			b.NonFinite++
			continue
		}
		if b.Finite == 0 || p.Value < b.Min {
			b.Min = p.Value
		}
		if b.Finite == 0 || p.Value > b.Max {
			b.Max = p.Value
		}
		b.Finite++
	}
	return b
}
