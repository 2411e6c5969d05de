package registryfake

import (
	"context"
	"encoding/hex"
	"fmt"
	"maps"
	"path"
	"regexp"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	registryv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/registry/v1"
)

// packed is one content's copy in the cold tier.
type packed struct {
	key, digest string
	bytes       int64
	base        string
	proven      bool
}

type leaving struct {
	bytes int64
	due   time.Time
}

const cold = registryv1.StorageTier_STORAGE_TIER_COLD

func gone(w *row) bool {
	s := w.checkpoint.GetState()
	return s == registryv1.Checkpoint_STATE_DELETING || s == registryv1.Checkpoint_STATE_DELETED
}

// holders counts the rows that need a content, of one tier or of any.
func (r *Registry) holders(digest string, tier registryv1.StorageTier) (n int64) {
	for _, w := range r.rows {
		if gone(w) || tier != 0 && w.checkpoint.GetStorageTier() != tier {
			continue
		}
		if slices.ContainsFunc(w.checkpoint.GetFiles(), func(f *registryv1.CheckpointFile) bool { return hex.EncodeToString(f.GetSha256()) == digest }) {
			n++
		}
	}
	return n
}

func (r *Registry) mayCool(w *row) string {
	switch {
	case w == nil:
		return "there is no such checkpoint"
	case w.checkpoint.GetState() != registryv1.Checkpoint_STATE_LIVE:
		return "it is " + w.checkpoint.GetState().String()
	case len(w.roots) > 0:
		return w.roots[0].GetDescription()
	}
	return ""
}

func split(files []*registryv1.CheckpointFile, patterns []string) (kept, dropped []*registryv1.CheckpointFile) {
	for _, f := range files {
		if slices.ContainsFunc(patterns, func(p string) bool { ok, _ := path.Match(p, f.GetPath()); return ok }) {
			dropped = append(dropped, f)
		} else {
			kept = append(kept, f)
		}
	}
	if len(kept) == 0 {
		return files, nil
	}
	return kept, dropped
}

// BeginArchive reserves keys.
func (r *Registry) BeginArchive(_ context.Context, req *registryv1.BeginArchiveRequest) (*registryv1.BeginArchiveResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := &registryv1.BeginArchiveResponse{}
	for _, id := range req.GetCheckpointIds() {
		w := r.rows[id]
		why := r.mayCool(w)
		job := &registryv1.ArchiveJob{CheckpointId: id, Reason: why, Done: why == ""}
		out.Jobs = append(out.Jobs, job)
		if why != "" || w.checkpoint.GetStorageTier() == cold {
			continue
		}
		kept, _ := split(w.checkpoint.GetFiles(), req.GetDropPatterns())
		for _, f := range kept {
			digest := hex.EncodeToString(f.GetSha256())
			c := r.packed[digest]
			if c == nil {
				r.serial++
				c = &packed{key: fmt.Sprintf("cold/%s/%s.%d", digest[:2], digest, r.serial)}
				r.packed[digest] = c
			}
			a := &registryv1.ArchiveFile{Paths: []string{f.GetPath()}, Sha256: f.GetSha256(), SizeBytes: f.GetSizeBytes(), HotKey: Key(digest), ColdKey: c.key}
			if c.proven {
				a.Existing = r.copyOf(digest)
			} else {
				a.BaseChain = r.baseFor(w, f)
			}
			job.Files = append(job.Files, a)
		}
	}
	return out, nil
}

// baseFor offers the same file of another checkpoint of the run, when that stands alone.
func (r *Registry) baseFor(of *row, f *registryv1.CheckpointFile) []*registryv1.ColdCopy {
	for _, id := range slices.Sorted(maps.Keys(r.rows)) {
		w := r.rows[id]
		if w == of || gone(w) || w.checkpoint.GetRunId() != of.checkpoint.GetRunId() {
			continue
		}
		for _, o := range w.checkpoint.GetFiles() {
			digest := hex.EncodeToString(o.GetSha256())
			if c := r.packed[digest]; c != nil && c.proven && c.base == "" && o.GetPath() == f.GetPath() && o.GetSizeBytes() == f.GetSizeBytes() {
				base := r.copyOf(digest)
				base.SizeBytes = o.GetSizeBytes()
				return []*registryv1.ColdCopy{base}
			}
		}
	}
	return nil
}

func (r *Registry) copyOf(digest string) *registryv1.ColdCopy {
	c := r.packed[digest]
	return &registryv1.ColdCopy{Sha256: bytesOf(digest), ObjectKey: c.key, ObjectSha256: bytesOf(c.digest), ObjectSizeBytes: c.bytes, BaseSha256: bytesOf(c.base)}
}

func bytesOf(digest string) []byte {
	b, err := hex.DecodeString(digest)
	if err != nil {
		panic(err) // only digests that it has made itself get here
	}
	return b
}

// CommitArchive proves and switches.
func (r *Registry) CommitArchive(ctx context.Context, req *registryv1.CommitArchiveRequest) (*registryv1.CommitArchiveResponse, error) {
	for _, c := range req.GetCopies() {
		if err := r.bucket.Verify(ctx, c.GetObjectKey(), hex.EncodeToString(c.GetObjectSha256()), c.GetObjectSizeBytes()); err != nil {
			return nil, err
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return once(r, req.GetRequestId(), req, func() *registryv1.CommitArchiveResponse {
		w := r.rows[req.GetCheckpointId()]
		why := r.mayCool(w)
		out := &registryv1.CommitArchiveResponse{Result: &registryv1.RetentionResult{CheckpointId: req.GetCheckpointId(), Done: why == "", Reason: why}}
		if w == nil || why != "" {
			return out
		}
		out.Result.State = w.checkpoint.GetState()
		kept, dropped := split(w.checkpoint.GetFiles(), req.GetDropPatterns())
		for _, c := range req.GetCopies() {
			p := r.packed[hex.EncodeToString(c.GetSha256())]
			p.digest, p.bytes, p.base, p.proven = hex.EncodeToString(c.GetObjectSha256()), c.GetObjectSizeBytes(), hex.EncodeToString(c.GetBaseSha256()), true
		}
		w.checkpoint.Files, w.checkpoint.StorageTier = kept, cold
		for i, f := range slices.Concat(kept, dropped) {
			digest := hex.EncodeToString(f.GetSha256())
			due := r.now()
			if i >= len(kept) {
				out.DroppedBytes += f.GetSizeBytes()
				due = due.Add(req.GetGrace().AsDuration())
				if r.holders(digest, 0) > 0 {
					continue
				}
			} else if r.holders(digest, registryv1.StorageTier_STORAGE_TIER_UNSPECIFIED) > r.holders(digest, cold) {
				continue
			}
			out.ReleasedBytes += f.GetSizeBytes()
			r.leaving[Key(digest)] = leaving{f.GetSizeBytes(), due}
		}
		return out
	})
}

// ListObjects lists hot and cold objects in one page.
func (r *Registry) ListObjects(context.Context, *registryv1.ListObjectsRequest) (*registryv1.ListObjectsResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := map[string]*registryv1.ObjectInfo{}
	for _, w := range r.rows {
		for _, f := range w.checkpoint.GetFiles() {
			digest := hex.EncodeToString(f.GetSha256())
			key := Key(digest)
			if _, released := r.leaving[key]; released || r.removed[key] || w.checkpoint.GetState() == registryv1.Checkpoint_STATE_DELETED {
				continue
			}
			o := &registryv1.ObjectInfo{ObjectKey: key, Tier: registryv1.StorageTier_STORAGE_TIER_HOT, State: registryv1.ObjectInfo_STATE_PRESENT,
				Sha256: f.GetSha256(), ObjectSha256: f.GetSha256(), SizeBytes: f.GetSizeBytes(), CheckpointCount: r.holders(digest, 0)}
			switch {
			case o.CheckpointCount == 0:
				o.State = registryv1.ObjectInfo_STATE_DELETING
			case r.bad[key]:
				o.State = registryv1.ObjectInfo_STATE_CORRUPT
			}
			all[key] = o
		}
	}
	for digest, c := range r.packed {
		o := &registryv1.ObjectInfo{ObjectKey: c.key, Tier: cold, State: registryv1.ObjectInfo_STATE_PENDING, Sha256: bytesOf(digest),
			ObjectSha256: bytesOf(c.digest), SizeBytes: c.bytes, CheckpointCount: r.holders(digest, 0)}
		if c.proven {
			o.State = registryv1.ObjectInfo_STATE_PRESENT
		}
		all[c.key] = o
	}
	out := &registryv1.ListObjectsResponse{}
	for _, key := range slices.Sorted(maps.Keys(all)) {
		all[key].UpdateTime = timestamppb.New(r.now().Add(-time.Hour))
		out.Objects = append(out.Objects, all[key])
	}
	return out, nil
}

var known = regexp.MustCompile(`^(blobs|cold)/[0-9a-f]{2}/[0-9a-f]{64}\.[1-9][0-9]*$`)

// ReleaseObjects gives orphans up.
func (r *Registry) ReleaseObjects(ctx context.Context, req *registryv1.ReleaseObjectsRequest) (*registryv1.ReleaseObjectsResponse, error) {
	listed, err := r.ListObjects(ctx, nil)
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return once(r, req.GetRequestId(), req, func() *registryv1.ReleaseObjectsResponse {
		out := &registryv1.ReleaseObjectsResponse{}
		for _, o := range req.GetObjects() {
			res := &registryv1.ObjectResult{ObjectKey: o.GetObjectKey()}
			out.Results = append(out.Results, res)
			switch {
			case !known.MatchString(o.GetObjectKey()):
				res.Reason = "it is somebody else's"
			case slices.ContainsFunc(listed.GetObjects(), func(i *registryv1.ObjectInfo) bool {
				return i.GetObjectKey() == o.GetObjectKey() && i.GetCheckpointCount() > 0
			}):
				res.Reason = "something refers to it"
			default:
				res.Done = true
				r.leaving[o.GetObjectKey()] = leaving{o.GetSizeBytes(), r.now()}
			}
		}
		return out
	})
}

// ListReleasedObjects lists what may be removed.
func (r *Registry) ListReleasedObjects(context.Context, *registryv1.ListReleasedObjectsRequest) (*registryv1.ListReleasedObjectsResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := &registryv1.ListReleasedObjectsResponse{}
	for _, key := range slices.Sorted(maps.Keys(r.leaving)) {
		l := r.leaving[key]
		out.Objects = append(out.Objects, &registryv1.ReleasedObject{ObjectKey: key, SizeBytes: l.bytes, DueTime: timestamppb.New(l.due)})
	}
	return out, nil
}

// ConfirmRemoved forgets released objects.
func (r *Registry) ConfirmRemoved(_ context.Context, req *registryv1.ConfirmRemovedRequest) (*registryv1.ConfirmRemovedResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return once(r, req.GetRequestId(), req, func() *registryv1.ConfirmRemovedResponse {
		for _, key := range req.GetObjectKeys() {
			delete(r.leaving, key)
			r.removed[key] = true
		}
		return &registryv1.ConfirmRemovedResponse{}
	})
}

// ReportBadObject makes the checkpoints corrupt, unless the content has a proven packed copy.
func (r *Registry) ReportBadObject(_ context.Context, req *registryv1.ReportBadObjectRequest) (*registryv1.ReportBadObjectResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.bad[req.GetObjectKey()] = true
	out := &registryv1.ReportBadObjectResponse{Outcome: "its checkpoints are corrupt"}
	for _, id := range slices.Sorted(maps.Keys(r.rows)) {
		w := r.rows[id]
		if slices.ContainsFunc(w.checkpoint.GetFiles(), func(f *registryv1.CheckpointFile) bool {
			return Key(hex.EncodeToString(f.GetSha256())) == req.GetObjectKey()
		}) && !gone(w) {
			w.checkpoint.State = registryv1.Checkpoint_STATE_CORRUPT
			out.CorruptCheckpointIds = append(out.CorruptCheckpointIds, id)
		}
	}
	return out, nil
}

// SetLegalHold adds or takes a root.
func (r *Registry) SetLegalHold(_ context.Context, req *registryv1.SetLegalHoldRequest) (*registryv1.SetLegalHoldResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	w := r.rows[req.GetCheckpointId()]
	if w == nil {
		return &registryv1.SetLegalHoldResponse{Result: &registryv1.RetentionResult{CheckpointId: req.GetCheckpointId(), Reason: "there is no such checkpoint"}}, nil
	}
	w.roots = slices.DeleteFunc(w.roots, func(o *registryv1.Root) bool { return o.GetKind() == registryv1.Root_KIND_LEGAL_HOLD })
	if req.GetHeld() {
		w.roots = append(w.roots, &registryv1.Root{Kind: registryv1.Root_KIND_LEGAL_HOLD, Description: req.GetActor() + ": " + req.GetReason()})
	}
	return &registryv1.SetLegalHoldResponse{Result: &registryv1.RetentionResult{CheckpointId: req.GetCheckpointId(), Done: true, State: w.checkpoint.GetState()}}, nil
}

// Tier of a checkpoint.
func (r *Registry) Tier(id string) registryv1.StorageTier {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.rows[id].checkpoint.GetStorageTier()
}

// Age makes the registry's clock go on, so that graces end.
func (r *Registry) Age(t testing.TB, d time.Duration) {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.now
	r.now = func() time.Time { return now().Add(d) }
}
