//go:build cgo

package nvmlsource

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/NVIDIA/go-nvml/pkg/nvml"

	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/device"
)

// Memory figures of a GPU that no reservation may use. The context size is
// NVIDIA's usual 300-600 MB; learned peaks make it irrelevant over time.
const (
	headroom = 512 << 20
	overhead = 512 << 20
)

// handle is one leasable unit. board is the GPU that it is, or is a slice of.
type handle struct {
	device, board nvml.Device
	info          device.Device
}

// list fills handles with what the driver has now and subscribes to its errors.
// A GPU that does not answer is left out: whoever knew it will miss it.
func (s *Source) list() error {
	count, ret := s.lib.DeviceGetCount()
	if err := check("device count", ret); err != nil {
		return err
	}
	s.handles, s.gpus, s.xids, s.listed = nil, count, map[string][]uint64{}, time.Now()
	var boards []handle
	for i := range count {
		d, ret := s.lib.DeviceGetHandleByIndex(i)
		if ret != nvml.SUCCESS {
			continue
		}
		board, err := s.describe(d, i)
		if err != nil {
			continue
		}
		boards = append(boards, board)
	}
	s.link(boards)
	for _, board := range boards {
		if s.supported["nvmlDeviceGetMigMode"] {
			if current, _, ret := board.device.GetMigMode(); ret == nvml.SUCCESS && current == nvml.DEVICE_MIG_ENABLE {
				s.handles = append(s.handles, s.instances(board)...)
				continue
			}
		}
		s.handles = append(s.handles, board)
	}
	s.watch(boards)
	return nil
}

func (s *Source) describe(d nvml.Device, index int) (handle, error) {
	uuid, ret := d.GetUUID()
	if err := check("UUID", ret); err != nil {
		return handle{}, err
	}
	name, ret := d.GetName()
	if err := check("name", ret); err != nil {
		return handle{}, err
	}
	memory, ret := d.GetMemoryInfo()
	if err := check("memory", ret); err != nil {
		return handle{}, err
	}
	h := handle{device: d, board: d, info: device.Device{
		ID: uuid, Kind: name, MemoryBytes: int64(memory.Total), HeadroomBytes: headroom, OverheadBytes: overhead,
		Isolation: device.Watched, NUMANode: -1, Index: index,
	}}
	if s.supported["nvmlDeviceGetPciInfo_v3"] {
		if pci, ret := d.GetPciInfo(); ret == nvml.SUCCESS {
			h.info.PCIBusID = text(pci.BusId[:])
			h.info.NUMANode = s.numaNode(h.info.PCIBusID)
		}
	}
	return h, nil
}

// instances lists a GPU's MIG slices; each is a device of its own, isolated by
// the hardware. The driver names them "<product> MIG 1g.10gb".
func (s *Source) instances(board handle) []handle {
	count, ret := board.device.GetMaxMigDeviceCount()
	if ret != nvml.SUCCESS {
		return nil
	}
	var out []handle
	for i := range count {
		d, ret := board.device.GetMigDeviceHandleByIndex(i)
		if ret != nvml.SUCCESS {
			continue // slots need not be filled
		}
		h, err := s.describe(d, board.info.Index)
		if err != nil {
			continue
		}
		h.board, h.info.ParentID, h.info.Isolation = board.device, board.info.ID, device.MIG
		h.info.PCIBusID, h.info.NUMANode = board.info.PCIBusID, board.info.NUMANode
		if at := strings.LastIndex(h.info.Kind, "MIG "); at >= 0 {
			h.info.MIGProfile = h.info.Kind[at+len("MIG "):]
		}
		out = append(out, h)
	}
	return out
}

// link finds which GPUs share NVLinks: directly, or through the host's switches,
// which join every GPU that has a link to one.
func (s *Source) link(boards []handle) {
	if !s.supported["nvmlDeviceGetNvLinkState"] || !s.supported["nvmlDeviceGetNvLinkRemotePciInfo_v2"] {
		return
	}
	byAddress := map[string]string{}
	for _, b := range boards {
		byAddress[b.info.PCIBusID] = b.info.ID
	}
	links := map[string][]string{}
	const fabric = "switch"
	for _, b := range boards {
		for link := range nvml.NVLINK_MAX_LINKS {
			state, ret := b.device.GetNvLinkState(link)
			if ret != nvml.SUCCESS {
				break // there are no more
			}
			if state != nvml.FEATURE_ENABLED {
				continue
			}
			peer := ""
			if s.supported["nvmlDeviceGetNvLinkRemoteDeviceType"] {
				if kind, ret := b.device.GetNvLinkRemoteDeviceType(link); ret == nvml.SUCCESS && kind == nvml.NVLINK_DEVICE_TYPE_SWITCH {
					peer = fabric
				}
			}
			if peer == "" {
				if pci, ret := b.device.GetNvLinkRemotePciInfo(link); ret == nvml.SUCCESS {
					peer = byAddress[text(pci.BusId[:])]
				}
			}
			if peer != "" {
				links[b.info.ID], links[peer] = append(links[b.info.ID], peer), append(links[peer], b.info.ID)
			}
		}
	}
	groups := device.LinkGroups(links)
	for i := range boards {
		boards[i].info.LinkGroup = groups[boards[i].info.ID]
	}
}

// numaNode asks the kernel, which writes -1 where there is only one node.
func (s *Source) numaNode(address string) int {
	// NVML writes the domain with eight digits, the kernel with four.
	address = strings.ToLower(address)
	if domain, rest, ok := strings.Cut(address, ":"); ok && len(domain) == 8 {
		address = domain[4:] + ":" + rest
	}
	raw, err := os.ReadFile(filepath.Join(s.sysfs, "bus/pci/devices", address, "numa_node"))
	if err != nil {
		return -1
	}
	node, err := strconv.Atoi(strings.TrimSpace(string(raw)))
	if err != nil {
		return -1
	}
	return node
}

// text is a C string.
func text(raw []int8) string {
	var b strings.Builder
	for _, c := range raw {
		if c == 0 {
			break
		}
		b.WriteByte(byte(c))
	}
	return b.String()
}

// watch subscribes to critical errors; a driver that has no events is read
// without them.
func (s *Source) watch(boards []handle) {
	if !s.supported["nvmlEventSetCreate"] {
		return
	}
	set, ret := s.lib.EventSetCreate()
	if ret != nvml.SUCCESS {
		return
	}
	s.events = set
	for _, b := range boards {
		_ = b.device.RegisterEvents(nvml.EventTypeXidCriticalError, set) // not on every product
	}
}

// maxXIDs bounds what is remembered of a device that reports without end.
const maxXIDs = 64

// collectEvents takes what the driver has reported since the last call.
func (s *Source) collectEvents() {
	if s.events == nil || s.down != "" {
		return
	}
	for range maxXIDs {
		event, ret := s.events.Wait(0)
		if ret != nvml.SUCCESS {
			return
		}
		if event.EventType != nvml.EventTypeXidCriticalError {
			continue
		}
		uuid, ret := event.Device.GetUUID()
		if ret != nvml.SUCCESS {
			continue
		}
		for _, h := range s.handles {
			if (h.info.ID == uuid || h.info.ParentID == uuid && s.concerns(event, h)) && len(s.xids[h.info.ID]) < maxXIDs {
				s.xids[h.info.ID] = append(s.xids[h.info.ID], event.EventData)
			}
		}
	}
}

// concerns says whether an error of a GPU in MIG mode is about an instance: it
// names one, or the whole GPU.
func (s *Source) concerns(event nvml.EventData, h handle) bool {
	const whole = ^uint32(0)
	if event.GpuInstanceId == whole || !s.supported["nvmlDeviceGetGpuInstanceId"] {
		return true
	}
	id, ret := h.device.GetGpuInstanceId()
	return ret != nvml.SUCCESS || uint32(id) == event.GpuInstanceId
}

// refresh follows a driver that was restarted and devices that came or went. It
// lists again no more often than relistEvery: a dying board makes that slow.
// While the driver is down nothing else is asked of it: its library may be gone.
func (s *Source) refresh() {
	if s.down == "" {
		switch count, ret := s.lib.DeviceGetCount(); {
		case ret != nvml.SUCCESS:
			s.down = fmt.Sprintf("the driver does not answer (NVML code %d)", int32(ret))
		case count == s.gpus && !s.stale:
			return
		}
	}
	if time.Since(s.listed) < s.relistEvery {
		return
	}
	s.listed = time.Now()
	// After a restart of the driver every handle is stale: begin anew. An error of
	// the old session says nothing about the new one.
	_ = s.shutdown()
	if ret := s.lib.Init(); ret != nvml.SUCCESS {
		s.down = fmt.Sprintf("the driver is gone (NVML code %d)", int32(ret))
		return
	}
	before := s.handles
	if err := s.list(); err != nil {
		s.handles, s.down = before, err.Error()
		return
	}
	s.down, s.stale = "", false
}
