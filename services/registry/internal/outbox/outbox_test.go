package outbox

import (
	"encoding/json"
	"fmt"
	"math"
	"reflect"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/ultrathink-pilot/trainyard/services/registry/internal/catalog"
)

// Frozen chunks hold every point once, in order, bit for bit, within the limits of every
// release, and a NaN never shares a request.
func TestChunksHoldEveryPointOnce(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		points := rapid.SliceOf(rapid.Custom(func(t *rapid.T) catalog.MetricPoint {
			return catalog.MetricPoint{Key: rapid.StringMatching(`[a-z]{1,3}`).Draw(t, "key"), Step: rapid.Int64().Draw(t, "step"),
				Time:  time.UnixMilli(rapid.Int64Range(0, 1<<41).Draw(t, "ms")),
				Value: rapid.OneOf(rapid.Float64(), rapid.SampledFrom([]float64{math.NaN(), math.Inf(1), math.Inf(-1), math.Copysign(0, -1), 5e-324})).Draw(t, "value")}
		})).Draw(t, "points")
		var got []Metric
		for _, e := range Metrics("run/x", points) {
			var b Batch
			if err := json.Unmarshal([]byte(e.Payload), &b); err != nil {
				t.Fatal(err)
			}
			if len(b.Metrics) == 0 || len(b.Metrics) > MaxMetrics || len(e.Payload) > MaxBytes {
				t.Fatalf("a chunk of %d points and %d bytes", len(b.Metrics), len(e.Payload))
			}
			for _, m := range b.Metrics {
				if math.IsNaN(float64(m.Value)) && len(b.Metrics) > 1 {
					t.Fatal("a NaN shares a chunk")
				}
			}
			got = append(got, b.Metrics...)
		}
		if len(got) != len(points) {
			t.Fatalf("%d of %d points", len(got), len(points))
		}
		for i, p := range points {
			same := math.Float64bits(float64(got[i].Value)) == math.Float64bits(p.Value) || math.IsNaN(p.Value) && math.IsNaN(float64(got[i].Value))
			if got[i].Key != p.Key || got[i].Step != p.Step || got[i].Timestamp != p.Time.UnixMilli() || !same {
				t.Fatalf("point %d: %+v became %+v", i, p, got[i])
			}
		}
	})
}

func TestPairsAreCutBySizeToo(t *testing.T) {
	t.Parallel()
	long := map[string]string{}
	for i := range 150 {
		long[fmt.Sprintf("k%03d", i)] = string(make([]byte, 6000))
	}
	seen := map[string]string{}
	for _, e := range Params("run/x", long) {
		var b Batch
		if err := json.Unmarshal([]byte(e.Payload), &b); err != nil || len(b.Params) > MaxPairs {
			t.Fatalf("%d params: %v", len(b.Params), err)
		}
		for _, p := range b.Params {
			seen[p.Key] = p.Value
		}
	}
	if !reflect.DeepEqual(seen, long) {
		t.Errorf("%d of %d params", len(seen), len(long))
	}
}

func TestLanes(t *testing.T) {
	t.Parallel()
	if id, ok := RunOf(RunLane("a/b")); !ok || id != "a/b" {
		t.Error(id, ok)
	}
	if id, ok := ModelOf(ModelLane(77)); !ok || id != 77 {
		t.Error(id, ok)
	}
	if _, ok := ModelOf("run/7"); ok {
		t.Error("a run's lane is no model's")
	}
	if _, ok := RunOf("model/7"); ok {
		t.Error("a model's lane is no run's")
	}
}

func TestManifestsLast(t *testing.T) {
	t.Parallel()
	got := ManifestsLast([]string{"MLmodel", "a/MLmodel", "xMLmodel", "b", "a/c"}, func(s string) string { return s })
	if want := []string{"xMLmodel", "b", "a/c", "MLmodel", "a/MLmodel"}; !reflect.DeepEqual(got, want) {
		t.Error(got)
	}
}
