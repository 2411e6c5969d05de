package registry

import (
	"context"
	"os"
	"testing"

	"github.com/google/uuid"

	"github.com/ultrathink-pilot/trainyard/libs/identity"
	"github.com/ultrathink-pilot/trainyard/libs/modelclient"
	registryv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/registry/v1"
)

// The inference client against the real registry and the real object store: promotion and
// rollback reach it, and so does every byte.
func TestInferenceClientFollows(t *testing.T) {
	m := start(t)
	w := m.writer(uuid.NewString(), 1, 1)
	w.open("", "")
	client, err := modelclient.Open(modelclient.Config{Conn: m.as(identity.RoleInference), Dir: t.TempDir(), Objects: m.http})
	must(t, err)
	ctx, cancel := context.WithCancel(m.ctx)
	follower := client.Follow(ctx, "bull")
	defer func() {
		cancel()
		<-follower.Done()
		must(t, client.Close())
	}()
	serving := func(version int64, weights string) {
		t.Helper()
		for {
			model, err := follower.Wait(m.ctx)
			must(t, err)
			if model.Version != version {
				<-follower.Changed()
				continue
			}
			b, err := os.ReadFile(model.Path("model.safetensors"))
			must(t, err)
			if string(b) != weights || model.FeatureSchema != "v1" {
				t.Fatalf("version %d has %q: %+v", version, b, model)
			}
			return
		}
	}
	for version, weights := range []string{"weights one", "weights two"} {
		c := w.checkpoint(int64(version+1), 1, weights)
		_, err := m.models.CreateModelVersion(m.ctx, &registryv1.CreateModelVersionRequest{RequestId: uuid.NewString(), ModelName: "bull", CheckpointId: c.GetCheckpointId()})
		must(t, err)
		_, err = m.models.PromoteModelVersion(m.ctx, &registryv1.PromoteModelVersionRequest{RequestId: uuid.NewString(), ModelName: "bull", Version: int64(version + 1), Stage: registryv1.Stage_STAGE_PRODUCTION})
		must(t, err)
		serving(int64(version+1), weights)
	}
	_, err = m.models.RollbackModel(m.ctx, &registryv1.RollbackModelRequest{RequestId: uuid.NewString(), ModelName: "bull"})
	must(t, err)
	serving(1, "weights one")
}
