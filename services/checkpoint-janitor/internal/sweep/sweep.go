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
	// Reason is the plan's, or the registry's when it refused.
	Reason string
}

// Result is the registry's word on one checkpoint.
type Result struct {
	ID     string
	Done   bool
	Reason string
}

// Registry is the part of the registry that releases checkpoints. All calls are
// idempotent and answer one result per id.
type Registry interface {
	Tombstone(ctx context.Context, requestID, planHash string, ids []string) ([]Result, error)
	Restore(ctx context.Context, requestID string, ids []string) ([]Result, error)
	// BeginDelete also returns the keys of the objects that may go now.
	BeginDelete(ctx context.Context, requestID string, ids []string, grace time.Duration) ([]Result, []string, error)
	ConfirmDeleted(ctx context.Context, requestID string, ids []string) ([]Result, error)
}

// Objects deletes from the store. Deleting what is not there succeeds.
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
}

// Planner makes and finds plans.
type Planner interface {
	// Fresh takes stock, decides and stores the plan.
	Fresh(ctx context.Context, now time.Time) (retention.Plan, inventory.Stock, error)
	// Stored returns a plan by its hash.
	Stored(ctx context.Context, hash string) (retention.Plan, bool, error)
	// Held lists the contents that the catalogue needs now: those of every
	// checkpoint that is not being deleted.
	Held(ctx context.Context) (map[string]bool, error)
	// Policy that is in force.
	Policy() retention.Policy
}
