package mlflowapi

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/ultrathink-pilot/trainyard/libs/objectstore"
	"github.com/ultrathink-pilot/trainyard/services/registry/internal/catalog"
	"github.com/ultrathink-pilot/trainyard/services/registry/internal/postgres"
)

// A model that is stored in chunks is one file to an MLflow client, whole and in ranges.
func TestACheckpointInChunksIsDownloadedAsOneFile(t *testing.T) {
	s := serve(t, "")
	run, id := uuid.NewString(), uuid.NewString()
	chunks := []string{"header ", strings.Repeat("trunk ", 1000), "head"}
	whole := strings.Join(chunks, "")
	f := catalog.File{Name: "model.safetensors", SHA256: objectstore.Digest([]byte(whole)), Size: int64(len(whole))}
	for _, c := range chunks {
		f.Chunks = append(f.Chunks, catalog.File{Name: f.Name, SHA256: objectstore.Digest([]byte(c)), Size: int64(len(c))})
	}
	results, err := s.store.ApplyBatches(s.Context(), []catalog.Batch{{Key: catalog.BatchKey{RunID: run, Attempt: 1, Fence: 1, Sequence: 1},
		Opened: &catalog.RunOpened{Experiment: "specialists", DisplayName: "bull"}}}, time.Now())
	if err != nil || results[0].Refusal != nil {
		t.Fatal(err, results)
	}
	err = s.store.Do(s.Context(), time.Now(), func(tx *postgres.Tx) error {
		staged, err := tx.BeginCheckpoint(s.Context(), postgres.BeginCheckpoint{ID: id, RunID: run, Attempt: 1, Fence: 1, Files: []catalog.File{f}})
		if err != nil {
			return err
		}
		for i, c := range staged.Files[0].Chunks {
			if _, err := s.server.Objects.PutBytes(s.Context(), c.ObjectKey, []byte(chunks[i])); err != nil {
				return err
			}
		}
		_, _, err = tx.CommitCheckpoint(s.Context(), postgres.CommitCheckpoint{ID: id, Fence: 1})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	path := "/api/2.0/mlflow-artifacts/artifacts/checkpoints/" + id + "/model.safetensors"
	if got := s.ok(http.MethodGet, path, ""); got.body != whole {
		t.Errorf("%d bytes came, %d are the file", len(got.body), len(whole))
	}
	for header, want := range map[string]string{"bytes=3-20": whole[3:21], "bytes=0-6": whole[:7], "bytes=-6": whole[len(whole)-6:], "bytes=6006-": whole[6006:]} {
		if got := s.call(http.MethodGet, path, "", "Range", header); got.status != http.StatusPartialContent || got.body != want {
			t.Errorf("%s: %d %q, want %q", header, got.status, got.body, want)
		}
	}
}
