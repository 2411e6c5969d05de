package postgres

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/ultrathink-pilot/trainyard/services/registry/internal/catalog"
)

// BeginCheckpoint describes a checkpoint that is about to be uploaded.
type BeginCheckpoint struct {
	// ID is used when the checkpoint is new.
	ID      string
	RunID   string
	Attempt int32
	Fence   uint64
	Step    int64
	Files   []catalog.File
}

// admitWriter locks the run against a fence raise and refuses a stale fence. Unlike a
// metric batch, a write with a fence above the run's is welcome: its attempt's RunOpened is
// still in the spool, and the fence itself is proof enough.
func (t *Tx) admitWriter(ctx context.Context, runID string, fence uint64) error {
	var held, restore int64
	err := t.tx.QueryRow(ctx, `SELECT fence, restore_fence FROM runs WHERE run_id = $1 FOR SHARE`, runID).Scan(&held, &restore)
	if errors.Is(err, pgx.ErrNoRows) {
		return catalog.Refuse(catalog.ProblemNotOpen, "runs/"+runID, "the run's first RunOpened has not arrived yet")
	}
	if err != nil {
		return fmt.Errorf("read fence: %w", err)
	}
	if current := uint64(max(held, restore)); fence < current {
		return catalog.Fenced(runID, fence, current)
	}
	return nil
}

// CheckWriter refuses a stale fence before the caller spends work on the object store; the
// commit itself checks again.
func (t *Tx) CheckWriter(ctx context.Context, runID string, fence uint64) error {
	return t.admitWriter(ctx, runID, fence)
}

// BeginCheckpoint stages a checkpoint, or finds the one that the same manifest staged
// before, and returns it with an object key per file. Files whose bytes were proven
// before are marked Present.
func (t *Tx) BeginCheckpoint(ctx context.Context, in BeginCheckpoint) (catalog.Checkpoint, error) {
	if err := t.admitWriter(ctx, in.RunID, in.Fence); err != nil {
		return catalog.Checkpoint{}, err
	}
	digest := catalog.ManifestDigest(in.Step, in.Files)
	var id string
	err := t.tx.QueryRow(ctx, `SELECT checkpoint_id FROM checkpoints WHERE run_id = $1 AND attempt = $2 AND step = $3
		AND manifest_sha256 = $4 AND state IN ('PENDING', 'LIVE') FOR UPDATE`, in.RunID, in.Attempt, in.Step, digest).Scan(&id)
	if err == nil {
		return t.stageAgain(ctx, id, in.Files)
	}
	if !errors.Is(err, pgx.ErrNoRows) {
		return catalog.Checkpoint{}, err
	}
	var total int64
	for _, f := range in.Files {
		total += f.Size
	}
	_, err = t.tx.Exec(ctx, `INSERT INTO checkpoints (checkpoint_id, run_id, attempt, fence, step, state, manifest_sha256, total_bytes, create_time)
		VALUES ($1, $2, $3, $4, $5, 'PENDING', $6, $7, $8)`,
		in.ID, in.RunID, in.Attempt, int64(in.Fence), in.Step, digest, total, t.now)
	if err != nil {
		return catalog.Checkpoint{}, fmt.Errorf("stage checkpoint: %w", err)
	}
	if err := t.stageFiles(ctx, in.ID, in.Files); err != nil {
		return catalog.Checkpoint{}, err
	}
	return readCheckpoint(ctx, t.tx, in.ID)
}

// stageAgain finds a checkpoint that was announced before. While it is not committed its files may be
// cut anew: the host was restarted with another setting, or another version.
func (t *Tx) stageAgain(ctx context.Context, id string, files []catalog.File) (catalog.Checkpoint, error) {
	c, err := readCheckpoint(ctx, t.tx, id)
	if err != nil || c.State != catalog.Pending || catalog.SameContents(c.Files, files) {
		return c, err
	}
	if _, err := t.tx.Exec(ctx, `DELETE FROM checkpoint_files WHERE checkpoint_id = $1`, id); err != nil {
		return c, fmt.Errorf("stage files anew: %w", err)
	}
	if err := t.stageFiles(ctx, id, files); err != nil {
		return c, err
	}
	return readCheckpoint(ctx, t.tx, id)
}

// stageFiles refers to every content of the files.
func (t *Tx) stageFiles(ctx context.Context, id string, files []catalog.File) error {
	type row struct {
		catalog.File
		ordinal     int
		wholeSHA256 *string
		wholeBytes  *int64
	}
	var rows []row
	for _, f := range files {
		for i, content := range f.Contents() {
			r := row{File: content, ordinal: i}
			if i == 0 && len(f.Chunks) > 0 {
				r.wholeSHA256, r.wholeBytes = &f.SHA256, &f.Size
			}
			rows = append(rows, r)
		}
	}
	// By digest: the one order in which blob rows are locked.
	slices.SortFunc(rows, func(a, b row) int {
		return cmp.Or(cmp.Compare(a.SHA256, b.SHA256), cmp.Compare(a.Name, b.Name), cmp.Compare(a.ordinal, b.ordinal))
	})
	for _, r := range rows {
		blob, err := t.blob(ctx, r.File)
		if err != nil {
			return err
		}
		if _, err := t.tx.Exec(ctx, `INSERT INTO checkpoint_files (checkpoint_id, name, ordinal, blob_id, file_sha256, file_bytes)
			VALUES ($1, $2, $3, $4, $5, $6)`, id, r.Name, r.ordinal, blob, r.wholeSHA256, r.wholeBytes); err != nil {
			return fmt.Errorf("stage file: %w", err)
		}
	}
	return nil
}

// blob finds or makes the usable blob of a content and locks its row, so that no
// BeginDelete can release it before this transaction's reference is visible.
func (t *Tx) blob(ctx context.Context, f catalog.File) (int64, error) {
	var (
		id         int64
		generation int32
		size       int64
	)
	err := t.tx.QueryRow(ctx, `SELECT COALESCE(max(generation), 0) + 1 FROM blobs WHERE sha256 = $1`, f.SHA256).Scan(&generation)
	if err != nil {
		return 0, err
	}
	err = t.tx.QueryRow(ctx, `INSERT INTO blobs (sha256, size_bytes, generation, object_key, state, create_time, update_time)
		VALUES ($1, $2, $3, $4, 'PENDING', $5, $5)
		ON CONFLICT (sha256) WHERE state IN ('PENDING', 'PRESENT') DO UPDATE SET update_time = EXCLUDED.update_time
		RETURNING blob_id, size_bytes`, f.SHA256, f.Size, generation, catalog.ObjectKey(f.SHA256, generation), t.now).Scan(&id, &size)
	if err != nil {
		return 0, fmt.Errorf("stage blob: %w", err)
	}
	if size != f.Size {
		e := catalog.Refuse(catalog.ProblemInvalid, "", "%s: this content has %d bytes, not %d", f.Name, size, f.Size)
		e.Field = "files"
		return 0, e
	}
	return id, nil
}

// CommitCheckpoint is what a commit adds to a staged checkpoint.
type CommitCheckpoint struct {
	ID               string
	Fence            uint64
	Metrics          map[string]float64
	Resumable        bool
	FeatureSchema    string
	DataVersion      string
	CodeVersion      string
	EvaluationWindow string
	Trades           int64
	ParentID         string
	TraceParent      string
}

// Stored is what a commit has brought: bytes that were uploaded for it, and bytes that the store
// had. Both are zero for a repeated commit.
type Stored struct{ New, Shared int64 }

// CommitCheckpoint makes a staged checkpoint LIVE. The caller has proven every object. A
// second commit changes nothing; a stale fence is refused even then.
func (t *Tx) CommitCheckpoint(ctx context.Context, in CommitCheckpoint) (c catalog.Checkpoint, stored Stored, err error) {
	subject := "checkpoints/" + in.ID
	var runID string
	err = t.tx.QueryRow(ctx, `SELECT run_id FROM checkpoints WHERE checkpoint_id = $1`, in.ID).Scan(&runID)
	if errors.Is(err, pgx.ErrNoRows) {
		return c, stored, catalog.NotFound(subject)
	}
	if err != nil {
		return c, stored, err
	}
	if err := t.admitWriter(ctx, runID, in.Fence); err != nil {
		return c, stored, err
	}
	var (
		state catalog.CheckpointState
		fence int64
	)
	err = t.tx.QueryRow(ctx, `SELECT state, fence FROM checkpoints WHERE checkpoint_id = $1 FOR UPDATE`, in.ID).Scan(&state, &fence)
	if err != nil {
		return c, stored, err
	}
	if uint64(fence) != in.Fence {
		return c, stored, catalog.Fenced(runID, in.Fence, uint64(fence))
	}
	if state == catalog.Live {
		c, err = readCheckpoint(ctx, t.tx, in.ID)
		return c, stored, err
	}
	if state != catalog.Pending {
		return c, stored, catalog.Refuse(catalog.ProblemState, subject, "is %s", state)
	}
	metrics, err := encodeMetrics(in.Metrics)
	if err != nil {
		return c, stored, fmt.Errorf("encode metrics: %w", err)
	}
	sharpe, valid := catalog.Checkpoint{Metrics: in.Metrics}.Sharpe()
	var ranked *float64
	if _, ok := in.Metrics[catalog.SharpeMetric]; ok {
		ranked = &sharpe
	}
	_, err = t.tx.Exec(ctx, `UPDATE checkpoints SET state = 'LIVE', metrics = $2, sharpe = $3, sharpe_valid = $4, resumable = $5,
		feature_schema = $6, data_version = $7, evaluation_window = $8, trades = $9, trace_parent = $10, commit_time = $11, code_version = $13,
		parent_id = (SELECT p.checkpoint_id FROM checkpoints p WHERE p.checkpoint_id = $12 AND p.checkpoint_id <> $1) WHERE checkpoint_id = $1`,
		in.ID, metrics, ranked, valid, in.Resumable, in.FeatureSchema, in.DataVersion, in.EvaluationWindow, in.Trades,
		in.TraceParent, t.now, in.ParentID, in.CodeVersion)
	if err != nil {
		return c, stored, fmt.Errorf("commit checkpoint: %w", err)
	}
	const mine = `blob_id IN (SELECT blob_id FROM checkpoint_files WHERE checkpoint_id = $1)`
	if err := t.lockBlobs(ctx, mine, in.ID); err != nil {
		return c, stored, err
	}
	if err := t.tx.QueryRow(ctx, `WITH mine AS (SELECT blob_id, size_bytes, state FROM blobs WHERE `+mine+`),
		proven AS (UPDATE blobs b SET state = 'PRESENT', update_time = $2 FROM mine WHERE b.blob_id = mine.blob_id AND mine.state = 'PENDING')
		SELECT COALESCE(sum(size_bytes) FILTER (WHERE state = 'PENDING'), 0)::bigint, COALESCE(sum(size_bytes) FILTER (WHERE state <> 'PENDING'), 0)::bigint FROM mine`,
		in.ID, t.now).Scan(&stored.New, &stored.Shared); err != nil {
		return c, stored, fmt.Errorf("mark blobs: %w", err)
	}
	c, err = readCheckpoint(ctx, t.tx, in.ID)
	return c, stored, err
}

// ResolveCheckpoint raises the run's restore fence and returns the newest good resumable
// checkpoint, or the named one of any run. Fence first, read second: otherwise a zombie
// could commit a newer checkpoint between the two.
func (t *Tx) ResolveCheckpoint(ctx context.Context, runID string, fence uint64, checkpointID string) (catalog.Checkpoint, error) {
	var held, restore int64
	err := t.tx.QueryRow(ctx, `SELECT fence, restore_fence FROM runs WHERE run_id = $1 FOR NO KEY UPDATE`, runID).Scan(&held, &restore)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return catalog.Checkpoint{}, fmt.Errorf("read fence: %w", err)
	}
	known := err == nil
	if known {
		if current := uint64(max(held, restore)); fence < current {
			return catalog.Checkpoint{}, catalog.Fenced(runID, fence, current)
		}
		if _, err := t.tx.Exec(ctx, `UPDATE runs SET restore_fence = $2 WHERE run_id = $1 AND restore_fence < $2`, runID, int64(fence)); err != nil {
			return catalog.Checkpoint{}, fmt.Errorf("raise restore fence: %w", err)
		}
	}
	if checkpointID == "" {
		if !known {
			return catalog.Checkpoint{}, catalog.NotFound("runs/" + runID)
		}
		err = t.tx.QueryRow(ctx, `SELECT checkpoint_id FROM checkpoints WHERE run_id = $1 AND state = 'LIVE' AND NOT corrupt AND resumable
			ORDER BY step DESC, commit_time DESC, checkpoint_id DESC LIMIT 1`, runID).Scan(&checkpointID)
		if errors.Is(err, pgx.ErrNoRows) {
			return catalog.Checkpoint{}, catalog.Refuse(catalog.ProblemNotFound, "runs/"+runID, "has no checkpoint to resume from")
		}
		if err != nil {
			return catalog.Checkpoint{}, err
		}
	}
	c, err := readCheckpoint(ctx, t.tx, checkpointID)
	if err != nil {
		return c, err
	}
	if c.State != catalog.Live || c.Corrupt {
		return catalog.Checkpoint{}, catalog.Refuse(catalog.ProblemState, "checkpoints/"+c.ID, "is not usable (%s)", describeState(c))
	}
	return c, nil
}

func describeState(c catalog.Checkpoint) string {
	if c.Corrupt {
		return "CORRUPT: " + c.Detail
	}
	return string(c.State)
}

// MarkCorrupt quarantines a checkpoint whose bytes a reader found wrong. Of the bad contents, all when none
// is named, those that it alone holds are retired, so that the same content is uploaded again instead of being
// taken for present. The others are returned: the word of one reader does not take a trunk from every checkpoint
// that shares it. The state column stays: a production checkpoint must not leave LIVE.
func (t *Tx) MarkCorrupt(ctx context.Context, id string, fence uint64, reason string, bad []string) (c catalog.Checkpoint, shared []catalog.File, err error) {
	var (
		runID string
		was   bool
		held  int64
	)
	err = t.tx.QueryRow(ctx, `SELECT c.run_id, c.corrupt, r.fence FROM checkpoints c JOIN runs r USING (run_id)
		WHERE c.checkpoint_id = $1 FOR UPDATE OF c`, id).Scan(&runID, &was, &held)
	if errors.Is(err, pgx.ErrNoRows) {
		return c, nil, catalog.NotFound("checkpoints/" + id)
	}
	if err != nil {
		return c, nil, err
	}
	if fence < uint64(held) {
		return c, nil, catalog.Fenced(runID, fence, uint64(held))
	}
	if !was {
		if _, err := t.tx.Exec(ctx, `UPDATE checkpoints SET corrupt = true, detail = $2 WHERE checkpoint_id = $1`, id, reason); err != nil {
			return c, nil, fmt.Errorf("mark corrupt: %w", err)
		}
	}
	const mine = `blob_id IN (SELECT blob_id FROM checkpoint_files WHERE checkpoint_id = $1) AND ($2::text[] IS NULL OR sha256 = ANY($2))`
	if err := t.lockBlobs(ctx, mine, id, bad); err != nil {
		return c, nil, err
	}
	const sharing = `(EXISTS (SELECT 1 FROM checkpoint_files o JOIN checkpoints oc USING (checkpoint_id)
			WHERE o.blob_id = blobs.blob_id AND o.checkpoint_id <> $1 AND oc.state <> 'DELETED')
		OR EXISTS (SELECT 1 FROM artifacts a WHERE a.blob_id = blobs.blob_id))`
	if !was {
		if _, err := t.tx.Exec(ctx, `UPDATE blobs SET state = 'CORRUPT', update_time = $3 WHERE state = 'PRESENT' AND `+mine+` AND NOT `+sharing,
			id, bad, t.now); err != nil {
			return c, nil, fmt.Errorf("retire blobs: %w", err)
		}
	}
	rows, err := t.tx.Query(ctx, `SELECT sha256, size_bytes, object_key FROM blobs WHERE state = 'PRESENT' AND `+mine+` AND `+sharing+` ORDER BY sha256`, id, bad)
	if err != nil {
		return c, nil, err
	}
	shared, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (f catalog.File, err error) {
		f.Present = true
		return f, row.Scan(&f.SHA256, &f.Size, &f.ObjectKey)
	})
	if err != nil {
		return c, nil, fmt.Errorf("find what is shared: %w", err)
	}
	c, err = readCheckpoint(ctx, t.tx, id)
	return c, shared, err
}

// SetPin pins a checkpoint for ever, or takes the pin away.
func (t *Tx) SetPin(ctx context.Context, id string, pinned bool, actor, reason string) (catalog.Checkpoint, error) {
	var state catalog.CheckpointState
	err := t.tx.QueryRow(ctx, `SELECT state FROM checkpoints WHERE checkpoint_id = $1 FOR UPDATE`, id).Scan(&state)
	if errors.Is(err, pgx.ErrNoRows) {
		return catalog.Checkpoint{}, catalog.NotFound("checkpoints/" + id)
	}
	if err != nil {
		return catalog.Checkpoint{}, err
	}
	if pinned && state != catalog.Live {
		return catalog.Checkpoint{}, catalog.Refuse(catalog.ProblemState, "checkpoints/"+id, "is %s: only a LIVE checkpoint can be pinned", state)
	}
	if pinned {
		_, err = t.tx.Exec(ctx, `INSERT INTO checkpoint_pins (checkpoint_id, actor, reason, create_time) VALUES ($1, $2, $3, $4)
			ON CONFLICT (checkpoint_id, actor) DO UPDATE SET reason = EXCLUDED.reason`, id, actor, reason, t.now)
	} else {
		_, err = t.tx.Exec(ctx, `DELETE FROM checkpoint_pins WHERE checkpoint_id = $1`, id)
	}
	if err != nil {
		return catalog.Checkpoint{}, fmt.Errorf("set pin: %w", err)
	}
	return readCheckpoint(ctx, t.tx, id)
}

// GetCheckpoint returns a checkpoint in any state, with its files.
func (s *Store) GetCheckpoint(ctx context.Context, id string) (catalog.Checkpoint, error) {
	return readCheckpoint(ctx, s.pool, id)
}

func readCheckpoint(ctx context.Context, q querier, id string) (catalog.Checkpoint, error) {
	cs, err := readCheckpoints(ctx, q, `WHERE c.checkpoint_id = $1`, id)
	if err != nil {
		return catalog.Checkpoint{}, err
	}
	if len(cs) == 0 {
		return catalog.Checkpoint{}, catalog.NotFound("checkpoints/" + id)
	}
	return cs[0], nil
}

// CheckpointFilter chooses checkpoints; empty States means LIVE and TOMBSTONED.
type CheckpointFilter struct {
	RunID            string
	ExperimentPrefix string
	States           []catalog.CheckpointState
	Corrupt          bool
	AfterTime        time.Time
	AfterID          string
	Limit            int
}

// ListCheckpoints returns a page of checkpoints, newest first.
func (s *Store) ListCheckpoints(ctx context.Context, f CheckpointFilter) ([]catalog.Checkpoint, error) {
	states := make([]string, 0, len(f.States))
	for _, st := range f.States {
		states = append(states, string(st))
	}
	if len(states) == 0 && !f.Corrupt {
		states = []string{string(catalog.Live), string(catalog.Tombstoned)}
	}
	return readCheckpoints(ctx, s.pool, `WHERE ($1 = '' OR c.run_id = $1) AND starts_with(e.name, $2)
		AND (c.state = ANY($3) OR ($4 AND c.corrupt))
		AND ($5::timestamptz IS NULL OR (c.create_time, c.checkpoint_id) < ($5, $6))
		ORDER BY c.create_time DESC, c.checkpoint_id DESC LIMIT $7`,
		f.RunID, f.ExperimentPrefix, states, f.Corrupt, nullTime(f.AfterTime), f.AfterID, f.Limit)
}

func readCheckpoints(ctx context.Context, q querier, where string, args ...any) ([]catalog.Checkpoint, error) {
	rows, err := q.Query(ctx, `SELECT c.checkpoint_id, c.run_id, e.name, c.attempt, c.fence, c.step, c.state, c.corrupt, c.detail,
		COALESCE(c.parent_id, ''), c.manifest_sha256, c.total_bytes, c.metrics, c.resumable, c.feature_schema, c.data_version, c.code_version,
		c.evaluation_window, c.trades, c.trace_parent, c.create_time, c.commit_time, c.tombstone_time, c.tier,
		EXISTS (SELECT 1 FROM checkpoint_pins p WHERE p.checkpoint_id = c.checkpoint_id)
		FROM checkpoints c JOIN runs r USING (run_id) JOIN experiments e USING (experiment_id) `+where, args...)
	if err != nil {
		return nil, err
	}
	all, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (catalog.Checkpoint, error) {
		var (
			c              catalog.Checkpoint
			fence          int64
			raw            json.RawMessage
			commit, buried *time.Time
		)
		err := row.Scan(&c.ID, &c.RunID, &c.Experiment, &c.Attempt, &fence, &c.Step, &c.State, &c.Corrupt, &c.Detail,
			&c.ParentID, &c.Digest, &c.Bytes, &raw, &c.Resumable, &c.FeatureSchema, &c.DataVersion, &c.CodeVersion,
			&c.EvaluationWindow, &c.Trades, &c.TraceParent, &c.Create, &commit, &buried, &c.Tier, &c.Pinned)
		if err != nil {
			return c, err
		}
		c.Fence, c.Commit, c.Tombstone = uint64(fence), fromNull(commit), fromNull(buried)
		c.Metrics, err = decodeMetrics(raw)
		return c, err
	})
	if err != nil || len(all) == 0 {
		return nil, err
	}
	ids := make([]string, len(all))
	at := make(map[string]*catalog.Checkpoint, len(all))
	for i := range all {
		ids[i] = all[i].ID
		at[ids[i]] = &all[i]
	}
	return all, readFiles(ctx, q, ids, at)
}

// readFiles fills in the files with their contents.
func readFiles(ctx context.Context, q querier, ids []string, at map[string]*catalog.Checkpoint) error {
	rows, err := q.Query(ctx, `SELECT f.checkpoint_id, f.name, f.ordinal, COALESCE(f.file_sha256, ''), COALESCE(f.file_bytes, 0),
		b.sha256, b.size_bytes, b.object_key, b.state = 'PRESENT', b.state = 'COLD'
		FROM checkpoint_files f JOIN blobs b USING (blob_id) WHERE f.checkpoint_id = ANY($1) ORDER BY f.checkpoint_id, f.name, f.ordinal`, ids)
	if err != nil {
		return err
	}
	var (
		id, whole string
		ordinal   int
		bytes     int64
		f         catalog.File
	)
	_, err = pgx.ForEachRow(rows, []any{&id, &f.Name, &ordinal, &whole, &bytes, &f.SHA256, &f.Size, &f.ObjectKey, &f.Present, &f.Cold}, func() error {
		c := at[id]
		switch {
		case ordinal == 0 && whole == "":
			c.Files = append(c.Files, f)
		case ordinal == 0:
			c.Files = append(c.Files, catalog.File{Name: f.Name, SHA256: whole, Size: bytes, Present: f.Present, Cold: f.Cold, Chunks: []catalog.File{f}})
		default:
			if len(c.Files) == 0 || c.Files[len(c.Files)-1].Name != f.Name {
				return fmt.Errorf("checkpoint %s: %s has no first chunk", id, f.Name)
			}
			last := &c.Files[len(c.Files)-1]
			last.Chunks = append(last.Chunks, f)
			last.Present, last.Cold = last.Present && f.Present, last.Cold || f.Cold
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("read files: %w", err)
	}
	return nil
}
