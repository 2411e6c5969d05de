// Package sweep carries a plan out against the registry and the store, in steps
// that can be cut anywhere. How far each checkpoint has come is stored before
// the next step; a sweep that finds itself half done asks the registry again
// rather than trusting what it knew before.
package sweep

import (
	"context"
	"time"

	"github.com/ultrathink-pilot/trainyard/services/checkpoint-janitor/internal/inventory"
	"github.com/ultrathink-pilot/trainyard/services/checkpoint-janitor/internal/retention"
)

// State of a sweep: OPEN -> RUNNING -> DONE, or OPEN -> REFUSED.
type State string

// The states.
const (
	Open    State = "OPEN"
	Running State = "RUNNING"
	Done    State = "DONE"
	Refused State = "REFUSED"
)

// Who started a sweep.
const (
	ByPerson   = "person"
	BySchedule = "schedule"
)

// Sweep is one run.
type Sweep struct {
	ID      string
	Trigger string
	Caller  string
	State   State
	// Confirmed says that a person accepts what the caps would hold back.
	Confirmed bool
	// PlanHash is the plan asked for; when open and empty, a fresh one is made.
	PlanHash string
	Grace    time.Duration
	// Catalogued is how many checkpoints the registry had when it started.
	Catalogued   int
	RefusalCodes []retention.RefusalCode
	Refusals     []string
	CreateTime   time.Time
	StartTime    time.Time
	EndTime      time.Time
}

// Work is one task of a sweep with what it needs to be judged and summed up.
type Work struct {
	retention.Item
	// Files that the checkpoint had when planned: no other content is deleted
	// for it, whatever the registry answers.
	Files []retention.File
	Bytes int64
	// FreedBytes is what its deletion freed; zero before.
	FreedBytes int64
	// Patterns of files that are dropped when it is archived.
	Patterns []string
	// ColdBytes is what its archive has added to the cold tier, DroppedBytes what was
	// given up with it.
	ColdBytes    int64
	DroppedBytes int64
	// Reason is the plan's, or the registry's when it refused.
	Reason string
}

// Result is the registry's word on one checkpoint.
type Result struct {
	ID     string
	Done   bool
	Reason string
}

// Archived is what became of one checkpoint's archive.
type Archived struct {
	Done bool
	// Reason says why not.
	Reason       string
	Bytes        int64
	ColdBytes    int64
	DroppedBytes int64
}

// Archiver takes one checkpoint to the cold tier. Patterns name files that are
// given up, for good once the grace is over.
type Archiver interface {
	Archive(ctx context.Context, id string, patterns []string, grace time.Duration) (Archived, error)
}

// Released is an object that the registry has let go.
type Released struct {
	Key   string
	Bytes int64
	Due   time.Time
}

// Orphan is an object of ours that nothing refers to.
type Orphan struct {
	Key   string
	Bytes int64
}

// Registry is the part of the registry that releases checkpoints. All calls are
// idempotent and answer one result per id.
type Registry interface {
	Tombstone(ctx context.Context, requestID, planHash string, ids []string) ([]Result, error)
	Restore(ctx context.Context, requestID string, ids []string) ([]Result, error)
	// BeginDelete also returns the keys of the objects that may go now.
	BeginDelete(ctx context.Context, requestID string, ids []string, grace time.Duration) ([]Result, []string, error)
	ConfirmDeleted(ctx context.Context, requestID string, ids []string) ([]Result, error)
	// ReleaseObjects gives orphans up; the results' ids are keys.
	ReleaseObjects(ctx context.Context, requestID string, orphans []Orphan, grace time.Duration) ([]Result, error)
	// Released lists what was let go and is not confirmed.
	Released(ctx context.Context) ([]Released, error)
	// InUse lists the keys that some checkpoint or artifact reads.
	InUse(ctx context.Context) (map[string]bool, error)
	ConfirmRemoved(ctx context.Context, requestID string, keys []string) error
}

// Objects deletes from the store, whichever tier the key is of. Deleting what is
// not there succeeds.
type Objects interface {
	Delete(ctx context.Context, key string) error
}

// Store is the sweep's memory.
type Store interface {
	LoadSweep(ctx context.Context, id string) (Sweep, bool, error)
	UnfinishedSweeps(ctx context.Context) ([]Sweep, error)
	LastRun(ctx context.Context) (start time.Time, catalogued int, err error)
	StartSweep(ctx context.Context, id, planHash string, grace time.Duration, catalogued int, work []Work, now time.Time) error
	RefuseSweep(ctx context.Context, id string, refusals []retention.Refusal, now time.Time) error
	FinishSweep(ctx context.Context, id string, now time.Time) error
	NoteError(ctx context.Context, id, text string) error
	OpenWork(ctx context.Context, id string, limit int) ([]Work, error)
	// Record stores how far work has come and the work that follows from it.
	Record(ctx context.Context, id string, done, follow []Work) error
	// DueOrphans lists orphans that have been seen for the whole grace, and have not
	// changed in it.
	DueOrphans(ctx context.Context, now time.Time, grace time.Duration) ([]Orphan, error)
}

// Planner makes and finds plans.
type Planner interface {
	// Fresh takes stock, decides and stores the plan.
	Fresh(ctx context.Context, now time.Time) (retention.Plan, inventory.Stock, error)
	// Stored returns a plan by its hash.
	Stored(ctx context.Context, hash string) (retention.Plan, bool, error)
	// Held says which of these contents the catalogue needs now: those of a
	// checkpoint that is not being deleted.
	Held(ctx context.Context, digests []string) (map[string]bool, error)
	// Policy that is in force.
	Policy() retention.Policy
}
