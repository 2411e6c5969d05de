package disk_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math/rand"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/disk"
)

// tmpfs mounts a small file system that knows no way around the page cache on older
// kernels, and that is soon full.
func tmpfs(t *testing.T, size string) string {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("mounting a small tmpfs needs root")
	}
	mount := t.TempDir()
	if err := unix.Mount("tmpfs", mount, "tmpfs", 0, "size="+size); err != nil {
		t.Skipf("a small tmpfs cannot be mounted here: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(mount, 0); err != nil {
			t.Error(err)
		}
	})
	return mount
}

// A file of known size holds what was written, whatever its size and the pieces it
// came in, on a disk and where there is nothing to bypass.
func TestSized(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewSource(1))
	data := make([]byte, 9<<20+77)
	random.Read(data)
	for where, dir := range map[string]string{"disk": t.TempDir(), "tmpfs": tmpfs(t, "64m")} {
		for _, size := range []int{0, 5, 4<<20 - 1, 4 << 20, 4<<20 + 1, 5<<20 + 4096, len(data)} {
			root, err := disk.OpenRoot(dir)
			if err != nil {
				t.Fatal(err)
			}
			f, err := root.CreateSized("f", int64(size))
			if err != nil {
				t.Fatal(err)
			}
			for rest := data[:size]; len(rest) > 0; {
				n := min(1+random.Intn(1<<20), len(rest))
				if _, err := f.Write(rest[:n]); err != nil {
					t.Fatal(err)
				}
				rest = rest[n:]
			}
			if err := errors.Join(f.Sync(), f.Close(), root.Close()); err != nil {
				t.Fatal(err)
			}
			got, err := os.ReadFile(filepath.Join(dir, "f"))
			if err != nil || !bytes.Equal(got, data[:size]) {
				t.Errorf("%s: %d bytes came back as %d, or others; %v", where, size, len(got), err)
			}
		}
	}
}

// A file that was given up half-way leaves nothing that holds on to it.
func TestSizedAbandoned(t *testing.T) {
	t.Parallel()
	f, err := disk.OS().CreateSized(filepath.Join(t.TempDir(), "f"), 16<<20)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write(make([]byte, 5<<20)); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

// A full disk refuses a large file before its bytes are sent.
func TestSizedFull(t *testing.T) {
	t.Parallel()
	if _, err := disk.OS().CreateSized(filepath.Join(tmpfs(t, "4m"), "f"), 8<<20); !errors.Is(err, unix.ENOSPC) {
		t.Fatal(err)
	}
}

// What is thrown away is gone from its place at once and from the disk soon; a
// content that has another name keeps every byte; a new bin goes on with what an
// earlier one left.
func TestBin(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	place := func(name string, size int) string {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, make([]byte, size), 0o600)); err != nil {
			t.Fatal(err)
		}
		return path
	}
	place("bin/7/left", 10)
	bin, err := disk.OpenBin(filepath.Join(dir, "bin"))
	if err != nil {
		t.Fatal(err)
	}
	kept := filepath.Join(dir, "kept")
	if err := os.Link(place("tree/shared", 40<<20), kept); err != nil {
		t.Fatal(err)
	}
	place("tree/deep/large", 40<<20)
	if err := os.Symlink(kept, filepath.Join(dir, "tree", "link")); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"tree", "file", "missing"} {
		if path == "file" {
			place(path, 1)
		}
		if err := bin.Throw(filepath.Join(dir, path)); err != nil {
			t.Error(err)
		}
		if _, err := os.Lstat(filepath.Join(dir, path)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is still there: %v", path, err)
		}
	}
	for {
		names, err := disk.OS().List(filepath.Join(dir, "bin"))
		if err != nil {
			t.Fatal(err)
		}
		if len(names) == 0 {
			break
		}
		time.Sleep(time.Millisecond)
	}
	if info, err := os.Stat(kept); err != nil || info.Size() != 40<<20 {
		t.Errorf("%v %v", info, err)
	}
	if err := bin.Close(); err != nil {
		t.Fatal(err)
	}
	after := place("after", 1)
	if err := bin.Throw(after); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(after); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a closed bin took nothing: %v", err)
	}
}

// Without a bin everything is removed at once.
func TestNoBin(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "a")
	if err := os.MkdirAll(filepath.Join(dir, "b"), 0o700); err != nil {
		t.Fatal(err)
	}
	var bin *disk.Bin
	if err := bin.Throw(dir); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(fmt.Sprint("still there: ", err))
	}
}
