// Package feature computes the feature table that specialists train on.
//
// It is pure, and every value of a bar uses that bar and earlier ones only: a
// test changes the future and finds every past row untouched.
//
// All returns are logarithmic. A window of n bars ends with the bar itself.
//
//	ret_N           log(close / close N bars ago), N of 1 2 5 10 21 63 126 252
//	vol_N           standard deviation of ret_1 over N bars, N of 5 21 63; per bar, not annualised
//	mom_12_1        log(close 21 bars ago / close 252 bars ago)
//	rsi_14          Wilder's relative strength index over 14 bars, scaled to 0..1
//	macd_line       (EMA12 - EMA26) / close
//	macd_signal     EMA9 of EMA12-EMA26, / close
//	macd_hist       macd_line - macd_signal
//	volume_z_21     z-score of the volume over 21 bars; 0 where volume does not vary
//	range           (high - low) / close
//	gap             log(open / previous close)
//	drawdown_252    close / highest close of 252 bars - 1, zero or negative
//	dist_sma_50     close / mean close of 50 bars - 1
//	dist_sma_200    close / mean close of 200 bars - 1
//
// The regime of a bar is its drift of 21 bars in units of its own noise:
// z = ret_21 / (vol_63 * sqrt(21)). Bull when z > 0.4, bear when z < -0.4,
// sideways in between. A threshold in noise units, and not in percent, keeps
// all three regimes present in calm decades and in crashes alike: each has at
// least one bar in ten of every two-year window of the built-in history.
package feature

import (
	"fmt"
	"math"

	"github.com/ultrathink-pilot/trainyard/tools/internal/dataservice/bars"
)

// SchemaVersion names the definitions above. It changes with any of them.
const SchemaVersion = "trainyard-features/1"

// Warmup is the number of leading bars without a full set of features. They
// are not in the table.
const Warmup = 252

// The regimes, as they are written on the wire.
const (
	Bull     = "bull"
	Bear     = "bear"
	Sideways = "sideways"
)

const regimeThreshold = 0.4

// Names returns the feature names in column order.
func Names() []string {
	return []string{
		"ret_1", "ret_2", "ret_5", "ret_10", "ret_21", "ret_63", "ret_126", "ret_252",
		"vol_5", "vol_21", "vol_63", "mom_12_1", "rsi_14", "macd_line", "macd_signal", "macd_hist",
		"volume_z_21", "range", "gap", "drawdown_252", "dist_sma_50", "dist_sma_200",
	}
}

// Table is the features of one history, oldest bar first, warm-up left out.
type Table struct {
	// Dates are opening times in seconds since 1970-01-01 UTC.
	Dates []int64
	// Close is the adjusted closing price.
	Close []float64
	// Features is row-major, len(Names()) wide.
	Features []float32
	// Regimes has one of Bull, Bear, Sideways per bar.
	Regimes []string
}

// Bars returns the number of rows.
func (t *Table) Bars() int { return len(t.Dates) }

// Slice returns rows lo to hi (exclusive). It aliases the table.
func (t *Table) Slice(lo, hi int) *Table {
	w := len(Names())
	return &Table{
		Dates: t.Dates[lo:hi], Close: t.Close[lo:hi],
		Features: t.Features[lo*w : hi*w], Regimes: t.Regimes[lo:hi],
	}
}

// Compute returns the table of a history, or an error when the history is too
// short for one row.
func Compute(history []bars.Bar) (*Table, error) {
	n := len(history)
	if n <= Warmup {
		return nil, fmt.Errorf("%d bars are too few: the longest feature looks back %d bars, so at least %d are needed",
			n, Warmup, Warmup+1)
	}
	s := newSeries(history)
	width := len(Names())
	t := &Table{
		Dates:    make([]int64, 0, n-Warmup),
		Close:    make([]float64, 0, n-Warmup),
		Features: make([]float32, 0, (n-Warmup)*width),
		Regimes:  make([]string, 0, n-Warmup),
	}
	for i := Warmup; i < n; i++ {
		t.Dates = append(t.Dates, history[i].Time.Unix())
		t.Close = append(t.Close, history[i].Close)
		for _, v := range s.row(i) {
			t.Features = append(t.Features, float32(v))
		}
		t.Regimes = append(t.Regimes, s.regime(i))
	}
	return t, nil
}

// series holds the columns from which rows are read, and the recursive
// averages, which are run once from the first bar.
type series struct {
	bars                   []bars.Bar
	close, volume, ret     []float64
	rsi, macd, macdAverage []float64
}

func newSeries(history []bars.Bar) *series {
	n := len(history)
	s := &series{
		bars: history, close: make([]float64, n), volume: make([]float64, n), ret: make([]float64, n),
		rsi: make([]float64, n), macd: make([]float64, n), macdAverage: make([]float64, n),
	}
	for i, b := range history {
		s.close[i], s.volume[i] = b.Close, b.Volume
		if i > 0 {
			s.ret[i] = math.Log(b.Close / history[i-1].Close)
		}
	}
	s.runRSI(14)
	s.runMACD(12, 26, 9)
	return s
}

func (s *series) runRSI(period float64) {
	var gain, loss float64
	for i := 1; i < len(s.close); i++ {
		change := s.close[i] - s.close[i-1]
		// Wilder's average grows into its window: over the first bars it is a plain mean.
		k := 1 / min(period, float64(i))
		gain += k * (max(change, 0) - gain)
		loss += k * (max(-change, 0) - loss)
		s.rsi[i] = 0.5
		if gain+loss > 0 {
			s.rsi[i] = gain / (gain + loss)
		}
	}
}

func (s *series) runMACD(fast, slow, signal float64) {
	f, w, average := s.close[0], s.close[0], 0.0
	for i, c := range s.close {
		f += 2 / (fast + 1) * (c - f)
		w += 2 / (slow + 1) * (c - w)
		s.macd[i] = f - w
		average += 2 / (signal + 1) * (s.macd[i] - average)
		s.macdAverage[i] = average
	}
}

// row returns the features of bar i >= Warmup in the order of Names.
func (s *series) row(i int) []float64 {
	c := s.close[i]
	back := func(n int) float64 { return math.Log(c / s.close[i-n]) }
	volatility := func(n int) float64 { _, d := meanDeviation(s.ret[i-n+1 : i+1]); return d }
	average := func(n int) float64 { m, _ := meanDeviation(s.close[i-n+1 : i+1]); return m }
	peak := 0.0
	for _, v := range s.close[i-Warmup+1 : i+1] {
		peak = max(peak, v)
	}
	volumeZ := 0.0
	if m, d := meanDeviation(s.volume[i-20 : i+1]); d > 0 {
		volumeZ = (s.volume[i] - m) / d
	}
	b := s.bars[i]
	line, signal := s.macd[i]/c, s.macdAverage[i]/c
	return []float64{
		s.ret[i], back(2), back(5), back(10), back(21), back(63), back(126), back(252),
		volatility(5), volatility(21), volatility(63),
		math.Log(s.close[i-21] / s.close[i-252]),
		s.rsi[i], line, signal, line - signal,
		volumeZ, (b.High - b.Low) / c, math.Log(b.Open / s.close[i-1]),
		c/peak - 1, c/average(50) - 1, c/average(200) - 1,
	}
}

func (s *series) regime(i int) string {
	drift := math.Log(s.close[i] / s.close[i-21])
	_, noise := meanDeviation(s.ret[i-62 : i+1])
	limit := regimeThreshold * noise * math.Sqrt(21)
	switch {
	case drift > limit:
		return Bull
	case drift < -limit:
		return Bear
	default:
		return Sideways
	}
}

// meanDeviation returns the mean and the population standard deviation. Two
// passes, not running sums: those carry the rounding of all earlier bars.
func meanDeviation(v []float64) (mean, deviation float64) {
	for _, x := range v {
		mean += x
	}
	mean /= float64(len(v))
	for _, x := range v {
		deviation += (x - mean) * (x - mean)
	}
	return mean, math.Sqrt(deviation / float64(len(v)))
}
