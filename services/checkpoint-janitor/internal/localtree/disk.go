// Package localtree brings a directory of old checkpoint files under a retention
// policy, without any service: marks that can be undone, deletes after the grace,
// packed copies in place of files that are rarely used. It is safe against power
// loss: whatever is visible under a checkpoint's name is that checkpoint, whole.
//
// All it keeps is below one folder, .trainyard-janitor: the marks, and the packed
// copies. Deleting that folder forgets the marks; the copies hold all they need to
// be unpacked by hand.
package localtree

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// File is an open file.
type File interface {
	io.Reader
	io.Writer
	io.Seeker
	io.Closer
	Sync() error
}

// Info is what a disk knows of a file.
type Info struct {
	Bytes   int64
	ModTime time.Time
	// ReadTime is the last read by others, zero where the disk does not tell.
	ReadTime time.Time
	// Links is how many names the file has.
	Links int
}

// Disk is a directory tree. Names are relative to it, with forward slashes, and never
// lead out of it.
type Disk interface {
	Open(name string) (File, error)
	// Create makes a new file; an existing one is an error.
	Create(name string) (File, error)
	// Rename replaces an existing file.
	Rename(from, to string) error
	Remove(name string) error
	// SyncDir makes the names in a directory durable.
	SyncDir(name string) error
	MkdirAll(name string) error
	Stat(name string) (Info, error)
	SetTime(name string, t time.Time) error
	// Walk calls each for every regular file, and link for every symbolic link with its
	// target. What cannot be read is handed to broken, and the walk goes on.
	Walk(each func(name string, i Info), link func(name, target string), broken func(name string, err error)) error
}

// Directory is a [Disk] below a real directory.
type Directory struct{ root *os.Root }

// OpenDirectory opens it. Links that lead elsewhere bring nothing in.
func OpenDirectory(path string) (*Directory, error) {
	root, err := os.OpenRoot(path)
	if err != nil {
		return nil, err
	}
	return &Directory{root}, nil
}

// Close ends it.
func (d *Directory) Close() error { return d.root.Close() }

// Open reads without leaving a trace in the time of the last read, where that is allowed:
// that time tells whether anybody else still reads the file.
func (d *Directory) Open(name string) (File, error) {
	f, err := d.root.OpenFile(name, os.O_RDONLY|unix.O_NOATIME, 0)
	if errors.Is(err, fs.ErrPermission) {
		f, err = d.root.Open(name)
	}
	if err != nil {
		return nil, err
	}
	return f, nil
}

// Create makes a new file.
func (d *Directory) Create(name string) (File, error) {
	f, err := d.root.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return nil, err
	}
	return f, nil
}

// Rename replaces.
func (d *Directory) Rename(from, to string) error { return d.root.Rename(from, to) }

// Remove deletes a file.
func (d *Directory) Remove(name string) error { return d.root.Remove(name) }

// MkdirAll makes directories.
func (d *Directory) MkdirAll(name string) error { return d.root.MkdirAll(name, 0o755) }

// SetTime sets the time of the last change.
func (d *Directory) SetTime(name string, t time.Time) error { return d.root.Chtimes(name, t, t) }

// SyncDir makes names durable.
func (d *Directory) SyncDir(name string) error {
	f, err := d.root.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// Stat describes a file.
func (d *Directory) Stat(name string) (Info, error) {
	i, err := d.root.Lstat(name)
	if err != nil {
		return Info{}, err
	}
	return describe(i), nil
}

func describe(i fs.FileInfo) Info {
	out := Info{Bytes: i.Size(), ModTime: i.ModTime().UTC(), Links: 1}
	if s, ok := i.Sys().(*syscall.Stat_t); ok {
		out.Links = int(s.Nlink)
		if read := time.Unix(s.Atim.Unix()).UTC(); read.After(out.ModTime) {
			out.ReadTime = read
		}
	}
	return out
}

// Walk visits everything.
func (d *Directory) Walk(each func(string, Info), link func(string, string), broken func(string, error)) error {
	return fs.WalkDir(d.root.FS(), ".", func(name string, e fs.DirEntry, err error) error {
		switch {
		case err != nil:
			broken(name, err)
			if e != nil && e.IsDir() {
				return fs.SkipDir
			}
		case e.Type()&fs.ModeSymlink != 0:
			target, err := d.root.Readlink(name)
			if err != nil {
				broken(name, err)
				return nil
			}
			if !filepath.IsAbs(target) {
				target = path.Join(path.Dir(name), filepath.ToSlash(target))
			} else if rel, err := filepath.Rel(d.root.Name(), target); err == nil {
				target = filepath.ToSlash(rel)
			}
			link(name, target)
		case e.Type().IsRegular():
			i, err := e.Info()
			if err != nil {
				broken(name, err)
				return nil
			}
			each(name, describe(i))
		}
		return nil
	})
}
