package command

import (
	"context"
	"encoding/json"
	"errors"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/ultrathink-pilot/trainyard/services/trainer/internal/checkpoint"
	"github.com/ultrathink-pilot/trainyard/services/trainer/internal/run"
)

// listener keeps what a program reported.
type listener struct {
	mu          sync.Mutex
	params      map[string]string
	metrics     []run.Metric
	progress    []run.Progress
	checkpoints []run.Checkpoint
	files       []string
	artifacts   []string
	oom         string
	order       run.Order
	changed     chan struct{}
	seen        chan struct{} // closed at the first metric
	fail        error
}

func newListener() *listener {
	return &listener{params: map[string]string{}, changed: make(chan struct{}), seen: make(chan struct{})}
}

func (l *listener) Params(_ context.Context, p map[string]string) error {
	for k, v := range p {
		l.params[k] = v
	}
	return nil
}

func (l *listener) Metrics(_ context.Context, points []run.Metric) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.metrics) == 0 {
		close(l.seen)
	}
	l.metrics = append(l.metrics, points...)
	return l.fail
}

func (l *listener) Progress(_ context.Context, p run.Progress) error {
	l.progress = append(l.progress, p)
	return nil
}

func (l *listener) Checkpoint(_ context.Context, c run.Checkpoint, files []checkpoint.File) error {
	l.checkpoints = append(l.checkpoints, c)
	for _, f := range files {
		l.files = append(l.files, f.Name)
	}
	return nil
}

func (l *listener) Artifact(_ context.Context, f checkpoint.File, _ string) error {
	l.artifacts = append(l.artifacts, f.Name)
	return nil
}

func (l *listener) OutOfMemory(_ context.Context, device, message string) error {
	l.oom = device + ": " + message
	return nil
}

func (l *listener) Order() run.Order {
	l.mu.Lock()
	defer l.mu.Unlock()
	o := l.order
	l.order.CheckpointNow = false
	return o
}

func (l *listener) Changed() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.changed
}

func (l *listener) give(o run.Order) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.order = o
	close(l.changed)
	l.changed = make(chan struct{})
}

// shell is a job that runs a script.
func shell(t *testing.T, script string) Job {
	t.Helper()
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = null.Close() })
	return Job{Stdout: null, Stderr: null, ScanEvery: 20 * time.Millisecond,
		TraceEnviron: []string{"TRACEPARENT=00-1-2-01"},
		Assignment: &run.Assignment{JobID: "job-1", Attempt: 2, WorkDir: t.TempDir(), BatchSize: 64, GradientAccumulation: 2,
			DeviceIDs: []string{"GPU-1", "cpu:0"}, RestoreDir: "/restore", Threads: 3,
			Command: &run.Command{Argv: []string{"sh", "-c", script, "script", "{batch_size}", "{gradient_accumulation}", "{restore_path}", "{output_dir}"},
				Env: map[string]string{"MINE": "yes"}}}}
}

func mustRun(t *testing.T, j Job, l *listener) run.Ending {
	t.Helper()
	e, err := Run(t.Context(), j, l)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func TestAProgramSeesItsEnvironmentAndReports(t *testing.T) {
	t.Parallel()
	l := newListener()
	j := shell(t, `
echo "{\"params\": {\"batch\": \"$TRAINYARD_BATCH_SIZE\", \"acc\": \"$TRAINYARD_GRADIENT_ACCUMULATION\", \"cuda\": \"$CUDA_VISIBLE_DEVICES\", \"mine\": \"$MINE\",
 \"x\": 1}}" | tr -d '\n' >&3
echo >&3
echo "{\"params\": {\"args\": \"$1 $2 $3\", \"trace\": \"$TRACEPARENT\", \"job\": \"$TRAINYARD_JOB_ID\", \"omp\": \"$OMP_NUM_THREADS\"}}" >&3
echo '{"step": 1, "loss": 0.5, "epoch": 1, "total_epochs": 4}' >&3
echo '{"step": 2, "metrics": {"loss": NaN, "lr": -Infinity}, "objective": 1.5}' >&3
echo 'Traceback: garbage' >&3
mkdir "$4/checkpoints/.new" && echo w > "$4/checkpoints/.new/model.pt" && echo '{"step": 2, "metrics": {"sharpe": 1}}' > "$4/checkpoints/.new/trainyard.json"
mv "$4/checkpoints/.new" "$4/checkpoints/2"
mkdir "$4/checkpoints/half" && echo w > "$4/checkpoints/half/model.pt"
echo '{}' > "$4/artifacts/plot.json"
`)
	e := mustRun(t, j, l)
	if e.Outcome != run.Succeeded || !strings.Contains(e.Message, "1 lines on the metrics pipe were ignored") || !strings.Contains(e.Message, "garbage") {
		t.Errorf("%+v", e)
	}
	want := map[string]string{"batch": "64", "acc": "2", "cuda": "GPU-1", "mine": "yes", "x": "1", "args": "64 2 /restore",
		"trace": "00-1-2-01", "job": "job-1", "omp": "3"}
	if !reflect.DeepEqual(l.params, want) {
		t.Errorf("params %v", l.params)
	}
	if len(l.metrics) != 3 || l.metrics[0].Key != "loss" || !math.IsNaN(l.metrics[1].Value) || !math.IsInf(l.metrics[2].Value, -1) || l.metrics[2].Step != 2 {
		t.Errorf("metrics %+v", l.metrics)
	}
	if p := l.progress[len(l.progress)-1]; p.Step != 2 || p.Epoch != 1 || p.TotalEpochs != 4 || p.Objective != 1.5 {
		t.Errorf("progress %+v", p)
	}
	if len(l.checkpoints) != 1 || l.checkpoints[0].Step != 2 || !l.checkpoints[0].Resumable || !slices.Equal(l.files, []string{"model.pt", "trainyard.json"}) {
		t.Errorf("checkpoints %+v of %v", l.checkpoints, l.files)
	}
	if !slices.Equal(l.artifacts, []string{"plot.json"}) {
		t.Errorf("artifacts %v", l.artifacts)
	}
}

func TestFailuresAreNamed(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		script string
		class  run.Class
		want   string
	}{
		"code":   {`echo "no such column" >&2; exit 3`, run.ClassCrash, "exit status 3: no such column"},
		"signal": {`kill -SEGV $$`, run.ClassCrash, "segmentation fault"},
		"oom":    {`echo "torch.cuda.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB" >&2; exit 1`, run.ClassDeviceOOM, "Tried to allocate"},
		"memory": {`echo "MemoryError: Unable to allocate 9 TiB" >&2; exit 1`, run.ClassHostOOM, "9 TiB"},
		"report": {`echo '{"out_of_memory": "asked for 3 GiB"}' >&3; exit 1`, run.ClassDeviceOOM, "asked for 3 GiB"},
		"host":   {`echo '{"out_of_memory": "host"}' >&3; exit 1`, run.ClassHostOOM, "host"},
		"silent": {`exit 1`, run.ClassCrash, "exit status 1 (it reported no metric and left no checkpoint)"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newListener()
			e := mustRun(t, shell(t, c.script), l)
			if e.Outcome != run.Failed || e.Class != c.class || !strings.Contains(e.Message, c.want) {
				t.Errorf("%+v", e)
			}
			if (c.class == run.ClassDeviceOOM) != strings.HasPrefix(l.oom, "GPU-1: ") || (c.class == run.ClassHostOOM) != strings.HasPrefix(l.oom, ": ") {
				t.Errorf("out of memory report %q", l.oom)
			}
		})
	}
}

func TestStopIsObeyedWithGrace(t *testing.T) {
	t.Parallel()
	l := newListener()
	j := shell(t, `
trap 'mkdir "$4/checkpoints/9" && echo "{\"step\": 9}" > "$4/checkpoints/9/trainyard.json"; exit 0' TERM
echo '{"step": 1, "a": 1}' >&3
while :; do sleep 0.02; done`)
	go func() {
		<-l.seen
		l.give(run.Order{Stop: true, Reason: "preempted", Grace: 20 * time.Second})
	}()
	e := mustRun(t, j, l)
	if e.Outcome != run.Stopped || !strings.Contains(e.Message, "preempted") || len(l.checkpoints) != 1 || l.checkpoints[0].Step != 9 {
		t.Errorf("%+v, checkpoints %+v", e, l.checkpoints)
	}
	text, err := os.ReadFile(filepath.Join(j.Assignment.WorkDir, "control.json"))
	var got control
	if err = errors.Join(err, json.Unmarshal(text, &got)); err != nil || !got.Stop {
		t.Errorf("control file %s: %v", text, err)
	}
}

// TestAProgramThatIgnoresSigtermIsKilled, with the child it forked.
func TestAProgramThatIgnoresSigtermIsKilled(t *testing.T) {
	t.Parallel()
	l := newListener()
	j := shell(t, `
trap '' TERM
(trap '' TERM; while :; do sleep 0.05; done) &
echo "{\"step\": 1, \"child\": $!}" >&3
while :; do sleep 0.05; done`)
	j.KillAfter = 200 * time.Millisecond
	go func() {
		<-l.seen
		l.give(run.Order{Stop: true, Reason: "cancelled"})
	}()
	if e := mustRun(t, j, l); e.Outcome != run.Stopped || !strings.Contains(e.Message, "ignored SIGTERM") {
		t.Errorf("%+v", e)
	}
	gone(t, int(l.metrics[0].Value))
}

// gone fails when the process still runs; a zombie counts as gone.
func gone(t *testing.T, pid int) {
	t.Helper()
	deadline := time.Now().Add(5 * time.Second)
	for time.Now().Before(deadline) {
		text, err := os.ReadFile(filepath.Join("/proc", itoa(pid), "stat"))
		if err != nil || strings.Contains(string(text), ") Z ") {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Errorf("process %d still runs", pid)
}

func itoa(n int) string {
	b, _ := json.Marshal(n)
	return string(b)
}

// TestAForkThatHoldsThePipesDoesNotHang: the program ends, its child would keep
// standard error and the metrics pipe open for an hour.
func TestAForkThatHoldsThePipesDoesNotHang(t *testing.T) {
	t.Parallel()
	l := newListener()
	e := mustRun(t, shell(t, `sleep 3600 & echo "{\"child\": $!}" >&3; exit 0`), l)
	if e.Outcome != run.Succeeded || !strings.Contains(e.Message, "left processes behind") {
		t.Errorf("%+v", e)
	}
	gone(t, int(l.metrics[0].Value))
}

func TestPauseHoldsTheProgramStill(t *testing.T) {
	t.Parallel()
	l := newListener()
	j := shell(t, `i=0; while [ $i -lt 15 ]; do i=$((i+1)); echo "{\"step\": $i, \"n\": $i}" >&3; sleep 0.02; done`)
	go func() {
		<-l.seen
		l.give(run.Order{Paused: true})
		time.Sleep(200 * time.Millisecond) // what is in the pipe arrives
		l.mu.Lock()
		before := len(l.metrics)
		l.mu.Unlock()
		time.Sleep(150 * time.Millisecond)
		l.mu.Lock()
		if n := len(l.metrics); n != before || n == 15 {
			t.Errorf("%d lines before the pause, %d during it", before, n)
		}
		l.mu.Unlock()
		l.give(run.Order{CheckpointNow: true})
	}()
	if e := mustRun(t, j, l); e.Outcome != run.Succeeded || len(l.metrics) != 15 {
		t.Errorf("%+v, %d lines", e, len(l.metrics))
	}
	text, err := os.ReadFile(filepath.Join(j.Assignment.WorkDir, "control.json"))
	if err != nil || !strings.Contains(string(text), `"checkpoint_requests":1`) {
		t.Errorf("control file %s: %v", text, err)
	}
}

func TestBadCommandsAreNamedAllAtOnce(t *testing.T) {
	t.Parallel()
	j := shell(t, "")
	j.Assignment.Command = &run.Command{Argv: []string{"no-such-program-here"}, Env: map[string]string{"TRAINYARD_JOB_ID": "x"}, WorkingDirectory: "../.."}
	e := mustRun(t, j, newListener())
	text := strings.Join(e.Problems, "\n")
	for _, want := range []string{`no program "no-such-program-here" in PATH`, "env.TRAINYARD_JOB_ID", `"../.." leads out`} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in %s", want, text)
		}
	}
	if e.Class != run.ClassBadConfiguration || len(e.Problems) != 3 {
		t.Errorf("%+v", e)
	}
	j.Assignment.Command = &run.Command{Argv: []string{"/etc/passwd"}}
	if e := mustRun(t, j, newListener()); e.Class != run.ClassBadConfiguration {
		t.Errorf("a file that is no program: %+v", e)
	}
}

// TestAnAttemptThatIsOverKillsItsProgram: the report client has given up.
func TestAnAttemptThatIsOverKillsItsProgram(t *testing.T) {
	t.Parallel()
	fenced := errors.New("fenced")
	ctx, cancel := context.WithCancelCause(t.Context())
	l := newListener()
	go func() {
		<-l.seen
		cancel(fenced)
	}()
	_, err := Run(ctx, shell(t, `echo "{\"pid\": $$}" >&3; while :; do sleep 0.05; done`), l)
	if !errors.Is(err, fenced) {
		t.Errorf("%v", err)
	}
	gone(t, int(l.metrics[0].Value))
}

// TestHostileCheckpointsAreRefused: a link out of the directory, a bad name, a
// manifest without a step.
func TestHostileCheckpointsAreRefused(t *testing.T) {
	t.Parallel()
	l := newListener()
	e := mustRun(t, shell(t, `cd "$4/checkpoints"
mkdir link && ln -s /etc/passwd link/model.pt && echo '{"step": 1}' > link/trainyard.json
mkdir name && echo x > 'name/a b' && echo '{"step": 1}' > name/trainyard.json
mkdir nostep && echo '{}' > nostep/trainyard.json
mkdir junk && echo '{"step"' > junk/trainyard.json
mkdir good && echo '{"step": 5, "resumable": false}' > good/trainyard.json
sleep 0.1`), l)
	if e.Outcome != run.Succeeded || len(l.checkpoints) != 1 || l.checkpoints[0].Step != 5 || l.checkpoints[0].Resumable {
		t.Errorf("%+v, checkpoints %+v", e, l.checkpoints)
	}
}

func TestParse(t *testing.T) {
	t.Parallel()
	for _, bad := range []string{`[1]`, `{"loss": "high"}`, `{"metrics": 3}`, `{"metrics": {"a": "b"}}`, `{"a\u0000": 1}`, `{"step": -1}`, `{`,
		`{"metrics": {"` + strings.Repeat("k", 300) + `": 1}}`} {
		if _, err := parse([]byte(bad)); err == nil {
			t.Errorf("%s was taken", bad)
		}
	}
	l, err := parse([]byte(`{"v": [1], "a": 1}`))
	if err == nil {
		t.Errorf("a list as a metric: %+v", l)
	}
	l, err = parse([]byte(`{"a": NaN,"b":Infinity, "c":-Infinity}`))
	if err != nil || len(l.Metrics) != 3 || !math.IsNaN(l.Metrics["a"]) {
		t.Errorf("%+v, %v", l, err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"step": 1, "loss": NaN, "metrics": {"a/b": 2}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		l, err := parse(b)
		if err == nil && l.Step != nil && *l.Step < 0 {
			t.Fatal("a negative step")
		}
	})
}

// TestTheMetricsFileIsFollowed: lines of processes that do not have the descriptor,
// a file that is cut, a line without its end, and what is no file at all.
func TestTheMetricsFileIsFollowed(t *testing.T) {
	t.Parallel()
	l := newListener()
	e := mustRun(t, shell(t, `
exec 3>&-
echo '{"step": 1, "a": 1}' >> "$TRAINYARD_METRICS_FILE"
sh -c 'echo "{\"step\": 2, \"a\": 2}" >> "$TRAINYARD_METRICS_FILE"'
printf '{"step": 3, "a": 3}' >> "$TRAINYARD_METRICS_FILE"`), l)
	if e.Outcome != run.Succeeded || len(l.metrics) != 3 || l.metrics[2].Value != 3 || l.progress[len(l.progress)-1].Step != 3 {
		t.Errorf("%+v, metrics %+v", e, l.metrics)
	}
	l = newListener()
	e = mustRun(t, shell(t, `
rm "$TRAINYARD_METRICS_FILE"; mkfifo "$TRAINYARD_METRICS_FILE"; sleep 0.1`), l)
	if e.Outcome != run.Succeeded || !strings.Contains(e.Message, "no metric") {
		t.Errorf("%+v", e)
	}
	path := filepath.Join(t.TempDir(), "m")
	l = newListener()
	f := &follower{path: path, lines: newLines(nil, l, zap.NewNop())}
	for _, text := range []string{`{"step": 1, "a": 1}` + "\n" + `{"step": 2,`, `{"step": 9, "a": 9}` + "\n"} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := f.read(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if len(l.metrics) != 2 || l.metrics[1].Value != 9 {
		t.Errorf("after the file was cut: %+v", l.metrics)
	}
}

// TestACheckpointIsRemovedOnceItIsSafe, and its name may come again.
func TestACheckpointIsRemovedOnceItIsSafe(t *testing.T) {
	t.Parallel()
	l := newListener()
	j := shell(t, `
save() {
  mkdir "$4/checkpoints/.new" && echo "$5" > "$4/checkpoints/.new/model.pt" && echo "{\"step\": $5}" > "$4/checkpoints/.new/trainyard.json"
  mv "$4/checkpoints/.new" "$4/checkpoints/last"
}
save "$1" "$2" "$3" "$4" 1
while [ -e "$4/checkpoints/last" ]; do sleep 0.01; done
save "$1" "$2" "$3" "$4" 2`)
	if e := mustRun(t, j, l); e.Outcome != run.Succeeded || len(l.checkpoints) != 2 || l.checkpoints[1].Step != 2 {
		t.Errorf("%+v, %+v", e, l.checkpoints)
	}
}
