package job

// State is where a job is in its life.
type State uint8

// The states. Terminal states are absorbing.
const (
	StateUnknown State = iota
	Queued
	Starting
	Running
	Stopping
	Paused
	Succeeded
	Failed
	Cancelled
)

var stateNames = [...]string{"UNKNOWN", "QUEUED", "STARTING", "RUNNING", "STOPPING", "PAUSED", "SUCCEEDED", "FAILED", "CANCELLED"}

// String is the name used in storage and in messages.
func (s State) String() string { return name(stateNames[:], uint8(s)) }

// ParseState is the inverse of String; an unknown name yields StateUnknown.
func ParseState(s string) State { return State(index(stateNames[:], s)) }

// Terminal reports whether the job can never change again.
func (s State) Terminal() bool { return s >= Succeeded }

// Live reports whether an attempt of the job may hold devices.
func (s State) Live() bool { return s == Starting || s == Running || s == Stopping }

// Priority is the class of a job. A higher value goes first.
type Priority uint8

// The classes in rising order.
const (
	PriorityUnknown Priority = iota
	Batch
	Search
	Interactive
	Production
)

var priorityNames = [...]string{"UNKNOWN", "BATCH", "SEARCH", "INTERACTIVE", "PRODUCTION"}

// String is the name used in storage and in messages.
func (p Priority) String() string { return name(priorityNames[:], uint8(p)) }

// ParsePriority is the inverse of String.
func ParsePriority(s string) Priority { return Priority(index(priorityNames[:], s)) }

// Failure is the class of a failed attempt; it decides what happens next.
type Failure uint8

// The classes of the design's failure table, one by one.
const (
	NoFailure Failure = iota
	DeviceOOM
	NeighbourOOM
	HostOOM
	Crash
	Network
	DataUnavailable
	AgentLost
	Preempted
	Drained
	Diverged
	BadConfiguration
	Stalled
	TimeLimit
	failureCount
)

var failureNames = [failureCount]string{
	"NONE", "DEVICE_OOM", "NEIGHBOUR_OOM", "HOST_OOM", "CRASH", "NETWORK", "DATA_UNAVAILABLE",
	"AGENT_LOST", "PREEMPTED", "DRAINED", "DIVERGED", "BAD_CONFIGURATION", "STALLED", "TIME_LIMIT",
}

// String is the name used in storage and in messages.
func (f Failure) String() string { return name(failureNames[:], uint8(f)) }

// ParseFailure is the inverse of String; an unknown name is a Crash, because a
// failure that nobody can name must still be budgeted and never be free.
func ParseFailure(s string) Failure {
	if i := index(failureNames[:], s); i != 0 || s == failureNames[0] {
		return Failure(i)
	}
	return Crash
}

// Outcome is how an attempt ended.
type Outcome uint8

// The outcomes. Exited-because-told-to is Stopped, whatever the exit code was.
const (
	OutcomeUnknown Outcome = iota
	OutcomeSucceeded
	OutcomeFailed
	OutcomeStopped
)

var outcomeNames = [...]string{"UNKNOWN", "SUCCEEDED", "FAILED", "STOPPED"}

// String is the name used in storage and in messages.
func (o Outcome) String() string { return name(outcomeNames[:], uint8(o)) }

// ParseOutcome is the inverse of String.
func ParseOutcome(s string) Outcome { return Outcome(index(outcomeNames[:], s)) }

// Intent is why a live attempt was told to stop.
type Intent uint8

// The intents. A cancel outranks every other: see Job.stop.
const (
	NoIntent Intent = iota
	// IntentGang ends what is left of a gang when one of its members has ended.
	IntentGang
	IntentStall
	IntentTimeLimit
	IntentData
	IntentDrain
	IntentPreempt
	IntentPause
	IntentCancel
)

var intentNames = [...]string{"NONE", "GANG", "STALL", "TIME_LIMIT", "DATA", "DRAIN", "PREEMPT", "PAUSE", "CANCEL"}

// String is the name used in storage and in messages.
func (i Intent) String() string { return name(intentNames[:], uint8(i)) }

// ParseIntent is the inverse of String.
func ParseIntent(s string) Intent { return Intent(index(intentNames[:], s)) }

// PauseCause is who paused a job, which decides who may wake it.
type PauseCause uint8

// The causes. A job paused by a person never wakes by itself.
const (
	NotPaused PauseCause = iota
	PausedByPerson
	PausedByDataOutage
	PausedByDependency
)

var pauseNames = [...]string{"NONE", "PERSON", "DATA_OUTAGE", "DEPENDENCY"}

// String is the name used in storage and in messages.
func (p PauseCause) String() string { return name(pauseNames[:], uint8(p)) }

// ParsePauseCause is the inverse of String.
func ParsePauseCause(s string) PauseCause { return PauseCause(index(pauseNames[:], s)) }

// Phase is where an attempt is.
type Phase uint8

// The phases of an attempt.
const (
	PhaseUnknown Phase = iota
	Assigned
	Training
	Ending
	Ended
)

var phaseNames = [...]string{"UNKNOWN", "ASSIGNED", "TRAINING", "ENDING", "ENDED"}

// String is the name used in storage and in messages.
func (p Phase) String() string { return name(phaseNames[:], uint8(p)) }

// ParsePhase is the inverse of String.
func ParsePhase(s string) Phase { return Phase(index(phaseNames[:], s)) }

func name(names []string, i uint8) string {
	if int(i) < len(names) {
		return names[i]
	}
	return names[0]
}

func index(names []string, s string) uint8 {
	for i, n := range names {
		if n == s {
			return uint8(i)
		}
	}
	return 0
}
