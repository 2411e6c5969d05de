package market_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"

	"github.com/ultrathink-pilot/trainyard/services/trainer/internal/market"
	"github.com/ultrathink-pilot/trainyard/services/trainer/internal/markettest"
	"github.com/ultrathink-pilot/trainyard/services/trainer/internal/reward"
)

func options(r market.Regime) market.WorldOptions {
	return market.WorldOptions{Specialist: r, Split: market.DefaultSplit(),
		Costs: market.Costs{CommissionBP: 1, SlippageBP: 1}, Reward: reward.Default(reward.TotalReturn)}
}

func world(t *testing.T, table *market.Table, r market.Regime) *market.World {
	t.Helper()
	w, problems := market.NewWorld(table, options(r))
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	return w
}

func clone(t *market.Table) *market.Table {
	c := *t
	c.Dates = append([]int64(nil), t.Dates...)
	c.Close = append([]float64(nil), t.Close...)
	c.Features = append([]float32(nil), t.Features...)
	c.Regimes = append([]market.Regime(nil), t.Regimes...)
	return &c
}

// observe returns every observation, action by action, up to bar limit.
func observe(w *market.World, p market.Part, limit int) []float32 {
	rng := rand.New(rand.NewPCG(4, 4))
	var out []float32
	obs := make([]float32, market.ObservationWidth)
	for _, s := range w.Segments(p) {
		e := market.Env{Bar: int32(s.From), End: int32(s.To), Equity: 1, Peak: 1, Entry: 1}
		for int(e.Bar) < min(s.To, limit) {
			w.Observe(&e, obs)
			out = append(out, obs...)
			w.Step(&e, int8(rng.IntN(3)))
		}
	}
	return out
}

// TestTheFutureChangesNoPastObservation corrupts everything from some bar on, in
// all columns, and finds every earlier observation and, when the corruption
// lies after the train part, every feature statistic untouched.
func TestTheFutureChangesNoPastObservation(t *testing.T) {
	t.Parallel()
	table := markettest.SyntheticTable(1, 2000)
	clean := world(t, table, market.RegimeBull)
	for _, cut := range []int{clean.Split.Train.To, clean.Split.Validation.From + 37, clean.Split.Test.From, table.Bars() - 1} {
		rng := rand.New(rand.NewPCG(uint64(cut), 9))
		bad := clone(table)
		for i := cut; i < bad.Bars(); i++ {
			bad.Close[i] *= math.Exp(rng.NormFloat64())
			for j := range bad.FeatureNames {
				bad.Row(i)[j] = float32(100 * rng.NormFloat64())
			}
			// Labels stay: other labels would cut other episodes, which is no leak.
		}
		w := world(t, bad, market.RegimeBull)
		if !reflect.DeepEqual(w.Scaler, clean.Scaler) {
			t.Errorf("bars from %d on changed the feature statistics", cut)
		}
		for _, p := range []market.Part{market.PartTrain, market.PartValidation, market.PartTest} {
			if got, want := observe(w, p, cut), observe(clean, p, cut); !reflect.DeepEqual(got, want) {
				t.Errorf("bars from %d on changed an earlier observation of part %d", cut, p)
			}
		}
	}
}

// TestTrainStatisticsAreUsed makes sure that the test above can fail: a change
// inside the train part does move the statistics.
func TestTrainStatisticsAreUsed(t *testing.T) {
	t.Parallel()
	table := markettest.SyntheticTable(1, 2000)
	bad := clone(table)
	bad.Row(10)[0] += 1
	if reflect.DeepEqual(world(t, bad, market.RegimeBull).Scaler, world(t, table, market.RegimeBull).Scaler) {
		t.Error("the statistics ignore the train bars")
	}
}

func TestSplitKeepsPartsApart(t *testing.T) {
	t.Parallel()
	for folds := 1; folds <= 4; folds++ {
		last := 0
		for fold := range folds {
			p := market.DefaultSplit()
			p.Folds, p.Fold = folds, fold
			s, problems := p.Apply(4000)
			if problems != nil {
				t.Fatal(problems)
			}
			if s.Train.From != 0 || s.Validation.From-s.Train.To < p.EmbargoBars || s.Test.From-s.Validation.To < p.EmbargoBars ||
				s.Test.To != 4000 || s.Train.Len() < 2000-p.EmbargoBars {
				t.Errorf("fold %d of %d: %+v", fold, folds, s)
			}
			if s.Validation.From < last {
				t.Errorf("fold %d of %d validates bars of the fold before it", fold, folds)
			}
			last = s.Validation.To
		}
	}
	p := market.SplitPlan{ValidationFraction: 2, TestFraction: -1, Folds: 1, Fold: 1}
	if _, problems := p.Apply(4000); len(problems) != 4 {
		t.Errorf("problems %v", problems)
	}
}

// TestStepByHand follows three bars on paper.
func TestStepByHand(t *testing.T) {
	t.Parallel()
	table := markettest.SyntheticTable(2, 1600)
	w := world(t, table, market.RegimeBull)
	from := w.Segments(market.PartTrain)[0].From
	table.Close[from], table.Close[from+1], table.Close[from+2] = 100, 110, 99
	w = world(t, table, market.RegimeBull)
	e := market.Env{Bar: int32(from), End: int32(from) + 2, Equity: 1, Peak: 1, Entry: 1}
	const cost = 2e-4
	first := w.Step(&e, 2)
	if want := 0.1 - cost; math.Abs(first.Net-want) > 1e-12 || first.Turnover != 1 || first.Done {
		t.Errorf("long over +10%%: %+v, want %v", first, want)
	}
	second := w.Step(&e, 0) // turns to short and is closed at the end
	if want := 0.1 - 3*cost; math.Abs(second.Net-want) > 1e-12 || second.Turnover != 3 || !second.Done {
		t.Errorf("short over -10%%: %+v, want %v", second, want)
	}
	if want := (1.1 - cost) * (1.1 - 3*cost); math.Abs(e.Equity-want) > 1e-12 {
		t.Errorf("equity %v, want %v", e.Equity, want)
	}
}

func TestBuyAndHoldIsTheMarketLessItsCosts(t *testing.T) {
	t.Parallel()
	table := markettest.SyntheticTable(3, 2000)
	w := world(t, table, market.RegimeBear)
	want, n := 1.0, 0
	for _, s := range w.Segments(market.PartTest) {
		for i := s.From; i < s.To; i++ {
			r := table.Close[i+1]/table.Close[i] - 1
			if i == s.From {
				r -= 2e-4
			}
			if i == s.To-1 {
				r -= 2e-4
			}
			want *= 1 + r
			n++
			if table.Regimes[i] != market.RegimeBear {
				t.Fatalf("bar %d is not a bear bar", i)
			}
		}
	}
	f := market.NewEvaluator(w, market.PartTest).BuyAndHold().Figures(w.BarsPerYear())
	if f.Bars != n || math.Abs(f.TotalReturn-(want-1)) > 1e-9 || f.Exposure != 1 || f.Long != 1 {
		t.Errorf("figures %+v, want return %v over %d bars", f, want-1, n)
	}
}

func TestFigures(t *testing.T) {
	t.Parallel()
	track := &market.Track{Net: []float64{0.1, -0.5, 0.2}, Positions: []int8{1, 1, -1}, Turnover: []float64{1, 0, 2}}
	f := track.Figures(252)
	if math.Abs(f.MaxDrawdown-0.5) > 1e-12 || math.Abs(f.TotalReturn-(1.1*0.5*1.2-1)) > 1e-12 || f.Turnover != 1 ||
		math.Abs(f.Short-1.0/3) > 1e-12 {
		t.Errorf("%+v", f)
	}
	if f := (&market.Track{}).Figures(252); f != (market.Figures{}) {
		t.Errorf("an empty track: %+v", f)
	}
	if s := market.Sharpe([]float64{0.01, 0.01}, 252); s != 0 {
		t.Errorf("a track that does not vary has Sharpe %v", s)
	}
	equity := track.Equity()
	if math.Abs(equity[2]-(1+f.TotalReturn)) > 1e-12 {
		t.Errorf("equity %v", equity)
	}
}

// TestEveryProblemIsNamedAtOnce: bad values, too little history and bad options
// come in one list with their places.
func TestEveryProblemIsNamedAtOnce(t *testing.T) {
	t.Parallel()
	table := markettest.SyntheticTable(4, 300)
	table.Row(5)[3] = float32(math.NaN())
	table.Row(6)[0] = float32(math.Inf(-1))
	table.Close[7] = -2
	o := options(market.RegimeUnknown)
	o.Costs.SlippageBP = math.NaN()
	o.Split.EmbargoBars = 0
	w, problems := market.NewWorld(table, o)
	text := fmt.Sprint(problems)
	for _, want := range []string{"table.features[5].ret_10", "table.features[6].ret_1", "table.close[7]", `"unknown" is not bull`, "slippage NaN", "embargo_bars"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in %s", want, text)
		}
	}
	if w != nil {
		t.Error("a world was made all the same")
	}
	_, problems = market.NewWorld(markettest.SyntheticTable(4, 60), options(market.RegimeBull))
	if text := fmt.Sprint(problems); !strings.Contains(text, "too little history") {
		t.Errorf("60 bars: %s", text)
	}
	many := markettest.SyntheticTable(4, 300)
	for i := range many.Features {
		many.Features[i] = float32(math.NaN())
	}
	if p := many.Check(); len(p) != 17 || !strings.Contains(p[16].Description, "more") {
		t.Errorf("%d problems for a table of NaN, last %v", len(p), p[len(p)-1])
	}
}

func TestResetCoversEveryTrainBar(t *testing.T) {
	t.Parallel()
	w := world(t, markettest.SyntheticTable(5, 2400), market.RegimeSideways)
	rng := rand.New(rand.NewPCG(1, 1))
	want := map[int32]bool{}
	for _, s := range w.Segments(market.PartTrain) {
		for i := s.From; i < s.To; i++ {
			want[int32(i)] = true
		}
	}
	seen := map[int32]bool{}
	for range 200 * len(want) {
		var e market.Env
		w.Reset(&e, rng)
		if !want[e.Bar] || e.End <= e.Bar {
			t.Fatalf("an episode starts at %d, ends at %d", e.Bar, e.End)
		}
		seen[e.Bar] = true
	}
	if len(seen) != len(want) {
		t.Errorf("%d of %d bars were ever a start", len(seen), len(want))
	}
}

// TestHistoryIsThePast: the newest row is the observation's own bar, each row before
// it the bar before; before the first bar there are zeros.
func TestHistoryIsThePast(t *testing.T) {
	t.Parallel()
	w, problems := market.NewWorld(markettest.SyntheticTable(2, 1500), market.WorldOptions{Specialist: market.RegimeBull, Split: market.DefaultSplit()})
	if problems != nil {
		t.Fatal(problems)
	}
	width, features := w.HistoryWidth(), len(w.Scaler.Mean)
	if width%16 != 0 || width < features {
		t.Fatalf("%d values for %d features", width, features)
	}
	past, seen := make([]float32, 4*width), make([]float32, market.ObservationWidth)
	for _, bar := range []int32{0, 2, 3, 500} {
		for i := range past {
			past[i] = 9
		}
		w.History(bar, 4, past)
		for i := range 4 {
			at := int(bar) - 3 + i
			clear(seen)
			if at >= 0 {
				w.Observe(&market.Env{Bar: int32(at), Equity: 1, Peak: 1, Entry: 1}, seen)
			}
			for f := range width {
				want := float32(0)
				if f < features {
					want = seen[f]
				}
				if past[i*width+f] != want {
					t.Fatalf("bar %d, row %d, feature %d: %v, want %v", bar, i, f, past[i*width+f], want)
				}
			}
		}
	}
}

// TestALongHistoryGivesTheSameNumbers, standardised at each look.
func TestALongHistoryGivesTheSameNumbers(t *testing.T) {
	t.Parallel()
	long := markettest.SyntheticTable(4, 66_000)
	options := market.WorldOptions{Specialist: market.RegimeBull, Split: market.DefaultSplit()}
	w, problems := market.NewWorld(long, options)
	if problems != nil {
		t.Fatal(problems)
	}
	short := *long
	const n = 60_000
	short.Dates, short.Close, short.Regimes, short.Features = long.Dates[:n], long.Close[:n], long.Regimes[:n], long.Features[:n*len(long.FeatureNames)]
	options.Scaler = &w.Scaler
	kept, problems := market.NewWorld(&short, options)
	if problems != nil {
		t.Fatal(problems)
	}
	a, b := make([]float32, market.ObservationWidth), make([]float32, market.ObservationWidth)
	for i := range a {
		a[i] = 7 // what was there before
	}
	for _, bar := range []int32{0, 17, 59_999} {
		e := market.Env{Bar: bar, Equity: 1.1, Peak: 1.2, Entry: 1, Position: 1}
		w.Observe(&e, a)
		kept.Observe(&e, b)
		if !reflect.DeepEqual(a, b) {
			t.Errorf("bar %d: %v and %v", bar, a, b)
		}
	}
}
