package memwatch_test

import (
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/lease"
	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/memwatch"
)

var (
	start = time.Unix(1000, 0)
	me    = lease.Key{JobID: "me", Attempt: 1, Fence: 1}
	other = lease.Key{JobID: "other", Attempt: 1, Fence: 2}
)

func use(k lease.Key, bytes, limit int64) memwatch.Use {
	return memwatch.Use{Key: k, Device: "gpu", Bytes: bytes, Limit: limit, Enforced: true}
}

func sample(total int64, uses ...memwatch.Use) memwatch.Sample {
	return memwatch.Sample{At: start, Uses: uses, Total: map[string]int64{"gpu": total}, Capacity: map[string]int64{"gpu": 1000}}
}

// Whose fault an out-of-memory is follows from who was over the limit.
func TestAttribute(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		sample memwatch.Sample
		after  time.Duration
		class  lease.Class
		says   string
	}{
		{"it was at its own limit", sample(900, use(me, 390, 400), use(other, 500, 500)), 0, lease.ClassOwnOOM, "390 of its 400"},
		{"a neighbour was over", sample(950, use(me, 100, 400), use(other, 850, 500)), 0, lease.ClassNeighbourOOM, "other#1@2 used 850"},
		{"a stranger took the memory", sample(900, use(me, 100, 400)), 0, lease.ClassNeighbourOOM, "outside every lease used 800"},
		{"a stranger took a little", sample(200, use(me, 100, 400)), 0, lease.ClassOwnOOM, "asked"},
		{"it asked for too much at once", sample(200, use(me, 100, 400), use(other, 100, 500)), 0, lease.ClassOwnOOM, "asked"},
		{"the neighbour's excess is long ago", sample(950, use(me, 100, 400), use(other, 850, 500)), time.Minute, lease.ClassOwnOOM, "asked"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := memwatch.New()
			w.Add(c.sample)
			got := w.Attribute(me, lease.OOM{Device: "gpu", Message: "asked", At: start.Add(c.after)})
			if got.Class != c.class || !strings.Contains(got.Message, c.says) || len(got.Samples) != 1 {
				t.Fatalf("%+v", got)
			}
		})
	}
}

// Host memory is not the device's: the batch size stays.
func TestHostMemory(t *testing.T) {
	t.Parallel()
	u := use(me, 500, 400)
	u.Device = memwatch.HostDevice
	events := memwatch.New().Add(sample(0, u))
	if len(events) != 1 || !events[0].Evict || events[0].OOM.Class != lease.ClassHostOOM {
		t.Fatalf("%+v", events)
	}
}

// Only over-users are evicted, all of them, and every one is warned about at
// most once on the way.
func TestOnlyOverUsersAreEvicted(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		w := memwatch.New()
		warned := map[lease.Key]int{}
		for i := range rapid.IntRange(1, 20).Draw(rt, "samples") {
			var uses []memwatch.Use
			over := map[lease.Key]bool{}
			for j, k := range []lease.Key{me, other} {
				u := use(k, rapid.Int64Range(0, 600).Draw(rt, "bytes"), 400)
				u.Enforced = j == 0 || rapid.Bool().Draw(rt, "enforced")
				over[k] = u.Enforced && u.Bytes > u.Limit
				uses = append(uses, u)
			}
			s := sample(1000, uses...)
			s.At = start.Add(time.Duration(i) * 200 * time.Millisecond)
			evicted := map[lease.Key]bool{}
			for _, e := range w.Add(s) {
				if e.Evict {
					evicted[e.Use.Key] = true
					if e.OOM.Class != lease.ClassOwnOOM || len(e.OOM.Samples) != i+1 {
						rt.Fatalf("evidence %+v", e.OOM)
					}
				} else {
					warned[e.Use.Key]++
				}
			}
			for k := range over {
				if evicted[k] != over[k] {
					rt.Fatalf("%v: evicted %v, over %v", k, evicted[k], over[k])
				}
			}
		}
		for k, n := range warned {
			if n > 1 {
				rt.Fatalf("%v was warned about %d times", k, n)
			}
		}
	})
}
