package objectstore

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"net/http"
	"net/url"
	"os"
	"path"
	"strings"
	"time"
)

// directory keeps objects as files. os.Root confines every key to it, whatever the key says.
type directory struct {
	root *os.Root
	path string
}

// incoming holds what is being written: a name that no key may have.
const incoming = ".incoming"

// maxKey is S3's bound of a key, kept here so that both kinds of store refuse the same.
const maxKey = 1024

// OpenDirectory returns a store over a directory, made when it is missing. It is for a
// service that stands alone; nothing else may write there.
func OpenDirectory(dir string) (*Store, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("artifact directory: %w", err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("artifact directory: %w", err)
	}
	return &Store{backend: &directory{root: root, path: dir}, name: dir}, nil
}

func (d *directory) ensure(context.Context) error {
	if err := d.root.MkdirAll(incoming, 0o700); err != nil {
		return fmt.Errorf("artifact directory %s: %w", d.path, err)
	}
	// What a killed process left behind is nobody's.
	entries, err := fs.ReadDir(d.root.FS(), incoming)
	if err != nil {
		return fmt.Errorf("artifact directory %s: %w", d.path, err)
	}
	for _, e := range entries {
		if err := d.root.RemoveAll(incoming + "/" + e.Name()); err != nil {
			return fmt.Errorf("artifact directory %s: %w", d.path, err)
		}
	}
	return nil
}

// name checks a key: os.Root keeps it inside, this keeps two keys from meaning one file.
func (d *directory) name(key string) (string, error) {
	if key == "" || len(key) > maxKey || !fs.ValidPath(key) || key == "." || strings.HasPrefix(key, incoming) || strings.ContainsAny(key, "\x00\\") {
		return "", fmt.Errorf("%q is no object key", key)
	}
	return key, nil
}

func (d *directory) wrap(what, key string, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s %s: %w", what, key, ErrNotFound)
	}
	return fmt.Errorf("%s %s: %w", what, key, err)
}

func (d *directory) presign(context.Context, string, string, time.Duration, url.Values, http.Header) (Request, error) {
	return Request{}, fmt.Errorf("a directory cannot be reached by URL: %w; set artifact-root to an S3 bucket for that", ErrUnsupported)
}

// put writes beside the objects, syncs and renames: a key is there whole or not at all, and
// what is reported as stored survives a power loss.
func (d *directory) put(ctx context.Context, key string, r io.Reader, size int64, digest string) (_ Object, err error) {
	name, err := d.name(key)
	if err != nil {
		return Object{}, err
	}
	if err := d.root.MkdirAll(incoming, 0o700); err != nil {
		return Object{}, d.wrap("put", key, err)
	}
	temporary := incoming + "/" + rand.Text()
	f, err := d.root.OpenFile(temporary, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return Object{}, d.wrap("put", key, err)
	}
	defer func() {
		if err != nil {
			_ = d.root.Remove(temporary) // ensure removes what this leaves
		}
	}()
	sum := sha256.New()
	n, err := io.Copy(io.MultiWriter(f, sum), io.LimitReader(contextReader{ctx, r}, size+1))
	if err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return Object{}, d.wrap("put", key, err)
	}
	if got := hex.EncodeToString(sum.Sum(nil)); n != size || got != digest {
		return Object{}, fmt.Errorf("put %s: %w: %d bytes with sha256 %s came, %d with %s were promised", key, ErrDigestMismatch, n, got, size, digest)
	}
	if err := d.root.MkdirAll(path.Dir(name), 0o700); err != nil {
		return Object{}, d.wrap("put", key, err)
	}
	if err := d.root.Rename(temporary, name); err != nil {
		return Object{}, d.wrap("put", key, err)
	}
	for dir := path.Dir(name); ; dir = path.Dir(dir) {
		if err := d.sync(dir); err != nil {
			return Object{}, d.wrap("put", key, err)
		}
		if dir == "." {
			break
		}
	}
	return Object{Key: key, Size: size, SHA256: digest, ModTime: time.Now()}, nil
}

func (d *directory) sync(dir string) error {
	f, err := d.root.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// stat has no digest: a file keeps none, so Verify reads it.
func (d *directory) stat(_ context.Context, key string) (Object, error) {
	name, err := d.name(key)
	if err != nil {
		return Object{}, err
	}
	info, err := d.root.Stat(name)
	if err != nil {
		return Object{}, d.wrap("stat", key, err)
	}
	if !info.Mode().IsRegular() {
		return Object{}, d.wrap("stat", key, fs.ErrNotExist)
	}
	return Object{Key: key, Size: info.Size(), ModTime: info.ModTime()}, nil
}

func (d *directory) get(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	if _, err := d.stat(ctx, key); err != nil {
		return nil, err
	}
	f, err := d.root.Open(key)
	if err != nil {
		return nil, d.wrap("get", key, err)
	}
	if _, err := f.Seek(offset, io.SeekStart); err != nil {
		return nil, errors.Join(d.wrap("get", key, err), f.Close())
	}
	if length < 0 {
		return f, nil
	}
	return struct {
		io.Reader
		io.Closer
	}{io.LimitReader(f, length), f}, nil
}

func (d *directory) list(ctx context.Context, prefix string) iter.Seq2[Object, error] {
	return func(yield func(Object, error) bool) {
		err := fs.WalkDir(d.root.FS(), ".", func(name string, entry fs.DirEntry, err error) error {
			switch {
			case err != nil:
				return err
			case ctx.Err() != nil:
				return ctx.Err()
			case entry.IsDir() && name == incoming:
				return fs.SkipDir
			case entry.IsDir() || !strings.HasPrefix(name, prefix):
				return nil
			}
			o, err := d.stat(ctx, name)
			if errors.Is(err, ErrNotFound) {
				return nil // removed meanwhile
			}
			if err == nil && !yield(o, nil) {
				return fs.SkipAll
			}
			return err
		})
		if err != nil {
			yield(Object{}, fmt.Errorf("list %s: %w", prefix, err))
		}
	}
}

func (d *directory) remove(_ context.Context, key string) error {
	name, err := d.name(key)
	if err != nil {
		return err
	}
	if err := d.root.Remove(name); err != nil {
		return d.wrap("delete", key, err)
	}
	return nil
}

// No parts: without URLs every byte passes through this process anyway, in one stream.

func (d *directory) begin(context.Context, string, bool) (string, error) {
	return "", fmt.Errorf("begin upload in parts: %w", ErrUnsupported)
}

func (d *directory) pending(context.Context, string) ([]string, error) {
	return nil, fmt.Errorf("list uploads in parts: %w", ErrUnsupported)
}

func (d *directory) parts(context.Context, string, string) ([]Part, error) {
	return nil, fmt.Errorf("list parts: %w", ErrUnsupported)
}

func (d *directory) complete(context.Context, string, string, []Part) error {
	return fmt.Errorf("complete upload in parts: %w", ErrUnsupported)
}

func (d *directory) abort(context.Context, string, string) error {
	return fmt.Errorf("abort upload in parts: %w", ErrUnsupported)
}

// contextReader ends a copy whose caller went away.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (c contextReader) Read(b []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(b)
}
