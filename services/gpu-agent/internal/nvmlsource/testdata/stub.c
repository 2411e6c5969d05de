// The part of a driver that the source calls. Each call reads CONTROL, a file
// of words, so that a test can break the driver and mend it:
//   count=N   GPUs 1 and 2 share an NVLink, GPU 3 is in MIG mode with two instances
//   init=N    answer of nvmlInit      driver=N  answer of every other call
//   lost=N    this GPU fell off the bus       xid=N  on GPU 1, told once
//   ecc=N remap=N   uncorrectable errors and failed remaps of GPU 2
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#define NOT_SUPPORTED 3
#define NOT_FOUND 6
#define INSUFFICIENT 7
#define TIMEOUT 10
#define LOST 15
typedef unsigned u;
typedef unsigned long long ull;
typedef struct { ull total, free, used; } memory_t;
typedef struct { u gpu, memory; } rates_t;
typedef struct { u pid; ull used; u gi, ci; } process_t;
typedef struct { char legacy[16]; u domain, bus, device, id, subsystem; char address[32]; } pci_t;
typedef struct { void *device; ull type, data; u gi, ci; } event_t;

static u control(const char *key, u otherwise) {
	char text[256] = {0}, want[32];
	FILE *f = fopen(CONTROL, "r");
	if (!f) return otherwise;
	fread(text, 1, sizeof text - 1, f);
	fclose(f);
	snprintf(want, sizeof want, "%s=", key);
	char *at = strstr(text, want);
	return at ? (u)atoi(at + strlen(want)) : otherwise;
}
static u id(void *d) { return (u)(unsigned long)d; } // 1, 2, 3: GPUs; 31, 32: instances of GPU 3
static u answer(void *d) {
	u r = control("driver", 0);
	return r ? r : control("lost", 0) == id(d) ? LOST : 0;
}

u nvmlInit_v2(void) { return control("init", 0); }
u nvmlShutdown(void) { return 0; }
u nvmlDeviceGetCount_v2(u *n) { *n = control("count", 3); return control("driver", 0); }
u nvmlDeviceGetHandleByIndex_v2(u i, void **d) { *d = (void *)(unsigned long)(i + 1); return answer(*d); }
u nvmlDeviceGetMigMode(void *d, u *c, u *p) { *c = *p = id(d) == 3; return 0; }
u nvmlDeviceGetMaxMigDeviceCount(void *d, u *n) { *n = 7; return 0; }
u nvmlDeviceGetMigDeviceHandleByIndex(void *d, u i, void **m) { *m = (void *)(unsigned long)(31 + i); return i < 2 ? 0 : NOT_FOUND; }
u nvmlDeviceGetGpuInstanceId(void *d, u *n) { *n = id(d) - 30; return 0; }
u nvmlDeviceGetUUID(void *d, char *s, u n) { snprintf(s, n, "%s-%u", id(d) > 30 ? "MIG" : "GPU", id(d)); return answer(d); }
u nvmlDeviceGetName(void *d, char *s, u n) { strncpy(s, id(d) > 30 ? "Stub 9000 MIG 1g.10gb" : "Stub 9000", n); return answer(d); }
u nvmlDeviceGetPciInfo_v3(void *d, pci_t *p) { snprintf(p->address, 32, "00000000:%02X:00.0", 0x3A + id(d)); return 0; }
u nvmlDeviceGetMemoryInfo(void *d, memory_t *m) {
	m->total = (id(d) > 30 ? 10ULL : 24ULL) << 30; m->used = 3ULL << 30; m->free = m->total - m->used;
	return answer(d);
}
u nvmlDeviceGetUtilizationRates(void *d, rates_t *r) { r->gpu = 75; r->memory = 20; return 0; }
u nvmlDeviceGetTemperature(void *d, int s, u *t) { *t = 61; return 0; }
u nvmlDeviceGetPowerUsage(void *d, u *p) { *p = 250000; return 0; }
u nvmlDeviceGetPowerManagementLimit(void *d, u *p) { *p = 300000; return 0; }
u nvmlDeviceGetClockInfo(void *d, int k, u *c) { *c = k == 1 ? 1400 : 2600; return 0; }
u nvmlDeviceGetCurrentClocksThrottleReasons(void *d, ull *m) { *m = 0x44; return 0; }
u nvmlDeviceGetTotalEccErrors(void *d, int kind, int counter, ull *n) { *n = kind == 1 && id(d) == 2 ? control("ecc", 0) : 0; return 0; }
u nvmlDeviceGetRemappedRows(void *d, u *c, u *n, u *pending, u *failed) { *c = *n = *pending = 0; *failed = id(d) == 2 ? control("remap", 0) : 0; return 0; }
u nvmlDeviceGetNvLinkState(void *d, u link, u *on) { *on = id(d) < 3; return link < 1 ? 0 : NOT_SUPPORTED; }
u nvmlDeviceGetNvLinkRemoteDeviceType(void *d, u link, u *t) { *t = 0; return 0; }
u nvmlDeviceGetNvLinkRemotePciInfo_v2(void *d, u link, pci_t *p) { snprintf(p->address, 32, "00000000:%02X:00.0", 0x3A + 3 - id(d)); return 0; }
u nvmlDeviceGetComputeRunningProcesses_v3(void *d, u *n, process_t *p) {
	if (id(d) != 1) { *n = 0; return 0; }
	if (*n < 1) { *n = 1; return INSUFFICIENT; }
	*n = 1; p[0].pid = 4242; p[0].used = 1ULL << 30; return 0;
}
u nvmlDeviceGetMPSComputeRunningProcesses_v3(void *d, u *n, process_t *p) {
	if (id(d) != 1) { *n = 0; return 0; }
	if (*n < 2) { *n = 2; return INSUFFICIENT; }
	*n = 2; p[0].pid = 4242; p[0].used = 1ULL << 30; p[1].pid = 4243; p[1].used = 2ULL << 30; return 0;
}
static u told;
u nvmlEventSetCreate(void **s) { *s = (void *)1; return 0; }
u nvmlEventSetFree(void *s) { return 0; }
u nvmlDeviceRegisterEvents(void *d, ull types, void *s) { return 0; }
u nvmlEventSetWait_v2(void *s, event_t *e, u timeout) {
	u xid = control("xid", 0);
	if (!xid || told == xid) return TIMEOUT;
	told = xid; e->device = (void *)1; e->type = 8; e->data = xid; e->gi = e->ci = ~0u;
	return 0;
}
