package postgres

import (
	"context"
	"testing"
	"time"
)

// Listing is asked for by every sweep: with 30,000 objects a page must take no time to speak of. The
// database is given a limit far above that and far below what a question without an index would take.
func TestListingObjectsDoesNotReadEveryFileForEveryObject(t *testing.T) {
	f := setup(t)
	run, fence := f.run("")
	c := f.checkpoint(run, fence, 1, 0.5, "content")
	for _, sql := range []string{
		`INSERT INTO blobs (sha256, size_bytes, object_key, state, create_time, update_time)
			SELECT lpad(to_hex(n), 64, '0'), 1, 'blobs/' || lpad(n::text, 8, '0'), 'PRESENT', now(), now() FROM generate_series(1, 30000) n`,
		`INSERT INTO checkpoint_files (checkpoint_id, name, blob_id) SELECT '` + c.ID + `', object_key, blob_id FROM blobs WHERE object_key LIKE 'blobs/0%'`,
		`INSERT INTO cold_copies (sha256, size_bytes, object_key, object_sha256, object_bytes, state, create_time, update_time)
			SELECT lpad(to_hex(n), 64, '0'), 1, 'cold/' || lpad(n::text, 8, '0'), repeat('0', 64), 1, 'PRESENT', now(), now() FROM generate_series(1, 30000) n`,
		`ANALYZE`,
	} {
		_, err := f.store.pool.Exec(f.ctx, sql)
		f.must(err)
	}
	ctx, cancel := context.WithTimeout(f.ctx, 20*time.Second)
	defer cancel()
	seen, after := 0, ""
	for {
		page, err := f.store.Objects(ctx, after, 5000)
		f.must(err)
		if len(page) == 0 {
			break
		}
		seen += len(page)
		after = page[len(page)-1].Key
	}
	if seen != 60001 {
		t.Errorf("%d objects are listed", seen)
	}
}
