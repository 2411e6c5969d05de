// Package features gets feature tables from a Data Service, once per host.
//
// Tables live in a content-addressed cache directory that all trainers of a host
// share: one of them fetches, under a file lock, and all map the same pages. The
// digest of a file is verified on the mapped bytes before they are decoded, as a
// damaged Arrow file can end the process. Published files are never changed,
// only replaced by name: a truncated file would kill its readers by SIGBUS.
//
// The service's answer is taken in this order: 304 for the cached table, a new
// Arrow table, a new JSON table (converted), and the cached table with a warning
// when the service is away.
package features

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/ultrathink-pilot/trainyard/services/trainer/internal/market"
)

// Options configure a Client. BaseURL and CacheDir are required.
type Options struct {
	// BaseURL is the Data Service, such as http://127.0.0.1:8086.
	BaseURL string
	// CacheDir is made when it is missing.
	CacheDir string
	// Log receives warnings; nil means none.
	Log *zap.Logger
	// HTTP does the requests; nil means a client with a timeout of one minute.
	HTTP *http.Client
	// Attempts is how often one table is asked for before the service counts as
	// away; 0 means 5.
	Attempts int
	// Backoff is the wait after the first attempt, doubled after each, with
	// jitter; 0 means 200 ms.
	Backoff time.Duration
	// CacheBytes bounds the files of the cache; 0 means 8 GiB.
	CacheBytes int64
}

// Client fetches tables. It is safe for concurrent use.
type Client struct {
	base     string
	cache    cache
	log      *zap.Logger
	http     *http.Client
	attempts int
	backoff  time.Duration
}

// New checks the options and makes the cache directory.
func New(o Options) (*Client, error) {
	u, err := url.Parse(o.BaseURL)
	if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") {
		return nil, fmt.Errorf("data service: %q is not an http or https URL", o.BaseURL)
	}
	c := &Client{
		base: strings.TrimRight(o.BaseURL, "/"), log: o.Log, http: o.HTTP,
		attempts: o.Attempts, backoff: o.Backoff, cache: cache{dir: o.CacheDir, limit: o.CacheBytes},
	}
	if c.log == nil {
		c.log = zap.NewNop()
	}
	if c.http == nil {
		c.http = &http.Client{Timeout: time.Minute}
	}
	if c.attempts == 0 {
		c.attempts = 5
	}
	if c.backoff == 0 {
		c.backoff = 200 * time.Millisecond
	}
	if c.cache.limit == 0 {
		c.cache.limit = 8 << 30
	}
	if err := c.cache.prepare(); err != nil {
		return nil, fmt.Errorf("feature cache: %w", err)
	}
	return c, nil
}

// Snapshot is a table and where it came from.
type Snapshot struct {
	// Table aliases mapped memory: it is valid until Close.
	Table *market.Table
	// Stale is true when the service was away and the table is the cached one;
	// Warning then says so.
	Stale   bool
	Warning string

	unmap func() error
}

// Close unmaps the table.
func (s *Snapshot) Close() error {
	s.Table = nil
	return s.unmap()
}

// Table returns the whole history of a symbol at a timeframe. Errors are a
// *RefusedError (the service knows no such table: a wrong job), an
// *UnavailableError (the service is away and nothing is cached), the context's,
// or one of the local disk.
func (c *Client) Table(ctx context.Context, symbol, timeframe string) (*Snapshot, error) {
	k := key{base: c.base, symbol: symbol, timeframe: timeframe}
	unlock, err := c.cache.lock(ctx, k)
	if err != nil {
		return nil, err
	}
	defer unlock()

	cached, err := c.cached(k)
	if err != nil {
		c.log.Warn("cached table is unusable and will be fetched again", zap.String("symbol", symbol), zap.String("timeframe", timeframe), zap.Error(err))
	}
	snapshot, err := c.fetched(ctx, k, cached)
	if err == nil {
		return snapshot, nil
	}
	var away *UnavailableError
	if errors.As(err, &away) && cached != nil {
		cached.snapshot.Stale = true
		cached.snapshot.Warning = fmt.Sprintf("training on the table cached at %s: %v", cached.entry.FetchTime.Format(time.RFC3339), away)
		c.log.Warn("data service is away", zap.String("warning", cached.snapshot.Warning))
		return cached.snapshot, nil
	}
	if cached != nil {
		err = errors.Join(err, cached.snapshot.Close())
	}
	return nil, err
}

// Reachable asks the service for its health once.
func (c *Client) Reachable(ctx context.Context) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, c.base+"/healthz", nil)
	if err != nil {
		return err
	}
	response, err := c.http.Do(request)
	if err != nil {
		return &UnavailableError{BaseURL: c.base, Cause: err}
	}
	if err := response.Body.Close(); err != nil {
		return &UnavailableError{BaseURL: c.base, Cause: err}
	}
	if response.StatusCode != http.StatusOK {
		return &UnavailableError{BaseURL: c.base, Cause: fmt.Errorf("its health check answered %s", response.Status)}
	}
	return nil
}

// held is a usable cached table.
type held struct {
	entry    entry
	snapshot *Snapshot
}

// cached opens the cached table of a key: nil when there is none, with the
// reason when there is one that cannot be used.
func (c *Client) cached(k key) (*held, error) {
	e, err := c.cache.read(k)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	snapshot, err := c.open(k, e)
	if err != nil {
		return nil, errors.Join(err, c.cache.discard(k))
	}
	c.cache.used(k)
	return &held{entry: e, snapshot: snapshot}, nil
}

// open maps, verifies and decodes a published file.
func (c *Client) open(k key, e entry) (*Snapshot, error) {
	data, unmap, err := c.cache.open(e)
	if err != nil {
		return nil, err
	}
	table, err := decodeArrow(data)
	if err == nil {
		err = check(table, k)
	}
	if err != nil {
		return nil, errors.Join(err, unmap())
	}
	return &Snapshot{Table: table, unmap: unmap}, nil
}

// check finds the table that was asked for, sound, with the content its digest names.
func check(t *market.Table, k key) error {
	if t.Symbol != k.symbol || t.Timeframe != k.timeframe {
		return fmt.Errorf("the table is of %s %s, not of %s %s", t.Symbol, t.Timeframe, k.symbol, k.timeframe)
	}
	if problems := t.Check(); problems != nil {
		lines := make([]string, len(problems))
		for i, p := range problems {
			lines[i] = p.String()
		}
		return fmt.Errorf("the table is unsound: %s", strings.Join(lines, "; "))
	}
	if got := Digest(t); got != t.Digest {
		return fmt.Errorf("the table's content has the digest %s, it claims %s", got, t.Digest)
	}
	return nil
}

// fetched asks the service, with retries, and publishes what is new.
func (c *Client) fetched(ctx context.Context, k key, cached *held) (*Snapshot, error) {
	tag := ""
	if cached != nil {
		tag = cached.entry.ETag
	}
	a, err := c.fetch(ctx, k, tag)
	if err != nil {
		return nil, err
	}
	if a.notModified {
		return cached.snapshot, nil
	}
	e, err := c.cache.publish(k, a.tag, a.body)
	if err != nil {
		return nil, fmt.Errorf("feature cache: %w", err)
	}
	snapshot, err := c.open(k, e)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("data service: %w", err), c.cache.discard(k))
	}
	if cached != nil {
		err = cached.snapshot.Close()
	}
	return snapshot, err
}
