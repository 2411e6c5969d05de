package modelclient

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"

	registryv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/registry/v1"
)

// cache is a directory:
//
//	blobs/<sha256>                 content, read only, complete or not there
//	partial/<sha256>               a download under way; goes on after a restart
//	models/<name>/<version>/...    hard links to blobs under the model's own paths
//	models/<name>/<version>.json   what the version is
//	models/<name>/last.json        which version was served last
//
// os.Root confines all of it, whatever paths a manifest names.
type cache struct {
	root *os.Root
	dir  string
	lock *os.File
	// filling is held for reading while contents arrive, for writing while they are trimmed.
	filling sync.RWMutex
	// contents has a lock per digest.
	contents sync.Map
}

func openCache(dir string) (_ *cache, err error) {
	if dir, err = filepath.Abs(dir); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	c := &cache{root: root, dir: dir}
	for _, sub := range []string{"blobs", "partial", "models"} {
		if err := root.MkdirAll(sub, 0o755); err != nil {
			return nil, errors.Join(err, root.Close())
		}
	}
	if c.lock, err = root.OpenFile("lock", os.O_CREATE|os.O_RDWR, 0o644); err != nil {
		return nil, errors.Join(err, root.Close())
	}
	if err := syscall.Flock(int(c.lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("the cache %s is open in another process; give each process its own directory", dir), c.lock.Close(), root.Close())
	}
	return c, nil
}

func (c *cache) close() error { return errors.Join(c.lock.Close(), c.root.Close()) }

// describe turns an answer into a model and refuses what could not be cached safely.
func describe(r *registryv1.ResolveModelResponse) (*Model, error) {
	v, k := r.GetVersion(), r.GetCheckpoint()
	m := &Model{Name: v.GetModelName(), Version: v.GetVersion(), Stage: strings.TrimPrefix(v.GetStage().String(), "STAGE_"),
		ManifestSHA256: hex.EncodeToString(v.GetManifestSha256()), CheckpointID: v.GetCheckpointId(), FeatureSchema: v.GetFeatureSchema(), Metrics: map[string]float64{}}
	for name, value := range v.GetMetrics() {
		if !math.IsNaN(value) && !math.IsInf(value, 0) {
			m.Metrics[name] = value // JSON has no others
		}
	}
	if m.Version < 1 || len(k.GetFiles()) == 0 {
		return nil, fmt.Errorf("%s version %d has no files", m.Name, m.Version)
	}
	for _, f := range k.GetFiles() {
		if !fs.ValidPath(f.GetPath()) || f.GetPath() == "." || strings.ContainsAny(f.GetPath(), "\\\x00") || len(f.GetSha256()) != sha256.Size || f.GetSizeBytes() < 0 {
			return nil, fmt.Errorf("%s version %d names the file %q, which cannot be stored", m.Name, m.Version, f.GetPath())
		}
		m.Files = append(m.Files, File{Path: f.GetPath(), SHA256: hex.EncodeToString(f.GetSha256()), Size: f.GetSizeBytes()})
	}
	slices.SortFunc(m.Files, func(a, b File) int { return strings.Compare(a.Path, b.Path) })
	return m, nil
}

func blobName(sum string) string { return "blobs/" + sum }

func (c *cache) lockOf(sum string) *sync.Mutex {
	one, _ := c.contents.LoadOrStore(sum, &sync.Mutex{})
	return one.(*sync.Mutex)
}

// home is a model's directory: the prefix and the escaping keep every name a plain one.
func home(name string) string { return "models/m-" + url.PathEscape(name) }

func (c *cache) versionDir(m *Model) string { return fmt.Sprintf("%s/%d", home(m.Name), m.Version) }

// publish lays out a version whose contents are all there, and only then names it.
func (c *cache) publish(m *Model) error {
	dir := c.versionDir(m)
	m.Dir = filepath.Join(c.dir, filepath.FromSlash(dir))
	if old, err := c.read(dir + ".json"); err == nil && old.ManifestSHA256 == m.ManifestSHA256 && c.complete(old) {
		return nil // readers may have it open: it is not built anew
	}
	if err := errors.Join(c.root.RemoveAll(dir+".json"), c.root.RemoveAll(dir)); err != nil {
		return err
	}
	for _, f := range m.Files {
		name := dir + "/" + f.Path
		if err := c.root.MkdirAll(path.Dir(name), 0o755); err != nil {
			return err
		}
		if err := c.root.Link(blobName(f.SHA256), name); err != nil {
			return err
		}
	}
	return c.write(dir+".json", m)
}

// complete reports whether every file of a version is in its place.
func (c *cache) complete(m *Model) bool {
	for _, f := range m.Files {
		info, err := c.root.Stat(c.versionDir(m) + "/" + f.Path)
		if err != nil || info.Size() != f.Size {
			return false
		}
	}
	return true
}

func (c *cache) read(name string) (*Model, error) {
	raw, err := c.root.ReadFile(name)
	if err != nil {
		return nil, err
	}
	var m Model
	if err := json.Unmarshal(raw, &m); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return &m, nil
}

// write replaces a file in one step that survives a power loss.
func (c *cache) write(name string, m *Model) error {
	raw, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return err
	}
	f, err := c.root.OpenFile(name+".new", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(raw)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := c.root.Rename(name+".new", name); err != nil {
		return err
	}
	d, err := c.root.Open(path.Dir(name))
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// serve records which version is served, so that a restart without the registry has it.
func (c *cache) serve(m *Model) error { return c.write(home(m.Name)+"/last.json", m) }

// last returns the version served last, every byte of it read and proven.
func (c *cache) last(name string) (*Model, error) {
	m, err := c.read(home(name) + "/last.json")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	m.Dir = filepath.Join(c.dir, filepath.FromSlash(c.versionDir(m)))
	for _, f := range m.Files {
		if err := c.prove(c.versionDir(m)+"/"+f.Path, f); err != nil {
			// The link and the blob are one file: both go, and the next fetch brings them anew.
			return nil, errors.Join(err, c.root.RemoveAll(blobName(f.SHA256)), c.root.RemoveAll(c.versionDir(m)))
		}
	}
	return m, nil
}

func (c *cache) prove(name string, f File) error {
	file, err := c.root.Open(name)
	if err != nil {
		return err
	}
	sum := sha256.New()
	n, err := io.Copy(sum, file)
	if err := errors.Join(err, file.Close()); err != nil {
		return err
	}
	if got := hex.EncodeToString(sum.Sum(nil)); n != f.Size || got != f.SHA256 {
		return fmt.Errorf("%s: %w", f.Path, ErrDigest)
	}
	return nil
}

// trim removes former versions of a model beyond keep, and contents that no version has.
func (c *cache) trim(current *Model, keep int) error {
	if !c.filling.TryLock() {
		return nil // after the next version, then
	}
	defer c.filling.Unlock()
	entries, err := fs.ReadDir(c.root.FS(), home(current.Name))
	if err != nil {
		return err
	}
	var former []*Model
	for _, e := range entries {
		if m, err := c.read(home(current.Name) + "/" + e.Name()); err == nil && e.Name() != "last.json" && m.Version != current.Version {
			former = append(former, m)
		}
	}
	slices.SortFunc(former, func(a, b *Model) int { return int(b.Version - a.Version) })
	for _, m := range former[min(keep, len(former)):] {
		if err := errors.Join(c.root.RemoveAll(c.versionDir(m)+".json"), c.root.RemoveAll(c.versionDir(m))); err != nil {
			return err
		}
	}
	blobs, err := fs.ReadDir(c.root.FS(), "blobs")
	if err != nil {
		return err
	}
	for _, b := range blobs {
		info, err := c.root.Stat("blobs/" + b.Name())
		if err != nil {
			return err
		}
		// One name left: no version links to it.
		if sys, ok := info.Sys().(*syscall.Stat_t); ok && sys.Nlink == 1 {
			if err := c.root.Remove("blobs/" + b.Name()); err != nil {
				return err
			}
		}
	}
	return nil
}
