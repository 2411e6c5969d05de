//go:build results

package trainer

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ultrathink-pilot/trainyard/libs/benchtable"
	fleetv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/fleet/v1"
	jobv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/job/v1"
	"github.com/ultrathink-pilot/trainyard/services/trainer/internal/features"
	"github.com/ultrathink-pilot/trainyard/services/trainer/internal/market"
	"github.com/ultrathink-pilot/trainyard/services/trainer/internal/markettest"
	"github.com/ultrathink-pilot/trainyard/services/trainer/internal/torchtest"
)

// TestResultsCycle trains the three specialists once as the old scripts did (three
// processes, each reading the history and computing the features for itself) and
// once as trainers of one host do.
func TestResultsCycle(t *testing.T) {
	torchtest.Python(t)
	t.Run("daily", func(t *testing.T) {
		c := newCycle(t, torchtest.History(t), markettest.SP500(t))
		c.run(t, 10)
		c.write(t, "A training cycle as the old scripts did it", "The S&P 500's 5,105 daily bars.", benchtable.Row{
			What: "share of I/O per job, old scripts", Peer: benchtable.Of("%", c.old.share...), PeerName: "old scripts",
		})
	})
	t.Run("long", func(t *testing.T) {
		bars := markettest.Synthetic(1, 100_000)
		c := newCycle(t, writeHistory(t, bars), markettest.Table(bars))
		c.run(t, 5)
		c.write(t, "A training cycle on a long history", "100,000 synthetic bars.", benchtable.Row{
			What: "share of I/O per job, old scripts", Asked: ">= 40 % shown", Peer: benchtable.Of("%", c.old.share...), PeerName: "old scripts",
		})
	})
}

const cycleEpochs = 20

// side is what one way of training took: whole cycles in seconds, loading and starting of each job in
// milliseconds, and the share of loading in the job in percent.
type side struct{ whole, load, start, share []float64 }

type cycle struct {
	mu        sync.Mutex
	history   string
	service   string
	ours, old side
}

func newCycle(t *testing.T, history string, table *market.Table) *cycle {
	t.Helper()
	return &cycle{history: history, service: serveArrow(t, table)}
}

func (c *cycle) run(t *testing.T, times int) {
	t.Helper()
	for range times {
		began := time.Now()
		var wg sync.WaitGroup
		for _, name := range []string{"bull", "bear", "sideways"} {
			wg.Go(func() { c.oldJob(t, name) })
		}
		wg.Wait()
		c.old.whole = append(c.old.whole, time.Since(began).Seconds())

		cache := t.TempDir()
		began = time.Now()
		for _, name := range []jobv1.Specialist{jobv1.Specialist_SPECIALIST_BULL, jobv1.Specialist_SPECIALIST_BEAR, jobv1.Specialist_SPECIALIST_SIDEWAYS} {
			a := newAgent(t, native(c.service, "SPX"))
			a.opened.CacheDir, a.opened.BatchSize = cache, 0
			n := a.opened.GetSpec().GetNative()
			n.Specialist, n.MaxEpochs, n.Learner = name, cycleEpochs, nil
			wg.Go(func() { c.ourJob(t, a) })
		}
		wg.Wait()
		c.ours.whole = append(c.ours.whole, time.Since(began).Seconds())
	}
}

func (c *cycle) oldJob(t *testing.T, name string) {
	var r struct {
		Import float64 `json:"import_s"`
		Load   float64 `json:"load_s"`
		Train  float64 `json:"train_s"`
	}
	torchtest.Script(t, &r, "old_script.py", c.history, name, fmt.Sprint(cycleEpochs), "1")
	c.mu.Lock()
	defer c.mu.Unlock()
	c.old.load, c.old.start = append(c.old.load, 1000*r.Load), append(c.old.start, 1000*r.Import)
	c.old.share = append(c.old.share, 100*r.Load/(r.Import+r.Load+r.Train))
}

func (c *cycle) ourJob(t *testing.T, a *agent) {
	if err := Run(t.Context(), Config{Socket: a.socket, Token: token}); err != nil {
		t.Error(err)
	}
	if f := a.last(t); f.GetOutcome() != fleetv1.Exit_OUTCOME_SUCCEEDED {
		t.Errorf("%v", f)
	}
	last := map[string]float64{}
	for _, frame := range a.frames {
		for _, p := range frame.GetMetrics().GetPoints() {
			last[p.GetKey()] = p.GetValue()
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ours.load, c.ours.share = append(c.ours.load, 1000*last["data/load_seconds"]), append(c.ours.share, 100*last["data/io_share"])
}

func (c *cycle) write(t *testing.T, title, history string, oldShare benchtable.Row) {
	t.Helper()
	whole := benchtable.Row{What: "three specialists, 20 epochs of 8,192 steps", Asked: ">= 3x", Ours: benchtable.Of("s", c.ours.whole...), Peer: benchtable.Of("s", c.old.whole...), PeerName: "old scripts in PyTorch"}
	whole.Note = fmt.Sprintf("%.1fx", whole.Peer.Median()/whole.Ours.Median())
	benchtable.Section{
		Page: "trainer.md", Title: title, Command: "services/trainer/bench/setup && make bench ONLY=services/trainer RESULTS=TestResultsCycle",
		Intro: history + fmt.Sprintf(" %d cycles each, by the clock, in turn. The old way: three Python processes at once, each reads the CSV and computes the features. Ours: three trainers ", len(c.ours.whole)) +
			"share one download and one mapped copy; the cache is empty at the start of each cycle. The scheduler's part is not in it.",
		Rows: []benchtable.Row{
			whole,
			{What: "of it: getting the features, per job", Ours: benchtable.Of("ms", c.ours.load...), Peer: benchtable.Of("ms", c.old.load...), PeerName: "old scripts"},
			{What: "of it: starting the framework, per job", Peer: benchtable.Of("ms", c.old.start...), PeerName: "old scripts"},
			{What: "share of I/O per job, ours", Asked: "< 5 %", Ours: benchtable.Of("%", c.ours.share...)},
			oldShare,
		},
	}.Write(t)
}

// writeHistory writes bars in the form that the old scripts read.
func writeHistory(t *testing.T, bars []markettest.Bar) string {
	t.Helper()
	var b strings.Builder
	b.WriteString("date,open,high,low,close,adjclose,volume\n")
	for _, bar := range bars {
		fmt.Fprintf(&b, "%s,%g,%g,%g,%g,%g,%g\n", time.Unix(bar.Date, 0).UTC().Format(time.DateOnly), bar.Open, bar.High, bar.Low, bar.Close, bar.Close, bar.Volume)
	}
	path := filepath.Join(t.TempDir(), "history.csv")
	if err := os.WriteFile(path, []byte(b.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// serveArrow serves the table in Arrow form, as the Data Service does: the client of the features makes it from JSON once.
func serveArrow(t *testing.T, table *market.Table) string {
	t.Helper()
	dir := t.TempDir()
	client, err := features.New(features.Options{BaseURL: serveTable(t, table).URL, CacheDir: dir})
	if err != nil {
		t.Fatal(err)
	}
	got, err := client.Table(context.Background(), "SPX", "1d")
	if err != nil {
		t.Fatal(err)
	}
	if err := got.Close(); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(dir, "blobs", "*.arrow"))
	if err != nil || len(files) != 1 {
		t.Fatal(files, err)
	}
	body, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(body)
	tag := `"` + table.Digest + `"`
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("ETag", tag)
		if r.Header.Get("If-None-Match") == tag {
			w.WriteHeader(http.StatusNotModified)
			return
		}
		w.Header().Set("Content-Type", "application/vnd.apache.arrow.file")
		w.Header().Set("Repr-Digest", "sha-256=:"+base64.StdEncoding.EncodeToString(sum[:])+":")
		_, _ = w.Write(body)
	}))
	t.Cleanup(s.Close)
	return s.URL
}
