package cli

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ultrathink-pilot/trainyard/libs/safetensors"
	registryv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/registry/v1"
)

// TestImportCheckNeedsNoMesh: good and bad files in one call, for people and for
// programs; what was refused shows in the exit.
func TestImportCheckNeedsNoMesh(t *testing.T) {
	t.Parallel()
	f := &fakeMesh{state: t.TempDir()}
	dir := filepath.Join("..", "..", "..", "libs", "pth", "testdata")
	good, bad := filepath.Join(dir, "dtypes.legacy.p2.pth"), filepath.Join(dir, "hostile_system.zip.pth")
	out, err := f.run(t, "import", "--check", good)
	if err != nil || !strings.Contains(out, "legacy") || !strings.Contains(out, "bf16") {
		t.Fatalf("%s, %v", out, err)
	}
	out, err = f.run(t, "import", "--check", "-o", "json", good, bad)
	if !errors.Is(err, errRefused) {
		t.Errorf("%v", err)
	}
	var answer struct {
		Files []struct {
			File, Error string
			Tensors     []struct{ Name, DType, SHA256 string }
		}
		Read, Refused int
	}
	if err := json.Unmarshal([]byte(out), &answer); err != nil {
		t.Fatal(err)
	}
	if answer.Read != 1 || answer.Refused != 1 || len(answer.Files[0].Tensors) != 10 || !strings.Contains(answer.Files[1].Error, "posix.system") {
		t.Errorf("%+v", answer)
	}
	out, err = f.run(t, "import", "--check", "--lenient", bad)
	if !errors.Is(err, errRefused) || !strings.Contains(out, `refused: the global "posix.system"`) {
		t.Errorf("%s, %v", out, err)
	}
	var usage usageError
	if _, err := f.run(t, "import", good); !errors.As(err, &usage) {
		t.Errorf("%v", err)
	}
}

func (f *fakeMesh) BeginImport(_ context.Context, r *registryv1.BeginImportRequest) (*registryv1.BeginImportResponse, error) {
	f.begun = r
	answer := &registryv1.BeginImportResponse{ImportId: "01990000-0000-7000-8000-000000000009", RunId: "run-9"}
	for _, file := range r.GetFiles() {
		chunks := file.GetChunks()
		if len(chunks) == 0 {
			chunks = []*registryv1.Chunk{{Sha256: file.GetSha256(), SizeBytes: file.GetSizeBytes()}}
		}
		for _, c := range chunks {
			answer.Uploads = append(answer.Uploads, &registryv1.TransferURL{Sha256: c.GetSha256(), Method: http.MethodPut,
				Url: f.store + "/" + hex.EncodeToString(c.GetSha256()), Headers: map[string]string{"X-Signed": "yes"}})
		}
	}
	return answer, nil
}

func (f *fakeMesh) CommitImport(_ context.Context, r *registryv1.CommitImportRequest) (*registryv1.CommitImportResponse, error) {
	return &registryv1.CommitImportResponse{Version: &registryv1.ModelVersion{ModelName: f.begun.GetModelName(), Version: 7, CheckpointId: r.GetImportId()}}, nil
}

// TestImportRegisters: an old file becomes a version, its contents uploaded under
// their digests, its provenance told.
func TestImportRegisters(t *testing.T) {
	t.Parallel()
	f := newFakeMesh(t)
	stored := map[string][]byte{}
	refuse := false
	store := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		data, err := io.ReadAll(r.Body)
		if err != nil || r.Header.Get("X-Signed") != "yes" || refuse {
			http.Error(w, "no", http.StatusForbidden)
			return
		}
		stored[strings.TrimPrefix(r.URL.Path, "/")] = data
	}))
	t.Cleanup(store.Close)
	f.store = store.URL
	file := filepath.Join("..", "..", "..", "libs", "pth", "testdata", "specialist.pth")
	args := []string{"import", file, "--model", "bull_specialist"}

	if _, err := f.run(t, args...); err == nil || !strings.Contains(err.Error(), "--as-is") {
		t.Errorf("weights and gradients in one file were taken for one network: %v", err)
	}
	mapping := filepath.Join(t.TempDir(), "map.yaml")
	text := "layers: {weights.trunk.0: trunk.0, weights.trunk.1: trunk.1, weights.policy: policy, weights.value: value}\n" +
		"ignore: ['grads.*', x, logits, value, actions, old, adv, target, loss]\n"
	if err := os.WriteFile(mapping, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	args = append(args, "--map", mapping, "--note", "author=ana", "--metric", "validation/sharpe=1.25", "--feature-schema", "v1")
	out, err := f.run(t, args...)
	if err != nil || !strings.Contains(out, "bull_specialist version 7") || !strings.Contains(out, "author: ana") {
		t.Fatalf("%s, %v", out, err)
	}
	b := f.begun
	if b.GetExperiment() != "imports/bull_specialist" || b.GetMetrics()["validation/sharpe"] != 1.25 || b.GetFeatureSchema() != "v1" ||
		b.GetProvenance()["file"] != "specialist.pth" || len(b.GetProvenance()["sha256"]) != 64 ||
		!strings.Contains(b.GetProvenance()["network"], "64 inputs, hidden [128 128], 3 actions") {
		t.Errorf("%v", b)
	}
	for _, file := range b.GetFiles() {
		data := stored[hex.EncodeToString(file.GetSha256())]
		for _, c := range file.GetChunks() {
			data = append(data, stored[hex.EncodeToString(c.GetSha256())]...)
		}
		if file.GetPath() == "model.safetensors" && len(file.GetChunks()) < 4 {
			t.Errorf("the model is announced in %d pieces", len(file.GetChunks()))
		}
		if int64(len(data)) != file.GetSizeBytes() || len(data) == 0 {
			t.Errorf("%s: %d bytes stored, %d announced", file.GetPath(), len(data), file.GetSizeBytes())
		}
		if file.GetPath() == "model.safetensors" {
			tensors, _, err := safetensors.Decode(data)
			if err != nil || len(tensors) != 8 {
				t.Errorf("%v, %v", tensors, err)
			}
		}
	}
	if _, err := f.run(t, append(args[:4:4], "--as-is")...); err != nil {
		t.Errorf("as it is: %v", err)
	}
	refuse = true
	if _, err := f.run(t, args...); err == nil || !strings.Contains(err.Error(), "403") || strings.Contains(err.Error(), store.URL) {
		t.Errorf("a refused upload: %v", err)
	}
	var usage usageError
	if _, err := f.run(t, append(args, "--metric", "x=y")...); !errors.As(err, &usage) {
		t.Errorf("%v", err)
	}
}
