// Package torchtest finds the Python of the comparisons and measures processor time.
package torchtest

import (
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// root is the repository, from a package below services/trainer/internal.
func root(t testing.TB) string {
	t.Helper()
	dir, err := os.Getwd()
	for err == nil {
		if _, serr := os.Stat(filepath.Join(dir, "go.work")); serr == nil {
			return dir
		}
		if dir == filepath.Dir(dir) {
			break
		}
		dir = filepath.Dir(dir)
	}
	t.Skip("SKIPPED: not in a checkout")
	return ""
}

// History is the built-in history of the S&P 500.
func History(t testing.TB) string {
	t.Helper()
	return filepath.Join(root(t), "tools", "internal", "dataservice", "data", "SPX_1d.csv")
}

// Python returns the interpreter that has torch; the test is skipped without it.
func Python(t testing.TB) string {
	t.Helper()
	p := filepath.Join(root(t), ".cache", "torch", "bin", "python")
	if _, err := os.Stat(p); err != nil {
		t.Skip("SKIPPED: no PyTorch: services/trainer/bench/setup installs it")
	}
	return p
}

// Peer is how a script is run.
type Peer struct {
	// Venv is the folder below .cache with the interpreter.
	Venv string
	// Env is added to the environment. OMP_NUM_THREADS is 1 unless it is here.
	Env []string
}

// Has reports whether the interpreter is installed.
func (p Peer) Has(t testing.TB) bool {
	_, err := os.Stat(p.python(t))
	return err == nil
}

func (p Peer) python(t testing.TB) string {
	return filepath.Join(root(t), ".cache", p.Venv, "bin", "python")
}

// Script runs a script of services/trainer/bench on one thread and decodes what it
// printed.
func Script(t testing.TB, into any, name string, args ...string) {
	t.Helper()
	Python(t)
	Peer{Venv: "torch"}.Script(t, into, name, args...)
}

// Script runs a script of services/trainer/bench and decodes what it printed.
func (p Peer) Script(t testing.TB, into any, name string, args ...string) {
	t.Helper()
	path := filepath.Join(root(t), "services", "trainer", "bench", name)
	cmd := exec.Command(p.python(t), append([]string{"-B", path}, args...)...) //nolint:gosec // our own script
	cmd.Env = append(append(os.Environ(), "OMP_NUM_THREADS=1", "PYTHONWARNINGS=ignore"), p.Env...)
	out, err := cmd.Output()
	if err != nil {
		var e *exec.ExitError
		if errors.As(err, &e) {
			t.Fatalf("%s: %v\n%s", name, err, e.Stderr)
		}
		t.Fatalf("%s: %v", name, err)
	}
	if err := json.Unmarshal(out, into); err != nil {
		t.Fatalf("%s: %v in %s", name, err, out)
	}
}

// ProcessorTime returns the processor seconds of this process: on a busy machine
// they say more than the clock.
func ProcessorTime(t testing.TB) float64 {
	t.Helper()
	runtime.Gosched()
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return float64(u.Utime.Nano()+u.Stime.Nano()) / 1e9
}
