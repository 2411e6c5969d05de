package gpuagent_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/ultrathink-pilot/trainyard/libs/identity"
	"github.com/ultrathink-pilot/trainyard/libs/rpcserver"
	fleetv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/fleet/v1"
	jobv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/job/v1"
	registryv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/registry/v1"
	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/disk"
)

// bench is one agent process between a fake scheduler and a fake registry.
type bench struct {
	t         *testing.T
	scheduler *scheduler
	registry  *registry
	args      []string
	state     string
	cmd       *exec.Cmd
}

func newBench(t *testing.T, extra ...string) *bench {
	t.Helper()
	// A unix socket's path is short; TempDir's is not.
	state, err := os.MkdirTemp("", "agent")
	if err != nil {
		t.Fatal(err)
	}
	authority, err := identity.NewAuthority(filepath.Join(state, "tls"))
	if err != nil {
		t.Fatal(err)
	}
	issue := func(role identity.Role) identity.Files {
		files, err := authority.Issue(role, "test")
		if err != nil {
			t.Fatal(err)
		}
		return files
	}
	b := &bench{t: t, scheduler: newScheduler(), registry: newRegistry(t), state: state}
	schedulerAddress := serve(t, issue(identity.RoleScheduler), func(s *rpcserver.Server) {
		fleetv1.RegisterSynchronizeServiceServer(s.GRPC(), b.scheduler)
	}, rpcserver.AllowTable{fleetv1.SynchronizeService_Synchronize_FullMethodName: {identity.RoleAgent}})
	allow := rpcserver.AllowTable{}
	for _, m := range registryv1.IngestService_ServiceDesc.Methods {
		allow["/"+registryv1.IngestService_ServiceDesc.ServiceName+"/"+m.MethodName] = []identity.Role{identity.RoleAgent}
	}
	allow[registryv1.IngestService_Ingest_FullMethodName] = []identity.Role{identity.RoleAgent}
	registryAddress := serve(t, issue(identity.RoleRegistry), func(s *rpcserver.Server) {
		registryv1.RegisterIngestServiceServer(s.GRPC(), b.registry)
	}, allow)
	files := issue(identity.RoleAgent)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	defaults := []string{
		"agent", "--tls-cert=" + files.Cert, "--tls-key=" + files.Key, "--tls-ca=" + files.CA, "--agent-name=test",
		"--scheduler=" + schedulerAddress, "--registry=" + registryAddress, "--state-dir=" + filepath.Join(state, "s"),
		"--trainer-binary=" + self, "--data-service-url=http://127.0.0.1:1", "--device-source=cpu",
		"--cpu-lanes=4", "--cpu-lane-memory=1GiB", "--orphan-timeout=20s",
	}
	for _, flag := range defaults { // a test's own word counts instead
		name, _, _ := strings.Cut(flag, "=")
		if !slices.ContainsFunc(extra, func(e string) bool { return strings.HasPrefix(e, name+"=") }) {
			b.args = append(b.args, flag)
		}
	}
	b.args = append(b.args, extra...)
	b.start()
	t.Cleanup(func() {
		b.scheduler.with(func() { b.scheduler.assign = nil })
		b.until("every lease to end", func() bool {
			b.scheduler.mu.Lock()
			defer b.scheduler.mu.Unlock()
			return b.scheduler.report != nil && len(b.scheduler.report.Leases) == 0
		})
		b.stop(syscall.SIGTERM)
		if t.Failed() {
			t.Log(b.log())
		}
		if err := os.RemoveAll(state); err != nil {
			t.Error(err)
		}
	})
	return b
}

func (b *bench) start() {
	b.t.Helper()
	self, err := os.Executable()
	if err != nil {
		b.t.Fatal(err)
	}
	b.cmd = exec.Command(self, b.args...)
	output, err := os.OpenFile(filepath.Join(b.state, "agent.log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		b.t.Fatal(err)
	}
	b.cmd.Stdout, b.cmd.Stderr = output, output
	if err := errors.Join(b.cmd.Start(), output.Close()); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) stop(sig syscall.Signal) {
	b.t.Helper()
	if err := b.cmd.Process.Signal(sig); err != nil {
		b.t.Error(err)
	}
	if err := b.cmd.Wait(); err != nil && sig != syscall.SIGKILL {
		b.t.Errorf("the agent ended with %v:\n%s", err, b.log())
	}
}

func (b *bench) until(what string, ok func() bool) {
	b.t.Helper()
	for deadline := time.Now().Add(90 * time.Second); !ok(); time.Sleep(3 * time.Millisecond) {
		if time.Now().After(deadline) {
			b.stop(syscall.SIGKILL)
			b.t.Log(b.log())
			b.start()
			b.t.Fatalf("waited in vain for %s", what)
		}
	}
}

func (b *bench) assign(fence uint64, lane int, what string) *fleetv1.Assignment {
	a := &fleetv1.Assignment{
		JobId: uuid.NewString(), Attempt: 1, Fence: fence, DeviceIds: []string{fmt.Sprintf("cpu:%d", lane)}, ReservedBytes: []int64{128 << 20},
		Spec: &jobv1.JobSpec{DisplayName: what, Experiment: "test", Runtime: &jobv1.JobSpec_Command{Command: &jobv1.CommandSpec{Argv: []string{"x"}}}},
	}
	b.scheduler.with(func() { b.scheduler.assign = append(b.scheduler.assign, a) })
	return a
}

func (b *bench) awaitExit(fence uint64) *fleetv1.Exit {
	b.t.Helper()
	b.until(fmt.Sprintf("the exit of %d", fence), func() bool { return b.scheduler.exit(fence) != nil })
	return b.scheduler.exit(fence)
}

func count(n int64) []int64 {
	out := make([]int64, n)
	for i := range out {
		out[i] = int64(i) + 1
	}
	return out
}

// One attempt's whole life: lease, trainer, metrics in order, checkpoint
// committed, success reported once.
func TestLife(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.assign(1, 0, "steps=50 checkpoint")
	exit := b.awaitExit(1)
	if exit.Outcome != fleetv1.Exit_OUTCOME_SUCCEEDED || exit.Progress.CheckpointStep != 50 || exit.Progress.Step != 50 {
		t.Fatalf("exit %v", exit)
	}
	// The success waited for its last records.
	steps, opened, closed := b.registry.steps(1)
	if !slices.Equal(steps, count(50)) || !opened || !closed {
		t.Fatalf("steps %v, opened %v, closed %v", steps, opened, closed)
	}
	b.until("the exit to be forgotten", func() bool {
		b.scheduler.mu.Lock()
		defer b.scheduler.mu.Unlock()
		return len(b.scheduler.report.Exits) == 0 && len(b.scheduler.report.Leases) == 0
	})
}

// The agent is killed again and again: no trainer is lost, no point is lost or
// doubled, no exit is told twice.
func TestKillAgentWhileTrainersRun(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	for lane := range 4 {
		b.assign(uint64(lane+1), lane, "steps=400 every=5ms checkpoint")
	}
	for range 6 {
		b.until("all trainers to run", func() bool {
			for fence := range uint64(4) {
				if b.scheduler.phase(fence+1) < fleetv1.HeldLease_PHASE_RUNNING && b.scheduler.exit(fence+1) == nil {
					return false
				}
			}
			return true
		})
		time.Sleep(100 * time.Millisecond)
		b.stop(syscall.SIGKILL)
		b.scheduler.with(func() { b.scheduler.report = nil })
		b.start()
	}
	for fence := uint64(1); fence <= 4; fence++ {
		if exit := b.awaitExit(fence); exit.Outcome != fleetv1.Exit_OUTCOME_SUCCEEDED {
			t.Fatalf("exit %v", exit)
		}
		b.until("the run's end", func() bool { _, _, closed := b.registry.steps(fence); return closed })
		if steps, opened, _ := b.registry.steps(fence); !slices.Equal(steps, count(400)) || !opened {
			t.Fatalf("attempt %d: %d points, opened %v", fence, len(steps), opened)
		}
	}
	b.registry.set(func() {
		if len(b.registry.checkpoints) != 4 {
			t.Errorf("%d checkpoints", len(b.registry.checkpoints))
		}
	})
}

// What ended while no agent lived is told by the next one.
func TestExitWhileAgentIsAway(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.assign(1, 0, "steps=1000 every=5ms")
	b.until("the trainer", func() bool { return b.scheduler.phase(1) == fleetv1.HeldLease_PHASE_RUNNING })
	b.stop(syscall.SIGKILL)
	if killed := b.killTrainers(); killed == 0 {
		t.Fatal("no trainer outlived its agent")
	}
	b.start()
	exit := b.awaitExit(1)
	if exit.FailureClass != jobv1.FailureClass_FAILURE_CLASS_CRASH || exit.Evidence.Signal != "SIGKILL" {
		t.Fatalf("exit %v", exit)
	}
}

// killTrainers kills what runs the trainer for this bench's agent, and says how many that were.
func (b *bench) killTrainers() int {
	b.t.Helper()
	processes, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		b.t.Fatal(err)
	}
	killed := 0
	for _, process := range processes {
		line, err := os.ReadFile(process + "/cmdline")
		if err != nil || strings.TrimRight(string(line), "\x00") != b.trainer() {
			continue // another program, or gone by now
		}
		environment, err := os.ReadFile(process + "/environ")
		if err != nil || !bytes.Contains(environment, []byte("TRAINYARD_SOCKET="+b.state)) {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(process))
		if err != nil {
			b.t.Fatal(err)
		}
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			b.t.Fatal(err)
		}
		killed++
	}
	return killed
}

func (b *bench) trainer() string {
	self, err := os.Executable()
	if err != nil {
		b.t.Fatal(err)
	}
	return self
}

// A gap in the sequence ends the stream and loses nothing: the trainer comes
// back and goes on where the host is.
func TestSequenceGap(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.assign(1, 0, "steps=60 every=1ms gap")
	if exit := b.awaitExit(1); exit.Outcome != fleetv1.Exit_OUTCOME_SUCCEEDED {
		t.Fatalf("exit %v", exit)
	}
	if steps, _, closed := b.registry.steps(1); !slices.Equal(steps, count(60)) || !closed {
		t.Fatalf("steps %v, closed %v", steps, closed)
	}
	if !strings.Contains(b.log(), "REASON_PROTOCOL_VIOLATION") {
		t.Error("the gap was not refused")
	}
}

// A crash is a failure with its evidence, and its points are all there.
func TestCrash(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.assign(1, 0, "steps=100 crash=20")
	exit := b.awaitExit(1)
	if exit.Outcome != fleetv1.Exit_OUTCOME_FAILED || exit.FailureClass != jobv1.FailureClass_FAILURE_CLASS_CRASH || exit.Evidence.ExitCode != 3 {
		t.Fatalf("exit %v", exit)
	}
	b.until("the run's end", func() bool { _, _, closed := b.registry.steps(1); return closed })
	if steps, _, _ := b.registry.steps(1); !slices.Equal(steps, count(20)) {
		t.Fatalf("%d points", len(steps))
	}
}

// A stop is polite first; a trainer that does not listen is killed in time.
func TestStop(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	polite := b.assign(1, 0, "steps=100000 every=2ms")
	deaf := b.assign(2, 1, "steps=100000 every=2ms deaf")
	b.until("both trainers", func() bool {
		return b.scheduler.phase(1) == fleetv1.HeldLease_PHASE_RUNNING && b.scheduler.phase(2) == fleetv1.HeldLease_PHASE_RUNNING
	})
	b.scheduler.with(func() {
		for _, a := range []*fleetv1.Assignment{polite, deaf} {
			b.scheduler.stops = append(b.scheduler.stops, &fleetv1.StopOrder{
				JobId: a.JobId, Attempt: a.Attempt, Fence: a.Fence, Reason: fleetv1.StopOrder_REASON_PREEMPTED, Grace: durationpb.New(time.Second),
			})
		}
		b.scheduler.assign = nil
	})
	for fence, message := range map[uint64]string{1: "as told", 2: "preempted"} {
		exit := b.awaitExit(fence)
		if exit.Outcome != fleetv1.Exit_OUTCOME_STOPPED || exit.FailureClass != jobv1.FailureClass_FAILURE_CLASS_PREEMPTED || !strings.Contains(exit.Evidence.Message, message) {
			t.Fatalf("exit %v", exit)
		}
	}
}

// The registry is away for a while: training goes on, nothing is lost.
func TestRegistryAway(t *testing.T) {
	t.Parallel()
	b := newBench(t, "--settle-time=100ms")
	b.registry.set(func() { b.registry.away = true })
	b.assign(1, 0, "steps=200")
	b.until("200 steps", func() bool {
		b.scheduler.mu.Lock()
		defer b.scheduler.mu.Unlock()
		return b.scheduler.exits[1] != nil
	})
	if steps, _, _ := b.registry.steps(1); len(steps) != 0 {
		t.Fatalf("%d points reached a registry that is away", len(steps))
	}
	b.stop(syscall.SIGKILL)
	b.start()
	b.registry.set(func() { b.registry.away = false })
	b.until("the run's end", func() bool { _, _, closed := b.registry.steps(1); return closed })
	if steps, opened, _ := b.registry.steps(1); !slices.Equal(steps, count(200)) || !opened {
		t.Fatalf("%d points, opened %v", len(steps), opened)
	}
}

// A retry resumes from the committed checkpoint; when the store's bytes went
// bad it is marked and the one before is taken.
func TestRestore(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	first := b.assign(1, 0, "steps=30 checkpoint")
	b.awaitExit(1)
	second := &fleetv1.Assignment{JobId: first.JobId, Attempt: 2, Fence: 2, DeviceIds: first.DeviceIds, ReservedBytes: first.ReservedBytes, Resume: true,
		Spec: &jobv1.JobSpec{DisplayName: "steps=40", Experiment: "test", Runtime: first.Spec.Runtime}}
	b.registry.set(func() { // its newest checkpoint is damaged in the store and not on the host
		b.registry.checkpoints["bad"] = &registryv1.Checkpoint{CheckpointId: "018f0000-0000-7000-8000-000000000000", RunId: first.JobId, Step: 35,
			Files: []*registryv1.CheckpointFile{{Path: "model.safetensors", Sha256: make([]byte, 32), SizeBytes: 3}}}
		b.registry.objects[strings.Repeat("00", 32)] = []byte("bad")
	})
	b.scheduler.with(func() { b.scheduler.assign = append(b.scheduler.assign, second) })
	if exit := b.awaitExit(2); exit.Outcome != fleetv1.Exit_OUTCOME_SUCCEEDED {
		t.Fatalf("exit %v", exit)
	}
	steps, _, _ := b.registry.steps(2)
	if len(steps) != 10 || steps[0] != 31 {
		t.Fatalf("the second attempt logged %v", steps)
	}
	b.registry.set(func() {
		if !slices.Equal(b.registry.corrupt, []string{"018f0000-0000-7000-8000-000000000000"}) {
			t.Errorf("marked as corrupt: %v", b.registry.corrupt)
		}
	})
}

// Two jobs with one trunk: the agent sends it once. What is stored as chunks is the same file for the next attempt, on a host that has
// nothing of it.
func TestTrunkIsSentOnce(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	first := b.assign(1, 0, "steps=30 checkpoint trunk")
	b.awaitExit(1)
	b.assign(2, 1, "steps=31 checkpoint trunk")
	b.awaitExit(2)
	b.registry.set(func() {
		var bytes, whole int
		for _, o := range b.registry.objects {
			bytes += len(o)
		}
		for _, c := range b.registry.checkpoints {
			whole += int(c.Files[0].SizeBytes)
			if len(c.Files[0].Chunks) < 2 {
				t.Errorf("a model is not cut: %v", c.Files)
			}
		}
		if trunk := 128 << 10; len(b.registry.checkpoints) != 2 || bytes > trunk+2048 || whole < 2*trunk {
			t.Errorf("%d bytes are stored of %d in %d checkpoints", bytes, whole, len(b.registry.checkpoints))
		}
	})
	b.stop(syscall.SIGKILL)
	if err := os.RemoveAll(filepath.Join(b.state, "s", "tier")); err != nil {
		t.Fatal(err)
	}
	b.start()
	b.scheduler.with(func() {
		b.scheduler.assign = append(b.scheduler.assign, &fleetv1.Assignment{JobId: first.JobId, Attempt: 2, Fence: 3, DeviceIds: first.DeviceIds,
			ReservedBytes: first.ReservedBytes, Resume: true, Spec: &jobv1.JobSpec{DisplayName: "steps=40 trunk", Experiment: "test", Runtime: first.Spec.Runtime}})
	})
	if exit := b.awaitExit(3); exit.Outcome != fleetv1.Exit_OUTCOME_SUCCEEDED {
		t.Fatalf("exit %v", exit)
	}
	if steps, _, _ := b.registry.steps(3); len(steps) != 10 || steps[0] != 31 {
		t.Fatalf("the second attempt logged %v", steps)
	}
}

// Poisoned weights never become a checkpoint.
func TestPoisonedCheckpoint(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.assign(1, 0, "steps=3 poison")
	if exit := b.awaitExit(1); exit.Outcome != fleetv1.Exit_OUTCOME_SUCCEEDED {
		t.Fatalf("exit %v", exit)
	}
	b.registry.set(func() {
		if len(b.registry.checkpoints)+len(b.registry.staged) != 0 {
			t.Error("poisoned weights were announced")
		}
	})
}

// Who uses more memory than reserved is stopped, by the kernel where it can and
// by the watchdog elsewhere, and the neighbour on the same lane goes on.
func TestOverUse(t *testing.T) {
	t.Parallel()
	for _, limits := range []string{"auto", "watch"} {
		t.Run(limits, func(t *testing.T) {
			t.Parallel()
			overUse(t, newBench(t, "--host-limits="+limits))
		})
	}
}

func overUse(t *testing.T, b *bench) {
	t.Helper()
	b.assign(1, 0, "steps=100000 every=5ms")
	b.assign(2, 0, "grow=300")
	exit := b.awaitExit(2)
	if exit.FailureClass != jobv1.FailureClass_FAILURE_CLASS_DEVICE_OOM_OWN || len(exit.Evidence.MemorySamplesBytes) == 0 {
		t.Fatalf("exit %v", exit)
	}
	if b.scheduler.phase(1) != fleetv1.HeldLease_PHASE_RUNNING || b.scheduler.exit(1) != nil {
		t.Fatal("the neighbour was touched")
	}
}

// No word from the scheduler for a lease: the agent ends its trainers itself,
// and says so when it can.
func TestSelfFence(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.scheduler.with(func() { b.scheduler.lease = 3 * time.Second })
	b.assign(1, 0, "steps=100000 every=5ms")
	b.until("the trainer", func() bool { return b.scheduler.phase(1) == fleetv1.HeldLease_PHASE_RUNNING })
	b.scheduler.with(func() { b.scheduler.silent = true })
	b.until("the fence", func() bool { return strings.Contains(b.log(), "ending every trainer") })
	b.scheduler.with(func() { b.scheduler.silent = false })
	if exit := b.awaitExit(1); exit.FailureClass != jobv1.FailureClass_FAILURE_CLASS_AGENT_LOST {
		t.Fatalf("exit %v", exit)
	}
}

// An agent that is paused longer than its lease ends its trainers when it wakes,
// although the scheduler answers it at once.
func TestPausedAgentFencesItself(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.scheduler.with(func() { b.scheduler.lease = 3 * time.Second })
	b.assign(1, 0, "steps=100000 every=5ms")
	b.until("the trainer", func() bool { return b.scheduler.phase(1) == fleetv1.HeldLease_PHASE_RUNNING })
	for _, sig := range []syscall.Signal{syscall.SIGSTOP, syscall.SIGCONT} {
		if err := b.cmd.Process.Signal(sig); err != nil {
			t.Fatal(err)
		}
		if sig == syscall.SIGSTOP {
			time.Sleep(4500 * time.Millisecond)
		}
	}
	if exit := b.awaitExit(1); exit.FailureClass != jobv1.FailureClass_FAILURE_CLASS_AGENT_LOST {
		t.Fatalf("exit %v", exit)
	}
}

// log is the agent's output so far, from the file that a child process wrote.
func (b *bench) log() string {
	raw, err := os.ReadFile(filepath.Join(b.state, "agent.log"))
	if err != nil {
		b.t.Fatal(err)
	}
	return string(raw)
}

// A corrupt journal quarantines the host: what ran is ended, nothing starts,
// and the scheduler is told why, until both sides agree that the host is empty.
func TestCorruptJournal(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.assign(1, 0, "steps=100000 every=5ms")
	b.until("the trainer", func() bool { return b.scheduler.phase(1) == fleetv1.HeldLease_PHASE_RUNNING })
	b.stop(syscall.SIGKILL)
	path := filepath.Join(b.state, "s", "journal", "state")
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	raw[len(raw)/2] ^= 1
	if err := os.WriteFile(path, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	quarantined := ""
	b.scheduler.with(func() { b.scheduler.report = nil })
	b.start()
	b.until("the quarantine", func() bool {
		b.scheduler.mu.Lock()
		defer b.scheduler.mu.Unlock()
		if b.scheduler.report != nil && !b.scheduler.report.Devices[0].Healthy {
			quarantined = b.scheduler.report.Devices[0].HealthReason
		}
		return quarantined != ""
	})
	if exit := b.awaitExit(1); exit.FailureClass != jobv1.FailureClass_FAILURE_CLASS_AGENT_LOST || !strings.Contains(quarantined, "journal") {
		t.Fatalf("exit %v, quarantine %q", exit, quarantined)
	}
	b.until("the quarantine to be lifted", func() bool {
		b.scheduler.mu.Lock()
		defer b.scheduler.mu.Unlock()
		return b.scheduler.report.Devices[0].Healthy
	})
	b.assign(2, 0, "steps=5")
	if exit := b.awaitExit(2); exit.Outcome != fleetv1.Exit_OUTCOME_SUCCEEDED {
		t.Fatalf("exit %v", exit)
	}
}

func (b *bench) checkSocketMode() {
	b.t.Helper()
	info, err := os.Stat(filepath.Join(b.state, "s", "agent.sock"))
	if err != nil || info.Mode().Perm() != 0o600 {
		b.t.Errorf("the socket has mode %v, %v", info.Mode(), err)
	}
}

// tokenHashes returns what the journal stores of the tokens.
func (b *bench) tokenHashes() [][]byte {
	b.t.Helper()
	raw, err := disk.ReadSealed(disk.OS(), filepath.Join(b.state, "s", "journal", "state"))
	if err != nil {
		b.t.Fatal(err)
	}
	var state struct {
		Leases []struct {
			TokenHash []byte `json:"token_hash"`
		} `json:"leases"`
	}
	if err := json.Unmarshal(raw, &state); err != nil || len(state.Leases) == 0 {
		b.t.Fatalf("journal: %v", err)
	}
	var out [][]byte
	for _, l := range state.Leases {
		out = append(out, l.TokenHash)
	}
	return out
}
