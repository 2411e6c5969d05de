package registryapi

import (
	"context"
	"errors"
	"fmt"
	"sort"
	"strings"
	"sync"
	"time"

	"github.com/ultrathink-pilot/trainyard/libs/objectstore"
	registryv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/registry/v1"
	"github.com/ultrathink-pilot/trainyard/services/registry/internal/catalog"
	"github.com/ultrathink-pilot/trainyard/services/registry/internal/contents"
)

const (
	// transferTTL is how long a presigned URL works: a 5 GB file over a slow link, no more.
	transferTTL = time.Hour
	// verifyParallel bounds the object store calls of one commit.
	verifyParallel = 8
)

// uploads presigns one PUT per content that is not proven present. The digest is part of
// the signature: the holder can store exactly these bytes and no others.
func (a *api) uploads(ctx context.Context, files []catalog.File) ([]*registryv1.TransferURL, error) {
	return transfers(files, func(f catalog.File) (objectstore.Request, error) {
		if f.Present {
			return objectstore.Request{}, errNotNeeded
		}
		return a.Objects.PresignPut(ctx, f.ObjectKey, f.SHA256, f.Size, transferTTL)
	})
}

// downloads presigns one GET per content; none where the artifact store has no URLs, and
// files are streamed.
func (a *api) downloads(ctx context.Context, files []catalog.File) ([]*registryv1.TransferURL, error) {
	out, err := transfers(files, func(f catalog.File) (objectstore.Request, error) {
		return a.Objects.PresignGet(ctx, f.ObjectKey, transferTTL)
	})
	if errors.Is(err, objectstore.ErrUnsupported) {
		return nil, nil
	}
	return out, err
}

var errNotNeeded = errors.New("not needed")

// transfers signs one request per content. It names the files that are the content, and not those
// that the content is a chunk of: a client that knows no chunks would take it for the file.
func transfers(files []catalog.File, sign func(catalog.File) (objectstore.Request, error)) ([]*registryv1.TransferURL, error) {
	byKey := map[string]*registryv1.TransferURL{}
	var out []*registryv1.TransferURL
	for _, f := range files {
		for _, content := range f.Contents() {
			t := byKey[content.ObjectKey]
			if t == nil {
				r, err := sign(content)
				if errors.Is(err, errNotNeeded) {
					continue
				}
				if err != nil {
					return nil, err
				}
				t = &registryv1.TransferURL{Sha256: rawDigest(content.SHA256), SizeBytes: content.Size, Method: r.Method, Url: r.URL,
					Headers: r.Headers, ExpireTime: stamp(r.Expires)}
				byKey[content.ObjectKey] = t
				out = append(out, t)
			}
			if len(f.Chunks) == 0 {
				t.Paths = append(t.Paths, f.Name)
			}
		}
	}
	return out, nil
}

// verifier proves one file.
type verifier func(ctx context.Context, f catalog.File) error

// verify proves a file now: one object by its size and digest; one in chunks by reading them, as the file's
// own digest is over all of them. Whoever announced the file has said both, and nobody has compared them before.
func (a *api) verify(ctx context.Context, f catalog.File) error {
	if len(f.Chunks) > 0 {
		return contents.Prove(ctx, a.Objects, f)
	}
	return a.Objects.Verify(ctx, f.ObjectKey, f.SHA256, f.Size)
}

// prove checks that every file is in the object store with its size and digest, and names
// all that are not at once.
func (a *api) prove(ctx context.Context, subject string, files []catalog.File, verify verifier) error {
	var (
		mu   sync.Mutex
		bad  []string
		away error
		wg   sync.WaitGroup
	)
	slots := make(chan struct{}, verifyParallel)
	for _, f := range files {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			err := verify(ctx, f)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil:
			case errors.Is(err, objectstore.ErrNotFound):
				bad = append(bad, f.Name+" was not uploaded")
			case errors.Is(err, objectstore.ErrDigestMismatch):
				bad = append(bad, f.Name+" has other bytes than promised")
			default:
				away = err
			}
		})
	}
	wg.Wait()
	if len(bad) > 0 {
		sort.Strings(bad)
		return catalog.Refuse(catalog.ProblemMissingObject, subject, "%s", strings.Join(bad, "; "))
	}
	if away != nil {
		return fmt.Errorf("prove %s: %w", subject, away)
	}
	return nil
}
