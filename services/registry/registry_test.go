package registry

import (
	"context"
	"errors"
	"io"
	"math"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/ultrathink-pilot/trainyard/libs/identity"
	"github.com/ultrathink-pilot/trainyard/libs/objectstore"
	errorv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/error/v1"
	fleetv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/fleet/v1"
	registryv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/registry/v1"
	trainv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/train/v1"
	"github.com/ultrathink-pilot/trainyard/services/registry/internal/registryapi"
)

// One job's whole story through the real edge: ingest, checkpoint, register, promote, watch.
func TestStoryOfAJob(t *testing.T) {
	m := start(t)
	job := uuid.NewString()
	w := m.writer(job, 1, 10)
	w.open("bull_specialist", "")
	w.accept(&registryv1.IngestRequest{Batch: &registryv1.IngestRequest_Params{Params: &trainv1.ParamBatch{Params: map[string]string{"lr": "0.001"}}}})
	values := make([]float64, 500)
	for i := range values {
		values[i] = math.Sin(float64(i) / 30)
	}
	values[250] = math.NaN()
	w.accept(points("train/reward", 0, values...))
	first := w.checkpoint(100, 0.7, "weights one")
	best := w.checkpoint(200, 1.3, "weights two")
	w.checkpoint(300, math.NaN(), "weights three")
	w.accept(closing(fleetv1.Exit_OUTCOME_SUCCEEDED))

	got, err := m.runs.GetRun(m.ctx, &registryv1.GetRunRequest{RunId: job})
	must(t, err)
	r := got.GetRun()
	if r.GetState() != registryv1.Run_STATE_SUCCEEDED || r.GetParams()["lr"] != "0.001" || r.GetTags()["team"] != "desk" ||
		r.GetSpec().GetNative().GetSeed() != 7 || r.GetTraceparent() != jobTrace || len(r.GetLatestMetrics()) != 1 || r.GetAgentName() != "host-1" {
		t.Errorf("run %+v", r)
	}
	history, err := m.runs.GetMetricHistory(m.ctx, &registryv1.GetMetricHistoryRequest{RunId: job, Key: "train/reward", MaxPoints: 50})
	must(t, err)
	nan := false
	for _, p := range history.GetMetrics() {
		nan = nan || math.IsNaN(p.GetValue())
	}
	if history.GetTotalPoints() != 500 || len(history.GetMetrics()) > 50 || !nan {
		t.Errorf("history: %d of %d points, NaN kept: %v", len(history.GetMetrics()), history.GetTotalPoints(), nan)
	}
	model, err := m.models.GetModel(m.ctx, &registryv1.GetModelRequest{ModelName: "bull_specialist"})
	must(t, err)
	if vs := model.GetModel().GetVersions(); len(vs) != 1 || vs[0].GetCheckpointId() != best.GetCheckpointId() || vs[0].GetRunId() != job {
		t.Fatalf("versions %+v", vs)
	}

	watchCtx, cancel := context.WithCancel(m.ctx)
	defer cancel()
	watch, err := m.models.WatchModel(watchCtx, &registryv1.WatchModelRequest{ModelName: "bull_specialist"})
	must(t, err)
	frame, err := watch.Recv()
	must(t, err)
	if frame.GetVersion() != nil {
		t.Errorf("first frame %+v", frame)
	}
	promote := &registryv1.PromoteModelVersionRequest{RequestId: uuid.NewString(), ModelName: "bull_specialist", Stage: registryv1.Stage_STAGE_PRODUCTION,
		Gates: []*registryv1.PromotionGate{{Metric: "validation/sharpe", Minimum: 1}}, Reason: "best so far"}
	promoted, err := m.models.PromoteModelVersion(m.ctx, promote)
	must(t, err)
	e := promoted.GetEvent()
	if e.GetAction() != "promote" || e.GetActor() != "person/test" || e.GetTraceId() != "0af7651916cd43dd8448eb211c80319c" || len(e.GetGates()) != 1 {
		t.Errorf("event %+v", e)
	}
	if frame, err = watch.Recv(); err != nil || frame.GetVersion().GetVersion() != 1 {
		t.Errorf("watch: %+v %v", frame, err)
	}
	again, err := m.models.PromoteModelVersion(m.ctx, promote)
	must(t, err)
	if again.GetEvent().GetSequence() != e.GetSequence() {
		t.Error("a resent promotion was made again")
	}
	promote.Reason = "another payload"
	_, err = m.models.PromoteModelVersion(m.ctx, promote)
	m.reason(err, errorv1.Reason_REASON_REQUEST_ID_REUSED)
	promote.RequestId, promote.Gates[0].Minimum = uuid.NewString(), 2
	_, err = m.models.PromoteModelVersion(m.ctx, promote)
	m.reason(err, errorv1.Reason_REASON_GATE_FAILED)

	resolved, err := m.models.ResolveModel(m.ctx, &registryv1.ResolveModelRequest{ModelName: "bull_specialist",
		Selector: &registryv1.ResolveModelRequest_Alias{Alias: "production"}})
	must(t, err)
	for _, d := range resolved.GetDownloads() {
		if d.GetPaths()[0] == "model.safetensors" && m.get(d) != "weights two" {
			t.Error("the download has other bytes")
		}
	}
	_, err = m.models.RollbackModel(m.ctx, &registryv1.RollbackModelRequest{RequestId: uuid.NewString(), ModelName: "bull_specialist"})
	m.reason(err, errorv1.Reason_REASON_ILLEGAL_TRANSITION)

	// A second version goes live; the rollback proves the bytes of the first.
	_, err = m.models.CreateModelVersion(m.ctx, &registryv1.CreateModelVersionRequest{RequestId: uuid.NewString(), ModelName: "bull_specialist", CheckpointId: first.GetCheckpointId()})
	must(t, err)
	between := time.Now()
	_, err = m.models.PromoteModelVersion(m.ctx, &registryv1.PromoteModelVersionRequest{RequestId: uuid.NewString(), ModelName: "bull_specialist", Version: 2, Stage: registryv1.Stage_STAGE_PRODUCTION})
	must(t, err)
	rollback := &registryv1.RollbackModelRequest{RequestId: uuid.NewString(), ModelName: "bull_specialist", Reason: "worse live"}
	back, err := m.models.RollbackModel(m.ctx, rollback)
	must(t, err)
	repeated, err := m.models.RollbackModel(m.ctx, rollback)
	must(t, err)
	if back.GetVersion().GetVersion() != 1 || back.GetEvent().GetAction() != "rollback" || repeated.GetEvent().GetSequence() != back.GetEvent().GetSequence() {
		t.Errorf("rollback %+v", back)
	}
	past, err := m.models.ListModelHistory(m.ctx, &registryv1.ListModelHistoryRequest{ModelName: "bull_specialist", AtTime: timestamppb.New(between), PageSize: 3})
	must(t, err)
	if past.GetProductionVersionAtTime() != 1 || len(past.GetEvents()) != 3 || past.GetNextPageToken() == "" {
		t.Errorf("history %+v", past)
	}
	rest, err := m.models.ListModelHistory(m.ctx, &registryv1.ListModelHistoryRequest{ModelName: "bull_specialist", AtTime: timestamppb.New(between), PageSize: 3, PageToken: past.GetNextPageToken()})
	must(t, err)
	if len(rest.GetEvents()) == 0 || rest.GetEvents()[0].GetSequence() >= past.GetEvents()[2].GetSequence() {
		t.Errorf("second page %+v", rest)
	}
	_, err = m.models.ListModelHistory(m.ctx, &registryv1.ListModelHistoryRequest{ModelName: "other", PageToken: past.GetNextPageToken()})
	m.reason(err, errorv1.Reason_REASON_PAGE_TOKEN_INVALID)
}

func TestRollbackRefusesMissingBytes(t *testing.T) {
	m := start(t)
	w := m.writer(uuid.NewString(), 1, 1)
	w.open("", "")
	for i, weights := range []string{"old", "new"} {
		c := w.checkpoint(int64(i), 1, weights)
		_, err := m.models.CreateModelVersion(m.ctx, &registryv1.CreateModelVersionRequest{RequestId: uuid.NewString(), ModelName: "m", CheckpointId: c.GetCheckpointId()})
		must(t, err)
		_, err = m.models.PromoteModelVersion(m.ctx, &registryv1.PromoteModelVersionRequest{RequestId: uuid.NewString(), ModelName: "m", Version: int64(i + 1), Stage: registryv1.Stage_STAGE_PRODUCTION})
		must(t, err)
	}
	for o, err := range m.objects.List(m.ctx, "") {
		must(t, err)
		if o.Size == int64(len("old")) {
			must(t, m.objects.Delete(m.ctx, o.Key))
		}
	}
	_, err := m.models.RollbackModel(m.ctx, &registryv1.RollbackModelRequest{RequestId: uuid.NewString(), ModelName: "m"})
	m.reason(err, errorv1.Reason_REASON_DIGEST_MISMATCH)
	live, err := m.models.ResolveModel(m.ctx, &registryv1.ResolveModelRequest{ModelName: "m", Selector: &registryv1.ResolveModelRequest_Stage{Stage: registryv1.Stage_STAGE_PRODUCTION}})
	must(t, err)
	if live.GetVersion().GetVersion() != 2 {
		t.Error("a refused rollback changed Production")
	}
}

func TestCommitProvesEveryByte(t *testing.T) {
	m := start(t)
	w := m.writer(uuid.NewString(), 1, 5)
	begin := &registryv1.BeginCheckpointRequest{RequestId: uuid.NewString(), JobId: w.job, Attempt: 1, Fence: 5, Step: 1,
		Files: []*registryv1.CheckpointFile{file("a.bin", "aaaa"), file("b.bin", "bbbb"), file("copy.bin", "aaaa")}}
	ctx, cancel := context.WithTimeout(m.ctx, 100*time.Millisecond)
	defer cancel()
	if _, err := m.agent.BeginCheckpoint(ctx, begin); status.Code(err) != codes.Unavailable && status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("a run that is still in the spool: %v", err)
	}
	w.open("", "")
	staged, err := m.agent.BeginCheckpoint(m.ctx, begin)
	must(t, err)
	if len(staged.GetUploads()) != 2 {
		t.Fatalf("%d uploads for two contents", len(staged.GetUploads()))
	}
	commit := &registryv1.CommitCheckpointRequest{CheckpointId: staged.GetCheckpointId(), Fence: 5}
	_, err = m.agent.CommitCheckpoint(m.ctx, commit)
	m.reason(err, errorv1.Reason_REASON_DIGEST_MISMATCH)
	upload := func(u *registryv1.TransferURL) string {
		if u.GetPaths()[0] == "b.bin" {
			return "bbbb"
		}
		return "aaaa"
	}
	if code := m.put(staged.GetUploads()[0], "evil"); code == http.StatusOK {
		t.Error("the object store took other bytes than were presigned")
	}
	must2xx(t, m.put(staged.GetUploads()[0], upload(staged.GetUploads()[0])))
	_, err = m.agent.CommitCheckpoint(m.ctx, commit)
	m.reason(err, errorv1.Reason_REASON_DIGEST_MISMATCH)
	must2xx(t, m.put(staged.GetUploads()[1], upload(staged.GetUploads()[1])))
	for range 2 {
		done, err := m.agent.CommitCheckpoint(m.ctx, commit)
		must(t, err)
		if done.GetCheckpoint().GetState() != registryv1.Checkpoint_STATE_LIVE || len(done.GetCheckpoint().GetFiles()) != 3 {
			t.Errorf("committed %+v", done)
		}
	}
	again, err := m.agent.BeginCheckpoint(m.ctx, begin)
	must(t, err)
	if again.GetCheckpointId() != staged.GetCheckpointId() || len(again.GetUploads()) != 0 {
		t.Errorf("repeated begin %+v", again)
	}
	begin.RequestId, begin.Files = uuid.NewString(), []*registryv1.CheckpointFile{file("x", "1"), file("x", "2")}
	_, err = m.agent.BeginCheckpoint(m.ctx, begin)
	m.reason(err, errorv1.Reason_REASON_INVALID_FIELDS)
}

func must2xx(t *testing.T, code int) {
	t.Helper()
	if code/100 != 2 {
		t.Fatalf("status %d", code)
	}
}

func TestZombieIsRefusedPerBatchAndTheStreamGoesOn(t *testing.T) {
	m := start(t)
	job := uuid.NewString()
	zombie := m.writer(job, 1, 3)
	zombie.open("", "")
	zombie.accept(points("m", 1, 1, 2, 3, 4))
	c := zombie.checkpoint(2, 1, "two")
	next := m.writer(job, 2, 8)
	resolved, err := m.agent.ResolveCheckpoint(m.ctx, &registryv1.ResolveCheckpointRequest{JobId: job, Fence: 8})
	must(t, err)
	if resolved.GetCheckpoint().GetCheckpointId() != c.GetCheckpointId() || len(resolved.GetDownloads()) != 2 {
		t.Errorf("resolved %+v", resolved)
	}
	next.open("", c.GetCheckpointId())
	for _, r := range []*registryv1.IngestRequest{points("m", 5, 666), closing(fleetv1.Exit_OUTCOME_SUCCEEDED)} {
		got := zombie.send(r)
		if got.GetResult() != registryv1.IngestResponse_RESULT_REFUSED || got.GetReason() != errorv1.Reason_REASON_LEASE_FENCED.String() {
			t.Errorf("zombie: %+v", got)
		}
	}
	// The same stream still serves another job of that host.
	zombie.job, zombie.fence, zombie.next = uuid.NewString(), 9, 0
	zombie.open("", "")
	_, err = m.agent.CommitCheckpoint(m.ctx, &registryv1.CommitCheckpointRequest{CheckpointId: c.GetCheckpointId(), Fence: 3})
	m.reason(err, errorv1.Reason_REASON_LEASE_FENCED)
	_, err = m.agent.BeginArtifact(m.ctx, &registryv1.BeginArtifactRequest{JobId: job, Fence: 3, File: file("evaluation.json", "{}")})
	m.reason(err, errorv1.Reason_REASON_LEASE_FENCED)
	_, err = m.agent.ReportCorruptCheckpoint(m.ctx, &registryv1.ReportCorruptCheckpointRequest{CheckpointId: c.GetCheckpointId(), Fence: 3})
	m.reason(err, errorv1.Reason_REASON_LEASE_FENCED)
	next.accept(points("m", 3, 30))
	history, err := m.runs.GetMetricHistory(m.ctx, &registryv1.GetMetricHistoryRequest{RunId: job, Key: "m"})
	must(t, err)
	var sum float64
	for _, p := range history.GetMetrics() {
		sum += p.GetValue()
	}
	if len(history.GetMetrics()) != 3 || sum != 33 {
		t.Errorf("history %+v", history.GetMetrics())
	}
}

func TestArtifactsAreVerifiedWhileTheyAreRead(t *testing.T) {
	m := start(t)
	w := m.writer(uuid.NewString(), 1, 1)
	w.open("", "")
	content := string(make([]byte, 700<<10)) + "end"
	f := file("reports/evaluation.json", content)
	begun, err := m.agent.BeginArtifact(m.ctx, &registryv1.BeginArtifactRequest{JobId: w.job, Fence: 1, File: f})
	must(t, err)
	commit := &registryv1.CommitArtifactRequest{JobId: w.job, Fence: 1, File: f, ContentType: "application/json"}
	_, err = m.agent.CommitArtifact(m.ctx, commit)
	m.reason(err, errorv1.Reason_REASON_DIGEST_MISMATCH)
	must2xx(t, m.put(begun.GetUpload(), content))
	for range 2 {
		_, err = m.agent.CommitArtifact(m.ctx, commit)
		must(t, err)
	}
	list, err := m.runs.ListArtifacts(m.ctx, &registryv1.ListArtifactsRequest{RunId: w.job})
	must(t, err)
	if len(list.GetArtifacts()) != 1 || list.GetArtifacts()[0].GetContentType() != "application/json" {
		t.Fatalf("artifacts %+v", list)
	}
	download := func() (string, error) {
		stream, err := m.runs.DownloadArtifact(m.ctx, &registryv1.DownloadArtifactRequest{RunId: w.job, Path: "reports/evaluation.json"})
		must(t, err)
		var out []byte
		for {
			frame, err := stream.Recv()
			if errors.Is(err, io.EOF) {
				return string(out), nil
			}
			if err != nil {
				return string(out), err
			}
			out = append(out, frame.GetChunk()...)
		}
	}
	if got, err := download(); err != nil || got != content {
		t.Errorf("downloaded %d bytes: %v", len(got), err)
	}
	for o, err := range m.objects.List(m.ctx, "") {
		must(t, err)
		evil := []byte(content)
		evil[5] = 1
		_, err = m.objects.PutBytes(m.ctx, o.Key, evil)
		must(t, err)
	}
	if _, err := download(); status.Code(err) != codes.DataLoss {
		t.Errorf("flipped bytes were served: %v", err)
	}
}

func TestRetentionThroughTheEdge(t *testing.T) {
	m := start(t)
	w := m.writer(uuid.NewString(), 1, 1)
	w.open("m", "")
	old := w.checkpoint(1, 0.1, "old")
	kept := w.checkpoint(2, 0.9, "kept")
	last := w.checkpoint(3, 0.2, "last")
	w.accept(closing(fleetv1.Exit_OUTCOME_SUCCEEDED))
	inventory, err := m.retention.ListInventory(m.ctx, &registryv1.ListInventoryRequest{PageSize: 2})
	must(t, err)
	if inventory.GetTotalCount() != 3 || len(inventory.GetItems()) != 2 || inventory.GetNextPageToken() == "" {
		t.Fatalf("inventory %+v", inventory)
	}
	ids := []string{old.GetCheckpointId(), kept.GetCheckpointId(), last.GetCheckpointId()}
	buried, err := m.retention.TombstoneCheckpoints(m.ctx, &registryv1.TombstoneCheckpointsRequest{RequestId: uuid.NewString(), PlanHash: "h", CheckpointIds: ids})
	must(t, err)
	for i, want := range []bool{true, false, true} {
		if r := buried.GetResults()[i]; r.GetDone() != want || !want && r.GetReason() == "" {
			t.Errorf("tombstone %d: %+v", i, r)
		}
	}
	_, err = m.retention.RestoreCheckpoints(m.ctx, &registryv1.RestoreCheckpointsRequest{RequestId: uuid.NewString(), CheckpointIds: ids[2:]})
	must(t, err)
	begin, err := m.retention.BeginDeleteCheckpoints(m.ctx, &registryv1.BeginDeleteCheckpointsRequest{RequestId: uuid.NewString(), CheckpointIds: ids[:1]})
	must(t, err)
	if begin.GetResults()[0].GetDone() {
		t.Error("deleted within the default grace")
	}
	begin, err = m.retention.BeginDeleteCheckpoints(m.ctx, &registryv1.BeginDeleteCheckpointsRequest{RequestId: uuid.NewString(), CheckpointIds: ids, Grace: durationpb.New(0)})
	must(t, err)
	if len(begin.GetObjectKeys()) != 2 || !begin.GetResults()[0].GetDone() || begin.GetResults()[2].GetDone() {
		t.Errorf("begin %+v", begin)
	}
	for _, key := range begin.GetObjectKeys() {
		must(t, m.objects.Delete(m.ctx, key))
	}
	confirmed, err := m.retention.ConfirmDeleted(m.ctx, &registryv1.ConfirmDeletedRequest{RequestId: uuid.NewString(), CheckpointIds: ids[:1]})
	must(t, err)
	if confirmed.GetResults()[0].GetState() != registryv1.Checkpoint_STATE_DELETED {
		t.Errorf("confirmed %+v", confirmed)
	}
	digest := objectstore.Digest([]byte("kept"))
	found := false
	for o, err := range m.objects.List(m.ctx, "blobs/"+digest[:2]+"/"+digest) {
		must(t, err)
		found = true
		must(t, m.objects.Verify(m.ctx, o.Key, digest, 4))
	}
	if !found {
		t.Error("the sweep took bytes of a kept checkpoint")
	}
}

// Every method of every service against every role, from the descriptors: what the table
// does not allow is refused, what it allows is not.
func TestOnlyListedCallersReachAMethod(t *testing.T) {
	m := start(t)
	allow := registryapi.Allow()
	methods := 0
	for _, role := range identity.Roles() {
		conn := m.as(role)
		for _, service := range []grpc.ServiceDesc{registryv1.IngestService_ServiceDesc, registryv1.RunService_ServiceDesc,
			registryv1.ModelService_ServiceDesc, registryv1.ImportService_ServiceDesc, registryv1.RetentionService_ServiceDesc, registryv1.MirrorService_ServiceDesc} {
			for _, method := range service.Methods {
				methods++
				full := "/" + service.ServiceName + "/" + method.MethodName
				err := conn.Invoke(m.ctx, full, &emptypb.Empty{}, &emptypb.Empty{})
				if denied := status.Code(err) == codes.PermissionDenied; denied == slices.Contains(allow[full], role) {
					t.Errorf("%s as %s: %v", full, role, err)
				}
			}
			for _, stream := range service.Streams {
				methods++
				full := "/" + service.ServiceName + "/" + stream.StreamName
				ctx, cancel := context.WithCancel(m.ctx)
				s, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, full)
				must(t, err)
				// A refused stream may be over already: then the status waits in RecvMsg.
				if err := s.SendMsg(&emptypb.Empty{}); err != nil && !errors.Is(err, io.EOF) {
					t.Fatal(err)
				}
				must(t, s.CloseSend())
				err = s.RecvMsg(&emptypb.Empty{})
				cancel()
				if denied := status.Code(err) == codes.PermissionDenied; denied == slices.Contains(allow[full], role) {
					t.Errorf("%s as %s: %v", full, role, err)
				}
			}
		}
	}
	if methods != len(allow)*len(identity.Roles()) {
		t.Errorf("%d method and role pairs tried, the table has %d", methods, len(allow)*len(identity.Roles()))
	}
}

// A series too long for one message comes thinned, with its extremes, not as an error.
func TestALongSeriesFitsOneAnswer(t *testing.T) {
	m := start(t)
	job := uuid.NewString()
	w := m.writer(job, 1, 1)
	w.open("", "")
	const batch, batches = 10_000, 10
	for b := range batches {
		values := make([]float64, batch)
		for i := range values {
			values[i] = math.Sin(float64(b*batch + i))
		}
		if b == 7 {
			values[77] = 1000
		}
		w.accept(points("train/reward", int64(b*batch), values...))
	}
	got, err := m.runs.GetMetricHistory(m.ctx, &registryv1.GetMetricHistoryRequest{RunId: job, Key: "train/reward"})
	must(t, err)
	peak := 0.0
	for _, p := range got.GetMetrics() {
		peak = max(peak, p.GetValue())
	}
	if n := len(got.GetMetrics()); got.GetTotalPoints() != batch*batches || n >= batch*batches || n < 10_000 || peak != 1000 {
		t.Errorf("%d of %d points, peak %v", n, got.GetTotalPoints(), peak)
	}
}
