// Package archive keeps the histories of old jobs in a directory, as compressed JSON
// lines. A file is written whole, synced, read back and only then given its name: what
// has a name is complete. It is called after its content, so that the same portion
// written twice is one file, and it tells which jobs it has before it tells about
// them, so that a search does not unpack what it does not need.
package archive

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

// ErrNotFound says that no file has the job.
var ErrNotFound = errors.New("not in the archive")

// Line is one job's history.
type Line struct {
	Job string
	// Ended is when the job ended.
	Ended time.Time
	// JSON is the history, on one line.
	JSON []byte
}

// header is the first line of a file, a compressed piece of its own.
type header struct {
	Format string    `json:"format"`
	First  time.Time `json:"first_end"`
	Last   time.Time `json:"last_end"`
	Jobs   []string  `json:"jobs"`
	// Digest is of the lines that follow, not compressed.
	Digest string `json:"sha256"`
}

const (
	format = "trainyard job history 1"
	prefix = "jobs-"
	suffix = ".jsonl.gz"
	part   = ".part"
)

// Dir is an archive. Several processes may share the directory.
type Dir struct {
	path  string
	limit int64

	mu sync.Mutex // one writer at a time
}

// Open makes or opens an archive. limit bounds the bytes of all its files, the oldest
// go first; 0 is no bound.
func Open(path string, limit int64) (*Dir, error) {
	if err := os.MkdirAll(path, 0o750); err != nil {
		return nil, fmt.Errorf("the archive of history: %w", err)
	}
	return &Dir{path: path, limit: limit}, nil
}

// Keep writes lines, oldest first, and returns when they have been read back from a
// file that a crash leaves as it is.
func (d *Dir) Keep(ctx context.Context, lines []Line) error {
	if len(lines) == 0 {
		return nil
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	raw, head, err := pack(lines)
	if err != nil {
		return err
	}
	name := prefix + head.Last.UTC().Format("20060102T150405Z") + "-" + head.Digest[:16] + suffix
	path := filepath.Join(d.path, name)
	if err := write(path+part, raw); err != nil {
		return err
	}
	if _, err := read(path+part, nil); err != nil {
		return fmt.Errorf("read back what was written: %w", err)
	}
	if err := os.Rename(path+part, path); err != nil {
		return err
	}
	if err := syncDir(d.path); err != nil {
		return err
	}
	return d.trim(name)
}

// pack makes a file's bytes.
func pack(lines []Line) ([]byte, header, error) {
	head := header{Format: format, First: lines[0].Ended, Last: lines[len(lines)-1].Ended}
	var body bytes.Buffer
	for _, l := range lines {
		head.Jobs = append(head.Jobs, l.Job)
		body.Write(l.JSON)
		body.WriteByte('\n')
	}
	sum := sha256.Sum256(body.Bytes())
	head.Digest = hex.EncodeToString(sum[:])
	top, err := json.Marshal(head)
	if err != nil {
		return nil, head, err
	}
	var out bytes.Buffer
	for _, piece := range [][]byte{append(top, '\n'), body.Bytes()} {
		z := gzip.NewWriter(&out)
		if _, err := z.Write(piece); err != nil {
			return nil, head, err
		}
		if err := z.Close(); err != nil {
			return nil, head, err
		}
	}
	return out.Bytes(), head, nil
}

func write(path string, raw []byte) (err error) {
	// A part that a crash has left is written over.
	f, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o640)
	if err != nil {
		return err
	}
	defer func() {
		err = errors.Join(err, f.Close())
		if err != nil {
			err = errors.Join(err, os.Remove(path))
		}
	}()
	if _, err := f.Write(raw); err != nil {
		return err
	}
	return f.Sync()
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// read checks a file and hands out its lines; with a wanted job, only if the file has
// it.
func read(path string, wanted *string) (lines [][]byte, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	damaged := func(why error) error {
		return fmt.Errorf("%s is damaged: %w", filepath.Base(path), why)
	}
	b := bufio.NewReader(f)
	z, err := gzip.NewReader(b)
	if err != nil {
		return nil, damaged(err)
	}
	z.Multistream(false)
	var head header
	if err := json.NewDecoder(z).Decode(&head); err != nil {
		return nil, damaged(err)
	}
	if head.Format != format {
		return nil, damaged(fmt.Errorf("its format is %q, not %q", head.Format, format))
	}
	if wanted != nil && !slices.Contains(head.Jobs, *wanted) {
		return nil, nil
	}
	if _, err := io.Copy(io.Discard, z); err != nil {
		return nil, damaged(err)
	}
	if err := z.Reset(b); err != nil {
		return nil, damaged(err)
	}
	body, err := io.ReadAll(z)
	if err != nil {
		return nil, damaged(err)
	}
	if sum := sha256.Sum256(body); hex.EncodeToString(sum[:]) != head.Digest {
		return nil, damaged(errors.New("its digest is another"))
	}
	lines = bytes.Split(bytes.TrimSuffix(body, []byte("\n")), []byte("\n"))
	if len(lines) != len(head.Jobs) {
		return nil, damaged(fmt.Errorf("it has %d lines for %d jobs", len(lines), len(head.Jobs)))
	}
	if wanted != nil {
		at := slices.Index(head.Jobs, *wanted)
		lines = lines[at : at+1]
	}
	return lines, nil
}

// files lists the names of the complete files, oldest first.
func (d *Dir) files() ([]string, error) {
	entries, err := os.ReadDir(d.path)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, e := range entries {
		if n := e.Name(); strings.HasPrefix(n, prefix) && strings.HasSuffix(n, suffix) {
			out = append(out, n)
		}
	}
	return out, nil // ReadDir sorts, and names begin with the time
}

// Find reads a job's history and the name of the file that has it; ErrNotFound when
// none does. Files that are damaged are named, when the job is in no other.
func (d *Dir) Find(ctx context.Context, job string) (line []byte, file string, err error) {
	names, err := d.files()
	if err != nil {
		return nil, "", err
	}
	var bad error
	slices.Reverse(names)
	for _, n := range names {
		if err := ctx.Err(); err != nil {
			return nil, "", err
		}
		lines, err := read(filepath.Join(d.path, n), &job)
		switch {
		case errors.Is(err, os.ErrNotExist): // trimmed meanwhile
		case err != nil:
			bad = errors.Join(bad, err)
		case lines != nil:
			return lines[0], n, nil
		}
	}
	if bad != nil {
		return nil, "", bad
	}
	return nil, "", ErrNotFound
}

// trim removes the oldest files beyond the limit, never the one just written.
func (d *Dir) trim(newest string) error {
	if d.limit <= 0 {
		return nil
	}
	names, err := d.files()
	if err != nil {
		return err
	}
	sizes, total := make([]int64, len(names)), int64(0)
	for i, n := range names {
		info, err := os.Stat(filepath.Join(d.path, n))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		if err == nil {
			sizes[i] = info.Size()
			total += sizes[i]
		}
	}
	for i, n := range names {
		if total <= d.limit {
			return nil
		}
		if n == newest {
			continue
		}
		if err := os.Remove(filepath.Join(d.path, n)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		total -= sizes[i]
	}
	return nil
}
