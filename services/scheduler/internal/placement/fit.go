package placement

import (
	"fmt"
	"slices"
	"sort"
	"strings"

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

// fit finds devices of a node for a demand, or the filter that refuses it. The
// least waste comes first: on a shared device, the one that is left with the
// fewest free bytes. Groups are served from the hardest to please to the
// easiest, or a group that takes anything would take what another needs.
func fit(n *Node, d *job.Demand) ([]job.Share, filter) {
	if n.Blocked != "" {
		return nil, byBlock
	}
	for k, v := range d.Labels {
		if n.Labels[k] != v {
			return nil, byLabel
		}
	}
	if n.CPUMillis-n.UsedCPU < d.CPUMillis {
		return nil, byCPU
	}
	if n.HostBytes-n.UsedHost < d.HostBytes {
		return nil, byHost
	}
	var shares []job.Share
	var taken uint64
	var many map[int]bool
	used := func(i int) bool { return i < 64 && taken&(1<<i) != 0 || many[i] }
	mark := func(i int) {
		if i < 64 {
			taken |= 1 << i
			return
		}
		if many == nil {
			many = map[int]bool{}
		}
		many[i] = true
	}
	for _, g := range hardestFirst(d.Devices) {
		for range g.Count {
			best, left, why := -1, int64(0), byKind
			for i := range n.Devices {
				dev := &n.Devices[i]
				if g.Kind != "" && dev.Kind != g.Kind {
					continue
				}
				if used(i) {
					why = max(why, byDeviceCount)
					continue
				}
				if dev.Fault != "" {
					why = max(why, byDeviceCount)
					continue
				}
				if g.Bytes == 0 {
					if dev.Holders > 0 {
						why = max(why, byWhole)
						continue
					}
					if l := dev.Memory; best < 0 || l < left {
						best, left = i, l
					}
					continue
				}
				free := dev.Free()
				if free < g.Bytes {
					why = max(why, byMemory)
					continue
				}
				if l := free - g.Bytes; best < 0 || l < left {
					best, left = i, l
				}
			}
			if best < 0 {
				return nil, why
			}
			mark(best)
			dev := &n.Devices[best]
			s := job.Share{Device: dev.ID, Kind: dev.Kind, Bytes: g.Bytes, Held: g.Bytes + dev.Overhead}
			if g.Bytes == 0 {
				s.Bytes, s.Held, s.Whole = dev.Usable(), dev.Memory-dev.Headroom, true
			}
			shares = append(shares, s)
		}
	}
	return shares, fits
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

// shape is a key under which two demands are the same to every node.
func shape(d *job.Demand) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d/%d", d.CPUMillis, d.HostBytes)
	for _, g := range d.Devices {
		fmt.Fprintf(&b, "|%d*%s:%d", g.Count, g.Kind, g.Bytes)
	}
	keys := make([]string, 0, len(d.Labels))
	for k := range d.Labels {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	for _, k := range keys {
		fmt.Fprintf(&b, "|%q=%q", k, d.Labels[k])
	}
	return b.String()
}
