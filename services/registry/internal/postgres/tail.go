package postgres

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"

	"github.com/jackc/pgx/v5"

	"github.com/ultrathink-pilot/trainyard/services/registry/internal/catalog"
	"github.com/ultrathink-pilot/trainyard/services/registry/internal/series"
)

// tails tells the followers of runs what this process has committed. It carries no points:
// a follower reads them from the database at its own pace, so that a slow one costs no
// memory and loses nothing.
type tails struct {
	mu   sync.Mutex
	runs map[string]map[*Tail]struct{}
}

// Tail follows one run.
type Tail struct {
	store *Store
	run   string
	wake  chan struct{}

	mu sync.Mutex
	// lowest is, per key, the lowest step written since the last read: a value may be logged
	// below what was read already.
	lowest map[string]int64

	// cursors and the rest belong to the one reader: the last step that was read per key.
	cursors map[string]int64
	// recent and before hold what was returned lately. A read often sees a commit before its
	// wake-up arrives, which then looks like a value logged late.
	recent, before map[sentPoint]struct{}
	start          int64
	keys           []string
}

// sentPoint identifies a point; its bits, because a NaN equals nothing.
type sentPoint struct {
	key          string
	step, micros int64
	attempt      int32
	bits         uint64
}

// recentPoints is how many points a follower remembers, once or twice over.
const recentPoints = 8192

// isNew remembers a point and reports whether it was not among the recent ones.
func (t *Tail) isNew(p TailPoint) bool {
	k := sentPoint{p.Key, p.Step, p.Time.UnixMicro(), p.Attempt, math.Float64bits(p.Value)}
	_, now := t.recent[k]
	_, then := t.before[k]
	if len(t.recent) >= recentPoints {
		t.recent, t.before = map[sentPoint]struct{}{}, t.recent
	}
	t.recent[k] = struct{}{}
	return !now && !then
}

// Follow begins to follow a run: above a step, or, with no step, from what there is now.
// Empty keys mean all. Cancel it.
func (s *Store) Follow(ctx context.Context, runID string, after *int64, keys []string) (*Tail, error) {
	t := &Tail{store: s, run: runID, wake: make(chan struct{}, 1), lowest: map[string]int64{}, cursors: map[string]int64{}, start: math.MinInt64, keys: keys,
		recent: map[sentPoint]struct{}{}}
	if t.keys == nil {
		t.keys = []string{}
	}
	// Before the first read: what is committed between the two wakes the reader.
	s.tails.mu.Lock()
	if s.tails.runs == nil {
		s.tails.runs = map[string]map[*Tail]struct{}{}
	}
	if s.tails.runs[runID] == nil {
		s.tails.runs[runID] = map[*Tail]struct{}{}
	}
	s.tails.runs[runID][t] = struct{}{}
	s.tails.mu.Unlock()
	if after != nil {
		t.start = *after
		return t, nil
	}
	rows, err := s.pool.Query(ctx, `SELECT s.key, l.step FROM metric_series s JOIN metric_latest l USING (series_id) WHERE s.run_id = $1`, runID)
	if err == nil {
		var (
			key  string
			step int64
		)
		_, err = pgx.ForEachRow(rows, []any{&key, &step}, func() error {
			t.cursors[key] = step
			return nil
		})
	}
	if err != nil {
		t.Cancel()
		return nil, fmt.Errorf("read latest steps: %w", err)
	}
	return t, nil
}

// Cancel ends it.
func (t *Tail) Cancel() {
	s := &t.store.tails
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.runs[t.run], t)
	if len(s.runs[t.run]) == 0 {
		delete(s.runs, t.run)
	}
}

// Wake gets a token when this process has committed something of the run.
func (t *Tail) Wake() <-chan struct{} { return t.wake }

func (s *tails) publish(e *effects) {
	if len(e.touched) == 0 && len(e.ended) == 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.runs) == 0 {
		return
	}
	for name, touch := range e.touched {
		for t := range s.runs[name.run] {
			t.note(name.key, touch.lowest)
		}
	}
	for _, run := range e.ended {
		for t := range s.runs[run] {
			t.poke()
		}
	}
}

func (t *Tail) note(key string, step int64) {
	t.mu.Lock()
	if old, ok := t.lowest[key]; !ok || step < old {
		t.lowest[key] = step
	}
	t.mu.Unlock()
	t.poke()
}

func (t *Tail) poke() {
	select {
	case t.wake <- struct{}{}:
	default:
	}
}

// TailPoint is a point with its key.
type TailPoint struct {
	Key string
	series.Point
}

// Next returns up to about limit points that were not returned yet, by key and then step,
// and the run's state as it was before they were read: what is empty under an ended state
// is the end. A point may be returned twice after one was logged far below it.
func (t *Tail) Next(ctx context.Context, limit int) ([]TailPoint, catalog.RunState, error) {
	t.mu.Lock()
	for key, step := range t.lowest {
		if at, ok := t.cursors[key]; ok && step <= at {
			t.cursors[key] = step - 1
		}
	}
	clear(t.lowest)
	t.mu.Unlock()
	var state catalog.RunState
	err := t.store.pool.QueryRow(ctx, `SELECT state FROM runs WHERE run_id = $1`, t.run).Scan(&state)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, "", catalog.NotFound("runs/" + t.run)
	}
	if err != nil {
		return nil, "", err
	}
	for {
		points, err := t.read(ctx, limit)
		if err != nil {
			return nil, state, fmt.Errorf("read new points: %w", err)
		}
		if len(points) == limit {
			// Full: the last step may be cut, so it waits for the next page, unless it is all there is.
			last := points[limit-1]
			cut := limit - 1
			for cut > 0 && points[cut-1].Key == last.Key && points[cut-1].Step == last.Step {
				cut--
			}
			if cut == 0 {
				limit *= 2
				continue
			}
			points = points[:cut]
		}
		fresh := points[:0]
		for _, p := range points {
			t.cursors[p.Key] = p.Step
			if t.isNew(p) {
				fresh = append(fresh, p)
			}
		}
		if len(fresh) == 0 && len(points) > 0 {
			continue
		}
		return fresh, state, nil
	}
}

func (t *Tail) read(ctx context.Context, limit int) ([]TailPoint, error) {
	keys, steps := make([]string, 0, len(t.cursors)), make([]int64, 0, len(t.cursors))
	for k, s := range t.cursors {
		keys, steps = append(keys, k), append(steps, s)
	}
	rows, err := t.store.pool.Query(ctx, `SELECT s.key, p.step, p.time, p.attempt, p.value FROM metric_series s
		LEFT JOIN unnest($2::text[], $3::bigint[]) AS c(key, step) ON c.key = s.key
		CROSS JOIN LATERAL (SELECT * FROM metric_points p WHERE p.series_id = s.series_id AND p.step > COALESCE(c.step, $4)
			ORDER BY p.step, p.time LIMIT $6) p
		LEFT JOIN run_attempts a ON a.run_id = s.run_id AND a.attempt = p.attempt
		WHERE s.run_id = $1 AND (cardinality($5::text[]) = 0 OR s.key = ANY($5))
		AND (a.hidden_above IS NULL OR p.step <= a.hidden_above)
		ORDER BY s.series_id, p.step, p.time LIMIT $6`, t.run, keys, steps, t.start, t.keys, limit)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (TailPoint, error) {
		var p TailPoint
		err := row.Scan(&p.Key, &p.Step, &p.Time, &p.Attempt, &p.Value)
		return p, err
	})
}
