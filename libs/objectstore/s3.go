package objectstore

import (
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
	"strings"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
)

// s3 is a bucket of an S3 server.
type s3 struct {
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
	return &Store{backend: &s3{client: client, bucket: cfg.Bucket, region: cfg.Region}, name: cfg.Bucket}, nil
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

func (s *s3) ensure(ctx context.Context) error {
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

func (s *s3) presign(ctx context.Context, method, key string, ttl time.Duration, query url.Values, headers http.Header) (Request, error) {
	expires := time.Now().Add(ttl)
	u, err := s.client.PresignHeader(ctx, method, s.bucket, key, ttl, query, headers)
	if err != nil {
		return Request{}, s.wrap("presign", key, err)
	}
	r := Request{Method: method, URL: u.String(), Headers: map[string]string{}, Expires: expires}
	for k := range headers {
		r.Headers[k] = headers.Get(k)
	}
	return r, nil
}

func (s *s3) put(ctx context.Context, key string, r io.Reader, size int64, digest string) (Object, error) {
	sum, err := wireDigest(digest)
	if err != nil {
		return Object{}, err
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

func (s *s3) stat(ctx context.Context, key string) (Object, error) {
	info, err := s.client.StatObject(ctx, s.bucket, key, minio.StatObjectOptions{Checksum: true})
	if err != nil {
		return Object{}, s.wrap("stat", key, err)
	}
	return object(info), nil
}

func (s *s3) get(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	var opts minio.GetObjectOptions
	if offset > 0 || length >= 0 {
		end := int64(0) // the client's spelling of "to the end"
		if length > 0 {
			end = offset + length - 1
		}
		if offset == 0 && end == 0 {
			// It cannot spell the first byte alone: 0-0 would be everything.
			opts.Set("Range", "bytes=0-0")
		} else if err := opts.SetRange(offset, end); err != nil {
			return nil, fmt.Errorf("get %s: %w", key, err)
		}
	}
	// The low-level call: the client's Object reads ahead in a goroutine of its own.
	core := minio.Core{Client: s.client}
	body, _, _, err := core.GetObject(ctx, s.bucket, key, opts)
	if err != nil {
		return nil, s.wrap("get", key, err)
	}
	return &reading{s3: s, key: key, body: body}, nil
}

// reading gives a broken download its kind.
type reading struct {
	s3   *s3
	key  string
	body io.ReadCloser
}

func (r *reading) Read(b []byte) (int, error) {
	n, err := r.body.Read(b)
	if err != nil && !errors.Is(err, io.EOF) {
		err = r.s3.wrap("get", r.key, err)
	}
	return n, err
}

func (r *reading) Close() error { return r.body.Close() }

func (s *s3) list(ctx context.Context, prefix string) iter.Seq2[Object, error] {
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

func (s *s3) remove(ctx context.Context, key string) error {
	return s.wrap("delete", key, s.client.RemoveObject(ctx, s.bucket, key, minio.RemoveObjectOptions{}))
}

func object(info minio.ObjectInfo) Object {
	o := Object{Key: info.Key, Size: info.Size, ModTime: info.LastModified}
	// A checksum of parts ends in "-<count>" and is not the object's.
	if raw, err := base64.StdEncoding.DecodeString(info.ChecksumSHA256); err == nil && len(raw) == sha256.Size {
		o.SHA256 = hex.EncodeToString(raw)
	}
	return o
}
