package features

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// cache is the host's directory of tables:
//
//	blobs/<sha256 of the file>.arrow   published files, never changed
//	index/<hash of the key>.json       which file a key has now
//	locks/<hash of the key>            held by the one process that asks the service
//	locks/publish                      held while names change
//	tmp/                               files being written
//
// A lock ends with its process, however that ends: no lease, no clean-up.
//
// The index entry's time is the table's last use: when the published files outgrow
// the limit, the keys that were not used for longest are forgotten.
type cache struct {
	dir   string
	limit int64
}

// key names a table of one service. Two services may serve different data
// under the same symbol.
type key struct{ base, symbol, timeframe string }

func (k key) hash() string {
	sum := sha256.Sum256([]byte(k.base + "\x00" + k.symbol + "\x00" + k.timeframe))
	return hex.EncodeToString(sum[:16])
}

// entry is one index file.
type entry struct {
	BaseURL   string    `json:"base_url"`
	Symbol    string    `json:"symbol"`
	Timeframe string    `json:"timeframe"`
	ETag      string    `json:"etag"`
	SHA256    string    `json:"sha256"`
	Size      int64     `json:"size_bytes"`
	FetchTime time.Time `json:"fetch_time"`
}

const (
	lockPoll = 20 * time.Millisecond
	// abandoned is the age at which a temporary file's writer must be dead.
	abandoned = time.Hour
)

func (c cache) prepare() error {
	if c.dir == "" {
		return errors.New("no directory was given")
	}
	for _, name := range []string{"blobs", "index", "locks", "tmp"} {
		if err := os.MkdirAll(filepath.Join(c.dir, name), 0o755); err != nil {
			return err
		}
	}
	return nil
}

func (c cache) blob(sum string) string { return filepath.Join(c.dir, "blobs", sum+".arrow") }
func (c cache) index(k key) string     { return filepath.Join(c.dir, "index", k.hash()+".json") }

func (c cache) lock(ctx context.Context, k key) (unlock func(), err error) {
	return c.flock(ctx, k.hash())
}

// flock polls: a blocking flock cannot be given up when ctx ends.
func (c cache) flock(ctx context.Context, name string) (unlock func(), err error) {
	file, err := os.OpenFile(filepath.Join(c.dir, "locks", name), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, fmt.Errorf("feature cache: %w", err)
	}
	for {
		err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			// Closing the only descriptor of the lock's open file releases it.
			return func() { _ = file.Close() }, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			return nil, errors.Join(fmt.Errorf("feature cache: lock %s: %w", name, err), file.Close())
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(context.Cause(ctx), file.Close())
		case <-time.After(lockPoll):
		}
	}
}

// read returns the index entry of a key, os.ErrNotExist when there is none.
func (c cache) read(k key) (entry, error) {
	return readEntry(c.index(k))
}

func readEntry(path string) (entry, error) {
	var e entry
	data, err := os.ReadFile(path)
	if err != nil {
		return e, err
	}
	if err := json.Unmarshal(data, &e); err != nil {
		return e, fmt.Errorf("%s: %w", path, err)
	}
	if sum, err := hex.DecodeString(e.SHA256); err != nil || len(sum) != sha256.Size {
		return e, fmt.Errorf("%s: %q is not a SHA-256", path, e.SHA256)
	}
	return e, nil
}

// open maps a published file and verifies it, size first: a page beyond the end
// of a file cannot be read.
func (c cache) open(e entry) (data []byte, unmap func() error, err error) {
	path := c.blob(e.SHA256)
	file, err := os.Open(path)
	if err != nil {
		return nil, nil, err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	info, err := file.Stat()
	if err != nil {
		return nil, nil, err
	}
	if info.Size() != e.Size || e.Size == 0 {
		return nil, nil, fmt.Errorf("%s has %d bytes, not %d", path, info.Size(), e.Size)
	}
	data, err = unix.Mmap(int(file.Fd()), 0, int(e.Size), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return nil, nil, fmt.Errorf("map %s: %w", path, err)
	}
	unmap = func() error { return unix.Munmap(data) }
	if sum := sha256.Sum256(data); hex.EncodeToString(sum[:]) != e.SHA256 {
		return nil, nil, errors.Join(fmt.Errorf("%s is damaged: its content has the SHA-256 %x", path, sum), unmap())
	}
	return data, unmap, nil
}

// publish stores a file under its digest, makes it the key's, and removes files
// that no key has any more. Readers of those keep their mapping.
func (c cache) publish(k key, etag string, body []byte) (entry, error) {
	unlock, err := c.flock(context.Background(), "publish")
	if err != nil {
		return entry{}, err
	}
	defer unlock()
	sum := sha256.Sum256(body)
	e := entry{
		BaseURL: k.base, Symbol: k.symbol, Timeframe: k.timeframe, ETag: etag,
		SHA256: hex.EncodeToString(sum[:]), Size: int64(len(body)), FetchTime: time.Now().UTC().Truncate(time.Second),
	}
	// Written again even if the name exists: that file may be a damaged one.
	if err := c.write(c.blob(e.SHA256), body); err != nil {
		return entry{}, err
	}
	line, err := json.Marshal(e)
	if err != nil {
		return entry{}, err
	}
	if err := c.write(c.index(k), line); err != nil {
		return entry{}, err
	}
	return e, errors.Join(c.evict(k), c.collect())
}

// used marks the key's table as the one used last.
func (c cache) used(k key) {
	now := time.Now()
	// A clock that cannot be set makes the order worse, not the data.
	_ = os.Chtimes(c.index(k), now, now)
}

// evict forgets the keys that were used longest ago until the rest fits. The key
// that was just published stays, however large. The caller holds the publish lock.
func (c cache) evict(kept key) error {
	files, err := os.ReadDir(filepath.Join(c.dir, "index"))
	if err != nil {
		return err
	}
	type aged struct {
		path string
		size int64
		used time.Time
	}
	var all []aged
	var total int64
	for _, file := range files {
		path := filepath.Join(c.dir, "index", file.Name())
		info, err := file.Info()
		e, rerr := readEntry(path)
		if err != nil || rerr != nil {
			continue // another process took it, or it is damaged: its own key finds out
		}
		total += e.Size
		if path != c.index(kept) {
			all = append(all, aged{path, e.Size, info.ModTime()})
		}
	}
	slices.SortFunc(all, func(a, b aged) int { return a.used.Compare(b.used) })
	for _, old := range all {
		if total <= c.limit {
			break
		}
		total -= old.size
		if err := removed(old.path); err != nil {
			return err
		}
	}
	return nil
}

// write makes a file durable under a temporary name, then gives it its own.
func (c cache) write(path string, data []byte) (err error) {
	file, err := os.CreateTemp(filepath.Join(c.dir, "tmp"), "*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, removed(file.Name()))
		}
	}()
	_, err = file.Write(data)
	if err == nil {
		err = file.Chmod(0o644)
	}
	if err == nil {
		err = file.Sync()
	}
	if err = errors.Join(err, file.Close()); err != nil {
		return err
	}
	if err = os.Rename(file.Name(), path); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// collect removes blobs without an index entry and temporary files whose writer
// died. The caller holds the publish lock.
func (c cache) collect() error {
	wanted := map[string]bool{}
	indexes, err := os.ReadDir(filepath.Join(c.dir, "index"))
	if err != nil {
		return err
	}
	for _, file := range indexes {
		e, err := readEntry(filepath.Join(c.dir, "index", file.Name()))
		if err == nil {
			wanted[e.SHA256] = true
		}
	}
	blobs, err := os.ReadDir(filepath.Join(c.dir, "blobs"))
	if err != nil {
		return err
	}
	for _, file := range blobs {
		if !wanted[strings.TrimSuffix(file.Name(), ".arrow")] {
			err = errors.Join(err, removed(filepath.Join(c.dir, "blobs", file.Name())))
		}
	}
	temps, terr := os.ReadDir(filepath.Join(c.dir, "tmp"))
	for _, file := range temps {
		if info, ierr := file.Info(); ierr == nil && time.Since(info.ModTime()) > abandoned {
			err = errors.Join(err, removed(filepath.Join(c.dir, "tmp", file.Name())))
		}
	}
	return errors.Join(err, terr)
}

// discard forgets a key whose file cannot be used. The file goes with the next
// publish, unless another key still names it.
func (c cache) discard(k key) error { return removed(c.index(k)) }

func removed(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
