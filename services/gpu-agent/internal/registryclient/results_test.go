//go:build results

package registryclient_test

import (
	"testing"
	"time"

	"github.com/ultrathink-pilot/trainyard/libs/benchtable"
)

// An hour without the registry, written as fast as it goes, and drained.
func TestResultsOutage(t *testing.T) {
	const streams = 20
	span := time.Hour
	if testing.Short() {
		span = time.Minute
	}
	got := absent(t, streams, int(span/time.Second))
	benchtable.Section{
		Page: "agent.md", Title: "The registry away for an hour", Command: "make bench ONLY=services/gpu-agent RESULTS=TestResultsOutage",
		Intro: "An hour's points of 20 streams at 100 points/s each, spooled on the host's disk while the registry refuses, then drained over one Ingest stream each to a registry that only counts. Hours of outages beside restarts and churn are in the seven virtual days.",
		Rows: []benchtable.Row{
			{What: "points lost, doubled or out of order", Asked: "0", Ours: benchtable.Of("", float64(got.lost)), Note: benchtable.Of("points", float64(got.points)).String()},
			{What: "largest spool", Asked: "bounded (256 MiB)", Ours: benchtable.Of("MB", float64(got.bytes)/1e6)},
			{What: "drained, in multiples of real time", Asked: ">= 10", Ours: benchtable.Of("x", span.Seconds()/got.took.Seconds())},
			{What: "rate of the drain", Ours: benchtable.Of("points/s", float64(got.points)/got.took.Seconds())},
		},
	}.Write(t)
}
