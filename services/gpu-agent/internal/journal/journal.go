// Package journal keeps what the host must not forget: the leases it has
// granted, the exits the scheduler has not recorded yet, and whether the host
// is quarantined. A lease is in the journal before its trainer starts, an exit
// before it is reported.
//
// It fails closed. When the file is not exactly what was written, or is gone,
// the host starts quarantined with the reason: it cannot know which devices are
// held. (The kubelet goes on with an empty device map in the same place, and
// hands a GPU out twice.)
package journal

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/disk"
	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/lease"
)

// maxEnded bounds the memory of ended jobs; the oldest fences go first, and
// fences grow over the whole fleet, so what is dropped is long over.
const maxEnded = 4096

// Stop is a stop in progress, kept so that a restarted agent does not begin the
// grace again.
type Stop struct {
	Reason lease.StopReason `json:"reason"`
	TermAt time.Time        `json:"term_at"`
	KillAt time.Time        `json:"kill_at"`
}

// Lease is a granted lease.
type Lease struct {
	lease.Assignment
	GrantedAt time.Time `json:"granted_at"`
	// TokenHash is SHA-256 of the trainer's bearer token.
	TokenHash []byte `json:"token_hash"`
	// TrackingHash is SHA-256 of the token for the MLflow proxy.
	TrackingHash []byte `json:"tracking_hash,omitempty"`
	// LeaseTraceParent is the lease's span, the parent of the trainer's.
	LeaseTraceParent string          `json:"lease_traceparent"`
	Isolation        string          `json:"isolation"`
	Stop             *Stop           `json:"stop,omitempty"`
	Finished         *lease.Finished `json:"finished,omitempty"`
	OOM              *lease.OOM      `json:"oom,omitempty"`
}

// State is the journal's whole content.
type State struct {
	Leases []Lease           `json:"leases"`
	Exits  []lease.Exit      `json:"exits"`
	Ended  map[string]uint64 `json:"ended"`
	// Quarantine is why nothing may start; empty means that the host is fine.
	Quarantine string `json:"quarantine,omitempty"`
}

// Lease returns the lease of a key, or nil.
func (s *State) Lease(key lease.Key) *Lease {
	for i := range s.Leases {
		if s.Leases[i].Key == key {
			return &s.Leases[i]
		}
	}
	return nil
}

// End replaces a lease, if there is one, by its exit. Ending twice keeps the first exit.
func (s *State) End(exit lease.Exit) {
	s.Leases = slices.DeleteFunc(s.Leases, func(l Lease) bool { return l.Key == exit.Key })
	if !slices.ContainsFunc(s.Exits, func(x lease.Exit) bool { return x.Key == exit.Key }) &&
		s.Ended[exit.JobID] < exit.Fence {
		s.Exits = append(s.Exits, exit)
	}
	if s.Ended[exit.JobID] < exit.Fence {
		s.Ended[exit.JobID] = exit.Fence
	}
	for len(s.Ended) > maxEnded {
		oldest, lowest := "", uint64(0)
		for job, fence := range s.Ended {
			if oldest == "" || fence < lowest {
				oldest, lowest = job, fence
			}
		}
		delete(s.Ended, oldest)
	}
}

// Forget drops an exit that the scheduler has recorded.
func (s *State) Forget(key lease.Key) {
	s.Exits = slices.DeleteFunc(s.Exits, func(x lease.Exit) bool { return x.Key == key })
}

// Journal is the durable state. Its methods are safe for concurrent use.
type Journal struct {
	fsys disk.FS
	dir  string

	mu      sync.Mutex
	current []byte // the encoded State, so that a View never shares memory
}

// Open reads the journal in dir, or begins one. The error is only about I/O: a
// corrupt or lost journal opens, quarantined, and the corrupt file is kept
// beside it for a person.
func Open(fsys disk.FS, dir string) (*Journal, error) {
	if err := fsys.MkdirAll(dir); err != nil {
		return nil, err
	}
	j := &Journal{fsys: fsys, dir: dir}
	raw, err := disk.ReadSealed(fsys, j.path())
	var corrupt *disk.CorruptError
	switch {
	case err == nil:
		var state State
		if err := json.Unmarshal(raw, &state); err != nil {
			return j, j.failClosed("not a journal of this version: " + err.Error())
		}
		j.current = raw
		return j, j.markBorn()
	case errors.As(err, &corrupt):
		return j, j.failClosed(corrupt.Detail)
	case !errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("reading the journal: %w", err)
	}
	if _, err := fsys.ReadFile(j.bornPath()); err == nil {
		return j, j.failClosed("the journal is gone")
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("reading the journal: %w", err)
	}
	if err := j.Update(func(*State) {}); err != nil {
		return nil, err
	}
	return j, j.markBorn()
}

func (j *Journal) path() string     { return filepath.Join(j.dir, "state") }
func (j *Journal) bornPath() string { return filepath.Join(j.dir, "born") }

// markBorn leaves the mark that tells a lost journal from a first start.
func (j *Journal) markBorn() error {
	if _, err := j.fsys.ReadFile(j.bornPath()); err == nil {
		return nil
	}
	return disk.WriteSealed(j.fsys, j.bornPath(), []byte("a journal was written beside this file\n"))
}

func (j *Journal) failClosed(detail string) error {
	names, err := j.fsys.List(j.dir)
	if err != nil {
		return err
	}
	aside := filepath.Join(j.dir, fmt.Sprintf("state.corrupt-%d", len(names)))
	if err := j.fsys.Rename(j.path(), aside); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	j.current = nil
	return errors.Join(j.Update(func(s *State) {
		s.Quarantine = "the exit journal could not be trusted: " + detail
	}), j.markBorn())
}

// View returns a copy of the state.
func (j *Journal) View() State {
	j.mu.Lock()
	defer j.mu.Unlock()
	return decode(j.current)
}

// Update changes the state and returns when the change is durable. On error
// nothing has changed, as far as this process can know: it must then report the
// old state.
func (j *Journal) Update(change func(*State)) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	state := decode(j.current)
	change(&state)
	raw, err := json.Marshal(state)
	if err != nil {
		return fmt.Errorf("encoding the journal: %w", err)
	}
	if slices.Equal(raw, j.current) {
		return nil
	}
	if err := disk.WriteSealed(j.fsys, j.path(), raw); err != nil {
		return fmt.Errorf("writing the journal: %w", err)
	}
	j.current = raw
	return nil
}

func decode(raw []byte) State {
	var state State
	if raw != nil {
		if err := json.Unmarshal(raw, &state); err != nil {
			// The bytes were decoded before they became current.
			panic("journal: " + err.Error())
		}
	}
	if state.Ended == nil {
		state.Ended = map[string]uint64{}
	}
	return state
}
