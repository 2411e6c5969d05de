//go:build cgo

// Package nvmlsource reads NVIDIA devices through NVML. It is the only package
// that imports go-nvml, which needs cgo; without cgo a stub says so.
package nvmlsource

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/NVIDIA/go-nvml/pkg/nvml"

	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/device"
)

// ErrNoDriver says that the host has no usable NVIDIA driver.
var ErrNoDriver = errors.New("no NVIDIA driver: libnvidia-ml.so.1 was not found or does not answer")

// Source implements device.Source; safe for concurrent use.
type Source struct {
	lib nvml.Interface
	// sysfs is "/sys", where a device's NUMA node is found.
	sysfs   string
	mpsPipe string
	// relistEvery is the pause between two attempts to list the devices again.
	relistEvery time.Duration

	mu      sync.Mutex
	handles []handle
	gpus    int // that the driver counted when they were listed
	xids    map[string][]uint64
	events  nvml.EventSet
	// down is why the driver does not answer; empty means that it does. stale says
	// that a device was lost since the list was made.
	down   string
	stale  bool
	listed time.Time
	// supported are the optional calls that this driver has. Calling one that it
	// lacks would end the process in the dynamic linker.
	supported map[string]bool
}

// optional calls are newer than the oldest drivers in use, or not on every product.
var optional = []string{
	"nvmlDeviceGetMigMode", "nvmlEventSetCreate", "nvmlDeviceGetClockInfo", "nvmlDeviceGetTotalEccErrors", "nvmlDeviceGetRemappedRows",
	"nvmlDeviceGetPciInfo_v3", "nvmlDeviceGetNvLinkState", "nvmlDeviceGetNvLinkRemotePciInfo_v2", "nvmlDeviceGetNvLinkRemoteDeviceType",
	"nvmlDeviceGetCurrentClocksThrottleReasons", "nvmlDeviceGetPowerManagementLimit", "nvmlDeviceGetMPSComputeRunningProcesses_v3",
	"nvmlDeviceGetGpuInstanceId",
}

// Open initialises NVML and lists every GPU, and instead of a GPU in MIG mode
// its instances. mpsPipe is the pipe directory of the host's MPS server, if one
// runs. Without a driver the error wraps ErrNoDriver.
func Open(mpsPipe string) (device.Source, error) {
	s, err := open(nvml.New(), "/sys", mpsPipe, 5*time.Second)
	if err != nil {
		return nil, err
	}
	return s, nil
}

func open(lib nvml.Interface, sysfs, mpsPipe string, relistEvery time.Duration) (*Source, error) {
	switch ret := lib.Init(); ret {
	case nvml.SUCCESS:
	case nvml.ERROR_LIBRARY_NOT_FOUND, nvml.ERROR_DRIVER_NOT_LOADED:
		return nil, fmt.Errorf("%w (NVML code %d)", ErrNoDriver, int32(ret))
	default:
		return nil, fmt.Errorf("NVML did not start: code %d", int32(ret))
	}
	s := &Source{lib: lib, sysfs: sysfs, mpsPipe: mpsPipe, relistEvery: relistEvery, supported: map[string]bool{}}
	for _, symbol := range optional {
		s.supported[symbol] = lib.Extensions().LookupSymbol(symbol) == nil
	}
	if err := s.list(); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

func check(what string, ret nvml.Return) error {
	if ret == nvml.SUCCESS {
		return nil
	}
	return fmt.Errorf("NVML %s: code %d", what, int32(ret))
}

// Name implements device.Source.
func (s *Source) Name() string { return "nvml" }

// Inventory implements device.Source.
func (s *Source) Inventory() ([]device.Device, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]device.Device, len(s.handles))
	mps := s.mpsRuns()
	for i, h := range s.handles {
		out[i] = h.info
		if mps && h.info.Isolation == device.Watched {
			out[i].Isolation = device.MPS
		}
	}
	return out, nil
}

// mpsRuns says whether an MPS server takes clients: it makes this pipe.
func (s *Source) mpsRuns() bool {
	if s.mpsPipe == "" {
		return false
	}
	_, err := os.Stat(filepath.Join(s.mpsPipe, "control"))
	return err == nil
}

// Read implements device.Source. A figure that a product does not have stays
// zero; a device that does not answer for its memory is lost.
func (s *Source) Read() ([]device.Reading, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refresh()
	s.collectEvents()
	out := make([]device.Reading, len(s.handles))
	for i, h := range s.handles {
		if s.down != "" {
			out[i] = device.Reading{ID: h.info.ID, Lost: s.down}
			continue
		}
		out[i] = s.read(h)
		s.stale = s.stale || out[i].Lost != ""
		out[i].XIDs = append([]uint64(nil), s.xids[h.info.ID]...)
	}
	return out, nil
}

func (s *Source) read(h handle) device.Reading {
	r := device.Reading{ID: h.info.ID}
	memory, ret := h.device.GetMemoryInfo()
	if ret != nvml.SUCCESS {
		r.Lost = fmt.Sprintf("NVML code %d", int32(ret))
		return r
	}
	r.MemoryUsedBytes = int64(memory.Used)
	// A MIG instance has no engine counters in NVML; the rest is its board's.
	if h.info.ParentID == "" {
		if u, ret := h.device.GetUtilizationRates(); ret == nvml.SUCCESS {
			r.Utilization, r.MemoryUtilization = float64(u.Gpu)/100, float64(u.Memory)/100
		}
	}
	s.readBoard(h.board, &r)
	return r
}

// readBoard reads what belongs to the whole GPU.
func (s *Source) readBoard(d nvml.Device, r *device.Reading) {
	if t, ret := d.GetTemperature(nvml.TEMPERATURE_GPU); ret == nvml.SUCCESS {
		r.TemperatureCelsius = float64(t)
	}
	if p, ret := d.GetPowerUsage(); ret == nvml.SUCCESS {
		r.PowerWatts = float64(p) / 1000
	}
	if s.supported["nvmlDeviceGetPowerManagementLimit"] {
		if p, ret := d.GetPowerManagementLimit(); ret == nvml.SUCCESS {
			r.PowerLimitWatts = float64(p) / 1000
		}
	}
	if s.supported["nvmlDeviceGetClockInfo"] {
		if c, ret := d.GetClockInfo(nvml.CLOCK_SM); ret == nvml.SUCCESS {
			r.SMClockMHz = float64(c)
		}
		if c, ret := d.GetClockInfo(nvml.CLOCK_MEM); ret == nvml.SUCCESS {
			r.MemoryClockMHz = float64(c)
		}
	}
	if s.supported["nvmlDeviceGetCurrentClocksThrottleReasons"] {
		if mask, ret := d.GetCurrentClocksThrottleReasons(); ret == nvml.SUCCESS {
			r.Throttle = mask
		}
	}
	if s.supported["nvmlDeviceGetTotalEccErrors"] {
		if n, ret := d.GetTotalEccErrors(nvml.MEMORY_ERROR_TYPE_UNCORRECTED, nvml.VOLATILE_ECC); ret == nvml.SUCCESS {
			r.UncorrectableECC = n
		}
		if n, ret := d.GetTotalEccErrors(nvml.MEMORY_ERROR_TYPE_CORRECTED, nvml.VOLATILE_ECC); ret == nvml.SUCCESS {
			r.CorrectableECC = n
		}
	}
	if s.supported["nvmlDeviceGetRemappedRows"] {
		if _, uncorrectable, pending, failed, ret := d.GetRemappedRows(); ret == nvml.SUCCESS {
			r.RemappedRows, r.RowRemapPending, r.RowRemapFailed = uncorrectable, pending, failed
		}
	}
}

// Uses implements device.Source. A client of MPS is listed apart from programs
// that use the GPU alone; some drivers list it in both.
func (s *Source) Uses() ([]device.Use, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.down != "" {
		return nil, nil // Read reports it
	}
	var out []device.Use
	for _, h := range s.handles {
		held := map[int]int64{}
		add := func(processes []nvml.ProcessInfo, ret nvml.Return) {
			if ret != nvml.SUCCESS {
				return // Read reports a lost device
			}
			for _, p := range processes {
				if p.UsedGpuMemory != ^uint64(0) { // NVML_VALUE_NOT_AVAILABLE
					held[int(p.Pid)] = max(held[int(p.Pid)], int64(p.UsedGpuMemory))
				}
			}
		}
		add(h.device.GetComputeRunningProcesses())
		if s.supported["nvmlDeviceGetMPSComputeRunningProcesses_v3"] {
			add(h.device.GetMPSComputeRunningProcesses())
		}
		for pid, bytes := range held {
			out = append(out, device.Use{Device: h.info.ID, PID: pid, Bytes: bytes})
		}
	}
	return out, nil
}

// Close implements device.Source.
func (s *Source) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.shutdown()
}

func (s *Source) shutdown() error {
	var errs []error
	if s.events != nil {
		errs = append(errs, check("event set", s.events.Free()))
		s.events = nil
	}
	return errors.Join(append(errs, check("shutdown", s.lib.Shutdown()))...)
}
