// Package planning takes stock, decides, and keeps the plan with everything it
// was made from.
package planning

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/ultrathink-pilot/trainyard/services/checkpoint-janitor/internal/inventory"
	"github.com/ultrathink-pilot/trainyard/services/checkpoint-janitor/internal/postgres"
	"github.com/ultrathink-pilot/trainyard/services/checkpoint-janitor/internal/retention"
	"github.com/ultrathink-pilot/trainyard/services/checkpoint-janitor/internal/usage"
)

// Observer sees every stock-taking.
type Observer interface {
	Planned(plan retention.Plan, stock inventory.Stock)
}

// Planner makes plans from the registry, the store and one policy.
type Planner struct {
	store    *postgres.Store
	reader   inventory.Reader
	observer Observer
	policy   retention.Policy
	text     []byte

	mu   sync.Mutex
	used int64 // bytes in the bucket at the last stock-taking
}

// New makes a planner. The policy has been validated.
func New(store *postgres.Store, reader inventory.Reader, policy retention.Policy, text []byte, observer Observer) *Planner {
	return &Planner{store: store, reader: reader, policy: policy, text: text, observer: observer}
}

// Policy that is in force.
func (p *Planner) Policy() retention.Policy { return p.policy }

// Decide takes stock and decides without storing anything.
func (p *Planner) Decide(ctx context.Context, now time.Time) (retention.Plan, inventory.Stock, error) {
	stock, err := p.reader.Take(ctx, now)
	if err != nil {
		return retention.Plan{}, inventory.Stock{}, err
	}
	plan, err := retention.Decide(p.Policy(), stock.Inventory, now)
	if err != nil {
		return retention.Plan{}, inventory.Stock{}, err
	}
	p.mu.Lock()
	p.used = stock.BucketBytes
	p.mu.Unlock()
	p.observer.Planned(plan, stock)
	return plan, stock, nil
}

// Explain decides about one checkpoint as of now. Nothing is stored, and the
// store's size is that of the last stock-taking.
func (p *Planner) Explain(ctx context.Context, id string, now time.Time) (d retention.Decision, found bool, err error) {
	p.mu.Lock()
	used := p.used
	p.mu.Unlock()
	stock, err := p.reader.Peek(ctx, now, used)
	if err != nil {
		return d, false, err
	}
	plan, err := retention.Decide(p.Policy(), stock, now)
	if err != nil {
		return d, false, err
	}
	d, found = plan.Find(id)
	return d, found, nil
}

// Held says which of these contents a checkpoint has that is not being deleted. The registry is asked about
// them alone: a sweep asks before each of its batches, and the whole catalogue takes seconds.
func (p *Planner) Held(ctx context.Context, digests []string) (map[string]bool, error) {
	held := map[string]bool{}
	if len(digests) == 0 {
		return held, nil
	}
	holders, err := p.reader.Catalogue.Holders(ctx, digests)
	if err != nil {
		return nil, fmt.Errorf("ask the registry who holds what it released: %w", err)
	}
	for _, c := range holders {
		if c.State == retention.StateDeleting || c.State == retention.StateDeleted {
			continue
		}
		for _, f := range c.Files {
			held[f.Digest] = true
		}
	}
	return held, nil
}

// Record builds what is stored with a plan: its inputs and how it differs from
// the newest plan before it.
func (p *Planner) Record(ctx context.Context, plan retention.Plan, stock inventory.Stock) (postgres.PlanRecord, error) {
	packed, err := Pack(stock.Inventory)
	if err != nil {
		return postgres.PlanRecord{}, err
	}
	record := postgres.PlanRecord{Plan: plan, PolicyText: p.text, Inventory: packed}
	last, err := p.store.LatestPlan(ctx)
	if err != nil || last == "" || last == plan.Hash {
		return record, err
	}
	previous, found, err := p.store.LoadPlan(ctx, last)
	if err != nil || !found {
		return record, err
	}
	record.Changes = describe(plan.Diff(previous.Plan))
	return record, nil
}

// maxChanges keeps a diff readable; the plan itself has every line.
const maxChanges = 200

func describe(changes []retention.Change) []string {
	var out []string
	for i, c := range changes {
		if i == maxChanges {
			out = append(out, fmt.Sprintf("and %d more", len(changes)-i))
			break
		}
		from := "new"
		if c.From != 0 {
			from = c.From.String()
		}
		out = append(out, fmt.Sprintf("%s: was %s, %s", c.ID, from, c.Text))
	}
	return out
}

// Fresh takes stock, decides, and stores the plan and a usage sample.
func (p *Planner) Fresh(ctx context.Context, now time.Time) (retention.Plan, inventory.Stock, error) {
	plan, stock, err := p.Decide(ctx, now)
	if err != nil {
		return plan, stock, err
	}
	record, err := p.Record(ctx, plan, stock)
	if err != nil {
		return plan, stock, err
	}
	if err := p.store.SavePlan(ctx, record, now); err != nil {
		return plan, stock, fmt.Errorf("store the plan: %w", err)
	}
	return plan, stock, p.Sample(ctx, plan, stock)
}

// Sample stores the usage that a stock-taking found.
func (p *Planner) Sample(ctx context.Context, plan retention.Plan, stock inventory.Stock) error {
	classes := append(usage.Classes(plan), usage.Class{Name: usage.Total, Objects: int64(stock.Bucket.Listed), Bytes: stock.BucketBytes},
		usage.Class{Name: usage.ColdTier, Bytes: stock.ColdBytes})
	if err := p.store.AddSamples(ctx, plan.Now, classes); err != nil {
		return fmt.Errorf("store the usage: %w", err)
	}
	if err := p.store.SeeOrphans(ctx, stock.Orphans, plan.Now); err != nil {
		return fmt.Errorf("store the orphans: %w", err)
	}
	return nil
}

// Stored returns a plan by its hash.
func (p *Planner) Stored(ctx context.Context, hash string) (retention.Plan, bool, error) {
	r, found, err := p.store.LoadPlan(ctx, hash)
	return r.Plan, found, err
}

// Pack compresses an inventory for the record.
func Pack(v retention.Inventory) (_ []byte, err error) {
	var b bytes.Buffer
	z, err := zstd.NewWriter(&b, zstd.WithEncoderConcurrency(1))
	if err != nil {
		return nil, err
	}
	if err := inventory.WriteJSONL(z, v); err != nil {
		return nil, errors.Join(err, z.Close())
	}
	if err := z.Close(); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// Unpack is what the record's inventory was.
func Unpack(packed []byte) (_ retention.Inventory, err error) {
	z, err := zstd.NewReader(bytes.NewReader(packed), zstd.WithDecoderConcurrency(1))
	if err != nil {
		return retention.Inventory{}, err
	}
	defer z.Close()
	return inventory.ReadJSONL(z)
}
