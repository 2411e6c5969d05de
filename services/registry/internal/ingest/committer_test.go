package ingest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/ultrathink-pilot/trainyard/services/registry/internal/catalog"
)

// scripted is a store that holds its first group until told, can fail, and remembers.
type scripted struct {
	mu      sync.Mutex
	applied []catalog.BatchKey
	groups  []int
	entered chan struct{}
	release chan struct{}
	fail    func(group int) error
}

func (s *scripted) ApplyBatches(_ context.Context, batches []catalog.Batch, _ time.Time) ([]catalog.BatchResult, error) {
	s.mu.Lock()
	n := len(s.groups)
	s.groups = append(s.groups, len(batches))
	s.mu.Unlock()
	if n == 0 {
		close(s.entered)
		<-s.release
	}
	if err := s.fail(n); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, b := range batches {
		s.applied = append(s.applied, b.Key)
	}
	return make([]catalog.BatchResult, len(batches)), nil
}

func run(t *testing.T, fail func(int) error) (*Committer, *scripted, func()) {
	t.Helper()
	store := &scripted{entered: make(chan struct{}), release: make(chan struct{}), fail: fail}
	c, err := New(store, zap.NewNop(), prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	return c, store, func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

func numbered(run string, sequence uint64) catalog.Batch {
	return catalog.Batch{Key: catalog.BatchKey{RunID: run, Attempt: 1, Fence: 1, Sequence: sequence}}
}

func submit(t *testing.T, c *Committer, lane *Lane, b catalog.Batch) *Pending {
	t.Helper()
	p, err := c.Submit(t.Context(), lane, b)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestWhatWaitsForACommitGoesTogether(t *testing.T) {
	t.Parallel()
	c, store, stop := run(t, func(int) error { return nil })
	defer stop()
	lane := &Lane{}
	pending := []*Pending{submit(t, c, lane, numbered("r", 1))}
	<-store.entered
	for i := uint64(2); i <= 50; i++ {
		pending = append(pending, submit(t, c, lane, numbered("r", i)))
	}
	close(store.release)
	for _, p := range pending {
		if _, err := p.Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	store.mu.Lock()
	defer store.mu.Unlock()
	if len(store.groups) != 2 || store.groups[1] != 49 {
		t.Errorf("groups %v", store.groups)
	}
	for i, k := range store.applied {
		if k.Sequence != uint64(i+1) {
			t.Fatalf("batch %d applied as number %d", k.Sequence, i)
		}
	}
}

// A batch must never be applied after its predecessor failed: the cursor would move past
// the predecessor, and its resend would be acknowledged as a duplicate though it is lost.
func TestNothingOvertakesAFailedBatch(t *testing.T) {
	t.Parallel()
	down := errors.New("database away")
	c, store, stop := run(t, func(group int) error {
		if group == 0 {
			return down
		}
		return nil
	})
	defer stop()
	broken, other := &Lane{}, &Lane{}
	first := submit(t, c, broken, numbered("r", 1))
	<-store.entered
	second := submit(t, c, broken, numbered("r", 2))
	neighbour := submit(t, c, other, numbered("r", 9))
	close(store.release)
	if _, err := first.Wait(t.Context()); !errors.Is(err, down) {
		t.Errorf("first: %v", err)
	}
	if _, err := second.Wait(t.Context()); !errors.Is(err, ErrBroken) {
		t.Errorf("second: %v", err)
	}
	if _, err := neighbour.Wait(t.Context()); err != nil {
		t.Errorf("another stream suffers: %v", err)
	}
	store.mu.Lock()
	defer store.mu.Unlock()
	if fmt.Sprint(store.applied) != fmt.Sprint([]catalog.BatchKey{numbered("r", 9).Key}) {
		t.Errorf("applied %v", store.applied)
	}
}

func TestStoppedCommitterAnswersEverybody(t *testing.T) {
	t.Parallel()
	c, store, stop := run(t, func(int) error { return nil })
	lane := &Lane{}
	held := submit(t, c, lane, numbered("r", 1))
	<-store.entered
	queued := submit(t, c, lane, numbered("r", 2))
	go func() {
		<-c.stopped
		close(store.release)
	}()
	stop()
	if _, err := held.Wait(t.Context()); err != nil {
		t.Errorf("a commit under way was dropped: %v", err)
	}
	// It may have gone with one more group, or been failed: never left hanging.
	if _, err := queued.Wait(t.Context()); err != nil && !errors.Is(err, ErrStopped) {
		t.Errorf("queued: %v", err)
	}
	full := false
	for range queueLength + 2 { // the queue has room; Submit must refuse, not fill it
		if _, err := c.Submit(t.Context(), lane, numbered("r", 3)); errors.Is(err, ErrStopped) {
			full = true
			break
		}
	}
	if !full {
		t.Error("a stopped committer still takes batches")
	}
}
