package postgres

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/ultrathink-pilot/trainyard/services/registry/internal/catalog"
	"github.com/ultrathink-pilot/trainyard/services/registry/internal/filter"
)

// RunFind is a search over the runs of experiments.
type RunFind struct {
	Experiments []int64
	Clauses     []filter.Clause
	Orders      []filter.Order
	Lifecycles  []catalog.Lifecycle
	Page
}

// RunRow is a run of a page: a run without its spec and its maps, and what belongs to it as lists, by key.
type RunRow struct {
	catalog.Run
	Params, Tags []Pair
	Inputs       []json.RawMessage
	Outputs      []Output
	key          int64
}

// Pair is a param or a tag.
type Pair struct{ Key, Value string }

// FindRuns returns the runs that match, in order, without params, tags, metrics and links; see FillRuns.
func (s *Store) FindRuns(ctx context.Context, in RunFind) ([]RunRow, error) {
	// Rows without the metric, or with a NaN, come after all others: when those fill the page nobody
	// needs to look at the rest, and an index alone gives them in order. A clause on it says the same.
	if len(in.Orders) > 0 && in.Orders[0].Entity == filter.Metric && !orderedByClause(in.Orders, in.Clauses) {
		rows, err := s.findRuns(ctx, in, true)
		if err != nil || len(rows) == in.Limit {
			return rows, err
		}
	}
	return s.findRuns(ctx, in, false)
}

// orderedByClause reports whether the first order is a metric that a clause wants numbers of.
func orderedByClause(orders []filter.Order, clauses []filter.Clause) bool {
	return len(orders) > 0 && orders[0].Entity == filter.Metric && slices.ContainsFunc(clauses, func(c filter.Clause) bool {
		return c.Entity == filter.Metric && c.Key == orders[0].Key
	})
}

func (s *Store) findRuns(ctx context.Context, in RunFind, numbersOnly bool) ([]RunRow, error) {
	scope, experiments := "experiment_id = ANY(%s)", any(in.Experiments)
	if len(in.Experiments) == 1 { // an index gives one experiment's rows in order, but not several's
		scope, experiments = "experiment_id = %s", in.Experiments[0]
	}
	q := runQuery(scope, experiments)
	q.add("r." + q.keyed.within(q))
	q.add("r.lifecycle = ANY(" + q.arg(texts(in.Lifecycles)) + ")")
	if err := s.narrow(ctx, q, in.Clauses); err != nil {
		return nil, err
	}
	if numbersOnly || orderedByClause(in.Orders, in.Clauses) {
		q.keyed.lead(q, in.Orders[0].Key)
	}
	for _, c := range in.Clauses {
		q.clause(c)
	}
	order := q.order(in.Orders, "r.start_time DESC, r.run_id")
	rows, err := s.pool.Query(ctx, `SELECT r.run_key, r.run_id, r.experiment_id, r.display_name, r.state, r.lifecycle, r.user_id, r.start_time, r.end_time
		FROM runs r`+q.keyed.sql()+q.where()+order+q.page(in.Page), q.args...)
	if err != nil {
		return nil, err
	}
	found, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (RunRow, error) {
		var (
			r   RunRow
			end *time.Time
		)
		err := row.Scan(&r.key, &r.ID, &r.ExperimentID, &r.DisplayName, &r.State, &r.Lifecycle, &r.UserID, &r.StartTime, &end)
		r.EndTime = fromNull(end)
		return r, err
	})
	if err != nil {
		return nil, fmt.Errorf("find runs: %w", err)
	}
	return found, nil
}

// FillRuns reads what belongs to the runs, in one round trip.
func (s *Store) FillRuns(ctx context.Context, rows []RunRow) error {
	if len(rows) == 0 {
		return nil
	}
	at := make(map[int64]*RunRow, len(rows))
	byID := make(map[string]*RunRow, len(rows))
	ids, keys, experiments := make([]string, len(rows)), make([]int64, len(rows)), []int64{}
	for i := range rows {
		r := &rows[i]
		ids[i], keys[i], at[r.key], byID[r.ID] = r.ID, r.key, r, r
		if !slices.Contains(experiments, r.ExperimentID) {
			experiments = append(experiments, r.ExperimentID)
		}
	}
	names := interned{}
	var batch pgx.Batch
	pairs := func(table string, into func(*RunRow) *[]Pair) {
		batch.Queue(`SELECT run_key, key, value FROM `+table+` WHERE run_id = ANY($1)`, ids).Query(func(rows pgx.Rows) error {
			return eachRaw(rows, func(v [][]byte) {
				list := into(at[rawInt(v[0])])
				*list = append(*list, Pair{names.of(v[1]), string(v[2])})
			})
		})
	}
	pairs("run_params", func(r *RunRow) *[]Pair { return &r.Params })
	pairs("run_tags", func(r *RunRow) *[]Pair { return &r.Tags })
	batch.Queue(`SELECT run_key, key, step, time, value FROM metric_latest WHERE run_key = ANY($1)`, keys).Query(func(rows pgx.Rows) error {
		return eachRaw(rows, func(v [][]byte) {
			r := at[rawInt(v[0])]
			r.Latest = append(r.Latest, catalog.LatestMetric{Key: names.of(v[1]), Step: rawInt(v[2]), Time: rawTime(v[3]),
				Value: math.Float64frombits(binary.BigEndian.Uint64(v[4]))})
		})
	})
	batch.Queue(selectInputs, ids).Query(func(rows pgx.Rows) error {
		return eachRaw(rows, func(v [][]byte) {
			r := byID[string(v[0])]
			r.Inputs = append(r.Inputs, bytes.TrimPrefix(slices.Clone(v[1]), jsonbVersion))
		})
	})
	batch.Queue(selectOutputs, ids).Query(func(rows pgx.Rows) error {
		return eachRaw(rows, func(v [][]byte) {
			r := byID[string(v[0])]
			r.Outputs = append(r.Outputs, Output{string(v[1]), rawInt(v[2])})
		})
	})
	roots := map[int64]string{}
	batch.Queue(`SELECT experiment_id, artifact_root FROM experiments WHERE experiment_id = ANY($1)`, experiments).Query(func(rows pgx.Rows) error {
		return eachRaw(rows, func(v [][]byte) { roots[rawInt(v[0])] = string(v[1]) })
	})
	if err := s.pool.SendBatch(ctx, &batch).Close(); err != nil {
		return fmt.Errorf("read what belongs to runs: %w", err)
	}
	for i := range rows {
		r := &rows[i]
		r.ArtifactRoot = roots[r.ExperimentID]
		byKey := func(a, b Pair) int { return strings.Compare(a.Key, b.Key) }
		slices.SortFunc(r.Params, byKey)
		slices.SortFunc(r.Tags, byKey)
		slices.SortFunc(r.Latest, func(a, b catalog.LatestMetric) int { return strings.Compare(a.Key, b.Key) })
	}
	return nil
}

// interned keeps one string of each key: a page has few keys, and each many times.
type interned map[string]string

func (n interned) of(b []byte) string {
	if s, ok := n[string(b)]; ok {
		return s
	}
	s := string(b)
	n[s] = s
	return s
}

// eachRaw reads rows as they come, numbers in the protocol's binary form and text as it is: a page has tens of thousands of values, over
// which pgx's Scan takes longer than the database over finding them.
func eachRaw(rows pgx.Rows, fn func(values [][]byte)) error {
	defer rows.Close()
	for _, column := range rows.FieldDescriptions() {
		if column.Format != pgx.BinaryFormatCode && column.DataTypeOID != pgtype.TextOID && column.DataTypeOID != pgtype.JSONBOID {
			return fmt.Errorf("column %s did not come in binary form", column.Name)
		}
	}
	for rows.Next() {
		fn(rows.RawValues())
	}
	return rows.Err()
}

// jsonbVersion is what jsonb's binary form has before its text.
var jsonbVersion = []byte{1}

func rawInt(b []byte) int64 { return int64(binary.BigEndian.Uint64(b)) }

// rawTime reads a timestamptz: microseconds since the year 2000.
func rawTime(b []byte) time.Time {
	const year2000 = 946_684_800_000_000
	return time.UnixMicro(rawInt(b) + year2000).UTC()
}
