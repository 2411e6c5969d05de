package market

import (
	"fmt"
	"math"
	"math/rand/v2"
	"sort"

	"github.com/ultrathink-pilot/trainyard/services/trainer/internal/reward"
)

// ObservationWidth is the width of every specialist's observation: the
// standardised features, then the position state, then zeros.
const ObservationWidth = 64

// PositionSlots is the number of position values in an observation: position,
// its size, bars held, open profit, drawdown of the episode.
const PositionSlots = 5

// Actions is the number of actions: short, flat, long, in this order.
const Actions = 3

// PositionOf returns the position that action a takes: -1, 0 or +1.
func PositionOf(action int8) int8 { return action - 1 }

// Costs of trading, in basis points of the traded value. A change from short to
// long trades twice the equity.
type Costs struct {
	CommissionBP float64
	SlippageBP   float64
}

// rate returns the cost of one unit of turnover as a fraction.
func (c Costs) rate() float64 { return (c.CommissionBP + c.SlippageBP) / 1e4 }

// Segment is a run of consecutive decision bars [From, To) of one regime. The
// decision at bar t is taken at its close and earns the move to bar t+1.
type Segment struct{ From, To int }

// World is a table made ready for one specialist. It is immutable and shared by
// all environments.
//
// A decision fills at the close that it saw, plus costs and slippage; the next
// bar's open was rejected because the feature table carries closes only.
type World struct {
	Table      *Table
	Split      Split
	Scaler     Scaler
	Specialist Regime
	Costs      Costs
	Reward     reward.Function

	observations []float32 // Bars x ObservationWidth, position slots zero; nil for a long history
	moves        []float64 // move[t] = close[t+1]/close[t] - 1
	volatility   []float64 // trailing, per bar
	train        []Segment
	validation   []Segment
	test         []Segment
	cumulative   []int // train bars up to and including segment i
	barsPerYear  float64
}

// WorldOptions configures a world.
type WorldOptions struct {
	Specialist Regime
	Split      SplitPlan
	Costs      Costs
	Reward     reward.Function
	// Scaler replaces the statistics of the train bars when a model that was
	// trained before is evaluated or continued.
	Scaler *Scaler
}

// The least history that gives a figure any meaning.
const (
	minTrainBars      = 60
	minValidationBars = 20
)

// NewWorld checks the table and options and prepares the world. All problems
// come back at once; the world is nil then.
func NewWorld(t *Table, o WorldOptions) (*World, []Problem) {
	problems := t.Check()
	add := func(field, format string, args ...any) {
		problems = append(problems, Problem{Field: field, Description: fmt.Sprintf(format, args...)})
	}
	if o.Specialist < RegimeBull || o.Specialist > RegimeSideways {
		add("specialist", "%q is not bull, bear or sideways", o.Specialist)
	}
	if c := o.Costs; !(c.CommissionBP >= 0 && c.CommissionBP <= 1000) || !(c.SlippageBP >= 0 && c.SlippageBP <= 1000) {
		add("costs", "commission %v and slippage %v basis points: each is between 0 and 1000", c.CommissionBP, c.SlippageBP)
	}
	if n := len(t.FeatureNames); n+PositionSlots > ObservationWidth {
		add("table.feature_names", "%d features: an observation has room for %d", n, ObservationWidth-PositionSlots)
	}
	split, more := o.Split.Apply(t.Bars())
	problems = append(problems, more...)
	if len(problems) > 0 {
		return nil, problems
	}
	w := &World{Table: t, Split: split, Specialist: o.Specialist, Costs: o.Costs, Reward: o.Reward,
		barsPerYear: barsPerYear(t.Dates)}
	w.train = segments(t.Regimes, split.Train, o.Specialist)
	w.validation = segments(t.Regimes, split.Validation, o.Specialist)
	w.test = segments(t.Regimes, split.Test, o.Specialist)
	if n := bars(w.train); n < minTrainBars {
		add("table", "too little history: %d %s bars to train on, %d are needed", n, o.Specialist, minTrainBars)
	}
	if n := bars(w.validation); n < minValidationBars {
		add("table", "too little history: %d %s bars to validate on, %d are needed", n, o.Specialist, minValidationBars)
	}
	if o.Scaler != nil && (len(o.Scaler.Mean) != len(t.FeatureNames) || len(o.Scaler.Scale) != len(t.FeatureNames)) {
		add("table.feature_names", "%d features, but the model was trained on %d", len(t.FeatureNames), len(o.Scaler.Mean))
	}
	if len(problems) > 0 {
		return nil, problems
	}
	if o.Scaler != nil {
		w.Scaler = *o.Scaler
	} else {
		w.Scaler = FitScaler(t, split.Train)
	}
	w.prepare()
	return w, nil
}

func (w *World) prepare() {
	t, n := w.Table, w.Table.Bars()
	w.moves = make([]float64, n)
	for i := range n - 1 {
		w.moves[i] = t.Close[i+1]/t.Close[i] - 1
	}
	if n <= maxPrepared {
		w.observations = make([]float32, n*ObservationWidth)
		for i := range n {
			w.Scaler.Apply(w.observations[i*ObservationWidth:], t.Row(i))
		}
	}
	w.volatility = trailingVolatility(w.moves, 21)
	total := 0
	for _, s := range w.train {
		total += s.To - s.From
		w.cumulative = append(w.cumulative, total)
	}
}

// maxPrepared is the number of bars up to which the standardised features are kept
// (16 MiB). A longer history stays in the one copy that all trainers of a host map,
// and is standardised at each look: the numbers are the same.
const maxPrepared = 1 << 16

// features writes the standardised features of a bar.
func (w *World) features(dst []float32, bar int) {
	if w.observations != nil {
		copy(dst[:len(w.Scaler.Mean)], w.observations[bar*ObservationWidth:])
		return
	}
	w.Scaler.Apply(dst, w.Table.Row(bar))
}

// trailingVolatility returns the root mean square of the last window moves that
// are known at each bar, floored at one basis point.
func trailingVolatility(moves []float64, window int) []float64 {
	out := make([]float64, len(moves))
	for t := range moves {
		from := max(0, t-window)
		sum := 0.0
		for _, m := range moves[from:t] { // moves[t-1] is the move into bar t
			sum += m * m
		}
		out[t] = 0.01
		if t > 1 {
			out[t] = max(1e-4, math.Sqrt(sum/float64(t-from)))
		}
	}
	return out
}

// segments finds the runs of decision bars of one regime inside r. The last bar
// of r decides nothing: its move would end outside.
func segments(labels []Regime, r Range, regime Regime) []Segment {
	var out []Segment
	for i := r.From; i < r.To-1; i++ {
		if labels[i] != regime {
			continue
		}
		if k := len(out); k > 0 && out[k-1].To == i {
			out[k-1].To = i + 1
		} else {
			out = append(out, Segment{i, i + 1})
		}
	}
	return out
}

func bars(s []Segment) int {
	n := 0
	for _, x := range s {
		n += x.To - x.From
	}
	return n
}

// barsPerYear measures the annualisation factor from the dates.
func barsPerYear(dates []int64) float64 {
	const year = 365.25 * 24 * 3600
	span := float64(dates[len(dates)-1] - dates[0])
	if len(dates) < 2 || span <= 0 {
		return 252
	}
	return float64(len(dates)-1) / span * year
}

// BarsPerYear is the annualisation factor, measured from the dates.
func (w *World) BarsPerYear() float64 { return w.barsPerYear }

// Part names a part of the split.
type Part uint8

// The parts.
const (
	PartTrain Part = iota
	PartValidation
	PartTest
)

// Segments returns the specialist's segments in a part. The slice is shared.
func (w *World) Segments(p Part) []Segment {
	return [...][]Segment{w.train, w.validation, w.test}[p]
}

// Env is the state of one environment. Its fields are plain numbers, so that a
// checkpoint can hold them.
type Env struct {
	Bar, End int32 // decision bar and end of the segment
	Held     int32 // bars since the position was opened
	Position int8  // -1, 0, +1
	Equity   float64
	Peak     float64
	Entry    float64 // equity when the position was opened
	Reward   reward.State
}

// Reset starts a training episode at a random bar of a random train segment,
// every train bar being equally likely.
func (w *World) Reset(e *Env, rng *rand.Rand) {
	k := rng.IntN(w.cumulative[len(w.cumulative)-1])
	i := sort.SearchInts(w.cumulative, k+1)
	s := w.train[i]
	w.begin(e, Segment{s.To - (w.cumulative[i] - k), s.To})
}

func (w *World) begin(e *Env, s Segment) {
	*e = Env{Bar: int32(s.From), End: int32(s.To), Equity: 1, Peak: 1, Entry: 1}
}

// Observe writes the observation of e, ObservationWidth values.
func (w *World) Observe(e *Env, dst []float32) {
	dst = dst[:ObservationWidth]
	if w.observations != nil {
		copy(dst, w.observations[int(e.Bar)*ObservationWidth:])
	} else {
		w.features(dst, int(e.Bar))
		clear(dst[len(w.Scaler.Mean):])
	}
	f := dst[len(w.Scaler.Mean):][:PositionSlots]
	f[0] = float32(e.Position)
	f[1] = float32(e.Position * e.Position)
	f[2] = min(float32(e.Held)/21, 3)
	open := 0.0
	if e.Position != 0 {
		open = e.Equity/e.Entry - 1
	}
	f[3] = float32(max(-featureClip, min(featureClip, 20*open)))
	f[4] = float32(min(featureClip, 10*(1-e.Equity/e.Peak)))
}

// HistoryWidth is the row length of History: the features, padded with zeros to a
// multiple of 16.
func (w *World) HistoryWidth() int { return (len(w.Scaler.Mean) + 15) &^ 15 }

// History writes the standardised features of the n bars up to and including bar,
// oldest first, HistoryWidth values each. Bars before the first are zeros.
func (w *World) History(bar int32, n int, dst []float32) {
	width, features := w.HistoryWidth(), len(w.Scaler.Mean)
	for i := range n {
		row := dst[i*width : (i+1)*width]
		t := int(bar) - n + 1 + i
		if t < 0 {
			clear(row)
			continue
		}
		w.features(row, t)
		clear(row[features:])
	}
}

// Outcome is what one step gave.
type Outcome struct {
	Reward   float64
	Net      float64 // return after costs
	Turnover float64 // absolute change of position, the closing trade included
	Done     bool    // the segment ended and the position was closed
}

// Step takes an action and moves e one bar on. At the end of a segment the
// position is closed at its cost; the caller then resets e.
func (w *World) Step(e *Env, action int8) Outcome {
	position := PositionOf(action)
	t := int(e.Bar)
	rate := w.Costs.rate()
	turnover := math.Abs(float64(position) - float64(e.Position))
	if position != e.Position {
		e.Position, e.Held, e.Entry = position, 0, e.Equity
	} else if position != 0 {
		e.Held++
	}
	net := float64(position)*w.moves[t] - turnover*rate
	e.Bar++
	done := e.Bar >= e.End
	if done {
		closing := math.Abs(float64(position))
		net -= closing * rate
		turnover += closing
	}
	before := 1 - e.Equity/e.Peak
	e.Equity *= max(1+net, 1e-6)
	e.Peak = max(e.Peak, e.Equity)
	grown := max(0, 1-e.Equity/e.Peak-before)
	r := w.Reward.Of(&e.Reward, reward.Bar{Net: net, Turnover: turnover, NewDrawdown: grown, Volatility: w.volatility[t]})
	return Outcome{Reward: r, Net: net, Turnover: turnover, Done: done}
}
