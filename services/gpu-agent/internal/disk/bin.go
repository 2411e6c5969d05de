package disk

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// Pace at which a large file gives its blocks back.
const (
	gentleStep  = 16 << 20
	gentlePause = 5 * time.Millisecond
)

// Bin removes files in the background and large ones bit by bit. Giving back the
// blocks of a checkpoint in one go keeps the file system's log busy for tens of
// milliseconds (with online discard longer), and every fsync beside it waits.
type Bin struct {
	dir string

	mu     sync.Mutex
	next   int
	queue  []string
	wake   chan struct{}
	stop   chan struct{}
	done   chan struct{}
	closed bool
}

// OpenBin makes a bin in dir, which must be on the file system of what is thrown
// into it. What an earlier process left there goes too.
func OpenBin(dir string) (*Bin, error) {
	if err := OS().MkdirAll(dir); err != nil {
		return nil, err
	}
	names, err := OS().List(dir)
	if err != nil {
		return nil, err
	}
	b := &Bin{dir: dir, wake: make(chan struct{}, 1), stop: make(chan struct{}), done: make(chan struct{})}
	for _, name := range names {
		var n int
		if _, err := fmt.Sscanf(name, "%d", &n); err == nil {
			b.next = max(b.next, n)
		}
		b.queue = append(b.queue, filepath.Join(dir, name))
	}
	go b.run()
	return b, nil
}

// Throw removes a file or a directory with all in it: it is gone from its place on
// return, and its blocks are free soon after. A missing one is no error. A nil bin
// removes everything at once.
func (b *Bin) Throw(path string) error {
	if b == nil {
		return os.RemoveAll(path)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return os.RemoveAll(path)
	}
	b.next++
	aside := filepath.Join(b.dir, fmt.Sprint(b.next))
	err := os.Rename(path, aside)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return os.RemoveAll(path)
	}
	b.queue = append(b.queue, aside)
	select {
	case b.wake <- struct{}{}:
	default:
	}
	return nil
}

// Close stops; what is left goes at the next start.
func (b *Bin) Close() error {
	b.mu.Lock()
	if !b.closed {
		b.closed = true
		close(b.stop)
	}
	b.mu.Unlock()
	<-b.done
	return nil
}

func (b *Bin) run() {
	defer close(b.done)
	for {
		b.mu.Lock()
		path := ""
		if len(b.queue) > 0 {
			path, b.queue = b.queue[0], b.queue[1:]
		}
		b.mu.Unlock()
		if path != "" {
			b.empty(path)
			select {
			case <-b.stop:
				return
			default:
				continue
			}
		}
		select {
		case <-b.wake:
		case <-b.stop:
			return
		}
	}
}

// empty removes one entry. What fails stays for the next start.
func (b *Bin) empty(path string) {
	_ = filepath.WalkDir(path, func(file string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return nil
		}
		info, err := entry.Info()
		if err != nil || info.Size() <= gentleStep || names(info) != 1 {
			return nil // with another name its blocks stay, and so must its bytes
		}
		for size := info.Size() - gentleStep; size > 0; size -= gentleStep {
			if os.Truncate(file, size) != nil {
				return nil
			}
			select {
			case <-time.After(gentlePause):
			case <-b.stop:
				return fs.SkipAll
			}
		}
		return nil
	})
	select {
	case <-b.stop:
	default:
		_ = os.RemoveAll(path)
	}
}
