// Package lease is the agent's vocabulary: who holds what on this host, what
// the scheduler asked for, and how an attempt ended. It is pure; its values are
// what the journal stores, so JSON names are a disk format.
package lease

import (
	"errors"
	"fmt"
	"time"
)

// Key names one attempt under its fence.
type Key struct {
	JobID   string `json:"job_id"`
	Attempt uint32 `json:"attempt"`
	Fence   uint64 `json:"fence"`
}

// Directory is the attempt's directory name; the fence is in it, so that a
// later attempt never meets an earlier one's files.
func (k Key) Directory() string { return fmt.Sprintf("%s-%d-%d", k.JobID, k.Attempt, k.Fence) }

func (k Key) String() string { return fmt.Sprintf("%s#%d@%d", k.JobID, k.Attempt, k.Fence) }

// Claim is a reservation on one device.
type Claim struct {
	Device string `json:"device"`
	// Bytes reserved; 0 means the whole device.
	Bytes int64 `json:"bytes"`
}

// Assignment is an attempt that the scheduler wants to run here.
type Assignment struct {
	Key
	Claims []Claim `json:"claims"`
	// CPUMillis is thousandths of a core; 0 means one core.
	CPUMillis int64 `json:"cpu_millis"`
	// HostMemoryBytes bounds the process tree's host memory; 0 means no bound.
	HostMemoryBytes int64 `json:"host_memory_bytes"`
	// Resume asks for the job's newest good checkpoint.
	Resume bool `json:"resume"`
	// WarmStart is another job's checkpoint to begin from when nothing is resumed;
	// empty means none.
	WarmStart string `json:"warm_start,omitempty"`
	// Experiment that the job belongs to.
	Experiment string `json:"experiment,omitempty"`
	// Rendezvous of a gang over several hosts, or of one host's processes; nil means none.
	Rendezvous *Rendezvous `json:"rendezvous,omitempty"`
	// TraceParent is the W3C parent of all that the attempt does.
	TraceParent string `json:"traceparent"`
	// Payload is the assignment in its wire form, kept opaque here; it is
	// read again where the trainer is told what to run.
	Payload []byte `json:"payload"`
}

// Member is this host's place in a gang; 0 for the first and for a job on one
// host. Only that one speaks for the run: the others compute.
func (a *Assignment) Member() uint32 {
	if a.Rendezvous == nil {
		return 0
	}
	return a.Rendezvous.NodeRank
}

// Rendezvous is where the parts of a gang meet.
type Rendezvous struct {
	Address string `json:"address"`
	Port    uint32 `json:"port"`
	// NodeRank of this host among NodeCount hosts with Processes in all.
	NodeRank  uint32 `json:"node_rank"`
	NodeCount uint32 `json:"node_count"`
	Processes uint32 `json:"processes"`
}

// StopReason says why an attempt must not run any longer.
type StopReason string

// Reasons to stop. Fenced covers both the scheduler's word and the agent's own
// expiry; Expired is only the latter.
const (
	StopCancelled       StopReason = "cancelled"
	StopPaused          StopReason = "paused"
	StopPreempted       StopReason = "preempted"
	StopDrained         StopReason = "drained"
	StopFenced          StopReason = "fenced"
	StopExpired         StopReason = "expired"
	StopTimeLimit       StopReason = "time limit"
	StopStalled         StopReason = "stalled"
	StopDataUnavailable StopReason = "data unavailable"
	StopOverUse         StopReason = "memory over-use"
	StopQuota           StopReason = "its work directory is over its quota"
)

// Outcome of an attempt.
type Outcome string

// Outcomes.
const (
	Succeeded Outcome = "succeeded"
	Failed    Outcome = "failed"
	Stopped   Outcome = "stopped"
)

// Class of a failure; empty after a success.
type Class string

// Failure classes, as in job.v1.FailureClass.
const (
	ClassNone             Class = ""
	ClassOwnOOM           Class = "device oom, own fault"
	ClassNeighbourOOM     Class = "device oom, a neighbour's fault"
	ClassHostOOM          Class = "host oom"
	ClassCrash            Class = "crash"
	ClassNetwork          Class = "network"
	ClassDataUnavailable  Class = "data unavailable"
	ClassAgentLost        Class = "agent lost"
	ClassPreempted        Class = "preempted"
	ClassDrained          Class = "drained"
	ClassDiverged         Class = "diverged"
	ClassBadConfiguration Class = "bad configuration"
	ClassStalled          Class = "stalled"
	ClassTimeLimit        Class = "time limit"
)

// Evidence is what a class was decided from.
type Evidence struct {
	// ExitCode is -1 after a signal and when unknown.
	ExitCode int `json:"exit_code"`
	// Signal such as "SIGKILL"; empty means none.
	Signal   string   `json:"signal,omitempty"`
	Message  string   `json:"message,omitempty"`
	Problems []string `json:"problems,omitempty"`
	// StderrTail is the last lines of standard error.
	StderrTail string `json:"stderr_tail,omitempty"`
	// MemorySamples are bytes around the event, oldest first.
	MemorySamples []int64 `json:"memory_samples,omitempty"`
}

// Progress is an attempt's latest report.
type Progress struct {
	Epoch          uint32        `json:"epoch"`
	TotalEpochs    uint32        `json:"total_epochs"`
	Step           int64         `json:"step"`
	Reward         float64       `json:"reward"`
	StepsPerSecond float64       `json:"steps_per_second"`
	Remaining      time.Duration `json:"remaining"`
	// Objective is meaningful only with HasObjective: JSON has no NaN.
	Objective      float64   `json:"objective"`
	HasObjective   bool      `json:"has_objective"`
	PeakMemory     int64     `json:"peak_memory"`
	CheckpointStep int64     `json:"checkpoint_step"`
	CheckpointID   string    `json:"checkpoint_id"`
	ReportTime     time.Time `json:"report_time"`
}

// Finished is the trainer's own last word.
type Finished struct {
	Outcome  Outcome  `json:"outcome"`
	Class    Class    `json:"class,omitempty"`
	Message  string   `json:"message,omitempty"`
	Problems []string `json:"problems,omitempty"`
}

// OOM is a recognised out-of-memory event, attributed.
type OOM struct {
	Class   Class     `json:"class"`
	Device  string    `json:"device"`
	Message string    `json:"message"`
	Samples []int64   `json:"samples"`
	At      time.Time `json:"at"`
}

// Exit is the end of an attempt, kept until the scheduler has recorded it.
type Exit struct {
	Key
	Outcome  Outcome   `json:"outcome"`
	Class    Class     `json:"class,omitempty"`
	Evidence Evidence  `json:"evidence"`
	Progress *Progress `json:"progress,omitempty"`
	EndTime  time.Time `json:"end_time"`
}

// Errors that the registry's answers come down to. Whatever else goes wrong is
// worth another try.
var (
	// ErrFenced: a newer attempt owns the run. Nothing of this one matters any more.
	ErrFenced = errors.New("the lease is over: a newer attempt writes to the run")
	// ErrNotFound: there is no such checkpoint.
	ErrNotFound = errors.New("not found")
	// ErrRefused: the registry will never take this.
	ErrRefused = errors.New("refused")
	// ErrDigest: what the store holds is not what was announced.
	ErrDigest = errors.New("digest mismatch")
	// ErrNoParts: the store takes a file only as a whole.
	ErrNoParts = errors.New("the store takes no parts")
)

// File is a file of a checkpoint or run, by content.
type File struct {
	Path   string   `json:"path"`
	SHA256 [32]byte `json:"sha256"`
	Size   int64    `json:"size"`
}

// Chunk is a run of a file's bytes that is stored by itself.
type Chunk struct {
	SHA256 [32]byte
	Size   int64
}

// Transfer is a presigned request for one content. Its URL is a secret.
type Transfer struct {
	SHA256  [32]byte
	Size    int64
	Method  string
	URL     string
	Headers map[string]string
}

// Part is one part of a large file on its way to the store.
type Part struct {
	// Number counts from 1.
	Number uint32
	Size   int64
	CRC32C uint32
}

// Checkpoint is a committed checkpoint with the downloads of its contents.
type Checkpoint struct {
	ID    string
	Step  int64
	Files []File
	// Chunks are what files are stored as, by path and in their order; a file without
	// any is stored whole.
	Chunks    map[string][]Chunk
	Downloads []Transfer
}

// Restored is a checkpoint on local disk.
type Restored struct {
	ID        string `json:"id"`
	Step      int64  `json:"step"`
	Directory string `json:"directory"`
}
