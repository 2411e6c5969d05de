package sim_test

import (
	"bytes"
	"encoding/json"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/job"
	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/placement"
	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/sim"
)

// Two queues of a cohort share 40 CPUs. What each class waits is known to the
// millisecond, and never changes without somebody meaning it.
func TestKueueTimeline(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	if err := sim.RunKueue([]string{"--cohorts", "1", "--queues", "2"}, &out); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"small        700", "medium        200", "large        100"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, out.String())
		}
	}
	rows := sim.Kueue(sim.KueueLoad{Cohorts: 1, Queues: 2, Quota: 20, Borrow: 20, MinRuntime: time.Minute, Classes: []sim.WorkloadClass{
		{Name: "small", Count: 4, CPUs: 10, Runs: time.Second, Interval: 0, Priority: job.Batch},
		{Name: "large", Count: 1, CPUs: 20, Runs: time.Second, Interval: 0, Priority: job.Production},
	}})
	// Both large ones fill the quota for a second; then the eight small ones take
	// two more, four at a time.
	if all := rows[2]; all.Virtual != 3 || all.Usage != 100 || rows[1].Admission != 0 || rows[0].Admission != 1.5 {
		t.Errorf("%+v", rows)
	}
	again := sim.Kueue(sim.KueueLoad{Cohorts: 2, Queues: 2, Quota: 20, Borrow: 20, Classes: []sim.WorkloadClass{
		{Name: "small", Count: 8, CPUs: 5, Runs: 900 * time.Millisecond, Interval: 0, Priority: job.Batch},
		{Name: "large", Count: 1, CPUs: 20, Runs: time.Second, Interval: 300 * time.Millisecond, Priority: job.Production},
	}})
	if all := again[2]; all.Workloads != 36 || all.Virtual == 0 {
		t.Errorf("with preemption at once: %+v", again)
	}
}

// A job that has got little goes before one that has got much, though it came
// later; and whoever is alone is not disturbed.
func TestProductTimeline(t *testing.T) {
	t.Parallel()
	jobs := []sim.TraceJob{
		{ID: "long", GPUs: 8, Submit: 0, Work: 100_000, Overhead: 10},
		{ID: "wide", GPUs: 16, Submit: 0, Work: 1000, Overhead: 10},
		{ID: "short", GPUs: 8, Submit: 5000, Work: 300, Overhead: 10},
	}
	got := sim.Product(jobs, sim.Cluster{Nodes: 2, PerNode: 8})
	// 100,000 s and 1,000 s share the hosts, and each start costs ten more.
	if math.Round(got.Mean) != 34_727 || got.Makespan != 101_050 || got.Starts != 6 {
		t.Errorf("mean %.0f, makespan %.0f after %d starts", got.Mean, got.Makespan, got.Starts)
	}
}

// A captured round gives its own plan again, and says so when it does not.
func TestSnapshotsReplay(t *testing.T) {
	t.Parallel()
	n := placement.Node{Name: "h", CPUMillis: 8000, HostBytes: 1 << 30, Devices: []placement.Device{{ID: "g", Kind: "gpu", Memory: 1 << 30}}}
	s := placement.Snapshot{Now: time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC), Nodes: []placement.Node{n}, Queue: []placement.Request{
		{Job: "a", Demand: job.Demand{Devices: []job.DeviceDemand{{Count: 1}}}}, {Job: "b", Place: 1, Demand: job.Demand{Devices: []job.DeviceDemand{{Count: 1}}}},
	}}
	plan := placement.Make(s)
	dir := t.TempDir()
	save := func(name string, v any) string {
		raw, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return write(t, dir, name, string(raw))
	}
	var out bytes.Buffer
	if err := sim.RunSnapshot([]string{save("bare.json", s)}, &out); err != nil || !strings.Contains(out.String(), "place") || !strings.Contains(out.String(), "wait") {
		t.Errorf("%v\n%s", err, out.String())
	}
	out.Reset()
	if err := sim.RunSnapshot([]string{save("both.json", sim.Captured{Snapshot: s, Plan: &plan}), "-o", "json"}, &out); err != nil {
		t.Errorf("%v\n%s", err, out.String())
	}
	plan.Place[0].Node = "elsewhere"
	if err := sim.RunSnapshot([]string{save("wrong.json", sim.Captured{Snapshot: s, Plan: &plan})}, &out); err == nil {
		t.Error("another plan passed for the same")
	}
	if err := sim.RunSnapshot([]string{write(t, dir, "junk.json", "{}")}, &out); err == nil || !strings.Contains(err.Error(), "no time Now") {
		t.Errorf("junk: %v", err)
	}
}
