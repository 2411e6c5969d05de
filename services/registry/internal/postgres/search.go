package postgres

import (
	"context"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/ultrathink-pilot/trainyard/services/registry/internal/catalog"
	"github.com/ultrathink-pilot/trainyard/services/registry/internal/filter"
)

// query builds a WHERE from parsed clauses. Keys and values only ever become arguments;
// the text holds nothing but the column expressions of this package.
type query struct {
	columns map[string]string
	// tag, param and metric are expressions with one %s for the key's placeholder; each
	// yields NULL where the row has no such key.
	tag, param, metric string
	// keyed stands for these three where it is set.
	keyed *keys
	// missing lists tags whose absence satisfies !=.
	missing map[string]bool
	conds   []string
	args    []any
}

func (q *query) arg(v any) string {
	q.args = append(q.args, v)
	return "$" + strconv.Itoa(len(q.args))
}

func (q *query) add(cond string) { q.conds = append(q.conds, cond) }

func (q *query) where() string {
	if len(q.conds) == 0 {
		return ""
	}
	return " WHERE " + strings.Join(q.conds, " AND ")
}

// expression returns the SQL of a clause's left side.
func (q *query) expression(entity filter.Entity, key string) string {
	if q.keyed != nil && (entity == filter.Metric || entity == filter.Param || entity == filter.Tag) {
		return q.keyed.join(q, entity, key).value()
	}
	switch entity {
	case filter.Metric:
		return fmt.Sprintf(q.metric, q.arg(key))
	case filter.Param:
		return fmt.Sprintf(q.param, q.arg(key))
	case filter.Tag:
		return fmt.Sprintf(q.tag, q.arg(key))
	case filter.Attribute, filter.Dataset:
	}
	return q.columns[key]
}

func (q *query) clause(c filter.Clause) {
	if c.Entity == filter.Dataset {
		// The key is one of three names that the grammar knows.
		column := map[string]string{"name": "i.name", "digest": "i.digest", "context": "i.context"}[c.Key]
		q.add("EXISTS (SELECT 1 FROM run_inputs i WHERE i.run_id = r.run_id AND " + q.compare(column, c) + ")")
		return
	}
	if q.keyed != nil && c.Entity == filter.Attribute && c.Key == "start_time" && c.Number == math.Trunc(c.Number) && math.Abs(c.Number) < mostMillis {
		q.add(q.startTime(c))
		return
	}
	if q.keyed != nil && c.Entity != filter.Attribute {
		q.keyed.clause(q, c)
		return
	}
	left := q.expression(c.Entity, c.Key)
	cond := q.compare(left, c)
	switch {
	case c.Entity == filter.Metric:
		// NaN is above every number for Postgres; for a person it satisfies nothing.
		cond = "(" + left + " <> 'NaN' AND " + cond + ")"
	case c.Entity == filter.Tag && c.Op == "!=" && q.missing[c.Key]:
		cond = "(" + left + " IS NULL OR " + cond + ")"
	}
	q.add(cond)
}

func (q *query) compare(left string, c filter.Clause) string {
	op := string(c.Op)
	switch c.Kind {
	case filter.ListValue:
		if op == "NOT IN" {
			return left + " <> ALL(" + q.arg(c.List) + ")"
		}
		return left + " = ANY(" + q.arg(c.List) + ")"
	case filter.NumberValue:
		return left + " " + op + " " + q.arg(c.Number) + "::float8"
	case filter.NullValue:
		return left + " " + op
	case filter.TextValue:
	}
	return left + " " + op + " " + q.arg(c.Text)
}

// order puts numbers before NaN before rows without the key, in both directions.
func (q *query) order(orders []filter.Order, last string) string {
	var terms []string
	for _, o := range orders {
		e := q.expression(o.Entity, o.Key)
		direction := " ASC"
		if o.Descending {
			direction = " DESC"
		}
		switch {
		case q.keyed != nil && o.Entity == filter.Attribute && o.Key == "start_time":
			terms = append(terms, "r.start_time"+direction) // never NULL, and what an index is ordered by
			continue
		case q.keyed.leads(o):
			terms = append(terms, e+direction) // the same
			continue
		case o.Entity == filter.Metric:
			terms = append(terms, "CASE WHEN "+e+" IS NULL THEN 2 WHEN "+e+" = 'NaN' THEN 1 ELSE 0 END")
		}
		terms = append(terms, e+direction+" NULLS LAST")
	}
	return " ORDER BY " + strings.Join(append(terms, last), ", ")
}

func (q *query) page(p Page) string {
	return " LIMIT " + q.arg(p.Limit) + " OFFSET " + q.arg(p.Offset)
}

// millis is a time column as MLflow's milliseconds.
func millis(column string) string {
	return "floor(extract(epoch FROM " + column + ") * 1000)::float8"
}

// mostMillis bounds the milliseconds that are a time of the database.
const mostMillis = 250_000_000_000_000

// startTime compares the column itself, which an index is ordered by, where a clause compares whole milliseconds.
func (q *query) startTime(c filter.Clause) string {
	from, to := time.UnixMilli(int64(c.Number)), time.UnixMilli(int64(c.Number)+1)
	switch c.Op {
	case ">=":
		return "r.start_time >= " + q.arg(from)
	case ">":
		return "r.start_time >= " + q.arg(to)
	case "<":
		return "r.start_time < " + q.arg(from)
	case "<=":
		return "r.start_time < " + q.arg(to)
	case "!=":
		return "(r.start_time < " + q.arg(from) + " OR r.start_time >= " + q.arg(to) + ")"
	}
	return "r.start_time >= " + q.arg(from) + " AND r.start_time < " + q.arg(to)
}

func texts[S ~string](in []S) []string {
	out := make([]string, 0, len(in))
	for _, v := range in {
		out = append(out, string(v))
	}
	return out
}

// SearchModels returns models that match.
func (s *Store) SearchModels(ctx context.Context, clauses []filter.Clause, orders []filter.Order, page Page) ([]catalog.Model, error) {
	q := &query{columns: map[string]string{"name": "m.name", "creation_timestamp": millis("m.create_time"), "last_updated_timestamp": millis("m.update_time")},
		tag:     `(SELECT t.value FROM model_tags t WHERE t.model_id = m.model_id AND t.key = %s)`,
		missing: map[string]bool{promptTag: true}}
	q.add("NOT m.deleted")
	for _, c := range clauses {
		q.clause(c)
	}
	return readModels(ctx, s.pool, q.where()+q.order(orders, "m.name")+q.page(page), q.args...)
}

// promptTag marks prompts in MLflow 3; its clients ask for "not a prompt" on every search.
const promptTag = "mlflow.prompt.is_prompt"

// SearchVersions returns versions that match.
func (s *Store) SearchVersions(ctx context.Context, clauses []filter.Clause, orders []filter.Order, page Page) ([]catalog.Version, error) {
	q := &query{columns: map[string]string{"name": "m.name", "run_id": "v.run_id", "run_id_digits": "replace(v.run_id, '-', '')", "source_path": "v.source", "version_number": "v.version",
		"creation_timestamp": millis("v.create_time"), "last_updated_timestamp": millis("v.update_time")},
		tag:     `(SELECT t.value FROM model_version_tags t WHERE t.model_id = v.model_id AND t.version = v.version AND t.key = %s)`,
		missing: map[string]bool{promptTag: true}}
	q.add("NOT v.deleted AND NOT m.deleted")
	for _, c := range clauses {
		q.clause(c)
	}
	return readVersions(ctx, s.pool, q.where()+q.order(orders, "v.update_time DESC, m.name, v.version DESC")+q.page(page), q.args...)
}
