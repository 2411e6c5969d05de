package feature

import (
	"math"
	"math/rand"
	"os"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/ultrathink-pilot/trainyard/tools/internal/dataservice/bars"
)

func history(t testing.TB) []bars.Bar {
	t.Helper()
	data, err := os.ReadFile("../data/SPX_1d.csv")
	if err != nil {
		t.Fatal(err)
	}
	got, problems := bars.Parse(data)
	if problems != nil {
		t.Fatal(problems)
	}
	return got
}

// randomWalk is a history whose volume sometimes stands still.
func randomWalk(r *rand.Rand, n int) []bars.Bar {
	out := make([]bars.Bar, n)
	price := 100.0
	for i := range out {
		open := price * math.Exp(0.01*r.NormFloat64())
		price = open * math.Exp(0.02*r.NormFloat64())
		out[i] = bars.Bar{
			Time: time.Date(2000, 1, 3+i, 0, 0, 0, 0, time.UTC),
			Open: open, Close: price,
			High: max(open, price) * 1.01, Low: min(open, price) * 0.99,
			Volume: float64(r.Intn(3)) * 1000,
		}
	}
	return out
}

// A feature that moved when only the future changed would let a policy see
// tomorrow: every figure of the product would be a lie.
func TestTheFutureChangesNoPastFeature(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		r := rand.New(rand.NewSource(rapid.Int64().Draw(rt, "seed")))
		original := randomWalk(r, Warmup+rapid.IntRange(10, 120).Draw(rt, "bars"))
		cut := rapid.IntRange(Warmup+1, len(original)-1).Draw(rt, "cut")
		changed := append([]bars.Bar{}, original...)
		for i := cut; i < len(changed); i++ {
			b := &changed[i]
			k := math.Exp(r.NormFloat64())
			b.Open, b.High, b.Low, b.Close, b.Volume = b.Open*k, b.High*k, b.Low*k, b.Close*k, b.Volume*3+7
		}
		before, err := Compute(original)
		if err != nil {
			rt.Fatal(err)
		}
		for name, other := range map[string][]bars.Bar{"changed": changed, "cut off": changed[:cut]} {
			after, err := Compute(other)
			if err != nil {
				rt.Fatal(err)
			}
			w := len(Names())
			for i := range cut - Warmup {
				if before.Regimes[i] != after.Regimes[i] {
					rt.Fatalf("future %s: bar %d was %s, is %s", name, i, before.Regimes[i], after.Regimes[i])
				}
				for j, feature := range Names() {
					if before.Features[i*w+j] != after.Features[i*w+j] {
						rt.Fatalf("future %s from bar %d: %s of bar %d moved", name, cut, feature, i+Warmup)
					}
				}
			}
			if len(other) == len(original) && before.Features[(cut-Warmup)*w] == after.Features[(cut-Warmup)*w] {
				rt.Fatalf("the change at bar %d changed nothing: the test proves nothing", cut)
			}
		}
	})
}

func TestEveryWindowHoldsEveryRegime(t *testing.T) {
	t.Parallel()
	table, err := Compute(history(t))
	if err != nil {
		t.Fatal(err)
	}
	const window = 504
	for _, regime := range []string{Bull, Bear, Sideways} {
		least := window
		for start := 0; start+window <= table.Bars(); start++ {
			count := 0
			for _, r := range table.Regimes[start : start+window] {
				if r == regime {
					count++
				}
			}
			least = min(least, count)
		}
		if least < window/10 {
			t.Errorf("a two-year window has only %d %s bars", least, regime)
		}
	}
}

func TestValuesOnABuiltHistory(t *testing.T) {
	t.Parallel()
	// A price that grows by the same factor each bar has known features.
	const growth = 1.001
	flat := make([]bars.Bar, Warmup+2)
	for i := range flat {
		c := 100 * math.Pow(growth, float64(i))
		flat[i] = bars.Bar{Time: time.Unix(int64(i)*86400, 0).UTC(), Open: c / growth, High: c, Low: c / growth, Close: c, Volume: 5}
	}
	table, err := Compute(flat)
	if err != nil {
		t.Fatal(err)
	}
	if table.Bars() != 2 {
		t.Fatalf("%d rows, want 2: the warm-up is %d bars", table.Bars(), Warmup)
	}
	step := math.Log(growth)
	want := map[string]float64{
		"ret_1": step, "ret_5": 5 * step, "ret_252": 252 * step, "vol_5": 0, "vol_63": 0, "mom_12_1": 231 * step,
		"rsi_14": 1, "volume_z_21": 0, "range": 1 - 1/growth, "gap": 0, "drawdown_252": 0,
	}
	got := map[string]float64{}
	for j, name := range Names() {
		got[name] = float64(table.Features[j])
	}
	for name, w := range want {
		if math.Abs(got[name]-w) > 1e-6 {
			t.Errorf("%s = %g, want %g", name, got[name], w)
		}
	}
	for _, name := range []string{"macd_line", "macd_signal", "dist_sma_50", "dist_sma_200"} {
		if got[name] <= 0 {
			t.Errorf("%s = %g in a rising market", name, got[name])
		}
	}
	if table.Regimes[0] != Bull {
		t.Errorf("a rising market is %s", table.Regimes[0])
	}
}

func TestRealHistoryIsFinite(t *testing.T) {
	t.Parallel()
	daily := history(t)
	for name, h := range map[string][]bars.Bar{"1d": daily, "1w": bars.Weekly(daily)} {
		table, err := Compute(h)
		if err != nil {
			t.Fatal(err)
		}
		if want := len(h) - Warmup; table.Bars() != want {
			t.Errorf("%s: %d rows, want %d", name, table.Bars(), want)
		}
		for k, v := range table.Features {
			if v != v || math.IsInf(float64(v), 0) {
				t.Fatalf("%s: %s of row %d is %v", name, Names()[k%len(Names())], k/len(Names()), v)
			}
		}
	}
}

func TestTooShort(t *testing.T) {
	t.Parallel()
	if _, err := Compute(randomWalk(rand.New(rand.NewSource(1)), Warmup)); err == nil {
		t.Fatal("a table without rows was made")
	}
}
