package placement

import (
	"fmt"
	"sort"
	"strings"
	"time"

	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/job"
)

// Problem is a demand that no known host could ever meet.
type Problem struct {
	// Path is the field inside the demand, such as "devices[0].memory_bytes".
	Path string
	Text string
}

// Impossible lists what of a demand is beyond every known node even when the
// node is empty. Blocked and faulty parts count: they may come back. With no
// known node there is nothing to compare with, so nothing is impossible.
func Impossible(nodes []Node, d *job.Demand) []Problem {
	if len(nodes) == 0 {
		return nil
	}
	var out []Problem
	add := func(path, format string, args ...any) {
		out = append(out, Problem{path, fmt.Sprintf(format, args...)})
	}
	matching := make([]*Node, 0, len(nodes))
	for i := range nodes {
		ok := true
		for k, v := range d.Labels {
			ok = ok && nodes[i].Labels[k] == v
		}
		if ok {
			matching = append(matching, &nodes[i])
		}
	}
	if len(matching) == 0 {
		add("labels", "no known host has the labels %s", labelText(d.Labels))
		return out
	}
	var cpu, host int64
	for _, n := range matching {
		cpu, host = max(cpu, n.CPUMillis), max(host, n.HostBytes)
	}
	if d.CPUMillis > cpu {
		add("cpu_millis", "%s CPUs is more than any host has (largest %s)", cpuText(d.CPUMillis), cpuText(cpu))
	}
	if d.HostBytes > host {
		add("host_memory_bytes", "%s is more than any host has (largest %s)", Size(d.HostBytes), Size(host))
	}
	for g, want := range d.Devices {
		most, largest, anyKind := 0, int64(0), false
		for _, n := range matching {
			have := 0
			for i := range n.Devices {
				dev := &n.Devices[i]
				if !dev.serves(&want) {
					continue
				}
				anyKind = true
				largest = max(largest, dev.Usable())
				if dev.Usable() >= want.Bytes {
					have++
				}
			}
			most = max(most, have)
		}
		path := fmt.Sprintf("devices[%d]", g)
		switch {
		case !anyKind && want.Kind != "":
			add(path+".kind", "no known host has a device of kind %q (known: %s)", want.Kind, kindText(nodes))
		case !anyKind:
			add(path, "no known host has a device")
		case want.Bytes > largest:
			add(path+".memory_bytes", "%s is more than any device has (largest %s)", Size(want.Bytes), Size(largest))
		case want.Count > most:
			add(path+".count", "%d is more than any host has of such devices (most %d)", want.Count, most)
		}
	}
	if len(out) > 0 {
		return out
	}
	want := needOf(d)
	for _, n := range matching {
		if _, why := fit(empty(n), &want, nil); why == fits {
			return nil
		}
	}
	add("devices", "no single host can hold all of it at once, even when empty")
	return out
}

func empty(n *Node) *Node {
	c := n.clone()
	c.Blocked, c.UsedCPU, c.UsedHost, c.aheadCPU, c.aheadHost = "", 0, 0, 0, 0
	for i := range c.Devices {
		d := &c.Devices[i]
		d.Fault, d.Held, d.Holders, d.Exclusive, d.ahead, d.kept = "", 0, 0, false, 0, false
	}
	return &c
}

// Explain says why a demand does not fit the nodes as they are, naming the
// nearest miss and, where ends are estimated, when it would fit.
func Explain(now time.Time, nodes []Node, d *job.Demand) Unplaced {
	if len(nodes) == 0 {
		return Unplaced{Reason: "no host has joined yet; start a gpu-agent"}
	}
	count := map[filter]int{}
	var blocks []string
	want := needOf(d)
	for i := range nodes {
		_, why := fit(&nodes[i], &want, nil)
		count[why]++
		if why == byBlock && len(blocks) < 3 {
			blocks = append(blocks, nodes[i].Name+": "+nodes[i].Blocked)
		}
	}
	open := len(nodes) - count[byBlock]
	if open == 0 {
		return Unplaced{Reason: fmt.Sprintf("no host takes new work (%s)", strings.Join(blocks, "; "))}
	}
	if p := Impossible(nodes, d); len(p) > 0 {
		texts := make([]string, len(p))
		for i := range p {
			texts[i] = p[i].Path + ": " + p[i].Text
		}
		return Unplaced{Reason: "waits for capacity that no known host has: " + strings.Join(texts, "; ")}
	}
	reason := nearest(nodes, d, count)
	u := Unplaced{Reason: reason}
	if at, job := freesAt(now, nodes, d); !at.IsZero() {
		u.At = at
		u.Reason += fmt.Sprintf("; frees in about %s, when job %s ends", roughly(at.Sub(now)), job)
	}
	for i := range nodes {
		if nodes[i].keepsRoom() {
			u.Reason += "; some room is kept for a job that is ahead"
			break
		}
	}
	if len(blocks) > 0 {
		u.Reason += fmt.Sprintf("; %d host(s) take no new work (%s)", count[byBlock], strings.Join(blocks, "; "))
	}
	return u
}

// nearest words the miss that the most promising hosts have: of the filters
// that refuse, the finest one, because those hosts came closest.
func nearest(nodes []Node, d *job.Demand, count map[filter]int) string {
	switch {
	case count[byMemory] > 0:
		return memoryMiss(nodes, d)
	case count[byWhole] > 0 || count[byDeviceCount] > 0:
		return wholeMiss(nodes, d)
	case count[byHost] > 0:
		var free int64
		where := ""
		for i := range nodes {
			n := &nodes[i]
			if f := n.freeHost(); n.Blocked == "" && (where == "" || f > free) {
				free, where = f, n.Name
			}
		}
		return fmt.Sprintf("needs %s of host memory; most free is %s on %s", Size(d.HostBytes), Size(free), where)
	case count[byCPU] > 0:
		var free int64
		where := ""
		for i := range nodes {
			n := &nodes[i]
			if f := n.freeCPU(); n.Blocked == "" && (where == "" || f > free) {
				free, where = f, n.Name
			}
		}
		return fmt.Sprintf("needs %s CPUs; most free is %s on %s", cpuText(d.CPUMillis), cpuText(free), where)
	case count[byLabel] > 0:
		return "needs a host with the labels " + labelText(d.Labels) + "; those that have them take no new work"
	}
	return "its devices are only on hosts that take no new work"
}

func memoryMiss(nodes []Node, d *job.Demand) string {
	g := d.Devices[0]
	for _, x := range d.Devices {
		if x.Bytes > g.Bytes {
			g = x
		}
	}
	var free int64
	where := ""
	roomy := 0
	for i := range nodes {
		n := &nodes[i]
		if n.Blocked != "" {
			continue
		}
		here := 0
		for k := range n.Devices {
			dev := &n.Devices[k]
			if !dev.serves(&g) || dev.Fault != "" {
				continue
			}
			f := dev.Free()
			if f >= g.Bytes {
				here++
			}
			if where == "" || f > free {
				free, where = f, n.Name+"/"+dev.ID
			}
		}
		roomy = max(roomy, here)
	}
	if g.Count > 1 {
		return fmt.Sprintf("needs %s on each of %d %s of one host; most with that much free on one host: %d; largest free is %s on %s",
			Size(g.Bytes), g.Count, noun(g.Kind), roomy, Size(free), where)
	}
	return fmt.Sprintf("needs %s on one %s; largest free is %s on %s", Size(g.Bytes), device(g.Kind), Size(free), where)
}

func wholeMiss(nodes []Node, d *job.Demand) string {
	var g job.DeviceDemand
	for _, x := range d.Devices {
		if x.Bytes == 0 && x.Count > g.Count || g.Count == 0 {
			g = x
		}
	}
	most, where, busy := -1, "", 0
	for i := range nodes {
		n := &nodes[i]
		if n.Blocked != "" {
			continue
		}
		here := 0
		for k := range n.Devices {
			dev := &n.Devices[k]
			if !dev.serves(&g) || dev.Fault != "" {
				continue
			}
			if dev.empty() {
				here++
			} else {
				busy++
			}
		}
		if here > most {
			most, where = here, n.Name
		}
	}
	want := fmt.Sprintf("%d whole %s on one host", g.Count, noun(g.Kind))
	if g.Count == 1 {
		want = "a whole " + device(g.Kind)
	}
	return fmt.Sprintf("needs %s; most free on one host is %d (%s); %d in use", want, max(most, 0), where, busy)
}

// freesAt replays the expected ends in order until the demand fits.
func freesAt(now time.Time, nodes []Node, d *job.Demand) (time.Time, string) {
	type end struct {
		node int
		r    Holder
		at   time.Time
	}
	var ends []end
	for i := range nodes {
		for _, h := range nodes[i].Holders {
			if !h.End.IsZero() {
				ends = append(ends, end{i, h, h.End})
			}
		}
	}
	sort.SliceStable(ends, func(i, k int) bool { return ends[i].at.Before(ends[k].at) })
	want := needOf(d)
	work := map[int]*Node{}
	for _, e := range ends {
		n := work[e.node]
		if n == nil {
			c := nodes[e.node].clone()
			n = &c
			work[e.node] = n
		}
		n.release(e.r.Shares, e.r.CPUMillis, e.r.HostBytes)
		if _, why := fit(n, &want, nil); why == fits {
			at := e.at
			if at.Before(now) {
				at = now
			}
			return at, e.r.Job
		}
	}
	return time.Time{}, ""
}

// Size words bytes in the largest binary unit that keeps them readable.
func Size(b int64) string {
	switch {
	case b >= 1<<30:
		return trim(float64(b)/(1<<30)) + " GiB"
	case b >= 1<<20:
		return trim(float64(b)/(1<<20)) + " MiB"
	case b >= 1<<10:
		return trim(float64(b)/(1<<10)) + " KiB"
	}
	return fmt.Sprintf("%d B", b)
}

func trim(f float64) string {
	return strings.TrimSuffix(fmt.Sprintf("%.1f", f), ".0")
}

func cpuText(millis int64) string { return trim(float64(millis) / 1000) }

func roughly(d time.Duration) string {
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%d s", max(int(d.Seconds()), 1))
	case d < 2*time.Hour:
		return fmt.Sprintf("%d min", int(d.Minutes()+0.5))
	}
	return fmt.Sprintf("%d h", int(d.Hours()+0.5))
}

func device(kind string) string {
	if kind == "" {
		return "device"
	}
	return kind + " device"
}

func noun(kind string) string { return device(kind) + "s" }

func labelText(labels map[string]string) string {
	out := make([]string, 0, len(labels))
	for k, v := range labels {
		out = append(out, k+"="+v)
	}
	sort.Strings(out)
	return strings.Join(out, ", ")
}

func kindText(nodes []Node) string {
	seen := map[string]bool{}
	var out []string
	for i := range nodes {
		for k := range nodes[i].Devices {
			if kind := nodes[i].Devices[k].Kind; !seen[kind] {
				seen[kind] = true
				out = append(out, kind)
			}
		}
	}
	if len(out) == 0 {
		return "none"
	}
	sort.Strings(out)
	return strings.Join(out, ", ")
}

// One says whether a demand fits one node now, and if not, why.
func One(now time.Time, n *Node, d *job.Demand) (Unplaced, bool) {
	return Anywhere(now, []Node{*n}, d)
}

// Anywhere says whether a demand fits any of the nodes now, and if not, why.
func Anywhere(now time.Time, nodes []Node, d *job.Demand) (Unplaced, bool) {
	want := needOf(d)
	for i := range nodes {
		if _, why := fit(&nodes[i], &want, nil); why == fits {
			return Unplaced{}, true
		}
	}
	return Explain(now, nodes, d), false
}
