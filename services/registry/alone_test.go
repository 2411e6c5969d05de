package registry

import (
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/ultrathink-pilot/trainyard/libs/config"
	"github.com/ultrathink-pilot/trainyard/libs/pg/pgtest"
)

// alone is a registry with no other service: no TLS, no S3, an empty database.
type alone struct {
	*testing.T
	url string
}

// nobodysDSN is a database in which nobody has made the registry's schema.
func nobodysDSN(t *testing.T) string {
	return pgtest.DSN(t, "unrelated", fstest.MapFS{"00001_nothing.sql": {Data: []byte("-- +goose Up\nSELECT 1;\n")}})
}

func startAlone(t *testing.T) *alone {
	t.Helper()
	t.Parallel()
	dsn := nobodysDSN(t)
	free, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	address := free.Addr().String()
	must(t, free.Close())
	var cfg Config
	secret := filepath.Join(t.TempDir(), "dsn")
	must(t, os.WriteFile(secret, []byte(dsn), 0o600))
	must(t, config.Load("registry", &cfg, []string{"--dsn-file=" + secret, "--mlflow-listen=" + address, "--mlflow-insecure",
		"--artifact-root=" + filepath.Join(t.TempDir(), "artifacts"), "--log-level=error"}))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- Run(ctx, cfg, "test") }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("registry: %v", err)
		}
	})
	a := &alone{t, "http://" + address}
	for {
		conn, err := net.Dial("tcp", address)
		if err == nil {
			must(t, conn.Close())
			return a
		}
		select {
		case err := <-done:
			done <- nil
			t.Fatalf("the registry ended: %v", err)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func (a *alone) do(r *http.Request) string {
	a.Helper()
	resp, err := http.DefaultClient.Do(r)
	must(a.T, err)
	body, err := io.ReadAll(resp.Body)
	must(a.T, err)
	must(a.T, resp.Body.Close())
	if resp.StatusCode != http.StatusOK {
		a.Fatalf("%s %s: %s %s", r.Method, r.URL, resp.Status, body)
	}
	return string(body)
}

func (a *alone) get(path string) string {
	a.Helper()
	r, err := http.NewRequestWithContext(a.Context(), http.MethodGet, a.url+path, nil)
	must(a.T, err)
	return a.do(r)
}

func (a *alone) post(path, body string) string {
	a.Helper()
	r, err := http.NewRequestWithContext(a.Context(), http.MethodPost, a.url+path, strings.NewReader(body))
	must(a.T, err)
	r.Header.Set("Content-Type", "application/json")
	return a.do(r)
}

// Whoever configures it wrongly reads what to do, all of it at once.
func TestConfigNamesEveryProblem(t *testing.T) {
	t.Parallel()
	valid := Config{Listen: "127.0.0.1:0", MaxConns: 8, ArtifactRoot: "artifacts", MLflow: MLflow{Listen: "127.0.0.1:0", Insecure: true}}
	if problems := valid.Validate(); len(problems) > 0 {
		t.Fatalf("a good configuration: %v", problems)
	}
	for want, change := range map[string]func(*Config){
		"set mlflow-listen":       func(c *Config) { c.MLflow = MLflow{} },
		"set all three":           func(c *Config) { c.TLSCert = "x" },
		"s3-endpoint":             func(c *Config) { c.ArtifactRoot = "s3://bucket" },
		"s3-access-key":           func(c *Config) { c.ArtifactRoot = ""; c.S3 = S3{Bucket: "b", Endpoint: "h:1"} },
		"must be a bucket alone":  func(c *Config) { c.ArtifactRoot = "s3://bucket/prefix" },
		"neither s3://BUCKET nor": func(c *Config) { c.ArtifactRoot = "gs://bucket" },
		"absolute path":           func(c *Config) { c.ArtifactRoot = "file://x" },
		"mlflow-insecure":         func(c *Config) { c.MLflow.Listen = "0.0.0.0:5000" },
		"mlflow-auth-token-file":  func(c *Config) { c.MLflow.Insecure = false },
		"max-connections":         func(c *Config) { c.MaxConns = 4 },
		"listen: ":                func(c *Config) { c.Listen = "x" },
	} {
		c := valid
		change(&c)
		if problems := c.Validate(); !slices.ContainsFunc(problems, func(p string) bool { return strings.Contains(p, want) }) {
			t.Errorf("%q is not among %q", want, problems)
		}
	}
	if got := (&Config{ArtifactRoot: "s3://models/"}).bucket(); got != "models" {
		t.Errorf("bucket %q", got)
	}
}
