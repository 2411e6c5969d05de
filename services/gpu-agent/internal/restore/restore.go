package restore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"go.uber.org/zap"

	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/disk"
	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/lease"
	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/staging"
)

// Registry is what a restore needs of the registry.
type Registry interface {
	// Resolve returns a checkpoint; an empty id means the job's newest good one.
	Resolve(ctx context.Context, key lease.Key, id string) (*lease.Checkpoint, error)
	Get(ctx context.Context, t lease.Transfer) (io.ReadCloser, error)
	ReportCorrupt(ctx context.Context, key lease.Key, id, reason string) error
}

// Restorer prepares restores.
type Restorer struct {
	Registry Registry
	Tier     *Tier
	Log      *zap.Logger
	// Patience is how long an absent registry is waited for before the host's
	// own newest checkpoint is taken; with none on the host the wait goes on.
	Patience time.Duration
	// Corrupt is told of each bad checkpoint, for the metric.
	Corrupt func()
}

// errCorrupt: the bytes are not what the manifest says.
var errCorrupt = errors.New("the bytes do not match their digest")

// Prepare puts the job's newest good checkpoint under dir. It returns nil when
// the job has none: start from scratch. It tries until ctx ends.
func (r *Restorer) Prepare(ctx context.Context, key lease.Key, dir string) (*lease.Restored, error) {
	restored, err := r.prepare(ctx, key, "", dir)
	if errors.Is(err, lease.ErrNotFound) {
		return nil, nil
	}
	return restored, err
}

// Named is Prepare for a certain checkpoint, of any job; lease.ErrNotFound when
// there is none with that id, or it went bad.
func (r *Restorer) Named(ctx context.Context, key lease.Key, id, dir string) (*lease.Restored, error) {
	return r.prepare(ctx, key, id, dir)
}

func (r *Restorer) prepare(ctx context.Context, key lease.Key, id, dir string) (*lease.Restored, error) {
	begun := time.Now()
	for backoff := 200 * time.Millisecond; ; backoff = min(2*backoff, 5*time.Second) {
		found, err := r.Registry.Resolve(ctx, key, id)
		switch {
		case errors.Is(err, lease.ErrFenced), errors.Is(err, lease.ErrRefused), errors.Is(err, lease.ErrNotFound):
			return nil, err
		case err == nil:
			restored, err := r.fetch(ctx, key, found, dir)
			if err == nil {
				return restored, nil
			}
			r.Log.Warn("a restore will be tried again", zap.Stringer("attempt", key), zap.String("checkpoint_id", found.ID), zap.Error(err))
			if errors.Is(err, errCorrupt) {
				if r.Corrupt != nil {
					r.Corrupt()
				}
				if err := r.Registry.ReportCorrupt(ctx, key, found.ID, err.Error()); err != nil {
					r.Log.Warn("a corrupt checkpoint was not reported", zap.String("checkpoint_id", found.ID), zap.Error(err))
				}
			}
		default:
			r.Log.Warn("the registry is away; the restore waits", zap.Stringer("attempt", key), zap.Error(err))
			if id == "" && time.Since(begun) >= r.Patience {
				for _, local := range r.Tier.Newest(key.JobID) {
					if restored, err := r.fetch(ctx, key, &local, dir); err == nil {
						return restored, nil
					}
				}
			}
		}
		timer := time.NewTimer(backoff)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil, ctx.Err()
		}
	}
}

func (r *Restorer) fetch(ctx context.Context, key lease.Key, c *lease.Checkpoint, dir string) (*lease.Restored, error) {
	target := filepath.Join(dir, c.ID)
	if err := os.RemoveAll(target); err != nil {
		return nil, err
	}
	if err := disk.OS().MkdirAll(target); err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(target)
	if err != nil {
		return nil, err
	}
	err = r.fill(ctx, root, key, c)
	if err := errors.Join(err, root.Close()); err != nil {
		return nil, err
	}
	return &lease.Restored{ID: c.ID, Step: c.Step, Directory: target}, nil
}

func (r *Restorer) fill(ctx context.Context, root *os.Root, key lease.Key, c *lease.Checkpoint) error {
	downloads := map[[32]byte]lease.Transfer{}
	for _, d := range c.Downloads {
		downloads[d.SHA256] = d
	}
	for _, f := range c.Files {
		if parent := filepath.Dir(f.Path); parent != "." {
			if err := root.MkdirAll(parent, 0o700); err != nil {
				return err
			}
		}
		if local, err := os.Open(r.Tier.path(key.JobID, f.SHA256)); err == nil {
			err := write(root, f, local)
			if err := errors.Join(err, local.Close()); err == nil {
				continue
			}
		}
		d, ok := downloads[f.SHA256]
		if !ok {
			return fmt.Errorf("%s: neither on the host nor offered for download", f.Path)
		}
		body, err := r.Registry.Get(ctx, d)
		if err != nil {
			return err
		}
		err = write(root, f, body)
		if err := errors.Join(err, body.Close()); err != nil {
			return err
		}
	}
	return nil
}

// write copies and verifies. Copies, not links: a trainer may do with its files
// what it likes.
func write(root *os.Root, f lease.File, from io.Reader) error {
	out, err := root.OpenFile(f.Path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	digest, size, err := staging.Digest(io.TeeReader(io.LimitReader(from, f.Size+1), out))
	if err := errors.Join(err, out.Close()); err != nil {
		return err
	}
	if digest != f.SHA256 || size != f.Size {
		return fmt.Errorf("%s: %w: %d bytes, SHA-256 %x", f.Path, errCorrupt, size, digest)
	}
	return nil
}
