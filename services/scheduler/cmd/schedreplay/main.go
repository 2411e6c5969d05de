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
  schedreplay kueue [--preset 15k|50k] [--cohorts N] [--queues N] [--quota CPUS] [--borrow CPUS] [--min-runtime 1m]
                    [--class NAME:COUNT:CPUS:RUNS:INTERVAL:PRIORITY]... [-o table|json]
  schedreplay snapshot FILE [-o table|json]

openb places an arrival list by the published protocol of the openb traces and prints the allocated share of the devices in
percent of the capacity, by how much demand had arrived. Node list: sn, cpu_milli, memory_mib, gpu, model. Pod list: name,
cpu_milli, memory_mib, num_gpu, gpu_milli, gpu_spec (models joined by a bar; may be missing).

muri runs a job trace in virtual time and prints completion times. Cluster: num_switch, num_node_p_switch, num_gpu_p_node.
Trace: job_id, num_gpu, submit_time (ms), iterations, model_name, iteration_time (ms). Overheads: num_gpu and one column per
model, in seconds; without the flag the file start_overhead_seconds.csv beside the trace, where there is one. A pair that is
missing costs 10 s. The default policy is the product's own and does not know run times; srtf and srsf do.

kueue generates the load of Kueue's scheduler test in virtual time: per cohort and queue so many workloads of each class, one
every INTERVAL; a queue has its own quota and borrows from its cohort. --class replaces the preset's classes and may be
repeated. Admission is the time from creation to start.

snapshot plans a captured round of the scheduler again and prints what it decides and why. It fails when the file also holds
the plan of then and this one differs.

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
		case "kueue":
			return sim.RunKueue(os.Args[2:], os.Stdout)
		case "snapshot":
			return sim.RunSnapshot(os.Args[2:], os.Stdout)
		}
		return fmt.Errorf("unknown command %q\n%s", os.Args[1], usage)
	})
}
