package placement_test

import (
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/job"
	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/placement"
)

// busy is a fleet in use: holders got in by the planner itself, so that the
// start is safe, and each has a class, an age and perhaps a known end.
func busy() *rapid.Generator[placement.Snapshot] {
	return rapid.Custom(func(t *rapid.T) placement.Snapshot {
		s := snapshots().Draw(t, "fleet")
		plan := placement.Make(s)
		demand := map[string]job.Demand{}
		for _, r := range s.Queue {
			demand[r.Job] = r.Demand
		}
		at := map[string]int{}
		for i := range s.Nodes {
			s.Nodes[i].Devices = append([]placement.Device(nil), s.Nodes[i].Devices...)
			at[s.Nodes[i].Name] = i
		}
		for i, p := range plan.Place {
			n, d := &s.Nodes[at[p.Node]], demand[p.Job]
			n.Hold(p.Shares, d.CPUMillis, d.HostBytes)
			h := placement.Holder{
				Job: p.Job, Fence: uint64(i + 1), Priority: job.Priority(rapid.IntRange(1, 4).Draw(t, "class")), Shares: p.Shares, CPUMillis: d.CPUMillis, HostBytes: d.HostBytes,
				Started: t0.Add(-time.Duration(rapid.IntRange(0, 600).Draw(t, "age")) * time.Second), Lost: rapid.Float64Range(0, 1000).Draw(t, "lost"),
				Ending: rapid.IntRange(0, 5).Draw(t, "ending") == 0,
			}
			if h.Ending || rapid.Bool().Draw(t, "end known") {
				h.End = t0.Add(time.Duration(rapid.IntRange(0, 600).Draw(t, "end")) * time.Second)
			}
			n.Holders = append(n.Holders, h)
		}
		fresh := snapshots().Draw(t, "queue").Queue
		for i := range fresh {
			fresh[i].Job = fmt.Sprintf("w%d", i)
			fresh[i].Priority = job.Batch
			if rapid.Bool().Draw(t, "limited") {
				fresh[i].Longest = time.Duration(rapid.IntRange(1, 600).Draw(t, "limit")) * time.Second
			}
		}
		s.Queue = fresh
		s.Rules = placement.Rules{MinRuntime: time.Minute, Restart: 30}
		return s
	})
}

// leave is a part of a node that is given back at a time.
type leave struct {
	at     time.Time
	node   string
	shares []job.Share
	cpu    int64
	host   int64
}

// starts is when a demand first fits while parts of the fleet are given back;
// false when it never does.
func starts(nodes []placement.Node, ends []leave, d *job.Demand) (time.Time, bool) {
	work := make([]placement.Node, len(nodes))
	for i, n := range nodes {
		work[i] = n
		work[i].Devices = append([]placement.Device(nil), n.Devices...)
		work[i].Holders = nil
	}
	now := t0
	for {
		if _, fits := placement.Anywhere(now, work, d); fits {
			return now, true
		}
		next := -1
		for i := range ends {
			if !ends[i].at.IsZero() && (next < 0 || ends[i].at.Before(ends[next].at)) {
				next = i
			}
		}
		if next < 0 {
			return time.Time{}, false
		}
		e := ends[next]
		ends[next].at = time.Time{}
		now = e.at
		for i := range work {
			if work[i].Name == e.node {
				minus := make([]job.Share, len(e.shares))
				copy(minus, e.shares)
				unhold(&work[i], minus, e.cpu, e.host)
			}
		}
	}
}

func unhold(n *placement.Node, shares []job.Share, cpu, host int64) {
	n.UsedCPU -= cpu
	n.UsedHost -= host
	for _, s := range shares {
		for i := range n.Devices {
			if d := &n.Devices[i]; d.ID == s.Device {
				d.Held -= s.Held
				d.Holders--
				d.Exclusive = d.Exclusive && !s.Whole
			}
		}
	}
}

func endsOf(nodes []placement.Node) []leave {
	var out []leave
	for _, n := range nodes {
		for _, h := range n.Holders {
			at := h.End
			if at.IsZero() {
				at = t0.Add(max(t0.Sub(h.Started), time.Minute)) // the planner's own guess
			}
			out = append(out, leave{at, n.Name, h.Shares, h.CPUMillis, h.HostBytes})
		}
	}
	return out
}

// What is placed behind the head of the queue never delays it: with the whole
// plan carried out it can start as early as with nothing placed behind it.
func TestBackfillNeverDelaysTheHead(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		s := busy().Draw(t, "busy fleet")
		plan := placement.Make(s)
		head := -1
		room := map[string]string{}
		for _, u := range plan.Unplaced {
			room[u.Job] = u.Room
		}
		for i := range s.Queue {
			if room[s.Queue[i].Job] != "" {
				head = i
				break
			}
		}
		if head < 0 {
			return // nobody waits for anything definite
		}
		demand := map[string]*placement.Request{}
		order := map[string]int{}
		for i := range s.Queue {
			demand[s.Queue[i].Job] = &s.Queue[i]
			order[s.Queue[i].Job] = i
		}
		carry := func(behind bool) (time.Time, bool) {
			nodes := make([]placement.Node, len(s.Nodes))
			at := map[string]*placement.Node{}
			for i, n := range s.Nodes {
				nodes[i] = n
				nodes[i].Devices = append([]placement.Device(nil), n.Devices...)
				at[n.Name] = &nodes[i]
			}
			ends := endsOf(s.Nodes)
			for _, p := range plan.Place {
				r := demand[p.Job]
				if order[p.Job] > head && !behind {
					continue
				}
				at[p.Node].Hold(p.Shares, r.Demand.CPUMillis, r.Demand.HostBytes)
				if r.Longest > 0 {
					ends = append(ends, leave{t0.Add(r.Longest), p.Node, p.Shares, r.Demand.CPUMillis, r.Demand.HostBytes})
				}
			}
			return starts(nodes, ends, &s.Queue[head].Demand)
		}
		without, ok := carry(false)
		if !ok {
			t.Fatalf("room is kept for %s, which never fits", s.Queue[head].Job)
		}
		with, ok := carry(true)
		if !ok || with.After(without) {
			t.Fatalf("%s starts at +%s without those behind it, and with them at +%s (%v)", s.Queue[head].Job, without.Sub(t0), with.Sub(t0), ok)
		}
	})
}

// A preemption takes only lower classes that have had their minimum runtime, it
// makes the job fit, and every victim is needed.
func TestPreemptionIsLawfulAndMinimal(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		s := busy().Draw(t, "busy fleet")
		for i := range s.Queue {
			s.Queue[i].Priority, s.Queue[i].Longest = job.Production, 0
		}
		plan := placement.Make(s)
		type key struct {
			node string
			job  string
		}
		victims := map[key][]placement.Holder{}
		seen := map[uint64]bool{}
		for _, v := range plan.Preempt {
			if seen[v.Fence] {
				t.Fatalf("fence %d preempted twice", v.Fence)
			}
			seen[v.Fence] = true
			for _, n := range s.Nodes {
				for _, h := range n.Holders {
					if n.Name == v.Node && h.Fence == v.Fence {
						if h.Priority >= job.Production || h.Ending || t0.Sub(h.Started) < s.Rules.MinRuntime {
							t.Fatalf("unlawful victim %+v", h)
						}
						victims[key{v.Node, v.For}] = append(victims[key{v.Node, v.For}], h)
					}
				}
			}
		}
		if len(victims) != 1 {
			return // minimality is judged for a single preemption
		}
		rooms := 0
		for _, u := range plan.Unplaced {
			if u.Room != "" {
				rooms++
			}
		}
		for k, list := range victims {
			var d job.Demand
			for _, r := range s.Queue {
				if r.Job == k.job {
					d = r.Demand
				}
			}
			for spare := -1; spare < len(list); spare++ {
				var n placement.Node
				for _, x := range s.Nodes {
					if x.Name == k.node {
						n = x
						n.Devices = append([]placement.Device(nil), x.Devices...)
					}
				}
				for i, h := range list {
					if i != spare {
						unhold(&n, h.Shares, h.CPUMillis, h.HostBytes)
					}
				}
				for _, h := range n.Holders {
					if h.Ending {
						unhold(&n, h.Shares, h.CPUMillis, h.HostBytes)
					}
				}
				// What this round itself placed there counts too.
				for _, p := range plan.Place {
					if p.Node == k.node {
						for _, r := range s.Queue {
							if r.Job == p.Job {
								n.Hold(p.Shares, r.Demand.CPUMillis, r.Demand.HostBytes)
							}
						}
					}
				}
				_, fits := placement.One(t0, &n, &d)
				if spare < 0 && !fits {
					t.Fatalf("job %s does not fit after all victims have left", k.job)
				}
				if spare >= 0 && fits && len(plan.Place) == 0 && rooms == 1 {
					t.Fatalf("victim %+v was not in the way", list[spare])
				}
			}
		}
	})
}

func TestTheCheapestVictimIsTaken(t *testing.T) {
	t.Parallel()
	hold := func(n *placement.Node, fence uint64, p job.Priority, lost float64, started time.Time) {
		h := placement.Holder{Job: fmt.Sprintf("v%d", fence), Fence: fence, Priority: p, Lost: lost, Started: started, Shares: []job.Share{{Device: fmt.Sprintf("g%d", len(n.Holders)), Held: 23 * gib, Whole: true}}}
		n.Hold(h.Shares, 0, 0)
		n.Holders = append(n.Holders, h)
	}
	old := t0.Add(-time.Hour)
	h1 := host("h1", gpu("g0", 24*gib), gpu("g1", 24*gib))
	hold(&h1, 1, job.Search, 5, old)
	hold(&h1, 2, job.Batch, 900, old)
	h2 := host("h2", gpu("g0", 24*gib), gpu("g1", 24*gib), gpu("g2", 24*gib))
	hold(&h2, 3, job.Batch, 100, old)
	hold(&h2, 4, job.Batch, 1, t0.Add(-10*time.Second)) // has only begun
	hold(&h2, 5, job.Production, 0, old)
	s := placement.Snapshot{Now: t0, Nodes: []placement.Node{h1, h2}, Rules: placement.Rules{MinRuntime: time.Minute, Restart: 30}}
	s.Queue = []placement.Request{
		{Job: "p1", Priority: job.Production, Demand: whole(1)},
		{Job: "p2", Priority: job.Production, Demand: whole(1)},
		{Job: "i1", Priority: job.Search, Demand: whole(1), Attained: 5000},
	}
	plan := placement.Make(s)
	got := ""
	for _, v := range plan.Preempt {
		got += fmt.Sprintf("%s<%s ", v.For, v.Job)
	}
	// The least lost of the lowest class goes first; a search job may not take a
	// search job's device that has got as little, and the other batch job has only begun.
	if got != "p1<v3 p2<v2 " {
		t.Errorf("preempted %s", got)
	}
	if len(plan.Place) != 0 || len(plan.Unplaced) != 3 || plan.Unplaced[0].Room != "h2" {
		t.Errorf("plan %+v", plan)
	}
	// While the victims stop, nobody else is preempted for the same jobs.
	for i := range s.Nodes {
		for k := range s.Nodes[i].Holders {
			if f := s.Nodes[i].Holders[k].Fence; f == 3 || f == 2 {
				s.Nodes[i].Holders[k].Ending, s.Nodes[i].Holders[k].End = true, t0.Add(30*time.Second)
			}
		}
	}
	s.Now = t0.Add(2 * time.Minute) // the third batch job is no longer protected
	s.Queue = s.Queue[:2]
	if again := placement.Make(s); len(again.Preempt) != 0 || again.Unplaced[0].Room == "" || again.Unplaced[1].Room == "" {
		t.Errorf("second round %+v", again)
	}
}
