package postgres

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/ultrathink-pilot/trainyard/services/checkpoint-janitor/internal/retention"
)

// PlanRecord is a plan with what it was made from.
type PlanRecord struct {
	Plan retention.Plan
	// PolicyText is the policy as its author wrote it.
	PolicyText []byte
	// Inventory is packed by the caller; empty once pruned.
	Inventory []byte
	// Changes since the plan before, for people.
	Changes []string
}

// SavePlan stores a plan in its own transaction. The same plan twice is one.
func (s *Store) SavePlan(ctx context.Context, r PlanRecord, now time.Time) error {
	return s.inTx(ctx, func(tx pgx.Tx) error { return Tx{tx}.SavePlan(ctx, r, now) })
}

// SavePlan stores a plan. The same plan twice is one.
func (t Tx) SavePlan(ctx context.Context, r PlanRecord, now time.Time) error {
	p := r.Plan
	changes := r.Changes
	if changes == nil {
		changes = []string{}
	}
	tag, err := t.tx.Exec(ctx, `
		INSERT INTO plans (plan_hash, policy_version, policy_hash, policy_text, inventory_hash, inventory, plan_time, tightened, changes, create_time)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
		ON CONFLICT (plan_hash) DO NOTHING`,
		p.Hash, p.Revision, p.PolicyHash, r.PolicyText, p.InventoryHash, r.Inventory, p.Now, p.Tightened, changes, now)
	if err != nil || tag.RowsAffected() == 0 {
		return err
	}
	columns := []string{"plan_hash", "checkpoint_id", "experiment", "run_id", "step", "state", "verdict", "codes", "texts", "rank", "rule",
		"size_bytes", "freed_bytes", "exclusive_bytes", "due_time"}
	_, err = t.tx.CopyFrom(ctx, pgx.Identifier{"decisions"}, columns, pgx.CopyFromSlice(len(p.Decisions), func(i int) ([]any, error) {
		d := p.Decisions[i]
		codes, texts := make([]string, len(d.Reasons)), make([]string, len(d.Reasons))
		for k, r := range d.Reasons {
			codes[k], texts[k] = string(r.Code), r.Text
		}
		return []any{p.Hash, d.ID, d.Experiment, d.RunID, d.Step, d.State.String(), d.Verdict.String(), codes, texts, int32(d.Rank), d.Rule,
			d.Bytes, d.FreedBytes, d.ExclusiveBytes, orNull(d.DueTime)}, nil
	}))
	return err
}

func orNull(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

func orZero(t *time.Time) time.Time {
	if t == nil {
		return time.Time{}
	}
	return t.UTC()
}

// LatestPlan is the hash of the newest plan; empty when there is none.
func (s *Store) LatestPlan(ctx context.Context) (string, error) {
	var hash string
	err := s.pool.QueryRow(ctx, `SELECT plan_hash FROM plans ORDER BY create_time DESC, plan_hash LIMIT 1`).Scan(&hash)
	if errors.Is(err, pgx.ErrNoRows) {
		return "", nil
	}
	return hash, wire(err)
}

// LoadPlan reads a stored plan; found is false when there is none.
func (s *Store) LoadPlan(ctx context.Context, hash string) (r PlanRecord, found bool, err error) {
	p := &r.Plan
	err = s.pool.QueryRow(ctx, `
		SELECT plan_hash, policy_version, policy_hash, policy_text, inventory_hash, inventory, plan_time, tightened, changes
		FROM plans WHERE plan_hash = $1`, hash).
		Scan(&p.Hash, &p.Revision, &p.PolicyHash, &r.PolicyText, &p.InventoryHash, &r.Inventory, &p.Now, &p.Tightened, &r.Changes)
	if errors.Is(err, pgx.ErrNoRows) {
		return PlanRecord{}, false, nil
	}
	if err != nil {
		return PlanRecord{}, false, wire(err)
	}
	p.Now = p.Now.UTC()
	rows, err := s.pool.Query(ctx, `
		SELECT checkpoint_id, experiment, run_id, step, state, verdict, codes, texts, rank, rule, size_bytes, freed_bytes, exclusive_bytes, due_time
		FROM decisions WHERE plan_hash = $1 ORDER BY checkpoint_id COLLATE "C"`, hash)
	if err != nil {
		return PlanRecord{}, false, wire(err)
	}
	p.Decisions, err = pgx.CollectRows(rows, scanDecision)
	if err != nil {
		return PlanRecord{}, false, wire(err)
	}
	return r, true, nil
}

func scanDecision(row pgx.CollectableRow) (retention.Decision, error) {
	var d retention.Decision
	var state, verdict string
	var codes, texts []string
	var due *time.Time
	err := row.Scan(&d.ID, &d.Experiment, &d.RunID, &d.Step, &state, &verdict, &codes, &texts, &d.Rank, &d.Rule,
		&d.Bytes, &d.FreedBytes, &d.ExclusiveBytes, &due)
	if err != nil {
		return d, err
	}
	d.State, d.Verdict, d.DueTime = retention.ParseState(state), retention.ParseVerdict(verdict), orZero(due)
	for i := range codes {
		d.Reasons = append(d.Reasons, retention.Reason{Code: retention.Code(codes[i]), Text: texts[i]})
	}
	return d, nil
}
