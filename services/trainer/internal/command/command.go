// Package command runs any program as an attempt: the job's arguments, an
// environment that says what it may use, metrics as JSON lines on a pipe, and
// checkpoints picked up from a directory. The program needs no library of ours.
//
// The program finds in its environment:
//
//	TRAINYARD_JOB_ID, TRAINYARD_ATTEMPT
//	TRAINYARD_BATCH_SIZE, TRAINYARD_GRADIENT_ACCUMULATION, TRAINYARD_LEARNING_RATE_SCALE
//	TRAINYARD_DEVICES      device ids, comma separated (and CUDA_VISIBLE_DEVICES for GPUs)
//	TRAINYARD_RESTORE_PATH directory of the checkpoint to resume from; absent means from scratch
//	TRAINYARD_OUTPUT_DIR   where it leaves checkpoints/ and artifacts/
//	TRAINYARD_METRICS_FD   descriptor that takes JSON lines, see Line
//	TRAINYARD_METRICS_FILE file that takes the same lines, for processes that do not inherit the descriptor
//	TRAINYARD_CONTROL_FILE JSON file with {"stop": bool, "checkpoint_requests": n}, replaced at each change
//	TRAINYARD_DATA_SERVICE_URL, TRAINYARD_CACHE_DIR
//	TRACEPARENT            the attempt's span
//	OMP_NUM_THREADS        the threads it may compute with
//
// A checkpoint is a directory below checkpoints/ that has a trainyard.json
// ({"step": n, "metrics": {...}, "resumable": true}), written last or renamed in
// with the whole directory. It is removed when it has been handed over, so that a
// long job does not fill the disk. Files in artifacts/ are kept at the end.
package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"github.com/ultrathink-pilot/trainyard/services/trainer/internal/checkpoint"
	"github.com/ultrathink-pilot/trainyard/services/trainer/internal/market"
	"github.com/ultrathink-pilot/trainyard/services/trainer/internal/run"
)

// Reporter hears of the program. An error means that the attempt is over.
type Reporter interface {
	Params(ctx context.Context, params map[string]string) error
	Metrics(ctx context.Context, points []run.Metric) error
	Progress(ctx context.Context, p run.Progress) error
	Checkpoint(ctx context.Context, c run.Checkpoint, files []checkpoint.File) error
	Artifact(ctx context.Context, f checkpoint.File, contentType string) error
	OutOfMemory(ctx context.Context, device, message string) error
	Order() run.Order
	Changed() <-chan struct{}
}

// Job is one attempt of a command job.
type Job struct {
	Assignment     *run.Assignment
	Log            *zap.Logger
	Stdout, Stderr *os.File
	// TraceEnviron has TRACEPARENT and its companions.
	TraceEnviron []string
	// ScanEvery is the pause between looks at the output directory; 0 means one
	// second.
	ScanEvery time.Duration
	// KillAfter is the grace when the order names none; 0 means ten seconds.
	KillAfter time.Duration
}

const (
	tailBytes  = 16 << 10
	metricsFD  = 3
	checksEnds = 2 * time.Second // for the pipes of a program that has ended
)

// Run runs the program to its end.
func Run(ctx context.Context, job Job, report Reporter) (run.Ending, error) {
	if job.Log == nil {
		job.Log = zap.NewNop()
	}
	if job.ScanEvery == 0 {
		job.ScanEvery = time.Second
	}
	if job.KillAfter == 0 {
		job.KillAfter = 10 * time.Second
	}
	r := &runner{job: job, a: job.Assignment, c: job.Assignment.Command, report: report, log: job.Log,
		output: filepath.Join(job.Assignment.WorkDir, "output"), tail: &tail{limit: tailBytes}}
	cmd, problems := r.prepare()
	if len(problems) > 0 {
		return run.BadConfiguration(problems), nil
	}
	return r.run(ctx, cmd)
}

type runner struct {
	job     Job
	a       *run.Assignment
	c       *run.Command
	report  Reporter
	log     *zap.Logger
	output  string
	tail    *tail
	control control
	memory  memory
	picked  map[string]bool // checkpoint directories handed over or refused
	saved   int             // checkpoints handed over
	stop    run.Order
	notes   []string // what was odd about its end
}

// prepare checks the command and builds the process. All problems come at once.
func (r *runner) prepare() (*exec.Cmd, []market.Problem) {
	var problems []market.Problem
	add := func(field, format string, args ...any) {
		problems = append(problems, market.Problem{Field: "command." + field, Description: fmt.Sprintf(format, args...)})
	}
	for _, d := range []string{r.output, filepath.Join(r.output, "checkpoints"), filepath.Join(r.output, "artifacts")} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			add("work_dir", "%v", err)
		}
	}
	dir := filepath.Join(r.a.WorkDir, r.c.WorkingDirectory)
	if rel, err := filepath.Rel(r.a.WorkDir, dir); err != nil || rel == ".." || strings.HasPrefix(rel, "../") {
		add("working_directory", "%q leads out of the work directory", r.c.WorkingDirectory)
	} else if err := os.MkdirAll(dir, 0o700); err != nil {
		add("working_directory", "%v", err)
	}
	for name := range r.c.Env {
		if strings.HasPrefix(name, "TRAINYARD_") {
			add("env."+name, "names that start with TRAINYARD_ are Trainyard's own")
		}
	}
	if len(r.c.Argv) == 0 {
		add("argv", "is empty")
		return nil, problems
	}
	argv := r.expand(r.c.Argv)
	path := argv[0]
	if !strings.Contains(path, "/") {
		found, err := exec.LookPath(path)
		if err != nil {
			add("argv[0]", "no program %q in PATH", path)
		}
		path = found
	} else if !filepath.IsAbs(path) {
		path = filepath.Join(dir, path)
	}
	if path != "" {
		if info, err := os.Stat(path); err != nil || info.IsDir() || info.Mode()&0o111 == 0 {
			add("argv[0]", "%q is not an executable file", path)
		}
	}
	if len(problems) > 0 {
		return nil, problems
	}
	cmd := exec.Command(path, argv[1:]...) //nolint:gosec // running the job's program is the purpose; no shell is involved
	cmd.Args[0] = argv[0]
	cmd.Dir = dir
	cmd.Env = r.environ()
	cmd.Stdout = r.job.Stdout
	cmd.Stderr = io.MultiWriter(r.job.Stderr, r.tail)
	// Its own group: a stop must reach what it forks, and not this process.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.WaitDelay = checksEnds
	return cmd, nil
}

// expand replaces the templates of the contract.
func (r *runner) expand(argv []string) []string {
	replace := strings.NewReplacer("{batch_size}", strconv.Itoa(r.a.BatchSize),
		"{gradient_accumulation}", strconv.Itoa(max(r.a.GradientAccumulation, 1)),
		"{restore_path}", r.a.RestoreDir, "{output_dir}", r.output)
	out := make([]string, len(argv))
	for i, s := range argv {
		out[i] = replace.Replace(s)
	}
	return out
}

// environ is the clean environment that the agent gave this process (devices,
// thread and memory limits, tracking server), less what is between the two of
// them, plus the contract's variables and the job's own.
func (r *runner) environ() []string {
	var env []string
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "TRAINYARD_SOCKET=") && !strings.HasPrefix(v, "TRAINYARD_TOKEN_FD=") {
			env = append(env, v)
		}
	}
	set := func(name, value string) { env = append(env, name+"="+value) }
	set("HOME", r.a.WorkDir)
	set("TRAINYARD_JOB_ID", r.a.JobID)
	set("TRAINYARD_ATTEMPT", strconv.Itoa(r.a.Attempt))
	if r.a.BatchSize > 0 {
		set("TRAINYARD_BATCH_SIZE", strconv.Itoa(r.a.BatchSize))
	}
	set("TRAINYARD_GRADIENT_ACCUMULATION", strconv.Itoa(max(r.a.GradientAccumulation, 1)))
	if s := r.a.LearningRateScale; s > 0 {
		set("TRAINYARD_LEARNING_RATE_SCALE", strconv.FormatFloat(s, 'g', -1, 64))
	}
	set("TRAINYARD_DEVICES", strings.Join(r.a.DeviceIDs, ","))
	var gpus []string
	for _, id := range r.a.DeviceIDs {
		if !strings.HasPrefix(id, "cpu:") {
			gpus = append(gpus, id)
		}
	}
	set("CUDA_VISIBLE_DEVICES", strings.Join(gpus, ",")) // empty hides them all
	if r.a.RestoreDir != "" {
		set("TRAINYARD_RESTORE_PATH", r.a.RestoreDir)
	}
	set("TRAINYARD_OUTPUT_DIR", r.output)
	set("TRAINYARD_METRICS_FD", strconv.Itoa(metricsFD))
	set("TRAINYARD_METRICS_FILE", r.metricsFile())
	set("TRAINYARD_CONTROL_FILE", r.controlFile())
	set("TRAINYARD_DATA_SERVICE_URL", r.a.DataServiceURL)
	set("TRAINYARD_CACHE_DIR", r.a.CacheDir)
	if r.a.Threads > 0 {
		set("OMP_NUM_THREADS", strconv.Itoa(r.a.Threads))
	}
	env = append(env, r.job.TraceEnviron...)
	for name, value := range r.c.Env {
		set(name, value)
	}
	return env
}

// run starts the program and follows it, the pipe, the directory and the orders.
func (r *runner) run(ctx context.Context, cmd *exec.Cmd) (run.Ending, error) {
	r.picked = map[string]bool{}
	if err := r.writeControl(); err != nil {
		return run.Failure(run.ClassCrash, err.Error()), nil
	}
	if err := os.WriteFile(r.metricsFile(), nil, 0o600); err != nil {
		return run.Failure(run.ClassCrash, err.Error()), nil
	}
	pipe, theirs, err := os.Pipe()
	if err != nil {
		return run.Failure(run.ClassCrash, err.Error()), nil
	}
	cmd.ExtraFiles = []*os.File{theirs}
	r.memory = watchMemory()
	err = cmd.Start()
	err = errors.Join(err, theirs.Close())
	if err != nil {
		return run.BadConfiguration([]market.Problem{{Field: "command.argv[0]", Description: err.Error()}}), pipe.Close()
	}
	group := cmd.Process.Pid
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	lines := newLines(pipe, r.report, r.log)
	read := make(chan error, 1)
	go func() { read <- lines.read(ctx) }()

	file := &follower{path: r.metricsFile(), lines: lines}
	exit, gone := r.follow(ctx, group, ended, file)
	// What it forked and left behind ends with it.
	if unix.Kill(-group, unix.SIGKILL) == nil && !r.stop.Stop {
		r.notes = append(r.notes, "it left processes behind, which were killed")
	}
	if err := pipe.SetReadDeadline(time.Now().Add(checksEnds)); err != nil {
		r.log.Debug("the metrics pipe has no deadline", zap.Error(err))
	}
	if err := <-read; gone == nil {
		gone = err
	}
	gone = errors.Join(gone, pipe.Close())
	if gone == nil {
		gone = file.rest(ctx)
	}
	if gone != nil {
		return run.Ending{}, gone
	}
	if err := r.pickUp(ctx); err != nil {
		return run.Ending{}, err
	}
	if err := r.artifacts(ctx); err != nil {
		return run.Ending{}, err
	}
	return r.ending(ctx, exit, lines)
}

// follow returns when the program has ended, with its error; gone is set when
// the attempt is over and the program was killed for it.
func (r *runner) follow(ctx context.Context, group int, ended <-chan error, file *follower) (exit, gone error) {
	scan := time.NewTicker(r.job.ScanEvery)
	defer scan.Stop()
	var kill <-chan time.Time
	paused := false
	for {
		changed := r.report.Changed()
		o := r.report.Order()
		if o.CheckpointNow || o.Stop && !r.stop.Stop {
			r.control.Stop = o.Stop
			if o.CheckpointNow {
				r.control.CheckpointRequests++
			}
			if err := r.writeControl(); err != nil {
				r.log.Warn("the control file cannot be written", zap.Error(err))
			}
		}
		if o.Stop && !r.stop.Stop {
			r.stop = o
			_ = unix.Kill(-group, unix.SIGTERM)
			_ = unix.Kill(-group, unix.SIGCONT) // a paused program cannot obey
			paused = o.Paused
			kill = time.After(r.grace(o.Grace))
		}
		if o.Paused != paused {
			paused = o.Paused
			signal := unix.SIGCONT
			if paused {
				signal = unix.SIGSTOP
			}
			_ = unix.Kill(-group, signal)
		}
		select {
		case exit = <-ended:
			return exit, nil
		case <-kill:
			r.log.Warn("the program ignored SIGTERM and is killed")
			r.notes = append(r.notes, "it ignored SIGTERM and was killed")
			_ = unix.Kill(-group, unix.SIGKILL)
			kill = nil
		case <-scan.C:
			if gone = file.read(ctx); gone == nil {
				gone = r.pickUp(ctx)
			}
		case <-changed:
		case <-ctx.Done():
			gone = context.Cause(ctx)
		}
		if gone != nil {
			_ = unix.Kill(-group, unix.SIGKILL)
			return <-ended, gone
		}
	}
}

// grace leaves a part of the agent's grace for the last uploads.
func (r *runner) grace(given time.Duration) time.Duration {
	if given <= 0 {
		return r.job.KillAfter
	}
	return given - min(given/4, 5*time.Second)
}

// ending judges the exit.
func (r *runner) ending(ctx context.Context, exit error, lines *lines) (run.Ending, error) {
	note := lines.note()
	if lines.silent() && r.saved == 0 {
		r.notes = append(r.notes, "it reported no metric and left no checkpoint")
	}
	if len(r.notes) > 0 {
		note += " (" + strings.Join(r.notes, "; ") + ")"
	}
	if r.stop.Stop {
		return run.Ending{Outcome: run.Stopped, Message: "stopped: " + r.stop.Reason + note}, nil
	}
	if exit == nil || errors.Is(exit, exec.ErrWaitDelay) {
		return run.Ending{Outcome: run.Succeeded, Message: "the program ended with code 0" + note}, nil
	}
	text := r.tail.String()
	if class, evidence := r.memory.judge(text, lines.oom); class != run.ClassNone {
		device := ""
		if class == run.ClassDeviceOOM && len(r.a.DeviceIDs) > 0 {
			device = r.a.DeviceIDs[0]
		}
		if err := r.report.OutOfMemory(ctx, device, evidence); err != nil {
			return run.Ending{}, err
		}
		kind := "host"
		if class == run.ClassDeviceOOM {
			kind = "device"
		}
		return run.Failure(class, "the program ran out of "+kind+" memory: "+evidence+note), nil
	}
	message := "the program failed: " + exit.Error()
	if last := lastLine(text); last != "" {
		message += ": " + last
	}
	return run.Failure(run.ClassCrash, message+note), nil
}
