package job

import (
	"fmt"
	"slices"
	"time"
)

// OnFailure is what becomes of a job when what it waits for can no longer happen.
type OnFailure uint8

// The policies, the default first.
const (
	// CancelDependent cancels the job, and so what waits for it in turn.
	CancelDependent OnFailure = iota
	// IgnoreFailure lets the job run all the same.
	IgnoreFailure
	// HoldDependent pauses the job until a person decides.
	HoldDependent
)

// DependencyState is how a dependency stands.
type DependencyState uint8

// The states.
const (
	DependencyWaiting DependencyState = iota
	DependencyMet
	DependencyFailed
)

// Dependency is one thing that must have happened before a job may start. One
// of Job, Array and Model is set.
type Dependency struct {
	// Job must have succeeded.
	Job string `json:"job,omitempty"`
	// Array is the id of an array of which every element must have succeeded.
	Array string `json:"array,omitempty"`
	// Model must have been promoted after the job was submitted.
	Model     string          `json:"model,omitempty"`
	OnFailure OnFailure       `json:"on_failure,omitempty"`
	State     DependencyState `json:"state,omitempty"`
	// Reason is for people.
	Reason string `json:"reason,omitempty"`
}

// String words what is waited for.
func (d Dependency) String() string {
	switch {
	case d.Model != "":
		return "a promotion of model " + d.Model
	case d.Array != "":
		return "array " + d.Array
	}
	return "job " + d.Job
}

// Blocked reports whether the job waits for a dependency.
func (j *Job) Blocked() bool {
	for i := range j.After {
		if j.After[i].State == DependencyWaiting {
			return true
		}
	}
	return false
}

// Waits words what a blocked job waits for.
func (j *Job) Waits() string {
	n, text := 0, ""
	for i := range j.After {
		if j.After[i].State != DependencyWaiting {
			continue
		}
		if n++; n == 1 {
			text = "waits for " + j.After[i].String()
		}
	}
	if n > 1 {
		text += fmt.Sprintf(" and %d more", n-1)
	}
	return text
}

// Settle records that the dependencies matched by which have happened, or can
// no longer happen. A final job, and one that waits for none of them, is left
// as it is.
func (j Job) Settle(which func(Dependency) bool, happened bool, why string, now time.Time) Job {
	if j.State.Terminal() {
		return j
	}
	changed, hold := false, false
	after := slices.Clone(j.After)
	for i := range after {
		d := &after[i]
		if d.State != DependencyWaiting || !which(*d) {
			continue
		}
		changed = true
		d.State, d.Reason = DependencyMet, why
		if happened || d.OnFailure == IgnoreFailure {
			continue
		}
		d.State = DependencyFailed
		if d.OnFailure == CancelDependent {
			j.After = after
			return j.finish(Cancelled, "what it waits for cannot happen any more: "+why, now)
		}
		hold = true
	}
	if !changed {
		return j
	}
	j.After, j.Updated = after, now
	switch {
	case hold && j.State == Queued:
		j.State, j.Pause, j.NotBefore = Paused, PausedByDependency, time.Time{}
		j.Reason = "held: what it waits for cannot happen any more: " + why + "; resume it to run it all the same, or cancel it"
	case j.State != Queued:
	case j.Blocked():
		j.Reason = j.Waits()
	default:
		j.Reason, j.Waiting = "its dependencies are met", now
	}
	return j
}

// waive takes the failed dependencies of a held job for met.
func (j *Job) waive(who string) {
	after := slices.Clone(j.After)
	for i := range after {
		if after[i].State == DependencyFailed {
			after[i].State = DependencyMet
			after[i].Reason += "; waived by " + who
		}
	}
	j.After = after
}

// Cycle finds a cycle among nodes, each with the names of those that it waits
// for, and lists it from a node back to the same node; nil means none. Names
// that are not nodes end nothing and are ignored.
func Cycle(order []string, after map[string][]string) []string {
	const (
		unseen = iota
		open
		done
	)
	mark := make(map[string]int, len(order))
	// An explicit stack: a chain of a thousand nodes must not need a deep one.
	type frame struct {
		node string
		next int
	}
	for _, root := range order {
		if mark[root] != unseen {
			continue
		}
		stack := []frame{{node: root}}
		mark[root] = open
		for len(stack) > 0 {
			f := &stack[len(stack)-1]
			if f.next == len(after[f.node]) {
				mark[f.node] = done
				stack = stack[:len(stack)-1]
				continue
			}
			to := after[f.node][f.next]
			f.next++
			if _, known := after[to]; !known {
				continue
			}
			switch mark[to] {
			case unseen:
				mark[to] = open
				stack = append(stack, frame{node: to})
			case open:
				cycle := []string{to}
				for i := len(stack) - 1; i >= 0 && stack[i].node != to; i-- {
					cycle = append(cycle, stack[i].node)
				}
				cycle = append(cycle, to)
				slices.Reverse(cycle)
				return cycle
			}
		}
	}
	return nil
}
