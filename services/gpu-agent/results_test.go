//go:build results

package gpuagent_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/ultrathink-pilot/trainyard/libs/benchtable"
	fleetv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/fleet/v1"
)

const page = "agent.md"

// rounds is how often a campaign repeats; with -short just enough to see that it works.
func rounds(n int) int {
	if testing.Short() {
		return max(n/50, 2)
	}
	return n
}

// points returns the values of a key that an attempt logged.
func (r *registry) points(fence uint64, key string) []float64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []float64
	for _, sequence := range r.order[fence] {
		for _, p := range r.batches[batchKey{fence, sequence}].GetMetrics().GetPoints() {
			if p.Key == key {
				out = append(out, p.Value)
			}
		}
	}
	return out
}

// From the scheduler's wish to the report that the trainer's process runs.
func TestResultsLeaseToRunning(t *testing.T) {
	b := newBench(t)
	var took []time.Duration
	for fence := uint64(1); fence <= uint64(rounds(200)); fence++ {
		asked := time.Now()
		b.assign(fence, int(fence%4), "steps=1")
		b.awaitExit(fence)
		b.scheduler.mu.Lock()
		running := b.scheduler.running[fence]
		b.scheduler.mu.Unlock()
		if running.IsZero() { // it was over before a report was due
			continue
		}
		took = append(took, running.Sub(asked))
	}
	slices.Sort(took)
	p50, p99 := took[len(took)/2], took[len(took)*99/100]
	benchtable.Section{
		Page: page, Title: "Lease to running trainer", Command: "make bench ONLY=services/gpu-agent RESULTS=TestResultsLeaseToRunning",
		Intro: fmt.Sprintf("%d leases on CPU lanes, one after the other: from the scheduler's wish, over Synchronize, the journal, the control group and two forks, to the scheduler's receipt of the report that the trainer runs.", len(took)),
		Rows: []benchtable.Row{
			{What: "lease to running, p50", Asked: "<= 25 ms", Ours: benchtable.Durations(p50)},
			{What: "lease to running, p99", Ours: benchtable.Durations(p99)},
		},
	}.Write(t)
}

// A checkpoint's way into staging: over the unix socket, hashed, synced, renamed.
func TestResultsPush(t *testing.T) {
	b := newBench(t, "--cpu-lane-memory=4GiB")
	a := b.assign(1, 0, "push=256")
	b.scheduler.with(func() { a.ReservedBytes = []int64{4 << 30} })
	b.awaitExit(1)
	b.until("the run's end", func() bool { _, _, closed := b.registry.steps(1); return closed })
	rates, stalls := b.registry.points(1, "push/rate"), b.registry.points(1, "push/stall")
	if len(rates) < 8 {
		t.Fatalf("rates %v", rates)
	}
	for i := range stalls {
		stalls[i] *= 100
	}
	benchtable.Section{
		Page: page, Title: "Checkpoint push", Command: "make bench ONLY=services/gpu-agent RESULTS=TestResultsPush",
		Intro: "Eight files of 256 MiB pushed through PushArtifact in chunks of 256 KiB while the same trainer reports a step each 10 ms: received, hashed, synced and renamed when the answer comes. Trainer and agent share the machine's two processors.",
		Rows: []benchtable.Row{
			{What: "push to durable and verified", Asked: ">= 500 MB/s", Ours: benchtable.Of("MB/s", rates...)},
			{What: "training thread waiting for its stream meanwhile", Asked: "<= 1 %", Ours: benchtable.Of("%", stalls...)},
		},
	}.Write(t)
}

// What the agent itself occupies with many trainers.
func TestResultsMemory(t *testing.T) {
	const trainers = 20
	b := newBench(t, "--cpu-lanes=20", "--cpu-lane-memory=512MiB")
	for lane := range trainers {
		b.assign(uint64(lane+1), lane, "steps=1000000 every=100ms")
	}
	b.until("all trainers", func() bool {
		for lane := range trainers {
			if b.scheduler.phase(uint64(lane+1)) != fleetv1.HeldLease_PHASE_RUNNING {
				return false
			}
		}
		return true
	})
	var resident []float64
	for range 15 {
		time.Sleep(2 * time.Second)
		resident = append(resident, b.status("VmRSS"))
	}
	benchtable.Section{
		Page: page, Title: "The agent itself", Command: "make bench ONLY=services/gpu-agent RESULTS=TestResultsMemory",
		Intro: "20 trainers on CPU lanes, each with 10 metric batches and 10 progress reports a second, for 30 s. Supervisors are processes of their own and not counted.",
		Rows: []benchtable.Row{
			{What: "resident memory of the agent, 20 trainers", Asked: "< 60 MB", Ours: benchtable.Of("MB", resident...)},
			{What: "its peak", Ours: benchtable.Of("MB", b.status("VmHWM"))},
			{What: "resident memory of one supervisor", Ours: benchtable.Of("MB", b.supervisor(t))},
		},
	}.Write(t)
}

// status is a field of the agent's /proc status, in MB.
func (b *bench) status(field string) float64 {
	b.t.Helper()
	return statusOf(b.t, b.cmd.Process.Pid, field)
}

func statusOf(t *testing.T, pid int, field string) float64 {
	t.Helper()
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range strings.Split(string(raw), "\n") {
		if rest, ok := strings.CutPrefix(line, field+":"); ok {
			kib, err := strconv.ParseFloat(strings.Fields(rest)[0], 64)
			if err != nil {
				t.Fatal(err)
			}
			return kib * 1024 / 1e6
		}
	}
	t.Fatalf("no %s", field)
	return 0
}

// supervisor is the resident memory of one of this agent's supervisors.
func (b *bench) supervisor(t *testing.T) float64 {
	t.Helper()
	processes, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range processes {
		line, err := os.ReadFile(p + "/cmdline")
		if err == nil && strings.Contains(string(line), "\x00supervise\x00"+b.state) {
			pid, err := strconv.Atoi(filepath.Base(p))
			if err != nil {
				t.Fatal(err)
			}
			return statusOf(t, pid, "VmRSS")
		}
	}
	t.Fatal("no supervisor runs")
	return 0
}
