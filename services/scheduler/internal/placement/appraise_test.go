package placement_test

import (
	"testing"

	"pgregory.net/rapid"

	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/job"
	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/placement"
)

// What an explanation calls the best host is the one that a decision takes, on the
// devices that it takes, and of a host's devices none has a higher score.
func TestTheBestAppraisedIsTheOneThatIsTaken(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		s := busy().Draw(t, "busy fleet")
		nodes := append([]placement.Node(nil), s.Nodes...)
		for i := range nodes {
			nodes[i].Devices = append([]placement.Device(nil), nodes[i].Devices...)
		}
		var demands []job.Demand
		for i := range s.Queue {
			demands = append(demands, s.Queue[i].Demand)
		}
		f := placement.NewFleet(nodes, placement.TypicalOf(demands))
		for i := range s.Queue {
			d := &s.Queue[i].Demand
			got := placement.Appraise(&s, s.Nodes, d)
			if len(got) == 0 {
				return
			}
			if len(got) != len(s.Nodes) {
				t.Fatalf("%d of %d hosts", len(got), len(s.Nodes))
			}
			at, shares, ok := f.Best(d)
			if ok != got[0].Fits {
				t.Fatalf("fits: %v and %v", ok, got[0].Fits)
			}
			if !ok {
				if got[0].Reason == "" {
					t.Fatal("no reason why it does not fit")
				}
				continue
			}
			if got[0].Node != f.Node(at).Name || len(got[0].Devices) != len(shares) {
				t.Fatalf("appraised %+v, taken %s %v", got[0], f.Node(at).Name, shares)
			}
			for k, sh := range shares {
				if got[0].Devices[k] != sh.Device {
					t.Fatalf("appraised %+v, taken %v", got[0], shares)
				}
			}
			for _, o := range got[0].Options {
				if o.Score > got[0].Score || o.Chosen != (o.Device == shares[0].Device) {
					t.Fatalf("option %+v beats %+v", o, got[0])
				}
			}
		}
	})
}
