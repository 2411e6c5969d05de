// Package reconcile compares what a host does with what the scheduler wants and
// answers with the actions that close the gap. It is pure and level-triggered:
// the same inputs give the same actions, and an action that was lost is simply
// found missing again.
//
// Safety does not depend on the scheduler being right. A device is never
// claimed beyond its memory, a job never runs twice here, an older fence never
// starts after a newer one, and what the scheduler no longer wants, or may no
// longer want because the lease ran out, ends.
package reconcile

import (
	"fmt"
	"sort"
	"time"

	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/lease"
)

// Device is a leasable unit as far as placement cares.
type Device struct {
	ID string
	// UsableBytes is total memory less headroom.
	UsableBytes int64
	Healthy     bool
	Reason      string
}

// Stopping is the state of a stop in progress.
type Stopping struct {
	Reason lease.StopReason
	// TermAt and KillAt are when the process group gets SIGTERM and SIGKILL.
	TermAt, KillAt time.Time
	// Termed and Killed say what was already done.
	Termed, Killed bool
}

// Held is a lease on this host. It stays held until its process group is gone
// and its memory is back.
type Held struct {
	lease.Key
	Claims []lease.Claim
	Stop   *Stopping
}

// Current is the host's state.
type Current struct {
	Devices []Device
	Leases  []Held
	// Exits are the ends that the scheduler has not recorded yet.
	Exits []lease.Key
	// Ended is the highest fence of each job that has ended here.
	Ended map[string]uint64
	// LeaseUntil is when the host's leases run out; zero means they have.
	LeaseUntil time.Time
	// Quarantine, when not empty, says why nothing may start on this host.
	Quarantine string
}

// Stop is an order to end an attempt.
type Stop struct {
	lease.Key
	Reason lease.StopReason
	// Grace until SIGKILL; 0 means at once.
	Grace time.Duration
}

// Desired is the scheduler's last answer; Known is false before the first.
type Desired struct {
	Known       bool
	Assignments []lease.Assignment
	Stops       []Stop
	Recorded    []lease.Key
}

// Kind of an action.
type Kind int

// Kinds of actions.
const (
	// Grant persists the lease and starts the trainer.
	Grant Kind = iota + 1
	// Refuse ends an assignment that cannot start here, with Detail as reason.
	Refuse
	// BeginStop tells the trainer to save and exit until KillAt.
	BeginStop
	// Terminate sends SIGTERM to the process group.
	Terminate
	// Kill sends SIGKILL to the process group.
	Kill
	// Forget drops an exit that the scheduler has recorded.
	Forget
)

// Action is one step to take now.
type Action struct {
	Kind       Kind
	Key        lease.Key
	Assignment lease.Assignment
	Reason     lease.StopReason
	// TermAt and KillAt belong to BeginStop.
	TermAt, KillAt time.Time
	Detail         string
}

// Plan is what to do now, and when to look again even if nothing happens; a
// zero Wake means never.
type Plan struct {
	Actions []Action
	Wake    time.Time
}

// Decide returns the plan for one moment. It neither modifies nor keeps its
// arguments.
func Decide(current Current, desired Desired, now time.Time) Plan {
	d := decision{now: now, plan: &Plan{}}
	expired := !now.Before(current.LeaseUntil)
	wanted := map[lease.Key]bool{}
	newest := map[string]uint64{}
	if desired.Known {
		for _, a := range desired.Assignments {
			wanted[a.Key] = true
			newest[a.JobID] = max(newest[a.JobID], a.Fence)
		}
	}
	orders := map[lease.Key]Stop{}
	for _, s := range desired.Stops {
		orders[s.Key] = s
	}
	for _, key := range desired.Recorded {
		for _, exit := range current.Exits {
			if exit == key {
				d.add(Action{Kind: Forget, Key: key})
			}
		}
	}
	for _, held := range current.Leases {
		order, ordered := orders[held.Key]
		switch {
		case expired:
			order, ordered = Stop{Key: held.Key, Reason: lease.StopExpired}, true
		case ordered:
		case desired.Known && (!wanted[held.Key] || held.Fence < newest[held.JobID]):
			order, ordered = Stop{Key: held.Key, Reason: lease.StopFenced}, true
		}
		d.stop(held, order, ordered)
	}
	if len(current.Leases) > 0 && !expired {
		d.wake(current.LeaseUntil)
	}
	if desired.Known && !expired {
		d.start(current, desired, orders)
	}
	return *d.plan
}

type decision struct {
	now  time.Time
	plan *Plan
}

func (d *decision) add(a Action) { d.plan.Actions = append(d.plan.Actions, a) }

func (d *decision) wake(at time.Time) {
	if d.plan.Wake.IsZero() || at.Before(d.plan.Wake) {
		d.plan.Wake = at
	}
}

// stop moves one lease along its way out: frame, SIGTERM, SIGKILL. A second
// order only ever shortens the time that is left.
func (d *decision) stop(held Held, order Stop, ordered bool) {
	state := held.Stop
	if ordered {
		term, kill := deadlines(d.now, order.Grace)
		if state == nil || kill.Before(state.KillAt) && order.Reason != state.Reason {
			fresh := Stopping{Reason: order.Reason, TermAt: term, KillAt: kill}
			if state != nil {
				fresh.Termed, fresh.Killed = state.Termed, state.Killed
			}
			state = &fresh
			d.add(Action{Kind: BeginStop, Key: held.Key, Reason: order.Reason, TermAt: term, KillAt: kill})
		}
	}
	if state == nil || state.Killed {
		return
	}
	switch {
	case !d.now.Before(state.KillAt):
		d.add(Action{Kind: Kill, Key: held.Key, Reason: state.Reason})
	case !d.now.Before(state.TermAt) && !state.Termed:
		d.add(Action{Kind: Terminate, Key: held.Key, Reason: state.Reason})
		d.wake(state.KillAt)
	case state.Termed:
		d.wake(state.KillAt)
	default:
		d.wake(state.TermAt)
	}
}

// deadlines leaves the last quarter of the grace, at most five seconds, between
// SIGTERM and SIGKILL: the Stop frame is the polite way, SIGTERM the reminder
// for programs that do not read frames.
func deadlines(now time.Time, grace time.Duration) (term, kill time.Time) {
	kill = now.Add(grace)
	return kill.Add(-min(grace/4, 5*time.Second)), kill
}

// start grants what is wanted, not held and not ended. An assignment waits for
// a lease that is on its way out, because confirmed teardown, not the
// scheduler's arithmetic, frees a device.
func (d *decision) start(current Current, desired Desired, orders map[lease.Key]Stop) {
	devices := map[string]Device{}
	for _, dev := range current.Devices {
		devices[dev.ID] = dev
	}
	claims := map[string][]lease.Claim{}
	leaving := map[string]bool{}
	liveJob := map[string]bool{}
	held := map[lease.Key]bool{}
	stopped := map[lease.Key]bool{}
	for _, a := range d.plan.Actions {
		if a.Kind == BeginStop {
			stopped[a.Key] = true
		}
	}
	for _, l := range current.Leases {
		held[l.Key] = true
		liveJob[l.JobID] = true
		for _, c := range l.Claims {
			claims[c.Device] = append(claims[c.Device], c)
			if l.Stop != nil || stopped[l.Key] {
				leaving[c.Device] = true
			}
		}
	}
	ended := map[lease.Key]bool{}
	for _, key := range current.Exits {
		ended[key] = true
	}
	queue := append([]lease.Assignment(nil), desired.Assignments...)
	sort.SliceStable(queue, func(i, j int) bool { return queue[i].Fence < queue[j].Fence })
	newest := map[string]uint64{}
	for _, a := range queue {
		newest[a.JobID] = max(newest[a.JobID], a.Fence)
	}
	for _, a := range queue {
		if _, stop := orders[a.Key]; stop || held[a.Key] || ended[a.Key] || liveJob[a.JobID] {
			continue
		}
		if a.Fence <= current.Ended[a.JobID] || a.Fence < newest[a.JobID] {
			continue // a stale word: the newer attempt has ended, or waits behind it
		}
		ended[a.Key] = true // one answer decides once about each attempt
		if current.Quarantine != "" {
			d.add(Action{Kind: Refuse, Key: a.Key, Assignment: a, Detail: "host quarantined: " + current.Quarantine})
			continue
		}
		problem, wait := fits(a, devices, claims, leaving)
		switch {
		case wait:
		case problem != "":
			d.add(Action{Kind: Refuse, Key: a.Key, Assignment: a, Detail: problem})
		default:
			d.add(Action{Kind: Grant, Key: a.Key, Assignment: a})
			liveJob[a.JobID] = true
			for _, c := range a.Claims {
				claims[c.Device] = append(claims[c.Device], c)
			}
		}
	}
}

// fits says whether the claims fit beside those that are held; wait means that
// they will once a lease has left.
func fits(a lease.Assignment, devices map[string]Device, held map[string][]lease.Claim, leaving map[string]bool) (problem string, wait bool) {
	seen := map[string]bool{}
	for _, c := range a.Claims {
		dev, ok := devices[c.Device]
		switch {
		case !ok:
			return fmt.Sprintf("device %s does not exist on this host", c.Device), false
		case !dev.Healthy:
			return fmt.Sprintf("device %s is quarantined: %s", c.Device, dev.Reason), false
		case seen[c.Device]:
			return fmt.Sprintf("device %s is claimed twice", c.Device), false
		case c.Bytes > dev.UsableBytes:
			return fmt.Sprintf("device %s has %d usable bytes, %d were reserved", c.Device, dev.UsableBytes, c.Bytes), false
		}
		seen[c.Device] = true
		var sum int64
		shared := c.Bytes > 0
		for _, other := range held[c.Device] {
			sum += other.Bytes
			shared = shared && other.Bytes > 0
		}
		if len(held[c.Device]) > 0 && (!shared || sum+c.Bytes > dev.UsableBytes) {
			if leaving[c.Device] {
				return "", true
			}
			return fmt.Sprintf("device %s is held: %d bytes reserved of %d usable, %d more were asked for (0 is all)",
				c.Device, sum, dev.UsableBytes, c.Bytes), false
		}
	}
	return "", false
}
