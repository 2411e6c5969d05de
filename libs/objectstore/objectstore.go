// Package objectstore keeps bytes in one bucket of an S3 server and never trusts them:
// every upload, also one by a presigned URL, is bound to its sha256, which the server
// checks, and every download can be checked again. Digests are lowercase hex.
//
// A service that stands alone may keep its objects in a directory instead (OpenDirectory).
// A directory cannot be reached by URL: what needs a presigned request returns
// ErrUnsupported there.
package objectstore

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// Config says where the bucket is.
type Config struct {
	// Endpoint is host:port, or an https:// or http:// URL without a path.
	Endpoint  string
	AccessKey string
	SecretKey string
	Bucket    string
	// Region defaults to us-east-1.
	Region string
	// CA is a PEM file with the server's authority; empty means the system's.
	CA string
	// Insecure speaks http. Only for a network that is itself trusted.
	Insecure bool
}

// Object is what the server says about one object.
type Object struct {
	Key     string
	Size    int64
	ModTime time.Time
	// SHA256 is the digest that the server has checked at upload, "" when it kept none.
	SHA256 string
}

// Request is a presigned request: its URL, and headers that must be sent unchanged.
type Request struct {
	Method  string
	URL     string
	Headers map[string]string
	// Expires is when the server stops accepting it, by its clock.
	Expires time.Time
}

// Errors of a Store; test with errors.Is.
var (
	// ErrNotFound: there is no such object (or bucket).
	ErrNotFound = errors.New("object not found")
	// ErrDigestMismatch: the bytes do not have the promised digest or size.
	ErrDigestMismatch = errors.New("object digest mismatch")
	// ErrUnavailable: the server is away or overloaded; try again.
	ErrUnavailable = errors.New("object store unavailable")
	// ErrUnsupported: this kind of store cannot do that.
	ErrUnsupported = errors.New("not supported by this artifact store")
)

const (
	checksumHeader = "X-Amz-Checksum-Sha256"
	defaultRegion  = "us-east-1"
	// maxSingle is S3's bound for one PUT. Larger objects go up in parts, whose checksums
	// replace the object's sha256: Verify reads those.
	maxSingle = 5 << 30
)

// Store is one bucket, or one directory.
type Store struct {
	backend backend
	name    string
}

// backend is where the bytes are. Its errors are this package's kinds, with the object's
// name in them.
type backend interface {
	ensure(ctx context.Context) error
	presign(ctx context.Context, method, key string, ttl time.Duration, query url.Values, headers http.Header) (Request, error)
	put(ctx context.Context, key string, r io.Reader, size int64, digest string) (Object, error)
	stat(ctx context.Context, key string) (Object, error)
	// get reads length bytes from offset on; a negative length means to the end.
	get(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error)
	list(ctx context.Context, prefix string) iter.Seq2[Object, error]
	remove(ctx context.Context, key string) error

	begin(ctx context.Context, key string, checked bool) (string, error)
	pending(ctx context.Context, key string) ([]string, error)
	parts(ctx context.Context, key, upload string) ([]Part, error)
	complete(ctx context.Context, key, upload string, parts []Part) error
	abort(ctx context.Context, key, upload string) error
}

// Bucket is the bucket's name, or the directory's path.
func (s *Store) Bucket() string { return s.name }

// EnsureBucket makes the bucket when it is missing.
func (s *Store) EnsureBucket(ctx context.Context) error { return s.backend.ensure(ctx) }

// PresignPut returns a request that stores exactly the bytes with this digest and size
// under key: the digest is a signed header, so whoever holds the URL can neither send
// other bytes nor leave the check out. ttl is 1 s to 7 days.
func (s *Store) PresignPut(ctx context.Context, key, digest string, size int64, ttl time.Duration) (Request, error) {
	sum, err := wireDigest(digest)
	if err != nil {
		return Request{}, err
	}
	if size < 0 || size > maxSingle {
		return Request{}, fmt.Errorf("presign %s: %d bytes is outside of 0 to %d", key, size, int64(maxSingle))
	}
	headers := http.Header{}
	headers.Set(checksumHeader, sum)
	headers.Set("Content-Length", strconv.FormatInt(size, 10))
	return s.backend.presign(ctx, http.MethodPut, key, ttl, nil, headers)
}

// PresignGet returns a request that reads key.
func (s *Store) PresignGet(ctx context.Context, key string, ttl time.Duration) (Request, error) {
	return s.backend.presign(ctx, http.MethodGet, key, ttl, nil, nil)
}

// Put stores size bytes of r under key. Bytes that do not have the digest are refused by
// the server and nothing is stored.
func (s *Store) Put(ctx context.Context, key string, r io.Reader, size int64, digest string) (Object, error) {
	if _, err := wireDigest(digest); err != nil {
		return Object{}, err
	}
	if size < 0 || size > maxSingle {
		return Object{}, fmt.Errorf("put %s: %d bytes is outside of 0 to %d", key, size, int64(maxSingle))
	}
	return s.backend.put(ctx, key, r, size, digest)
}

// PutBytes is Put for bytes in memory.
func (s *Store) PutBytes(ctx context.Context, key string, b []byte) (Object, error) {
	return s.Put(ctx, key, bytes.NewReader(b), int64(len(b)), Digest(b))
}

// Stat says what the store has under key.
func (s *Store) Stat(ctx context.Context, key string) (Object, error) {
	return s.backend.stat(ctx, key)
}

// Verify checks that key holds size bytes with this digest. It takes the server's own
// checksum when there is one, and reads the object when there is none.
func (s *Store) Verify(ctx context.Context, key, digest string, size int64) error {
	o, err := s.Stat(ctx, key)
	if err != nil {
		return err
	}
	if o.Size != size {
		return fmt.Errorf("%s: %w: %d bytes are stored, %d were promised", key, ErrDigestMismatch, o.Size, size)
	}
	if o.SHA256 == digest {
		return nil
	}
	if o.SHA256 != "" {
		return fmt.Errorf("%s: %w: sha256 %s is stored, %s was promised", key, ErrDigestMismatch, o.SHA256, digest)
	}
	r, err := s.Get(ctx, key, digest)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, r)
	return errors.Join(err, r.Close())
}

// Get reads key. With a digest the last Read returns ErrDigestMismatch instead of io.EOF
// when the bytes do not have it: use nothing before the end was clean. With "" they
// are not checked. Close the reader.
func (s *Store) Get(ctx context.Context, key, digest string) (io.ReadCloser, error) {
	if digest != "" {
		if _, err := wireDigest(digest); err != nil {
			return nil, err
		}
	}
	body, err := s.backend.get(ctx, key, 0, -1)
	if err != nil {
		return nil, err
	}
	return &verifier{key: key, want: digest, body: body, sum: sha256.New()}, nil
}

// GetRange reads length bytes of key from offset on; a negative length means to the end. A
// part of an object has no digest of its own, so the bytes are not checked: whoever must
// be sure reads the whole.
func (s *Store) GetRange(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	if offset < 0 {
		return nil, fmt.Errorf("get %s: offset %d is negative", key, offset)
	}
	if length == 0 {
		return io.NopCloser(strings.NewReader("")), nil
	}
	return s.backend.get(ctx, key, offset, length)
}

// GetBytes is Get for small objects: it reads at most limit bytes and checks the digest.
func (s *Store) GetBytes(ctx context.Context, key, digest string, limit int64) ([]byte, error) {
	r, err := s.Get(ctx, key, digest)
	if err != nil {
		return nil, err
	}
	b, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err := errors.Join(err, r.Close()); err != nil {
		return nil, err
	}
	if int64(len(b)) > limit {
		return nil, fmt.Errorf("get %s: larger than %d bytes", key, limit)
	}
	return b, nil
}

// List yields the objects whose key begins with prefix, in key order. It ends after the
// first error. The digests are not filled in.
func (s *Store) List(ctx context.Context, prefix string) iter.Seq2[Object, error] {
	return s.backend.list(ctx, prefix)
}

// Delete removes key. Removing what is not there is no error: a sweep repeats.
func (s *Store) Delete(ctx context.Context, key string) error {
	err := s.backend.remove(ctx, key)
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	return err
}

// Digest is the sha256 of b as a Store takes it.
func Digest(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// wireDigest turns our hex form into S3's base64.
func wireDigest(digest string) (string, error) {
	raw, err := hex.DecodeString(digest)
	if err != nil || len(raw) != sha256.Size || digest != strings.ToLower(digest) {
		return "", fmt.Errorf("%q is not a sha256 in lowercase hex", digest)
	}
	return base64.StdEncoding.EncodeToString(raw), nil
}
