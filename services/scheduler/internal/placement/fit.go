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
	byLink
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
		if want.Count > 1 && n.linked() {
			link, ok := linkFor(n, want, buf)
			if !ok && want.Topology == job.SameLink {
				return buf, byLink
			}
			if ok {
				for range want.Count {
					i, _ := pickOne(n, want, buf, link)
					buf = append(buf, pick{i, g})
				}
				continue
			}
		} else if want.Count > 1 && want.Topology == job.SameLink {
			return buf, byLink
		}
		for range want.Count {
			i, why := pickOne(n, want, buf, anyLink)
			if i < 0 {
				return buf, why
			}
			buf = append(buf, pick{i, g})
		}
	}
	return buf, fits
}

// anyLink lets a group take devices from everywhere.
const anyLink = "*"

func (n *Node) linked() bool {
	for i := range n.Devices {
		if n.Devices[i].Link != "" {
			return true
		}
	}
	return false
}

// linkFor finds the fast link with the fewest devices that still serves a whole
// group: a larger one stays whole for a larger group.
func linkFor(n *Node, g *job.DeviceDemand, taken picks) (link string, ok bool) {
	least := 0
	for i := range n.Devices {
		name := n.Devices[i].Link
		if name == "" || name == link {
			continue
		}
		have := 0
		for k := range n.Devices {
			if d := &n.Devices[k]; d.Link == name && !taken.has(k) && d.takes(g) {
				have++
			}
		}
		if have >= g.Count && (!ok || have < least) {
			link, least, ok = name, have, true
		}
	}
	return link, ok
}

// serves reports whether the device is of the sort that a group asks for. Who
// asks for a whole device means a GPU and not a slice of one.
func (d *Device) serves(g *job.DeviceDemand) bool {
	if !g.Accepts(d.Kind) {
		return false
	}
	return g.Profile == d.Profile || g.Profile == "" && g.Bytes > 0
}

// takes reports whether the device can serve one of a group now.
func (d *Device) takes(g *job.DeviceDemand) bool {
	return d.Fault == "" && d.serves(g) && (g.Bytes == 0 && d.empty() || g.Bytes > 0 && d.Free() >= g.Bytes)
}

// pickOne finds one device for a group beside those already taken.
func pickOne(n *Node, g *job.DeviceDemand, taken picks, link string) (int, filter) {
	best, left, why := -1, int64(0), byKind
	for i := range n.Devices {
		d := &n.Devices[i]
		if !d.serves(g) || link != anyLink && d.Link != link {
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
		if g.Profile != "" {
			b = strconv.AppendQuote(b, g.Profile)
		}
		if g.Topology != job.SameHost {
			b = append(b, '@', '0'+byte(g.Topology))
		}
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
