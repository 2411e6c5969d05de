package registry

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/google/uuid"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/ultrathink-pilot/trainyard/libs/objectstore"
	errorv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/error/v1"
	registryv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/registry/v1"
)

// cut is a file with its chunks; pieces learns what they hold.
func cut(path string, pieces map[string]string, chunks ...string) *registryv1.CheckpointFile {
	f := file(path, strings.Join(chunks, ""))
	for _, c := range chunks {
		chunk := file(path, c)
		pieces[string(chunk.GetSha256())] = c
		f.Chunks = append(f.Chunks, &registryv1.Chunk{Sha256: chunk.GetSha256(), SizeBytes: chunk.GetSizeBytes()})
	}
	return f
}

// stage announces files and uploads what the registry asks for; it returns how many bytes that were.
func (w *writer) stage(step int64, pieces map[string]string, files ...*registryv1.CheckpointFile) (id string, sent int) {
	w.m.Helper()
	staged, err := w.m.agent.BeginCheckpoint(w.m.ctx, &registryv1.BeginCheckpointRequest{RequestId: uuid.NewString(), JobId: w.job,
		Attempt: w.attempt, Fence: w.fence, Step: step, Files: files})
	must(w.m.T, err)
	for _, u := range staged.GetUploads() {
		content := pieces[string(u.GetSha256())]
		must2xx(w.m.T, w.m.put(u, content))
		sent += len(content)
	}
	return staged.GetCheckpointId(), sent
}

func (m *mesh) commit(w *writer, id string) (*registryv1.Checkpoint, error) {
	done, err := m.agent.CommitCheckpoint(m.ctx, &registryv1.CommitCheckpointRequest{CheckpointId: id, Fence: w.fence, Resumable: true,
		Metrics: map[string]float64{"validation/sharpe": 1}})
	return done.GetCheckpoint(), err
}

func (m *mesh) download(id, path string, offset, length int64) (string, error) {
	m.Helper()
	stream, err := m.runs.DownloadCheckpointFile(m.ctx, &registryv1.DownloadCheckpointFileRequest{CheckpointId: id, Path: path, Offset: offset, Length: length})
	must(m.T, err)
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

// Two checkpoints with one trunk, from the announcement to the download: the trunk is sent once, stored once, and read by both; every
// reader gets the file, whether it knows chunks or not.
func TestATrunkIsSentAndStoredOnce(t *testing.T) {
	m := start(t)
	w := m.writer(uuid.NewString(), 1, 1)
	w.open("", "")
	pieces := map[string]string{}
	trunk := strings.Repeat("trunk ", 50_000)
	id, sent := w.stage(1, pieces, cut("model.safetensors", pieces, "header", trunk, "bull"), cut("meta.json", pieces, `{}`))
	if sent != len(trunk)+12 {
		t.Errorf("the first sent %d bytes", sent)
	}
	bull, err := m.commit(w, id)
	must(t, err)
	id, sent = w.stage(2, pieces, cut("model.safetensors", pieces, "header", trunk, "bear"))
	if sent != 4 {
		t.Errorf("the second sent %d bytes", sent)
	}
	bear, err := m.commit(w, id)
	must(t, err)
	if bear.GetSharedBytes() != int64(len(trunk))+6 || bear.GetSizeBytes() != int64(len(trunk))+10 || len(bear.GetFiles()[0].GetChunks()) != 3 {
		t.Errorf("the second: %d of %d bytes shared, %d chunks", bear.GetSharedBytes(), bear.GetSizeBytes(), len(bear.GetFiles()[0].GetChunks()))
	}
	if got, err := m.runs.GetCheckpoint(m.ctx, &registryv1.GetCheckpointRequest{CheckpointId: bull.GetCheckpointId()}); err != nil || got.GetCheckpoint().GetSharedBytes() != bear.GetSharedBytes() {
		t.Errorf("the first shares %d bytes, %v", got.GetCheckpoint().GetSharedBytes(), err)
	}
	var stored int64
	for o, err := range m.objects.List(m.ctx, "") {
		must(t, err)
		stored += o.Size
	}
	if stored != int64(len(trunk))+6+4+4+2 {
		t.Errorf("%d bytes are stored", stored)
	}

	// A reader that knows chunks has a URL for each; one that knows paths finds none for the cut file.
	answer, err := m.agent.ResolveCheckpoint(m.ctx, &registryv1.ResolveCheckpointRequest{JobId: w.job, Fence: 1, CheckpointId: bull.GetCheckpointId()})
	must(t, err)
	urls := map[string]*registryv1.TransferURL{}
	for _, u := range answer.GetDownloads() {
		urls[string(u.GetSha256())] = u
		if len(u.GetPaths()) > 0 && (len(u.GetPaths()) != 1 || u.GetPaths()[0] != "meta.json") {
			t.Errorf("a chunk is offered as %v", u.GetPaths())
		}
	}
	for _, f := range answer.GetCheckpoint().GetFiles() {
		sum, whole := sha256.New(), ""
		for _, c := range f.GetChunks() {
			whole += m.get(urls[string(c.GetSha256())])
		}
		if sum.Write([]byte(whole)); f.GetPath() == "model.safetensors" && !bytes.Equal(sum.Sum(nil), f.GetSha256()) {
			t.Errorf("the chunks of %s are not it", f.GetPath())
		}
	}
	whole := "header" + trunk + "bear"
	for _, r := range [][4]int{{0, 0, 0, len(whole)}, {3, 10, 3, 13}, {6, 0, 6, len(whole)}, {len(whole) - 6, 6, len(whole) - 6, len(whole)}, {1, 1, 1, 2}, {len(whole), 9, len(whole), len(whole)}} {
		if got, err := m.download(bear.GetCheckpointId(), "model.safetensors", int64(r[0]), int64(r[1])); err != nil || got != whole[r[2]:r[3]] {
			t.Errorf("range %v: %d bytes, %v", r, len(got), err)
		}
	}
	// A head that was damaged ends in DATA_LOSS, and its checkpoint alone is marked; the trunk is read again and found good.
	key := ""
	for o, err := range m.objects.List(m.ctx, "") {
		must(t, err)
		if strings.Contains(o.Key, objectstore.Digest([]byte("bear"))) {
			key = o.Key
		}
	}
	_, err = m.objects.PutBytes(m.ctx, key, []byte("boar"))
	must(t, err)
	if _, err := m.download(bear.GetCheckpointId(), "model.safetensors", 0, 0); status.Code(err) != codes.DataLoss {
		t.Errorf("changed bytes: %v", err)
	}
	report := &registryv1.ReportCorruptCheckpointRequest{CheckpointId: bear.GetCheckpointId(), Fence: 1, Reason: "its digest is wrong"}
	marked, err := m.agent.ReportCorruptCheckpoint(m.ctx, report)
	must(t, err)
	if marked.GetCheckpoint().GetState() != registryv1.Checkpoint_STATE_CORRUPT {
		t.Errorf("reported: %v", marked.GetCheckpoint().GetState())
	}
	if got, err := m.download(bull.GetCheckpointId(), "model.safetensors", 0, 0); err != nil || got != "header"+trunk+"bull" {
		t.Errorf("its neighbour: %v", err)
	}
	if _, sent = w.stage(3, pieces, cut("model.safetensors", pieces, "header", trunk, "bear")); sent != 4 {
		t.Errorf("the damaged head alone is sent again, not %d bytes", sent)
	}
}

// A shared object that is really bad is taken from everybody, so that nobody builds on it.
func TestABadTrunkIsSentAgain(t *testing.T) {
	m := start(t)
	w := m.writer(uuid.NewString(), 1, 1)
	w.open("", "")
	pieces := map[string]string{}
	var made []*registryv1.Checkpoint
	for step, head := range []string{"bull", "bear"} {
		id, _ := w.stage(int64(step), pieces, cut("model.safetensors", pieces, "the trunk", head))
		c, err := m.commit(w, id)
		must(t, err)
		made = append(made, c)
	}
	for o, err := range m.objects.List(m.ctx, "") {
		must(t, err)
		if o.Size == int64(len("the trunk")) {
			_, err = m.objects.PutBytes(m.ctx, o.Key, []byte("the drunk"))
			must(t, err)
		}
	}
	trunk := file("", "the trunk").GetSha256()
	_, err := m.agent.ReportCorruptCheckpoint(m.ctx, &registryv1.ReportCorruptCheckpointRequest{CheckpointId: made[0].GetCheckpointId(), Fence: 1,
		Reason: "its digest is wrong", ContentsSha256: [][]byte{trunk}})
	must(t, err)
	for _, c := range made {
		got, err := m.runs.GetCheckpoint(m.ctx, &registryv1.GetCheckpointRequest{CheckpointId: c.GetCheckpointId()})
		must(t, err)
		if got.GetCheckpoint().GetState() != registryv1.Checkpoint_STATE_CORRUPT {
			t.Errorf("%s is %v", c.GetCheckpointId(), got.GetCheckpoint().GetState())
		}
	}
	id, sent := w.stage(5, pieces, cut("model.safetensors", pieces, "the trunk", "bull"))
	if sent != len("the trunk") {
		t.Errorf("%d bytes are sent again", sent)
	}
	c, err := m.commit(w, id)
	must(t, err)
	if got, err := m.download(c.GetCheckpointId(), "model.safetensors", 0, 0); err != nil || got != "the trunkbull" {
		t.Errorf("%q, %v", got, err)
	}
}

// Chunks that are not the file are refused: at once where it can be seen, at the commit where it must be read.
func TestChunksThatAreNotTheFile(t *testing.T) {
	m := start(t)
	w := m.writer(uuid.NewString(), 1, 1)
	w.open("", "")
	pieces := map[string]string{}
	short, one := cut("a.bin", pieces, "aa", "bb"), cut("b.bin", pieces, "cc")
	short.SizeBytes, one.Sha256 = 5, file("", "dd").GetSha256()
	many := cut("c.bin", pieces, strings.Split(strings.Repeat("x", 1000), "")...)
	_, err := m.agent.BeginCheckpoint(m.ctx, &registryv1.BeginCheckpointRequest{RequestId: uuid.NewString(), JobId: w.job, Attempt: 1, Fence: 1,
		Files: []*registryv1.CheckpointFile{short, one, many}})
	m.reason(err, errorv1.Reason_REASON_INVALID_FIELDS)
	for _, want := range []string{"4 bytes together", "one chunk is the whole file", "1003 contents"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q is missing in %v", want, err)
		}
	}
	_, err = m.agent.BeginArtifact(m.ctx, &registryv1.BeginArtifactRequest{JobId: w.job, Fence: 1, File: cut("a.bin", pieces, "aa", "bb")})
	m.reason(err, errorv1.Reason_REASON_INVALID_FIELDS)

	other := cut("model.bin", pieces, "aa", "bb")
	other.Sha256 = file("", "bbaa").GetSha256()
	id, _ := w.stage(1, pieces, other)
	_, err = m.commit(w, id)
	m.reason(err, errorv1.Reason_REASON_DIGEST_MISMATCH)
	if _, err := m.models.CreateModelVersion(m.ctx, &registryv1.CreateModelVersionRequest{RequestId: uuid.NewString(), ModelName: "m", CheckpointId: id}); err == nil {
		t.Error("what was never committed became a version")
	}
	staged, err := m.agent.BeginCheckpoint(m.ctx, &registryv1.BeginCheckpointRequest{RequestId: uuid.NewString(), JobId: w.job, Attempt: 1, Fence: 1, Step: 3,
		Files: []*registryv1.CheckpointFile{cut("model.bin", pieces, "cc", "aa")}})
	must(t, err)
	_, err = m.commit(w, staged.GetCheckpointId())
	m.reason(err, errorv1.Reason_REASON_DIGEST_MISMATCH)
	if r := staged.GetUploads(); len(r) == 0 || m.put(r[0], "zz") == http.StatusOK {
		t.Error("the object store took other bytes than were presigned")
	}
}
