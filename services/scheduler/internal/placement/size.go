package placement

import "github.com/ultrathink-pilot/trainyard/services/scheduler/internal/job"

// Capacity is what a fleet has of each resource.
type Capacity struct {
	devices   float64
	bytes     float64
	cpuMillis float64
	hostBytes float64
}

// CapacityOf adds a fleet up, blocked hosts included: shares must not jump when
// a host is cordoned.
func CapacityOf(nodes []Node) Capacity {
	var c Capacity
	for i := range nodes {
		n := &nodes[i]
		c.cpuMillis += float64(n.CPUMillis)
		c.hostBytes += float64(n.HostBytes)
		for k := range n.Devices {
			c.devices++
			c.bytes += float64(n.Devices[k].Usable())
		}
	}
	return c
}

// part is a dominant share of the fleet in parts per billion.
func (c Capacity) part(bytes, cpuMillis, hostBytes float64) int64 {
	of := func(want, have float64) float64 {
		if have <= 0 {
			return 0
		}
		return want / have
	}
	return int64(1e9 * max(of(bytes, c.bytes), of(cpuMillis, c.cpuMillis), of(hostBytes, c.hostBytes)))
}

// Share is a demand's dominant share of the fleet, from 0 to 1 and above: the
// largest of its parts of device memory, CPU and host memory (Ghodsi et al.,
// NSDI 2011).
func (c Capacity) Share(d *job.Demand) float64 {
	var bytes float64
	for _, g := range d.Devices {
		each := float64(g.Bytes)
		if g.Bytes == 0 && c.devices > 0 {
			each = c.bytes / c.devices
		}
		bytes += float64(g.Count) * each
	}
	part := func(want, have float64) float64 {
		if have <= 0 {
			return 0
		}
		return want / have
	}
	return max(part(bytes, c.bytes), part(float64(d.CPUMillis), c.cpuMillis), part(float64(d.HostBytes), c.hostBytes))
}
