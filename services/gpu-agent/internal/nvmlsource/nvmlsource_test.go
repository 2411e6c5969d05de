//go:build cgo

package nvmlsource

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/NVIDIA/go-nvml/pkg/nvml"

	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/device"
)

// stub is the part of a driver that the source calls, with two GPUs of which
// the second has fallen off the bus.
const stub = `
#include <string.h>
#define OK 0
#define NOT_SUPPORTED 3
#define LOST 15
typedef struct { unsigned long long total, free, used; } memory_t;
typedef struct { unsigned gpu, memory; } rates_t;
typedef struct { unsigned pid; unsigned long long used; unsigned gi, ci; } process_t;
int nvmlInit_v2(void) { return OK; }
int nvmlShutdown(void) { return OK; }
int nvmlDeviceGetCount_v2(unsigned *n) { *n = 2; return OK; }
int nvmlDeviceGetHandleByIndex_v2(unsigned i, void **d) { *d = (void *)(unsigned long)(i + 1); return OK; }
int nvmlDeviceGetMigMode(void *d, unsigned *c, unsigned *p) { return NOT_SUPPORTED; }
int nvmlDeviceGetUUID(void *d, char *s, unsigned n) { strncpy(s, d == (void *)1 ? "GPU-1" : "GPU-2", n); return OK; }
int nvmlDeviceGetName(void *d, char *s, unsigned n) { strncpy(s, "Stub 9000", n); return OK; }
static int calls;
int nvmlDeviceGetMemoryInfo(void *d, memory_t *m) {
	if (d == (void *)2 && ++calls > 1) return LOST;
	m->total = 24ULL << 30; m->used = 3ULL << 30; m->free = m->total - m->used; return OK;
}
int nvmlDeviceGetUtilizationRates(void *d, rates_t *r) { r->gpu = 75; r->memory = 20; return OK; }
int nvmlDeviceGetTemperature(void *d, int s, unsigned *t) { *t = 61; return OK; }
int nvmlDeviceGetPowerUsage(void *d, unsigned *p) { *p = 250000; return OK; }
int nvmlDeviceGetComputeRunningProcesses_v3(void *d, unsigned *n, process_t *p) {
	if (*n < 1) { *n = 1; return 7; }
	*n = 1; p[0].pid = 4242; p[0].used = 1ULL << 30; return OK;
}
`

// The whole path through cgo, with a driver made of fifteen lines.
func TestStubDriver(t *testing.T) {
	t.Parallel()
	gcc, err := exec.LookPath("gcc")
	if err != nil {
		t.Skip("gcc is needed to build the stub driver")
	}
	source, library := filepath.Join(t.TempDir(), "stub.c"), filepath.Join(t.TempDir(), "libstub.so")
	if err := os.WriteFile(source, []byte(stub), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(gcc, "-shared", "-fPIC", "-w", "-o", library, source).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	s, err := open(nvml.New(nvml.WithLibraryPath(library)))
	if err != nil {
		t.Fatal(err)
	}
	devices, err := s.Inventory()
	if err != nil || len(devices) != 2 || devices[0].ID != "GPU-1" || devices[0].Kind != "Stub 9000" || devices[0].MemoryBytes != 24<<30 || devices[0].HostMemory {
		t.Fatalf("%+v %v", devices, err)
	}
	readings, err := s.Read()
	if err != nil || readings[0].Utilization != 0.75 || readings[0].TemperatureCelsius != 61 || readings[0].PowerWatts != 250 || readings[0].MemoryUsedBytes != 3<<30 {
		t.Fatalf("%+v %v", readings, err)
	}
	if !device.Judge(readings[0]).OK || device.Judge(readings[1]).OK {
		t.Fatalf("health: %+v", readings)
	}
	uses, err := s.Uses()
	if err != nil || len(uses) != 2 || uses[0] != (device.Use{Device: "GPU-1", PID: 4242, Bytes: 1 << 30}) {
		t.Fatalf("%+v %v", uses, err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// A host without a driver gets an error that says so.
func TestNoDriver(t *testing.T) {
	t.Parallel()
	if _, err := open(nvml.New(nvml.WithLibraryPath("/no/such/library.so"))); !errors.Is(err, ErrNoDriver) {
		t.Fatalf("error %v", err)
	}
}
