// Package device describes what a host can lease, GPUs, MIG instances and CPU
// lanes, and judges their health. It is pure: Source is the seam behind which
// NVML and /proc live.
package device

import (
	"fmt"
	"maps"
	"slices"
)

// Isolation names how hard a reservation is enforced, softest first.
type Isolation string

// Isolation levels.
const (
	Watched Isolation = "WATCHED"
	MPS     Isolation = "MPS"
	Cgroup  Isolation = "CGROUP"
	MIG     Isolation = "MIG"
)

// Softer says whether i is easier to break than other.
func (i Isolation) Softer(other Isolation) bool {
	order := []Isolation{Watched, MPS, Cgroup, MIG}
	return slices.Index(order, i) < slices.Index(order, other)
}

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
	// ParentID is the GPU of a MIG instance, MIGProfile its shape ("1g.10gb").
	ParentID, MIGProfile string
	// NUMANode next to which the device sits; -1 means unknown.
	NUMANode int
	// Index is the driver's number of the GPU, PCIBusID its address; for people.
	Index    int
	PCIBusID string
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
	// PowerWatts drawn, and the limit that the board is held to.
	PowerWatts, PowerLimitWatts float64
	SMClockMHz, MemoryClockMHz  float64
	// Throttle are the driver's reasons for lower clocks, a bit mask; see Slowed.
	Throttle uint64
	// UncorrectableECC and CorrectableECC count volatile errors.
	UncorrectableECC, CorrectableECC uint64
	// RemappedRows were replaced after uncorrectable errors.
	RemappedRows int
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
	// Inventory lists every device that is there now, leasable or not. It is cheap:
	// Read finds out what came and went.
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
// faults, 63 a repair that worked: not here.
var fatalXIDs = map[uint64]string{
	46:  "the GPU stopped processing",
	48:  "double-bit ECC error",
	62:  "internal micro-controller halt",
	64:  "row remapper failure",
	74:  "NVLink error",
	79:  "the GPU fell off the bus",
	92:  "high single-bit ECC error rate",
	94:  "contained ECC error",
	95:  "uncontained ECC error",
	109: "context switch timeout",
	119: "the GPU's system processor does not answer",
	120: "the GPU's system processor failed",
	121: "chip-to-chip link error",
	140: "unrecovered ECC error",
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
			return Health{Reason: fmt.Sprintf("XID %d: %s: reset the GPU", xid, what)}
		}
	}
	if r.RowRemapPending {
		return Health{Reason: "row remapping is pending: reset the GPU"}
	}
	return Health{OK: true}
}

// throttles are the bits of Throttle that mean trouble; idling and a person's
// own settings lower the clocks too.
var throttles = []struct {
	bit  uint64
	what string
}{
	{0x4, "power cap"},
	{0x8, "hardware slowdown"},
	{0x20, "software thermal slowdown"},
	{0x40, "hardware thermal slowdown"},
	{0x80, "power brake"},
}

// Slowed returns why a device runs below its clocks, or nothing.
func Slowed(throttle uint64) []string {
	var out []string
	for _, t := range throttles {
		if throttle&t.bit != 0 {
			out = append(out, t.what)
		}
	}
	return out
}

// LinkGroups names the groups of devices that are joined by fast links, given
// for each device the devices that it reaches directly. A device without a link
// is in no group.
func LinkGroups(links map[string][]string) map[string]string {
	groups := map[string]string{}
	ids := slices.Sorted(maps.Keys(links))
	for _, id := range ids {
		if groups[id] != "" || len(links[id]) == 0 {
			continue
		}
		name := "nvlink:" + id
		for queue := []string{id}; len(queue) > 0; queue = queue[1:] {
			if groups[queue[0]] != "" {
				continue
			}
			groups[queue[0]] = name
			queue = append(queue, links[queue[0]]...)
		}
	}
	return groups
}
