// Command schedreplay runs the scheduler's decision core over a trace of another
// cluster and prints what it would have done.
package main

import (
	"context"
	"fmt"
	"io"
	"os"

	"github.com/ultrathink-pilot/trainyard/libs/lifecycle"
	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/sim"
)

const usage = `Usage:
  schedreplay openb --nodes FILE --pods FILE [--seeds 42-51] [--inflation 1.3] [--policy default|first-fit] [-o table|json]

openb places an arrival list (node list: sn, cpu_milli, memory_mib, gpu, model; pod list: name, cpu_milli, memory_mib,
num_gpu, gpu_milli, gpu_spec) by the published protocol of the openb traces and prints the allocated share of the devices
in percent of the capacity, by how much demand had arrived.
`

func main() {
	lifecycle.Main(func(context.Context) error {
		if len(os.Args) < 2 || os.Args[1] == "--help" || os.Args[1] == "-h" {
			_, err := io.WriteString(os.Stdout, usage)
			return err
		}
		switch os.Args[1] {
		case "openb":
			return sim.RunOpenb(os.Args[2:], os.Stdout)
		}
		return fmt.Errorf("unknown trace format %q\n%s", os.Args[1], usage)
	})
}
