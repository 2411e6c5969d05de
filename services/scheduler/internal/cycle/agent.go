package cycle

import (
	"maps"
	"slices"
	"time"

	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/job"
	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/lease"
	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/placement"
)

// Cordon is what a person decided about a host.
type Cordon uint8

// The decisions.
const (
	Open Cordon = iota
	Cordoned
	Draining
)

var cordonNames = [...]string{"OPEN", "CORDONED", "DRAINING"}

// String is the name used in storage.
func (c Cordon) String() string { return cordonNames[min(int(c), len(cordonNames)-1)] }

// ParseCordon is the inverse of String; an unknown name is Cordoned, the careful one.
func ParseCordon(s string) Cordon {
	if i := slices.Index(cordonNames[:], s); i >= 0 {
		return Cordon(i)
	}
	return Cordoned
}

// Device is what an agent reports of a device and what placement needs of it.
type Device struct {
	ID        string `json:"id"`
	Kind      string `json:"kind"`
	Memory    int64  `json:"memory"`
	Headroom  int64  `json:"headroom,omitempty"`
	Overhead  int64  `json:"overhead,omitempty"`
	Fault     string `json:"fault,omitempty"`
	Isolation string `json:"isolation,omitempty"`
	LinkGroup string `json:"link_group,omitempty"`
	// Parent is the GPU that a MIG instance is a slice of, Profile its profile.
	Parent  string `json:"parent,omitempty"`
	Profile string `json:"profile,omitempty"`
	// NUMA is the node that the device is attached to; -1 means unknown.
	NUMA int `json:"numa,omitempty"`
}

// Agent is a host, as durable as its inventory and what people decided of it.
type Agent struct {
	Name        string
	Revision    uint64
	Incarnation string
	Version     string
	Address     string
	Labels      map[string]string
	CPUMillis   int64
	HostBytes   int64
	Devices     []Device
	DataOK      bool
	RegistryOK  bool

	Cordon       Cordon
	CordonReason string
	// Lost says that its leases have run out.
	Lost    bool
	Updated time.Time
}

// sameReport tells whether a report changes anything durable.
func (a Agent) sameReport(b Agent) bool {
	return a.Incarnation == b.Incarnation && a.Version == b.Version && a.Address == b.Address &&
		a.CPUMillis == b.CPUMillis && a.HostBytes == b.HostBytes && a.DataOK == b.DataOK && a.RegistryOK == b.RegistryOK &&
		maps.Equal(a.Labels, b.Labels) && slices.Equal(a.Devices, b.Devices)
}

// blocked says why the host takes no new work.
func (a Agent) blocked() string {
	switch {
	case a.Lost:
		return "lost: it does not report"
	case a.Cordon == Draining:
		return sentence("being drained", a.CordonReason)
	case a.Cordon == Cordoned:
		return sentence("cordoned", a.CordonReason)
	}
	return ""
}

func sentence(head, detail string) string {
	if detail == "" {
		return head
	}
	return head + ": " + detail
}

// node is the agent as placement sees it, with what its live attempts hold.
func (a Agent) node(live []job.Attempt) placement.Node {
	n := placement.Node{
		Name: a.Name, Labels: a.Labels, Blocked: a.blocked(), CPUMillis: a.CPUMillis, HostBytes: a.HostBytes, Revision: a.Revision,
		Devices: make([]placement.Device, len(a.Devices)),
	}
	for i, d := range a.Devices {
		n.Devices[i] = placement.Device{ID: d.ID, Kind: d.Kind, Memory: d.Memory, Headroom: d.Headroom, Overhead: d.Overhead, Fault: d.Fault, Profile: d.Profile, Parent: d.Parent, Link: d.LinkGroup}
	}
	for i := range live {
		n.Hold(live[i].Shares, live[i].CPUMillis, live[i].HostBytes)
	}
	return n
}

// Sample is the part of a report that is of interest only until the next one.
type Sample struct {
	// Used and Utilization are by device id.
	Used        map[string]int64
	Utilization map[string]float64
	Held        []lease.Held
}

// contact is what the scheduler's own clock knows of an agent.
type contact struct {
	heard  time.Time
	sample Sample
	// wake is closed and replaced when the agent's desired state changes.
	wake chan struct{}
	// turn grows with each report; an older waiting call gives way.
	turn uint64
	// losses are the newest times at which the agent was lost.
	losses []time.Time
}
