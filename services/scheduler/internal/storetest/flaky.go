package storetest

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/cycle"
)

// ErrInjected is what a Flaky store says when it lies or fails.
var ErrInjected = errors.New("the connection broke (injected)")

// Flaky is a store over a bad network. Of its calls, a share fails before
// anything has happened, and a share is executed and then reported as failed:
// the worst that a network can do.
type Flaky struct {
	cycle.Store

	mu   sync.Mutex
	rng  *rand.Rand
	rate float64
}

// NewFlaky makes a store that fails at the given rate, half before and half after
// the execution, as the seed says.
func NewFlaky(s cycle.Store, rate float64, seed uint64) *Flaky {
	return &Flaky{Store: s, rng: rand.New(rand.NewPCG(seed, seed)), rate: rate}
}

// Heal ends the injections.
func (f *Flaky) Heal() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.rate = 0
}

func (f *Flaky) draw() (before, after bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.rng.Float64() >= f.rate {
		return false, false
	}
	before = f.rng.IntN(2) == 0
	return before, !before
}

func flaky[T any](f *Flaky, call func() (T, error)) (T, error) {
	var none T
	before, after := f.draw()
	if before {
		return none, ErrInjected
	}
	v, err := call()
	if err == nil && after {
		return none, ErrInjected
	}
	return v, err
}

// Lead takes the lead.
func (f *Flaky) Lead(ctx context.Context, holder string, ttl time.Duration) (uint64, error) {
	return flaky(f, func() (uint64, error) { return f.Store.Lead(ctx, holder, ttl) })
}

// Renew keeps the lead.
func (f *Flaky) Renew(ctx context.Context, term uint64) error {
	_, err := flaky(f, func() (struct{}, error) { return struct{}{}, f.Store.Renew(ctx, term) })
	return err
}

// Load reads the world.
func (f *Flaky) Load(ctx context.Context) (cycle.World, error) {
	return flaky(f, func() (cycle.World, error) { return f.Store.Load(ctx) })
}

// Commit writes changes.
func (f *Flaky) Commit(ctx context.Context, term uint64, c cycle.Changes) error {
	_, err := flaky(f, func() (struct{}, error) { return struct{}{}, f.Store.Commit(ctx, term, c) })
	return err
}

// Fences draws fences.
func (f *Flaky) Fences(ctx context.Context, n int) ([]uint64, error) {
	return flaky(f, func() ([]uint64, error) { return f.Store.Fences(ctx, n) })
}

// Receipts finds answers to requests.
func (f *Flaky) Receipts(ctx context.Context, ids []string) ([]cycle.Receipt, error) {
	return flaky(f, func() ([]cycle.Receipt, error) { return f.Store.Receipts(ctx, ids) })
}

// Record reads a job.
func (f *Flaky) Record(ctx context.Context, id string) (cycle.Record, error) {
	return flaky(f, func() (cycle.Record, error) { return f.Store.Record(ctx, id) })
}

// Since reads changes.
func (f *Flaky) Since(ctx context.Context, revision uint64, ids []string, limit int) ([]cycle.Record, error) {
	return flaky(f, func() ([]cycle.Record, error) { return f.Store.Since(ctx, revision, ids, limit) })
}
