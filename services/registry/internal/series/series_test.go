package series

import (
	"math"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func at(step int64, value float64, attempt int32) Point {
	return Point{Step: step, Time: time.Unix(step, 0).UTC(), Value: value, Attempt: attempt}
}

func TestLatestTakesStepBeforeTimeAndNumberBeforeNaN(t *testing.T) {
	t.Parallel()
	late := Point{Step: 1, Time: time.Unix(99, 0), Value: 5}
	if got, _ := Latest([]Point{at(2, 1, 1), late}); got.Step != 2 {
		t.Errorf("a late lower step replaced the latest: %+v", got)
	}
	same := []Point{at(3, math.NaN(), 1), at(3, -7, 1)}
	if got, _ := Latest(same); got.Value != -7 {
		t.Errorf("NaN beat a number logged at the same instant: %+v", got)
	}
	if got, _ := Latest([]Point{at(3, -7, 1), at(4, math.NaN(), 1)}); !math.IsNaN(got.Value) {
		t.Errorf("a NaN at a later step must be the latest: %+v", got)
	}
}

func TestRestoreSupersedesOnlyWhatIsLoggedAgain(t *testing.T) {
	t.Parallel()
	first := []Point{at(1, 1, 1), at(2, 2, 1), at(3, 3, 1), at(4, 4, 1)}
	cut := Raise(nil, []int32{1}, 2)
	second := []Point{at(2, 22, 2), at(3, 33, 2)}
	var got []float64
	for _, p := range Visible(append(first, second...), cut) {
		got = append(got, p.Value)
	}
	if !slices.Equal(got, []float64{1, 22, 33}) {
		t.Errorf("visible values %v", got)
	}
	again := Raise(cut, []int32{1, 2}, 3)
	if again[0].HiddenAbove != 2 || again[1].HiddenAbove != 3 {
		t.Errorf("a later restore must never show again what an earlier one hid: %+v", again)
	}
}

// A series of any values, however thinned, keeps its ends, its order and its points.
func TestThinningKeepsEndsOrderAndPoints(t *testing.T) {
	t.Parallel()
	thin := map[string]func([]Point, int) []Point{"MinMax": MinMax, "LTTB": LTTB}
	rapid.Check(t, func(t *rapid.T) {
		values := rapid.SliceOfN(rapid.Float64(), 0, 400).Draw(t, "values")
		limit := rapid.IntRange(0, 60).Draw(t, "limit")
		points := make([]Point, len(values))
		for i, v := range values {
			if i%17 == 16 {
				v = math.NaN()
			}
			points[i] = at(int64(i), v, 1)
		}
		for name, f := range thin {
			got := f(points, limit)
			if len(got) > max(limit, 4) {
				t.Fatalf("%s returned %d points for a limit of %d", name, len(got), limit)
			}
			if len(points) == 0 {
				continue
			}
			if got[0].Step != 0 || got[len(got)-1].Step != int64(len(points)-1) {
				t.Fatalf("%s dropped an end", name)
			}
			for i, p := range got {
				if i > 0 && p.Step <= got[i-1].Step {
					t.Fatalf("%s is out of order at %d", name, i)
				}
				if math.Float64bits(p.Value) != math.Float64bits(points[p.Step].Value) {
					t.Fatalf("%s made up a value", name)
				}
			}
		}
	})
}

func TestMinMaxKeepsExtremesAndNaN(t *testing.T) {
	t.Parallel()
	points := make([]Point, 10_000)
	for i := range points {
		points[i] = at(int64(i), math.Sin(float64(i)/100), 1)
	}
	points[1234].Value, points[7777].Value, points[5000].Value = 50, -50, math.NaN()
	b := BoundsOf(MinMax(points, 200))
	if b.Max != 50 || b.Min != -50 || b.NonFinite != 1 {
		t.Errorf("a spike or a NaN was thinned away: %+v", b)
	}
}

func TestLTTBKeepsTheShape(t *testing.T) {
	t.Parallel()
	points := make([]Point, 5001)
	for i := range points {
		points[i] = at(int64(i), 0, 1)
	}
	points[2500].Value = 10
	if b := BoundsOf(LTTB(points, 50)); b.Max != 10 {
		t.Errorf("the only peak was thinned away: %+v", b)
	}
}
