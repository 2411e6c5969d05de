package registryapi

import (
	"context"
	"encoding/hex"
	"time"

	"github.com/ultrathink-pilot/trainyard/libs/pagetoken"
	"github.com/ultrathink-pilot/trainyard/libs/rpcerr"
	registryv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/registry/v1"
	"github.com/ultrathink-pilot/trainyard/services/registry/internal/postgres"
)

const (
	inventoryPage = 500
	inventoryMost = 5000
	// deleteGrace is the least age of a tombstone when the janitor names none.
	deleteGrace = 7 * 24 * time.Hour
)

type retentionServer struct {
	registryv1.UnsafeRetentionServiceServer
	*api
}

func (s *retentionServer) ListInventory(ctx context.Context, r *registryv1.ListInventoryRequest) (*registryv1.ListInventoryResponse, error) {
	contents := make([]string, len(r.GetContentsSha256()))
	for i, sum := range r.GetContentsSha256() {
		contents[i] = hex.EncodeToString(sum)
	}
	hash := pagetoken.FilterHash(append([]string{"inventory"}, contents...)...)
	parts, err := pagetoken.Decode(hash, r.GetPageToken(), 1)
	if err != nil {
		return nil, rpcerr.PageTokenInvalid(err)
	}
	after := ""
	if parts != nil {
		after = parts[0]
	}
	limit := pageSize(r.GetPageSize(), inventoryPage, inventoryMost)
	items, total, err := s.Store.Inventory(ctx, contents, after, limit+1, time.Now())
	if err != nil {
		return nil, wire(err)
	}
	out := &registryv1.ListInventoryResponse{TotalCount: total}
	var more bool
	if out.Items, more, err = fit(items, limit, inventoryItem); more {
		out.NextPageToken = pagetoken.Encode(hash, items[len(out.Items)-1].Checkpoint.ID)
	}
	return out, err
}

func inventoryItem(i postgres.InventoryItem) (*registryv1.InventoryItem, error) {
	out := &registryv1.InventoryItem{Checkpoint: checkpoint(i.Checkpoint), ExclusiveBytes: i.ExclusiveBytes, RunActive: i.RunActive,
		LastUseTime: stamp(i.LastUse), ExperimentUseTime: stamp(i.ExperimentUse), BaseCheckpointIds: i.Bases}
	out.Checkpoint.SharedBytes = i.SharedBytes
	for _, found := range i.Roots {
		out.Roots = append(out.Roots, root(found))
	}
	return out, nil
}

func results(in []postgres.RetentionResult) []*registryv1.RetentionResult {
	out := make([]*registryv1.RetentionResult, 0, len(in))
	for _, r := range in {
		out = append(out, &registryv1.RetentionResult{CheckpointId: r.ID, State: checkpointState(r.State, false), Done: r.Done, Reason: r.Reason})
	}
	return out
}

func (s *retentionServer) TombstoneCheckpoints(ctx context.Context, r *registryv1.TombstoneCheckpointsRequest) (*registryv1.TombstoneCheckpointsResponse, error) {
	out, err := postgres.Once(ctx, s.Store, r.GetRequestId(), registryv1.RetentionService_TombstoneCheckpoints_FullMethodName, r, time.Now(),
		func(t *postgres.Tx) (*registryv1.TombstoneCheckpointsResponse, error) {
			done, err := t.Tombstone(ctx, r.GetCheckpointIds(), "plan "+r.GetPlanHash())
			return &registryv1.TombstoneCheckpointsResponse{Results: results(done)}, err
		})
	return out, wire(err)
}

func (s *retentionServer) RestoreCheckpoints(ctx context.Context, r *registryv1.RestoreCheckpointsRequest) (*registryv1.RestoreCheckpointsResponse, error) {
	out, err := postgres.Once(ctx, s.Store, r.GetRequestId(), registryv1.RetentionService_RestoreCheckpoints_FullMethodName, r, time.Now(),
		func(t *postgres.Tx) (*registryv1.RestoreCheckpointsResponse, error) {
			done, err := t.Restore(ctx, r.GetCheckpointIds())
			return &registryv1.RestoreCheckpointsResponse{Results: results(done)}, err
		})
	if err != nil {
		return nil, wire(err)
	}
	for _, done := range out.GetResults() {
		if !done.GetDone() {
			continue
		}
		c, err := s.Store.GetCheckpoint(ctx, done.GetCheckpointId())
		if err == nil {
			_, err = s.warm(ctx, c)
		}
		if err != nil {
			return nil, wire(err)
		}
	}
	return out, nil
}

func (s *retentionServer) BeginDeleteCheckpoints(ctx context.Context, r *registryv1.BeginDeleteCheckpointsRequest) (*registryv1.BeginDeleteCheckpointsResponse, error) {
	grace := deleteGrace
	if r.GetGrace() != nil {
		grace = r.GetGrace().AsDuration()
	}
	out, err := postgres.Once(ctx, s.Store, r.GetRequestId(), registryv1.RetentionService_BeginDeleteCheckpoints_FullMethodName, r, time.Now(),
		func(t *postgres.Tx) (*registryv1.BeginDeleteCheckpointsResponse, error) {
			done, keys, err := t.BeginDelete(ctx, r.GetCheckpointIds(), grace)
			return &registryv1.BeginDeleteCheckpointsResponse{Results: results(done), ObjectKeys: keys}, err
		})
	return out, wire(err)
}

func (s *retentionServer) ConfirmDeleted(ctx context.Context, r *registryv1.ConfirmDeletedRequest) (*registryv1.ConfirmDeletedResponse, error) {
	out, err := postgres.Once(ctx, s.Store, r.GetRequestId(), registryv1.RetentionService_ConfirmDeleted_FullMethodName, r, time.Now(),
		func(t *postgres.Tx) (*registryv1.ConfirmDeletedResponse, error) {
			done, err := t.ConfirmDeleted(ctx, r.GetCheckpointIds())
			return &registryv1.ConfirmDeletedResponse{Results: results(done)}, err
		})
	return out, wire(err)
}
