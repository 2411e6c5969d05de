package retention

import (
	"fmt"
	"math"
	"strings"
	"time"
)

// Never as an age switches a rule off. It is a value of its own because zero
// would be read as "at once" by one half of the readers.
const Never = time.Duration(math.MaxInt64)

// PolicyVersion is the only format this code understands.
const PolicyVersion = 1

// Policy is a whole retention policy. It is a value: nothing in this package
// changes one that was handed in.
type Policy struct {
	// Version is the format, [PolicyVersion].
	Version int
	// Revision is the author's name for this text; plans record it.
	Revision string
	// Development allows waiting times too short for a real upload. Tests and
	// demonstrations set it; it is recorded in every plan through the hash.
	Development bool
	// Grace is the time between tombstone and delete in which a person can
	// undo. It must exceed the longest upload.
	Grace time.Duration
	// Rules are tried in order; the first whose pattern matches the experiment
	// decides. An experiment that no rule matches is kept whole.
	Rules     []Rule
	Caps      Caps
	Watermark Watermark
}

// Rule is the policy of the experiments that match one of its patterns.
type Rule struct {
	Name string
	// Experiments are glob patterns: * is any run of characters, ? one.
	Experiments []string
	// KeepTop is how many checkpoints stay per experiment and evaluation
	// window, best finite Sharpe first.
	KeepTop int
	// MinTrades is the number of trades below which a Sharpe says nothing and
	// does not rank. Zero switches the test off; with it on, an unknown number
	// of trades does not rank either.
	MinTrades int64
	// KeepLastPerLiveJob is how many of a live job's newest
	// checkpoints stay, so that it can always resume.
	KeepLastPerLiveJob int
	// YoungFor protects everything below this age.
	YoungFor time.Duration
	// DropOutrankedAfter is the age from which a checkpoint outside the top,
	// or one that cannot rank, is dropped.
	DropOutrankedAfter time.Duration
	// ArchiveAfter is the time without use after which a ranked checkpoint
	// goes to the cold tier.
	ArchiveAfter time.Duration
	// DeleteAbandonedAfter is the time without run, reader or reference after
	// which an experiment counts as abandoned and everything in it that is no
	// root is dropped.
	DeleteAbandonedAfter time.Duration
	// RankBy is the figure that ranks; empty is [BySharpe].
	RankBy Figure
	// Confidence of the lower bound, 0.5 to below 1; zero is [DefaultConfidence].
	Confidence float64
	// DropFiles are glob patterns of files that a checkpoint gives up when it is
	// archived: its optimizer state. Training can not go on from it then.
	DropFiles []string
}

// Figure names what checkpoints are ranked by.
type Figure string

// The figures.
const (
	// BySharpe is the Sharpe ratio as it was measured.
	BySharpe Figure = "sharpe"
	// ByLowerBound is the lower end of the Sharpe ratio's confidence interval: of two
	// equal figures the one from more trades is better.
	ByLowerBound Figure = "sharpe_lower_bound"
	// ByDeflated is the deflated Sharpe ratio: how far the figure lies above what the
	// best of as many worthless tries would show by luck.
	ByDeflated Figure = "deflated_sharpe"
)

// DefaultConfidence is that of the lower bound where the rule names none.
const DefaultConfidence = 0.95

// TrainingState are the patterns of the files that trainers keep beside the weights
// to go on from; a policy says drop_training_state: true.
func TrainingState() []string {
	return []string{"trainer_state.*", "training_state.*", "optimizer*", "*_optim*.pt", "*_optim*.pth", "scheduler.pt", "rng_state*"}
}

// Caps are the brakes that hold a whole run back, whatever the plan says.
type Caps struct {
	// MaxDropFraction is the share of all bytes one run may drop without a
	// person's confirmation.
	MaxDropFraction float64
	// SmallDropBytes is what a run may always drop: without it a store of
	// twenty checkpoints could never drop one.
	SmallDropBytes int64
	// MaxClockJump is how far the clock may be set while the janitor runs, and how
	// long ago the last run of a schedule may be, without a person.
	MaxClockJump time.Duration
	// MaxMissingFraction is the share of catalogued objects that may be missing
	// from the bucket's listing.
	MaxMissingFraction float64
	// SmallMissing is the number of missing objects that is always tolerated,
	// as long as the listing is not empty.
	SmallMissing int
}

// Watermark tightens every rule while the disk is full.
type Watermark struct {
	// AlertAt is the used fraction of the capacity at which the alert fires.
	AlertAt float64
	// TightenAt is the used fraction from which the limits below replace looser
	// ones of the rules.
	TightenAt            float64
	KeepTop              int
	ArchiveAfter         time.Duration
	DeleteAbandonedAfter time.Duration
}

const (
	day = 24 * time.Hour
	// minGrace is the longest upload we plan for: shorter waiting times could
	// delete a file between its upload and the commit of its manifest.
	minGrace = time.Hour
	// minAbandoned is the shortest time in which nobody touching an experiment means
	// anything: a job may well wait a night in its queue.
	minAbandoned = day
)

// DefaultPolicy is what runs when nobody wrote a policy.
func DefaultPolicy() Policy {
	return Policy{
		Version: PolicyVersion, Revision: "default-1", Grace: 7 * day,
		Rules:     []Rule{defaultRule("default", "*")},
		Caps:      DefaultCaps(),
		Watermark: DefaultWatermark(),
	}
}

// DefaultRule is the rule a policy file starts from before its own keys apply.
func DefaultRule() Rule { return defaultRule("") }

func defaultRule(name string, patterns ...string) Rule {
	return Rule{
		Name: name, Experiments: patterns,
		KeepTop: 5, KeepLastPerLiveJob: 2,
		YoungFor: 7 * day, DropOutrankedAfter: 7 * day,
		ArchiveAfter: 30 * day, DeleteAbandonedAfter: 90 * day,
	}
}

// DefaultCaps are the brakes a policy file starts from.
func DefaultCaps() Caps {
	return Caps{
		MaxDropFraction: 0.10, SmallDropBytes: 1 << 30, MaxClockJump: day,
		MaxMissingFraction: 0.01, SmallMissing: 3,
	}
}

// DefaultWatermark alerts and tightens at 80 % of the disk.
func DefaultWatermark() Watermark {
	return Watermark{AlertAt: 0.80, TightenAt: 0.80, KeepTop: 3, ArchiveAfter: 14 * day, DeleteAbandonedAfter: 45 * day}
}

// Problem is one thing wrong with a policy: the path of the field and what to
// do about it.
type Problem struct{ Path, Text string }

func (p Problem) String() string { return p.Path + ": " + p.Text }

// PolicyError carries every problem of a policy at once.
type PolicyError struct{ Problems []Problem }

func (e *PolicyError) Error() string {
	lines := make([]string, len(e.Problems))
	for i, p := range e.Problems {
		lines[i] = "  " + p.String()
	}
	return fmt.Sprintf("the retention policy has %d problem(s):\n%s", len(e.Problems), strings.Join(lines, "\n"))
}

// Validate reports everything that makes the policy unusable; nil means good.
func (p Policy) Validate() error {
	var v problems
	if p.Version != PolicyVersion {
		v.add("version", "is %d; this janitor reads version %d", p.Version, PolicyVersion)
	}
	if strings.TrimSpace(p.Revision) == "" {
		v.add("revision", "is empty; name this text so that plans can be traced to it")
	}
	if p.Grace < 0 || p.Grace == Never {
		v.add("grace", "must be a finite, non-negative time; without an end nothing is ever deleted")
	} else if p.Grace < minGrace && !p.Development {
		v.add("grace", "is %s, shorter than the longest upload (%s); set development: true for a demonstration", Age(p.Grace), Age(minGrace))
	}
	if len(p.Rules) == 0 {
		v.add("rules", "is empty; an empty policy is refused because every checkpoint would lose its protection")
	}
	p.validateRules(&v)
	p.Caps.validate(&v)
	p.Watermark.validate(&v)
	if len(v.list) == 0 {
		return nil
	}
	return &PolicyError{Problems: v.list}
}

func (p Policy) validateRules(v *problems) {
	seen := map[string]string{}
	catchAll := ""
	for i, r := range p.Rules {
		at := fmt.Sprintf("rules[%d]", i)
		if len(r.Experiments) == 0 {
			v.add(at+".experiments", "is empty; the rule can never apply")
		}
		if catchAll != "" {
			v.add(at, "can never apply: %s already matches every experiment", catchAll)
		}
		for k, pattern := range r.Experiments {
			path := fmt.Sprintf("%s.experiments[%d]", at, k)
			if pattern == "" {
				v.add(path, "is empty; use * for every experiment")
				continue
			}
			if first, dup := seen[pattern]; dup {
				v.add(path, "%q is already decided by %s", pattern, first)
			}
			seen[pattern] = path
			if strings.Trim(pattern, "*") == "" {
				catchAll = path
			}
		}
		r.validate(at, p.Development, v)
	}
}

func (r Rule) validate(at string, development bool, v *problems) {
	if r.KeepTop < 0 {
		v.add(at+".keep_top", "is %d; a count cannot be negative", r.KeepTop)
	}
	if r.KeepTop == 0 && r.DropOutrankedAfter != Never {
		v.add(at+".keep_top", "is 0, so every checkpoint of these experiments would be dropped; keep at least 1 or set drop_outranked_after: never")
	}
	if r.MinTrades < 0 {
		v.add(at+".min_trades", "is %d; a count cannot be negative", r.MinTrades)
	}
	if r.KeepLastPerLiveJob < 1 {
		v.add(at+".keep_last_per_live_job", "is %d; a live job needs at least 1 checkpoint to resume from", r.KeepLastPerLiveJob)
	}
	for _, f := range []struct {
		name string
		d    time.Duration
	}{
		{"young_for", r.YoungFor}, {"drop_outranked_after", r.DropOutrankedAfter},
		{"archive_after", r.ArchiveAfter}, {"delete_abandoned_after", r.DeleteAbandonedAfter},
	} {
		if f.d < 0 {
			v.add(at+"."+f.name, "is negative")
		}
	}
	if r.YoungFor < minGrace && !development {
		v.add(at+".young_for", "is %s, shorter than the longest upload (%s); set development: true for a demonstration", Age(r.YoungFor), Age(minGrace))
	}
	contradict := func(name string, d time.Duration, other string, o time.Duration) {
		if d < o {
			v.add(at+"."+name, "contradicts %s: %s is before %s", other, Age(d), Age(o))
		}
	}
	contradict("drop_outranked_after", r.DropOutrankedAfter, "young_for", r.YoungFor)
	contradict("archive_after", r.ArchiveAfter, "young_for", r.YoungFor)
	contradict("delete_abandoned_after", r.DeleteAbandonedAfter, "young_for", r.YoungFor)
	if r.ArchiveAfter != Never {
		contradict("delete_abandoned_after", r.DeleteAbandonedAfter, "archive_after", r.ArchiveAfter)
	}
	if r.DeleteAbandonedAfter < minAbandoned && !development {
		v.add(at+".delete_abandoned_after", "is %s: it would delete every experiment, production aside, whose jobs rest that long; give at least %s",
			Age(r.DeleteAbandonedAfter), Age(minAbandoned))
	}
	switch r.RankBy {
	case "", BySharpe, ByLowerBound, ByDeflated:
	default:
		v.add(at+".rank_by", "is %q; give %s, %s or %s", r.RankBy, BySharpe, ByLowerBound, ByDeflated)
	}
	if r.Confidence != 0 && !(r.Confidence >= 0.5 && r.Confidence < 1) {
		v.add(at+".confidence", "is %v; give a probability from 0.5 to below 1", r.Confidence)
	}
	if r.Confidence != 0 && r.RankBy != ByLowerBound {
		v.add(at+".confidence", "means nothing without rank_by: %s", ByLowerBound)
	}
	for k, pattern := range r.DropFiles {
		path := fmt.Sprintf("%s.drop_files[%d]", at, k)
		if strings.Trim(pattern, "*?/.") == "" {
			v.add(path, "%q matches the weights too", pattern)
		}
	}
	if len(r.DropFiles) > 0 && r.ArchiveAfter == Never {
		v.add(at+".drop_files", "contradicts archive_after: never; files are only dropped when a checkpoint is archived")
	}
}

func (c Caps) validate(v *problems) {
	fraction(v, "caps.max_drop_fraction", c.MaxDropFraction)
	fraction(v, "caps.max_missing_fraction", c.MaxMissingFraction)
	if c.SmallDropBytes < 0 {
		v.add("caps.small_drop_bytes", "is negative")
	}
	if c.SmallMissing < 0 {
		v.add("caps.small_missing", "is negative")
	}
	if c.MaxClockJump <= 0 || c.MaxClockJump == Never {
		v.add("caps.max_clock_jump", "must be a positive, finite time")
	}
}

func (w Watermark) validate(v *problems) {
	fraction(v, "watermark.alert_at", w.AlertAt)
	fraction(v, "watermark.tighten_at", w.TightenAt)
	if w.KeepTop < 1 {
		v.add("watermark.keep_top", "is %d; a full disk is no reason to drop the best checkpoint", w.KeepTop)
	}
	if w.ArchiveAfter < 0 {
		v.add("watermark.archive_after", "is negative")
	}
	if w.DeleteAbandonedAfter < w.ArchiveAfter && w.ArchiveAfter != Never {
		v.add("watermark.delete_abandoned_after", "contradicts archive_after: %s is before %s", Age(w.DeleteAbandonedAfter), Age(w.ArchiveAfter))
	}
}

func fraction(v *problems, path string, f float64) {
	if !(f > 0 && f <= 1) { // written so that NaN fails too
		v.add(path, "is %v; give a fraction above 0 and at most 1", f)
	}
}

type problems struct{ list []Problem }

func (p *problems) add(path, format string, args ...any) {
	p.list = append(p.list, Problem{Path: path, Text: fmt.Sprintf(format, args...)})
}

// RuleFor returns the rule that decides about the experiment.
func (p Policy) RuleFor(experiment string) (Rule, bool) {
	for _, r := range p.Rules {
		for _, pattern := range r.Experiments {
			if matches(pattern, experiment) {
				return r, true
			}
		}
	}
	return Rule{}, false
}

// tightened applies the watermark to a rule: it can only make it stricter, and
// never stricter than the protection of young checkpoints.
func (r Rule) tightened(w Watermark) Rule {
	r.KeepTop = min(r.KeepTop, w.KeepTop)
	r.ArchiveAfter = max(min(r.ArchiveAfter, w.ArchiveAfter), r.YoungFor)
	r.DeleteAbandonedAfter = max(min(r.DeleteAbandonedAfter, w.DeleteAbandonedAfter), r.YoungFor)
	return r
}

// matches is a glob over whole names. path.Match is not used: its * stops at a
// slash, and experiment names may hold slashes.
func matches(pattern, name string) bool {
	p, n := 0, 0
	star, mark := -1, 0
	for n < len(name) {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, mark = p, n
			p++
		case p < len(pattern) && (pattern[p] == '?' || pattern[p] == name[n]):
			p++
			n++
		case star >= 0:
			mark++
			p, n = star+1, mark
		default:
			return false
		}
	}
	for p < len(pattern) && pattern[p] == '*' {
		p++
	}
	return p == len(pattern)
}
