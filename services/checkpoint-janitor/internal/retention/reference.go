package retention

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"time"
)

// referenceReasons turns references into the words of an explanation, strongest
// first. A version that a stronger reference already names is not said twice. An
// undo that has run out no longer holds; a reference of an unknown kind does.
func referenceReasons(refs []Reference, now time.Time) []Reason {
	if len(refs) == 0 {
		return nil
	}
	sorted := slices.Clone(refs)
	slices.SortStableFunc(sorted, func(a, b Reference) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Detail, b.Detail))
	})
	var out []Reason
	named := map[string]bool{}
	for _, r := range sorted {
		if r.Kind == RefRestored && !r.Until.IsZero() && !now.Before(r.Until) {
			continue
		}
		if r.Kind <= RefVersion {
			if named[r.Detail] {
				continue
			}
			named[r.Detail] = true
		}
		out = append(out, r.reason())
	}
	return out
}

func (r Reference) reason() Reason {
	switch r.Kind {
	case RefProduction:
		return Reason{CodeProduction, r.Detail + " (Production)"}
	case RefStaging:
		return Reason{CodeStaging, r.Detail + " (Staging)"}
	case RefRollback:
		return Reason{CodeRollback, r.Detail + " (rollback target)"}
	case RefAlias:
		return Reason{CodeAlias, "alias " + r.Detail}
	case RefVersion:
		return Reason{CodeVersion, r.Detail}
	case RefPin:
		return Reason{CodePin, "pinned" + by(r.Detail)}
	case RefLegalHold:
		return Reason{CodeLegalHold, "under legal hold" + by(r.Detail)}
	case RefWarmStart:
		return Reason{CodeWarmStart, "the warm start of " + r.Detail}
	case RefLiveRun:
		return Reason{CodeLiveJob, "a live job may resume from it (" + r.Detail + ")"}
	case RefParent:
		return Reason{CodeParent, "others depend on it (" + r.Detail + ")"}
	case RefRestored:
		text := "restored" + by(r.Detail)
		if !r.Until.IsZero() {
			text += ", held until " + r.Until.UTC().Format(time.DateOnly)
		}
		return Reason{CodeRestored, text}
	default:
		return Reason{CodeReferenced, "referred to by " + r.Detail}
	}
}

func by(name string) string {
	if name == "" {
		return ""
	}
	return " by " + name
}

// figure prints a Sharpe the way people quote one.
func figure(m Metric) string { return strconv.FormatFloat(m.Value, 'f', 2, 64) }

// Age prints a duration in its largest sensible unit, as in "41 d".
func Age(d time.Duration) string {
	switch {
	case d == Never:
		return "never"
	case d >= 2*day:
		return fmt.Sprintf("%d d", d/day)
	case d >= 2*time.Hour:
		return fmt.Sprintf("%d h", d/time.Hour)
	case d >= 2*time.Minute:
		return fmt.Sprintf("%d min", d/time.Minute)
	default:
		return fmt.Sprintf("%d s", d/time.Second)
	}
}
