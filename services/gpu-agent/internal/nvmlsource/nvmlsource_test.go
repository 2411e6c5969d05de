//go:build cgo

package nvmlsource

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/NVIDIA/go-nvml/pkg/nvml"

	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/device"
)

// The stub's library and control file. There is one for all tests, which are
// therefore not parallel: the binding takes its symbols from the first library
// that a process loads, for ever.
var stubLibrary, stubControl string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "nvml")
	if err != nil {
		panic(err)
	}
	stubControl = filepath.Join(dir, "control")
	if gcc, err := exec.LookPath("gcc"); err == nil {
		stubLibrary = filepath.Join(dir, "libstub.so")
		if out, err := exec.Command(gcc, "-shared", "-fPIC", "-w", `-DCONTROL="`+stubControl+`"`, "-o", stubLibrary, "testdata/stub.c").CombinedOutput(); err != nil {
			panic(string(out))
		}
	}
	code := m.Run()
	if err := os.RemoveAll(dir); err != nil {
		panic(err)
	}
	os.Exit(code)
}

// stubDriver is a driver library that does what its control file says: the whole
// path through cgo, without a GPU.
type stubDriver struct {
	t      *testing.T
	source *Source
}

func newStubDriver(t *testing.T) *stubDriver {
	t.Helper()
	if stubLibrary == "" {
		t.Skip("gcc is needed to build the stub driver")
	}
	d := &stubDriver{t: t}
	d.set("")
	sysfs := t.TempDir()
	node := filepath.Join(sysfs, "bus/pci/devices/0000:3b:00.0")
	err := errors.Join(os.MkdirAll(node, 0o700), os.WriteFile(filepath.Join(node, "numa_node"), []byte("1\n"), 0o600))
	if err != nil {
		t.Fatal(err)
	}
	if d.source, err = open(nvml.New(nvml.WithLibraryPath(stubLibrary)), sysfs, filepath.Join(sysfs, "mps"), 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		d.set("")
		if err := d.source.Close(); err != nil {
			t.Error(err)
		}
	})
	return d
}

func (d *stubDriver) set(state string) {
	d.t.Helper()
	if err := os.WriteFile(stubControl, []byte(state), 0o600); err != nil {
		d.t.Fatal(err)
	}
}

func (d *stubDriver) inventory() []device.Device {
	d.t.Helper()
	devices, err := d.source.Inventory()
	if err != nil {
		d.t.Fatal(err)
	}
	return devices
}

// health reads once and returns each device's health by id.
func (d *stubDriver) health() map[string]device.Health {
	d.t.Helper()
	readings, err := d.source.Read()
	if err != nil {
		d.t.Fatal(err)
	}
	out := map[string]device.Health{}
	for _, r := range readings {
		out[r.ID] = device.Judge(r)
	}
	return out
}

func TestInventory(t *testing.T) {
	d := newStubDriver(t)
	gpu := device.Device{
		ID: "GPU-1", Kind: "Stub 9000", MemoryBytes: 24 << 30, HeadroomBytes: headroom, OverheadBytes: overhead,
		Isolation: device.Watched, LinkGroup: "nvlink:GPU-1", NUMANode: 1, PCIBusID: "00000000:3B:00.0",
	}
	second := gpu
	second.ID, second.Index, second.PCIBusID, second.NUMANode = "GPU-2", 1, "00000000:3C:00.0", -1
	slice := device.Device{
		ID: "MIG-31", Kind: "Stub 9000 MIG 1g.10gb", MemoryBytes: 10 << 30, HeadroomBytes: headroom, OverheadBytes: overhead,
		Isolation: device.MIG, ParentID: "GPU-3", MIGProfile: "1g.10gb", NUMANode: -1, Index: 2, PCIBusID: "00000000:3D:00.0",
	}
	other := slice
	other.ID = "MIG-32"
	if got := d.inventory(); !slices.Equal(got, []device.Device{gpu, second, slice, other}) {
		t.Fatalf("%+v", got)
	}
	readings, err := d.source.Read()
	want := device.Reading{
		ID: "GPU-1", MemoryUsedBytes: 3 << 30, Utilization: 0.75, MemoryUtilization: 0.2, TemperatureCelsius: 61, PowerWatts: 250,
		PowerLimitWatts: 300, SMClockMHz: 1400, MemoryClockMHz: 2600, Throttle: 0x44,
	}
	if err != nil || len(readings) != 4 || !equal(readings[0], want) {
		t.Fatalf("%+v %v", readings, err)
	}
	// An instance has no engine counters of its own, and its board's temperature.
	if r := readings[2]; r.Utilization != 0 || r.TemperatureCelsius != 61 {
		t.Fatalf("%+v", r)
	}
	uses, err := d.source.Uses()
	slices.SortFunc(uses, func(a, b device.Use) int { return a.PID - b.PID })
	// A client of MPS is counted once, whichever list it is in.
	if err != nil || !slices.Equal(uses, []device.Use{{Device: "GPU-1", PID: 4242, Bytes: 1 << 30}, {Device: "GPU-1", PID: 4243, Bytes: 2 << 30}}) {
		t.Fatalf("%+v %v", uses, err)
	}
}

// While an MPS server runs it holds whole GPUs' clients to their limits; a MIG
// instance is held harder already.
func TestMPS(t *testing.T) {
	d := newStubDriver(t)
	if err := errors.Join(os.MkdirAll(d.source.mpsPipe, 0o700), os.WriteFile(filepath.Join(d.source.mpsPipe, "control"), nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	if got := d.inventory(); got[0].Isolation != device.MPS || got[2].Isolation != device.MIG {
		t.Fatalf("%+v", got)
	}
}

func equal(a, b device.Reading) bool {
	xids := slices.Equal(a.XIDs, b.XIDs)
	a.XIDs, b.XIDs = nil, nil
	return xids && a.ID == b.ID && a.MemoryUsedBytes == b.MemoryUsedBytes && a.Utilization == b.Utilization && a.MemoryUtilization == b.MemoryUtilization &&
		a.TemperatureCelsius == b.TemperatureCelsius && a.PowerWatts == b.PowerWatts && a.PowerLimitWatts == b.PowerLimitWatts &&
		a.SMClockMHz == b.SMClockMHz && a.MemoryClockMHz == b.MemoryClockMHz && a.Throttle == b.Throttle && a.Lost == b.Lost
}

// Each way to fall ill quarantines its own device, with the reason.
func TestHealth(t *testing.T) {
	for state, want := range map[string]struct{ id, reason string }{
		"xid=79":  {"GPU-1", "XID 79: the GPU fell off the bus"},
		"ecc=2":   {"GPU-2", "2 uncorrectable ECC error(s)"},
		"remap=1": {"GPU-2", "row remapping failed"},
		"lost=2":  {"GPU-2", "lost"},
	} {
		t.Run(state, func(t *testing.T) {
			d := newStubDriver(t)
			d.set(state)
			for id, health := range d.health() {
				if ill := !health.OK; ill != (id == want.id) || ill && !strings.Contains(health.Reason, want.reason) {
					t.Errorf("%s: %+v", id, health)
				}
			}
		})
	}
	d := newStubDriver(t)
	if d.set("xid=31"); !d.health()["GPU-1"].OK {
		t.Error("a program's own fault quarantined its device")
	}
}

// A device that is pulled out leaves the inventory and comes back to it.
func TestHotRemoval(t *testing.T) {
	d := newStubDriver(t)
	d.set("lost=1")
	if health := d.health(); health["GPU-1"].OK {
		t.Fatalf("%+v", health)
	}
	d.health() // lists again
	if got := d.inventory(); len(got) != 3 || got[0].ID != "GPU-2" {
		t.Fatalf("%+v", got)
	}
	d.set("count=2")
	if d.health(); len(d.inventory()) != 2 {
		t.Fatalf("%+v", d.inventory())
	}
	d.set("")
	if health := d.health(); len(health) != 4 || !health["GPU-1"].OK {
		t.Fatalf("%+v", health)
	}
}

// While the driver restarts every device is lost; afterwards all are read again.
func TestDriverRestart(t *testing.T) {
	d := newStubDriver(t)
	d.set("driver=1 init=9")
	for range 3 {
		health := d.health()
		if len(health) != 4 || health["GPU-1"].OK || !strings.Contains(health["GPU-1"].Reason, "driver") {
			t.Fatalf("%+v", health)
		}
		if uses, err := d.source.Uses(); err != nil || len(uses) != 0 {
			t.Fatalf("%+v %v", uses, err)
		}
	}
	d.set("")
	if health := d.health(); len(health) != 4 || !health["GPU-1"].OK || !health["MIG-32"].OK {
		t.Fatalf("%+v", health)
	}
}

// A host without a driver gets an error that says so.
func TestNoDriver(t *testing.T) {
	t.Parallel()
	if _, err := open(nvml.New(nvml.WithLibraryPath("/no/such/library.so")), "/sys", "", 0); !errors.Is(err, ErrNoDriver) {
		t.Fatalf("error %v", err)
	}
}
