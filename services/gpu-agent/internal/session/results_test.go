//go:build results

package session_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/ultrathink-pilot/trainyard/libs/benchtable"
)

const page = "agent.md"

// A thousand partitions between agent and scheduler, in virtual time.
func TestCampaignPartitions(t *testing.T) {
	n := 1000
	if testing.Short() {
		n = 20
	}
	got := partition(t, n)
	if got.found > 15*time.Second || got.overlap > 0 {
		t.Errorf("%+v", got)
	}
	benchtable.Section{
		Page: page, Title: "Partitions", Command: "make campaign ONLY=services/gpu-agent CAMPAIGN=TestCampaignPartitions",
		Intro: fmt.Sprintf("%d virtual partitions of 1 s to 20 min between a whole agent (real session, host, journal and gRPC, promised trainers) and a scheduler that gives the device away when its terms (lease 15 s, lock delay 5 s) are over. Bytes in flight wait, as they do when packets are lost. A killed trainer takes 0.5 s to go.", got.count),
		Rows: []benchtable.Row{
			{What: "the longest until the agent knew", Asked: "<= 15 s", Ours: benchtable.Of("s", got.found.Seconds())},
			{What: "the longest with two holders of a device", Asked: "0 ms", Ours: benchtable.Durations(got.overlap)},
			{What: "partitions that the trainer lived through", Ours: benchtable.Of("", float64(got.survived)), Note: "shorter than what was left of the lease"},
		},
	}.Write(t)
}

// Seven virtual days of twenty trainers.
func TestCampaignSevenDays(t *testing.T) {
	count, every := 7, 30*time.Second
	if testing.Short() {
		count = 2
	}
	got := live(t, count*24, 20, every)
	second, last := float64(got.objects[1]), float64(got.objects[len(got.objects)-1])
	slope := 0.0
	if n := len(got.objects) - 2; n > 0 {
		slope = (last/second - 1) * 100 / float64(n)
	}
	if got.gaps > 0 || got.goroutines[1] != got.goroutines[len(got.goroutines)-1] {
		t.Errorf("%+v", got)
	}
	benchtable.Section{
		Page: page, Title: "Seven virtual days", Command: "make campaign ONLY=services/gpu-agent CAMPAIGN=TestCampaignSevenDays",
		Intro: fmt.Sprintf("%d virtual days of 20 trainers that log a point each %s: one is replaced each hour (%d), the agent restarts each six hours (%d times), the registry is away for an hour a day. Memory is counted at a quiet instant of each day, after a collection; the bubble keeps the timers of connections that a restart closed.", count, every, got.churned, got.restarts),
		Rows: []benchtable.Row{
			{What: "points stored, in order", Ours: benchtable.Of("", float64(got.points))},
			{What: "points lost", Asked: "0", Ours: benchtable.Of("", float64(got.gaps))},
			{What: "most that waited on the host while the registry was away", Asked: "bounded", Ours: benchtable.Of("MB", float64(got.spool)/1e6)},
			{What: "live objects, change a day from the second day on", Asked: "<= 0.5 %", Ours: benchtable.Of("%", slope), Note: fmt.Sprintf("%.0f, then %.0f", second, last)},
			{What: "goroutines, second day and last", Asked: "equal", Ours: benchtable.Of("", float64(got.goroutines[1]), float64(got.goroutines[len(got.goroutines)-1]))},
		},
	}.Write(t)
}
