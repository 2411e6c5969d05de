// Package restore brings a checkpoint to a trainer's disk, verified: from the
// host's own tier of newest checkpoints where it can, from the object store
// where it must.
package restore

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"sync"
	"time"

	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/disk"
	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/lease"
)

// keepPerJob is how many of a job's newest checkpoints stay: the newest, and
// the one before it in case the newest turns out to be bad.
const keepPerJob = 2

// Tier keeps the newest committed checkpoints of the host's jobs, bounded. It
// is a cache: everything in it is verified when it is used.
type Tier struct {
	dir string
	max int64
	bin *disk.Bin
	mu  sync.Mutex
}

// NewTier opens the tier in dir, bounded to max bytes. What it drops goes into bin.
func NewTier(dir string, max int64, bin *disk.Bin) (*Tier, error) {
	return &Tier{dir: dir, max: max, bin: bin}, disk.OS().MkdirAll(dir)
}

type kept struct {
	ID    string       `json:"id"`
	Step  int64        `json:"step"`
	Files []lease.File `json:"files"`
}

const manifestSuffix = ".checkpoint"

// Keep links a committed checkpoint's files into the tier and drops what is
// over the bounds. path gives where a content lies now.
func (t *Tier) Keep(job string, id string, step int64, files []lease.File, path func([32]byte) string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	dir := filepath.Join(t.dir, job)
	if err := disk.OS().MkdirAll(dir); err != nil {
		return err
	}
	for _, f := range files {
		err := os.Link(path(f.SHA256), filepath.Join(dir, hex.EncodeToString(f.SHA256[:])))
		if err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	raw, err := json.Marshal(kept{ID: id, Step: step, Files: files})
	if err != nil {
		return err
	}
	if err := disk.WriteSealed(disk.OS(), filepath.Join(dir, fmt.Sprintf("%020d%s", step, manifestSuffix)), raw); err != nil {
		return err
	}
	return errors.Join(t.trim(dir), t.bound(job))
}

// manifests returns a job's checkpoints, oldest first, without the unreadable.
func manifests(dir string) ([]string, []kept) {
	names, err := disk.OS().List(dir)
	if err != nil {
		return nil, nil
	}
	var paths []string
	var list []kept
	for _, name := range names {
		if !strings.HasSuffix(name, manifestSuffix) {
			continue
		}
		raw, err := disk.ReadSealed(disk.OS(), filepath.Join(dir, name))
		var k kept
		if err == nil {
			err = json.Unmarshal(raw, &k)
		}
		if err == nil {
			paths, list = append(paths, filepath.Join(dir, name)), append(list, k)
		}
	}
	return paths, list
}

// trim drops a job's older checkpoints and the contents that only they had.
func (t *Tier) trim(dir string) error {
	paths, list := manifests(dir)
	var errs []error
	for len(list) > keepPerJob {
		errs = append(errs, os.Remove(paths[0]))
		paths, list = paths[1:], list[1:]
	}
	needed := map[string]bool{}
	for _, k := range list {
		for _, f := range k.Files {
			needed[hex.EncodeToString(f.SHA256[:])] = true
		}
	}
	names, err := disk.OS().List(dir)
	errs = append(errs, err)
	for _, name := range names {
		if !strings.HasSuffix(name, manifestSuffix) && !needed[name] {
			errs = append(errs, t.bin.Throw(filepath.Join(dir, name)))
		}
	}
	return errors.Join(errs...)
}

// bound drops whole jobs, longest untouched first, never the current one.
func (t *Tier) bound(current string) error {
	jobs, err := os.ReadDir(t.dir)
	if err != nil {
		return err
	}
	type usage struct {
		name  string
		bytes int64
		used  time.Time
	}
	var all []usage
	var total int64
	for _, job := range jobs {
		u := usage{name: job.Name()}
		if info, err := job.Info(); err == nil {
			u.used = info.ModTime()
		}
		entries, err := os.ReadDir(filepath.Join(t.dir, job.Name()))
		if err != nil {
			return err
		}
		for _, e := range entries {
			if info, err := e.Info(); err == nil {
				u.bytes += info.Size()
			}
		}
		total += u.bytes
		all = append(all, u)
	}
	sort.Slice(all, func(i, j int) bool { return all[i].used.Before(all[j].used) })
	for _, u := range all {
		if total <= t.max {
			return nil
		}
		if u.name == current {
			continue
		}
		if err := t.bin.Throw(filepath.Join(t.dir, u.name)); err != nil {
			return err
		}
		total -= u.bytes
	}
	return nil
}

// path returns where a job's content would lie.
func (t *Tier) path(job string, digest [32]byte) string {
	return filepath.Join(t.dir, job, hex.EncodeToString(digest[:]))
}

// Newest returns a job's kept checkpoints, newest first.
func (t *Tier) Newest(job string) []lease.Checkpoint {
	t.mu.Lock()
	defer t.mu.Unlock()
	_, list := manifests(filepath.Join(t.dir, job))
	var out []lease.Checkpoint
	for i := len(list) - 1; i >= 0; i-- {
		out = append(out, lease.Checkpoint{ID: list[i].ID, Step: list[i].Step, Files: list[i].Files})
	}
	return out
}
