// Package watchdog looks at the memory of every lease and the health of every
// device, several times a second, and tells the host. It measures and carries
// out; memwatch and device decide.
package watchdog

import (
	"context"
	"errors"
	"runtime"
	"sync"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/device"
	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/host"
	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/lease"
	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/memwatch"
	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/procfs"
)

// Host is what a watchdog watches.
type Host interface {
	Leases() []host.LeaseState
	SetDevices(devices []host.DeviceState)
	ObserveMemory(key lease.Key, bytes int64)
	Evict(key lease.Key, oom lease.OOM)
	// OverQuota ends an attempt whose work directory holds too much.
	OverQuota(key lease.Key, bytes int64)
}

// Pace of the two loops.
const (
	Interval       = 100 * time.Millisecond
	deviceInterval = time.Second
	quotaInterval  = 5 * time.Second
)

// Watchdog is safe for concurrent use.
type Watchdog struct {
	source device.Source
	log    *zap.Logger

	mu    sync.Mutex
	watch *memwatch.Watch
	used  map[string]int64 // by device, of all leases
	total map[string]int64 // by device, of anyone, as the driver last said
	// inventory by id of every device seen since the start: one that vanishes may
	// still be leased, and the scheduler must hear why it is gone.
	inventory map[string]device.Device
	order     []string
	health    map[string]device.Health
}

// New lists the source's devices.
func New(source device.Source, log *zap.Logger) (*Watchdog, error) {
	w := &Watchdog{
		source: source, log: log, watch: memwatch.New(), used: map[string]int64{}, total: map[string]int64{},
		inventory: map[string]device.Device{}, health: map[string]device.Health{},
	}
	devices, err := source.Inventory()
	if err != nil {
		return nil, err
	}
	w.meet(devices)
	return w, nil
}

// meet adds new devices and takes what changed of known ones; it returns who is here.
func (w *Watchdog) meet(devices []device.Device) map[string]bool {
	here := map[string]bool{}
	for _, d := range devices {
		here[d.ID] = true
		if _, known := w.inventory[d.ID]; !known {
			w.order = append(w.order, d.ID)
		}
		w.inventory[d.ID] = d
	}
	return here
}

// Attribute implements host.Attribution.
func (w *Watchdog) Attribute(key lease.Key, report lease.OOM) lease.OOM {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.watch.Attribute(key, report)
}

// ReadDevices reads and judges every device once.
func (w *Watchdog) ReadDevices(h Host) {
	readings, err := w.source.Read()
	byID := map[string]device.Reading{}
	for _, r := range readings {
		byID[r.ID] = r
	}
	devices, listErr := w.source.Inventory() // after Read, which finds what came and went
	err = errors.Join(err, listErr)
	w.mu.Lock()
	here := w.meet(devices)
	states := make([]host.DeviceState, 0, len(w.order))
	for _, id := range w.order {
		d := w.inventory[id]
		r, ok := byID[id]
		health := device.Judge(r)
		switch {
		case err != nil:
			health = device.Health{Reason: "cannot be read"}
		case !here[id]:
			health = device.Health{Reason: "removed: the driver does not list it any more"}
		case !ok:
			health = device.Health{Reason: "cannot be read"}
		}
		w.note(d, health, r)
		if d.HostMemory {
			r.MemoryUsedBytes = w.used[id]
		}
		w.total[id] = r.MemoryUsedBytes
		states = append(states, host.DeviceState{Device: d, Reading: r, Health: health})
	}
	w.mu.Unlock()
	if err != nil {
		w.log.Error("the devices cannot be read", zap.Error(err))
	}
	h.SetDevices(states)
}

// note logs a device that falls ill or recovers, once.
func (w *Watchdog) note(d device.Device, health device.Health, r device.Reading) {
	before, known := w.health[d.ID]
	w.health[d.ID] = health
	switch {
	case !health.OK && (!known || before != health):
		w.log.Error("a device is quarantined", zap.String("device_uuid", d.ID), zap.String("kind", d.Kind), zap.String("reason", health.Reason), zap.Uint64s("xids", r.XIDs))
	case health.OK && known && !before.OK:
		w.log.Info("a device takes work again", zap.String("device_uuid", d.ID), zap.String("was", before.Reason))
	}
}

// Run watches until ctx ends.
func (w *Watchdog) Run(ctx context.Context, h Host) error {
	// A large tree takes its time, and so does a driver: the memory must be looked at
	// meanwhile.
	var others sync.WaitGroup
	defer others.Wait()
	others.Go(func() { w.watchQuotas(ctx, h) })
	others.Go(func() { each(ctx, deviceInterval, func() { w.ReadDevices(h) }) })
	// Trainers that keep every processor busy must not keep the one who watches them
	// from looking. Without the right to it the thread stays as it is.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if before, err := unix.Getpriority(unix.PRIO_PROCESS, 0); err == nil && unix.Setpriority(unix.PRIO_PROCESS, 0, ahead) == nil {
		defer func() { _ = unix.Setpriority(unix.PRIO_PROCESS, 0, 20-before) }() // the call answers 20 less the nice value
	}
	each(ctx, Interval, func() { w.sample(h) })
	return nil
}

// ahead is the nice value of the thread that looks at the memory.
const ahead = -10

func each(ctx context.Context, interval time.Duration, do func()) {
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			do()
		}
	}
}

// sample measures once and acts on what it finds.
func (w *Watchdog) sample(h Host) {
	leases := h.Leases()
	uses, err := w.measure(leases)
	if err != nil {
		w.log.Warn("memory was not sampled", zap.Error(err))
		return
	}
	used := map[string]int64{}
	largest := map[lease.Key]int64{}
	for _, u := range uses {
		used[u.Device] += u.Bytes
		if u.Device == memwatch.HostDevice {
			continue // not device memory: nothing to learn a reservation from
		}
		largest[u.Key] = max(largest[u.Key], u.Bytes)
	}
	sample := memwatch.Sample{At: time.Now(), Uses: uses, Total: map[string]int64{}, Capacity: map[string]int64{}}
	w.mu.Lock()
	for id, d := range w.inventory {
		sample.Capacity[id] = d.MemoryBytes
		sample.Total[id] = w.total[id]
		if d.HostMemory {
			sample.Total[id] = used[id]
		}
	}
	w.used = used
	events := w.watch.Add(sample)
	w.mu.Unlock()
	for key, bytes := range largest {
		h.ObserveMemory(key, bytes)
	}
	for _, e := range events {
		if e.Evict {
			h.Evict(e.Use.Key, e.OOM)
			continue
		}
		w.log.Warn("an attempt is near its memory reservation", zap.Stringer("attempt", e.Use.Key), zap.String("device_uuid", e.Use.Device),
			zap.Int64("bytes", e.Use.Bytes), zap.Int64("limit", e.Use.Limit))
	}
}

// measure returns each lease's use of each of its devices.
func (w *Watchdog) measure(leases []host.LeaseState) ([]memwatch.Use, error) {
	var roots []int
	for _, l := range leases {
		if l.Supervisor > 0 {
			roots = append(roots, l.Supervisor)
		}
	}
	if len(roots) == 0 {
		return nil, nil
	}
	trees, err := procfs.Descendants(roots...)
	if err != nil {
		return nil, err
	}
	driver, err := w.source.Uses()
	if err != nil {
		return nil, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	var out []memwatch.Use
	for _, l := range leases {
		if l.Supervisor == 0 {
			continue
		}
		tree := trees[l.Supervisor]
		resident, asked := int64(0), false
		if l.HostMemoryBytes > 0 && !w.onHost(l.Claims) {
			out = append(out, memwatch.Use{Key: l.Key, Device: memwatch.HostDevice, Bytes: treeBytes(tree), Limit: l.HostMemoryBytes, Enforced: true})
		}
		for _, c := range l.Claims {
			d, ok := w.inventory[c.Device]
			if !ok {
				continue
			}
			use := memwatch.Use{Key: l.Key, Device: d.ID, Limit: c.Bytes + d.OverheadBytes, Enforced: c.Bytes > 0 || d.HostMemory}
			if c.Bytes == 0 {
				use.Limit = d.MemoryBytes - d.HeadroomBytes
			}
			if d.HostMemory {
				if !asked {
					resident, asked = treeBytes(tree), true
				}
				use.Bytes = resident / hostClaims(l.Claims, w.inventory)
			} else {
				use.Bytes = driverBytes(driver, d.ID, tree)
			}
			out = append(out, use)
		}
	}
	return out, nil
}

// onHost says whether a lease has a lane: then its reservation there is the
// bound, and the host's memory is not counted twice.
func (w *Watchdog) onHost(claims []lease.Claim) bool {
	for _, c := range claims {
		if w.inventory[c.Device].HostMemory {
			return true
		}
	}
	return false
}

// hostClaims counts a lease's lanes: its one process tree is spread over them.
func hostClaims(claims []lease.Claim, inventory map[string]device.Device) int64 {
	var n int64
	for _, c := range claims {
		if inventory[c.Device].HostMemory {
			n++
		}
	}
	return max(n, 1)
}

func treeBytes(pids []int) int64 {
	var total int64
	for _, pid := range pids {
		if bytes, err := procfs.PrivateBytes(pid); err == nil { // else it is gone
			total += bytes
		}
	}
	return total
}

func driverBytes(uses []device.Use, id string, pids []int) int64 {
	mine := make(map[int]bool, len(pids))
	for _, pid := range pids {
		mine[pid] = true
	}
	var total int64
	for _, u := range uses {
		if u.Device == id && mine[u.PID] {
			total += u.Bytes
		}
	}
	return total
}
