package device_test

import (
	"strings"
	"testing"

	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/device"
)

// Broken hardware is quarantined with its reason; an application's own errors are not its GPU's.
func TestJudge(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		reading device.Reading
		reason  string
	}{
		{device.Reading{}, ""},
		{device.Reading{XIDs: []uint64{13, 31, 43, 45}}, ""},
		{device.Reading{XIDs: []uint64{31, 79}}, "fell off the bus"},
		{device.Reading{UncorrectableECC: 2}, "2 uncorrectable"},
		{device.Reading{RowRemapFailed: true, RowRemapPending: true}, "replace"},
		{device.Reading{RowRemapPending: true}, "reset"},
		{device.Reading{Lost: "code 15"}, "lost"},
	} {
		got := device.Judge(c.reading)
		if got.OK != (c.reason == "") || !strings.Contains(got.Reason, c.reason) {
			t.Errorf("%+v: %+v", c.reading, got)
		}
	}
}
