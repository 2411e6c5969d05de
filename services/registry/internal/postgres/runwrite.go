package postgres

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/ultrathink-pilot/trainyard/services/registry/internal/catalog"
	"github.com/ultrathink-pilot/trainyard/services/registry/internal/outbox"
)

// NewRun is a run made by an MLflow client rather than by a job.
type NewRun struct {
	ID           string
	ExperimentID int64
	DisplayName  string
	UserID       string
	StartTime    time.Time
	Tags         map[string]string
}

// CreateRun makes a run in an active experiment.
func (t *Tx) CreateRun(ctx context.Context, n NewRun) error {
	if err := t.activeExperiment(ctx, n.ExperimentID); err != nil {
		return err
	}
	tag, err := t.tx.Exec(ctx, `INSERT INTO runs (run_id, experiment_id, display_name, state, user_id, start_time, create_time, update_time)
		VALUES ($1, $2, $3, 'RUNNING', $4, $5, $6, $6) ON CONFLICT DO NOTHING`, n.ID, n.ExperimentID, n.DisplayName, n.UserID, n.StartTime, t.now)
	if err != nil {
		return fmt.Errorf("create run: %w", err)
	}
	if tag.RowsAffected() == 0 {
		return nil // the same create, sent again
	}
	if err := writePairs(ctx, t.tx, upsertTags, map[string]map[string]string{n.ID: n.Tags}); err != nil {
		return err
	}
	return t.tellRunMade(ctx, n.ID, n.Tags)
}

const upsertTags = `INSERT INTO run_tags (run_id, key, value) SELECT * FROM unnest($1::text[], $2::text[], $3::text[])
	ON CONFLICT (run_id, key) DO UPDATE SET value = EXCLUDED.value`

// Guard is what a writer shows for a run. A run of a job is written under its fence; a run
// of an MLflow client has none.
type Guard struct {
	// Job, when known, is whose fence it is: no other job's run is written under it.
	Job      string
	Fence    uint64
	HasFence bool
}

// ErrFenceNeeded is returned for a write to a job's run that shows no fence.
var ErrFenceNeeded = errors.New("the run belongs to a job: only its current attempt may write")

// lockedRun is what a write to a run needs to know: the attempt that it belongs to, and the run's place.
type lockedRun struct {
	attempt int32
	place   place
}

// lockRun locks an active run for a write and checks the guard.
func (t *Tx) lockRun(ctx context.Context, runID string, g Guard) (r lockedRun, err error) {
	var (
		lifecycle catalog.Lifecycle
		fence     int64
	)
	err = t.tx.QueryRow(ctx, `SELECT lifecycle, fence, attempt, experiment_id, run_key FROM runs WHERE run_id = $1 FOR NO KEY UPDATE`, runID).
		Scan(&lifecycle, &fence, &r.attempt, &r.place.experiment, &r.place.run)
	if err != nil {
		return r, found(err, "runs/"+runID)
	}
	if lifecycle != catalog.Active {
		return r, catalog.Refuse(catalog.ProblemState, "runs/"+runID, "The run %s must be in the 'active' state. Current state is deleted.", runID)
	}
	switch {
	case fence == 0:
	case !g.HasFence, g.Job != "" && g.Job != runID:
		return r, ErrFenceNeeded
	case g.Fence < uint64(fence):
		return r, catalog.Fenced(runID, g.Fence, uint64(fence))
	}
	return r, nil
}

// CheckRun refuses a run that the guard may not write.
func (t *Tx) CheckRun(ctx context.Context, runID string, g Guard) error {
	_, err := t.lockRun(ctx, runID, g)
	return err
}

// CheckFence compares an attempt's fence with what its job's run holds. It reports false until
// the attempt's RunOpened has arrived. A write under a fence below the run's is refused.
func (s *Store) CheckFence(ctx context.Context, job string, fence uint64, write bool) (open bool, err error) {
	var held, asked int64
	err = s.pool.QueryRow(ctx, `SELECT fence, restore_fence FROM runs WHERE run_id = $1`, job).Scan(&held, &asked)
	if errors.Is(err, pgx.ErrNoRows) {
		return false, nil
	}
	if newest := uint64(max(held, asked)); err == nil && write && fence < newest {
		return false, catalog.Fenced(job, fence, newest)
	}
	return fence <= uint64(held), err
}

// LogBatch writes points, params and tags of one run in one transaction: all or nothing.
func (t *Tx) LogBatch(ctx context.Context, runID string, g Guard, points []catalog.MetricPoint, params []catalog.Param, tags map[string]string) error {
	run, err := t.lockRun(ctx, runID, g)
	if err != nil {
		return err
	}
	if len(params) > 0 {
		if err := t.addParams(ctx, runID, params); err != nil {
			return err
		}
	}
	if len(tags) > 0 {
		if err := writePairs(ctx, t.tx, upsertTags, map[string]map[string]string{runID: tags}); err != nil {
			return fmt.Errorf("write tags: %w", err)
		}
		if name, ok := tags["mlflow.runName"]; ok {
			if _, err := t.tx.Exec(ctx, `UPDATE runs SET display_name = $2 WHERE run_id = $1`, runID, name); err != nil {
				return fmt.Errorf("rename run: %w", err)
			}
		}
	}
	p := pendingPoints{effects: t.effects}
	p.add(runID, run.place, run.attempt, points)
	if err := p.flush(ctx, t.tx, t.series); err != nil {
		return err
	}
	return t.tell(ctx, func() []outbox.Entry {
		lane := outbox.RunLane(runID)
		values := make(map[string]string, len(params))
		for _, p := range params {
			values[p.Key] = p.Value
		}
		return slices.Concat(outbox.Params(lane, values), outbox.Metrics(lane, points), outbox.Tags(lane, tags))
	})
}

func (t *Tx) addParams(ctx context.Context, runID string, params []catalog.Param) error {
	keys := make([]string, len(params))
	values := map[string]string{}
	for i, p := range params {
		keys[i], values[p.Key] = p.Key, p.Value
	}
	stored := map[string]string{}
	rows, err := t.tx.Query(ctx, `SELECT key, value FROM run_params WHERE run_id = $1 AND key = ANY($2)`, runID, keys)
	if err != nil {
		return err
	}
	var k, v string
	if _, err := pgx.ForEachRow(rows, []any{&k, &v}, func() error {
		stored[k] = v
		return nil
	}); err != nil {
		return fmt.Errorf("read params: %w", err)
	}
	if p, old, bad := catalog.ConflictingParam(stored, params); bad {
		return catalog.ParamConflict(runID, p, old)
	}
	// The run's row is locked: no other writer can add a key in between.
	return writePairs(ctx, t.tx, `INSERT INTO run_params (run_id, key, value)
		SELECT * FROM unnest($1::text[], $2::text[], $3::text[]) ON CONFLICT DO NOTHING`, map[string]map[string]string{runID: values})
}

// RunUpdate changes what is set.
type RunUpdate struct {
	State       catalog.RunState
	EndTime     time.Time
	DisplayName string
}

// UpdateRun changes a run's state, end or name. An ended run gets an end time.
func (t *Tx) UpdateRun(ctx context.Context, runID string, g Guard, u RunUpdate) error {
	if _, err := t.lockRun(ctx, runID, g); err != nil {
		return err
	}
	_, err := t.tx.Exec(ctx, `UPDATE runs SET state = COALESCE(NULLIF($2, ''), state), display_name = COALESCE(NULLIF($4, ''), display_name), update_time = $5,
		end_time = CASE WHEN COALESCE(NULLIF($2, ''), state) IN ('RUNNING', 'SCHEDULED') THEN $3 ELSE COALESCE($3, end_time, $5) END WHERE run_id = $1`,
		runID, string(u.State), nullTime(u.EndTime), u.DisplayName, t.now)
	if err != nil {
		return fmt.Errorf("update run: %w", err)
	}
	if u.DisplayName != "" {
		if err := writePairs(ctx, t.tx, upsertTags, map[string]map[string]string{runID: {"mlflow.runName": u.DisplayName}}); err != nil {
			return err
		}
	}
	return t.tell(ctx, func() []outbox.Entry {
		return []outbox.Entry{outbox.Updated(outbox.RunLane(runID), u.State, u.EndTime, u.DisplayName)}
	})
}

// DeleteRunTag removes one tag; false when the run has none of that key.
func (t *Tx) DeleteRunTag(ctx context.Context, runID, key string, g Guard) (bool, error) {
	if _, err := t.lockRun(ctx, runID, g); err != nil {
		return false, err
	}
	tag, err := t.tx.Exec(ctx, `DELETE FROM run_tags WHERE run_id = $1 AND key = $2`, runID, key)
	if err != nil {
		return false, fmt.Errorf("delete tag: %w", err)
	}
	if tag.RowsAffected() == 0 {
		return false, nil
	}
	return true, t.tell(ctx, func() []outbox.Entry { return []outbox.Entry{outbox.TagGone(outbox.RunLane(runID), key)} })
}

// AppendRunTag adds a JSON value to the list that a tag holds, made if it does not exist.
func (t *Tx) AppendRunTag(ctx context.Context, runID, key string, g Guard, value json.RawMessage) error {
	if _, err := t.lockRun(ctx, runID, g); err != nil {
		return err
	}
	var whole string
	err := t.tx.QueryRow(ctx, `INSERT INTO run_tags (run_id, key, value) VALUES ($1, $2, jsonb_build_array($3::jsonb)::text)
		ON CONFLICT (run_id, key) DO UPDATE SET value = (run_tags.value::jsonb || $3::jsonb)::text RETURNING value`, runID, key, string(value)).Scan(&whole)
	if err != nil {
		return fmt.Errorf("append to tag: %w", err)
	}
	return t.tell(ctx, func() []outbox.Entry { return outbox.Tags(outbox.RunLane(runID), map[string]string{key: whole}) })
}

// SetRunLifecycle deletes or restores a run; doing it twice changes nothing.
func (t *Tx) SetRunLifecycle(ctx context.Context, runID string, to catalog.Lifecycle) error {
	tag, err := t.tx.Exec(ctx, `UPDATE runs SET lifecycle = $2::text, update_time = $3, delete_time = CASE WHEN $2::text = 'DELETED' THEN $3::timestamptz END WHERE run_id = $1`,
		runID, string(to), t.now)
	if err := t.affected(tag.RowsAffected(), err, "runs/"+runID); err != nil {
		return err
	}
	return t.tell(ctx, func() []outbox.Entry { return []outbox.Entry{outbox.Lifecycle(outbox.RunLane(runID), to)} })
}

// Input is a dataset that a run read; JSON is the client's own document.
type Input struct {
	Name, Digest, Context string
	JSON                  json.RawMessage
}

// LogInputs adds datasets to a run; the same name and digest again changes nothing.
func (t *Tx) LogInputs(ctx context.Context, runID string, g Guard, inputs []Input) error {
	if _, err := t.lockRun(ctx, runID, g); err != nil {
		return err
	}
	for _, in := range inputs {
		if _, err := t.tx.Exec(ctx, `INSERT INTO run_inputs (run_id, name, digest, context, input) VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING`,
			runID, in.Name, in.Digest, in.Context, in.JSON); err != nil {
			return fmt.Errorf("log input: %w", err)
		}
	}
	if len(inputs) == 0 {
		return nil
	}
	return t.tell(ctx, func() []outbox.Entry {
		documents := make([]json.RawMessage, 0, len(inputs))
		for _, in := range inputs {
			documents = append(documents, in.JSON)
		}
		return []outbox.Entry{outbox.Inputs(outbox.RunLane(runID), documents)}
	})
}

// RunLinks returns the datasets that runs read and the models that they made, by run.
func (s *Store) RunLinks(ctx context.Context, runIDs []string) (inputs map[string][]json.RawMessage, outputs map[string][]Output, err error) {
	outputs = map[string][]Output{}
	var batch pgx.Batch
	batch.Queue(selectInputs, runIDs).Query(func(rows pgx.Rows) (err error) {
		inputs, err = scanInputs(rows)
		return err
	})
	batch.Queue(selectOutputs, runIDs).Query(func(rows pgx.Rows) error {
		var (
			id string
			o  Output
		)
		_, err := pgx.ForEachRow(rows, []any{&id, &o.ModelID, &o.Step}, func() error {
			outputs[id] = append(outputs[id], o)
			return nil
		})
		return err
	})
	if err := s.pool.SendBatch(ctx, &batch).Close(); err != nil {
		return nil, nil, fmt.Errorf("read inputs and outputs: %w", err)
	}
	return inputs, outputs, nil
}

const (
	selectInputs  = `SELECT run_id, input FROM run_inputs WHERE run_id = ANY($1) ORDER BY run_id, name, digest`
	selectOutputs = `SELECT run_id, model_id, step FROM run_outputs WHERE run_id = ANY($1) ORDER BY run_id, step, model_id`
)

func readInputs(ctx context.Context, q querier, runIDs []string) (map[string][]json.RawMessage, error) {
	rows, err := q.Query(ctx, selectInputs, runIDs)
	if err != nil {
		return nil, err
	}
	return scanInputs(rows)
}

func scanInputs(rows pgx.Rows) (map[string][]json.RawMessage, error) {
	out := map[string][]json.RawMessage{}
	var (
		id  string
		raw json.RawMessage
	)
	_, err := pgx.ForEachRow(rows, []any{&id, &raw}, func() error {
		out[id] = append(out[id], append(json.RawMessage(nil), raw...))
		return nil
	})
	return out, err
}

// Dataset is one that some run of an experiment read.
type Dataset struct {
	ExperimentID          int64
	Name, Digest, Context string
}

// Datasets returns what active runs of the experiments read, each dataset once, at most a thousand.
func (s *Store) Datasets(ctx context.Context, experiments []int64) ([]Dataset, error) {
	rows, err := s.pool.Query(ctx, `SELECT DISTINCT r.experiment_id, i.name, i.digest, i.context FROM run_inputs i JOIN runs r USING (run_id)
		WHERE r.experiment_id = ANY($1) AND r.lifecycle = 'ACTIVE' ORDER BY 1, 2, 3, 4 LIMIT 1000`, experiments)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowToStructByPos[Dataset])
}
