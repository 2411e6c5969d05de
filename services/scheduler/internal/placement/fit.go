package placement

import (
	"slices"
	"sort"
	"strconv"

	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/job"
)

// filter is the first test that a node failed, from coarse to fine.
type filter uint8

const (
	fits filter = iota
	byBlock
	byLabel
	byKind
	byDeviceCount
	byWhole
	byMemory
	byCPU
	byHost
)

// need is a demand prepared for matching: its groups ordered from the hardest to
// please to the easiest, or a group that takes anything would take what another
// needs.
type need struct {
	job.Demand
	key string
}

func needOf(d *job.Demand) need {
	n := need{Demand: *d, key: Shape(d)}
	n.Devices = hardestFirst(d.Devices)
	return n
}

// picks are the devices chosen for a need: indices into a node's devices, each
// with the group it serves.
type picks []pick

type pick struct{ device, group int }

// fit finds devices of a node for a need, or the filter that refuses it. On a
// shared device the tightest one wins; a whole one is the smallest. buf is
// reused.
func fit(n *Node, d *need, buf picks) (picks, filter) {
	buf = buf[:0]
	if n.Blocked != "" {
		return buf, byBlock
	}
	for k, v := range d.Labels {
		if n.Labels[k] != v {
			return buf, byLabel
		}
	}
	if n.freeCPU() < d.CPUMillis {
		return buf, byCPU
	}
	if n.freeHost() < d.HostBytes {
		return buf, byHost
	}
	for g := range d.Devices {
		want := &d.Devices[g]
		for range want.Count {
			i, why := pickOne(n, want, buf)
			if i < 0 {
				return buf, why
			}
			buf = append(buf, pick{i, g})
		}
	}
	return buf, fits
}

// pickOne finds one device for a group beside those already taken.
func pickOne(n *Node, g *job.DeviceDemand, taken picks) (int, filter) {
	best, left, why := -1, int64(0), byKind
	for i := range n.Devices {
		d := &n.Devices[i]
		if !g.Accepts(d.Kind) {
			continue
		}
		if d.Fault != "" || taken.has(i) {
			why = max(why, byDeviceCount)
			continue
		}
		if g.Bytes == 0 {
			if !d.empty() {
				why = max(why, byWhole)
				continue
			}
			if best < 0 || d.Memory < left {
				best, left = i, d.Memory
			}
			continue
		}
		free := d.Free()
		if free < g.Bytes {
			why = max(why, byMemory)
			continue
		}
		if l := free - g.Bytes; best < 0 || l < left {
			best, left = i, l
		}
	}
	return best, why
}

func (p picks) has(device int) bool {
	for _, x := range p {
		if x.device == device {
			return true
		}
	}
	return false
}

// shares turns picks into promises.
func (p picks) shares(n *Node, d *need) []job.Share {
	if len(p) == 0 {
		return nil
	}
	out := make([]job.Share, len(p))
	for i, x := range p {
		dev, want := &n.Devices[x.device], &d.Devices[x.group]
		out[i] = dev.share(want.Bytes)
	}
	return out
}

// share is what a holder of so many bytes takes of the device; 0 is all of it.
func (d *Device) share(bytes int64) job.Share {
	if bytes == 0 {
		return job.Share{Device: d.ID, Kind: d.Kind, Bytes: d.Usable(), Held: d.Memory - d.Headroom, Whole: true}
	}
	return job.Share{Device: d.ID, Kind: d.Kind, Bytes: bytes, Held: bytes + d.Overhead}
}

// hardestFirst orders groups: a named kind before any kind, whole before
// shared, large before small.
func hardestFirst(groups []job.DeviceDemand) []job.DeviceDemand {
	if len(groups) < 2 {
		return groups
	}
	out := slices.Clone(groups)
	sort.SliceStable(out, func(i, k int) bool {
		a, b := out[i], out[k]
		if (a.Kind != "") != (b.Kind != "") {
			return a.Kind != ""
		}
		if (a.Bytes == 0) != (b.Bytes == 0) {
			return a.Bytes == 0
		}
		return a.Bytes > b.Bytes
	})
	return out
}

// Shape is a key under which two demands are the same to every node.
func Shape(d *job.Demand) string {
	b := make([]byte, 0, 64)
	b = strconv.AppendInt(b, d.CPUMillis, 10)
	b = append(b, '/')
	b = strconv.AppendInt(b, d.HostBytes, 10)
	for _, g := range d.Devices {
		b = append(b, '|')
		b = strconv.AppendInt(b, int64(g.Count), 10)
		b = append(b, '*')
		b = strconv.AppendQuote(b, g.Kind)
		b = append(b, ':')
		b = strconv.AppendInt(b, g.Bytes, 10)
	}
	keys := make([]string, 0, len(d.Labels))
	for k := range d.Labels {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	for _, k := range keys {
		b = append(b, '|')
		b = strconv.AppendQuote(b, k)
		b = append(b, '=')
		b = strconv.AppendQuote(b, d.Labels[k])
	}
	return string(b)
}
