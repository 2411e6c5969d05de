package postgres

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/ultrathink-pilot/trainyard/services/registry/internal/catalog"
	"github.com/ultrathink-pilot/trainyard/services/registry/internal/filter"
)

// LoggedModel is a model as MLflow 3 logs it: with its own params, tags, metrics and files.
type LoggedModel struct {
	ID           string
	ExperimentID int64
	RunID        string
	Name         string
	Type         string
	// Status is PENDING, READY or UPLOAD_FAILED.
	Status        string
	Lifecycle     catalog.Lifecycle
	Params, Tags  map[string]string
	Metrics       []LoggedMetric
	Registrations []Registration
	CreateTime    time.Time
	UpdateTime    time.Time
}

// LoggedMetric is a metric of a logged model.
type LoggedMetric struct {
	catalog.MetricPoint
	ModelID, RunID             string
	DatasetName, DatasetDigest string
}

// Registration is a registered version that was made from a logged model.
type Registration struct {
	Model   string
	Version int32
}

// CreateLoggedModel makes a model that waits for its files.
func (t *Tx) CreateLoggedModel(ctx context.Context, m LoggedModel) error {
	var lifecycle catalog.Lifecycle
	subject := fmt.Sprintf("experiments/%d", m.ExperimentID)
	if err := t.tx.QueryRow(ctx, `SELECT lifecycle FROM experiments WHERE experiment_id = $1`, m.ExperimentID).Scan(&lifecycle); err != nil {
		return found(err, subject)
	}
	if lifecycle != catalog.Active {
		return catalog.Refuse(catalog.ProblemState, subject, "must be in the 'active' state")
	}
	if m.RunID != "" {
		var one int
		if err := t.tx.QueryRow(ctx, `SELECT 1 FROM runs WHERE run_id = $1`, m.RunID).Scan(&one); err != nil {
			return found(err, "runs/"+m.RunID)
		}
	}
	_, err := t.tx.Exec(ctx, `INSERT INTO logged_models (model_id, experiment_id, source_run_id, name, model_type, status, create_time, update_time)
		VALUES ($1, $2, NULLIF($3, ''), $4, $5, 'PENDING', $6, $6)`, m.ID, m.ExperimentID, m.RunID, m.Name, m.Type, t.now)
	if err != nil {
		return fmt.Errorf("make logged model: %w", err)
	}
	if err := t.LogModelParams(ctx, m.ID, m.Params); err != nil {
		return err
	}
	return t.SetLoggedModelTags(ctx, m.ID, m.Tags)
}

// lockLoggedModel locks an active logged model for a write.
func (t *Tx) lockLoggedModel(ctx context.Context, id string) error {
	var one int
	err := t.tx.QueryRow(ctx, `SELECT 1 FROM logged_models WHERE model_id = $1 AND lifecycle = 'ACTIVE' FOR NO KEY UPDATE`, id).Scan(&one)
	return found(err, "logged-models/"+id)
}

// FinishLoggedModel sets the final status.
func (t *Tx) FinishLoggedModel(ctx context.Context, id, status string) error {
	if err := t.lockLoggedModel(ctx, id); err != nil {
		return err
	}
	if _, err := t.tx.Exec(ctx, `UPDATE logged_models SET status = $2, update_time = $3 WHERE model_id = $1`, id, status, t.now); err != nil {
		return fmt.Errorf("finish logged model: %w", err)
	}
	return nil
}

// DeleteLoggedModel hides a model. One that a registered version stands on is refused.
func (t *Tx) DeleteLoggedModel(ctx context.Context, id string) error {
	if err := t.lockLoggedModel(ctx, id); err != nil {
		return err
	}
	var used bool
	if err := t.tx.QueryRow(ctx, `SELECT EXISTS (SELECT 1 FROM model_versions WHERE logged_model_id = $1 AND NOT deleted)`, id).Scan(&used); err != nil {
		return err
	}
	if used {
		return catalog.Refuse(catalog.ProblemRooted, "logged-models/"+id, "a registered model version was made from it")
	}
	if _, err := t.tx.Exec(ctx, `UPDATE logged_models SET lifecycle = 'DELETED', update_time = $2 WHERE model_id = $1`, id, t.now); err != nil {
		return fmt.Errorf("delete logged model: %w", err)
	}
	return nil
}

// SetLoggedModelTags writes tags; the last write wins.
func (t *Tx) SetLoggedModelTags(ctx context.Context, id string, tags map[string]string) error {
	if err := t.lockLoggedModel(ctx, id); err != nil {
		return err
	}
	return writePairs(ctx, t.tx, `INSERT INTO logged_model_tags (model_id, key, value) SELECT * FROM unnest($1::text[], $2::text[], $3::text[])
		ON CONFLICT (model_id, key) DO UPDATE SET value = EXCLUDED.value`, map[string]map[string]string{id: tags})
}

// DeleteLoggedModelTag removes a tag; false when the model has none of that key.
func (t *Tx) DeleteLoggedModelTag(ctx context.Context, id, key string) (bool, error) {
	if err := t.lockLoggedModel(ctx, id); err != nil {
		return false, err
	}
	tag, err := t.tx.Exec(ctx, `DELETE FROM logged_model_tags WHERE model_id = $1 AND key = $2`, id, key)
	if err != nil {
		return false, fmt.Errorf("untag logged model: %w", err)
	}
	return tag.RowsAffected() == 1, nil
}

// LogModelParams adds params, which never change.
func (t *Tx) LogModelParams(ctx context.Context, id string, params map[string]string) error {
	if err := t.lockLoggedModel(ctx, id); err != nil {
		return err
	}
	stored := map[string]string{}
	if err := eachPair(ctx, t.tx, `SELECT model_id, key, value FROM logged_model_params WHERE model_id = ANY($1)`, []string{id},
		func(_, k, v string) { stored[k] = v }); err != nil {
		return err
	}
	for _, k := range catalog.SortedKeys(params) {
		p := catalog.Param{Key: k, Value: params[k]}
		if _, old, bad := catalog.ConflictingParam(stored, []catalog.Param{p}); bad {
			return catalog.ParamConflict(id, p, old)
		}
	}
	return writePairs(ctx, t.tx, `INSERT INTO logged_model_params (model_id, key, value)
		SELECT * FROM unnest($1::text[], $2::text[], $3::text[]) ON CONFLICT DO NOTHING`, map[string]map[string]string{id: params})
}

// LogModelMetrics adds metrics of models; their points are logged to the run beside.
func (t *Tx) LogModelMetrics(ctx context.Context, runID string, metrics []LoggedMetric) error {
	for _, m := range metrics {
		if err := t.lockLoggedModel(ctx, m.ModelID); err != nil {
			return err
		}
		if _, err := t.tx.Exec(ctx, `INSERT INTO logged_model_metrics (model_id, key, step, time, value, run_id, dataset_name, dataset_digest)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT DO NOTHING`,
			m.ModelID, m.Key, m.Step, m.Time, m.Value, runID, m.DatasetName, m.DatasetDigest); err != nil {
			return fmt.Errorf("log model metric: %w", err)
		}
	}
	return nil
}

// Output is a model that a run made.
type Output struct {
	ModelID string
	Step    int64
}

// LogOutputs records the models that a run made.
func (t *Tx) LogOutputs(ctx context.Context, runID string, g Guard, outputs []Output) error {
	if _, err := t.lockRun(ctx, runID, g); err != nil {
		return err
	}
	for _, o := range outputs {
		if err := t.lockLoggedModel(ctx, o.ModelID); err != nil {
			return err
		}
		if _, err := t.tx.Exec(ctx, `INSERT INTO run_outputs (run_id, model_id, step) VALUES ($1, $2, $3)
			ON CONFLICT (run_id, model_id) DO UPDATE SET step = EXCLUDED.step`, runID, o.ModelID, o.Step); err != nil {
			return fmt.Errorf("log output: %w", err)
		}
	}
	return nil
}

// GetLoggedModel returns an active logged model.
func (s *Store) GetLoggedModel(ctx context.Context, id string) (LoggedModel, error) {
	all, err := s.readLoggedModels(ctx, ` WHERE m.model_id = $1 AND m.lifecycle = 'ACTIVE'`, id)
	if err != nil {
		return LoggedModel{}, err
	}
	if len(all) == 0 {
		return LoggedModel{}, catalog.NotFound("logged-models/" + id)
	}
	return all[0], nil
}

// SearchLoggedModels returns active logged models of the experiments that match.
func (s *Store) SearchLoggedModels(ctx context.Context, experiments []int64, clauses []filter.Clause, orders []filter.Order, page Page) ([]LoggedModel, error) {
	created, updated := millis("m.create_time"), millis("m.update_time")
	q := &query{
		columns: map[string]string{"name": "m.name", "model_id": "m.model_id", "model_type": "m.model_type", "status": "m.status", "source_run_id": "m.source_run_id", "source_run_id_digits": "replace(m.source_run_id, '-', '')",
			"creation_timestamp": created, "creation_time": created, "last_updated_timestamp": updated, "last_updated_time": updated},
		tag:   `(SELECT t.value FROM logged_model_tags t WHERE t.model_id = m.model_id AND t.key = %s)`,
		param: `(SELECT p.value FROM logged_model_params p WHERE p.model_id = m.model_id AND p.key = %s)`,
		metric: `(SELECT x.value FROM logged_model_metrics x WHERE x.model_id = m.model_id AND x.key = %s
			ORDER BY x.step DESC, x.time DESC, (x.value <> 'NaN') DESC, x.value DESC LIMIT 1)`,
	}
	q.add("m.experiment_id = ANY(" + q.arg(experiments) + ") AND m.lifecycle = 'ACTIVE'")
	for _, c := range clauses {
		q.clause(c)
	}
	return s.readLoggedModels(ctx, q.where()+q.order(orders, "m.create_time DESC, m.model_id")+q.page(page), q.args...)
}

func (s *Store) readLoggedModels(ctx context.Context, where string, args ...any) ([]LoggedModel, error) {
	rows, err := s.pool.Query(ctx, `SELECT m.model_id, m.experiment_id, COALESCE(m.source_run_id, ''), m.name, m.model_type, m.status, m.lifecycle, m.create_time, m.update_time
		FROM logged_models m`+where, args...)
	if err != nil {
		return nil, err
	}
	all, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (LoggedModel, error) {
		m := LoggedModel{Params: map[string]string{}, Tags: map[string]string{}}
		err := row.Scan(&m.ID, &m.ExperimentID, &m.RunID, &m.Name, &m.Type, &m.Status, &m.Lifecycle, &m.CreateTime, &m.UpdateTime)
		return m, err
	})
	if err != nil || len(all) == 0 {
		return nil, err
	}
	ids := make([]string, len(all))
	at := make(map[string]*LoggedModel, len(all))
	for i := range all {
		ids[i] = all[i].ID
		at[ids[i]] = &all[i]
	}
	err = errors.Join(
		eachPair(ctx, s.pool, `SELECT model_id, key, value FROM logged_model_params WHERE model_id = ANY($1)`, ids, func(id, k, v string) { at[id].Params[k] = v }),
		eachPair(ctx, s.pool, `SELECT model_id, key, value FROM logged_model_tags WHERE model_id = ANY($1)`, ids, func(id, k, v string) { at[id].Tags[k] = v }),
	)
	if err != nil {
		return nil, err
	}
	rows, err = s.pool.Query(ctx, `SELECT DISTINCT ON (x.model_id, x.key, x.run_id, x.dataset_name, x.dataset_digest)
		x.model_id, x.key, x.step, x.time, x.value, x.run_id, x.dataset_name, x.dataset_digest FROM logged_model_metrics x WHERE x.model_id = ANY($1)
		ORDER BY x.model_id, x.key, x.run_id, x.dataset_name, x.dataset_digest, x.step DESC, x.time DESC, (x.value <> 'NaN') DESC, x.value DESC`, ids)
	if err != nil {
		return nil, err
	}
	var m LoggedMetric
	if _, err := pgx.ForEachRow(rows, []any{&m.ModelID, &m.Key, &m.Step, &m.Time, &m.Value, &m.RunID, &m.DatasetName, &m.DatasetDigest}, func() error {
		at[m.ModelID].Metrics = append(at[m.ModelID].Metrics, m)
		return nil
	}); err != nil {
		return nil, fmt.Errorf("read model metrics: %w", err)
	}
	rows, err = s.pool.Query(ctx, `SELECT v.logged_model_id, n.name, v.version FROM model_versions v JOIN models n USING (model_id)
		WHERE v.logged_model_id = ANY($1) AND NOT v.deleted ORDER BY 1, 2, 3`, ids)
	if err != nil {
		return nil, err
	}
	var (
		id string
		r  Registration
	)
	_, err = pgx.ForEachRow(rows, []any{&id, &r.Model, &r.Version}, func() error {
		at[id].Registrations = append(at[id].Registrations, r)
		return nil
	})
	return all, err
}

// StageModelArtifact finds or makes the blob of a logged model's file.
func (t *Tx) StageModelArtifact(ctx context.Context, modelID string, f catalog.File) (Artifact, error) {
	if err := t.lockLoggedModel(ctx, modelID); err != nil {
		return Artifact{}, err
	}
	return t.stageArtifact(ctx, "", f)
}

// PublishModelArtifact makes a logged model's file visible; the caller has proven the object.
func (t *Tx) PublishModelArtifact(ctx context.Context, id, modelID string, f catalog.File, mediaType string) error {
	if err := t.lockLoggedModel(ctx, modelID); err != nil {
		return err
	}
	blob, err := t.blob(ctx, f)
	if err != nil {
		return err
	}
	if _, err := t.tx.Exec(ctx, `UPDATE blobs SET state = 'PRESENT', update_time = $2 WHERE blob_id = $1 AND state = 'PENDING'`, blob, t.now); err != nil {
		return fmt.Errorf("mark blob: %w", err)
	}
	if _, err := t.tx.Exec(ctx, `UPDATE artifacts SET state = 'REPLACED' WHERE logged_model_id = $1 AND path = $2 AND state = 'LIVE'`, modelID, f.Name); err != nil {
		return fmt.Errorf("replace artifact: %w", err)
	}
	_, err = t.tx.Exec(ctx, `INSERT INTO artifacts (artifact_id, logged_model_id, path, media_type, blob_id, state, create_time, commit_time)
		VALUES ($1, $2, $3, $4, $5, 'LIVE', $6, $6)`, id, modelID, f.Name, mediaType, blob, t.now)
	if err != nil {
		return fmt.Errorf("publish artifact: %w", err)
	}
	return nil
}

// ListModelArtifacts returns a logged model's files by path.
func (s *Store) ListModelArtifacts(ctx context.Context, modelID string) ([]Artifact, error) {
	rows, err := s.pool.Query(ctx, `SELECT `+artifactColumns+` AND a.logged_model_id = $1 ORDER BY a.path`, modelID)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, scanArtifact)
}
