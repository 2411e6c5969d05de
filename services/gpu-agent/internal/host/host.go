// Package host runs a host's attempts: it keeps the journal and the processes in
// step with what the scheduler wants, and everything that an attempt produces on
// its way out. Decisions are reconcile's; this package only carries them out.
//
// It is crash-only. A start and a restart are the same code: read the journal,
// adopt what runs, go on. Nothing that matters lives in memory alone.
package host

import (
	"context"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/cgroup"
	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/device"
	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/disk"
	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/journal"
	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/launch"
	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/lease"
	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/reconcile"
	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/restore"
	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/spool"
	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/upload"
)

// Registry is what a host needs of the registry.
type Registry interface {
	upload.Registry
	restore.Registry
	// Opened and Closed encode an attempt's first and last batch.
	Opened(a lease.Assignment, restored string, now time.Time) ([]byte, error)
	Closed(exit lease.Exit, traceparent string) ([]byte, error)
	// Drain sends a spool until its stream breaks.
	Drain(ctx context.Context, s *spool.Spool, refused func(reason, message string)) error
}

// Process is a supervised trainer.
type Process interface {
	Supervisor() int
	StartTime() time.Time
	Done() <-chan struct{}
	Exit() launch.Exit
	Terminate() error
	Kill() error
}

// Launcher starts and adopts trainers.
type Launcher interface {
	Start(ctx context.Context, dir string, spec launch.Spec, token []byte) (Process, error)
	Adopt(ctx context.Context, dir string) (Process, error)
}

// Settings of a host.
type Settings struct {
	StateDir string
	// Socket is where trainers find the agent, TrainerBinary what they are.
	Socket, TrainerBinary string
	// AgentLock is held by the living agent.
	AgentLock string
	// TrainerEnv is added to every trainer's environment.
	TrainerEnv []string
	// TrackingURL is the host's MLflow proxy; empty means that there is none.
	TrackingURL string
	// MPSPipe is the pipe directory of the host's MPS server.
	MPSPipe string
	// OrphanTimeout after which trainers without an agent end.
	OrphanTimeout time.Duration
	// Bounds in bytes: of one log file, one spool, one staging area, one work directory.
	LogBytes, SpoolBytes, StagingBytes, WorkBytes int64
	// ShareTensorsFrom is the least size of a tensor that is stored by itself; 0 keeps files whole.
	ShareTensorsFrom int64
	// SettleTime is how long an attempt's end waits for its last uploads before it
	// is reported.
	SettleTime time.Duration
	// KeepEnded is how many ended attempts keep their logs.
	KeepEnded int
}

// Counters are events that the metrics count; safe for concurrent use.
type Counters interface {
	Launched()
	Ended(outcome, class string)
	BatchRefused(reason string)
	// CheckpointCommitted had bytes, of which sent were not in the store.
	CheckpointCommitted(bytes, sent int64, took time.Duration)
	CheckpointRejected()
	SpoolDamage()
	SelfFenced()
	SequenceGap()
}

// Attribution decides whose fault a reported out-of-memory is.
type Attribution interface {
	Attribute(key lease.Key, report lease.OOM) lease.OOM
}

// Groups makes control groups.
type Groups interface {
	Create(name string, memory int64) (*cgroup.Group, error)
}

// Deps are the parts a host works with.
type Deps struct {
	Journal  *journal.Journal
	Launcher Launcher
	Registry Registry
	Restorer *restore.Restorer
	Tier     *restore.Tier
	// Bin takes what an attempt leaves behind; nil removes it at once.
	Bin         *disk.Bin
	Attribution Attribution
	// Groups holds trainers to their host memory; nil where the host lets us not.
	Groups   Groups
	Counters Counters
	Log      *zap.Logger
}

// DeviceState is a device as last read.
type DeviceState struct {
	device.Device
	Reading device.Reading
	Health  device.Health
}

// Host is safe for concurrent use.
type Host struct {
	Settings
	deps Deps

	wake      chan struct{}
	wg        sync.WaitGroup
	recovered chan struct{}

	mu       sync.Mutex
	changed  chan struct{}
	attempts map[lease.Key]*Attempt
	tails    map[lease.Key]*Attempt
	desired  reconcile.Desired
	// desiredTurn counts the scheduler's answers; appliedTurn is the last one that
	// was carried out, and acted closes when that grows.
	desiredTurn, appliedTurn uint64
	acted                    chan struct{}
	leaseUntil               time.Time
	devices                  []DeviceState
	leftovers                int // attempts of a lost journal that may still run
	lastNotice               time.Time
}

// New returns a host that does nothing before Run.
func New(settings Settings, deps Deps) *Host {
	return &Host{
		Settings: settings, deps: deps, wake: make(chan struct{}, 1), changed: make(chan struct{}), acted: make(chan struct{}), recovered: make(chan struct{}),
		attempts: map[lease.Key]*Attempt{}, tails: map[lease.Key]*Attempt{},
	}
}

func (h *Host) attemptsDir() string { return filepath.Join(h.StateDir, "attempts") }

// AttemptDir returns the directory of an attempt.
func (h *Host) AttemptDir(key lease.Key) string {
	return filepath.Join(h.attemptsDir(), key.Directory())
}

// Recovered is closed once the host knows again what it held. Before that it
// must neither report, it would seem to hold nothing, nor answer a trainer.
func (h *Host) Recovered() <-chan struct{} { return h.recovered }

// poke makes the loop look again.
func (h *Host) poke() {
	select {
	case h.wake <- struct{}{}:
	default:
	}
}

// notify tells the session that the report would differ. With h.mu held.
func (h *Host) notify() {
	close(h.changed)
	h.changed = make(chan struct{})
	h.lastNotice = time.Now()
}

// notifySoon is notify for what changes often: at most once a second.
func (h *Host) notifySoon() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if time.Since(h.lastNotice) >= time.Second {
		h.notify()
	}
}

func (h *Host) notifyNow() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.notify()
}

// Changed returns a channel that closes at the next change of the report.
func (h *Host) Changed() <-chan struct{} {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.changed
}

// SetDevices takes a new reading of the inventory.
func (h *Host) SetDevices(devices []DeviceState) {
	h.mu.Lock()
	differs := len(devices) != len(h.devices)
	for i := range devices {
		differs = differs || devices[i].Device != h.devices[i].Device || devices[i].Health != h.devices[i].Health
	}
	h.devices = slices.Clone(devices)
	if differs {
		h.notify()
	}
	h.mu.Unlock()
	if differs {
		h.poke()
	}
}

// leaseLives says whether the host's leases are known to run still.
func (h *Host) leaseLives() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return time.Now().Before(h.leaseUntil)
}

// applyPatience bounds Apply's wait: the host must go on reporting even when its
// disk hangs.
const applyPatience = 2 * time.Second

// Apply takes the scheduler's answer: what it wants, and until when the host's
// leases live. It waits until every new lease is in the journal and says whether
// that is so: only then may a report claim to know this answer, for a lease that
// such a report lacks is one that the host has lost.
func (h *Host) Apply(ctx context.Context, desired reconcile.Desired, leaseUntil time.Time) bool {
	now := time.Now()
	var expired []*Attempt
	h.mu.Lock()
	if !now.Before(h.leaseUntil) {
		// An answer that comes after the end cannot bring a lease back: the
		// scheduler may have given the job away meanwhile. So a process that was
		// paused fences itself even when the network is quicker than its timer.
		for _, a := range h.attempts {
			expired = append(expired, a)
		}
	}
	h.desired = desired
	h.desiredTurn++
	turn := h.desiredTurn
	if leaseUntil.After(h.leaseUntil) {
		h.leaseUntil = leaseUntil
	}
	until := h.leaseUntil
	h.mu.Unlock()
	for _, a := range expired {
		if err := h.stopAttempt(a, lease.StopExpired, now, now); err != nil {
			h.deps.Log.Error("a stop was not journaled", append(a.fields(), zap.Error(err))...)
		}
	}
	if err := saveContact(h.StateDir, until); err != nil {
		h.deps.Log.Warn("the lease's end was not saved; a restart would end the trainers", zap.Error(err))
	}
	h.poke()
	timer := time.NewTimer(applyPatience)
	defer timer.Stop()
	for {
		h.mu.Lock()
		done, acted := h.appliedTurn >= turn, h.acted
		h.mu.Unlock()
		if done {
			return true
		}
		select {
		case <-acted:
		case <-timer.C:
			return false
		case <-ctx.Done():
			return false
		}
	}
}

// applied records that the loop has carried out what was wanted at a turn.
func (h *Host) applied(turn uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.appliedTurn = max(h.appliedTurn, turn)
	close(h.acted)
	h.acted = make(chan struct{})
}

// Snapshot is the host's state as it is reported.
type Snapshot struct {
	Devices []DeviceState
	Leases  []LeaseState
	Exits   []lease.Exit
	// Quarantine is why nothing may start; empty means that the host is fine.
	Quarantine string
	// Active is how many spools are held, with their sums.
	Spool SpoolState
}

// SpoolState sums up the spools of a host.
type SpoolState struct {
	Bytes   int64
	Records uint64
	Oldest  time.Time
	Failing string
}

// LeaseState is one held lease.
type LeaseState struct {
	lease.Key
	Claims []lease.Claim
	// HostMemoryBytes bounds the process tree's host memory; 0 means no bound.
	HostMemoryBytes int64
	Phase           Phase
	Progress        *lease.Progress
	Isolation       string
	StartTime       time.Time
	LastStep        time.Time
	// DataOutage is since when the trainer has no data; zero means it has.
	DataOutage time.Time
	// Supervisor is the pid above the trainer's tree; 0 before it runs.
	Supervisor int
	// MemoryBytes is what it uses now, on its fullest device.
	MemoryBytes int64
	// WorkDir is the trainer's private directory, WorkBytes its quota.
	WorkDir   string
	WorkBytes int64
}

// Phase of a lease.
type Phase int

// Phases, in order.
const (
	Starting Phase = iota + 1
	Running
	Stopping
)

// Snapshot returns the current state.
func (h *Host) Snapshot() Snapshot {
	state := h.deps.Journal.View()
	h.mu.Lock()
	defer h.mu.Unlock()
	out := Snapshot{Devices: slices.Clone(h.devices), Exits: state.Exits, Quarantine: state.Quarantine}
	for _, a := range h.attempts {
		out.Leases = append(out.Leases, a.state())
		out.Spool.add(a)
	}
	for _, a := range h.tails {
		out.Spool.add(a)
	}
	slices.SortFunc(out.Leases, func(a, b LeaseState) int { return int(int64(a.Fence) - int64(b.Fence)) })
	return out
}

func (s *SpoolState) add(a *Attempt) {
	stats := a.spool.Stats()
	s.Bytes += stats.Bytes
	s.Records += stats.Records
	if !stats.Oldest.IsZero() && (s.Oldest.IsZero() || stats.Oldest.Before(s.Oldest)) {
		s.Oldest = stats.Oldest
	}
	if stats.Error != "" {
		s.Failing = stats.Error
	}
}

// Leases returns the held leases, without the rest of the report.
func (h *Host) Leases() []LeaseState {
	h.mu.Lock()
	defer h.mu.Unlock()
	out := make([]LeaseState, 0, len(h.attempts))
	for _, a := range h.attempts {
		out = append(out, a.state())
	}
	return out
}

// find returns the attempt that a predicate accepts.
func (h *Host) find(accept func(*Attempt) bool) *Attempt {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, a := range h.attempts {
		if accept(a) {
			return a
		}
	}
	return nil
}

// Attempt returns a live attempt, or nil.
func (h *Host) Attempt(key lease.Key) *Attempt {
	return h.find(func(a *Attempt) bool { return a.Key == key })
}

// ObserveMemory notes the largest use of a lease on its fullest device.
func (h *Host) ObserveMemory(key lease.Key, bytes int64) {
	if a := h.Attempt(key); a != nil {
		a.observeMemory(bytes)
	}
}

// Evict ends an attempt for its use of memory, at once: what it took was promised to
// others. The evidence is journaled meanwhile; an agent that dies in those milliseconds
// leaves a trainer killed by nobody, which counts as a crash.
func (h *Host) Evict(key lease.Key, oom lease.OOM) {
	a := h.Attempt(key)
	if a == nil || !a.evict(oom) {
		return
	}
	h.deps.Log.Warn("evicting an attempt for its memory use", zap.Stringer("attempt", key), zap.String("device", oom.Device), zap.String("evidence", oom.Message))
	err := h.deps.Journal.Update(func(s *journal.State) {
		if l := s.Lease(key); l != nil && l.OOM == nil {
			l.OOM = &oom
		}
	})
	if err != nil {
		h.deps.Log.Error("an eviction was not journaled", zap.Stringer("attempt", key), zap.Error(err))
	}
	h.poke()
}

// OverQuota ends an attempt whose work directory holds too much.
func (h *Host) OverQuota(key lease.Key, bytes int64) {
	a := h.Attempt(key)
	if a == nil || a.leaving() {
		return
	}
	h.deps.Log.Warn("evicting an attempt for its work directory", append(a.fields(), zap.Int64("bytes", bytes), zap.Int64("quota", h.WorkBytes))...)
	a.note(fmt.Sprintf("its work directory held %d bytes, the quota is %d", bytes, h.WorkBytes))
	now := time.Now()
	if err := h.stopAttempt(a, lease.StopQuota, now, now); err != nil {
		h.deps.Log.Error("a stop was not journaled", append(a.fields(), zap.Error(err))...)
	}
}

// removeAll throws a file or a tree away, with a log line when that fails.
func (h *Host) removeAll(path string) {
	if err := h.deps.Bin.Throw(path); err != nil {
		h.deps.Log.Warn("files were not removed", zap.String("path", path), zap.Error(err))
	}
}

func closeLogged(log *zap.Logger, what string, c io.Closer) {
	if err := c.Close(); err != nil {
		log.Warn("closing "+what, zap.Error(err))
	}
}

func (h *Host) prepare() error {
	if err := disk.OS().MkdirAll(h.attemptsDir()); err != nil {
		return fmt.Errorf("the state directory: %w", err)
	}
	return nil
}
