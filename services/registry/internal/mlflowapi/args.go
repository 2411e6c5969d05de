package mlflowapi

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
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
	g, err := guard(r)
	if err != nil {
		return args{}, err
	}
	in := args{guard: g, idempotencyKey: r.Header.Get("Idempotency-Key")}
	if r.Method == http.MethodGet && r.URL.RawQuery != "" {
		in.query = r.URL.Query()
		return in, nil
	}
	if r.Method == http.MethodPost {
		kind, _, _ := strings.Cut(r.Header.Get("Content-Type"), ";")
		if !strings.EqualFold(strings.TrimSpace(kind), "application/json") {
			return in, &apiError{"BAD_REQUEST", "Bad Request. Content-Type must be application/json"}
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
	if err := json.Unmarshal(body, &in.fields); err != nil {
		return in, &apiError{"BAD_REQUEST", "Bad Request. The body is not a JSON object"}
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
	return strconv.ParseFloat(text, 64)
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

// page reads max_results and page_token. One row more is asked for, to know whether a
// further page exists.
func (a args) page(standard, most int64) (postgres.Page, error) {
	limit, err := a.integer("max_results", standard)
	if err != nil {
		return postgres.Page{}, err
	}
	if limit < 1 || limit > most {
		return postgres.Page{}, invalid("Invalid value %d for parameter 'max_results' supplied. It must be a positive integer of at most %d.", limit, most)
	}
	token, err := a.text("page_token")
	if err != nil {
		return postgres.Page{}, err
	}
	offset := 0
	if token != "" {
		raw, err := base64.RawURLEncoding.DecodeString(token)
		if err == nil {
			offset, err = strconv.Atoi(string(raw))
		}
		if err != nil || offset < 0 {
			return postgres.Page{}, invalid("Invalid page token, could not base64-decode")
		}
	}
	return postgres.Page{Limit: int(limit) + 1, Offset: offset}, nil
}

// cut takes the extra row off and makes the token of the next page, "" on the last.
func cut[T any](rows []T, p postgres.Page) ([]T, string) {
	if len(rows) < p.Limit {
		return rows, ""
	}
	next := strconv.Itoa(p.Offset + p.Limit - 1)
	return rows[:p.Limit-1], base64.RawURLEncoding.EncodeToString([]byte(next))
}

// view maps view_type to lifecycles.
func (a args) view(name string) ([]catalog.Lifecycle, error) {
	v, err := a.text(name)
	if err != nil {
		raw, _ := a.raw(name)
		v = map[string]string{"1": "ACTIVE_ONLY", "2": "DELETED_ONLY", "3": "ALL"}[string(raw)]
	}
	switch v {
	case "", "ACTIVE_ONLY":
		return []catalog.Lifecycle{catalog.Active}, nil
	case "DELETED_ONLY":
		return []catalog.Lifecycle{catalog.Deleted}, nil
	case "ALL":
		return []catalog.Lifecycle{catalog.Active, catalog.Deleted}, nil
	}
	return nil, invalid("Invalid value %q for parameter '%s' supplied.", v, name)
}
