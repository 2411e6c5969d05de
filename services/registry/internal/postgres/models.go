package postgres

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/ultrathink-pilot/trainyard/services/registry/internal/catalog"
)

// ListModels returns the models whose name starts with prefix, by name, without versions.
func (s *Store) ListModels(ctx context.Context, prefix string) ([]catalog.Model, error) {
	return readModels(ctx, s.pool, `WHERE NOT m.deleted AND starts_with(m.name, $1) ORDER BY m.name`, prefix)
}

// GetModel returns one model without its versions.
func (s *Store) GetModel(ctx context.Context, name string) (catalog.Model, error) {
	models, err := readModels(ctx, s.pool, `WHERE NOT m.deleted AND m.name = $1`, name)
	if err != nil {
		return catalog.Model{}, err
	}
	if len(models) == 0 {
		return catalog.Model{}, catalog.NotFound("models/" + name)
	}
	return models[0], nil
}

func readModels(ctx context.Context, q querier, where string, args ...any) ([]catalog.Model, error) {
	rows, err := q.Query(ctx, `SELECT m.name, m.description, m.revision, m.create_time, m.update_time,
		COALESCE((SELECT jsonb_object_agg(a.alias, a.version) FROM model_aliases a WHERE a.model_id = m.model_id), '{}'),
		COALESCE((SELECT jsonb_object_agg(t.key, t.value) FROM model_tags t WHERE t.model_id = m.model_id), '{}'), m.policy
		FROM models m `+where, args...)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (catalog.Model, error) {
		var m catalog.Model
		err := row.Scan(&m.Name, &m.Description, &m.Revision, &m.CreateTime, &m.UpdateTime, &m.Aliases, &m.Tags, &m.Policy)
		return m, err
	})
}

// Versions returns a model's versions that are not deleted, newest first.
func (s *Store) Versions(ctx context.Context, model string) ([]catalog.Version, error) {
	return readVersions(ctx, s.pool, `WHERE m.name = $1 AND NOT v.deleted ORDER BY v.version DESC`, model)
}

// GetVersion returns one version.
func (s *Store) GetVersion(ctx context.Context, model string, version int32) (catalog.Version, error) {
	return readVersion(ctx, s.pool, model, version)
}

func readVersion(ctx context.Context, q querier, model string, version int32) (catalog.Version, error) {
	return oneVersion(ctx, q, catalog.VersionSubject(model, version),
		`WHERE m.name = $1 AND v.version = $2 AND NOT v.deleted`, model, version)
}

// VersionInStage returns the newest version in a stage.
func (s *Store) VersionInStage(ctx context.Context, model string, stage catalog.Stage) (catalog.Version, error) {
	return oneVersion(ctx, s.pool, "models/"+model+"/stages/"+string(stage),
		`WHERE m.name = $1 AND v.stage = $2 AND NOT v.deleted ORDER BY v.version DESC LIMIT 1`, model, stage)
}

// VersionByAlias returns the version that an alias points to.
func (s *Store) VersionByAlias(ctx context.Context, model, alias string) (catalog.Version, error) {
	return oneVersion(ctx, s.pool, "models/"+model+"@"+alias,
		`JOIN model_aliases x ON x.model_id = v.model_id AND x.version = v.version WHERE m.name = $1 AND x.alias = $2`, model, alias)
}

func oneVersion(ctx context.Context, q querier, subject, where string, args ...any) (catalog.Version, error) {
	vs, err := readVersions(ctx, q, where, args...)
	if err != nil {
		return catalog.Version{}, err
	}
	if len(vs) == 0 {
		return catalog.Version{}, catalog.NotFound(subject)
	}
	return vs[0], nil
}

func readVersions(ctx context.Context, q querier, where string, args ...any) ([]catalog.Version, error) {
	rows, err := q.Query(ctx, `SELECT m.name, v.version, v.stage, COALESCE(v.run_id, ''), COALESCE(v.checkpoint_id, ''), v.source,
		v.description, v.trace_parent, v.revision, v.create_time, v.update_time, COALESCE(c.step, 0), COALESCE(c.metrics, '{}'),
		COALESCE(c.state, ''), COALESCE(c.manifest_sha256, ''), COALESCE(c.feature_schema, ''), COALESCE(v.logged_model_id, ''),
		ARRAY(SELECT a.alias FROM model_aliases a WHERE a.model_id = v.model_id AND a.version = v.version ORDER BY a.alias),
		COALESCE((SELECT jsonb_object_agg(t.key, t.value) FROM model_version_tags t WHERE t.model_id = v.model_id AND t.version = v.version), '{}'),
		COALESCE(c.evaluation_window, ''),
		COALESCE((SELECT jsonb_agg(jsonb_build_object('Name', k.name, 'Passed', k.passed, 'Detail', k.detail, 'Actor', k.actor, 'At', k.create_time) ORDER BY k.name)
			FROM model_version_checks k WHERE k.model_id = v.model_id AND k.version = v.version), '[]'),
		COALESCE((SELECT jsonb_agg(jsonb_build_object('Actor', k.actor, 'Reason', k.reason, 'At', k.create_time) ORDER BY k.create_time, k.actor)
			FROM model_version_approvals k WHERE k.model_id = v.model_id AND k.version = v.version), '[]')
		FROM model_versions v JOIN models m USING (model_id) LEFT JOIN checkpoints c ON c.checkpoint_id = v.checkpoint_id `+where, args...)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (catalog.Version, error) {
		var (
			v   catalog.Version
			raw json.RawMessage
		)
		err := row.Scan(&v.Model, &v.Version, &v.Stage, &v.RunID, &v.CheckpointID, &v.Source, &v.Description, &v.TraceParent,
			&v.Revision, &v.CreateTime, &v.UpdateTime, &v.Step, &raw, &v.CheckpointState, &v.ManifestDigest, &v.FeatureSchema, &v.LoggedModelID,
			&v.Aliases, &v.Tags, &v.EvaluationWindow, &v.Checks, &v.Approvals)
		if err != nil {
			return v, err
		}
		v.Metrics, err = decodeMetrics(raw)
		return v, err
	})
}

// lockedModel is a model row held FOR UPDATE: the lock under which stages, aliases and
// history move.
type lockedModel struct {
	id   int64
	name string
	last int32
}

// lockModel locks the model's row.
func lockModel(ctx context.Context, tx pgx.Tx, name string) (lockedModel, error) {
	m := lockedModel{name: name}
	err := tx.QueryRow(ctx, `SELECT model_id, last_version FROM models WHERE name = $1 AND NOT deleted FOR UPDATE`, name).Scan(&m.id, &m.last)
	if errors.Is(err, pgx.ErrNoRows) {
		return m, catalog.NotFound("models/" + name)
	}
	return m, err
}

// touch raises the model's revision and wakes its watchers when the transaction commits.
func (m lockedModel) touch(ctx context.Context, t *Tx) error {
	if _, err := t.tx.Exec(ctx, `UPDATE models SET revision = revision + 1, update_time = $2 WHERE model_id = $1`, m.id, t.now); err != nil {
		return fmt.Errorf("touch model: %w", err)
	}
	if _, err := t.tx.Exec(ctx, `SELECT pg_notify($1, $2)`, ModelChannel, m.name); err != nil {
		return fmt.Errorf("notify: %w", err)
	}
	return t.tellModel(ctx, m.id)
}

// EnsureModel makes the model if it does not exist; created says whether it did not.
func (t *Tx) EnsureModel(ctx context.Context, name string) (created bool, err error) {
	var id int64
	err = t.tx.QueryRow(ctx, `INSERT INTO models (name, create_time, update_time) VALUES ($1, $2, $2) ON CONFLICT DO NOTHING RETURNING model_id`, name, t.now).Scan(&id)
	if errors.Is(err, pgx.ErrNoRows) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("make model: %w", err)
	}
	return true, t.tellModel(ctx, id)
}

// By says who makes a change, why, and in which trace.
type By struct {
	Actor     string
	Reason    string
	RequestID string
	TraceID   string
}

// registerFromRun registers the run's best checkpoint as the next version of the model; a
// person may have registered that checkpoint before, and then its version stands. skipped says, for
// people, why there is no version.
func (t *Tx) registerFromRun(ctx context.Context, runID, model, trace string) (version int32, skipped string, err error) {
	var checkpoint string
	err = t.tx.QueryRow(ctx, `SELECT checkpoint_id FROM checkpoints WHERE run_id = $1 AND state = 'LIVE' AND NOT corrupt AND sharpe_valid
		ORDER BY sharpe DESC, step, checkpoint_id LIMIT 1 FOR SHARE`, runID).Scan(&checkpoint)
	if errors.Is(err, pgx.ErrNoRows) {
		return 0, "the run has no live checkpoint with a finite " + catalog.SharpeMetric, nil
	}
	if err != nil {
		return 0, "", fmt.Errorf("choose checkpoint: %w", err)
	}
	if _, err := t.EnsureModel(ctx, model); err != nil {
		return 0, "", err
	}
	m, err := lockModel(ctx, t.tx, model)
	if err != nil {
		return 0, "", err
	}
	err = t.tx.QueryRow(ctx, `SELECT version FROM model_versions WHERE model_id = $1 AND checkpoint_id = $2 AND NOT deleted`,
		m.id, checkpoint).Scan(&version)
	if err == nil {
		return version, "", nil
	}
	if !errors.Is(err, pgx.ErrNoRows) {
		return 0, "", err
	}
	version, err = t.addVersion(ctx, m, newVersion{runID: runID, checkpointID: checkpoint, trace: trace},
		By{Actor: "registry", Reason: "best checkpoint of a successful run"})
	return version, "", err
}

// RegisterVersion registers a LIVE checkpoint as the next version of a model, made if it
// does not exist. The same checkpoint registers once per model.
func (t *Tx) RegisterVersion(ctx context.Context, model, checkpointID string, by By) (catalog.Version, error) {
	if _, err := t.EnsureModel(ctx, model); err != nil {
		return catalog.Version{}, err
	}
	m, err := lockModel(ctx, t.tx, model)
	if err != nil {
		return catalog.Version{}, err
	}
	c, err := t.usable(ctx, checkpointID)
	if err != nil {
		return catalog.Version{}, err
	}
	var version int32
	err = t.tx.QueryRow(ctx, `SELECT version FROM model_versions WHERE model_id = $1 AND checkpoint_id = $2 AND NOT deleted`, m.id, checkpointID).Scan(&version)
	if errors.Is(err, pgx.ErrNoRows) {
		var trace string
		if err := t.tx.QueryRow(ctx, `SELECT trace_parent FROM runs WHERE run_id = $1`, c.RunID).Scan(&trace); err != nil {
			return catalog.Version{}, fmt.Errorf("read run: %w", err)
		}
		version, err = t.addVersion(ctx, m, newVersion{runID: c.RunID, checkpointID: checkpointID, trace: trace}, by)
	}
	if err != nil {
		return catalog.Version{}, err
	}
	return readVersion(ctx, t.tx, model, version)
}

type newVersion struct {
	runID, checkpointID, source, description, trace, loggedModel string
}

// addVersion inserts the next version and its first history line. The caller holds the
// model's lock.
func (t *Tx) addVersion(ctx context.Context, m lockedModel, v newVersion, by By) (int32, error) {
	version := m.last + 1
	_, err := t.tx.Exec(ctx, `INSERT INTO model_versions (model_id, version, run_id, checkpoint_id, source, description, trace_parent,
		logged_model_id, create_time, update_time) VALUES ($1, $2, NULLIF($3, ''), NULLIF($4, ''), $5, $6, $7, NULLIF($9, ''), $8, $8)`,
		m.id, version, v.runID, v.checkpointID, v.source, v.description, v.trace, t.now, v.loggedModel)
	if err != nil {
		return 0, fmt.Errorf("add version: %w", err)
	}
	if _, err := t.tx.Exec(ctx, `UPDATE models SET last_version = $2 WHERE model_id = $1`, m.id, version); err != nil {
		return 0, fmt.Errorf("count version: %w", err)
	}
	_, err = t.append(ctx, m, catalog.HistoryEntry{Version: version, Kind: catalog.HistoryRegistered, To: catalog.StageNone}, by)
	if err != nil {
		return 0, err
	}
	return version, m.touch(ctx, t)
}

// usable locks a checkpoint against the sweep and refuses one that is not LIVE and good.
func (t *Tx) usable(ctx context.Context, checkpointID string) (catalog.Checkpoint, error) {
	var one int
	err := t.tx.QueryRow(ctx, `SELECT 1 FROM checkpoints WHERE checkpoint_id = $1 FOR SHARE`, checkpointID).Scan(&one)
	if errors.Is(err, pgx.ErrNoRows) {
		return catalog.Checkpoint{}, catalog.NotFound("checkpoints/" + checkpointID)
	}
	if err != nil {
		return catalog.Checkpoint{}, fmt.Errorf("lock checkpoint: %w", err)
	}
	c, err := readCheckpoint(ctx, t.tx, checkpointID)
	if err != nil {
		return c, err
	}
	if c.State != catalog.Live || c.Corrupt {
		return c, catalog.Refuse(catalog.ProblemState, "checkpoints/"+c.ID, "is %s, not LIVE", describeState(c))
	}
	return c, nil
}
