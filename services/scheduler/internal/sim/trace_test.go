package sim_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/sim"
)

// All mistakes of a trace are named at once, each with its line.
func TestTracesWithMistakesAreNamed(t *testing.T) {
	t.Parallel()
	nodes := func(in string) error { _, err := sim.ReadNodes(strings.NewReader(in)); return err }
	pods := func(in string) error { _, err := sim.ReadPods(strings.NewReader(in)); return err }
	jobs := func(in string) error { _, err := sim.ReadJobs(strings.NewReader(in), nil); return err }
	cluster := func(in string) error { _, err := sim.ReadCluster(strings.NewReader(in)); return err }
	for name, c := range map[string]struct {
		read func(string) error
		in   string
		says []string
	}{
		"no column":  {nodes, "sn,cpu_milli\n", []string{"line 1: the header lacks the columns memory_mib, gpu"}},
		"several":    {nodes, "sn,cpu_milli,memory_mib,gpu,model\nn1,x,1,1.5,T4\n\nn1,1,-1,1,T4\n", []string{`line 2: cpu_milli "x" is not a number`, `line 2: gpu "1.5" is not a whole number`, "line 4: memory_mib -1 is not between", `line 4: sn "n1" is on line 2 already`}},
		"short row":  {nodes, "sn,cpu_milli,memory_mib,gpu\nn1,1\n", []string{"line 2: 2 columns, the header has 4"}},
		"empty":      {nodes, "", []string{"the file is empty"}},
		"only head":  {pods, "name,cpu_milli,memory_mib,num_gpu,gpu_milli\n", []string{"no pod follows the header"}},
		"share":      {pods, "name,cpu_milli,memory_mib,num_gpu,gpu_milli\np,1,1,1,1200\nq,1,1,1,0\n", []string{"line 2: gpu_milli 1200 is not between 1 and 1000", "line 3: gpu_milli 0 is not between"}},
		"job":        {jobs, "job_id,num_gpu,submit_time,iterations,model_name,iteration_time\n1,0,0,1,m,1\n1,1,-5,1,m,\n", []string{"line 2: num_gpu 0", "line 3: submit_time -5", "line 3: iteration_time is empty", `line 3: job_id "1" is on line 2`}},
		"two":        {cluster, "num_switch,num_node_p_switch,num_gpu_p_node\n1,8,8\n1,8,8\n", []string{"line 3: a second cluster"}},
		"no cluster": {cluster, "num_switch,num_node_p_switch,num_gpu_p_node\n", []string{"no cluster follows"}},
	} {
		err := c.read(c.in)
		for _, want := range c.says {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v does not say %q", name, err, want)
			}
		}
	}
}

// Columns stand in any order, a byte order mark and line ends of another system
// do no harm, and several models are one wish.
func TestTracesAreReadByTheirHeader(t *testing.T) {
	t.Parallel()
	pods, err := sim.ReadPods(strings.NewReader("\ufeffgpu_spec,num_gpu,gpu_milli,name,memory_mib,cpu_milli,extra\r\nV2|V1|V2,1,500,b,10,2000,x\r\n,0,,a,10,0,\r\n"))
	if err != nil {
		t.Fatal(err)
	}
	if pods[0].Name != "a" || pods[0].Demand.CPUMillis != 100 || len(pods[0].Demand.Devices) != 0 {
		t.Errorf("first by name: %+v", pods[0])
	}
	if d := pods[1].Demand.Devices[0]; d.Kind != "V1|V2" || d.Bytes != 500 || !d.Accepts("V2") || d.Accepts("V") {
		t.Errorf("second: %+v", pods[1])
	}
}

func write(t *testing.T, dir, name, text string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// A small cluster of two kinds: whatever cannot run is counted and does no harm.
func TestImpossiblePodsAndJobsAreCounted(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	nodes := write(t, dir, "nodes.csv", "sn,cpu_milli,memory_mib,gpu,model\na,64000,1000,2,A\nb,64000,1000,4,B\nc,64000,1000,0,\n")
	pods := write(t, dir, "pods.csv", "name,cpu_milli,memory_mib,num_gpu,gpu_milli,gpu_spec\np1,1000,1,16,1000,\np2,1000,1,1,1000,A\np3,1000,1,1,1000,C\np4,1000,1,1,500,A|B\np5,1000,1,0,0,\n")
	var out bytes.Buffer
	if err := sim.RunOpenb([]string{"--nodes", nodes, "--pods", pods, "--seeds", "1-2", "--policy", "all"}, &out); err != nil {
		t.Fatal(err)
	}
	if text := out.String(); strings.Count(text, "mean") != 4 {
		t.Errorf("%s", text)
	}
	cluster := write(t, dir, "cluster.csv", "num_switch,num_node_p_switch,num_gpu_p_node\n1,2,4\n")
	trace := write(t, dir, "trace.csv", "job_id,num_gpu,submit_time,iterations,model_name,iteration_time\nx,9,0,10,m,1000\ny,8,0,1000,m,1000\nz,1,5000,10,m,1000\n")
	out.Reset()
	if err := sim.RunMuri([]string{"--cluster", cluster, "--trace", trace, "--policy", "all"}, &out); err != nil {
		t.Fatal(err)
	}
	if text := out.String(); !strings.Contains(text, "1 job(s) ask for more devices than the cluster has and are left out: [x]") {
		t.Errorf("%s", text)
	}
	err := sim.RunMuri([]string{"--policy", "magic", "-o", "xml"}, &out)
	for _, want := range []string{"--policy \"magic\" is unknown", "-o \"xml\"", "--cluster is required", "--trace is required"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v does not say %q", err, want)
		}
	}
}
