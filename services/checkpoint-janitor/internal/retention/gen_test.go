package retention

import (
	"fmt"
	"math"
	"time"

	"pgregory.net/rapid"
)

var testNow = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

// anyMetric draws what registries really hold: absent, NaN, both infinities,
// ties and ordinary figures.
func anyMetric() *rapid.Generator[Metric] {
	return rapid.Custom(func(t *rapid.T) Metric {
		switch rapid.IntRange(0, 7).Draw(t, "metric kind") {
		case 0:
			return Metric{}
		case 1:
			return Measured(math.NaN())
		case 2:
			return Measured(math.Inf(1))
		case 3:
			return Measured(math.Inf(-1))
		case 4:
			return Measured(float64(rapid.IntRange(-2, 2).Draw(t, "tie")))
		default:
			return Measured(rapid.Float64Range(-3, 3).Draw(t, "sharpe"))
		}
	})
}

func anyReference() *rapid.Generator[Reference] {
	return rapid.Custom(func(t *rapid.T) Reference {
		r := Reference{Kind: ReferenceKind(rapid.IntRange(0, int(RefOther)+1).Draw(t, "kind")), Detail: "version 7 of bull"}
		if r.Kind == RefRestored && rapid.Bool().Draw(t, "expires") {
			r.Until = testNow.Add(time.Duration(rapid.IntRange(-48, 48).Draw(t, "until")) * time.Hour)
		}
		return r
	})
}

func anyCheckpoint(i int) *rapid.Generator[Checkpoint] {
	return rapid.Custom(func(t *rapid.T) Checkpoint {
		hours := rapid.IntRange(0, 24*200).Draw(t, "age in hours")
		c := Checkpoint{
			ID:          fmt.Sprintf("c%03d", i),
			Experiment:  rapid.SampledFrom([]string{"bull", "bear", "search/7"}).Draw(t, "experiment"),
			RunID:       rapid.SampledFrom([]string{"r1", "r2", "r3", "r4"}).Draw(t, "run"),
			Step:        int64(rapid.IntRange(0, 50).Draw(t, "step")),
			CreateTime:  testNow.Add(-time.Duration(hours) * time.Hour),
			State:       State(rapid.SampledFrom([]int{2, 2, 2, 2, 3, 3, 4, 5, 1, 6}).Draw(t, "state")),
			Sharpe:      anyMetric().Draw(t, "sharpe"),
			Trades:      int64(rapid.IntRange(0, 40).Draw(t, "trades")),
			Window:      rapid.SampledFrom([]string{"", "2009/2014"}).Draw(t, "window"),
			Uncommitted: rapid.IntRange(0, 9).Draw(t, "uncommitted") == 0,
			RunActive:   rapid.IntRange(0, 9).Draw(t, "active") == 0,
			Resumable:   rapid.Bool().Draw(t, "resumable"),
			References:  rapid.SliceOfN(anyReference(), 0, rapid.SampledFrom([]int{0, 0, 0, 0, 2}).Draw(t, "refs")).Draw(t, "references"),
		}
		if c.State == StateTombstoned {
			c.TombstoneTime = c.CreateTime.Add(time.Duration(rapid.IntRange(0, hours).Draw(t, "tombstone")) * time.Hour)
		}
		for k := range rapid.IntRange(0, 3).Draw(t, "files") {
			// A small space of digests, so that checkpoints share contents.
			n := rapid.IntRange(1, 30).Draw(t, fmt.Sprint("digest", k))
			c.Files = append(c.Files, File{Digest: fmt.Sprintf("d%02d", n), Bytes: int64(n) * 100})
		}
		if i > 0 && rapid.IntRange(0, 4).Draw(t, "has parent") == 0 {
			c.Parents = []string{fmt.Sprintf("c%03d", rapid.IntRange(0, i-1).Draw(t, "parent"))}
		}
		return c
	})
}

func anyInventory() *rapid.Generator[Inventory] {
	return rapid.Custom(func(t *rapid.T) Inventory {
		v := Inventory{Usage: Usage{UsedBytes: int64(rapid.IntRange(0, 100).Draw(t, "used")), CapacityBytes: 100}}
		for i := range rapid.IntRange(0, 40).Draw(t, "checkpoints") {
			v.Checkpoints = append(v.Checkpoints, anyCheckpoint(i).Draw(t, fmt.Sprint("checkpoint ", i)))
		}
		return v
	})
}

func anyPolicy() *rapid.Generator[Policy] {
	return rapid.Custom(func(t *rapid.T) Policy {
		p := DefaultPolicy()
		r := &p.Rules[0]
		r.KeepTop = rapid.IntRange(1, 6).Draw(t, "keep top")
		r.MinTrades = int64(rapid.SampledFrom([]int{0, 10}).Draw(t, "min trades"))
		r.KeepLastPerLiveJob = rapid.IntRange(1, 3).Draw(t, "keep last")
		return p
	})
}

func mustDecide(t interface{ Fatalf(string, ...any) }, p Policy, v Inventory, now time.Time) Plan {
	plan, err := Decide(p, v, now)
	if err != nil {
		t.Fatalf("decide: %v", err)
	}
	return plan
}
