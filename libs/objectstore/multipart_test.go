package objectstore_test

import (
	"bytes"
	"errors"
	"hash/crc32"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ultrathink-pilot/trainyard/libs/objectstore"
	"github.com/ultrathink-pilot/trainyard/libs/objectstore/s3test"
)

func TestRangesReadWhatWasAsked(t *testing.T) { onEach(t, testRanges) }

func testRanges(t *testing.T, s *objectstore.Store) {
	b := randomBytes(10_000)
	if _, err := s.PutBytes(t.Context(), "k", b); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ offset, length, from, to int64 }{
		{0, -1, 0, 10_000}, {0, 1, 0, 1}, {0, 0, 0, 0}, {0, 10, 0, 10}, {9_999, 1, 9_999, 10_000}, {5_000, -1, 5_000, 10_000}, {9_990, 100, 9_990, 10_000},
	} {
		r, err := s.GetRange(t.Context(), "k", c.offset, c.length)
		if err != nil {
			t.Fatalf("%+v: %v", c, err)
		}
		got, err := io.ReadAll(r)
		if err := errors.Join(err, r.Close()); err != nil || !bytes.Equal(got, b[c.from:c.to]) {
			t.Errorf("%+v: %d bytes, %v", c, len(got), err)
		}
	}
	if _, err := s.GetRange(t.Context(), "k", -1, 1); err == nil {
		t.Error("a negative offset was taken")
	}
}

// An upload in parts goes on where it was left, whoever goes on: the store knows its parts.
func TestPartsResume(t *testing.T) {
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
	b := randomBytes(11 << 20)
	table := crc32.MakeTable(crc32.Castagnoli)
	var parts []objectstore.Part
	for at := 0; at < len(b); at += 5 << 20 {
		piece := b[at:min(at+5<<20, len(b))]
		parts = append(parts, objectstore.Part{Number: len(parts) + 1, Size: int64(len(piece)), CRC32C: crc32.Checksum(piece, table), Checked: true})
	}
	piece := func(n int) []byte { return b[(n-1)*5<<20 : min(n*5<<20, len(b))] }
	if _, err := s.BeginParts(ctx, "other", true); err != nil {
		t.Fatal(err)
	}
	id, err := s.BeginParts(ctx, "large/file", true)
	if err != nil {
		t.Fatal(err)
	}
	open, err := s.OpenUploads(ctx, "large/file")
	if err != nil || len(open) != 1 || open[0] != id {
		t.Fatalf("open uploads %v, %v", open, err)
	}
	send := func(n int, body []byte) int {
		r, err := s.PresignPart(ctx, "large/file", id, parts[n-1], time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		status, _ := upload(t, client, r, body, nil)
		return status
	}
	if status := send(2, piece(2)); status != http.StatusOK {
		t.Fatalf("part 2: status %d", status)
	}
	damaged := bytes.Clone(piece(1))
	damaged[7] ^= 1
	if status := send(1, damaged); status == http.StatusOK {
		t.Error("a damaged part was taken")
	}
	have, err := s.Parts(ctx, "large/file", id)
	if err != nil || len(have) != 1 || have[0].Number != 2 || have[0].Size != 5<<20 || have[0].CRC32C != parts[1].CRC32C {
		t.Fatalf("parts %+v, %v", have, err)
	}
	for _, n := range []int{1, 3} {
		if status := send(n, piece(n)); status != http.StatusOK {
			t.Fatalf("part %d: status %d", n, status)
		}
	}
	if have, err = s.Parts(ctx, "large/file", id); err != nil || len(have) != 3 {
		t.Fatalf("parts %+v, %v", have, err)
	}
	if err := s.CompleteParts(ctx, "large/file", id, have); err != nil {
		t.Fatal(err)
	}
	if err := s.Verify(ctx, "large/file", objectstore.Digest(b), int64(len(b))); err != nil {
		t.Error(err)
	}
	if err := s.Verify(ctx, "large/file", objectstore.Digest(b[1:]), int64(len(b))); !errors.Is(err, objectstore.ErrDigestMismatch) {
		t.Errorf("verify with another digest: %v", err)
	}
	if _, err := s.Parts(ctx, "large/file", id); !errors.Is(err, objectstore.ErrNotFound) {
		t.Errorf("parts of a completed upload: %v", err)
	}
	if id, err = s.BeginParts(ctx, "given/up", false); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := s.AbortParts(ctx, "given/up", id); err != nil {
			t.Error(err)
		}
	}
	if open, err := s.OpenUploads(ctx, "given/up"); err != nil || len(open) != 0 {
		t.Errorf("an aborted upload is still open: %v %v", open, err)
	}
}

func TestDirectoryKeepsToItself(t *testing.T) {
	t.Parallel()
	outside := t.TempDir()
	dir := filepath.Join(outside, "objects")
	s, err := objectstore.OpenDirectory(dir)
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	if err := os.WriteFile(filepath.Join(outside, "secret"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(outside, filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"", ".", "..", "../secret", "a/../../secret", "/etc/passwd", "link/secret", "a//b", "a/./b", `a\b`, "a\x00b", ".incoming/x", strings.Repeat("x", 1025)} {
		if _, err := s.PutBytes(ctx, key, []byte("evil")); err == nil {
			t.Errorf("put %q was taken", key)
		}
		if _, err := s.Get(ctx, key, ""); err == nil {
			t.Errorf("get %q was answered", key)
		}
		if err := s.Delete(ctx, key); err == nil && key != "link/secret" {
			t.Errorf("delete %q was done", key)
		}
	}
	if b, err := os.ReadFile(filepath.Join(outside, "secret")); err != nil || string(b) != "x" {
		t.Errorf("the file outside: %q, %v", b, err)
	}
	if _, err := s.PresignGet(ctx, "k", time.Minute); !errors.Is(err, objectstore.ErrUnsupported) {
		t.Errorf("presign: %v", err)
	}
	if _, err := s.BeginParts(ctx, "k", true); !errors.Is(err, objectstore.ErrUnsupported) {
		t.Errorf("parts: %v", err)
	}
	// What a killed process left is removed at the next start.
	left := filepath.Join(dir, ".incoming", "left")
	if err := errors.Join(os.MkdirAll(filepath.Dir(left), 0o700), os.WriteFile(left, nil, 0o600), s.EnsureBucket(ctx)); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(left); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a half-written file stayed: %v", err)
	}
}
