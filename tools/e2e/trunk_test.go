//go:build e2e

package e2e

import (
	"context"
	"testing"

	jobv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/job/v1"
	registryv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/registry/v1"
)

// sharedTrunk trains another specialist on the trunk of a version, frozen: what the store already has of it is not stored again.
func (y *yard) sharedTrunk(ctx context.Context, t *testing.T, version *registryv1.ModelVersion) {
	t.Helper()
	spec := specialist(jobv1.Specialist_SPECIALIST_BEAR, 3)
	spec.GetNative().WarmStart = &jobv1.WarmStart{CheckpointId: version.GetCheckpointId(), FreezeTrunk: true}
	done := y.finish(ctx, t, y.submit(ctx, t, spec).GetJobId())
	if done.GetState() != jobv1.Job_STATE_SUCCEEDED {
		t.Fatalf("the job on a frozen trunk is %v: %s", done.GetState(), done.GetStateReason())
	}
	parent, err := y.Runs.GetCheckpoint(ctx, &registryv1.GetCheckpointRequest{CheckpointId: version.GetCheckpointId()})
	if err != nil {
		t.Fatal(err)
	}
	bull := chunks(parent.GetCheckpoint())
	listed, err := y.Runs.ListCheckpoints(ctx, &registryv1.ListCheckpointsRequest{RunId: done.GetJobId()})
	if err != nil || len(listed.GetCheckpoints()) == 0 {
		t.Fatalf("the checkpoints of the job on a frozen trunk: %v, %v", listed, err)
	}
	for _, c := range listed.GetCheckpoints() {
		var whole, shared int64
		for digest, size := range chunks(c) {
			if whole += size; bull[digest] == size {
				shared += size
			}
		}
		// The trunk is 64 inputs x 128 and 128 x 128 float32s; the rest of the model is a few KiB.
		if trunk := int64(64*128+128*128) * 4; shared < trunk || c.GetSharedBytes() < trunk {
			t.Errorf("step %d: %d of the model's %d bytes are the trunk of the other specialist, %d are shared", c.GetStep(), shared, whole, c.GetSharedBytes())
		}
	}
}

// chunks are what a checkpoint's model is stored as.
func chunks(c *registryv1.Checkpoint) map[string]int64 {
	out := map[string]int64{}
	for _, f := range c.GetFiles() {
		if f.GetPath() == "model.safetensors" {
			for _, chunk := range f.GetChunks() {
				out[string(chunk.GetSha256())] = chunk.GetSizeBytes()
			}
		}
	}
	return out
}
