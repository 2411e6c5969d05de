package sweep

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
	"go.uber.org/zap"

	"github.com/ultrathink-pilot/trainyard/services/checkpoint-janitor/internal/retention"
)

// maxKeys is how many keys one call carries.
const maxKeys = 500

// archive takes one checkpoint to the cold tier.
func (s *Sweeper) archive(ctx context.Context, w Sweep, o Work) error {
	done, err := s.archiver.Archive(ctx, o.ID, o.Patterns, w.Grace)
	if err != nil {
		return err
	}
	o.Item = o.After(retention.CallArchive, done.Done)
	o.ColdBytes, o.DroppedBytes = done.ColdBytes, done.DroppedBytes
	if !done.Done {
		o.Reason = done.Reason
	}
	return s.record(ctx, w.ID, []Work{o}, nil)
}

// tidy gives up orphans whose grace is over, and removes whatever the registry has
// released and nobody has removed yet: also what an earlier run was killed over.
func (s *Sweeper) tidy(ctx context.Context, w Sweep) error {
	orphans, err := s.store.DueOrphans(ctx, Now(), w.Grace)
	if err != nil {
		return err
	}
	for batch := range slices.Chunk(orphans, maxKeys) {
		id, err := uuid.NewV7()
		if err != nil {
			return err
		}
		results, err := s.registry.ReleaseObjects(ctx, id.String(), batch, w.Grace)
		if err != nil {
			return fmt.Errorf("give up orphans: %w", err)
		}
		for _, r := range results {
			s.log.Info("orphan", zap.String("key", r.ID), zap.Bool("released", r.Done), zap.String("reason", r.Reason))
		}
	}
	return s.removeReleased(ctx)
}

func (s *Sweeper) removeReleased(ctx context.Context) error {
	released, err := s.registry.Released(ctx)
	if err != nil {
		return fmt.Errorf("list what is released: %w", err)
	}
	now := time.Now()
	released = slices.DeleteFunc(released, func(r Released) bool { return r.Due.After(now) })
	if len(released) == 0 {
		return nil
	}
	// The registry's other word on the same keys: what it says is read stays, whatever
	// it says it has released.
	used, err := s.registry.InUse(ctx)
	if err != nil {
		return fmt.Errorf("list what is in use: %w", err)
	}
	for batch := range slices.Chunk(released, maxKeys) {
		var keys []string
		var bytes int64
		for _, r := range batch {
			if used[r.Key] {
				return fmt.Errorf("the registry has released object %q, which it says is in use; nothing more is removed", r.Key)
			}
			if err := s.objects.Delete(ctx, r.Key); err != nil {
				return fmt.Errorf("remove a released object: %w", err)
			}
			keys = append(keys, r.Key)
			bytes += r.Bytes
		}
		id, err := uuid.NewV7()
		if err != nil {
			return err
		}
		if err := s.registry.ConfirmRemoved(ctx, id.String(), keys); err != nil {
			return fmt.Errorf("confirm what was removed: %w", err)
		}
		s.observer.Removed(len(keys), bytes)
	}
	return nil
}
