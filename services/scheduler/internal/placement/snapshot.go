package placement

import (
	"time"

	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/job"
)

// Device is one device of a node and what is promised of it.
type Device struct {
	ID   string
	Kind string
	// Memory is the physical memory in bytes.
	Memory int64
	// Headroom is never promised to anyone, in bytes.
	Headroom int64
	// Overhead is what one process costs beside its reservation, in bytes.
	Overhead int64
	// Fault says why the device takes no new work; empty means healthy.
	Fault string
	// Profile is the profile of a MIG instance and Parent the ID of its GPU; empty
	// for everything else. A GPU that has instances takes no work itself.
	Profile string
	Parent  string
	// Link names the group of devices of the host with which it shares a fast link.
	Link string

	// Held is the sum of reservations and overheads, in bytes.
	Held int64
	// Holders is the number of attempts on the device.
	Holders int
	// Exclusive says that a holder has the device whole.
	Exclusive bool

	// ahead is kept free for a job that waits longer, in bytes; kept says that
	// the device will not be empty when that job has come.
	ahead int64
	kept  bool
}

// Usable is the most one process could ever reserve on the device.
func (d *Device) Usable() int64 { return max(d.Memory-d.Headroom-d.Overhead, 0) }

// Free is the largest reservation that the device can take now.
func (d *Device) Free() int64 {
	if d.Fault != "" || d.Exclusive {
		return 0
	}
	return max(d.Memory-d.Headroom-d.Held-d.Overhead-d.ahead, 0)
}

// empty reports whether the device can be given away whole.
func (d *Device) empty() bool { return d.Holders == 0 && d.Fault == "" && !d.kept && d.ahead == 0 }

// take promises a share of the device to one attempt.
func (d *Device) take(s job.Share) {
	d.Held += s.Held
	d.Holders++
	d.Exclusive = d.Exclusive || s.Whole
}

// Holder is a live attempt on a node.
type Holder struct {
	Job       string
	Fence     uint64
	Priority  job.Priority
	Shares    []job.Share
	CPUMillis int64
	HostBytes int64
	// Started is when the attempt began.
	Started time.Time
	// End is when the attempt is expected to end; zero means unknown.
	End time.Time
	// Lost is the work that a stop would throw away, in device-seconds.
	Lost float64
	// Saved is up to when the work is safe in a checkpoint. When it is set, Lost is
	// not looked at: what would be lost grows from here on.
	Saved time.Time
	// Ending says that the attempt has been told to stop.
	Ending bool
	Tenant string
	// Attained is the service that earlier attempts have got, in device-seconds.
	Attained float64
	// Devices is the number of devices on all hosts; 0 means those of Shares.
	// Rank is the host's place in a gang.
	Devices int
	Rank    int
	// Deadline is when the result is needed; zero means never.
	Deadline time.Time

	// claim is the room that counts on the end of this attempt.
	claim *room
	// fresh says that it was placed by a plan and is not confirmed yet.
	fresh bool
}

func (h *Holder) devices() int {
	if h.Devices > 0 {
		return h.Devices
	}
	return max(len(h.Shares), 1)
}

// lost is what a stop would throw away, in device-seconds.
func (h *Holder) lost(now time.Time) float64 {
	if h.Saved.IsZero() {
		return h.Lost
	}
	return max(now.Sub(h.Saved).Seconds(), 0) * float64(h.devices())
}

// attained is the service that the job has got, in device-seconds.
func (h *Holder) attained(now time.Time) float64 {
	return h.Attained + max(now.Sub(h.Started).Seconds(), 0)*float64(h.devices())
}

// Node is one host.
type Node struct {
	Name   string
	Labels map[string]string
	// Blocked says why the node takes no new work; empty means it does.
	Blocked   string
	CPUMillis int64
	HostBytes int64
	UsedCPU   int64
	UsedHost  int64
	Devices   []Device
	// Holders are the live attempts on the node. Hold counts what they hold;
	// the list says who could leave.
	Holders []Holder
	// Revision lets the committer see that the node changed since the snapshot.
	Revision uint64

	// aheadCPU and aheadHost are kept free for a job that waits longer.
	aheadCPU, aheadHost int64
}

// release takes a promise of the same amounts back.
func (n *Node) release(shares []job.Share, cpu, host int64) {
	n.UsedCPU -= cpu
	n.UsedHost -= host
	for _, s := range shares {
		for i := range n.Devices {
			if d := &n.Devices[i]; d.ID == s.Device {
				d.Held -= s.Held
				d.Holders--
				d.Exclusive = d.Exclusive && !s.Whole
			}
		}
	}
}

func (n *Node) freeCPU() int64 { return n.CPUMillis - n.UsedCPU - n.aheadCPU }

func (n *Node) freeHost() int64 { return n.HostBytes - n.UsedHost - n.aheadHost }

func (n *Node) clone() Node {
	c := *n
	c.Devices = append([]Device(nil), n.Devices...)
	c.Holders = n.Holders[:len(n.Holders):len(n.Holders)]
	return c
}

// Hold promises an attempt's shares, CPU and host memory. Shares of devices
// that the node no longer has are ignored: the device is gone, not free.
func (n *Node) Hold(shares []job.Share, cpu, host int64) {
	n.UsedCPU += cpu
	n.UsedHost += host
	for _, s := range shares {
		for i := range n.Devices {
			if n.Devices[i].ID == s.Device {
				n.Devices[i].take(s)
			}
		}
	}
}

// Request is one job that wants to run.
type Request struct {
	Job      string
	Revision uint64
	Demand   job.Demand
	// Shape is Shape of the demand, for callers who have it already.
	Shape    string
	Priority job.Priority
	// Tenant shares the fleet with the others.
	Tenant string
	// Place is the place in line; equal ones keep the order in which they came.
	Place int64
	// NotBefore is until when the job backs off. It keeps its place.
	NotBefore time.Time
	// Longest is the limit of the running time; zero means none.
	Longest time.Duration
	// Deadline is when the result is needed; zero means never. Expect is how long
	// the job is expected to run from here on.
	Deadline time.Time
	Expect   time.Duration
	// Attained is the service that earlier attempts have got, in device-seconds.
	Attained float64
}

// Rules are the choices of preemption and backfill.
type Rules struct {
	// MinRuntime spares an attempt that has only begun: without it two classes
	// could thrash one device for ever.
	MinRuntime time.Duration
	// Restart is what stopping and starting an attempt costs, in seconds.
	Restart float64
}

// DefaultRules spare an attempt for its first minute, and price a restart at about
// what it takes until a trainer is where it was.
func DefaultRules() Rules { return Rules{MinRuntime: time.Minute, Restart: 30} }

// Room is space that is kept for a job that waits. It outlives a round, so that
// what was promised to a job is not promised anew every time.
type Room struct {
	Job   string
	Parts []RoomPart
	// At is when the job is expected to come.
	At time.Time
	// Stopping says that those who are in the way have been told to stop; without
	// it the time is a guess about their ends.
	Stopping bool
}

// RoomPart is the space on one host.
type RoomPart struct {
	Node string
	// Leave are the jobs that have to end first.
	Leave []string
}

// Snapshot is all that a plan depends on.
type Snapshot struct {
	Now   time.Time
	Nodes []Node
	Queue []Request
	// Typical is what the fleet is expected to serve; empty means the queue.
	Typical []Typical
	Rules   Rules
	Tenants []Tenant
	Rooms   []Room
	// Taste is how places are judged; zero means the usual taste.
	Taste Taste
}

// Part is what a job holds of one host.
type Part struct {
	Node         string
	NodeRevision uint64
	Shares       []job.Share
}

// Placed is a decision to run a job.
type Placed struct {
	Job          string
	Revision     uint64
	Node         string
	NodeRevision uint64
	Shares       []job.Share
	// Others are the further hosts of a gang, in the order of their ranks. CPU and
	// host memory are the demand's on each.
	Others []Part
	Why    string
}

// Unplaced is a job that waits, with a reason for people.
type Unplaced struct {
	Job    string
	Reason string
	// At is when the blocker is expected to be gone; zero means unknown.
	At time.Time
	// Room is the node on which room is kept for the job; empty means none.
	Room string
}

// Preempted is an attempt that must stop so that another job can run.
type Preempted struct {
	Job   string
	Fence uint64
	Node  string
	// For is the job that gets the room.
	For string
	Why string
}

// Warning is a deadline that will probably be missed.
type Warning struct {
	Job  string
	Text string
	// Finish is when the job is expected to end; zero means unknown.
	Finish time.Time
}

// Plan is the result. The lists keep the order in which jobs were looked at.
type Plan struct {
	Place    []Placed
	Preempt  []Preempted
	Unplaced []Unplaced
	Warn     []Warning
	// Next is when time alone can change the plan; zero means never.
	Next time.Time
}
