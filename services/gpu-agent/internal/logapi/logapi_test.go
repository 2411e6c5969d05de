package logapi_test

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"

	trainv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/train/v1"
	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/lease"
	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/logapi"
)

type files struct {
	dir     string
	mu      sync.Mutex
	running bool
}

func (f *files) FindLogs(job string, attempt uint32) (lease.Key, bool) {
	return lease.Key{JobID: job, Attempt: max(attempt, 1), Fence: 1}, job == "job"
}

func (f *files) OutputFiles(lease.Key) (out []string) {
	for _, name := range []string{"log.1", "log"} {
		if _, err := os.Stat(filepath.Join(f.dir, name)); err == nil {
			out = append(out, filepath.Join(f.dir, name))
		}
	}
	return out
}

func (f *files) Running(lease.Key) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.running
}

type stream struct {
	grpc.ServerStream
	ctx context.Context

	mu        sync.Mutex
	data      bytes.Buffer
	truncated bool
}

func (s *stream) Context() context.Context { return s.ctx }

func (s *stream) Send(r *trainv1.FollowLogsResponse) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.data.Write(r.Data)
	s.truncated = s.truncated || r.Truncated
	return nil
}

func (s *stream) text() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.data.String()
}

func write(t *testing.T, path, text string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString(text); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

// What is there comes oldest first; a tail is only the tail, and says so.
func TestWholeAndTail(t *testing.T) {
	t.Parallel()
	f := &files{dir: t.TempDir()}
	write(t, filepath.Join(f.dir, "log.1"), "old ")
	write(t, filepath.Join(f.dir, "log"), "new text")
	for _, c := range []struct {
		tail      int64
		want      string
		truncated bool
	}{{0, "old new text", false}, {4, "text", true}, {100, "new text", false}} {
		s := &stream{ctx: t.Context()}
		if err := logapi.New(f).FollowLogs(&trainv1.FollowLogsRequest{JobId: "job", TailBytes: c.tail}, s); err != nil {
			t.Fatal(err)
		}
		if s.text() != c.want || s.truncated != c.truncated {
			t.Errorf("tail %d: %q, truncated %v", c.tail, s.text(), s.truncated)
		}
	}
	if err := logapi.New(f).FollowLogs(&trainv1.FollowLogsRequest{JobId: "other"}, &stream{ctx: t.Context()}); err == nil {
		t.Error("an unknown job has output")
	}
}

// Following goes on over a rotation and ends with the attempt, nothing lost.
func TestFollowOverRotation(t *testing.T) {
	t.Parallel()
	f := &files{dir: t.TempDir(), running: true}
	path := filepath.Join(f.dir, "log")
	write(t, path, "one ")
	s := &stream{ctx: t.Context()}
	done := make(chan error, 1)
	go func() { done <- logapi.New(f).FollowLogs(&trainv1.FollowLogsRequest{JobId: "job", Follow: true}, s) }()
	await := func(want string) {
		t.Helper()
		for deadline := time.Now().Add(10 * time.Second); s.text() != want; time.Sleep(5 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("got %q, want %q", s.text(), want)
			}
		}
	}
	await("one ")
	write(t, path, "two ")
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	write(t, path, "three ")
	await("one two three ")
	write(t, path, "four")
	f.mu.Lock()
	f.running = false
	f.mu.Unlock()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	await("one two three four")
}
