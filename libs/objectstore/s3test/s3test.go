// Package s3test gives every test an empty bucket of a real S3 server. One server per
// test binary, started at the first use; it dies with the binary.
package s3test

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/ultrathink-pilot/trainyard/libs/childproc"
	"github.com/ultrathink-pilot/trainyard/libs/objectstore"
	"github.com/ultrathink-pilot/trainyard/libs/objectstore/s3server"
)

// EnvRequire names a variable that, when not empty, turns the skip without S3 (or
// Postgres) into a failure.
const EnvRequire = "TRAINYARD_TEST_REQUIRE"

var shared struct {
	once   sync.Once
	server *s3server.Server
	err    error
}

// New returns an empty bucket. Without the server's binary the test is skipped, loudly.
func New(t testing.TB) *objectstore.Store {
	t.Helper()
	store, err := objectstore.Open(Config(t))
	if err != nil {
		t.Fatalf("s3test: %v", err)
	}
	if err := store.EnsureBucket(t.Context()); err != nil {
		t.Fatalf("s3test: %v", err)
	}
	return store
}

// Config is New for code that opens its own store: a bucket name that nobody else has. The
// bucket is not made yet.
func Config(t testing.TB) objectstore.Config {
	t.Helper()
	shared.once.Do(func() { shared.server, shared.err = start() })
	var none *s3server.NotFoundError
	switch {
	case shared.err == nil:
	case errors.As(shared.err, &none) && os.Getenv(EnvRequire) == "":
		t.Skipf("SKIPPED, NOT TESTED: this test needs a real S3 server. %v", shared.err)
	default:
		t.Fatalf("s3test: %v", shared.err)
	}
	b := make([]byte, 8)
	_, _ = rand.Read(b) // crypto/rand.Read never fails
	return shared.server.Config("test-" + hex.EncodeToString(b))
}

// cleaner removes the directory $1; the server may still be writing its last log line.
const cleaner = `
n=0; while [ $n -lt 20 ] && rm -rf "$1" 2>/dev/null && [ -e "$1" ]; do n=$((n+1)); sleep 0.1; done
`

func start() (*s3server.Server, error) {
	bin, err := s3server.Find()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "trainyard-test-s3-*")
	if err != nil {
		return nil, err
	}
	self, err := childproc.OwnerOf(os.Getpid())
	if err != nil {
		return nil, err
	}
	if err := childproc.AfterExit(self, cleaner, dir); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	return s3server.Start(ctx, s3server.Options{Binary: bin, Dir: filepath.Clean(dir)})
}
