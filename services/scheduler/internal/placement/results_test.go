//go:build results

package placement_test

import (
	"flag"
	"runtime"
	"strconv"
	"testing"
	"time"

	"github.com/ultrathink-pilot/trainyard/libs/benchtable"
	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/job"
)

const resultsPage = "scheduler-core.md"

// TestResultsSpeed measures the core alone: no store, no network, one goroutine.
func TestResultsSpeed(t *testing.T) {
	var rows []benchtable.Row
	for _, c := range []struct {
		hosts, queued, turns int
		title                string
		asked                [3]string
	}{
		{1553, 100_000, 20_000, "12,424 devices, 100k queued", [3]string{">= 250k/s", ">= 8k/s", "<= 250 us"}},
		{12_500, 500_000, 5_000, "100,000 devices, 500k queued", [3]string{"reported", "reported", "reported"}},
	} {
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		begin := time.Now()
		l := newLoad(c.hosts, c.queued)
		filled := time.Since(begin)
		runtime.GC()
		runtime.ReadMemStats(&after)
		submits := float64(c.queued+14*c.hosts) / l.submits.Seconds()
		l.decisions = l.decisions[:0]
		begin = time.Now()
		for range c.turns {
			l.turn()
		}
		events := float64(c.turns) / time.Since(begin).Seconds()
		us := func(q float64) float64 { return float64(quantile(l.decisions, q).Nanoseconds()) / 1000 }
		rows = append(rows,
			benchtable.Row{What: c.title + ": submits", Asked: c.asked[0], Ours: benchtable.Of("/s", submits)},
			benchtable.Row{What: c.title + ": completion and reschedule events", Asked: c.asked[1], Ours: benchtable.Of("/s", events)},
			benchtable.Row{What: c.title + ": decision, p50", Ours: benchtable.Of("us", us(0.5))},
			benchtable.Row{What: c.title + ": decision, p99", Asked: c.asked[2], Ours: benchtable.Of("us", us(0.99))},
			benchtable.Row{What: c.title + ": filling an empty fleet, index included", Ours: benchtable.Of("ms", float64(filled.Milliseconds()))},
			benchtable.Row{What: c.title + ": memory, jobs included", Ours: benchtable.Of("MiB", float64(after.HeapAlloc-before.HeapAlloc)/(1<<20))},
		)
		if c.hosts < 2000 {
			var stops []time.Duration
			for range 500 {
				r := l.request(job.Production)
				l.core.Wait(r)
				l.now = l.now.Add(time.Second)
				at := time.Now()
				p := l.core.Plan(l.now)
				stops = append(stops, time.Since(at))
				for _, v := range p.Preempt {
					l.core.Forget(v.Job)
				}
				l.core.Plan(l.now)
				l.core.Forget(r.Job)
			}
			rows = append(rows, benchtable.Row{What: c.title + ": production arrival that preempts, p99", Asked: "<= 5 ms", Ours: benchtable.Of("ms", float64(quantile(stops, 0.99).Microseconds())/1000)})
		}
	}
	benchtable.Section{
		Page: resultsPage, Title: "Speed of the core", Command: "make bench ONLY=services/scheduler RESULTS=TestResultsSpeed",
		Intro: "120 shapes of demand, hosts of 8 devices, one goroutine, no store and no network. An event is one completion with the round that follows it. Wall-clock figures of a busy machine are worse than the core's own.",
		Rows:  rows,
		Notes: []string{"A search for room passes by every host on a bound of its soonest end and cheapest attempt. What is left above the goals are rounds in which the head of the line gets new room, and preemptions, which still look at many hosts; an index over hosts by these bounds is the next step."},
	}.Write(t)
}

// TestCampaignSchedules runs the core through many new schedules; set the number with -rapid.checks=100000.
func TestCampaignSchedules(t *testing.T) {
	TestTheCorePlansAsItsSnapshot(t)
	t.Cleanup(func() {
		n, err := strconv.ParseFloat(flag.Lookup("rapid.checks").Value.String(), 64)
		if t.Failed() || err != nil {
			return
		}
		benchtable.Section{
			Page: resultsPage, Title: "Schedules", Command: "make campaign ONLY=services/scheduler/internal/placement CAMPAIGN=TestCampaignSchedules TESTFLAGS=-rapid.checks=100000",
			Intro: "Random orders of submits, ends, cancels, reports, refused placements, quotas, gangs, backoffs, hosts that come and change, and time. After each plan: it is that of a core built from the snapshot, no device, CPU or host is over-committed, gangs are whole, nobody is placed twice or stopped too early.",
			Rows:  []benchtable.Row{{What: "schedules without a violation", Asked: "100,000", Ours: benchtable.Of("", n)}},
		}.Write(t)
	})
}
