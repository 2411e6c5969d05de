package cycle

import (
	"context"
	"errors"
	"time"

	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/job"
	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/learn"
)

// Errors of a Store. Anything else means that the outcome is unknown.
var (
	// ErrDeposed says that a newer scheduler has taken over.
	ErrDeposed = errors.New("another scheduler has taken over")
	// ErrLed says that another scheduler leads.
	ErrLed = errors.New("another scheduler leads at the moment")
	// ErrRefused says that a constraint refused a commit and nothing was written.
	// Constraints mirror what the pure packages guarantee: seeing it is a bug.
	ErrRefused = errors.New("the store refused the changes")
	// ErrNotFound says that the store has no such row.
	ErrNotFound = errors.New("not found")
)

// Record is a job with its attempts, oldest first. It is immutable once shared.
type Record struct {
	Job      job.Job
	Attempts []job.Attempt
	// shape of the demand, kept because every planning round asks for it.
	shape string
}

// Latest is the newest attempt, if there is one.
func (r Record) Latest() (job.Attempt, bool) {
	if len(r.Attempts) == 0 {
		return job.Attempt{}, false
	}
	return r.Attempts[len(r.Attempts)-1], true
}

// Receipt remembers the answer to a request, so that its repetition gets the
// same one and has no second effect.
type Receipt struct {
	ID       string
	Method   string
	Digest   []byte
	Response []byte
	At       time.Time
}

// Decision is one line of a job's history for people.
type Decision struct {
	Job     string
	At      time.Time
	Action  string
	Reason  string
	Attempt int
}

// Changes is what one transaction writes. A row appears once, in its last form.
type Changes struct {
	// Revision is the newest revision that any row carries.
	Revision    uint64
	NewJobs     []job.Job
	Jobs        []job.Job
	NewAttempts []job.Attempt
	Attempts    []job.Attempt
	Agents      []Agent
	Receipts    []Receipt
	Decisions   []Decision
	// Arrays, Schedules and Quotas are new or changed.
	Arrays        []Array
	Schedules     []Schedule
	GoneSchedules []string
	Quotas        []Quota
	GoneQuotas    []string
	Peaks         []learn.Peak
}

// Empty reports whether there is nothing to write.
func (c *Changes) Empty() bool {
	return len(c.NewJobs)+len(c.Jobs)+len(c.NewAttempts)+len(c.Attempts)+len(c.Agents)+len(c.Receipts)+len(c.Decisions)+
		len(c.Arrays)+len(c.Schedules)+len(c.GoneSchedules)+len(c.Quotas)+len(c.GoneQuotas)+len(c.Peaks) == 0
}

// World is what a scheduler needs to go on: all jobs that are not final, with
// their attempts and their arrays, all agents, schedules and quotas.
type World struct {
	Revision  uint64
	Records   []Record
	Agents    []Agent
	Arrays    []Array
	Schedules []Schedule
	Quotas    []Quota
	Peaks     []learn.Peak
}

// Page asks for jobs, newest first.
type Page struct {
	States           []job.State
	ExperimentPrefix string
	// Array, Graph, Schedule and Tenant limit the jobs; empty means all.
	Array, Graph, Schedule, Tenant string
	// Before is the place of the last job of the previous page; 0 starts.
	Before int64
	Limit  int
}

// Store is the durable side of the engine. Its suite is package storetest.
type Store interface {
	// Lead takes the lead when nobody has renewed it for ttl, or when the holder
	// is the same as before (it has restarted), and ErrLed otherwise. From its
	// return on, everything under older terms fails. The store's clock decides,
	// the only one that all schedulers share.
	Lead(ctx context.Context, holder string, ttl time.Duration) (term uint64, err error)
	// Renew keeps the lead, as every Commit does; ErrDeposed when the term is over.
	Renew(ctx context.Context, term uint64) error
	// Yield gives the lead up, so that another scheduler need not wait.
	Yield(ctx context.Context, term uint64) error
	// Load reads the world.
	Load(ctx context.Context) (World, error)
	// Commit writes changes atomically, or returns ErrDeposed when the term is
	// over, or ErrRefused when a constraint does not hold. After any other error
	// the outcome is unknown.
	Commit(ctx context.Context, term uint64, c Changes) error
	// Fences draws n fences. They grow over the life of the store, crashes included.
	Fences(ctx context.Context, n int) ([]uint64, error)
	// Receipts finds the answers to requests; those that are new are left out.
	Receipts(ctx context.Context, ids []string) ([]Receipt, error)
	// Record reads a job with its attempts; ErrNotFound when unknown.
	Record(ctx context.Context, id string) (Record, error)
	// List reads a page of jobs with their attempts.
	List(ctx context.Context, p Page) ([]Record, error)
	// Array reads an array with the counts of its elements; ErrNotFound when
	// unknown. Arrays reads a page, newest first, below an id; empty starts.
	Array(ctx context.Context, id string) (ArrayView, error)
	Arrays(ctx context.Context, before string, limit int) ([]ArrayView, error)
	// Since reads jobs with a revision above the given one, in its order. ids
	// limits the jobs; empty means all.
	Since(ctx context.Context, revision uint64, ids []string, limit int) ([]Record, error)
	// Decisions reads a job's history, newest first.
	Decisions(ctx context.Context, id string, limit int) ([]Decision, error)
	// Forget drops receipts written before one time, and before another what was
	// learned and the arrays that have no jobs any more.
	Forget(ctx context.Context, receipts, lessons time.Time) error
	// Ended reads the final jobs that ended before a time, oldest end first.
	Ended(ctx context.Context, before time.Time, limit int) ([]History, error)
	// Drop forgets final jobs with all their history; others are left alone.
	Drop(ctx context.Context, ids []string) error
}
