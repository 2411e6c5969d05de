//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"testing"
	"time"

	jobv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/job/v1"
	registryv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/registry/v1"
)

// Every service and server is killed once while three specialists train; one trainer too. The mesh mends itself, all three models
// reach Production, and no epoch is missing or doubled in the metrics.
func TestTheMeshSurvivesTheDeathOfEachPart(t *testing.T) {
	y := start(t)
	ctx := context.Background()
	var ids []string
	for _, kind := range []jobv1.Specialist{jobv1.Specialist_SPECIALIST_BULL, jobv1.Specialist_SPECIALIST_BEAR, jobv1.Specialist_SPECIALIST_SIDEWAYS} {
		ids = append(ids, y.submit(ctx, t, specialist(kind, 150)).GetJobId())
	}
	for _, id := range ids {
		y.awaitEpoch(ctx, t, id, 2)
	}
	for _, name := range []string{"scheduler", "registry", "agent", "janitor", "dataservice", "s3", "postgres"} {
		y.kill(t, name)
	}
	y.killTrainer(t)

	for i, model := range []string{"bull_specialist", "bear_specialist", "sideways_specialist"} {
		done := y.finish(ctx, t, ids[i])
		if done.GetState() != jobv1.Job_STATE_SUCCEEDED {
			t.Errorf("%s: job is %v: %s; attempts %v", model, done.GetState(), done.GetStateReason(), done.GetAttempts())
			continue
		}
		y.metrics(ctx, t, done)
		version := y.promote(ctx, t, model)
		y.digests(ctx, t, version)
	}
	models, err := y.Models.ListModels(ctx, &registryv1.ListModelsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	production := 0
	for _, m := range models.GetModels() {
		for _, v := range m.GetVersions() {
			if v.GetStage() == registryv1.Stage_STAGE_PRODUCTION {
				production++
			}
		}
	}
	if production != 3 {
		t.Errorf("%d versions are in Production, want 3", production)
	}
}

// Two schedulers stand, and each in turn hangs: frozen, as a machine that swaps is, which no connection notices. The other one
// leads within seconds, submits go through under the list of addresses, no attempt is lost or begun twice, and the one that
// thaws steps back.
func TestAFrozenSchedulerIsReplacedByTheStandby(t *testing.T) {
	y := start(t, "--standby")
	ctx := context.Background()
	ids := []string{y.submit(ctx, t, specialist(jobv1.Specialist_SPECIALIST_BULL, 150)).GetJobId()}
	y.awaitEpoch(ctx, t, ids[0], 1)
	for _, name := range []string{"scheduler", "standby"} {
		p, err := y.unit(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := syscall.Kill(p.PID, syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		ids = append(ids, y.submit(ctx, t, specialist(jobv1.Specialist_SPECIALIST_BEAR, 5)).GetJobId())
		if err := syscall.Kill(p.PID, syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
	}
	for _, id := range ids {
		done := y.finish(ctx, t, id)
		if done.GetState() != jobv1.Job_STATE_SUCCEEDED || len(done.GetAttempts()) != 1 {
			t.Errorf("job %s is %v: %s; attempts %v", id, done.GetState(), done.GetStateReason(), done.GetAttempts())
			continue
		}
		y.metrics(ctx, t, done)
	}
}

func (y *yard) awaitEpoch(ctx context.Context, t *testing.T, id string, epoch uint32) {
	t.Helper()
	eventually(t, fmt.Sprintf("job %s reaches epoch %d", id, epoch), func() error {
		answer, err := y.Jobs.GetJob(ctx, &jobv1.GetJobRequest{JobId: id})
		if err != nil {
			return err
		}
		if got := answer.GetJob().GetProgress().GetEpoch(); got < epoch {
			return fmt.Errorf("epoch %d, %v: %s", got, answer.GetJob().GetState(), answer.GetJob().GetStateReason())
		}
		return nil
	})
}

// kill ends a unit by SIGKILL and waits until the launcher runs another one.
func (y *yard) kill(t *testing.T, name string) {
	t.Helper()
	before, err := y.unit(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(before.PID, syscall.SIGKILL); err != nil {
		t.Fatalf("kill %s: %v", name, err)
	}
	eventually(t, name+" runs again", func() error {
		now, err := y.unit(name)
		if err != nil {
			return err
		}
		if now == before || !now.Alive() {
			return errors.New("not yet")
		}
		return nil
	})
	// The next death must not hide in this one's restart.
	time.Sleep(time.Second)
}

// killTrainer ends one trainer: its job must resume from a checkpoint.
func (y *yard) killTrainer(t *testing.T) {
	t.Helper()
	trainers := y.trainers()
	if len(trainers) == 0 {
		t.Fatal("no trainer runs any more: the jobs are too short for this test")
	}
	if err := syscall.Kill(trainers[0].PID, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
		t.Fatal(err)
	}
}

// A launcher that is killed takes the mesh with it, and the next one starts on what it left: the same state, no lost job.
func TestAKilledLauncherLeavesNoProcessAndNoDamage(t *testing.T) {
	state := stateDir(t)
	ctx := context.Background()
	first := launch(t, state)
	job := first.submit(ctx, t, specialist(jobv1.Specialist_SPECIALIST_BEAR, 40))
	first.awaitEpoch(ctx, t, job.GetJobId(), 1)
	if err := first.Close(); err != nil {
		t.Error(err)
	}
	if err := first.up.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "every process of the killed mesh is gone", func() error {
		if left := processesOf(state); len(left) > 0 {
			return fmt.Errorf("left: %v", left)
		}
		return nil
	})

	second := launch(t, state)
	done := second.finish(ctx, t, job.GetJobId())
	if done.GetState() != jobv1.Job_STATE_SUCCEEDED {
		t.Errorf("the job of the killed mesh is %v: %s", done.GetState(), done.GetStateReason())
	}
	if err := second.Close(); err != nil {
		t.Error(err)
	}
	if err := second.stop(); err != nil {
		t.Errorf("stop: %v\n%s", err, second.out)
	}
	if left := processesOf(state); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	if t.Failed() {
		second.dumpLogs(t)
	}
}
