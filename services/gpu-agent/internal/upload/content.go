package upload

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"sync"
	"sync/atomic"

	"github.com/ultrathink-pilot/trainyard/libs/safetensors"
	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/lease"
)

const (
	// mostChunks bounds what one file becomes, and mostContents a checkpoint: each is a request to the store, at
	// every upload and every restore.
	mostChunks   = 128
	mostContents = 512
	// uploadsAtOnce are contents on their way at once: small ones wait for the store, not for the line.
	uploadsAtOnce = 4
)

// piece is a content on its way: a staged file, or the run of its bytes from at on.
type piece struct {
	// File has the content's digest and size, and the path of its file.
	lease.File
	staged [32]byte
	at     int64
}

// checkpoint announces, sends what the store lacks, and commits. What the store has, a trunk that other
// checkpoints share, does not leave the host.
func (p *Pipeline) checkpoint(ctx context.Context, item Item) (id string, sent int64, err error) {
	chunks, err := p.cut(item.Files)
	if err != nil {
		return "", 0, err
	}
	pieces := map[[32]byte]piece{}
	for _, f := range item.Files {
		pieces[f.SHA256] = piece{f, f.SHA256, 0}
		at := int64(0)
		for _, c := range chunks[f.Path] {
			pieces[c.SHA256] = piece{lease.File{Path: f.Path, SHA256: c.SHA256, Size: c.Size}, f.SHA256, at}
			at += c.Size
		}
	}
	id, uploads, err := p.registry.BeginCheckpoint(ctx, p.key, item.Step, item.Files, chunks)
	if err != nil {
		return "", 0, err
	}
	if sent, err = p.putAll(ctx, pieces, uploads); err != nil {
		return "", 0, err
	}
	return id, sent, p.registry.CommitCheckpoint(ctx, p.key, id, item.Ready, item.Parent)
}

// putAll sends contents, some at once, until the first error.
func (p *Pipeline) putAll(ctx context.Context, pieces map[[32]byte]piece, uploads []lease.Transfer) (int64, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var (
		wg   sync.WaitGroup
		sent atomic.Int64
		room = make(chan struct{}, uploadsAtOnce)
	)
	for _, t := range uploads {
		c, ok := pieces[t.SHA256]
		if !ok {
			cancel(fmt.Errorf("%w: the registry asked for %x, which was not announced", lease.ErrRefused, t.SHA256))
			break
		}
		select {
		case room <- struct{}{}:
		case <-ctx.Done():
		}
		if ctx.Err() != nil {
			break
		}
		wg.Go(func() {
			defer func() { <-room }()
			if err := p.put(ctx, c, t); err != nil {
				cancel(err)
				return
			}
			sent.Add(c.Size)
		})
	}
	wg.Wait()
	return sent.Load(), context.Cause(ctx)
}

// put sends one content.
func (p *Pipeline) put(ctx context.Context, c piece, t lease.Transfer) error {
	f, err := p.staging.OpenFile(c.staged)
	if err != nil {
		return err
	}
	body := io.NewSectionReader(f, c.at, c.Size)
	if c.Size > partsFrom {
		if err = p.putParts(ctx, c.File, body); !errors.Is(err, lease.ErrNoParts) {
			return errors.Join(err, f.Close())
		}
	}
	return errors.Join(p.registry.Put(ctx, t, body), ignoreClosed(f.Close()))
}

// ignoreClosed: net/http closes the body that it was given.
func ignoreClosed(err error) error {
	if errors.Is(err, os.ErrClosed) {
		return nil
	}
	return err
}

// cut finds what the files are best stored as, by path: a model's large tensors by themselves, so that what
// does not change is sent and stored once.
func (p *Pipeline) cut(files []lease.File) (map[string][]lease.Chunk, error) {
	out := map[string][]lease.Chunk{}
	if p.share <= 0 {
		return out, nil
	}
	left := mostContents - len(files)
	for _, f := range files {
		if path.Ext(f.Path) != ".safetensors" || left < 1 {
			continue
		}
		chunks, known := p.cuts[f.SHA256]
		if !known {
			var err error
			if chunks, err = p.cutFile(f, min(mostChunks, left+1)); err != nil {
				return nil, err
			}
			p.cuts[f.SHA256] = chunks
		}
		if len(chunks) > 0 {
			out[f.Path] = chunks
			left -= len(chunks) - 1
		}
	}
	return out, nil
}

// cutFile returns no chunks for a file that is best stored whole.
func (p *Pipeline) cutFile(f lease.File, most int) (chunks []lease.Chunk, err error) {
	staged, err := p.staging.OpenFile(f.SHA256)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, staged.Close()) }()
	sizes, err := safetensors.Cut(staged, f.Size, p.share, most)
	if err != nil {
		return nil, nil // it was validated as what it is called; what this reader does not take goes whole
	}
	whole := sha256.New()
	at := int64(0)
	for _, n := range sizes {
		sum := sha256.New()
		if _, err := io.Copy(io.MultiWriter(sum, whole), io.NewSectionReader(staged, at, n)); err != nil {
			return nil, err
		}
		chunks = append(chunks, lease.Chunk{SHA256: [32]byte(sum.Sum(nil)), Size: n})
		at += n
	}
	if len(chunks) > 0 && [32]byte(whole.Sum(nil)) != f.SHA256 {
		return nil, fmt.Errorf("%s: the staged file has changed on the disk", f.Path)
	}
	return chunks, nil
}
