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

	// Held is the sum of reservations and overheads, in bytes.
	Held int64
	// Holders is the number of attempts on the device.
	Holders int
	// Exclusive says that a holder has the device whole.
	Exclusive bool
}

// Usable is the most one process could ever reserve on the device.
func (d *Device) Usable() int64 { return max(d.Memory-d.Headroom-d.Overhead, 0) }

// Free is the largest reservation that the device can take now.
func (d *Device) Free() int64 {
	if d.Fault != "" || d.Exclusive {
		return 0
	}
	return max(d.Memory-d.Headroom-d.Held-d.Overhead, 0)
}

// take promises a share of the device to one attempt.
func (d *Device) take(s job.Share) {
	d.Held += s.Held
	d.Holders++
	d.Exclusive = d.Exclusive || s.Whole
}

// Release is a promise that is expected to end.
type Release struct {
	Job       string
	At        time.Time
	Shares    []job.Share
	CPUMillis int64
	HostBytes int64
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
	// Releases are the attempts on the node whose end can be estimated.
	Releases []Release
	// Revision lets the committer see that the node changed since the snapshot.
	Revision uint64
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

func (n *Node) clone() Node {
	c := *n
	c.Devices = append([]Device(nil), n.Devices...)
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

// Request is one job that wants to run, in the order of the queue.
type Request struct {
	Job      string
	Revision uint64
	Demand   job.Demand
}

// Snapshot is all that a plan depends on.
type Snapshot struct {
	Now   time.Time
	Nodes []Node
	Queue []Request
	// Typical is what the fleet is expected to serve; empty means the queue.
	Typical []Typical
}

// Placed is a decision to run a job on a node.
type Placed struct {
	Job          string
	Revision     uint64
	Node         string
	NodeRevision uint64
	Shares       []job.Share
	Why          string
}

// Unplaced is a job that waits, with a reason for people.
type Unplaced struct {
	Job    string
	Reason string
	// At is when the blocker is expected to be gone; zero means unknown.
	At time.Time
}

// Plan is the result. Both lists keep the order of the queue.
type Plan struct {
	Place    []Placed
	Unplaced []Unplaced
}
