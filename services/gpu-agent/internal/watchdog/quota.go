package watchdog

import (
	"context"
	"io/fs"
	"path/filepath"
	"syscall"
	"time"
)

// watchQuotas measures the work directories until ctx ends. Quotas of the file
// system would be harder, but need a mount option that few hosts have.
func (w *Watchdog) watchQuotas(ctx context.Context, h Host) {
	ticker := time.NewTicker(quotaInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			w.checkQuotas(ctx, h)
		}
	}
}

func (w *Watchdog) checkQuotas(ctx context.Context, h Host) {
	for _, l := range h.Leases() {
		if l.WorkDir == "" || l.WorkBytes <= 0 {
			continue
		}
		if held := diskBytes(ctx, l.WorkDir); held > l.WorkBytes {
			h.OverQuota(l.Key, held)
		}
	}
}

// diskBytes is what a tree occupies on the disk: holes are free, a file with
// several names is paid for once. Links are not followed: what they point at is
// somebody else's.
func diskBytes(ctx context.Context, root string) int64 {
	var total int64
	seen := map[uint64]bool{}
	// Files come and go meanwhile: what cannot be read is not counted.
	_ = filepath.WalkDir(root, func(_ string, entry fs.DirEntry, err error) error {
		if ctx.Err() != nil {
			return fs.SkipAll
		}
		if err != nil {
			return nil
		}
		info, err := entry.Info()
		if err != nil {
			return nil
		}
		stat, ok := info.Sys().(*syscall.Stat_t)
		if !ok {
			return nil
		}
		if stat.Nlink > 1 && !entry.IsDir() {
			if seen[stat.Ino] {
				return nil
			}
			seen[stat.Ino] = true
		}
		total += stat.Blocks * 512
		return nil
	})
	return total
}
