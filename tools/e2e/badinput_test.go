//go:build e2e

package e2e

import (
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/ultrathink-pilot/trainyard/libs/rpcerr"
	errorv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/error/v1"
	jobv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/job/v1"
)

// A wrong job file gets every problem at once, with its path in the file, and nothing is stored.
func TestBadJobFilesAreRefusedWhole(t *testing.T) {
	y := start(t)
	ctx := context.Background()
	for name, c := range map[string]struct {
		file string
		want []string
	}{
		"several problems": {
			file: "name: x\nexperiment: e\npriority: urgent\nnative: {specialist: bul, symbol: SPX, timeframe: 1d, colour: red}\nresources: {devices: [{memory: -1GiB}]}\n",
			want: []string{"priority", "native.specialist", "native.colour", "resources.devices[0].memory"},
		},
		"more than any device has": {
			file: "name: x\nexperiment: e\nnative: {specialist: bull, symbol: SPX, timeframe: 1d}\nresources: {devices: [{memory: 9000GiB}]}\n",
			want: []string{"resources.devices[0].memory", "9000 GiB is more than any device has", "largest"},
		},
		"a fold that is not there": {
			file: "name: x\nexperiment: e\nnative: {specialist: bull, symbol: SPX, timeframe: 1d, split: {validation: 0.8, test: 0.5, folds: 3, fold: 3}}\n",
			want: []string{"native.split", "fold counts from 0 and is below folds", "leave no bars to train on"},
		},
		"unknown symbol":    {file: "name: x\nexperiment: e\nnative: {specialist: bull, symbol: NOPE, timeframe: 1d}\n", want: []string{"NOPE", "SPX"}},
		"unknown timeframe": {file: "name: x\nexperiment: e\nnative: {specialist: bull, symbol: SPX, timeframe: 7h}\n", want: []string{"7h", "1d"}},
	} {
		path := filepath.Join(t.TempDir(), "job.yaml")
		if err := os.WriteFile(path, []byte(c.file), 0o600); err != nil {
			t.Fatal(err)
		}
		out, errs, err := y.trainyard("submit", path)
		if err == nil {
			t.Errorf("%s: accepted:\n%s", name, out)
		}
		for _, want := range c.want {
			if !strings.Contains(strings.ReplaceAll(errs, "9000GiB", "9000 GiB"), want) {
				t.Errorf("%s: the message does not name %q:\n%s", name, want, errs)
			}
		}
	}
	list, err := y.Jobs.ListJobs(ctx, &jobv1.ListJobsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if len(list.GetJobs()) != 0 {
		t.Errorf("refused files left jobs: %v", list.GetJobs())
	}

	id := newID()
	spec := specialist(jobv1.Specialist_SPECIALIST_BULL, 1)
	first, err := y.Jobs.SubmitJob(ctx, &jobv1.SubmitJobRequest{RequestId: id, Spec: spec})
	if err != nil {
		t.Fatal(err)
	}
	again, err := y.Jobs.SubmitJob(ctx, &jobv1.SubmitJobRequest{RequestId: id, Spec: spec})
	if err != nil || again.GetJob().GetJobId() != first.GetJob().GetJobId() {
		t.Errorf("the same request again: %v, %v; want the first answer", again, err)
	}
	spec.DisplayName = "another"
	_, err = y.Jobs.SubmitJob(ctx, &jobv1.SubmitJobRequest{RequestId: id, Spec: spec})
	if status.Code(err) != codes.InvalidArgument || rpcerr.ReasonOf(err) != errorv1.Reason_REASON_REQUEST_ID_REUSED {
		t.Errorf("same request id, other payload: %v", err)
	}
	y.finish(ctx, t, first.GetJob().GetJobId())
}

// What is wrong with a machine is said before anything starts.
func TestAStartThatCannotWorkSaysWhy(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }() // a listener that is only there to be in the way
	port := strconv.Itoa(listener.Addr().(*net.TCPAddr).Port)
	broken := filepath.Join(t.TempDir(), "data")
	if err := os.MkdirAll(broken, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		args []string
		env  []string
		want []string
	}{
		"port in use":       {args: []string{"--port", "scheduler=" + port}, want: []string{port, "in use"}},
		"no such directory": {args: []string{"--data-dir", broken + "-not"}, want: []string{broken + "-not"}},
		"missing programs":  {args: []string{"--bin", broken}, want: []string{"scheduler", "make build"}},
		"missing Postgres":  {env: []string{"TRAINYARD_PG_BIN=" + broken}, want: []string{"TRAINYARD_PG_BIN", broken}},
	} {
		state := stateDir(t)
		cmd := exec.Command(filepath.Join(binDir(t), "trainyard"), append([]string{"up", "--state=" + state}, c.args...)...)
		cmd.Env = append(os.Environ(), c.env...)
		out, err := cmd.CombinedOutput()
		if err == nil {
			t.Errorf("%s: started", name)
		}
		for _, want := range c.want {
			if !strings.Contains(string(out), want) {
				t.Errorf("%s: the message does not name %q:\n%s", name, want, out)
			}
		}
		if left := processesOf(state); len(left) > 0 {
			t.Errorf("%s: left behind: %v", name, left)
		}
	}
}

// A truncated CSV names its line; the other symbols still serve.
func TestATruncatedCSVIsNamedAndHarmsNobodyElse(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	csv := "date,open,high,low,close,adjclose,volume\n2020-01-02,1,1,1,1,1,1\n2020-01-03,1,1"
	if err := os.WriteFile(filepath.Join(dir, "TORN_1d.csv"), []byte(csv), 0o644); err != nil {
		t.Fatal(err)
	}
	y := start(t, "--data-dir="+dir)
	path := filepath.Join(t.TempDir(), "job.yaml")
	if err := os.WriteFile(path, []byte("name: x\nexperiment: e\nnative: {specialist: bull, symbol: TORN, timeframe: 1d}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, errs, err := y.trainyard("submit", path)
	if err == nil || !strings.Contains(errs, "TORN") || !strings.Contains(errs, "line 3") {
		t.Errorf("a truncated CSV: %v\n%s", err, errs)
	}
	job := y.submit(context.Background(), t, specialist(jobv1.Specialist_SPECIALIST_SIDEWAYS, 2))
	if done := y.finish(context.Background(), t, job.GetJobId()); done.GetState() != jobv1.Job_STATE_SUCCEEDED {
		t.Errorf("SPX beside it: %v: %s", done.GetState(), done.GetStateReason())
	}
}
