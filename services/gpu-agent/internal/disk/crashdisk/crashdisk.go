// Package crashdisk is an in-memory disk.FS that loses power. It keeps, beside
// what a running process sees, what the platter is sure to hold: file bytes up
// to the last Sync, names as of the last SyncDir. Crash returns a disk as it may
// be found after power returns, with a seeded part of the unsynced state.
//
// Pebble's vfs was the alternative; it brings a storage engine's dependencies
// for two hundred lines.
package crashdisk

import (
	"bytes"
	"io/fs"
	"math/rand"
	"path/filepath"
	"sort"
	"sync"
	"syscall"

	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/disk"
)

type inode struct {
	live   []byte
	synced int // bytes of live that are on the platter
}

type dir struct {
	live, synced map[string]*inode
}

// Disk implements disk.FS.
type Disk struct {
	mu   sync.Mutex
	dirs map[string]*dir
	ops  int
	// Before, when set, is called without locks before every mutation with its
	// running number and name; an error it returns fails the operation (ENOSPC,
	// EIO) without effect, except that a failing write leaves half its bytes.
	Before func(op int, name, path string) error
	// Lie makes Sync and SyncDir answer success without effect when it returns
	// true for the operation: the mutant "omitted fsync".
	Lie func(name, path string) bool
}

// New returns an empty disk.
func New() *Disk { return &Disk{dirs: map[string]*dir{}} }

// Ops returns the number of mutations so far.
func (d *Disk) Ops() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.ops
}

func (d *Disk) step(name, path string) error {
	d.mu.Lock()
	d.ops++
	n, before := d.ops, d.Before
	d.mu.Unlock()
	if before != nil {
		return before(n, name, path)
	}
	return nil
}

// Crash returns the disk as found after power loss now. Each unsynced name
// change and each unsynced tail survives, wholly, partly or not, by rng:
// survival is the probability that an unsynced piece did reach the platter.
func (d *Disk) Crash(rng *rand.Rand, survival float64) *Disk {
	d.mu.Lock()
	defer d.mu.Unlock()
	after := New()
	copies := map[*inode]*inode{}
	clone := func(n *inode) *inode {
		if c, ok := copies[n]; ok {
			return c
		}
		keep := n.synced
		if extra := len(n.live) - n.synced; extra > 0 && rng.Float64() < survival {
			keep += 1 + rng.Intn(extra)
		}
		data := append([]byte(nil), n.live[:keep]...)
		// A journalling file system may have grown the file before its data
		// arrived: the reader then finds zeros.
		if keep > n.synced && rng.Float64() < 0.2 {
			for i := n.synced + rng.Intn(keep-n.synced); i < keep; i++ {
				data[i] = 0
			}
		}
		c := &inode{live: data, synced: len(data)}
		copies[n] = c
		return c
	}
	paths := make([]string, 0, len(d.dirs))
	for p := range d.dirs {
		paths = append(paths, p)
	}
	sort.Strings(paths)
	for _, p := range paths {
		src := d.dirs[p]
		dst := &dir{live: map[string]*inode{}, synced: map[string]*inode{}}
		for _, name := range union(src) {
			n := src.synced[name]
			if src.live[name] != n && rng.Float64() < survival {
				n = src.live[name]
			}
			if n != nil {
				c := clone(n)
				dst.live[name], dst.synced[name] = c, c
			}
		}
		after.dirs[p] = dst
	}
	return after
}

func union(d *dir) []string {
	seen := map[string]bool{}
	for n := range d.live {
		seen[n] = true
	}
	for n := range d.synced {
		seen[n] = true
	}
	names := make([]string, 0, len(seen))
	for n := range seen {
		names = append(names, n)
	}
	sort.Strings(names)
	return names
}

// Corrupt flips one bit of a stored byte, on the platter and for readers.
func (d *Disk) Corrupt(path string, offset int, mask byte) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.dirs[filepath.Dir(path)].live[filepath.Base(path)].live[offset] ^= mask
}

func (d *Disk) lookup(path string) (*dir, *inode, error) {
	dd, ok := d.dirs[filepath.Dir(path)]
	if !ok {
		return nil, nil, &fs.PathError{Op: "open", Path: path, Err: fs.ErrNotExist}
	}
	return dd, dd.live[filepath.Base(path)], nil
}

// Create implements disk.FS.
func (d *Disk) Create(path string) (disk.File, error) {
	if err := d.step("create", path); err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	dd, _, err := d.lookup(path)
	if err != nil {
		return nil, err
	}
	n := &inode{}
	dd.live[filepath.Base(path)] = n
	return &file{disk: d, path: path, node: n}, nil
}

// CreateSized implements disk.FS.
func (d *Disk) CreateSized(path string, _ int64) (disk.File, error) { return d.Create(path) }

// ReadFile implements disk.FS.
func (d *Disk) ReadFile(path string) ([]byte, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	_, n, err := d.lookup(path)
	if err != nil {
		return nil, err
	}
	if n == nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: fs.ErrNotExist}
	}
	return append([]byte(nil), n.live...), nil
}

// content is a file as it was when it was opened.
type content struct{ *bytes.Reader }

func (content) Close() error { return nil }

// Open implements disk.FS.
func (d *Disk) Open(path string) (disk.Content, error) {
	raw, err := d.ReadFile(path)
	if err != nil {
		return nil, err
	}
	return content{bytes.NewReader(raw)}, nil
}

// Rename implements disk.FS.
func (d *Disk) Rename(from, to string) error {
	if err := d.step("rename", to); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	src, n, err := d.lookup(from)
	if err != nil {
		return err
	}
	if n == nil {
		return &fs.PathError{Op: "rename", Path: from, Err: fs.ErrNotExist}
	}
	dst, _, err := d.lookup(to)
	if err != nil {
		return err
	}
	delete(src.live, filepath.Base(from))
	dst.live[filepath.Base(to)] = n
	return nil
}

// Remove implements disk.FS.
func (d *Disk) Remove(path string) error {
	if err := d.step("remove", path); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	dd, n, err := d.lookup(path)
	if err != nil {
		return err
	}
	if n == nil {
		return &fs.PathError{Op: "remove", Path: path, Err: fs.ErrNotExist}
	}
	delete(dd.live, filepath.Base(path))
	return nil
}

// MkdirAll implements disk.FS; as with disk.OS, directories are durable at once.
func (d *Disk) MkdirAll(path string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	for p := path; ; p = filepath.Dir(p) {
		if _, ok := d.dirs[p]; !ok {
			d.dirs[p] = &dir{live: map[string]*inode{}, synced: map[string]*inode{}}
		}
		if p == filepath.Dir(p) {
			return nil
		}
	}
}

// List implements disk.FS; it names files only.
func (d *Disk) List(path string) ([]string, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	dd, ok := d.dirs[path]
	if !ok {
		return nil, &fs.PathError{Op: "open", Path: path, Err: fs.ErrNotExist}
	}
	names := make([]string, 0, len(dd.live))
	for n := range dd.live {
		names = append(names, n)
	}
	sort.Strings(names)
	return names, nil
}

// SyncDir implements disk.FS.
func (d *Disk) SyncDir(path string) error {
	if err := d.step("syncdir", path); err != nil {
		return err
	}
	if d.Lie != nil && d.Lie("syncdir", path) {
		return nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	dd, ok := d.dirs[path]
	if !ok {
		return &fs.PathError{Op: "open", Path: path, Err: fs.ErrNotExist}
	}
	dd.synced = make(map[string]*inode, len(dd.live))
	for name, n := range dd.live {
		dd.synced[name] = n
	}
	return nil
}

type file struct {
	disk   *Disk
	path   string
	node   *inode
	closed bool
}

func (f *file) Write(p []byte) (int, error) {
	err := f.disk.step("write", f.path)
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	if f.closed {
		return 0, fs.ErrClosed
	}
	if err != nil {
		half := len(p) / 2
		f.node.live = append(f.node.live, p[:half]...)
		return half, err
	}
	f.node.live = append(f.node.live, p...)
	return len(p), nil
}

// Ease implements disk.File; it promises nothing, and here does nothing.
func (f *file) Ease() error { return nil }

func (f *file) Sync() error {
	if err := f.disk.step("sync", f.path); err != nil {
		return err
	}
	if f.disk.Lie != nil && f.disk.Lie("sync", f.path) {
		return nil
	}
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	if f.closed {
		return fs.ErrClosed
	}
	f.node.synced = len(f.node.live)
	return nil
}

func (f *file) Close() error {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	if f.closed {
		return fs.ErrClosed
	}
	f.closed = true
	return nil
}

// ErrFull is what a full disk answers.
var ErrFull error = syscall.ENOSPC
