package cycle

import (
	"context"
	"errors"
	"slices"
	"sync"
)

// ErrEnded says that the engine has stopped; watch again elsewhere or later.
var ErrEnded = errors.New("the scheduler is stopping; watch again with the last token")

// hub keeps the newest changes, so that watchers who keep up cost the store
// nothing. One who falls behind reads the store: rows carry their revision, so
// what was missed is merged, never lost.
type hub struct {
	mu sync.Mutex
	// ring holds changes in the order of their revisions.
	ring []Record
	// floor is the revision up to which changes are no longer in the ring.
	floor uint64
	wake  chan struct{}
	ended bool
}

const hubSize = 4096

func newHub() *hub { return &hub{wake: make(chan struct{})} }

func (h *hub) publish(records map[string]Record) {
	if len(records) == 0 {
		return
	}
	batch := make([]Record, 0, len(records))
	for _, r := range records {
		batch = append(batch, r)
	}
	slices.SortFunc(batch, func(a, b Record) int {
		if a.Job.Revision < b.Job.Revision {
			return -1
		}
		return 1
	})
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ring = append(h.ring, batch...)
	// Cut at twice the size: copying the ring for every batch would cost more
	// than everything else that a submit does.
	if len(h.ring) > 2*hubSize {
		over := len(h.ring) - hubSize
		h.floor = h.ring[over-1].Job.Revision
		h.ring = slices.Clone(h.ring[over:])
	}
	close(h.wake)
	h.wake = make(chan struct{})
}

// forget empties the ring: what it holds may never have been committed.
func (h *hub) forget(revision uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ring, h.floor = nil, revision
	close(h.wake)
	h.wake = make(chan struct{})
}

func (h *hub) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.ended {
		h.ended = true
		close(h.wake)
		h.wake = make(chan struct{})
	}
}

// since lists changes above a revision. known is false when the ring no longer
// reaches back that far.
func (h *hub) since(revision uint64) (changes []Record, known bool, wake <-chan struct{}, ended bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if revision < h.floor {
		return nil, false, h.wake, h.ended
	}
	at, _ := slices.BinarySearchFunc(h.ring, revision, func(r Record, want uint64) int {
		if r.Job.Revision <= want {
			return -1
		}
		return 1
	})
	return h.ring[at:], true, h.wake, h.ended
}

// Frame is one step of a watch.
type Frame struct {
	Views []View
	// Revision resumes the watch after this frame.
	Revision uint64
	// Complete says that the watcher now has everything up to Revision.
	Complete bool
}

const frameLimit = 200

// Watch sends the state above a revision, the frame that completes it, and then
// each change, until send fails, ctx ends or the engine stops. ids limits the
// jobs; empty means all.
func (e *Engine) Watch(ctx context.Context, revision uint64, ids []string, send func(Frame) error) error {
	select {
	case <-e.ready:
	case <-ctx.Done():
		return ctx.Err()
	}
	want := make(map[string]bool, len(ids))
	for _, id := range ids {
		want[id] = true
	}
	complete := false
	for {
		changes, known, wake, ended := e.hub.since(revision)
		if ended {
			return ErrEnded
		}
		if !known || !complete {
			// The boundary is read before the rows, so that a row that changes
			// in between is sent once more and never missed.
			boundary := e.revision()
			var err error
			if revision, err = e.catchUp(ctx, revision, ids, send); err != nil {
				return err
			}
			revision = max(revision, boundary)
			if err := send(Frame{Revision: revision, Complete: true}); err != nil {
				return err
			}
			complete = true
			continue
		}
		if len(changes) > 0 {
			last := changes[len(changes)-1].Job.Revision
			newest := map[string]int{}
			for i, r := range changes {
				newest[r.Job.ID] = i
			}
			var views []View
			for i, r := range changes {
				if newest[r.Job.ID] == i && (len(want) == 0 || want[r.Job.ID]) {
					views = append(views, e.view(r))
				}
			}
			revision = last
			for len(views) > 0 {
				n := min(len(views), frameLimit)
				f := Frame{Views: views[:n], Revision: views[n-1].Job.Revision, Complete: n == len(views)}
				if f.Complete {
					f.Revision = last
				}
				if err := send(f); err != nil {
					return err
				}
				views = views[n:]
			}
			continue
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-wake:
		}
	}
}

func (e *Engine) view(r Record) View {
	e.mu.RLock()
	defer e.mu.RUnlock()
	return e.viewLocked(r)
}

func (e *Engine) revision() uint64 {
	e.mu.RLock()
	defer e.mu.RUnlock()
	return e.st.revision
}

func (e *Engine) catchUp(ctx context.Context, revision uint64, ids []string, send func(Frame) error) (uint64, error) {
	for {
		rows, err := e.o.Store.Since(ctx, revision, ids, frameLimit)
		if err != nil {
			return revision, unavailable(ctx, err)
		}
		if len(rows) == 0 {
			return revision, nil
		}
		views := make([]View, len(rows))
		for i, r := range rows {
			views[i] = e.view(r)
		}
		revision = rows[len(rows)-1].Job.Revision
		if err := send(Frame{Views: views, Revision: revision}); err != nil {
			return revision, err
		}
		if len(rows) < frameLimit {
			return revision, nil
		}
	}
}
