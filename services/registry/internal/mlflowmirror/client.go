package mlflowmirror

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// client speaks MLflow's REST API.
type client struct {
	base  string
	token string
	http  *http.Client
	// limit bounds one request without a file.
	limit time.Duration
}

// refusal is an answer other than success.
type refusal struct {
	status     int
	code       string
	message    string
	retryAfter time.Duration
}

func (e *refusal) Error() string {
	return fmt.Sprintf("MLflow answered %d %s: %s", e.status, e.code, shorten(e.message))
}

// passing reports whether the same request may succeed later by itself.
func (e *refusal) passing() bool {
	return e.status == http.StatusRequestTimeout || e.status == http.StatusTooManyRequests || e.status >= 500
}

// unreachable is a request of which nobody knows whether it was carried out.
type unreachable struct{ error }

func (e unreachable) Unwrap() error { return e.error }

func refusedAs(err error, code string) (*refusal, bool) {
	var r *refusal
	ok := errors.As(err, &r) && r.code == code
	return r, ok
}

// shorten keeps a server's page of HTML or SQL out of logs and tables.
func shorten(text string) string {
	const most = 500
	if text = strings.ToValidUTF8(text, ""); len(text) > most {
		return strings.ToValidUTF8(text[:most], "") + " ..."
	}
	return text
}

const api = "/api/2.0/mlflow/"

// get reads; in is the query.
func (c *client) get(ctx context.Context, path string, in url.Values, out any) error {
	return c.json(ctx, http.MethodGet, api+path+"?"+in.Encode(), nil, out)
}

// send changes; in is the body.
func (c *client) send(ctx context.Context, method, path string, in, out any) error {
	return c.json(ctx, method, api+path, in, out)
}

func (c *client) json(ctx context.Context, method, path string, in, out any) error {
	var body io.Reader
	if in != nil {
		raw, err := json.Marshal(in)
		if err != nil {
			return fmt.Errorf("encode request: %w", err)
		}
		body = bytes.NewReader(raw)
	}
	limited, cancel := context.WithTimeout(ctx, c.limit)
	defer cancel()
	r, err := http.NewRequestWithContext(limited, method, c.base+path, body)
	if err != nil {
		return err
	}
	if in != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	return c.do(r, out)
}

// put stores a file; sending it again replaces it by itself.
func (c *client) put(ctx context.Context, path string, body io.Reader, size int64) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodPut, c.base+artifacts+"/"+escape(path), body)
	if err != nil {
		return err
	}
	r.ContentLength = size
	if size == 0 {
		r.Body = http.NoBody
	}
	return c.do(r, nil)
}

const artifacts = "/api/2.0/mlflow-artifacts/artifacts"

func escape(path string) string {
	parts := strings.Split(path, "/")
	for i, p := range parts {
		parts[i] = url.PathEscape(p)
	}
	return strings.Join(parts, "/")
}

func (c *client) do(r *http.Request, out any) error {
	if c.token != "" {
		r.Header.Set("Authorization", "Bearer "+c.token)
	}
	resp, err := c.http.Do(r)
	if err != nil {
		return unreachable{err}
	}
	defer func() { _ = resp.Body.Close() }() // read to its end, or broken anyway
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		return unreachable{fmt.Errorf("the answer broke off: %w", err)}
	}
	if resp.StatusCode >= 200 && resp.StatusCode < 300 {
		if out == nil {
			return nil
		}
		if err := json.Unmarshal(raw, out); err != nil {
			return unreachable{fmt.Errorf("the answer to %s is not what MLflow answers: %w", r.URL.Path, err)}
		}
		return nil
	}
	e := &refusal{status: resp.StatusCode, message: string(raw)}
	var told struct {
		Code    string `json:"error_code"`
		Message string `json:"message"`
	}
	if json.Unmarshal(raw, &told) == nil && told.Code != "" {
		e.code, e.message = told.Code, told.Message
	}
	if seconds, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil {
		e.retryAfter = time.Duration(seconds) * time.Second
	}
	return e
}

// files lists everything under a directory, by path below it, with sizes.
func (c *client) files(ctx context.Context, root, dir string) (map[string]int64, error) {
	out := map[string]int64{}
	if err := c.list(ctx, root, dir, out); err != nil {
		return nil, err
	}
	return out, nil
}

func (c *client) list(ctx context.Context, root, dir string, out map[string]int64) error {
	var answer struct {
		Files []struct {
			Path  string      `json:"path"`
			IsDir bool        `json:"is_dir"`
			Size  json.Number `json:"file_size"`
		} `json:"files"`
	}
	err := c.json(ctx, http.MethodGet, artifacts+"?"+url.Values{"path": {join(root, dir)}}.Encode(), nil, &answer)
	if _, none := refusedAs(err, "RESOURCE_DOES_NOT_EXIST"); none {
		return nil
	}
	if err != nil {
		return err
	}
	for _, f := range answer.Files {
		path := join(dir, f.Path)
		if f.IsDir {
			if err := c.list(ctx, root, path, out); err != nil {
				return err
			}
			continue
		}
		size, _ := f.Size.Int64() // absent means zero
		out[path] = size
	}
	return nil
}

func join(dir, name string) string {
	return strings.Trim(dir+"/"+name, "/")
}

// proxied is the path of an artifact root on the target's own proxy. A root elsewhere, such
// as s3://, needs keys that a registry does not have.
func proxied(root string) (string, bool) {
	rest, ok := strings.CutPrefix(root, "mlflow-artifacts:")
	if !ok {
		return "", false
	}
	if host, ok := strings.CutPrefix(rest, "//"); ok {
		_, rest, _ = strings.Cut(host, "/")
	}
	return strings.Trim(rest, "/"), true
}
