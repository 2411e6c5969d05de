package host

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/disk"
	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/journal"
	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/lease"
)

// recover brings back what an earlier agent held: leases with their trainers,
// and attempts that had ended but whose last records are still on the way.
func (h *Host) recover(ctx context.Context) error {
	state := h.deps.Journal.View()
	if state.Quarantine != "" {
		h.deps.Log.Error("the host is quarantined", zap.String("reason", state.Quarantine))
	}
	h.mu.Lock()
	h.leaseUntil = loadContact(h.StateDir)
	h.mu.Unlock()
	held := map[string]bool{}
	for _, l := range state.Leases {
		held[l.Directory()] = true
		a, err := h.newAttempt(l)
		if err != nil {
			return err
		}
		a.restoreState()
		h.mu.Lock()
		h.attempts[a.Key] = a
		h.mu.Unlock()
		h.wg.Go(func() { a.adopt(ctx) })
	}
	names, err := disk.OS().List(h.attemptsDir())
	if err != nil {
		return err
	}
	for _, name := range names {
		if !held[name] {
			h.recoverEnded(ctx, filepath.Join(h.attemptsDir(), name))
		}
	}
	return nil
}

// recoverEnded finishes the tail of an attempt without a lease. When the
// journal was lost its trainer may still run: then it is ended first.
func (h *Host) recoverEnded(ctx context.Context, dir string) {
	l, err := readLease(h.assignmentPath(dir))
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			h.deps.Log.Warn("an attempt's directory cannot be read; it stays for a person", zap.String("dir", dir), zap.Error(err))
		}
		return
	}
	if _, err := os.Stat(filepath.Join(dir, doneFile)); err == nil {
		return // only its logs are left
	}
	a, err := h.newAttempt(l)
	if err != nil {
		h.deps.Log.Error("an ended attempt cannot be finished", zap.String("dir", dir), zap.Error(err))
		return
	}
	h.mu.Lock()
	h.tails[a.Key] = a
	h.leftovers++
	h.mu.Unlock()
	h.wg.Go(func() {
		if !a.endLeftover(ctx) {
			return
		}
		h.mu.Lock()
		h.leftovers--
		h.mu.Unlock()
		h.poke()
		a.tail(ctx)
	})
}

func readLease(path string) (journal.Lease, error) {
	var l journal.Lease
	raw, err := disk.ReadSealed(disk.OS(), path)
	if err != nil {
		return l, err
	}
	return l, json.Unmarshal(raw, &l)
}

// contact is the end of the host's leases on a clock that a restart of the
// agent shares: time since boot. It is not synced: after power loss there is no
// trainer to be careful about.
type contact struct {
	BootID string        `json:"boot_id"`
	Until  time.Duration `json:"until"`
}

func sinceBoot() (time.Duration, string, error) {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		return 0, "", err
	}
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return time.Duration(ts.Nano()), strings.TrimSpace(string(id)), err
}

func saveContact(dir string, until time.Time) error {
	now, boot, err := sinceBoot()
	if err != nil {
		return err
	}
	raw, err := json.Marshal(contact{BootID: boot, Until: now + time.Until(until)})
	if err != nil {
		return err
	}
	path := filepath.Join(dir, "contact")
	if err := os.WriteFile(path+".tmp", raw, 0o600); err != nil {
		return err
	}
	return os.Rename(path+".tmp", path)
}

// loadContact returns when the leases of an earlier agent run out; the zero
// time, which is past, when that is not known.
func loadContact(dir string) time.Time {
	raw, err := os.ReadFile(filepath.Join(dir, "contact"))
	if err != nil {
		return time.Time{}
	}
	var c contact
	now, boot, err := sinceBoot()
	if err != nil || json.Unmarshal(raw, &c) != nil || c.BootID != boot {
		return time.Time{}
	}
	return time.Now().Add(c.Until - now)
}

// exitOfLost is the end of an attempt whose journal entry is gone.
func exitOfLost(key lease.Key) lease.Exit {
	return lease.Exit{
		Key: key, Outcome: lease.Failed, Class: lease.ClassAgentLost, EndTime: time.Now(),
		Evidence: lease.Evidence{ExitCode: -1, Message: "the agent lost its journal and ended the attempt"},
	}
}
