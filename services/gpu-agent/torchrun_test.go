package gpuagent_test

import (
	"cmp"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"testing"

	"github.com/google/uuid"

	fleetv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/fleet/v1"
	jobv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/job/v1"
)

// torchPython is a Python that has PyTorch.
func torchPython(t *testing.T) string {
	t.Helper()
	for _, python := range []string{os.Getenv("TRAINYARD_TEST_PYTHON"), filepath.Join("..", "..", ".cache", "torch", "bin", "python"), "python3"} {
		if python != "" && exec.Command(python, "-c", "import torch.distributed.run").Run() == nil {
			python, err := exec.LookPath(python)
			if err == nil {
				python, err = filepath.Abs(python)
			}
			if err != nil {
				t.Fatal(err)
			}
			return python
		}
	}
	t.Skip("SKIPPED: no Python with PyTorch; name one by TRAINYARD_TEST_PYTHON")
	return ""
}

// gloo adds up the ranks of all processes and leaves the sum under its own rank.
const gloo = `import os, sys
import torch, torch.distributed as dist
dist.init_process_group("gloo")
sum = torch.tensor([dist.get_rank() + 1])
dist.all_reduce(sum)
name = f"{dist.get_rank()} of {dist.get_world_size()}, local {os.environ['LOCAL_RANK']}: {sum.item()}"
open(os.path.join(os.path.dirname(os.path.abspath(__file__)), name), "w").close()
dist.destroy_process_group()
`

// A script under torchrun, without any option, finds its gang by what the agents put
// into its environment: two processes of one host, and one each of two hosts.
func TestTorchrun(t *testing.T) {
	t.Parallel()
	python := torchPython(t)
	for name, c := range map[string]struct {
		hosts, lanes int
		want         []string
	}{
		"one host":  {1, 2, []string{"0 of 2, local 0: 3", "1 of 2, local 1: 3"}},
		"two hosts": {2, 1, []string{"0 of 2, local 0: 3", "1 of 2, local 0: 3"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			script := "#!/bin/sh\nexport GLOO_SOCKET_IFNAME=lo\nexec " + python + " -m torch.distributed.run " + filepath.Join(dir, "train.py") + "\n"
			if err := cmp.Or(os.WriteFile(filepath.Join(dir, "train.py"), []byte(gloo), 0o600), os.WriteFile(filepath.Join(dir, "trainer"), []byte(script), 0o700)); err != nil {
				t.Fatal(err)
			}
			host, text, err := net.SplitHostPort(freePort(t))
			if err != nil {
				t.Fatal(err)
			}
			port, err := strconv.ParseUint(text, 10, 16)
			if err != nil {
				t.Fatal(err)
			}
			var benches []*bench
			job := uuid.NewString()
			for rank := range c.hosts {
				b := newBench(t, "--trainer-binary="+filepath.Join(dir, "trainer"), "--cpu-lane-memory=4GiB")
				a := &fleetv1.Assignment{
					JobId: job, Attempt: 1, Fence: 1, DeviceIds: []string{"cpu:0", "cpu:1"}[:c.lanes], ReservedBytes: []int64{3 << 30, 3 << 30}[:c.lanes],
					Spec:       &jobv1.JobSpec{DisplayName: "gang", Experiment: "test", Runtime: &jobv1.JobSpec_Command{Command: &jobv1.CommandSpec{Argv: []string{"x"}}}},
					Rendezvous: &fleetv1.Rendezvous{Address: host, Port: uint32(port), NodeRank: uint32(rank), NodeCount: uint32(c.hosts), Processes: 2},
				}
				b.scheduler.with(func() { b.scheduler.assign = append(b.scheduler.assign, a) })
				benches = append(benches, b)
			}
			for _, b := range benches {
				if exit := b.awaitExit(1); exit.Evidence.ExitCode != 0 {
					t.Errorf("%v", exit)
				}
			}
			for _, want := range c.want {
				if _, err := os.Stat(filepath.Join(dir, want)); err != nil {
					names, err := filepath.Glob(filepath.Join(dir, "*"))
					t.Errorf("no process %q; there are %q %v", want, slices.Sorted(slices.Values(names)), err)
				}
			}
		})
	}
}
