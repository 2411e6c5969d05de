package registryapi

import (
	"sync"

	"github.com/ultrathink-pilot/trainyard/services/registry/internal/catalog"
)

// shared lets all watchers of a model share one read per change: a thousand subscribers
// that wake together would otherwise ask the database a thousand times the same thing.
type shared struct {
	mu     sync.Mutex
	models map[string]*reading
}

// reading is a model's last read; its lock is held while the next is under way.
type reading struct {
	mu         sync.Mutex
	valid      bool
	generation uint64
	version    catalog.Version
	found      bool
}

// at returns what a read that began at or after the given generation found. The generation
// grows after a change has committed, so that a read of this generation has seen it. An
// error is for its caller alone: the next one tries again.
func (s *shared) at(model string, generation uint64, read func() (catalog.Version, bool, error)) (catalog.Version, bool, error) {
	s.mu.Lock()
	if s.models == nil {
		s.models = map[string]*reading{}
	}
	r := s.models[model]
	if r == nil {
		r = &reading{}
		s.models[model] = r
	}
	s.mu.Unlock()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.valid && r.generation >= generation {
		return r.version, r.found, nil
	}
	version, found, err := read()
	if err != nil {
		return version, false, err
	}
	r.valid, r.generation, r.version, r.found = true, generation, version, found
	return version, found, nil
}
