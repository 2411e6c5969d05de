// Package cpusource offers a host's CPU as honest lanes: "cpu:0", "cpu:1", ...
// of kind "cpu-lane". A lane is a share of the host's memory to reserve from; it
// does not pretend to be a GPU.
package cpusource

import (
	"errors"
	"fmt"
	"sync"

	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/device"
	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/procfs"
)

// Source implements device.Source; safe for concurrent use.
type Source struct {
	lanes     int
	memory    int64
	isolation device.Isolation

	mu          sync.Mutex
	busy, total uint64
	utilization float64
}

// Open returns lanes of laneMemory bytes each; 0 means an equal share of three
// quarters of the host's memory, the rest being the system's and the agent's.
// isolation is how the host will hold a trainer to its share.
func Open(lanes int, laneMemory int64, isolation device.Isolation) (*Source, error) {
	if lanes < 1 {
		return nil, errors.New("at least one CPU lane is needed")
	}
	total, _, err := procfs.Memory()
	if err != nil {
		return nil, fmt.Errorf("reading the host's memory: %w", err)
	}
	if laneMemory == 0 {
		laneMemory = total * 3 / 4 / int64(lanes)
	}
	if laneMemory*int64(lanes) > total {
		return nil, fmt.Errorf("%d lanes of %d bytes are more than the host's %d bytes of memory", lanes, laneMemory, total)
	}
	return &Source{lanes: lanes, memory: laneMemory, isolation: isolation}, nil
}

// Name implements device.Source.
func (s *Source) Name() string { return "cpu" }

// Inventory implements device.Source.
func (s *Source) Inventory() ([]device.Device, error) {
	devices := make([]device.Device, s.lanes)
	for i := range devices {
		devices[i] = device.Device{
			ID: fmt.Sprintf("cpu:%d", i), Kind: device.CPULane, MemoryBytes: s.memory, Isolation: s.isolation, HostMemory: true,
			NUMANode: -1, Index: i,
		}
	}
	return devices, nil
}

// Read implements device.Source. Utilization is the host's, the same for every
// lane: the kernel does not keep it by lane, and an invented share would lie.
// Memory use is the trainers', which the watchdog knows; here it stays zero.
func (s *Source) Read() ([]device.Reading, error) {
	busy, total, err := procfs.CPUTicks()
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	if total > s.total {
		s.utilization = float64(busy-s.busy) / float64(total-s.total)
		s.busy, s.total = busy, total
	}
	utilization := s.utilization
	s.mu.Unlock()
	readings := make([]device.Reading, s.lanes)
	for i := range readings {
		readings[i] = device.Reading{ID: fmt.Sprintf("cpu:%d", i), Utilization: utilization}
	}
	return readings, nil
}

// Uses implements device.Source: lanes are HostMemory, there is no driver to ask.
func (s *Source) Uses() ([]device.Use, error) { return nil, nil }

// Close implements device.Source.
func (s *Source) Close() error { return nil }
