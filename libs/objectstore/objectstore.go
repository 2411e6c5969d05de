// Package objectstore keeps bytes in one bucket of an S3 server and never trusts them:
// every upload, also one by a presigned URL, is bound to its sha256, which the server
// checks, and every download can be checked again. Digests are lowercase hex.
package objectstore

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
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
)

const (
	checksumHeader = "X-Amz-Checksum-Sha256"
	defaultRegion  = "us-east-1"
	// maxSingle is S3's bound for one PUT. Checkpoints are far below; multipart would
	// replace the object's sha256 by one of its parts' checksums.
	maxSingle = 5 << 30
)

// Store is one bucket.
type Store struct {
	client *minio.Client
	bucket string
	region string
}

// Open makes a client; it does not connect. Call EnsureBucket to learn whether the
// server is there.
func Open(cfg Config) (*Store, error) {
	host, secure, err := endpoint(cfg)
	if err != nil {
		return nil, err
	}
	if cfg.Bucket == "" || cfg.AccessKey == "" || cfg.SecretKey == "" {
		return nil, errors.New("object store: s3-bucket, s3-access-key and s3-secret-key are all needed")
	}
	if cfg.Region == "" {
		cfg.Region = defaultRegion
	}
	transport, err := minio.DefaultTransport(secure)
	if err != nil {
		return nil, fmt.Errorf("object store: %w", err)
	}
	if cfg.CA != "" && secure {
		raw, err := os.ReadFile(cfg.CA)
		if err != nil {
			return nil, fmt.Errorf("s3-ca: %w", err)
		}
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(raw) {
			return nil, fmt.Errorf("s3-ca: %s holds no certificate", cfg.CA)
		}
		transport.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: pool}
	}
	client, err := minio.New(host, &minio.Options{
		Creds:        credentials.NewStaticV4(cfg.AccessKey, cfg.SecretKey, ""),
		Secure:       secure,
		Region:       cfg.Region, // without it the client asks the server before its first call
		Transport:    transport,
		BucketLookup: minio.BucketLookupPath,
		MaxRetries:   5,
	})
	if err != nil {
		return nil, fmt.Errorf("s3-endpoint %q: %w", cfg.Endpoint, err)
	}
	return &Store{client: client, bucket: cfg.Bucket, region: cfg.Region}, nil
}

func endpoint(cfg Config) (host string, secure bool, err error) {
	if !strings.Contains(cfg.Endpoint, "://") {
		return cfg.Endpoint, !cfg.Insecure, nil
	}
	u, err := url.Parse(cfg.Endpoint)
	if err != nil || u.Host == "" || strings.Trim(u.Path, "/") != "" || (u.Scheme != "http" && u.Scheme != "https") {
		return "", false, fmt.Errorf("s3-endpoint %q must be host:port, or an http:// or https:// URL without a path", cfg.Endpoint)
	}
	if u.Scheme == "http" && !cfg.Insecure {
		return "", false, fmt.Errorf("s3-endpoint %q is not encrypted; use https://, or set Insecure for a trusted network", cfg.Endpoint)
	}
	return u.Host, u.Scheme == "https", nil
}

// Bucket is the bucket's name.
func (s *Store) Bucket() string { return s.bucket }

// EnsureBucket makes the bucket when it is missing.
func (s *Store) EnsureBucket(ctx context.Context) error {
	exists, err := s.client.BucketExists(ctx, s.bucket)
	if err != nil {
		return s.wrap("look for", "", err)
	}
	if exists {
		return nil
	}
	err = s.client.MakeBucket(ctx, s.bucket, minio.MakeBucketOptions{Region: s.region})
	switch minio.ToErrorResponse(err).Code {
	case "BucketAlreadyOwnedByYou", "BucketAlreadyExists":
		return nil
	}
	return s.wrap("make", "", err)
}

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
	return s.presign(ctx, http.MethodPut, key, ttl, headers)
}

// PresignGet returns a request that reads key.
func (s *Store) PresignGet(ctx context.Context, key string, ttl time.Duration) (Request, error) {
	return s.presign(ctx, http.MethodGet, key, ttl, nil)
}

func (s *Store) presign(ctx context.Context, method, key string, ttl time.Duration, headers http.Header) (Request, error) {
	expires := time.Now().Add(ttl)
	u, err := s.client.PresignHeader(ctx, method, s.bucket, key, ttl, nil, headers)
	if err != nil {
		return Request{}, s.wrap("presign", key, err)
	}
	r := Request{Method: method, URL: u.String(), Headers: map[string]string{}, Expires: expires}
	for k := range headers {
		r.Headers[k] = headers.Get(k)
	}
	return r, nil
}

// Put stores size bytes of r under key. Bytes that do not have the digest are refused by
// the server and nothing is stored.
func (s *Store) Put(ctx context.Context, key string, r io.Reader, size int64, digest string) (Object, error) {
	sum, err := wireDigest(digest)
	if err != nil {
		return Object{}, err
	}
	if size < 0 || size > maxSingle {
		return Object{}, fmt.Errorf("put %s: %d bytes is outside of 0 to %d", key, size, int64(maxSingle))
	}
	info, err := s.client.PutObject(ctx, s.bucket, key, r, size, minio.PutObjectOptions{
		ContentType:      "application/octet-stream",
		DisableMultipart: true,
		UserMetadata:     map[string]string{checksumHeader: sum},
	})
	if err != nil {
		return Object{}, s.wrap("put", key, err)
	}
	return Object{Key: key, Size: info.Size, SHA256: digest, ModTime: info.LastModified}, nil
}

// PutBytes is Put for bytes in memory.
func (s *Store) PutBytes(ctx context.Context, key string, b []byte) (Object, error) {
	return s.Put(ctx, key, bytes.NewReader(b), int64(len(b)), Digest(b))
}

// Stat says what the server has under key.
func (s *Store) Stat(ctx context.Context, key string) (Object, error) {
	info, err := s.client.StatObject(ctx, s.bucket, key, minio.StatObjectOptions{Checksum: true})
	if err != nil {
		return Object{}, s.wrap("stat", key, err)
	}
	return object(info), nil
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
	// The low-level call: the client's Object reads ahead in a goroutine of its own.
	core := minio.Core{Client: s.client}
	body, _, _, err := core.GetObject(ctx, s.bucket, key, minio.GetObjectOptions{})
	if err != nil {
		return nil, s.wrap("get", key, err)
	}
	return &verifier{store: s, key: key, want: digest, body: body, sum: sha256.New()}, nil
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
	return func(yield func(Object, error) bool) {
		for info := range s.client.ListObjectsIter(ctx, s.bucket, minio.ListObjectsOptions{Prefix: prefix, Recursive: true}) {
			if info.Err != nil {
				yield(Object{}, s.wrap("list", prefix, info.Err))
				return
			}
			if !yield(object(info), nil) {
				return
			}
		}
	}
}

// Delete removes key. Removing what is not there is no error: a sweep repeats.
func (s *Store) Delete(ctx context.Context, key string) error {
	err := s.wrap("delete", key, s.client.RemoveObject(ctx, s.bucket, key, minio.RemoveObjectOptions{}))
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

func object(info minio.ObjectInfo) Object {
	o := Object{Key: info.Key, Size: info.Size, ModTime: info.LastModified}
	// A checksum of parts ends in "-<count>" and is not the object's.
	if raw, err := base64.StdEncoding.DecodeString(info.ChecksumSHA256); err == nil && len(raw) == sha256.Size {
		o.SHA256 = hex.EncodeToString(raw)
	}
	return o
}
