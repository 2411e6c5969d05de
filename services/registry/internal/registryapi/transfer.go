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
	var missing []catalog.File
	for _, f := range files {
		if !f.Present {
			missing = append(missing, f)
		}
	}
	return transfers(missing, func(f catalog.File) (objectstore.Request, error) {
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

func transfers(files []catalog.File, sign func(catalog.File) (objectstore.Request, error)) ([]*registryv1.TransferURL, error) {
	byKey := map[string]*registryv1.TransferURL{}
	var out []*registryv1.TransferURL
	for _, f := range files {
		if t := byKey[f.ObjectKey]; t != nil {
			t.Paths = append(t.Paths, f.Name)
			continue
		}
		r, err := sign(f)
		if err != nil {
			return nil, err
		}
		t := &registryv1.TransferURL{Sha256: rawDigest(f.SHA256), SizeBytes: f.Size, Method: r.Method, Url: r.URL,
			Headers: r.Headers, ExpireTime: stamp(r.Expires), Paths: []string{f.Name}}
		byKey[f.ObjectKey] = t
		out = append(out, t)
	}
	return out, nil
}

// verifier proves one object; Store.Verify, or proofs.verify where a proof may be shared.
type verifier func(ctx context.Context, key, digest string, size int64) error

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
			err := verify(ctx, f.ObjectKey, f.SHA256, f.Size)
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
