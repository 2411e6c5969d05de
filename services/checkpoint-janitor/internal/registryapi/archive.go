package registryapi

import (
	"context"
	"encoding/hex"
	"fmt"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/types/known/durationpb"

	registryv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/registry/v1"
	"github.com/ultrathink-pilot/trainyard/services/checkpoint-janitor/internal/archive"
	"github.com/ultrathink-pilot/trainyard/services/checkpoint-janitor/internal/inventory"
	"github.com/ultrathink-pilot/trainyard/services/checkpoint-janitor/internal/sweep"
)

// objectsPage keeps a page below the 4 MiB of a message.
const objectsPage = 5000

func newRequest() (string, error) {
	id, err := uuid.NewV7()
	return id.String(), err
}

// BeginArchive asks what it takes to archive one checkpoint.
func (c *Client) BeginArchive(ctx context.Context, id string, patterns []string) (archive.Job, error) {
	request, err := newRequest()
	if err != nil {
		return archive.Job{}, err
	}
	r, err := c.rpc.BeginArchive(ctx, &registryv1.BeginArchiveRequest{RequestId: request, CheckpointIds: []string{id}, DropPatterns: patterns})
	if err != nil {
		return archive.Job{}, err
	}
	if len(r.GetJobs()) != 1 {
		return archive.Job{}, fmt.Errorf("the registry has not answered for checkpoint %s", id)
	}
	j := r.GetJobs()[0]
	out := archive.Job{ID: id, Done: j.GetDone(), Reason: j.GetReason()}
	for _, f := range j.GetFiles() {
		a := archive.File{Paths: f.GetPaths(), SHA256: hex.EncodeToString(f.GetSha256()), Bytes: f.GetSizeBytes(), HotKey: f.GetHotKey(), ColdKey: f.GetColdKey()}
		if f.GetExisting() != nil {
			existing := copyOf(f.GetExisting())
			a.Existing = &existing
		}
		for _, link := range f.GetBaseChain() {
			a.Chain = append(a.Chain, copyOf(link))
		}
		out.Files = append(out.Files, a)
	}
	return out, nil
}

func copyOf(c *registryv1.ColdCopy) archive.Copy {
	return archive.Copy{SHA256: hex.EncodeToString(c.GetSha256()), Bytes: c.GetSizeBytes(), Key: c.GetObjectKey(),
		ObjectSHA256: hex.EncodeToString(c.GetObjectSha256()), ObjectBytes: c.GetObjectSizeBytes(), Base: hex.EncodeToString(c.GetBaseSha256())}
}

// CommitArchive switches one checkpoint to the cold tier.
func (c *Client) CommitArchive(ctx context.Context, id string, copies []archive.Copy, patterns []string, grace time.Duration) (archive.Result, error) {
	request, err := newRequest()
	if err != nil {
		return archive.Result{}, err
	}
	ask := &registryv1.CommitArchiveRequest{RequestId: request, CheckpointId: id, DropPatterns: patterns, Grace: durationpb.New(grace)}
	for _, made := range copies {
		ask.Copies = append(ask.Copies, &registryv1.ColdCopy{Sha256: raw(made.SHA256), SizeBytes: made.Bytes, ObjectKey: made.Key,
			ObjectSha256: raw(made.ObjectSHA256), ObjectSizeBytes: made.ObjectBytes, BaseSha256: raw(made.Base)})
	}
	r, err := c.rpc.CommitArchive(ctx, ask)
	if err != nil {
		return archive.Result{}, err
	}
	return archive.Result{Done: r.GetResult().GetDone(), Reason: r.GetResult().GetReason(),
		ReleasedBytes: r.GetReleasedBytes(), DroppedBytes: r.GetDroppedBytes()}, nil
}

func raw(digest string) []byte {
	b, err := hex.DecodeString(digest)
	if err != nil {
		return nil
	}
	return b
}

// ReportBad says that an object is not what it should be.
func (c *Client) ReportBad(ctx context.Context, key, detail string) (repaired bool, outcome string, err error) {
	request, err := newRequest()
	if err != nil {
		return false, "", err
	}
	r, err := c.rpc.ReportBadObject(ctx, &registryv1.ReportBadObjectRequest{RequestId: request, ObjectKey: key, Detail: detail})
	return r.GetRepaired(), r.GetOutcome(), err
}

// Objects lists every object that the registry knows of.
func (c *Client) Objects(ctx context.Context) ([]inventory.Object, error) {
	var all []inventory.Object
	token := ""
	for {
		r, err := c.rpc.ListObjects(ctx, &registryv1.ListObjectsRequest{PageSize: objectsPage, PageToken: token})
		if err != nil {
			return nil, err
		}
		for _, o := range r.GetObjects() {
			all = append(all, object(o))
		}
		next := r.GetNextPageToken()
		if next == "" {
			return all, nil
		}
		if next == token {
			return nil, fmt.Errorf("the registry repeats page %q", token)
		}
		token = next
	}
}

func object(o *registryv1.ObjectInfo) inventory.Object {
	return inventory.Object{
		Key: o.GetObjectKey(), Cold: o.GetTier() == registryv1.StorageTier_STORAGE_TIER_COLD,
		Proven:  o.GetState() == registryv1.ObjectInfo_STATE_PRESENT,
		Corrupt: o.GetState() == registryv1.ObjectInfo_STATE_CORRUPT,
		Leaving: o.GetState() == registryv1.ObjectInfo_STATE_DELETING,
		SHA256:  hex.EncodeToString(o.GetSha256()), ObjectSHA256: hex.EncodeToString(o.GetObjectSha256()), Bytes: o.GetSizeBytes(),
		Holders: int(o.GetCheckpointCount() + o.GetArtifactCount() + o.GetDependentCount()), Changed: instant(o.GetUpdateTime()),
	}
}

// Released lists what the registry has let go and nobody has removed.
func (c *Client) Released(ctx context.Context) ([]sweep.Released, error) {
	var all []sweep.Released
	token := ""
	for {
		r, err := c.rpc.ListReleasedObjects(ctx, &registryv1.ListReleasedObjectsRequest{PageSize: objectsPage, PageToken: token})
		if err != nil {
			return nil, err
		}
		for _, o := range r.GetObjects() {
			all = append(all, sweep.Released{Key: o.GetObjectKey(), Bytes: o.GetSizeBytes(), Due: instant(o.GetDueTime())})
		}
		next := r.GetNextPageToken()
		if next == "" {
			return all, nil
		}
		if next == token {
			return nil, fmt.Errorf("the registry repeats page %q", token)
		}
		token = next
	}
}

// Leaving lists the keys of [Client.Released].
func (c *Client) Leaving(ctx context.Context) (map[string]bool, error) {
	all, err := c.Released(ctx)
	if err != nil {
		return nil, err
	}
	out := make(map[string]bool, len(all))
	for _, o := range all {
		out[o.Key] = true
	}
	return out, nil
}

// InUse lists the keys of proven objects that something refers to.
func (c *Client) InUse(ctx context.Context) (map[string]bool, error) {
	all, err := c.Objects(ctx)
	if err != nil {
		return nil, err
	}
	out := make(map[string]bool, len(all))
	for _, o := range all {
		if o.Proven && o.Holders > 0 {
			out[o.Key] = true
		}
	}
	return out, nil
}

// ReleaseObjects gives orphans up.
func (c *Client) ReleaseObjects(ctx context.Context, requestID string, orphans []sweep.Orphan, grace time.Duration) ([]sweep.Result, error) {
	ask := &registryv1.ReleaseObjectsRequest{RequestId: requestID, Grace: durationpb.New(grace)}
	for _, o := range orphans {
		ask.Objects = append(ask.Objects, &registryv1.ReleaseObjectsRequest_Object{ObjectKey: o.Key, SizeBytes: o.Bytes})
	}
	r, err := c.rpc.ReleaseObjects(ctx, ask)
	if err != nil {
		return nil, err
	}
	var out []sweep.Result
	for _, o := range r.GetResults() {
		out = append(out, sweep.Result{ID: o.GetObjectKey(), Done: o.GetDone(), Reason: o.GetReason()})
	}
	return out, nil
}

// ConfirmRemoved says that the bytes of released objects are gone.
func (c *Client) ConfirmRemoved(ctx context.Context, requestID string, keys []string) error {
	_, err := c.rpc.ConfirmRemoved(ctx, &registryv1.ConfirmRemovedRequest{RequestId: requestID, ObjectKeys: keys})
	return err
}

// SetLegalHold sets or lifts a hold.
func (c *Client) SetLegalHold(ctx context.Context, requestID, id string, held bool, actor, reason string) (sweep.Result, error) {
	r, err := c.rpc.SetLegalHold(ctx, &registryv1.SetLegalHoldRequest{RequestId: requestID, CheckpointId: id, Held: held, Actor: actor, Reason: reason})
	if err != nil {
		return sweep.Result{}, err
	}
	return results([]*registryv1.RetentionResult{r.GetResult()})[0], nil
}
