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
  schedreplay openb --nodes FILE --pods FILE [--seeds 42-51] [--inflation 1.3] [--policy default,first-fit,best-fit,fgd|all] [-o table|json]
  schedreplay muri --cluster FILE --trace FILE [--overheads FILE] [--policy default,tiresias-l,srtf,srsf,fifo,fifo-skip|all] [-o table|json]

openb places an arrival list by the published protocol of the openb traces and prints the allocated share of the devices in
percent of the capacity, by how much demand had arrived. Node list: sn, cpu_milli, memory_mib, gpu, model. Pod list: name,
cpu_milli, memory_mib, num_gpu, gpu_milli, gpu_spec (models joined by a bar; may be missing).

muri runs a job trace in virtual time and prints completion times. Cluster: num_switch, num_node_p_switch, num_gpu_p_node.
Trace: job_id, num_gpu, submit_time (ms), iterations, model_name, iteration_time (ms). Overheads: num_gpu and one column per
model, in seconds; without the flag the file start_overhead_seconds.csv beside the trace, where there is one. A pair that is
missing costs 10 s. The default policy is the product's own and does not know run times; srtf and srsf do.

Columns may stand in any order; columns with other names are ignored.
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
		case "muri":
			return sim.RunMuri(os.Args[2:], os.Stdout)
		}
		return fmt.Errorf("unknown command %q\n%s", os.Args[1], usage)
	})
}
