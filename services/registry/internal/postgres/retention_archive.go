package postgres

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/ultrathink-pilot/trainyard/services/registry/internal/catalog"
)

// ColdCopy is one content, packed, in the cold tier.
type ColdCopy struct {
	SHA256 string
	Size   int64
	Key    string
	// ObjectSHA256 and ObjectSize are those of the packed object.
	ObjectSHA256 string
	ObjectSize   int64
	// Base is the content that it is the difference to; empty when it stands alone.
	Base  string
	Depth int
	// HotKey is the content's hot object, where there is one.
	HotKey string
}

// ArchiveFile is one content on its way to the cold tier.
type ArchiveFile struct {
	Names   []string
	SHA256  string
	Size    int64
	HotKey  string
	ColdKey string
	// Existing is set when a proven copy is there already.
	Existing *ColdCopy
	// Chain is a possible base, then its base, and so on to one that stands alone.
	Chain []ColdCopy
}

// ArchiveJob is what it takes to archive one checkpoint; Reason says why it may not be.
type ArchiveJob struct {
	ID     string
	Done   bool
	Reason string
	Files  []ArchiveFile
}

// mayCool says why a checkpoint must stay hot; empty means that it may go.
func (t *Tx) mayCool(ctx context.Context, id string) (c catalog.Checkpoint, why string, err error) {
	c, err = readCheckpoint(ctx, t.tx, id)
	if err != nil {
		return c, "", err
	}
	facts, _, err := readFacts(ctx, t.tx, []string{id}, t.now)
	if err != nil {
		return c, "", err
	}
	var read *time.Time
	if err := t.tx.QueryRow(ctx, `SELECT last_read_time FROM checkpoints WHERE checkpoint_id = $1`, id).Scan(&read); err != nil {
		return c, "", err
	}
	switch roots := catalog.HotRoots(*facts[id]); {
	case c.State != catalog.Live || c.Corrupt:
		return c, "is " + describeState(c), nil
	case len(roots) > 0:
		return c, refusalOf(roots), nil
	case read != nil && t.now.Sub(*read) < catalog.ReadRest:
		return c, "was read " + t.now.Sub(*read).Round(time.Second).String() + " ago", nil
	}
	return c, "", nil
}

// BeginArchive reserves cold keys. The checkpoints are locked, so that two janitors get the
// same keys.
func (t *Tx) BeginArchive(ctx context.Context, ids []string, patterns []string) ([]ArchiveJob, error) {
	held, err := t.lockSwept(ctx, ids)
	if err != nil {
		return nil, fmt.Errorf("lock checkpoints: %w", err)
	}
	jobs := make([]ArchiveJob, len(ids))
	for i, id := range ids {
		jobs[i].ID = id
		if _, ok := held[id]; !ok {
			jobs[i].Reason = "does not exist"
			continue
		}
		c, why, err := t.mayCool(ctx, id)
		if err != nil {
			return nil, err
		}
		jobs[i].Reason, jobs[i].Done = why, why == ""
		if c.Tier == catalog.ColdTier && c.State == catalog.Live {
			jobs[i].Reason, jobs[i].Done = "", true
			continue
		}
		if !jobs[i].Done {
			continue
		}
		kept, _ := catalog.Drop(c.Files, patterns)
		if jobs[i].Files, err = t.archiveFiles(ctx, c, kept); err != nil {
			return nil, err
		}
	}
	return jobs, nil
}

func (t *Tx) archiveFiles(ctx context.Context, c catalog.Checkpoint, files []catalog.File) ([]ArchiveFile, error) {
	var out []ArchiveFile
	at := map[string]int{}
	for _, f := range files {
		for ordinal, content := range f.Contents() {
			if i, ok := at[content.SHA256]; ok {
				if !slices.Contains(out[i].Names, f.Name) {
					out[i].Names = append(out[i].Names, f.Name)
				}
				continue
			}
			at[content.SHA256] = len(out)
			a := ArchiveFile{Names: []string{f.Name}, SHA256: content.SHA256, Size: content.Size, HotKey: content.ObjectKey}
			found, state, err := t.reserveCopy(ctx, content)
			if err != nil {
				return nil, err
			}
			a.ColdKey = found.Key
			if state == "PRESENT" {
				a.Existing = &found
			} else if a.Chain, err = t.baseFor(ctx, c, content, ordinal); err != nil {
				return nil, err
			}
			out = append(out, a)
		}
	}
	return out, nil
}

// reserveCopy finds the copy of a content or makes a PENDING row with a new key. A copy that
// was found bad makes room: its object is released and the next one has another key.
func (t *Tx) reserveCopy(ctx context.Context, f catalog.File) (ColdCopy, string, error) {
	found, state, err := readCopy(ctx, t.tx, f.SHA256)
	if err == nil && state != "CORRUPT" {
		return found, state, nil
	}
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return ColdCopy{}, "", fmt.Errorf("read cold copy: %w", err)
	}
	var serial int64
	if err := t.tx.QueryRow(ctx, `SELECT nextval('cold_serial')`).Scan(&serial); err != nil {
		return ColdCopy{}, "", err
	}
	key := catalog.ColdKey(f.SHA256, serial)
	if _, err := t.tx.Exec(ctx, `INSERT INTO cold_copies (sha256, size_bytes, object_key, state, create_time, update_time)
		VALUES ($1, $2, $3, 'PENDING', $4, $4)
		ON CONFLICT (sha256) DO UPDATE SET object_key = EXCLUDED.object_key, object_sha256 = '', object_bytes = 0, base_sha256 = NULL, depth = 0,
			state = 'PENDING', update_time = EXCLUDED.update_time`, f.SHA256, f.Size, key, t.now); err != nil {
		return ColdCopy{}, "", fmt.Errorf("reserve cold copy: %w", err)
	}
	if found.Key != "" {
		if err := t.release(ctx, found.Key, found.ObjectSize, "a cold copy that was found bad", t.now); err != nil {
			return ColdCopy{}, "", err
		}
	}
	return ColdCopy{SHA256: f.SHA256, Size: f.Size, Key: key}, "PENDING", nil
}

const copyColumns = `sha256, size_bytes, object_key, object_sha256, object_bytes, COALESCE(base_sha256, ''), depth`

func readCopy(ctx context.Context, q querier, sha256 string) (c ColdCopy, state string, err error) {
	err = q.QueryRow(ctx, `SELECT `+copyColumns+`, state FROM cold_copies WHERE sha256 = $1`, sha256).
		Scan(&c.SHA256, &c.Size, &c.Key, &c.ObjectSHA256, &c.ObjectSize, &c.Base, &c.Depth, &state)
	return c, state, err
}

// baseWanted is, among the checkpoints near, a proven copy of a file of the same name and size, or of the same chunk of one, with
// room left in its chain.
// A content that others are the difference to stands alone: no chain may bite its own tail.
const baseWanted = ` SELECT k.sha256 FROM near JOIN checkpoints o USING (checkpoint_id) JOIN checkpoint_files f USING (checkpoint_id)
	JOIN blobs b USING (blob_id) JOIN cold_copies k ON k.sha256 = b.sha256
	WHERE o.checkpoint_id <> $2 AND o.state = 'LIVE' AND NOT o.corrupt AND f.name = $3 AND f.ordinal = $8 AND k.size_bytes = $4
	AND k.state = 'PRESENT' AND k.depth < $5 AND k.sha256 <> $7 AND NOT EXISTS (SELECT 1 FROM cold_copies d WHERE d.base_sha256 = $7)
	ORDER BY o.run_id <> $1, abs(o.step - $6), k.depth, k.sha256 LIMIT 1`

// nearIn is the archived checkpoints of some runs that are nearest by step.
func nearIn(runs string, each int) string {
	return fmt.Sprintf(`WITH near AS MATERIALIZED (SELECT c.checkpoint_id FROM (%s) r CROSS JOIN LATERAL (
		(SELECT checkpoint_id FROM checkpoints WHERE run_id = r.run_id AND archive_time IS NOT NULL AND step <= $6 ORDER BY step DESC LIMIT %[2]d)
		UNION ALL (SELECT checkpoint_id FROM checkpoints WHERE run_id = r.run_id AND archive_time IS NOT NULL AND step > $6 ORDER BY step LIMIT %[2]d)) c)`, runs, each)
}

// baseScopes are where a base is looked for, nearest first: the run itself, the newest runs of its experiment, the newest
// copies of that size anywhere, as models of one kind may share a trunk. Each is bounded: one question over all of them
// weighed every copy in the store for every file that was archived.
var baseScopes = []string{
	nearIn(`SELECT $1::text AS run_id`, 20) + baseWanted,
	nearIn(`SELECT n.run_id FROM runs n WHERE n.experiment_id = (SELECT experiment_id FROM runs WHERE run_id = $1)
		AND n.run_id <> $1 ORDER BY n.start_time DESC, n.run_id LIMIT 50`, 2) + baseWanted,
	`WITH near AS MATERIALIZED (SELECT DISTINCT nf.checkpoint_id FROM (SELECT c.sha256 FROM cold_copies c
		WHERE c.size_bytes = $4 AND c.state = 'PRESENT' ORDER BY c.update_time DESC LIMIT 50) c JOIN blobs nb USING (sha256) JOIN checkpoint_files nf USING (blob_id))` + baseWanted,
}

// baseFor finds what the difference can be taken to, as a chain down to what stands alone.
func (t *Tx) baseFor(ctx context.Context, c catalog.Checkpoint, f catalog.File, ordinal int) ([]ColdCopy, error) {
	for _, scope := range baseScopes {
		var base string
		err := t.tx.QueryRow(ctx, scope, c.RunID, c.ID, f.Name, f.Size, catalog.MaxColdDepth, c.Step, f.SHA256, ordinal).Scan(&base)
		if errors.Is(err, pgx.ErrNoRows) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("look for a base: %w", err)
		}
		return readChain(ctx, t.tx, base)
	}
	return nil, nil
}

// readChain returns a proven copy, then its base, and so on to one that stands alone or is hot as
// well; empty when a link is missing.
func readChain(ctx context.Context, q querier, sha256 string) ([]ColdCopy, error) {
	rows, err := q.Query(ctx, `WITH RECURSIVE chain AS (
			SELECT k.*, 0 AS place FROM cold_copies k WHERE k.sha256 = $1
			UNION ALL SELECT k.*, chain.place + 1 FROM chain JOIN cold_copies k ON k.sha256 = chain.base_sha256)
		SELECT `+copyColumns+`, state, COALESCE((SELECT b.object_key FROM blobs b WHERE b.sha256 = chain.sha256 AND b.state = 'PRESENT'), '')
		FROM chain ORDER BY place`, sha256)
	if err != nil {
		return nil, err
	}
	type link struct {
		ColdCopy
		proven bool
	}
	all, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (l link, err error) {
		var state string
		err = row.Scan(&l.SHA256, &l.Size, &l.Key, &l.ObjectSHA256, &l.ObjectSize, &l.Base, &l.Depth, &state, &l.HotKey)
		l.proven = state == "PRESENT"
		return l, err
	})
	if err != nil {
		return nil, fmt.Errorf("read the chain of copies: %w", err)
	}
	var chain []ColdCopy
	for i, l := range all {
		if !l.proven && (i == 0 || l.HotKey == "") {
			return nil, nil
		}
		if chain = append(chain, l.ColdCopy); i > 0 && l.HotKey != "" {
			break
		}
	}
	return chain, nil
}

// Archived is what an archive has released.
type Archived struct {
	Result        RetentionResult
	ReleasedBytes int64
	DroppedBytes  int64
}

// CommitArchive switches a checkpoint to the cold tier. The caller has proven the copies that
// it names. A refusal gives the reserved copies up again.
func (t *Tx) CommitArchive(ctx context.Context, id string, copies []ColdCopy, patterns []string, grace time.Duration) (Archived, error) {
	held, err := t.lockSwept(ctx, []string{id})
	if err != nil {
		return Archived{}, fmt.Errorf("lock checkpoint: %w", err)
	}
	out := Archived{Result: RetentionResult{ID: id, Reason: "does not exist"}}
	h, ok := held[id]
	if !ok {
		return out, nil
	}
	out.Result.State = h.state
	c, why, err := t.mayCool(ctx, id)
	if err != nil {
		return out, err
	}
	if c.Tier == catalog.ColdTier && c.State == catalog.Live {
		out.Result.Done, out.Result.Reason = true, ""
		return out, nil
	}
	kept, dropped := catalog.Drop(c.Files, patterns)
	if why == "" {
		why, err = t.takeCopies(ctx, catalog.Distinct(kept), copies)
		if err != nil {
			return out, err
		}
	}
	if why != "" {
		out.Result.Reason = why
		return out, t.giveUpCopies(ctx, catalog.Distinct(c.Files))
	}
	if err := t.dropFiles(ctx, c, dropped, grace); err != nil {
		return out, err
	}
	for _, f := range dropped {
		out.DroppedBytes += f.Size
	}
	if _, err := t.tx.Exec(ctx, `UPDATE checkpoints SET tier = 'COLD', archive_time = $2 WHERE checkpoint_id = $1`, id, t.now); err != nil {
		return out, fmt.Errorf("archive: %w", err)
	}
	out.Result.Done, out.Result.Reason = true, ""
	out.ReleasedBytes, err = t.cool(ctx, []string{id})
	return out, err
}

// takeCopies records the proven copies; every kept content must have one.
func (t *Tx) takeCopies(ctx context.Context, kept []catalog.File, copies []ColdCopy) (why string, err error) {
	for _, f := range kept {
		found, state, err := readCopy(ctx, t.tx, f.SHA256)
		if err != nil && !errors.Is(err, pgx.ErrNoRows) {
			return "", fmt.Errorf("read cold copy: %w", err)
		}
		if state == "PRESENT" {
			continue
		}
		i := slices.IndexFunc(copies, func(c ColdCopy) bool { return c.SHA256 == f.SHA256 })
		if i < 0 || state != "PENDING" || copies[i].Key != found.Key {
			return f.Name + " has no proven copy in the cold tier", nil
		}
		depth := 0
		if copies[i].Base != "" {
			base, state, err := readCopy(ctx, t.tx, copies[i].Base)
			if err != nil && !errors.Is(err, pgx.ErrNoRows) {
				return "", fmt.Errorf("read base: %w", err)
			}
			var needed bool
			if err := t.tx.QueryRow(ctx, `SELECT EXISTS (SELECT 1 FROM cold_copies WHERE base_sha256 = $1)`, f.SHA256).Scan(&needed); err != nil {
				return "", fmt.Errorf("read dependents: %w", err)
			}
			if depth = base.Depth + 1; state != "PRESENT" || depth > catalog.MaxColdDepth || needed {
				return f.Name + " is the difference to a content that is not in the cold tier any more", nil
			}
		}
		if _, err := t.tx.Exec(ctx, `UPDATE cold_copies SET state = 'PRESENT', object_sha256 = $2, object_bytes = $3, base_sha256 = NULLIF($4, ''),
			depth = $5, update_time = $6 WHERE sha256 = $1`, f.SHA256, copies[i].ObjectSHA256, copies[i].ObjectSize, copies[i].Base, depth, t.now); err != nil {
			return "", fmt.Errorf("record cold copy: %w", err)
		}
	}
	return "", nil
}

// giveUpCopies releases the keys that were reserved and are not used.
func (t *Tx) giveUpCopies(ctx context.Context, files []catalog.File) error {
	for _, f := range files {
		var key string
		err := t.tx.QueryRow(ctx, `DELETE FROM cold_copies WHERE sha256 = $1 AND state = 'PENDING' RETURNING object_key`, f.SHA256).Scan(&key)
		if errors.Is(err, pgx.ErrNoRows) {
			continue
		}
		if err != nil {
			return fmt.Errorf("give up cold copy: %w", err)
		}
		if err := t.release(ctx, key, 0, "an archive that was refused", t.now); err != nil {
			return err
		}
	}
	return nil
}

// dropFiles takes files from a checkpoint for good. Their bytes stay for the grace.
func (t *Tx) dropFiles(ctx context.Context, c catalog.Checkpoint, dropped []catalog.File, grace time.Duration) error {
	for _, f := range dropped {
		if _, err := t.tx.Exec(ctx, `INSERT INTO checkpoint_dropped_files (checkpoint_id, name, sha256, size_bytes, drop_time) VALUES ($1, $2, $3, $4, $5)`,
			c.ID, f.Name, f.SHA256, f.Size, t.now); err != nil {
			return fmt.Errorf("record the dropped file: %w", err)
		}
		if _, err := t.tx.Exec(ctx, `DELETE FROM checkpoint_files WHERE checkpoint_id = $1 AND name = $2`, c.ID, f.Name); err != nil {
			return fmt.Errorf("drop the file: %w", err)
		}
		if _, err := t.tx.Exec(ctx, `UPDATE checkpoints SET resumable = false, total_bytes = total_bytes - $2 WHERE checkpoint_id = $1`, c.ID, f.Size); err != nil {
			return err
		}
		for _, content := range catalog.Distinct([]catalog.File{f}) {
			if err := t.dropContent(ctx, c.ID, content, grace); err != nil {
				return err
			}
		}
	}
	return nil
}

// dropContent lets the content of a dropped file go, unless something else holds it.
func (t *Tx) dropContent(ctx context.Context, id string, content catalog.File, grace time.Duration) error {
	if err := t.lockBlobs(ctx, `object_key = $1`, content.ObjectKey); err != nil {
		return err
	}
	tag, err := t.tx.Exec(ctx, `UPDATE blobs b SET state = 'DELETED', update_time = $2 WHERE object_key = $1 AND state = 'PRESENT'
		AND NOT EXISTS (SELECT 1 FROM checkpoint_files o JOIN checkpoints oc USING (checkpoint_id) WHERE o.blob_id = b.blob_id AND oc.state <> 'DELETED')
		AND NOT EXISTS (SELECT 1 FROM artifacts a WHERE a.blob_id = b.blob_id)`, content.ObjectKey, t.now)
	if err != nil {
		return fmt.Errorf("let the dropped file go: %w", err)
	}
	if tag.RowsAffected() == 0 {
		return nil
	}
	return t.release(ctx, content.ObjectKey, content.Size, "training state of "+id+", dropped when it was archived", t.now.Add(grace))
}

// lockBlobs locks rows before they are looked at: in one statement the look would use a
// snapshot from before the lock, and miss a reference that was just added.
func (t *Tx) lockBlobs(ctx context.Context, where string, args ...any) error {
	if _, err := t.tx.Exec(ctx, `SELECT 1 FROM blobs WHERE `+where+` ORDER BY sha256, generation FOR UPDATE`, args...); err != nil {
		return fmt.Errorf("lock blobs: %w", err)
	}
	return nil
}

// cool lets the hot objects go that only archived checkpoints refer to, and that have a proven
// copy in the cold tier.
func (t *Tx) cool(ctx context.Context, ids []string) (int64, error) {
	if err := t.lockBlobs(ctx, `blob_id IN (SELECT blob_id FROM checkpoint_files WHERE checkpoint_id = ANY($1))`, ids); err != nil {
		return 0, err
	}
	rows, err := t.tx.Query(ctx, `UPDATE blobs b SET state = 'COLD', update_time = $2
		WHERE b.state = 'PRESENT' AND b.blob_id IN (SELECT blob_id FROM checkpoint_files WHERE checkpoint_id = ANY($1))
		AND EXISTS (SELECT 1 FROM cold_copies k WHERE k.sha256 = b.sha256 AND k.state = 'PRESENT')
		AND EXISTS (SELECT 1 FROM checkpoint_files f JOIN checkpoints c USING (checkpoint_id)
			WHERE f.blob_id = b.blob_id AND c.tier = 'COLD' AND c.state NOT IN ('DELETING', 'DELETED'))
		AND NOT EXISTS (SELECT 1 FROM checkpoint_files f JOIN checkpoints c USING (checkpoint_id)
			WHERE f.blob_id = b.blob_id AND c.tier = 'HOT' AND c.state NOT IN ('DELETING', 'DELETED'))
		AND NOT EXISTS (SELECT 1 FROM artifacts a WHERE a.blob_id = b.blob_id)
		RETURNING b.object_key, b.size_bytes`, ids, t.now)
	if err != nil {
		return 0, err
	}
	gone, err := pgx.CollectRows(rows, pgx.RowToStructByPos[sizedKey])
	if err != nil {
		return 0, fmt.Errorf("cool blobs: %w", err)
	}
	var bytes int64
	for _, o := range gone {
		bytes += o.Size
		if err := t.release(ctx, o.Key, o.Size, "archived", t.now); err != nil {
			return 0, err
		}
	}
	return bytes, nil
}

// release hands an object to the janitor.
func (t *Tx) release(ctx context.Context, key string, size int64, reason string, due time.Time) error {
	if _, err := t.tx.Exec(ctx, `INSERT INTO released_objects (object_key, size_bytes, reason, release_time, due_time) VALUES ($1, $2, $3, $4, $5)
		ON CONFLICT (object_key) DO UPDATE SET due_time = LEAST(released_objects.due_time, EXCLUDED.due_time)`, key, size, reason, t.now, due); err != nil {
		return fmt.Errorf("release %s: %w", key, err)
	}
	return nil
}
