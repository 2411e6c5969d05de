package sim_test

import (
	"encoding/csv"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/sim"
)

func muri(t *testing.T, name string) *os.File {
	t.Helper()
	f, err := os.Open(filepath.Join(traces(t), "muri", name))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f
}

func published(t *testing.T) map[string]float64 {
	t.Helper()
	rows, err := csv.NewReader(muri(t, "muri_published.csv")).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]float64{}
	for _, r := range rows[1:] {
		v, err := strconv.ParseFloat(r[3], 64)
		if err != nil {
			t.Fatal(err)
		}
		out[r[0]+"/"+r[1]+"/"+r[2]] = v
	}
	return out
}

// The reference policies give the published figures: what the simulator says of
// another policy can be compared with them. The longer traces run as a result.
func TestReferencePoliciesReproduceThePublishedFigures(t *testing.T) {
	t.Parallel()
	overheads, err := sim.ReadOverheads(muri(t, "start_overhead_seconds.csv"))
	if err != nil {
		t.Fatal(err)
	}
	want := published(t)
	exact, all := 0, 0
	for _, trace := range []string{"trace1", "trace1_pr"} {
		jobs, err := sim.ReadJobs(muri(t, trace+".csv"), overheads)
		if err != nil {
			t.Fatal(err)
		}
		for policy, got := range map[string]sim.Completion{
			"SRTF":       sim.ShortestRemaining(jobs, 8, 8, false),
			"SRSF":       sim.ShortestRemaining(jobs, 8, 8, true),
			"Tiresias_L": sim.Tiresias(jobs, 64),
		} {
			for metric, v := range map[string]float64{"JCT": got.Mean, "99JCT": got.P99, "Makespan": got.Makespan} {
				key := trace + "/" + policy + "/" + metric
				w, ok := want[key]
				if !ok {
					t.Errorf("no published figure %s", key)
					continue
				}
				all++
				off := math.Abs(v-w) / w
				if off <= 1e-6 {
					exact++
				}
				if off > 0.004 {
					t.Errorf("%s: %.3f, published %.3f", key, v, w)
				}
			}
		}
	}
	if exact < all {
		t.Errorf("%d of %d figures within 1e-6", exact, all)
	}
}
