package modelclient

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"os"
	"slices"

	"go.uber.org/zap"

	registryv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/registry/v1"
)

// ErrDigest says that the bytes are not those of the manifest.
var ErrDigest = errors.New("the bytes do not have the digest of the manifest")

// attempts is how often a download that made no progress is begun again, per source.
const attempts = 3

// source reads a file's bytes from offset on.
type source func(ctx context.Context, offset int64) (io.ReadCloser, error)

// download brings one content into the cache: from the object store, or through the registry
// where the store cannot be reached.
func (c *Client) download(ctx context.Context, f File, from *registryv1.ResolveModelResponse) error {
	var failed error
	if pieces := piecesOf(f, from); len(pieces) > 0 {
		if failed = c.cache.fill(ctx, f, func(ctx context.Context, offset int64) (io.ReadCloser, error) { return c.piece(ctx, pieces, offset) }); failed == nil {
			return nil
		}
		c.log.Warn("the object store did not give a file; asking the registry for it", zap.String("file", f.Path), zap.Error(failed))
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	id := from.GetCheckpoint().GetCheckpointId()
	err := c.cache.fill(ctx, f, func(ctx context.Context, offset int64) (io.ReadCloser, error) {
		ctx, cancel := context.WithCancel(ctx)
		stream, err := c.runs.DownloadCheckpointFile(ctx, &registryv1.DownloadCheckpointFileRequest{CheckpointId: id, Path: f.Path, Offset: offset})
		if err != nil {
			cancel()
			return nil, err
		}
		return &chunks{stream: stream.Recv, cancel: cancel}, nil
	})
	if err != nil {
		return errors.Join(err, failed)
	}
	return nil
}

// piecesOf are the transfers that a file is made of, in its order: one, or one for each chunk that it is stored as. None when
// one of them is not offered.
func piecesOf(f File, from *registryv1.ResolveModelResponse) []*registryv1.TransferURL {
	byDigest := map[string]*registryv1.TransferURL{}
	for _, t := range from.GetDownloads() {
		if slices.Contains(t.GetPaths(), f.Path) {
			return []*registryv1.TransferURL{t}
		}
		byDigest[string(t.GetSha256())] = t
	}
	var out []*registryv1.TransferURL
	for _, file := range from.GetCheckpoint().GetFiles() {
		if file.GetPath() != f.Path {
			continue
		}
		for _, chunk := range file.GetChunks() {
			t := byDigest[string(chunk.GetSha256())]
			if t == nil || t.GetSizeBytes() != chunk.GetSizeBytes() {
				return nil
			}
			out = append(out, t)
		}
	}
	return out
}

// piece reads from an offset of the file to the end of the piece that it is in; whoever reads goes on with the next.
func (c *Client) piece(ctx context.Context, pieces []*registryv1.TransferURL, offset int64) (io.ReadCloser, error) {
	last := len(pieces) - 1
	for _, t := range pieces[:last] {
		if offset < t.GetSizeBytes() {
			body, err := c.get(ctx, t, offset)
			if err != nil {
				return nil, err
			}
			return struct {
				io.Reader
				io.Closer
			}{io.LimitReader(body, t.GetSizeBytes()-offset), body}, nil
		}
		offset -= t.GetSizeBytes()
	}
	return c.get(ctx, pieces[last], offset)
}

// get sends a presigned request as it is.
func (c *Client) get(ctx context.Context, t *registryv1.TransferURL, offset int64) (io.ReadCloser, error) {
	r, err := http.NewRequestWithContext(ctx, t.GetMethod(), t.GetUrl(), nil)
	if err != nil {
		return nil, errors.New("the registry gave a URL that cannot be read") // the text of err has it, and it is a secret
	}
	for k, v := range t.GetHeaders() {
		r.Header.Set(k, v)
	}
	want := http.StatusOK
	if offset > 0 {
		r.Header.Set("Range", fmt.Sprintf("bytes=%d-", offset))
		want = http.StatusPartialContent
	}
	resp, err := c.http.Do(r)
	if err != nil {
		var wrapped interface{ Unwrap() error }
		if errors.As(err, &wrapped) {
			err = wrapped.Unwrap() // without the URL
		}
		return nil, fmt.Errorf("object store: %w", err)
	}
	if resp.StatusCode != want {
		return nil, errors.Join(fmt.Errorf("object store: status %s", resp.Status), resp.Body.Close())
	}
	return resp.Body, nil
}

// chunks reads a stream of messages.
type chunks struct {
	stream func() (*registryv1.DownloadCheckpointFileResponse, error)
	rest   []byte
	cancel context.CancelFunc
}

func (c *chunks) Read(b []byte) (int, error) {
	for len(c.rest) == 0 {
		m, err := c.stream()
		if err != nil {
			return 0, err
		}
		c.rest = m.GetChunk()
	}
	n := copy(b, c.rest)
	c.rest = c.rest[n:]
	return n, nil
}

func (c *chunks) Close() error { c.cancel(); return nil }

// fill downloads a content beside the others and gives it its name when its size and digest
// are right. What a broken connection, or a killed process, left is hashed again and gone
// on with.
func (c *cache) fill(ctx context.Context, f File, from source) error {
	name := "partial/" + f.SHA256
	file, err := c.root.OpenFile(name, os.O_CREATE|os.O_RDWR, 0o644)
	if errors.Is(err, os.ErrPermission) {
		// A whole one that was not renamed any more: read only, so it is begun anew.
		if err = c.root.Remove(name); err == nil {
			file, err = c.root.OpenFile(name, os.O_CREATE|os.O_RDWR, 0o644)
		}
	}
	if err != nil {
		return err
	}
	sum := sha256.New()
	at, err := io.Copy(sum, file)
	for left := attempts; err == nil && at < f.Size && left > 0; left-- {
		var n int64
		n, err = more(ctx, io.MultiWriter(file, sum), from, at, f.Size-at)
		at += n
		if n > 0 {
			left = attempts + 1 // it gets on: a bad line is no reason to give up
		}
		if err != nil && ctx.Err() == nil && left > 1 {
			err = nil
		}
	}
	if err == nil && at != f.Size {
		err = fmt.Errorf("%d of %d bytes came", at, f.Size)
	}
	if err == nil && !right(sum, f) {
		err = errors.Join(ErrDigest, c.root.Remove(name))
	}
	if err == nil {
		err = errors.Join(file.Sync(), file.Chmod(0o444))
	}
	if err := errors.Join(err, file.Close()); err != nil {
		return err
	}
	return c.root.Rename(name, blobName(f.SHA256))
}

func right(sum hash.Hash, f File) bool { return hex.EncodeToString(sum.Sum(nil)) == f.SHA256 }

// more copies at most limit bytes from where the download stands.
func more(ctx context.Context, to io.Writer, from source, offset, limit int64) (int64, error) {
	body, err := from(ctx, offset)
	if err != nil {
		return 0, err
	}
	n, err := io.Copy(to, io.LimitReader(body, limit))
	return n, errors.Join(err, body.Close())
}
