// Package report writes what a training session achieved as one self-contained
// page: figures, equity and training curves as inline SVG, no script, no request
// to anywhere. It can be mailed and opened years later.
package report

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"html/template"
	"io"
	"math"
	"time"
)

// Session is everything on the page.
type Session struct {
	Time time.Time
	// Mesh says where it ran, such as "2 × cpu-lane".
	Mesh string
	// Took is the time from submit to the last promotion.
	Took time.Duration
	Runs []Run
	// Sweep says what the retention sweep did.
	Sweep string
	// Decisions are the sweep's lines.
	Decisions []Decision
}

// Run is one specialist's training.
type Run struct {
	Specialist, Job, Trace string
	Model                  string
	Version                int64
	Stage                  string
	Checkpoint             string
	// Epochs done.
	Epochs uint32
	Took   time.Duration
	// Evaluation is nil when the run stored none.
	Evaluation *Evaluation
	// Reward and Sharpe are training reward and validation Sharpe by step.
	Reward, Sharpe []Point
}

// Decision is a line of the sweep's plan.
type Decision struct {
	Action, Checkpoint, Experiment, Reason string
	Step                                   int64
}

// Point is a value of a series.
type Point struct{ X, Y float64 }

// Evaluation is the trainer's evaluation.json, as far as the page shows it.
type Evaluation struct {
	Symbol     string  `json:"symbol"`
	Timeframe  string  `json:"timeframe"`
	Reward     string  `json:"reward"`
	Seed       int64   `json:"seed"`
	BestEpoch  int     `json:"best_epoch"`
	CostsBPS   float64 `json:"costs_bps"`
	Train      Part    `json:"train"`
	Validation Part    `json:"validation"`
	Test       Part    `json:"test"`
	Note       string  `json:"note"`
}

// Part is one part of history.
type Part struct {
	From       string    `json:"from"`
	To         string    `json:"to"`
	Strategy   Figures   `json:"strategy"`
	BuyAndHold Figures   `json:"buy_and_hold"`
	Untrained  Spread    `json:"untrained_sharpe"`
	Random     Spread    `json:"random_sharpe"`
	Dates      []string  `json:"dates"`
	Equity     []float64 `json:"equity"`
	Hold       []float64 `json:"buy_and_hold_equity"`
}

// Figures judge an equity curve; returns and drawdown are shares, not per cent.
type Figures struct {
	Bars        int     `json:"bars"`
	Sharpe      float64 `json:"sharpe"`
	TotalReturn float64 `json:"total_return"`
	MaxDrawdown float64 `json:"max_drawdown"`
	Exposure    float64 `json:"exposure"`
}

// Spread is a baseline over several draws.
type Spread struct {
	Mean  float64 `json:"mean"`
	SD    float64 `json:"sd"`
	Draws int     `json:"draws"`
}

// ParseEvaluation reads evaluation.json.
func ParseEvaluation(data []byte) (*Evaluation, error) {
	e := &Evaluation{}
	if err := json.Unmarshal(data, e); err != nil {
		return nil, fmt.Errorf("evaluation: %w", err)
	}
	return e, nil
}

//go:embed page.html
var pageText string

var page = template.Must(template.New("page").Funcs(template.FuncMap{
	"num":     func(v float64) string { return number("%.2f", v) },
	"percent": func(v float64) string { return number("%+.1f %%", 100*v) },
	"fall":    func(v float64) string { return number("−%.1f %%", 100*math.Abs(v)) },
	"seconds": func(d time.Duration) string { return fmt.Sprintf("%.1f s", d.Seconds()) },
	"equity":  equityChart,
	"curve":   trainingChart,
	"better":  func(a, b float64) bool { return a > b },
	"short": func(id string) string {
		if len(id) > 12 {
			return "…" + id[len(id)-12:]
		}
		return id
	},
}).Parse(pageText))

func number(format string, v float64) string {
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return "–"
	}
	return fmt.Sprintf(format, v)
}

// Write writes the page.
func Write(w io.Writer, s *Session) error { return page.Execute(w, s) }
