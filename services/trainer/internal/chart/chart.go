// Package chart draws lines over a common axis, as PNG for a run's artifacts and as
// SVG for pages that must stand alone.
package chart

import (
	"bytes"
	"fmt"
	"image/color"
	"maps"
	"math"
	"slices"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgimg"
	"gonum.org/v1/plot/vg/vgsvg"
)

// Line is one curve: Y over 1, 2, 3, ... Values that are not finite are left out.
type Line struct {
	Name string
	Y    []float64
	// Thin draws it as a comparison behind the others.
	Thin bool
	// Step holds each value until the next, as a position is held.
	Step bool
}

// Panel is one plot of a picture.
type Panel struct {
	Title string
	X, Y  string
	Lines []Line
	// Labels name some values of x; nil leaves numbers.
	Labels map[int]string
	// Low and High bound y; both zero fit the lines.
	Low, High float64
}

// Size of one panel; a picture stacks its panels.
const (
	panelWidth  = 22 * vg.Centimeter
	panelHeight = 7.5 * vg.Centimeter
)

// maxPoints of one curve: more would not be seen, and an SVG would be of their size.
const maxPoints = 2000

// colors are told apart by people who do not see all of them (Okabe and Ito).
var colors = []color.Color{
	color.RGBA{R: 0, G: 114, B: 178, A: 255}, color.RGBA{R: 213, G: 94, B: 0, A: 255},
	color.RGBA{R: 0, G: 158, B: 115, A: 255}, color.RGBA{R: 204, G: 121, B: 167, A: 255},
}

// PNG draws the panels below each other.
func PNG(panels []Panel) ([]byte, error) {
	c := vgimg.PngCanvas{Canvas: vgimg.NewWith(vgimg.UseWH(panelWidth, panelHeight*vg.Length(len(panels))), vgimg.UseDPI(110))}
	if err := drawAll(draw.New(c), panels); err != nil {
		return nil, err
	}
	var out bytes.Buffer
	if _, err := c.WriteTo(&out); err != nil {
		return nil, fmt.Errorf("chart: %w", err)
	}
	return out.Bytes(), nil
}

// SVG draws the panels below each other, as an element for a page.
func SVG(panels []Panel) ([]byte, error) {
	c := vgsvg.New(panelWidth, panelHeight*vg.Length(len(panels)))
	if err := drawAll(draw.New(c), panels); err != nil {
		return nil, err
	}
	var out bytes.Buffer
	if _, err := c.WriteTo(&out); err != nil {
		return nil, fmt.Errorf("chart: %w", err)
	}
	// The declaration before the element would be an error within a page.
	_, element, _ := bytes.Cut(out.Bytes(), []byte("<svg"))
	return append([]byte("<svg"), element...), nil
}

func drawAll(c draw.Canvas, panels []Panel) error {
	for i := range panels {
		p, err := panels[i].plot()
		if err != nil {
			return fmt.Errorf("chart %q: %w", panels[i].Title, err)
		}
		top := vg.Length(i) * panelHeight
		p.Draw(draw.Crop(c, 0, 0, c.Max.Y-c.Min.Y-top-panelHeight, -top))
	}
	return nil
}

func (p *Panel) plot() (*plot.Plot, error) {
	out := plot.New()
	out.Title.Text, out.X.Label.Text, out.Y.Label.Text = p.Title, p.X, p.Y
	out.Title.TextStyle.Font.Size, out.Title.Padding = 11, 4
	out.Legend.Top, out.Legend.Left = true, true
	out.Add(plotter.NewGrid())
	for i, line := range p.Lines {
		points := line.points()
		if len(points) == 0 {
			continue
		}
		l, err := plotter.NewLine(points)
		if err != nil {
			return nil, err
		}
		l.Color, l.Width = colors[i%len(colors)], 1.6
		if line.Thin {
			l.Width, l.Dashes = 0.9, []vg.Length{3, 2}
		}
		if line.Step {
			l.StepStyle = plotter.PostStep
		}
		out.Add(l)
		out.Legend.Add(line.Name, l)
	}
	if p.Low < p.High {
		out.Y.Min, out.Y.Max = p.Low, p.High
	}
	if p.Labels != nil {
		out.X.Tick.Marker = labels(p.Labels)
	}
	return out, nil
}

// labels are the ticks of an axis with names.
type labels map[int]string

// Ticks implements plot.Ticker.
func (l labels) Ticks(low, high float64) []plot.Tick {
	var out []plot.Tick
	for _, x := range slices.Sorted(maps.Keys(l)) { // in one order, so that a drawing repeats
		if v := float64(x); v >= low && v <= high {
			out = append(out, plot.Tick{Value: v, Label: l[x]})
		}
	}
	return out
}

// points are the finite values; of a long curve the extremes of every stretch.
func (l *Line) points() plotter.XYs {
	var out plotter.XYs
	add := func(i int) {
		if y := l.Y[i]; !math.IsNaN(y) && !math.IsInf(y, 0) {
			out = append(out, plotter.XY{X: float64(i + 1), Y: y})
		}
	}
	n := len(l.Y)
	if n <= maxPoints {
		for i := range n {
			add(i)
		}
		return out
	}
	const stretches = maxPoints / 2
	for s := range stretches {
		from, to := s*n/stretches, (s+1)*n/stretches
		low, high := from, from
		for i := from; i < to; i++ {
			if l.Y[i] < l.Y[low] {
				low = i
			}
			if l.Y[i] > l.Y[high] {
				high = i
			}
		}
		add(min(low, high))
		if low != high {
			add(max(low, high))
		}
	}
	return out
}
