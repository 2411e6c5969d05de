package postgres

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/ultrathink-pilot/trainyard/services/registry/internal/catalog"
)

// Promotion asks to move a version to a stage.
type Promotion struct {
	Model string
	// Version 0 means the one with the highest finite validation Sharpe, then the newest.
	Version int32
	To      catalog.Stage
	Gates   []catalog.Gate
	// ExpectedProduction, when set, must be the version in Production now (0 = none).
	ExpectedProduction *int32
	By                 By
}

// Promote moves a version under the model's row lock: gates, demotion of the former
// holder, aliases and history are one step. It returns the version afterwards and the
// history line of its move; a move to where it already stands returns its last line.
func (t *Tx) Promote(ctx context.Context, p Promotion) (catalog.Version, catalog.HistoryEntry, error) {
	m, err := lockModel(ctx, t.tx, p.Model)
	if err != nil {
		return catalog.Version{}, catalog.HistoryEntry{}, err
	}
	stages, err := t.stages(ctx, m)
	if err != nil {
		return catalog.Version{}, catalog.HistoryEntry{}, err
	}
	if p.ExpectedProduction != nil {
		if live := holder(stages, catalog.StageProduction); live != *p.ExpectedProduction {
			return catalog.Version{}, catalog.HistoryEntry{}, catalog.Refuse(catalog.ProblemEtag, "models/"+p.Model,
				"version %d is in Production, not %d", live, *p.ExpectedProduction)
		}
	}
	if p.Version == 0 {
		if p.Version, err = t.bestVersion(ctx, m); err != nil {
			return catalog.Version{}, catalog.HistoryEntry{}, err
		}
	}
	return t.move(ctx, m, stages, p, false)
}

// Rollback puts the previous Production version back. want is the target whose objects
// the caller has proven present; when it is not the target any more, nothing happens.
func (t *Tx) Rollback(ctx context.Context, model string, want int32, by By) (catalog.Version, catalog.HistoryEntry, error) {
	m, err := lockModel(ctx, t.tx, model)
	if err != nil {
		return catalog.Version{}, catalog.HistoryEntry{}, err
	}
	stages, err := t.stages(ctx, m)
	if err != nil {
		return catalog.Version{}, catalog.HistoryEntry{}, err
	}
	target, err := rollbackTarget(ctx, t.tx, model, stages)
	if err != nil {
		return catalog.Version{}, catalog.HistoryEntry{}, err
	}
	if target != want {
		return catalog.Version{}, catalog.HistoryEntry{}, catalog.Refuse(catalog.ProblemEtag, "models/"+model,
			"a concurrent promotion made version %d the rollback target, not %d", target, want)
	}
	return t.move(ctx, m, stages, Promotion{Model: model, Version: target, To: catalog.StageProduction, By: by}, true)
}

// RollbackTarget names the version that Rollback would put back.
func (s *Store) RollbackTarget(ctx context.Context, model string) (catalog.Version, error) {
	versions, err := s.Versions(ctx, model)
	if err != nil {
		return catalog.Version{}, err
	}
	stages := make(map[int32]catalog.Stage, len(versions))
	for _, v := range versions {
		stages[v.Version] = v.Stage
	}
	target, err := rollbackTarget(ctx, s.pool, model, stages)
	if err != nil {
		return catalog.Version{}, err
	}
	return s.GetVersion(ctx, model, target)
}

func rollbackTarget(ctx context.Context, q querier, model string, stages map[int32]catalog.Stage) (int32, error) {
	history, err := readHistory(ctx, q, model)
	if err != nil {
		return 0, err
	}
	if len(history) == 0 {
		return 0, catalog.NotFound("models/" + model)
	}
	target, ok := catalog.RollbackTarget(history, func(v int32) bool { _, ok := stages[v]; return ok })
	if !ok {
		return 0, catalog.Refuse(catalog.ProblemState, "models/"+model, "no earlier version was ever in Production")
	}
	return target, nil
}

func holder(stages map[int32]catalog.Stage, stage catalog.Stage) int32 {
	for v, s := range stages {
		if s == stage {
			return v
		}
	}
	return 0
}

func (t *Tx) stages(ctx context.Context, m lockedModel) (map[int32]catalog.Stage, error) {
	rows, err := t.tx.Query(ctx, `SELECT version, stage FROM model_versions WHERE model_id = $1 AND NOT deleted`, m.id)
	if err != nil {
		return nil, err
	}
	stages := map[int32]catalog.Stage{}
	var (
		v int32
		s catalog.Stage
	)
	_, err = pgx.ForEachRow(rows, []any{&v, &s}, func() error {
		stages[v] = s
		return nil
	})
	return stages, err
}

// bestVersion is the version whose checkpoint has the highest finite Sharpe, then the
// newest. Unlike a run's best checkpoint it prefers the newer one among equals: it was
// trained on newer data.
func (t *Tx) bestVersion(ctx context.Context, m lockedModel) (int32, error) {
	var version int32
	err := t.tx.QueryRow(ctx, `SELECT v.version FROM model_versions v JOIN checkpoints c USING (checkpoint_id)
		WHERE v.model_id = $1 AND NOT v.deleted AND c.sharpe_valid AND c.state = 'LIVE' AND NOT c.corrupt
		ORDER BY c.sharpe DESC, v.version DESC LIMIT 1`, m.id).Scan(&version)
	if errors.Is(err, pgx.ErrNoRows) {
		return 0, catalog.Refuse(catalog.ProblemState, "models/"+m.name, "no version has a live checkpoint with a finite %s", catalog.SharpeMetric)
	}
	return version, err
}

// move applies one planned transition. The caller holds the model's lock.
func (t *Tx) move(ctx context.Context, m lockedModel, stages map[int32]catalog.Stage, p Promotion, rollback bool) (catalog.Version, catalog.HistoryEntry, error) {
	none := catalog.HistoryEntry{}
	version, err := readVersion(ctx, t.tx, p.Model, p.Version)
	if err != nil {
		return version, none, err
	}
	serving := p.To == catalog.StageProduction || p.To == catalog.StageStaging
	if serving && version.CheckpointID != "" {
		if _, err := t.usable(ctx, version.CheckpointID); err != nil {
			return version, none, err
		}
	}
	results, passed, err := t.judge(ctx, m, stages, p, version, rollback)
	if err != nil {
		return version, none, err
	}
	if !passed {
		var missed []string
		for _, r := range results {
			if !r.Passed {
				missed = append(missed, r.Reason)
			}
		}
		return version, none, catalog.Refuse(catalog.ProblemGate, catalog.VersionSubject(p.Model, p.Version), "%s", strings.Join(missed, "; "))
	}
	// The promotion's span joins the trace of the job that made the version; the caller's
	// own trace is linked there. The history names the trace where the span is found.
	if id := catalog.TraceID(version.TraceParent); id != "" {
		p.By.TraceID = id
	}
	plan, refusal := catalog.PlanTransition(stages, p.Version, p.To)
	if refusal != nil {
		return version, none, refusal
	}
	if len(plan.Changes) == 0 {
		entry, err := lastEntryOf(ctx, t.tx, p.Model, p.Version)
		return version, entry, err
	}
	gates := ""
	if len(results) > 0 {
		raw, err := json.Marshal(results)
		if err != nil {
			return version, none, fmt.Errorf("encode gates: %w", err)
		}
		gates = string(raw)
	}
	var mine catalog.HistoryEntry
	for _, c := range plan.Changes {
		if _, err := t.tx.Exec(ctx, `UPDATE model_versions SET stage = $3, revision = revision + 1, update_time = $4
			WHERE model_id = $1 AND version = $2`, m.id, c.Version, c.To, t.now); err != nil {
			if restricted(err) {
				return version, none, catalog.Refuse(catalog.ProblemState, catalog.VersionSubject(p.Model, c.Version), "its checkpoint is not LIVE")
			}
			return version, none, fmt.Errorf("set stage: %w", err)
		}
		e := catalog.HistoryEntry{Version: c.Version, Kind: catalog.HistoryStage, From: c.From, To: c.To}
		if c.Version == p.Version {
			e.Gates, e.Rollback = gates, rollback
		}
		if e, err = t.append(ctx, m, e, p.By); err != nil {
			return version, none, err
		}
		if c.Version == p.Version {
			mine = e
		}
	}
	for _, a := range plan.DropAliases {
		if _, err := t.tx.Exec(ctx, `DELETE FROM model_aliases WHERE model_id = $1 AND alias = $2 AND version = $3`, m.id, a, p.Version); err != nil {
			return version, none, fmt.Errorf("drop alias: %w", err)
		}
	}
	for a, v := range plan.SetAliases {
		if _, err := t.tx.Exec(ctx, `INSERT INTO model_aliases (model_id, alias, version) VALUES ($1, $2, $3)
			ON CONFLICT (model_id, alias) DO UPDATE SET version = EXCLUDED.version`, m.id, a, v); err != nil {
			return version, none, fmt.Errorf("set alias: %w", err)
		}
	}
	if err := m.touch(ctx, t); err != nil {
		return version, none, err
	}
	version, err = readVersion(ctx, t.tx, p.Model, p.Version)
	return version, mine, err
}

// judge evaluates the gates of the request and, into Production, the model's policy. A
// rollback is made in a hurry, back to what met the policy before: it is not asked again.
func (t *Tx) judge(ctx context.Context, m lockedModel, stages map[int32]catalog.Stage, p Promotion, v catalog.Version, rollback bool) (results []catalog.GateResult, passed bool, err error) {
	var policy catalog.Policy
	if p.To == catalog.StageProduction && !rollback {
		if policy, err = t.policy(ctx, m); err != nil {
			return nil, false, err
		}
	}
	gates := append(slices.Clone(p.Gates), policy.Gates...)
	var production *catalog.Measured
	if live := holder(stages, catalog.StageProduction); live != 0 && live != v.Version && len(gates) > 0 {
		held, err := readVersion(ctx, t.tx, p.Model, live)
		if err != nil {
			return nil, false, err
		}
		production = &catalog.Measured{Metrics: held.Metrics, Window: held.EvaluationWindow}
	}
	results, passed = catalog.EvaluateGates(gates, catalog.Measured{Metrics: v.Metrics, Window: v.EvaluationWindow}, production)
	more, met := catalog.EvaluatePolicy(policy, v.Checks, v.Approvals, p.By.Actor)
	return append(results, more...), passed && met, nil
}

// append seals the entry after the model's last one and writes it. The caller holds the
// model's lock, so that there is one last one.
func (t *Tx) append(ctx context.Context, m lockedModel, e catalog.HistoryEntry, by By) (catalog.HistoryEntry, error) {
	var previous *catalog.HistoryEntry
	var last catalog.HistoryEntry
	err := t.tx.QueryRow(ctx, `SELECT sequence, hash FROM model_history WHERE model_id = $1 ORDER BY sequence DESC LIMIT 1`, m.id).
		Scan(&last.Sequence, &last.Hash)
	switch {
	case err == nil:
		previous = &last
	case !errors.Is(err, pgx.ErrNoRows):
		return e, fmt.Errorf("read last history line: %w", err)
	}
	e.ModelID, e.Model = m.id, m.name
	e.Actor, e.Reason, e.RequestID, e.TraceID, e.At = by.Actor, by.Reason, by.RequestID, by.TraceID, t.now
	e = e.Seal(previous)
	if e.PreviousHash == nil {
		e.PreviousHash = []byte{}
	}
	_, err = t.tx.Exec(ctx, `INSERT INTO model_history (model_id, sequence, version, kind, from_stage, to_stage, alias, actor, reason,
		request_id, trace_id, rollback, gates, at, previous_hash, hash)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16)`,
		e.ModelID, e.Sequence, e.Version, e.Kind, e.From, e.To, e.Alias, e.Actor, e.Reason,
		e.RequestID, e.TraceID, e.Rollback, e.Gates, e.At, e.PreviousHash, e.Hash)
	if err != nil {
		return e, fmt.Errorf("append history: %w", err)
	}
	return e, nil
}

// History returns a model's whole history, oldest first. It grows by one line per
// promotion: a page would save nothing, and a chain is checked from its start.
func (s *Store) History(ctx context.Context, model string) ([]catalog.HistoryEntry, error) {
	entries, err := readHistory(ctx, s.pool, model)
	if err == nil && len(entries) == 0 {
		if _, err := s.GetModel(ctx, model); err != nil {
			return nil, err
		}
	}
	return entries, err
}

func readHistory(ctx context.Context, q querier, model string) ([]catalog.HistoryEntry, error) {
	return queryHistory(ctx, q, `WHERE NOT m.deleted AND m.name = $1 ORDER BY h.sequence`, model)
}

func lastEntryOf(ctx context.Context, q querier, model string, version int32) (catalog.HistoryEntry, error) {
	entries, err := queryHistory(ctx, q, `WHERE NOT m.deleted AND m.name = $1 AND h.version = $2 ORDER BY h.sequence DESC LIMIT 1`, model, version)
	if err != nil || len(entries) == 0 {
		return catalog.HistoryEntry{}, err
	}
	return entries[0], nil
}

// HistoryPage returns up to limit lines newest first, below the sequence `before` (0 = from the end).
func (s *Store) HistoryPage(ctx context.Context, model string, before int64, limit int) ([]catalog.HistoryEntry, error) {
	if before == 0 {
		before = math.MaxInt64
	}
	return queryHistory(ctx, s.pool, `WHERE NOT m.deleted AND m.name = $1 AND h.sequence < $2 ORDER BY h.sequence DESC LIMIT $3`, model, before, limit)
}

func queryHistory(ctx context.Context, q querier, where string, args ...any) ([]catalog.HistoryEntry, error) {
	rows, err := q.Query(ctx, `SELECT h.model_id, m.name, h.sequence, h.version, h.kind, h.from_stage, h.to_stage, h.alias, h.actor, h.reason,
		h.request_id, h.trace_id, h.rollback, h.gates, h.at, h.previous_hash, h.hash
		FROM model_history h JOIN models m USING (model_id) `+where, args...)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (catalog.HistoryEntry, error) {
		var e catalog.HistoryEntry
		err := row.Scan(&e.ModelID, &e.Model, &e.Sequence, &e.Version, &e.Kind, &e.From, &e.To, &e.Alias, &e.Actor, &e.Reason,
			&e.RequestID, &e.TraceID, &e.Rollback, &e.Gates, &e.At, &e.PreviousHash, &e.Hash)
		e.At = e.At.UTC()
		return e, err
	})
}
