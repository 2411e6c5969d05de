package postgres

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/zap"

	"github.com/ultrathink-pilot/trainyard/services/registry/internal/series"
)

const (
	// rollAfter is how many new points of a series make a roll worth its transaction.
	rollAfter = 16 * series.RollupPoints
	// rollPage bounds what one roll reads while it holds the run's lock.
	rollPage = 64 * series.RollupPoints
	// rollQueue bounds the series that wait; one that finds no room comes again later.
	rollQueue = 1024
	// rollsKept bounds the counters.
	rollsKept = 100_000
)

// rolls counts the points of each series since its last roll. A restart forgets the counts:
// the points are then rolled a little later.
type rolls struct {
	once  sync.Once
	queue chan int64

	mu      sync.Mutex
	counted map[int64]int
}

func (r *rolls) init() {
	r.once.Do(func() { r.queue, r.counted = make(chan int64, rollQueue), map[int64]int{} })
}

func (r *rolls) count(touched map[seriesName]touch) {
	if len(touched) == 0 {
		return
	}
	r.init()
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.counted) > rollsKept {
		clear(r.counted)
	}
	for _, t := range touched {
		r.counted[t.id] += t.points
		if r.counted[t.id] >= rollAfter {
			r.ask(t.id)
		}
	}
}

// ask queues a series. The caller holds the lock.
func (r *rolls) ask(id int64) {
	select {
	case r.queue <- id:
		delete(r.counted, id)
	default:
	}
}

// RunRolls rolls series up until ctx ends. A roll that fails is no loss: reads take the
// points themselves until one succeeds.
func (s *Store) RunRolls(ctx context.Context, log *zap.Logger) error {
	s.rolls.init()
	for {
		select {
		case <-ctx.Done():
			return nil
		case id := <-s.rolls.queue:
			if err := s.Roll(ctx, id); err != nil && ctx.Err() == nil {
				log.Warn("a series was not rolled up; its next points bring it back", zap.Int64("series", id), zap.Error(err))
			}
		}
	}
}

// Roll brings one series' rollups up to date, a page at a time.
func (s *Store) Roll(ctx context.Context, seriesID int64) error {
	for more := true; more; {
		err := s.inTx(ctx, func(tx pgx.Tx) error {
			var err error
			more, err = rollPageOf(ctx, tx, seriesID)
			return err
		})
		if err != nil {
			return fmt.Errorf("roll up series %d: %w", seriesID, err)
		}
	}
	return nil
}

func rollPageOf(ctx context.Context, tx pgx.Tx, seriesID int64) (more bool, err error) {
	var run string
	// The run's lock keeps its writers away: a point written below the roll's end at this
	// moment would be missed by both.
	err = tx.QueryRow(ctx, `SELECT r.run_id FROM runs r JOIN metric_series s USING (run_id) WHERE s.series_id = $1 FOR NO KEY UPDATE OF r`, seriesID).Scan(&run)
	if errors.Is(err, pgx.ErrNoRows) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	var end int64
	from := int64(math.MinInt64)
	err = tx.QueryRow(ctx, `SELECT last_step FROM metric_rollups WHERE series_id = $1 ORDER BY last_step DESC LIMIT 1`, seriesID).Scan(&end)
	switch {
	case err == nil:
		from = end + 1
	case !errors.Is(err, pgx.ErrNoRows):
		return false, err
	}
	points, err := visiblePoints(ctx, tx, run, seriesID, Range{from, math.MaxInt64}, rollPage)
	if err != nil {
		return false, err
	}
	rolled := series.RollUp(points)
	if len(rolled) == 0 {
		return false, nil
	}
	var (
		firsts, lasts []int64
		counts        []int32
		kept          [][]byte
	)
	for _, r := range rolled {
		firsts, lasts = append(firsts, r.FirstStep), append(lasts, r.LastStep)
		counts, kept = append(counts, int32(r.Points)), append(kept, series.Pack(r.Kept))
	}
	_, err = tx.Exec(ctx, `INSERT INTO metric_rollups (series_id, first_step, last_step, points, kept)
		SELECT $1, * FROM unnest($2::bigint[], $3::bigint[], $4::int[], $5::bytea[])`, seriesID, firsts, lasts, counts, kept)
	return len(points) >= rollPage/2, err
}

// visiblePoints reads the points of a series that no later attempt superseded, within a range,
// in order; limit 0 means all.
func visiblePoints(ctx context.Context, q querier, run string, seriesID int64, in Range, limit int) ([]series.Point, error) {
	var hidden bool
	err := q.QueryRow(ctx, `SELECT EXISTS (SELECT 1 FROM run_attempts WHERE run_id = $1 AND hidden_above IS NOT NULL)`, run).Scan(&hidden)
	if err != nil {
		return nil, fmt.Errorf("read what is superseded: %w", err)
	}
	// Without the join the primary key's index gives the points, in their order.
	sql := `SELECT p.step, p.time, p.attempt, p.value FROM metric_points p WHERE p.series_id = $1 AND p.step >= $2 AND p.step <= $3`
	args := []any{seriesID, in.From, in.To}
	if hidden {
		sql = `SELECT p.step, p.time, p.attempt, p.value FROM metric_points p
			LEFT JOIN run_attempts a ON a.run_id = $4 AND a.attempt = p.attempt
			WHERE p.series_id = $1 AND p.step >= $2 AND p.step <= $3 AND (a.hidden_above IS NULL OR p.step <= a.hidden_above)`
		args = append(args, run)
	}
	sql += ` ORDER BY p.step, p.time`
	if limit > 0 {
		args = append(args, limit)
		sql += fmt.Sprintf(` LIMIT $%d`, len(args))
	}
	rows, err := q.Query(ctx, sql, args...)
	if err != nil {
		return nil, err
	}
	points, err := scanPoints(rows)
	if err != nil {
		return nil, fmt.Errorf("read points: %w", err)
	}
	return series.Visible(points, nil), nil
}

// epoch2000 is where Postgres counts from, in Unix microseconds.
const epoch2000 = 946_684_800_000_000

// scanPoints decodes step, time, attempt and value by hand: the driver's general way costs
// more than the query when there are tens of thousands.
func scanPoints(rows pgx.Rows) ([]series.Point, error) {
	defer rows.Close()
	var points []series.Point
	for rows.Next() {
		raw := rows.RawValues()
		if len(raw) != 4 || len(raw[0]) != 8 || len(raw[1]) != 8 || len(raw[2]) != 4 || len(raw[3]) != 8 || rows.FieldDescriptions()[0].Format != pgx.BinaryFormatCode {
			return nil, errors.New("the driver did not ask for binary values")
		}
		points = append(points, series.Point{
			Step:    int64(binary.BigEndian.Uint64(raw[0])),
			Time:    time.UnixMicro(int64(binary.BigEndian.Uint64(raw[1])) + epoch2000).UTC(),
			Attempt: int32(binary.BigEndian.Uint32(raw[2])),
			Value:   math.Float64frombits(binary.BigEndian.Uint64(raw[3])),
		})
	}
	return points, rows.Err()
}

// View is a series as a chart of some width needs it.
type View struct {
	// Points keeps the ends, the extremes and a trace of every NaN.
	Points []series.Point
	// Total counts the visible points in the range.
	Total int64
}

// Range is a closed range of steps.
type Range struct{ From, To int64 }

// Everything is the range of all steps.
var Everything = Range{math.MinInt64, math.MaxInt64}

// MetricView returns at most limit points of a series within a range. A long range is read
// from the rollups, whose cost does not grow with the points behind them. A run that does
// not exist is an error; a key that was never logged is an empty series.
func (s *Store) MetricView(ctx context.Context, runID, key string, in Range, limit int) (View, error) {
	var view View
	err := s.readSeries(ctx, runID, key, func(tx pgx.Tx, id int64) (err error) {
		view, err = viewSeries(ctx, tx, runID, id, in, limit)
		return err
	})
	return view, err
}

func viewSeries(ctx context.Context, tx pgx.Tx, run string, id int64, in Range, limit int) (View, error) {
	rolled, err := readRollups(ctx, tx, id, in)
	if err != nil {
		return View{}, err
	}
	// Too few to choose from: then the points themselves are few enough, too.
	if len(rolled.Kept) < 2*limit {
		points, err := visiblePoints(ctx, tx, run, id, in, 0)
		return View{series.MinMax(points, limit), int64(len(points))}, err
	}
	var points []series.Point
	if in.From < rolled.FirstStep {
		if points, err = visiblePoints(ctx, tx, run, id, Range{in.From, rolled.FirstStep - 1}, 0); err != nil {
			return View{}, err
		}
	}
	view := View{Total: int64(len(points) + rolled.Points)}
	points = append(points, rolled.Kept...)
	rest, err := visiblePoints(ctx, tx, run, id, Range{rolled.LastStep + 1, in.To}, 0)
	if err != nil {
		return View{}, err
	}
	view.Total += int64(len(rest))
	view.Points = series.MinMax(append(points, rest...), limit)
	return view, nil
}

// readRollups returns the rollups that lie wholly within a range as one, the zero value when
// there are none. The database strings them together: four thousand rows cost more on their
// way here than all else of a view.
func readRollups(ctx context.Context, q querier, id int64, in Range) (series.Rollup, error) {
	var (
		first, last *int64
		points      *int64
		raw         []byte
	)
	err := q.QueryRow(ctx, `SELECT min(first_step), max(last_step), sum(points), string_agg(kept, ''::bytea)
		FROM (SELECT first_step, last_step, points, kept FROM metric_rollups
			WHERE series_id = $1 AND first_step >= $2 AND last_step <= $3 ORDER BY last_step) r`, id, in.From, in.To).Scan(&first, &last, &points, &raw)
	if err != nil || first == nil {
		return series.Rollup{}, err
	}
	kept, err := series.Unpack(make([]series.Point, 0, len(raw)/series.PackedPoint), raw)
	return series.Rollup{FirstStep: *first, LastStep: *last, Points: int(*points), Kept: kept}, err
}
