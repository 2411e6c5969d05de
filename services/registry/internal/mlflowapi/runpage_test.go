package mlflowapi

import (
	"bytes"
	"encoding/json"
	"math"
	"testing"
	"time"

	"github.com/ultrathink-pilot/trainyard/services/registry/internal/catalog"
	"github.com/ultrathink-pilot/trainyard/services/registry/internal/postgres"
)

// The answer that is written by hand says what encoding/json says.
func TestARunWrittenByHandIsTheSameDocument(t *testing.T) {
	at := time.UnixMilli(1_700_000_000_123)
	full := postgres.RunRow{Run: catalog.Run{ID: "0196f7c0-0000-7000-8000-000000000001", ExperimentID: 7, ArtifactRoot: "s3://b/r", DisplayName: "a \"b\"\\ \n<é>\u2028", UserID: "ann",
		State: catalog.RunSucceeded, Lifecycle: catalog.Active, StartTime: at, EndTime: at.Add(time.Second),
		Latest: []catalog.LatestMetric{{Key: "m", Step: -3, Time: at, Value: 1e-9}, {Key: "n", Time: at, Value: math.NaN()}, {Key: "o", Time: at, Value: math.Inf(-1)}, {Key: "p", Value: 1e21}}},
		Params: []postgres.Pair{{Key: "k", Value: ""}, {Key: "l", Value: "\x01\t"}}, Tags: []postgres.Pair{{Key: "t", Value: "v"}},
		Inputs:  []json.RawMessage{json.RawMessage(`{"dataset": {"name": "d"}, "tags": []}`)},
		Outputs: []postgres.Output{{ModelID: "m-1", Step: 2}, {ModelID: "m-2"}}}
	for _, row := range []postgres.RunRow{full, {Run: catalog.Run{ID: "x", State: catalog.RunRunning, Lifecycle: catalog.Deleted, StartTime: at}}} {
		want, err := json.Marshal(rowOf(&row))
		if err != nil {
			t.Fatal(err)
		}
		var a, b any
		got := appendRun(nil, &row)
		if err := json.Unmarshal(got, &a); err != nil {
			t.Fatalf("%v: %s", err, got)
		}
		if err := json.Unmarshal(want, &b); err != nil {
			t.Fatal(err)
		}
		left, _ := json.Marshal(a)
		right, _ := json.Marshal(b)
		if !bytes.Equal(left, right) {
			t.Errorf("by hand %s\nby encoding/json %s", left, right)
		}
	}
}
