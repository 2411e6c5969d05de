package registryapi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/ultrathink-pilot/trainyard/libs/checkpointcodec"
	"github.com/ultrathink-pilot/trainyard/libs/objectstore"
	"github.com/ultrathink-pilot/trainyard/libs/rpcerr"
	registryv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/registry/v1"
	"github.com/ultrathink-pilot/trainyard/services/registry/internal/catalog"
	"github.com/ultrathink-pilot/trainyard/services/registry/internal/postgres"
)

const (
	// restoreParallel bounds the unpacking: each takes a processor and its content twice on the disk.
	restoreParallel = 2
	// restoreLimit ends a restore that hangs. It goes on when its caller has given up waiting, so
	// that the next call finds it done.
	restoreLimit = 30 * time.Minute
	// restoreRetry is when a caller that could not wait is told to come back.
	restoreRetry = 10 * time.Second
)

// restores brings contents back from the cold tier, each once however many ask for it.
type restores struct {
	deps  Deps
	slots chan struct{}
	count *prometheus.CounterVec
	bytes prometheus.Counter

	mu      sync.Mutex
	running map[string]*restore
}

type restore struct {
	done chan struct{}
	err  error
}

func newRestores(deps Deps) (*restores, error) {
	r := &restores{deps: deps, slots: make(chan struct{}, restoreParallel), running: map[string]*restore{},
		count: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "trainyard_cold_restores_total",
			Help: "Contents brought back from the cold tier."}, []string{"outcome"}),
		bytes: prometheus.NewCounter(prometheus.CounterOpts{Name: "trainyard_cold_restored_bytes_total", Help: "Bytes brought back from the cold tier."})}
	return r, errors.Join(deps.Metrics.Register(r.count), deps.Metrics.Register(r.bytes))
}

// touch notes that a checkpoint is used, which keeps it hot for a while, and makes it readable.
func (a *api) touch(ctx context.Context, c catalog.Checkpoint) (catalog.Checkpoint, error) {
	if err := a.Store.NoteRead(ctx, c.ID, time.Now()); err != nil {
		return c, err
	}
	return a.warm(ctx, c)
}

// serve makes a checkpoint readable and presigns its downloads.
func (a *api) serve(ctx context.Context, c catalog.Checkpoint) (catalog.Checkpoint, []*registryv1.TransferURL, error) {
	c, err := a.touch(ctx, c)
	if err != nil {
		return c, nil, err
	}
	downloads, err := a.downloads(ctx, c.Files)
	return c, downloads, err
}

// warm brings an archived checkpoint back to the hot tier, and returns it as it is then.
func (a *api) warm(ctx context.Context, c catalog.Checkpoint) (catalog.Checkpoint, error) {
	// A restore may have ended between the reading of the row and that of its files: then only the row is old.
	cold := c.Tier == catalog.ColdTier
	for _, f := range catalog.Distinct(c.Files) {
		if !f.Cold {
			continue
		}
		cold = true
		if err := a.restores.content(ctx, "checkpoints/"+c.ID, f); err != nil {
			return c, err
		}
	}
	if !cold {
		return c, nil
	}
	return a.Store.GetCheckpoint(ctx, c.ID)
}

// content restores one content, or waits for whoever does already.
func (r *restores) content(ctx context.Context, subject string, f catalog.File) error {
	r.mu.Lock()
	run := r.running[f.SHA256]
	if run == nil {
		run = &restore{done: make(chan struct{})}
		r.running[f.SHA256] = run
		go func() {
			work, cancel := context.WithTimeout(context.WithoutCancel(ctx), restoreLimit)
			defer cancel()
			run.err = r.carryOut(work, f)
			r.mu.Lock()
			delete(r.running, f.SHA256)
			r.mu.Unlock()
			close(run.done)
		}()
	}
	r.mu.Unlock()
	select {
	case <-run.done:
	case <-ctx.Done():
		return rpcerr.Unavailable("%s: %s is being restored from the cold tier; call again", subject, f.Name).WithRetry(restoreRetry)
	}
	switch err := run.err; {
	case errors.Is(err, objectstore.ErrUnavailable):
		return err // a connection that broke makes a file look cut, and says nothing about it
	case errors.Is(err, checkpointcodec.ErrFormat), errors.Is(err, checkpointcodec.ErrDigest), errors.Is(err, objectstore.ErrDigestMismatch),
		errors.Is(err, objectstore.ErrNotFound):
		return catalog.Refuse(catalog.ProblemMissingObject, subject, "%s cannot be restored from the cold tier: %v", f.Name, err)
	default:
		return err
	}
}

func (r *restores) carryOut(ctx context.Context, f catalog.File) (err error) {
	r.slots <- struct{}{}
	defer func() {
		<-r.slots
		outcome := "restored"
		if err != nil {
			outcome = "failed"
			r.deps.Log.Warn("a content could not be restored from the cold tier", zap.String("sha256", f.SHA256), zap.Error(err))
		}
		r.count.WithLabelValues(outcome).Inc()
	}()
	chain, err := r.deps.Store.ColdChain(ctx, f.SHA256)
	if err != nil {
		return err
	}
	var target catalog.File
	if err := r.deps.Store.Do(ctx, time.Now(), func(t *postgres.Tx) error {
		target, err = t.BeginRestore(ctx, f)
		if err == nil && !target.Present && len(chain) == 0 {
			err = fmt.Errorf("%w: no readable copy of %s in the cold tier", objectstore.ErrNotFound, f.SHA256)
		}
		return err
	}); err != nil {
		return err
	}
	if !target.Present {
		if err := r.upload(ctx, chain, target); err != nil {
			return err
		}
	}
	var switched bool
	if err := r.deps.Store.Do(ctx, time.Now(), func(t *postgres.Tx) error {
		switched, err = t.FinishRestore(ctx, target)
		return err
	}); err != nil {
		return err
	}
	if !switched {
		return fmt.Errorf("%w: the key of %s was given up meanwhile", objectstore.ErrUnavailable, f.SHA256)
	}
	r.bytes.Add(float64(f.Size))
	return nil
}

// upload unpacks a chain from its far end and stores the content, which the store binds to its
// digest.
func (r *restores) upload(ctx context.Context, chain []postgres.ColdCopy, target catalog.File) (err error) {
	dir, err := os.MkdirTemp("", "trainyard-restore-*")
	if err != nil {
		return fmt.Errorf("make room to restore: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	var base *os.File
	for i := len(chain) - 1; i >= 0; i-- {
		next, err := os.Create(filepath.Join(dir, fmt.Sprint(i)))
		if err != nil {
			return errors.Join(err, closeAll(base))
		}
		if i > 0 && chain[i].HotKey != "" {
			err = copyObject(ctx, r.deps.Objects, chain[i].HotKey, chain[i].SHA256, next)
		} else {
			err = r.unpack(ctx, chain[i], base, next)
		}
		if _, serr := next.Seek(0, io.SeekStart); err == nil {
			err = serr
		}
		if err = errors.Join(err, closeAll(base)); err != nil {
			return errors.Join(err, next.Close())
		}
		base = next
	}
	_, err = r.deps.Objects.Put(ctx, target.ObjectKey, base, target.Size, target.SHA256)
	return errors.Join(err, base.Close())
}

// unpack decodes one packed copy; the digests of the object and of the content are both checked.
func (r *restores) unpack(ctx context.Context, c postgres.ColdCopy, base, into *os.File) error {
	body, err := r.deps.Cold.Get(ctx, c.Key, c.ObjectSHA256)
	if err != nil {
		return err
	}
	var seekable io.ReadSeeker
	if c.Base != "" && base != nil {
		seekable = base
	}
	stats, err := checkpointcodec.Decode(into, body, seekable)
	if err == nil && stats.Raw != c.Size {
		err = fmt.Errorf("%w: %d bytes came out of %s, not %d", checkpointcodec.ErrDigest, stats.Raw, c.Key, c.Size)
	}
	return errors.Join(err, body.Close())
}

func copyObject(ctx context.Context, from *objectstore.Store, key, digest string, into io.Writer) error {
	body, err := from.Get(ctx, key, digest)
	if err != nil {
		return err
	}
	_, err = io.Copy(into, body)
	return errors.Join(err, body.Close())
}

func closeAll(f *os.File) error {
	if f == nil {
		return nil
	}
	return f.Close()
}
