package restore

import (
	"context"
	"crypto/sha256"
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
	// ReportCorrupt marks a checkpoint; bad are the contents that were not what they should be.
	ReportCorrupt(ctx context.Context, key lease.Key, id, reason string, bad ...[32]byte) error
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

// corruptError: the bytes of a content are not what the manifest says.
type corruptError struct {
	path    string
	content [32]byte
	size    int64
	found   [32]byte
}

func (e *corruptError) Error() string {
	return fmt.Sprintf("%s: the bytes of %x do not match their digest: %d bytes, SHA-256 %x", e.path, e.content[:6], e.size, e.found)
}

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
			var bad *corruptError
			if errors.As(err, &bad) {
				if r.Corrupt != nil {
					r.Corrupt()
				}
				if err := r.Registry.ReportCorrupt(ctx, key, found.ID, bad.Error(), bad.content); err != nil {
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
		if err := r.download(ctx, root, f, c.Chunks[f.Path], downloads); err != nil {
			return err
		}
	}
	return nil
}

// download brings a file from the store: whole, or as the chunks that it is stored as, each of which is proven
// by itself, so that a bad one is named, and all of them as the file.
func (r *Restorer) download(ctx context.Context, root *os.Root, f lease.File, chunks []lease.Chunk, from map[[32]byte]lease.Transfer) error {
	if len(chunks) == 0 {
		chunks = []lease.Chunk{{SHA256: f.SHA256, Size: f.Size}}
	}
	for _, c := range chunks {
		if _, ok := from[c.SHA256]; !ok {
			return fmt.Errorf("%s: neither on the host nor offered for download", f.Path)
		}
	}
	out, err := root.OpenFile(f.Path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	whole, size := sha256.New(), int64(0)
	for _, c := range chunks {
		if err = r.content(ctx, io.MultiWriter(out, whole), f.Path, c, from[c.SHA256]); err != nil {
			break
		}
		size += c.Size
	}
	if err := errors.Join(err, out.Close()); err != nil {
		return err
	}
	if digest := [32]byte(whole.Sum(nil)); digest != f.SHA256 || size != f.Size {
		return &corruptError{f.Path, f.SHA256, size, digest}
	}
	return nil
}

// content copies and verifies one object.
func (r *Restorer) content(ctx context.Context, to io.Writer, path string, c lease.Chunk, from lease.Transfer) error {
	body, err := r.Registry.Get(ctx, from)
	if err != nil {
		return err
	}
	digest, size, err := staging.Digest(io.TeeReader(io.LimitReader(body, c.Size+1), to))
	if err := errors.Join(err, body.Close()); err != nil {
		return err
	}
	if digest != c.SHA256 || size != c.Size {
		return &corruptError{path, c.SHA256, size, digest}
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
		return &corruptError{f.Path, f.SHA256, size, digest}
	}
	return nil
}
