package registryapi

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/ultrathink-pilot/trainyard/libs/objectstore"
	"github.com/ultrathink-pilot/trainyard/libs/pagetoken"
	"github.com/ultrathink-pilot/trainyard/libs/rpcerr"
	registryv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/registry/v1"
	"github.com/ultrathink-pilot/trainyard/services/registry/internal/catalog"
	"github.com/ultrathink-pilot/trainyard/services/registry/internal/postgres"
)

const (
	objectsPage = 2000
	objectsMost = 5000
)

func (s *retentionServer) BeginArchive(ctx context.Context, r *registryv1.BeginArchiveRequest) (*registryv1.BeginArchiveResponse, error) {
	out := &registryv1.BeginArchiveResponse{}
	// The keys that it reserves are the same each time, so the ledger has nothing to remember.
	err := s.Store.Do(ctx, time.Now(), func(t *postgres.Tx) error {
		jobs, err := t.BeginArchive(ctx, r.GetCheckpointIds(), r.GetDropPatterns())
		out.Jobs = nil
		for _, j := range jobs {
			out.Jobs = append(out.Jobs, archiveJob(j))
		}
		return err
	})
	return out, wire(err)
}

func archiveJob(j postgres.ArchiveJob) *registryv1.ArchiveJob {
	out := &registryv1.ArchiveJob{CheckpointId: j.ID, Done: j.Done, Reason: j.Reason}
	for _, f := range j.Files {
		a := &registryv1.ArchiveFile{Paths: f.Names, Sha256: rawDigest(f.SHA256), SizeBytes: f.Size, HotKey: f.HotKey, ColdKey: f.ColdKey}
		if f.Existing != nil {
			a.Existing = coldCopy(*f.Existing)
		}
		for _, c := range f.Chain {
			a.BaseChain = append(a.BaseChain, coldCopy(c))
		}
		out.Files = append(out.Files, a)
	}
	return out
}

func coldCopy(c postgres.ColdCopy) *registryv1.ColdCopy {
	return &registryv1.ColdCopy{Sha256: rawDigest(c.SHA256), SizeBytes: c.Size, ObjectKey: c.Key, ObjectSha256: rawDigest(c.ObjectSHA256),
		ObjectSizeBytes: c.ObjectSize, BaseSha256: rawDigest(c.Base)}
}

func (s *retentionServer) CommitArchive(ctx context.Context, r *registryv1.CommitArchiveRequest) (*registryv1.CommitArchiveResponse, error) {
	grace := deleteGrace
	if r.GetGrace() != nil {
		grace = r.GetGrace().AsDuration()
	}
	var copies []postgres.ColdCopy
	for i, c := range r.GetCopies() {
		in := postgres.ColdCopy{SHA256: hex.EncodeToString(c.GetSha256()), Size: c.GetSizeBytes(), Key: c.GetObjectKey(),
			ObjectSHA256: hex.EncodeToString(c.GetObjectSha256()), ObjectSize: c.GetObjectSizeBytes(), Base: hex.EncodeToString(c.GetBaseSha256())}
		if !catalog.IsColdKey(in.Key) || len(c.GetObjectSha256()) != 32 {
			return nil, rpcerr.Invalid(rpcerr.Violation{Field: fmt.Sprintf("copies[%d]", i), Description: "has no key of the cold tier or no digest"})
		}
		switch err := s.Cold.Verify(ctx, in.Key, in.ObjectSHA256, in.ObjectSize); {
		case errors.Is(err, objectstore.ErrNotFound), errors.Is(err, objectstore.ErrDigestMismatch):
			return nil, mismatch("the packed copy %s is not in the cold tier as it was announced: %v", in.Key, err)
		case err != nil:
			return nil, wire(err)
		}
		copies = append(copies, in)
	}
	out, err := postgres.Once(ctx, s.Store, r.GetRequestId(), registryv1.RetentionService_CommitArchive_FullMethodName, r, time.Now(),
		func(t *postgres.Tx) (*registryv1.CommitArchiveResponse, error) {
			done, err := t.CommitArchive(ctx, r.GetCheckpointId(), copies, r.GetDropPatterns(), grace)
			return &registryv1.CommitArchiveResponse{Result: results([]postgres.RetentionResult{done.Result})[0],
				ReleasedBytes: done.ReleasedBytes, DroppedBytes: done.DroppedBytes}, err
		})
	return out, wire(err)
}

// after reads a page token that holds one key.
func after(hash, token string) (string, error) {
	parts, err := pagetoken.Decode(hash, token, 1)
	if err != nil {
		return "", rpcerr.PageTokenInvalid(err)
	}
	if parts == nil {
		return "", nil
	}
	return parts[0], nil
}

func (s *retentionServer) ListObjects(ctx context.Context, r *registryv1.ListObjectsRequest) (*registryv1.ListObjectsResponse, error) {
	hash := pagetoken.FilterHash("objects")
	from, err := after(hash, r.GetPageToken())
	if err != nil {
		return nil, err
	}
	limit := pageSize(r.GetPageSize(), objectsPage, objectsMost)
	objects, err := s.Store.Objects(ctx, from, limit+1)
	if err != nil {
		return nil, wire(err)
	}
	out := &registryv1.ListObjectsResponse{}
	var more bool
	if out.Objects, more, err = fit(objects, limit, objectInfo); more {
		out.NextPageToken = pagetoken.Encode(hash, objects[len(out.Objects)-1].Key)
	}
	return out, err
}

func objectInfo(o postgres.Object) (*registryv1.ObjectInfo, error) {
	out := &registryv1.ObjectInfo{ObjectKey: o.Key, Tier: registryv1.StorageTier_STORAGE_TIER_HOT, Sha256: rawDigest(o.SHA256),
		ObjectSha256: rawDigest(o.ObjectSHA256), SizeBytes: o.Size, CheckpointCount: o.Checkpoints, ArtifactCount: o.Artifacts,
		DependentCount: o.Dependents, UpdateTime: stamp(o.Update)}
	if o.Cold {
		out.Tier = registryv1.StorageTier_STORAGE_TIER_COLD
	}
	switch o.State {
	case "PENDING":
		out.State = registryv1.ObjectInfo_STATE_PENDING
	case "PRESENT":
		out.State = registryv1.ObjectInfo_STATE_PRESENT
	case "CORRUPT":
		out.State = registryv1.ObjectInfo_STATE_CORRUPT
	case "DELETING":
		out.State = registryv1.ObjectInfo_STATE_DELETING
	}
	return out, nil
}

func (s *retentionServer) ReleaseObjects(ctx context.Context, r *registryv1.ReleaseObjectsRequest) (*registryv1.ReleaseObjectsResponse, error) {
	grace := deleteGrace
	if r.GetGrace() != nil {
		grace = r.GetGrace().AsDuration()
	}
	out, err := postgres.Once(ctx, s.Store, r.GetRequestId(), registryv1.RetentionService_ReleaseObjects_FullMethodName, r, time.Now(),
		func(t *postgres.Tx) (*registryv1.ReleaseObjectsResponse, error) {
			out := &registryv1.ReleaseObjectsResponse{}
			for _, o := range r.GetObjects() {
				why, err := t.ReleaseObject(ctx, o.GetObjectKey(), o.GetSizeBytes(), grace)
				if err != nil {
					return nil, err
				}
				out.Results = append(out.Results, &registryv1.ObjectResult{ObjectKey: o.GetObjectKey(), Done: why == "", Reason: why})
			}
			return out, nil
		})
	return out, wire(err)
}

func (s *retentionServer) ListReleasedObjects(ctx context.Context, r *registryv1.ListReleasedObjectsRequest) (*registryv1.ListReleasedObjectsResponse, error) {
	hash := pagetoken.FilterHash("released")
	from, err := after(hash, r.GetPageToken())
	if err != nil {
		return nil, err
	}
	limit := pageSize(r.GetPageSize(), objectsPage, objectsMost)
	released, err := s.Store.ReleasedObjects(ctx, from, limit+1)
	if err != nil {
		return nil, wire(err)
	}
	out := &registryv1.ListReleasedObjectsResponse{}
	var more bool
	if out.Objects, more, err = fit(released, limit, func(o postgres.ReleasedObject) (*registryv1.ReleasedObject, error) {
		return &registryv1.ReleasedObject{ObjectKey: o.Key, SizeBytes: o.Size, Reason: o.Reason, DueTime: stamp(o.Due)}, nil
	}); more {
		out.NextPageToken = pagetoken.Encode(hash, released[len(out.Objects)-1].Key)
	}
	return out, err
}

func (s *retentionServer) ConfirmRemoved(ctx context.Context, r *registryv1.ConfirmRemovedRequest) (*registryv1.ConfirmRemovedResponse, error) {
	out, err := postgres.Once(ctx, s.Store, r.GetRequestId(), registryv1.RetentionService_ConfirmRemoved_FullMethodName, r, time.Now(),
		func(t *postgres.Tx) (*registryv1.ConfirmRemovedResponse, error) {
			return &registryv1.ConfirmRemovedResponse{}, t.ConfirmRemoved(ctx, r.GetObjectKeys())
		})
	return out, wire(err)
}

func (s *retentionServer) ReportBadObject(ctx context.Context, r *registryv1.ReportBadObjectRequest) (*registryv1.ReportBadObjectResponse, error) {
	found, err := s.quarantine(ctx, r.GetObjectKey(), r.GetDetail())
	if err != nil {
		return nil, wire(err)
	}
	return &registryv1.ReportBadObjectResponse{CorruptCheckpointIds: found.Corrupt, Outcome: found.Outcome, Repaired: found.Repairable}, nil
}

func (s *retentionServer) SetLegalHold(ctx context.Context, r *registryv1.SetLegalHoldRequest) (*registryv1.SetLegalHoldResponse, error) {
	if c, err := s.Store.GetCheckpoint(ctx, r.GetCheckpointId()); err != nil {
		return nil, wire(err)
	} else if _, err = s.warm(ctx, c); err != nil && r.GetHeld() {
		return nil, wire(err)
	}
	out, err := postgres.Once(ctx, s.Store, r.GetRequestId(), registryv1.RetentionService_SetLegalHold_FullMethodName, r, time.Now(),
		func(t *postgres.Tx) (*registryv1.SetLegalHoldResponse, error) {
			done, err := t.SetLegalHold(ctx, r.GetCheckpointId(), r.GetHeld(), r.GetActor(), r.GetReason())
			return &registryv1.SetLegalHoldResponse{Result: results([]postgres.RetentionResult{done})[0]}, err
		})
	return out, wire(err)
}
