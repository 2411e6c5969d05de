package postgres

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/ultrathink-pilot/trainyard/services/registry/internal/catalog"
)

// InventoryItem is a checkpoint as the janitor sees it.
type InventoryItem struct {
	Checkpoint catalog.Checkpoint
	Roots      []catalog.Root
	// ExclusiveBytes would be freed by this checkpoint's deletion alone; SharedBytes are held by others too.
	ExclusiveBytes, SharedBytes int64
	RunActive                   bool
	// LastUse is the newest read, or activity of its run; ExperimentUse that of any run of its
	// experiment.
	LastUse, ExperimentUse time.Time
	// Bases are checkpoints without whose contents this one cannot be read.
	Bases []string
}

// inventoryWhere is what has bytes: everything committed and not DELETED, and uploads
// that were given up long ago.
const inventoryWhere = `c.state <> 'DELETED' AND (c.state <> 'PENDING' OR c.create_time < $1)`

// Inventory returns up to limit checkpoints that have bytes, by id above after, and how many
// there are without that limit. With contents, only those that hold one of them count.
func (s *Store) Inventory(ctx context.Context, contents []string, after string, limit int, now time.Time) ([]InventoryItem, int64, error) {
	where, args := inventoryWhere, []any{now.Add(-catalog.PendingGrace)}
	if len(contents) > 0 {
		where += ` AND c.checkpoint_id IN (SELECT f.checkpoint_id FROM checkpoint_files f JOIN blobs b USING (blob_id) WHERE b.sha256 = ANY($2))`
		args = append(args, contents)
	}
	var total int64
	if err := s.pool.QueryRow(ctx, `SELECT count(*) FROM checkpoints c WHERE `+where, args...).Scan(&total); err != nil {
		return nil, 0, fmt.Errorf("count inventory: %w", err)
	}
	n := len(args)
	page := fmt.Sprintf(`WHERE %s AND c.checkpoint_id > $%d ORDER BY c.checkpoint_id LIMIT $%d`, where, n+1, n+2)
	cs, err := readCheckpoints(ctx, s.pool, page, append(args, after, limit)...)
	if err != nil {
		return nil, 0, err
	}
	ids := make([]string, len(cs))
	for i, c := range cs {
		ids[i] = c.ID
	}
	facts, active, err := readFacts(ctx, s.pool, ids, now)
	if err != nil {
		return nil, 0, err
	}
	bytes, err := heldBytes(ctx, s.pool, ids)
	if err != nil {
		return nil, 0, err
	}
	items := make([]InventoryItem, len(cs))
	at := make(map[string]*InventoryItem, len(cs))
	for i, c := range cs {
		items[i] = InventoryItem{Checkpoint: c, Roots: catalog.Roots(*facts[c.ID]), ExclusiveBytes: bytes[c.ID].exclusive, SharedBytes: bytes[c.ID].shared, RunActive: active[c.ID]}
		at[c.ID] = &items[i]
	}
	if err := readUse(ctx, s.pool, ids, now, at); err != nil {
		return nil, 0, err
	}
	return items, total, readBases(ctx, s.pool, ids, at)
}

// readUse fills in when each checkpoint, and its experiment, was last of use to anyone. A run
// that is going on is in use now.
func readUse(ctx context.Context, q querier, ids []string, now time.Time, at map[string]*InventoryItem) error {
	rows, err := q.Query(ctx, `SELECT c.checkpoint_id, GREATEST(c.last_read_time, CASE WHEN r.end_time IS NULL THEN $2 ELSE r.end_time END), e.used
		FROM checkpoints c JOIN runs r USING (run_id) JOIN (
			SELECT experiment_id, max(CASE WHEN end_time IS NULL THEN $2 ELSE end_time END) AS used FROM runs
			WHERE experiment_id IN (SELECT o.experiment_id FROM checkpoints oc JOIN runs o USING (run_id) WHERE oc.checkpoint_id = ANY($1))
			GROUP BY 1) e ON e.experiment_id = r.experiment_id WHERE c.checkpoint_id = ANY($1)`, ids, now)
	if err != nil {
		return err
	}
	var (
		id          string
		used, whole *time.Time
	)
	if _, err := pgx.ForEachRow(rows, []any{&id, &used, &whole}, func() error {
		at[id].LastUse, at[id].ExperimentUse = fromNull(used), fromNull(whole)
		return nil
	}); err != nil {
		return fmt.Errorf("read the last use: %w", err)
	}
	return nil
}

// dependency pairs a checkpoint that lives in the cold tier as a difference with the first
// checkpoint that holds the content it is the difference to. The first alone: a trunk that
// fifty checkpoints share must not keep all fifty.
const dependency = `SELECT DISTINCT f.checkpoint_id AS base, df.checkpoint_id AS dependent FROM checkpoint_files df
	JOIN checkpoints dc ON dc.checkpoint_id = df.checkpoint_id AND dc.state NOT IN ('DELETING', 'DELETED')
	JOIN blobs db ON db.blob_id = df.blob_id AND db.state = 'COLD'
	JOIN cold_copies d ON d.sha256 = db.sha256
	JOIN blobs b ON b.sha256 = d.base_sha256
	JOIN checkpoint_files f ON f.blob_id = b.blob_id AND f.checkpoint_id <> df.checkpoint_id
		AND NOT EXISTS (SELECT 1 FROM checkpoint_files o JOIN checkpoints oc USING (checkpoint_id)
			WHERE o.blob_id = f.blob_id AND o.checkpoint_id < f.checkpoint_id AND o.checkpoint_id <> df.checkpoint_id AND oc.state = 'LIVE')`

func readBases(ctx context.Context, q querier, ids []string, at map[string]*InventoryItem) error {
	rows, err := q.Query(ctx, dependency+` WHERE df.checkpoint_id = ANY($1) ORDER BY 1, 2`, ids)
	if err != nil {
		return err
	}
	var base, dependent string
	if _, err := pgx.ForEachRow(rows, []any{&base, &dependent}, func() error {
		at[dependent].Bases = append(at[dependent].Bases, base)
		return nil
	}); err != nil {
		return fmt.Errorf("read the bases: %w", err)
	}
	return nil
}

// readFacts reads everything that refers to the given checkpoints. Called under their row
// locks it is decisive: every statement sees what committed before the locks were taken,
// and whoever adds a reference needs the same locks.
func readFacts(ctx context.Context, q querier, ids []string, now time.Time) (map[string]*catalog.Facts, map[string]bool, error) {
	facts := make(map[string]*catalog.Facts, len(ids))
	active := make(map[string]bool, len(ids))
	for _, id := range ids {
		facts[id] = &catalog.Facts{}
	}
	// The place among the former Production versions is worked out once per model, not once per
	// version: a model that is retrained for years has thousands of both.
	rows, err := q.Query(ctx, `WITH used AS MATERIALIZED (
			SELECT model_id, version, checkpoint_id, stage FROM model_versions WHERE checkpoint_id = ANY($1) AND NOT deleted),
		former AS MATERIALIZED (
			SELECT h.model_id, h.version, row_number() OVER (PARTITION BY h.model_id ORDER BY h.last DESC) AS rank FROM (
				SELECT model_id, version, max(sequence) AS last FROM model_history
				WHERE to_stage = 'PRODUCTION' AND model_id IN (SELECT model_id FROM used) GROUP BY 1, 2) h
			JOIN model_versions o ON o.model_id = h.model_id AND o.version = h.version AND NOT o.deleted AND o.stage <> 'PRODUCTION')
		SELECT v.checkpoint_id, m.name, v.version, v.stage,
			ARRAY(SELECT a.alias FROM model_aliases a WHERE a.model_id = v.model_id AND a.version = v.version),
			COALESCE(f.rank, 0)
		FROM used v JOIN models m USING (model_id) LEFT JOIN former f USING (model_id, version) ORDER BY m.name, v.version`, ids)
	if err != nil {
		return nil, nil, err
	}
	var (
		id string
		v  catalog.VersionUse
	)
	if _, err := pgx.ForEachRow(rows, []any{&id, &v.Model, &v.Version, &v.Stage, &v.Aliases, &v.RollbackRank}, func() error {
		use := v
		facts[id].Versions = append(facts[id].Versions, use)
		return nil
	}); err != nil {
		return nil, nil, fmt.Errorf("read versions: %w", err)
	}
	rows, err = q.Query(ctx, `WITH asked AS MATERIALIZED (SELECT checkpoint_id, run_id FROM checkpoints WHERE checkpoint_id = ANY($1)),
		good AS MATERIALIZED (
			SELECT checkpoint_id, row_number() OVER (PARTITION BY run_id ORDER BY step DESC, commit_time DESC, checkpoint_id DESC) AS rank
			FROM checkpoints WHERE run_id IN (SELECT run_id FROM asked) AND state = 'LIVE' AND NOT corrupt)
		SELECT c.checkpoint_id, r.state, COALESCE(r.end_time, r.start_time), COALESCE(g.rank, 0)
		FROM asked c JOIN runs r USING (run_id) LEFT JOIN good g USING (checkpoint_id)`, ids)
	if err != nil {
		return nil, nil, err
	}
	var (
		state catalog.RunState
		end   time.Time
		rank  int
	)
	if _, err := pgx.ForEachRow(rows, []any{&id, &state, &end, &rank}, func() error {
		facts[id].RunLive, facts[id].RunRank = catalog.MayResume(state, end, now), rank
		active[id] = !state.Ended()
		return nil
	}); err != nil {
		return nil, nil, fmt.Errorf("read runs: %w", err)
	}
	rows, err = q.Query(ctx, `SELECT parent_id, checkpoint_id, '' FROM checkpoints WHERE parent_id = ANY($1) AND state IN ('PENDING', 'LIVE')
		UNION ALL SELECT checkpoint_id, '', actor || CASE WHEN reason = '' THEN '' ELSE ': ' || reason END
		FROM checkpoint_pins WHERE checkpoint_id = ANY($1) ORDER BY 1, 2, 3`, ids)
	if err != nil {
		return nil, nil, err
	}
	var child, pin string
	if _, err := pgx.ForEachRow(rows, []any{&id, &child, &pin}, func() error {
		if child != "" {
			facts[id].Children = append(facts[id].Children, child)
		} else {
			facts[id].Pins = append(facts[id].Pins, pin)
		}
		return nil
	}); err != nil {
		return nil, nil, fmt.Errorf("read parents and pins: %w", err)
	}
	return facts, active, readHolds(ctx, q, ids, facts)
}

// readHolds adds what came with the cold tier: dependents, and legal holds.
func readHolds(ctx context.Context, q querier, ids []string, facts map[string]*catalog.Facts) error {
	rows, err := q.Query(ctx, dependency+` WHERE f.checkpoint_id = ANY($1) ORDER BY 1, 2`, ids)
	if err != nil {
		return err
	}
	var id, other string
	if _, err := pgx.ForEachRow(rows, []any{&id, &other}, func() error {
		facts[id].Dependents = append(facts[id].Dependents, other)
		return nil
	}); err != nil {
		return fmt.Errorf("read dependents: %w", err)
	}
	rows, err = q.Query(ctx, `SELECT checkpoint_id, actor || ': ' || reason FROM legal_holds WHERE checkpoint_id = ANY($1)`, ids)
	if err != nil {
		return err
	}
	if _, err := pgx.ForEachRow(rows, []any{&id, &other}, func() error {
		facts[id].LegalHold = other
		return nil
	}); err != nil {
		return fmt.Errorf("read legal holds: %w", err)
	}
	return nil
}

// holding splits a checkpoint's bytes: those that nothing else holds, and those that others hold too.
type holding struct{ exclusive, shared int64 }

func heldBytes(ctx context.Context, q querier, ids []string) (map[string]holding, error) {
	rows, err := q.Query(ctx, `SELECT f.checkpoint_id, COALESCE(sum(f.size_bytes) FILTER (WHERE NOT f.shared), 0)::bigint,
			COALESCE(sum(f.size_bytes) FILTER (WHERE f.shared), 0)::bigint FROM (
			SELECT DISTINCT cf.checkpoint_id, b.blob_id, b.size_bytes,
				EXISTS (SELECT 1 FROM checkpoint_files o JOIN checkpoints oc USING (checkpoint_id)
					WHERE o.blob_id = cf.blob_id AND o.checkpoint_id <> cf.checkpoint_id AND oc.state <> 'DELETED')
				OR EXISTS (SELECT 1 FROM artifacts a WHERE a.blob_id = cf.blob_id) AS shared
			FROM checkpoint_files cf JOIN blobs b USING (blob_id) WHERE cf.checkpoint_id = ANY($1)) f GROUP BY 1`, ids)
	if err != nil {
		return nil, err
	}
	out := map[string]holding{}
	var (
		id string
		h  holding
	)
	_, err = pgx.ForEachRow(rows, []any{&id, &h.exclusive, &h.shared}, func() error {
		out[id] = h
		return nil
	})
	return out, err
}

// SharedBytes are, by checkpoint, the bytes that other checkpoints or artifacts hold too.
func (s *Store) SharedBytes(ctx context.Context, ids ...string) (map[string]int64, error) {
	all, err := heldBytes(ctx, s.pool, ids)
	out := make(map[string]int64, len(all))
	for id, h := range all {
		out[id] = h.shared
	}
	return out, err
}

// RetentionResult is what became of one checkpoint; State "" means that it does not exist.
type RetentionResult struct {
	ID     string
	State  catalog.CheckpointState
	Done   bool
	Reason string
}

type swept struct {
	state     catalog.CheckpointState
	committed bool
	created   time.Time
	buried    time.Time
}

// lockSwept locks the checkpoints by id, the one order for checkpoint locks.
func (t *Tx) lockSwept(ctx context.Context, ids []string) (map[string]swept, error) {
	rows, err := t.tx.Query(ctx, `SELECT checkpoint_id, state, commit_time IS NOT NULL, create_time, tombstone_time
		FROM checkpoints WHERE checkpoint_id = ANY($1) ORDER BY checkpoint_id FOR UPDATE`, ids)
	if err != nil {
		return nil, err
	}
	out := map[string]swept{}
	var (
		id     string
		s      swept
		buried *time.Time
	)
	_, err = pgx.ForEachRow(rows, []any{&id, &s.state, &s.committed, &s.created, &buried}, func() error {
		s.buried = fromNull(buried)
		out[id] = s
		return nil
	})
	return out, err
}

func refusalOf(roots []catalog.Root) string {
	r := roots[0]
	return "still needed: " + string(r.Kind) + " (" + r.Detail + ")"
}

// Tombstone condemns checkpoints: each is locked, its roots are read again under the
// lock, and only one that nothing refers to moves. Children in the same request go first,
// so that a whole abandoned line can be condemned at once.
func (t *Tx) Tombstone(ctx context.Context, ids []string, reason string) ([]RetentionResult, error) {
	held, err := t.lockSwept(ctx, ids)
	if err != nil {
		return nil, fmt.Errorf("lock checkpoints: %w", err)
	}
	done := map[string]RetentionResult{}
	for progress := true; progress; {
		progress = false
		facts, _, err := readFacts(ctx, t.tx, ids, t.now)
		if err != nil {
			return nil, err
		}
		for _, id := range ids {
			h, ok := held[id]
			if done[id].Done || !ok {
				continue
			}
			r := RetentionResult{ID: id, State: h.state}
			switch roots := catalog.Roots(*facts[id]); {
			case h.state == catalog.Tombstoned:
				r.Done = true
			case !catalog.CanMove(h.state, catalog.Tombstoned):
				r.Reason = "is " + string(h.state)
			case h.state == catalog.Pending && t.now.Sub(h.created) < catalog.PendingGrace:
				r.Reason = "its upload may be under way"
			case len(roots) > 0:
				r.Reason = refusalOf(roots)
			default:
				if _, err := t.tx.Exec(ctx, `UPDATE checkpoints SET state = 'TOMBSTONED', tombstone_time = $2, reason = $3
					WHERE checkpoint_id = $1`, id, t.now, reason); err != nil {
					return nil, fmt.Errorf("tombstone: %w", err)
				}
				r.State, r.Done, progress = catalog.Tombstoned, true, true
			}
			done[id] = r
		}
	}
	return inOrder(ids, done), nil
}

// Restore takes tombstones back.
func (t *Tx) Restore(ctx context.Context, ids []string) ([]RetentionResult, error) {
	return t.each(ctx, ids, func(id string, h swept) (RetentionResult, error) {
		r := RetentionResult{ID: id, State: h.state}
		switch {
		case h.state == catalog.Live:
			r.Done = true
		case !catalog.CanMove(h.state, catalog.Live) || !h.committed:
			r.Reason = "is " + string(h.state) + ": only a committed tombstone comes back"
		default:
			if _, err := t.tx.Exec(ctx, `UPDATE checkpoints SET state = 'LIVE', tombstone_time = NULL, reason = '' WHERE checkpoint_id = $1`, id); err != nil {
				return r, fmt.Errorf("restore: %w", err)
			}
			r.State, r.Done = catalog.Live, true
		}
		return r, nil
	})
}

// BeginDelete checks the roots a second time, moves old enough tombstones to DELETING and
// returns the keys of the objects that nothing else shares. Those blobs are closed in the
// same transaction: the same content arriving later gets a new key.
func (t *Tx) BeginDelete(ctx context.Context, ids []string, grace time.Duration) ([]RetentionResult, []string, error) {
	var facts map[string]*catalog.Facts
	var deleting []string
	results, err := t.each(ctx, ids, func(id string, h swept) (RetentionResult, error) {
		r := RetentionResult{ID: id, State: h.state}
		if facts == nil {
			var err error
			if facts, _, err = readFacts(ctx, t.tx, ids, t.now); err != nil {
				return r, err
			}
		}
		switch roots := catalog.Roots(*facts[id]); {
		case h.state == catalog.Deleting:
			r.Done = true
			deleting = append(deleting, id)
		case h.state == catalog.Gone:
			r.Done = true
		case !catalog.CanMove(h.state, catalog.Deleting):
			r.Reason = "is " + string(h.state)
		case len(roots) > 0:
			r.Reason = refusalOf(roots)
		case t.now.Sub(h.buried) < grace:
			r.Reason = "its tombstone is " + t.now.Sub(h.buried).Round(time.Second).String() + " old, " + grace.String() + " wanted"
		default:
			if _, err := t.tx.Exec(ctx, `UPDATE checkpoints SET state = 'DELETING' WHERE checkpoint_id = $1`, id); err != nil {
				return r, fmt.Errorf("begin delete: %w", err)
			}
			r.State, r.Done = catalog.Deleting, true
			deleting = append(deleting, id)
		}
		return r, nil
	})
	if err != nil {
		return nil, nil, err
	}
	keys, err := t.releaseBlobs(ctx, deleting)
	return results, keys, err
}

// releaseBlobs closes and returns the blobs that only checkpoints on their way out refer to.
// What archived checkpoints alone still share goes to the cold tier with them, and the packed
// copies that nothing needs any more are released.
func (t *Tx) releaseBlobs(ctx context.Context, ids []string) ([]string, error) {
	if _, err := t.cool(ctx, ids); err != nil {
		return nil, err
	}
	// A COLD row has no object of its own: nothing is left to delete under its key.
	rows, err := t.tx.Query(ctx, `WITH gone AS (UPDATE blobs b SET state = CASE WHEN b.state IN ('DELETED', 'COLD') THEN 'DELETED' ELSE 'DELETING' END, update_time = $2
		WHERE b.blob_id IN (SELECT blob_id FROM checkpoint_files WHERE checkpoint_id = ANY($1))
		AND NOT EXISTS (SELECT 1 FROM checkpoint_files f JOIN checkpoints c USING (checkpoint_id)
			WHERE f.blob_id = b.blob_id AND c.state NOT IN ('DELETING', 'DELETED'))
		AND NOT EXISTS (SELECT 1 FROM artifacts a WHERE a.blob_id = b.blob_id)
		RETURNING b.object_key, b.state)
		SELECT object_key FROM gone WHERE state = 'DELETING'`, ids, t.now)
	if err != nil {
		return nil, err
	}
	keys, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("release blobs: %w", err)
	}
	return keys, t.releaseCopies(ctx, `k.sha256 IN (SELECT b.sha256 FROM checkpoint_files f JOIN blobs b USING (blob_id) WHERE f.checkpoint_id = ANY($1))`, ids)
}

// releaseCopies lets packed copies go that no checkpoint needs, the ends of chains first.
func (t *Tx) releaseCopies(ctx context.Context, where string, args ...any) error {
	for range catalog.MaxColdDepth + 1 {
		rows, err := t.tx.Query(ctx, `DELETE FROM cold_copies k WHERE `+where+`
			AND NOT EXISTS (SELECT 1 FROM cold_copies d WHERE d.base_sha256 = k.sha256)
			AND NOT EXISTS (SELECT 1 FROM blobs b JOIN checkpoint_files f USING (blob_id) JOIN checkpoints c USING (checkpoint_id)
				WHERE b.sha256 = k.sha256 AND c.state NOT IN ('DELETING', 'DELETED'))
			RETURNING object_key, object_bytes`, args...)
		if err != nil {
			return err
		}
		gone, err := pgx.CollectRows(rows, pgx.RowToStructByPos[sizedKey])
		if err != nil {
			return fmt.Errorf("release cold copies: %w", err)
		}
		if len(gone) == 0 {
			return nil
		}
		for _, o := range gone {
			if err := t.release(ctx, o.Key, o.Size, "packed copy of a deleted checkpoint", t.now); err != nil {
				return err
			}
		}
	}
	return nil
}

type sizedKey struct {
	Key  string
	Size int64
}

// ConfirmDeleted records that the bytes are gone.
func (t *Tx) ConfirmDeleted(ctx context.Context, ids []string) ([]RetentionResult, error) {
	return t.each(ctx, ids, func(id string, h swept) (RetentionResult, error) {
		r := RetentionResult{ID: id, State: h.state}
		switch {
		case h.state == catalog.Gone:
			r.Done = true
		case !catalog.CanMove(h.state, catalog.Gone):
			r.Reason = "is " + string(h.state) + ", not DELETING"
		default:
			if _, err := t.tx.Exec(ctx, `UPDATE checkpoints SET state = 'DELETED', delete_time = $2 WHERE checkpoint_id = $1`, id, t.now); err != nil {
				return r, fmt.Errorf("confirm: %w", err)
			}
			if _, err := t.tx.Exec(ctx, `UPDATE blobs SET state = 'DELETED', update_time = $2 WHERE state = 'DELETING'
				AND blob_id IN (SELECT blob_id FROM checkpoint_files WHERE checkpoint_id = $1)`, id, t.now); err != nil {
				return r, fmt.Errorf("confirm blobs: %w", err)
			}
			r.State, r.Done = catalog.Gone, true
		}
		return r, nil
	})
}

// each locks all ids and answers one by one, in the request's order.
func (t *Tx) each(ctx context.Context, ids []string, fn func(string, swept) (RetentionResult, error)) ([]RetentionResult, error) {
	held, err := t.lockSwept(ctx, ids)
	if err != nil {
		return nil, fmt.Errorf("lock checkpoints: %w", err)
	}
	done := map[string]RetentionResult{}
	for _, id := range ids {
		h, ok := held[id]
		if _, twice := done[id]; twice || !ok {
			continue
		}
		r, err := fn(id, h)
		if err != nil {
			return nil, err
		}
		done[id] = r
	}
	return inOrder(ids, done), nil
}

func inOrder(ids []string, done map[string]RetentionResult) []RetentionResult {
	out := make([]RetentionResult, len(ids))
	for i, id := range ids {
		r, ok := done[id]
		if !ok {
			r = RetentionResult{ID: id, Reason: "does not exist"}
		}
		out[i] = r
	}
	return out
}
