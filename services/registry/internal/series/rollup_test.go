package series

import (
	"errors"
	"math"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// Rollups of any series are contiguous, split no step, leave the last step out, and hold the
// extremes and a trace of every NaN among the points they stand for.
func TestRollupsStandForTheirPoints(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(0, 2000).Draw(t, "n")
		repeat := rapid.IntRange(1, 400).Draw(t, "points per step")
		points := make([]Point, n)
		for i := range points {
			v := math.Sin(float64(i)*rapid.Float64Range(0.9, 1.1).Draw(t, "wobble")) * 10
			if rapid.IntRange(0, 99).Draw(t, "odd") == 0 {
				v = math.NaN()
			}
			points[i] = at(int64(i/repeat), v, 1)
			points[i].Time = points[i].Time.Add(1) // order within a step does not matter here
		}
		rolled := RollUp(points)
		rest := points
		for _, r := range rolled {
			part := rest[:r.Points]
			rest = rest[r.Points:]
			if r.FirstStep != part[0].Step || r.LastStep != part[len(part)-1].Step || r.Points < RollupPoints {
				t.Fatalf("rollup %+v does not stand for its points", r)
			}
			if len(rest) == 0 || rest[0].Step == r.LastStep {
				t.Fatalf("step %d was split or was the last", r.LastStep)
			}
			want, got := BoundsOf(part), BoundsOf(r.Kept)
			if want.Min != got.Min || want.Max != got.Max || (want.NonFinite > 0) != (got.NonFinite > 0) || len(r.Kept) > rollupKept {
				t.Fatalf("kept %+v of %+v", got, want)
			}
			back, err := Unpack(nil, Pack(r.Kept))
			if err != nil || !slices.EqualFunc(back, r.Kept, func(a, b Point) bool {
				return a.Step == b.Step && a.Attempt == b.Attempt && a.Time.Equal(b.Time.Truncate(1000)) && math.Float64bits(a.Value) == math.Float64bits(b.Value)
			}) {
				t.Fatalf("packed %+v, unpacked %+v, %v", r.Kept, back, err)
			}
		}
	})
	if _, err := Unpack(nil, make([]byte, 29)); !errors.Is(err, ErrPacked) {
		t.Errorf("damaged bytes: %v", err)
	}
}
