package registryapi

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/ultrathink-pilot/trainyard/libs/objectstore"
	"github.com/ultrathink-pilot/trainyard/libs/rpcerr"
	"github.com/ultrathink-pilot/trainyard/libs/rpcserver"
	registryv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/registry/v1"
	"github.com/ultrathink-pilot/trainyard/services/registry/internal/catalog"
	"github.com/ultrathink-pilot/trainyard/services/registry/internal/postgres"
)

const (
	// leastPart is S3's bound for every part but the last.
	leastPart = 5 << 20
	// partURLs bounds one answer: a thousand URLs are below the size of one message.
	partURLs = 1000
)

// PrepareParts keeps nothing between calls: which parts are there is asked of the store, so
// that whoever goes on after a crash, of either side, goes on from what has arrived.
func (s *ingestServer) PrepareParts(ctx context.Context, r *registryv1.PreparePartsRequest) (*registryv1.PreparePartsResponse, error) {
	if err := whole(r.GetFile()); err != nil {
		return nil, err
	}
	parts, err := wantedParts(r)
	if err != nil {
		return nil, err
	}
	f := file(r.GetFile())
	var staged postgres.Artifact
	err = s.Store.Do(ctx, time.Now(), func(t *postgres.Tx) error {
		var err error
		staged, err = t.BeginArtifact(ctx, r.GetJobId(), r.GetFence(), f)
		return err
	})
	if err != nil {
		return nil, s.fencedCount("PrepareParts", err)
	}
	complete := &registryv1.PreparePartsResponse{Complete: true}
	if staged.Present {
		return complete, nil
	}
	switch err := s.proofs.verify(ctx, catalog.File{Name: f.Name, SHA256: f.SHA256, Size: f.Size, ObjectKey: staged.ObjectKey}); {
	case err == nil:
		return complete, nil
	case errors.Is(err, objectstore.ErrNotFound), errors.Is(err, objectstore.ErrDigestMismatch):
		// Not there yet, or the file changed while its parts were read: (again) from the start.
	default:
		return nil, wire(err)
	}
	upload, have, err := s.openUpload(ctx, staged.ObjectKey)
	if err != nil {
		return nil, wire(err)
	}
	stored := make(map[int]objectstore.Part, len(have))
	for _, p := range have {
		stored[p.Number] = p
	}
	response := &registryv1.PreparePartsResponse{}
	ready := make([]objectstore.Part, 0, len(parts))
	for _, p := range parts {
		if got, ok := stored[p.Number]; ok && got.Size == p.Size && got.CRC32C == p.CRC32C {
			ready = append(ready, got)
			continue
		}
		if len(response.Missing) == partURLs {
			continue
		}
		signed, err := s.Objects.PresignPart(ctx, staged.ObjectKey, upload, p, transferTTL)
		if err != nil {
			return nil, wire(err)
		}
		response.Missing = append(response.Missing, &registryv1.PreparePartsResponse_PartURL{Number: uint32(p.Number),
			Method: signed.Method, Url: signed.URL, Headers: signed.Headers})
	}
	if len(ready) < len(parts) {
		return response, nil
	}
	if err := s.Objects.CompleteParts(ctx, staged.ObjectKey, upload, ready); err != nil {
		return nil, wire(err)
	}
	return complete, nil
}

// wantedParts checks that the parts make up the file; it names everything that is wrong.
func wantedParts(r *registryv1.PreparePartsRequest) ([]objectstore.Part, error) {
	var (
		problems []rpcerr.Violation
		parts    []objectstore.Part
		total    int64
	)
	bad := func(field, format string, args ...any) {
		if len(problems) < 20 {
			problems = append(problems, rpcerr.Violation{Field: field, Description: fmt.Sprintf(format, args...)})
		}
	}
	all := r.GetParts()
	for i, p := range all {
		last := i == len(all)-1
		if int(p.GetNumber()) != i+1 {
			bad(fmt.Sprintf("parts[%d].number", i), "is %d, must be %d", p.GetNumber(), i+1)
		}
		if size := all[0].GetSizeBytes(); !last && p.GetSizeBytes() != size || last && p.GetSizeBytes() > size {
			bad(fmt.Sprintf("parts[%d].size_bytes", i), "is %d: all parts but the last have %d, the last at most that", p.GetSizeBytes(), size)
		}
		if !last && p.GetSizeBytes() < leastPart {
			bad(fmt.Sprintf("parts[%d].size_bytes", i), "is %d: only the last part may be below %d", p.GetSizeBytes(), leastPart)
		}
		total += p.GetSizeBytes()
		parts = append(parts, objectstore.Part{Number: i + 1, Size: p.GetSizeBytes(), CRC32C: p.GetCrc32C(), Checked: true})
	}
	if total != r.GetFile().GetSizeBytes() {
		bad("parts", "have %d bytes together, the file has %d", total, r.GetFile().GetSizeBytes())
	}
	if len(problems) > 0 {
		return nil, rpcerr.Invalid(problems...)
	}
	return parts, nil
}

// openUpload finds the oldest unfinished upload of a key with its parts, or begins one.
func (a *api) openUpload(ctx context.Context, key string) (string, []objectstore.Part, error) {
	open, err := a.Objects.OpenUploads(ctx, key)
	if err != nil {
		return "", nil, err
	}
	for _, id := range open {
		have, err := a.Objects.Parts(ctx, key, id)
		if errors.Is(err, objectstore.ErrNotFound) {
			continue // completed or aborted since the listing
		}
		return id, have, err
	}
	id, err := a.Objects.BeginParts(ctx, key, true)
	return id, nil, err
}

// files converts a manifest's files; it names every path that is used twice and every cut that does not fit.
func files(in []*registryv1.CheckpointFile) ([]catalog.File, error) {
	var (
		out      []catalog.File
		problems []rpcerr.Violation
	)
	bad := func(field, text string) {
		if len(problems) < 20 {
			problems = append(problems, rpcerr.Violation{Field: field, Description: text})
		}
	}
	seen := map[string]bool{}
	for i, f := range in {
		if seen[f.GetPath()] {
			bad(fmt.Sprintf("files[%d].path", i), fmt.Sprintf("%q is named twice", f.GetPath()))
		}
		seen[f.GetPath()] = true
		converted, wrong := catalog.Cut(file(f), chunksOf(f))
		for _, p := range wrong {
			bad(fmt.Sprintf("files[%d].%s", i, p.Field), p.Text)
		}
		out = append(out, converted)
	}
	if n := len(catalog.Contents(out)); n > catalog.MaxContents {
		bad("files", fmt.Sprintf("are %d contents, a checkpoint has at most %d: cut into larger chunks", n, catalog.MaxContents))
	}
	if len(problems) > 0 {
		return nil, rpcerr.Invalid(problems...)
	}
	return out, nil
}

// whole refuses chunks where one content is asked about.
func whole(f *registryv1.CheckpointFile) error {
	if len(f.GetChunks()) > 0 {
		return rpcerr.Invalid(rpcerr.Violation{Field: "file.chunks", Description: "must be empty: only files of checkpoints are cut; name a chunk by its own digest and size"})
	}
	return nil
}

// proofs remembers which objects were read and found good, and lets callers of the same
// proof share it. A file of many gigabytes takes longer to read than a caller waits: the
// reading goes on, and the caller's next try finds it done.
type proofs struct {
	prove verifier

	mu   sync.Mutex
	done map[proofKey]*proof
}

// proofKey names the objects that were read, and the digest that was found over them.
type proofKey struct{ objects, digest string }

func proofOf(f catalog.File) proofKey {
	var keys strings.Builder
	for _, c := range f.Contents() {
		keys.WriteString(c.ObjectKey + "\n")
	}
	return proofKey{objectstore.Digest([]byte(keys.String())), f.SHA256}
}

type proof struct {
	ended chan struct{}
	err   error
}

const (
	// proofLimit bounds one reading.
	proofLimit = time.Hour
	// proofsKept bounds the memory; a commit follows its proof within seconds.
	proofsKept = 1024
)

func (p *proofs) verify(ctx context.Context, f catalog.File) error {
	p.mu.Lock()
	k := proofOf(f)
	known := p.done[k]
	if known == nil {
		if p.done == nil || len(p.done) >= proofsKept {
			p.done = map[proofKey]*proof{}
		}
		known = &proof{ended: make(chan struct{})}
		p.done[k] = known
		go p.run(ctx, k, f, known)
	}
	p.mu.Unlock()
	select {
	case <-known.ended:
		return known.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// run reads on when its caller has gone, but not when the server goes. Only success is
// remembered.
func (p *proofs) run(ctx context.Context, k proofKey, f catalog.File, mine *proof) {
	limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), proofLimit)
	defer cancel()
	go func() {
		select {
		case <-rpcserver.Draining(ctx):
			cancel()
		case <-mine.ended:
		}
	}()
	mine.err = p.prove(limited, f)
	if mine.err != nil {
		p.mu.Lock()
		if p.done[k] == mine {
			delete(p.done, k)
		}
		p.mu.Unlock()
	}
	close(mine.ended)
}
