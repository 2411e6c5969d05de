package postgres

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/ultrathink-pilot/trainyard/services/registry/internal/filter"
)

// shortValue is what the indices of a search keep of params and tags: longer values are in the table alone.
const shortValue = 512

// keys reads what runs have under the keys of a search: every table through the index of its search
// columns, one range per key.
//
// A clause becomes the set of the runs that it holds for, which Postgres hashes once and asks per run. As joins
// the clauses depended on its guesses: it takes key and value, and LIKE, for rarer than they are, and
// then compares every row of one with every row of the other. Only keys of the order are joined.
type keys struct {
	// scope is the condition on the experiment, the same for every table, with %s for experiments.
	scope       string
	experiments any
	placed      string
	joins       []*keyJoin
}

// within is the condition on the experiment.
func (k *keys) within(q *query) string {
	if k.placed == "" {
		k.placed = fmt.Sprintf(k.scope, q.arg(k.experiments))
	}
	return k.placed
}

// runQuery knows the columns of runs; scope is the condition on their experiment, with one %s.
func runQuery(scope string, experiments any) *query {
	return &query{
		columns: map[string]string{
			"run_id": "r.run_id", "run_name": "r.display_name", "status": "r.state", "user_id": "r.user_id",
			"run_id_digits": "replace(r.run_id, '-', '')",
			"artifact_uri":  "'mlflow-artifacts:/' || r.experiment_id || '/' || replace(r.run_id, '-', '') || '/artifacts'",
			"start_time":    millis("r.start_time"), "end_time": millis("r.end_time"),
		},
		keyed: &keys{scope: scope, experiments: experiments},
	}
}

// keyJoin is a key that rows are ordered by.
type keyJoin struct {
	entity    filter.Entity
	key       string
	name, sql string
	// leads: it is a metric, runs without a number are not wanted, and the search follows its index.
	leads bool
}

func (j *keyJoin) value() string { return j.name + ".value" }

func (k *keys) find(entity filter.Entity, key string) *keyJoin {
	if k == nil {
		return nil
	}
	for _, j := range k.joins {
		if j.entity == entity && j.key == key {
			return j
		}
	}
	return nil
}

func (k *keys) join(q *query, entity filter.Entity, key string) *keyJoin {
	if j := k.find(entity, key); j != nil {
		return j
	}
	j := &keyJoin{entity: entity, key: key, name: "k" + strconv.Itoa(len(k.joins))}
	j.sql = " LEFT JOIN (" + k.rows(q, "run_key AS of_run, value", entity, key, "", false) + ") " + j.name + " ON " + j.name + ".of_run = r.run_key"
	k.joins = append(k.joins, j)
	return j
}

// lead makes the search follow the first metric of its order, when only numbers of it are wanted. It is the first join.
func (k *keys) lead(q *query, metric string) {
	j := &keyJoin{entity: filter.Metric, key: metric, name: "k0", leads: true}
	j.sql = " JOIN (" + k.rows(q, "run_key AS of_run, value", filter.Metric, metric, " AND value < 'NaN'", false) + ") k0 ON k0.of_run = r.run_key"
	k.joins = append(k.joins, j)
}

// leads reports whether every row has a number under this metric.
func (k *keys) leads(o filter.Order) bool {
	j := k.find(o.Entity, o.Key)
	return j != nil && j.leads
}

// sql is the joins; build conditions and orders first.
func (k *keys) sql() string {
	var b strings.Builder
	for _, j := range k.joins {
		b.WriteString(j.sql)
	}
	return b.String()
}

// rows selects columns of what runs have under a key; short leaves out what only long values can be.
func (k *keys) rows(q *query, columns string, entity filter.Entity, key, condition string, short bool) string {
	table := map[filter.Entity]string{filter.Metric: "metric_latest", filter.Param: "run_params", filter.Tag: "run_tags"}[entity]
	rows := "SELECT " + columns + " FROM " + table + " WHERE " + k.within(q) + " AND key = " + q.arg(key) + condition
	if entity == filter.Metric {
		return rows
	}
	length, most := " AND octet_length(value) ", strconv.Itoa(shortValue)
	if short {
		return rows + length + "<= " + most
	}
	return rows + length + "<= " + most + " UNION ALL " + rows + length + "> " + most
}

// holds is the set of the runs that a clause holds for; of IS NULL those that it does not hold for.
func (k *keys) holds(q *query, c filter.Clause) string {
	condition := ""
	if c.Kind != filter.NullValue {
		condition = " AND " + q.compare("value", c)
	}
	if c.Entity == filter.Metric { // NaN is above every number for Postgres; for a person it satisfies nothing
		condition += " AND value < 'NaN'"
	}
	return k.rows(q, "run_key", c.Entity, c.Key, condition, c.Op == "=" && len(c.Text) <= shortValue)
}

// clause adds a clause on a key.
func (k *keys) clause(q *query, c filter.Clause) {
	run := "r.run_key"
	if len(k.joins) > 0 && k.joins[0].leads {
		if j := k.joins[0]; c.Entity == j.entity && c.Key == j.key {
			q.add(q.compare(j.value(), c))
			return
		}
		run = "k0.of_run" // before the run itself is read
	}
	is := " IS TRUE" // keeps Postgres from making a join of it
	if c.Op == "IS NULL" {
		is = " IS NOT TRUE"
	}
	q.add("(" + run + " IN (" + k.holds(q, c) + "))" + is)
}

// few is the number of runs up to which a search starts from those that a clause holds for.
const few = 256

// narrow looks whether one of the clauses holds for a few runs only. Then the search starts from these, however
// many runs there are; the clause stays, for what changes in between.
func (s *Store) narrow(ctx context.Context, q *query, clauses []filter.Clause) error {
	var (
		batch    pgx.Batch
		smallest []int64
		found    bool
	)
	for _, c := range clauses {
		if exact := c.Op == "=" && c.Kind == filter.TextValue && (c.Entity == filter.Param || c.Entity == filter.Tag); !exact && (c.Entity != filter.Metric || c.Op == "!=") {
			continue
		}
		of := &query{keyed: &keys{scope: q.keyed.scope, experiments: q.keyed.experiments}}
		sql := of.keyed.holds(of, c) + " LIMIT " + of.arg(few+1)
		batch.Queue(sql, of.args...).Query(func(rows pgx.Rows) error {
			runs, err := pgx.CollectRows(rows, pgx.RowTo[int64])
			if err == nil && len(runs) <= few && (!found || len(runs) < len(smallest)) {
				found, smallest = true, runs
			}
			return err
		})
	}
	if batch.Len() == 0 {
		return nil
	}
	if err := s.pool.SendBatch(ctx, &batch).Close(); err != nil {
		return fmt.Errorf("look for a selective clause: %w", err)
	}
	if found {
		q.add("r.run_key = ANY(" + q.arg(smallest) + ")")
	}
	return nil
}
