package postgres

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/ultrathink-pilot/trainyard/services/registry/internal/catalog"
	"github.com/ultrathink-pilot/trainyard/services/registry/internal/outbox"
)

// Tags that carry what MLflow's clients keep in tags: one place for both doors.
const (
	// ParentTag holds the id of the run that a run is a part of.
	ParentTag = "mlflow.parentRunId"
	// NotesTag holds the notes for people.
	NotesTag = "mlflow.note.content"
	nameTag  = "mlflow.runName"
)

// RunEdit is what a person may change of a run; nil and empty leave as it is.
type RunEdit struct {
	DisplayName, Notes, Parent *string
	SetTags                    map[string]string
	DeleteTags                 []string
	Datasets                   []Input
}

// lockRunForPeople locks a run's row. A person needs no fence: what people change, no
// attempt writes.
func (t *Tx) lockRunForPeople(ctx context.Context, runID string) (state catalog.RunState, job bool, err error) {
	err = t.tx.QueryRow(ctx, `SELECT state, octet_length(spec) > 0 FROM runs WHERE run_id = $1 FOR NO KEY UPDATE`, runID).Scan(&state, &job)
	return state, job, found(err, "runs/"+runID)
}

// EditRun applies a person's changes in one step.
func (t *Tx) EditRun(ctx context.Context, runID string, e RunEdit) error {
	if _, _, err := t.lockRunForPeople(ctx, runID); err != nil {
		return err
	}
	set := map[string]string{}
	for k, v := range e.SetTags {
		set[k] = v
	}
	if e.DisplayName != nil {
		set[nameTag] = *e.DisplayName
	}
	if name, ok := set[nameTag]; ok {
		if _, err := t.tx.Exec(ctx, `UPDATE runs SET display_name = $2, update_time = $3 WHERE run_id = $1`, runID, name, t.now); err != nil {
			return fmt.Errorf("rename run: %w", err)
		}
	}
	if e.Notes != nil {
		set[NotesTag] = *e.Notes
	}
	drop := append([]string{}, e.DeleteTags...)
	if e.Parent != nil {
		set[ParentTag] = *e.Parent
	}
	if parent, ok := set[ParentTag]; ok && parent == "" {
		delete(set, ParentTag)
		drop = append(drop, ParentTag)
	} else if ok {
		if err := t.checkParent(ctx, runID, parent); err != nil {
			return err
		}
	}
	if len(drop) > 0 {
		if _, err := t.tx.Exec(ctx, `DELETE FROM run_tags WHERE run_id = $1 AND key = ANY($2)`, runID, drop); err != nil {
			return fmt.Errorf("delete tags: %w", err)
		}
	}
	if err := writePairs(ctx, t.tx, upsertTags, map[string]map[string]string{runID: set}); err != nil {
		return fmt.Errorf("write tags: %w", err)
	}
	for _, d := range e.Datasets {
		if _, err := t.tx.Exec(ctx, `INSERT INTO run_inputs (run_id, name, digest, context, input) VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING`,
			runID, d.Name, d.Digest, d.Context, d.JSON); err != nil {
			return fmt.Errorf("add dataset: %w", err)
		}
	}
	return t.tell(ctx, func() []outbox.Entry {
		lane := outbox.RunLane(runID)
		var entries []outbox.Entry
		for _, key := range drop {
			entries = append(entries, outbox.TagGone(lane, key))
		}
		if len(e.Datasets) > 0 {
			documents := make([]json.RawMessage, 0, len(e.Datasets))
			for _, d := range e.Datasets {
				documents = append(documents, d.JSON)
			}
			entries = append(entries, outbox.Inputs(lane, documents))
		}
		return append(entries, outbox.Tags(lane, set)...)
	})
}

// checkParent refuses a parent that is not there and one that descends from the run.
func (t *Tx) checkParent(ctx context.Context, runID, parent string) error {
	var exists, circle bool
	err := t.tx.QueryRow(ctx, `WITH RECURSIVE up(run_id) AS (
			SELECT $2::text UNION SELECT t.value FROM up JOIN run_tags t ON t.run_id = up.run_id AND t.key = $3)
		SELECT EXISTS (SELECT 1 FROM runs WHERE run_id = $2), EXISTS (SELECT 1 FROM up WHERE run_id = $1)`, runID, parent, ParentTag).Scan(&exists, &circle)
	switch {
	case err != nil:
		return fmt.Errorf("look at the parent: %w", err)
	case circle:
		e := catalog.Refuse(catalog.ProblemInvalid, "", "run %s is a part of run %s already: it cannot be its parent", parent, runID)
		e.Field = "parent_run_id"
		return e
	case !exists:
		return catalog.NotFound("runs/" + parent)
	}
	return nil
}

// DeleteRun hides a run. A job's run whose attempt is open is refused: its writer would fill
// a run that nobody sees.
func (t *Tx) DeleteRun(ctx context.Context, runID string) error {
	state, job, err := t.lockRunForPeople(ctx, runID)
	if err != nil {
		return err
	}
	if job && state == catalog.RunRunning {
		return catalog.Refuse(catalog.ProblemState, "runs/"+runID, "its job is running: cancel the job first")
	}
	return t.SetRunLifecycle(ctx, runID, catalog.Deleted)
}

// ExperimentNumber returns the number of an experiment by its path, in any lifecycle.
func (t *Tx) ExperimentNumber(ctx context.Context, path string) (int64, error) {
	var id int64
	err := t.tx.QueryRow(ctx, `SELECT experiment_id FROM experiments WHERE name = $1 FOR UPDATE`, path).Scan(&id)
	return id, found(err, "experiments/"+path)
}

// BusyRuns counts the runs of an experiment whose job is running.
func (t *Tx) BusyRuns(ctx context.Context, experiment int64) (int, error) {
	var n int
	err := t.tx.QueryRow(ctx, `SELECT count(*) FROM runs WHERE experiment_id = $1 AND lifecycle = 'ACTIVE' AND state = 'RUNNING' AND octet_length(spec) > 0`, experiment).Scan(&n)
	return n, err
}

// DatasetInput is a dataset in the form that MLflow's clients read.
func DatasetInput(name, digest, purpose string) Input {
	type tag struct {
		Key   string `json:"key"`
		Value string `json:"value"`
	}
	document := map[string]any{"dataset": map[string]string{"name": name, "digest": digest, "source_type": "trainyard", "source": "{}"}}
	if purpose != "" {
		document["tags"] = []tag{{"mlflow.data.context", purpose}}
	}
	raw, err := json.Marshal(document)
	if err != nil {
		panic(err) // strings always marshal
	}
	return Input{Name: name, Digest: digest, Context: purpose, JSON: raw}
}

// RunDatasets returns what a run read, by name and digest.
func (s *Store) RunDatasets(ctx context.Context, runID string) ([]Input, error) {
	rows, err := s.pool.Query(ctx, `SELECT name, digest, context FROM run_inputs WHERE run_id = $1 ORDER BY name, digest`, runID)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (Input, error) {
		var in Input
		err := row.Scan(&in.Name, &in.Digest, &in.Context)
		return in, err
	})
}

// lineageMost bounds a lineage in both directions.
const lineageMost = 1000

// VersionRef names a model version.
type VersionRef struct {
	Model   string
	Version int32
}

// Lineage is where a checkpoint comes from and what was made of it.
type Lineage struct {
	// Ancestry begins with the checkpoint itself.
	Ancestry []catalog.Checkpoint
	Children []catalog.Checkpoint
	Versions []VersionRef
}

// CheckpointLineage follows parents up, and children and versions one step down.
func (s *Store) CheckpointLineage(ctx context.Context, id string) (Lineage, error) {
	var out Lineage
	rows, err := s.pool.Query(ctx, `WITH RECURSIVE up(checkpoint_id, parent_id, depth) AS (
			SELECT checkpoint_id, parent_id, 1 FROM checkpoints WHERE checkpoint_id = $1
			UNION ALL SELECT c.checkpoint_id, c.parent_id, depth + 1 FROM up JOIN checkpoints c ON c.checkpoint_id = up.parent_id WHERE depth < $2)
		SELECT checkpoint_id FROM up ORDER BY depth`, id, lineageMost)
	if err != nil {
		return out, err
	}
	ids, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return out, fmt.Errorf("follow parents: %w", err)
	}
	if len(ids) == 0 {
		return out, catalog.NotFound("checkpoints/" + id)
	}
	above, err := readCheckpoints(ctx, s.pool, `WHERE c.checkpoint_id = ANY($1)`, ids)
	if err != nil {
		return out, err
	}
	byID := map[string]catalog.Checkpoint{}
	for _, c := range above {
		byID[c.ID] = c
	}
	for _, id := range ids {
		out.Ancestry = append(out.Ancestry, byID[id])
	}
	if out.Children, err = readCheckpoints(ctx, s.pool, `WHERE c.parent_id = $1 ORDER BY c.create_time, c.checkpoint_id LIMIT $2`, id, lineageMost); err != nil {
		return out, err
	}
	rows, err = s.pool.Query(ctx, `SELECT m.name, v.version FROM model_versions v JOIN models m USING (model_id)
		WHERE v.checkpoint_id = $1 AND NOT v.deleted ORDER BY m.name, v.version`, id)
	if err != nil {
		return out, err
	}
	out.Versions, err = pgx.CollectRows(rows, pgx.RowToStructByPos[VersionRef])
	return out, err
}
