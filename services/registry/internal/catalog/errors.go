package catalog

import "fmt"

// Problem names the class of a refusal. The API layer maps each to exactly one
// status and reason, so this list is the registry's whole error vocabulary.
type Problem int

// The problems, each permanent for the request that met it unless said otherwise.
const (
	// ProblemNotFound: the named thing does not exist.
	ProblemNotFound Problem = iota + 1
	// ProblemAlreadyExists: a create met a live thing of that name.
	ProblemAlreadyExists
	// ProblemInvalid: a field is wrong; Field says which.
	ProblemInvalid
	// ProblemFenced: the write carries a fence lower than the run's.
	ProblemFenced
	// ProblemNotOpen: the attempt's RunOpened has not arrived. Worth a retry: the
	// spool that carries it drains beside the checkpoint calls.
	ProblemNotOpen
	// ProblemParamConflict: a param was logged again with another value.
	ProblemParamConflict
	// ProblemState: the thing is not in a state that allows the verb.
	ProblemState
	// ProblemEtag: the thing changed since the caller read it.
	ProblemEtag
	// ProblemGate: a promotion gate failed.
	ProblemGate
	// ProblemMissingObject: bytes that a commit or a rollback needs are not in the
	// object store, or are not the promised bytes.
	ProblemMissingObject
	// ProblemRooted: something still needs the checkpoint that a sweep named.
	ProblemRooted
)

// Error is a typed refusal: Problem for machines, the rest for people.
type Error struct {
	Problem Problem
	// Field is the dotted path of the offending request field, when there is one.
	Field string
	// Subject names the thing, e.g. "models/bull_specialist/versions/3".
	Subject string
	Detail  string
	// CurrentFence is set for ProblemFenced: the fence the run holds.
	CurrentFence uint64
	// Param is set for ProblemParamConflict.
	Param *ParamChange
	// Cause is for the log only.
	Cause error
}

// ParamChange is an attempt to change an immutable param.
type ParamChange struct{ Key, Old, New string }

// Unwrap gives errors.Is the hidden cause.
func (e *Error) Unwrap() error { return e.Cause }

func (e *Error) Error() string {
	switch {
	case e.Subject != "" && e.Field != "":
		return fmt.Sprintf("%s: %s: %s", e.Subject, e.Field, e.Detail)
	case e.Subject != "":
		return e.Subject + ": " + e.Detail
	case e.Field != "":
		return e.Field + ": " + e.Detail
	}
	return e.Detail
}

// Refuse builds an Error about subject.
func Refuse(p Problem, subject, format string, args ...any) *Error {
	return &Error{Problem: p, Subject: subject, Detail: fmt.Sprintf(format, args...)}
}

// NotFound builds the refusal for a thing that does not exist.
func NotFound(subject string) *Error {
	return Refuse(ProblemNotFound, subject, "does not exist")
}

// Fenced builds the refusal of a write whose fence is stale.
func Fenced(runID string, carried, current uint64) *Error {
	e := Refuse(ProblemFenced, "runs/"+runID, "fence %d is stale, the run is at %d", carried, current)
	e.CurrentFence = current
	return e
}
