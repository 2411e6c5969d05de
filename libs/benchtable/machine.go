package benchtable

import (
	"fmt"
	"os"
	"runtime"
	"strings"
)

// Machine names the machine and its load in one line: processor, cores, Go version, load average over the last minute. A
// figure from a busy machine must be recognisable as one.
func Machine() string {
	text := fmt.Sprintf("%s, %d cores, %s", processor(), runtime.NumCPU(), runtime.Version())
	if load, err := os.ReadFile("/proc/loadavg"); err == nil {
		first, _, _ := strings.Cut(string(load), " ")
		text += ", load " + first
	}
	return text
}

// processor is the model name, and the widest vector instructions that decide between our kernels.
func processor() string {
	model, vector := runtime.GOARCH, ""
	info, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return model
	}
	for line := range strings.Lines(string(info)) {
		key, value, _ := strings.Cut(line, ":")
		value = strings.TrimSpace(value)
		switch strings.TrimSpace(key) {
		case "model name":
			model = value
		case "flags":
			flags := " " + value + " "
			switch {
			case strings.Contains(flags, " avx512f "):
				vector = " (AVX-512)"
			case strings.Contains(flags, " avx2 "):
				vector = " (AVX2)"
			}
		}
	}
	return model + vector
}
