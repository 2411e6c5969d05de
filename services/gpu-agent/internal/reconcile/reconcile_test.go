package reconcile_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/lease"
	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/reconcile"
)

// world is a host in a model: actions take effect at once, processes end when
// they are killed or when chance says so.
type world struct {
	now     time.Time
	devices []reconcile.Device
	leases  []reconcile.Held
	exits   []lease.Key
	ended   map[string]uint64
	until   time.Time
	desired reconcile.Desired
	fence   uint64
	ran     map[lease.Key]int
	highest map[string]uint64 // of what ran, by job
}

func (w *world) current() reconcile.Current {
	return reconcile.Current{Devices: w.devices, Leases: w.leases, Exits: w.exits, Ended: w.ended, LeaseUntil: w.until}
}

func (w *world) held(key lease.Key) int {
	return slices.IndexFunc(w.leases, func(h reconcile.Held) bool { return h.Key == key })
}

func (w *world) end(key lease.Key) {
	if i := w.held(key); i >= 0 {
		w.leases = slices.Delete(w.leases, i, i+1)
	}
	w.exits = append(w.exits, key)
	w.ended[key.JobID] = max(w.ended[key.JobID], key.Fence)
}

func (w *world) apply(t *rapid.T, plan reconcile.Plan) {
	for _, a := range plan.Actions {
		i := w.held(a.Key)
		switch a.Kind {
		case reconcile.Grant:
			if i >= 0 || slices.Contains(w.exits, a.Key) {
				t.Fatalf("granted twice: %v", a.Key)
			}
			w.ran[a.Key]++
			if w.ran[a.Key] > 1 {
				t.Fatalf("%v ran twice", a.Key)
			}
			if a.Key.Fence < w.highest[a.Key.JobID] {
				t.Fatalf("fence %d started after %d", a.Key.Fence, w.highest[a.Key.JobID])
			}
			w.highest[a.Key.JobID] = a.Key.Fence
			if !w.now.Before(w.until) {
				t.Fatalf("granted without a lease")
			}
			w.leases = append(w.leases, reconcile.Held{Key: a.Key, Claims: a.Assignment.Claims})
		case reconcile.Refuse:
			if a.Detail == "" {
				t.Fatalf("refused without a reason")
			}
			w.end(a.Key)
		case reconcile.BeginStop:
			w.leases[i].Stop = &reconcile.Stopping{Reason: a.Reason, TermAt: a.TermAt, KillAt: a.KillAt}
		case reconcile.Terminate:
			w.leases[i].Stop.Termed = true
		case reconcile.Kill:
			w.leases[i].Stop.Killed = true
		case reconcile.Forget:
			w.exits = slices.DeleteFunc(w.exits, func(k lease.Key) bool { return k == a.Key })
		}
	}
}

// check holds at every moment, whatever the scheduler says.
func (w *world) check(t *rapid.T) {
	jobs := map[string]bool{}
	for _, dev := range w.devices {
		var sum int64
		whole, holders := false, 0
		for _, l := range w.leases {
			for _, c := range l.Claims {
				if c.Device == dev.ID {
					sum, whole, holders = sum+c.Bytes, whole || c.Bytes == 0, holders+1
				}
			}
		}
		if sum > dev.UsableBytes || whole && holders > 1 {
			t.Fatalf("%s is overcommitted: %d bytes by %d holders, one of them whole: %v", dev.ID, sum, holders, whole)
		}
	}
	for _, l := range w.leases {
		if jobs[l.JobID] {
			t.Fatalf("job %s runs twice", l.JobID)
		}
		jobs[l.JobID] = true
	}
}

// Whatever the scheduler says, in whatever order, and however late: no device is
// overcommitted, no job or attempt runs twice, no fence runs after a newer one.
func TestSafety(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		w := newWorld()
		rt.Repeat(map[string]func(*rapid.T){
			"time passes": func(rt *rapid.T) {
				w.now = w.now.Add(time.Duration(rapid.IntRange(1, 20).Draw(rt, "s")) * time.Second)
			},
			"scheduler answers": func(rt *rapid.T) {
				w.desired = w.anyDesired(rt)
				w.until = w.now.Add(15 * time.Second)
			},
			"process ends": func(rt *rapid.T) {
				if len(w.leases) > 0 {
					w.end(w.leases[rapid.IntRange(0, len(w.leases)-1).Draw(rt, "which")].Key)
				}
			},
			"device fails": func(rt *rapid.T) {
				i := rapid.IntRange(0, len(w.devices)-1).Draw(rt, "device")
				w.devices[i].Healthy, w.devices[i].Reason = !w.devices[i].Healthy, "XID 79"
			},
			"": func(rt *rapid.T) {
				w.apply(rt, reconcile.Decide(w.current(), w.desired, w.now))
				w.check(rt)
			},
		})
	})
}

func newWorld() *world {
	return &world{
		now: time.Unix(1000, 0), ended: map[string]uint64{}, ran: map[lease.Key]int{}, highest: map[string]uint64{},
		devices: []reconcile.Device{{ID: "a", UsableBytes: 100, Healthy: true}, {ID: "b", UsableBytes: 100, Healthy: true}},
	}
}

// anyDesired mixes what is held with new attempts and stops, sometimes wrongly.
func (w *world) anyDesired(t *rapid.T) reconcile.Desired {
	d := reconcile.Desired{Known: true, Recorded: slices.Clone(w.exits)}
	for _, l := range w.leases {
		switch rapid.IntRange(0, 3).Draw(t, "held") {
		case 0: // no longer wanted
		case 1:
			d.Stops = append(d.Stops, reconcile.Stop{Key: l.Key, Reason: lease.StopPreempted, Grace: time.Duration(rapid.IntRange(0, 30).Draw(t, "grace")) * time.Second})
		default:
			d.Assignments = append(d.Assignments, lease.Assignment{Key: l.Key, Claims: l.Claims})
		}
	}
	for range rapid.IntRange(0, 3).Draw(t, "new") {
		w.fence++
		fence := w.fence
		if rapid.IntRange(0, 9).Draw(t, "stale") == 0 {
			fence = rapid.Uint64Range(1, w.fence).Draw(t, "fence")
		}
		a := lease.Assignment{Key: lease.Key{JobID: rapid.SampledFrom([]string{"x", "y", "z"}).Draw(t, "job"), Attempt: uint32(fence), Fence: fence}}
		for _, dev := range rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"a", "b", "gone"}), 1, 2, rapid.ID).Draw(t, "devices") {
			a.Claims = append(a.Claims, lease.Claim{Device: dev, Bytes: int64(rapid.SampledFrom([]int{0, 30, 60, 100, 200}).Draw(t, "bytes"))})
		}
		d.Assignments = append(d.Assignments, a)
	}
	return d
}

// A host that hears nothing for a lease kills all it runs, whatever was wanted;
// following every Wake is enough to get there.
func TestExpiryEndsEverything(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		w := newWorld()
		for range rapid.IntRange(1, 4).Draw(rt, "answers") {
			w.desired = w.anyDesired(rt)
			w.until = w.now.Add(15 * time.Second)
			w.apply(rt, reconcile.Decide(w.current(), w.desired, w.now))
		}
		for range 50 {
			plan := reconcile.Decide(w.current(), w.desired, w.now)
			w.apply(rt, plan)
			if len(plan.Actions) > 0 {
				continue
			}
			if plan.Wake.IsZero() {
				break
			}
			if !plan.Wake.After(w.now) {
				rt.Fatalf("woken at %v for %v: a busy loop", w.now, plan.Wake)
			}
			w.now = plan.Wake
		}
		for _, l := range w.leases {
			if l.Stop == nil || !l.Stop.Killed {
				rt.Fatalf("%v outlived the lease: %+v", l.Key, l.Stop)
			}
		}
		if w.now.After(time.Unix(1015, 0)) {
			rt.Fatalf("the end came %v late", w.now.Sub(time.Unix(1015, 0)))
		}
	})
}

func key(job string, fence uint64) lease.Key { return lease.Key{JobID: job, Attempt: 1, Fence: fence} }

// Scenarios with one sentence each.
func TestDecide(t *testing.T) {
	t.Parallel()
	now := time.Unix(1000, 0)
	assignment := func(job string, fence uint64, device string, bytes int64) lease.Assignment {
		return lease.Assignment{Key: key(job, fence), Claims: []lease.Claim{{Device: device, Bytes: bytes}}}
	}
	held := func(job string, fence uint64, bytes int64, stop *reconcile.Stopping) reconcile.Held {
		return reconcile.Held{Key: key(job, fence), Claims: []lease.Claim{{Device: "a", Bytes: bytes}}, Stop: stop}
	}
	stopping := &reconcile.Stopping{Reason: lease.StopPreempted, TermAt: now.Add(8 * time.Second), KillAt: now.Add(10 * time.Second)}
	devices := []reconcile.Device{{ID: "a", UsableBytes: 100, Healthy: true}, {ID: "sick", UsableBytes: 100, Reason: "XID 79"}}
	for _, c := range []struct {
		name    string
		current reconcile.Current
		desired reconcile.Desired
		want    string
	}{
		{"what fits starts", reconcile.Current{}, reconcile.Desired{Assignments: []lease.Assignment{assignment("x", 5, "a", 60)}}, "grant x"},
		{"what does not fit is refused", reconcile.Current{Leases: []reconcile.Held{held("y", 1, 60, nil)}},
			reconcile.Desired{Assignments: []lease.Assignment{assignment("y", 1, "a", 60), assignment("x", 5, "a", 60)}}, "refuse x"},
		{"what will fit waits", reconcile.Current{Leases: []reconcile.Held{held("y", 1, 60, stopping)}},
			reconcile.Desired{Assignments: []lease.Assignment{assignment("x", 5, "a", 60)}, Stops: []reconcile.Stop{{Key: key("y", 1), Reason: lease.StopPreempted, Grace: 10 * time.Second}}}, ""},
		{"a quarantined device refuses with its reason", reconcile.Current{}, reconcile.Desired{Assignments: []lease.Assignment{assignment("x", 5, "sick", 60)}}, "refuse x"},
		{"a quarantined host refuses all", reconcile.Current{Quarantine: "journal"}, reconcile.Desired{Assignments: []lease.Assignment{assignment("x", 5, "a", 60)}}, "refuse x"},
		{"an ended attempt is not started again", reconcile.Current{Exits: []lease.Key{key("x", 5)}}, reconcile.Desired{Assignments: []lease.Assignment{assignment("x", 5, "a", 60)}}, ""},
		{"not even when its exit is forgotten", reconcile.Current{Ended: map[string]uint64{"x": 5}}, reconcile.Desired{Assignments: []lease.Assignment{assignment("x", 5, "a", 60)}}, ""},
		{"a newer attempt of the job ends the older first", reconcile.Current{Leases: []reconcile.Held{held("x", 4, 60, nil)}},
			reconcile.Desired{Assignments: []lease.Assignment{assignment("x", 5, "a", 60)}}, "stop x, kill x"},
		{"what nobody wants ends", reconcile.Current{Leases: []reconcile.Held{held("x", 4, 60, nil)}}, reconcile.Desired{}, "stop x, kill x"},
		{"a stop with grace is polite", reconcile.Current{Leases: []reconcile.Held{held("x", 4, 60, nil)}},
			reconcile.Desired{Stops: []reconcile.Stop{{Key: key("x", 4), Reason: lease.StopCancelled, Grace: time.Minute}}}, "stop x"},
		{"the same stop again changes nothing", reconcile.Current{Leases: []reconcile.Held{held("x", 4, 60, stopping)}},
			reconcile.Desired{Stops: []reconcile.Stop{{Key: key("x", 4), Reason: lease.StopPreempted, Grace: time.Second}}}, ""},
		{"a recorded exit is forgotten", reconcile.Current{Exits: []lease.Key{key("x", 4)}}, reconcile.Desired{Recorded: []lease.Key{key("x", 4)}}, "forget x"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			c.current.Devices, c.current.LeaseUntil, c.desired.Known = devices, now.Add(time.Minute), true
			got := ""
			for i, a := range reconcile.Decide(c.current, c.desired, now).Actions {
				if i > 0 {
					got += ", "
				}
				got += fmt.Sprintf("%s %s", map[reconcile.Kind]string{
					reconcile.Grant: "grant", reconcile.Refuse: "refuse", reconcile.BeginStop: "stop",
					reconcile.Terminate: "terminate", reconcile.Kill: "kill", reconcile.Forget: "forget",
				}[a.Kind], a.Key.JobID)
			}
			if got != c.want {
				t.Fatalf("got %q, want %q", got, c.want)
			}
		})
	}
}
