// Package devicetest is a scripted source of devices for tests.
package devicetest

import (
	"slices"
	"sync"

	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/device"
)

// Source implements device.Source; what it says is set by a test at any time.
type Source struct {
	mu       sync.Mutex
	devices  []device.Device
	readings map[string]device.Reading
	uses     []device.Use
	err      error
}

// New returns a source with these devices, all idle and well.
func New(devices ...device.Device) *Source {
	return &Source{devices: devices, readings: map[string]device.Reading{}}
}

// Set replaces the inventory.
func (s *Source) Set(devices ...device.Device) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.devices = devices
}

// SetReading is what a device says from now on.
func (s *Source) SetReading(r device.Reading) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.readings[r.ID] = r
}

// SetUses is who holds which memory from now on.
func (s *Source) SetUses(uses ...device.Use) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.uses = uses
}

// Fail makes every call fail until it is called with nil.
func (s *Source) Fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = err
}

// Name implements device.Source.
func (s *Source) Name() string { return "script" }

// Inventory implements device.Source.
func (s *Source) Inventory() ([]device.Device, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.devices), s.err
}

// Read implements device.Source.
func (s *Source) Read() ([]device.Reading, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]device.Reading, len(s.devices))
	for i, d := range s.devices {
		out[i] = s.readings[d.ID]
		out[i].ID = d.ID
	}
	return out, s.err
}

// Uses implements device.Source.
func (s *Source) Uses() ([]device.Use, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.uses), s.err
}

// Close implements device.Source.
func (s *Source) Close() error { return nil }
