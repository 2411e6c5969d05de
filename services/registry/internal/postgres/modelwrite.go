package postgres

import (
	"context"
	"fmt"

	"github.com/ultrathink-pilot/trainyard/libs/pg"
	"github.com/ultrathink-pilot/trainyard/services/registry/internal/catalog"
)

// CreateModel makes a model; one of that name must not exist.
func (t *Tx) CreateModel(ctx context.Context, name, description string, tags map[string]string) error {
	created, err := t.EnsureModel(ctx, name)
	if err != nil {
		return err
	}
	if !created {
		return catalog.Refuse(catalog.ProblemAlreadyExists, "models/"+name, "already exists")
	}
	if description != "" {
		if err := t.DescribeModel(ctx, name, description); err != nil {
			return err
		}
	}
	for _, k := range catalog.SortedKeys(tags) {
		if err := t.SetModelTag(ctx, name, k, tags[k]); err != nil {
			return err
		}
	}
	return nil
}

// DescribeModel sets the description.
func (t *Tx) DescribeModel(ctx context.Context, name, description string) error {
	var id int64
	err := t.tx.QueryRow(ctx, `UPDATE models SET description = $2, revision = revision + 1, update_time = $3 WHERE name = $1 AND NOT deleted
		RETURNING model_id`, name, description, t.now).Scan(&id)
	if err != nil {
		return found(err, "models/"+name)
	}
	return t.tellModel(ctx, id)
}

// RenameModel renames a model; versions, aliases and history refer to it by number and stay.
func (t *Tx) RenameModel(ctx context.Context, name, to string) error {
	var id int64
	err := t.tx.QueryRow(ctx, `UPDATE models SET name = $2, revision = revision + 1, update_time = $3 WHERE name = $1 AND NOT deleted
		RETURNING model_id`, name, to, t.now).Scan(&id)
	if pg.IsUnique(err, "models_name_key") {
		return catalog.Refuse(catalog.ProblemAlreadyExists, "models/"+to, "already exists")
	}
	if err != nil {
		return found(err, "models/"+name)
	}
	return t.tellModel(ctx, id)
}

// DeleteModel deletes all versions and frees the name. A model that serves is refused: a
// name deleted in error must not take the production model's root with it.
func (t *Tx) DeleteModel(ctx context.Context, name string, by By) error {
	m, err := lockModel(ctx, t.tx, name)
	if err != nil {
		return err
	}
	stages, err := t.stages(ctx, m)
	if err != nil {
		return err
	}
	if v := holder(stages, catalog.StageProduction); v != 0 {
		return catalog.Refuse(catalog.ProblemRooted, "models/"+name, "version %d is in Production: archive it first", v)
	}
	for v := range stages {
		if err := t.DeleteVersion(ctx, name, v, by); err != nil {
			return err
		}
	}
	if _, err := t.tx.Exec(ctx, `UPDATE models SET deleted = true, update_time = $2 WHERE model_id = $1`, m.id, t.now); err != nil {
		return fmt.Errorf("delete model: %w", err)
	}
	return t.tellModel(ctx, m.id)
}

// SetModelTag writes a tag of a model; the last write wins.
func (t *Tx) SetModelTag(ctx context.Context, name, key, value string) error {
	m, err := lockModel(ctx, t.tx, name)
	if err != nil {
		return err
	}
	_, err = t.tx.Exec(ctx, `INSERT INTO model_tags (model_id, key, value) VALUES ($1, $2, $3)
		ON CONFLICT (model_id, key) DO UPDATE SET value = EXCLUDED.value`, m.id, key, value)
	if err != nil {
		return fmt.Errorf("tag model: %w", err)
	}
	return t.tellModel(ctx, m.id)
}

// DeleteModelTag removes a tag; one that is not there is no error.
func (t *Tx) DeleteModelTag(ctx context.Context, name, key string) error {
	m, err := lockModel(ctx, t.tx, name)
	if err != nil {
		return err
	}
	if _, err = t.tx.Exec(ctx, `DELETE FROM model_tags WHERE model_id = $1 AND key = $2`, m.id, key); err != nil {
		return fmt.Errorf("untag model: %w", err)
	}
	return t.tellModel(ctx, m.id)
}

// SourceVersion is a version registered from a URI instead of a checkpoint.
type SourceVersion struct {
	Source, RunID, Description string
	// LoggedModel is the MLflow 3 model that Source names, "" for others.
	LoggedModel string
	Tags        map[string]string
}

// AddSourceVersion registers the next version of an existing model from a URI.
func (t *Tx) AddSourceVersion(ctx context.Context, model string, in SourceVersion, by By) (catalog.Version, error) {
	m, err := lockModel(ctx, t.tx, model)
	if err != nil {
		return catalog.Version{}, err
	}
	trace := ""
	if in.RunID != "" {
		err := t.tx.QueryRow(ctx, `SELECT trace_parent FROM runs WHERE run_id = $1`, in.RunID).Scan(&trace)
		if err != nil {
			return catalog.Version{}, found(err, "runs/"+in.RunID)
		}
	}
	if in.LoggedModel != "" {
		if err := t.lockLoggedModel(ctx, in.LoggedModel); err != nil {
			return catalog.Version{}, err
		}
	}
	version, err := t.addVersion(ctx, m, newVersion{runID: in.RunID, source: in.Source, description: in.Description, trace: trace, loggedModel: in.LoggedModel}, by)
	if err != nil {
		return catalog.Version{}, err
	}
	for _, k := range catalog.SortedKeys(in.Tags) {
		if err := t.SetVersionTag(ctx, model, version, k, in.Tags[k]); err != nil {
			return catalog.Version{}, err
		}
	}
	return readVersion(ctx, t.tx, model, version)
}

// lockVersion locks a version's model and refuses a version that is not there.
func (t *Tx) lockVersion(ctx context.Context, model string, version int32) (lockedModel, catalog.Version, error) {
	m, err := lockModel(ctx, t.tx, model)
	if err != nil {
		return m, catalog.Version{}, err
	}
	v, err := readVersion(ctx, t.tx, model, version)
	return m, v, err
}

// DescribeVersion sets a version's description.
func (t *Tx) DescribeVersion(ctx context.Context, model string, version int32, description string) error {
	m, _, err := t.lockVersion(ctx, model, version)
	if err != nil {
		return err
	}
	if _, err := t.tx.Exec(ctx, `UPDATE model_versions SET description = $3, revision = revision + 1, update_time = $4
		WHERE model_id = $1 AND version = $2`, m.id, version, description, t.now); err != nil {
		return fmt.Errorf("describe version: %w", err)
	}
	return t.tellModel(ctx, m.id)
}

// DeleteVersion hides a version, drops its aliases and lets go of its source. Its number is
// never used again and its history stays. The version in Production is refused.
func (t *Tx) DeleteVersion(ctx context.Context, model string, version int32, by By) error {
	m, v, err := t.lockVersion(ctx, model, version)
	if err != nil {
		return err
	}
	if v.Stage == catalog.StageProduction {
		return catalog.Refuse(catalog.ProblemRooted, catalog.VersionSubject(model, version), "is in Production: archive it first")
	}
	if _, err := t.tx.Exec(ctx, `DELETE FROM model_aliases WHERE model_id = $1 AND version = $2`, m.id, version); err != nil {
		return fmt.Errorf("drop aliases: %w", err)
	}
	if _, err := t.tx.Exec(ctx, `UPDATE model_versions SET deleted = true, stage = 'NONE', source = 'REDACTED-SOURCE-PATH', revision = revision + 1, update_time = $3
		WHERE model_id = $1 AND version = $2`, m.id, version, t.now); err != nil {
		return fmt.Errorf("delete version: %w", err)
	}
	if _, err := t.append(ctx, m, catalog.HistoryEntry{Version: version, Kind: catalog.HistoryDeleted, From: v.Stage}, by); err != nil {
		return err
	}
	return m.touch(ctx, t)
}

// SetVersionTag writes a tag of a version; the last write wins.
func (t *Tx) SetVersionTag(ctx context.Context, model string, version int32, key, value string) error {
	m, _, err := t.lockVersion(ctx, model, version)
	if err != nil {
		return err
	}
	if _, err := t.tx.Exec(ctx, `INSERT INTO model_version_tags (model_id, version, key, value) VALUES ($1, $2, $3, $4)
		ON CONFLICT (model_id, version, key) DO UPDATE SET value = EXCLUDED.value`, m.id, version, key, value); err != nil {
		return fmt.Errorf("tag version: %w", err)
	}
	return t.tellModel(ctx, m.id)
}

// DeleteVersionTag removes a tag; one that is not there is no error.
func (t *Tx) DeleteVersionTag(ctx context.Context, model string, version int32, key string) error {
	m, _, err := t.lockVersion(ctx, model, version)
	if err != nil {
		return err
	}
	if _, err := t.tx.Exec(ctx, `DELETE FROM model_version_tags WHERE model_id = $1 AND version = $2 AND key = $3`, m.id, version, key); err != nil {
		return fmt.Errorf("untag version: %w", err)
	}
	return t.tellModel(ctx, m.id)
}

// SetAlias points an alias at a version. The two aliases that stand for stages are moved by
// moving the stage, so that the two never disagree.
func (t *Tx) SetAlias(ctx context.Context, model, alias string, version int32, by By) error {
	if stage, reserved := catalog.StageOfAlias(alias); reserved {
		_, _, err := t.Promote(ctx, Promotion{Model: model, Version: version, To: stage, By: by})
		return err
	}
	m, _, err := t.lockVersion(ctx, model, version)
	if err != nil {
		return err
	}
	tag, err := t.tx.Exec(ctx, `INSERT INTO model_aliases (model_id, alias, version) VALUES ($1, $2, $3)
		ON CONFLICT (model_id, alias) DO UPDATE SET version = EXCLUDED.version WHERE model_aliases.version <> EXCLUDED.version`, m.id, alias, version)
	if err != nil {
		return fmt.Errorf("set alias: %w", err)
	}
	if tag.RowsAffected() == 0 {
		return nil
	}
	if _, err := t.append(ctx, m, catalog.HistoryEntry{Version: version, Kind: catalog.HistoryAliasSet, Alias: alias}, by); err != nil {
		return err
	}
	return m.touch(ctx, t)
}

// DeleteAlias removes an alias; one that is not there is no error. Taking away a stage's
// alias archives its version.
func (t *Tx) DeleteAlias(ctx context.Context, model, alias string, by By) error {
	m, err := lockModel(ctx, t.tx, model)
	if err != nil {
		return err
	}
	var version int32
	err = t.tx.QueryRow(ctx, `SELECT version FROM model_aliases WHERE model_id = $1 AND alias = $2`, m.id, alias).Scan(&version)
	if pg.IsNoRows(err) {
		return nil
	}
	if err != nil {
		return err
	}
	if _, reserved := catalog.StageOfAlias(alias); reserved {
		_, _, err := t.Promote(ctx, Promotion{Model: model, Version: version, To: catalog.StageArchived, By: by})
		return err
	}
	if _, err := t.tx.Exec(ctx, `DELETE FROM model_aliases WHERE model_id = $1 AND alias = $2`, m.id, alias); err != nil {
		return fmt.Errorf("drop alias: %w", err)
	}
	if _, err := t.append(ctx, m, catalog.HistoryEntry{Version: version, Kind: catalog.HistoryAliasGone, Alias: alias}, by); err != nil {
		return err
	}
	return m.touch(ctx, t)
}
