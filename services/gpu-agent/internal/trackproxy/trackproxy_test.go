package trackproxy_test

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"

	"go.uber.org/zap"

	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/trackproxy"
)

type bench struct {
	*trackproxy.Proxy
	t     *testing.T
	state string

	mu      sync.Mutex
	got     []*http.Request
	body    string
	refused []string
	live    bool
	stop    func()
}

var token = []byte("0123456789abcdef0123456789abcdef")

func newBench(t *testing.T, target string) *bench {
	t.Helper()
	b := &bench{t: t, state: t.TempDir(), live: true}
	b.start(target)
	t.Cleanup(func() { b.stop() })
	return b
}

func (b *bench) start(target string) {
	b.t.Helper()
	u, err := url.Parse(target)
	if err != nil {
		b.t.Fatal(err)
	}
	b.Proxy, err = trackproxy.New(trackproxy.Options{
		Listen: "127.0.0.1:0", Target: u, StateDir: b.state, Log: zap.NewNop(),
		Authenticate: func(got []byte) (trackproxy.Caller, bool) {
			b.mu.Lock()
			defer b.mu.Unlock()
			return trackproxy.Caller{JobID: "job-1", Attempt: 2, Fence: 7, TraceParent: "00-trace"}, b.live && string(got) == string(token)
		},
		Refused: func(reason string) {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.refused = append(b.refused, reason)
		},
	})
	if err != nil {
		b.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- b.Run(ctx) }()
	b.stop = func() {
		cancel()
		if err := <-done; err != nil {
			b.t.Error(err)
		}
	}
}

// registry is the registry's end: it records and answers.
func (b *bench) registry() *httptest.Server {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		raw, err := io.ReadAll(r.Body)
		if err != nil {
			b.t.Error(err)
		}
		b.mu.Lock()
		b.got, b.body = append(b.got, r), string(raw)
		b.mu.Unlock()
		w.WriteHeader(http.StatusTeapot)
	}))
	b.t.Cleanup(s.Close)
	return s
}

func (b *bench) call(path, auth string, header map[string]string) (int, string) {
	b.t.Helper()
	req, err := http.NewRequestWithContext(b.t.Context(), http.MethodPost, b.URL()+path, strings.NewReader(`{"key":"x"}`))
	if err != nil {
		b.t.Fatal(err)
	}
	if auth != "" {
		req.Header.Set("Authorization", auth)
	}
	for k, v := range header {
		req.Header.Set(k, v)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		b.t.Fatal(err)
	}
	var answer struct {
		Code string `json:"error_code"`
	}
	_ = json.NewDecoder(resp.Body).Decode(&answer) // only refusals have one
	if err := resp.Body.Close(); err != nil {
		b.t.Fatal(err)
	}
	return resp.StatusCode, answer.Code
}

func bearer(t []byte) string { return "Bearer " + hex.EncodeToString(t) }

// A request reaches the registry as the attempt's, whatever the client claims.
func TestForward(t *testing.T) {
	t.Parallel()
	b := newBench(t, "http://127.0.0.1:1")
	b.stop()
	b.start(b.registry().URL)
	status, _ := b.call("/api/2.0/mlflow/runs/log-metric?a=b", bearer(token), map[string]string{
		"Trainyard-Fence": "99", "Trainyard-Admin": "yes", "Cookie": "c", "X-Forwarded-For": "1.2.3.4",
	})
	b.mu.Lock()
	defer b.mu.Unlock()
	if status != http.StatusTeapot || len(b.got) != 1 || b.body != `{"key":"x"}` {
		t.Fatalf("status %d, body %q", status, b.body)
	}
	r := b.got[0]
	if r.URL.String() != "/api/2.0/mlflow/runs/log-metric?a=b" {
		t.Errorf("path %s", r.URL)
	}
	for name, want := range map[string]string{
		"Trainyard-Job": "job-1", "Trainyard-Attempt": "2", "Trainyard-Fence": "7", "Traceparent": "00-trace",
		"Trainyard-Admin": "", "Authorization": "", "Cookie": "", "X-Forwarded-For": "",
	} {
		if got := r.Header.Get(name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
}

// Strangers, the ended, and what is not MLflow's are refused, and counted.
func TestRefuse(t *testing.T) {
	t.Parallel()
	b := newBench(t, "http://127.0.0.1:1") // nobody listens there
	for name, c := range map[string]struct {
		path, auth string
		status     int
		code       string
	}{
		"no token":       {"/api/2.0/mlflow/runs/get", "", http.StatusUnauthorized, "UNAUTHENTICATED"},
		"not hex":        {"/api/2.0/mlflow/runs/get", "Bearer zz", http.StatusUnauthorized, "UNAUTHENTICATED"},
		"another's":      {"/api/2.0/mlflow/runs/get", bearer([]byte("another")), http.StatusUnauthorized, "UNAUTHENTICATED"},
		"basic":          {"/api/2.0/mlflow/runs/get", "Basic eDp5", http.StatusUnauthorized, "UNAUTHENTICATED"},
		"outside":        {"/metrics", bearer(token), http.StatusNotFound, "ENDPOINT_NOT_FOUND"},
		"climbing":       {"/api/../metrics", bearer(token), http.StatusNotFound, "ENDPOINT_NOT_FOUND"},
		"registry away":  {"/api/2.0/mlflow/runs/get", bearer(token), http.StatusServiceUnavailable, "TEMPORARILY_UNAVAILABLE"},
		"registry awayh": {"/health", bearer(token), http.StatusServiceUnavailable, "TEMPORARILY_UNAVAILABLE"},
	} {
		if status, code := b.call(c.path, c.auth, nil); status != c.status || code != c.code {
			t.Errorf("%s: %d %s", name, status, code)
		}
	}
	b.mu.Lock()
	if len(b.refused) != 8 {
		t.Errorf("counted %v", b.refused)
	}
	b.live = false
	b.mu.Unlock()
	if status, _ := b.call("/api/2.0/mlflow/runs/get", bearer(token), nil); status != http.StatusUnauthorized {
		t.Errorf("an ended attempt got %d", status)
	}
}

// A restarted agent listens where the running trainers look for it.
func TestPortSurvivesARestart(t *testing.T) {
	t.Parallel()
	b := newBench(t, "http://127.0.0.1:1")
	before := b.URL()
	b.stop()
	b.start("http://127.0.0.1:1")
	if b.URL() != before {
		t.Fatalf("%s became %s", before, b.URL())
	}
	if _, err := trackproxy.New(trackproxy.Options{Listen: "0.0.0.0:0", StateDir: b.state, Log: zap.NewNop()}); err == nil {
		t.Fatal("it listened to the whole network")
	}
}
