package placement

import (
	"math"
	"time"
)

// brink is what the attempts of a node could do soonest and cheapest: a bound that
// spares a look at each of them, which is what a search over all hosts costs.
type brink struct {
	known bool
	// end is the first expected end, in ns since 1970; started the last start among
	// those whose end is a guess. Extremes mean that there is none.
	end, started int64
	// class and devices are the least of all; saved is the last checkpoint.
	class, devices int
	saved          time.Time
	unsaved        bool
}

// brinkOf is a node's brink, computed again when the node has changed.
func (f *Fleet) brinkOf(i int) *brink {
	b := &f.brinks[i]
	if b.known {
		return b
	}
	*b = brink{known: true, end: math.MaxInt64, started: math.MinInt64, class: math.MaxInt32, devices: math.MaxInt32}
	for k := range f.nodes[i].Holders {
		h := &f.nodes[i].Holders[k]
		if h.End.IsZero() {
			b.started = max(b.started, h.Started.UnixNano())
		} else {
			b.end = min(b.end, h.End.UnixNano())
		}
		b.class, b.devices = min(b.class, int(h.Priority)*64), min(b.devices, h.devices())
		b.unsaved = b.unsaved || h.Saved.IsZero()
		if h.Saved.After(b.saved) {
			b.saved = h.Saved
		}
	}
	return b
}

// endsBefore reports whether anybody on a node may end before a moment; see endOf.
func (b *brink) endsBefore(limit, now time.Time) bool {
	at := limit.UnixNano()
	if b.end < at {
		return true
	}
	t := now.UnixNano()
	return b.started > math.MinInt64 && t+max(t-b.started, int64(time.Minute)) < at
}

// least is a bound under what stopping anybody costs; see costOf.
func (b *brink) least(now time.Time, restart float64) cost {
	devices := float64(b.devices)
	if b.unsaved {
		return cost{b.class, restart * devices}
	}
	return cost{b.class, max(now.Sub(b.saved).Seconds(), 0)*devices + restart*devices}
}
