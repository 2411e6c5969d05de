package postgres

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/ultrathink-pilot/trainyard/services/registry/internal/catalog"
	"github.com/ultrathink-pilot/trainyard/services/registry/internal/outbox"
)

// FollowTarget makes every change from here on leave an outbox row for the MLflow server at
// url. Another server than before starts over: what was meant for the old one is dropped,
// and Backfill brings the new one everything. It is called before the store is used.
func (s *Store) FollowTarget(ctx context.Context, url string, now time.Time) error {
	s.mirrored = true
	return s.inTx(ctx, func(tx pgx.Tx) error {
		var before string
		err := tx.QueryRow(ctx, `SELECT url FROM mirror_target FOR UPDATE`).Scan(&before)
		if err == nil && before == url {
			return nil
		}
		if err != nil && !errors.Is(err, pgx.ErrNoRows) {
			return fmt.Errorf("read mirror target: %w", err)
		}
		for _, table := range []string{"mirror_outbox", "mirror_lanes", "mirror_dead", "mirror_experiments", "mirror_versions", "mirror_target"} {
			if _, err := tx.Exec(ctx, `DELETE FROM `+table); err != nil {
				return fmt.Errorf("forget the former mirror: %w", err)
			}
		}
		_, err = tx.Exec(ctx, `INSERT INTO mirror_target (url, since) VALUES ($1, $2)`, url, now)
		return err
	})
}

// enqueue writes outbox rows in the transaction of the change that they tell of. The run's
// or the model's row is locked by that change, so a lane's numbers grow in commit order.
func enqueue(ctx context.Context, tx pgx.Tx, now time.Time, entries ...outbox.Entry) error {
	if len(entries) == 0 {
		return nil
	}
	n := len(entries)
	lanes, kinds, payloads, hashes := make([]string, n), make([]string, n), make([]string, n), make([][]byte, n)
	for i, e := range entries {
		sum := sha256.Sum256([]byte(e.Payload))
		lanes[i], kinds[i], payloads[i], hashes[i] = e.Lane, string(e.Kind), e.Payload, sum[:]
	}
	_, err := tx.Exec(ctx, `INSERT INTO mirror_outbox (lane, kind, payload, payload_hash, create_time)
		SELECT u.*, $5 FROM unnest($1::text[], $2::text[], $3::text[], $4::bytea[]) AS u`, lanes, kinds, payloads, hashes, now)
	if err != nil {
		return fmt.Errorf("write outbox: %w", err)
	}
	return nil
}

// openLane makes the lane of something new, so that Backfill leaves it alone.
func openLane(ctx context.Context, tx pgx.Tx, now time.Time, first outbox.Entry) error {
	if _, err := tx.Exec(ctx, `INSERT INTO mirror_lanes (lane, change_time) VALUES ($1, $2) ON CONFLICT DO NOTHING`, first.Lane, now); err != nil {
		return fmt.Errorf("open lane: %w", err)
	}
	return enqueue(ctx, tx, now, first)
}

// tell enqueues what fn makes, if there is a mirror to tell.
func (t *Tx) tell(ctx context.Context, fn func() []outbox.Entry) error {
	if !t.mirrored {
		return nil
	}
	return enqueue(ctx, t.tx, t.now, fn()...)
}

func (t *Tx) tellRunMade(ctx context.Context, runID string, tags map[string]string) error {
	if !t.mirrored {
		return nil
	}
	lane := outbox.RunLane(runID)
	if err := openLane(ctx, t.tx, t.now, outbox.Run(lane)); err != nil {
		return err
	}
	return enqueue(ctx, t.tx, t.now, outbox.Tags(lane, tags)...)
}

func (t *Tx) tellModel(ctx context.Context, modelID int64) error {
	if !t.mirrored {
		return nil
	}
	return openLane(ctx, t.tx, t.now, outbox.Model(outbox.ModelLane(modelID)))
}

// tell enqueues what an ingest group staged, in the group's own transaction.
func (g *group) tell(ctx context.Context) error {
	if !g.store.mirrored {
		return nil
	}
	var pairs []outbox.Entry
	for _, id := range catalog.SortedKeys(g.newParam) {
		pairs = append(pairs, outbox.Params(outbox.RunLane(id), g.newParam[id])...)
	}
	for _, id := range catalog.SortedKeys(g.newTag) {
		pairs = append(pairs, outbox.Tags(outbox.RunLane(id), g.newTag[id])...)
	}
	return enqueue(ctx, g.tx, g.now, append(pairs, g.told...)...)
}

// Backfill enqueues one run or model that the mirror has never heard of, whole; false when
// there is none left. Rows that were enqueued for it meanwhile come first and are sent twice
// in effect, which changes nothing over there.
func (s *Store) Backfill(ctx context.Context, now time.Time) (bool, error) {
	found := false
	err := s.inTx(ctx, func(tx pgx.Tx) error {
		found = false
		var runID string
		err := tx.QueryRow(ctx, `SELECT r.run_id FROM runs r WHERE NOT EXISTS (SELECT 1 FROM mirror_lanes l WHERE l.lane = 'run/' || r.run_id)
			ORDER BY r.start_time LIMIT 1 FOR NO KEY UPDATE OF r SKIP LOCKED`).Scan(&runID)
		if err == nil {
			found = true
			return backfillRun(ctx, tx, runID, now)
		}
		if !errors.Is(err, pgx.ErrNoRows) {
			return err
		}
		var model int64
		err = tx.QueryRow(ctx, `SELECT m.model_id FROM models m WHERE NOT m.deleted AND NOT EXISTS (SELECT 1 FROM mirror_lanes l WHERE l.lane = 'model/' || m.model_id)
			ORDER BY m.model_id LIMIT 1 FOR UPDATE OF m SKIP LOCKED`).Scan(&model)
		if errors.Is(err, pgx.ErrNoRows) {
			return nil
		}
		if err != nil {
			return err
		}
		found = true
		return openLane(ctx, tx, now, outbox.Model(outbox.ModelLane(model)))
	})
	return found, err
}

func backfillRun(ctx context.Context, tx pgx.Tx, runID string, now time.Time) error {
	lane := outbox.RunLane(runID)
	if err := openLane(ctx, tx, now, outbox.Run(lane)); err != nil {
		return err
	}
	entries, err := wholeRun(ctx, tx, runID)
	if err != nil {
		return err
	}
	return enqueue(ctx, tx, now, entries...)
}

// wholeRun is everything of a run as outbox entries.
func wholeRun(ctx context.Context, q querier, runID string) ([]outbox.Entry, error) {
	lane := outbox.RunLane(runID)
	runs, err := readRunsBy(ctx, q, `WHERE r.run_id = $1`, runID)
	if err != nil || len(runs) == 0 {
		return nil, err
	}
	r := runs[0]
	entries := append(outbox.Params(lane, r.Params), outbox.Tags(lane, r.Tags)...)
	points, err := allPoints(ctx, q, runID)
	if err != nil {
		return nil, err
	}
	entries = append(entries, outbox.Metrics(lane, points)...)
	inputs, err := readInputs(ctx, q, []string{runID})
	if err != nil {
		return nil, err
	}
	if len(inputs[runID]) > 0 {
		entries = append(entries, outbox.Inputs(lane, inputs[runID]))
	}
	rows, err := q.Query(ctx, `SELECT `+artifactColumns+` AND a.run_id = $1 ORDER BY a.path`, runID)
	if err != nil {
		return nil, err
	}
	files, err := pgx.CollectRows(rows, scanArtifact)
	if err != nil {
		return nil, fmt.Errorf("read artifacts: %w", err)
	}
	for _, a := range files {
		entries = append(entries, outbox.Published(lane, published(a)))
	}
	entries = append(entries, outbox.Updated(lane, r.State, r.EndTime, r.DisplayName))
	if r.Lifecycle == catalog.Deleted {
		entries = append(entries, outbox.Lifecycle(lane, catalog.Deleted))
	}
	return entries, nil
}

func published(a Artifact) outbox.Artifact {
	return outbox.Artifact{Path: a.Path, SHA256: a.SHA256, Size: a.Size, ObjectKey: a.ObjectKey}
}

// allPoints are the points of every attempt, superseded ones too: an MLflow server cannot
// take back what it was told.
func allPoints(ctx context.Context, q querier, runID string) ([]catalog.MetricPoint, error) {
	rows, err := q.Query(ctx, `SELECT s.key, p.step, p.time, p.value FROM metric_series s JOIN metric_points p USING (series_id)
		WHERE s.run_id = $1 ORDER BY s.key, p.step, p.time`, runID)
	if err != nil {
		return nil, err
	}
	points, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (catalog.MetricPoint, error) {
		var p catalog.MetricPoint
		err := row.Scan(&p.Key, &p.Step, &p.Time, &p.Value)
		return p, err
	})
	if err != nil {
		return nil, fmt.Errorf("read points: %w", err)
	}
	return points, nil
}

// MirroredRun is what a comparison with the other side needs.
type MirroredRun struct {
	Run    catalog.Run
	Points []catalog.MetricPoint
	Files  []Artifact
	Inputs []json.RawMessage
}

// MirroredRun reads a run with every point and file.
func (s *Store) MirroredRun(ctx context.Context, runID string) (MirroredRun, error) {
	var out MirroredRun
	err := pgx.BeginTxFunc(ctx, s.pool, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		runs, err := readRunsBy(ctx, tx, `WHERE r.run_id = $1`, runID)
		if err != nil {
			return err
		}
		if len(runs) == 0 {
			return catalog.NotFound("runs/" + runID)
		}
		out.Run = runs[0]
		if out.Points, err = allPoints(ctx, tx, runID); err != nil {
			return err
		}
		rows, err := tx.Query(ctx, `SELECT `+artifactColumns+` AND a.run_id = $1 ORDER BY a.path`, runID)
		if err != nil {
			return err
		}
		out.Files, err = pgx.CollectRows(rows, scanArtifact)
		return err
	})
	return out, err
}

// MirroredModel is a model as the other side must show it; Deleted means not at all.
type MirroredModel struct {
	ID       int64
	Model    catalog.Model
	Versions []MirroredVersion
	Deleted  bool
}

// MirroredVersion is a version with its number over there, 0 while it has none.
type MirroredVersion struct {
	catalog.Version
	Remote int32
}

// UID names a version for ever, whatever the model is called.
func (m MirroredModel) UID(version int32) string {
	return "model-" + strconv.FormatInt(m.ID, 10) + "-version-" + strconv.Itoa(int(version))
}

// MirroredModel reads a model with its versions, oldest first.
func (s *Store) MirroredModel(ctx context.Context, id int64) (MirroredModel, error) {
	out := MirroredModel{ID: id}
	err := pgx.BeginTxFunc(ctx, s.pool, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		if err := tx.QueryRow(ctx, `SELECT deleted FROM models WHERE model_id = $1`, id).Scan(&out.Deleted); err != nil {
			return found(err, outbox.ModelLane(id))
		}
		models, err := readModels(ctx, tx, `WHERE m.model_id = $1`, id)
		if err != nil {
			return err
		}
		out.Model = models[0]
		versions, err := readVersions(ctx, tx, `WHERE v.model_id = $1 AND NOT v.deleted ORDER BY v.version`, id)
		if err != nil {
			return err
		}
		rows, err := tx.Query(ctx, `SELECT version, remote_version FROM mirror_versions WHERE model_id = $1`, id)
		if err != nil {
			return err
		}
		remote := map[int32]int32{}
		var v, r int32
		if _, err := pgx.ForEachRow(rows, []any{&v, &r}, func() error { remote[v] = r; return nil }); err != nil {
			return err
		}
		for _, version := range versions {
			out.Versions = append(out.Versions, MirroredVersion{version, remote[version.Version]})
		}
		return nil
	})
	return out, err
}

// MapVersion remembers a version's number over there.
func (s *Store) MapVersion(ctx context.Context, model int64, version, remote int32) error {
	_, err := s.pool.Exec(ctx, `INSERT INTO mirror_versions (model_id, version, remote_version) VALUES ($1, $2, $3)
		ON CONFLICT (model_id, version) DO UPDATE SET remote_version = EXCLUDED.remote_version`, model, version, remote)
	return err
}

// MappedExperiment is an experiment's id over there, "" while it has none.
func (s *Store) MappedExperiment(ctx context.Context, id int64) (string, error) {
	var remote string
	err := s.pool.QueryRow(ctx, `SELECT remote_id FROM mirror_experiments WHERE experiment_id = $1`, id).Scan(&remote)
	if errors.Is(err, pgx.ErrNoRows) {
		return "", nil
	}
	return remote, err
}

// MapExperiment remembers an experiment's id over there; "" forgets it.
func (s *Store) MapExperiment(ctx context.Context, id int64, remote string) error {
	if remote == "" {
		_, err := s.pool.Exec(ctx, `DELETE FROM mirror_experiments WHERE experiment_id = $1`, id)
		return err
	}
	_, err := s.pool.Exec(ctx, `INSERT INTO mirror_experiments (experiment_id, remote_id) VALUES ($1, $2)
		ON CONFLICT (experiment_id) DO UPDATE SET remote_id = EXCLUDED.remote_id`, id, remote)
	return err
}
