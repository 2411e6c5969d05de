package archive

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/ultrathink-pilot/trainyard/libs/objectstore"
)

// registry hands out one job and remembers what it is told.
type registry struct {
	job       Job
	committed []Copy
	bad       []string
	refuse    string
}

func (r *registry) BeginArchive(context.Context, string, []string) (Job, error) { return r.job, nil }

func (r *registry) CommitArchive(_ context.Context, _ string, copies []Copy, _ []string, _ time.Duration) (Result, error) {
	if r.refuse != "" {
		return Result{Reason: r.refuse}, nil
	}
	r.committed = copies
	return Result{Done: true}, nil
}

func (r *registry) ReportBad(_ context.Context, key, detail string) (bool, string, error) {
	r.bad = append(r.bad, key+": "+detail)
	return false, "quarantined", nil
}

// store is an S3 server with moods.
type store struct {
	objects map[string][]byte
	// cut ends every read of this key in the middle, lie stores other bytes than it was given.
	cut, lie string
	full     bool
}

func (s *store) Get(_ context.Context, key, digest string) (io.ReadCloser, error) {
	b, ok := s.objects[key]
	if !ok {
		return nil, fmt.Errorf("get %s: %w", key, objectstore.ErrNotFound)
	}
	if key == s.cut {
		return io.NopCloser(io.MultiReader(bytes.NewReader(b[:len(b)/2]), broken{})), nil
	}
	if digest != "" && objectstore.Digest(b) != digest {
		return io.NopCloser(io.MultiReader(bytes.NewReader(b), mismatch{})), nil
	}
	return io.NopCloser(bytes.NewReader(b)), nil
}

type broken struct{}

func (broken) Read([]byte) (int, error) {
	return 0, fmt.Errorf("the connection is gone: %w", objectstore.ErrUnavailable)
}

type mismatch struct{}

func (mismatch) Read([]byte) (int, error) { return 0, objectstore.ErrDigestMismatch }

func (s *store) Put(_ context.Context, key string, r io.Reader, size int64, digest string) (objectstore.Object, error) {
	if s.full {
		return objectstore.Object{}, fmt.Errorf("put %s: %w", key, objectstore.ErrUnavailable)
	}
	b, err := io.ReadAll(r)
	if err != nil {
		return objectstore.Object{}, err
	}
	if key == s.lie {
		b = b[:len(b)-1] // and says that all went well
	}
	s.objects[key] = b
	return objectstore.Object{Key: key, Size: size, SHA256: digest}, nil
}

var content = []byte(strings.Repeat("the weights of a checkpoint ", 500))

func world(t *testing.T) (*Archiver, *registry, *store) {
	t.Helper()
	digest := objectstore.Digest(content)
	s := &store{objects: map[string][]byte{"blobs/a": content}}
	r := &registry{job: Job{ID: "c", Done: true, Files: []File{{Paths: []string{"model.pth"}, SHA256: digest, Bytes: int64(len(content)), HotKey: "blobs/a", ColdKey: "cold/a"}}}}
	return &Archiver{Registry: r, Hot: s, Cold: s, Scratch: t.TempDir(), Log: zap.NewNop()}, r, s
}

func TestNothingIsSwitchedUnlessEveryByteIsProven(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change func(*registry, *store)
		// err is worth another try, reason is final; neither is success.
		err, reason string
		bad         int
	}{
		"all well":                       {func(*registry, *store) {}, "", "", 0},
		"the store fails in mid-copy":    {func(_ *registry, s *store) { s.cut = "blobs/a" }, "connection is gone", "", 0},
		"the store fails when read back": {func(_ *registry, s *store) { s.cut = "cold/a" }, "connection is gone", "", 0},
		"the store is full":              {func(_ *registry, s *store) { s.full = true }, "unavailable", "", 0},
		"the store lies about its size":  {func(_ *registry, s *store) { s.lie = "cold/a" }, "", "read back", 1},
		"the object changed behind us":   {func(_ *registry, s *store) { s.objects["blobs/a"] = []byte("other") }, "", "digest mismatch", 1},
		"the object is gone":             {func(_ *registry, s *store) { delete(s.objects, "blobs/a") }, "", "not found", 1},
		"it was promoted meanwhile":      {func(r *registry, _ *store) { r.refuse = "still needed: PRODUCTION" }, "", "PRODUCTION", 0},
		"it may not be archived":         {func(r *registry, _ *store) { r.job = Job{Reason: "it is pinned"} }, "", "pinned", 0},
		"it is archived already":         {func(r *registry, _ *store) { r.job = Job{Done: true} }, "", "", 0},
		"too large for an object":        {func(r *registry, _ *store) { r.job.Files[0].Bytes = maxObject + 1 }, "", "more than one object", 0},
		"its old copy has rotted": {func(r *registry, s *store) {
			r.job.Files[0].Existing = &Copy{SHA256: r.job.Files[0].SHA256, Key: "cold/old", ObjectSHA256: objectstore.Digest([]byte("x"))}
		}, "", "read back", 1},
		"its base has rotted: packed alone": {func(r *registry, s *store) {
			s.objects["cold/base"] = []byte("TYAR rotten")
			r.job.Files[0].Chain = []Copy{{SHA256: objectstore.Digest([]byte("b")), Key: "cold/base", ObjectSHA256: objectstore.Digest([]byte("base"))}}
		}, "", "", 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a, r, s := world(t)
			c.change(r, s)
			done, err := a.Archive(t.Context(), "c", nil, 0)
			switch {
			case c.err != "":
				if err == nil || !strings.Contains(err.Error(), c.err) {
					t.Errorf("got %v, want %q", err, c.err)
				}
			case err != nil:
				t.Error(err)
			case c.reason != "" && (done.Done || !strings.Contains(done.Reason, c.reason)):
				t.Errorf("got %+v, want %q", done, c.reason)
			case c.reason == "" && !done.Done:
				t.Errorf("got %+v", done)
			}
			if (c.err != "" || c.reason != "") && r.committed != nil {
				t.Error("the reference was switched")
			}
			if len(r.bad) != c.bad {
				t.Errorf("reported: %v", r.bad)
			}
			if left, err := os.ReadDir(a.Scratch); err != nil || len(left) > 0 {
				t.Errorf("left on the disk: %v %v", left, err)
			}
		})
	}
}

// An outage is survived: the same archive goes through when the store is back.
func TestAnOutageIsTriedAgain(t *testing.T) {
	t.Parallel()
	a, r, s := world(t)
	s.cut = "blobs/a"
	if _, err := a.Archive(t.Context(), "c", nil, 0); !errors.Is(err, objectstore.ErrUnavailable) {
		t.Fatal(err)
	}
	s.cut = ""
	if done, err := a.Archive(t.Context(), "c", nil, 0); err != nil || !done.Done || len(r.committed) != 1 {
		t.Fatalf("got %+v %v", done, err)
	}
}
