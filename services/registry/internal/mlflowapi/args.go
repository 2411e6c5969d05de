package mlflowapi

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"strconv"
	"strings"

	"github.com/ultrathink-pilot/trainyard/services/registry/internal/catalog"
	"github.com/ultrathink-pilot/trainyard/services/registry/internal/postgres"
)

const apiDocs = " See the API docs for more information about request parameters."

// args is a request's fields by name. GET requests carry them in the query, or in the body
// when there is no query; a repeated query key is a list.
type args struct {
	fields map[string]json.RawMessage
	query  map[string][]string
	// path holds what the route's own path carries.
	path  map[string]string
	guard postgres.Guard
	// idempotencyKey makes a create that arrives twice one create.
	idempotencyKey string
}

func readArgs(w http.ResponseWriter, r *http.Request) (args, error) {
	in := args{guard: guardOf(r.Context()), idempotencyKey: r.Header.Get("Idempotency-Key")}
	if r.Method == http.MethodGet && r.URL.RawQuery != "" {
		in.query = r.URL.Query()
		return in, nil
	}
	if r.Method == http.MethodPost {
		kind, _, _ := strings.Cut(r.Header.Get("Content-Type"), ";")
		if !strings.EqualFold(strings.TrimSpace(kind), "application/json") {
			return in, invalid("Bad Request. Content-Type must be one of ['application/json'].")
		}
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		var large *http.MaxBytesError
		if errors.As(err, &large) {
			return in, invalid("The request is larger than %d bytes", maxBody)
		}
		return in, &apiError{"BAD_REQUEST", "the request body could not be read"}
	}
	body = bytes.TrimSpace(body)
	// Old clients send their JSON as a JSON string.
	var inner string
	if len(body) > 0 && body[0] == '"' && json.Unmarshal(body, &inner) == nil {
		body = []byte(inner)
	}
	if len(body) == 0 || bytes.Equal(body, []byte("null")) {
		in.fields = map[string]json.RawMessage{}
		return in, nil
	}
	// What is no JSON at all counts as no fields, as with MLflow: the missing ones are named.
	if err := json.Unmarshal(body, &in.fields); err != nil && json.Valid(body) {
		return in, invalid("Bad Request. The body must be a JSON object")
	}
	return in, nil
}

// raw returns a field's JSON; absent and null are the same.
func (a args) raw(name string) (json.RawMessage, bool) {
	if a.query != nil {
		v, ok := a.query[name]
		if !ok || len(v) == 0 {
			return nil, false
		}
		raw, _ := json.Marshal(v[0]) // a string always marshals
		return raw, true
	}
	v, ok := a.fields[name]
	if !ok || bytes.Equal(bytes.TrimSpace(v), []byte("null")) {
		return nil, false
	}
	return v, true
}

func (a args) has(name string) bool {
	_, ok := a.raw(name)
	return ok
}

// compact is a value as MLflow shows it in its messages.
func compact(raw json.RawMessage) string {
	var b bytes.Buffer
	if json.Compact(&b, raw) != nil {
		return string(raw)
	}
	return b.String()
}

func badValue(name string, raw json.RawMessage) error {
	return invalid("Invalid value %s for parameter '%s' supplied:  Hint: Value was of type '%s'.%s", compact(raw), name, pythonType(raw), apiDocs)
}

func pythonType(raw json.RawMessage) string {
	switch c := raw[0]; {
	case c == '"':
		return "str"
	case c == '{':
		return "dict"
	case c == '[':
		return "list"
	case c == 't' || c == 'f':
		return "bool"
	case bytes.ContainsAny(raw, ".eE"):
		return "float"
	}
	return "int"
}

// text returns an optional string field.
func (a args) text(name string) (string, error) {
	raw, ok := a.raw(name)
	if !ok {
		return "", nil
	}
	var s string
	if err := json.Unmarshal(raw, &s); err != nil {
		return "", badValue(name, raw)
	}
	return s, nil
}

// need returns a required string field.
func (a args) need(name string) (string, error) {
	s, err := a.text(name)
	if err == nil && s == "" {
		return "", invalid("Missing value for required parameter '%s'.%s", name, apiDocs)
	}
	return s, err
}

// runID accepts the old name run_uuid, and returns the id as the registry keeps it.
func (a args) runID() (string, error) {
	name := "run_id"
	if !a.has(name) && a.has("run_uuid") {
		name = "run_uuid"
	}
	id, err := a.need(name)
	return keptID(id), err
}

// integer returns an optional 64-bit number, written as a number or a string.
func (a args) integer(name string, absent int64) (int64, error) {
	raw, ok := a.raw(name)
	if !ok {
		return absent, nil
	}
	n, err := parseInteger(raw)
	if err != nil {
		return 0, badValue(name, raw)
	}
	return n, nil
}

func parseInteger(raw json.RawMessage) (int64, error) {
	text := strings.Trim(string(raw), `"`)
	if n, err := strconv.ParseInt(text, 10, 64); err == nil {
		return n, nil
	}
	// Clients send 1.0 and 1.7e12 for whole numbers.
	f, err := strconv.ParseFloat(text, 64)
	if err != nil || f != math.Trunc(f) || math.Abs(f) >= 1<<63 {
		return 0, errors.New("not a 64-bit integer")
	}
	return int64(f), nil
}

// number returns a metric value: a JSON number or one of three strings.
func parseNumber(raw json.RawMessage) (float64, error) {
	text := string(raw)
	if len(raw) > 0 && raw[0] == '"' {
		if err := json.Unmarshal(raw, &text); err != nil {
			return 0, err
		}
		switch text {
		case "NaN":
			return math.NaN(), nil
		case "Infinity":
			return math.Inf(1), nil
		case "-Infinity":
			return math.Inf(-1), nil
		}
	}
	switch text {
	case "true": // Python's numbers include its booleans
		return 1, nil
	case "false":
		return 0, nil
	}
	return strconv.ParseFloat(text, 64)
}

// pythonFloat is a number as Python prints it.
func pythonFloat(f float64) string {
	text := strconv.FormatFloat(f, 'g', -1, 64)
	if !strings.ContainsAny(text, ".eN") && !math.IsInf(f, 0) {
		text += ".0"
	}
	return text
}

func (a args) flag(name string) (bool, error) {
	raw, ok := a.raw(name)
	if !ok {
		return false, nil
	}
	switch strings.ToLower(strings.Trim(string(raw), `"`)) {
	case "true":
		return true, nil
	case "false":
		return false, nil
	}
	return false, badValue(name, raw)
}

// list returns an optional list of strings.
func (a args) list(name string) ([]string, error) {
	if a.query != nil {
		return a.query[name], nil
	}
	raw, ok := a.raw(name)
	if !ok {
		return nil, nil
	}
	var out []string
	if err := json.Unmarshal(raw, &out); err != nil {
		return nil, badValue(name, raw)
	}
	return out, nil
}

// pair is a tag or param as it comes and goes.
type pair struct {
	Key   string `json:"key"`
	Value string `json:"value"`
}

func (a args) pairs(name string) ([]pair, error) {
	raw, ok := a.raw(name)
	if !ok {
		return nil, nil
	}
	var out []pair
	if err := json.Unmarshal(raw, &out); err != nil {
		return nil, badValue(name, raw)
	}
	return out, nil
}

func (a args) tags(name string) (map[string]string, error) {
	list, err := a.pairs(name)
	if err != nil {
		return nil, err
	}
	out := make(map[string]string, len(list))
	for _, p := range list {
		out[p.Key] = p.Value
	}
	return out, nil
}

// paging is what a route allows of max_results; low is its own complaint about too little,
// with one %d.
type paging struct {
	standard, most int64
	low            string
}

const positive = "Invalid value %d for parameter 'max_results' supplied. It must be a positive integer"

// page reads max_results and page_token. One row more is asked for, to know whether a
// further page exists. A standard of 0 means that the route has none.
func (a args) page(p paging) (postgres.Page, error) {
	limit, err := a.integer("max_results", p.standard)
	if err != nil {
		return postgres.Page{}, err
	}
	if limit < 1 {
		return postgres.Page{}, invalid(p.low, limit)
	}
	if limit > p.most {
		raw, _ := a.raw("max_results")
		return postgres.Page{}, badValue("max_results", raw)
	}
	offset, err := a.offset()
	return postgres.Page{Limit: int(limit) + 1, Offset: offset}, err
}

// offset reads a page token. It holds what MLflow's own tokens hold.
func (a args) offset() (int, error) {
	token, err := a.text("page_token")
	if err != nil || token == "" {
		return 0, err
	}
	raw, err := base64.StdEncoding.DecodeString(strings.Map(base64Only, token))
	if err != nil {
		return 0, invalid("Invalid page token, could not base64-decode")
	}
	var held struct {
		Offset *int `json:"offset"`
	}
	if json.Unmarshal(raw, &held) != nil || held.Offset == nil || *held.Offset < 0 {
		return 0, invalid("Invalid page token, decoded value=%s", pythonBytes(raw))
	}
	return *held.Offset, nil
}

// base64Only drops what Python's decoder drops.
func base64Only(r rune) rune {
	switch {
	case r >= 'A' && r <= 'Z', r >= 'a' && r <= 'z', r >= '0' && r <= '9', r == '+', r == '/', r == '=':
		return r
	}
	return -1
}

func pythonBytes(b []byte) string {
	out := []byte("b'")
	for _, c := range b {
		switch {
		case c == '\'' || c == '\\':
			out = append(out, '\\', c)
		case c < ' ' || c > '~':
			out = fmt.Appendf(out, "\\x%02x", c)
		default:
			out = append(out, c)
		}
	}
	return string(append(out, '\''))
}

// cut takes the extra row off and makes the token of the next page, "" on the last.
func cut[T any](rows []T, p postgres.Page) ([]T, string) {
	if len(rows) < p.Limit {
		return rows, ""
	}
	next := fmt.Sprintf(`{"offset": %d}`, p.Offset+p.Limit-1)
	return rows[:p.Limit-1], base64.StdEncoding.EncodeToString([]byte(next))
}

// view maps view_type to lifecycles. An unknown one counts as none, as every unknown name of
// an enum does with MLflow.
func (a args) view(name string) []catalog.Lifecycle {
	raw, _ := a.raw(name)
	switch strings.Trim(string(raw), `"`) {
	case "DELETED_ONLY", "2":
		return []catalog.Lifecycle{catalog.Deleted}
	case "ALL", "3":
		return []catalog.Lifecycle{catalog.Active, catalog.Deleted}
	}
	return []catalog.Lifecycle{catalog.Active}
}
