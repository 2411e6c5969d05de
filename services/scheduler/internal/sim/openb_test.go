package sim_test

import (
	"math"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/placement"
	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/sim"
)

// EnvTraces names the folder of public traces; see the contributor's guide.
const EnvTraces = "TRAINYARD_TRACES"

func traces(t testing.TB) string {
	t.Helper()
	dir := os.Getenv(EnvTraces)
	if dir == "" {
		t.Skipf("SKIPPED: set %s to the folder with the public traces (openb/, muri/) to run the replays", EnvTraces)
	}
	return dir
}

func openb(t testing.TB) ([]placement.Node, []sim.Pod) {
	t.Helper()
	dir := filepath.Join(traces(t), "openb")
	open := func(name string) *os.File {
		f, err := os.Open(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = f.Close() })
		return f
	}
	nodes, err := sim.ReadNodes(open("openb_node_list_gpu_node.csv"))
	if err != nil {
		t.Fatal(err)
	}
	pods, err := sim.ReadPods(open("openb_pod_list_default.csv"))
	if err != nil {
		t.Fatal(err)
	}
	return nodes, pods
}

const capacity = 6212 * 1000

// The default policy allocates at least what first-fit and the published best
// reach on this trace, and never over-commits.
func TestOpenbDefault(t *testing.T) {
	t.Parallel()
	nodes, pods := openb(t)
	typical := sim.TypicalPods(pods)
	results := map[string][]sim.Allocation{}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for seed := int64(42); seed <= 51; seed++ {
		arrivals := sim.Arrivals(pods, capacity, 1.3, seed)
		for _, name := range []string{"default", "first-fit"} {
			if name == "first-fit" && seed > 43 {
				continue // its mean is published with the protocol
			}
			wg.Go(func() {
				a := sim.Replay(nodes, arrivals, typical, sim.Policies[name])
				mu.Lock()
				defer mu.Unlock()
				results[name] = append(results[name], a)
				if a.Overcommits > 0 {
					t.Errorf("%s, seed %d: %d over-commits", name, seed, a.Overcommits)
				}
			})
		}
	}
	wg.Wait()
	mean := func(name string, bucket int) float64 {
		sum := 0.0
		for _, a := range results[name] {
			sum += a.Percent[bucket]
		}
		return sum / float64(len(results[name]))
	}
	for _, b := range []int{60, 80, 90, 95, 100, 110, 120, 130} {
		t.Logf("@%d %%: default %.2f, first-fit %.2f", b, mean("default", b), mean("first-fit", b))
	}
	if got := mean("default", 130); got < 95.2 {
		t.Errorf("mean at 130 %% is %.2f, want at least 95.2", got)
	}
	if got := mean("first-fit", 130); math.Abs(got-94.38) > 0.4 {
		t.Errorf("first-fit at 130 %% is %.2f, the protocol's own is 94.38", got)
	}
	// FGD's published means, and first-fit's own, less what noise may take.
	for b, fgd := range map[int]float64{80: 80.02, 90: 89.98, 95: 94.91, 100: 95.23, 110: 95.30, 120: 95.35, 130: 95.39} {
		if got := mean("default", b); got < max(fgd, mean("first-fit", b))-0.2 {
			t.Errorf("mean at %d %% is %.2f, want at least %.2f", b, got, max(fgd, mean("first-fit", b))-0.2)
		}
	}
}

// Kinds as the fleet has them, and skewed towards a rare one.
func constraints(nodes []placement.Node) map[string]map[string]float64 {
	have := map[string]float64{}
	for _, n := range nodes {
		for _, d := range n.Devices {
			have[d.Kind]++
		}
	}
	rare, even := map[string]float64{}, map[string]float64{}
	for k, n := range have {
		rare[k] = 1 / n
		even[k] = 1
	}
	return map[string]map[string]float64{"as the fleet": have, "even": even, "rare kinds": rare}
}

// slack is by how much, in percent of the capacity, the default policy may stay
// below the better of first-fit and the published policy under device-kind
// constraints. At most points it is above both.
const slack = 0.7

// Under device-kind constraints the default policy stays about as good as the
// better of first-fit and the published policy; either alone loses far more.
func TestOpenbWithDeviceKinds(t *testing.T) {
	t.Parallel()
	nodes, pods := openb(t)
	for name, weight := range constraints(nodes) {
		for _, share := range []float64{0.1, 0.33} {
			constrained := sim.Constrain(pods, share, weight)
			typical := sim.TypicalPods(constrained)
			mean := map[string]map[int]float64{}
			for _, policy := range []string{"default", "fgd", "first-fit"} {
				mean[policy] = map[int]float64{}
				const seeds = 3
				for seed := int64(42); seed < 42+seeds; seed++ {
					a := sim.Replay(nodes, sim.Arrivals(constrained, capacity, 1.3, seed), typical, sim.Policies[policy])
					if a.Overcommits > 0 {
						t.Errorf("%s: %d over-commits", policy, a.Overcommits)
					}
					for b, v := range a.Percent {
						mean[policy][b] += v / seeds
					}
				}
			}
			for _, b := range []int{80, 90, 95, 100, 110, 120, 130} {
				d, fgd, first := mean["default"][b], mean["fgd"][b], mean["first-fit"][b]
				t.Logf("%s, %.0f %% constrained, @%d: default %.2f, fgd %.2f, first-fit %.2f", name, 100*share, b, d, fgd, first)
				if d < max(fgd, first)-slack {
					t.Errorf("%s, %.0f %% constrained, @%d: default %.2f, fgd %.2f, first-fit %.2f", name, 100*share, b, d, fgd, first)
				}
			}
		}
	}
}

func TestTracesWithMistakesAreNamed(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ in, says string }{
		"no column": {"sn,cpu_milli\n", "lacks the columns memory_mib, gpu, model"},
		"no number": {"sn,cpu_milli,memory_mib,gpu,model\nn1,x,1,1,T4\n", "row 2"},
		"short row": {"sn,cpu_milli,memory_mib,gpu,model\nn1,1\n", "row 2 has 2 columns"},
		"empty":     {"", "no header"},
	} {
		if _, err := sim.ReadNodes(strings.NewReader(c.in)); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
