// Package memwatch decides, from samples of who uses how much memory, who has
// to go and whose fault an out-of-memory was. It is pure.
//
// The one rule that matters: the over-user is evicted, never the neighbour who
// happened to ask last.
package memwatch

import (
	"fmt"
	"time"

	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/lease"
)

// HostDevice stands for the host's own memory where a lease's devices have their own.
const HostDevice = "host"

// Use is one lease's memory on one device.
type Use struct {
	Key    lease.Key
	Device string
	Bytes  int64
	// Limit is the reservation, or the usable memory of a whole device, plus
	// what the host grants every process for its context.
	Limit int64
	// Enforced is false where the allocation itself fails at the limit, so that
	// nobody has to be evicted.
	Enforced bool
}

// Sample is one look at all devices.
type Sample struct {
	At   time.Time
	Uses []Use
	// Total and Capacity are each device's memory in use by anyone, and its size.
	Total, Capacity map[string]int64
}

// Event is a lease that is near or over its limit.
type Event struct {
	Use   Use
	Evict bool
	OOM   lease.OOM
}

// window is how many samples are kept: ten seconds at the watchdog's pace.
const window = 100

// Watch keeps the latest samples; it is not safe for concurrent use.
type Watch struct {
	samples []Sample
	warned  map[lease.Key]bool
}

// New returns an empty watch.
func New() *Watch { return &Watch{warned: map[lease.Key]bool{}} }

// Add takes a sample and returns who came near a limit since the last one, once
// each, and who is over it. One look over the limit is enough: memory that was
// touched does not come back by itself, and each look later is one in which a
// neighbour may fail.
func (w *Watch) Add(s Sample) []Event {
	w.samples = append(w.samples, s)
	if extra := len(w.samples) - window; extra > 0 {
		w.samples = append([]Sample(nil), w.samples[extra:]...)
	}
	var events []Event
	present := map[lease.Key]bool{}
	for _, u := range s.Uses {
		present[u.Key] = true
		if !u.Enforced || u.Limit <= 0 {
			continue
		}
		switch {
		case u.Bytes > u.Limit:
			events = append(events, Event{Use: u, Evict: true, OOM: lease.OOM{
				Class: class(u), Device: u.Device, At: s.At, Samples: w.history(u.Key, u.Device),
				Message: fmt.Sprintf("used %d bytes of %s, reserved %d: evicted", u.Bytes, u.Device, u.Limit),
			}})
		case u.Bytes > u.Limit/100*95 && !w.warned[u.Key]:
			w.warned[u.Key] = true
			events = append(events, Event{Use: u})
		}
	}
	for key := range w.warned {
		if !present[key] {
			delete(w.warned, key)
		}
	}
	return events
}

// class of an eviction: the batch size is to blame for a device's memory only.
func class(u Use) lease.Class {
	if u.Device == HostDevice {
		return lease.ClassHostOOM
	}
	return lease.ClassOwnOOM
}

func (w *Watch) history(key lease.Key, device string) []int64 {
	var out []int64
	for _, s := range w.samples {
		for _, u := range s.Uses {
			if u.Key == key && u.Device == device {
				out = append(out, u.Bytes)
			}
		}
	}
	return out
}

// recent is how far before a report a sample still says something about it.
const recent = 3 * time.Second

// Attribute decides whose fault a reported out-of-memory is. A neighbour is
// blamed only on evidence: it was seen over its own limit, or memory outside
// all leases had eaten what was promised. Everything else is the reporter's:
// it asked for more than it reserved.
func (w *Watch) Attribute(key lease.Key, report lease.OOM) lease.OOM {
	out := report
	out.Class = lease.ClassOwnOOM
	out.Samples = w.history(key, report.Device)
	for i := len(w.samples) - 1; i >= 0; i-- {
		s := w.samples[i]
		if report.At.Sub(s.At) > recent {
			break
		}
		own, ownLimit, leased := int64(0), int64(0), int64(0)
		var over *Use
		for _, u := range s.Uses {
			if report.Device != "" && u.Device != report.Device {
				continue
			}
			leased += u.Bytes
			if u.Key == key {
				own, ownLimit = u.Bytes, u.Limit
			} else if u.Limit > 0 && u.Bytes > u.Limit {
				over = &u
			}
		}
		if ownLimit > 0 && own > ownLimit/100*95 {
			out.Class = lease.ClassOwnOOM
			out.Message = fmt.Sprintf("%s; it used %d of its %d bytes", report.Message, own, ownLimit)
			return out
		}
		if over != nil {
			out.Class = lease.ClassNeighbourOOM
			out.Message = fmt.Sprintf("%s; %s used %d bytes of %s and had reserved %d", report.Message, over.Key, over.Bytes, over.Device, over.Limit)
			return out
		}
		capacity, total := s.Capacity[report.Device], s.Total[report.Device]
		if foreign := total - leased; capacity > 0 && ownLimit > 0 && foreign > 0 && capacity-foreign < ownLimit {
			out.Class = lease.ClassNeighbourOOM
			out.Message = fmt.Sprintf("%s; processes outside every lease used %d bytes of %s", report.Message, foreign, report.Device)
			return out
		}
	}
	return out
}
