package job

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// DeviceDemand asks for Count devices of one sort.
type DeviceDemand struct {
	// Count is the number of devices, at least 1.
	Count int `json:"count"`
	// Kind limits the device kind; several are joined by a bar ("A100|H100"), and
	// empty accepts any kind.
	Kind string `json:"kind,omitempty"`
	// Bytes reserves that much memory on each device, shared with others.
	// 0 asks for each device whole and alone.
	Bytes int64 `json:"bytes,omitempty"`
	// Profile asks for MIG instances of that profile ("1g.10gb"). Empty takes
	// whole GPUs, or a share of anything that is large enough.
	Profile string `json:"profile,omitempty"`
	// Topology says how the devices must lie to each other.
	Topology Topology `json:"topology,omitempty"`
	// Learn takes Bytes from what earlier runs were seen to use.
	Learn bool `json:"learn,omitempty"`
}

// Accepts reports whether a device of the kind may serve the demand.
func (g *DeviceDemand) Accepts(kind string) bool {
	if g.Kind == "" || g.Kind == kind {
		return true
	}
	rest, more := g.Kind, true
	for more {
		var one string
		one, rest, more = strings.Cut(rest, "|")
		if one == kind {
			return true
		}
	}
	return false
}

// Kinds lists the kinds that a demand names, each once; nil accepts any.
func (g *DeviceDemand) Kinds() []string {
	if g.Kind == "" {
		return nil
	}
	var out []string
	for _, k := range strings.Split(g.Kind, "|") {
		if k != "" && !slices.Contains(out, k) {
			out = append(out, k)
		}
	}
	return out
}

// Topology is how the devices of a demand must lie to each other.
type Topology uint8

// The topologies. A job on several hosts runs one process group on each, and its
// CPU and host memory are per host.
const (
	// SameHost is the default: all devices on one host, on one fast link where
	// that costs nothing.
	SameHost Topology = iota
	// SameLink wants all devices of the demand on one fast link (NVLink).
	SameLink
	// PackedHosts may span hosts, as few as possible: whole hosts first, the
	// remainder last.
	PackedHosts
	// SpreadHosts may span hosts, as many as possible.
	SpreadHosts
)

var topologyNames = [...]string{"SAME_HOST", "SAME_LINK", "PACKED_HOSTS", "SPREAD_HOSTS"}

// String is the name used in storage and in messages.
func (t Topology) String() string { return name(topologyNames[:], uint8(t)) }

// Spans reports whether the demand may be split over several hosts.
func (t Topology) Spans() bool { return t == PackedHosts || t == SpreadHosts }

// Demand is what an attempt needs from one host.
type Demand struct {
	Devices   []DeviceDemand    `json:"devices,omitempty"`
	CPUMillis int64             `json:"cpu_millis,omitempty"`
	HostBytes int64             `json:"host_bytes,omitempty"`
	Labels    map[string]string `json:"labels,omitempty"`
}

// Spec is the part of a job's specification that the scheduler decides on.
// Payload is the whole specification as the person sent it: opaque here, handed
// to the agent unchanged.
type Spec struct {
	Name       string `json:"name"`
	Experiment string `json:"experiment,omitempty"`
	Tenant     string `json:"tenant,omitempty"`
	// Kin names the runs that are alike, for what is learned from them.
	Kin        string `json:"kin,omitempty"`
	Demand     Demand `json:"demand"`
	Batch      int    `json:"batch,omitempty"`
	Accumulate int    `json:"accumulate,omitempty"`
	MinBatch   int    `json:"min_batch,omitempty"`
	// UsualBatch is what a batch of 0 most likely means to the runtime: where
	// halving starts when the person left the choice open. 0 means unknown.
	UsualBatch int           `json:"usual_batch,omitempty"`
	RunLimit   time.Duration `json:"run_limit,omitempty"`
	StallLimit time.Duration `json:"stall_limit,omitempty"`
	StopGrace  time.Duration `json:"stop_grace,omitempty"`
	// Budgets overrides Policy.Budgets per failure class.
	Budgets         map[string]int `json:"budgets,omitempty"`
	WaitForCapacity bool           `json:"wait_for_capacity,omitempty"`
	// Deadline is when the result is needed; zero means never.
	Deadline time.Time `json:"deadline,omitzero"`
	// Expect is how long it is expected to run; 0 means unknown.
	Expect  time.Duration `json:"expect,omitempty"`
	Payload []byte        `json:"-"`
}

// Checkpoint is the last checkpoint known to be committed. The zero value means none.
type Checkpoint struct {
	ID   string `json:"id,omitempty"`
	Step int64  `json:"step,omitempty"`
}

// Job is one job and all that its future depends on.
type Job struct {
	ID       string
	Revision uint64
	Spec     Spec
	// Priority may be changed by a person; Spec keeps no copy.
	Priority Priority
	// Place is the place in line. Smaller is older. Given once, never changed.
	Place     int64
	Submitter string
	Submitted time.Time
	Updated   time.Time
	// Waiting is since when the job last waits for a device.
	Waiting  time.Time
	Started  time.Time
	Finished time.Time

	State     State
	Reason    string
	Intent    Intent
	Pause     PauseCause
	NotBefore time.Time

	Batch      int
	Accumulate int
	// RateScale multiplies the learning rate; below 1 after a divergence.
	RateScale float64
	// Spent counts failures per class against the class's budget.
	Spent Spent
	// Free counts requeues that cost no retry since the last checkpoint.
	Free     int
	Attempts int
	// Fence is the fence of the newest attempt, 0 before the first.
	Fence      uint64
	Failure    Failure
	Checkpoint Checkpoint
	Warnings   []string
	// Poison says that the job was stopped because it brings down what runs it.
	Poison bool
	// Alone says that a learned or default reservation was too small once: it gets whole
	// devices instead.
	Alone bool
	// After is what must have happened before it may start.
	After  []Dependency
	Origin Origin
	// Trace is the W3C traceparent of the submit span.
	Trace string
}

// Origin says what a job is a part of. Empty ids mean nothing.
type Origin struct {
	// Array is the job array, Index the place in it, from 0.
	Array string
	Index int
	// Graph is the graph of jobs, Node the job's name there.
	Graph string
	Node  string
	// Schedule is the schedule that submitted it.
	Schedule string
}

// Spent is a count per failure class.
type Spent [failureCount]int

// Map gives the counts that are not zero, by class name.
func (s Spent) Map() map[string]int {
	m := map[string]int{}
	for f, n := range s {
		if n > 0 {
			m[Failure(f).String()] = n
		}
	}
	return m
}

// SpentOf is the inverse of Map.
func SpentOf(m map[string]int) Spent {
	var s Spent
	for k, n := range m {
		s[ParseFailure(k)] = n
	}
	return s
}

// Progress is what an agent last reported of an attempt. Every number is finite.
type Progress struct {
	Epoch          int64   `json:"epoch,omitempty"`
	TotalEpochs    int64   `json:"total_epochs,omitempty"`
	Step           int64   `json:"step,omitempty"`
	Reward         float64 `json:"reward,omitempty"`
	Objective      float64 `json:"objective,omitempty"`
	HasObjective   bool    `json:"has_objective,omitempty"`
	StepsPerSecond float64 `json:"steps_per_second,omitempty"`
	PeakBytes      int64   `json:"peak_bytes,omitempty"`
	// Checkpoint is the last one that the registry committed.
	Checkpoint Checkpoint `json:"checkpoint"`
	// Remaining is the trainer's own estimate; 0 means unknown.
	Remaining time.Duration `json:"remaining,omitempty"`
	// Reported is the agent's clock; for people only.
	Reported time.Time `json:"reported"`
}

// Same reports whether nothing but the time of the report differs.
func (p Progress) Same(q Progress) bool {
	q.Reported = p.Reported
	return p == q
}

// Evidence is what a failure class was decided from.
type Evidence struct {
	ExitCode int32    `json:"exit_code,omitempty"`
	Signal   string   `json:"signal,omitempty"`
	Message  string   `json:"message,omitempty"`
	Problems []string `json:"problems,omitempty"`
	Stderr   string   `json:"stderr,omitempty"`
	Samples  []int64  `json:"samples,omitempty"`
}

// Summary is the one line of the evidence that a person reads first.
func (e Evidence) Summary() string {
	switch {
	case e.Message != "" && len(e.Problems) > 0:
		return e.Message + " (" + strings.Join(e.Problems, "; ") + ")"
	case e.Message != "":
		return e.Message
	case len(e.Problems) > 0:
		return strings.Join(e.Problems, "; ")
	case e.Signal != "":
		return "killed by " + e.Signal
	case e.ExitCode != 0:
		return fmt.Sprintf("exit code %d", e.ExitCode)
	}
	return ""
}

// Share is what an attempt holds of one device.
type Share struct {
	Device string `json:"device"`
	Kind   string `json:"kind,omitempty"`
	// Bytes is the reservation without the per-process overhead.
	Bytes int64 `json:"bytes"`
	// Held is what is taken from the device: Bytes and the overhead.
	Held  int64 `json:"held"`
	Whole bool  `json:"whole,omitempty"`
}

// Member is the part of an attempt that one more host holds. CPU and host
// memory are the attempt's, on each of its hosts.
type Member struct {
	Agent  string  `json:"agent"`
	Shares []Share `json:"shares"`
	// Known says that the host has reported its part at least once.
	Known bool `json:"known,omitempty"`
	// Ended says that this part is over while others may still run.
	Ended bool `json:"ended,omitempty"`
}

// Attempt is one run of a job under one fence.
type Attempt struct {
	Job    string
	Number int
	Fence  uint64
	// Agent and Shares are the first host's part, rank 0 of a gang.
	Agent  string
	Shares []Share
	// Others are the parts of a gang's further hosts, by rank from 1.
	Others []Member
	// FirstEnded says that the first host's part of a gang is over; Verdict is
	// how the gang will end once every part is.
	FirstEnded bool
	Verdict    *Exit
	CPUMillis  int64
	HostBytes  int64
	Phase      Phase
	// Known says that the agent has reported this attempt at least once.
	Known   bool
	Created time.Time
	Started time.Time
	Ended   time.Time
	// Advanced is when, by the scheduler's clock, the step last moved.
	Advanced time.Time
	// Grace is what the trainer may take to stop; set when Ending.
	Grace      time.Duration
	Batch      int
	Accumulate int
	RateScale  float64
	// Restore is the newest committed checkpoint when the attempt was made.
	Restore  Checkpoint
	Progress Progress
	Outcome  Outcome
	Failure  Failure
	Evidence Evidence
	// Isolation is how hard the host enforces the reservation.
	Isolation string
	// Outage is since when, by the scheduler's clock, the trainer has no data.
	Outage time.Time
	// Why says why this device was chosen.
	Why string
	// Trace is the W3C traceparent of the placement span.
	Trace string
}

// Live reports whether the attempt may hold devices.
func (a Attempt) Live() bool { return a.Phase != Ended }

// New is an accepted job at its place in line.
func New(id string, spec Spec, priority Priority, place int64, now time.Time) Job {
	return Job{
		ID: id, Spec: spec, Priority: priority, Place: place, Submitted: now, Updated: now, Waiting: now,
		State: Queued, Reason: "accepted; waits in line",
		Batch: spec.Batch, Accumulate: max(spec.Accumulate, 1), RateScale: 1,
	}
}

// warn appends a warning, keeping the newest few: a job that is retried for
// weeks must not grow without bound.
func (j *Job) warn(text string) {
	const keep = 16
	w := append(slices.Clone(j.Warnings), text)
	if len(w) > keep {
		w = w[len(w)-keep:]
	}
	j.Warnings = w
}

// WarnOnce adds a warning about a subject unless there is one already.
func (j Job) WarnOnce(subject, text string, now time.Time) (Job, bool) {
	for _, w := range j.Warnings {
		if strings.HasPrefix(w, subject+": ") {
			return j, false
		}
	}
	j.warn(subject + ": " + text)
	j.Updated = now
	return j, true
}
