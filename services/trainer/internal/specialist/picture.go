package specialist

import (
	"bytes"
	"context"
	_ "embed"
	"encoding/json"
	"fmt"
	"html/template"
	"os"
	"path/filepath"

	"github.com/ultrathink-pilot/trainyard/services/trainer/internal/chart"
	"github.com/ultrathink-pilot/trainyard/services/trainer/internal/checkpoint"
	"github.com/ultrathink-pilot/trainyard/services/trainer/internal/market"
)

// The artifacts that people look at. ReportFile stands alone: it loads nothing.
const (
	ReportFile   = "report.html"
	TrainingFile = "training.png"
	EquityFile   = "equity.png"
	ActionsFile  = "actions.png"
)

// epochRecord is one point of the training curve. The curve is part of a
// checkpoint, so that a resumed run draws the whole of it.
type epochRecord struct {
	Reward, Policy, Value, Entropy, KL, Gradient, Rate, Sharpe float64
}

// curve is the training curve so far.
type curve []epochRecord

func (c curve) series(of func(r epochRecord) float64) []float64 {
	out := make([]float64, len(c))
	for i, r := range c {
		out[i] = of(r)
	}
	return out
}

func (c curve) panels(hold float64) []chart.Panel {
	held := make([]float64, len(c))
	for i := range held {
		held[i] = hold
	}
	return []chart.Panel{
		{Title: "Validation Sharpe ratio", X: "epoch", Lines: []chart.Line{
			{Name: "specialist", Y: c.series(func(r epochRecord) float64 { return r.Sharpe })}, {Name: "buy and hold", Y: held, Thin: true}}},
		{Title: "Mean reward of the training episodes", X: "epoch", Lines: []chart.Line{
			{Name: "reward", Y: c.series(func(r epochRecord) float64 { return r.Reward })}}},
		{Title: "Losses", X: "epoch", Lines: []chart.Line{
			{Name: "policy", Y: c.series(func(r epochRecord) float64 { return r.Policy })},
			{Name: "value", Y: c.series(func(r epochRecord) float64 { return r.Value })},
			{Name: "entropy", Y: c.series(func(r epochRecord) float64 { return r.Entropy }), Thin: true}}},
	}
}

// decodeCurve reads the curve of a checkpoint; an older one has none.
func decodeCurve(data []byte, epochs int) (curve, error) {
	var c curve
	if len(data) == 0 {
		return nil, nil
	}
	if err := json.Unmarshal(data, &c); err != nil {
		return nil, fmt.Errorf("the training curve: %w", err)
	}
	return c[:min(len(c), epochs)], nil
}

// shown is one part of history in pictures.
type shown struct {
	Name string
	PartDetailed
	closes []float64
}

// labels names six bars along the axis by their month.
func (s *shown) labels() map[int]string {
	out := map[int]string{}
	n := len(s.Dates)
	for k := range 6 {
		if i := k * (n - 1) / 5; n > 0 {
			out[i+1] = s.Dates[i][:len("2006-01")]
		}
	}
	return out
}

func (s *shown) equity() chart.Panel {
	return chart.Panel{Title: s.Name + ": equity after costs", X: "bars of the regime", Labels: s.labels(), Lines: []chart.Line{
		{Name: "specialist", Y: s.Equity}, {Name: "buy and hold", Y: s.PartDetailed.BuyAndHold, Thin: true}}}
}

func (s *shown) actions() []chart.Panel {
	positions := make([]float64, len(s.Positions))
	for i, p := range s.Positions {
		positions[i] = float64(p)
	}
	return []chart.Panel{
		{Title: s.Name + ": close", X: "bars of the regime", Labels: s.labels(), Lines: []chart.Line{{Name: "close", Y: s.closes}}},
		{Title: s.Name + ": position (-1 short, 0 flat, +1 long)", X: "bars of the regime", Labels: s.labels(), Lines: []chart.Line{
			{Name: "position", Y: positions, Step: true}}, Low: -1.1, High: 1.5},
	}
}

//go:embed report.html.tmpl
var reportText string

// percent and ratio are how the report writes figures.
var reportTemplate = template.Must(template.New("report").Funcs(template.FuncMap{
	"percent": func(v float64) string { return fmt.Sprintf("%.1f %%", 100*v) },
	"ratio":   func(v float64) string { return fmt.Sprintf("%.2f", v) },
}).Parse(reportText))

// pictures draws the evaluation.
func (t *training) pictures(e *Evaluation) ([]checkpoint.Content, error) {
	parts := []shown{{Name: "Validation", PartDetailed: e.Validation}, {Name: "Test", PartDetailed: e.Test}}
	for i, p := range []market.Part{market.PartValidation, market.PartTest} {
		for _, s := range t.world.Segments(p) {
			parts[i].closes = append(parts[i].closes, t.job.Table.Close[s.From:s.To]...)
		}
	}
	training := t.curve.panels(t.buyHold.Sharpe)
	equity := []chart.Panel{parts[0].equity(), parts[1].equity()}
	actions := append(parts[0].actions(), parts[1].actions()...)
	var out []checkpoint.Content
	var drawn []template.HTML
	for _, picture := range []struct {
		name   string
		panels []chart.Panel
	}{{EquityFile, equity}, {ActionsFile, actions}, {TrainingFile, training}} {
		data, err := chart.PNG(picture.panels)
		if err != nil {
			return nil, err
		}
		element, err := chart.SVG(picture.panels)
		if err != nil {
			return nil, err
		}
		out = append(out, checkpoint.Content{Name: picture.name, Data: data})
		drawn = append(drawn, template.HTML(element)) //nolint:gosec // our own drawing; the library escapes its texts
	}
	var page bytes.Buffer
	if err := reportTemplate.Execute(&page, map[string]any{"E": e, "Parts": parts, "Drawn": drawn}); err != nil {
		return nil, err
	}
	return append(out, checkpoint.Content{Name: ReportFile, Data: page.Bytes()}), nil
}

var contentTypes = map[string]string{".json": "application/json", ".html": "text/html; charset=utf-8", ".png": "image/png", ".onnx": "application/octet-stream"}

// hand writes the contents and reports each as an artifact.
func (t *training) hand(ctx context.Context, contents []checkpoint.Content) error {
	files, err := checkpoint.Write(filepath.Join(t.files.dir, "evaluation"), contents)
	if err != nil {
		return err
	}
	for _, f := range files {
		if err := t.report.Artifact(ctx, f, contentTypes[filepath.Ext(f.Name)]); err != nil {
			return reportError{err}
		}
	}
	// The files were pushed: the host has its own copy.
	return os.RemoveAll(filepath.Dir(files[0].Path))
}

// handCurve leaves the curve of a run that failed.
func (t *training) handCurve(ctx context.Context) error {
	if len(t.curve) == 0 {
		return nil
	}
	data, err := chart.PNG(t.curve.panels(t.buyHold.Sharpe))
	if err != nil {
		return err
	}
	return t.hand(ctx, []checkpoint.Content{{Name: TrainingFile, Data: data}})
}
