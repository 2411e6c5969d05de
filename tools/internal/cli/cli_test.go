package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/ultrathink-pilot/trainyard/libs/rpcerr"
	errorv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/error/v1"
	jobv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/job/v1"
	registryv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/registry/v1"
	"github.com/ultrathink-pilot/trainyard/tools/internal/mesh"
)

func (f *fakeMesh) run(t *testing.T, args ...string) (string, error) {
	t.Helper()
	var out bytes.Buffer
	err := Run(t.Context(), append([]string{"--state", f.state}, args...), &out, io.Discard)
	return out.String(), err
}

func jobFile(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "job.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

const goodJob = `name: bull-spx
native:
  specialist: bull
  symbol: SPX
  timeframe: 1d
resources:
  devices:
    - memory: 96GiB
`

func TestSubmit(t *testing.T) {
	t.Parallel()
	f := newFakeMesh(t)
	id := uuid.NewString()
	out, err := f.run(t, "submit", jobFile(t, goodJob), "--request-id", id)
	if err != nil || !strings.Contains(out, "01990000-0000-7000-8000-000000000001") {
		t.Fatalf("%q %v", out, err)
	}
	if len(f.submitted) != 1 || f.submitted[0].GetRequestId() != id || f.submitted[0].GetSpec().GetResources().GetDevices()[0].GetMemoryBytes() != 96<<30 {
		t.Fatalf("%v", f.submitted)
	}
	out, err = f.run(t, "submit", jobFile(t, goodJob), "--dry-run")
	if err != nil || !strings.Contains(out, "would run on local/cpu:0") || len(f.submitted) != 1 {
		t.Fatalf("%q %v", out, err)
	}
}

func (f *fakeMesh) ResolveModel(_ context.Context, r *registryv1.ResolveModelRequest) (*registryv1.ResolveModelResponse, error) {
	if r.GetModelName() != "bear_specialist" || r.GetStage() != registryv1.Stage_STAGE_PRODUCTION {
		return nil, rpcerr.New(codes.NotFound, errorv1.Reason_REASON_RESOURCE_NOT_FOUND, "there is no such model version")
	}
	return &registryv1.ResolveModelResponse{Version: &registryv1.ModelVersion{CheckpointId: "01990000-0000-7000-8000-00000000000c"}}, nil
}

// TestAWarmStartIsFixedAtSubmission: the model's checkpoint goes into the job.
func TestAWarmStartIsFixedAtSubmission(t *testing.T) {
	t.Parallel()
	f := newFakeMesh(t)
	text := strings.Replace(goodJob, "  timeframe: 1d\n", "  timeframe: 1d\n  warm_start: {model: bear_specialist}\n", 1)
	if out, err := f.run(t, "submit", jobFile(t, text)); err != nil {
		t.Fatalf("%s, %v", out, err)
	}
	if w := f.submitted[0].GetSpec().GetNative().GetWarmStart(); w.GetCheckpointId() != "01990000-0000-7000-8000-00000000000c" {
		t.Errorf("%v", w)
	}
	_, err := f.run(t, "submit", jobFile(t, strings.Replace(text, "bear_specialist", "nobody", 1)))
	if err == nil || !strings.Contains(err.Error(), "native.warm_start.model") {
		t.Errorf("%v", err)
	}
}

func TestSubmitReportsEveryProblemOfEveryFile(t *testing.T) {
	t.Parallel()
	f := newFakeMesh(t)
	f.refuse = rpcerr.Invalid(rpcerr.Violation{Field: "spec.resources.devices[0].memory_bytes", Description: "96GiB is more than any device has (largest 24 GiB)"})
	one := jobFile(t, strings.ReplaceAll(goodJob, "SPX", "DOGE"))
	two := jobFile(t, strings.ReplaceAll(goodJob, "1d", "7w"))
	three := jobFile(t, strings.ReplaceAll(goodJob, "SPX", "BAD"))
	_, err := f.run(t, "submit", one, two, three)
	if err == nil {
		t.Fatal("accepted")
	}
	for _, want := range []string{
		"6 problems, nothing was submitted",
		one + `:4: native.symbol: unknown symbol "DOGE"; the data service has SPX (1d, 1w)`,
		one + ":8: resources.devices[0].memory: 96GiB is more than any device has (largest 24 GiB)",
		two + `:5: native.timeframe: unknown timeframe "7w"; SPX has 1d, 1w`,
		three + ":4: native.symbol: BAD_1d.csv cannot be used: line 3: short",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q not in:\n%v", want, err)
		}
	}
	if len(f.submitted) != 0 {
		t.Errorf("submitted %v", f.submitted)
	}
}

func TestSubmitTellsOtherErrorsAsTheyAre(t *testing.T) {
	t.Parallel()
	f := newFakeMesh(t)
	f.refuse = rpcerr.New(codes.InvalidArgument, errorv1.Reason_REASON_REQUEST_ID_REUSED, "this request id was used with another payload")
	if _, err := f.run(t, "submit", jobFile(t, goodJob)); err == nil || !strings.Contains(err.Error(), "used with another payload") {
		t.Fatal(err)
	}
	if _, err := f.run(t, "submit", jobFile(t, "name: [")); err == nil || !strings.Contains(err.Error(), "not YAML") {
		t.Fatal(err)
	}
	if _, err := f.run(t, "submit", filepath.Join(t.TempDir(), "none.yaml")); !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
}

func TestJobsFollowsPagesAndSpeaksJSON(t *testing.T) {
	t.Parallel()
	f := newFakeMesh(t)
	for range 3 {
		if _, err := f.run(t, "submit", jobFile(t, goodJob)); err != nil {
			t.Fatal(err)
		}
	}
	out, err := f.run(t, "jobs", "-o", "json")
	if err != nil {
		t.Fatal(err)
	}
	answer := &jobv1.ListJobsResponse{}
	if err := protojson.Unmarshal([]byte(out), answer); err != nil || len(answer.GetJobs()) != 3 {
		t.Fatalf("%v in %s", err, out)
	}
	out, err = f.run(t, "jobs")
	if err != nil || strings.Count(out, "bull-spx") != 3 || strings.Count(out, "queued") != 3 {
		t.Fatalf("%v %s", err, out)
	}
}

func TestWatchResumesAfterABreak(t *testing.T) {
	t.Parallel()
	f := newFakeMesh(t)
	if _, err := f.run(t, "submit", jobFile(t, goodJob)); err != nil {
		t.Fatal(err)
	}
	id := f.jobs[0].GetJobId()
	frame := func(token string, state jobv1.Job_State, epoch uint32) *jobv1.WatchJobsResponse {
		return &jobv1.WatchJobsResponse{ResumeToken: token, Complete: true, Jobs: []*jobv1.Job{{
			JobId: id, Spec: f.jobs[0].GetSpec(), State: state, StartTime: timestamppb.Now(), EndTime: timestamppb.Now(),
			Progress: &jobv1.Progress{Epoch: epoch, TotalEpochs: 9, Objective: 1.25, StepsPerSecond: 12345, Reward: 0.5},
		}}}
	}
	f.frames = [][]*jobv1.WatchJobsResponse{
		{frame("t1", jobv1.Job_STATE_RUNNING, 1), frame("t2", jobv1.Job_STATE_RUNNING, 2)},
		{frame("t3", jobv1.Job_STATE_SUCCEEDED, 9)},
	}
	// By the end of its id, as a person would type it.
	out, err := f.run(t, "watch", id[len(id)-6:])
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"running", "succeeded", "epoch     9/9", "val Sharpe  1.250", "12k steps/s"} {
		if !strings.Contains(out, want) {
			t.Errorf("%q not in:\n%s", want, out)
		}
	}
	if len(f.tokens) != 2 || f.tokens[0] != "" || f.tokens[1] != "t2" {
		t.Errorf("resumed with %q", f.tokens)
	}

	f.frames = [][]*jobv1.WatchJobsResponse{{frame("t4", jobv1.Job_STATE_FAILED, 3)}}
	if _, err := f.run(t, "watch", id); !errors.Is(err, errJobsFailed) {
		t.Errorf("a failed job's watch ended with %v", err)
	}
}

func TestAnUnknownOrAmbiguousJob(t *testing.T) {
	t.Parallel()
	f := newFakeMesh(t)
	for range 2 {
		if _, err := f.run(t, "submit", jobFile(t, goodJob)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := f.run(t, "job", "nothing"); err == nil || !strings.Contains(err.Error(), `there is no job "nothing"`) {
		t.Error(err)
	}
	if _, err := f.run(t, "job", "0199"); err == nil || !strings.Contains(err.Error(), "could be") {
		t.Error(err)
	}
}

func TestPromote(t *testing.T) {
	t.Parallel()
	f := newFakeMesh(t)
	out, err := f.run(t, "promote", "bull_specialist", "--gate", "validation/sharpe>=0.5", "--reason", "best")
	if err != nil || !strings.Contains(out, "bull_specialist version 4: none -> production") {
		t.Fatalf("%q %v", out, err)
	}
	if g := f.promote.GetGates(); len(g) != 1 || g[0].GetMetric() != "validation/sharpe" || g[0].GetMinimum() != 0.5 || f.promote.GetStage() != registryv1.Stage_STAGE_PRODUCTION {
		t.Errorf("%v", f.promote)
	}
	for _, args := range [][]string{{"--stage", "moon"}, {"--gate", "sharpe"}} {
		var usage usageError
		if _, err := f.run(t, append([]string{"promote", "m"}, args...)...); !errors.As(err, &usage) {
			t.Errorf("%v: %v", args, err)
		}
	}
}

func TestWrongCommandLinesExitWithTwo(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{{"nonsense"}, {"jobs", "--nope"}, {"job"}, {"-o", "xml", "jobs"}, {"up", "--port", "scheduler"}, {"up", "--devices", "tpu"},
		{"submit", "a.yaml", "--request-id", "x"}} {
		var coded interface{ ExitCode() int }
		err := Run(t.Context(), append([]string{"--state", t.TempDir()}, args...), io.Discard, io.Discard)
		if !errors.As(err, &coded) || coded.ExitCode() != 2 {
			t.Errorf("%v: %v", args, err)
		}
	}
}

func TestWithoutAMesh(t *testing.T) {
	t.Parallel()
	var away *mesh.NotRunningError
	if err := Run(t.Context(), []string{"--state", t.TempDir(), "jobs"}, io.Discard, io.Discard); !errors.As(err, &away) {
		t.Fatal(err)
	}
}

func TestScreenRedrawsInPlaceAndLogsPlainly(t *testing.T) {
	t.Parallel()
	now := time.Unix(1000, 0)
	job := func(state jobv1.Job_State, epoch uint32) *jobv1.Job {
		return &jobv1.Job{JobId: "a", State: state, Spec: &jobv1.JobSpec{DisplayName: "x"}, Progress: &jobv1.Progress{Epoch: epoch, TotalEpochs: 4}, StateReason: "why"}
	}
	for _, tty := range []bool{true, false} {
		var out strings.Builder
		s := &screen{out: &out, tty: tty, order: []string{"a"}, jobs: map[string]*jobv1.Job{}, printed: map[string]printed{}}
		draws := 0
		for i, j := range []*jobv1.Job{job(jobv1.Job_STATE_QUEUED, 0), job(jobv1.Job_STATE_RUNNING, 1), job(jobv1.Job_STATE_RUNNING, 2), job(jobv1.Job_STATE_SUCCEEDED, 4)} {
			s.jobs["a"] = j
			if err := s.draw(now.Add(time.Duration(i) * time.Second)); err != nil {
				t.Fatal(err)
			}
			draws++
		}
		if !s.done() {
			t.Error("a succeeded job is not done")
		}
		lines := strings.Count(out.String(), "\n")
		if tty && (lines != draws || strings.Count(out.String(), "\x1b[1A") != draws-1) {
			t.Errorf("terminal: %d lines:\n%q", lines, out.String())
		}
		// Epoch 2 came within plainEvery of epoch 1: a log does not want it.
		if !tty && (lines != 3 || strings.Contains(out.String(), "\x1b")) {
			t.Errorf("log: %d lines:\n%s", lines, out.String())
		}
	}
}

func TestBar(t *testing.T) {
	t.Parallel()
	for share, want := range map[string]string{
		"0/4": strings.Repeat("·", 24), "2/4": strings.Repeat("█", 12) + strings.Repeat("·", 12), "9/4": strings.Repeat("█", 24),
	} {
		p := &jobv1.Progress{}
		if _, err := fmt.Sscanf(share, "%d/%d", &p.Epoch, &p.TotalEpochs); err != nil {
			t.Fatal(err)
		}
		if got := bar(&jobv1.Job{Progress: p}); got != want {
			t.Errorf("%s: %q", share, got)
		}
	}
}
