package localtree

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"path"
	"slices"
	"strings"
	"time"
)

var errPower = errors.New("the power is off")

// inode is a file: what is written, and what of it would survive.
type inode struct {
	data, durable []byte
	mod           time.Time
}

// change is one change of names that no sync has made durable: all of it survives, or none.
type change struct {
	dir  string
	sets map[string]*inode // nil deletes
}

// crashDisk is a [Disk] in memory whose power goes off after a number of operations. Written
// bytes survive only by Sync of the file, names only by SyncDir; what was not synced survives
// or does not, each on its own, as the worst file systems do.
type crashDisk struct {
	names   map[string]*inode
	durable map[string]*inode
	pending []change
	ops     int
	limit   int // 0 is no limit
	clock   time.Time
	lying   bool
}

func newCrashDisk(files map[string][]byte, mod time.Time) *crashDisk {
	d := &crashDisk{names: map[string]*inode{}, durable: map[string]*inode{}, clock: mod.Add(time.Hour)}
	for name, data := range files {
		n := &inode{data: slices.Clone(data), durable: slices.Clone(data), mod: mod}
		d.names[name], d.durable[name] = n, n
	}
	return d
}

func (d *crashDisk) step() error {
	if d.limit > 0 && d.ops >= d.limit {
		return errPower
	}
	d.ops++
	return nil
}

func (d *crashDisk) change(dir string, sets map[string]*inode) {
	d.pending = append(d.pending, change{dir, sets})
	for name, n := range sets {
		if n == nil {
			delete(d.names, name)
		} else {
			d.names[name] = n
		}
	}
}

// crash returns the disk as it comes up again; p is how likely what was not synced survives.
func (d *crashDisk) crash(r *rand.Rand, p float64) *crashDisk {
	up := &crashDisk{names: map[string]*inode{}, durable: map[string]*inode{}, clock: d.clock.Add(time.Hour)}
	names := maps.Clone(d.durable)
	for _, c := range d.pending {
		if r.Float64() >= p {
			continue
		}
		for name, n := range c.sets {
			if n == nil {
				delete(names, name)
			} else {
				names[name] = n
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		n := names[name]
		data := slices.Clone(n.durable)
		if r.Float64() < p && len(n.data) >= len(data) {
			// Some of the unsynced tail made it, perhaps with a hole of zeros in it.
			data = slices.Clone(n.data[:len(data)+r.IntN(len(n.data)-len(data)+1)])
			if tail := len(data) - len(n.durable); tail > 1 && r.IntN(2) == 0 {
				clear(data[len(n.durable)+r.IntN(tail):])
			}
		}
		next := &inode{data: data, durable: slices.Clone(data), mod: n.mod}
		up.names[name], up.durable[name] = next, next
	}
	return up
}

type handle struct {
	d  *crashDisk
	n  *inode
	at int64
}

func (h *handle) Read(b []byte) (int, error) {
	if h.at >= int64(len(h.n.data)) {
		return 0, io.EOF
	}
	n := copy(b, h.n.data[h.at:])
	h.at += int64(n)
	return n, nil
}

func (h *handle) Write(b []byte) (int, error) {
	if err := h.d.step(); err != nil {
		return 0, err
	}
	h.n.data = append(h.n.data[:h.at], b...)
	h.at += int64(len(b))
	h.n.mod = h.d.clock
	return len(b), nil
}

func (h *handle) Seek(offset int64, whence int) (int64, error) {
	if whence != io.SeekStart {
		return 0, fs.ErrInvalid
	}
	h.at = offset
	return offset, nil
}

func (h *handle) Sync() error {
	if err := h.d.step(); err != nil {
		return err
	}
	if !h.d.lying {
		h.n.durable = slices.Clone(h.n.data)
	}
	return nil
}

func (h *handle) Close() error { return nil }

func (d *crashDisk) Open(name string) (File, error) {
	n := d.names[name]
	if n == nil {
		return nil, fmt.Errorf("open %s: %w", name, fs.ErrNotExist)
	}
	return &handle{d: d, n: n}, nil
}

func (d *crashDisk) Create(name string) (File, error) {
	if err := d.step(); err != nil {
		return nil, err
	}
	if d.names[name] != nil {
		return nil, fmt.Errorf("create %s: %w", name, fs.ErrExist)
	}
	n := &inode{mod: d.clock}
	d.change(path.Dir(name), map[string]*inode{name: n})
	return &handle{d: d, n: n}, nil
}

func (d *crashDisk) Rename(from, to string) error {
	if err := d.step(); err != nil {
		return err
	}
	n := d.names[from]
	if n == nil {
		return fmt.Errorf("rename %s: %w", from, fs.ErrNotExist)
	}
	d.change(path.Dir(to), map[string]*inode{from: nil, to: n})
	return nil
}

func (d *crashDisk) Remove(name string) error {
	if err := d.step(); err != nil {
		return err
	}
	if d.names[name] == nil {
		return fmt.Errorf("remove %s: %w", name, fs.ErrNotExist)
	}
	d.change(path.Dir(name), map[string]*inode{name: nil})
	return nil
}

func (d *crashDisk) SyncDir(dir string) error {
	if err := d.step(); err != nil {
		return err
	}
	var left []change
	for _, c := range d.pending {
		if c.dir != dir {
			left = append(left, c)
			continue
		}
		for name, n := range c.sets {
			if n == nil {
				delete(d.durable, name)
			} else {
				d.durable[name] = n
			}
		}
	}
	d.pending = left
	return nil
}

func (d *crashDisk) MkdirAll(string) error { return nil }

func (d *crashDisk) Stat(name string) (Info, error) {
	n := d.names[name]
	if n == nil {
		return Info{}, fmt.Errorf("stat %s: %w", name, fs.ErrNotExist)
	}
	return Info{Bytes: int64(len(n.data)), ModTime: n.mod, Links: 1}, nil
}

func (d *crashDisk) SetTime(name string, t time.Time) error {
	if err := d.step(); err != nil {
		return err
	}
	d.names[name].mod = t
	return nil
}

func (d *crashDisk) Walk(each func(string, Info), _ func(string, string), _ func(string, error)) error {
	for _, name := range slices.Sorted(maps.Keys(d.names)) {
		i, err := d.Stat(name)
		if err != nil {
			return err
		}
		each(name, i)
	}
	return nil
}

// checkpoints are the visible files under a checkpoint's name.
func (d *crashDisk) checkpoints() map[string][]byte {
	out := map[string][]byte{}
	for name, n := range d.names {
		if !strings.HasPrefix(name, Folder+"/") && isCheckpoint(name) {
			out[name] = n.data
		}
	}
	return out
}
