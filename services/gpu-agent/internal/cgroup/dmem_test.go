package cgroup

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// Each device's limit is written for its own region, under the kernel's way to write
// its address; one that has no region leaves all of them as they are.
func TestDeviceLimits(t *testing.T) {
	t.Parallel()
	const current = "drm/0000:3b:00.0/vram0 12550144\nnvidia/0000:5e:00.0/fb 0\ndrm/0001:3b:00.0/vram0 7\n"
	for name, c := range map[string]struct {
		limits map[string]int64
		want   []string
	}{
		"one":             {map[string]int64{"00000000:3B:00.0": 100}, []string{"drm/0000:3b:00.0/vram0 100"}},
		"two":             {map[string]int64{"00000000:5E:00.0": 2, "00000000:3B:00.0": 1}, []string{"drm/0000:3b:00.0/vram0 1", "nvidia/0000:5e:00.0/fb 2"}},
		"another domain":  {map[string]int64{"0001:3b:00.0": 5}, []string{"drm/0001:3b:00.0/vram0 5"}},
		"one is missing":  {map[string]int64{"00000000:3B:00.0": 1, "00000000:AF:00.0": 1}, nil},
		"part of an id":   {map[string]int64{"3b:00.0": 1}, nil},
		"without address": {map[string]int64{"": 1}, nil},
	} {
		got, ok := deviceLimits(current, c.limits)
		if !slices.Equal(got, c.want) || ok != (c.want != nil) {
			t.Errorf("%s: %q %v", name, got, ok)
		}
	}
}

// In a tree as the kernel shows it the limit lands in the group's file; without the
// controller, and in version 1, nothing is claimed.
func TestLimitDevices(t *testing.T) {
	t.Parallel()
	limits := map[string]int64{"00000000:3B:00.0": 100}
	g := &Group{Dir: t.TempDir(), V2: true}
	if ok, err := g.LimitDevices(limits); ok || err != nil {
		t.Fatalf("without the controller: %v %v", ok, err)
	}
	for name, text := range map[string]string{"dmem.current": "drm/0000:3b:00.0/vram0 0\n", "dmem.max": ""} {
		if err := os.WriteFile(filepath.Join(g.Dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if ok, err := g.LimitDevices(nil); ok || err != nil {
		t.Fatalf("nothing to bound: %v %v", ok, err)
	}
	if ok, err := g.LimitDevices(limits); !ok || err != nil {
		t.Fatal(ok, err)
	}
	if raw, err := os.ReadFile(filepath.Join(g.Dir, "dmem.max")); err != nil || string(raw) != "drm/0000:3b:00.0/vram0 100" {
		t.Errorf("%q %v", raw, err)
	}
	old := &Group{Dir: g.Dir}
	if ok, err := old.LimitDevices(limits); ok || err != nil {
		t.Errorf("version 1: %v %v", ok, err)
	}
	if err := os.Remove(filepath.Join(g.Dir, "dmem.max")); err != nil {
		t.Fatal(err)
	}
	if ok, err := g.LimitDevices(limits); ok || err == nil {
		t.Errorf("a limit that was not taken: %v %v", ok, err)
	}
}
