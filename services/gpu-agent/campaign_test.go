//go:build results

package gpuagent_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/ultrathink-pilot/trainyard/libs/benchtable"
	fleetv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/fleet/v1"
	jobv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/job/v1"
)

// processesOf returns the pids that belong to this bench's agent, by what they are:
// "trainer" or "supervise".
func (b *bench) processesOf(what string) []int {
	b.t.Helper()
	paths, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		b.t.Fatal(err)
	}
	var pids []int
	for _, p := range paths {
		line, err := os.ReadFile(p + "/cmdline")
		if err != nil {
			continue // gone by now
		}
		environment, err := os.ReadFile(p + "/environ")
		if err != nil || !strings.Contains(string(environment), "TRAINYARD_SOCKET="+b.state) {
			continue
		}
		isTrainer := strings.TrimRight(string(line), "\x00") == b.trainer()
		if isTrainer == (what == "trainer") {
			pid, err := strconv.Atoi(filepath.Base(p))
			if err != nil {
				b.t.Fatal(err)
			}
			pids = append(pids, pid)
		}
	}
	slices.Sort(pids)
	return pids
}

// The agent is killed again and again while five trainers run.
func TestCampaignAgentKill(t *testing.T) {
	const trainers = 5
	kills := rounds(500)
	b := newBench(t, "--cpu-lanes=5")
	for lane := range trainers {
		b.assign(uint64(lane+1), lane, "steps=100000000 every=20ms")
	}
	all := func() bool {
		b.scheduler.mu.Lock()
		defer b.scheduler.mu.Unlock()
		running := 0
		if b.scheduler.report != nil {
			for _, l := range b.scheduler.report.Leases {
				if l.Phase == fleetv1.HeldLease_PHASE_RUNNING {
					running++
				}
			}
		}
		return running == trainers
	}
	b.until("all trainers", all)
	before := b.processesOf("trainer")
	if len(before) != trainers {
		t.Fatalf("%d trainers", len(before))
	}
	rng := rand.New(rand.NewPCG(1, 2))
	var adopted []time.Duration
	for kill := range kills {
		b.stop(syscall.SIGKILL)
		b.scheduler.with(func() { b.scheduler.report = nil })
		begun := time.Now()
		b.start()
		if kill%5 == 4 { // sometimes before it has found its feet
			time.Sleep(time.Duration(rng.Int64N(int64(120 * time.Millisecond))))
			continue
		}
		b.until("all trainers again", all)
		adopted = append(adopted, time.Since(begun))
		time.Sleep(time.Duration(rng.Int64N(int64(100 * time.Millisecond))))
	}
	b.until("all trainers again", all)
	after := b.processesOf("trainer")
	lost := 0
	for _, pid := range before {
		if !slices.Contains(after, pid) {
			lost++
		}
	}
	b.scheduler.with(func() {
		for _, a := range b.scheduler.assign {
			b.scheduler.stops = append(b.scheduler.stops, &fleetv1.StopOrder{
				JobId: a.JobId, Attempt: a.Attempt, Fence: a.Fence, Reason: fleetv1.StopOrder_REASON_CANCELLED, Grace: durationpb.New(20 * time.Second),
			})
		}
	})
	gaps, points := 0, 0
	for fence := uint64(1); fence <= trainers; fence++ {
		exit := b.awaitExit(fence)
		if exit.Outcome != fleetv1.Exit_OUTCOME_STOPPED || !strings.Contains(exit.Evidence.Message, "as told") {
			t.Errorf("attempt %d ended as %v", fence, exit)
		}
		b.until("the run's end", func() bool { _, _, closed := b.registry.steps(fence); return closed })
		steps, _, _ := b.registry.steps(fence)
		points += len(steps)
		if !slices.Equal(steps, count(exit.Progress.Step)) {
			gaps++
			t.Errorf("attempt %d logged %d points up to step %d", fence, len(steps), exit.Progress.Step)
		}
	}
	orphans := len(b.processesOf("trainer")) + len(b.processesOf("supervise"))
	if lost+orphans > 0 || b.scheduler.repeats > 0 {
		t.Errorf("%d trainers lost, %d orphans, %d exits told twice", lost, orphans, b.scheduler.repeats)
	}
	slices.Sort(adopted)
	benchtable.Section{
		Page: page, Title: "The agent killed while trainers run", Command: "make campaign ONLY=services/gpu-agent CAMPAIGN=TestCampaignAgentKill",
		Intro: fmt.Sprintf("SIGKILL of the agent %d times while five trainers run, each fifth time before it had adopted them. Re-adoption is from the start of the new process to the scheduler's receipt of a report in which all five run; other work shared the machine.", kills),
		Rows: []benchtable.Row{
			{What: "trainers lost", Asked: "0", Ours: benchtable.Of("", float64(lost))},
			{What: "orphans at the end", Asked: "0", Ours: benchtable.Of("", float64(orphans))},
			{What: "attempts with a gap or a repeat among their points", Asked: "0", Ours: benchtable.Of("", float64(gaps)), Note: fmt.Sprintf("%d points", points)},
			{What: "re-adoption, p50", Ours: benchtable.Durations(adopted[len(adopted)/2])},
			{What: "re-adoption, p99", Asked: "< 2 s", Ours: benchtable.Durations(adopted[len(adopted)*99/100])},
		},
	}.Write(t)
}

// Who takes more than it reserved is stopped within a second; its neighbours on
// the same lane are not.
func TestCampaignOverUse(t *testing.T) {
	section := benchtable.Section{
		Page: page, Title: "Memory over-use on CPU lanes", Command: "make campaign ONLY=services/gpu-agent CAMPAIGN=TestCampaignOverUse",
		Intro: "A trainer that reserved 128 MiB touches 300 MiB beside a neighbour on the same lane. Measured from when its array alone fills three quarters of the reservation, a little before the line, to the recorded end of the process; other work shared the machine.",
	}
	for _, limits := range []string{"cgroup", "watch"} {
		b := newBench(t, "--host-limits="+limits)
		b.assign(1, 0, "steps=100000000 every=20ms")
		b.until("the neighbour", func() bool { return b.scheduler.phase(1) == fleetv1.HeldLease_PHASE_RUNNING })
		neighbour := b.processesOf("trainer")
		stopped, touched := 0, 0
		var took []time.Duration
		n := rounds(100)
		for fence := uint64(2); fence < uint64(n)+2; fence++ {
			b.assign(fence, 0, "grow=300")
			exit := b.awaitExit(fence)
			crossed, err := os.Stat(crossedFile(filepath.Join(b.state, "s", "agent.sock"), fence))
			if err != nil {
				t.Fatal(err)
			}
			after := exit.EndTime.AsTime().Sub(crossed.ModTime())
			took = append(took, after)
			if exit.FailureClass == jobv1.FailureClass_FAILURE_CLASS_DEVICE_OOM_OWN && after <= time.Second {
				stopped++
			} else {
				t.Errorf("after %v: %v", after, exit)
			}
			if b.scheduler.exit(1) != nil || !slices.Equal(b.processesOf("trainer"), neighbour) {
				touched++
			}
		}
		slices.Sort(took)
		name := map[string]string{"cgroup": "control group", "watch": "watched by RSS"}[limits]
		section.Rows = append(section.Rows,
			benchtable.Row{What: name + ": offenders stopped within 1 s", Asked: fmt.Sprintf("%d of %d", n, n), Ours: benchtable.Of("", float64(stopped))},
			benchtable.Row{What: name + ": neighbours touched", Asked: "0", Ours: benchtable.Of("", float64(touched))},
			benchtable.Row{What: name + ": over the line to process gone, p50", Ours: benchtable.Durations(took[len(took)/2])},
			benchtable.Row{What: name + ": the slowest", Asked: "<= 1 s", Ours: benchtable.Durations(took[len(took)-1])},
		)
	}
	section.Write(t)
}

// An agent or a trainer that sleeps through its lease does no harm when it wakes.
func TestCampaignPause(t *testing.T) {
	const lanes = 4
	pauses := rounds(200)
	var mu sync.Mutex
	var stale, wrong, done int
	t.Run("benches", func(t *testing.T) {
		for lane := range lanes {
			t.Run(fmt.Sprint(lane), func(t *testing.T) {
				t.Parallel()
				b := newBench(t, "--settle-time=100ms")
				b.scheduler.with(func() { b.scheduler.lease = 1500 * time.Millisecond })
				for round := range pauses / lanes {
					s, w := b.pause(uint64(round), round%2 == 0)
					mu.Lock()
					stale, wrong, done = stale+s, wrong+w, done+1
					mu.Unlock()
				}
			})
		}
	})
	benchtable.Section{
		Page: page, Title: "Paused past the lease", Command: "make campaign ONLY=services/gpu-agent CAMPAIGN=TestCampaignPause",
		Intro: fmt.Sprintf("SIGSTOP past a lease of 1.5 s, then SIGCONT, %d times: half of them the agent, whose job the scheduler meanwhile gives a newer fence, half of them the trainer, which the scheduler stops. Counted is what reached the registry under the old fence after the newer one had opened, and a second live trainer of the job.", done),
		Rows: []benchtable.Row{
			{What: "stale effects", Asked: "0", Ours: benchtable.Of("", float64(stale))},
			{What: "ends that were not the lease's", Asked: "0", Ours: benchtable.Of("", float64(wrong))},
		},
	}.Write(t)
}

// pause runs one round and returns how many stale effects there were and whether
// the old attempt ended as something else than it should.
func (b *bench) pause(round uint64, agent bool) (stale, wrong int) {
	fence := round*2 + 1
	a := b.assign(fence, 0, "steps=100000000 every=5ms")
	b.until("the trainer", func() bool { steps, _, _ := b.registry.steps(fence); return len(steps) > 3 })
	b.scheduler.mu.Lock()
	report := b.scheduler.report
	b.scheduler.mu.Unlock()
	if len(report.Leases) != 1 {
		b.t.Errorf("%d leases", len(report.Leases))
	}
	trainers := b.processesOf("trainer")
	if len(trainers) != 1 {
		b.t.Fatalf("trainers %v", trainers)
	}
	victim := trainers[0]
	if agent {
		victim = b.cmd.Process.Pid
	}
	signal := func(sig syscall.Signal) {
		if err := syscall.Kill(victim, sig); err != nil && (agent || err != syscall.ESRCH) {
			b.t.Error(err)
		}
	}
	signal(syscall.SIGSTOP)
	if agent {
		time.Sleep(1700 * time.Millisecond)
		// The scheduler has given the job away: the registry knows the newer fence.
		b.scheduler.with(func() { b.scheduler.assign = nil })
	} else {
		b.scheduler.with(func() {
			b.scheduler.stops = append(b.scheduler.stops, &fleetv1.StopOrder{
				JobId: a.JobId, Attempt: 1, Fence: fence, Reason: fleetv1.StopOrder_REASON_STALLED, Grace: durationpb.New(500 * time.Millisecond),
			})
		})
		time.Sleep(1700 * time.Millisecond)
	}
	b.registry.set(func() { b.registry.fences[a.JobId] = fence + 1 })
	accepted := func() int { steps, _, _ := b.registry.steps(fence); return len(steps) }
	before := accepted()
	signal(syscall.SIGCONT)
	exit := b.awaitExit(fence)
	stale += accepted() - before
	want := jobv1.FailureClass_FAILURE_CLASS_STALLED
	if agent {
		want = jobv1.FailureClass_FAILURE_CLASS_AGENT_LOST
	}
	if exit.FailureClass != want {
		wrong++
		b.t.Errorf("exit %v", exit)
	}
	if left := b.processesOf("trainer"); len(left) > 0 {
		stale++
		b.t.Errorf("trainers %v live on", left)
	}
	return stale, wrong
}
