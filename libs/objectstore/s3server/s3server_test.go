package s3server_test

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/ultrathink-pilot/trainyard/libs/objectstore"
	"github.com/ultrathink-pilot/trainyard/libs/objectstore/s3server"
	"github.com/ultrathink-pilot/trainyard/libs/objectstore/s3test"
)

func binary(t *testing.T) string {
	t.Helper()
	path, err := s3server.Find()
	var none *s3server.NotFoundError
	if errors.As(err, &none) && os.Getenv(s3test.EnvRequire) == "" {
		t.Skipf("SKIPPED, NOT TESTED: this test needs a real S3 server. %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func start(t *testing.T, dir string) *s3server.Server {
	t.Helper()
	s, err := s3server.Start(t.Context(), s3server.Options{Binary: binary(t), Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func TestObjectsAndKeysSurviveAKillAndRestart(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "s3")
	s := start(t, dir)
	store, err := objectstore.Open(s.Config("kept"))
	if err != nil {
		t.Fatal(err)
	}
	if err := store.EnsureBucket(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := store.PutBytes(t.Context(), "k", []byte("value")); err != nil {
		t.Fatal(err)
	}
	oldCA := filepath.Join(t.TempDir(), "ca.pem")
	raw, err := os.ReadFile(s.CA)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(oldCA, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(s.PID(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := s.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "ended by itself") {
		t.Errorf("Run after a kill: %v", err)
	}
	again := start(t, dir)
	if again.AccessKey != s.AccessKey || again.SecretKey != s.SecretKey {
		t.Error("a restart changed the keys")
	}
	// A client that was there before the restart must not have to be told.
	cfg := again.Config("kept")
	cfg.CA = oldCA
	if store, err = objectstore.Open(cfg); err != nil {
		t.Fatal(err)
	}
	got, err := store.GetBytes(t.Context(), "k", objectstore.Digest([]byte("value")), 100)
	if err != nil || string(got) != "value" {
		t.Errorf("after the restart: %q, %v", got, err)
	}
	cmdline, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(again.PID()), "cmdline"))
	if err != nil || strings.Contains(string(cmdline), again.SecretKey) {
		t.Errorf("the command line shows the secret key (%v)", err)
	}
	for _, f := range []string{"access-key", "secret-key", "key.pem"} {
		if info, err := os.Stat(filepath.Join(dir, f)); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v; want mode 0600", f, info.Mode(), err)
		}
	}
}

func TestStrangersAreRefused(t *testing.T) {
	t.Parallel()
	s := start(t, filepath.Join(t.TempDir(), "s3"))
	cfg := s.Config("bucket")
	cfg.SecretKey = "wrong"
	store, err := objectstore.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := store.EnsureBucket(t.Context()); err == nil {
		t.Error("a wrong secret key got in")
	}
	cfg = s.Config("bucket")
	cfg.CA = ""
	if store, err = objectstore.Open(cfg); err != nil {
		t.Fatal(err)
	}
	if err := store.EnsureBucket(t.Context()); err == nil {
		t.Error("the client trusted a certificate that nobody vouched for")
	}
}

func TestATakenPortIsNamed(t *testing.T) {
	t.Parallel()
	lis, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = lis.Close() }()
	_, err = s3server.Start(t.Context(), s3server.Options{Binary: binary(t), Dir: filepath.Join(t.TempDir(), "s3"), Listen: lis.Addr().String()})
	if err == nil || !strings.Contains(err.Error(), "cannot listen on "+lis.Addr().String()) {
		t.Errorf("got %v", err)
	}
}

func TestARelativeDirectoryIsRefused(t *testing.T) {
	t.Parallel()
	if _, err := s3server.Start(t.Context(), s3server.Options{Dir: "s3"}); err == nil || !strings.Contains(err.Error(), "absolute") {
		t.Errorf("got %v", err)
	}
}

func TestAMissingBinarySaysWhatToDo(t *testing.T) {
	t.Setenv(s3server.EnvBinary, "/no/such/versitygw")
	if _, err := s3server.Find(); err == nil || !strings.Contains(err.Error(), s3server.EnvBinary) {
		t.Errorf("got %v", err)
	}
}
