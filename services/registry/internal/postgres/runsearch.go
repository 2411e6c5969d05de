package postgres

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/ultrathink-pilot/trainyard/services/registry/internal/catalog"
	"github.com/ultrathink-pilot/trainyard/services/registry/internal/filter"
)

// RunSearch is one page of a search over runs.
type RunSearch struct {
	ExperimentPrefix string
	Clauses          []filter.Clause
	Orders           []filter.Order
	Lifecycles       []catalog.Lifecycle
	// Parent keeps the runs whose parent it is; "" keeps all.
	Parent string
	// After is the place of the last row of the previous page; the zero value begins.
	After RunPlace
	Limit int
}

// RunPlace is a row's place in a search's order: never an offset, which would skip or repeat
// rows when others write, and cost more with every page.
type RunPlace struct {
	// Keys has, per order term, its class ("0" a value, "1" NaN, "2" missing) and its value.
	Keys  []string
	Start time.Time
	ID    string
}

// FoundRun is a run with its place.
type FoundRun struct {
	catalog.Run
	Place RunPlace
}

// orderText bounds what of a text takes part in the order: a place has to fit a token.
const orderText = 128

// orderTerm is one order-by term in SQL.
type orderTerm struct {
	class, value, cast string
	descending         bool
	// alone: every row has class 0.
	alone bool
}

// by is the term in an ORDER BY.
func (t orderTerm) by() string {
	direction := " ASC"
	if t.descending {
		direction = " DESC"
	}
	if t.alone {
		return t.value + direction
	}
	return t.class + ", " + t.value + direction
}

func (q *query) orderTerms(orders []filter.Order) []orderTerm {
	var out []orderTerm
	for _, o := range orders {
		e := q.expression(o.Entity, o.Key)
		t := orderTerm{value: e, class: "CASE WHEN " + e + " IS NULL THEN 2 ELSE 0 END", cast: "float8", descending: o.Descending}
		switch {
		case o.Entity == filter.Metric:
			t.class, t.alone = "CASE WHEN "+e+" IS NULL THEN 2 WHEN "+e+" = 'NaN' THEN 1 ELSE 0 END", q.keyed.leads(o)
		case o.Entity == filter.Attribute && (o.Key == "start_time" || o.Key == "end_time"):
		default:
			t.value, t.cast = fmt.Sprintf("left(%s, %d)", e, orderText), "text"
		}
		out = append(out, t)
	}
	return out
}

// after is the condition of rows behind a place.
func (q *query) after(terms []orderTerm, place RunPlace) string {
	var any, equal []string
	and := func(last string) {
		any = append(any, "("+strings.Join(append(append([]string{}, equal...), last), " AND ")+")")
	}
	for i, t := range terms {
		class, value := place.Keys[2*i], place.Keys[2*i+1]
		c := q.arg(class) + "::text::int"
		if class != "0" {
			and(t.class + " > " + c)
			equal = append(equal, t.class+" = "+c)
			continue
		}
		v := q.arg(value) + "::text::" + t.cast
		op := " > "
		if t.descending {
			op = " < "
		}
		and("(" + t.class + " > " + c + " OR (" + t.class + " = " + c + " AND " + t.value + op + v + "))")
		equal = append(equal, t.class+" = "+c+" AND "+t.value+" = "+v)
	}
	start, id := q.arg(place.Start), q.arg(place.ID)
	and("(r.start_time < " + start + " OR (r.start_time = " + start + " AND r.run_id > " + id + "))")
	return "(" + strings.Join(any, " OR ") + ")"
}

// SearchRunPage returns a page of the runs that match, in order, with params, tags and latest
// metrics.
func (s *Store) SearchRunPage(ctx context.Context, in RunSearch) ([]FoundRun, error) {
	const scope = "experiment_id = ANY(ARRAY(SELECT e.experiment_id FROM experiments e WHERE starts_with(e.name, %s)))"
	q := runQuery(scope, in.ExperimentPrefix)
	q.add("r.lifecycle = ANY(" + q.arg(texts(in.Lifecycles)) + ")")
	if in.ExperimentPrefix != "" {
		q.add("r." + q.keyed.within(q))
	}
	if in.Parent != "" {
		q.add("EXISTS (SELECT 1 FROM run_tags t WHERE t.run_id = r.run_id AND t.key = '" + ParentTag + "' AND t.value = " + q.arg(in.Parent) + ")")
	}
	if err := s.narrow(ctx, q, in.Clauses); err != nil {
		return nil, err
	}
	if orderedByClause(in.Orders, in.Clauses) {
		q.keyed.lead(q, in.Orders[0].Key)
	}
	for _, c := range in.Clauses {
		q.clause(c)
	}
	terms := q.orderTerms(in.Orders)
	if in.After.ID != "" {
		if len(in.After.Keys) != 2*len(terms) {
			return nil, fmt.Errorf("a place with %d keys in a search with %d order terms", len(in.After.Keys), len(terms))
		}
		q.add(q.after(terms, in.After))
	}
	columns, order := "r.run_id, r.start_time", ""
	for _, t := range terms {
		columns += ", (" + t.class + ")::text, COALESCE((" + t.value + ")::text, '')"
		order += t.by() + ", "
	}
	rows, err := s.pool.Query(ctx, "SELECT "+columns+" FROM runs r"+q.keyed.sql()+q.where()+
		" ORDER BY "+order+"r.start_time DESC, r.run_id LIMIT "+q.arg(in.Limit), q.args...)
	if err != nil {
		return nil, err
	}
	places, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (RunPlace, error) {
		p := RunPlace{Keys: make([]string, 2*len(terms))}
		into := []any{&p.ID, &p.Start}
		for i := range p.Keys {
			into = append(into, &p.Keys[i])
		}
		err := row.Scan(into...)
		return p, err
	})
	if err != nil {
		return nil, fmt.Errorf("search runs: %w", err)
	}
	ids := make([]string, len(places))
	for i, p := range places {
		ids[i] = p.ID
	}
	runs, err := s.GetRuns(ctx, ids)
	if err != nil {
		return nil, err
	}
	var out []FoundRun
	for _, p := range places {
		if r, ok := runs[p.ID]; ok {
			out = append(out, FoundRun{r, p})
		}
	}
	return out, nil
}

// GetRuns returns those of the runs that exist, by id.
func (s *Store) GetRuns(ctx context.Context, ids []string) (map[string]catalog.Run, error) {
	runs, err := s.readRuns(ctx, `WHERE r.run_id = ANY($1)`, ids)
	if err != nil {
		return nil, err
	}
	out := make(map[string]catalog.Run, len(runs))
	for _, r := range runs {
		out[r.ID] = r
	}
	return out, nil
}
