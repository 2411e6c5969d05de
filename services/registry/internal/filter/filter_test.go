package filter

import (
	"errors"
	"reflect"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestFilters(t *testing.T) {
	t.Parallel()
	for text, want := range map[string][]Clause{
		"":                   nil,
		"metrics.loss < 0.5": {{Entity: Metric, Key: "loss", Op: "<", Kind: NumberValue, Number: 0.5}},
		"metrics.`validation/sharpe` >= -1e3 and params.lr = '0.1'": {
			{Entity: Metric, Key: "validation/sharpe", Op: ">=", Kind: NumberValue, Number: -1000},
			{Entity: Param, Key: "lr", Op: "=", Text: "0.1"}},
		"tags.mlflow.user ILIKE 'a''b%'": {{Entity: Tag, Key: "mlflow.user", Op: "ILIKE", Text: "a'b%"}},
		`tags."odd key" != "x y"`:        {{Entity: Tag, Key: "odd key", Op: "!=", Text: "x y"}},
		"run_id IN ('a','b') AND status = 'RUNNING'": {
			{Entity: Attribute, Key: "run_id", Op: "IN", Kind: ListValue, List: []string{"a", "b"}},
			{Entity: Attribute, Key: "status", Op: "=", Text: "RUNNING"}},
		"attributes.run_id not in ('a')": {{Entity: Attribute, Key: "run_id", Op: "NOT IN", Kind: ListValue, List: []string{"a"}}},
		"`run name` = 'x'":               {{Entity: Attribute, Key: "run_name", Op: "=", Text: "x"}},
		"start_time > 1700000000000":     {{Entity: Attribute, Key: "start_time", Op: ">", Kind: NumberValue, Number: 1.7e12}},
		"dataset.name = 'spx'":           {{Entity: Dataset, Key: "name", Op: "=", Text: "spx"}},
		"params.a = 'x' AND":             {{Entity: Param, Key: "a", Op: "=", Text: "x"}},
		"params.a IS NULL and tags.b is not null": {{Entity: Param, Key: "a", Op: "IS NULL", Kind: NullValue},
			{Entity: Tag, Key: "b", Op: "IS NOT NULL", Kind: NullValue}},
		"params.p = '1; DROP TABLE runs'": {{Entity: Param, Key: "p", Op: "=", Text: "1; DROP TABLE runs"}},
	} {
		got, err := Runs.Parse(text)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%q: %+v %v", text, got, err)
		}
	}
}

func TestBadFiltersAreNamed(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		"metrics.loss", "metrics.loss <", "metrics.loss < 'x'", "metrics.loss LIKE 'x'", "metrics.loss < abc", "params.a > '1'", "params.a = 1",
		"params.a = 'x' OR params.b = 'y'", "foo.bar = 'x'", "nothing = 'x'", "params.a = 'x", "a = 'x'; b = 'y'", "metrics. = 3",
		"status IN ('a')", "run_id IN 'a'", "run_id IN (a)", "run_id IN ('a'", "dataset.size = '1'", "= 'x'", "params.a == 'x'", "a\x00b = 'x'",
		"(metrics.a > 1)", "params.a = 'x' params.b = 'y'", "AND", "metrics.a IS NULL", "params.a IS", "params.a IS NOT", strings.Repeat("params.a = 'x' AND ", 80) + "params.a = 'x'",
	} {
		got, err := Runs.Parse(text)
		var e *Error
		if !errors.As(err, &e) || e.Text == "" {
			t.Errorf("%q was read as %+v: %v", text, got, err)
		}
	}
}

func TestOrders(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]Order{
		"metrics.a DESC":                    {Metric, "a", true},
		"params.`b c` ASC":                  {Param, "b c", false},
		"start_time":                        {Attribute, "start_time", false},
		"attributes.end_time desc":          {Attribute, "end_time", true},
		"metrics.\"validation/sharpe\" ASC": {Metric, "validation/sharpe", false},
	} {
		if got, err := Runs.ParseOrder(text); err != nil || got != want {
			t.Errorf("%q: %+v %v", text, got, err)
		}
	}
	for _, text := range []string{"", "metrics.a UP", "metrics.a DESC, b", "dataset.name", "x"} {
		if got, err := Runs.ParseOrder(text); err == nil {
			t.Errorf("%q was read as %+v", text, got)
		}
	}
}

// No text, however odd, makes the parser panic or accept more than it can name.
func TestAnyTextIsReadOrRefused(t *testing.T) {
	t.Parallel()
	words := []string{"metrics.a", "params.", "`k`", "'v'", "=", "<", "AND", "IN", "NOT", "(", ")", ",", "1.5", "\"", "'", "run_id", "tags.x", ";", " "}
	rapid.Check(t, func(t *rapid.T) {
		text := strings.Join(rapid.SliceOf(rapid.OneOf(rapid.SampledFrom(words), rapid.String())).Draw(t, "parts"), " ")
		clauses, err := Runs.Parse(text)
		var e *Error
		if err != nil && !errors.As(err, &e) {
			t.Fatalf("%v", err)
		}
		for _, c := range clauses {
			if c.Key == "" && c.Entity == Attribute || c.Op == "" {
				t.Fatalf("clause %+v", c)
			}
		}
	})
}
