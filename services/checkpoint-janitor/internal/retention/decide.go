package retention

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// entry is one checkpoint on its way to a decision.
type entry struct {
	c       *Checkpoint
	exp     *experiment
	rank    int
	unfit   string  // why it cannot rank
	score   float64 // what it ranks by
	problem string
	latest  int // place among its live job's newest; 1 is the newest, 0 no place
	reasons []Reason
	verdict Verdict
}

// experiment is what the members of one experiment decide together.
type experiment struct {
	rule       Rule
	ruled      bool
	live       bool
	referenced bool
	lastUse    time.Time
	ranks      bool
}

func (e *experiment) abandoned(now time.Time) bool {
	return e.rule.DeleteAbandonedAfter != Never && !e.live && !e.referenced && now.Sub(e.lastUse) >= e.rule.DeleteAbandonedAfter
}

// Decide makes the plan. The only error is an unusable policy; a bad record
// never stops the others, it is kept with its problem as the reason.
func Decide(policy Policy, inventory Inventory, now time.Time) (Plan, error) {
	if err := policy.Validate(); err != nil {
		return Plan{}, err
	}
	tight := inventory.Usage.Fraction() >= policy.Watermark.TightenAt
	entries := load(inventory, now)
	group(policy, entries, tight)
	rank(entries)
	newestOfLiveJobs(entries)
	for _, e := range entries {
		e.decide(now)
	}
	protectParents(entries)

	plan := Plan{Now: now, Revision: policy.Revision, Tightened: tight, PolicyHash: policy.Hash(), InventoryHash: inventory.Hash()}
	plan.Decisions = make([]Decision, len(entries))
	for i, e := range entries {
		plan.Decisions[i] = e.decision(policy.Grace)
	}
	countFreed(entries, plan.Decisions)
	plan.Hash = plan.hash()
	return plan, nil
}

// load sorts by id, folds doubled records into one and marks what contradicts.
func load(inventory Inventory, now time.Time) []*entry {
	sorted := make([]*entry, len(inventory.Checkpoints))
	for i := range inventory.Checkpoints {
		c := &inventory.Checkpoints[i]
		sorted[i] = &entry{c: c, problem: c.recordProblem(now)}
	}
	slices.SortFunc(sorted, func(a, b *entry) int {
		if d := cmp.Compare(a.c.ID, b.c.ID); d != 0 {
			return d
		}
		// Doubled ids only: any order will do if it is the same every time.
		return cmp.Compare(newCanon("").digestOf(a.c), newCanon("").digestOf(b.c))
	})
	entries := sorted[:0]
	for _, e := range sorted {
		if n := len(entries); n > 0 && entries[n-1].c.ID == e.c.ID {
			entries[n-1].problem = "the catalogue lists it twice"
			continue
		}
		entries = append(entries, e)
	}
	markSizeConflicts(entries)
	return entries
}

func markSizeConflicts(entries []*entry) {
	type size struct {
		bytes    int64
		conflict bool
	}
	sizes := map[string]size{}
	conflicts := false
	for _, e := range entries {
		for _, f := range e.c.Files {
			if s, seen := sizes[f.Digest]; !seen {
				sizes[f.Digest] = size{bytes: f.Bytes}
			} else if s.bytes != f.Bytes {
				sizes[f.Digest] = size{s.bytes, true}
				conflicts = true
			}
		}
	}
	if !conflicts {
		return
	}
	for _, e := range entries {
		for _, f := range e.c.Files {
			if sizes[f.Digest].conflict {
				e.problem = "file " + f.Digest + " has two different sizes in the catalogue"
			}
		}
	}
}

func group(policy Policy, entries []*entry, tight bool) {
	byName := map[string]*experiment{}
	for _, e := range entries {
		x := byName[e.c.Experiment]
		if x == nil {
			x = &experiment{}
			x.rule, x.ruled = policy.RuleFor(e.c.Experiment)
			if tight {
				x.rule = x.rule.tightened(policy.Watermark)
			}
			byName[e.c.Experiment] = x
		}
		e.exp = x
		if e.c.State == StateDeleted {
			continue
		}
		x.live = x.live || e.c.RunActive
		x.referenced = x.referenced || len(e.c.References) > 0
		x.lastUse = latest(x.lastUse, e.c.CreateTime, e.c.LastUse, e.c.ExperimentUse)
	}
}

func latest(times ...time.Time) time.Time {
	var out time.Time
	for _, t := range times {
		if t.After(out) {
			out = t
		}
	}
	return out
}

// rank orders what can be compared. Tombstoned checkpoints take part: were they
// left out, the next best would move up for as long as the tombstone lasts.
func rank(entries []*entry) {
	type key struct {
		exp    *experiment
		window string
	}
	rankings := map[key]*ranking{}
	for _, e := range entries {
		if e.problem != "" || !e.exp.ruled || e.c.unfinished() || e.c.State != StateLive && e.c.State != StateTombstoned {
			continue
		}
		ok, why := rankable(*e.c, e.exp.rule)
		if !ok {
			e.unfit = why
			continue
		}
		e.score = score(*e.c, e.exp.rule)
		e.exp.ranks = true
		k := key{e.exp, e.c.Window}
		if rankings[k] == nil {
			rankings[k] = &ranking{}
		}
		rankings[k].members = append(rankings[k].members, e)
	}
	for k, r := range rankings {
		if k.exp.rule.RankBy == ByDeflated {
			r.deflate()
		}
		r.assign()
	}
}

// newestOfLiveJobs counts each live job's checkpoints from the newest, once all
// of them and once only those that training can resume from; the better place
// counts. A weights-only best must not push out what the job restarts from.
func newestOfLiveJobs(entries []*entry) {
	jobs := map[string][]*entry{}
	for _, e := range entries {
		if e.c.RunActive && (e.c.State == StateLive || e.c.State == StateTombstoned) {
			jobs[e.c.RunID] = append(jobs[e.c.RunID], e)
		}
	}
	for _, members := range jobs {
		slices.SortFunc(members, func(a, b *entry) int {
			return cmp.Or(cmp.Compare(b.c.Step, a.c.Step), b.c.CreateTime.Compare(a.c.CreateTime), cmp.Compare(a.c.ID, b.c.ID))
		})
		resumable := 0
		for i, m := range members {
			m.latest = i + 1
			if m.c.Resumable {
				resumable++
				m.latest = resumable
			}
		}
	}
}

// decide gives one checkpoint its verdict, parents aside.
func (e *entry) decide(now time.Time) {
	if e.c.State == StateDeleting || e.c.State == StateDeleted {
		e.verdict = Gone
		e.because(CodeGone, "its bytes are %s", map[State]string{StateDeleting: "being deleted", StateDeleted: "deleted"}[e.c.State])
		return
	}
	verdict := e.byRankAndAge(now)
	if roots := e.roots(now); len(roots) > 0 {
		// The rank goes first where it alone would keep it: people ask for the
		// rank, and "also" then names what else holds it.
		e.reasons, verdict = nil, Keep
		switch top := e.exp.rule.KeepTop; {
		case e.rank > 0 && e.rank <= top:
			e.because(CodeTopRank, "rank %d of %d, %s", e.rank, top, e.figures())
			e.reasons = append(e.reasons, roots...)
		case e.rank > 0:
			e.reasons = roots
			e.because(CodeOutranked, "rank %d, %s", e.rank, e.figures())
		default:
			e.reasons = roots
		}
	}
	if e.c.State == StateTombstoned && verdict != Drop {
		verdict = Revive
	}
	e.verdict = verdict
}

// byRankAndAge judges a checkpoint that nothing protects.
func (e *entry) byRankAndAge(now time.Time) Verdict {
	if !e.exp.ruled || e.problem != "" {
		return Keep // roots has the words
	}
	rule := e.exp.rule
	age := now.Sub(e.c.CreateTime)
	switch {
	case e.c.unfinished():
		e.because(CodeGivenUp, "its upload was never finished, age %s", Age(age))
		return Drop
	case e.rank > 0 && e.rank <= rule.KeepTop:
		e.because(CodeTopRank, "rank %d of %d, %s", e.rank, rule.KeepTop, e.figures())
	case e.rank > 0:
		text := fmt.Sprintf("rank %d, only the best %d stay, %s, age %s", e.rank, rule.KeepTop, e.figures(), Age(age))
		if e.letGo(CodeOutranked, text, age) {
			return Drop
		}
	case e.exp.ranks:
		if e.letGo(CodeNotRankable, fmt.Sprintf("it cannot rank: %s, age %s", e.unfit, Age(age)), age) {
			return Drop
		}
	default:
		e.because(CodeNothingRanks, "nothing in experiment %q has a comparable Sharpe, so nothing is dropped by rank", e.c.Experiment)
	}
	if e.exp.abandoned(now) {
		e.reasons = nil
		e.because(CodeAbandoned, "experiment %q had no run, reader or reference for %s", e.c.Experiment, Age(now.Sub(e.exp.lastUse)))
		return Drop
	}
	if idle := now.Sub(latest(e.c.CreateTime, e.c.LastUse)); rule.ArchiveAfter != Never && idle >= rule.ArchiveAfter && !e.c.Archived {
		kept := e.reasons
		e.reasons = nil
		e.because(CodeIdle, "not used for %s", Age(idle))
		e.reasons = append(e.reasons, kept...)
		return Archive
	}
	return Keep
}

// letGo says whether what is not among the best is due. What is not stays for now, and is
// archived or abandoned like the best.
func (e *entry) letGo(code Code, text string, age time.Duration) bool {
	after := e.exp.rule.DropOutrankedAfter
	if age >= after {
		e.because(code, "%s; nothing refers to it", text)
		return true
	}
	if after == Never {
		e.because(CodeOutrankedSoon, "%s; its rule never drops by rank", text)
	} else {
		e.because(CodeOutrankedSoon, "%s; due at %s", text, Age(after))
	}
	return false
}

// roots lists everything that protects the checkpoint, strongest first.
func (e *entry) roots(now time.Time) []Reason {
	var out []Reason
	add := func(code Code, format string, args ...any) {
		out = append(out, Reason{Code: code, Text: fmt.Sprintf(format, args...)})
	}
	if e.problem != "" {
		add(CodeRecordProblem, "its record contradicts itself (%s)", e.problem)
	}
	if e.c.State == StateCorrupt {
		add(CodeCorrupt, "its bytes do not match their digest; it is kept as evidence and not used")
	}
	referenced := referenceReasons(e.c.References, now)
	out = append(out, referenced...)
	rule := e.exp.rule
	if !e.exp.ruled {
		add(CodeNoRule, "no rule of the policy matches experiment %q", e.c.Experiment)
	}
	if age := now.Sub(e.c.CreateTime); e.c.unfinished() && age < uploadGrace {
		add(CodeInFlight, "its upload may still be under way (age %s)", Age(max(age, 0)))
	}
	said := slices.ContainsFunc(referenced, func(r Reason) bool { return r.Code == CodeLiveJob })
	if e.exp.ruled && !said && e.latest > 0 && e.latest <= rule.KeepLastPerLiveJob {
		add(CodeLiveJob, "checkpoint %d of the last %d of a live job", e.latest, rule.KeepLastPerLiveJob)
	}
	if age := now.Sub(e.c.CreateTime); e.exp.ruled && age < rule.YoungFor {
		add(CodeYoung, "younger than %s (age %s)", Age(rule.YoungFor), Age(max(age, 0)))
	}
	return out
}

// protectParents keeps whatever a checkpoint that stays, or that can still be
// restored, was built on. A drop set by rank is undone for a parent.
func protectParents(entries []*entry) {
	byID := make(map[string]*entry, len(entries))
	for _, e := range entries {
		byID[e.c.ID] = e
	}
	var open []*entry
	for _, e := range entries {
		restorable := e.c.State == StateTombstoned
		if len(e.c.Parents) > 0 && (restorable || e.verdict == Keep || e.verdict == Archive || e.verdict == Revive) {
			open = append(open, e)
		}
	}
	for len(open) > 0 {
		child := open[len(open)-1]
		open = open[:len(open)-1]
		for _, id := range child.c.Parents {
			parent := byID[id]
			if parent == nil || parent.verdict != Drop {
				continue
			}
			parent.verdict = Keep
			if parent.c.State == StateTombstoned {
				parent.verdict = Revive
			}
			why := parent.reasons
			parent.reasons = nil
			parent.because(CodeParent, "checkpoint %s depends on it", child.c.ID)
			parent.reasons = append(parent.reasons, why...)
			open = append(open, parent)
		}
	}
}

// countFreed attributes each file that only dropped checkpoints hold to the
// first of them, so that the sum over the plan is what the store really gains.
func countFreed(entries []*entry, decisions []Decision) {
	type holders struct {
		first, count int
		keepers      bool
	}
	held := map[string]holders{}
	for i, e := range entries {
		if e.c.State == StateDeleted {
			continue
		}
		for _, f := range distinct(e.c.Files) {
			h, seen := held[f.Digest]
			if !seen {
				h.first = -1
			}
			h.count++
			h.keepers = h.keepers || e.verdict != Drop
			if h.first < 0 && e.verdict == Drop {
				h.first = i
			}
			held[f.Digest] = h
		}
	}
	for i, e := range entries {
		if e.c.State == StateDeleted {
			continue
		}
		for _, f := range distinct(e.c.Files) {
			h := held[f.Digest]
			if h.count == 1 {
				decisions[i].ExclusiveBytes += f.Bytes
			}
			if !h.keepers && h.first == i {
				decisions[i].FreedBytes += f.Bytes
			}
		}
	}
}

// distinct drops files with content that came before; checkpoints have few.
func distinct(files []File) []File {
	for i, f := range files {
		if slices.ContainsFunc(files[:i], func(o File) bool { return o.Digest == f.Digest }) {
			out := slices.Clone(files[:i])
			for _, g := range files[i+1:] {
				if !slices.ContainsFunc(out, func(o File) bool { return o.Digest == g.Digest }) {
					out = append(out, g)
				}
			}
			return out
		}
	}
	return files
}

func (e *entry) because(code Code, format string, args ...any) {
	e.reasons = append(e.reasons, Reason{Code: code, Text: fmt.Sprintf(format, args...)})
}

func (e *entry) decision(grace time.Duration) Decision {
	d := Decision{
		ID: e.c.ID, Experiment: e.c.Experiment, RunID: e.c.RunID, Step: e.c.Step, State: e.c.State, Archived: e.c.Archived,
		Verdict: e.verdict, Reasons: e.reasons, Rank: e.rank, Rule: e.exp.rule.Name, Bytes: e.c.Bytes(),
	}
	if e.c.State == StateTombstoned {
		d.DueTime = e.c.TombstoneTime.Add(grace)
	}
	return d
}
