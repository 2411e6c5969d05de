// Package filter reads the search grammar of MLflow's clients: clauses joined by AND,
// keys of metrics, params, tags and attributes, and order-by terms. It is pure and knows
// no SQL: a parsed clause carries its values apart from the text, so that nothing a
// client wrote can ever become part of a statement.
package filter

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Entity is what a clause looks at.
type Entity string

// Entities.
const (
	Attribute Entity = "attribute"
	Metric    Entity = "metric"
	Param     Entity = "param"
	Tag       Entity = "tag"
	Dataset   Entity = "dataset"
)

// Op is a comparison; the strings are SQL's own.
type Op string

// Clause is one condition. Exactly one of Text, Number and List is meant, by Kind.
type Clause struct {
	Entity Entity
	Key    string
	Op     Op
	Kind   Kind
	Text   string
	Number float64
	List   []string
}

// Kind is the type of a clause's value.
type Kind int

// Kinds.
const (
	TextValue Kind = iota
	NumberValue
	ListValue
)

// Order is one order-by term.
type Order struct {
	Entity     Entity
	Key        string
	Descending bool
}

// Error is a filter that cannot be read; its text is for the person who wrote it.
type Error struct{ Text string }

func (e *Error) Error() string { return e.Text }

func invalid(format string, args ...any) error { return &Error{fmt.Sprintf(format, args...)} }

// Grammar is what one search target allows.
type Grammar struct {
	// Entities that may be named; attributes always may.
	Entities []Entity
	// Text and Numeric are the attribute names, by their type; Aliases maps spellings.
	Text, Numeric []string
	Aliases       map[string]string
	// Lists are the attributes that take IN and NOT IN.
	Lists []string
}

// Runs is the grammar of runs/search.
var Runs = Grammar{
	Entities: []Entity{Metric, Param, Tag, Dataset},
	Text:     []string{"run_id", "run_name", "status", "artifact_uri", "user_id"},
	Numeric:  []string{"start_time", "end_time"},
	Aliases: map[string]string{"run name": "run_name", "Run name": "run_name", "Run Name": "run_name", "Created": "start_time",
		"created": "start_time", "run id": "run_id", "Status": "status"},
	Lists: []string{"run_id"},
}

// Experiments is the grammar of experiments/search.
var Experiments = Grammar{Entities: []Entity{Tag}, Text: []string{"name"}, Numeric: []string{"creation_time", "last_update_time", "experiment_id"}}

// Models is the grammar of registered-models/search.
var Models = Grammar{Entities: []Entity{Tag}, Text: []string{"name"}, Numeric: []string{"last_updated_timestamp", "creation_timestamp"}}

// LoggedModels is the grammar of logged-models/search.
var LoggedModels = Grammar{Entities: []Entity{Metric, Param, Tag}, Text: []string{"name", "model_id", "model_type", "status", "source_run_id"},
	Numeric: []string{"creation_timestamp", "creation_time", "last_updated_timestamp", "last_updated_time"}}

// Versions is the grammar of model-versions/search.
var Versions = Grammar{Entities: []Entity{Tag}, Text: []string{"name", "run_id", "source_path"},
	Numeric: []string{"version_number", "creation_timestamp", "last_updated_timestamp"}, Lists: []string{"run_id"},
	Aliases: map[string]string{"version": "version_number"}}

var entityNames = map[string]Entity{
	"metric": Metric, "metrics": Metric, "param": Param, "params": Param, "parameter": Param, "parameters": Param,
	"tag": Tag, "tags": Tag, "attribute": Attribute, "attributes": Attribute, "attr": Attribute, "run": Attribute,
	"dataset": Dataset, "datasets": Dataset,
}

var (
	numberOps = []Op{">", ">=", "<", "<=", "=", "!="}
	textOps   = []Op{"=", "!=", "LIKE", "ILIKE"}
	listOps   = []Op{"IN", "NOT IN"}
)

// maxClauses bounds the work that one request can ask of the database.
const maxClauses = 64

// Parse reads a filter; "" has no clauses.
func (g Grammar) Parse(text string) ([]Clause, error) {
	tokens, err := scan(text)
	if err != nil {
		return nil, err
	}
	var clauses []Clause
	for len(tokens) > 0 {
		if len(clauses) > 0 {
			if !tokens[0].word("AND") {
				return nil, invalid("Invalid clause(s) in filter string: expected AND before %q. Only AND is supported.", tokens[0].text)
			}
			if tokens = tokens[1:]; len(tokens) == 0 {
				return nil, invalid("Invalid clause(s) in filter string: nothing follows the last AND")
			}
		}
		var c Clause
		if c, tokens, err = g.clause(tokens); err != nil {
			return nil, err
		}
		if clauses = append(clauses, c); len(clauses) > maxClauses {
			return nil, invalid("The filter has more than %d clauses", maxClauses)
		}
	}
	return clauses, nil
}

func (g Grammar) clause(tokens []token) (Clause, []token, error) {
	c, tokens, err := g.identifier(tokens)
	if err != nil {
		return c, nil, err
	}
	if len(tokens) < 2 {
		return c, nil, invalid("Invalid clause(s) in filter string: %q has no comparison and value", c.Key)
	}
	c.Op = Op(strings.ToUpper(tokens[0].text))
	if c.Op == "NOT" && tokens[1].word("IN") {
		c.Op, tokens = "NOT IN", tokens[1:]
	}
	if tokens[0].kind != operator && !slices.Contains([]Op{"LIKE", "ILIKE", "IN", "NOT IN"}, c.Op) {
		return c, nil, invalid("Invalid comparison operator %q", tokens[0].text)
	}
	tokens = tokens[1:]
	if len(tokens) == 0 {
		return c, nil, invalid("Invalid clause(s) in filter string: %q has no value", c.Key)
	}
	numeric := c.Entity == Metric || c.Entity == Attribute && slices.Contains(g.Numeric, c.Key)
	switch {
	case slices.Contains(listOps, c.Op):
		if c.Entity != Dataset && (c.Entity != Attribute || !slices.Contains(g.Lists, c.Key)) {
			return c, nil, invalid("Only some attributes support IN and NOT IN, %q does not", c.Key)
		}
		c.Kind = ListValue
		c.List, tokens, err = list(tokens)
	case numeric:
		if !slices.Contains(numberOps, c.Op) {
			return c, nil, invalid("Invalid comparator %q for the numeric %s %q", c.Op, c.Entity, c.Key)
		}
		c.Kind = NumberValue
		if tokens[0].kind != bare {
			return c, nil, invalid("Expected a numeric value for %s %q, got %q. Numbers are written without quotes.", c.Entity, c.Key, tokens[0].text)
		}
		if c.Number, err = strconv.ParseFloat(tokens[0].text, 64); err != nil {
			return c, nil, invalid("Expected a numeric value for %s %q, got %q", c.Entity, c.Key, tokens[0].text)
		}
		tokens = tokens[1:]
	default:
		if !slices.Contains(textOps, c.Op) {
			return c, nil, invalid("Invalid comparator %q for the %s %q", c.Op, c.Entity, c.Key)
		}
		if tokens[0].kind != quoted {
			return c, nil, invalid("Expected a quoted string value for %s %q, got %q", c.Entity, c.Key, tokens[0].text)
		}
		c.Text, tokens = tokens[0].text, tokens[1:]
	}
	return c, tokens, err
}

// identifier reads "key", "entity.key" and both with quoted keys.
func (g Grammar) identifier(tokens []token) (Clause, []token, error) {
	first := tokens[0]
	c := Clause{Entity: Attribute}
	switch first.kind {
	case bare:
		name, key, dotted := strings.Cut(first.text, ".")
		entity, known := entityNames[strings.ToLower(name)]
		switch {
		case dotted && known && key != "":
			c.Entity, c.Key, tokens = entity, key, tokens[1:]
		case dotted && known: // the key follows in backticks or double quotes
			if len(tokens) < 2 || tokens[1].kind == bare || tokens[1].kind == operator {
				return c, nil, invalid("Invalid identifier %q", first.text)
			}
			c.Entity, c.Key, tokens = entity, tokens[1].text, tokens[2:]
		case dotted:
			return c, nil, invalid("Invalid entity type %q. Valid values are metric, parameter, tag, attribute and dataset", name)
		default:
			c.Key, tokens = first.text, tokens[1:]
		}
	case name, quoted:
		c.Key, tokens = first.text, tokens[1:]
	default:
		return c, nil, invalid("Invalid clause(s) in filter string near %q", first.text)
	}
	if c.Entity == Attribute {
		if full, ok := g.Aliases[c.Key]; ok {
			c.Key = full
		}
		if !slices.Contains(g.Text, c.Key) && !slices.Contains(g.Numeric, c.Key) {
			return c, nil, invalid("Invalid attribute key %q specified. Valid keys are %s", c.Key, strings.Join(append(slices.Clone(g.Text), g.Numeric...), ", "))
		}
	} else if !slices.Contains(g.Entities, c.Entity) {
		return c, nil, invalid("Invalid entity type %q for this search", c.Entity)
	}
	if c.Entity == Dataset && !slices.Contains([]string{"name", "digest", "context"}, c.Key) {
		return c, nil, invalid("Invalid dataset key %q specified. Valid keys are name, digest, context", c.Key)
	}
	return c, tokens, nil
}

func list(tokens []token) ([]string, []token, error) {
	if tokens[0].text != "(" {
		return nil, nil, invalid("Expected a list in parentheses after IN")
	}
	tokens = tokens[1:]
	var out []string
	for len(tokens) >= 2 {
		if tokens[0].kind != quoted {
			break
		}
		out = append(out, tokens[0].text)
		switch tokens[1].text {
		case ",":
			tokens = tokens[2:]
			continue
		case ")":
			return out, tokens[2:], nil
		}
		break
	}
	return nil, nil, invalid("A list after IN holds quoted strings between parentheses, separated by commas")
}

// ParseOrder reads one order-by term such as "metrics.`validation/sharpe` DESC".
func (g Grammar) ParseOrder(text string) (Order, error) {
	tokens, err := scan(text)
	if err != nil {
		return Order{}, err
	}
	if len(tokens) == 0 {
		return Order{}, invalid("Invalid order_by clause %q", text)
	}
	c, rest, err := g.identifier(tokens)
	if err != nil {
		return Order{}, err
	}
	o := Order{Entity: c.Entity, Key: c.Key}
	if c.Entity == Dataset {
		return o, invalid("Runs cannot be ordered by a dataset")
	}
	switch {
	case len(rest) == 0:
	case len(rest) == 1 && rest[0].word("ASC"):
	case len(rest) == 1 && rest[0].word("DESC"):
		o.Descending = true
	default:
		return o, invalid("Invalid order_by clause %q. Expected ASC or DESC after the key", text)
	}
	return o, nil
}
