// Package staging holds the files that a trainer has pushed until they are
// committed. Files are named by their SHA-256 alone: no name from outside ever
// becomes a path, and the same content is stored once.
package staging

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"path/filepath"
	"strings"
	"sync"

	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/disk"
	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/lease"
)

// Errors of an upload, as its sender caused them.
var (
	ErrFull   = errors.New("the staging area is full")
	ErrSize   = errors.New("the content is not of the announced size")
	ErrDigest = errors.New("the content does not have the announced SHA-256")
)

// Store is one attempt's staging area; safe for concurrent use.
type Store struct {
	fsys disk.FS
	// dir is the area's directory in fsys, path where the host has it.
	dir, path string
	closeRoot func() error
	max       int64
	// remove drops a file of the area by its name in it.
	remove func(name string) error

	mu   sync.Mutex
	used int64
	next int
	// unclaimed contents were pushed after they were last claimed: a checkpoint
	// is about to name them, so the end of an earlier one must not take them.
	unclaimed map[[32]byte]bool
}

// Open opens or makes the area in dir, bounded to max bytes. What it drops is thrown
// into bin; nil removes it at once.
func Open(dir string, max int64, bin *disk.Bin) (*Store, error) {
	if err := disk.OS().MkdirAll(dir); err != nil {
		return nil, err
	}
	root, err := disk.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	s, err := OpenIn(root, ".", max)
	if err != nil {
		return nil, errors.Join(err, root.Close())
	}
	s.path, s.closeRoot = dir, root.Close
	if bin != nil {
		s.remove = func(name string) error { return bin.Throw(filepath.Join(dir, name)) }
	}
	return s, nil
}

// OpenIn is Open in any file system. Unfinished uploads of an earlier process
// are removed.
func OpenIn(fsys disk.FS, dir string, max int64) (*Store, error) {
	if err := fsys.MkdirAll(dir); err != nil {
		return nil, err
	}
	s := &Store{fsys: fsys, dir: dir, path: dir, max: max, unclaimed: map[[32]byte]bool{}, closeRoot: func() error { return nil }}
	s.remove = func(name string) error { return fsys.Remove(s.at(name)) }
	names, err := fsys.List(dir)
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		if strings.HasPrefix(name, "tmp-") {
			if err := fsys.Remove(s.at(name)); err != nil {
				return nil, err
			}
			continue
		}
		size, err := s.size(name)
		if err != nil {
			return nil, err
		}
		s.used += size
	}
	return s, nil
}

func (s *Store) at(name string) string { return filepath.Join(s.dir, name) }

// size of a file by its name in the area.
func (s *Store) size(name string) (int64, error) {
	f, err := s.fsys.Open(s.at(name))
	if err != nil {
		return 0, err
	}
	return f.Size(), f.Close()
}

// Close releases the directory.
func (s *Store) Close() error { return s.closeRoot() }

// Used returns the bytes held and being received.
func (s *Store) Used() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.used
}

func (s *Store) reserve(size int64) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if size < 0 || s.used+size > s.max {
		return "", fmt.Errorf("%w: %d bytes held, %d more, limit %d", ErrFull, s.used, size, s.max)
	}
	s.used += size
	s.next++
	return fmt.Sprintf("tmp-%d", s.next), nil
}

func (s *Store) release(size int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.used -= size
}

// Upload is a file on its way in.
type Upload struct {
	store   *Store
	file    disk.File
	name    string
	size    int64
	written int64
	eased   int64
	hash    hash.Hash
}

// easeEvery is how much of an upload may wait in the kernel. The metrics of every
// trainer are synced on the same disk, and would wait for it all.
const easeEvery = 8 << 20

// Begin reserves size bytes and opens an upload; end it with Commit or Abort.
func (s *Store) Begin(size int64) (*Upload, error) {
	name, err := s.reserve(size)
	if err != nil {
		return nil, err
	}
	f, err := s.fsys.CreateSized(s.at(name), size)
	if err != nil {
		s.release(size)
		// A disk that had no room for it leaves an empty file.
		if gone := s.fsys.Remove(s.at(name)); !errors.Is(gone, fs.ErrNotExist) {
			err = errors.Join(err, gone)
		}
		return nil, err
	}
	return &Upload{store: s, file: f, name: name, size: size, hash: sha256.New()}, nil
}

// Write appends a chunk.
func (u *Upload) Write(p []byte) (int, error) {
	if u.written+int64(len(p)) > u.size {
		return 0, fmt.Errorf("%w: more than %d bytes", ErrSize, u.size)
	}
	n, err := u.file.Write(p)
	u.written += int64(n)
	u.hash.Write(p[:n])
	if err == nil && u.written-u.eased >= easeEvery {
		u.eased = u.written
		err = u.file.Ease()
	}
	return n, err
}

// Commit verifies and keeps the file, durably.
func (u *Upload) Commit(want [32]byte) error {
	err := u.verify(want)
	if err == nil {
		err = u.file.Sync()
	}
	if err != nil {
		return errors.Join(err, u.Abort())
	}
	if err := u.file.Close(); err != nil {
		return errors.Join(err, u.discard())
	}
	s := u.store
	s.mu.Lock()
	s.unclaimed[want] = true
	s.mu.Unlock()
	final := hex.EncodeToString(want[:])
	if s.Has(want, u.size) {
		// Stored already, by content. Whoever stored it may still be on the way to
		// make its name durable, so that is done here too.
		return errors.Join(u.discard(), s.fsys.SyncDir(s.dir))
	}
	if err := s.fsys.Rename(s.at(u.name), s.at(final)); err != nil {
		return errors.Join(err, u.discard())
	}
	return s.fsys.SyncDir(s.dir)
}

func (u *Upload) verify(want [32]byte) error {
	if u.written != u.size {
		return fmt.Errorf("%w: %d bytes of %d came", ErrSize, u.written, u.size)
	}
	if got := [32]byte(u.hash.Sum(nil)); got != want {
		return fmt.Errorf("%w: it is %x", ErrDigest, got)
	}
	return nil
}

// Abort drops the upload.
func (u *Upload) Abort() error { return errors.Join(u.file.Close(), u.discard()) }

func (u *Upload) discard() error {
	u.store.release(u.size)
	return u.store.remove(u.name)
}

// OpenFile opens a staged content for reading.
func (s *Store) OpenFile(digest [32]byte) (disk.Content, error) {
	return s.fsys.Open(s.at(hex.EncodeToString(digest[:])))
}

// Has says whether a content of that size is staged.
func (s *Store) Has(digest [32]byte, size int64) bool {
	got, err := s.size(hex.EncodeToString(digest[:]))
	return err == nil && got == size
}

// Path returns where a staged content lies on the host, to link it elsewhere.
func (s *Store) Path(digest [32]byte) string {
	return filepath.Join(s.path, hex.EncodeToString(digest[:]))
}

// Claim notes that the files' contents were named by what they were pushed for.
func (s *Store) Claim(files ...lease.File) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range files {
		delete(s.unclaimed, f.SHA256)
	}
}

// Remove drops contents that nothing needs any more, except those that were
// pushed again and not claimed yet.
func (s *Store) Remove(digests ...[32]byte) error {
	var errs []error
	for _, d := range digests {
		s.mu.Lock()
		again := s.unclaimed[d]
		s.mu.Unlock()
		if again {
			continue
		}
		name := hex.EncodeToString(d[:])
		size, err := s.size(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil {
			err = s.remove(name)
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		s.release(size)
	}
	return errors.Join(errs...)
}

// Digest hashes a reader and returns SHA-256 and size.
func Digest(r io.Reader) ([32]byte, int64, error) {
	h := sha256.New()
	n, err := io.Copy(h, r)
	return [32]byte(h.Sum(nil)), n, err
}
