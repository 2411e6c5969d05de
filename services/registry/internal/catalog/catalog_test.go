package catalog

import (
	"math"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func sharpe(id string, step int64, v float64) Checkpoint {
	return Checkpoint{ID: id, Step: step, State: Live, Metrics: map[string]float64{SharpeMetric: v}}
}

func TestBestIsFiniteThenHighThenEarlyThenByID(t *testing.T) {
	t.Parallel()
	swept := sharpe("z", 1, 9)
	swept.State = Tombstoned
	broken := sharpe("y", 1, 8)
	broken.Corrupt = true
	all := []Checkpoint{
		sharpe("nan", 1, math.NaN()), sharpe("inf", 1, math.Inf(1)), sharpe("low", 2, 0.5),
		sharpe("d", 7, 1.5), sharpe("c", 5, 1.5), sharpe("b", 5, 1.5), {ID: "none", State: Live}, swept, broken,
	}
	got, ok := Best(all)
	if !ok || got.ID != "b" {
		t.Errorf("best is %q", got.ID)
	}
	if _, ok := Best([]Checkpoint{sharpe("nan", 1, math.NaN()), sharpe("inf", 1, math.Inf(-1))}); ok {
		t.Error("a broken evaluation was chosen")
	}
}

func TestAdmit(t *testing.T) {
	t.Parallel()
	opened := &RunOpened{}
	run := Admission{Exists: true, Fence: 7, Opened: true, AttemptFence: 7, LastSequence: 4}
	for name, c := range map[string]struct {
		held      Admission
		fence     uint64
		sequence  uint64
		opened    *RunOpened
		duplicate bool
		problem   Problem
	}{
		"next":                    {held: run, fence: 7, sequence: 5},
		"gap":                     {held: run, fence: 7, sequence: 9},
		"resent":                  {held: run, fence: 7, sequence: 4, duplicate: true},
		"stale":                   {held: run, fence: 6, sequence: 5, problem: ProblemFenced},
		"stale and resent":        {held: run, fence: 6, sequence: 1, problem: ProblemFenced},
		"new attempt opens":       {held: Admission{Exists: true, Fence: 7}, fence: 8, sequence: 1, opened: opened},
		"new attempt never opens": {held: Admission{Exists: true, Fence: 7}, fence: 8, sequence: 1, problem: ProblemNotOpen},
		"first run opens":         {fence: 1, sequence: 1, opened: opened},
		"unknown run":             {fence: 1, sequence: 2, problem: ProblemNotOpen},
		"other fence, same try":   {held: run, fence: 8, sequence: 5, problem: ProblemInvalid},
	} {
		dup, refusal := Admit(c.held, Batch{Key: BatchKey{RunID: "r", Attempt: 1, Fence: c.fence, Sequence: c.sequence}, Opened: c.opened})
		var problem Problem
		if refusal != nil {
			problem = refusal.Problem
		}
		if dup != c.duplicate || problem != c.problem {
			t.Errorf("%s: duplicate %v problem %v", name, dup, problem)
		}
	}
}

// Whatever moves are made, in any order, at most one version holds Production and one
// Staging, and the reserved aliases point at exactly those.
func TestTransitionsKeepStagesAndAliasesInStep(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		stages := map[int32]Stage{1: StageNone, 2: StageNone, 3: StageNone, 4: StageNone}
		aliases := map[string]int32{}
		for range rapid.IntRange(1, 30).Draw(t, "moves") {
			v := rapid.Int32Range(1, 4).Draw(t, "version")
			to := rapid.SampledFrom([]Stage{StageNone, StageStaging, StageProduction, StageArchived}).Draw(t, "to")
			plan, refusal := PlanTransition(stages, v, to)
			if refusal != nil {
				t.Fatal(refusal)
			}
			for _, c := range plan.Changes {
				if stages[c.Version] != c.From {
					t.Fatalf("change %+v from the wrong stage", c)
				}
				stages[c.Version] = c.To
				held := map[Stage]int{}
				for _, s := range stages {
					held[s]++
				}
				if held[StageProduction] > 1 || held[StageStaging] > 1 {
					t.Fatalf("two holders after %+v: the unique index would refuse", c)
				}
			}
			for _, a := range plan.DropAliases {
				if aliases[a] == v {
					delete(aliases, a)
				}
			}
			for a, av := range plan.SetAliases {
				aliases[a] = av
			}
			if stages[v] != to {
				t.Fatalf("version %d is %s, not %s", v, stages[v], to)
			}
			for _, s := range []Stage{StageProduction, StageStaging} {
				var holder int32
				for hv, hs := range stages {
					if hs == s {
						holder = hv
					}
				}
				if aliases[AliasOf(s)] != holder {
					t.Fatalf("alias %s points at %d, the stage is held by %d", AliasOf(s), aliases[AliasOf(s)], holder)
				}
			}
		}
	})
}

func TestGatesNeverPassOnNaNAndNameEveryFailure(t *testing.T) {
	t.Parallel()
	gates := []Gate{
		{Metric: SharpeMetric, Compare: AtLeast, Threshold: 1}, {Metric: "validation/max_drawdown", Compare: AtMost, Threshold: 0.2},
		{Metric: "missing", Compare: AtLeast}, {Metric: "ok", Compare: AtLeast, Threshold: 1},
	}
	results, passed := EvaluateGates(gates, Measured{Metrics: map[string]float64{SharpeMetric: math.NaN(), "validation/max_drawdown": 0.3, "ok": 1}}, nil)
	if passed {
		t.Fatal("passed")
	}
	want := []bool{false, false, false, true}
	for i, r := range results {
		if r.Passed != want[i] || r.Reason == "" {
			t.Errorf("gate %d: %+v", i, r)
		}
	}
	if _, passed := EvaluateGates([]Gate{{Metric: "x", Compare: AtLeast}}, Measured{Metrics: map[string]float64{"x": math.Inf(1)}}, nil); passed {
		t.Error("an infinite metric passed a gate")
	}
}

func TestGatesCompareOnlyWithinOneWindow(t *testing.T) {
	t.Parallel()
	lead := []Gate{{Metric: "s", Compare: AboveProduction, Threshold: 0.1}}
	measured := func(v float64, window string) Measured { return Measured{map[string]float64{"s": v}, window} }
	held := measured(1, "2009/2014")
	for name, c := range map[string]struct {
		gates      []Gate
		candidate  Measured
		production *Measured
		want       bool
	}{
		"better on the same window": {lead, measured(1.2, "2009/2014"), &held, true},
		"too small a lead":          {lead, measured(1.05, "2009/2014"), &held, false},
		"better on another window":  {lead, measured(9, "2015/2016"), &held, false},
		"unknown window":            {lead, measured(9, ""), &held, false},
		"nothing in Production":     {lead, measured(0, ""), nil, true},
		"NaN against Production":    {lead, measured(math.NaN(), "2009/2014"), &held, false},
		"the window asked for":      {[]Gate{{Metric: "s", Compare: AtLeast, Window: "w"}}, measured(1, "w"), nil, true},
		"not the window asked for":  {[]Gate{{Metric: "s", Compare: AtLeast, Window: "w"}}, measured(1, "v"), nil, false},
	} {
		if results, got := EvaluateGates(c.gates, c.candidate, c.production); got != c.want || results[0].Reason == "" {
			t.Errorf("%s: %+v", name, results)
		}
	}
}

func TestPolicyWantsChecksAndOtherPeople(t *testing.T) {
	t.Parallel()
	p := Policy{RequiredChecks: []string{"backtest", "review"}, Approvals: 1}
	checks := []Check{{Name: "backtest", Passed: true}, {Name: "review", Detail: "too few trades"}}
	results, passed := EvaluatePolicy(p, checks, []Approval{{Actor: "person/ann"}}, "person/ann")
	if passed || !results[0].Passed || results[1].Passed || results[2].Passed {
		t.Errorf("own approval and a failed check: %+v", results)
	}
	checks[1].Passed = true
	if results, passed = EvaluatePolicy(p, checks, []Approval{{Actor: "person/ann"}, {Actor: "person/bob"}}, "person/ann"); !passed {
		t.Errorf("everything met: %+v", results)
	}
	if _, passed = EvaluatePolicy(Policy{}, nil, nil, "person/ann"); !passed {
		t.Error("an empty policy asks for nothing")
	}
}

func promote(v int32, rollback bool) HistoryEntry {
	return HistoryEntry{ModelID: 1, Model: "m", Version: v, Kind: HistoryStage, From: StageNone, To: StageProduction, Rollback: rollback}
}

func chain(entries ...HistoryEntry) []HistoryEntry {
	var previous *HistoryEntry
	for i := range entries {
		entries[i].At = time.Unix(int64(100+i), 123456789)
		entries[i] = entries[i].Seal(previous)
		previous = &entries[i]
	}
	return entries
}

func TestHistoryShowsEveryTamper(t *testing.T) {
	t.Parallel()
	fresh := func() []HistoryEntry { return chain(promote(1, false), promote(2, false), promote(3, false)) }
	if err := VerifyChain(fresh()); err != nil {
		t.Fatal(err)
	}
	for name, tamper := range map[string]func([]HistoryEntry) []HistoryEntry{
		"version": func(h []HistoryEntry) []HistoryEntry { h[1].Version = 9; return h },
		"actor":   func(h []HistoryEntry) []HistoryEntry { h[0].Actor = "somebody"; return h },
		"time":    func(h []HistoryEntry) []HistoryEntry { h[2].At = h[2].At.Add(time.Microsecond); return h },
		"dropped": func(h []HistoryEntry) []HistoryEntry { return slices.Delete(h, 1, 2) },
		"first":   func(h []HistoryEntry) []HistoryEntry { return h[1:] },
		"swapped": func(h []HistoryEntry) []HistoryEntry { h[0], h[1] = h[1], h[0]; return h },
		"resealed": func(h []HistoryEntry) []HistoryEntry {
			h[1].Reason = "edited"
			h[1] = h[1].Seal(&h[0])
			return h
		},
		"moved field": func(h []HistoryEntry) []HistoryEntry { h[0].Actor, h[0].Reason = "ab", "c"; return h },
	} {
		if VerifyChain(tamper(fresh())) == nil {
			t.Errorf("%s: not found", name)
		}
	}
}

func TestLiveAtAndRollbackTarget(t *testing.T) {
	t.Parallel()
	archive := HistoryEntry{ModelID: 1, Version: 3, Kind: HistoryStage, From: StageProduction, To: StageArchived}
	h := chain(promote(1, false), promote(2, false), promote(3, false), promote(2, true), promote(1, true))
	at := func(i int) int32 { return LiveAt(h, h[i].At) }
	if at(0) != 1 || at(2) != 3 || at(3) != 2 || LiveAt(h, h[0].At.Add(-1)) != 0 {
		t.Error("LiveAt is wrong")
	}
	all := func(int32) bool { return true }
	if _, ok := RollbackTarget(h, all); ok {
		t.Error("a rollback past the first version has no target")
	}
	if v, _ := RollbackTarget(h[:3], all); v != 2 {
		t.Errorf("target %d, want 2", v)
	}
	if v, _ := RollbackTarget(h[:4], all); v != 1 {
		t.Errorf("the second rollback goes on to 1, not %d", v)
	}
	if v, _ := RollbackTarget(h[:3], func(v int32) bool { return v != 2 }); v != 1 {
		t.Errorf("a deleted version is passed over, got %d", v)
	}
	down := chain(promote(1, false), promote(3, false), archive)
	if LiveAt(down, down[2].At) != 0 {
		t.Error("an archived version is not live")
	}
	if v, _ := RollbackTarget(down, all); v != 3 {
		t.Errorf("nothing is live: the last one served comes back, not %d", v)
	}
}

func TestRootsAreListedStrongestFirst(t *testing.T) {
	t.Parallel()
	f := Facts{
		Versions: []VersionUse{
			{Model: "m", Version: 1, Stage: StageArchived, RollbackRank: 3},
			{Model: "m", Version: 2, Stage: StageArchived, RollbackRank: 4, Aliases: []string{"champion"}},
			{Model: "n", Version: 5, Stage: StageProduction, Aliases: []string{"production"}},
		},
		RunLive: true, RunRank: 2, Children: []string{"c9"}, Pins: []string{"ann"},
	}
	var kinds []RootKind
	for _, r := range Roots(f) {
		kinds = append(kinds, r.Kind)
	}
	want := []RootKind{RootProduction, RootRollback, RootAlias, RootVersion, RootVersion, RootVersion, RootLiveRun, RootParent, RootPin}
	if !slices.Equal(kinds, want) {
		t.Errorf("roots %v", kinds)
	}
	for _, f := range []Facts{{}, {RunLive: true, RunRank: 3}, {RunLive: true}, {RunRank: 1}} {
		if r := Roots(f); len(r) != 0 {
			t.Errorf("%+v is kept by %v", f, r)
		}
	}
}

func TestSweepStatesNeverComeBackFromDeleting(t *testing.T) {
	t.Parallel()
	all := []CheckpointState{Pending, Live, Tombstoned, Deleting, Gone}
	legal := map[[2]CheckpointState]bool{
		{Pending, Live}: true, {Pending, Tombstoned}: true, {Live, Tombstoned}: true,
		{Tombstoned, Live}: true, {Tombstoned, Deleting}: true, {Deleting, Gone}: true,
	}
	for _, from := range all {
		for _, to := range all {
			if CanMove(from, to) != legal[[2]CheckpointState{from, to}] {
				t.Errorf("%s -> %s", from, to)
			}
		}
	}
}

func TestManifestDigestIgnoresOrderAndNothingElse(t *testing.T) {
	t.Parallel()
	a, b := File{Name: "a", SHA256: "1", Size: 1}, File{Name: "b", SHA256: "2", Size: 2}
	base := ManifestDigest(3, []File{a, b})
	if ManifestDigest(3, []File{b, a}) != base {
		t.Error("order matters")
	}
	c := b
	c.Size = 3
	for _, other := range []string{ManifestDigest(4, []File{a, b}), ManifestDigest(3, []File{a}), ManifestDigest(3, []File{a, c})} {
		if other == base {
			t.Error("two contents share a digest")
		}
	}
}
