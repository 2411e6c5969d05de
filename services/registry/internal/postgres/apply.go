package postgres

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/ultrathink-pilot/trainyard/services/registry/internal/catalog"
	"github.com/ultrathink-pilot/trainyard/services/registry/internal/outbox"
)

// ApplyBatches applies a group of ingest batches in one transaction and says, per batch,
// what became of it. When it returns without an error everything that is not refused is
// durable. A batch whose values the database itself refuses is isolated by applying the
// group one by one: one poison batch must not hold up twenty writers.
func (s *Store) ApplyBatches(ctx context.Context, batches []catalog.Batch, now time.Time) ([]catalog.BatchResult, error) {
	results, err := s.applyGroup(ctx, batches, now)
	if err == nil || !IsDataFault(err) {
		return results, err
	}
	if len(batches) == 1 {
		refusal := catalog.Refuse(catalog.ProblemInvalid, "runs/"+batches[0].Key.RunID, "the batch holds a value that cannot be stored")
		refusal.Cause = err
		return []catalog.BatchResult{{Refusal: refusal}}, nil
	}
	results = make([]catalog.BatchResult, 0, len(batches))
	for i := range batches {
		one, err := s.ApplyBatches(ctx, batches[i:i+1], now)
		if err != nil {
			return nil, err
		}
		results = append(results, one...)
	}
	return results, nil
}

func (s *Store) applyGroup(ctx context.Context, batches []catalog.Batch, now time.Time) ([]catalog.BatchResult, error) {
	var (
		results []catalog.BatchResult
		out     *effects
	)
	err := s.inTx(ctx, func(tx pgx.Tx) error {
		out = newEffects()
		g := &group{store: s, tx: tx, now: now, points: pendingPoints{effects: out}}
		if err := g.load(ctx, batches); err != nil {
			return err
		}
		results = make([]catalog.BatchResult, len(batches))
		for i := range batches {
			r, err := g.apply(ctx, &batches[i])
			if err != nil {
				return err
			}
			results[i] = r
		}
		return g.finish(ctx)
	})
	if err != nil {
		return nil, err
	}
	s.settle(out)
	return results, nil
}

// group is one transaction's view of the runs it touches.
type group struct {
	store    *Store
	tx       pgx.Tx
	now      time.Time
	runs     map[string]*runRow
	params   map[string]map[string]string
	newParam map[string]map[string]string
	newTag   map[string]map[string]string
	points   pendingPoints
	// told are the outbox rows of the group, in the order of its batches; empty without a mirror.
	told []outbox.Entry
}

type runRow struct {
	fence     uint64
	attempt   int32
	place     place
	state     catalog.RunState
	modelName string
	trace     string
	attempts  map[int32]*attemptRow
}

type attemptRow struct {
	fence    uint64
	sequence uint64
	dirty    bool
}

// load locks every run of the group, in id order, and reads what Admit needs.
func (g *group) load(ctx context.Context, batches []catalog.Batch) error {
	g.runs = map[string]*runRow{}
	g.params = map[string]map[string]string{}
	g.newParam = map[string]map[string]string{}
	g.newTag = map[string]map[string]string{}
	ids := map[string]bool{}
	withParams := map[string]bool{}
	for i := range batches {
		ids[batches[i].Key.RunID] = true
		if len(batches[i].Params) > 0 {
			withParams[batches[i].Key.RunID] = true
		}
	}
	sorted := catalog.SortedKeys(ids)
	rows, err := g.tx.Query(ctx, `SELECT run_id, fence, attempt, state, model_name, trace_parent, experiment_id, run_key
		FROM runs WHERE run_id = ANY($1) ORDER BY run_id FOR NO KEY UPDATE`, sorted)
	if err != nil {
		return err
	}
	var (
		id string
		r  runRow
		f  int64
	)
	_, err = pgx.ForEachRow(rows, []any{&id, &f, &r.attempt, &r.state, &r.modelName, &r.trace, &r.place.experiment, &r.place.run}, func() error {
		row := r
		row.fence = uint64(f)
		row.attempts = map[int32]*attemptRow{}
		g.runs[id] = &row
		return nil
	})
	if err != nil {
		return fmt.Errorf("lock runs: %w", err)
	}
	rows, err = g.tx.Query(ctx, `SELECT run_id, attempt, fence, last_sequence FROM run_attempts WHERE run_id = ANY($1)`, sorted)
	if err != nil {
		return err
	}
	var (
		n    int32
		last int64
	)
	_, err = pgx.ForEachRow(rows, []any{&id, &n, &f, &last}, func() error {
		if run := g.runs[id]; run != nil {
			run.attempts[n] = &attemptRow{fence: uint64(f), sequence: uint64(last)}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("read attempts: %w", err)
	}
	if len(withParams) == 0 {
		return nil
	}
	rows, err = g.tx.Query(ctx, `SELECT run_id, key, value FROM run_params WHERE run_id = ANY($1)`, catalog.SortedKeys(withParams))
	if err != nil {
		return err
	}
	var key, value string
	_, err = pgx.ForEachRow(rows, []any{&id, &key, &value}, func() error {
		set(g.params, id, key, value)
		return nil
	})
	return err
}

func set(m map[string]map[string]string, id, key, value string) {
	if m[id] == nil {
		m[id] = map[string]string{}
	}
	m[id][key] = value
}

// apply decides and stages one batch. Nothing of a refused batch is staged.
func (g *group) apply(ctx context.Context, b *catalog.Batch) (catalog.BatchResult, error) {
	k := b.Key
	run := g.runs[k.RunID]
	adm := catalog.Admission{Exists: run != nil}
	if run != nil {
		adm.Fence = run.fence
		if a := run.attempts[k.Attempt]; a != nil {
			adm.Opened, adm.AttemptFence, adm.LastSequence = true, a.fence, a.sequence
		}
	}
	duplicate, refusal := catalog.Admit(adm, *b)
	if duplicate || refusal != nil {
		return catalog.BatchResult{Duplicate: duplicate, Refusal: refusal}, nil
	}
	if p, old, bad := catalog.ConflictingParam(g.params[k.RunID], b.Params); bad {
		// The refusal is final, so its sequence is consumed: a resend is a duplicate.
		if adm.Opened {
			run.attempts[k.Attempt].sequence, run.attempts[k.Attempt].dirty = k.Sequence, true
		}
		return catalog.BatchResult{Refusal: catalog.ParamConflict(k.RunID, p, old)}, nil
	}
	if b.Opened != nil && !adm.Opened {
		if err := g.open(ctx, k, *b.Opened); err != nil {
			return catalog.BatchResult{}, err
		}
		run = g.runs[k.RunID]
	}
	for _, p := range b.Params {
		if _, stored := g.params[k.RunID][p.Key]; !stored {
			set(g.newParam, k.RunID, p.Key, p.Value)
			set(g.params, k.RunID, p.Key, p.Value)
		}
	}
	for key, value := range b.Tags {
		set(g.newTag, k.RunID, key, value)
	}
	g.points.add(k.RunID, run.place, k.Attempt, b.Points)
	if g.store.mirrored {
		g.told = append(g.told, outbox.Metrics(outbox.RunLane(k.RunID), b.Points)...)
	}
	attempt := run.attempts[k.Attempt]
	attempt.sequence, attempt.dirty = k.Sequence, true
	if b.Closed == nil {
		return catalog.BatchResult{}, nil
	}
	return g.close(ctx, k, run, *b.Closed)
}

// open creates the run on its first attempt and raises its fence on every one. Points of
// earlier attempts above the restored step are superseded from here on.
func (g *group) open(ctx context.Context, k catalog.BatchKey, o catalog.RunOpened) error {
	run := g.runs[k.RunID]
	var restored int64
	if o.Spec == nil {
		o.Spec = []byte{} // nil would be NULL
	}
	start := o.StartTime
	if start.IsZero() {
		start = g.now
	}
	if run == nil {
		experiment, err := ensureExperiment(ctx, g.tx, o.Experiment, g.now)
		if err != nil {
			return err
		}
		var key int64
		err = g.tx.QueryRow(ctx, `INSERT INTO runs (run_id, experiment_id, display_name, state, tenant, user_id, model_name,
			attempt, fence, agent_name, spec, trace_parent, start_time, create_time, update_time)
			VALUES ($1, $2, $3, 'RUNNING', $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $13) RETURNING run_key`,
			k.RunID, experiment, o.DisplayName, o.Tenant, o.UserID, o.ModelName, k.Attempt, int64(k.Fence), o.Agent,
			o.Spec, o.TraceParent, start, g.now).Scan(&key)
		if err != nil {
			return fmt.Errorf("create run: %w", err)
		}
		run = &runRow{place: place{experiment, key}, modelName: o.ModelName, trace: o.TraceParent, attempts: map[int32]*attemptRow{}}
		g.runs[k.RunID] = run
		if g.store.mirrored {
			if err := openLane(ctx, g.tx, g.now, outbox.Run(outbox.RunLane(k.RunID))); err != nil {
				return err
			}
		}
	} else {
		// What is staged belongs to earlier attempts and must be in before they are cut.
		if err := g.points.flush(ctx, g.tx, &g.store.series); err != nil {
			return err
		}
		_, err := g.tx.Exec(ctx, `UPDATE runs SET attempt = $2, fence = $3, state = 'RUNNING', end_time = NULL, failure_class = 0,
			update_time = $4, agent_name = $5 WHERE run_id = $1`, k.RunID, k.Attempt, int64(k.Fence), g.now, o.Agent)
		if err != nil {
			return fmt.Errorf("raise fence: %w", err)
		}
		if restored, err = supersede(ctx, g.tx, k.RunID, k.Attempt, o.RestoredCheckpoint); err != nil {
			return err
		}
	}
	for key, value := range o.Labels {
		set(g.newTag, k.RunID, key, value)
	}
	if g.store.mirrored {
		g.told = append(g.told, outbox.Updated(outbox.RunLane(k.RunID), catalog.RunRunning, time.Time{}, ""))
	}
	_, err := g.tx.Exec(ctx, `INSERT INTO run_attempts (run_id, attempt, fence, agent, restored_checkpoint, restored_step, last_sequence, open_time)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8)`,
		k.RunID, k.Attempt, int64(k.Fence), o.Agent, o.RestoredCheckpoint, restored, int64(k.Sequence), start)
	if err != nil {
		return fmt.Errorf("open attempt: %w", err)
	}
	run.fence, run.attempt, run.state = k.Fence, k.Attempt, catalog.RunRunning
	run.attempts[k.Attempt] = &attemptRow{fence: k.Fence, sequence: k.Sequence}
	return nil
}

// fromScratch is the cut of an attempt without a restore: below any step.
const fromScratch = math.MinInt64

// supersede cuts the earlier attempts at the restored step, which it returns, and
// recomputes the latest values that fell behind the cut. A checkpoint of another run is a
// warm start: nothing of this run is continued, so everything earlier is hidden.
func supersede(ctx context.Context, tx pgx.Tx, runID string, attempt int32, checkpoint string) (int64, error) {
	cut := int64(fromScratch)
	err := tx.QueryRow(ctx, `SELECT step FROM checkpoints WHERE checkpoint_id = $1 AND run_id = $2`, checkpoint, runID).Scan(&cut)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return 0, fmt.Errorf("read restored checkpoint: %w", err)
	}
	_, err = tx.Exec(ctx, `UPDATE run_attempts SET hidden_above = LEAST(hidden_above, $3)
		WHERE run_id = $1 AND attempt < $2`, runID, attempt, cut)
	if err != nil {
		return 0, fmt.Errorf("supersede: %w", err)
	}
	if _, err := tx.Exec(ctx, `DELETE FROM metric_rollups r USING metric_series s
		WHERE s.series_id = r.series_id AND s.run_id = $1 AND r.last_step > $2`, runID, cut); err != nil {
		return 0, fmt.Errorf("drop superseded rollups: %w", err)
	}
	rows, err := tx.Query(ctx, `DELETE FROM metric_latest l USING metric_series s
		WHERE s.series_id = l.series_id AND s.run_id = $1 AND l.step > $2 RETURNING l.series_id`, runID, cut)
	if err != nil {
		return 0, err
	}
	behind, err := pgx.CollectRows(rows, pgx.RowTo[int64])
	if err != nil {
		return 0, fmt.Errorf("drop superseded latest values: %w", err)
	}
	_, err = tx.Exec(ctx, `INSERT INTO metric_latest (series_id, step, time, attempt, value, experiment_id, run_key, key)
		SELECT DISTINCT ON (p.series_id) p.series_id, p.step, p.time, p.attempt, p.value, r.experiment_id, r.run_key, s.key
		FROM metric_points p JOIN metric_series s USING (series_id) JOIN runs r ON r.run_id = $1 JOIN run_attempts a ON a.run_id = $1 AND a.attempt = p.attempt
		WHERE p.series_id = ANY($2) AND p.step <= $3 AND (a.hidden_above IS NULL OR p.step <= a.hidden_above)
		ORDER BY p.series_id, p.step DESC, p.time DESC, (p.value <> 'NaN') DESC, p.value DESC`, runID, behind, cut)
	if err != nil {
		return 0, fmt.Errorf("recompute latest values: %w", err)
	}
	return max(cut, 0), nil
}

// close ends the attempt and with it the run, which a further attempt may reopen. A success with a model
// name registers a version in this very transaction, so that nobody ever sees a
// succeeded run without its model.
func (g *group) close(ctx context.Context, k catalog.BatchKey, run *runRow, c catalog.RunClosed) (catalog.BatchResult, error) {
	end := c.EndTime
	if end.IsZero() {
		end = g.now
	}
	_, err := g.tx.Exec(ctx, `UPDATE run_attempts SET close_time = $3, outcome = $4, detail = $5 WHERE run_id = $1 AND attempt = $2`,
		k.RunID, k.Attempt, end, string(c.State), c.Detail)
	if err != nil {
		return catalog.BatchResult{}, fmt.Errorf("close attempt: %w", err)
	}
	_, err = g.tx.Exec(ctx, `UPDATE runs SET state = $2, end_time = $3, failure_class = $4, update_time = $5 WHERE run_id = $1`,
		k.RunID, c.State, end, c.FailureClass, g.now)
	if err != nil {
		return catalog.BatchResult{}, fmt.Errorf("close run: %w", err)
	}
	run.state = c.State
	if g.store.mirrored {
		g.told = append(g.told, outbox.Updated(outbox.RunLane(k.RunID), c.State, end, ""))
	}
	g.points.ended = append(g.points.ended, k.RunID)
	if c.State != catalog.RunSucceeded || run.modelName == "" {
		return catalog.BatchResult{}, nil
	}
	t := &Tx{tx: g.tx, now: g.now, mirrored: g.store.mirrored}
	version, skipped, err := t.registerFromRun(ctx, k.RunID, run.modelName, run.trace)
	if err != nil {
		return catalog.BatchResult{}, err
	}
	return catalog.BatchResult{RegisteredModel: run.modelName, RegisteredVersion: version, TraceParent: run.trace, ModelSkipped: skipped}, nil
}

// finish writes everything that was staged.
func (g *group) finish(ctx context.Context) error {
	if err := g.points.flush(ctx, g.tx, &g.store.series); err != nil {
		return err
	}
	if err := g.tell(ctx); err != nil {
		return err
	}
	if err := writePairs(ctx, g.tx, `INSERT INTO run_params (run_id, key, value)
		SELECT * FROM unnest($1::text[], $2::text[], $3::text[]) ON CONFLICT DO NOTHING`, g.newParam); err != nil {
		return fmt.Errorf("write params: %w", err)
	}
	if err := writePairs(ctx, g.tx, `INSERT INTO run_tags (run_id, key, value)
		SELECT * FROM unnest($1::text[], $2::text[], $3::text[])
		ON CONFLICT (run_id, key) DO UPDATE SET value = EXCLUDED.value`, g.newTag); err != nil {
		return fmt.Errorf("write tags: %w", err)
	}
	var (
		runs      []string
		attempts  []int32
		sequences []int64
	)
	for _, id := range catalog.SortedKeys(g.runs) {
		for n, a := range g.runs[id].attempts {
			if a.dirty {
				runs, attempts, sequences = append(runs, id), append(attempts, n), append(sequences, int64(a.sequence))
			}
		}
	}
	if len(runs) == 0 {
		return nil
	}
	_, err := g.tx.Exec(ctx, `UPDATE run_attempts a SET last_sequence = u.seq
		FROM unnest($1::text[], $2::int[], $3::bigint[]) AS u(run_id, attempt, seq)
		WHERE a.run_id = u.run_id AND a.attempt = u.attempt`, runs, attempts, sequences)
	if err != nil {
		return fmt.Errorf("advance sequences: %w", err)
	}
	return nil
}

// writePairs writes run -> key -> value maps through one unnest statement, in key order.
func writePairs(ctx context.Context, tx pgx.Tx, sql string, m map[string]map[string]string) error {
	var runs, keys, values []string
	for _, id := range catalog.SortedKeys(m) {
		for _, k := range catalog.SortedKeys(m[id]) {
			runs, keys, values = append(runs, id), append(keys, k), append(values, m[id][k])
		}
	}
	if len(runs) == 0 {
		return nil
	}
	_, err := tx.Exec(ctx, sql, runs, keys, values)
	return err
}
