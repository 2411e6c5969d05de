//go:build results

package sim_test

import (
	"fmt"
	"math"
	"testing"

	"github.com/ultrathink-pilot/trainyard/libs/benchtable"
	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/placement"
	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/sim"
)

const resultsPage = "scheduler-core.md"

// TestResultsPlacement replays the openb arrivals beside the published policies.
func TestResultsPlacement(t *testing.T) {
	nodes, pods := openb(t)
	got, first, fgd := reach(t, nodes, pods, "default", 42, 51), reach(t, nodes, pods, "first-fit", 42, 51), reach(t, nodes, pods, "fgd", 42, 51)
	var rows []benchtable.Row
	for _, b := range levels {
		asked := ">= max(first-fit, FGD) - 0.2 points"
		if b == 130 {
			asked = ">= 95.2 %; " + asked
		}
		rows = append(rows, benchtable.Row{
			What: fmt.Sprintf("allocated, default list, %d %% arrived", b), Asked: asked, Ours: benchtable.Of("%", got[b]),
			Peer: benchtable.Of("%", max(first[b], fgd[b])), PeerName: "the better of first-fit and FGD",
		})
	}
	for name, weight := range wishes(nodes) {
		for _, share := range []float64{0.1, 0.33} {
			list := sim.Constrain(pods, share, weight)
			d, f, g := reach(t, nodes, list, "default", 42, 44), reach(t, nodes, list, "first-fit", 42, 44), reach(t, nodes, list, "fgd", 42, 44)
			worst, at := math.Inf(1), 0
			for _, b := range levels {
				if lag := d[b] - max(f[b], g[b]); lag < worst {
					worst, at = lag, b
				}
			}
			rows = append(rows, benchtable.Row{
				What: fmt.Sprintf("%.0f %% name kinds (%s): worst level against the better of both", 100*share, name), Asked: ">= -0.2 points",
				Ours: benchtable.Of("points", worst), Note: fmt.Sprintf("at %d %%", at),
			})
		}
	}
	benchtable.Section{
		Page: resultsPage, Title: "Placement", Command: "make bench ONLY=services/scheduler RESULTS=TestResultsPlacement",
		Intro: "The published arrival protocol of the openb traces. The peers keep books of their own and share no code with the core. No replay over-commits a device.",
		Rows:  rows,
		Notes: []string{"One rule is not best for every demand: a rehearsal over the typical demand chooses how finely places are told apart. Where a list is far below at one level and above at another, the two goals contradict each other: keeping scarce kinds helps early and costs the last percent."},
	}.Write(t)
}

// wishes are more ways of naming kinds, several at once among them.
func wishes(nodes []placement.Node) map[string]map[string]float64 {
	out := constraints(nodes)
	out["several kinds at once"] = map[string]float64{"V100M16|V100M32": 2, "T4|P100": 4, "G2|G3": 3, "T4": 3, "G3": 1}
	out["one scarce kind"] = map[string]float64{"V100M16|V100M32": 1}
	return out
}

// TestResultsCompletion replays the Muri traces.
func TestResultsCompletion(t *testing.T) {
	overheads, err := sim.ReadOverheads(muri(t, "start_overhead_seconds.csv"))
	if err != nil {
		t.Fatal(err)
	}
	want := published(t)
	var rows []benchtable.Row
	exact, all, worst := 0, 0, 0.0
	for _, trace := range []string{"trace1", "trace1_pr", "trace2", "trace2_pr"} {
		jobs, err := sim.ReadJobs(muri(t, trace+".csv"), overheads)
		if err != nil {
			t.Fatal(err)
		}
		for policy, got := range map[string]sim.Completion{
			"SRTF": sim.ShortestRemaining(jobs, 8, 8, false), "SRSF": sim.ShortestRemaining(jobs, 8, 8, true), "Tiresias_L": sim.Tiresias(jobs, 64),
		} {
			for metric, v := range map[string]float64{"JCT": got.Mean, "99JCT": got.P99, "Makespan": got.Makespan} {
				w := want[trace+"/"+policy+"/"+metric]
				off := math.Abs(v-w) / w
				all++
				if off <= 1e-6 {
					exact++
				}
				worst = max(worst, off)
			}
		}
		c := sim.Product(jobs, sim.Cluster{Nodes: 8, PerNode: 8})
		for _, m := range []struct {
			name, key, asked string
			ours             float64
		}{
			{"mean JCT", "JCT", "<= Tiresias-L; stretch / 1.3", c.Mean}, {"p99 JCT", "99JCT", "reported", c.P99}, {"makespan", "Makespan", "reported", c.Makespan},
		} {
			rows = append(rows, benchtable.Row{
				What: trace + ": " + m.name + " of the default policy", Asked: m.asked, Ours: benchtable.Of("s", m.ours),
				Peer: benchtable.Of("s", want[trace+"/Tiresias_L/"+m.key]), PeerName: "Tiresias-L, published",
			})
		}
	}
	rows = append(rows,
		benchtable.Row{What: fmt.Sprintf("published figures reproduced within 1e-6, of %d", all), Asked: ">= 33", Ours: benchtable.Of("", float64(exact))},
		benchtable.Row{What: "worst deviation of the others", Asked: "<= 0.4 %", Ours: benchtable.Of("%", 100*worst)},
	)
	benchtable.Section{
		Page: resultsPage, Title: "Completion times", Command: "make bench ONLY=services/scheduler RESULTS=TestResultsCompletion",
		Intro: "The Muri traces on 64 devices. The default policy does not know running times; it pays the start overhead at every start, where the published simulator charges it at every event.",
		Rows:  rows,
	}.Write(t)
}

// TestResultsFairness spreads the Muri jobs over equal tenants.
func TestResultsFairness(t *testing.T) {
	overheads, err := sim.ReadOverheads(muri(t, "start_overhead_seconds.csv"))
	if err != nil {
		t.Fatal(err)
	}
	var rows []benchtable.Row
	for _, trace := range []string{"trace1", "trace1_pr"} {
		jobs, err := sim.ReadJobs(muri(t, trace+".csv"), overheads)
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range []int{2, 4, 8} {
			f, err := sim.Share(jobs, sim.Cluster{Nodes: 8, PerNode: 8}, n)
			if err != nil {
				t.Fatal(err)
			}
			name := fmt.Sprintf("%s, %d tenants: ", trace, n)
			note := fmt.Sprintf("%d jobs; %d do not fit one tenant's part and are left out", f.Jobs, f.Left)
			rows = append(rows,
				benchtable.Row{What: name + "worst ratio of a tenant's mean completion time", Asked: "<= 3.3", Ours: benchtable.Of("", f.Tenant), Note: note},
				benchtable.Row{What: name + "worst ratio of a tenant's last end", Asked: "<= 3.3", Ours: benchtable.Of("", f.Last)},
				benchtable.Row{What: name + "worst ratio of any job", Asked: "<= 3.3", Ours: benchtable.Of("", f.Job)},
				benchtable.Row{What: name + "jobs that would have ended sooner alone", Ours: benchtable.Of("%", 100*f.Unfair)},
			)
		}
	}
	benchtable.Section{
		Page: resultsPage, Title: "Fairness", Command: "make bench ONLY=services/scheduler RESULTS=TestResultsFairness",
		Intro: "Equal tenants. A ratio is the completion time in the shared cluster over that with an equal part of the hosts alone, under the same policy (Themis).",
		Rows:  rows,
		Notes: []string{"Every tenant holds the goal; single jobs do not all. Which jobs these are has not been looked into."},
	}.Write(t)
}

// TestResultsKueue runs Kueue's load test in virtual time.
func TestResultsKueue(t *testing.T) {
	var rows []benchtable.Row
	goals := map[string]string{"large": "<= 1 s", "medium": "<= 45 s", "small": "<= 60 s"}
	peers := map[string]float64{"large": 16.5, "medium": 76.8, "small": 215.5}
	for _, r := range sim.Kueue(sim.Preset("15k")) {
		if r.Class == "all" {
			rows = append(rows,
				benchtable.Row{What: "15k workloads: virtual time", Asked: "<= 80 s", Ours: benchtable.Of("s", r.Virtual), Peer: benchtable.Of("s", 351.1), PeerName: "Kueue, published"},
				benchtable.Row{What: "15k workloads: useful part of the quota", Asked: ">= 85 %", Ours: benchtable.Of("%", r.Usage), Peer: benchtable.Of("%", 55.9), PeerName: "Kueue, published"},
				benchtable.Row{What: "15k workloads: processor time of the simulation", Ours: benchtable.Of("s", r.Wall)})
			continue
		}
		rows = append(rows, benchtable.Row{What: "mean admission, " + r.Class, Asked: goals[r.Class], Ours: benchtable.Of("s", r.Admission), Peer: benchtable.Of("s", peers[r.Class]), PeerName: "Kueue, published"})
	}
	benchtable.Section{
		Page: resultsPage, Title: "Kueue's load, decisions alone", Command: "make bench ONLY=services/scheduler RESULTS=TestResultsKueue",
		Intro: "Virtual time: a bound for what the service with its store can reach, not a measurement of it. Kueue's figures include its API server.",
		Rows:  rows,
	}.Write(t)
}
