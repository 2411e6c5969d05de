package postgres

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/ultrathink-pilot/trainyard/services/registry/internal/catalog"
)

func (t *Tx) policy(ctx context.Context, m lockedModel) (catalog.Policy, error) {
	var p *catalog.Policy
	if err := t.tx.QueryRow(ctx, `SELECT policy FROM models WHERE model_id = $1`, m.id).Scan(&p); err != nil {
		return catalog.Policy{}, fmt.Errorf("read policy: %w", err)
	}
	if p == nil {
		return catalog.Policy{}, nil
	}
	return *p, nil
}

// SetPolicy replaces a model's policy and records it.
func (t *Tx) SetPolicy(ctx context.Context, model string, p catalog.Policy, by By) error {
	m, err := lockModel(ctx, t.tx, model)
	if err != nil {
		return err
	}
	raw, err := json.Marshal(p)
	if err != nil {
		return fmt.Errorf("encode policy: %w", err)
	}
	if _, err := t.tx.Exec(ctx, `UPDATE models SET policy = $2 WHERE model_id = $1`, m.id, raw); err != nil {
		return fmt.Errorf("set policy: %w", err)
	}
	if _, err := t.append(ctx, m, catalog.HistoryEntry{Kind: catalog.HistoryPolicy, Gates: string(raw)}, by); err != nil {
		return err
	}
	return m.touch(ctx, t)
}

// RecordCheck records the outcome of a named check of a version.
func (t *Tx) RecordCheck(ctx context.Context, model string, version int32, c catalog.Check, by By) (catalog.Version, error) {
	m, _, err := t.lockVersion(ctx, model, version)
	if err != nil {
		return catalog.Version{}, err
	}
	if _, err := t.tx.Exec(ctx, `INSERT INTO model_version_checks (model_id, version, name, passed, detail, actor, create_time)
		VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (model_id, version, name) DO UPDATE
		SET passed = EXCLUDED.passed, detail = EXCLUDED.detail, actor = EXCLUDED.actor, create_time = EXCLUDED.create_time`,
		m.id, version, c.Name, c.Passed, c.Detail, by.Actor, t.now); err != nil {
		return catalog.Version{}, fmt.Errorf("record check: %w", err)
	}
	raw, err := json.Marshal([]catalog.GateResult{{Metric: c.Name, Compare: catalog.Checked, Passed: c.Passed, Reason: checkText(c)}})
	if err != nil {
		return catalog.Version{}, fmt.Errorf("encode check: %w", err)
	}
	return t.recorded(ctx, m, version, catalog.HistoryEntry{Version: version, Kind: catalog.HistoryCheck, Alias: c.Name, Gates: string(raw)}, by)
}

func checkText(c catalog.Check) string {
	if c.Passed {
		return c.Name + " passed: " + c.Detail
	}
	return c.Name + " failed: " + c.Detail
}

// Approve records an approval; a second one by the same person changes nothing.
func (t *Tx) Approve(ctx context.Context, model string, version int32, by By) (catalog.Version, error) {
	m, _, err := t.lockVersion(ctx, model, version)
	if err != nil {
		return catalog.Version{}, err
	}
	tag, err := t.tx.Exec(ctx, `INSERT INTO model_version_approvals (model_id, version, actor, reason, create_time)
		VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING`, m.id, version, by.Actor, by.Reason, t.now)
	if err != nil {
		return catalog.Version{}, fmt.Errorf("record approval: %w", err)
	}
	if tag.RowsAffected() == 0 {
		return readVersion(ctx, t.tx, model, version)
	}
	return t.recorded(ctx, m, version, catalog.HistoryEntry{Version: version, Kind: catalog.HistoryApproved}, by)
}

// recorded writes the history line of something that was said about a version.
func (t *Tx) recorded(ctx context.Context, m lockedModel, version int32, e catalog.HistoryEntry, by By) (catalog.Version, error) {
	if _, err := t.append(ctx, m, e, by); err != nil {
		return catalog.Version{}, err
	}
	if err := m.touch(ctx, t); err != nil {
		return catalog.Version{}, err
	}
	return readVersion(ctx, t.tx, m.name, version)
}
