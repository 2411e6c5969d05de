package objectstore

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"net"
	"net/http"
	"net/url"

	"github.com/minio/minio-go/v7"
)

// wrap names the object and gives the error its kind.
func (s *s3) wrap(what, key string, err error) error {
	if err == nil {
		return nil
	}
	name := s.bucket
	if key != "" {
		name += "/" + key
	}
	if kind := classify(err); kind != nil {
		return fmt.Errorf("%s %s: %w: %w", what, name, kind, err)
	}
	return fmt.Errorf("%s %s: %w", what, name, err)
}

func classify(err error) error {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return nil
	}
	resp := minio.ToErrorResponse(err)
	switch resp.Code {
	case "NoSuchKey", "NoSuchBucket", "NoSuchUpload":
		return ErrNotFound
	case "BadDigest", "XAmzContentSHA256Mismatch", "InvalidDigest", "XAmzContentChecksumMismatch":
		return ErrDigestMismatch
	case "SlowDown", "ServiceUnavailable", "InternalError", "RequestTimeout":
		return ErrUnavailable
	}
	switch {
	case resp.StatusCode == http.StatusNotFound:
		return ErrNotFound
	case resp.StatusCode >= http.StatusInternalServerError, resp.StatusCode == http.StatusTooManyRequests:
		return ErrUnavailable
	}
	var ne net.Error
	var ue *url.Error
	if errors.As(err, &ne) || errors.As(err, &ue) || errors.Is(err, io.ErrUnexpectedEOF) {
		return ErrUnavailable
	}
	return nil
}

// verifier hashes what is read and judges at the end.
type verifier struct {
	key  string
	want string
	body io.ReadCloser
	sum  hash.Hash
}

func (v *verifier) Read(b []byte) (int, error) {
	n, err := v.body.Read(b)
	v.sum.Write(b[:n])
	if !errors.Is(err, io.EOF) {
		return n, err
	}
	if got := hex.EncodeToString(v.sum.Sum(nil)); v.want != "" && got != v.want {
		return n, fmt.Errorf("get %s: %w: sha256 %s is stored, %s was promised", v.key, ErrDigestMismatch, got, v.want)
	}
	return n, io.EOF
}

func (v *verifier) Close() error { return v.body.Close() }
