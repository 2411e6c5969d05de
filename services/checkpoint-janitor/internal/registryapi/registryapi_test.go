package registryapi

import (
	"bytes"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	registryv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/registry/v1"
	"github.com/ultrathink-pilot/trainyard/services/checkpoint-janitor/internal/retention"
)

func TestAnUncommittedCheckpointIsAsOldAsItsID(t *testing.T) {
	t.Parallel()
	id, err := uuid.NewV7()
	if err != nil {
		t.Fatal(err)
	}
	c := checkpoint(&registryv1.InventoryItem{Checkpoint: &registryv1.Checkpoint{CheckpointId: id.String(), State: registryv1.Checkpoint_STATE_STAGED}})
	if age := time.Since(c.CreateTime); !c.Uncommitted || age < -time.Minute || age > time.Minute {
		t.Fatalf("created %v, uncommitted %v", c.CreateTime, c.Uncommitted)
	}
	c = checkpoint(&registryv1.InventoryItem{Checkpoint: &registryv1.Checkpoint{CheckpointId: "old", State: registryv1.Checkpoint_STATE_STAGED}})
	if !c.CreateTime.IsZero() {
		t.Fatalf("an id without a time gives %v", c.CreateTime)
	}
}

// Every state and root of the contract has a meaning here; a newer one protects.
func TestTheContractsEnumsAreCovered(t *testing.T) {
	t.Parallel()
	states := map[retention.State]bool{}
	for n := range registryv1.Checkpoint_State_name {
		s := state(registryv1.Checkpoint_State(n))
		if states[s] || (n == 0) != (s == retention.StateUnknown) {
			t.Errorf("%v becomes %v", registryv1.Checkpoint_State(n), s)
		}
		states[s] = true
	}
	kinds := map[retention.ReferenceKind]bool{}
	for n := range registryv1.Root_Kind_name {
		k := kind(registryv1.Root_Kind(n))
		if kinds[k] || (n == 0) != (k == retention.RefOther) {
			t.Errorf("%v becomes %v", registryv1.Root_Kind(n), k)
		}
		kinds[k] = true
	}
	if state(99) != retention.StateUnknown || kind(99) != retention.RefOther {
		t.Error("values of a newer registry do not protect")
	}
}

func TestAPinWithoutARootStillPins(t *testing.T) {
	t.Parallel()
	c := checkpoint(&registryv1.InventoryItem{Checkpoint: &registryv1.Checkpoint{Pinned: true}})
	if len(c.References) != 1 || c.References[0].Kind != retention.RefPin {
		t.Fatalf("got %+v", c.References)
	}
}

// What is shared, archived and deleted are contents: a file in chunks counts as those, never as itself.
func TestChunksAreTheContents(t *testing.T) {
	t.Parallel()
	digest := func(b byte) []byte { return bytes.Repeat([]byte{b}, 32) }
	c := checkpoint(&registryv1.InventoryItem{Checkpoint: &registryv1.Checkpoint{Files: []*registryv1.CheckpointFile{
		{Path: "model.safetensors", Sha256: digest(1), SizeBytes: 30, Chunks: []*registryv1.Chunk{{Sha256: digest(2), SizeBytes: 10}, {Sha256: digest(3), SizeBytes: 20}}},
		{Path: "meta.json", Sha256: digest(4), SizeBytes: 5},
	}}})
	want := []retention.File{{Digest: strings.Repeat("02", 32), Bytes: 10}, {Digest: strings.Repeat("03", 32), Bytes: 20}, {Digest: strings.Repeat("04", 32), Bytes: 5}}
	if !slices.Equal(c.Files, want) || c.Bytes() != 35 {
		t.Fatalf("got %+v", c.Files)
	}
}
