package postgres

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/ultrathink-pilot/trainyard/services/registry/internal/catalog"
	"github.com/ultrathink-pilot/trainyard/services/registry/internal/outbox"
)

// importFence is the fence of an import's only attempt. It is not zero, so that MLflow
// clients cannot write to the run, and no job can reach it: the run's id is no job's.
const importFence = 1

// Import describes weights from outside. The ids are used as they are.
type Import struct {
	ID, RunID, CheckpointID        string
	Model, Experiment, DisplayName string
	// User brings it in.
	User             string
	Files            []catalog.File
	Provenance       map[string]string
	Metrics          map[string]float64
	FeatureSchema    string
	DataVersion      string
	EvaluationWindow string
}

// BeginImport makes the import's run and stages its checkpoint.
func (t *Tx) BeginImport(ctx context.Context, in Import) error {
	experiment, err := ensureExperiment(ctx, t.tx, in.Experiment, t.now)
	if err != nil {
		return err
	}
	if _, err := t.tx.Exec(ctx, `INSERT INTO runs (run_id, experiment_id, display_name, state, user_id, attempt, fence, start_time, create_time, update_time)
		VALUES ($1, $2, $3, 'RUNNING', $4, 1, $5, $6, $6, $6)`, in.RunID, experiment, in.DisplayName, in.User, importFence, t.now); err != nil {
		return fmt.Errorf("make the import's run: %w", err)
	}
	if _, err := t.tx.Exec(ctx, `INSERT INTO run_attempts (run_id, attempt, fence, open_time) VALUES ($1, 1, $2, $3)`, in.RunID, importFence, t.now); err != nil {
		return fmt.Errorf("open the import's attempt: %w", err)
	}
	tags := map[string]string{}
	for k, v := range in.Provenance {
		tags["import."+k] = v
	}
	if err := writePairs(ctx, t.tx, upsertTags, map[string]map[string]string{in.RunID: tags}); err != nil {
		return fmt.Errorf("write provenance: %w", err)
	}
	if err := t.tellRunMade(ctx, in.RunID, tags); err != nil {
		return err
	}
	if _, err := t.BeginCheckpoint(ctx, BeginCheckpoint{ID: in.CheckpointID, RunID: in.RunID, Attempt: 1, Fence: importFence, Files: in.Files}); err != nil {
		return err
	}
	metrics, err := encodeMetrics(in.Metrics)
	if err != nil {
		return fmt.Errorf("encode metrics: %w", err)
	}
	_, err = t.tx.Exec(ctx, `INSERT INTO imports (import_id, run_id, checkpoint_id, model_name, metrics, feature_schema, data_version, evaluation_window, create_time)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)`,
		in.ID, in.RunID, in.CheckpointID, in.Model, metrics, in.FeatureSchema, in.DataVersion, in.EvaluationWindow, t.now)
	if err != nil {
		return fmt.Errorf("record the import: %w", err)
	}
	return nil
}

// GetImport returns the ids of an import, and whether it was committed.
func (s *Store) GetImport(ctx context.Context, id string) (in Import, committed bool, err error) {
	in.ID = id
	err = s.pool.QueryRow(ctx, `SELECT run_id, checkpoint_id, model_name, version IS NOT NULL FROM imports WHERE import_id = $1`, id).
		Scan(&in.RunID, &in.CheckpointID, &in.Model, &committed)
	return in, committed, found(err, "imports/"+id)
}

// CommitImport makes the checkpoint LIVE, ends the run and registers the version. The caller
// has proven every object. A second commit returns the same version, and nothing stored.
func (t *Tx) CommitImport(ctx context.Context, id string, by By) (v catalog.Version, stored Stored, err error) {
	var (
		in      Import
		version *int32
		raw     json.RawMessage
	)
	err = t.tx.QueryRow(ctx, `SELECT run_id, checkpoint_id, model_name, metrics, feature_schema, data_version, evaluation_window, version
		FROM imports WHERE import_id = $1 FOR UPDATE`, id).
		Scan(&in.RunID, &in.CheckpointID, &in.Model, &raw, &in.FeatureSchema, &in.DataVersion, &in.EvaluationWindow, &version)
	if err != nil {
		return v, stored, found(err, "imports/"+id)
	}
	if version != nil {
		v, err = readVersion(ctx, t.tx, in.Model, *version)
		return v, stored, err
	}
	if in.Metrics, err = decodeMetrics(raw); err != nil {
		return v, stored, err
	}
	// Before the checkpoint, which is locked after models everywhere.
	run, err := t.lockRun(ctx, in.RunID, Guard{Fence: importFence, HasFence: true})
	if err != nil {
		return v, stored, err
	}
	if _, err := t.EnsureModel(ctx, in.Model); err != nil {
		return v, stored, err
	}
	if _, err := lockModel(ctx, t.tx, in.Model); err != nil {
		return v, stored, err
	}
	if _, stored, err = t.CommitCheckpoint(ctx, CommitCheckpoint{ID: in.CheckpointID, Fence: importFence, Metrics: in.Metrics,
		FeatureSchema: in.FeatureSchema, DataVersion: in.DataVersion, EvaluationWindow: in.EvaluationWindow}); err != nil {
		return v, stored, err
	}
	var points []catalog.MetricPoint
	for _, k := range catalog.SortedKeys(in.Metrics) {
		points = append(points, catalog.MetricPoint{Key: k, Time: t.now, Value: in.Metrics[k]})
	}
	p := pendingPoints{effects: t.effects}
	p.add(in.RunID, run.place, 1, points)
	if err := p.flush(ctx, t.tx, t.series); err != nil {
		return v, stored, err
	}
	if _, err := t.tx.Exec(ctx, `UPDATE run_attempts SET close_time = $2, outcome = 'SUCCEEDED' WHERE run_id = $1`, in.RunID, t.now); err != nil {
		return v, stored, fmt.Errorf("close the import's attempt: %w", err)
	}
	if _, err := t.tx.Exec(ctx, `UPDATE runs SET state = 'SUCCEEDED', end_time = $2, update_time = $2 WHERE run_id = $1`, in.RunID, t.now); err != nil {
		return v, stored, fmt.Errorf("close the import's run: %w", err)
	}
	if err := t.tell(ctx, func() []outbox.Entry {
		lane := outbox.RunLane(in.RunID)
		return append(outbox.Metrics(lane, points), outbox.Updated(lane, catalog.RunSucceeded, t.now, ""))
	}); err != nil {
		return v, stored, err
	}
	v, err = t.RegisterVersion(ctx, in.Model, in.CheckpointID, by)
	if err != nil {
		return v, stored, err
	}
	if _, err := t.tx.Exec(ctx, `UPDATE imports SET version = $2 WHERE import_id = $1`, id, v.Version); err != nil {
		return v, stored, fmt.Errorf("record the import: %w", err)
	}
	return v, stored, nil
}
