// Package contents reads files out of the object store, put together from their chunks where they are
// stored as several. It proves what it reads: each object by its digest, and the file by its own.
package contents

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"strings"

	"github.com/ultrathink-pilot/trainyard/libs/objectstore"
	"github.com/ultrathink-pilot/trainyard/services/registry/internal/catalog"
)

// Store is the object store.
type Store interface {
	Get(ctx context.Context, key, digest string) (io.ReadCloser, error)
	GetRange(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error)
}

// Open reads a whole file. The last Read returns objectstore.ErrDigestMismatch instead of io.EOF when the
// bytes are not the file's: use nothing before the end was clean.
func Open(ctx context.Context, from Store, f catalog.File) (io.ReadCloser, error) {
	if len(f.Chunks) == 0 {
		return from.Get(ctx, f.ObjectKey, f.SHA256)
	}
	ctx, cancel := context.WithCancel(ctx)
	r := &joined{cancel: cancel, sum: sha256.New(), file: f}
	for _, c := range f.Chunks {
		r.todo = append(r.todo, piece{c.Size, func() (io.ReadCloser, error) { return from.Get(ctx, c.ObjectKey, c.SHA256) }})
	}
	return r.begin()
}

// OpenRange reads length bytes from offset on, which must lie within the file. A range cannot be verified.
func OpenRange(ctx context.Context, from Store, f catalog.File, offset, length int64) (io.ReadCloser, error) {
	if length == 0 {
		return io.NopCloser(strings.NewReader("")), nil
	}
	if len(f.Chunks) == 0 {
		return from.GetRange(ctx, f.ObjectKey, offset, length)
	}
	ctx, cancel := context.WithCancel(ctx)
	r := &joined{cancel: cancel}
	at := int64(0)
	for _, c := range f.Chunks {
		begin, end := max(offset-at, 0), min(offset+length-at, c.Size)
		if begin < end {
			r.todo = append(r.todo, piece{end - begin, func() (io.ReadCloser, error) { return from.GetRange(ctx, c.ObjectKey, begin, end-begin) }})
		}
		at += c.Size
	}
	return r.begin()
}

// begin opens the first object, so that a file that is not there is refused before anything is read.
func (r *joined) begin() (io.ReadCloser, error) {
	if err := r.next(); err != nil {
		return nil, errors.Join(err, r.Close())
	}
	return r, nil
}

// Prove reads a file that is stored as chunks and compares every digest.
func Prove(ctx context.Context, from Store, f catalog.File) error {
	body, err := Open(ctx, from, f)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, body)
	return errors.Join(err, body.Close())
}

type piece struct {
	size int64
	open func() (io.ReadCloser, error)
}

type opened struct {
	body io.ReadCloser
	err  error
}

// joined reads one object after the other. While one is read the next is asked for: a store across
// a network answers after milliseconds, and a file has many chunks.
type joined struct {
	cancel context.CancelFunc
	todo   []piece
	ahead  chan opened
	// body is what is being read, with left bytes to come; nil at the end.
	body io.ReadCloser
	left int64
	// sum is nil for a range.
	sum    hash.Hash
	file   catalog.File
	failed error
}

// ask opens the first of what is left.
func (r *joined) ask() {
	ahead, open := make(chan opened, 1), r.todo[0].open
	r.ahead = ahead
	go func() {
		body, err := open()
		ahead <- opened{body, err}
	}()
}

// next goes on to the next object, if there is one.
func (r *joined) next() error {
	r.body = nil
	if len(r.todo) == 0 {
		return nil
	}
	if r.ahead == nil {
		r.ask()
	}
	got := <-r.ahead
	r.ahead = nil
	if got.err != nil {
		r.failed = got.err
		return got.err
	}
	r.body, r.left, r.todo = got.body, r.todo[0].size, r.todo[1:]
	if len(r.todo) > 0 {
		r.ask()
	}
	return nil
}

func (r *joined) Read(b []byte) (int, error) {
	for r.failed == nil && r.body != nil {
		n, err := r.body.Read(b)
		r.left -= int64(n)
		if r.sum != nil {
			r.sum.Write(b[:n])
		}
		if errors.Is(err, io.EOF) {
			if err = r.body.Close(); r.left != 0 {
				err = errors.Join(fmt.Errorf("%s: %w: a chunk ended %d bytes from its end", r.file.Name, objectstore.ErrUnavailable, r.left), err)
			}
			if err == nil {
				err = r.next()
			}
		}
		if r.failed = err; n > 0 || err != nil {
			return n, err
		}
	}
	switch {
	case r.failed != nil:
		return 0, r.failed
	case r.sum != nil && hex.EncodeToString(r.sum.Sum(nil)) != r.file.SHA256:
		r.failed = fmt.Errorf("%s: %w: its chunks are not the file with sha256 %s", r.file.Name, objectstore.ErrDigestMismatch, r.file.SHA256)
	default:
		r.failed = io.EOF
	}
	return 0, r.failed
}

// Close ends the requests that are under way.
func (r *joined) Close() error {
	r.cancel()
	if r.failed == nil {
		r.failed = io.ErrClosedPipe
	}
	var err error
	if r.body != nil {
		err = r.body.Close()
	}
	if r.ahead != nil {
		if got := <-r.ahead; got.body != nil {
			err = errors.Join(err, got.body.Close())
		}
	}
	r.body, r.ahead = nil, nil
	return err
}
