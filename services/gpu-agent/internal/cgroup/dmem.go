package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// LimitDevices bounds the group's memory on devices, given in bytes by their PCI bus
// ids, by the kernel's dmem controller: then the driver refuses the allocation itself.
// It says whether all of them are bounded; a kernel (before 6.14), a hierarchy or a
// driver that cannot bounds none. Either all are or none is: half of a promise is no
// isolation that could be named.
func (g *Group) LimitDevices(limits map[string]int64) (bool, error) {
	if !g.V2 || len(limits) == 0 {
		return false, nil
	}
	// The group lists the regions that drivers have registered; dmem.capacity is in the
	// root only, which a container does not see.
	current, err := os.ReadFile(filepath.Join(g.Dir, "dmem.current"))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	lines, ok := deviceLimits(string(current), limits)
	if !ok {
		return false, nil
	}
	for _, line := range lines {
		if err := write(filepath.Join(g.Dir, "dmem.max"), line); err != nil {
			return false, fmt.Errorf("bounding device memory: %w", err)
		}
	}
	return true, nil
}

// deviceLimits returns what has to be written to bound each device, and whether each
// has a region of its own: "drm/0000:3b:00.0/vram0" is of the GPU at 0000:3b:00.0.
func deviceLimits(current string, limits map[string]int64) ([]string, bool) {
	var out []string
	for _, bus := range slices.Sorted(maps.Keys(limits)) {
		found := false
		for _, line := range strings.Split(current, "\n") {
			region, _, ok := strings.Cut(line, " ")
			if ok && slices.Contains(strings.Split(region, "/"), kernelBus(bus)) {
				out, found = append(out, fmt.Sprintf("%s %d", region, limits[bus])), true
			}
		}
		if !found {
			return nil, false
		}
	}
	return out, true
}

// kernelBus writes a PCI bus id as the kernel does: NVML's domain has eight digits,
// and its letters are capitals.
func kernelBus(id string) string {
	id = strings.ToLower(id)
	if domain, rest, ok := strings.Cut(id, ":"); ok && len(domain) == 8 && strings.HasPrefix(domain, "0000") {
		return domain[4:] + ":" + rest
	}
	return id
}
