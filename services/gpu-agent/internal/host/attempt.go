package host

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
	"go.uber.org/zap"

	"github.com/ultrathink-pilot/trainyard/libs/telemetry"
	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/disk"
	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/journal"
	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/launch"
	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/lease"
	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/reconcile"
	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/spool"
	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/staging"
	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/upload"
)

// Files of an attempt's directory beside launch's.
const (
	doneFile     = "done"     // everything of the attempt has left the host
	endedFile    = "ended"    // the verdict, kept for the tail
	restoredFile = "restored" // the checkpoint it started from, or none
	warmFile     = "warm"     // the checkpoint of another job that it began with
	progressFile = "progress" // latest progress, for a restarted agent
)

// Attempt is one lease and all that belongs to it; safe for concurrent use.
type Attempt struct {
	lease.Key
	host  *Host
	dir   string
	lease journal.Lease
	spool *spool.Spool
	stage *staging.Store
	pipe  *upload.Pipeline

	mu          sync.Mutex
	process     Process
	stop        *reconcile.Stopping
	detail      string // of the stop, for people
	finished    *lease.Finished
	oom         *lease.OOM
	progress    *lease.Progress
	savedAt     time.Time
	lastStep    time.Time
	dataOutage  time.Time
	memory      int64 // used now, on its fullest device
	restored    *lease.Restored
	warm        *lease.Restored
	orders      []Order
	ordered     chan struct{} // closed and replaced with every order
	stream      *Stream
	traceParent string

	cancel context.CancelFunc

	deliverOnce  sync.Once
	deliveries   sync.WaitGroup
	delivering   context.Context // ends with the tail, not with a call
	stopDelivery context.CancelFunc
}

// newAttempt opens an attempt's directory with everything in it.
func (h *Host) newAttempt(l journal.Lease) (*Attempt, error) {
	a := &Attempt{
		Key: l.Key, host: h, dir: h.AttemptDir(l.Key), lease: l, ordered: make(chan struct{}),
		traceParent: l.LeaseTraceParent,
		cancel:      func() {},
	}
	err := h.makeDirs(a.dir)
	if err != nil {
		return nil, err
	}
	if a.stage, err = staging.Open(filepath.Join(a.dir, "staging"), h.StagingBytes, h.deps.Bin); err != nil {
		return nil, err
	}
	if a.spool, err = spool.Open(disk.OS(), filepath.Join(a.dir, "spool"), spool.Options{MaxBytes: h.SpoolBytes}); err != nil {
		return nil, errors.Join(err, a.stage.Close())
	}
	if damage := a.spool.Stats().Damage; len(damage) > 0 {
		h.deps.Counters.SpoolDamage()
		h.deps.Log.Error("a spool was damaged; acknowledged metrics may be lost", append(a.fields(), zap.Strings("damage", damage))...)
	}
	a.pipe, err = upload.Open(upload.Options{
		Key: a.Key, Dir: filepath.Join(a.dir, "uploads"), Staging: a.stage, Registry: h.deps.Registry, Log: h.deps.Log,
		Report: a.uploaded, Keep: a.keep, ShareTensorsFrom: h.ShareTensorsFrom,
	})
	if err != nil {
		return nil, errors.Join(err, a.spool.Close(), a.stage.Close())
	}
	return a, nil
}

// makeDirs makes an attempt's directories and then makes their names durable, all at
// once: one by one, as they are needed, each would cost a lease a commit of the file
// system's log.
func (h *Host) makeDirs(dir string) error {
	for _, name := range []string{"staging", "spool", "uploads", launch.WorkDir} {
		if err := os.MkdirAll(filepath.Join(dir, name), 0o700); err != nil {
			return err
		}
	}
	return errors.Join(disk.OS().SyncDir(dir), disk.OS().SyncDir(h.attemptsDir()))
}

func (a *Attempt) close() {
	closeLogged(a.host.deps.Log, "a spool", a.spool)
	closeLogged(a.host.deps.Log, "a staging area", a.stage)
}

func (a *Attempt) fields() []zap.Field {
	devices := make([]string, len(a.lease.Claims))
	for i, c := range a.lease.Claims {
		devices[i] = c.Device
	}
	ctx := telemetry.ContextWithTraceParent(context.Background(), a.lease.TraceParent)
	return append(telemetry.LogFields(ctx), zap.String("job_id", a.JobID), zap.Uint32("attempt", a.Attempt),
		zap.Uint64("fence", a.Fence), zap.Strings("device_uuid", devices))
}

// Assignment returns what the scheduler asked for.
func (a *Attempt) Assignment() lease.Assignment { return a.lease.Assignment }

// TraceParent is the parent of all that the trainer does.
func (a *Attempt) TraceParent() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.traceParent
}

var tracer = otel.Tracer("github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/host")

// beginLease makes the short span that everything of the attempt hangs on. It
// ends at once: a span as long as the attempt would be lost with the agent, and
// its children would be orphans.
func (a *Attempt) beginLease(ctx context.Context) {
	ctx = telemetry.ContextWithTraceParent(ctx, a.lease.TraceParent)
	ctx, span := tracer.Start(ctx, "lease", trace.WithAttributes(a.attributes()...))
	a.lease.LeaseTraceParent = telemetry.TraceParent(ctx)
	a.traceParent = a.lease.LeaseTraceParent
	span.End()
}

func (a *Attempt) attributes() []attribute.KeyValue {
	devices := make([]string, len(a.lease.Claims))
	for i, c := range a.lease.Claims {
		devices[i] = c.Device
	}
	return []attribute.KeyValue{
		attribute.String("job_id", a.JobID), attribute.Int64("attempt", int64(a.Key.Attempt)),
		attribute.Int64("fence", int64(a.Fence)), attribute.StringSlice("device_uuid", devices),
	}
}

// endLease makes the span of the whole attempt, once it is known.
func (a *Attempt) endLease(exit lease.Exit) {
	ctx := telemetry.ContextWithTraceParent(context.Background(), a.TraceParent())
	_, span := tracer.Start(ctx, "attempt", trace.WithTimestamp(a.lease.GrantedAt), trace.WithAttributes(a.attributes()...),
		trace.WithAttributes(attribute.String("outcome", string(exit.Outcome)), attribute.String("failure_class", string(exit.Class))))
	if exit.Outcome == lease.Failed {
		span.SetStatus(codes.Error, exit.Evidence.Message)
	}
	span.End(trace.WithTimestamp(exit.EndTime))
}

// matches compares a token with a stored hash, in constant time.
func matches(token, stored []byte) bool {
	hash := sha256.Sum256(token)
	return len(stored) == len(hash) && subtle.ConstantTimeCompare(hash[:], stored) == 1
}

// Authenticate returns the live attempt that a lease token belongs to, or nil.
func (h *Host) Authenticate(token []byte) *Attempt {
	return h.find(func(a *Attempt) bool { return matches(token, a.lease.TokenHash) })
}

// AuthenticateTracking is Authenticate for the token of the MLflow proxy.
func (h *Host) AuthenticateTracking(token []byte) *Attempt {
	return h.find(func(a *Attempt) bool { return matches(token, a.lease.TrackingHash) })
}

// secrets are what a trainer proves itself with: the lease token, which only an
// open descriptor tells it, and the MLflow proxy's, which has to be in its
// environment because that is where MLflow's clients look.
type secrets struct{ lease, tracking []byte }

func newSecrets() (secrets, error) {
	s := secrets{lease: make([]byte, 32), tracking: make([]byte, 32)}
	_, err := rand.Read(s.lease)
	if err == nil {
		_, err = rand.Read(s.tracking)
	}
	return s, err
}

// seal puts the secrets' hashes into a lease.
func (s secrets) seal(l *journal.Lease) {
	token, tracking := sha256.Sum256(s.lease), sha256.Sum256(s.tracking)
	l.TokenHash, l.TrackingHash = token[:], tracking[:]
}

func (a *Attempt) held() reconcile.Held {
	a.mu.Lock()
	defer a.mu.Unlock()
	held := reconcile.Held{Key: a.Key, Claims: a.lease.Claims}
	if a.stop != nil {
		stop := *a.stop
		held.Stop = &stop
	}
	return held
}

func (a *Attempt) state() LeaseState {
	a.mu.Lock()
	defer a.mu.Unlock()
	s := LeaseState{
		Key: a.Key, Claims: a.lease.Claims, HostMemoryBytes: a.lease.HostMemoryBytes, Phase: Starting, Isolation: a.lease.Isolation,
		MemoryBytes: a.memory, LastStep: a.lastStep, DataOutage: a.dataOutage, WorkDir: a.WorkDir(), WorkBytes: a.host.WorkBytes,
	}
	if a.process != nil {
		s.Phase, s.StartTime, s.Supervisor = Running, a.process.StartTime(), a.process.Supervisor()
	}
	if a.stop != nil {
		s.Phase = Stopping
	}
	if a.progress != nil {
		p := *a.progress
		s.Progress = &p
	}
	return s
}

// restoreState brings back what an earlier agent knew of a held lease.
func (a *Attempt) restoreState() {
	if s := a.lease.Stop; s != nil {
		a.stop = &reconcile.Stopping{Reason: s.Reason, TermAt: s.TermAt, KillAt: s.KillAt}
	}
	a.finished, a.oom = a.lease.Finished, a.lease.OOM
	a.loadProgress()
}

func (a *Attempt) loadProgress() {
	if raw, err := disk.ReadSealed(disk.OS(), filepath.Join(a.dir, progressFile)); err == nil {
		var p lease.Progress
		if json.Unmarshal(raw, &p) == nil {
			a.progress = &p
		}
	}
	for name, into := range map[string]**lease.Restored{restoredFile: &a.restored, warmFile: &a.warm} {
		if raw, err := disk.ReadSealed(disk.OS(), filepath.Join(a.dir, name)); err == nil {
			var r *lease.Restored
			if json.Unmarshal(raw, &r) == nil {
				*into = r
			}
		}
	}
}

// changeProgress updates the progress and keeps it for a restarted agent.
func (a *Attempt) changeProgress(urgent bool, change func(*lease.Progress)) {
	a.mu.Lock()
	if a.progress == nil {
		a.progress = &lease.Progress{}
	}
	step := a.progress.Step
	change(a.progress)
	if a.progress.Step > step || a.lastStep.IsZero() {
		a.lastStep = time.Now()
	}
	var save []byte
	if urgent || time.Since(a.savedAt) > 2*time.Second {
		a.savedAt = time.Now()
		if raw, err := json.Marshal(a.progress); err == nil {
			save = raw
		}
	}
	a.mu.Unlock()
	if save != nil {
		if err := disk.WriteVolatile(disk.OS(), filepath.Join(a.dir, progressFile), save); err != nil {
			a.host.deps.Log.Warn("progress was not saved", append(a.fields(), zap.Error(err))...)
		}
	}
	if urgent {
		a.host.notifyNow()
	} else {
		a.host.notifySoon()
	}
}

func (a *Attempt) observeMemory(bytes int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.memory = bytes
	if a.progress == nil {
		a.progress = &lease.Progress{}
	}
	a.progress.PeakMemory = max(a.progress.PeakMemory, bytes)
}

// beginStop tells the trainer; a shorter stop replaces a longer one.
func (a *Attempt) beginStop(reason lease.StopReason, termAt, killAt time.Time) {
	a.mu.Lock()
	if a.stop != nil && a.stop.KillAt.Before(killAt) {
		a.mu.Unlock()
		return
	}
	next := &reconcile.Stopping{Reason: reason, TermAt: termAt, KillAt: killAt}
	if a.stop != nil {
		next.Termed, next.Killed = a.stop.Termed, a.stop.Killed
	}
	a.stop = next
	starting := a.process == nil
	a.mu.Unlock()
	a.order(Order{Stop: &StopOrder{Reason: reason, Grace: time.Until(killAt)}})
	if starting {
		a.cancelStart()
	}
}

// cancelStart ends a restore that is under way: nothing runs yet.
func (a *Attempt) cancelStart() {
	a.mu.Lock()
	cancel := a.cancel
	a.mu.Unlock()
	cancel()
}

// leaving says whether a stop is under way.
func (a *Attempt) leaving() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.stop != nil
}

// note keeps what the verdict should say beside the reason of a stop.
func (a *Attempt) note(detail string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.detail = detail
}

// evict kills the attempt for an out-of-memory of its own; false when that was done.
func (a *Attempt) evict(oom lease.OOM) bool {
	a.mu.Lock()
	again := a.stop != nil && a.stop.Reason == lease.StopOverUse
	if a.oom == nil {
		a.oom = &oom
	}
	a.mu.Unlock()
	if again {
		return false
	}
	now := time.Now()
	a.beginStop(lease.StopOverUse, now, now)
	if err := a.kill(lease.StopOverUse); err != nil {
		a.host.deps.Log.Error("an eviction will be tried again", append(a.fields(), zap.Error(err))...)
	}
	return true
}

func (a *Attempt) terminate() error {
	a.mu.Lock()
	p := a.process
	if a.stop != nil {
		a.stop.Termed = true
	}
	a.mu.Unlock()
	if p == nil {
		return nil
	}
	return p.Terminate()
}

func (a *Attempt) kill(reason lease.StopReason) error {
	a.mu.Lock()
	p := a.process
	if a.stop != nil {
		a.stop.Killed = true
	}
	a.mu.Unlock()
	if p == nil {
		a.cancelStart()
		return nil
	}
	a.host.deps.Log.Info("killing an attempt", append(a.fields(), zap.String("reason", string(reason)))...)
	return p.Kill()
}

func (a *Attempt) writeFile(name string, v any) error {
	raw, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return disk.WriteSealed(disk.OS(), filepath.Join(a.dir, name), raw)
}

func (a *Attempt) has(name string) bool {
	_, err := os.Stat(filepath.Join(a.dir, name))
	return err == nil
}
