package cycle_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/cycle"
	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/job"
)

// shelf is an archive in memory.
type shelf struct {
	kept map[string]cycle.History
	mu   sync.Mutex
	no   error
	// before and after are called around the moment at which a portion is safe.
	before, after func() error
}

func (s *shelf) Keep(_ context.Context, histories []cycle.History) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := errors.Join(s.no, s.before()); err != nil {
		return err
	}
	for _, h := range histories {
		s.kept[h.Job.ID] = h
	}
	return s.after()
}

func (s *shelf) refuse(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.no = err
}

// gate is a store whose Drop may be cut off before or after its effect.
type gate struct {
	cycle.Store
	before, after func() error
}

func (g *gate) Drop(ctx context.Context, ids []string) error {
	if err := g.before(); err != nil {
		return err
	}
	if err := g.Store.Drop(ctx, ids); err != nil {
		return err
	}
	return g.after()
}

// Wherever the process ends between writing old jobs away and dropping them, none is
// lost, and the next life finishes the work.
func TestOldJobsAreArchivedBeforeTheyGo(t *testing.T) {
	t.Parallel()
	nothing := func() error { return nil }
	killed := errors.New("the process ends here")
	for _, point := range []string{"never", "before the archive", "after the archive", "before the drop", "after the drop"} {
		t.Run(point, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				b := testBench(t)
				var ids []string
				b.start()
				for i := range 3 {
					id := b.submit(sharing(gib), job.Batch)
					if _, err := b.engine.Cancel(t.Context(), b.request(), id, fmt.Sprintf("no longer wanted %d", i)); err != nil {
						t.Fatal(err)
					}
					ids = append(ids, id)
				}
				waits := b.submit(sharing(gib), job.Batch)
				b.stop()
				s := &shelf{kept: map[string]cycle.History{}, before: nothing, after: nothing}
				g := &gate{Store: b.store, before: nothing, after: nothing}
				b.history, b.archive, b.over = time.Hour, s, g
				time.Sleep(2 * time.Hour)
				die := func() error { return killed }
				switch point {
				case "before the archive":
					s.before = die
				case "after the archive":
					s.after = die
				case "before the drop":
					g.before = die
				case "after the drop":
					g.after = die
				}
				b.start()
				b.stop()
				for _, id := range ids {
					if _, err := b.store.Record(t.Context(), id); err != nil && len(s.kept[id].Decisions) == 0 {
						t.Fatalf("job %s is neither in the store nor in the archive", id)
					}
				}
				s.before, s.after, g.before, g.after = nothing, nothing, nothing, nothing
				b.start()
				defer b.stop()
				for _, id := range ids {
					if _, err := b.engine.Get(t.Context(), id); !errors.Is(err, cycle.ErrNotFound) {
						t.Errorf("job %s is still in the store: %v", id, err)
					}
					if h := s.kept[id]; h.Job.State != job.Cancelled || len(h.Decisions) != 2 || h.Decisions[0].Action != "accepted" {
						t.Errorf("archived as %+v", h)
					}
				}
				b.is(waits, job.Queued)
			})
		})
	}
}

// While the archive takes nothing, nothing goes, and an hour later it is tried again.
func TestAnArchiveThatRefusesKeepsHistoryInTheStore(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		nothing := func() error { return nil }
		b := testBench(t)
		s := &shelf{kept: map[string]cycle.History{}, before: nothing, after: nothing}
		s.refuse(errors.New("the disk is full"))
		b.history, b.archive = time.Minute, s
		b.start()
		defer func() { b.stop() }()
		id := b.submit(sharing(gib), job.Batch)
		if _, err := b.engine.Cancel(t.Context(), b.request(), id, "x"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(61 * time.Minute)
		b.is(id, job.Cancelled)
		s.refuse(nil)
		time.Sleep(time.Hour)
		if _, err := b.engine.Get(t.Context(), id); !errors.Is(err, cycle.ErrNotFound) || s.kept[id].Job.ID != id {
			t.Errorf("after the disk has room again: %v, archived %d", err, len(s.kept))
		}
	})
}
