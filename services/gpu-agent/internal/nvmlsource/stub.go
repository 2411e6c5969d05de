//go:build !cgo

// Package nvmlsource reads NVIDIA devices through NVML. This build has no cgo,
// so it only says so.
package nvmlsource

import (
	"errors"

	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/device"
)

// ErrNoDriver: the host has no usable NVIDIA driver, or this program cannot ask.
var ErrNoDriver = errors.New("this program was built without cgo and cannot use NVML")

// Open always fails.
func Open(string) (device.Source, error) { return nil, ErrNoDriver }
