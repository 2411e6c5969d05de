package cycle

import (
	"slices"
	"time"

	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/cron"
	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/job"
)

// Array is one template and many jobs.
type Array struct {
	ID       string
	Revision uint64
	// Template is the specification as the person sent it: opaque here.
	Template []byte
	Count    int
	// Max is how many elements may hold devices at the same time; 0 means any number.
	Max       int
	Submitter string
	Created   time.Time
	// Broken says that an element has failed or was cancelled: what waits for
	// all of them need not wait any longer.
	Broken bool
}

// ArrayView is an array with the counts of its elements by state.
type ArrayView struct {
	Array
	Counts map[job.State]int
}

// Overlap says what happens at a fire time while the previous job is not final.
type Overlap uint8

// The policies, the default first.
const (
	ForbidOverlap Overlap = iota
	AllowOverlap
	ReplaceOverlap
)

var overlapNames = [...]string{"FORBID", "ALLOW", "REPLACE"}

// String is the name used in storage.
func (o Overlap) String() string { return overlapNames[min(int(o), len(overlapNames)-1)] }

// ParseOverlap is the inverse of String; an unknown name is the default.
func ParseOverlap(s string) Overlap { return Overlap(max(slices.Index(overlapNames[:], s), 0)) }

// CatchUp says what happens with fire times that passed while no scheduler ran.
type CatchUp uint8

// The policies, the default first.
const (
	CatchUpLatest CatchUp = iota
	CatchUpAll
	CatchUpNone
)

var catchUpNames = [...]string{"LATEST", "ALL", "NONE"}

// String is the name used in storage.
func (c CatchUp) String() string { return catchUpNames[min(int(c), len(catchUpNames)-1)] }

// ParseCatchUp is the inverse of String; an unknown name is the default.
func ParseCatchUp(s string) CatchUp { return CatchUp(max(slices.Index(catchUpNames[:], s), 0)) }

// Schedule submits jobs by the clock.
type Schedule struct {
	ID       string
	Name     string
	Revision uint64
	// Payload is the whole specification as the person sent it: opaque here.
	Payload []byte
	// Cron and Zone have been checked.
	Cron, Zone string
	Overlap    Overlap
	CatchUp    CatchUp
	Paused     bool
	Submitter  string
	Created    time.Time
	// Done is up to when fire times have been dealt with.
	Done time.Time
	// Fired is the newest fire time that was dealt with; zero means none. Result
	// says what came of it, Job is the newest job.
	Fired   time.Time
	Result  string
	Job     string
	Skipped int64
}

// Line is the parsed cron line.
func (s *Schedule) Line() (cron.Line, error) {
	zone, err := time.LoadLocation(s.Zone)
	if err != nil {
		return cron.Line{}, err
	}
	return cron.Parse(s.Cron, zone)
}

// Next lists up to n fire times after a time; none while it is paused.
func (s *Schedule) Next(after time.Time, n int) []time.Time {
	line, err := s.Line()
	if err != nil || s.Paused {
		return nil
	}
	var out []time.Time
	for range n {
		after = line.Next(after)
		if after.IsZero() {
			break
		}
		out = append(out, after)
	}
	return out
}

// DeviceQuota bounds a tenant's devices of one kind; an empty kind is every kind
// without a bound of its own.
type DeviceQuota struct {
	Kind    string  `json:"kind,omitempty"`
	Nominal float64 `json:"nominal"`
	// Borrow bounds what is taken beyond Nominal from the cohort; nil is no bound.
	Borrow *float64 `json:"borrow,omitempty"`
}

// Quota is what a tenant may use.
type Quota struct {
	Tenant   string
	Revision uint64
	Cohort   string
	// Weight is the fair share against others; 0 means 1.
	Weight  float64
	Devices []DeviceQuota
	// MaxJobs bounds the jobs that are not final; 0 means no bound.
	MaxJobs int
}
