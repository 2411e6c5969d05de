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
	"os"
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
	root *os.Root
	path string
	max  int64

	mu   sync.Mutex
	used int64
	next int
	// unclaimed contents were pushed after they were last claimed: a checkpoint
	// is about to name them, so the end of an earlier one must not take them.
	unclaimed map[[32]byte]bool
}

// Open opens or makes the area in dir, bounded to max bytes. Unfinished uploads
// of an earlier process are removed.
func Open(dir string, max int64) (*Store, error) {
	if err := disk.OS().MkdirAll(dir); err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	s := &Store{root: root, path: dir, max: max, unclaimed: map[[32]byte]bool{}}
	names, err := disk.OS().List(dir)
	if err != nil {
		return nil, errors.Join(err, root.Close())
	}
	for _, name := range names {
		if strings.HasPrefix(name, "tmp-") {
			if err := root.Remove(name); err != nil {
				return nil, errors.Join(err, root.Close())
			}
			continue
		}
		info, err := root.Lstat(name)
		if err != nil {
			return nil, errors.Join(err, root.Close())
		}
		s.used += info.Size()
	}
	return s, nil
}

// Close releases the directory.
func (s *Store) Close() error { return s.root.Close() }

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
	file    *os.File
	name    string
	size    int64
	written int64
	hash    hash.Hash
}

// Begin reserves size bytes and opens an upload; end it with Commit or Abort.
func (s *Store) Begin(size int64) (*Upload, error) {
	name, err := s.reserve(size)
	if err != nil {
		return nil, err
	}
	f, err := s.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		s.release(size)
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
	u.store.mu.Lock()
	u.store.unclaimed[want] = true
	u.store.mu.Unlock()
	final := hex.EncodeToString(want[:])
	if _, err := u.store.root.Lstat(final); err == nil {
		return u.discard() // stored already, by content
	}
	if err := u.store.root.Rename(u.name, final); err != nil {
		return errors.Join(err, u.discard())
	}
	return disk.OS().SyncDir(u.store.path)
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
	return u.store.root.Remove(u.name)
}

// OpenFile opens a staged content for reading.
func (s *Store) OpenFile(digest [32]byte) (*os.File, error) {
	return s.root.Open(hex.EncodeToString(digest[:]))
}

// Has says whether a content of that size is staged.
func (s *Store) Has(digest [32]byte, size int64) bool {
	info, err := s.root.Lstat(hex.EncodeToString(digest[:]))
	return err == nil && info.Size() == size
}

// Path returns where a staged content lies, to link it elsewhere.
func (s *Store) Path(digest [32]byte) string {
	return s.path + string(os.PathSeparator) + hex.EncodeToString(digest[:])
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
		info, err := s.root.Lstat(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil {
			err = s.root.Remove(name)
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		s.release(info.Size())
	}
	return errors.Join(errs...)
}

// Digest hashes a reader and returns SHA-256 and size.
func Digest(r io.Reader) ([32]byte, int64, error) {
	h := sha256.New()
	n, err := io.Copy(h, r)
	return [32]byte(h.Sum(nil)), n, err
}
