package spool_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/disk"
	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/spool"
)

// A real file system that is full withholds the acknowledgement, is reported, and
// once there is room all goes on by itself with nothing lost or changed.
func TestFullFileSystem(t *testing.T) {
	t.Parallel()
	if os.Getuid() != 0 {
		t.Skip("mounting a small tmpfs needs root")
	}
	mount := t.TempDir()
	if err := unix.Mount("tmpfs", mount, "tmpfs", 0, "size=4m"); err != nil {
		t.Skipf("a small tmpfs cannot be mounted here: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(mount, 0); err != nil {
			t.Error(err)
		}
	})
	dir := filepath.Join(mount, "spool")
	open := func() *spool.Spool {
		s, err := spool.Open(disk.OS(), dir, spool.Options{SegmentBytes: 128 << 10, Retry: 5 * time.Millisecond})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	s := open()
	ctx := context.Background()
	record := func(i uint64) []byte { return bytes.Repeat([]byte{byte(i)}, 10_000) }
	sequence, told := uint64(0), uint64(0)
	put := func() {
		sequence++
		if _, err := s.Append(ctx, sequence, spool.Batch, record(sequence)); err != nil {
			t.Fatal(err)
		}
	}
	for round := range 3 {
		for range 20 {
			put()
		}
		if err := s.Flush(ctx); err != nil {
			t.Fatal(err)
		}
		told = s.DurableSource()
		ballast := filepath.Join(mount, "ballast")
		f, err := os.Create(ballast)
		if err != nil {
			t.Fatal(err)
		}
		for err == nil {
			_, err = f.Write(make([]byte, 4096))
		}
		if !errors.Is(err, unix.ENOSPC) {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		for range 30 {
			put()
		}
		for s.Stats().Error == "" { // the alert
			time.Sleep(time.Millisecond)
		}
		if got := s.DurableSource(); got >= sequence || !strings.Contains(s.Stats().Error, "no space") {
			t.Fatalf("round %d: durable up to %d of %d on a full disk, error %q", round, got, sequence, s.Stats().Error)
		}
		told = max(told, s.DurableSource())
		if round == 2 {
			// A restart on the full disk keeps what was promised.
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			if err := os.Remove(ballast); err != nil {
				t.Fatal(err)
			}
			break
		}
		if err := os.Remove(ballast); err != nil {
			t.Fatal(err)
		}
		if err := s.Flush(ctx); err != nil {
			t.Fatal(err)
		}
		if s.Stats().Error != "" {
			t.Fatalf("the alert stays: %s", s.Stats().Error)
		}
	}
	s = open()
	if s.DurableSource() < told || len(s.Stats().Damage) > 0 {
		t.Fatalf("durable up to %d, %d were promised, damage %v", s.DurableSource(), told, s.Stats().Damage)
	}
	for i, r := range drain(t, s, 0, s.DurableSource()) {
		if want := uint64(i) + 1; r.Sequence != want || !bytes.Equal(r.Payload, record(want)) {
			t.Fatalf("record %d is %d", want, r.Sequence)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}
