package placement_test

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/job"
	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/placement"
)

const gib = int64(1) << 30

var t0 = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func host(name string, devices ...placement.Device) placement.Node {
	return placement.Node{Name: name, CPUMillis: 16000, HostBytes: 64 * gib, Devices: devices}
}

func gpu(id string, memory int64) placement.Device {
	return placement.Device{ID: id, Kind: "gpu", Memory: memory, Headroom: gib, Overhead: gib / 2}
}

func shared(bytes int64) job.Demand {
	return job.Demand{Devices: []job.DeviceDemand{{Count: 1, Bytes: bytes}}}
}

func whole(n int) job.Demand { return job.Demand{Devices: []job.DeviceDemand{{Count: n}}} }

func ask(demands ...job.Demand) []placement.Request {
	out := make([]placement.Request, len(demands))
	for i, d := range demands {
		out[i] = placement.Request{Job: fmt.Sprintf("job-%d", i), Demand: d}
	}
	return out
}

func snapshots() *rapid.Generator[placement.Snapshot] {
	kinds := []string{"a", "b"}
	return rapid.Custom(func(t *rapid.T) placement.Snapshot {
		s := placement.Snapshot{Now: t0}
		for n := range rapid.IntRange(0, 5).Draw(t, "nodes") {
			node := placement.Node{
				Name: fmt.Sprintf("n%d", n), CPUMillis: int64(rapid.IntRange(0, 8000).Draw(t, "cpu")), HostBytes: int64(rapid.IntRange(0, 32).Draw(t, "ram")) * gib,
				Labels: map[string]string{"zone": rapid.SampledFrom([]string{"x", "y"}).Draw(t, "zone")},
			}
			if rapid.IntRange(0, 5).Draw(t, "blocked") == 0 {
				node.Blocked = "cordoned"
			}
			for d := range rapid.IntRange(0, 4).Draw(t, "devices") {
				node.Devices = append(node.Devices, placement.Device{
					ID: fmt.Sprintf("d%d", d), Kind: rapid.SampledFrom(kinds).Draw(t, "kind"), Memory: int64(rapid.IntRange(0, 24).Draw(t, "memory")) * gib,
					Headroom: int64(rapid.IntRange(0, 2).Draw(t, "headroom")) * gib / 2, Overhead: int64(rapid.IntRange(0, 2).Draw(t, "overhead")) * gib / 4,
				})
			}
			s.Nodes = append(s.Nodes, node)
		}
		for i := range rapid.IntRange(0, 25).Draw(t, "jobs") {
			d := job.Demand{CPUMillis: int64(rapid.IntRange(0, 2000).Draw(t, "cpu")), HostBytes: int64(rapid.IntRange(0, 8).Draw(t, "ram")) * gib}
			for range rapid.IntRange(0, 2).Draw(t, "groups") {
				g := job.DeviceDemand{Count: rapid.IntRange(1, 3).Draw(t, "count"), Bytes: int64(rapid.IntRange(0, 12).Draw(t, "bytes")) * gib}
				if rapid.Bool().Draw(t, "of a kind") {
					g.Kind = rapid.SampledFrom(kinds).Draw(t, "kind")
				}
				d.Devices = append(d.Devices, g)
			}
			if rapid.IntRange(0, 3).Draw(t, "labelled") == 0 {
				d.Labels = map[string]string{"zone": "x"}
			}
			s.Queue = append(s.Queue, placement.Request{Job: fmt.Sprintf("j%d", i), Demand: d})
		}
		return s
	})
}

// No plan ever promises more than a device, a CPU or a host has; a whole device
// is alone; a gang is placed completely; a blocked host gets nothing; and every
// job is either placed or told why not.
func TestPlansAreSafeAndComplete(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		s := snapshots().Draw(t, "snapshot")
		plan := placement.Make(s)
		if len(plan.Place)+len(plan.Unplaced) != len(s.Queue) {
			t.Fatalf("%d placed and %d unplaced of %d", len(plan.Place), len(plan.Unplaced), len(s.Queue))
		}
		for _, u := range plan.Unplaced {
			if u.Reason == "" {
				t.Fatalf("%s waits without a reason", u.Job)
			}
		}
		demand := map[string]job.Demand{}
		for _, r := range s.Queue {
			demand[r.Job] = r.Demand
		}
		nodes := map[string]placement.Node{}
		for _, n := range s.Nodes {
			nodes[n.Name] = n
		}
		type spot struct{ node, device string }
		held, holders, alone := map[spot]int64{}, map[spot]int{}, map[spot]bool{}
		cpu, ram := map[string]int64{}, map[string]int64{}
		for _, p := range plan.Place {
			n, d := nodes[p.Node], demand[p.Job]
			if n.Blocked != "" {
				t.Fatalf("%s placed on blocked %s", p.Job, p.Node)
			}
			for k, v := range d.Labels {
				if n.Labels[k] != v {
					t.Fatalf("%s placed on %s without its label", p.Job, p.Node)
				}
			}
			want := 0
			for _, g := range d.Devices {
				want += g.Count
			}
			mine := map[string]bool{}
			for _, sh := range p.Shares {
				if mine[sh.Device] {
					t.Fatalf("%s got %s twice", p.Job, sh.Device)
				}
				mine[sh.Device] = true
				k := spot{p.Node, sh.Device}
				held[k] += sh.Held
				holders[k]++
				alone[k] = alone[k] || sh.Whole
			}
			if len(p.Shares) != want {
				t.Fatalf("%s got %d of %d devices", p.Job, len(p.Shares), want)
			}
			cpu[p.Node] += d.CPUMillis
			ram[p.Node] += d.HostBytes
		}
		for k, h := range held {
			n := nodes[k.node]
			for _, d := range n.Devices {
				if d.ID == k.device && h > d.Memory-d.Headroom {
					t.Fatalf("%v is promised %d of %d", k, h, d.Memory-d.Headroom)
				}
			}
			if alone[k] && holders[k] > 1 {
				t.Fatalf("%v is whole and shared", k)
			}
		}
		for name, n := range nodes {
			if cpu[name] > n.CPUMillis || ram[name] > n.HostBytes {
				t.Fatalf("%s is promised %d CPU and %d bytes", name, cpu[name], ram[name])
			}
		}
	})
}

// The same snapshot gives the same plan, and planning changes no snapshot.
func TestPlanningIsDeterministic(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		s := snapshots().Draw(t, "snapshot")
		first := placement.Make(s)
		if again := placement.Make(s); !reflect.DeepEqual(first, again) {
			t.Fatalf("plans differ:\n%+v\n%+v", first, again)
		}
	})
}

// A plan is committed exactly as planned: every placement fits when it is
// checked again in order, and a job that was left out fits nowhere at the end.
func TestPlansHoldWhenTheyAreChecked(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		s := snapshots().Draw(t, "snapshot")
		plan := placement.Make(s)
		demand := map[string]job.Demand{}
		for _, r := range s.Queue {
			demand[r.Job] = r.Demand
		}
		nodes := map[string]*placement.Node{}
		var list []placement.Node
		for i := range s.Nodes {
			s.Nodes[i].Devices = append([]placement.Device(nil), s.Nodes[i].Devices...)
			nodes[s.Nodes[i].Name] = &s.Nodes[i]
		}
		for _, p := range plan.Place {
			d := demand[p.Job]
			if !placement.Fits(nodes[p.Node], p.Shares, d.CPUMillis, d.HostBytes) {
				t.Fatalf("%+v does not fit when checked", p)
			}
			nodes[p.Node].Hold(p.Shares, d.CPUMillis, d.HostBytes)
		}
		list = s.Nodes
		for _, u := range plan.Unplaced {
			d := demand[u.Job]
			if _, fits := placement.Anywhere(t0, list, &d); fits {
				t.Fatalf("%s was left out and fits: %s", u.Job, u.Reason)
			}
		}
	})
}

func TestSharesOfOneDevice(t *testing.T) {
	t.Parallel()
	// 24 GiB less 1 GiB headroom holds two processes of 10.5 + 0.5 GiB.
	n := []placement.Node{host("h1", gpu("g0", 24*gib)), host("h2", gpu("g0", 24*gib))}
	plan := placement.Make(placement.Snapshot{Now: t0, Nodes: n, Queue: ask(shared(10*gib+gib/2), shared(10*gib+gib/2), shared(10*gib+gib/2), whole(1), shared(gib))})
	var where []string
	for _, p := range plan.Place {
		where = append(where, p.Job+"@"+p.Node)
	}
	// The second packs beside the first, which leaves no room for even a small
	// third; the whole device that the fourth wants is no longer there.
	if got := strings.Join(where, " "); got != "job-0@h1 job-1@h1 job-2@h2 job-4@h2" {
		t.Errorf("placed %s", got)
	}
	if len(plan.Unplaced) != 1 || plan.Unplaced[0].Job != "job-3" {
		t.Fatalf("unplaced %+v", plan.Unplaced)
	}
}

func TestReasonsArePrecise(t *testing.T) {
	t.Parallel()
	busy := host("host-1", gpu("gpu-0", 48*gib))
	busy.Hold([]job.Share{{Device: "gpu-0", Held: 20 * gib}}, 0, 0)
	busy.Holders = []placement.Holder{{Job: "j9", End: t0.Add(12 * time.Minute), Started: t0, Shares: []job.Share{{Device: "gpu-0", Held: 20 * gib}}}}
	cordoned := host("host-2", gpu("gpu-0", 80*gib))
	cordoned.Blocked = "cordoned: new fan"
	full := host("host-3")
	full.UsedCPU = full.CPUMillis
	for _, c := range []struct {
		name   string
		nodes  []placement.Node
		demand job.Demand
		says   []string
	}{
		{"memory", []placement.Node{busy}, shared(40 * gib), []string{"needs 40 GiB on one device; largest free is 26.5 GiB on host-1/gpu-0", "frees in about 12 min, when job j9 ends"}},
		{"whole", []placement.Node{busy}, whole(1), []string{"needs a whole device; most free on one host is 0 (host-1); 1 in use", "12 min"}},
		{"no host", nil, whole(1), []string{"no host has joined"}},
		{"all blocked", []placement.Node{cordoned}, whole(1), []string{"no host takes new work", "cordoned: new fan"}},
		{"only a blocked one is large enough", []placement.Node{busy, cordoned}, shared(60 * gib), []string{"largest free is 26.5 GiB on host-1/gpu-0", "host-2: cordoned: new fan"}},
		{"cpu", []placement.Node{full}, job.Demand{CPUMillis: 4000}, []string{"needs 4 CPUs; most free is 0 on host-3"}},
		{"host memory", []placement.Node{busy}, job.Demand{HostBytes: 65 * gib}, []string{"waits for capacity that no known host has", "65 GiB is more than any host has (largest 64 GiB)"}},
		{"gang", []placement.Node{busy}, job.Demand{Devices: []job.DeviceDemand{{Count: 2, Bytes: gib}}}, []string{"2 is more than any host has of such devices (most 1)"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			plan := placement.Make(placement.Snapshot{Now: t0, Nodes: c.nodes, Queue: ask(c.demand)})
			if len(plan.Unplaced) != 1 {
				t.Fatalf("plan %+v", plan)
			}
			for _, want := range c.says {
				if !strings.Contains(plan.Unplaced[0].Reason, want) {
					t.Errorf("reason %q does not say %q", plan.Unplaced[0].Reason, want)
				}
			}
		})
	}
}

func TestImpossibleDemandsAreAllNamed(t *testing.T) {
	t.Parallel()
	nodes := []placement.Node{host("h1", gpu("g0", 24*gib), gpu("g1", 24*gib))}
	nodes[0].Blocked = "lost" // it may come back: still the measure
	d := job.Demand{CPUMillis: 99000, HostBytes: 999 * gib, Devices: []job.DeviceDemand{
		{Count: 1, Bytes: 96 * gib}, {Count: 3}, {Count: 1, Kind: "tpu"},
	}}
	var got []string
	for _, p := range placement.Impossible(nodes, &d) {
		got = append(got, p.Path+": "+p.Text)
	}
	want := []string{
		"cpu_millis: 99 CPUs is more than any host has (largest 16)",
		"host_memory_bytes: 999 GiB is more than any host has (largest 64 GiB)",
		"devices[0].memory_bytes: 96 GiB is more than any device has (largest 22.5 GiB)",
		"devices[1].count: 3 is more than any host has of such devices (most 2)",
		`devices[2].kind: no known host has a device of kind "tpu" (known: gpu)`,
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	both := job.Demand{Devices: []job.DeviceDemand{{Count: 2}, {Count: 1, Bytes: gib}}}
	if p := placement.Impossible(nodes, &both); len(p) != 1 || p[0].Path != "devices" {
		t.Errorf("three devices in two groups on a host of two: %+v", p)
	}
	if p := placement.Impossible(nil, &d); p != nil {
		t.Errorf("an unknown fleet made something impossible: %+v", p)
	}
}

// Groups that take anything leave to the others what only they can use.
func TestHardToPleaseGroupsChooseFirst(t *testing.T) {
	t.Parallel()
	n := host("h1", gpu("g0", 24*gib), gpu("g1", 80*gib))
	n.Devices[0].Kind = "small"
	d := job.Demand{Devices: []job.DeviceDemand{{Count: 1, Bytes: gib}, {Count: 1, Kind: "small"}}}
	plan := placement.Make(placement.Snapshot{Now: t0, Nodes: []placement.Node{n}, Queue: ask(d)})
	if len(plan.Place) != 1 {
		t.Fatalf("%+v", plan.Unplaced)
	}
	if s := plan.Place[0].Shares; s[0].Device != "g0" || !s[0].Whole || s[1].Device != "g1" {
		t.Errorf("shares %+v", s)
	}
}
