// Package archive moves checkpoints to the cold tier: it verifies the hot bytes,
// packs them without loss, uploads, reads back and compares, and only then asks
// the registry to switch the reference. Until then nothing has changed for any
// reader; cut anywhere, it is simply done again, under the same keys.
package archive

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"go.uber.org/zap"

	"github.com/ultrathink-pilot/trainyard/libs/checkpointcodec"
	"github.com/ultrathink-pilot/trainyard/libs/objectstore"
	"github.com/ultrathink-pilot/trainyard/services/checkpoint-janitor/internal/sweep"
)

// Copy is one content, packed, in the cold tier. Digests are lowercase hex.
type Copy struct {
	SHA256 string
	Bytes  int64
	Key    string
	// ObjectSHA256 and ObjectBytes are those of the packed object.
	ObjectSHA256 string
	ObjectBytes  int64
	// Base is the content that it is the difference to; empty when it stands alone.
	Base string
}

// File is one content of a checkpoint on its way to the cold tier.
type File struct {
	Paths   []string
	SHA256  string
	Bytes   int64
	HotKey  string
	ColdKey string
	// Existing is set when a packed copy is there already.
	Existing *Copy
	// Chain is a possible base, then its base, and so on to one that stands alone.
	Chain []Copy
}

// Job is what it takes to archive one checkpoint. Done without files is archived
// already; not done has a reason.
type Job struct {
	ID     string
	Done   bool
	Reason string
	Files  []File
}

// Result is the registry's word on the switch.
type Result struct {
	Done          bool
	Reason        string
	ReleasedBytes int64
	DroppedBytes  int64
}

// Registry is the part of the registry that archives.
type Registry interface {
	BeginArchive(ctx context.Context, id string, patterns []string) (Job, error)
	CommitArchive(ctx context.Context, id string, copies []Copy, patterns []string, grace time.Duration) (Result, error)
	// ReportBad says that an object is not what it should be.
	ReportBad(ctx context.Context, key, detail string) (repaired bool, outcome string, err error)
}

// Store is one tier.
type Store interface {
	Get(ctx context.Context, key, digest string) (io.ReadCloser, error)
	Put(ctx context.Context, key string, r io.Reader, size int64, digest string) (objectstore.Object, error)
}

// Archiver archives checkpoints one at a time.
type Archiver struct {
	Registry Registry
	Hot      Store
	Cold     Store
	// Scratch is a directory for unpacked and packed files; empty is the system's.
	Scratch string
	Log     *zap.Logger
}

// maxObject is what one upload can carry.
const maxObject = 5 << 30

// deltaWorth is what a difference must save. Below it the content is packed alone as
// well and the smaller one stays: a chain that saves nothing only costs at its restore.
const deltaWorth = 0.20

// Archive takes one checkpoint to the cold tier. An error is worth another try; what
// will not go any better next time is an outcome that is not done.
func (a *Archiver) Archive(ctx context.Context, id string, patterns []string, grace time.Duration) (_ sweep.Archived, err error) {
	job, err := a.Registry.BeginArchive(ctx, id, patterns)
	if err != nil {
		return sweep.Archived{}, fmt.Errorf("begin to archive %s: %w", id, err)
	}
	if !job.Done || len(job.Files) == 0 {
		return sweep.Archived{Done: job.Done, Reason: job.Reason}, nil
	}
	dir, err := os.MkdirTemp(a.Scratch, "trainyard-archive-*")
	if err != nil {
		return sweep.Archived{}, fmt.Errorf("make room to archive: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	out := sweep.Archived{}
	var copies []Copy
	for i, f := range job.Files {
		made, reason, err := a.file(ctx, filepath.Join(dir, fmt.Sprint(i)), f)
		if err != nil {
			return sweep.Archived{}, fmt.Errorf("archive %v of %s: %w", f.Paths, id, err)
		}
		if reason != "" {
			return sweep.Archived{Reason: reason}, nil
		}
		copies = append(copies, made)
		out.Bytes += f.Bytes
		if f.Existing == nil {
			out.ColdBytes += made.ObjectBytes
		}
	}
	done, err := a.Registry.CommitArchive(ctx, id, copies, patterns, grace)
	if err != nil {
		return sweep.Archived{}, fmt.Errorf("switch %s to the cold tier: %w", id, err)
	}
	out.Done, out.Reason, out.DroppedBytes = done.Done, done.Reason, done.DroppedBytes
	return out, nil
}

// file makes, or finds, the packed copy of one content and proves it. A reason says why
// this content cannot be archived.
func (a *Archiver) file(ctx context.Context, dir string, f File) (_ Copy, reason string, err error) {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return Copy{}, "", err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if f.Bytes > maxObject {
		return Copy{}, fmt.Sprintf("%s has %d bytes, more than one object of the cold tier can carry", f.Paths[0], f.Bytes), nil
	}
	chain := f.Chain
	if f.Existing != nil {
		chain = nil
	}
	base, err := a.restore(ctx, filepath.Join(dir, "base"), chain)
	if bad := damaged(err); bad != "" {
		base, chain, err = "", nil, nil // it stands alone then
		a.Log.Warn("a base cannot be read; the content is packed alone", zap.String("sha256", f.SHA256), zap.String("problem", bad))
	}
	if err != nil {
		return Copy{}, "", fmt.Errorf("restore the base: %w", err)
	}
	raw := filepath.Join(dir, "raw")
	switch err := fetch(ctx, a.Hot, f.HotKey, f.SHA256, raw); {
	case damaged(err) != "":
		return Copy{}, a.report(ctx, f.HotKey, damaged(err)), nil
	case err != nil:
		return Copy{}, "", err
	}
	made := Copy{SHA256: f.SHA256, Bytes: f.Bytes, Key: f.ColdKey}
	if f.Existing != nil {
		made = *f.Existing
	} else if made, err = a.pack(ctx, dir, raw, base, chain, made); err != nil {
		return Copy{}, "", err
	}
	return a.prove(ctx, dir, made, chain)
}

// pack encodes and uploads.
func (a *Archiver) pack(ctx context.Context, dir, raw, base string, chain []Copy, made Copy) (Copy, error) {
	packed := filepath.Join(dir, "packed")
	stats, digest, err := encode(raw, base, packed)
	if err != nil {
		return made, err
	}
	if base != "" {
		made.Base = chain[0].SHA256
		if stats.Saved() < deltaWorth {
			alone := filepath.Join(dir, "alone")
			own, ownDigest, err := encode(raw, "", alone)
			if err != nil {
				return made, err
			}
			if own.Packed <= stats.Packed {
				packed, stats, digest, made.Base = alone, own, ownDigest, ""
			}
		}
	}
	f, err := os.Open(packed)
	if err != nil {
		return made, err
	}
	made.ObjectSHA256, made.ObjectBytes = digest, stats.Packed
	_, err = a.Cold.Put(ctx, made.Key, f, stats.Packed, digest)
	return made, errors.Join(err, f.Close())
}

// prove reads the packed copy back from the store, unpacks it and compares. A store that
// has lied about what it holds is caught here, before anything depends on it.
func (a *Archiver) prove(ctx context.Context, dir string, c Copy, chain []Copy) (_ Copy, reason string, err error) {
	base := ""
	switch {
	case c.Base == "":
	case len(chain) > 0 && chain[0].SHA256 == c.Base:
		base = filepath.Join(dir, "base")
	default:
		// A copy from before, whose base is not at hand: its digest is what was proven then.
		return c, a.checkExisting(ctx, c), nil
	}
	back := filepath.Join(dir, "back")
	digest, err := decode(ctx, a.Cold, c, base, back)
	if err == nil && digest != c.SHA256 {
		err = fmt.Errorf("%w: %s unpacks to %s, not to %s", objectstore.ErrDigestMismatch, c.Key, digest, c.SHA256)
	}
	if bad := damaged(err); bad != "" {
		return c, a.report(ctx, c.Key, "read back: "+bad), nil
	}
	return c, "", err
}

func (a *Archiver) checkExisting(ctx context.Context, c Copy) (reason string) {
	body, err := a.Cold.Get(ctx, c.Key, c.ObjectSHA256)
	if err == nil {
		_, err = io.Copy(io.Discard, body)
		err = errors.Join(err, body.Close())
	}
	if bad := damaged(err); bad != "" {
		return a.report(ctx, c.Key, "read back: "+bad)
	}
	if err != nil {
		return "its copy in the cold tier could not be read back: " + err.Error()
	}
	return ""
}

// report tells the registry, and returns the words for the sweep's record.
func (a *Archiver) report(ctx context.Context, key, detail string) string {
	_, outcome, err := a.Registry.ReportBad(ctx, key, detail)
	if err != nil {
		outcome = "the registry could not be told: " + err.Error()
	}
	a.Log.Error("an object is not what it should be", zap.String("key", key), zap.String("detail", detail), zap.String("outcome", outcome))
	return fmt.Sprintf("object %s: %s (%s)", key, detail, outcome)
}

// restore unpacks a chain from its far end into path; no chain gives no path.
func (a *Archiver) restore(ctx context.Context, path string, chain []Copy) (string, error) {
	if len(chain) == 0 {
		return "", nil
	}
	base := ""
	for i := len(chain) - 1; i >= 0; i-- {
		next := path
		if i > 0 {
			next = fmt.Sprintf("%s.%d", path, i)
		}
		digest, err := decode(ctx, a.Cold, chain[i], base, next)
		if err == nil && digest != chain[i].SHA256 {
			err = fmt.Errorf("%w: %s unpacks to %s", objectstore.ErrDigestMismatch, chain[i].Key, digest)
		}
		if base != "" {
			err = errors.Join(err, os.Remove(base))
		}
		if err != nil {
			return "", err
		}
		base = next
	}
	return path, nil
}

// damaged says what is wrong with the bytes; empty when the error says nothing about them. A
// connection that broke makes a file look cut: it says nothing.
func damaged(err error) string {
	if errors.Is(err, objectstore.ErrUnavailable) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return ""
	}
	for _, kind := range []error{objectstore.ErrDigestMismatch, objectstore.ErrNotFound, checkpointcodec.ErrDigest, checkpointcodec.ErrFormat, checkpointcodec.ErrBase} {
		if errors.Is(err, kind) {
			return kind.Error()
		}
	}
	return ""
}
