package objectstore_test

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ultrathink-pilot/trainyard/libs/objectstore"
	"github.com/ultrathink-pilot/trainyard/libs/objectstore/s3test"
)

func randomBytes(n int) []byte {
	b := make([]byte, n)
	r := rand.New(rand.NewPCG(1, uint64(n)))
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

// onEach runs a test on every kind of store: they must not be told apart.
func onEach(t *testing.T, test func(t *testing.T, s *objectstore.Store)) {
	t.Parallel()
	t.Run("directory", func(t *testing.T) {
		t.Parallel()
		s, err := objectstore.OpenDirectory(filepath.Join(t.TempDir(), "objects"))
		if err != nil {
			t.Fatal(err)
		}
		if err := s.EnsureBucket(t.Context()); err != nil {
			t.Fatal(err)
		}
		test(t, s)
	})
	t.Run("s3", func(t *testing.T) {
		t.Parallel()
		test(t, s3test.New(t))
	})
}

func TestPutGetStatListDelete(t *testing.T) { onEach(t, testPutGetStatListDelete) }

func testPutGetStatListDelete(t *testing.T, s *objectstore.Store) {
	ctx := t.Context()
	// 40 MiB is above the size at which the client would switch to multipart.
	for key, size := range map[string]int{"a/empty": 0, "a/one": 1, "b/large": 40 << 20} {
		b := randomBytes(size)
		if _, err := s.PutBytes(ctx, key, b); err != nil {
			t.Fatal(err)
		}
		o, err := s.Stat(ctx, key)
		if err != nil || o.Size != int64(size) || (o.SHA256 != "" && o.SHA256 != objectstore.Digest(b)) {
			t.Errorf("%s: stat %+v, %v; want size %d and sha256 %s", key, o, err, size, objectstore.Digest(b))
		}
		got, err := s.GetBytes(ctx, key, objectstore.Digest(b), int64(size))
		if err != nil || !bytes.Equal(got, b) {
			t.Errorf("%s: read %d bytes, %v", key, len(got), err)
		}
		if err := s.Verify(ctx, key, objectstore.Digest(b), int64(size)); err != nil {
			t.Errorf("%s: verify: %v", key, err)
		}
	}
	list := func(prefix string) (keys []string) {
		for o, err := range s.List(ctx, prefix) {
			if err != nil {
				t.Fatal(err)
			}
			keys = append(keys, o.Key)
		}
		return keys
	}
	if got := list(""); !slices.Equal(got, []string{"a/empty", "a/one", "b/large"}) {
		t.Errorf("list: %v", got)
	}
	if got := list("a/"); !slices.Equal(got, []string{"a/empty", "a/one"}) {
		t.Errorf("list a/: %v", got)
	}
	for range 2 {
		if err := s.Delete(ctx, "a/one"); err != nil {
			t.Errorf("delete: %v", err)
		}
	}
	if _, err := s.Stat(ctx, "a/one"); !errors.Is(err, objectstore.ErrNotFound) {
		t.Errorf("stat after delete: %v", err)
	}
	if _, err := s.Get(ctx, "a/one", ""); !errors.Is(err, objectstore.ErrNotFound) {
		t.Errorf("get after delete: %v", err)
	}
	if err := s.EnsureBucket(ctx); err != nil {
		t.Errorf("ensure twice: %v", err)
	}
}

func TestWrongBytesAreRefused(t *testing.T) { onEach(t, testWrongBytesAreRefused) }

func testWrongBytesAreRefused(t *testing.T, s *objectstore.Store) {
	ctx := t.Context()
	good, bad := randomBytes(1000), bytes.Repeat([]byte{7}, 1000)
	_, err := s.Put(ctx, "k", bytes.NewReader(bad), 1000, objectstore.Digest(good))
	if !errors.Is(err, objectstore.ErrDigestMismatch) {
		t.Errorf("put of wrong bytes: %v", err)
	}
	if _, err := s.Stat(ctx, "k"); !errors.Is(err, objectstore.ErrNotFound) {
		t.Errorf("wrong bytes were stored: %v", err)
	}
	if _, err := s.PutBytes(ctx, "k", bad); err != nil {
		t.Fatal(err)
	}
	if err := s.Verify(ctx, "k", objectstore.Digest(good), 1000); !errors.Is(err, objectstore.ErrDigestMismatch) {
		t.Errorf("verify with another digest: %v", err)
	}
	if err := s.Verify(ctx, "k", objectstore.Digest(bad), 999); !errors.Is(err, objectstore.ErrDigestMismatch) {
		t.Errorf("verify with another size: %v", err)
	}
	if _, err := s.GetBytes(ctx, "k", objectstore.Digest(good), 1000); !errors.Is(err, objectstore.ErrDigestMismatch) {
		t.Errorf("get with another digest: %v", err)
	}
	for _, digest := range []string{"", "abc", strings.Repeat("A", 64), strings.Repeat("g", 64)} {
		if _, err := s.Put(ctx, "k2", bytes.NewReader(good), 1000, digest); err == nil {
			t.Errorf("digest %q was taken", digest)
		}
	}
}

// upload does what a host without credentials does with a presigned request.
func upload(t *testing.T, client *http.Client, r objectstore.Request, body []byte, change func(*http.Request)) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), r.Method, r.URL, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for k, v := range r.Headers {
		req.Header.Set(k, v)
	}
	if change != nil {
		change(req)
	}
	resp, err := client.Do(req)
	if err != nil {
		return 0, err.Error()
	}
	text, err := io.ReadAll(resp.Body)
	if err := errors.Join(err, resp.Body.Close()); err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(text)
}

func plainClient(t *testing.T, ca string) *http.Client {
	t.Helper()
	raw, err := os.ReadFile(ca)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(raw)
	tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}
}

func TestPresignedPutTakesTheseBytesOnly(t *testing.T) {
	t.Parallel()
	cfg := s3test.Config(t)
	s, err := objectstore.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	if err := s.EnsureBucket(ctx); err != nil {
		t.Fatal(err)
	}
	client := plainClient(t, cfg.CA)
	good := randomBytes(100_000)
	wrong := slices.Clone(good)
	wrong[99_999] ^= 1
	other := objectstore.Digest(wrong)
	cases := []struct {
		name   string
		body   []byte
		change func(*http.Request)
		stored bool
	}{
		{"the bytes", good, nil, true},
		{"one bit changed", wrong, nil, false},
		{"truncated", good[:50_000], nil, false},
		{"longer", append(slices.Clone(good), 0), nil, false},
		{"checksum left out", wrong, func(r *http.Request) { r.Header.Del("X-Amz-Checksum-Sha256") }, false},
		{"checksum replaced", wrong, func(r *http.Request) { r.Header.Set("X-Amz-Checksum-Sha256", other) }, false},
		{"another key", good, func(r *http.Request) { r.URL.Path += "x" }, false},
		{"signature changed", good, func(r *http.Request) {
			r.URL.RawQuery = strings.Replace(r.URL.RawQuery, "X-Amz-Signature=", "X-Amz-Signature=0", 1)
		}, false},
	}
	for i, c := range cases {
		key := fmt.Sprintf("up/%d", i)
		r, err := s.PresignPut(ctx, key, objectstore.Digest(good), int64(len(good)), time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		status, text := upload(t, client, r, c.body, c.change)
		_, serr := s.Stat(ctx, key)
		if (status == http.StatusOK) != c.stored || (serr == nil) != c.stored {
			t.Errorf("%s: status %d %s, stat %v; want stored = %v", c.name, status, text, serr, c.stored)
		}
	}
	if err := s.Verify(ctx, "up/0", objectstore.Digest(good), int64(len(good))); err != nil {
		t.Error(err)
	}
	if o, err := s.Stat(ctx, "up/0"); err != nil || o.SHA256 != objectstore.Digest(good) {
		t.Errorf("stat of an upload: %+v, %v; the server must keep its digest, or Verify reads every checkpoint", o, err)
	}
	get, err := s.PresignGet(ctx, "up/0", time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	if status, text := upload(t, client, get, nil, nil); status != http.StatusOK || text != string(good) {
		t.Errorf("presigned get: %d, %d bytes", status, len(text))
	}
}

func TestUnreachableServerIsUnavailable(t *testing.T) {
	t.Parallel()
	s, err := objectstore.Open(objectstore.Config{Endpoint: "127.0.0.1:1", AccessKey: "a", SecretKey: "b", Bucket: "bucket"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Stat(t.Context(), "k"); !errors.Is(err, objectstore.ErrUnavailable) {
		t.Errorf("got %v, want ErrUnavailable", err)
	}
}

func TestBadConfigSaysWhatToDo(t *testing.T) {
	t.Parallel()
	for want, c := range map[string]objectstore.Config{
		"s3-bucket":        {Endpoint: "h:1", AccessKey: "a", SecretKey: "b"},
		"is not encrypted": {Endpoint: "http://h:1", AccessKey: "a", SecretKey: "b", Bucket: "bkt"},
		"without a path":   {Endpoint: "https://h:1/x", AccessKey: "a", SecretKey: "b", Bucket: "bkt"},
		"s3-ca":            {Endpoint: "h:1", AccessKey: "a", SecretKey: "b", Bucket: "bkt", CA: "/no/such"},
	} {
		if _, err := objectstore.Open(c); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want %q", c, err, want)
		}
	}
}
