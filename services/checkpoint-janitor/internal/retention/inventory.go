package retention

import (
	"fmt"
	"math"
	"time"
)

// State is a checkpoint's place in the two-phase delete, as the registry has it.
type State uint8

// The states; a checkpoint only moves forward, except that a tombstone can be
// undone.
const (
	StateUnknown State = iota
	// StateUploading is announced but not committed.
	StateUploading
	// StateLive is committed and usable.
	StateLive
	// StateTombstoned is hidden; the bytes are there and it can be restored.
	StateTombstoned
	// StateDeleting is past the point of no return.
	StateDeleting
	// StateDeleted has no bytes any more.
	StateDeleted
	// StateCorrupt has bytes that do not match their digest: evidence, not a
	// checkpoint.
	StateCorrupt
)

var stateNames = [...]string{"unknown", "uploading", "live", "tombstoned", "deleting", "deleted", "corrupt"}

func (s State) String() string {
	if int(s) < len(stateNames) {
		return stateNames[s]
	}
	return fmt.Sprintf("state(%d)", uint8(s))
}

// ParseState is the inverse of [State.String]; unknown text gives StateUnknown.
func ParseState(text string) State {
	for i, name := range stateNames {
		if name == text {
			return State(i)
		}
	}
	return StateUnknown
}

// Metric is a number that may be absent. Absent and NaN are different facts:
// the first may still come, the second is a diverged run.
type Metric struct {
	Known bool
	Value float64
}

// Measured is a known metric, finite or not.
func Measured(v float64) Metric { return Metric{Known: true, Value: v} }

// Finite says whether the metric can be compared at all.
func (m Metric) Finite() bool {
	return m.Known && !math.IsNaN(m.Value) && !math.IsInf(m.Value, 0)
}

// ReferenceKind says what holds a checkpoint.
type ReferenceKind uint8

// Kinds of reference, strongest first; every one of them is a root.
const (
	RefUnknown ReferenceKind = iota
	// RefProduction is a version that serves.
	RefProduction
	// RefStaging is a version about to serve.
	RefStaging
	// RefRollback is one of the last versions that served.
	RefRollback
	// RefAlias is an alias of a version.
	RefAlias
	// RefVersion is any other registry version.
	RefVersion
	// RefLegalHold is a legal hold.
	RefLegalHold
	// RefPin is a person's pin.
	RefPin
	// RefRestored is an undo by a person; it holds until it expires.
	RefRestored
	// RefWarmStart is a job that starts, or once started, from this checkpoint.
	RefWarmStart
	// RefLiveRun is a run that may resume from this checkpoint.
	RefLiveRun
	// RefParent is a checkpoint that depends on this one.
	RefParent
	// RefOther is anything else that the catalogue calls a reference.
	RefOther
)

var refNames = [...]string{
	"unknown", "production", "staging", "rollback", "alias", "version", "legal_hold", "pin", "restored",
	"warm_start", "live_run", "parent", "other",
}

func (k ReferenceKind) String() string {
	if int(k) < len(refNames) {
		return refNames[k]
	}
	return fmt.Sprintf("reference(%d)", uint8(k))
}

// ParseReferenceKind is the inverse of [ReferenceKind.String]. A kind that we
// do not know still protects: it becomes RefOther.
func ParseReferenceKind(text string) ReferenceKind {
	for i, name := range refNames {
		if i > 0 && name == text {
			return ReferenceKind(i)
		}
	}
	return RefOther
}

// Reference is one thing that holds a checkpoint.
type Reference struct {
	Kind ReferenceKind
	// Detail names it for people: "version 7 of bull_specialist".
	Detail string
	// Until is when a restored hold ends; zero means it does not.
	Until time.Time
}

// File is one object of a checkpoint: a file, or a chunk of one. Objects are
// content-addressed, so several checkpoints may share one.
type File struct {
	// Digest is the content's SHA-256 in hex.
	Digest string
	// Bytes is the size.
	Bytes int64
}

// Checkpoint is what the registry knows about one checkpoint.
type Checkpoint struct {
	ID         string
	Experiment string
	RunID      string
	Step       int64
	CreateTime time.Time
	State      State
	// Uncommitted says that its upload was announced and never finished.
	Uncommitted bool
	// TombstoneTime is set while tombstoned.
	TombstoneTime time.Time
	// Sharpe is the validation Sharpe ratio.
	Sharpe Metric
	// Trades in the evaluation; zero when unknown.
	Trades int64
	// Window names the evaluation window: figures of different windows do not
	// compare. Empty is a window of its own.
	Window string
	// RunActive says that the run may still go on.
	RunActive bool
	// Resumable says that training can go on from it: it has optimizer state.
	Resumable bool
	// LastUse is the newest run, read or reference; zero when unknown.
	LastUse time.Time
	// ExperimentUse is the newest activity of any run of the experiment, also of runs
	// without checkpoints; zero when unknown.
	ExperimentUse time.Time
	// SharpeLow is the lower end of the Sharpe ratio's interval as it was reported.
	SharpeLow Metric
	// Archived says that the bytes are in the cold tier already.
	Archived bool
	// Parents are checkpoints without which this one cannot be read, or from
	// which its run was restored or warm-started.
	Parents    []string
	References []Reference
	Files      []File
}

// Bytes is the size of all files, shared ones included.
func (c Checkpoint) Bytes() int64 {
	var n int64
	for _, f := range c.Files {
		n += f.Bytes
	}
	return n
}

// Usage is how full the store is. A capacity of zero is unknown, and nothing
// tightens.
type Usage struct{ UsedBytes, CapacityBytes int64 }

// Fraction of the capacity in use; zero when the capacity is unknown.
func (u Usage) Fraction() float64 {
	if u.CapacityBytes <= 0 {
		return 0
	}
	return float64(u.UsedBytes) / float64(u.CapacityBytes)
}

// Inventory is the whole store at one instant. The order of the checkpoints
// means nothing.
type Inventory struct {
	Checkpoints []Checkpoint
	Usage       Usage
}

// uploadGrace is how long an unfinished upload may still be under way. It is no
// setting: it must exceed what the registry grants, and costs little.
const uploadGrace = 24 * time.Hour

func (c Checkpoint) unfinished() bool { return c.Uncommitted || c.State == StateUploading }

// recordProblem names what contradicts itself in a record; such a checkpoint
// is kept, because nothing said about it can be trusted. One bad row must not
// stop the whole sweep either.
func (c Checkpoint) recordProblem(now time.Time) string {
	switch {
	case c.ID == "":
		return "it has no id"
	case c.State == StateUnknown || c.State > StateCorrupt:
		return "its state is unknown"
	case c.CreateTime.IsZero():
		return "it has no creation time"
	case c.CreateTime.After(now.Add(clockTolerance)):
		return "it was created in the future"
	}
	for _, f := range c.Files {
		if f.Digest == "" {
			return "a file has no digest"
		}
		if f.Bytes < 0 {
			return "file " + f.Digest + " has a negative size"
		}
	}
	return ""
}

// clockTolerance is how far two hosts' clocks may differ.
const clockTolerance = 5 * time.Minute
