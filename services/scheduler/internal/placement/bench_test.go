package placement_test

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/job"
	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/placement"
)

// large is a fleet of so many 8-device hosts and demands of 120 shapes.
func large(hosts int) ([]placement.Node, []job.Demand) {
	nodes := make([]placement.Node, hosts)
	for i := range nodes {
		nodes[i] = placement.Node{Name: fmt.Sprintf("h%05d", i), CPUMillis: 128000, HostBytes: 1024 * gib}
		for d := range 8 {
			nodes[i].Devices = append(nodes[i].Devices, placement.Device{ID: fmt.Sprint(d), Kind: "gpu", Memory: 80 * gib, Headroom: gib, Overhead: gib / 2})
		}
	}
	rng := rand.New(rand.NewPCG(1, 2))
	demands := make([]job.Demand, 120)
	for i := range demands {
		g := job.DeviceDemand{Count: 1}
		switch {
		case i%2 == 0:
			g.Bytes = int64(1+rng.IntN(60)) * gib
		case i%5 == 0:
			g.Count = 1 << rng.IntN(4)
		}
		demands[i] = job.Demand{Devices: []job.DeviceDemand{g}, CPUMillis: int64(1+rng.IntN(16)) * 1000, HostBytes: int64(1+rng.IntN(64)) * gib}
	}
	return nodes, demands
}

// One completion and one placement on a full fleet of 12,424 devices: what an
// event costs the core.
func BenchmarkDecision(b *testing.B) {
	nodes, demands := large(1553)
	var typical []placement.Typical
	for _, d := range demands {
		typical = append(typical, placement.Typical{Demand: d, Weight: 1})
	}
	f := placement.NewFleet(nodes, typical[:40])
	rng := rand.New(rand.NewPCG(3, 4))
	type run struct {
		node   int
		shares []job.Share
		d      *job.Demand
	}
	var live []run
	start := func() bool {
		d := &demands[rng.IntN(len(demands))]
		n, s, ok := f.Best(d)
		if ok {
			f.Hold(n, s, d.CPUMillis, d.HostBytes)
			live = append(live, run{n, s, d})
		}
		return ok
	}
	for misses := 0; misses < 50; {
		if !start() {
			misses++
		}
	}
	b.ReportMetric(float64(len(live)), "live")
	for b.Loop() {
		i := rng.IntN(len(live))
		r := live[i]
		live[i] = live[len(live)-1]
		live = live[:len(live)-1]
		f.Release(r.node, r.shares, r.d.CPUMillis, r.d.HostBytes)
		for range 8 {
			if start() {
				break
			}
		}
	}
}

// A whole planning round over a full fleet with 100,000 waiting jobs.
func BenchmarkRound(b *testing.B) {
	nodes, demands := large(1553)
	s := placement.Snapshot{Now: t0, Nodes: nodes, Rules: placement.Rules{MinRuntime: time.Minute, Restart: 30}}
	for i := range 100_000 {
		s.Queue = append(s.Queue, placement.Request{Job: fmt.Sprintf("j%06d", i), Priority: job.Batch, Demand: demands[i%len(demands)]})
	}
	first := placement.Make(s)
	at := map[string]int{}
	for i, n := range nodes {
		at[n.Name] = i
	}
	taken := map[string]bool{}
	for i, p := range first.Place {
		if _, err := fmt.Sscanf(p.Job, "j%06d", &i); err != nil {
			b.Fatal(err)
		}
		d := demands[i%len(demands)]
		n := &s.Nodes[at[p.Node]]
		n.Hold(p.Shares, d.CPUMillis, d.HostBytes)
		n.Holders = append(n.Holders, placement.Holder{Job: p.Job, Fence: uint64(i + 1), Priority: job.Batch, Shares: p.Shares, CPUMillis: d.CPUMillis, HostBytes: d.HostBytes, Started: t0.Add(-time.Hour)})
		taken[p.Job] = true
	}
	var rest []placement.Request
	for _, r := range s.Queue {
		if !taken[r.Job] {
			rest = append(rest, r)
		}
	}
	s.Queue = rest
	b.ReportMetric(float64(len(rest)), "waiting")
	for b.Loop() {
		placement.Make(s)
	}
}
