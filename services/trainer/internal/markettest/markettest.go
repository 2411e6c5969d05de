// Package markettest makes feature tables for tests: synthetic ones, and the
// real S&P 500 history with the Data Service's documented feature definitions.
package markettest

import (
	"encoding/csv"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"testing"
	"time"

	"github.com/ultrathink-pilot/trainyard/services/trainer/internal/market"
)

// Warmup is the number of leading bars without a full set of features.
const Warmup = 252

// Bar is one day.
type Bar struct {
	Date                           int64
	Open, High, Low, Close, Volume float64
}

// Synthetic returns bars of a market whose drift persists for some weeks at a
// time, so that there is something to learn.
func Synthetic(seed uint64, n int) []Bar {
	rng := rand.New(rand.NewPCG(seed, 77))
	out := make([]Bar, n)
	price, drift := 100.0, 0.0
	for i := range out {
		if rng.IntN(40) == 0 {
			drift = 0.003 * float64(rng.IntN(3)-1)
		}
		open := price
		price *= math.Exp(drift + 0.008*rng.NormFloat64())
		high, low := max(open, price)*(1+0.003*rng.Float64()), min(open, price)*(1-0.003*rng.Float64())
		out[i] = Bar{int64(i) * 86400, open, high, low, price, 1e6 * math.Exp(0.2*rng.NormFloat64())}
	}
	return out
}

// SyntheticTable is Table over Synthetic, after warm-up bars.
func SyntheticTable(seed uint64, bars int) *market.Table { return Table(Synthetic(seed, bars+Warmup)) }

// SP500 returns the table of the built-in history. The file belongs to the
// tools module; the test is skipped, loudly, where this module stands alone.
func SP500(t testing.TB) *market.Table {
	t.Helper()
	_, here, _, _ := runtime.Caller(0)
	path := filepath.Join(filepath.Dir(here), "../../../../tools/internal/dataservice/data/SPX_1d.csv")
	f, err := os.Open(path)
	if err != nil {
		t.Skipf("SKIPPED: the S&P 500 history is not beside this module: %v", err)
	}
	defer func() { _ = f.Close() }()
	rows, err := csv.NewReader(f).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	var bars []Bar
	for _, r := range rows[1:] {
		day, err := time.Parse(time.DateOnly, r[0])
		if err != nil {
			t.Fatal(err)
		}
		var v [6]float64
		for i := range v {
			if v[i], err = strconv.ParseFloat(r[i+1], 64); err != nil {
				t.Fatal(err)
			}
		}
		scale := v[4] / v[3]
		bars = append(bars, Bar{day.Unix(), v[0] * scale, v[1] * scale, v[2] * scale, v[4], v[5]})
	}
	return Table(bars)
}

// Table computes the features.
func Table(bars []Bar) *market.Table {
	n := len(bars)
	t := &market.Table{Symbol: "TEST", Timeframe: "1d", SchemaVersion: "trainyard-features/1", Digest: "test",
		FeatureNames: []string{"ret_1", "ret_2", "ret_5", "ret_10", "ret_21", "ret_63", "ret_126", "ret_252",
			"vol_5", "vol_21", "vol_63", "mom_12_1", "rsi_14", "macd_line", "macd_signal", "macd_hist",
			"volume_z_21", "range", "gap", "drawdown_252", "dist_sma_50", "dist_sma_200"}}
	price, volume, ret := make([]float64, n), make([]float64, n), make([]float64, n)
	var gain, loss, slow, average float64
	fast := bars[0].Close
	slow = fast
	for i, b := range bars {
		price[i], volume[i] = b.Close, b.Volume
		if i > 0 {
			ret[i] = math.Log(b.Close / price[i-1])
			change, k := b.Close-price[i-1], 1/min(14, float64(i))
			gain += k * (max(change, 0) - gain)
			loss += k * (max(-change, 0) - loss)
		}
		fast += 2.0 / 13 * (b.Close - fast)
		slow += 2.0 / 27 * (b.Close - slow)
		average += 0.2 * (fast - slow - average)
		if i < Warmup {
			continue
		}
		back := func(k int) float64 { return math.Log(b.Close / price[i-k]) }
		stats := func(x []float64, k int) (float64, float64) { return meanDeviation(x[i-k+1 : i+1]) }
		_, vol5 := stats(ret, 5)
		_, vol21 := stats(ret, 21)
		_, vol63 := stats(ret, 63)
		vm, vd := stats(volume, 21)
		sma50, _ := stats(price, 50)
		sma200, _ := stats(price, 200)
		peak := 0.0
		for _, p := range price[i-251 : i+1] {
			peak = max(peak, p)
		}
		line := (fast - slow) / b.Close
		signal := average / b.Close
		for _, v := range []float64{ret[i], back(2), back(5), back(10), back(21), back(63), back(126), back(252),
			vol5, vol21, vol63, math.Log(price[i-21] / price[i-252]), gain / (gain + loss), line, signal, line - signal,
			(volume[i] - vm) / vd, (b.High - b.Low) / b.Close, math.Log(b.Open / price[i-1]),
			b.Close/peak - 1, b.Close/sma50 - 1, b.Close/sma200 - 1} {
			t.Features = append(t.Features, float32(v))
		}
		regime, limit := market.RegimeSideways, 0.4*vol63*math.Sqrt(21)
		if d := back(21); d > limit {
			regime = market.RegimeBull
		} else if d < -limit {
			regime = market.RegimeBear
		}
		t.Dates, t.Close, t.Regimes = append(t.Dates, b.Date), append(t.Close, b.Close), append(t.Regimes, regime)
	}
	return t
}

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
