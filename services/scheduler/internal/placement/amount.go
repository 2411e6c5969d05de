package placement

import (
	"math/bits"
	"slices"

	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/job"
)

// MaxKinds is how many device kinds the quotas of a fleet may name.
const MaxKinds = 8

// KindQuota bounds the devices of one kind.
type KindQuota struct {
	Kind string
	// Nominal and Borrow are as those of a Tenant, in thousandths of a device.
	Nominal, Borrow int64
}

// Amount is what a quota counts. A share of a device counts as the part of the
// device's usable memory that it reserves.
type Amount struct {
	// Millis are thousandths of a device, of the kinds that are not counted apart.
	Millis    int64 `json:"device_millis"`
	CPUMillis int64 `json:"cpu_millis"`
	HostBytes int64 `json:"host_bytes"`
	// kinds are thousandths of the devices that are counted apart, by the core's list
	// of kinds. An array, since amounts are compared and added at every look at a job.
	kinds [MaxKinds]int64
}

// Unlimited is an amount that nobody reaches.
var Unlimited = Amount{Millis: 1 << 60, CPUMillis: 1 << 60, HostBytes: 1 << 60}

func (a Amount) plus(b Amount) Amount {
	a.Millis, a.CPUMillis, a.HostBytes = a.Millis+b.Millis, a.CPUMillis+b.CPUMillis, a.HostBytes+b.HostBytes
	for k := range a.kinds {
		a.kinds[k] += b.kinds[k]
	}
	return a
}

func (a Amount) minus(b Amount) Amount {
	a.Millis, a.CPUMillis, a.HostBytes = a.Millis-b.Millis, a.CPUMillis-b.CPUMillis, a.HostBytes-b.HostBytes
	for k := range a.kinds {
		a.kinds[k] -= b.kinds[k]
	}
	return a
}

// most has of each resource the larger amount.
func (a Amount) most(b Amount) Amount {
	a.Millis, a.CPUMillis, a.HostBytes = max(a.Millis, b.Millis), max(a.CPUMillis, b.CPUMillis), max(a.HostBytes, b.HostBytes)
	for k := range a.kinds {
		a.kinds[k] = max(a.kinds[k], b.kinds[k])
	}
	return a
}

func (a Amount) within(b Amount) bool { return a.over(b) < 0 }

// over is the first resource of which a is more than b; -1 when it is none.
func (a Amount) over(b Amount) int {
	for i := range resources {
		if a.of(i) > b.of(i) {
			return i
		}
	}
	return -1
}

// enough reports whether a total stays within a bound in what a demand asks for. Where it
// asks for nothing it is not in the way: claims of others may be above the bound there.
func (a Amount) enough(total, demand Amount) bool { return total.short(a, demand) < 0 }

// short is the first resource that a demand asks for and of which a is more than a bound; -1
// when it is none.
func (a Amount) short(bound, demand Amount) int {
	for i := range resources {
		if demand.of(i) > 0 && a.of(i) > bound.of(i) {
			return i
		}
	}
	return -1
}

// resources are the devices, the CPUs, the host memory, and each kind apart.
const resources = 3 + MaxKinds

func (a *Amount) of(resource int) int64 {
	switch resource {
	case 0:
		return a.Millis
	case 1:
		return a.CPUMillis
	case 2:
		return a.HostBytes
	}
	return a.kinds[resource-3]
}

// relieves reports whether an attempt that holds x frees something that a demand lacks; of
// another tenant's only what that one has borrowed may be taken.
func (a *account) relieves(x, lacking, demand Amount, foreign bool) bool {
	for i := range resources {
		if demand.of(i) > 0 && lacking.of(i) > 0 && x.of(i) > 0 && (!foreign || a.used.of(i) > a.own.of(i)) {
			return true
		}
	}
	return false
}

// undecided marks the devices of a demand that may be of several kinds, one of them counted
// apart: what it will count as is not known before it is placed. It is more than any quota.
const undecided = int64(1) << 50

// count adds devices of a kind to an amount, as an account counts them.
func (a *account) count(to *Amount, slot int, millis int64) {
	if slot >= 0 && a.apart&(1<<slot) != 0 {
		to.kinds[slot] += millis
	} else {
		to.Millis += millis
	}
}

// slot is a kind's place among those that are counted apart; -1 when it is not there.
func (c *Core) slot(kind string) int {
	for i, k := range c.kinds {
		if k == kind {
			return i
		}
	}
	return -1
}

// amountOf is what a demand will count for with its tenant.
func (c *Core) amountOf(a *account, d *job.Demand, hosts int) Amount {
	out := Amount{CPUMillis: d.CPUMillis * int64(hosts), HostBytes: d.HostBytes * int64(hosts)}
	for i := range d.Devices {
		g := &d.Devices[i]
		millis := int64(g.Count) * millisOf(g.Bytes, c.each)
		if a.apart == 0 {
			out.Millis += millis
			continue
		}
		kinds := g.Kinds()
		switch {
		case len(kinds) == 1:
			a.count(&out, c.slot(kinds[0]), millis)
		case kinds == nil || slices.ContainsFunc(kinds, func(k string) bool { s := c.slot(k); return s >= 0 && a.apart&(1<<s) != 0 }):
			out.Millis += undecided
		default:
			out.Millis += millis
		}
	}
	return out
}

// millisOf is what a reservation counts for; 0 bytes are a whole device. usable is the
// memory of an average device.
func millisOf(bytes int64, usable float64) int64 {
	if bytes == 0 || usable <= 0 {
		return 1000
	}
	return min(int64(1000*float64(bytes)/usable+0.5), 1000)
}

// countApart says which kinds are counted apart for each tenant, and what is its own and
// what it may borrow. In a cohort those are the kinds that any member bounds, or nobody
// could tell what is lent: a member that does not name one of them has none of its own.
func (c *Core) countApart(tenants []Tenant) {
	c.kinds = nil
	for _, t := range tenants {
		for _, q := range t.Kinds {
			if t.Quota && !slices.Contains(c.kinds, q.Kind) {
				c.kinds = append(c.kinds, q.Kind)
			}
		}
	}
	slices.Sort(c.kinds)
	c.kinds = c.kinds[:min(len(c.kinds), MaxKinds)]
	cohorts := map[string]uint8{}
	for _, a := range c.accounts {
		a.apart, a.names, a.own, a.extra = 0, c.kinds, a.Nominal, a.Borrow
		for _, q := range a.Kinds {
			if s := c.slot(q.Kind); a.Quota && s >= 0 {
				a.apart |= 1 << s
				a.own.kinds[s], a.extra.kinds[s] = q.Nominal, q.Borrow
			}
		}
		if a.cohort != nil {
			cohorts[a.Cohort] |= a.apart
		}
	}
	for _, a := range c.accounts {
		if a.cohort == nil {
			continue
		}
		for s := range c.kinds {
			a.cohort.nominal.kinds[s] += a.own.kinds[s]
			if bit := uint8(1) << s; cohorts[a.Cohort]&bit != 0 && a.apart&bit == 0 {
				a.apart |= bit
				a.extra.kinds[s] = undecided >> 1
			}
		}
	}
}

// first is the resource that a demand is named by.
func (a *Amount) first() int {
	if a.Millis > 0 {
		return 0
	}
	for k, n := range a.kinds {
		if n > 0 {
			return 3 + k
		}
	}
	if a.CPUMillis > 0 {
		return 1
	}
	return 2
}

// text names an amount of one resource.
func (a *account) text(x Amount, resource int) string {
	n := x.of(resource)
	switch {
	case resource == 0 && a.apart == 0:
		return trim(float64(n)/1000) + " devices"
	case resource == 0:
		return trim(float64(n)/1000) + " devices of other kinds"
	case resource == 1:
		return cpuText(n) + " CPUs"
	case resource == 2:
		return Size(n)
	}
	return trim(float64(n)/1000) + " devices of kind " + a.names[resource-3]
}

// apartText lists the kinds that are counted apart.
func (a *account) apartText() []string {
	var out []string
	for rest := a.apart; rest != 0; rest &= rest - 1 {
		out = append(out, a.names[bits.TrailingZeros8(rest)])
	}
	return out
}
