package localtree

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"time"
)

// Folder holds all that this package keeps.
const Folder = ".trainyard-janitor"

const (
	stateFile = Folder + "/state.json"
	coldDir   = Folder + "/cold"
	tmpDir    = Folder + "/tmp"
)

// entry is what is remembered of one file.
type entry struct {
	SHA256  string    `json:"sha256"`
	Bytes   int64     `json:"bytes"`
	ModTime time.Time `json:"mod_time"`
	// Sharpe is a text, because JSON has no NaN; empty means unknown.
	Sharpe string `json:"sharpe,omitempty"`
	Step   int64  `json:"step,omitempty"`
	// Tombstone is when it was condemned.
	Tombstone time.Time `json:"tombstone,omitzero"`
	Reason    string    `json:"reason,omitempty"`
	// Cold is its packed copy, once that has been proven.
	Cold      string    `json:"cold,omitempty"`
	ColdBytes int64     `json:"cold_bytes,omitempty"`
	Pinned    bool      `json:"pinned,omitempty"`
	HoldUntil time.Time `json:"hold_until,omitzero"`
}

type state struct {
	Version int              `json:"version"`
	LastRun time.Time        `json:"last_run,omitzero"`
	Files   map[string]entry `json:"files"`
	// Left is how many checkpoints the last run left.
	Left int `json:"left"`
}

const stateVersion = 1

func (t *Tree) load() (state, error) {
	s := state{Version: stateVersion, Files: map[string]entry{}}
	f, err := t.Disk.Open(stateFile)
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	if err != nil {
		return s, err
	}
	raw, err := io.ReadAll(f)
	if err = errors.Join(err, f.Close()); err != nil {
		return s, err
	}
	err = json.Unmarshal(raw, &s)
	if err == nil && (s.Version != stateVersion || s.Files == nil) {
		err = fmt.Errorf("version %d, this program reads %d", s.Version, stateVersion)
	}
	if err != nil {
		return s, fmt.Errorf("%s cannot be read (%w): nothing is touched; move it away to begin anew without its marks", stateFile, err)
	}
	return s, nil
}

// save replaces the state in one step: whoever reads it, also after a power loss, sees
// the old one or the new one.
func (t *Tree) save(s state) error {
	raw, err := json.MarshalIndent(s, "", " ")
	if err != nil {
		return err
	}
	return t.publish(stateFile, func(w io.Writer) error {
		_, err := w.Write(raw)
		return err
	}, nil)
}

// publish writes under a temporary name, syncs, lets check read it back, and only then gives
// it its name.
func (t *Tree) publish(name string, fill func(io.Writer) error, check func(File) error) error {
	for _, dir := range []string{tmpDir, path.Dir(name)} {
		if err := t.mkdir(dir); err != nil {
			return err
		}
	}
	t.serial++
	tmp := fmt.Sprintf("%s/%d", tmpDir, t.serial)
	if err := t.Disk.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := t.Disk.Create(tmp)
	if err != nil {
		return err
	}
	err = fill(f)
	if err == nil {
		err = f.Sync()
	}
	if err == nil && check != nil {
		if _, err = f.Seek(0, io.SeekStart); err == nil {
			err = check(f)
		}
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return errors.Join(err, t.Disk.Remove(tmp))
	}
	if err := t.Disk.Rename(tmp, name); err != nil {
		return err
	}
	return t.Disk.SyncDir(path.Dir(name))
}

// mkdir makes directories whose names survive.
func (t *Tree) mkdir(dir string) error {
	if t.made[dir] {
		return nil
	}
	if err := t.Disk.MkdirAll(dir); err != nil {
		return err
	}
	for d := dir; ; d = path.Dir(d) {
		if err := t.Disk.SyncDir(d); err != nil {
			return err
		}
		if d == "." {
			break
		}
	}
	if t.made == nil {
		t.made = map[string]bool{}
	}
	t.made[dir] = true
	return nil
}
