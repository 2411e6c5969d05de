package registry

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math"
	"strings"
	"testing"

	"github.com/google/uuid"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/ultrathink-pilot/trainyard/libs/identity"
	errorv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/error/v1"
	fleetv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/fleet/v1"
	registryv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/registry/v1"
	trainv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/train/v1"
)

// finished makes a run that has one param, one metric and has ended.
func (m *mesh) finished(lr string, sharpe float64) string {
	m.Helper()
	job := uuid.NewString()
	w := m.writer(job, 1, 1)
	w.open("", "")
	w.accept(&registryv1.IngestRequest{Batch: &registryv1.IngestRequest_Params{Params: &trainv1.ParamBatch{Params: map[string]string{"lr": lr, "same": "x"}}}})
	w.accept(points("validation/sharpe", 0, sharpe))
	w.accept(closing(fleetv1.Exit_OUTCOME_SUCCEEDED))
	return job
}

func (m *mesh) search(r *registryv1.SearchRunsRequest) (ids []string) {
	m.Helper()
	got, err := m.runs.SearchRuns(m.ctx, r)
	must(m.T, err)
	for _, one := range got.GetRuns() {
		ids = append(ids, one.GetRunId())
	}
	return ids
}

func TestRunsAreFoundComparedChangedAndDeleted(t *testing.T) {
	m := start(t)
	low, high, nan := m.finished("0.1", 0.5), m.finished("0.2", 1.5), m.finished("0.1", math.NaN())
	best := &registryv1.SearchRunsRequest{Filter: `metrics."validation/sharpe" > 0.4 AND params.lr LIKE '0.%' AND tags.team = 'desk'`,
		OrderBy: []string{`metrics."validation/sharpe" DESC`}, ExperimentPrefix: "specialists", PageSize: 1}
	first, err := m.runs.SearchRuns(m.ctx, best)
	must(t, err)
	best.PageToken = first.GetNextPageToken()
	second, err := m.runs.SearchRuns(m.ctx, best)
	must(t, err)
	if first.GetRuns()[0].GetRunId() != high || second.GetRuns()[0].GetRunId() != low || second.GetNextPageToken() != "" {
		t.Errorf("pages %v, %v", first, second)
	}
	if all := m.search(&registryv1.SearchRunsRequest{OrderBy: []string{`metrics."validation/sharpe"`}}); len(all) != 3 || all[2] != nan {
		t.Errorf("NaN must come after numbers: %v", all)
	}

	compared, err := m.runs.CompareRuns(m.ctx, &registryv1.CompareRunsRequest{RunIds: []string{low, high, nan}, OnlyDifferent: true})
	must(t, err)
	if len(compared.GetParams()) != 1 || compared.GetParams()[0].GetValues()[1] != "0.2" || len(compared.GetMetrics()) != 1 || !math.IsNaN(compared.GetMetrics()[0].GetValues()[2]) {
		t.Errorf("comparison %+v", compared)
	}
	_, err = m.runs.CompareRuns(m.ctx, &registryv1.CompareRunsRequest{RunIds: []string{low, uuid.NewString()}})
	m.reason(err, errorv1.Reason_REASON_RESOURCE_NOT_FOUND)

	update := &registryv1.UpdateRunRequest{RequestId: uuid.NewString(), RunId: low, Notes: proto.String("# why"), SetTags: map[string]string{"owner": "ann"},
		DeleteTags: []string{"team"}, ParentRunId: proto.String(high), AddDatasets: []*registryv1.Dataset{{Name: "spx", Digest: "d1", Context: "training"}}}
	for range 2 {
		got, err := m.runs.UpdateRun(m.ctx, update)
		must(t, err)
		r := got.GetRun()
		if r.GetNotes() != "# why" || r.GetTags()["owner"] != "ann" || r.GetTags()["team"] != "" || r.GetParentRunId() != high || len(r.GetDatasets()) != 1 || r.GetParams()["lr"] != "0.1" {
			t.Errorf("updated %+v", r)
		}
	}
	if children := m.search(&registryv1.SearchRunsRequest{ParentRunId: high}); len(children) != 1 || children[0] != low {
		t.Errorf("children %v", children)
	}
	if found := m.search(&registryv1.SearchRunsRequest{Filter: "datasets.name = 'spx' AND datasets.context = 'training'"}); len(found) != 1 {
		t.Errorf("by dataset %v", found)
	}
	_, err = m.runs.UpdateRun(m.ctx, &registryv1.UpdateRunRequest{RequestId: uuid.NewString(), RunId: high, ParentRunId: proto.String(low)})
	m.reason(err, errorv1.Reason_REASON_INVALID_FIELDS)
	_, err = m.runs.UpdateRun(m.ctx, &registryv1.UpdateRunRequest{RequestId: uuid.NewString(), RunId: high, ParentRunId: proto.String(uuid.NewString())})
	m.reason(err, errorv1.Reason_REASON_RESOURCE_NOT_FOUND)

	_, err = m.runs.DeleteRun(m.ctx, &registryv1.DeleteRunRequest{RequestId: uuid.NewString(), RunId: nan})
	must(t, err)
	if left := m.search(&registryv1.SearchRunsRequest{}); len(left) != 2 {
		t.Errorf("after the delete %v", left)
	}
	if gone := m.search(&registryv1.SearchRunsRequest{Lifecycle: registryv1.SearchRunsRequest_LIFECYCLE_DELETED}); len(gone) != 1 || gone[0] != nan {
		t.Errorf("deleted %v", gone)
	}
	_, err = m.runs.RestoreRun(m.ctx, &registryv1.RestoreRunRequest{RequestId: uuid.NewString(), RunId: nan})
	must(t, err)
	busy := m.writer(uuid.NewString(), 1, 1)
	busy.open("", "")
	_, err = m.runs.DeleteRun(m.ctx, &registryv1.DeleteRunRequest{RequestId: uuid.NewString(), RunId: busy.job})
	m.reason(err, errorv1.Reason_REASON_ILLEGAL_TRANSITION)
	_, err = m.runs.DeleteExperiment(m.ctx, &registryv1.DeleteExperimentRequest{RequestId: uuid.NewString(), Path: "specialists/bull"})
	m.reason(err, errorv1.Reason_REASON_ILLEGAL_TRANSITION)
	busy.accept(closing(fleetv1.Exit_OUTCOME_STOPPED))
	_, err = m.runs.DeleteExperiment(m.ctx, &registryv1.DeleteExperimentRequest{RequestId: uuid.NewString(), Path: "specialists/bull"})
	must(t, err)
	if left := m.search(&registryv1.SearchRunsRequest{}); len(left) != 0 {
		t.Errorf("after the experiment's delete %v", left)
	}
	_, err = m.runs.RestoreExperiment(m.ctx, &registryv1.RestoreExperimentRequest{RequestId: uuid.NewString(), Path: "specialists/bull"})
	must(t, err)
	if back := m.search(&registryv1.SearchRunsRequest{}); len(back) != 4 {
		t.Errorf("after the restore %v", back)
	}
}

// Whatever a client writes into a search is refused by name or searched for, never run.
func TestSearchesTakeAnyText(t *testing.T) {
	m := start(t)
	m.finished("0.1", 1)
	for _, bad := range []string{"params.lr = 'x'; DROP TABLE runs", "metrics.a > 'x'", "nothing = 1", "params.lr = '0.1' OR 1 = 1", "tags.`a", strings.Repeat("params.a = 'b' AND ", 80) + "params.a = 'b'"} {
		_, err := m.runs.SearchRuns(m.ctx, &registryv1.SearchRunsRequest{Filter: bad, OrderBy: []string{"start_time; DROP"}})
		m.reason(err, errorv1.Reason_REASON_INVALID_FIELDS)
		if text := status.Convert(err).Proto().String(); !strings.Contains(text, "filter") || !strings.Contains(text, "order_by[0]") {
			t.Errorf("%s: not every problem is named: %s", bad, text)
		}
	}
	for _, odd := range []string{"params.lr = ''' OR 1=1 --'", "tags.`'; DROP TABLE runs; --` = 'x'", "params.lr LIKE '%''%'", "tags.\"\u202e\" != 'y'"} {
		if _, err := m.runs.SearchRuns(m.ctx, &registryv1.SearchRunsRequest{Filter: odd}); err != nil && status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s: %v", odd, err)
		}
	}
	for _, token := range []string{"x", strings.Repeat("A", 8000), "bm90IGEgdG9rZW4"} {
		_, err := m.runs.SearchRuns(m.ctx, &registryv1.SearchRunsRequest{PageToken: token})
		m.reason(err, errorv1.Reason_REASON_PAGE_TOKEN_INVALID)
	}
	if left := m.search(&registryv1.SearchRunsRequest{}); len(left) != 1 {
		t.Errorf("runs left: %v", left)
	}
}

func TestWatchMetricsFollowsARun(t *testing.T) {
	m := start(t)
	job := uuid.NewString()
	w := m.writer(job, 1, 1)
	w.open("", "")
	w.accept(points("loss", 0, 3, math.NaN(), math.Inf(-1)))
	ctx, cancel := context.WithCancel(m.ctx)
	defer cancel()
	watch, err := m.runs.WatchMetrics(ctx, &registryv1.WatchMetricsRequest{RunId: job, AfterStep: proto.Int64(-1)})
	must(t, err)
	var got []*registryv1.Metric
	until := func(n int) {
		t.Helper()
		for len(got) < n {
			frame, err := watch.Recv()
			must(t, err)
			got = append(got, frame.GetMetrics()...)
		}
	}
	until(3)
	if got[0].GetValue() != 3 || !math.IsNaN(got[1].GetValue()) || !math.IsInf(got[2].GetValue(), -1) || got[0].GetAttempt() != 1 {
		t.Errorf("replayed %v", got)
	}
	for i := range 20 {
		w.accept(points("loss", int64(3+i), float64(i)))
	}
	until(23)
	for i, p := range got {
		if p.GetStep() != int64(i) {
			t.Fatalf("point %d has step %d", i, p.GetStep())
		}
	}
	w.accept(closing(fleetv1.Exit_OUTCOME_SUCCEEDED))
	var state registryv1.Run_State
	for {
		frame, err := watch.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		must(t, err)
		state = frame.GetState()
	}
	if state != registryv1.Run_STATE_SUCCEEDED {
		t.Errorf("the last frame said %s", state)
	}
	none, err := m.runs.WatchMetrics(ctx, &registryv1.WatchMetricsRequest{RunId: uuid.NewString()})
	must(t, err)
	_, err = none.Recv()
	m.reason(err, errorv1.Reason_REASON_RESOURCE_NOT_FOUND)
}

func TestCheckpointFilesComeWholeAndInRanges(t *testing.T) {
	m := start(t)
	w := m.writer(uuid.NewString(), 1, 1)
	w.open("", "")
	weights := strings.Repeat("0123456789", 60_000)
	parent := w.checkpoint(1, 1, "parent")
	c := w.checkpoint(2, 1, weights)
	download := func(offset, length int64) (string, error) {
		stream, err := m.runs.DownloadCheckpointFile(m.ctx, &registryv1.DownloadCheckpointFileRequest{CheckpointId: c.GetCheckpointId(), Path: "model.safetensors", Offset: offset, Length: length})
		must(t, err)
		var b bytes.Buffer
		for {
			chunk, err := stream.Recv()
			if errors.Is(err, io.EOF) {
				return b.String(), nil
			}
			if err != nil {
				return b.String(), err
			}
			b.Write(chunk.GetChunk())
		}
	}
	for _, r := range [][4]int64{{0, 0, 0, 600_000}, {0, 10, 0, 10}, {599_990, 0, 599_990, 600_000}, {300_001, 299_000, 300_001, 599_001}, {5, 1 << 40, 5, 600_000}, {600_000, 5, 600_000, 600_000}} {
		if got, err := download(r[0], r[1]); err != nil || got != weights[r[2]:r[3]] {
			t.Errorf("range %v: %d bytes, %v", r, len(got), err)
		}
	}
	_, err := download(600_001, 1)
	m.reason(err, errorv1.Reason_REASON_INVALID_FIELDS)
	for _, path := range []string{"../model.safetensors", "no/such", "model.safetensors/"} {
		stream, err := m.runs.DownloadCheckpointFile(m.ctx, &registryv1.DownloadCheckpointFileRequest{CheckpointId: c.GetCheckpointId(), Path: path})
		must(t, err)
		_, err = stream.Recv()
		m.reason(err, errorv1.Reason_REASON_RESOURCE_NOT_FOUND)
	}
	// Bytes that are not what was committed end in DATA_LOSS, never in a clean end.
	for o, err := range m.objects.List(m.ctx, "") {
		must(t, err)
		if o.Size == int64(len(weights)) {
			_, err = m.objects.PutBytes(m.ctx, o.Key, []byte(strings.Repeat("x", len(weights))))
			must(t, err)
		}
	}
	if _, err := download(0, 0); status.Code(err) != codes.DataLoss {
		t.Errorf("changed bytes: %v", err)
	}

	_, err = m.models.CreateModelVersion(m.ctx, &registryv1.CreateModelVersionRequest{RequestId: uuid.NewString(), ModelName: "m", CheckpointId: parent.GetCheckpointId()})
	must(t, err)
	lineage, err := m.runs.GetCheckpointLineage(m.ctx, &registryv1.GetCheckpointLineageRequest{CheckpointId: parent.GetCheckpointId()})
	must(t, err)
	if len(lineage.GetAncestry()) != 1 || len(lineage.GetVersions()) != 1 || lineage.GetVersions()[0].GetModelName() != "m" {
		t.Errorf("lineage %+v", lineage)
	}
}

func TestPolicyHoldsForEveryDoor(t *testing.T) {
	m := start(t)
	w := m.writer(uuid.NewString(), 1, 1)
	w.open("", "")
	for i, sharpe := range []float64{1, 2} {
		c := w.checkpoint(int64(i+1), sharpe, uuid.NewString())
		_, err := m.models.CreateModelVersion(m.ctx, &registryv1.CreateModelVersionRequest{RequestId: uuid.NewString(), ModelName: "m", CheckpointId: c.GetCheckpointId()})
		must(t, err)
	}
	set, err := m.models.SetPromotionPolicy(m.ctx, &registryv1.SetPromotionPolicyRequest{RequestId: uuid.NewString(), ModelName: "m", Policy: &registryv1.PromotionPolicy{
		Gates: []*registryv1.PromotionGate{{Metric: "validation/sharpe", Maximum: proto.Float64(3)}}, RequiredChecks: []string{"backtest"}, Approvals: 1}})
	must(t, err)
	if p := set.GetModel().GetPolicy(); p.GetApprovals() != 1 || p.GetGates()[0].GetMaximum() != 3 || p.GetRequiredChecks()[0] != "backtest" {
		t.Errorf("policy %+v", p)
	}
	promote := func(version int64) error {
		_, err := m.models.PromoteModelVersion(m.ctx, &registryv1.PromoteModelVersionRequest{RequestId: uuid.NewString(), ModelName: "m", Version: version, Stage: registryv1.Stage_STAGE_PRODUCTION})
		return err
	}
	err = promote(1)
	m.reason(err, errorv1.Reason_REASON_GATE_FAILED)
	if text := status.Convert(err).Message(); !strings.Contains(text, "backtest was not made") || !strings.Contains(text, "0 of 1 approvals") {
		t.Errorf("not every failure is named: %s", text)
	}
	check := &registryv1.RecordCheckRequest{RequestId: uuid.NewString(), ModelName: "m", Version: 1, Name: "backtest", Passed: false, Detail: "drawdown"}
	_, err = m.models.RecordCheck(m.ctx, check)
	must(t, err)
	m.reason(promote(1), errorv1.Reason_REASON_GATE_FAILED)
	check.RequestId, check.Passed = uuid.NewString(), true
	_, err = m.models.RecordCheck(m.ctx, check)
	must(t, err)
	approve := &registryv1.ApproveModelVersionRequest{RequestId: uuid.NewString(), ModelName: "m", Version: 1, Reason: "looks good"}
	_, err = m.models.ApproveModelVersion(m.ctx, approve)
	must(t, err)
	m.reason(promote(1), errorv1.Reason_REASON_GATE_FAILED) // one's own approval is none
	files, err := m.ca.Issue(identity.RolePerson, "bob")
	must(t, err)
	approve.RequestId = uuid.NewString()
	approved, err := registryv1.NewModelServiceClient(m.dial(files)).ApproveModelVersion(m.ctx, approve)
	must(t, err)
	if v := approved.GetVersion(); len(v.GetApprovals()) != 2 || len(v.GetChecks()) != 1 || !v.GetChecks()[0].GetPassed() {
		t.Errorf("version %+v", v)
	}
	must(t, promote(1))
	m.reason(promote(2), errorv1.Reason_REASON_GATE_FAILED)
	verified, err := m.models.VerifyModelHistory(m.ctx, &registryv1.VerifyModelHistoryRequest{ModelName: "m"})
	must(t, err)
	history, err := m.models.ListModelHistory(m.ctx, &registryv1.ListModelHistoryRequest{ModelName: "m"})
	must(t, err)
	if !verified.GetIntact() || verified.GetEvents() != int64(len(history.GetEvents())) || !bytes.Equal(verified.GetHeadHash(), history.GetEvents()[0].GetHash()) {
		t.Errorf("verified %+v", verified)
	}
	actions := map[string]int{}
	for _, e := range history.GetEvents() {
		actions[e.GetAction()]++
	}
	if actions["policy"] != 1 || actions["check"] != 2 || actions["approve"] != 2 || actions["promote"] != 1 || actions["register"] != 2 {
		t.Errorf("actions %v", actions)
	}
}
