package usage

import (
	"math"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/ultrathink-pilot/trainyard/services/checkpoint-janitor/internal/retention"
)

var start = time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)

// A store that grows evenly has exactly that growth, whenever it was looked at.
func TestGrowthOfALine(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		perDay := rapid.Float64Range(-1e9, 1e9).Draw(t, "per day")
		var points []Point
		at := start
		for range rapid.IntRange(2, 50).Draw(t, "n") {
			points = append(points, Point{at, int64(1e12 + perDay*at.Sub(start).Hours()/24)})
			at = at.Add(time.Duration(rapid.IntRange(60, 600).Draw(t, "minutes")) * time.Minute)
		}
		got, ok := Growth(points)
		if !ok || math.Abs(got-perDay) > 1e3+math.Abs(perDay)*1e-3 {
			t.Fatalf("got %v %v, want %v", got, ok, perDay)
		}
	})
}

func TestGrowthIsUnknownAtFirst(t *testing.T) {
	t.Parallel()
	for _, points := range [][]Point{nil, {{start, 1}}, {{start, 1}, {start.Add(59 * time.Minute), 9}}, {{start, 1}, {start, 2}}} {
		if _, ok := Growth(points); ok {
			t.Errorf("growth of %v is claimed to be known", points)
		}
	}
}

func TestForecast(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		used, capacity int64
		perDay         float64
		days           float64
		ok             bool
	}{
		"half full":   {used: 500, capacity: 1000, perDay: 100, days: 3, ok: true},
		"full":        {used: 800, capacity: 1000, perDay: -5, days: 0, ok: true},
		"shrinking":   {used: 500, capacity: 1000, perDay: -1},
		"no capacity": {used: 500, perDay: 100},
		"a century":   {used: 0, capacity: math.MaxInt64, perDay: 1e-9},
	} {
		full, ok := Forecast(start, c.used, c.capacity, 0.8, c.perDay)
		if ok != c.ok || ok && full != start.Add(time.Duration(c.days*24)*time.Hour) {
			t.Errorf("%s: got %v %v", name, full, ok)
		}
	}
}

func TestClasses(t *testing.T) {
	t.Parallel()
	reason := func(codes ...retention.Code) (out []retention.Reason) {
		for _, c := range codes {
			out = append(out, retention.Reason{Code: c, Text: "x"})
		}
		return out
	}
	live := func(v retention.Verdict, codes ...retention.Code) retention.Decision {
		return retention.Decision{State: retention.StateLive, Verdict: v, Bytes: 10, Reasons: reason(codes...)}
	}
	for want, d := range map[string]retention.Decision{
		"production":     live(retention.Keep, retention.CodeTopRank, retention.CodeProduction),
		"registered":     live(retention.Keep, retention.CodeTopRank, retention.CodeVersion),
		"top ranked":     live(retention.Archive, retention.CodeIdle, retention.CodeTopRank),
		"held by people": live(retention.Keep, retention.CodePin),
		"live jobs":      live(retention.Keep, retention.CodeLiveJob),
		"to be deleted":  live(retention.Drop, retention.CodeOutranked),
		"other":          live(retention.Keep, retention.CodeYoung),
		"tombstoned":     {State: retention.StateTombstoned, Verdict: retention.Drop, Reasons: reason(retention.CodeOutranked)},
		"corrupt":        {State: retention.StateCorrupt, Verdict: retention.Keep, Reasons: reason(retention.CodeCorrupt)},
	} {
		if got := ClassOf(d); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	plan := retention.Plan{Decisions: []retention.Decision{live(retention.Keep, retention.CodeYoung), live(retention.Keep, retention.CodePin), live(retention.Keep, retention.CodePin)}}
	got := Classes(plan)
	if len(got) != 2 || got[0] != (Class{Name: "held by people", Objects: 2, Bytes: 20}) || got[1] != (Class{Name: "other", Objects: 1, Bytes: 10}) {
		t.Errorf("got %+v", got)
	}
}

func TestAClassThatWasEmptyGrewFromNothing(t *testing.T) {
	t.Parallel()
	day := func(n int) time.Time { return start.AddDate(0, 0, n) }
	h := History{Total: {{day(0), 5}, {day(1), 5}, {day(2), 5}}, "pinned": {{day(1), 10}, {day(2), 20}}}
	if got := h.Of("pinned"); len(got) != 3 || got[0].Bytes != 0 || got[2].Bytes != 20 {
		t.Errorf("got %v", got)
	}
	if perDay, ok := Growth(h.Of("pinned")); !ok || perDay != 10 {
		t.Errorf("%v a day, known %v", perDay, ok)
	}
	if perDay, ok := Growth(h.Of("unheard of")); !ok || perDay != 0 {
		t.Errorf("%v a day, known %v", perDay, ok)
	}
}
