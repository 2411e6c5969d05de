package market

import "math/rand/v2"

// Policy chooses the action with the highest preference for each row: the bar that
// it decides at (for those that look back) and its observation, rows x
// ObservationWidth, in; one action per row out.
type Policy interface {
	Act(bars []int32, observations []float32, actions []int8)
}

// Evaluator runs policies over a part of history. It owns its buffers, so that
// evaluating every epoch allocates nothing but the track.
type Evaluator struct {
	world    *World
	segments []Segment
	envs     []Env
	live     []int
	bars     []int32
	obs      []float32
	actions  []int8
}

// NewEvaluator prepares the evaluation of the specialist's bars in a part.
func NewEvaluator(w *World, p Part) *Evaluator {
	s := w.Segments(p)
	return &Evaluator{world: w, segments: s, envs: make([]Env, len(s)), live: make([]int, 0, len(s)),
		bars: make([]int32, len(s)), obs: make([]float32, len(s)*ObservationWidth), actions: make([]int8, len(s))}
}

// Run walks every segment from a flat position to its end and returns the
// joined track, in the order of time. Segments are independent of each other,
// so that they step side by side and the policy sees many rows at once.
func (v *Evaluator) Run(policy Policy) *Track {
	n := bars(v.segments)
	t := &Track{Dates: make([]int64, n), Net: make([]float64, n), Positions: make([]int8, n), Turnover: make([]float64, n)}
	offset := make([]int, len(v.segments))
	v.live = v.live[:0]
	at := 0
	for i, s := range v.segments {
		v.world.begin(&v.envs[i], s)
		offset[i] = at - s.From
		at += s.To - s.From
		v.live = append(v.live, i)
	}
	for len(v.live) > 0 {
		for r, i := range v.live {
			v.bars[r] = v.envs[i].Bar
			v.world.Observe(&v.envs[i], v.obs[r*ObservationWidth:(r+1)*ObservationWidth])
		}
		policy.Act(v.bars[:len(v.live)], v.obs[:len(v.live)*ObservationWidth], v.actions[:len(v.live)])
		kept := v.live[:0]
		for r, i := range v.live {
			e := &v.envs[i]
			k := offset[i] + int(e.Bar)
			t.Dates[k] = v.world.Table.Dates[e.Bar]
			o := v.world.Step(e, v.actions[r])
			t.Net[k], t.Turnover[k], t.Positions[k] = o.Net, o.Turnover, e.Position
			if !o.Done {
				kept = append(kept, i)
			}
		}
		v.live = kept
	}
	return t
}

// always is the policy of one action.
type always int8

// Act implements Policy.
func (a always) Act(_ []int32, _ []float32, actions []int8) {
	for i := range actions {
		actions[i] = int8(a)
	}
}

// BuyAndHold is long on every bar of the same segments and pays the same costs.
func (v *Evaluator) BuyAndHold() *Track { return v.Run(always(2)) }

// uniform acts at random.
type uniform struct{ rng *rand.Rand }

// Act implements Policy.
func (u uniform) Act(_ []int32, _ []float32, actions []int8) {
	for i := range actions {
		actions[i] = int8(u.rng.IntN(Actions))
	}
}

// Spread is a figure over repeated draws.
type Spread struct {
	Mean float64 `json:"mean"`
	// SD is the standard deviation over the draws.
	SD    float64 `json:"sd"`
	Draws int     `json:"draws"`
}

// Random returns the Sharpe ratio of uniformly random actions over draws runs, and
// the mean of each of their figures.
func (v *Evaluator) Random(draws int, rng *rand.Rand) (Spread, Figures) {
	x := make([]float64, draws)
	var mean Figures
	for i := range x {
		f := v.Run(uniform{rng}).Figures(v.world.barsPerYear)
		x[i] = f.Sharpe
		mean.Bars = f.Bars
		for _, sum := range []struct {
			of *float64
			by float64
		}{{&mean.Sharpe, f.Sharpe}, {&mean.TotalReturn, f.TotalReturn}, {&mean.MaxDrawdown, f.MaxDrawdown}, {&mean.Turnover, f.Turnover},
			{&mean.Exposure, f.Exposure}, {&mean.Long, f.Long}, {&mean.Short, f.Short}} {
			*sum.of += sum.by / float64(draws)
		}
	}
	average, sd := moments(x)
	return Spread{Mean: average, SD: sd, Draws: draws}, mean
}

// Untrained returns the Sharpe ratio of policies as they were before training.
func (v *Evaluator) Untrained(policies []Policy) Spread {
	x := make([]float64, len(policies))
	for i, p := range policies {
		x[i] = Sharpe(v.Run(p).Net, v.world.barsPerYear)
	}
	mean, sd := moments(x)
	return Spread{Mean: mean, SD: sd, Draws: len(policies)}
}
