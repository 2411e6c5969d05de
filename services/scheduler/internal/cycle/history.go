package cycle

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"go.uber.org/zap"
)

// History is a final job with its attempts and all that was decided on it, oldest
// first.
type History struct {
	Record
	Decisions []Decision
}

// Archive keeps the histories of jobs after they have left the store.
type Archive interface {
	// Keep returns when the histories have been read back from where they are safe:
	// then they leave the store. It may be given the same ones again.
	Keep(ctx context.Context, histories []History) error
}

// historyPortion bounds what one step archives and drops: a larger one would hold
// up commits and need more memory.
const historyPortion = 500

// remembers drops what is too old, at once and then every hour.
func (e *Engine) remembers(ctx context.Context) {
	tick := time.NewTicker(time.Hour)
	defer tick.Stop()
	for {
		if err := e.forget(ctx, time.Now()); err != nil && ctx.Err() == nil {
			e.log.Warn("cannot put old history away; it stays in the database, trying again in an hour", zap.Error(err))
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// forget drops old receipts and lessons, and the jobs that ended too long ago; those
// are archived first, where there is an archive. A crash between the two leaves them
// in both places, and the next run archives them again under the same name.
func (e *Engine) forget(ctx context.Context, now time.Time) error {
	before := now.Add(-e.o.HistoryAge)
	if err := e.o.Store.Forget(ctx, now.Add(-e.o.ReceiptAge), before); err != nil {
		return err
	}
	for ctx.Err() == nil {
		old, err := e.o.Store.Ended(ctx, before, historyPortion)
		if err != nil || len(old) == 0 {
			return err
		}
		if e.o.Archive != nil {
			if err := e.o.Archive.Keep(ctx, old); err != nil {
				e.o.Meter.archive(0, err)
				return fmt.Errorf("archive %d jobs: %w", len(old), err)
			}
			e.o.Meter.archive(len(old), nil)
		}
		ids := make([]string, len(old))
		for i := range old {
			ids[i] = old[i].Job.ID
		}
		if err := e.o.Store.Drop(ctx, ids); err != nil {
			return err
		}
		e.log.Info("old jobs left the database", zap.Int("jobs", len(old)), zap.Bool("archived", e.o.Archive != nil), zap.Time("newest_end", old[len(old)-1].Job.Finished))
	}
	return ctx.Err()
}

// History reads all that was decided on a job, oldest first; ErrNotFound when the
// store does not have it (any more).
func (e *Engine) History(ctx context.Context, id string) (History, error) {
	v, err := e.Get(ctx, id)
	if err != nil {
		return History{}, err
	}
	h := History{Record: v.Record}
	if h.Decisions, err = e.o.Store.Decisions(ctx, id, decisionsOfAll); err != nil && !errors.Is(err, ErrNotFound) {
		return History{}, unavailable(ctx, err)
	}
	slices.Reverse(h.Decisions)
	return h, nil
}

// decisionsOfAll bounds one job's history in one answer: a job that was preempted
// ten thousand times has told its story.
const decisionsOfAll = 10_000
