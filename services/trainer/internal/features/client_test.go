package features

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ultrathink-pilot/trainyard/services/trainer/internal/market"
)

func table(n int, scale float64) *market.Table {
	t := &market.Table{Symbol: "SPX", Timeframe: "1d", SchemaVersion: "s/1", FeatureNames: []string{"a", "b", "c"}}
	for i := range n {
		t.Dates = append(t.Dates, int64(86400*(i+1)))
		t.Close = append(t.Close, scale*(2+math.Sin(float64(i))))
		t.Regimes = append(t.Regimes, market.Regime(1+i%3))
		t.Features = append(t.Features, float32(i), float32(scale), float32(math.Cos(float64(i))))
	}
	t.Digest = Digest(t)
	return t
}

// service is a Data Service whose faults a test chooses.
type service struct {
	mu       sync.Mutex
	table    *market.Table
	jsonOnly bool
	damage   bool
	noDigest bool
	failures int
	hits     atomic.Int64
	full     atomic.Int64
	server   *httptest.Server
}

func newService(t *testing.T) *service {
	t.Helper()
	s := &service{table: table(300, 1)}
	s.server = httptest.NewServer(s)
	t.Cleanup(s.server.Close)
	return s
}

func (s *service) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hits.Add(1)
	if s.failures > 0 {
		s.failures--
		http.Error(w, "try later", http.StatusServiceUnavailable)
		return
	}
	if r.URL.Path != "/api/v1/features/SPX/1d" {
		w.WriteHeader(http.StatusNotFound)
		fmt.Fprint(w, `{"error":"unknown_symbol","message":"unknown symbol","available":{"SPX":["1d","1w"]}}`)
		return
	}
	arrow := strings.Contains(r.Header.Get("Accept"), mediaArrow) && !s.jsonOnly
	tag := fmt.Sprintf(`"%s.%t"`, s.table.Digest, arrow)
	w.Header().Set("ETag", tag)
	if r.Header.Get("If-None-Match") == tag {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	s.full.Add(1)
	var body []byte
	var err error
	if arrow {
		w.Header().Set("Content-Type", mediaArrow)
		body, err = encodeArrow(s.table)
	} else {
		w.Header().Set("Content-Type", mediaJSON)
		body, err = s.json()
	}
	if err != nil {
		panic(err)
	}
	sum := sha256.Sum256(body)
	if !s.noDigest {
		w.Header().Set("Repr-Digest", "sha-256=:"+base64.StdEncoding.EncodeToString(sum[:])+":")
	}
	if s.damage {
		body[len(body)/2] ^= 1
	}
	if _, err := w.Write(body); err != nil {
		panic(err)
	}
}

func (s *service) json() ([]byte, error) {
	t := s.table
	var dates, regimes []string
	var rows [][]float32
	for i, d := range t.Dates {
		dates = append(dates, time.Unix(d, 0).UTC().Format(time.RFC3339))
		regimes = append(regimes, t.Regimes[i].String())
		rows = append(rows, t.Row(i))
	}
	return json.Marshal(map[string]any{
		"symbol": t.Symbol, "timeframe": t.Timeframe, "schema_version": t.SchemaVersion, "feature_names": t.FeatureNames,
		"digest": t.Digest, "dates": dates, "close": t.Close, "regimes": regimes, "features": rows,
	})
}

func newClient(t *testing.T, s *service, dir string) *Client {
	t.Helper()
	c, err := New(Options{BaseURL: s.server.URL + "/", CacheDir: dir, Attempts: 3, Backoff: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func mustTable(t *testing.T, c *Client) *Snapshot {
	t.Helper()
	got, err := c.Table(t.Context(), "SPX", "1d")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if got.Table != nil {
			if err := got.Close(); err != nil {
				t.Error(err)
			}
		}
	})
	return got
}

func same(t *testing.T, got, want *market.Table) {
	t.Helper()
	if got.Digest != want.Digest || Digest(got) != Digest(want) {
		t.Fatalf("got the table %s of %d bars, want %s of %d bars", got.Digest, got.Bars(), want.Digest, want.Bars())
	}
}

func TestFetchesThenRevalidates(t *testing.T) {
	t.Parallel()
	s := newService(t)
	c := newClient(t, s, t.TempDir())
	same(t, mustTable(t, c).Table, s.table)
	again := mustTable(t, c)
	same(t, again.Table, s.table)
	if s.full.Load() != 1 || again.Stale {
		t.Errorf("%d full answers, stale %t", s.full.Load(), again.Stale)
	}
}

func TestChangedDataReplacesTheFileAndKeepsReaders(t *testing.T) {
	t.Parallel()
	s := newService(t)
	dir := t.TempDir()
	c := newClient(t, s, dir)
	old := mustTable(t, c)
	want := table(300, 1)
	s.mu.Lock()
	s.table = table(301, 2)
	s.mu.Unlock()
	same(t, mustTable(t, c).Table, s.table)
	same(t, old.Table, want)
	if blobs, err := os.ReadDir(filepath.Join(dir, "blobs")); err != nil || len(blobs) != 1 {
		t.Errorf("%d files kept, %v", len(blobs), err)
	}
}

func TestFallsBackToJSON(t *testing.T) {
	t.Parallel()
	for name, spoil := range map[string]func(*service){
		"no Arrow": func(s *service) { s.jsonOnly = true }, "no digest": func(s *service) { s.noDigest = true },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newService(t)
			spoil(s)
			c := newClient(t, s, t.TempDir())
			same(t, mustTable(t, c).Table, s.table)
			same(t, mustTable(t, c).Table, s.table)
		})
	}
}

func TestRetriesThenGivesUp(t *testing.T) {
	t.Parallel()
	s := newService(t)
	s.failures = 2
	c := newClient(t, s, t.TempDir())
	same(t, mustTable(t, c).Table, s.table)

	other := newService(t)
	other.failures = 100
	_, err := newClient(t, other, t.TempDir()).Table(t.Context(), "SPX", "1d")
	var away *UnavailableError
	if !errors.As(err, &away) || other.hits.Load() != 3 {
		t.Fatalf("%d attempts, %v", other.hits.Load(), err)
	}
}

func TestAnOutageServesTheCacheWithAWarning(t *testing.T) {
	t.Parallel()
	s := newService(t)
	c := newClient(t, s, t.TempDir())
	same(t, mustTable(t, c).Table, s.table)
	s.server.Close()
	got := mustTable(t, c)
	same(t, got.Table, s.table)
	if !got.Stale || !strings.Contains(got.Warning, "unavailable") {
		t.Errorf("stale %t, warning %q", got.Stale, got.Warning)
	}
	if err := c.Reachable(t.Context()); err == nil {
		t.Error("a closed service is reachable")
	}
}

func TestADamagedAnswerIsNotUsed(t *testing.T) {
	t.Parallel()
	s := newService(t)
	s.damage = true
	dir := t.TempDir()
	_, err := newClient(t, s, dir).Table(t.Context(), "SPX", "1d")
	if err == nil || !strings.Contains(err.Error(), "damaged") {
		t.Fatal(err)
	}
	if blobs, err := os.ReadDir(filepath.Join(dir, "blobs")); err != nil || len(blobs) != 0 {
		t.Errorf("%d files published, %v", len(blobs), err)
	}
}

func TestADamagedCacheIsFetchedAgain(t *testing.T) {
	t.Parallel()
	for name, spoil := range map[string]func(path string) error{
		"bit flip": func(path string) error {
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			data[len(data)/3] ^= 4
			return errors.Join(os.Remove(path), os.WriteFile(path, data, 0o644))
		},
		"cut off": func(path string) error { return os.Truncate(path, 100) },
		"removed": os.Remove,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newService(t)
			dir := t.TempDir()
			c := newClient(t, s, dir)
			if err := mustTable(t, c).Close(); err != nil {
				t.Fatal(err)
			}
			blobs, err := filepath.Glob(filepath.Join(dir, "blobs", "*"))
			if err != nil || len(blobs) != 1 {
				t.Fatal(blobs, err)
			}
			if err := spoil(blobs[0]); err != nil {
				t.Fatal(err)
			}
			same(t, mustTable(t, c).Table, s.table)
			if s.full.Load() != 2 {
				t.Errorf("%d full answers, want 2", s.full.Load())
			}
		})
	}
}

func TestAContentThatContradictsItsDigestIsRefused(t *testing.T) {
	t.Parallel()
	s := newService(t)
	s.table.Close[7]++
	if _, err := newClient(t, s, t.TempDir()).Table(t.Context(), "SPX", "1d"); err == nil || !strings.Contains(err.Error(), "it claims") {
		t.Fatal(err)
	}
}

func TestAnUnknownSymbolListsWhatExists(t *testing.T) {
	t.Parallel()
	s := newService(t)
	_, err := newClient(t, s, t.TempDir()).Table(t.Context(), "DOGE", "1d")
	var refused *RefusedError
	if !errors.As(err, &refused) || refused.Code != "unknown_symbol" || s.hits.Load() != 1 {
		t.Fatalf("%d attempts, %v", s.hits.Load(), err)
	}
	if !strings.Contains(err.Error(), "SPX (1d, 1w)") {
		t.Error(err)
	}
}

func TestBadOptions(t *testing.T) {
	t.Parallel()
	for _, o := range []Options{{BaseURL: "localhost:8086", CacheDir: t.TempDir()}, {BaseURL: "http://x"}} {
		if _, err := New(o); err == nil {
			t.Errorf("%+v was accepted", o)
		}
	}
}

func TestWaitingForTheLockEndsWithTheContext(t *testing.T) {
	t.Parallel()
	s := newService(t)
	c := newClient(t, s, t.TempDir())
	unlock, err := c.cache.lock(t.Context(), key{base: c.base, symbol: "SPX", timeframe: "1d"})
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.Table(ctx, "SPX", "1d"); !errors.Is(err, context.Canceled) || s.hits.Load() != 0 {
		t.Fatalf("%d requests, %v", s.hits.Load(), err)
	}
}

// TestTheLeastUsedTableGoes when the cache outgrows its limit; the one that was
// just fetched stays, and a reader of the evicted one keeps its pages.
func TestTheLeastUsedTableGoes(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	var clients []*Client
	var services []*service
	for i := range 3 {
		s := newService(t)
		s.table = table(300, float64(i+1))
		services, clients = append(services, s), append(clients, newClient(t, s, dir))
	}
	first := mustTable(t, clients[0])
	mustTable(t, clients[1])
	long := time.Now().Add(-time.Hour)
	key := key{base: clients[1].base, symbol: "SPX", timeframe: "1d"}
	if err := os.Chtimes(clients[1].cache.index(key), long, long); err != nil {
		t.Fatal(err)
	}
	// Room for two of the three.
	clients[2].cache.limit = 2 * int64(len(first.Table.Features)*4+len(first.Table.Close)*40)
	mustTable(t, clients[2])
	mustTable(t, clients[0])
	if n := services[0].full.Load(); n != 1 {
		t.Errorf("the table that was used lately was fetched %d times", n)
	}
	mustTable(t, clients[1])
	if n := services[1].full.Load(); n != 2 {
		t.Errorf("the table that was used long ago was fetched %d times, want again", n)
	}
	same(t, first.Table, services[0].table)
}

// The helper process of the next test: one trainer of the host.
func TestHelperProcess(t *testing.T) {
	if os.Getenv("FEATURES_HELPER_URL") == "" {
		t.Skip("runs as a child of TestProcessesFetchOnce")
	}
	c, err := New(Options{BaseURL: os.Getenv("FEATURES_HELPER_URL"), CacheDir: os.Getenv("FEATURES_HELPER_DIR"), Attempts: 1})
	if err != nil {
		t.Fatal(err)
	}
	same(t, mustTable(t, c).Table, table(300, 1))
}

func TestProcessesFetchOnce(t *testing.T) {
	t.Parallel()
	s := newService(t)
	dir := t.TempDir()
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			cmd := exec.Command(os.Args[0], "-test.run=^TestHelperProcess$")
			cmd.Env = append(os.Environ(), "FEATURES_HELPER_URL="+s.server.URL, "FEATURES_HELPER_DIR="+dir)
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
	wg.Wait()
	if s.full.Load() != 1 {
		t.Errorf("%d full answers to 4 processes, want 1", s.full.Load())
	}
}
