package postgres

import (
	"context"
	"testing"
	"time"

	"github.com/ultrathink-pilot/trainyard/services/registry/internal/catalog"
)

// Every sweep lists the inventory. A long run has thousands of checkpoints and a model that is retrained
// for years thousands of versions and promotions: the list may not weigh each of them against all others.
// The limit is far above what the list takes and far below what the square would.
func TestListingTheInventoryDoesNotWeighEachAgainstAll(t *testing.T) {
	f := setup(t)
	run, fence := f.run("")
	c := f.checkpoint(run, fence, 1, 0.5, "content")
	f.register("m", c.ID)
	for _, sql := range []string{
		`INSERT INTO checkpoints SELECT (jsonb_populate_record(c, jsonb_build_object('checkpoint_id', 'c' || lpad(n::text, 8, '0'),
			'step', 1 + n, 'manifest_sha256', lpad(to_hex(n), 64, '0')))).* FROM checkpoints c, generate_series(1, 20000) n`,
		`INSERT INTO model_versions SELECT (jsonb_populate_record(v, jsonb_build_object('version', 1 + n,
			'checkpoint_id', 'c' || lpad(n::text, 8, '0')))).* FROM model_versions v, generate_series(1, 10000) n`,
		`INSERT INTO model_history SELECT (jsonb_populate_record(h, jsonb_build_object('sequence', 100 + n, 'version', 1 + n % 10000,
			'to_stage', 'PRODUCTION'))).* FROM model_history h, generate_series(1, 30000) n WHERE h.sequence = 1`,
		`ANALYZE`,
	} {
		_, err := f.store.pool.Exec(f.ctx, sql)
		f.must(err)
	}
	ctx, cancel := context.WithTimeout(f.ctx, time.Minute)
	defer cancel()
	roots := map[catalog.RootKind]int{}
	seen, after := 0, ""
	for {
		page, total, err := f.store.Inventory(ctx, nil, after, 1000, time.Now())
		f.must(err)
		if len(page) == 0 {
			break
		}
		if total != 20001 {
			t.Fatalf("the whole is given as %d", total)
		}
		for _, item := range page {
			for _, r := range item.Roots {
				roots[r.Kind]++
			}
		}
		seen += len(page)
		after = page[len(page)-1].Checkpoint.ID
	}
	if seen != 20001 || roots[catalog.RootRollback] != catalog.RollbackKeep || roots[catalog.RootLiveRun] != catalog.LiveRunKeep {
		t.Errorf("%d checkpoints are listed, with the roots %v", seen, roots)
	}
}

// A base is looked for once for every file that is archived. With 30,000 copies of one size, over many experiments, that may
// not weigh them all each time.
func TestLookingForABaseDoesNotWeighEveryCopy(t *testing.T) {
	f := setup(t)
	run, fence := f.run("")
	c := f.checkpoint(run, fence, 1, 0.5, "content")
	f.later(run, fence)
	f.archive(c)
	other, fence := f.run("")
	asking := f.checkpoint(other, fence, 1, 0.5, "another")
	for _, sql := range []string{
		`INSERT INTO checkpoints SELECT (jsonb_populate_record(c, jsonb_build_object('checkpoint_id', 'c' || lpad(n::text, 8, '0'),
			'step', 1 + n, 'manifest_sha256', lpad(to_hex(n), 64, '0')))).* FROM checkpoints c, generate_series(1, 30000) n WHERE c.run_id = '` + run + `'`,
		`INSERT INTO blobs (sha256, size_bytes, object_key, state, create_time, update_time)
			SELECT lpad(to_hex(n), 64, '0'), 7, 'blobs/' || lpad(n::text, 8, '0'), 'COLD', now(), now() FROM generate_series(1, 30000) n`,
		`INSERT INTO checkpoint_files (checkpoint_id, name, blob_id) SELECT 'c' || right(object_key, 8), '` + asking.Files[0].Name + `', blob_id FROM blobs WHERE object_key LIKE 'blobs/0%'`,
		`INSERT INTO cold_copies (sha256, size_bytes, object_key, object_sha256, object_bytes, state, create_time, update_time)
			SELECT lpad(to_hex(n), 64, '0'), 7, 'cold/' || lpad(n::text, 8, '0'), repeat('0', 64), 1, 'PRESENT', now(), now() FROM generate_series(1, 30000) n`,
		`ANALYZE`,
	} {
		_, err := f.store.pool.Exec(f.ctx, sql)
		f.must(err)
	}
	if asking.Files[0].Size != 7 {
		t.Fatalf("the file has %d bytes", asking.Files[0].Size)
	}
	ctx, cancel := context.WithTimeout(f.ctx, time.Minute)
	defer cancel()
	f.must(f.store.Do(ctx, f.now, func(tx *Tx) error {
		for range 1000 {
			chain, err := tx.baseFor(ctx, asking, asking.Files[0], 0)
			if err != nil || len(chain) != 1 {
				t.Fatalf("%v, %v", chain, err)
			}
		}
		return nil
	}))
}
