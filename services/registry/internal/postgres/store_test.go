package postgres

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/ultrathink-pilot/trainyard/libs/pg/pgtest"
	"github.com/ultrathink-pilot/trainyard/services/registry/internal/catalog"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// fixture is one test's database with a clock that the test owns.
type fixture struct {
	*testing.T
	ctx   context.Context
	store *Store
	now   time.Time
	fence atomic.Uint64
}

func setup(t *testing.T) *fixture {
	t.Helper()
	t.Parallel()
	pool := pgtest.New(t, Schema, Migrations)
	return &fixture{T: t, ctx: t.Context(), store: New(pool), now: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)}
}

func newID() string { return uuid.Must(uuid.NewV7()).String() }

func (f *fixture) must(err error) {
	f.Helper()
	if err != nil {
		f.Fatal(err)
	}
}

func problem(err error) catalog.Problem {
	var e *catalog.Error
	if errors.As(err, &e) {
		return e.Problem
	}
	return 0
}

func (f *fixture) apply(batches ...catalog.Batch) []catalog.BatchResult {
	f.Helper()
	results, err := f.store.ApplyBatches(f.ctx, batches, f.now)
	f.must(err)
	return results
}

func (f *fixture) accept(batches ...catalog.Batch) {
	f.Helper()
	for i, r := range f.apply(batches...) {
		if r.Refusal != nil || r.Duplicate {
			f.Fatalf("batch %d: %+v", i, r)
		}
	}
}

func key(run string, attempt int32, fence, sequence uint64) catalog.BatchKey {
	return catalog.BatchKey{RunID: run, Attempt: attempt, Fence: fence, Sequence: sequence}
}

func opened(k catalog.BatchKey, model, restored string) catalog.Batch {
	return catalog.Batch{Key: k, Opened: &catalog.RunOpened{Experiment: "specialists/bull", DisplayName: "bull", ModelName: model,
		TraceParent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", RestoredCheckpoint: restored}}
}

func metrics(k catalog.BatchKey, at time.Time, name string, from int64, values ...float64) catalog.Batch {
	b := catalog.Batch{Key: k}
	for i, v := range values {
		b.Points = append(b.Points, catalog.MetricPoint{Key: name, Step: from + int64(i), Time: at.Add(time.Duration(i) * time.Second), Value: v})
	}
	return b
}

func closed(k catalog.BatchKey, state catalog.RunState) catalog.Batch {
	return catalog.Batch{Key: k, Closed: &catalog.RunClosed{State: state}}
}

// run opens a new run under a new fence.
func (f *fixture) run(model string) (string, uint64) {
	f.Helper()
	id, fence := newID(), f.fence.Add(1)
	f.accept(opened(key(id, 1, fence, 1), model, ""))
	return id, fence
}

func digestOf(content string) string {
	sum := sha256.Sum256([]byte(content))
	return hex.EncodeToString(sum[:])
}

func fileOf(name, content string) catalog.File {
	return catalog.File{Name: name, SHA256: digestOf(content), Size: int64(len(content))}
}

// checkpoint commits a checkpoint whose weights are unique unless contents are given.
func (f *fixture) checkpoint(run string, fence uint64, step int64, sharpe float64, contents ...string) catalog.Checkpoint {
	f.Helper()
	id := newID()
	if len(contents) == 0 {
		contents = []string{"weights of " + id}
	}
	var files []catalog.File
	for i, c := range contents {
		files = append(files, fileOf(fmt.Sprintf("file-%d", i), c))
	}
	var c catalog.Checkpoint
	f.must(f.store.Do(f.ctx, f.now, func(t *Tx) error {
		staged, err := t.BeginCheckpoint(f.ctx, BeginCheckpoint{ID: id, RunID: run, Attempt: 1, Fence: fence, Step: step, Files: files})
		if err != nil {
			return err
		}
		c, _, err = t.CommitCheckpoint(f.ctx, CommitCheckpoint{ID: staged.ID, Fence: fence, Resumable: true,
			Metrics: map[string]float64{catalog.SharpeMetric: sharpe}})
		return err
	}))
	return c
}

func (f *fixture) values(run, name string) []float64 {
	f.Helper()
	points, err := f.store.MetricHistory(f.ctx, run, name)
	f.must(err)
	var out []float64
	for _, p := range points {
		out = append(out, p.Value)
	}
	return out
}

func (f *fixture) expectValues(run, name string, want ...float64) {
	f.Helper()
	got := f.values(run, name)
	same := len(got) == len(want)
	for i := 0; same && i < len(got); i++ {
		same = math.Float64bits(got[i]) == math.Float64bits(want[i]) || math.IsNaN(got[i]) && math.IsNaN(want[i])
	}
	if !same {
		f.Errorf("%s is %v, want %v", name, got, want)
	}
}
