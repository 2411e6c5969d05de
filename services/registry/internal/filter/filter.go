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
	// NullValue belongs to IS NULL and IS NOT NULL: the key is there, or it is not.
	NullValue
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
	// Registry marks the searches of models and versions, which complain in words of their
	// own; OrderWords is their complaint about an unknown key, with one %s.
	Registry   bool
	OrderWords string
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
var Models = Grammar{Entities: []Entity{Tag}, Text: []string{"name"}, Numeric: []string{"last_updated_timestamp", "creation_timestamp"},
	Registry: true, OrderWords: "Invalid order by key '%s' specified. Valid keys are the model's name and timestamps"}

// LoggedModels is the grammar of logged-models/search.
var LoggedModels = Grammar{Entities: []Entity{Metric, Param, Tag}, Text: []string{"name", "model_id", "model_type", "status", "source_run_id"},
	Numeric: []string{"creation_timestamp", "creation_time", "last_updated_timestamp", "last_updated_time"},
	Lists:   []string{"name", "model_id", "model_type", "status", "source_run_id"}}

// Versions is the grammar of model-versions/search.
var Versions = Grammar{Entities: []Entity{Tag}, Text: []string{"name", "run_id", "source_path"},
	Numeric: []string{"version_number", "creation_timestamp", "last_updated_timestamp"}, Lists: []string{"run_id"},
	Aliases: map[string]string{"version": "version_number"}, Registry: true}

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
				return nil, badClause(tokens[:1])
			}
			if tokens = tokens[1:]; len(tokens) == 0 {
				break // MLflow reads over an AND at the end
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

// badClause names what is not a comparison, as MLflow does.
func badClause(tokens []token) error {
	quoted := make([]string, len(tokens))
	for i, t := range tokens {
		quoted[i] = "'" + t.raw + "'"
	}
	return invalid("Invalid clause(s) in filter string: %s", strings.Join(quoted, ", "))
}

// comparators is a set as Python prints it.
func comparators(ops []Op) string {
	quoted := make([]string, len(ops))
	for i, op := range ops {
		quoted[i] = "'" + string(op) + "'"
	}
	return "{" + strings.Join(quoted, ", ") + "}"
}

// longNames are the entities as messages spell them.
var longNames = map[Entity]string{Metric: "metric", Param: "parameter", Tag: "tag", Attribute: "attribute", Dataset: "dataset"}

func (g Grammar) clause(tokens []token) (Clause, []token, error) {
	whole := tokens
	if tokens[0].kind == quoted && len(tokens) > 1 && tokens[1].kind == operator && tokens[0].raw[0] == '\'' {
		return Clause{}, nil, invalid("Invalid comparison clause. Expected 'Identifier' found '%s'", tokens[0].raw)
	}
	c, tokens, err := g.identifier(tokens)
	if err != nil {
		return c, nil, err
	}
	if len(tokens) < 2 {
		return c, nil, badClause(whole)
	}
	c.Op = Op(strings.ToUpper(tokens[0].text))
	switch {
	case c.Op == "NOT" && tokens[1].word("IN"):
		c.Op, tokens = "NOT IN", tokens[1:]
	case c.Op == "IS" && tokens[1].word("NULL") && (c.Entity == Param || c.Entity == Tag):
		c.Op, c.Kind = "IS NULL", NullValue
		return c, tokens[2:], nil
	case c.Op == "IS" && len(tokens) > 2 && tokens[1].word("NOT") && tokens[2].word("NULL") && (c.Entity == Param || c.Entity == Tag):
		c.Op, c.Kind = "IS NOT NULL", NullValue
		return c, tokens[3:], nil
	}
	if tokens[0].kind != operator && !slices.Contains([]Op{"LIKE", "ILIKE", "IN", "NOT IN"}, c.Op) {
		return c, nil, badClause(whole)
	}
	if tokens = tokens[1:]; len(tokens) == 0 {
		return c, nil, badClause(whole)
	}
	return g.value(c, tokens)
}

// value reads the right side of a comparison.
func (g Grammar) value(c Clause, tokens []token) (Clause, []token, error) {
	var err error
	numeric := c.Entity == Metric || c.Entity == Attribute && slices.Contains(g.Numeric, c.Key)
	switch {
	case slices.Contains(listOps, c.Op):
		if c.Entity != Dataset && c.Entity != Attribute {
			return c, nil, g.unquoted(c, tokens)
		}
		if c.Entity == Attribute && !slices.Contains(g.Lists, c.Key) {
			return c, nil, invalid("Only ['%s'] attributes support comparison with a list of quoted string values.", strings.Join(g.Lists, "', '"))
		}
		if tokens[0].text != "(" {
			return c, nil, badClause([]token{{raw: c.Key}, {raw: string(c.Op)}, tokens[0]})
		}
		c.Kind = ListValue
		c.List, tokens, err = list(tokens)
	case numeric:
		c.Kind = NumberValue
		c.Number, err = strconv.ParseFloat(tokens[0].text, 64)
		switch {
		case tokens[0].kind == bare && err == nil:
		case c.Entity == Metric:
			return c, nil, invalid("Expected numeric value type for metric. Found %s", tokens[0].raw)
		default:
			return c, nil, invalid("Expected numeric value type for numeric attribute: %s. Found %s", c.Key, tokens[0].raw)
		}
		if !slices.Contains(numberOps, c.Op) {
			return c, nil, invalid("Invalid comparator '%s' not one of '%s'", c.Op, comparators(numberOps))
		}
		tokens = tokens[1:]
	default:
		if tokens[0].kind != quoted {
			return c, nil, g.unquoted(c, tokens)
		}
		if !slices.Contains(textOps, c.Op) {
			if g.Registry {
				return c, nil, invalid("Invalid comparator for attribute: %s", c.Op)
			}
			return c, nil, invalid("Invalid comparator '%s' not one of '%s'", c.Op, comparators(textOps))
		}
		c.Text, tokens = tokens[0].text, tokens[1:]
	}
	return c, tokens, err
}

// unquoted refuses a text without quotes, in the words of the search that it is for.
func (g Grammar) unquoted(c Clause, tokens []token) error {
	raw := tokens[0].raw
	if raw == "(" {
		for _, t := range tokens[1:] {
			if raw += t.raw; t.text == ")" {
				break
			}
		}
	}
	switch {
	case g.Registry:
		return invalid("Invalid clause(s) in filter string: %s, %s, %s", c.Key, c.Op, raw)
	case c.Entity == Attribute:
		return invalid("Parameter value is either not quoted or unidentified quote types used for string value %s. Use either single or double quotes.", raw)
	}
	return invalid("Expected a quoted string value for %s (e.g. 'my-value'). Got value %s", longNames[c.Entity], raw)
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
				return c, nil, badClause(tokens)
			}
			c.Entity, c.Key, tokens = entity, tokens[1].text, tokens[2:]
		case dotted:
			return c, nil, invalid("Invalid entity type '%s'. Valid values are ['metric', 'parameter', 'tag', 'attribute', 'dataset']", name)
		default:
			c.Key, tokens = first.text, tokens[1:]
		}
	case name, quoted:
		c.Key, tokens = first.text, tokens[1:]
	default:
		return c, nil, badClause(tokens[:1])
	}
	if c.Entity == Attribute {
		if full, ok := g.Aliases[c.Key]; ok {
			c.Key = full
		}
		if !slices.Contains(g.Text, c.Key) && !slices.Contains(g.Numeric, c.Key) {
			return c, nil, invalid("Invalid attribute key '%s' specified. Valid keys are '%s'", c.Key, strings.Join(append(slices.Clone(g.Text), g.Numeric...), ", "))
		}
	} else if !slices.Contains(g.Entities, c.Entity) {
		return c, nil, invalid("Invalid entity type '%s' for this search", longNames[c.Entity])
	}
	if c.Entity == Dataset && !slices.Contains([]string{"name", "digest", "context"}, c.Key) {
		return c, nil, invalid("Invalid dataset key '%s' specified. Valid keys are 'name, digest, context'", c.Key)
	}
	return c, tokens, nil
}

func list(tokens []token) ([]string, []token, error) {
	tokens = tokens[1:] // the opening parenthesis
	if len(tokens) > 0 && tokens[0].text == ")" {
		return nil, nil, invalid("While parsing a list in the query, expected a non-empty list of string values, but got empty list")
	}
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
	return nil, nil, invalid("While parsing a list in the query, expected string value, punctuation, or whitespace, but got different type in list")
}

// ParseOrder reads one order-by term such as "metrics.`validation/sharpe` DESC".
func (g Grammar) ParseOrder(text string) (Order, error) {
	tokens, err := scan(text)
	if err != nil {
		return Order{}, err
	}
	if len(tokens) == 0 {
		return Order{}, invalid("Invalid order_by clause '%s'. Could not be parsed.", text)
	}
	c, rest, err := g.identifier(tokens)
	if err != nil {
		if g.OrderWords != "" && c.Entity == Attribute {
			err = invalid(g.OrderWords, c.Key)
		}
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
	case len(rest) == 1:
		return o, invalid("Invalid ordering key in order_by clause '%s'.", text)
	default:
		return o, invalid("Invalid order_by clause '%s'. Could not be parsed.", text)
	}
	return o, nil
}
