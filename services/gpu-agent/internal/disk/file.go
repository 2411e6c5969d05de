package disk

import (
	"errors"
	"io"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// osFile counts what it writes, for Ease.
type osFile struct {
	*os.File
	written, eased, waited int64
}

func (f *osFile) Write(p []byte) (int, error) {
	n, err := f.File.Write(p)
	f.written += int64(n)
	return n, err
}

// Ease implements File. The kernel would let gigabytes gather; the next fsync of
// anyone on the same file system then waits for them all.
func (f *osFile) Ease() error {
	fd := int(f.Fd())
	if f.eased > f.waited {
		const wait = unix.SYNC_FILE_RANGE_WAIT_BEFORE | unix.SYNC_FILE_RANGE_WRITE | unix.SYNC_FILE_RANGE_WAIT_AFTER
		if err := unix.SyncFileRange(fd, f.waited, f.eased-f.waited, wait); err != nil {
			return unsupported(err)
		}
		f.waited = f.eased
	}
	if f.written > f.eased {
		if err := unix.SyncFileRange(fd, f.eased, f.written-f.eased, unix.SYNC_FILE_RANGE_WRITE); err != nil {
			return unsupported(err)
		}
		f.eased = f.written
	}
	return nil
}

// unsupported: some file systems have no such call, and Sync does without it.
func unsupported(err error) error {
	if errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.ESPIPE) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP) {
		return nil
	}
	return err
}

// names is how many names a file has.
func names(info os.FileInfo) uint64 {
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		return uint64(stat.Nlink) //nolint:unconvert // narrower on arm64
	}
	return 0
}

// osContent is an open file of a known size.
type osContent struct {
	*os.File
	size int64
}

func (c *osContent) Size() int64 { return c.size }

func content(f *os.File, err error) (Content, error) {
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &osContent{File: f, size: info.Size()}, nil
}

// Map returns a file's bytes without reading them all into this process's own
// memory, and what releases them. Where there is nothing to map they are read.
func Map(c Content) (bytes []byte, release func() error, err error) {
	if f, ok := c.(*osContent); ok && f.size > 0 {
		if mapped, err := unix.Mmap(int(f.Fd()), 0, int(f.size), unix.PROT_READ, unix.MAP_SHARED); err == nil {
			return mapped, func() error { return unix.Munmap(mapped) }, nil
		}
	}
	read, err := io.ReadAll(io.NewSectionReader(c, 0, c.Size()))
	return read, func() error { return nil }, err
}
