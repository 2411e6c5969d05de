package command

import (
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// metricsFile takes JSON lines from any process of the job: torchrun and other
// launchers close the descriptors that they do not know.
func (r *runner) metricsFile() string { return filepath.Join(r.a.WorkDir, "metrics.jsonl") }

// follower reads the lines that are appended to a file.
type follower struct {
	path  string
	lines *lines
	at    int64
	left  []byte
}

// maxRead bounds what one look takes, so that a flood delays neither orders nor
// checkpoints for long.
const maxRead = 8 << 20

// read takes the whole lines that are new.
func (f *follower) read(ctx context.Context) error {
	_, err := f.look(ctx)
	return err
}

// rest takes everything that is left, when nobody writes any more.
func (f *follower) rest(ctx context.Context) error {
	for {
		n, err := f.look(ctx)
		if err != nil {
			return err
		}
		if n == 0 {
			break
		}
	}
	if len(f.left) == 0 {
		return f.lines.flush(ctx)
	}
	last := f.left
	f.left = nil
	if err := f.lines.take(ctx, last); err != nil {
		return err
	}
	return f.lines.flush(ctx)
}

// look reads one piece and returns its length.
func (f *follower) look(ctx context.Context) (int, error) {
	// The program may have put a pipe or a link in its place.
	file, err := os.OpenFile(f.path, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0)
	if err != nil {
		return 0, nil // the program may remove its own file
	}
	defer func() { _ = file.Close() }()
	info, err := file.Stat()
	if err != nil || !info.Mode().IsRegular() {
		return 0, nil
	}
	if info.Size() < f.at {
		f.at, f.left = 0, nil // cut by the program: it begins again
	}
	text, err := io.ReadAll(io.NewSectionReader(file, f.at, maxRead))
	if err != nil || len(text) == 0 {
		return 0, nil
	}
	f.at += int64(len(text))
	f.left = append(f.left, text...)
	for {
		line, after, ok := bytes.Cut(f.left, []byte("\n"))
		if !ok {
			break
		}
		f.left = after
		if err := f.lines.take(ctx, line); err != nil {
			return 0, err
		}
	}
	if len(f.left) > maxLine {
		f.left = f.left[:maxLine] // it will be refused as too long when it ends
	}
	return len(text), nil
}
