// Package disk is the small part of a file system that the agent's durable
// records need, behind an interface so that power loss can be tested at every
// write. The real implementation is OS(); package crashdisk is the one that
// forgets what was never synced.
//
// A failed Sync is never retried on the same file: after EIO the kernel may
// have dropped the dirty pages and the next fsync would answer success for data
// that is gone. Writers start a new file from memory instead.
package disk

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
)

// File is an open, append-only file.
type File interface {
	Write(p []byte) (int, error)
	// Ease begins to write back what was written, and waits for what the call
	// before began. A large file that is eased now and then leaves its Sync little
	// to do, and the syncs of others little to wait for. It promises nothing.
	Ease() error
	// Sync returns after the file's bytes (not its name) would survive power loss.
	Sync() error
	Close() error
}

// Content is an open file for reading.
type Content interface {
	io.ReaderAt
	io.Reader
	io.Closer
	Size() int64
}

// FS is what the journal, the spool and staging need of a file system.
type FS interface {
	// Create makes path, or empties it, mode 0600.
	Create(path string) (File, error)
	// CreateSized is Create for a file that gets size bytes, is synced once and
	// closed. A full disk refuses at once where the file system can tell.
	CreateSized(path string, size int64) (File, error)
	ReadFile(path string) ([]byte, error)
	// Open opens a file for reading; a missing one is fs.ErrNotExist.
	Open(path string) (Content, error)
	Rename(from, to string) error
	Remove(path string) error
	// MkdirAll makes the directory and its parents durable, mode 0700.
	MkdirAll(path string) error
	// List returns the sorted names in a directory; a missing directory is fs.ErrNotExist.
	List(dir string) ([]string, error)
	// SyncDir makes creations, renames and removals in dir durable.
	SyncDir(dir string) error
}

// OS returns the host's file system.
func OS() FS { return osFS{} }

type osFS struct{}

const (
	sizedFlags  = os.O_WRONLY | os.O_CREATE | os.O_TRUNC
	createFlags = sizedFlags | os.O_APPEND
)

func (osFS) Create(path string) (File, error) {
	f, err := os.OpenFile(path, createFlags, 0o600)
	if err != nil {
		return nil, err
	}
	return &osFile{File: f}, nil
}

func (osFS) CreateSized(path string, size int64) (File, error) {
	f, err := os.OpenFile(path, sizedFlags, 0o600)
	return room(f, err, size)
}

func (osFS) Open(path string) (Content, error) { return content(os.Open(path)) }

func (osFS) ReadFile(path string) ([]byte, error) { return os.ReadFile(path) }
func (osFS) Rename(from, to string) error         { return os.Rename(from, to) }
func (osFS) Remove(path string) error             { return os.Remove(path) }

func (o osFS) MkdirAll(path string) error {
	if info, err := os.Stat(path); err == nil {
		if !info.IsDir() {
			return fmt.Errorf("%s is not a directory", path)
		}
		return nil
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	parent := filepath.Dir(path)
	if parent != path {
		if err := o.MkdirAll(parent); err != nil {
			return err
		}
	}
	if err := os.Mkdir(path, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return o.SyncDir(parent)
}

func (osFS) List(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	names := make([]string, 0, len(entries))
	for _, entry := range entries {
		names = append(names, entry.Name())
	}
	sort.Strings(names)
	return names, nil
}

func (osFS) SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	err = d.Sync()
	return errors.Join(err, d.Close())
}
