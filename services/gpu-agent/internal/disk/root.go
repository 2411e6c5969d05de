package disk

import (
	"errors"
	"io/fs"
	"os"
	"sort"
)

// Root is the part of the host's file system below one directory. Its paths are
// relative; one that leads outside, by its name or by a link, is refused by the
// kernel's own walk, not by looking at the name.
type Root struct{ root *os.Root }

// OpenRoot opens a directory, which must exist.
func OpenRoot(dir string) (*Root, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	return &Root{root}, nil
}

// Close releases the directory.
func (r *Root) Close() error { return r.root.Close() }

// Create implements FS.
func (r *Root) Create(path string) (File, error) {
	f, err := r.root.OpenFile(path, createFlags, 0o600)
	if err != nil {
		return nil, err
	}
	return &osFile{File: f}, nil
}

// CreateSized implements FS.
func (r *Root) CreateSized(path string, size int64) (File, error) {
	f, err := r.root.OpenFile(path, sizedFlags, 0o600)
	return room(f, err, size)
}

// Open implements FS.
func (r *Root) Open(path string) (Content, error) { return content(r.root.Open(path)) }

// ReadFile implements FS.
func (r *Root) ReadFile(path string) ([]byte, error) { return r.root.ReadFile(path) }

// Rename implements FS.
func (r *Root) Rename(from, to string) error { return r.root.Rename(from, to) }

// Remove implements FS.
func (r *Root) Remove(path string) error { return r.root.Remove(path) }

// MkdirAll implements FS.
func (r *Root) MkdirAll(path string) error {
	if path == "." {
		return nil
	}
	return errors.Join(r.root.MkdirAll(path, 0o700), r.SyncDir("."))
}

// List implements FS.
func (r *Root) List(dir string) ([]string, error) {
	entries, err := fs.ReadDir(r.root.FS(), dir)
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

// SyncDir implements FS.
func (r *Root) SyncDir(dir string) error {
	d, err := r.root.Open(dir)
	if err != nil {
		return err
	}
	err = d.Sync()
	return errors.Join(err, d.Close())
}
