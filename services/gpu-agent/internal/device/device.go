// Package device describes what a host can lease, GPUs, MIG instances and CPU
// lanes, and judges their health. It is pure: Source is the seam behind which
// NVML and /proc live.
package device

import "fmt"

// Isolation names how hard a reservation is enforced, softest first.
type Isolation string

// Isolation levels.
const (
	Watched Isolation = "WATCHED"
	MPS     Isolation = "MPS"
	Cgroup  Isolation = "CGROUP"
	MIG     Isolation = "MIG"
)

// CPULane is the kind of a lane that computes on the host's CPU.
const CPULane = "cpu-lane"

// Device is one leasable unit.
type Device struct {
	// ID is unique on the host: an NVML UUID or "cpu:0".
	ID string
	// Kind is the product name or CPULane.
	Kind string
	// MemoryBytes is the total, HeadroomBytes the part no reservation may touch,
	// OverheadBytes what each process costs beyond its reservation.
	MemoryBytes, HeadroomBytes, OverheadBytes int64
	Isolation                                 Isolation
	// LinkGroup names the fast link that its devices share; empty means none.
	LinkGroup string
	// HostMemory is true when the device's memory is the host's: use is then
	// the resident memory of the processes, not a driver's figure.
	HostMemory bool
}

// Reading is one sample of a device.
type Reading struct {
	ID string
	// MemoryUsedBytes by anyone.
	MemoryUsedBytes int64
	// Utilization and MemoryUtilization are 0 to 1.
	Utilization, MemoryUtilization float64
	TemperatureCelsius             float64
	PowerWatts                     float64
	SMClockMHz, MemoryClockMHz     float64
	// UncorrectableECC counts volatile double-bit errors.
	UncorrectableECC uint64
	// RowRemapPending and RowRemapFailed tell the state of memory repair.
	RowRemapPending, RowRemapFailed bool
	// XIDs are the driver's error codes since the source was opened.
	XIDs []uint64
	// Lost is set when the driver no longer answers for the device.
	Lost string
}

// Use is the memory that one process holds on one device.
type Use struct {
	Device string
	PID    int
	Bytes  int64
}

// Source finds and reads the devices of a host. Implementations are safe for
// use from several goroutines.
type Source interface {
	// Name is "cpu", "nvml" or the name of a test's source.
	Name() string
	// Inventory lists every device, leasable or not.
	Inventory() ([]Device, error)
	// Read samples every device of the inventory.
	Read() ([]Reading, error)
	// Uses lists per-process memory on devices that are not HostMemory.
	Uses() ([]Use, error)
	Close() error
}

// Health is a device's state as the scheduler is told.
type Health struct {
	OK     bool
	Reason string
}

// fatalXIDs are driver errors after which a device is not trusted before a
// person or a reset looked at it. 13, 31, 43 and 45 are the application's own
// faults and are not here.
var fatalXIDs = map[uint64]string{
	48: "double-bit ECC error",
	64: "row remapper failure",
	74: "NVLink error",
	79: "the GPU fell off the bus",
	92: "high single-bit ECC error rate",
	94: "contained ECC error",
	95: "uncontained ECC error",
}

// Judge applies the health rules to one reading.
func Judge(r Reading) Health {
	switch {
	case r.Lost != "":
		return Health{Reason: "lost: " + r.Lost}
	case r.RowRemapFailed:
		return Health{Reason: "row remapping failed: replace the GPU"}
	case r.UncorrectableECC > 0:
		return Health{Reason: fmt.Sprintf("%d uncorrectable ECC error(s) since the last reset", r.UncorrectableECC)}
	}
	for _, xid := range r.XIDs {
		if what, ok := fatalXIDs[xid]; ok {
			return Health{Reason: fmt.Sprintf("XID %d: %s", xid, what)}
		}
	}
	if r.RowRemapPending {
		return Health{Reason: "row remapping is pending: reset the GPU"}
	}
	return Health{OK: true}
}
