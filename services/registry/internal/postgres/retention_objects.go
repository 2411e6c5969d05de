package postgres

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/ultrathink-pilot/trainyard/services/registry/internal/catalog"
)

// Object is one key that may hold bytes, with what needs it.
type Object struct {
	Key   string
	Cold  bool
	State string
	// SHA256 is the content's digest, ObjectSHA256 that of the object's own bytes; empty when
	// not known yet.
	SHA256       string
	ObjectSHA256 string
	Size         int64
	Checkpoints  int64
	Artifacts    int64
	Dependents   int64
	Update       time.Time
}

// Objects returns up to limit objects by key above after.
func (s *Store) Objects(ctx context.Context, after string, limit int) ([]Object, error) {
	// A question per kind of object, each by its own index: one question for both would read every file for
	// every object.
	rows, err := s.pool.Query(ctx, `WITH page AS (
			(SELECT object_key, false AS cold, state, sha256, sha256 AS object_sha256, size_bytes, blob_id, update_time FROM blobs
				WHERE state IN ('PENDING', 'PRESENT', 'CORRUPT', 'DELETING') AND object_key > $1 ORDER BY object_key LIMIT $2)
			UNION ALL (SELECT object_key, true, state, sha256, object_sha256, object_bytes, 0, update_time FROM cold_copies
				WHERE object_key > $1 ORDER BY object_key LIMIT $2)
			ORDER BY 1 LIMIT $2)
		SELECT object_key, cold, state, sha256, object_sha256, size_bytes,
			CASE WHEN cold THEN (SELECT count(DISTINCT c.checkpoint_id) FROM blobs b JOIN checkpoint_files f USING (blob_id) JOIN checkpoints c USING (checkpoint_id)
				WHERE b.sha256 = p.sha256 AND c.state NOT IN ('DELETING', 'DELETED'))
			ELSE (SELECT count(DISTINCT c.checkpoint_id) FROM checkpoint_files f JOIN checkpoints c USING (checkpoint_id)
				WHERE f.blob_id = p.blob_id AND c.state NOT IN ('DELETING', 'DELETED')) END,
			CASE WHEN cold THEN 0 ELSE (SELECT count(*) FROM artifacts a WHERE a.blob_id = p.blob_id) END,
			CASE WHEN cold THEN (SELECT count(*) FROM cold_copies d WHERE d.base_sha256 = p.sha256) ELSE 0 END,
			update_time FROM page p ORDER BY object_key`, after, limit)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (o Object, err error) {
		err = row.Scan(&o.Key, &o.Cold, &o.State, &o.SHA256, &o.ObjectSHA256, &o.Size, &o.Checkpoints, &o.Artifacts, &o.Dependents, &o.Update)
		o.Update = o.Update.UTC()
		return o, err
	})
}

// ReleasedObject may be removed from Due on.
type ReleasedObject struct {
	Key    string
	Size   int64
	Reason string
	Due    time.Time
}

// ReleasedObjects returns up to limit released objects by key above after.
func (s *Store) ReleasedObjects(ctx context.Context, after string, limit int) ([]ReleasedObject, error) {
	rows, err := s.pool.Query(ctx, `SELECT object_key, size_bytes, reason, due_time FROM released_objects WHERE object_key > $1 ORDER BY 1 LIMIT $2`, after, limit)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (o ReleasedObject, err error) {
		err = row.Scan(&o.Key, &o.Size, &o.Reason, &o.Due)
		o.Due = o.Due.UTC()
		return o, err
	})
}

// ConfirmRemoved forgets released objects whose bytes are gone.
func (t *Tx) ConfirmRemoved(ctx context.Context, keys []string) error {
	if _, err := t.tx.Exec(ctx, `DELETE FROM released_objects WHERE object_key = ANY($1) AND due_time <= $2`, keys, t.now); err != nil {
		return fmt.Errorf("confirm removed: %w", err)
	}
	return nil
}

// ReleaseObject gives up an object that nothing refers to; why says why not. A key that is
// ours by its form and has no row gets one, so that it can never be handed out any more.
func (t *Tx) ReleaseObject(ctx context.Context, key string, size int64, grace time.Duration) (why string, err error) {
	if catalog.IsColdKey(key) {
		return t.releaseColdObject(ctx, key, size, grace)
	}
	digest, generation, ok := catalog.ParseHotKey(key)
	if !ok {
		return "its key is none of the registry's: it is somebody else's", nil
	}
	if err := t.lockBlobs(ctx, `sha256 = $1`, digest); err != nil {
		return "", err
	}
	var (
		blob    int64
		state   string
		updated time.Time
		used    bool
	)
	err = t.tx.QueryRow(ctx, `SELECT b.blob_id, b.state, b.update_time,
		EXISTS (SELECT 1 FROM checkpoint_files f JOIN checkpoints c USING (checkpoint_id) WHERE f.blob_id = b.blob_id AND c.state <> 'DELETED')
		OR EXISTS (SELECT 1 FROM artifacts a WHERE a.blob_id = b.blob_id) FROM blobs b WHERE b.object_key = $1`, key).Scan(&blob, &state, &updated, &used)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		_, err = t.tx.Exec(ctx, `INSERT INTO blobs (sha256, size_bytes, generation, object_key, state, create_time, update_time)
			VALUES ($1, $2, $3, $4, 'DELETED', $5, $5)`, digest, size, generation, key, t.now)
		if err != nil {
			return "", fmt.Errorf("close the key: %w", err)
		}
		return "", t.release(ctx, key, size, "an orphan: the catalogue does not know it", t.now)
	case err != nil:
		return "", err
	case state == "DELETED" || state == "COLD":
		// Its bytes should be gone already: a removal that was confirmed too early, or undone by a restored disk.
		return "", t.release(ctx, key, size, "an orphan: left behind by a removal", t.now)
	case used:
		return "something refers to it", nil
	case t.now.Sub(updated) < max(grace, 0):
		return "its row has changed " + t.now.Sub(updated).Round(time.Second).String() + " ago", nil
	case state == "PENDING" && t.now.Sub(updated) < catalog.PendingGrace:
		return "its upload may be under way", nil
	}
	if _, err := t.tx.Exec(ctx, `UPDATE blobs SET state = 'DELETED', update_time = $2 WHERE blob_id = $1`, blob, t.now); err != nil {
		return "", fmt.Errorf("let the object go: %w", err)
	}
	return "", t.release(ctx, key, size, "nothing refers to it", t.now)
}

func (t *Tx) releaseColdObject(ctx context.Context, key string, size int64, grace time.Duration) (why string, err error) {
	var (
		digest  string
		state   string
		updated time.Time
	)
	err = t.tx.QueryRow(ctx, `SELECT sha256, state, update_time FROM cold_copies WHERE object_key = $1 FOR UPDATE`, key).Scan(&digest, &state, &updated)
	if errors.Is(err, pgx.ErrNoRows) {
		// Serials are never used twice, so the key needs no row.
		return "", t.release(ctx, key, size, "an orphan: the catalogue does not know it", t.now)
	}
	if err != nil {
		return "", err
	}
	if t.now.Sub(updated) < max(grace, 0) {
		return "its row has changed " + t.now.Sub(updated).Round(time.Second).String() + " ago", nil
	}
	if state == "PENDING" {
		if _, err := t.tx.Exec(ctx, `DELETE FROM cold_copies WHERE sha256 = $1`, digest); err != nil {
			return "", fmt.Errorf("give up cold copy: %w", err)
		}
		return "", t.release(ctx, key, size, "an archive that was never committed", t.now)
	}
	if err := t.releaseCopies(ctx, `k.sha256 = $1`, digest); err != nil {
		return "", err
	}
	var left bool
	if err := t.tx.QueryRow(ctx, `SELECT EXISTS (SELECT 1 FROM cold_copies WHERE sha256 = $1)`, digest).Scan(&left); err != nil || left {
		return "something refers to it", err
	}
	return "", nil
}

// SetLegalHold forbids, or allows again, that a checkpoint is swept or archived.
func (t *Tx) SetLegalHold(ctx context.Context, id string, held bool, actor, reason string) (RetentionResult, error) {
	found, err := t.lockSwept(ctx, []string{id})
	if err != nil {
		return RetentionResult{}, fmt.Errorf("lock checkpoint: %w", err)
	}
	h, ok := found[id]
	r := RetentionResult{ID: id, State: h.state, Done: true}
	switch {
	case !ok:
		return RetentionResult{ID: id, Reason: "does not exist"}, nil
	case held && h.state != catalog.Live && h.state != catalog.Tombstoned:
		r.Done, r.Reason = false, "is "+string(h.state)
	case held:
		// A tombstone under a legal hold would be a contradiction: it comes back first.
		if _, err := t.tx.Exec(ctx, `UPDATE checkpoints SET state = 'LIVE', tombstone_time = NULL, reason = '' WHERE checkpoint_id = $1 AND state = 'TOMBSTONED'
			AND commit_time IS NOT NULL`, id); err != nil {
			return r, fmt.Errorf("restore: %w", err)
		}
		_, err = t.tx.Exec(ctx, `INSERT INTO legal_holds (checkpoint_id, actor, reason, create_time) VALUES ($1, $2, $3, $4)
			ON CONFLICT (checkpoint_id) DO UPDATE SET actor = EXCLUDED.actor, reason = EXCLUDED.reason`, id, actor, reason, t.now)
		r.State = catalog.Live
	default:
		_, err = t.tx.Exec(ctx, `DELETE FROM legal_holds WHERE checkpoint_id = $1`, id)
	}
	if err != nil {
		return r, fmt.Errorf("set legal hold: %w", err)
	}
	return r, nil
}
