package cycle_test

import (
	"testing"
	"time"

	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/cycle"
	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/job"
)

// spread asks for n whole devices on as many hosts as it takes.
func spread(n int) job.Spec {
	return job.Spec{Name: "n", Experiment: "e", Demand: job.Demand{Devices: []job.DeviceDemand{{Count: n, Topology: job.PackedHosts}}}, Batch: 64, MinBatch: 8}
}

func TestAGangRunsOnSeveralHostsAndEndsAsOne(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, b *bench) {
		hosts := []*host{b.host("h1"), b.host("h2"), b.host("h3")}
		id := b.submit(spread(3), job.Interactive)
		for _, h := range hosts {
			h.sync()
		}
		ranks := map[int]bool{}
		for _, h := range hosts {
			if !h.holds(id) || len(h.last.Run) != 1 {
				t.Fatalf("%s holds %s", h.name, h.jobs())
			}
			g := h.last.Run[0].Gang
			if g == nil || g.Hosts != 3 || g.Processes != 3 || g.Port == 0 || g.Address != b.view(id).Attempts[0].Agent {
				t.Fatalf("%s is told %+v", h.name, g)
			}
			ranks[g.Rank] = true
			h.sync()
		}
		if len(ranks) != 3 {
			t.Errorf("ranks %v", ranks)
		}
		b.is(id, job.Running)

		// One member crashes: the others are told to stop, and the job waits for
		// all of them before it begins again.
		hosts[1].exit(id, job.Exit{Outcome: job.OutcomeFailed, Failure: job.Crash, Evidence: job.Evidence{ExitCode: 1}})
		hosts[1].sync()
		if v := b.is(id, job.Stopping); v.Job.Intent != job.IntentGang {
			t.Errorf("stopping because %s", v.Job.Intent)
		}
		hosts[0].sync() // is told
		hosts[0].sync() // has stopped
		b.is(id, job.Stopping)
		hosts[2].sync()
		hosts[2].sync()
		v := b.is(id, job.Queued)
		if v.Job.Spent[job.Crash] != 1 || v.Attempts[0].Failure != job.Crash {
			t.Errorf("spent %v, ended as %s", v.Job.Spent.Map(), v.Attempts[0].Failure)
		}
		for range 5 { // its backoff
			time.Sleep(time.Second)
			for _, h := range hosts {
				h.sync()
			}
		}
		for _, h := range hosts {
			h.exit(id, job.Exit{Outcome: job.OutcomeSucceeded})
			h.sync()
		}
		if v := b.is(id, job.Succeeded); v.Job.Attempts != 2 {
			t.Errorf("%d attempts", v.Job.Attempts)
		}
		b.released()
	})
}

// released checks that nothing is promised any more.
func (b *bench) released() {
	b.t.Helper()
	for _, a := range b.engine.Agents() {
		for d, n := range a.Reserved {
			if n != 0 {
				b.t.Errorf("%s/%s still promises %d bytes", a.Agent.Name, d, n)
			}
		}
	}
}

func TestAGangSurvivesALostMemberAndARestart(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, b *bench) {
		h1, h2 := b.host("h1"), b.host("h2")
		id := b.submit(spread(2), job.Interactive)
		for _, h := range []*host{h1, h2, h1, h2} {
			h.sync()
		}
		b.is(id, job.Running)
		b.stop()
		b.start()
		h1.known, h2.known = 0, 0
		h1.sync()
		h2.sync()
		b.is(id, job.Running)
		// h2 falls silent; h1 goes on reporting.
		for range 12 {
			time.Sleep(2 * time.Second)
			h1.sync()
		}
		v := b.is(id, job.Queued)
		if v.Attempts[0].Failure != job.AgentLost || len(v.Job.Spent.Map()) != 0 {
			t.Errorf("ended as %s, spent %v", v.Attempts[0].Failure, v.Job.Spent.Map())
		}
		// It comes back, with its zombie, which has no right to go on.
		h2.sync()
		if h2.holds(id) && len(h2.last.Stop) == 0 {
			t.Error("the zombie was not stopped")
		}
		for _, h := range []*host{h2, h1, h2, h1} {
			h.sync()
		}
		b.is(id, job.Running)
		if _, err := b.engine.Cancel(t.Context(), b.request(), id, "enough"); err != nil {
			t.Fatal(err)
		}
		for _, h := range []*host{h1, h2, h1, h2} {
			h.sync()
		}
		b.is(id, job.Cancelled)
		b.released()
	})
}

func TestADrainMovesAWholeGang(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, b *bench) {
		h1, h2, h3 := b.host("h1"), b.host("h2"), b.host("h3")
		id := b.submit(spread(2), job.Interactive)
		all := []*host{h1, h2, h3, h1, h2, h3}
		for _, h := range all {
			h.sync()
		}
		v := b.is(id, job.Running)
		second := v.Attempts[0].Others[0].Agent
		if _, err := b.engine.SetCordon(t.Context(), b.request(), second, cycle.Draining, "fan", func(cycle.AgentView) ([]byte, error) { return nil, nil }); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			for _, h := range all {
				h.sync()
			}
		}
		v = b.is(id, job.Running)
		if len(v.Attempts) != 2 || v.Attempts[1].Rank(second) >= 0 || v.Attempts[0].Failure != job.Drained || len(v.Job.Spent.Map()) != 0 {
			t.Errorf("%d attempts, on %v, the first ended as %s", len(v.Attempts), v.Attempts[len(v.Attempts)-1].Agents(), v.Attempts[0].Failure)
		}
	})
}
