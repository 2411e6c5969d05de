package command

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"sort"
	"strings"
	"sync"

	"go.uber.org/zap"

	"github.com/ultrathink-pilot/trainyard/services/trainer/internal/checkpoint"
	"github.com/ultrathink-pilot/trainyard/services/trainer/internal/run"
)

// manifestFile marks a checkpoint directory as complete.
const manifestFile = "trainyard.json"

// manifest is what the program says of a checkpoint.
type manifest struct {
	Step      *int64             `json:"step"`
	Metrics   map[string]float64 `json:"metrics"`
	Resumable *bool              `json:"resumable"`
}

// fileName is the contract's pattern of a path inside a checkpoint.
var fileName = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*){0,7}$`)

// maxFiles is the contract's bound on one checkpoint.
const maxFiles = 256

// pickUp hands over every complete checkpoint that is new, in the order of their
// names. A directory that is refused is named in the log and not tried again.
func (r *runner) pickUp(ctx context.Context) error {
	root := filepath.Join(r.output, "checkpoints")
	entries, err := os.ReadDir(root)
	if err != nil {
		return nil // the program may remove its own directory
	}
	for _, e := range entries {
		name := e.Name()
		if !e.IsDir() || strings.HasPrefix(name, ".") || r.picked[name] {
			continue
		}
		dir := filepath.Join(root, name)
		text, err := os.ReadFile(filepath.Join(dir, manifestFile))
		if errors.Is(err, fs.ErrNotExist) {
			continue // not complete yet
		}
		var m manifest
		var files []checkpoint.File
		if err == nil {
			err = json.Unmarshal(text, &m)
		}
		if err == nil && (m.Step == nil || *m.Step < 0) {
			err = errors.New("names no step")
		}
		if err == nil {
			files, err = collect(dir)
		}
		if err != nil {
			// A manifest that is being written in place is read half once; a
			// second look tells that from a broken one.
			if _, seen := r.picked[name]; !seen {
				r.picked[name] = false
				continue
			}
			r.picked[name] = true
			r.log.Warn("a checkpoint was refused", zap.String("directory", name), zap.Error(err))
			continue
		}
		c := run.Checkpoint{Step: *m.Step, Metrics: m.Metrics, Resumable: m.Resumable == nil || *m.Resumable}
		if err := r.report.Checkpoint(ctx, c, files); err != nil {
			return err
		}
		r.saved++
		// The host has its own copy. A name may come again with another content.
		if err := os.RemoveAll(dir); err != nil {
			r.log.Warn("a checkpoint that was handed over stays in the output directory", zap.String("directory", name), zap.Error(err))
			r.picked[name] = true
		} else {
			delete(r.picked, name)
		}
	}
	return nil
}

// collect describes the files below dir. Links are refused: they may lead out.
func collect(dir string) ([]checkpoint.File, error) {
	var out []checkpoint.File
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		name := filepath.ToSlash(rel)
		if !d.Type().IsRegular() {
			return fmt.Errorf("%s is not a regular file", name)
		}
		if !fileName.MatchString(name) {
			return fmt.Errorf("%q is not an allowed file name", name)
		}
		if len(out) == maxFiles {
			return fmt.Errorf("more than %d files", maxFiles)
		}
		f, err := checkpoint.Describe(name, path)
		out = append(out, f)
		return err
	})
	if err == nil && len(out) == 0 {
		err = errors.New("has no files")
	}
	return out, err
}

// artifacts hands over what the program left in artifacts/.
func (r *runner) artifacts(ctx context.Context) error {
	files, err := collect(filepath.Join(r.output, "artifacts"))
	if err != nil {
		if len(files) > 0 {
			r.log.Warn("the artifacts were not kept", zap.Error(err))
		}
		return nil
	}
	sort.Slice(files, func(i, j int) bool { return files[i].Name < files[j].Name })
	for _, f := range files {
		kind := ""
		if filepath.Ext(f.Name) == ".json" {
			kind = "application/json"
		}
		if err := r.report.Artifact(ctx, f, kind); err != nil {
			return err
		}
	}
	return nil
}

// control is the content of the control file.
type control struct {
	Stop               bool `json:"stop"`
	CheckpointRequests int  `json:"checkpoint_requests"`
}

func (r *runner) controlFile() string { return filepath.Join(r.a.WorkDir, "control.json") }

func (r *runner) writeControl() error {
	text, err := json.Marshal(r.control)
	if err != nil {
		return err
	}
	tmp := r.controlFile() + ".tmp"
	if err := os.WriteFile(tmp, text, 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, r.controlFile())
}

// tail keeps the last bytes of standard error.
type tail struct {
	mu    sync.Mutex
	limit int
	data  []byte
}

// Write implements io.Writer.
func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.data = append(t.data, p...)
	if over := len(t.data) - t.limit; over > 0 {
		t.data = append(t.data[:0], t.data[over:]...)
	}
	return len(p), nil
}

// String returns the kept bytes as text.
func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.ToValidUTF8(string(t.data), "�")
}

// lastLine returns the last line that is not empty.
func lastLine(text string) string {
	lines := bytes.Split([]byte(strings.TrimSpace(text)), []byte("\n"))
	return strings.TrimSpace(string(lines[len(lines)-1]))
}
