// Package lease decides who may believe that an attempt is running.
//
// An agent holds its leases as long as its reports arrive. It fences itself
// when it has had no answer for one lease duration since it sent its last
// answered report. The scheduler waits one lease duration and the lock delay
// since it received the last report before it lets anyone else have the
// devices. It received that report after the agent sent it, so the agent always
// stops first, whatever the two clocks say.
package lease

import (
	"time"

	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/job"
)

// Terms are the durations of the contract between scheduler and agents.
type Terms struct {
	// Duration is how long a lease lives without a report.
	Duration time.Duration
	// LockDelay is added before a silent agent's devices are given away.
	LockDelay time.Duration
}

// LostAt is when an agent that was last heard at the given time is lost.
func (t Terms) LostAt(heard time.Time) time.Time { return heard.Add(t.Duration + t.LockDelay) }

// Lost reports whether an agent is to be given up. Until one lease duration has
// passed since the scheduler itself started, nobody is: it could not have heard
// reports that arrived while it was down.
func (t Terms) Lost(heard, started, now time.Time) bool {
	if heard.Before(started) {
		heard = started
	}
	return now.After(t.LostAt(heard))
}

// Held is an attempt that an agent says it holds.
type Held struct {
	Job      string
	Number   int
	Fence    uint64
	Stopping bool
	Sight    job.Sight
}

// Verdict is what one report means against what the scheduler knows.
type Verdict struct {
	// Run are the attempts that the agent must be running.
	Run []job.Attempt
	// Stop are the live attempts that it must end.
	Stop []job.Attempt
	// Fenced are leases that it has no right to and must kill.
	Fenced []Held
	// Vanished are attempts that it should hold, and neither holds nor
	// explains: its memory is gone, and with it the trainer's guard.
	Vanished []job.Attempt
	// Settled are attempts told to stop that it does not hold: nothing is left
	// to stop.
	Settled []job.Attempt
}

// Judge compares the live attempts that belong to an agent with its report.
// exits are the fences that the report explains by an exit.
//
// fresh says that the agent wrote the report after it had applied the newest
// verdict. Only such a report proves anything by what is missing from it. An
// attempt that an agent once held and that a stale report lacks is withheld
// from Run: to offer it again would run it twice under one fence.
func Judge(live []job.Attempt, held []Held, exits map[uint64]bool, fresh bool) Verdict {
	var v Verdict
	holds := make(map[uint64]bool, len(held))
	for _, h := range held {
		holds[h.Fence] = true
	}
	known := make(map[uint64]bool, len(live))
	for _, a := range live {
		known[a.Fence] = true
		switch {
		case exits[a.Fence]:
		case a.Phase == job.Ending && fresh && !holds[a.Fence]:
			v.Settled = append(v.Settled, a)
		case a.Phase == job.Ending:
			v.Stop = append(v.Stop, a)
		case holds[a.Fence]:
			v.Run = append(v.Run, a)
		case fresh:
			v.Vanished = append(v.Vanished, a)
		case !a.Known:
			v.Run = append(v.Run, a)
		}
	}
	for _, h := range held {
		if !known[h.Fence] && !exits[h.Fence] {
			v.Fenced = append(v.Fenced, h)
		}
	}
	return v
}
