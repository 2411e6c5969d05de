package mlflowmirror

import (
	"context"
	"math"
	"net/url"

	"github.com/ultrathink-pilot/trainyard/services/registry/internal/outbox"
)

// remoteRun is a run as the other side shows it.
type remoteRun struct {
	Info runInfo `json:"info"`
	Data struct {
		Metrics []outbox.Metric `json:"metrics"`
		Params  []outbox.Pair   `json:"params"`
		Tags    []outbox.Pair   `json:"tags"`
	} `json:"data"`
}

func (m *Mirror) remoteRun(ctx context.Context, id string) (remoteRun, error) {
	var answer struct {
		Run remoteRun `json:"run"`
	}
	err := m.client.get(ctx, "runs/get", url.Values{"run_id": {id}}, &answer)
	return answer.Run, err
}

// point is a metric point as both sides can tell it apart from others.
type point struct {
	step, millis int64
	bits         uint64
}

// pointOf maps a point to what MLflow's database keeps: an infinity is the largest number
// there, and all NaNs are one.
func pointOf(p outbox.Metric) point {
	f := float64(p.Value)
	switch {
	case math.IsNaN(f):
		f = math.NaN()
	case math.IsInf(f, 0):
		f = math.Copysign(1.7976931348623157e308, f)
	case f == 0:
		f = 0 // -0 and 0 are equal in its primary key
	}
	return point{p.Step, p.Timestamp, math.Float64bits(f)}
}

// remotePoints reads one series over there.
func (m *Mirror) remotePoints(ctx context.Context, run, key string) (map[point]bool, error) {
	out := map[point]bool{}
	query := url.Values{"run_id": {run}, "metric_key": {key}, "max_results": {"25000"}}
	for {
		var answer struct {
			Metrics []outbox.Metric `json:"metrics"`
			Next    string          `json:"next_page_token"`
		}
		if err := m.client.get(ctx, "metrics/get-history", query, &answer); err != nil {
			return nil, err
		}
		for _, p := range answer.Metrics {
			out[pointOf(p)] = true
		}
		if answer.Next == "" {
			return out, nil
		}
		query.Set("page_token", answer.Next)
	}
}
