package sweep

import (
	"time"

	"golang.org/x/sys/unix"
)

// Now is the clock of plans and sweeps: in whole milliseconds, because a stored
// instant must come back as it was or no plan could be replayed.
func Now() time.Time { return time.Now().UTC().Truncate(time.Millisecond) }

// clock notices when the time of day is set. It compares it with the time since
// boot, which nobody can set and which goes on while the machine sleeps; Go's
// own monotonic clock stops then, and every lid that opens would be a jump.
type clock struct {
	wall time.Time
	boot time.Duration
}

func startClock() clock { return clock{wall: time.Now().Round(0), boot: sinceBoot()} }

// step is by how much the time of day was set since the start.
func (c clock) step() time.Duration {
	return time.Now().Round(0).Sub(c.wall) - (sinceBoot() - c.boot)
}

func sinceBoot() time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &t); err != nil {
		return 0 // a kernel older than any we support: every run then looks like a jump
	}
	return time.Duration(t.Nano())
}
