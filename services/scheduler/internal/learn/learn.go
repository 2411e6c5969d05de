// Package learn remembers what runs of a kind used and took, and proposes what
// the next one should reserve.
//
// A kind of run is what a person would call the same training: the same
// specialist or program, configuration shape and batch size, on the same kind of
// device.
package learn

import (
	"strconv"
	"time"
)

// Peak is what runs of one kind were seen to use.
type Peak struct {
	Key string
	// Bytes is the highest use of one device, forgotten slowly.
	Bytes int64
	// Took is how long a successful run usually takes; 0 means unknown.
	Took time.Duration
	Runs int
	At   time.Time
}

// Key names a kind of run. kin is the training, device the device kind; an empty
// device stands for all of them.
func Key(kin string, batch int, device string) string {
	return kin + "/" + strconv.Itoa(batch) + "/" + device
}

// slow is the part of the way that a memory goes towards a lower observation: one
// light run must not make the next heavy one fail.
const slow = 8

// Saw adds the peak of a run. A higher one counts at once.
func (p Peak) Saw(bytes int64, now time.Time) Peak {
	p.Runs++
	p.At = now
	if bytes >= p.Bytes {
		p.Bytes = bytes
	} else {
		p.Bytes -= (p.Bytes - bytes) / slow
	}
	return p
}

// Ran adds the duration of a successful run.
func (p Peak) Ran(took time.Duration) Peak {
	if p.Took == 0 {
		p.Took = took
	} else {
		p.Took += (took - p.Took) / slow
	}
	return p
}

const (
	// margin is reserved on top of what was seen, as one part of so many: peaks
	// between two samples are missed.
	margin = 7
	step   = 16 << 20
	least  = 64 << 20
)

// Reservation is what the next run should reserve; 0 means unknown.
func (p Peak) Reservation() int64 {
	if p.Bytes <= 0 {
		return 0
	}
	want := max(p.Bytes+p.Bytes/margin, least)
	return (want + step - 1) / step * step
}
