//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"

	jobv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/job/v1"
	"github.com/ultrathink-pilot/trainyard/tools/internal/mesh"
)

// patience bounds every wait: a mesh on two busy cores may take long, a hang must not.
const patience = 4 * time.Minute

// binDir has the programs that a user runs.
func binDir(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs(filepath.Join("..", "..", "bin"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "trainyard")); err != nil {
		t.Fatalf("%v: run `make build` first", err)
	}
	return dir
}

// yard is a running mesh.
type yard struct {
	*mesh.Clients
	desc  *mesh.Mesh
	state string
	bin   string
	up    *exec.Cmd
	out   *syncBuffer
	ended chan error
}

// start runs `trainyard up` on a fresh state directory and waits until it is ready. The mesh is stopped with SIGINT when the test
// ends, and must then have left nothing behind.
func start(t *testing.T, args ...string) *yard {
	t.Helper()
	y := launch(t, stateDir(t), args...)
	t.Cleanup(func() {
		if err := y.Close(); err != nil {
			t.Errorf("close clients: %v", err)
		}
		if err := y.stop(); err != nil {
			t.Errorf("trainyard up did not end cleanly after SIGINT: %v\n%s", err, y.out)
		}
		if left := processesOf(y.state); len(left) > 0 {
			t.Errorf("left behind: %v", left)
		}
		if t.Failed() {
			y.dumpLogs(t)
		}
	})
	return y
}

// stateDir is searchable by the user that Postgres runs as: t.TempDir is 0700 below a parent that need not be.
func stateDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "trainyard-e2e-")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Errorf("remove the state directory: %v", err)
		}
	})
	return dir
}

func launch(t *testing.T, state string, args ...string) *yard {
	t.Helper()
	y := &yard{state: state, bin: binDir(t), out: &syncBuffer{}, ended: make(chan error, 1)}
	y.up = exec.Command(filepath.Join(y.bin, "trainyard"), append([]string{"up", "--state=" + state}, args...)...)
	y.up.Stdout, y.up.Stderr = y.out, y.out
	y.up.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := y.up.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { y.ended <- y.up.Wait() }()
	eventually(t, "the mesh is up", func() error {
		select {
		case err := <-y.ended:
			y.ended <- err
			t.Fatalf("trainyard up ended: %v\n%s", err, y.out)
		default:
		}
		m, err := mesh.Find(state, true)
		if err != nil {
			return err
		}
		y.desc = m
		return nil
	})
	clients, err := y.desc.Connect(nil)
	if err != nil {
		t.Fatal(err)
	}
	y.Clients = clients
	return y
}

// stop sends SIGINT and waits.
func (y *yard) stop() error {
	if err := y.up.Process.Signal(syscall.SIGINT); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case err := <-y.ended:
		y.ended <- err
		return err
	case <-time.After(time.Minute):
		return errors.Join(errors.New("still running after a minute"), syscall.Kill(-y.up.Process.Pid, syscall.SIGKILL))
	}
}

// trainyard runs a command of the CLI against this mesh.
func (y *yard) trainyard(args ...string) (stdout, stderr string, err error) {
	return run(filepath.Join(y.bin, "trainyard"), append(args, "--state="+y.state)...)
}

func run(name string, args ...string) (stdout, stderr string, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err = cmd.Run()
	return out.String(), errs.String(), err
}

// unit returns the process that the launcher runs under a name.
func (y *yard) unit(name string) (mesh.Process, error) {
	data, err := os.ReadFile(filepath.Join(y.state, "processes.json"))
	if err != nil {
		return mesh.Process{}, err
	}
	units := map[string]mesh.Process{}
	if err := json.Unmarshal(data, &units); err != nil {
		return mesh.Process{}, err
	}
	p, ok := units[name]
	if !ok {
		return mesh.Process{}, fmt.Errorf("no unit %q among %v", name, units)
	}
	return p, nil
}

// trainers returns the trainer processes of this mesh by job.
func (y *yard) trainers() []mesh.Process {
	var found []mesh.Process
	for _, pid := range processesOf(y.state) {
		environ, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
		if err != nil || !bytes.Contains(environ, []byte("TRAINYARD_TOKEN_FD=")) {
			continue
		}
		if p, err := mesh.ProcessOf(pid); err == nil {
			found = append(found, p)
		}
	}
	return found
}

// processesOf returns every process that names the state directory in its arguments or environment.
func processesOf(state string) []int {
	var found []int
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		cmdline, err1 := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline"))
		environ, err2 := os.ReadFile(filepath.Join("/proc", e.Name(), "environ"))
		if err1 == nil && bytes.Contains(cmdline, []byte(state)) || err2 == nil && bytes.Contains(environ, []byte(state)) {
			if p, err := mesh.ProcessOf(pid); err == nil && p.Alive() {
				found = append(found, pid)
			}
		}
	}
	return found
}

func (y *yard) dumpLogs(t *testing.T) {
	t.Helper()
	t.Logf("trainyard up:\n%s", y.out)
	logs, err := filepath.Glob(filepath.Join(y.state, "logs", "*"))
	if err != nil {
		t.Error(err)
	}
	for _, path := range logs {
		data, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		lines := strings.Split(strings.TrimSpace(string(data)), "\n")
		t.Logf("%s, last lines:\n%s", filepath.Base(path), strings.Join(lines[max(0, len(lines)-30):], "\n"))
	}
}

// eventually polls until a condition holds.
func eventually(t *testing.T, what string, condition func() error) {
	t.Helper()
	var err error
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		if err = condition(); err == nil {
			return
		}
	}
	t.Fatalf("%s: not within %v: %v", what, patience, err)
}

func newID() string { return uuid.NewString() }

// specialist is a small but real training job.
func specialist(kind jobv1.Specialist, epochs uint32) *jobv1.JobSpec {
	name := strings.ToLower(strings.TrimPrefix(kind.String(), "SPECIALIST_"))
	return &jobv1.JobSpec{
		DisplayName: name + "-e2e", Experiment: "specialists/" + name, ModelName: name + "_specialist",
		PriorityClass: jobv1.PriorityClass_PRIORITY_CLASS_INTERACTIVE,
		Resources:     &jobv1.Resources{Devices: []*jobv1.DeviceDemand{{MemoryBytes: 512 << 20}}, CpuMillis: 500, HostMemoryBytes: 512 << 20},
		Runtime: &jobv1.JobSpec_Native{Native: &jobv1.NativeSpec{
			Specialist: kind, Symbol: "SPX", Timeframe: "1d", Reward: jobv1.Reward_REWARD_RISK_ADJUSTED, Seed: 7,
			MaxEpochs: epochs, Patience: epochs,
		}},
	}
}

func (y *yard) submit(ctx context.Context, t *testing.T, spec *jobv1.JobSpec) *jobv1.Job {
	t.Helper()
	answer, err := y.Jobs.SubmitJob(ctx, &jobv1.SubmitJobRequest{RequestId: newID(), Spec: spec})
	if err != nil {
		t.Fatalf("submit: %v", err)
	}
	return answer.GetJob()
}

// finish waits until a job has ended and returns it.
func (y *yard) finish(ctx context.Context, t *testing.T, id string) *jobv1.Job {
	t.Helper()
	var job *jobv1.Job
	eventually(t, "job "+id+" ends", func() error {
		answer, err := y.Jobs.GetJob(ctx, &jobv1.GetJobRequest{JobId: id})
		if err != nil {
			return err
		}
		job = answer.GetJob()
		switch job.GetState() {
		case jobv1.Job_STATE_SUCCEEDED, jobv1.Job_STATE_FAILED, jobv1.Job_STATE_CANCELLED:
			return nil
		default:
			return fmt.Errorf("it is %v: %s", job.GetState(), job.GetStateReason())
		}
	})
	return job
}
