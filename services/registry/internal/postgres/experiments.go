package postgres

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/jackc/pgx/v5"

	"github.com/ultrathink-pilot/trainyard/libs/pg"
	"github.com/ultrathink-pilot/trainyard/services/registry/internal/catalog"
	"github.com/ultrathink-pilot/trainyard/services/registry/internal/filter"
	"github.com/ultrathink-pilot/trainyard/services/registry/internal/outbox"
)

// CreateExperiment makes an experiment and returns its number. An empty artifact root is the
// registry's own.
func (t *Tx) CreateExperiment(ctx context.Context, name, artifactRoot string, tags map[string]string) (int64, error) {
	var id int64
	err := t.tx.QueryRow(ctx, `INSERT INTO experiments (name, artifact_root, create_time, update_time) VALUES ($1, $3, $2, $2) RETURNING experiment_id`, name, t.now, artifactRoot).Scan(&id)
	if pg.IsUnique(err, "experiments_name_key") {
		return 0, catalog.Refuse(catalog.ProblemAlreadyExists, "experiments/"+name, "already exists")
	}
	if err != nil {
		return 0, fmt.Errorf("make experiment: %w", err)
	}
	for _, k := range catalog.SortedKeys(tags) {
		if err := t.SetExperimentTag(ctx, id, k, tags[k]); err != nil {
			return 0, err
		}
	}
	return id, nil
}

// GetExperiment returns an experiment in any lifecycle, with its tags.
func (s *Store) GetExperiment(ctx context.Context, id int64) (catalog.Experiment, error) {
	return s.oneExperiment(ctx, strconv.FormatInt(id, 10), `WHERE e.experiment_id = $1`, id)
}

// GetExperimentByName is GetExperiment by name.
func (s *Store) GetExperimentByName(ctx context.Context, name string) (catalog.Experiment, error) {
	return s.oneExperiment(ctx, name, `WHERE e.name = $1`, name)
}

func (s *Store) oneExperiment(ctx context.Context, subject, where string, arg any) (catalog.Experiment, error) {
	all, err := s.readExperiments(ctx, where, arg)
	if err != nil {
		return catalog.Experiment{}, err
	}
	if len(all) == 0 {
		return catalog.Experiment{}, catalog.NotFound("experiments/" + subject)
	}
	return all[0], nil
}

func (s *Store) readExperiments(ctx context.Context, where string, args ...any) ([]catalog.Experiment, error) {
	rows, err := s.pool.Query(ctx, `SELECT e.experiment_id, e.uid::text, e.name, e.lifecycle, e.artifact_root, e.create_time, e.update_time,
		COALESCE((SELECT jsonb_object_agg(t.key, t.value) FROM experiment_tags t WHERE t.experiment_id = e.experiment_id), '{}')
		FROM experiments e `+where, args...)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (catalog.Experiment, error) {
		var e catalog.Experiment
		err := row.Scan(&e.ID, &e.UID, &e.Name, &e.Lifecycle, &e.ArtifactRoot, &e.CreateTime, &e.UpdateTime, &e.Tags)
		return e, err
	})
}

// Page is an offset page of a search whose order the caller chose.
type Page struct{ Limit, Offset int }

// SearchExperiments returns experiments in one of the lifecycles that match.
func (s *Store) SearchExperiments(ctx context.Context, clauses []filter.Clause, orders []filter.Order, lifecycles []catalog.Lifecycle, page Page) ([]catalog.Experiment, error) {
	q := &query{columns: map[string]string{"name": "e.name", "experiment_id": "e.experiment_id",
		"creation_time": millis("e.create_time"), "last_update_time": millis("e.update_time")},
		tag: `(SELECT t.value FROM experiment_tags t WHERE t.experiment_id = e.experiment_id AND t.key = %s)`}
	q.add("e.lifecycle = ANY(" + q.arg(texts(lifecycles)) + ")")
	for _, c := range clauses {
		q.clause(c)
	}
	return s.readExperiments(ctx, q.where()+q.order(orders, "e.create_time DESC, e.experiment_id DESC")+q.page(page), q.args...)
}

// RenameExperiment renames an active experiment.
func (t *Tx) RenameExperiment(ctx context.Context, id int64, name string) error {
	tag, err := t.tx.Exec(ctx, `UPDATE experiments SET name = $2, update_time = $3 WHERE experiment_id = $1 AND lifecycle = 'ACTIVE'`, id, name, t.now)
	if pg.IsUnique(err, "experiments_name_key") {
		return catalog.Refuse(catalog.ProblemAlreadyExists, "experiments/"+name, "already exists")
	}
	if err != nil || tag.RowsAffected() > 0 {
		return err
	}
	return t.activeExperiment(ctx, id)
}

// activeExperiment refuses an experiment that is deleted or was never made.
func (t *Tx) activeExperiment(ctx context.Context, id int64) error {
	subject := "experiments/" + strconv.FormatInt(id, 10)
	var lifecycle catalog.Lifecycle
	if err := t.tx.QueryRow(ctx, `SELECT lifecycle FROM experiments WHERE experiment_id = $1 FOR SHARE`, id).Scan(&lifecycle); err != nil {
		return found(err, subject)
	}
	if lifecycle != catalog.Active {
		return catalog.Refuse(catalog.ProblemState, subject, "must be in the 'active' state")
	}
	return nil
}

// DeleteExperimentTag removes one tag; false when the experiment has none of that key.
func (t *Tx) DeleteExperimentTag(ctx context.Context, id int64, key string) (bool, error) {
	if err := t.activeExperiment(ctx, id); err != nil {
		return false, err
	}
	tag, err := t.tx.Exec(ctx, `DELETE FROM experiment_tags WHERE experiment_id = $1 AND key = $2`, id, key)
	if err != nil {
		return false, fmt.Errorf("delete tag: %w", err)
	}
	return tag.RowsAffected() == 1, nil
}

// SetExperimentLifecycle deletes or restores an experiment together with its runs. A run
// that was deleted on its own before comes back too, as with MLflow.
func (t *Tx) SetExperimentLifecycle(ctx context.Context, id int64, to catalog.Lifecycle) error {
	tag, err := t.tx.Exec(ctx, `UPDATE experiments SET lifecycle = $2::text, update_time = $3 WHERE experiment_id = $1 AND lifecycle <> $2::text`, id, to, t.now)
	if err := t.affected(tag.RowsAffected(), err, "experiments/"+strconv.FormatInt(id, 10)); err != nil {
		return err
	}
	_, err = t.tx.Exec(ctx, `UPDATE runs SET lifecycle = $2::text, update_time = $3, delete_time = CASE WHEN $2::text = 'DELETED' THEN $3::timestamptz END
		WHERE experiment_id = $1`, id, string(to), t.now)
	if err != nil {
		return fmt.Errorf("cascade to runs: %w", err)
	}
	if !t.mirrored {
		return nil
	}
	rows, err := t.tx.Query(ctx, `SELECT run_id FROM runs WHERE experiment_id = $1 ORDER BY run_id`, id)
	if err != nil {
		return err
	}
	runs, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return fmt.Errorf("read runs: %w", err)
	}
	entries := make([]outbox.Entry, 0, len(runs))
	for _, run := range runs {
		entries = append(entries, outbox.Lifecycle(outbox.RunLane(run), to))
	}
	return enqueue(ctx, t.tx, t.now, entries...)
}

// SetExperimentTag writes a tag; the last write wins.
func (t *Tx) SetExperimentTag(ctx context.Context, id int64, key, value string) error {
	if err := t.activeExperiment(ctx, id); err != nil {
		return err
	}
	_, err := t.tx.Exec(ctx, `INSERT INTO experiment_tags (experiment_id, key, value) VALUES ($1, $2, $3)
		ON CONFLICT (experiment_id, key) DO UPDATE SET value = EXCLUDED.value`, id, key, value)
	if err != nil {
		return fmt.Errorf("tag experiment: %w", err)
	}
	return nil
}

// affected turns an update that met no row into a not-found.
func (t *Tx) affected(rows int64, err error, subject string) error {
	if err != nil {
		return fmt.Errorf("update %s: %w", subject, err)
	}
	if rows == 0 {
		return catalog.NotFound(subject)
	}
	return nil
}

// found turns a query that met no row into a not-found.
func found(err error, subject string) error {
	if errors.Is(err, pgx.ErrNoRows) {
		return catalog.NotFound(subject)
	}
	return err
}
