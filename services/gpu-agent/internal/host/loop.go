package host

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	"go.uber.org/zap"

	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/device"
	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/journal"
	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/lease"
	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/reconcile"
)

// Run adopts what an earlier agent left and then keeps the host at what the
// scheduler wants, until ctx ends. Trainers survive it: the next agent adopts
// them.
func (h *Host) Run(ctx context.Context) error {
	if err := h.prepare(); err != nil {
		return err
	}
	work, cancel := context.WithCancel(ctx)
	defer h.closeAll()
	defer h.wg.Wait()
	defer cancel()
	if err := h.recover(work); err != nil {
		return err
	}
	close(h.recovered)
	timer := time.NewTimer(0)
	defer timer.Stop()
	fenced := false
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-h.wake:
		case <-timer.C:
		}
		now := time.Now()
		desired, turn := h.wanted()
		plan := reconcile.Decide(h.current(), desired, now)
		retry := false
		for _, action := range plan.Actions {
			if action.Kind == reconcile.BeginStop && action.Reason == lease.StopExpired && !fenced {
				fenced = true
				h.deps.Counters.SelfFenced()
				h.deps.Log.Warn("no word from the scheduler for a whole lease: ending every trainer")
			}
			if err := h.act(work, action); err != nil {
				retry = true
				h.deps.Log.Error("an action failed and will be tried again", zap.Stringer("attempt", action.Key), zap.Error(err))
			}
		}
		if !retry {
			h.applied(turn)
		}
		if len(plan.Actions) == 0 {
			fenced = false
			h.reconcileQuarantine()
		}
		next := time.Hour
		if !plan.Wake.IsZero() {
			next = max(time.Until(plan.Wake), time.Millisecond)
		}
		if retry {
			next = min(next, time.Second)
		}
		timer.Reset(next)
	}
}

// closeAll ends what still serves an attempt in this process. What its spool holds
// in memory is written first.
func (h *Host) closeAll() {
	h.mu.Lock()
	var all []*Attempt
	for _, a := range h.attempts {
		all = append(all, a)
	}
	for key, a := range h.tails {
		if h.attempts[key] == nil {
			all = append(all, a)
		}
	}
	h.mu.Unlock()
	for _, a := range all {
		a.deliveries.Wait()
		a.close()
	}
}

// current gathers reconcile's input.
func (h *Host) current() reconcile.Current {
	state := h.deps.Journal.View()
	h.mu.Lock()
	defer h.mu.Unlock()
	c := reconcile.Current{Ended: state.Ended, LeaseUntil: h.leaseUntil, Quarantine: state.Quarantine}
	for _, d := range h.devices {
		c.Devices = append(c.Devices, reconcile.Device{
			ID: d.ID, UsableBytes: d.MemoryBytes - d.HeadroomBytes, Healthy: d.Health.OK, Reason: d.Health.Reason,
		})
	}
	for _, a := range h.attempts {
		c.Leases = append(c.Leases, a.held())
	}
	for _, x := range state.Exits {
		c.Exits = append(c.Exits, x.Key)
	}
	return c
}

// wanted returns what the scheduler wants, and the turn of that answer.
func (h *Host) wanted() (reconcile.Desired, uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.desired, h.desiredTurn
}

// act carries out one action. Each is safe to repeat.
func (h *Host) act(ctx context.Context, action reconcile.Action) error {
	switch action.Kind {
	case reconcile.Grant:
		return h.grant(ctx, action.Assignment)
	case reconcile.Refuse:
		h.deps.Log.Warn("refusing an assignment", zap.Stringer("attempt", action.Key), zap.String("reason", action.Detail))
		return h.end(lease.Exit{
			Key: action.Key, Outcome: lease.Failed, Class: lease.ClassAgentLost, EndTime: time.Now(),
			Evidence: lease.Evidence{ExitCode: -1, Message: action.Detail},
		})
	case reconcile.Forget:
		return h.deps.Journal.Update(func(s *journal.State) { s.Forget(action.Key) })
	}
	a := h.Attempt(action.Key)
	if a == nil {
		return nil
	}
	switch action.Kind {
	case reconcile.BeginStop:
		return h.beginStop(a, action)
	case reconcile.Terminate:
		return a.terminate()
	case reconcile.Kill:
		return a.kill(action.Reason)
	}
	return fmt.Errorf("unknown action %d", action.Kind)
}

func (h *Host) beginStop(a *Attempt, action reconcile.Action) error {
	return h.stopAttempt(a, action.Reason, action.TermAt, action.KillAt)
}

func (h *Host) stopAttempt(a *Attempt, reason lease.StopReason, termAt, killAt time.Time) error {
	h.deps.Log.Info("stopping an attempt", zap.Stringer("attempt", a.Key), zap.String("reason", string(reason)), zap.Time("kill_at", killAt))
	err := h.deps.Journal.Update(func(s *journal.State) {
		if l := s.Lease(a.Key); l != nil {
			l.Stop = &journal.Stop{Reason: reason, TermAt: termAt, KillAt: killAt}
		}
	})
	// A stop that cannot be journaled still happens: ending is always safe.
	a.beginStop(reason, termAt, killAt)
	h.notifyNow()
	h.poke()
	return err
}

// grant journals the lease, then starts the attempt.
func (h *Host) grant(ctx context.Context, assignment lease.Assignment) error {
	tokens, err := newSecrets()
	if err != nil {
		return err
	}
	granted := journal.Lease{Assignment: assignment, GrantedAt: time.Now(), Isolation: string(h.isolation(assignment))}
	tokens.seal(&granted)
	a, err := h.newAttempt(granted)
	if err != nil {
		return err
	}
	a.beginLease(ctx)
	if err := h.deps.Journal.Update(func(s *journal.State) { s.Leases = append(s.Leases, granted) }); err != nil {
		a.close()
		return err
	}
	h.deps.Log.Info("lease granted", a.fields()...)
	h.mu.Lock()
	h.attempts[a.Key] = a
	h.notify()
	h.mu.Unlock()
	h.wg.Go(func() { a.run(ctx, tokens) })
	return nil
}

// isolation is the softest among the devices of an assignment.
func (h *Host) isolation(assignment lease.Assignment) device.Isolation {
	h.mu.Lock()
	defer h.mu.Unlock()
	var softest device.Isolation
	for _, c := range assignment.Claims {
		for _, d := range h.devices {
			if d.ID == c.Device && (softest == "" || d.Isolation.Softer(softest)) {
				softest = d.Isolation
			}
		}
	}
	return softest
}

// end journals an exit and releases the lease.
func (h *Host) end(exit lease.Exit) error {
	if err := h.deps.Journal.Update(func(s *journal.State) { s.End(exit) }); err != nil {
		return err
	}
	h.deps.Counters.Ended(string(exit.Outcome), string(exit.Class))
	h.mu.Lock()
	delete(h.attempts, exit.Key)
	h.notify()
	h.mu.Unlock()
	h.poke()
	return nil
}

// reconcileQuarantine lifts the quarantine of a lost journal once nothing of
// before can be running and the scheduler expects nothing of this host any
// more: both sides agree again that it is empty.
func (h *Host) reconcileQuarantine() {
	state := h.deps.Journal.View()
	if state.Quarantine == "" {
		return
	}
	h.mu.Lock()
	clean := h.desired.Known && len(h.desired.Assignments) == 0 && len(h.desired.Stops) == 0 &&
		len(h.attempts) == 0 && h.leftovers == 0 && len(state.Exits) == 0
	h.mu.Unlock()
	if !clean {
		return
	}
	if err := h.deps.Journal.Update(func(s *journal.State) { s.Quarantine = "" }); err != nil {
		h.deps.Log.Error("the quarantine was not lifted", zap.Error(err))
		return
	}
	h.deps.Log.Info("quarantine lifted: host and scheduler agree that nothing runs here", zap.String("was", state.Quarantine))
	h.notifyNow()
}

func (h *Host) assignmentPath(dir string) string { return filepath.Join(dir, "assignment") }
