package report

import (
	"fmt"
	"html/template"
	"math"
	"strings"
)

// Geometry of a chart, in the units of its view box.
const (
	chartWidth, chartHeight          = 560.0, 220.0
	left, right, top, bottom         = 46.0, 10.0, 10.0, 22.0
	innerWidth                       = chartWidth - left - right
	innerHeight                      = chartHeight - top - bottom
	maxDrawn                         = 600
	ticks                            = 4
	minimumSpan              float64 = 1e-9
)

// line is one curve of a chart.
type line struct {
	class  string
	points []Point
}

// equityChart draws a part's equity beside buy-and-hold's, in per cent of the start.
func equityChart(p Part) template.HTML {
	series := func(class string, values []float64) line {
		l := line{class: class}
		for i, v := range values {
			l.points = append(l.points, Point{float64(i), 100 * (v - 1)})
		}
		return l
	}
	label := func(x float64) string {
		if i := int(math.Round(x)); i >= 0 && i < len(p.Dates) && len(p.Dates[i]) >= 7 {
			return p.Dates[i][:7]
		}
		return ""
	}
	return chart([]line{series("hold", p.Hold), series("equity", p.Equity)}, label, "%+.0f %%", true,
		"Equity of the strategy and of buy-and-hold")
}

// trainingChart draws one series over steps.
func trainingChart(class, title string, points []Point) template.HTML {
	label := func(x float64) string {
		if x >= 1000 {
			return fmt.Sprintf("%.0fk", x/1000)
		}
		return fmt.Sprintf("%.0f", x)
	}
	return chart([]line{{class, points}}, label, "%.3g", false, title)
}

func chart(lines []line, label func(x float64) string, format string, zero bool, title string) template.HTML {
	low, high := Point{math.Inf(1), math.Inf(1)}, Point{math.Inf(-1), math.Inf(-1)}
	for i := range lines {
		lines[i].points = thin(finite(lines[i].points))
		for _, p := range lines[i].points {
			low = Point{math.Min(low.X, p.X), math.Min(low.Y, p.Y)}
			high = Point{math.Max(high.X, p.X), math.Max(high.Y, p.Y)}
		}
	}
	if math.IsInf(low.X, 0) {
		return `<p class="empty">no points</p>`
	}
	if zero {
		low.Y, high.Y = math.Min(low.Y, 0), math.Max(high.Y, 0)
	}
	if high.Y-low.Y < minimumSpan {
		low.Y, high.Y = low.Y-1, high.Y+1
	}
	step := niceStep((high.Y - low.Y) / ticks)
	low.Y, high.Y = math.Floor(low.Y/step)*step, math.Ceil(high.Y/step)*step
	if high.X-low.X < minimumSpan {
		low.X, high.X = low.X-1, high.X+1
	}
	x := func(v float64) float64 { return left + (v-low.X)/(high.X-low.X)*innerWidth }
	y := func(v float64) float64 { return top + (high.Y-v)/(high.Y-low.Y)*innerHeight }

	var b strings.Builder
	fmt.Fprintf(&b, `<svg viewBox="0 0 %.0f %.0f" role="img"><title>%s</title>`, chartWidth, chartHeight, template.HTMLEscapeString(title))
	for i := range int(math.Round((high.Y-low.Y)/step)) + 1 {
		v := low.Y + step*float64(i)
		if math.Abs(v) < step/2 {
			v = 0 // not "-1.4e-17", and never "-0"
		}
		fmt.Fprintf(&b, `<line class="grid" x1="%.1f" x2="%.1f" y1="%.1f" y2="%.1f"/>`, left, chartWidth-right, y(v), y(v))
		fmt.Fprintf(&b, `<text class="tick" x="%.1f" y="%.1f" text-anchor="end">%s</text>`, left-5, y(v)+3.5, template.HTMLEscapeString(fmt.Sprintf(format, v)))
	}
	for i := range ticks + 1 {
		v := low.X + (high.X-low.X)*float64(i)/ticks
		anchor := "middle"
		switch i {
		case 0:
			anchor = "start"
		case ticks:
			anchor = "end"
		}
		fmt.Fprintf(&b, `<text class="tick" x="%.1f" y="%.1f" text-anchor="%s">%s</text>`, x(v), chartHeight-6, anchor, template.HTMLEscapeString(label(v)))
	}
	if zero {
		fmt.Fprintf(&b, `<line class="zero" x1="%.1f" x2="%.1f" y1="%.1f" y2="%.1f"/>`, left, chartWidth-right, y(0), y(0))
	}
	for _, l := range lines {
		if len(l.points) == 0 {
			continue
		}
		fmt.Fprintf(&b, `<polyline class="line %s" points="`, template.HTMLEscapeString(l.class))
		for i, p := range l.points {
			if i > 0 {
				b.WriteByte(' ')
			}
			fmt.Fprintf(&b, "%.1f,%.1f", x(p.X), y(p.Y))
		}
		b.WriteString(`"/>`)
	}
	b.WriteString(`</svg>`)
	return template.HTML(b.String())
}

// niceStep is the round number (1, 2 or 5 times a power of ten) at or above v.
func niceStep(v float64) float64 {
	power := math.Pow(10, math.Floor(math.Log10(v)))
	for _, m := range []float64{1, 2, 5} {
		if v <= m*power {
			return m * power
		}
	}
	return 10 * power
}

func finite(points []Point) []Point {
	out := make([]Point, 0, len(points))
	for _, p := range points {
		if !math.IsNaN(p.Y) && !math.IsInf(p.Y, 0) {
			out = append(out, p)
		}
	}
	return out
}

// thin keeps the lowest and the highest point of each of maxDrawn/2 ranges, so
// that no peak is lost.
func thin(points []Point) []Point {
	if len(points) <= maxDrawn {
		return points
	}
	out := make([]Point, 0, maxDrawn)
	const ranges = maxDrawn / 2
	for r := range ranges {
		part := points[r*len(points)/ranges : (r+1)*len(points)/ranges]
		low, high := 0, 0
		for i, p := range part {
			if p.Y < part[low].Y {
				low = i
			}
			if p.Y > part[high].Y {
				high = i
			}
		}
		if low > high {
			low, high = high, low
		}
		out = append(out, part[low])
		if high != low {
			out = append(out, part[high])
		}
	}
	return out
}
