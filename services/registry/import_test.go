package registry

import (
	"bytes"
	"hash/crc32"
	"math"
	"net/http"
	"strings"
	"testing"

	"github.com/google/uuid"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/ultrathink-pilot/trainyard/libs/identity"
	errorv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/error/v1"
	registryv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/registry/v1"
)

// Weights from outside become a run, a checkpoint and a version, once however often asked.
func TestImportBecomesAVersion(t *testing.T) {
	m := start(t)
	imports := registryv1.NewImportServiceClient(m.as(identity.RolePerson))
	contents := map[string]string{"model.safetensors": "old weights", "meta/origin.json": "{}"}
	begin := &registryv1.BeginImportRequest{RequestId: uuid.NewString(), ModelName: "bull_specialist", Experiment: "imports/bull",
		Provenance: map[string]string{"path": "models/bull_v3.pth", "sha256": "ab"}, FeatureSchema: "v1", DataVersion: "d1", EvaluationWindow: "2009/2014",
		Metrics: map[string]float64{"validation/sharpe": 0.8, "odd": math.NaN()}}
	for path, content := range contents {
		begin.Files = append(begin.Files, file(path, content))
	}
	staged, err := imports.BeginImport(m.ctx, begin)
	must(t, err)
	again, err := imports.BeginImport(m.ctx, begin)
	must(t, err)
	if again.GetImportId() != staged.GetImportId() || again.GetRunId() != staged.GetRunId() || len(again.GetUploads()) != 2 {
		t.Errorf("a resent begin made another import: %+v", again)
	}
	commit := &registryv1.CommitImportRequest{ImportId: staged.GetImportId(), RequestId: uuid.NewString()}
	_, err = imports.CommitImport(m.ctx, commit)
	m.reason(err, errorv1.Reason_REASON_DIGEST_MISMATCH)
	for _, u := range staged.GetUploads() {
		if status := m.put(u, contents[u.GetPaths()[0]]); status != http.StatusOK {
			t.Fatalf("upload: status %d", status)
		}
	}
	done, err := imports.CommitImport(m.ctx, commit)
	must(t, err)
	other, err := imports.CommitImport(m.ctx, &registryv1.CommitImportRequest{ImportId: staged.GetImportId(), RequestId: uuid.NewString()})
	must(t, err)
	v := done.GetVersion()
	if v.GetVersion() != 1 || other.GetVersion().GetVersion() != 1 || v.GetCheckpointId() != staged.GetCheckpointId() || v.GetRunId() != staged.GetRunId() {
		t.Errorf("version %+v, then %+v", v, other.GetVersion())
	}
	got, err := m.runs.GetRun(m.ctx, &registryv1.GetRunRequest{RunId: staged.GetRunId()})
	must(t, err)
	r := got.GetRun()
	if r.GetState() != registryv1.Run_STATE_SUCCEEDED || r.GetTags()["import.path"] != "models/bull_v3.pth" || r.GetExperiment() != "imports/bull" || len(r.GetLatestMetrics()) != 2 {
		t.Errorf("run %+v", r)
	}
	c, err := m.runs.GetCheckpoint(m.ctx, &registryv1.GetCheckpointRequest{CheckpointId: staged.GetCheckpointId()})
	must(t, err)
	if k := c.GetCheckpoint(); k.GetState() != registryv1.Checkpoint_STATE_LIVE || k.GetResumable() || k.GetMetrics()["validation/sharpe"] != 0.8 || !math.IsNaN(k.GetMetrics()["odd"]) {
		t.Errorf("checkpoint %+v", k)
	}
	_, err = m.models.PromoteModelVersion(m.ctx, &registryv1.PromoteModelVersionRequest{RequestId: uuid.NewString(), ModelName: "bull_specialist", Stage: registryv1.Stage_STAGE_PRODUCTION})
	must(t, err)

	begin.RequestId = uuid.NewString()
	begin.Files = append(begin.Files, begin.GetFiles()[0])
	_, err = imports.BeginImport(m.ctx, begin)
	m.reason(err, errorv1.Reason_REASON_INVALID_FIELDS)
	_, err = imports.CommitImport(m.ctx, &registryv1.CommitImportRequest{ImportId: uuid.NewString(), RequestId: uuid.NewString()})
	m.reason(err, errorv1.Reason_REASON_RESOURCE_NOT_FOUND)
	for _, bad := range []string{"../x", "/etc", "a//b", ""} {
		_, err = imports.BeginImport(m.ctx, &registryv1.BeginImportRequest{RequestId: uuid.NewString(), ModelName: "m", Experiment: bad, Files: []*registryv1.CheckpointFile{file("f", "x")}})
		m.reason(err, errorv1.Reason_REASON_INVALID_FIELDS)
	}
}

// A large file goes up in parts; a writer that was killed in the middle sends only the rest.
func TestPartsGoOnWhereTheyWereLeft(t *testing.T) {
	m := start(t)
	job := uuid.NewString()
	w := m.writer(job, 1, 5)
	w.open("", "")
	const partSize = 5 << 20
	content := strings.Repeat("0123456789abcdef", 11<<20/16)
	begin := &registryv1.BeginCheckpointRequest{RequestId: uuid.NewString(), JobId: job, Attempt: 1, Fence: 5, Step: 10, Files: []*registryv1.CheckpointFile{file("model.safetensors", content)}}
	staged, err := m.agent.BeginCheckpoint(m.ctx, begin)
	must(t, err)
	table := crc32.MakeTable(crc32.Castagnoli)
	ask := &registryv1.PreparePartsRequest{JobId: job, Fence: 5, File: begin.GetFiles()[0]}
	piece := func(n uint32) string { return content[(n-1)*partSize : min(int(n)*partSize, len(content))] }
	for n := uint32(1); int(n-1)*partSize < len(content); n++ {
		ask.Parts = append(ask.Parts, &registryv1.PreparePartsRequest_Part{Number: n, SizeBytes: int64(len(piece(n))), Crc32C: crc32.Checksum([]byte(piece(n)), table)})
	}
	send := func(p *registryv1.PreparePartsResponse_PartURL, body string) int {
		return m.put(&registryv1.TransferURL{Method: p.GetMethod(), Url: p.GetUrl(), Headers: p.GetHeaders()}, body)
	}
	first, err := m.agent.PrepareParts(m.ctx, ask)
	must(t, err)
	if first.GetComplete() || len(first.GetMissing()) != 3 {
		t.Fatalf("first answer: %d missing, complete %v", len(first.GetMissing()), first.GetComplete())
	}
	if status := send(first.GetMissing()[1], piece(2)); status != http.StatusOK {
		t.Fatalf("part 2: status %d", status)
	}
	damaged := []byte(piece(1))
	damaged[0] ^= 1
	if status := send(first.GetMissing()[0], string(damaged)); status == http.StatusOK {
		t.Error("a damaged part was taken")
	}
	rest, err := m.agent.PrepareParts(m.ctx, ask)
	must(t, err)
	if len(rest.GetMissing()) != 2 || rest.GetMissing()[0].GetNumber() != 1 || rest.GetMissing()[1].GetNumber() != 3 {
		t.Fatalf("after part 2: %+v", rest.GetMissing())
	}
	for _, p := range rest.GetMissing() {
		if status := send(p, piece(p.GetNumber())); status != http.StatusOK {
			t.Fatalf("part %d: status %d", p.GetNumber(), status)
		}
	}
	for range 2 {
		last, err := m.agent.PrepareParts(m.ctx, ask)
		must(t, err)
		if !last.GetComplete() || len(last.GetMissing()) != 0 {
			t.Fatalf("last answer: %+v", last)
		}
	}
	done, err := m.agent.CommitCheckpoint(m.ctx, &registryv1.CommitCheckpointRequest{CheckpointId: staged.GetCheckpointId(), Fence: 5, Resumable: true, CodeVersion: "git:abc"})
	must(t, err)
	if c := done.GetCheckpoint(); c.GetState() != registryv1.Checkpoint_STATE_LIVE || c.GetCodeVersion() != "git:abc" {
		t.Errorf("checkpoint %+v", c)
	}
	resolved, err := m.agent.ResolveCheckpoint(m.ctx, &registryv1.ResolveCheckpointRequest{JobId: job, Fence: 5})
	must(t, err)
	if m.get(resolved.GetDownloads()[0]) != content {
		t.Error("the download has other bytes")
	}

	// Parts of a file whose bytes are not what was promised make no checkpoint; sent right, they do.
	lie := file("model.safetensors", strings.Repeat("x", 100))
	begin.RequestId, begin.Step, begin.Files = uuid.NewString(), 11, []*registryv1.CheckpointFile{lie}
	staged, err = m.agent.BeginCheckpoint(m.ctx, begin)
	must(t, err)
	for _, body := range []string{strings.Repeat("y", 100), strings.Repeat("x", 100)} {
		ask.File, ask.Parts = lie, []*registryv1.PreparePartsRequest_Part{{Number: 1, SizeBytes: 100, Crc32C: crc32.Checksum([]byte(body), table)}}
		first, err = m.agent.PrepareParts(m.ctx, ask)
		must(t, err)
		if len(first.GetMissing()) != 1 {
			t.Fatalf("missing %+v", first)
		}
		if status := send(first.GetMissing()[0], body); status != http.StatusOK {
			t.Fatalf("status %d", status)
		}
		_, err = m.agent.PrepareParts(m.ctx, ask)
		must(t, err)
		_, err = m.agent.CommitCheckpoint(m.ctx, &registryv1.CommitCheckpointRequest{CheckpointId: staged.GetCheckpointId(), Fence: 5, Resumable: true})
		if body[0] == 'x' {
			must(t, err)
		} else {
			m.reason(err, errorv1.Reason_REASON_DIGEST_MISMATCH)
		}
	}

	ask.Fence = 4
	_, err = m.agent.PrepareParts(m.ctx, ask)
	m.reason(err, errorv1.Reason_REASON_LEASE_FENCED)
	ask.Fence, ask.Parts[0].Number, ask.Parts[0].SizeBytes = 5, 2, 99
	_, err = m.agent.PrepareParts(m.ctx, ask)
	m.reason(err, errorv1.Reason_REASON_INVALID_FIELDS)
	if _, err := registryv1.NewIngestServiceClient(m.as(identity.RolePerson)).PrepareParts(m.ctx, ask); status.Code(err) != codes.PermissionDenied {
		t.Errorf("a person: %v", err)
	}
}

// Alone on an empty database, with a directory for its artifacts, it is an MLflow server.
func TestStandsAloneWithADirectory(t *testing.T) {
	a := startAlone(t)
	const base = "/api/2.0/mlflow-artifacts/artifacts/0/"
	run := a.post("/api/2.0/mlflow/runs/create", `{"experiment_id":"0","start_time":1700000000000}`)
	id := between(run, `"run_id":"`, `"`)
	a.put(base+id+"/artifacts/weights/model.bin", "weights")
	if got := a.get(base + id + "/artifacts/weights/model.bin"); got != "weights" {
		t.Errorf("download %q", got)
	}
	if got := a.get("/health"); got != "OK" {
		t.Errorf("health %q", got)
	}
}

func between(text, from, to string) string {
	_, rest, _ := strings.Cut(text, from)
	out, _, _ := strings.Cut(rest, to)
	return out
}

func (a *alone) put(path, body string) {
	a.Helper()
	r, err := http.NewRequestWithContext(a.Context(), http.MethodPut, a.url+path, bytes.NewReader([]byte(body)))
	must(a.T, err)
	a.do(r)
}
