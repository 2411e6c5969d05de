package archive

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

var t0 = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func lines(from, n int) []Line {
	out := make([]Line, n)
	for i := range out {
		id := fmt.Sprintf("job-%d", from+i)
		out[i] = Line{Job: id, Ended: t0.Add(time.Duration(from+i) * time.Minute), JSON: fmt.Appendf(nil, `{"job":%q,"text":"%s"}`, id, strings.Repeat("x", 100))}
	}
	return out
}

func open(t *testing.T, limit int64) *Dir {
	t.Helper()
	d, err := Open(filepath.Join(t.TempDir(), "history"), limit)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func (d *Dir) keep(t *testing.T, l []Line) {
	t.Helper()
	if err := d.Keep(t.Context(), l); err != nil {
		t.Fatal(err)
	}
}

func (d *Dir) names(t *testing.T) []string {
	t.Helper()
	names, err := d.files()
	if err != nil {
		t.Fatal(err)
	}
	return names
}

func TestWhatIsKeptIsFound(t *testing.T) {
	t.Parallel()
	d := open(t, 0)
	d.keep(t, lines(0, 5))
	d.keep(t, lines(5, 5))
	d.keep(t, lines(5, 5)) // a crash before the drop has it kept again
	if n := len(d.names(t)); n != 2 {
		t.Errorf("%d files, want 2: the same portion is the same file", n)
	}
	for _, want := range lines(0, 10) {
		got, _, err := d.Find(t.Context(), want.Job)
		if err != nil || !bytes.Equal(got, want.JSON) {
			t.Errorf("%s: %s, %v", want.Job, got, err)
		}
	}
	if _, _, err := d.Find(t.Context(), "job-10"); !errors.Is(err, ErrNotFound) {
		t.Errorf("a job that was never kept: %v", err)
	}
}

// A file that a crash has cut short at any byte, or of which any byte is another, is
// never taken for a complete one.
func TestDamageIsSeen(t *testing.T) {
	t.Parallel()
	raw, _, err := pack(lines(0, 3))
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "f")
	check := func(what string, raw []byte) {
		t.Helper()
		if err := os.WriteFile(path, raw, 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := read(path, nil); err == nil && len(got) != 3 {
			t.Errorf("%s: %d lines and no error", what, len(got))
		} else if err == nil {
			for i, l := range lines(0, 3) {
				if !bytes.Equal(got[i], l.JSON) {
					t.Errorf("%s: another content is taken", what)
				}
			}
			if strings.HasPrefix(what, "cut") {
				t.Errorf("%s: taken", what)
			}
		}
	}
	for n := range len(raw) {
		check(fmt.Sprintf("cut at %d", n), raw[:n])
		other := bytes.Clone(raw)
		other[n] ^= 0x10
		check(fmt.Sprintf("byte %d", n), other)
	}
}

// What a crash has left behind is neither read nor in the way.
func TestAPartIsWrittenOver(t *testing.T) {
	t.Parallel()
	d := open(t, 0)
	d.keep(t, lines(0, 2))
	name := d.names(t)[0]
	full, err := os.ReadFile(filepath.Join(d.path, name))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(d.path, name)); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(d.path, name+part), full[:len(full)/2], 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := d.Find(t.Context(), "job-0"); !errors.Is(err, ErrNotFound) {
		t.Errorf("a part was read: %v", err)
	}
	d.keep(t, lines(0, 2))
	if _, _, err := d.Find(t.Context(), "job-0"); err != nil {
		t.Error(err)
	}
}

func TestTheOldestGoFirst(t *testing.T) {
	t.Parallel()
	one, _, err := pack(lines(0, 4))
	if err != nil {
		t.Fatal(err)
	}
	d := open(t, 3*int64(len(one))+16)
	for i := range 6 {
		d.keep(t, lines(4*i, 4))
	}
	if n := len(d.names(t)); n < 2 || n > 3 {
		t.Errorf("%d files", n)
	}
	if _, _, err := d.Find(t.Context(), "job-0"); !errors.Is(err, ErrNotFound) {
		t.Errorf("the oldest is still there: %v", err)
	}
	if _, _, err := d.Find(t.Context(), "job-23"); err != nil {
		t.Errorf("the newest is gone: %v", err)
	}
	small := open(t, 1)
	small.keep(t, lines(0, 4))
	if _, _, err := small.Find(t.Context(), "job-0"); err != nil {
		t.Errorf("the file just written is gone: %v", err)
	}
}
