package catalog

import (
	"slices"
	"strings"
	"time"
)

// RunState is the life of a run as its attempts tell it: the newest attempt decides, and
// a further attempt opens a failed or stopped run again.
type RunState string

// Run states. The strings are stored; MLflow's names differ and are mapped at its edge.
const (
	RunScheduled RunState = "SCHEDULED"
	RunRunning   RunState = "RUNNING"
	RunSucceeded RunState = "SUCCEEDED"
	RunFailed    RunState = "FAILED"
	RunStopped   RunState = "STOPPED"
)

// Ended reports whether no attempt is open.
func (s RunState) Ended() bool {
	return s == RunSucceeded || s == RunFailed || s == RunStopped
}

// ResumeWindow is how long a failed or stopped run counts as one that may resume. The
// registry never hears that a job was given up: after a week nobody comes back for it.
const ResumeWindow = 7 * 24 * time.Hour

// MayResume reports whether another attempt may follow.
func MayResume(s RunState, end, now time.Time) bool {
	if s == RunSucceeded {
		return false
	}
	return !s.Ended() || now.Sub(end) < ResumeWindow
}

// Lifecycle is the soft-delete mark shared by experiments and runs.
type Lifecycle string

// Lifecycles.
const (
	Active  Lifecycle = "ACTIVE"
	Deleted Lifecycle = "DELETED"
)

// Experiment groups runs. ID 0 is "Default" and always exists, as MLflow clients expect.
type Experiment struct {
	ID        int64
	UID       string
	Name      string
	Lifecycle Lifecycle
	// ArtifactRoot is where its runs' files go, "" for the registry's own store.
	ArtifactRoot string
	Tags         map[string]string
	CreateTime   time.Time
	UpdateTime   time.Time
	// RunCount counts runs that are not deleted; only filled by reads that say so.
	RunCount int64
}

// Run is one job's record (ID = job id) or one MLflow client's run.
type Run struct {
	ID             string
	ExperimentID   int64
	ExperimentName string
	// ArtifactRoot is the experiment's.
	ArtifactRoot string
	DisplayName  string
	State        RunState
	Lifecycle    Lifecycle
	Tenant       string
	UserID       string
	ModelName    string
	Attempt      int32
	Fence        uint64
	// TraceParent is the W3C context of the job's own trace, so that a promotion
	// months later can still join it.
	TraceParent string
	// Spec is the submitted JobSpec in its wire encoding, opaque here; nil for runs of
	// MLflow clients.
	Spec         []byte
	AgentName    string
	FailureClass int32
	Params       map[string]string
	Tags         map[string]string
	Latest       []LatestMetric
	StartTime    time.Time
	EndTime      time.Time
	UpdateTime   time.Time
}

// LatestMetric is the newest value of one metric by (step, time, value).
type LatestMetric struct {
	Key   string
	Step  int64
	Time  time.Time
	Value float64
}

// Attempt is one attempt of a run under one fence.
type Attempt struct {
	Attempt            int32
	Fence              uint64
	Agent              string
	RestoredCheckpoint string
	RestoredStep       int64
	// HiddenAbove is the step above which this attempt's points are superseded by a
	// later attempt; nil while none is.
	HiddenAbove  *int64
	LastSequence uint64
	OpenTime     time.Time
	CloseTime    time.Time
	Outcome      string
	Detail       string
}

// TraceID returns the trace id of a W3C traceparent, "" when it is none.
func TraceID(traceparent string) string {
	parts := strings.Split(traceparent, "-")
	if len(parts) < 4 || len(parts[1]) != 32 {
		return ""
	}
	return parts[1]
}

// Param is one immutable run parameter.
type Param struct{ Key, Value string }

// BatchKey identifies an ingest batch for ever: a batch resent under the same key
// has no second effect.
type BatchKey struct {
	RunID    string
	Attempt  int32
	Fence    uint64
	Sequence uint64
}

// Batch is one durable unit of ingest. Opened comes first in an attempt, Closed last;
// params, tags and points may ride in any batch.
type Batch struct {
	Key    BatchKey
	Opened *RunOpened
	Params []Param
	Tags   map[string]string
	Points []MetricPoint
	Closed *RunClosed
}

// MetricPoint is one value of one metric. Value may be NaN or infinite: it is kept as it is.
type MetricPoint struct {
	Key   string
	Step  int64
	Time  time.Time
	Value float64
}

// RunOpened creates the run on its first attempt and raises the fence on every attempt.
type RunOpened struct {
	Experiment  string
	DisplayName string
	Tenant      string
	UserID      string
	ModelName   string
	Agent       string
	TraceParent string
	Spec        []byte
	Labels      map[string]string
	// RestoredCheckpoint is where the attempt resumed, "" for a fresh start. Points of
	// earlier attempts above its step are superseded; without it, all of them are.
	RestoredCheckpoint string
	StartTime          time.Time
}

// RunClosed ends an attempt; State is an ended one.
type RunClosed struct {
	State        RunState
	FailureClass int32
	Detail       string
	EndTime      time.Time
}

// BatchResult is what became of one batch: applied, a duplicate, or refused. A refusal
// is final for the batch and never for the stream.
type BatchResult struct {
	Duplicate bool
	Refusal   *Error
	// RegisteredModel and RegisteredVersion name the version a successful close made.
	RegisteredModel   string
	RegisteredVersion int32
	// TraceParent is the run's own trace, set together with RegisteredVersion.
	TraceParent string
	// ModelSkipped says why a successful close with a model name registered nothing.
	ModelSkipped string
}

// ConflictingParam returns the first param whose key already has another value, in
// stored or earlier in the same batch.
func ConflictingParam(stored map[string]string, params []Param) (Param, string, bool) {
	seen := make(map[string]string, len(params))
	for _, p := range params {
		old, ok := stored[p.Key]
		if !ok {
			old, ok = seen[p.Key]
		}
		if ok && old != p.Value {
			return p, old, true
		}
		seen[p.Key] = p.Value
	}
	return Param{}, "", false
}

// ParamConflict builds the refusal of a changed param.
func ParamConflict(runID string, p Param, old string) *Error {
	e := Refuse(ProblemParamConflict, "runs/"+runID, "param %q is %q and cannot become %q", p.Key, old, p.Value)
	e.Field, e.Param = "params", &ParamChange{p.Key, old, p.Value}
	return e
}

// Admission is the fence check: what the run holds against what a batch carries.
type Admission struct {
	Exists bool
	Fence  uint64
	// Opened and LastSequence describe the batch's own attempt, when its row exists.
	Opened       bool
	AttemptFence uint64
	LastSequence uint64
}

// Admit decides one batch. A duplicate is acked again; a stale fence is refused even
// when the batch was applied before, because the sender is a zombie either way and must
// stop. A gap in the sequence is fine (the spool numbers per agent), order is not optional.
func Admit(a Admission, b Batch) (duplicate bool, refusal *Error) {
	k := b.Key
	if a.Exists && k.Fence < a.Fence {
		return false, Fenced(k.RunID, k.Fence, a.Fence)
	}
	if a.Opened && a.AttemptFence != k.Fence {
		return false, Refuse(ProblemInvalid, "runs/"+k.RunID,
			"attempt %d was opened under fence %d, not %d", k.Attempt, a.AttemptFence, k.Fence)
	}
	if a.Opened && k.Sequence <= a.LastSequence {
		return true, nil
	}
	if !a.Opened && b.Opened == nil {
		return false, Refuse(ProblemNotOpen, "runs/"+k.RunID,
			"attempt %d has no RunOpened yet: its first batch must carry one", k.Attempt)
	}
	return false, nil
}

// SortedKeys returns the keys of m in order, so that locks are always taken in one order.
func SortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
