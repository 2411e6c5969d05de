package launch

import (
	"errors"
	"io"
	"os"
	"sync"
)

// output writes what a trainer prints to two files of bounded size: the newest
// part and the one before it. Writing never fails towards the trainer: on a
// full disk output is dropped, training goes on.
type output struct {
	mu      sync.Mutex
	path    string
	limit   int64
	file    *os.File
	written int64
	tail    []byte // newest bytes of standard error
}

const tailBytes = 4096

func newOutput(path string, limit int64) (*output, error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	return &output{path: path, limit: limit, file: f}, nil
}

func (o *output) write(p []byte, isStderr bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if isStderr {
		o.tail = append(o.tail, p...)
		if extra := len(o.tail) - tailBytes; extra > 0 {
			o.tail = append([]byte(nil), o.tail[extra:]...)
		}
	}
	if o.file == nil {
		return
	}
	if o.written+int64(len(p)) > o.limit && o.written > 0 {
		o.rotate()
		if o.file == nil {
			return
		}
	}
	n, err := o.file.Write(p)
	o.written += int64(n)
	if err != nil {
		o.written = max(o.written, 1) // keep counting; the next write tries again
	}
}

func (o *output) rotate() {
	err := o.file.Close()
	o.file = nil
	if err = errors.Join(err, os.Rename(o.path, o.path+".1")); err != nil {
		return
	}
	f, err := os.OpenFile(o.path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return
	}
	o.file, o.written = f, 0
}

func (o *output) stderrTail() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return string(o.tail)
}

func (o *output) close() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.file == nil {
		return nil
	}
	err := o.file.Close()
	o.file = nil
	return err
}

// copyFrom drains one pipe until every writer is gone.
func (o *output) copyFrom(r io.Reader, isStderr bool) {
	buf := make([]byte, 32<<10)
	for {
		n, err := r.Read(buf)
		if n > 0 {
			o.write(buf[:n], isStderr)
		}
		if err != nil {
			return
		}
	}
}
