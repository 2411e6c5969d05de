package retention

import (
	"fmt"
	"time"
)

// Bucket compares the catalogue with a listing of the store.
type Bucket struct {
	// Catalogued is how many different objects the catalogue expects.
	Catalogued int
	// Listed is how many objects the listing has, foreign ones included.
	Listed int
	// Missing is how many catalogued objects the listing lacks.
	Missing int
	// OrphanBytes is the size of objects of ours that nothing refers to.
	OrphanBytes int64
}

// Circumstances are what a run is judged by besides its plan.
type Circumstances struct {
	// Now is when the run would start.
	Now time.Time
	// LastRun is the time of the last accepted run; zero when there is none.
	LastRun time.Time
	// LastCatalogued is how many checkpoints the last accepted run left.
	LastCatalogued int
	Bucket         Bucket
	// ClockStep is how far the clock was set, forward or back, since the process
	// started.
	ClockStep time.Duration
	// Attended says that a person has started the run. A store that was off for
	// a week looks like a clock that jumped by a week: with a person there it is
	// taken for what it seems, a schedule waits for one.
	Attended bool
	// Confirmed says that a person has seen the plan and agrees.
	Confirmed bool
}

// RefusalCode is the machine's half of a refusal.
type RefusalCode string

// Why a run is held back. The codes are metric labels: never rename one.
const (
	RefuseTooMuch     RefusalCode = "TOO_MUCH_AT_ONCE"
	RefuseClockBack   RefusalCode = "CLOCK_WENT_BACK"
	RefuseClockJump   RefusalCode = "CLOCK_JUMPED"
	RefuseStalePlan   RefusalCode = "STALE_PLAN"
	RefuseListing     RefusalCode = "LISTING_TOO_SMALL"
	RefuseCatalogue   RefusalCode = "CATALOGUE_SHRANK"
	RefuseFutureStore RefusalCode = "STORE_IS_NEWER_THAN_CLOCK"
	RefuseEverything  RefusalCode = "WOULD_DROP_EVERYTHING"
	RefuseOrphans     RefusalCode = "TOO_MANY_ORPHANS"
)

// Refusal is one reason not to run.
type Refusal struct {
	Code RefusalCode
	Text string
	// Confirmable says that a person may overrule it.
	Confirmable bool
}

// MaxPlanAge is how long a plan may lie before it is executed: roots are looked
// at again in any case, but ranks are not.
const MaxPlanAge = time.Hour

// Guard says everything that speaks against executing the plan; empty means go.
// Confirmation silences what a person can judge, or a fault that is over would
// stop the janitor for good. It does not silence a stale plan, which costs
// nothing to renew, or a bucket that lists nothing at all.
func Guard(caps Caps, plan Plan, inventory Inventory, at Circumstances) []Refusal {
	var all []Refusal
	add := func(code RefusalCode, confirmable bool, format string, args ...any) {
		if confirmable && at.Confirmed {
			return
		}
		all = append(all, Refusal{Code: code, Text: fmt.Sprintf(format, args...), Confirmable: confirmable})
	}
	if total, drop := uniqueBytes(inventory), newDrops(plan); drop > caps.SmallDropBytes && float64(drop) > caps.MaxDropFraction*float64(total) {
		add(RefuseTooMuch, true, "the run would free %s of %s (%.0f %%); more than %.0f %% needs a confirmation",
			Bytes(drop), Bytes(total), 100*float64(drop)/float64(max(total, 1)), 100*caps.MaxDropFraction)
	}
	if kept, dropped := plan.kept(); kept == 0 && dropped > 1 {
		add(RefuseEverything, true, "the run would drop every one of the %d checkpoints; if that is meant, confirm it", dropped)
	}
	if o := at.Bucket.OrphanBytes; o > caps.SmallDropBytes && float64(o) > caps.MaxDropFraction*float64(uniqueBytes(inventory)) {
		add(RefuseOrphans, true, "%s in the bucket are unknown to the catalogue, against %s that it knows: is it the right database, or an old backup of it?",
			Bytes(o), Bytes(uniqueBytes(inventory)))
	}
	if !at.LastRun.IsZero() {
		if at.Now.Before(at.LastRun.Add(-clockTolerance)) {
			add(RefuseClockBack, true, "the clock says %s, before the last run at %s", stamp(at.Now), stamp(at.LastRun))
		}
		if ahead := at.Now.Sub(at.LastRun); ahead > caps.MaxClockJump && !at.Attended {
			add(RefuseClockJump, true, "the last run was %s ago, more than %s; run one sweep by hand, or confirm that the clock is right", Age(ahead), Age(caps.MaxClockJump))
		}
		if lost := at.LastCatalogued - len(inventory.Checkpoints); lost > caps.SmallMissing && float64(lost) > caps.MaxMissingFraction*float64(at.LastCatalogued) {
			add(RefuseCatalogue, true, "the catalogue lists %d checkpoints, %d fewer than the last run left", len(inventory.Checkpoints), lost)
		}
	}
	if step := at.ClockStep.Abs(); step > caps.MaxClockJump {
		add(RefuseClockJump, true, "the clock was set by %s while the janitor ran; confirm that it is right", Age(step))
	}
	if age := at.Now.Sub(plan.Now); age > MaxPlanAge || age < -clockTolerance {
		add(RefuseStalePlan, false, "the plan was made at %s and it is %s now; make a new one", stamp(plan.Now), stamp(at.Now))
	}
	for _, c := range inventory.Checkpoints {
		if c.CreateTime.After(at.Now.Add(clockTolerance)) {
			add(RefuseFutureStore, true, "checkpoint %s was created at %s, after now (%s): a clock is wrong", c.ID, stamp(c.CreateTime), stamp(at.Now))
			break
		}
	}
	b := at.Bucket
	tooMany := b.Missing > caps.SmallMissing && float64(b.Missing) > caps.MaxMissingFraction*float64(b.Catalogued)
	if empty := b.Catalogued > 0 && b.Listed == 0; empty || tooMany {
		add(RefuseListing, !empty, "the bucket lists %d objects and %d of the %d catalogued ones are missing", b.Listed, b.Missing, b.Catalogued)
	}
	return all
}

// kept counts the checkpoints that stay and those that the plan lets go.
func (p Plan) kept() (kept, dropped int) {
	for _, d := range p.Decisions {
		switch d.Verdict {
		case Drop:
			dropped++
		case Gone:
		case Keep, Archive, Revive:
			kept++
		}
	}
	return kept, dropped
}

// newDrops are the bytes that this run newly gives up: what an earlier run has
// tombstoned was counted then.
func newDrops(p Plan) int64 {
	var n int64
	for _, d := range p.Decisions {
		if d.Verdict == Drop && d.State != StateTombstoned {
			n += d.FreedBytes
		}
	}
	return n
}

// uniqueBytes counts each stored object once.
func uniqueBytes(v Inventory) int64 {
	seen := map[string]bool{}
	var n int64
	for _, c := range v.Checkpoints {
		if c.State == StateDeleted {
			continue
		}
		for _, f := range c.Files {
			if !seen[f.Digest] {
				seen[f.Digest] = true
				n += f.Bytes
			}
		}
	}
	return n
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// Bytes prints a size in binary units, as in "1.5 GiB".
func Bytes(n int64) string {
	const unit = 1024
	if n < unit {
		return fmt.Sprintf("%d B", n)
	}
	f, units := float64(n)/unit, "KMGTPE"
	i := 0
	for f >= unit && i < len(units)-1 {
		f /= unit
		i++
	}
	return fmt.Sprintf("%.1f %ciB", f, units[i])
}
