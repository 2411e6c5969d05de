// Package registryapi is the registry's RetentionService as the janitor sees it.
// The contract's messages end here.
package registryapi

import (
	"context"
	"encoding/hex"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	registryv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/registry/v1"
	"github.com/ultrathink-pilot/trainyard/services/checkpoint-janitor/internal/retention"
	"github.com/ultrathink-pilot/trainyard/services/checkpoint-janitor/internal/sweep"
)

// Metrics that ranks are made from.
const (
	SharpeMetric    = "validation/sharpe"
	SharpeLowMetric = "validation/sharpe_low"
)

// pageSize keeps a page below the 4 MiB of a message.
const pageSize = 1000

// contentsAtOnce is how many contents one request asks about: a batch of checkpoints with many shards has more
// than the contract takes at once.
const contentsAtOnce = 5000

// Client calls one registry.
type Client struct {
	rpc registryv1.RetentionServiceClient
}

// New wraps the generated client.
func New(rpc registryv1.RetentionServiceClient) *Client { return &Client{rpc} }

// List reads the whole inventory and how many rows the registry says it has.
func (c *Client) List(ctx context.Context) (all []retention.Checkpoint, total int, err error) {
	return c.list(ctx, nil)
}

// Holders reads the checkpoints that hold at least one of these contents; one may be listed twice.
func (c *Client) Holders(ctx context.Context, digests []string) ([]retention.Checkpoint, error) {
	contents := make([][]byte, len(digests))
	for i, d := range digests {
		var err error
		if contents[i], err = hex.DecodeString(d); err != nil {
			return nil, fmt.Errorf("content %q: %w", d, err)
		}
	}
	var all []retention.Checkpoint
	for some := range slices.Chunk(contents, contentsAtOnce) {
		holders, _, err := c.list(ctx, some)
		if err != nil {
			return nil, err
		}
		all = append(all, holders...)
	}
	return all, nil
}

func (c *Client) list(ctx context.Context, contents [][]byte) (all []retention.Checkpoint, total int, err error) {
	token := ""
	for {
		r, err := c.rpc.ListInventory(ctx, &registryv1.ListInventoryRequest{PageSize: pageSize, PageToken: token, ContentsSha256: contents})
		if err != nil {
			return nil, 0, err
		}
		for _, item := range r.GetItems() {
			all = append(all, checkpoint(item))
		}
		// The first page's count: later ones grow with what is being committed,
		// which then comes after the cursor and is listed too, or will be.
		if token == "" {
			total = int(r.GetTotalCount())
		}
		if r.GetNextPageToken() == "" {
			return all, total, nil
		}
		if r.GetNextPageToken() == token {
			return nil, 0, fmt.Errorf("the registry repeats page %q", token)
		}
		token = r.GetNextPageToken()
	}
}

func checkpoint(item *registryv1.InventoryItem) retention.Checkpoint {
	c := item.GetCheckpoint()
	out := retention.Checkpoint{
		ID: c.GetCheckpointId(), Experiment: c.GetExperiment(), RunID: c.GetRunId(), Step: c.GetStep(),
		CreateTime: instant(c.GetCreateTime()), State: state(c.GetState()), TombstoneTime: instant(c.GetTombstoneTime()),
		Trades: c.GetTrades(), Window: c.GetEvaluationWindow(), RunActive: item.GetRunActive(), Resumable: c.GetResumable(),
	}
	if out.CreateTime.IsZero() {
		// It was never committed. Ids are UUIDv7: they tell when it was announced.
		out.Uncommitted, out.CreateTime = true, announced(c.GetCheckpointId())
	}
	if v, ok := c.GetMetrics()[SharpeMetric]; ok {
		out.Sharpe = retention.Measured(v)
	}
	if v, ok := c.GetMetrics()[SharpeLowMetric]; ok {
		out.SharpeLow = retention.Measured(v)
	}
	out.Archived = c.GetStorageTier() == registryv1.StorageTier_STORAGE_TIER_COLD
	out.LastUse, out.ExperimentUse = instant(item.GetLastUseTime()), instant(item.GetExperimentUseTime())
	if p := c.GetParentCheckpointId(); p != "" {
		out.Parents = []string{p}
	}
	out.Parents = append(out.Parents, item.GetBaseCheckpointIds()...)
	for _, r := range item.GetRoots() {
		out.References = append(out.References, retention.Reference{Kind: kind(r.GetKind()), Detail: r.GetDescription()})
	}
	if c.GetPinned() && len(item.GetRoots()) == 0 {
		// The flag and the roots should agree; if they do not, the pin counts.
		out.References = append(out.References, retention.Reference{Kind: retention.RefPin})
	}
	for _, f := range c.GetFiles() {
		out.Files = append(out.Files, contents(f)...)
	}
	return out
}

// contents are what a file is stored as: objects are what is shared, archived and deleted.
func contents(f *registryv1.CheckpointFile) []retention.File {
	if len(f.GetChunks()) == 0 {
		return []retention.File{{Digest: hex.EncodeToString(f.GetSha256()), Bytes: f.GetSizeBytes()}}
	}
	var out []retention.File
	for _, chunk := range f.GetChunks() {
		out = append(out, retention.File{Digest: hex.EncodeToString(chunk.GetSha256()), Bytes: chunk.GetSizeBytes()})
	}
	return out
}

func instant(t *timestamppb.Timestamp) time.Time {
	if t == nil {
		return time.Time{}
	}
	return t.AsTime()
}

func announced(id string) time.Time {
	u, err := uuid.Parse(id)
	if err != nil || u.Version() != 7 {
		return time.Time{}
	}
	return time.Unix(u.Time().UnixTime()).UTC()
}

func state(s registryv1.Checkpoint_State) retention.State {
	switch s {
	case registryv1.Checkpoint_STATE_STAGED:
		return retention.StateUploading
	case registryv1.Checkpoint_STATE_LIVE:
		return retention.StateLive
	case registryv1.Checkpoint_STATE_TOMBSTONED:
		return retention.StateTombstoned
	case registryv1.Checkpoint_STATE_DELETING:
		return retention.StateDeleting
	case registryv1.Checkpoint_STATE_DELETED:
		return retention.StateDeleted
	case registryv1.Checkpoint_STATE_CORRUPT:
		return retention.StateCorrupt
	default:
		return retention.StateUnknown // a newer registry's state: kept, never swept
	}
}

func kind(k registryv1.Root_Kind) retention.ReferenceKind {
	switch k {
	case registryv1.Root_KIND_PRODUCTION:
		return retention.RefProduction
	case registryv1.Root_KIND_STAGING:
		return retention.RefStaging
	case registryv1.Root_KIND_VERSION:
		return retention.RefVersion
	case registryv1.Root_KIND_ALIAS:
		return retention.RefAlias
	case registryv1.Root_KIND_ROLLBACK:
		return retention.RefRollback
	case registryv1.Root_KIND_LIVE_RUN:
		return retention.RefLiveRun
	case registryv1.Root_KIND_PARENT:
		return retention.RefParent
	case registryv1.Root_KIND_PIN:
		return retention.RefPin
	case registryv1.Root_KIND_LEGAL_HOLD:
		return retention.RefLegalHold
	default:
		return retention.RefOther // a newer registry's root protects too
	}
}

func results(in []*registryv1.RetentionResult) []sweep.Result {
	out := make([]sweep.Result, len(in))
	for i, r := range in {
		out[i] = sweep.Result{ID: r.GetCheckpointId(), Done: r.GetDone(), Reason: r.GetReason()}
	}
	return out
}

// Tombstone asks to condemn checkpoints.
func (c *Client) Tombstone(ctx context.Context, requestID, planHash string, ids []string) ([]sweep.Result, error) {
	r, err := c.rpc.TombstoneCheckpoints(ctx, &registryv1.TombstoneCheckpointsRequest{RequestId: requestID, PlanHash: planHash, CheckpointIds: ids})
	return results(r.GetResults()), err
}

// Restore takes tombstones back.
func (c *Client) Restore(ctx context.Context, requestID string, ids []string) ([]sweep.Result, error) {
	r, err := c.rpc.RestoreCheckpoints(ctx, &registryv1.RestoreCheckpointsRequest{RequestId: requestID, CheckpointIds: ids})
	return results(r.GetResults()), err
}

// BeginDelete asks for the second check and returns the objects to delete.
func (c *Client) BeginDelete(ctx context.Context, requestID string, ids []string, grace time.Duration) ([]sweep.Result, []string, error) {
	r, err := c.rpc.BeginDeleteCheckpoints(ctx, &registryv1.BeginDeleteCheckpointsRequest{
		RequestId: requestID, CheckpointIds: ids, Grace: durationpb.New(grace),
	})
	return results(r.GetResults()), r.GetObjectKeys(), err
}

// ConfirmDeleted says that the bytes are gone.
func (c *Client) ConfirmDeleted(ctx context.Context, requestID string, ids []string) ([]sweep.Result, error) {
	r, err := c.rpc.ConfirmDeleted(ctx, &registryv1.ConfirmDeletedRequest{RequestId: requestID, CheckpointIds: ids})
	return results(r.GetResults()), err
}
