package scheduler_test

import (
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/ultrathink-pilot/trainyard/libs/identity"
	"github.com/ultrathink-pilot/trainyard/libs/rpcerr"
	errorv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/error/v1"
	fleetv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/fleet/v1"
	jobv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/job/v1"
)

func after(job string, policy jobv1.DependencyFailure) *jobv1.Dependency {
	return &jobv1.Dependency{Condition: &jobv1.Dependency_Job{Job: job}, OnFailure: policy}
}

// finish ends a job's attempt on a host that holds it.
func (a *agent) finish(as *fleetv1.Assignment, outcome fleetv1.Exit_Outcome) {
	a.t.Helper()
	exit := &fleetv1.Exit{JobId: as.GetJobId(), Attempt: as.GetAttempt(), Fence: as.GetFence(), Outcome: outcome}
	if outcome == fleetv1.Exit_OUTCOME_FAILED {
		exit.FailureClass = jobv1.FailureClass_FAILURE_CLASS_BAD_CONFIGURATION
	}
	a.report.Exits, a.report.Leases, a.known = []*fleetv1.Exit{exit}, nil, 0
	a.sync()
	a.report.Exits = nil
}

func (a *agent) assignment() *fleetv1.Assignment {
	a.t.Helper()
	a.known = 0
	return a.until("assignment", func(r *fleetv1.SynchronizeResponse) bool { return len(r.GetAssignments()) > 0 }).GetAssignments()[0]
}

func TestAGraphRunsInOrderAndFailsByPolicy(t *testing.T) {
	t.Parallel()
	m := newMesh(t)
	ctx := t.Context()
	graphs := jobv1.NewGraphServiceClient(m.dial(identity.RolePerson, "ann"))
	host := m.agent("h1")
	host.sync()

	node := func(name string, deps ...*jobv1.Dependency) *jobv1.GraphNode {
		s := spec(gib)
		s.DisplayName, s.After = name, deps
		return &jobv1.GraphNode{Name: name, Spec: s}
	}
	in := &jobv1.SubmitGraphRequest{RequestId: uuid.NewString(), Nodes: []*jobv1.GraphNode{
		node("report", after("evaluate", jobv1.DependencyFailure_DEPENDENCY_FAILURE_IGNORE)),
		node("evaluate", after("train", 0)),
		node("publish", after("evaluate", jobv1.DependencyFailure_DEPENDENCY_FAILURE_HOLD)),
		node("clean", after("evaluate", 0)),
		node("train"),
	}}
	g, err := graphs.SubmitGraph(ctx, in)
	if err != nil {
		t.Fatal(err)
	}
	byName := func() map[string]*jobv1.Job {
		t.Helper()
		r, err := graphs.GetGraph(ctx, &jobv1.GetGraphRequest{GraphId: g.GetGraphId()})
		if err != nil {
			t.Fatal(err)
		}
		out := map[string]*jobv1.Job{}
		for _, j := range r.GetJobs() {
			out[j.GetGraphNode()] = j
		}
		return out
	}
	jobs := byName()
	if r := jobs["evaluate"].GetStateReason(); r != "waits for job "+jobs["train"].GetJobId() {
		t.Errorf("evaluate waits because %q", r)
	}
	as := host.assignment()
	if as.GetJobId() != jobs["train"].GetJobId() {
		t.Fatalf("%s ran first", as.GetSpec().GetDisplayName())
	}
	host.finish(as, fleetv1.Exit_OUTCOME_SUCCEEDED)
	as = host.assignment()
	if as.GetJobId() != jobs["evaluate"].GetJobId() {
		t.Fatalf("%s ran second", as.GetSpec().GetDisplayName())
	}
	host.finish(as, fleetv1.Exit_OUTCOME_FAILED)
	as = host.assignment()
	if as.GetJobId() != jobs["report"].GetJobId() {
		t.Errorf("%s ran third", as.GetSpec().GetDisplayName())
	}
	jobs = byName()
	if j := jobs["clean"]; j.GetState() != jobv1.Job_STATE_CANCELLED || !strings.Contains(j.GetStateReason(), "cannot happen any more") {
		t.Errorf("clean is %s: %s", j.GetState(), j.GetStateReason())
	}
	if j := jobs["publish"]; j.GetState() != jobv1.Job_STATE_PAUSED || j.GetDependencies()[0].GetState() != jobv1.DependencyState_STATE_FAILED {
		t.Errorf("publish is %s: %v", j.GetState(), j.GetDependencies())
	}
	people := m.people()
	if _, err := people.ResumeJob(ctx, &jobv1.ResumeJobRequest{RequestId: uuid.NewString(), JobId: jobs["publish"].GetJobId()}); err != nil {
		t.Fatal(err)
	}
	if d := byName()["publish"].GetDependencies()[0]; d.GetState() != jobv1.DependencyState_STATE_MET || !strings.Contains(d.GetReason(), "waived by person/ann") {
		t.Errorf("waived as %v", d)
	}
	again, err := graphs.SubmitGraph(ctx, in)
	if err != nil || again.GetGraphId() != g.GetGraphId() {
		t.Errorf("the repeated submit: %v, %v", again, err)
	}
	c, err := graphs.CancelGraph(ctx, &jobv1.CancelGraphRequest{RequestId: uuid.NewString(), GraphId: g.GetGraphId()})
	if err != nil {
		t.Fatal(err)
	}
	for _, j := range c.GetJobs() {
		if s := j.GetState(); s != jobv1.Job_STATE_STOPPING && s < jobv1.Job_STATE_SUCCEEDED {
			t.Errorf("%s is %s after the cancel", j.GetGraphNode(), s)
		}
	}
}

func TestBadGraphsAreRefusedWhole(t *testing.T) {
	t.Parallel()
	m := newMesh(t)
	ctx := t.Context()
	graphs := jobv1.NewGraphServiceClient(m.dial(identity.RolePerson, "ann"))
	host := m.agent("h1")
	host.sync()
	a, b, c := spec(gib), spec(96*gib), spec(gib)
	a.After = []*jobv1.Dependency{after("b", 0)}
	b.After = []*jobv1.Dependency{after("a", 0), after("nobody", 0)}
	c.After = []*jobv1.Dependency{after(uuid.NewString(), 0)}
	c.DisplayName = "" // breaks a rule of the contract: everything else is named with it
	_, err := graphs.SubmitGraph(ctx, &jobv1.SubmitGraphRequest{RequestId: uuid.NewString(), Nodes: []*jobv1.GraphNode{{Name: "a", Spec: a}, {Name: "b", Spec: b}, {Name: "c", Spec: c}}})
	got := fmt.Sprint(rpcerr.Violations(err))
	for _, want := range []string{"a -> b -> a", `nodes[1].spec.after[1].job "nobody" is neither a node`, "nodes[2].spec.after[0] job", "does not exist", "nodes[1].spec.resources.devices[0].memory_bytes", "largest 22 GiB", "nodes[2].spec.display_name"} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is not in %s", want, got)
		}
	}
	if list, err := m.people().ListJobs(ctx, &jobv1.ListJobsRequest{}); err != nil || len(list.GetJobs()) != 0 {
		t.Errorf("something was stored: %v, %v", list, err)
	}
}

func TestAnArrayRunsAFewAtATime(t *testing.T) {
	t.Parallel()
	m := newMesh(t)
	ctx := t.Context()
	arrays := jobv1.NewArrayServiceClient(m.dial(identity.RolePerson, "ann"))
	host := m.agent("h1")
	host.sync()
	template := spec(gib)
	template.Runtime = &jobv1.JobSpec_Command{Command: &jobv1.CommandSpec{Argv: []string{"train", "--fold={index}"}}}
	r, err := arrays.SubmitArray(ctx, &jobv1.SubmitArrayRequest{RequestId: uuid.NewString(), Template: template, Count: 5, MaxParallel: 2})
	if err != nil || r.GetArray().GetWaiting() != 5 {
		t.Fatalf("%v, %v", r, err)
	}
	id := r.GetArray().GetArrayId()
	waiter := spec(gib)
	waiter.After = []*jobv1.Dependency{{Condition: &jobv1.Dependency_Array{Array: id}}}
	after := m.submit(m.people(), waiter)

	seen := map[string]bool{}
	for range 5 {
		host.known = 0
		got := host.until("assignments", func(r *fleetv1.SynchronizeResponse) bool { return len(r.GetAssignments()) > 0 }).GetAssignments()
		if len(got) > 2 {
			t.Fatalf("%d elements at once", len(got))
		}
		seen[got[0].GetSpec().GetCommand().GetArgv()[1]] = true
		host.finish(got[0], fleetv1.Exit_OUTCOME_SUCCEEDED)
	}
	if len(seen) != 5 || !seen["--fold=0"] || !seen["--fold=4"] {
		t.Errorf("ran %v", seen)
	}
	g, err := arrays.GetArray(ctx, &jobv1.GetArrayRequest{ArrayId: id})
	if err != nil || g.GetArray().GetSucceeded() != 5 {
		t.Errorf("%v, %v", g, err)
	}
	if as := host.assignment(); as.GetJobId() != after.GetJobId() {
		t.Errorf("%s ran after the array", as.GetJobId())
	}

	r, err = arrays.SubmitArray(ctx, &jobv1.SubmitArrayRequest{RequestId: uuid.NewString(), Template: spec(20 * gib), Count: 3, MaxParallel: 1})
	if err != nil {
		t.Fatal(err)
	}
	id = r.GetArray().GetArrayId()
	x, err := arrays.ExplainArray(ctx, &jobv1.ExplainArrayRequest{ArrayId: id})
	if err != nil || !strings.Contains(x.GetSummary(), "0 of 3 elements ended well") || len(x.GetGroups()) == 0 {
		t.Errorf("%v, %v", x, err)
	}
	c, err := arrays.CancelArray(ctx, &jobv1.CancelArrayRequest{RequestId: uuid.NewString(), ArrayId: id})
	if err != nil || c.GetArray().GetCancelled()+c.GetArray().GetRunning() != 3 {
		t.Errorf("%v, %v", c, err)
	}
	list, err := arrays.ListArrays(ctx, &jobv1.ListArraysRequest{PageSize: 1})
	if err != nil || len(list.GetArrays()) != 1 || list.GetArrays()[0].GetArrayId() != id || list.GetNextPageToken() == "" {
		t.Errorf("%v, %v", list, err)
	}
	elements, err := m.people().ListJobs(ctx, &jobv1.ListJobsRequest{ArrayId: id})
	if err != nil || len(elements.GetJobs()) != 3 || elements.GetJobs()[0].GetArrayIndex() != 2 || elements.GetJobs()[0].GetSpec().GetNative().GetSeed() != 3 {
		t.Errorf("%v, %v", elements, err)
	}
}

func TestAQuotaBoundsUnfinishedJobs(t *testing.T) {
	t.Parallel()
	m := newMesh(t)
	ctx := t.Context()
	quotas := jobv1.NewQuotaServiceClient(m.dial(identity.RolePerson, "ann"))
	people := m.people()
	_, err := quotas.SetQuota(ctx, &jobv1.SetQuotaRequest{RequestId: uuid.NewString(), Quota: &jobv1.Quota{Tenant: "default", MaxJobs: 2}})
	if err != nil {
		t.Fatal(err)
	}
	first := m.submit(people, spec(gib))
	m.submit(people, spec(gib))
	_, err = people.SubmitJob(ctx, &jobv1.SubmitJobRequest{RequestId: uuid.NewString(), Spec: spec(gib)})
	if e := rpcerr.FromError(err); status.Code(err) != codes.ResourceExhausted || e.Reason() != errorv1.Reason_REASON_QUOTA_EXCEEDED || e.Retry() <= 0 {
		t.Errorf("beyond the quota: %v", err)
	}
	nine := &jobv1.Quota{Tenant: "desk"}
	for i := range 9 {
		nine.Devices = append(nine.Devices, &jobv1.DeviceQuota{Kind: fmt.Sprint(i), Nominal: 1})
	}
	nine.Devices[0].Kind = "a|b"
	if _, err = quotas.SetQuota(ctx, &jobv1.SetQuotaRequest{RequestId: uuid.NewString(), Quota: nine}); !strings.Contains(fmt.Sprint(rpcerr.Violations(err)), "several kinds") {
		t.Errorf("two kinds in one entry: %v", err)
	}
	nine.Devices[0].Kind = "a"
	if _, err = quotas.SetQuota(ctx, &jobv1.SetQuotaRequest{RequestId: uuid.NewString(), Quota: nine}); !strings.Contains(fmt.Sprint(rpcerr.Violations(err)), "at most 8 kinds") {
		t.Errorf("nine kinds: %v", err)
	}
	got, err := quotas.GetQuota(ctx, &jobv1.GetQuotaRequest{Tenant: "default"})
	if err != nil || got.GetUsage().GetQueued() != 2 || got.GetQuota().GetMaxJobs() != 2 {
		t.Errorf("%v, %v", got, err)
	}
	if _, err = people.CancelJob(ctx, &jobv1.CancelJobRequest{RequestId: uuid.NewString(), JobId: first.GetJobId()}); err != nil {
		t.Fatal(err)
	}
	m.submit(people, spec(gib))
	m.stop()
	m.start()
	quotas = jobv1.NewQuotaServiceClient(m.dial(identity.RolePerson, "ann"))
	list, err := quotas.ListQuotas(ctx, &jobv1.ListQuotasRequest{})
	if err != nil || len(list.GetTenants()) != 1 || list.GetTenants()[0].GetQuota().GetMaxJobs() != 2 {
		t.Errorf("after a restart: %v, %v", list, err)
	}
	if _, err = quotas.DeleteQuota(ctx, &jobv1.DeleteQuotaRequest{RequestId: uuid.NewString(), Tenant: "default"}); err != nil {
		t.Fatal(err)
	}
	m.submit(m.people(), spec(gib))
}

func TestSchedulesThroughTheAPI(t *testing.T) {
	t.Parallel()
	m := newMesh(t)
	ctx := t.Context()
	schedules := jobv1.NewScheduleServiceClient(m.dial(identity.RolePerson, "ann"))
	bad := &jobv1.ScheduleSpec{Cron: "61 25 * *", TimeZone: "Mars/Olympus", Job: &jobv1.JobSpec{Experiment: "e", Runtime: spec(gib).GetRuntime()}}
	_, err := schedules.CreateSchedule(ctx, &jobv1.CreateScheduleRequest{RequestId: uuid.NewString(), Name: "nightly", Spec: bad})
	got := fmt.Sprint(rpcerr.Violations(err))
	for _, want := range []string{"spec.cron", "has 4 fields", "spec.time_zone", "Mars/Olympus", "spec.job.display_name"} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is not in %s", want, got)
		}
	}
	good := &jobv1.ScheduleSpec{Cron: "30 2 * * *", TimeZone: "Europe/Berlin", Job: spec(gib)}
	created, err := schedules.CreateSchedule(ctx, &jobv1.CreateScheduleRequest{RequestId: uuid.NewString(), Name: "nightly", Spec: good})
	if err != nil || len(created.GetSchedule().GetNextFireTimes()) != 5 {
		t.Fatalf("%v, %v", created, err)
	}
	_, err = schedules.CreateSchedule(ctx, &jobv1.CreateScheduleRequest{RequestId: uuid.NewString(), Name: "nightly", Spec: good})
	if rpcerr.ReasonOf(err) != errorv1.Reason_REASON_RESOURCE_EXISTS {
		t.Errorf("a name twice: %v", err)
	}
	paused, err := schedules.PauseSchedule(ctx, &jobv1.PauseScheduleRequest{RequestId: uuid.NewString(), Name: "nightly"})
	if err != nil || !paused.GetSchedule().GetPaused() || len(paused.GetSchedule().GetNextFireTimes()) != 0 {
		t.Errorf("%v, %v", paused, err)
	}
	m.stop()
	m.start()
	schedules = jobv1.NewScheduleServiceClient(m.dial(identity.RolePerson, "ann"))
	if _, err = schedules.ResumeSchedule(ctx, &jobv1.ResumeScheduleRequest{RequestId: uuid.NewString(), Name: "nightly"}); err != nil {
		t.Fatal(err)
	}
	good.Cron = "@hourly"
	updated, err := schedules.UpdateSchedule(ctx, &jobv1.UpdateScheduleRequest{RequestId: uuid.NewString(), Name: "nightly", Spec: good})
	if err != nil || updated.GetSchedule().GetSpec().GetCron() != "@hourly" || updated.GetSchedule().GetPaused() {
		t.Errorf("%v, %v", updated, err)
	}
	if _, err = schedules.DeleteSchedule(ctx, &jobv1.DeleteScheduleRequest{RequestId: uuid.NewString(), Name: "nightly"}); err != nil {
		t.Fatal(err)
	}
	if _, err = schedules.GetSchedule(ctx, &jobv1.GetScheduleRequest{Name: "nightly"}); rpcerr.ReasonOf(err) != errorv1.Reason_REASON_RESOURCE_NOT_FOUND {
		t.Errorf("a deleted schedule: %v", err)
	}
}

func TestEverythingWrongInOneAnswer(t *testing.T) {
	t.Parallel()
	m := newMesh(t)
	ctx := t.Context()
	people := m.people()
	host := m.agent("h1")
	host.sync()
	wrong := spec(96 * gib)
	wrong.DisplayName, wrong.After = "", []*jobv1.Dependency{after("not-a-job", 0)}
	_, err := people.SubmitJob(ctx, &jobv1.SubmitJobRequest{RequestId: "no uuid", Spec: wrong})
	got := fmt.Sprint(rpcerr.Violations(err))
	for _, want := range []string{"request_id", "spec.display_name", "spec.after[0].job", "spec.resources.devices[0].memory_bytes"} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is not in %s", want, got)
		}
	}
	huge := spec(gib)
	env := map[string]string{}
	for i := range 200 {
		env[fmt.Sprintf("V%d", i)] = strings.Repeat("x", 32000)
	}
	huge.Runtime = &jobv1.JobSpec_Command{Command: &jobv1.CommandSpec{Argv: []string{"x"}, Env: env}}
	_, err = people.SubmitJob(ctx, &jobv1.SubmitJobRequest{RequestId: uuid.NewString(), Spec: huge})
	if got := fmt.Sprint(rpcerr.Violations(err)); !strings.Contains(got, "spec has 6.1 MiB; at most 1 MiB") {
		t.Errorf("a specification of megabytes: %v", err)
	}
	for i := range 130 {
		env[fmt.Sprintf("W%d", i)] = strings.Repeat("x", 32000)
	}
	_, err = people.SubmitJob(ctx, &jobv1.SubmitJobRequest{RequestId: uuid.NewString(), Spec: huge})
	if got := fmt.Sprint(rpcerr.Violations(err)); !strings.Contains(got, "spec has 10.1 MiB; at most 1 MiB") {
		t.Errorf("a specification of ten megabytes: %s", got)
	}
	absurd := spec(math.MaxInt64)
	absurd.BatchSize = math.MaxUint32
	absurd.Resources.CpuMillis, absurd.Resources.HostMemoryBytes = math.MinInt64, math.MaxInt64
	absurd.Resources.Devices[0].Count = math.MaxUint32
	absurd.TimeLimit, absurd.StallLimit = durationpb.New(-1), durationpb.New(-time.Hour)
	absurd.WaitForCapacity = true
	_, err = people.SubmitJob(ctx, &jobv1.SubmitJobRequest{RequestId: uuid.NewString(), Spec: absurd})
	got = fmt.Sprint(rpcerr.Violations(err))
	for _, want := range []string{"batch_size", "cpu_millis", "host_memory_bytes", "memory_bytes", "count", "time_limit", "stall_limit"} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is not in %s", want, got)
		}
	}
	if list, err := people.ListJobs(ctx, &jobv1.ListJobsRequest{}); err != nil || len(list.GetJobs()) != 0 {
		t.Errorf("something was stored: %v, %v", list, err)
	}
}

func TestAPlacementIsExplainedAndCaptured(t *testing.T) {
	t.Parallel()
	m := newMesh(t)
	ctx := t.Context()
	people := m.people()
	host := m.agent("h1")
	host.sync()
	small := m.agent("h2")
	small.report.Devices[0].MemoryBytes = 4 * gib
	small.sync()
	j := m.submit(people, spec(10*gib))
	host.assignment()
	x, err := people.ExplainPlacement(ctx, &jobv1.ExplainPlacementRequest{JobId: j.GetJobId()})
	if err != nil || len(x.GetCandidates()) != 2 || !x.GetCandidates()[0].GetChosen() || x.GetCandidates()[1].GetFitted() ||
		!strings.Contains(x.GetCandidates()[1].GetReason(), "10 GiB") || x.GetSnapshotId() == 0 {
		t.Fatalf("%v, %v", x, err)
	}
	if c := x.GetCandidates()[0]; c.GetRank() != 1 || c.GetScore() == 0 || c.GetDeviceIds()[0] != "cpu:0" || len(c.GetDevices()) != 1 || !c.GetDevices()[0].GetChosen() {
		t.Errorf("terms of the chosen host: %v", c)
	}
	list, err := people.ListSnapshots(ctx, &jobv1.ListSnapshotsRequest{})
	if err != nil || len(list.GetSnapshots()) != 1 || list.GetSnapshots()[0].GetPlaced() != 1 {
		t.Errorf("%v, %v", list, err)
	}
	stream, err := people.GetSnapshot(ctx, &jobv1.GetSnapshotRequest{JobId: j.GetJobId()})
	if err != nil {
		t.Fatal(err)
	}
	c, err := stream.Recv()
	if err != nil || c.GetSnapshotId() != x.GetSnapshotId() || !strings.Contains(string(c.GetChunk()), j.GetJobId()) {
		t.Errorf("%v, %v", c, err)
	}
}
