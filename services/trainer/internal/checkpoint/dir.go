// Package checkpoint writes and reads what a native run leaves on disk: the rest of
// the trainer's state in a checked container beside the weights, and directories of
// files that appear whole or not at all.
package checkpoint

import (
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// The files of a native checkpoint.
const (
	ModelFile = "model.safetensors"
	StateFile = "trainer_state.bin"
	MetaFile  = "meta.json"
)

// File is one file of a checkpoint or run, ready to be pushed.
type File struct {
	// Name is the path inside the checkpoint.
	Name string
	// Path is where it lies on this host.
	Path   string
	SHA256 [sha256.Size]byte
	Size   int64
}

// Content is a file before it is written.
type Content struct {
	Name string
	Data []byte
}

// Write publishes the contents as the directory dir: it is written under a
// temporary name, synced, and renamed, so that a reader finds all files or none.
// An existing dir is replaced.
func Write(dir string, contents []Content) ([]File, error) {
	parent := filepath.Dir(dir)
	if err := os.MkdirAll(parent, 0o700); err != nil {
		return nil, err
	}
	tmp, err := os.MkdirTemp(parent, ".writing-*")
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.RemoveAll(tmp) }()
	files := make([]File, len(contents))
	for i, c := range contents {
		if err := writeSynced(filepath.Join(tmp, c.Name), c.Data); err != nil {
			return nil, err
		}
		files[i] = File{Name: c.Name, Path: filepath.Join(dir, c.Name), SHA256: sha256.Sum256(c.Data), Size: int64(len(c.Data))}
	}
	if err := syncDir(tmp); err != nil {
		return nil, err
	}
	if err := os.RemoveAll(dir); err != nil {
		return nil, err
	}
	if err := os.Rename(tmp, dir); err != nil {
		return nil, err
	}
	return files, syncDir(parent)
}

func writeSynced(path string, data []byte) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	return err
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	err = d.Sync()
	if cerr := d.Close(); err == nil {
		err = cerr
	}
	return err
}

// Describe digests a file that is on disk already.
func Describe(name, path string) (File, error) {
	f, err := os.Open(path)
	if err != nil {
		return File{}, err
	}
	defer func() { _ = f.Close() }()
	h := sha256.New()
	n, err := io.Copy(h, f)
	if err != nil {
		return File{}, fmt.Errorf("%s: %w", path, err)
	}
	out := File{Name: name, Path: path, Size: n}
	h.Sum(out.SHA256[:0])
	return out, nil
}
