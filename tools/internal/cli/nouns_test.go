package cli

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/ultrathink-pilot/trainyard/libs/rpcerr"
	errorv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/error/v1"
	fleetv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/fleet/v1"
	jobv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/job/v1"
)

const (
	someID  = "01990000-0000-7000-8000-0000000000aa"
	otherID = "01990000-0000-7000-8000-0000000000bb"
)

// nouns answers for arrays, graphs, schedules, quotas and hosts, and remembers the
// last change that it was asked for.
type nouns struct {
	jobv1.UnimplementedArrayServiceServer
	jobv1.UnimplementedGraphServiceServer
	jobv1.UnimplementedScheduleServiceServer
	jobv1.UnimplementedQuotaServiceServer
	fleetv1.UnimplementedFleetServiceServer

	asking sync.Mutex
	asked  proto.Message
	no     error
}

func (n *nouns) register(g *grpc.Server) {
	jobv1.RegisterArrayServiceServer(g, n)
	jobv1.RegisterGraphServiceServer(g, n)
	jobv1.RegisterScheduleServiceServer(g, n)
	jobv1.RegisterQuotaServiceServer(g, n)
	fleetv1.RegisterFleetServiceServer(g, n)
}

// note keeps a request and gives the scripted refusal.
func (n *nouns) note(m proto.Message) error {
	n.asking.Lock()
	defer n.asking.Unlock()
	n.asked = m
	return n.no
}

var anArray = &jobv1.JobArray{ArrayId: someID, Template: &jobv1.JobSpec{DisplayName: "fold"}, Count: 20, MaxParallel: 4, Waiting: 7, Running: 4, Succeeded: 9}

func (n *nouns) ListArrays(_ context.Context, r *jobv1.ListArraysRequest) (*jobv1.ListArraysResponse, error) {
	if r.GetPageToken() == "" {
		return &jobv1.ListArraysResponse{Arrays: []*jobv1.JobArray{anArray}, NextPageToken: "2"}, nil
	}
	return &jobv1.ListArraysResponse{Arrays: []*jobv1.JobArray{{ArrayId: otherID, Count: 3}}}, n.note(r)
}

func (n *nouns) GetArray(_ context.Context, r *jobv1.GetArrayRequest) (*jobv1.GetArrayResponse, error) {
	return &jobv1.GetArrayResponse{Array: anArray}, n.note(r)
}

func (n *nouns) ExplainArray(_ context.Context, r *jobv1.ExplainArrayRequest) (*jobv1.ExplainArrayResponse, error) {
	return &jobv1.ExplainArrayResponse{Summary: "4 of 20 run", Groups: []*jobv1.ExplainArrayResponse_Group{{Reason: "the array runs as many as it may", Count: 7, JobIds: []string{otherID}}}}, n.note(r)
}

func (n *nouns) CancelArray(_ context.Context, r *jobv1.CancelArrayRequest) (*jobv1.CancelArrayResponse, error) {
	return &jobv1.CancelArrayResponse{Array: anArray}, n.note(r)
}

var aGraph = []*jobv1.Job{
	{JobId: someID, GraphNode: "train", State: jobv1.Job_STATE_RUNNING},
	{JobId: otherID, GraphNode: "evaluate", State: jobv1.Job_STATE_QUEUED, StateReason: "waits for job train", Dependencies: []*jobv1.DependencyState{
		{Dependency: &jobv1.Dependency{Condition: &jobv1.Dependency_Job{Job: someID}}},
		{Dependency: &jobv1.Dependency{Condition: &jobv1.Dependency_ModelPromoted{ModelPromoted: &jobv1.ModelPromotion{ModelName: "bull"}}}},
	}},
}

func (n *nouns) GetGraph(_ context.Context, r *jobv1.GetGraphRequest) (*jobv1.GetGraphResponse, error) {
	return &jobv1.GetGraphResponse{Jobs: aGraph}, n.note(r)
}

func (n *nouns) CancelGraph(_ context.Context, r *jobv1.CancelGraphRequest) (*jobv1.CancelGraphResponse, error) {
	return &jobv1.CancelGraphResponse{Jobs: aGraph}, n.note(r)
}

func aSchedule(paused bool) *jobv1.Schedule {
	return &jobv1.Schedule{
		ScheduleId: someID, Name: "nightly", Paused: paused, Spec: &jobv1.ScheduleSpec{Cron: "30 2 * * 1-5", TimeZone: "Europe/Berlin"}, Skipped: 2,
		NextFireTimes: []*timestamppb.Timestamp{{Seconds: 1772328600}}, LastResult: "submitted",
	}
}

func (n *nouns) ListSchedules(_ context.Context, r *jobv1.ListSchedulesRequest) (*jobv1.ListSchedulesResponse, error) {
	return &jobv1.ListSchedulesResponse{Schedules: []*jobv1.Schedule{aSchedule(false)}}, n.note(r)
}

func (n *nouns) GetSchedule(_ context.Context, r *jobv1.GetScheduleRequest) (*jobv1.GetScheduleResponse, error) {
	return &jobv1.GetScheduleResponse{Schedule: aSchedule(false)}, n.note(r)
}

func (n *nouns) UpdateSchedule(_ context.Context, r *jobv1.UpdateScheduleRequest) (*jobv1.UpdateScheduleResponse, error) {
	return &jobv1.UpdateScheduleResponse{Schedule: aSchedule(false)}, n.note(r)
}

func (n *nouns) PauseSchedule(_ context.Context, r *jobv1.PauseScheduleRequest) (*jobv1.PauseScheduleResponse, error) {
	return &jobv1.PauseScheduleResponse{Schedule: aSchedule(true)}, n.note(r)
}

func (n *nouns) ResumeSchedule(_ context.Context, r *jobv1.ResumeScheduleRequest) (*jobv1.ResumeScheduleResponse, error) {
	return &jobv1.ResumeScheduleResponse{Schedule: aSchedule(false)}, n.note(r)
}

func (n *nouns) DeleteSchedule(_ context.Context, r *jobv1.DeleteScheduleRequest) (*jobv1.DeleteScheduleResponse, error) {
	return &jobv1.DeleteScheduleResponse{}, n.note(r)
}

func (n *nouns) SetQuota(_ context.Context, r *jobv1.SetQuotaRequest) (*jobv1.SetQuotaResponse, error) {
	return &jobv1.SetQuotaResponse{Quota: r.GetQuota(), Usage: &jobv1.TenantUsage{Tenant: r.GetQuota().GetTenant(), Running: 3}}, n.note(r)
}

func (n *nouns) GetQuota(_ context.Context, r *jobv1.GetQuotaRequest) (*jobv1.GetQuotaResponse, error) {
	return &jobv1.GetQuotaResponse{Usage: &jobv1.TenantUsage{Tenant: r.GetTenant(), Queued: 5, Devices: []*jobv1.DeviceUsage{{Kind: "h100", Used: 6, Borrowed: 2}}}}, n.note(r)
}

func (n *nouns) ListQuotas(_ context.Context, r *jobv1.ListQuotasRequest) (*jobv1.ListQuotasResponse, error) {
	return &jobv1.ListQuotasResponse{Tenants: []*jobv1.ListQuotasResponse_Tenant{{Quota: &jobv1.Quota{Tenant: "desk", MaxJobs: 500}, Usage: &jobv1.TenantUsage{Tenant: "desk"}}}}, n.note(r)
}

func (n *nouns) DeleteQuota(_ context.Context, r *jobv1.DeleteQuotaRequest) (*jobv1.DeleteQuotaResponse, error) {
	return &jobv1.DeleteQuotaResponse{}, n.note(r)
}

func anAgent(state fleetv1.Agent_State, reason string) *fleetv1.Agent {
	return &fleetv1.Agent{AgentName: "h1", State: state, StateReason: reason, Devices: []*fleetv1.Device{{DeviceId: "GPU-1", Kind: "h100", MemoryBytes: 80 << 30, Healthy: true}}}
}

func (n *nouns) CordonAgent(_ context.Context, r *fleetv1.CordonAgentRequest) (*fleetv1.CordonAgentResponse, error) {
	return &fleetv1.CordonAgentResponse{Agent: anAgent(fleetv1.Agent_STATE_CORDONED, r.GetReason())}, n.note(r)
}

func (n *nouns) DrainAgent(_ context.Context, r *fleetv1.DrainAgentRequest) (*fleetv1.DrainAgentResponse, error) {
	return &fleetv1.DrainAgentResponse{Agent: anAgent(fleetv1.Agent_STATE_DRAINING, r.GetReason())}, n.note(r)
}

func (n *nouns) UncordonAgent(_ context.Context, r *fleetv1.UncordonAgentRequest) (*fleetv1.UncordonAgentResponse, error) {
	return &fleetv1.UncordonAgentResponse{Agent: anAgent(fleetv1.Agent_STATE_READY, "")}, n.note(r)
}

func (f *fakeMesh) ReprioritizeJob(_ context.Context, r *jobv1.ReprioritizeJobRequest) (*jobv1.ReprioritizeJobResponse, error) {
	return &jobv1.ReprioritizeJobResponse{Job: &jobv1.Job{JobId: r.GetJobId(), State: jobv1.Job_STATE_QUEUED}}, f.note(r)
}

func (f *fakeMesh) ExplainPlacement(_ context.Context, r *jobv1.ExplainPlacementRequest) (*jobv1.ExplainPlacementResponse, error) {
	return &jobv1.ExplainPlacementResponse{
		Attempt: &jobv1.Attempt{Attempt: 2}, Summary: "h1: the tightest fit; 2 of 3 host(s) could take it", AheadCount: 4, SnapshotId: 17,
		Candidates: []*jobv1.ExplainPlacementResponse_Candidate{
			{AgentName: "h1", Fitted: true, Chosen: true, Rank: 1, Score: 25, Reason: "the tightest fit", DeviceIds: []string{"GPU-1"}},
			{AgentName: "h2", Fitted: true, Rank: 2, Score: 22, WasteAfter: 0.5, Reason: "scores 22, 3 less than h1", DeviceIds: []string{"GPU-9"}},
			{AgentName: "h3", Reason: "cordoned"},
		},
	}, f.note(r)
}

func (f *fakeMesh) ListSnapshots(_ context.Context, r *jobv1.ListSnapshotsRequest) (*jobv1.ListSnapshotsResponse, error) {
	return &jobv1.ListSnapshotsResponse{Snapshots: []*jobv1.ListSnapshotsResponse_Snapshot{{SnapshotId: 17, Hosts: 3, Queued: 9, Placed: 2, Preempted: 1}}}, f.note(r)
}

func (f *fakeMesh) GetSnapshot(r *jobv1.GetSnapshotRequest, stream grpc.ServerStreamingServer[jobv1.GetSnapshotResponse]) error {
	if err := f.note(r); err != nil {
		return err
	}
	for _, piece := range []string{`{"Now":`, `"x"}`} {
		if err := stream.Send(&jobv1.GetSnapshotResponse{SnapshotId: 17, Chunk: []byte(piece)}); err != nil {
			return err
		}
	}
	return nil
}

func (f *fakeMesh) GetJobHistory(_ context.Context, r *jobv1.GetJobHistoryRequest) (*jobv1.GetJobHistoryResponse, error) {
	return &jobv1.GetJobHistoryResponse{
		History: &jobv1.JobHistory{
			Job:       &jobv1.Job{JobId: r.GetJobId(), State: jobv1.Job_STATE_SUCCEEDED, Spec: &jobv1.JobSpec{DisplayName: "old"}},
			Decisions: []*jobv1.Decision{{Action: "accepted", Reason: "priority BATCH"}, {Action: "placed", Attempt: 1, Reason: "the tightest fit"}},
		},
		ArchiveFile: "jobs-20260301T120000Z-00112233.jsonl.gz",
	}, f.note(r)
}

// Every verb asks for what was typed and shows the answer, as a table and as JSON.
func TestNouns(t *testing.T) {
	t.Parallel()
	schedule := jobFile(t, goodJob+"schedule: {name: nightly, cron: \"30 2 * * 1-5\"}\n")
	for line, want := range map[string]struct {
		asked []string // parts of the request
		shown []string
	}{
		"array list":                                    {[]string{"pageToken"}, []string{someID, otherID, "fold", "20"}},
		"array show " + someID:                          {[]string{someID}, []string{"fold", "7", "4", "9"}},
		"array explain " + someID:                       {[]string{someID}, []string{"4 of 20 run", "the array runs as many as it may", otherID}},
		"array cancel " + someID + " --reason old":      {[]string{someID, "old", "requestId"}, []string{someID}},
		"graph show " + someID:                          {[]string{someID}, []string{"evaluate", "train, promotion of bull", "waits for job train"}},
		"graph cancel " + someID + " --reason old":      {[]string{someID, "old", "requestId"}, []string{"train"}},
		"schedule list":                                 {nil, []string{"nightly", "30 2 * * 1-5", "Europe/Berlin", "submitted"}},
		"schedule show nightly":                         {[]string{"nightly"}, []string{"30 2 * * 1-5", "Europe/Berlin"}},
		"schedule update " + schedule:                   {[]string{"nightly", "30 2 * * 1-5", "bull-spx"}, []string{"nightly"}},
		"schedule pause nightly":                        {[]string{"nightly", "requestId"}, []string{"paused"}},
		"schedule resume nightly":                       {[]string{"nightly", "requestId"}, []string{"2026-03-01"}},
		"schedule delete nightly":                       {[]string{"nightly", "requestId"}, []string{"schedule nightly is gone"}},
		"quota list":                                    {nil, []string{"desk", "500"}},
		"quota show desk":                               {[]string{"desk"}, []string{"h100 6 (2 borrowed)", "5"}},
		"quota set desk --devices H100=4+2 --devices 8": {[]string{`"kind":"H100"`, `"nominal":4`, `"borrowLimit":2`, `"nominal":8`}, nil},
		"quota set desk --devices 4+2 --max-jobs 9 --cohort c --weight 2": {[]string{`"nominal":4`, `"borrowLimit":2`, `"maxJobs":9`, `"cohort":"c"`, `"weight":2`}, []string{"desk", "4+2", "3"}},
		"quota delete desk":                 {[]string{"desk"}, []string{"tenant desk has no limits"}},
		"cordon h1 --reason fan":            {[]string{"h1", "fan", "requestId"}, []string{"cordoned (fan)", "GPU-1"}},
		"drain h1 --reason move":            {[]string{"h1", "move"}, []string{"draining (move)"}},
		"uncordon h1":                       {[]string{"h1"}, []string{"ready"}},
		"reprioritize " + someID + " batch": {[]string{someID, "PRIORITY_CLASS_BATCH"}, []string{someID}},
		"explain --placement " + someID:     {[]string{someID}, []string{"attempt 2", "behind 4 job(s)", "h1 (chosen)", "scores 22, 3 less than h1", "+0.50", "cordoned", "trainyard snapshot 17"}},
		"snapshot":                          {nil, []string{"17", "9"}},
		"snapshot 17":                       {[]string{"17"}, []string{`{"Now":"x"}`}},
		"snapshot --job " + someID:          {[]string{someID}, []string{`{"Now":"x"}`}},
		"job --history " + someID:           {[]string{someID}, []string{"old", "accepted", "priority BATCH", "placed", "read from the archive: jobs-2026"}},
	} {
		t.Run(line, func(t *testing.T) {
			t.Parallel()
			f := newFakeMesh(t)
			out, err := f.run(t, strings.Fields(line)...)
			if err != nil {
				t.Fatal(err)
			}
			for _, part := range want.shown {
				if !strings.Contains(out, part) {
					t.Errorf("%q is not shown:\n%s", part, out)
				}
			}
			asked, err := protojson.Marshal(f.asked)
			if err != nil {
				t.Fatal(err)
			}
			text := strings.ReplaceAll(string(asked), " ", "")
			for _, part := range want.asked {
				if !strings.Contains(text, strings.ReplaceAll(part, " ", "")) {
					t.Errorf("%q was not asked for: %s", part, asked)
				}
			}
			if strings.HasPrefix(line, "snapshot ") || strings.HasSuffix(line, "nightly") && strings.Contains(line, "delete") {
				return
			}
			if out, err := f.run(t, append(strings.Fields(line), "-o", "json")...); err != nil || !strings.HasPrefix(out, "{") {
				t.Errorf("as JSON %q, %v", out, err)
			}
		})
	}
}

// What the scheduler refuses is told in its words, and the command fails.
func TestNounsTellRefusals(t *testing.T) {
	t.Parallel()
	for _, line := range []string{
		"array show " + someID, "array cancel " + someID, "graph show " + someID, "graph cancel " + someID, "schedule show nightly", "schedule pause nightly", "schedule delete nightly",
		"quota set desk --devices 1", "quota delete desk", "cordon h9", "drain h9", "uncordon h9", "reprioritize " + someID + " batch",
		"explain --placement " + someID, "snapshot 3", "job --history " + someID,
	} {
		t.Run(line, func(t *testing.T) {
			t.Parallel()
			f := newFakeMesh(t)
			f.no = rpcerr.New(codes.NotFound, errorv1.Reason_REASON_RESOURCE_NOT_FOUND, "it does not exist here")
			if out, err := f.run(t, strings.Fields(line)...); err == nil || !strings.Contains(err.Error(), "it does not exist here") {
				t.Errorf("%q, %v", out, err)
			}
		})
	}
}

// A line that cannot be meant is refused before anybody is asked, with exit code 2.
func TestNounsRefuseWrongLines(t *testing.T) {
	t.Parallel()
	plain := jobFile(t, goodJob)
	for line, says := range map[string]string{
		"quota set desk --devices four":       "is not of the form N, N+M or KIND=N+M",
		"quota set desk --devices =4":         "names no kind",
		"quota set desk --devices 4+many":     "is not of the form N, N+M or KIND=N+M",
		"reprioritize " + someID + " highest": "none of production, interactive, search, batch",
		"snapshot first":                      "is not the id of a snapshot",
		"schedule update " + plain:            `has no "schedule" block`,
		"array cancel":                        "usage",
		"cordon":                              "usage",
		"graph show a b":                      "usage",
		"job a b":                             "usage",
		"--scheduler nowhere jobs":            "is not host:port",
	} {
		t.Run(line, func(t *testing.T) {
			t.Parallel()
			f := newFakeMesh(t)
			_, err := f.run(t, strings.Fields(line)...)
			var code interface{ ExitCode() int }
			if err == nil || !strings.Contains(err.Error(), says) || !errors.As(err, &code) || code.ExitCode() != 2 {
				t.Errorf("%v", err)
			}
			if f.asked != nil {
				t.Errorf("the scheduler was asked %v", f.asked)
			}
		})
	}
}

// A snapshot goes to the file that is named, and the scheduler may be named on the
// line instead of the mesh's.
func TestASnapshotGoesToAFile(t *testing.T) {
	t.Parallel()
	f := newFakeMesh(t)
	path := filepath.Join(t.TempDir(), "round.json")
	if _, err := f.run(t, "snapshot", "17", "--out", path); err != nil {
		t.Fatal(err)
	}
	if raw, err := os.ReadFile(path); err != nil || string(raw) != `{"Now":"x"}` {
		t.Errorf("%s, %v", raw, err)
	}
	if _, err := f.run(t, "--scheduler", "127.0.0.1:1,127.0.0.1:2", "snapshot", "17"); err == nil || !strings.Contains(err.Error(), "does not answer") {
		t.Errorf("schedulers that are not there: %v", err)
	}
}
