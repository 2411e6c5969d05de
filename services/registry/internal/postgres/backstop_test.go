package postgres

import (
	"reflect"
	"strings"
	"testing"

	"github.com/ultrathink-pilot/trainyard/services/registry/internal/catalog"
)

// Every way that we could think of to lose a model by raw SQL, with the checkpoint in
// production and, the same again, under a legal hold.
func attacks(id string, file catalog.File) map[string]string {
	q := strings.NewReplacer("$ID", "'"+id+"'", "$KEY", "'"+file.ObjectKey+"'", "$SHA", "'"+file.SHA256+"'").Replace
	out := map[string]string{
		"tombstone it":            `UPDATE checkpoints SET state = 'TOMBSTONED', tombstone_time = now() WHERE checkpoint_id = $ID`,
		"skip to deleting":        `UPDATE checkpoints SET state = 'DELETING', tombstone_time = now() WHERE checkpoint_id = $ID`,
		"call it deleted":         `UPDATE checkpoints SET state = 'DELETED', tombstone_time = now() WHERE checkpoint_id = $ID`,
		"call it an upload":       `UPDATE checkpoints SET state = 'PENDING' WHERE checkpoint_id = $ID`,
		"sweep everything":        `UPDATE checkpoints SET state = 'TOMBSTONED', tombstone_time = now()`,
		"archive it":              `UPDATE checkpoints SET tier = 'COLD', archive_time = now() WHERE checkpoint_id = $ID`,
		"rename it":               `UPDATE checkpoints SET checkpoint_id = 'other' WHERE checkpoint_id = $ID`,
		"delete the row":          `DELETE FROM checkpoints WHERE checkpoint_id = $ID`,
		"delete all rows":         `DELETE FROM checkpoints`,
		"truncate":                `TRUNCATE checkpoints CASCADE`,
		"truncate files":          `TRUNCATE checkpoint_files`,
		"truncate objects":        `TRUNCATE blobs CASCADE`,
		"delete its files":        `DELETE FROM checkpoint_files WHERE checkpoint_id = $ID`,
		"delete one file":         `DELETE FROM checkpoint_files WHERE checkpoint_id = $ID AND name = (SELECT min(name) FROM checkpoint_files WHERE checkpoint_id = $ID)`,
		"move its files away":     `UPDATE checkpoint_files SET checkpoint_id = (SELECT min(checkpoint_id) FROM checkpoints WHERE checkpoint_id <> $ID) WHERE checkpoint_id = $ID`,
		"reorder its chunks":      `UPDATE checkpoint_files SET ordinal = ordinal + 1 WHERE checkpoint_id = $ID`,
		"give it more content":    `INSERT INTO checkpoint_files (checkpoint_id, name, ordinal, blob_id) SELECT checkpoint_id, name, 7, blob_id FROM checkpoint_files WHERE checkpoint_id = $ID`,
		"give it another digest":  `UPDATE checkpoint_files SET file_sha256 = repeat('0', 64), file_bytes = 1 WHERE checkpoint_id = $ID AND ordinal = 0`,
		"give it other content":   `UPDATE checkpoint_files SET blob_id = (SELECT max(blob_id) FROM blobs WHERE sha256 <> $SHA) WHERE checkpoint_id = $ID`,
		"release its object":      `UPDATE blobs SET state = 'DELETING' WHERE object_key = $KEY`,
		"call its object gone":    `UPDATE blobs SET state = 'DELETED' WHERE object_key = $KEY`,
		"call its object cold":    `UPDATE blobs SET state = 'COLD' WHERE object_key = $KEY`,
		"release all objects":     `UPDATE blobs SET state = 'DELETING'`,
		"point the object away":   `UPDATE blobs SET object_key = 'elsewhere' WHERE object_key = $KEY`,
		"change its digest":       `UPDATE blobs SET sha256 = repeat('0', 64) WHERE object_key = $KEY`,
		"change its size":         `UPDATE blobs SET size_bytes = 1 WHERE object_key = $KEY`,
		"delete its object's row": `DELETE FROM blobs WHERE object_key = $KEY`,
		"hand the janitor its key": `INSERT INTO released_objects (object_key, size_bytes, reason, release_time, due_time)
			VALUES ($KEY, 1, 'attack', now(), now())`,
		"rename a released key": `INSERT INTO released_objects (object_key, size_bytes, reason, release_time, due_time) VALUES ('x', 1, 'attack', now(), now());
			UPDATE released_objects SET object_key = $KEY WHERE object_key = 'x'`,
	}
	for name, sql := range out {
		out[name] = q(sql)
	}
	return out
}

// attack runs statements in one transaction; the database must refuse one of them, and not for
// its spelling.
func (f *fixture) attack(name, sql string) {
	f.Helper()
	tx, err := f.store.pool.Begin(f.ctx)
	f.must(err)
	for statement := range strings.SplitSeq(sql, ";") {
		if _, err = tx.Exec(f.ctx, statement); err != nil {
			break
		}
	}
	if err == nil {
		f.Errorf("%s: nothing refused it", name)
	} else if !IsDataFault(err) {
		f.Errorf("%s: refused for another reason: %v", name, err)
	}
	f.must(tx.Rollback(f.ctx))
}

func TestRawSQLCannotLoseProduction(t *testing.T) {
	f := setup(t)
	made := f.family("m", 2)
	live := made[0]
	f.promoteAny(live.ID)
	before, err := f.store.GetCheckpoint(f.ctx, live.ID)
	f.must(err)
	all := attacks(live.ID, before.Files[0])
	all["delete the version"] = `DELETE FROM model_versions WHERE checkpoint_id = '` + live.ID + `'`
	all["delete every version"] = `DELETE FROM model_aliases; DELETE FROM model_versions`
	all["cut the version off"] = `UPDATE model_versions SET checkpoint_id = NULL WHERE checkpoint_id = '` + live.ID + `'`
	all["truncate versions"] = `TRUNCATE model_versions CASCADE`
	for name, sql := range all {
		f.attack(name, sql)
	}
	after, err := f.store.GetCheckpoint(f.ctx, live.ID)
	f.must(err)
	if after.State != catalog.Live || after.Tier != catalog.Hot || !reflect.DeepEqual(after.Files, before.Files) {
		t.Errorf("the attacks left a mark: %+v", after)
	}
}

func TestRawSQLCannotLoseWhatIsUnderALegalHold(t *testing.T) {
	f := setup(t)
	run, fence := f.run("")
	held := f.checkpoint(run, fence, 1, 0.5, "held")
	f.checkpoint(run, fence, 2, 0.5, "other")
	hold := func(on bool) {
		f.must(f.store.Do(f.ctx, f.now, func(t *Tx) error {
			r, err := t.SetLegalHold(f.ctx, held.ID, on, "person/ann", "case 7")
			if err == nil && !r.Done {
				f.Errorf("the hold was refused: %+v", r)
			}
			return err
		}))
	}
	hold(true)
	for name, sql := range attacks(held.ID, held.Files[0]) {
		f.attack(name, sql)
	}
	items, _, err := f.store.Inventory(f.ctx, nil, "", 10, f.now)
	f.must(err)
	found := false
	for _, i := range items {
		for _, r := range i.Roots {
			found = found || i.Checkpoint.ID == held.ID && r.Kind == catalog.RootLegalHold && r.Detail == "person/ann: case 7"
		}
	}
	if !found {
		t.Errorf("the hold is no root: %+v", items)
	}
	hold(false)
	if _, err := f.store.pool.Exec(f.ctx, `UPDATE checkpoints SET state = 'TOMBSTONED', tombstone_time = now() WHERE checkpoint_id = $1`, held.ID); err != nil {
		t.Errorf("a lifted hold still holds: %v", err)
	}
}

// A checkpoint that only the cold tier holds keeps its packed copies, whatever is tried.
func TestRawSQLCannotLoseTheOnlyColdCopy(t *testing.T) {
	f := setup(t)
	run, fence := f.run("")
	c := f.checkpoint(run, fence, 1, 0.5, "content")
	f.checkpoint(run, fence, 2, 0.5, "newer")
	f.checkpoint(run, fence, 3, 0.5, "newest")
	f.archive(c)
	for name, sql := range map[string]string{
		"delete the copy":     `DELETE FROM cold_copies`,
		"reserve it again":    `UPDATE cold_copies SET state = 'PENDING'`,
		"point it elsewhere":  `UPDATE cold_copies SET object_key = 'elsewhere'`,
		"release its key":     `INSERT INTO released_objects SELECT object_key, 1, 'attack', now(), now() FROM cold_copies`,
		"promote it unwarmed": `INSERT INTO models (name, create_time, update_time) VALUES ('x', now(), now()); INSERT INTO model_versions (model_id, version, stage, checkpoint_id, create_time, update_time) SELECT model_id, 1, 'PRODUCTION', '` + c.ID + `', now(), now() FROM models WHERE name = 'x'`,
		"truncate the copies": `TRUNCATE cold_copies CASCADE`,
	} {
		f.attack(name, sql)
	}
}
