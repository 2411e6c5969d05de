package archive

import (
	"bytes"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ultrathink-pilot/trainyard/libs/objectstore"
	"github.com/ultrathink-pilot/trainyard/libs/objectstore/s3test"
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

func open(t *testing.T, limit int64) *Archive {
	t.Helper()
	store, err := objectstore.OpenDirectory(filepath.Join(t.TempDir(), "history"))
	if err != nil {
		t.Fatal(err)
	}
	return New(store, "", limit)
}

func (a *Archive) keep(t *testing.T, l []Line) {
	t.Helper()
	if err := a.Keep(t.Context(), l); err != nil {
		t.Fatal(err)
	}
}

func (a *Archive) names(t *testing.T) []string {
	t.Helper()
	all, err := a.files(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, f := range all {
		out = append(out, f.name)
	}
	return out
}

func TestWhatIsKeptIsFound(t *testing.T) {
	t.Parallel()
	t.Run("directory", func(t *testing.T) { t.Parallel(); keptIsFound(t, open(t, 0)) })
	t.Run("bucket", func(t *testing.T) {
		t.Parallel()
		store, err := objectstore.Open(s3test.Config(t)) // a bucket that nobody has made yet
		if err != nil {
			t.Fatal(err)
		}
		keptIsFound(t, New(store, "jobs/2026/", 0))
	})
}

func keptIsFound(t *testing.T, d *Archive) {
	if _, _, err := d.Find(t.Context(), "job-0"); !errors.Is(err, ErrNotFound) {
		t.Errorf("nothing was kept yet: %v", err)
	}
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
	check := func(what string, raw []byte) {
		t.Helper()
		if got, err := read(bytes.NewReader(raw), "f", nil); err == nil && len(got) != 3 {
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

// A job is looked for from the time on that its id tells.
func TestTheIDSaysWhereToBegin(t *testing.T) {
	t.Parallel()
	at := func(hour int) string {
		return prefix + t0.Add(time.Duration(hour)*time.Hour).Format(stamp) + "-00" + suffix
	}
	all := []file{{at(0), 1}, {at(1), 1}, {at(2), 1}}
	id := fmt.Sprintf("%012x", t0.Add(45*time.Minute).UnixMilli())
	for job, want := range map[string][]string{
		id[:8] + "-" + id[8:] + "-7000-8000-000000000000": {at(1), at(2)},
		"00000000-0000-4000-8000-000000000000":            {at(2), at(1), at(0)},
		"of another form":                                 {at(2), at(1), at(0)},
	} {
		var got []string
		for _, f := range likely(all, job) {
			got = append(got, f.name)
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", job, got, want)
		}
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
