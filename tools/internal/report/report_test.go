package report

import (
	"html"
	"math"
	"regexp"
	"strings"
	"testing"
	"time"
)

func TestThePageStandsAlone(t *testing.T) {
	t.Parallel()
	e, err := ParseEvaluation([]byte(`{"symbol":"SPX","timeframe":"1d","best_epoch":4,"validation":{"from":"2009-01-02","to":"2014-12-31",
		"strategy":{"sharpe":1.25,"total_return":0.5,"max_drawdown":0.1,"bars":3},"buy_and_hold":{"sharpe":0.8},
		"dates":["2009-01-02","2009-01-05","2009-01-06"],"equity":[1,1.1,1.5],"buy_and_hold_equity":[1,1,1.2]},
		"test":{"strategy":{"sharpe":-0.4,"total_return":-0.07}},"note":"read <this>"}`))
	if err != nil {
		t.Fatal(err)
	}
	s := &Session{
		Time: time.Unix(0, 0).UTC(), Mesh: "2 × cpu-lane", Took: 31 * time.Second,
		Runs: []Run{
			{Specialist: "bull", Model: "bull_specialist", Version: 3, Stage: "production", Evaluation: e, Epochs: 9,
				Sharpe: []Point{{1, 0.5}, {2, math.NaN()}, {3, 1.25}}, Job: "<script>alert(1)</script>"},
			{Specialist: "bear", Model: "bear_specialist", Version: 1},
		},
		Decisions: []Decision{{Action: "keep", Reason: "rank 1 of 5"}},
	}
	var b strings.Builder
	if err := Write(&b, s); err != nil {
		t.Fatal(err)
	}
	text := b.String()
	for _, want := range []string{"1.25", "+50.0 %", "−10.0 %", "-0.40", "bull_specialist v3", "rank 1 of 5", "no evaluation was stored", "read &lt;this&gt;", `class="line equity"`} {
		if !strings.Contains(html.UnescapeString(text), want) && !strings.Contains(text, want) {
			t.Errorf("%q is not on the page", want)
		}
	}
	if strings.Contains(text, "<script") || strings.Contains(text, "ZgotmplZ") || strings.Contains(text, "NaN") {
		t.Error("the page has a script, an unsafe value or NaN")
	}
	if external := regexp.MustCompile(`(src|href)=|url\(|@import|https?://`).FindString(text); external != "" {
		t.Errorf("the page asks for something outside: %q", external)
	}
}

func TestThinKeepsPeaks(t *testing.T) {
	t.Parallel()
	points := make([]Point, 10000)
	for i := range points {
		points[i] = Point{float64(i), 0}
	}
	points[7777].Y, points[123].Y = 9, -9
	got := thin(points)
	high, low := 0.0, 0.0
	for i, p := range got {
		high, low = max(high, p.Y), min(low, p.Y)
		if i > 0 && p.X <= got[i-1].X {
			t.Fatal("out of order")
		}
	}
	if len(got) > maxDrawn || high != 9 || low != -9 {
		t.Fatalf("%d points from %g to %g", len(got), low, high)
	}
}

func TestNiceStep(t *testing.T) {
	t.Parallel()
	for v, want := range map[float64]float64{0.03: 0.05, 1: 1, 1.2: 2, 4.9: 5, 7: 10, 12: 20, 0.0021: 0.005} {
		if got := niceStep(v); math.Abs(got-want) > 1e-12 {
			t.Errorf("%g: %g, want %g", v, got, want)
		}
	}
}
