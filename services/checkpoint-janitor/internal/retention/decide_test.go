package retention

import (
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestExplanations(t *testing.T) {
	t.Parallel()
	at := func(days int) time.Time { return testNow.Add(-time.Duration(days) * day) }
	good := func(id string, sharpe float64, days int) Checkpoint {
		return Checkpoint{ID: id, Experiment: "bull", RunID: "run", CreateTime: at(days), State: StateLive, Sharpe: Measured(sharpe),
			Files: []File{{Digest: "sha-" + id, Bytes: 10}}}
	}
	version := good("a3", 1.42, 20)
	version.References = []Reference{{Kind: RefVersion, Detail: "version 7 of bull_specialist"}, {Kind: RefProduction, Detail: "version 7 of bull_specialist"}}
	pinned := good("a8", -0.5, 41)
	pinned.References = []Reference{{Kind: RefPin, Detail: "ana"}}
	nan := good("a9", math.NaN(), 41)
	unmeasured := good("b1", 0, 41)
	unmeasured.Sharpe = Metric{}
	young := good("b2", 0.1, 2)
	tomb := good("b3", 0.05, 60)
	tomb.State, tomb.TombstoneTime = StateTombstoned, at(1)
	wrong := good("b4", 9, 41)
	wrong.State = StateUnknown
	corrupt := good("b5", 8, 41)
	corrupt.State = StateCorrupt
	staged := good("b6", 7, 8)
	staged.State, staged.Sharpe = StateUploading, Metric{}
	buried := good("b7", 7, 60)
	buried.State, buried.Uncommitted, buried.TombstoneTime = StateTombstoned, true, at(9)
	other := Checkpoint{ID: "z1", Experiment: "quiet", CreateTime: at(100), State: StateLive, Files: []File{{"z", 5}}}
	fresh := Checkpoint{ID: "z2", Experiment: "fresh", CreateTime: at(29), State: StateLive}
	v := Inventory{Checkpoints: []Checkpoint{
		good("a1", 2, 20), good("a2", 1.5, 31), version, good("a4", 1, 20), good("a5", 0.9, 20),
		good("a6", 0.31, 41), pinned, nan, unmeasured, young, tomb, wrong, corrupt, staged, buried, other, fresh,
	}}
	want := map[string]string{
		"a1": "kept: rank 1 of 5, Sharpe 2.00",
		"a2": "to be archived: not used for 31 d; also rank 2 of 5, Sharpe 1.50",
		"a3": "kept: rank 3 of 5, Sharpe 1.42; also version 7 of bull_specialist (Production)",
		"a6": "to be deleted: rank 6, only the best 5 stay, Sharpe 0.31, age 41 d; nothing refers to it",
		"a8": "kept: pinned by ana; also rank 9, Sharpe -0.50",
		"a9": "to be deleted: it cannot rank: its Sharpe is not finite, age 41 d; nothing refers to it",
		"b1": "to be deleted: it cannot rank: it has no Sharpe, age 41 d; nothing refers to it",
		"b2": "kept: younger than 7 d (age 2 d); also rank 7, Sharpe 0.10",
		"b3": "tombstoned, to be deleted after 2026-11-29T12:00:00Z: rank 8, only the best 5 stay, Sharpe 0.05, age 60 d; nothing refers to it",
		"b4": "kept: its record contradicts itself (its state is unknown)",
		"b5": "kept: its bytes do not match their digest; it is kept as evidence and not used",
		"b6": "to be deleted: its upload was never finished, age 8 d",
		"b7": "tombstoned, to be deleted after 2026-11-21T12:00:00Z: its upload was never finished, age 60 d",
		"z1": "to be deleted: experiment \"quiet\" had no run, reader or reference for 100 d",
		"z2": "kept: nothing in experiment \"fresh\" has a comparable Sharpe, so nothing is dropped by rank",
	}
	plan := mustDecide(t, DefaultPolicy(), v, testNow)
	for id, text := range want {
		d, ok := plan.Find(id)
		if !ok || d.Text() != text {
			t.Errorf("%s:\n got %q\nwant %q", id, d.Text(), text)
		}
	}
}

func TestTombstoneIsRevivedWhenItsReasonIsGone(t *testing.T) {
	t.Parallel()
	c := Checkpoint{ID: "a", Experiment: "bull", CreateTime: testNow.Add(-20 * day), TombstoneTime: testNow.Add(-time.Hour),
		State: StateTombstoned, Sharpe: Measured(1)}
	plan := mustDecide(t, DefaultPolicy(), Inventory{Checkpoints: []Checkpoint{c}}, testNow)
	if d := plan.Decisions[0]; d.Verdict != Revive {
		t.Fatalf("got %v, want revive", d.Verdict)
	}
}

// A rule that never drops by rank still archives what is idle, and lets an abandoned experiment go.
func TestNeverDroppedByRankIsArchivedAndAbandonedAllTheSame(t *testing.T) {
	t.Parallel()
	p := DefaultPolicy()
	p.Rules[0].KeepTop, p.Rules[0].DropOutrankedAfter = 1, Never
	for days, want := range map[int]Verdict{20: Keep, 40: Archive, 100: Drop} {
		at := testNow.Add(-time.Duration(days) * day)
		v := Inventory{Checkpoints: []Checkpoint{
			{ID: "best", Experiment: "x", CreateTime: at, State: StateLive, Sharpe: Measured(2)},
			{ID: "second", Experiment: "x", CreateTime: at, State: StateLive, Sharpe: Measured(1)},
			{ID: "nan", Experiment: "x", CreateTime: at, State: StateLive, Sharpe: Measured(math.NaN())},
		}}
		for _, d := range mustDecide(t, p, v, testNow).Decisions {
			if d.Verdict != want {
				t.Errorf("at %d days %s: %s", days, d.ID, d.Text())
			}
		}
	}
}

// A lower bound prefers the figure from more trades, and the deflated ratio needs their number.
func TestRanksByConfidence(t *testing.T) {
	t.Parallel()
	at := testNow.Add(-20 * day)
	v := Inventory{Checkpoints: []Checkpoint{
		{ID: "few", Experiment: "x", CreateTime: at, State: StateLive, Sharpe: Measured(1.6), Trades: 10},
		{ID: "many", Experiment: "x", CreateTime: at, State: StateLive, Sharpe: Measured(1.4), Trades: 500},
		{ID: "told", Experiment: "x", CreateTime: at, State: StateLive, Sharpe: Measured(1.5), SharpeLow: Measured(1.49)},
		{ID: "unknown", Experiment: "x", CreateTime: at, State: StateLive, Sharpe: Measured(9)},
		{ID: "nolow", Experiment: "x", CreateTime: at, State: StateLive, Sharpe: Measured(1.3), SharpeLow: Measured(math.NaN()), Trades: 9},
	}}
	for by, want := range map[Figure]map[string]int{
		BySharpe:     {"unknown": 1, "few": 2, "told": 3, "many": 4, "nolow": 5},
		ByLowerBound: {"told": 1, "many": 2, "few": 3, "unknown": 0, "nolow": 0},
		ByDeflated:   {"many": 1, "few": 2, "nolow": 3, "unknown": 0, "told": 0},
	} {
		p := DefaultPolicy()
		p.Rules[0].RankBy = by
		for _, d := range mustDecide(t, p, v, testNow).Decisions {
			if d.Rank != want[d.ID] {
				t.Errorf("%s: %s ranks %d, want %d (%s)", by, d.ID, d.Rank, want[d.ID], d.Text())
			}
		}
	}
}

// Policies that would delete everything, or contradict themselves, are refused with every reason.
func TestPoliciesThatDeleteEverythingAreRefused(t *testing.T) {
	t.Parallel()
	for want, change := range map[string]func(*Rule){
		"would be dropped":         func(r *Rule) { r.KeepTop = 0 },
		"would delete every":       func(r *Rule) { r.DeleteAbandonedAfter, r.ArchiveAfter, r.YoungFor = time.Hour, time.Hour, time.Hour },
		"matches the weights too":  func(r *Rule) { r.DropFiles = []string{"*"} },
		"only dropped when":        func(r *Rule) { r.DropFiles, r.ArchiveAfter = []string{"optimizer*"}, Never },
		"give sharpe":              func(r *Rule) { r.RankBy = "luck" },
		"means nothing without":    func(r *Rule) { r.Confidence = 0.9 },
		"from 0.5 to below 1":      func(r *Rule) { r.Confidence, r.RankBy = 1, ByLowerBound },
		"contradicts young_for":    func(r *Rule) { r.YoungFor = 10 * day },
		"at least 1 checkpoint to": func(r *Rule) { r.KeepLastPerLiveJob = 0 },
	} {
		p := DefaultPolicy()
		change(&p.Rules[0])
		if err := p.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q, got %v", want, err)
		}
	}
	// And a plan that lets nothing stay is not carried out unseen.
	v := Inventory{}
	for _, id := range []string{"a", "b", "c"} {
		v.Checkpoints = append(v.Checkpoints, Checkpoint{ID: id, Experiment: "x", CreateTime: testNow.Add(-100 * day), State: StateLive})
	}
	plan := mustDecide(t, DefaultPolicy(), v, testNow)
	refused := Guard(DefaultCaps(), plan, v, Circumstances{Now: testNow, Attended: true})
	if len(refused) != 1 || refused[0].Code != RefuseEverything {
		t.Errorf("got %+v", refused)
	}
}

func TestFullDiskTightens(t *testing.T) {
	t.Parallel()
	var v Inventory
	for _, id := range []string{"a", "b", "c", "d", "e"} {
		v.Checkpoints = append(v.Checkpoints, Checkpoint{ID: id, Experiment: "x", CreateTime: testNow.Add(-10 * day), State: StateLive, Sharpe: Measured(1)})
	}
	for used, drops := range map[int64]int{79: 0, 80: 2} {
		v.Usage = Usage{UsedBytes: used, CapacityBytes: 100}
		plan := mustDecide(t, DefaultPolicy(), v, testNow)
		if got := plan.Totals()[Drop].Objects; got != drops || plan.Tightened != (drops > 0) {
			t.Errorf("at %d %%: %d drops, tightened %v; want %d drops", used, got, plan.Tightened, drops)
		}
	}
}

// Every checkpoint gets exactly one decision with a reason.
func TestEverythingIsExplained(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		v := anyInventory().Draw(t, "inventory")
		plan := mustDecide(t, anyPolicy().Draw(t, "policy"), v, testNow)
		if len(plan.Decisions) != len(v.Checkpoints) {
			t.Fatalf("%d decisions for %d checkpoints", len(plan.Decisions), len(v.Checkpoints))
		}
		for _, d := range plan.Decisions {
			if d.Verdict == 0 || len(d.Reasons) == 0 || d.Reasons[0].Code == "" || strings.HasSuffix(d.Text(), ": ") {
				t.Fatalf("%s is not explained: %+v", d.ID, d)
			}
			for _, r := range d.Reasons {
				if r.Code == "" || r.Text == "" {
					t.Fatalf("%s has an empty reason: %+v", d.ID, d.Reasons)
				}
			}
		}
	})
}

// What a reference holds, what is young and what is in flight is never let go.
func TestRootsAreNeverLetGo(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		v := anyInventory().Draw(t, "inventory")
		p := anyPolicy().Draw(t, "policy")
		plan := mustDecide(t, p, v, testNow)
		for _, c := range v.Checkpoints {
			held := slices.ContainsFunc(c.References, func(r Reference) bool {
				return r.Kind != RefRestored || r.Until.IsZero() || testNow.Before(r.Until)
			})
			held = held || testNow.Sub(c.CreateTime) < p.Rules[0].YoungFor || c.State == StateCorrupt
			held = held || c.unfinished() && testNow.Sub(c.CreateTime) < uploadGrace
			d, _ := plan.Find(c.ID)
			if held && (d.Verdict == Drop || d.Verdict == Archive) {
				t.Fatalf("%s is a root and would be let go: %s", c.ID, d.Text())
			}
		}
	})
}

// A live job always keeps its newest checkpoint and its newest resumable one.
func TestLiveJobsCanResume(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		v := anyInventory().Draw(t, "inventory")
		plan := mustDecide(t, anyPolicy().Draw(t, "policy"), v, testNow)
		newest := map[string]Checkpoint{}
		for _, c := range v.Checkpoints {
			if !c.RunActive || !c.Resumable || c.State != StateLive && c.State != StateTombstoned {
				continue
			}
			if best, ok := newest[c.RunID]; !ok || c.Step > best.Step {
				newest[c.RunID] = c
			}
		}
		for run, want := range newest {
			kept := slices.ContainsFunc(v.Checkpoints, func(c Checkpoint) bool {
				d, _ := plan.Find(c.ID)
				return c.RunID == run && c.Resumable && c.Step == want.Step && (d.Verdict == Keep || d.Verdict == Revive)
			})
			if !kept {
				t.Fatalf("live run %s would lose the checkpoint at step %d", run, want.Step)
			}
		}
	})
}

// Only finite figures rank, and the ranks are those of a plain recount.
func TestRanksAreHonest(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		v := anyInventory().Draw(t, "inventory")
		p := anyPolicy().Draw(t, "policy")
		plan := mustDecide(t, p, v, testNow)
		competes := func(c Checkpoint) bool {
			return !c.Uncommitted && (c.State == StateLive || c.State == StateTombstoned) && c.Sharpe.Finite() && c.Trades >= p.Rules[0].MinTrades
		}
		for _, c := range v.Checkpoints {
			d, _ := plan.Find(c.ID)
			if !competes(c) {
				if d.Rank != 0 {
					t.Fatalf("%s ranks %d with Sharpe %+v", c.ID, d.Rank, c.Sharpe)
				}
				continue
			}
			rank := 1
			for _, o := range v.Checkpoints {
				if o.ID == c.ID || !competes(o) || o.Experiment != c.Experiment || o.Window != c.Window {
					continue
				}
				better := o.Sharpe.Value > c.Sharpe.Value
				if o.Sharpe.Value == c.Sharpe.Value {
					better = o.CreateTime.Before(c.CreateTime) || o.CreateTime.Equal(c.CreateTime) && o.ID < c.ID
				}
				if better {
					rank++
				}
			}
			if d.Rank != rank {
				t.Fatalf("%s ranks %d, a recount says %d", c.ID, d.Rank, rank)
			}
		}
	})
}

// The same input gives the same plan, whatever the order of the records.
func TestPlansReplay(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		v := anyInventory().Draw(t, "inventory")
		p := anyPolicy().Draw(t, "policy")
		first := mustDecide(t, p, v, testNow)
		shuffled := Inventory{Usage: v.Usage, Checkpoints: slices.Clone(v.Checkpoints)}
		r := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 1))
		r.Shuffle(len(shuffled.Checkpoints), func(i, k int) {
			shuffled.Checkpoints[i], shuffled.Checkpoints[k] = shuffled.Checkpoints[k], shuffled.Checkpoints[i]
		})
		again := mustDecide(t, p, shuffled, testNow)
		if first.Hash != again.Hash || len(first.Diff(again)) != 0 {
			t.Fatalf("replay differs: %s and %s", first.Hash, again.Hash)
		}
		if later := mustDecide(t, p, v, testNow.Add(time.Second)); later.Hash == first.Hash {
			t.Fatal("the instant is not part of the hash")
		}
		p.Rules[0].KeepTop++
		if other := mustDecide(t, p, v, testNow); other.Hash == first.Hash {
			t.Fatal("the policy is not part of the hash")
		}
	})
}

// No kept or restorable checkpoint loses a parent.
func TestParentsStay(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		v := anyInventory().Draw(t, "inventory")
		plan := mustDecide(t, anyPolicy().Draw(t, "policy"), v, testNow)
		for _, c := range v.Checkpoints {
			d, _ := plan.Find(c.ID)
			if d.Verdict == Gone || d.Verdict == Drop && c.State != StateTombstoned {
				continue
			}
			for _, id := range c.Parents {
				if parent, _ := plan.Find(id); parent.Verdict == Drop {
					t.Fatalf("%s stays (%s), but its parent goes: %s", c.ID, d.Text(), parent.Text())
				}
			}
		}
	})
}

// The freed bytes are what the store loses when exactly the drops are gone.
func TestFreedBytes(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		v := anyInventory().Draw(t, "inventory")
		plan := mustDecide(t, anyPolicy().Draw(t, "policy"), v, testNow)
		after := Inventory{}
		for _, c := range v.Checkpoints {
			if d, _ := plan.Find(c.ID); d.Verdict != Drop {
				after.Checkpoints = append(after.Checkpoints, c)
			}
		}
		if got, want := plan.Totals()[Drop].FreedBytes, uniqueBytes(v)-uniqueBytes(after); got != want {
			t.Fatalf("the plan says %d bytes are freed, the store loses %d", got, want)
		}
	})
}

// Where nothing ranks, nothing is dropped before the experiment is abandoned.
func TestNothingRanksDropsNothing(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		v := anyInventory().Draw(t, "inventory")
		for i := range v.Checkpoints {
			v.Checkpoints[i].Sharpe = rapid.SampledFrom([]Metric{{}, Measured(math.NaN()), Measured(math.Inf(1))}).Draw(t, "no figure")
		}
		v.Usage = Usage{}
		plan := mustDecide(t, anyPolicy().Draw(t, "policy"), v, testNow)
		for _, d := range plan.Decisions {
			if d.Verdict == Drop && d.Reasons[0].Code != CodeAbandoned && d.Reasons[0].Code != CodeGivenUp {
				t.Fatalf("%s: %s", d.ID, d.Text())
			}
		}
	})
}

func TestOneBadRowDoesNotStopTheOthers(t *testing.T) {
	t.Parallel()
	old := testNow.Add(-41 * day)
	v := Inventory{Checkpoints: []Checkpoint{
		{ID: "twice", Experiment: "x", State: StateLive, CreateTime: old, Sharpe: Measured(1)},
		{ID: "twice", Experiment: "x", State: StateLive, CreateTime: old, Sharpe: Measured(2)},
		{ID: "s1", Experiment: "x", State: StateLive, CreateTime: old, Files: []File{{"d", 1}}},
		{ID: "s2", Experiment: "x", State: StateLive, CreateTime: old, Files: []File{{"d", 2}}},
		{ID: "future", Experiment: "x", State: StateLive, CreateTime: testNow.Add(time.Hour)},
		{ID: "fine", Experiment: "x", State: StateLive, CreateTime: old, Sharpe: Measured(1)},
		{ID: "nan", Experiment: "x", State: StateLive, CreateTime: old, Sharpe: Measured(math.NaN())},
	}}
	plan := mustDecide(t, DefaultPolicy(), v, testNow)
	for _, d := range plan.Decisions {
		bad := d.ID != "fine" && d.ID != "nan"
		if bad != (d.Reasons[0].Code == CodeRecordProblem) {
			t.Errorf("%s: %s", d.ID, d.Text())
		}
		if (d.Verdict == Drop) != (d.ID == "nan") {
			t.Errorf("%s: %v", d.ID, d.Verdict)
		}
	}
}

func BenchmarkDecide100k(b *testing.B) {
	r := rand.New(rand.NewPCG(1, 2))
	v := Inventory{Checkpoints: make([]Checkpoint, 100_000)}
	for i := range v.Checkpoints {
		id := make([]byte, 16)
		for k := range id {
			id[k] = "0123456789abcdef"[r.IntN(16)]
		}
		v.Checkpoints[i] = Checkpoint{
			ID: string(id), Experiment: string(id[:2]), RunID: string(id[:3]), State: StateLive,
			CreateTime: testNow.Add(-time.Duration(r.IntN(100)) * day), Sharpe: Measured(r.NormFloat64()),
			Files: []File{{string(id) + "w", 100}, {string(id) + "o", 200}, {"meta", 1}},
		}
	}
	b.ReportAllocs()
	for b.Loop() {
		mustDecide(b, DefaultPolicy(), v, testNow)
	}
}
