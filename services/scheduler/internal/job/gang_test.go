package job_test

import (
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/job"
)

var gangHosts = []string{"h0", "h1", "h2"}

func gang(t interface{ Fatal(...any) }) (job.Job, job.Attempt) {
	j := job.New("j", job.Spec{Demand: job.Demand{Devices: []job.DeviceDemand{{Count: 3, Topology: job.PackedHosts}}}}, job.Batch, 1, t0)
	share := []job.Share{{Device: "g0", Whole: true}}
	j, a, err := j.Assign(job.Assignment{Agent: "h0", Shares: share, Others: []job.Member{{Agent: "h1", Shares: share}, {Agent: "h2", Shares: share}}}, 7, t0)
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range gangHosts {
		j, a = j.Observe(a, h, job.Sight{Training: true}, t0)
	}
	return j, a
}

func endOn(j job.Job, a job.Attempt, host string, e job.Exit) (job.Job, job.Attempt, bool) {
	return j.EndOn(a, host, e, job.DefaultPolicy(), rand.New(rand.NewPCG(1, 1)), t0.Add(time.Minute))
}

func TestAGangSucceedsWhenItsLastPartDoes(t *testing.T) {
	t.Parallel()
	j, a := gang(t)
	var ok bool
	for i, h := range []string{"h2", "h0", "h1"} {
		if j, a, ok = endOn(j, a, h, job.Exit{Outcome: job.OutcomeSucceeded}); !ok {
			t.Fatalf("the end on %s was refused", h)
		}
		if _, holds := a.On(h); holds {
			t.Errorf("%s still holds its part", h)
		}
		if final := i == 2; final != (j.State == job.Succeeded) || final == a.Live() {
			t.Errorf("after %s: %s, live %v", h, j.State, a.Live())
		}
	}
	if _, _, again := endOn(j, a, "h1", job.Exit{Outcome: job.OutcomeFailed}); again {
		t.Error("a repeated end had an effect")
	}
}

func TestTheFirstFailureOfAGangDecidesAndStopsTheRest(t *testing.T) {
	t.Parallel()
	j, a := gang(t)
	j, a, _ = endOn(j, a, "h1", job.Exit{Outcome: job.OutcomeFailed, Failure: job.Crash, Evidence: job.Evidence{Message: "exit code 3"}})
	if j.State != job.Stopping || j.Intent != job.IntentGang || a.Phase != job.Ending || !strings.Contains(j.Reason, "on h1: exit code 3") {
		t.Fatalf("%s %s %s: %s", j.State, j.Intent, a.Phase, j.Reason)
	}
	// The others die of the stop, each in its own way; that is not what went wrong.
	j, a, _ = endOn(j, a, "h0", job.Exit{Outcome: job.OutcomeStopped})
	if shares, holds := a.On("h2"); !holds || len(shares) != 1 {
		t.Error("h2 lost its part before it had confirmed")
	}
	j, a, _ = endOn(j, a, "h2", job.Exit{Outcome: job.OutcomeFailed, Failure: job.Network})
	if j.State != job.Queued || a.Failure != job.Crash || j.Spent[job.Crash] != 1 || j.Spent[job.Network] != 0 || j.Intent != job.NoIntent {
		t.Errorf("%s, ended as %s, spent %v", j.State, a.Failure, j.Spent.Map())
	}
}

func TestALostMemberCostsAGangNoRetry(t *testing.T) {
	t.Parallel()
	j, a := gang(t)
	j, a, _ = endOn(j, a, "h2", job.Exit{Outcome: job.OutcomeStopped, Failure: job.AgentLost, Evidence: job.Evidence{Message: "silent"}})
	j, a, _ = endOn(j, a, "h0", job.Exit{Outcome: job.OutcomeStopped})
	j, a, _ = endOn(j, a, "h1", job.Exit{Outcome: job.OutcomeStopped})
	if j.State != job.Queued || a.Failure != job.AgentLost || len(j.Spent.Map()) != 0 || j.Free != 1 {
		t.Errorf("%s, ended as %s, spent %v", j.State, a.Failure, j.Spent.Map())
	}
}

// Whatever its parts report in whatever order and however often, a gang ends
// exactly once, with the last part, and a cancelled one as cancelled.
func TestAGangEndsOnce(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		j, a := gang(t)
		ends, over := 0, map[string]bool{}
		cancelled := false
		for range rapid.IntRange(3, 20).Draw(t, "steps") {
			if rapid.IntRange(0, 9).Draw(t, "cancel") == 0 && j.State.Live() {
				j, cancelled = j.Cancel(&a, "no", t0), true
			}
			h := rapid.SampledFrom(gangHosts).Draw(t, "host")
			e := job.Exit{Outcome: rapid.SampledFrom([]job.Outcome{job.OutcomeSucceeded, job.OutcomeFailed, job.OutcomeStopped}).Draw(t, "outcome")}
			was := a.Live()
			var ok bool
			if j, a, ok = endOn(j, a, h, e); ok == (over[h] || !was) {
				t.Fatalf("end on %s taken: %v, over before: %v", h, ok, over[h])
			}
			over[h] = true
			if was && !a.Live() {
				ends++
			}
			if a.Live() == (len(over) == len(gangHosts)) {
				t.Fatalf("live %v with %d of its parts over", a.Live(), len(over))
			}
		}
		if ends > 1 || cancelled && !a.Live() && j.State != job.Cancelled && j.State != job.Succeeded {
			t.Fatalf("ended %d times, as %s", ends, j.State)
		}
	})
}

func TestCyclesAreFound(t *testing.T) {
	t.Parallel()
	for want, after := range map[string]map[string][]string{
		"":                 {"a": {"b", "c"}, "b": {"c"}, "c": {}},
		"a -> b -> a":      {"a": {"b"}, "b": {"a"}},
		"a -> a":           {"a": {"a"}},
		"b -> c -> d -> b": {"a": {"b"}, "b": {"c"}, "c": {"d", "elsewhere"}, "d": {"b"}},
	} {
		var order []string
		for _, n := range []string{"a", "b", "c", "d"} {
			if _, ok := after[n]; ok {
				order = append(order, n)
			}
		}
		if got := strings.Join(job.Cycle(order, after), " -> "); got != want {
			t.Errorf("%v: %q, want %q", after, got, want)
		}
	}
}
