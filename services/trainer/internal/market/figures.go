package market

import "math"

// Figures judge one equity curve. All are finite for finite returns.
type Figures struct {
	Bars int `json:"bars"`
	// Sharpe is the annualised ratio of mean to standard deviation of the bars'
	// net returns; 0 for a curve that never moves.
	Sharpe float64 `json:"sharpe"`
	// TotalReturn is the growth over all bars, 0.1 for ten per cent.
	TotalReturn float64 `json:"total_return"`
	// MaxDrawdown is the deepest fall from a peak, 0.1 for ten per cent.
	MaxDrawdown float64 `json:"max_drawdown"`
	// Turnover is the mean absolute change of position per bar.
	Turnover float64 `json:"turnover"`
	// Exposure is the share of bars with a position.
	Exposure float64 `json:"exposure"`
	// Long and Short are the shares of bars with that position.
	Long  float64 `json:"long"`
	Short float64 `json:"short"`
}

// Track is a strategy's way through a part of history, bar by bar.
type Track struct {
	Dates     []int64   // of the decision bars
	Net       []float64 // net return of each bar
	Positions []int8
	Turnover  []float64
}

// Equity returns the curve that starts at 1 before the first bar; it has one
// value per bar, after the bar.
func (t *Track) Equity() []float64 {
	out := make([]float64, len(t.Net))
	e := 1.0
	for i, r := range t.Net {
		e *= 1 + r
		out[i] = e
	}
	return out
}

// Figures judges the track.
func (t *Track) Figures(barsPerYear float64) Figures {
	n := len(t.Net)
	f := Figures{Bars: n}
	if n == 0 {
		return f
	}
	f.Sharpe = Sharpe(t.Net, barsPerYear)
	equity, peak := 1.0, 1.0
	for i, r := range t.Net {
		equity *= 1 + r
		peak = max(peak, equity)
		f.MaxDrawdown = max(f.MaxDrawdown, 1-equity/peak)
		f.Turnover += t.Turnover[i]
		switch {
		case t.Positions[i] > 0:
			f.Long++
		case t.Positions[i] < 0:
			f.Short++
		}
	}
	f.TotalReturn = equity - 1
	k := float64(n)
	f.Turnover /= k
	f.Long /= k
	f.Short /= k
	f.Exposure = f.Long + f.Short
	return f
}

// Sharpe returns the annualised Sharpe ratio of per-bar returns, 0 when they do
// not vary. The risk-free rate is taken as zero.
func Sharpe(returns []float64, barsPerYear float64) float64 {
	mean, sd := moments(returns)
	if sd < 1e-12 {
		return 0
	}
	return mean / sd * math.Sqrt(barsPerYear)
}

func moments(x []float64) (mean, sd float64) {
	if len(x) == 0 {
		return 0, 0
	}
	for _, v := range x {
		mean += v
	}
	mean /= float64(len(x))
	for _, v := range x {
		sd += (v - mean) * (v - mean)
	}
	return mean, math.Sqrt(sd / float64(len(x)))
}
