package postgres

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/ultrathink-pilot/trainyard/services/registry/internal/catalog"
)

// NoteRead remembers that somebody reads a checkpoint: abandoned is what nobody does. Within an
// hour one row is enough.
func (s *Store) NoteRead(ctx context.Context, id string, now time.Time) error {
	return s.inTx(ctx, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, `UPDATE checkpoints SET last_read_time = $2 WHERE checkpoint_id = $1
			AND (last_read_time IS NULL OR last_read_time < $2::timestamptz - interval '1 hour')`, id, now)
		return err
	})
}

// ColdChain returns a content's packed copy, then its base, and so on; empty when it cannot be
// restored from the cold tier.
func (s *Store) ColdChain(ctx context.Context, sha256 string) ([]ColdCopy, error) {
	return readChain(ctx, s.pool, sha256)
}

// BeginRestore finds the hot object of a content, or reserves the key for a new one. Present says
// that there is nothing to upload.
func (t *Tx) BeginRestore(ctx context.Context, f catalog.File) (catalog.File, error) {
	blob, err := t.blob(ctx, f)
	if err != nil {
		return f, err
	}
	out := catalog.File{Name: f.Name, SHA256: f.SHA256, Size: f.Size}
	err = t.tx.QueryRow(ctx, `SELECT object_key, state = 'PRESENT' FROM blobs WHERE blob_id = $1`, blob).Scan(&out.ObjectKey, &out.Present)
	return out, err
}

// FinishRestore makes every checkpoint that had the content in the cold tier, or corrupt, read
// it from the hot object, whose bytes the caller has proven. It reports false when the key has
// been given up meanwhile.
func (t *Tx) FinishRestore(ctx context.Context, f catalog.File) (bool, error) {
	// Checkpoints before blobs, as everywhere.
	rows, err := t.tx.Query(ctx, `SELECT checkpoint_id FROM checkpoints WHERE checkpoint_id IN (
			SELECT f.checkpoint_id FROM blobs b JOIN checkpoint_files f USING (blob_id) WHERE b.sha256 = $1 AND b.state IN ('COLD', 'CORRUPT'))
		ORDER BY checkpoint_id FOR UPDATE`, f.SHA256)
	if err != nil {
		return false, err
	}
	ids, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return false, fmt.Errorf("lock checkpoints: %w", err)
	}
	if err := t.lockBlobs(ctx, `sha256 = $1`, f.SHA256); err != nil {
		return false, err
	}
	var blob int64
	err = t.tx.QueryRow(ctx, `UPDATE blobs SET state = 'PRESENT', update_time = $2 WHERE object_key = $1 AND state IN ('PENDING', 'PRESENT') RETURNING blob_id`,
		f.ObjectKey, t.now).Scan(&blob)
	if errors.Is(err, pgx.ErrNoRows) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("mark the object: %w", err)
	}
	if _, err := t.tx.Exec(ctx, `UPDATE checkpoint_files SET blob_id = $2 WHERE checkpoint_id = ANY($1)
		AND blob_id IN (SELECT blob_id FROM blobs WHERE sha256 = $3 AND state IN ('COLD', 'CORRUPT'))`, ids, blob, f.SHA256); err != nil {
		return false, fmt.Errorf("switch the files: %w", err)
	}
	// The row of the cold content has served; a corrupt one stays for its object.
	if _, err := t.tx.Exec(ctx, `UPDATE blobs SET state = 'DELETED', update_time = $2 WHERE sha256 = $1 AND state = 'COLD'
		AND NOT EXISTS (SELECT 1 FROM checkpoint_files f JOIN checkpoints c USING (checkpoint_id) WHERE f.blob_id = blobs.blob_id AND c.state <> 'DELETED')`,
		f.SHA256, t.now); err != nil {
		return false, fmt.Errorf("close the cold row: %w", err)
	}
	const good = `NOT EXISTS (SELECT 1 FROM checkpoint_files f JOIN blobs b USING (blob_id) WHERE f.checkpoint_id = checkpoints.checkpoint_id AND b.state <> 'PRESENT')`
	if _, err := t.tx.Exec(ctx, `UPDATE checkpoints SET tier = 'HOT' WHERE checkpoint_id = ANY($1) AND tier = 'COLD' AND `+good, ids); err != nil {
		return false, fmt.Errorf("mark hot: %w", err)
	}
	if _, err := t.tx.Exec(ctx, `UPDATE checkpoints SET corrupt = false, detail = '' WHERE checkpoint_id = ANY($1) AND corrupt AND `+good, ids); err != nil {
		return false, fmt.Errorf("mark good: %w", err)
	}
	return true, nil
}

// BadObject is what a finding has led to.
type BadObject struct {
	// Content can be restored from the cold tier when Repairable.
	Content    catalog.File
	Repairable bool
	// Corrupt are the checkpoints that cannot be read any more.
	Corrupt []string
	Outcome string
}

// QuarantineObject takes a bad object out of use. A hot one whose content has another copy is
// repairable; what has none makes its checkpoints corrupt.
func (t *Tx) QuarantineObject(ctx context.Context, key, detail string) (BadObject, error) {
	if catalog.IsColdKey(key) {
		return t.quarantineCopy(ctx, key, detail)
	}
	digest, _, ok := catalog.ParseHotKey(key)
	if !ok {
		return BadObject{Outcome: "the key is none of the registry's; nothing was changed"}, nil
	}
	if err := t.lockHolders(ctx, digest); err != nil {
		return BadObject{}, err
	}
	if err := t.lockBlobs(ctx, `sha256 = $1`, digest); err != nil {
		return BadObject{}, err
	}
	var size int64
	err := t.tx.QueryRow(ctx, `UPDATE blobs SET state = 'CORRUPT', update_time = $2 WHERE object_key = $1 AND state IN ('PRESENT', 'CORRUPT') RETURNING size_bytes`,
		key, t.now).Scan(&size)
	if errors.Is(err, pgx.ErrNoRows) {
		return BadObject{Outcome: "nothing reads that object; nothing was changed"}, nil
	}
	if err != nil {
		return BadObject{}, fmt.Errorf("retire the object: %w", err)
	}
	out := BadObject{Content: catalog.File{SHA256: digest, Size: size}}
	chain, err := readChain(ctx, t.tx, digest)
	if err != nil {
		return out, err
	}
	var twin bool
	if err := t.tx.QueryRow(ctx, `SELECT EXISTS (SELECT 1 FROM blobs WHERE sha256 = $1 AND state = 'PRESENT')`, digest).Scan(&twin); err != nil {
		return out, err
	}
	if twin || len(chain) > 0 {
		out.Repairable, out.Outcome = true, "the object is out of use; its content is read from another copy"
		return out, nil
	}
	out.Corrupt, err = t.markHolders(ctx, []string{digest}, `'CORRUPT'`, key+" "+detail)
	out.Outcome = "no other copy: its checkpoints are corrupt"
	return out, err
}

func (t *Tx) lockHolders(ctx context.Context, digest string) error {
	if _, err := t.tx.Exec(ctx, `SELECT 1 FROM checkpoints WHERE checkpoint_id IN (SELECT f.checkpoint_id FROM blobs b JOIN checkpoint_files f USING (blob_id)
		WHERE b.sha256 = $1) ORDER BY checkpoint_id FOR UPDATE`, digest); err != nil {
		return fmt.Errorf("lock checkpoints: %w", err)
	}
	return nil
}

// quarantineCopy retires a packed copy. What is hot as well loses nothing by it; what is not, and
// every archived content that is a difference to it, cannot be read any more.
func (t *Tx) quarantineCopy(ctx context.Context, key, detail string) (BadObject, error) {
	var digest string
	err := t.tx.QueryRow(ctx, `SELECT sha256 FROM cold_copies WHERE object_key = $1 AND state <> 'PENDING'`, key).Scan(&digest)
	if errors.Is(err, pgx.ErrNoRows) {
		return BadObject{Outcome: "nothing reads that object; nothing was changed"}, nil
	}
	if err != nil {
		return BadObject{}, err
	}
	rows, err := t.tx.Query(ctx, `WITH RECURSIVE lost AS (SELECT sha256 FROM cold_copies WHERE sha256 = $1
			UNION SELECT d.sha256 FROM lost JOIN cold_copies d ON d.base_sha256 = lost.sha256
			WHERE NOT EXISTS (SELECT 1 FROM blobs b WHERE b.sha256 = lost.sha256 AND b.state = 'PRESENT'))
		SELECT sha256 FROM lost ORDER BY 1`, digest)
	if err != nil {
		return BadObject{}, err
	}
	lost, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return BadObject{}, fmt.Errorf("find the dependents: %w", err)
	}
	out := BadObject{}
	if out.Corrupt, err = t.markHolders(ctx, lost, `'COLD'`, key+" "+detail); err != nil {
		return out, err
	}
	if _, err := t.tx.Exec(ctx, `UPDATE cold_copies SET state = 'CORRUPT', update_time = $2 WHERE sha256 = ANY($1) AND state = 'PRESENT'`, lost, t.now); err != nil {
		return out, fmt.Errorf("retire the copies: %w", err)
	}
	out.Outcome = "the packed copy is out of use; the hot object is as it was"
	if len(out.Corrupt) > 0 {
		out.Outcome = "no other copy: the checkpoints that were archived with it are corrupt"
	}
	return out, nil
}

// markHolders makes every checkpoint corrupt that reads one of the contents from an object in
// the given state.
func (t *Tx) markHolders(ctx context.Context, digests []string, state, detail string) ([]string, error) {
	rows, err := t.tx.Query(ctx, `UPDATE checkpoints c SET corrupt = true, detail = $2 WHERE c.state NOT IN ('DELETING', 'DELETED') AND NOT c.corrupt
		AND EXISTS (SELECT 1 FROM checkpoint_files f JOIN blobs b USING (blob_id) WHERE f.checkpoint_id = c.checkpoint_id
			AND b.sha256 = ANY($1) AND b.state = `+state+`) RETURNING c.checkpoint_id`, digests, detail)
	if err != nil {
		return nil, err
	}
	ids, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("mark corrupt: %w", err)
	}
	return ids, nil
}
