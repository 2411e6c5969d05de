// Package archive keeps the histories of old jobs in a directory or a bucket, as
// compressed JSON lines. A file appears whole and is read back before anybody relies on
// it. It is called after its content, so that the same portion written twice is one file,
// and it tells which jobs it has before it tells about them, so that a search does not
// unpack what it does not need.
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
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/ultrathink-pilot/trainyard/libs/objectstore"
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
	// stamp is the time in a file's name: that of the last end among its jobs.
	stamp = "20060102T150405Z"
	// clocksDiffer is more than the clocks of two schedulers do.
	clocksDiffer = 10 * time.Minute
)

// Archive is where the files are. Several processes may share the place.
type Archive struct {
	store  *objectstore.Store
	folder string
	limit  int64

	mu    sync.Mutex // one writer at a time
	ready bool
}

// New is an archive in a store, under keys that begin with folder. limit bounds the bytes
// of all its files, the oldest go first; 0 is no bound.
func New(store *objectstore.Store, folder string, limit int64) *Archive {
	return &Archive{store: store, folder: folder, limit: limit}
}

// Keep writes lines, oldest first, and returns when they have been read back from a
// file that a crash leaves as it is.
func (a *Archive) Keep(ctx context.Context, lines []Line) error {
	if len(lines) == 0 {
		return nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	// Not at the start: a scheduler does not wait for a store that is away.
	if !a.ready {
		if err := a.store.EnsureBucket(ctx); err != nil {
			return err
		}
		a.ready = true
	}
	raw, head, err := pack(lines)
	if err != nil {
		return err
	}
	name := prefix + head.Last.UTC().Format(stamp) + "-" + head.Digest[:16] + suffix
	if _, err := a.store.PutBytes(ctx, a.folder+name, raw); err != nil {
		return err
	}
	back, err := a.store.GetBytes(ctx, a.folder+name, objectstore.Digest(raw), int64(len(raw)))
	if err == nil {
		_, err = read(bytes.NewReader(back), name, nil)
	}
	if err != nil {
		return fmt.Errorf("read back what was written: %w", err)
	}
	return a.trim(ctx, name)
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

// read checks a file and hands out its lines; with a wanted job, only if the file has
// it.
func read(f io.Reader, name string, wanted *string) ([][]byte, error) {
	damaged := func(why error) error {
		return fmt.Errorf("%s is damaged: %w", name, why)
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
	lines := bytes.Split(bytes.TrimSuffix(body, []byte("\n")), []byte("\n"))
	if len(lines) != len(head.Jobs) {
		return nil, damaged(fmt.Errorf("it has %d lines for %d jobs", len(lines), len(head.Jobs)))
	}
	if wanted != nil {
		at := slices.Index(head.Jobs, *wanted)
		lines = lines[at : at+1]
	}
	return lines, nil
}

// file is one complete file.
type file struct {
	name string
	size int64
}

// files lists them, oldest first: names begin with the time.
func (a *Archive) files(ctx context.Context) ([]file, error) {
	var out []file
	for o, err := range a.store.List(ctx, a.folder+prefix) {
		if err != nil {
			return nil, err
		}
		if n := strings.TrimPrefix(o.Key, a.folder); strings.HasSuffix(n, suffix) && !strings.Contains(n, "/") {
			out = append(out, file{n, o.Size})
		}
	}
	slices.SortFunc(out, func(x, y file) int { return strings.Compare(x.name, y.name) })
	return out, nil
}

// Find reads a job's history and the name of the file that has it; ErrNotFound when
// none does. Files that are damaged are named, when the job is in no other.
func (a *Archive) Find(ctx context.Context, job string) (line []byte, name string, err error) {
	all, err := a.files(ctx)
	if err != nil && !errors.Is(err, objectstore.ErrNotFound) {
		return nil, "", err
	}
	var bad error
	for _, f := range likely(all, job) {
		lines, err := a.open(ctx, f.name, job)
		switch {
		case errors.Is(err, objectstore.ErrNotFound): // trimmed meanwhile
		case errors.Is(err, objectstore.ErrUnavailable), ctx.Err() != nil:
			return nil, "", err
		case err != nil:
			bad = errors.Join(bad, err)
		case lines != nil:
			return lines[0], f.name, nil
		}
	}
	if bad != nil {
		return nil, "", bad
	}
	return nil, "", ErrNotFound
}

// likely orders files for a search. An id that tells when it was made (UUIDv7, RFC 9562)
// leaves out the files that are older, by more than clocks differ, and most jobs end soon
// after: from there on upwards. Others are looked for from the newest file down.
func likely(all []file, job string) []file {
	id, err := uuid.Parse(job)
	if err != nil || id.Version() != 7 {
		out := slices.Clone(all)
		slices.Reverse(out)
		return out
	}
	sec, nsec := id.Time().UnixTime()
	made := prefix + time.Unix(sec, nsec).Add(-clocksDiffer).UTC().Format(stamp)
	at, _ := slices.BinarySearchFunc(all, made, func(f file, made string) int { return strings.Compare(f.name, made) })
	return all[at:]
}

func (a *Archive) open(ctx context.Context, name, job string) (_ [][]byte, err error) {
	r, err := a.store.Get(ctx, a.folder+name, "")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	return read(r, name, &job)
}

// trim removes the oldest files beyond the limit, never the one just written.
func (a *Archive) trim(ctx context.Context, newest string) error {
	if a.limit <= 0 {
		return nil
	}
	all, err := a.files(ctx)
	if err != nil {
		return err
	}
	total := int64(0)
	for _, f := range all {
		total += f.size
	}
	for _, f := range all {
		if total <= a.limit {
			return nil
		}
		if f.name == newest {
			continue
		}
		if err := a.store.Delete(ctx, a.folder+f.name); err != nil {
			return err
		}
		total -= f.size
	}
	return nil
}
