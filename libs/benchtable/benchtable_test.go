package benchtable

import (
	"math"
	"strings"
	"testing"
	"time"
)

func TestNumbersKeepThreeDigits(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		value float64
		want  string
	}{
		{0, "0"}, {7, "7"}, {1234, "1,234"}, {-1234567, "-1,234,567"}, {123456.7, "123,000"}, {12.345, "12.3"},
		{0.012345, "0.0123"}, {0.00001234, "1.23e-05"}, {999.6, "1000"}, {math.Inf(1), "+Inf"},
	} {
		if got := number(c.value); got != c.want {
			t.Errorf("number(%v) = %q, want %q", c.value, got, c.want)
		}
	}
}

func TestQuantileInterpolates(t *testing.T) {
	t.Parallel()
	values := []float64{4, 1, 3, 2}
	for q, want := range map[float64]float64{0: 1, 0.5: 2.5, 1: 4} {
		if got := Quantile(values, q); got != want {
			t.Errorf("Quantile(%v) = %v, want %v", q, got, want)
		}
	}
	if !math.IsNaN(Quantile(nil, 0.5)) {
		t.Error("the quantile of nothing is not a number")
	}
}

func TestSectionRendersOnlyTheColumnsItNeeds(t *testing.T) {
	t.Parallel()
	plain := Section{Title: "Speed", Command: "make bench", Rows: []Row{{What: "a | b", Ours: Durations(3*time.Millisecond, time.Millisecond)}}}
	text := plain.text()
	for _, want := range []string{"## Speed\n", "`make bench`", "| what | reached |", `| a \| b | 2 ms [1, 3] |`} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	full := plain
	full.Rows = []Row{{What: "x", Asked: ">= 2x", Ours: Of("req/s", 300), Peer: Of("req/s", 100), PeerName: "MLflow 2.22"}}
	if want := "| x | >= 2x | 300 req/s | MLflow 2.22 100 req/s | 3x |"; !strings.Contains(full.text(), want) {
		t.Errorf("no %q in\n%s", want, full.text())
	}
}

func TestReplaceTouchesOneSection(t *testing.T) {
	t.Parallel()
	page := replace("# Figures\n", "One", "## One\n\nold\n")
	page = replace(page, "Two", "## Two\n\nkept\n")
	page = replace(page, "One", "## One\n\nnew\n")
	if want := "# Figures\n\n## One\n\nnew\n\n## Two\n\nkept\n"; page != want {
		t.Errorf("got %q, want %q", page, want)
	}
}
