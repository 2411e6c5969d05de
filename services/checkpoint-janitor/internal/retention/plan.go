package retention

import (
	"fmt"
	"sort"
	"strings"
	"time"
)

// Verdict is what a plan wants to happen to one checkpoint.
type Verdict uint8

// The verdicts.
const (
	// Keep leaves the checkpoint as it is.
	Keep Verdict = iota + 1
	// Archive moves it to the cold tier.
	Archive
	// Drop tombstones it, or lets a tombstone run to its end.
	Drop
	// Revive undoes a tombstone that has lost its reason.
	Revive
	// Gone is past the point of no return: nothing is left to decide.
	Gone
)

var verdictNames = [...]string{"", "keep", "archive", "drop", "revive", "gone"}

func (v Verdict) String() string {
	if int(v) < len(verdictNames) && v > 0 {
		return verdictNames[v]
	}
	return fmt.Sprintf("verdict(%d)", uint8(v))
}

// ParseVerdict is the inverse of [Verdict.String]; unknown text gives zero.
func ParseVerdict(text string) Verdict {
	for i, name := range verdictNames {
		if i > 0 && name == text {
			return Verdict(i)
		}
	}
	return 0
}

// Code is the machine's half of a reason.
type Code string

// Codes that protect come first, then those that keep by rank, then those that
// let go. They are stored and exported as metric labels: never rename one.
const (
	CodeProduction    Code = "production"
	CodeStaging       Code = "staging"
	CodeAlias         Code = "alias"
	CodeVersion       Code = "registered_version"
	CodeRollback      Code = "rollback_target"
	CodePin           Code = "pinned"
	CodeLegalHold     Code = "legal_hold"
	CodeWarmStart     Code = "warm_start"
	CodeRestored      Code = "restored"
	CodeReferenced    Code = "referenced"
	CodeLiveJob       Code = "live_job"
	CodeInFlight      Code = "in_flight"
	CodeYoung         Code = "young"
	CodeParent        Code = "parent_of_kept"
	CodeNoRule        Code = "no_rule"
	CodeCorrupt       Code = "corrupt"
	CodeRecordProblem Code = "record_problem"

	CodeTopRank       Code = "top_k"
	CodeNothingRanks  Code = "nothing_ranks"
	CodeOutrankedSoon Code = "outranked_not_due"

	CodeIdle        Code = "idle"
	CodeOutranked   Code = "outranked"
	CodeNotRankable Code = "not_rankable"
	CodeAbandoned   Code = "abandoned"
	CodeGivenUp     Code = "upload_given_up"
	CodeGone        Code = "gone"
)

// Reason is one sentence fragment for people with its code for machines.
type Reason struct {
	Code Code   `json:"code"`
	Text string `json:"text"`
}

// Decision is the verdict about one checkpoint. Every checkpoint of the
// inventory has exactly one.
type Decision struct {
	ID         string
	Experiment string
	RunID      string
	Step       int64
	State      State
	// Archived says that its bytes are in the cold tier.
	Archived bool
	Verdict  Verdict
	// Reasons are never empty; the first decides.
	Reasons []Reason
	// Rank is the place by Sharpe, 1 the best; zero when it does not rank.
	Rank int
	// Rule that decided; empty when none matched.
	Rule string
	// Bytes is the size with shared files.
	Bytes int64
	// FreedBytes is what the whole plan frees here: files that only dropped
	// checkpoints hold, each counted once in the plan.
	FreedBytes int64
	// ExclusiveBytes is what dropping it alone would free.
	ExclusiveBytes int64
	// DueTime is when a tombstone's grace ends; zero when not tombstoned.
	DueTime time.Time
}

// Text is the explanation for people, in one line.
func (d Decision) Text() string {
	head := map[Verdict]string{
		Keep: "kept", Archive: "to be archived", Drop: "to be deleted", Revive: "to be restored", Gone: "gone",
	}[d.Verdict]
	if d.Verdict == Drop && d.State == StateTombstoned {
		head = "tombstoned, to be deleted after " + stamp(d.DueTime)
	}
	var b strings.Builder
	b.WriteString(head)
	for i, r := range d.Reasons {
		switch i {
		case 0:
			b.WriteString(": ")
		case 1:
			b.WriteString("; also ")
		default:
			b.WriteString(", ")
		}
		b.WriteString(r.Text)
	}
	return b.String()
}

// Plan is the immutable result of [Decide]; decisions are sorted by id.
type Plan struct {
	Now           time.Time
	Revision      string
	PolicyHash    string
	InventoryHash string
	// Hash covers the policy, the inventory, the instant and every decision.
	Hash string
	// Tightened says that the disk's watermark replaced looser limits.
	Tightened bool
	Decisions []Decision
}

// Find returns the decision about one checkpoint.
func (p Plan) Find(id string) (Decision, bool) {
	i := sort.Search(len(p.Decisions), func(i int) bool { return p.Decisions[i].ID >= id })
	if i < len(p.Decisions) && p.Decisions[i].ID == id {
		return p.Decisions[i], true
	}
	return Decision{}, false
}

// Count is a number of checkpoints and their bytes.
type Count struct {
	Objects    int
	Bytes      int64
	FreedBytes int64
}

func (c *Count) add(d Decision) {
	c.Objects++
	c.Bytes += d.Bytes
	c.FreedBytes += d.FreedBytes
}

// Totals per verdict.
func (p Plan) Totals() map[Verdict]Count {
	out := map[Verdict]Count{}
	for _, d := range p.Decisions {
		c := out[d.Verdict]
		c.add(d)
		out[d.Verdict] = c
	}
	return out
}

// ReasonTotal is one row of a plan's summary.
type ReasonTotal struct {
	Verdict Verdict
	Code    Code
	Count
}

// ByReason sums the plan by verdict and deciding reason, in a stable order.
func (p Plan) ByReason() []ReasonTotal {
	type key struct {
		v Verdict
		c Code
	}
	sums := map[key]Count{}
	for _, d := range p.Decisions {
		k := key{d.Verdict, d.Reasons[0].Code}
		c := sums[k]
		c.add(d)
		sums[k] = c
	}
	out := make([]ReasonTotal, 0, len(sums))
	for k, c := range sums {
		out = append(out, ReasonTotal{Verdict: k.v, Code: k.c, Count: c})
	}
	sort.Slice(out, func(i, j int) bool {
		if out[i].Verdict != out[j].Verdict {
			return out[i].Verdict < out[j].Verdict
		}
		return out[i].Code < out[j].Code
	})
	return out
}

// Change is a checkpoint whose verdict differs between two plans. A zero
// verdict means that the plan did not know the checkpoint.
type Change struct {
	ID       string
	From, To Verdict
	Text     string
}

// Diff lists what changed from the previous plan to this one, sorted by id.
func (p Plan) Diff(previous Plan) []Change {
	var out []Change
	i, k := 0, 0
	for i < len(previous.Decisions) || k < len(p.Decisions) {
		switch {
		case k == len(p.Decisions) || i < len(previous.Decisions) && previous.Decisions[i].ID < p.Decisions[k].ID:
			d := previous.Decisions[i]
			out = append(out, Change{ID: d.ID, From: d.Verdict, Text: "no longer in the catalogue"})
			i++
		case i == len(previous.Decisions) || p.Decisions[k].ID < previous.Decisions[i].ID:
			d := p.Decisions[k]
			out = append(out, Change{ID: d.ID, To: d.Verdict, Text: d.Text()})
			k++
		default:
			if was, is := previous.Decisions[i], p.Decisions[k]; was.Verdict != is.Verdict {
				out = append(out, Change{ID: is.ID, From: was.Verdict, To: is.Verdict, Text: is.Text()})
			}
			i++
			k++
		}
	}
	return out
}
