//go:build cgo

// Package nvmlsource reads NVIDIA devices through NVML. It is the only package
// that imports go-nvml, which needs cgo; without cgo a stub says so.
package nvmlsource

import (
	"errors"
	"fmt"
	"sync"

	"github.com/NVIDIA/go-nvml/pkg/nvml"

	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/device"
)

// Memory figures of a GPU that no reservation may use. The context size is
// NVIDIA's usual 300-600 MB; learned peaks make it irrelevant over time.
const (
	headroom = 512 << 20
	overhead = 512 << 20
)

// ErrNoDriver says that the host has no usable NVIDIA driver.
var ErrNoDriver = errors.New("no NVIDIA driver: libnvidia-ml.so.1 was not found or does not answer")

// Source implements device.Source; safe for concurrent use.
type Source struct {
	lib nvml.Interface

	mu      sync.Mutex
	handles []handle
	xids    map[string][]uint64
	events  nvml.EventSet
	// supported are the optional calls that this driver has. Calling one that it
	// lacks would end the process in the dynamic linker.
	supported map[string]bool
}

// optional calls are newer than the oldest drivers in use.
var optional = []string{
	"nvmlDeviceGetMigMode", "nvmlEventSetCreate", "nvmlDeviceGetClockInfo", "nvmlDeviceGetTotalEccErrors", "nvmlDeviceGetRemappedRows",
}

type handle struct {
	id     string
	device nvml.Device
	info   device.Device
	mig    bool
}

// Open initialises NVML and lists every GPU, and instead of a GPU in MIG mode
// its instances. Without a driver the error wraps ErrNoDriver.
func Open() (device.Source, error) { return open(nvml.New()) }

func open(lib nvml.Interface) (device.Source, error) {
	switch ret := lib.Init(); ret {
	case nvml.SUCCESS:
	case nvml.ERROR_LIBRARY_NOT_FOUND, nvml.ERROR_DRIVER_NOT_LOADED:
		return nil, fmt.Errorf("%w (NVML code %d)", ErrNoDriver, int32(ret))
	default:
		return nil, fmt.Errorf("NVML did not start: code %d", int32(ret))
	}
	s := &Source{lib: lib, xids: map[string][]uint64{}, supported: map[string]bool{}}
	for _, symbol := range optional {
		s.supported[symbol] = lib.Extensions().LookupSymbol(symbol) == nil
	}
	if err := s.list(); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	s.watch()
	return s, nil
}

func check(what string, ret nvml.Return) error {
	if ret == nvml.SUCCESS {
		return nil
	}
	return fmt.Errorf("NVML %s: code %d", what, int32(ret))
}

func (s *Source) list() error {
	count, ret := s.lib.DeviceGetCount()
	if err := check("device count", ret); err != nil {
		return err
	}
	for i := range count {
		d, ret := s.lib.DeviceGetHandleByIndex(i)
		if err := check("device handle", ret); err != nil {
			return err
		}
		if s.supported["nvmlDeviceGetMigMode"] {
			if current, _, ret := d.GetMigMode(); ret == nvml.SUCCESS && current == nvml.DEVICE_MIG_ENABLE {
				if err := s.instances(d); err != nil {
					return err
				}
				continue
			}
		}
		h, err := describe(d)
		if err != nil {
			return err
		}
		s.handles = append(s.handles, h)
	}
	return nil
}

// instances lists a GPU's MIG slices; each is a device of its own, isolated by
// the hardware.
func (s *Source) instances(parent nvml.Device) error {
	count, ret := parent.GetMaxMigDeviceCount()
	if err := check("MIG device count", ret); err != nil {
		return err
	}
	for i := range count {
		d, ret := parent.GetMigDeviceHandleByIndex(i)
		if ret == nvml.ERROR_NOT_FOUND {
			continue // slots need not be filled
		}
		if err := check("MIG device handle", ret); err != nil {
			return err
		}
		h, err := describe(d)
		if err != nil {
			return err
		}
		h.mig, h.info.Isolation = true, device.MIG
		s.handles = append(s.handles, h)
	}
	return nil
}

func describe(d nvml.Device) (handle, error) {
	uuid, ret := d.GetUUID()
	if err := check("UUID", ret); err != nil {
		return handle{}, err
	}
	name, ret := d.GetName()
	if err := check("name", ret); err != nil {
		return handle{}, err
	}
	memory, ret := d.GetMemoryInfo()
	if err := check("memory", ret); err != nil {
		return handle{}, err
	}
	return handle{id: uuid, device: d, info: device.Device{
		ID: uuid, Kind: name, MemoryBytes: int64(memory.Total), HeadroomBytes: headroom, OverheadBytes: overhead,
		Isolation: device.Watched,
	}}, nil
}

// watch subscribes to critical errors; a driver that has no events is read
// without them.
func (s *Source) watch() {
	if !s.supported["nvmlEventSetCreate"] {
		return
	}
	set, ret := s.lib.EventSetCreate()
	if ret != nvml.SUCCESS {
		return
	}
	s.events = set
	for _, h := range s.handles {
		if !h.mig {
			_ = h.device.RegisterEvents(nvml.EventTypeXidCriticalError, set) // not on every product
		}
	}
}

// Name implements device.Source.
func (s *Source) Name() string { return "nvml" }

// Inventory implements device.Source.
func (s *Source) Inventory() ([]device.Device, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]device.Device, len(s.handles))
	for i, h := range s.handles {
		out[i] = h.info
	}
	return out, nil
}

// collectEvents takes what the driver has reported since the last call.
func (s *Source) collectEvents() {
	if s.events == nil {
		return
	}
	for range 64 {
		event, ret := s.events.Wait(0)
		if ret != nvml.SUCCESS {
			return
		}
		if uuid, ret := event.Device.GetUUID(); ret == nvml.SUCCESS && event.EventType == nvml.EventTypeXidCriticalError {
			if list := s.xids[uuid]; len(list) < 64 {
				s.xids[uuid] = append(list, event.EventData)
			}
		}
	}
}

// Read implements device.Source. A figure that a product does not have stays
// zero; a device that does not answer for its memory is lost.
func (s *Source) Read() ([]device.Reading, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.collectEvents()
	out := make([]device.Reading, len(s.handles))
	for i, h := range s.handles {
		out[i] = s.read(h)
		out[i].XIDs = append([]uint64(nil), s.xids[h.id]...)
	}
	return out, nil
}

func (s *Source) read(h handle) device.Reading {
	r := device.Reading{ID: h.id}
	memory, ret := h.device.GetMemoryInfo()
	if ret != nvml.SUCCESS {
		r.Lost = fmt.Sprintf("NVML code %d", int32(ret))
		return r
	}
	r.MemoryUsedBytes = int64(memory.Used)
	if h.mig {
		return r // the rest is the parent's
	}
	if u, ret := h.device.GetUtilizationRates(); ret == nvml.SUCCESS {
		r.Utilization, r.MemoryUtilization = float64(u.Gpu)/100, float64(u.Memory)/100
	}
	if t, ret := h.device.GetTemperature(nvml.TEMPERATURE_GPU); ret == nvml.SUCCESS {
		r.TemperatureCelsius = float64(t)
	}
	if p, ret := h.device.GetPowerUsage(); ret == nvml.SUCCESS {
		r.PowerWatts = float64(p) / 1000
	}
	if s.supported["nvmlDeviceGetClockInfo"] {
		if c, ret := h.device.GetClockInfo(nvml.CLOCK_SM); ret == nvml.SUCCESS {
			r.SMClockMHz = float64(c)
		}
		if c, ret := h.device.GetClockInfo(nvml.CLOCK_MEM); ret == nvml.SUCCESS {
			r.MemoryClockMHz = float64(c)
		}
	}
	if s.supported["nvmlDeviceGetTotalEccErrors"] {
		if n, ret := h.device.GetTotalEccErrors(nvml.MEMORY_ERROR_TYPE_UNCORRECTED, nvml.VOLATILE_ECC); ret == nvml.SUCCESS {
			r.UncorrectableECC = n
		}
	}
	if s.supported["nvmlDeviceGetRemappedRows"] {
		if _, _, pending, failed, ret := h.device.GetRemappedRows(); ret == nvml.SUCCESS {
			r.RowRemapPending, r.RowRemapFailed = pending, failed
		}
	}
	return r
}

// Uses implements device.Source.
func (s *Source) Uses() ([]device.Use, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []device.Use
	for _, h := range s.handles {
		processes, ret := h.device.GetComputeRunningProcesses()
		if ret != nvml.SUCCESS {
			continue // Read reports a lost device
		}
		for _, p := range processes {
			if p.UsedGpuMemory != ^uint64(0) { // NVML_VALUE_NOT_AVAILABLE
				out = append(out, device.Use{Device: h.id, PID: int(p.Pid), Bytes: int64(p.UsedGpuMemory)})
			}
		}
	}
	return out, nil
}

// Close implements device.Source.
func (s *Source) Close() error {
	var errs []error
	if s.events != nil {
		errs = append(errs, check("event set", s.events.Free()))
	}
	return errors.Join(append(errs, check("shutdown", s.lib.Shutdown()))...)
}
