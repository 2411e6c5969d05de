package postgres

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/ultrathink-pilot/trainyard/services/registry/internal/catalog"
	"github.com/ultrathink-pilot/trainyard/services/registry/internal/outbox"
)

// Artifact is a file of a run that belongs to no checkpoint.
type Artifact struct {
	RunID     string
	Path      string
	MediaType string
	SHA256    string
	Size      int64
	ObjectKey string
	// Present says that the bytes were proven before.
	Present bool
	Commit  time.Time
	// Chunks are what a checkpoint's file is stored as, when it is several contents.
	Chunks []catalog.File
}

// File is what there is to read.
func (a Artifact) File() catalog.File {
	return catalog.File{Name: a.Path, SHA256: a.SHA256, Size: a.Size, ObjectKey: a.ObjectKey, Present: a.Present, Chunks: a.Chunks}
}

// Files are a checkpoint's files as artifacts.
func Files(c catalog.Checkpoint) []Artifact {
	out := make([]Artifact, 0, len(c.Files))
	for _, f := range c.Files {
		out = append(out, Artifact{Path: f.Name, SHA256: f.SHA256, Size: f.Size, ObjectKey: f.ObjectKey, Present: f.Present, Chunks: f.Chunks})
	}
	return out
}

// BeginArtifact finds or makes the blob of a run artifact. Only the commit makes a row
// under the path: an upload that is given up leaves nothing to see.
func (t *Tx) BeginArtifact(ctx context.Context, runID string, fence uint64, f catalog.File) (Artifact, error) {
	if err := t.admitWriter(ctx, runID, fence); err != nil {
		return Artifact{}, err
	}
	return t.stageArtifact(ctx, runID, f)
}

// StageArtifact is BeginArtifact for an MLflow client.
func (t *Tx) StageArtifact(ctx context.Context, runID string, g Guard, f catalog.File) (Artifact, error) {
	if _, err := t.lockRun(ctx, runID, g); err != nil {
		return Artifact{}, err
	}
	return t.stageArtifact(ctx, runID, f)
}

func (t *Tx) stageArtifact(ctx context.Context, runID string, f catalog.File) (Artifact, error) {
	blob, err := t.blob(ctx, f)
	if err != nil {
		return Artifact{}, err
	}
	a := Artifact{RunID: runID, Path: f.Name, SHA256: f.SHA256, Size: f.Size}
	err = t.tx.QueryRow(ctx, `SELECT object_key, state = 'PRESENT' FROM blobs WHERE blob_id = $1`, blob).Scan(&a.ObjectKey, &a.Present)
	return a, err
}

// CommitArtifact makes the artifact visible under its path; the caller has proven the
// object. The same content again changes nothing, other content replaces it.
func (t *Tx) CommitArtifact(ctx context.Context, id, runID string, fence uint64, f catalog.File, mediaType string) (Artifact, error) {
	if err := t.admitWriter(ctx, runID, fence); err != nil {
		return Artifact{}, err
	}
	return t.publishArtifact(ctx, id, runID, fence, f, mediaType)
}

// PublishArtifact is CommitArtifact for an MLflow client.
func (t *Tx) PublishArtifact(ctx context.Context, id, runID string, g Guard, f catalog.File, mediaType string) (Artifact, error) {
	if _, err := t.lockRun(ctx, runID, g); err != nil {
		return Artifact{}, err
	}
	return t.publishArtifact(ctx, id, runID, g.Fence, f, mediaType)
}

// HideArtifacts takes a path, and everything under it, out of sight; no byte is deleted.
func (t *Tx) HideArtifacts(ctx context.Context, runID string, g Guard, path string) error {
	if _, err := t.lockRun(ctx, runID, g); err != nil {
		return err
	}
	tag, err := t.tx.Exec(ctx, `UPDATE artifacts SET state = 'HIDDEN' WHERE run_id = $1 AND state = 'LIVE' AND (path = $2 OR starts_with(path, $2 || '/'))`, runID, path)
	if err := t.affected(tag.RowsAffected(), err, "runs/"+runID+"/artifacts/"+path); err != nil {
		return err
	}
	return t.tell(ctx, func() []outbox.Entry { return []outbox.Entry{outbox.Hidden(outbox.RunLane(runID), path)} })
}

func (t *Tx) publishArtifact(ctx context.Context, id, runID string, fence uint64, f catalog.File, mediaType string) (Artifact, error) {
	blob, err := t.blob(ctx, f)
	if err != nil {
		return Artifact{}, err
	}
	if _, err := t.tx.Exec(ctx, `UPDATE blobs SET state = 'PRESENT', update_time = $2 WHERE blob_id = $1 AND state = 'PENDING'`, blob, t.now); err != nil {
		return Artifact{}, fmt.Errorf("mark blob: %w", err)
	}
	if _, err := t.tx.Exec(ctx, `UPDATE artifacts SET state = 'REPLACED' WHERE run_id = $1 AND path = $2 AND state = 'LIVE'
		AND (blob_id <> $3 OR media_type <> $4)`, runID, f.Name, blob, mediaType); err != nil {
		return Artifact{}, fmt.Errorf("replace artifact: %w", err)
	}
	tag, err := t.tx.Exec(ctx, `INSERT INTO artifacts (artifact_id, run_id, fence, path, media_type, blob_id, state, create_time, commit_time)
		VALUES ($1, $2, $3, $4, $5, $6, 'LIVE', $7, $7) ON CONFLICT (run_id, path) WHERE state = 'LIVE' DO NOTHING`,
		id, runID, int64(fence), f.Name, mediaType, blob, t.now)
	if err != nil {
		return Artifact{}, fmt.Errorf("commit artifact: %w", err)
	}
	a, err := readArtifact(ctx, t.tx, runID, f.Name)
	if err != nil || tag.RowsAffected() == 0 {
		return a, err
	}
	return a, t.tell(ctx, func() []outbox.Entry { return []outbox.Entry{outbox.Published(outbox.RunLane(runID), published(a))} })
}

const artifactColumns = `COALESCE(a.run_id, ''), a.path, a.media_type, b.sha256, b.size_bytes, b.object_key, b.state = 'PRESENT', a.commit_time
	FROM artifacts a JOIN blobs b USING (blob_id) WHERE a.state = 'LIVE'`

func scanArtifact(row pgx.CollectableRow) (Artifact, error) {
	var a Artifact
	err := row.Scan(&a.RunID, &a.Path, &a.MediaType, &a.SHA256, &a.Size, &a.ObjectKey, &a.Present, &a.Commit)
	return a, err
}

// GetArtifact returns the artifact that is visible under a path.
func (s *Store) GetArtifact(ctx context.Context, runID, path string) (Artifact, error) {
	return readArtifact(ctx, s.pool, runID, path)
}

func readArtifact(ctx context.Context, q querier, runID, path string) (Artifact, error) {
	rows, err := q.Query(ctx, `SELECT `+artifactColumns+` AND a.run_id = $1 AND a.path = $2`, runID, path)
	if err != nil {
		return Artifact{}, err
	}
	a, err := pgx.CollectExactlyOneRow(rows, scanArtifact)
	if errors.Is(err, pgx.ErrNoRows) {
		return a, catalog.NotFound("runs/" + runID + "/artifacts/" + path)
	}
	return a, err
}

// ListArtifacts returns a run's artifacts by path.
func (s *Store) ListArtifacts(ctx context.Context, runID string) ([]Artifact, error) {
	rows, err := s.pool.Query(ctx, `SELECT `+artifactColumns+` AND a.run_id = $1 ORDER BY a.path`, runID)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, scanArtifact)
}
