package report

import (
	_ "embed" // the page
	"fmt"
	"html/template"
	"strings"
	"time"

	"github.com/ultrathink-pilot/trainyard/services/checkpoint-janitor/internal/retention"
	"github.com/ultrathink-pilot/trainyard/services/checkpoint-janitor/internal/usage"
)

//go:embed report.html
var page string

var pageTemplate = template.Must(template.New("report").Funcs(template.FuncMap{
	"bytes": retention.Bytes, "growth": growth,
	"stamp": func(t time.Time) string { return t.UTC().Format("2006-01-02 15:04 UTC") },
	"last":  last,
	"width": func(part, whole int64) float64 {
		if whole <= 0 {
			return 0
		}
		return min(100, 100*float64(part)/float64(whole))
	},
}).Parse(page))

// HTML form: one page without any outside resource.
func (r Report) HTML() (string, error) {
	var largest int64
	for _, c := range r.Classes {
		largest = max(largest, c.Bytes)
	}
	var b strings.Builder
	err := pageTemplate.Execute(&b, struct {
		Report
		Largest int64
		Curve   string
	}{r, largest, curve(r.History)})
	return b.String(), err
}

// Size of the chart in the units of its view box.
const (
	chartWidth  = 640.0
	chartHeight = 160.0
)

// curve draws the history as the points of a polyline.
func curve(points []usage.Point) string {
	if len(points) < 2 {
		return ""
	}
	first, span := points[0].Time, points[len(points)-1].Time.Sub(points[0].Time).Seconds()
	var top int64 = 1
	for _, p := range points {
		top = max(top, p.Bytes)
	}
	var b strings.Builder
	for _, p := range points {
		x := chartWidth * p.Time.Sub(first).Seconds() / max(span, 1)
		y := chartHeight * (1 - float64(p.Bytes)/float64(top))
		_, _ = fmt.Fprintf(&b, "%.1f,%.1f ", x, y) // a Builder never fails
	}
	return b.String()
}
