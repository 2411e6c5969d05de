package job

import (
	"math/rand/v2"
	"slices"
	"time"
)

// Gang reports whether the attempt spans several hosts.
func (a *Attempt) Gang() bool { return len(a.Others) > 0 }

// Agents lists the hosts of an attempt by rank.
func (a *Attempt) Agents() []string {
	out := make([]string, 0, 1+len(a.Others))
	out = append(out, a.Agent)
	for i := range a.Others {
		out = append(out, a.Others[i].Agent)
	}
	return out
}

// On gives what a host holds of the attempt; ok is false when its part is over
// or it has none.
func (a *Attempt) On(agent string) (shares []Share, ok bool) {
	if !a.Live() {
		return nil, false
	}
	if a.Agent == agent && !a.FirstEnded {
		return a.Shares, true
	}
	for i := range a.Others {
		if m := &a.Others[i]; m.Agent == agent && !m.Ended {
			return m.Shares, true
		}
	}
	return nil, false
}

// Seen is the attempt as one host sees it: with its own part's shares.
func (a Attempt) Seen(agent string) Attempt {
	for i := range a.Others {
		if m := a.Others[i]; m.Agent == agent {
			a.Shares, a.Known = m.Shares, m.Known
		}
	}
	return a
}

// know notes that a host has reported its part.
func (a *Attempt) know(agent string) {
	if a.Agent == agent {
		a.Known = true
		return
	}
	for i := range a.Others {
		if a.Others[i].Agent == agent && !a.Others[i].Known {
			a.Others = slices.Clone(a.Others)
			a.Others[i].Known = true
		}
	}
}

// Rank is a host's rank in the gang; -1 means that it has no part.
func (a *Attempt) Rank(agent string) int { return slices.Index(a.Agents(), agent) }

// Processes is how many training processes the whole attempt has: one per device.
func (a *Attempt) Processes() int {
	n := len(a.Shares)
	for i := range a.Others {
		n += len(a.Others[i].Shares)
	}
	return n
}

// EndOn applies an exit on one host. An attempt on one host ends with it. A gang
// ends when its last part does: the first part that does not succeed decides how
// and has the others stopped, since they can only wait for it. Every part holds
// its devices until its own host has confirmed the end.
func (j Job) EndOn(a Attempt, agent string, e Exit, p Policy, rng *rand.Rand, now time.Time) (Job, Attempt, bool) {
	if !a.Gang() {
		return j.End(a, e, p, rng, now)
	}
	if _, held := a.On(agent); !held || a.Job != j.ID || a.Fence != j.Fence || !j.State.Live() {
		return j, a, false
	}
	if a.Agent == agent {
		a.FirstEnded = true
	} else {
		a.Others = slices.Clone(a.Others)
		for i := range a.Others {
			if a.Others[i].Agent == agent {
				a.Others[i].Ended = true
			}
		}
	}
	if e.Outcome != OutcomeSucceeded && a.Verdict == nil {
		if e.Evidence.Message == "" {
			e.Evidence.Message = e.Evidence.Summary()
		}
		e.Evidence.Message = sentence("on "+agent, e.Evidence.Message)
		if j.Intent == NoIntent && e.Outcome == OutcomeStopped && e.Failure == NoFailure {
			// Its host stopped it without being asked.
			e.Failure = AgentLost
		}
		a.Verdict = &e
	}
	if a.running() == 0 {
		last := e
		if a.Verdict != nil {
			last = *a.Verdict
		}
		if j.Intent == IntentGang {
			j.Intent = NoIntent
		}
		return j.End(a, last, p, rng, now)
	}
	if a.Verdict != nil {
		j = j.Stop(&a, IntentGang, "a member of its gang has ended: "+a.Verdict.Evidence.Message, now)
	}
	return j, a, true
}

// running counts the parts that are not over.
func (a *Attempt) running() int {
	n := 0
	if !a.FirstEnded {
		n++
	}
	for i := range a.Others {
		if !a.Others[i].Ended {
			n++
		}
	}
	return n
}
