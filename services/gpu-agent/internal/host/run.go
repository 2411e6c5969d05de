package host

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	mathrand "math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/ultrathink-pilot/trainyard/libs/telemetry"
	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/cgroup"
	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/device"
	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/disk"
	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/journal"
	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/launch"
	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/lease"
	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/memwatch"
	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/spool"
)

// closedSource marks the last batch of an attempt. No trainer reaches it, and
// the spool remembers its highest source for ever: so a restarted agent knows
// that the batch was written, and never writes it twice.
const closedSource = math.MaxUint64

// run carries a granted lease from its start to its end.
func (a *Attempt) run(ctx context.Context, tokens secrets) {
	a.deliver(ctx)
	starting, cancel := context.WithCancel(ctx)
	defer cancel()
	a.mu.Lock()
	a.cancel = cancel
	stopped := a.stop != nil
	a.mu.Unlock()
	if stopped {
		cancel()
	}
	process, err := a.start(starting, tokens)
	switch {
	case process != nil:
		a.mu.Lock()
		a.process = process
		a.mu.Unlock()
		a.host.deps.Counters.Launched()
		a.host.deps.Log.Info("trainer started", append(a.fields(), zap.Int("supervisor", process.Supervisor()))...)
		a.host.notifyNow()
		a.host.poke() // a stop may have come meanwhile
		a.follow(ctx, process)
	case ctx.Err() != nil:
		// The next agent starts it.
	default:
		ended := lease.Ended{Key: a.Key}
		if err != nil && !errors.Is(err, context.Canceled) {
			ended.LaunchError = err.Error()
		}
		switch {
		case errors.Is(err, lease.ErrFenced):
			ended.StopReason = lease.StopFenced
		case errors.Is(err, lease.ErrNotFound):
			ended.BadConfiguration = err.Error()
		}
		a.conclude(ctx, ended)
	}
}

// adopt goes on with a lease that an earlier agent held.
func (a *Attempt) adopt(ctx context.Context) {
	process, err := a.host.deps.Launcher.Adopt(ctx, a.dir)
	if err != nil {
		if ctx.Err() == nil {
			a.host.deps.Log.Error("a trainer cannot be adopted", append(a.fields(), zap.Error(err))...)
			a.deliver(ctx)
			a.conclude(ctx, lease.Ended{Key: a.Key, Started: true})
		}
		return
	}
	over := false
	select {
	case <-process.Done():
		over = true
	default:
	}
	exit := launch.Exit{}
	if over {
		exit = process.Exit()
	}
	a.mu.Lock()
	stopped := a.stop != nil
	a.mu.Unlock()
	if over && !exit.Started && exit.Error == "" && !stopped && !a.has(endedFile) && a.spool.Source() == 0 && a.host.leaseLives() {
		// The earlier agent went between the journal and the fork. After power
		// loss the lease is over instead: whether a trainer ran is then unknown.
		tokens, err := newSecrets()
		if err == nil {
			tokens.seal(&a.lease)
			err = a.host.deps.Journal.Update(func(s *journal.State) {
				if l := s.Lease(a.Key); l != nil {
					tokens.seal(l)
				}
			})
		}
		if err == nil {
			a.run(ctx, tokens)
			return
		}
	}
	if !over {
		a.host.deps.Log.Info("trainer adopted", append(a.fields(), zap.Int("supervisor", process.Supervisor()))...)
	}
	a.mu.Lock()
	a.process = process
	a.mu.Unlock()
	a.deliver(ctx)
	a.host.notifyNow()
	a.host.poke()
	a.follow(ctx, process)
}

// start prepares everything and launches the trainer.
func (a *Attempt) start(ctx context.Context, tokens secrets) (Process, error) {
	if err := a.writeFile("assignment", a.lease); err != nil {
		return nil, err
	}
	if a.lease.Resume && !a.has(restoredFile) {
		restored, err := a.host.deps.Restorer.Prepare(ctx, a.Key, filepath.Join(a.dir, "restore"))
		if err != nil {
			return nil, err
		}
		if err := a.writeFile(restoredFile, restored); err != nil {
			return nil, err
		}
		a.mu.Lock()
		a.restored = restored
		a.mu.Unlock()
	}
	if a.lease.WarmStart != "" && a.Restored() == nil && !a.has(warmFile) {
		warm, err := a.host.deps.Restorer.Named(ctx, a.Key, a.lease.WarmStart, filepath.Join(a.dir, "warm-start"))
		if err != nil {
			return nil, fmt.Errorf("warm_start.checkpoint_id %s: %w", a.lease.WarmStart, err)
		}
		if err := a.writeFile(warmFile, warm); err != nil {
			return nil, err
		}
		a.mu.Lock()
		a.warm = warm
		a.mu.Unlock()
	}
	if a.spool.Sequence() == 0 && a.lease.Member() == 0 {
		id := ""
		if parent := a.parent(); parent != nil {
			id = parent.ID
		}
		opened, err := a.host.deps.Registry.Opened(a.lease.Assignment, id, time.Now())
		if err != nil {
			return nil, err
		}
		if _, err := a.spool.Append(ctx, 0, spool.Batch, opened); err != nil {
			return nil, err
		}
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return a.host.deps.Launcher.Start(ctx, a.dir, launch.Spec{
		Argv: []string{a.host.TrainerBinary}, Env: a.environment(tokens), LogBytes: a.host.LogBytes,
		AgentLock: a.host.AgentLock, OrphanTimeout: a.host.OrphanTimeout, Group: a.group(),
	}, tokens.lease)
}

// group makes the control group that holds the trainer to its host memory, and to its
// GPUs' where the kernel can; nil when the lease bounds none, or the host cannot.
func (a *Attempt) group() *cgroup.Group {
	limit, gpus := a.hostLimit(), a.deviceLimits()
	if a.host.deps.Groups == nil || limit == 0 && len(gpus) == 0 {
		return nil
	}
	if limit > 0 {
		// The kernel counts more than the watchdog: page tables, socket buffers, the
		// newest file pages. What was reserved must all be usable.
		limit += limit/16 + 8<<20
	}
	g, err := a.host.deps.Groups.Create(a.Key.Directory(), limit)
	if err == nil {
		var bounded bool
		if bounded, err = g.LimitDevices(gpus); bounded {
			a.mu.Lock()
			a.lease.Isolation = string(device.Cgroup)
			a.mu.Unlock()
		} else if err != nil || limit == 0 { // nothing that the group would hold
			err = errors.Join(err, g.Remove())
			g = nil
		}
	}
	if err != nil {
		a.host.deps.Log.Warn("no control group: the attempt's memory is only watched", append(a.fields(), zap.Error(err))...)
		a.mu.Lock()
		if a.lease.Isolation == string(device.Cgroup) {
			a.lease.Isolation = string(device.Watched)
		}
		a.mu.Unlock()
	}
	return g
}

// deviceLimits is what the attempt may use of each of its GPUs, by bus id; none when
// something harder holds one of them already.
func (a *Attempt) deviceLimits() map[string]int64 {
	a.host.mu.Lock()
	defer a.host.mu.Unlock()
	limits := map[string]int64{}
	for _, c := range a.lease.Claims {
		for _, d := range a.host.devices {
			if d.ID != c.Device {
				continue
			}
			if d.HostMemory || d.Isolation != device.Watched {
				return nil
			}
			if limits[d.PCIBusID] = c.Bytes + d.OverheadBytes; c.Bytes == 0 {
				limits[d.PCIBusID] = d.MemoryBytes
			}
		}
	}
	return limits
}

// hostLimit is what the attempt may use of the host's memory; 0 means no bound.
func (a *Attempt) hostLimit() int64 {
	a.host.mu.Lock()
	defer a.host.mu.Unlock()
	var lanes int64
	for _, c := range a.lease.Claims {
		for _, d := range a.host.devices {
			if d.ID == c.Device && d.HostMemory {
				if c.Bytes == 0 {
					c.Bytes = d.MemoryBytes - d.HeadroomBytes
				}
				lanes += c.Bytes
			}
		}
	}
	if lanes > 0 {
		return lanes
	}
	return a.lease.HostMemoryBytes
}

// follow waits for the process and concludes; when the agent stops first, the
// trainer goes on for the next one.
func (a *Attempt) follow(ctx context.Context, process Process) {
	select {
	case <-process.Done():
	case <-ctx.Done():
		return
	}
	exit := process.Exit()
	a.awaitStream(ctx, 5*time.Second)
	ended := lease.Ended{
		Key: a.Key, Started: exit.Started, Known: exit.Known, ExitCode: exit.ExitCode, Signal: exit.Signal,
		HostOOMKills: exit.OOMKills, Orphaned: exit.Orphaned, StderrTail: exit.StderrTail,
	}
	if exit.LimitKills > 0 {
		a.overLimit(exit)
	}
	if !exit.Started {
		ended.LaunchError = exit.Error
	}
	a.conclude(ctx, ended)
}

// overLimit takes what the kernel did at the attempt's own limit for an
// out-of-memory of its own fault, with what was seen before it.
func (a *Attempt) overLimit(exit launch.Exit) {
	class, where := lease.ClassHostOOM, memwatch.HostDevice
	a.host.mu.Lock()
	for _, d := range a.host.devices {
		if len(a.lease.Claims) > 0 && d.ID == a.lease.Claims[0].Device && d.HostMemory {
			class, where = lease.ClassOwnOOM, d.ID
		}
	}
	a.host.mu.Unlock()
	oom := a.host.deps.Attribution.Attribute(a.Key, lease.OOM{Device: where, At: exit.Time})
	oom.Class = class
	oom.Message = fmt.Sprintf("the kernel killed %d process(es) of the attempt at its limit of %d bytes", exit.LimitKills, exit.LimitBytes)
	oom.Samples = append(oom.Samples, exit.LimitBytes)
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.oom == nil {
		a.oom = &oom
	}
}

// conclude decides how the attempt ended, makes that durable, and releases the
// lease. The verdict is in the attempt's directory before the lease leaves the
// journal: its tail needs it.
func (a *Attempt) conclude(ctx context.Context, ended lease.Ended) {
	if err := a.spool.Flush(ctx); err != nil {
		return
	}
	exit, err := a.readEnded()
	if err != nil {
		a.mu.Lock()
		ended.Finished, ended.OOM = a.finished, a.oom
		if a.progress != nil { // a copy: the watchdog still counts while the verdict is written
			p := *a.progress
			ended.Progress = &p
		}
		if a.stop != nil && ended.StopReason == "" {
			ended.StopReason, ended.StopDetail = a.stop.Reason, a.detail
		}
		a.mu.Unlock()
		exit = lease.Verdict(ended, time.Now())
		a.insist(ctx, "the verdict", func() error { return a.writeFile(endedFile, exit) })
	}
	a.host.mu.Lock()
	a.host.tails[a.Key] = a
	a.host.mu.Unlock()
	tailed := make(chan struct{})
	a.host.wg.Go(func() {
		defer close(tailed)
		a.tail(ctx)
	})
	// The exit waits a little for the last uploads: a person who sees SUCCEEDED
	// finds the model, and the attempt that follows a preemption finds the
	// checkpoint that was just saved, before its higher fence shuts the door.
	if exit.Class != lease.ClassAgentLost {
		timer := time.NewTimer(a.host.SettleTime)
		defer timer.Stop()
		select {
		case <-tailed:
		case <-timer.C:
		case <-ctx.Done():
		}
	}
	a.mu.Lock()
	if a.progress != nil { // the last checkpoint may have been committed meanwhile
		p := *a.progress
		exit.Progress = &p
	}
	a.mu.Unlock()
	a.insist(ctx, "the exit", func() error { return a.host.end(exit) })
	a.endLease(exit)
	a.host.deps.Log.Info("attempt ended", append(a.fields(), zap.String("outcome", string(exit.Outcome)),
		zap.String("class", string(exit.Class)), zap.String("message", exit.Evidence.Message))...)
}

func (a *Attempt) readEnded() (lease.Exit, error) {
	var exit lease.Exit
	raw, err := disk.ReadSealed(disk.OS(), filepath.Join(a.dir, endedFile))
	if err != nil {
		return exit, err
	}
	return exit, json.Unmarshal(raw, &exit)
}

// insist repeats what must not fail for good, such as a write to a full disk.
func (a *Attempt) insist(ctx context.Context, what string, try func() error) {
	for {
		err := try()
		if err == nil || ctx.Err() != nil {
			return
		}
		a.host.deps.Log.Error(what+" was not written and will be tried again", append(a.fields(), zap.Error(err))...)
		pause(ctx, time.Second)
	}
}

func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// deliver begins to send what the attempt produces; it goes on after the
// attempt's end until the tail is done.
func (a *Attempt) deliver(ctx context.Context) {
	a.deliverOnce.Do(func() {
		a.delivering, a.stopDelivery = context.WithCancel(ctx)
		a.deliveries.Go(func() { a.pipe.Run(a.delivering) })
		a.deliveries.Go(func() { a.drain(a.delivering) })
	})
}

func (a *Attempt) drain(ctx context.Context) {
	log := a.host.deps.Log
	backoff := 100 * time.Millisecond
	for ctx.Err() == nil {
		before := a.spool.Stats().Records
		err := a.host.deps.Registry.Drain(ctx, a.spool, func(reason, message string) {
			a.host.deps.Counters.BatchRefused(reason)
			log.Warn("the registry refused a batch", append(a.fields(), zap.String("reason", reason), zap.String("message", message))...)
		})
		if ctx.Err() != nil || errors.Is(err, spool.ErrClosed) {
			return
		}
		log.Info("the ingest stream broke; what has no result is sent again", append(a.fields(), zap.Error(err))...)
		if a.spool.Stats().Records < before {
			backoff = 100 * time.Millisecond
		}
		// Jitter, so that a registry that comes back is not met by all at once.
		pause(ctx, backoff/2+mathrand.N(backoff))
		backoff = min(2*backoff, 5*time.Second)
	}
}

// tail brings the last records of an ended attempt to the registry and then
// clears its directory.
func (a *Attempt) tail(ctx context.Context) {
	a.deliver(ctx)
	if err := a.pipe.WaitIdle(ctx); err != nil {
		a.finishDelivery(false)
		return
	}
	if a.lease.Member() == 0 && a.spool.Source() != closedSource && a.spool.Sequence() > 0 {
		exit, err := a.readEnded()
		if err == nil {
			var closed []byte
			if closed, err = a.host.deps.Registry.Closed(exit, a.TraceParent()); err == nil {
				_, err = a.spool.Append(ctx, closedSource, spool.Batch, closed)
			}
		}
		if err != nil {
			if ctx.Err() == nil {
				a.host.deps.Log.Error("the run's end cannot be written", append(a.fields(), zap.Error(err))...)
			}
			a.finishDelivery(false)
			return
		}
	}
	a.finishDelivery(a.spool.WaitDrained(ctx) == nil)
}

// finishDelivery ends the deliveries; when all was delivered only the logs stay.
func (a *Attempt) finishDelivery(complete bool) {
	a.stopDelivery()
	a.deliveries.Wait()
	a.close()
	h := a.host
	h.mu.Lock()
	delete(h.tails, a.Key)
	h.mu.Unlock()
	if !complete {
		return
	}
	if err := a.writeFile(doneFile, time.Now()); err != nil {
		h.deps.Log.Warn("an ended attempt was not marked", append(a.fields(), zap.Error(err))...)
		return
	}
	for _, name := range []string{"spool", "uploads", "staging", "restore", "warm-start", launch.WorkDir} {
		h.removeAll(filepath.Join(a.dir, name))
	}
	h.forgetOldest()
}

// forgetOldest removes the directories of the longest ended attempts.
func (h *Host) forgetOldest() {
	names, err := disk.OS().List(h.attemptsDir())
	if err != nil {
		h.deps.Log.Warn("listing attempts", zap.Error(err))
		return
	}
	type ended struct {
		dir string
		at  time.Time
	}
	var all []ended
	for _, name := range names {
		dir := filepath.Join(h.attemptsDir(), name)
		if info, err := os.Stat(filepath.Join(dir, doneFile)); err == nil {
			all = append(all, ended{dir, info.ModTime()})
		}
	}
	slices.SortFunc(all, func(x, y ended) int { return x.at.Compare(y.at) })
	for len(all) > h.KeepEnded {
		h.removeAll(all[0].dir)
		all = all[1:]
	}
}

// endLeftover makes sure that nothing of an attempt without a lease runs, and
// that its end is written. It returns false when the agent stops first.
func (a *Attempt) endLeftover(ctx context.Context) bool {
	process, err := a.host.deps.Launcher.Adopt(ctx, a.dir)
	for err == nil {
		select {
		case <-process.Done():
			if _, err := a.readEnded(); err != nil {
				a.insist(ctx, "the verdict", func() error { return a.writeFile(endedFile, exitOfLost(a.Key)) })
			}
			return ctx.Err() == nil
		case <-ctx.Done():
			return false
		default:
		}
		a.host.deps.Log.Warn("killing a trainer that no journal knows", a.fields()...)
		if err := process.Kill(); err != nil {
			a.host.deps.Log.Error("killing", append(a.fields(), zap.Error(err))...)
		}
		select {
		case <-process.Done():
		case <-time.After(time.Second):
		case <-ctx.Done():
		}
	}
	a.host.deps.Log.Error("a leftover cannot be examined", append(a.fields(), zap.Error(err))...)
	return false
}

// traceEnviron is the trace context for the trainer.
func (a *Attempt) traceEnviron() []string {
	return telemetry.Environ(telemetry.ContextWithTraceParent(context.Background(), a.TraceParent()))
}
