package postgres

import (
	"encoding/json"
	"fmt"
	"math"
)

// JSON has no NaN and no infinities, and jsonb would refuse them, so they are stored as
// the strings that MLflow's wire uses too.
const (
	jsonNaN    = "NaN"
	jsonPosInf = "Infinity"
	jsonNegInf = "-Infinity"
)

func encodeMetrics(metrics map[string]float64) ([]byte, error) {
	out := make(map[string]any, len(metrics))
	for k, v := range metrics {
		switch {
		case math.IsNaN(v):
			out[k] = jsonNaN
		case math.IsInf(v, 1):
			out[k] = jsonPosInf
		case math.IsInf(v, -1):
			out[k] = jsonNegInf
		default:
			out[k] = v
		}
	}
	return json.Marshal(out)
}

func decodeMetrics(raw []byte) (map[string]float64, error) {
	var in map[string]any
	if err := json.Unmarshal(raw, &in); err != nil {
		return nil, fmt.Errorf("stored metrics: %w", err)
	}
	out := make(map[string]float64, len(in))
	for k, v := range in {
		switch x := v.(type) {
		case float64:
			out[k] = x
		case string:
			switch x {
			case jsonPosInf:
				out[k] = math.Inf(1)
			case jsonNegInf:
				out[k] = math.Inf(-1)
			default:
				out[k] = math.NaN()
			}
		}
	}
	return out, nil
}
