package registry

import (
	"bytes"
	"encoding/hex"
	"strings"
	"sync"
	"testing"

	"github.com/google/uuid"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/ultrathink-pilot/trainyard/libs/checkpointcodec"
	"github.com/ultrathink-pilot/trainyard/libs/objectstore"
	errorv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/error/v1"
	fleetv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/fleet/v1"
	registryv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/registry/v1"
)

// archive does by hand what the janitor does, and removes what the registry releases.
func (m *mesh) archive(id string, contents map[string]string) *registryv1.CommitArchiveResponse {
	m.Helper()
	begun, err := m.retention.BeginArchive(m.ctx, &registryv1.BeginArchiveRequest{RequestId: uuid.NewString(), CheckpointIds: []string{id}})
	must(m.T, err)
	job := begun.GetJobs()[0]
	if !job.GetDone() {
		m.Fatalf("not to be archived: %s", job.GetReason())
	}
	commit := &registryv1.CommitArchiveRequest{RequestId: uuid.NewString(), CheckpointId: id, Grace: durationpb.New(0)}
	for _, f := range job.GetFiles() {
		var base *bytes.Reader
		copied := &registryv1.ColdCopy{Sha256: f.GetSha256(), SizeBytes: f.GetSizeBytes(), ObjectKey: f.GetColdKey()}
		var packed bytes.Buffer
		if chain := f.GetBaseChain(); len(chain) > 0 {
			base, copied.BaseSha256 = bytes.NewReader([]byte(contents[string(chain[0].GetSha256())])), chain[0].GetSha256()
			_, err = checkpointcodec.Encode(&packed, strings.NewReader(contents[string(f.GetSha256())]), base)
		} else {
			_, err = checkpointcodec.Encode(&packed, strings.NewReader(contents[string(f.GetSha256())]), nil)
		}
		must(m.T, err)
		stored, err := m.objects.PutBytes(m.ctx, f.GetColdKey(), packed.Bytes())
		must(m.T, err)
		copied.ObjectSha256, copied.ObjectSizeBytes = raw(m.T, stored.SHA256), stored.Size
		commit.Copies = append(commit.Copies, copied)
	}
	done, err := m.retention.CommitArchive(m.ctx, commit)
	must(m.T, err)
	if !done.GetResult().GetDone() {
		m.Fatalf("not archived: %s", done.GetResult().GetReason())
	}
	released, err := m.retention.ListReleasedObjects(m.ctx, &registryv1.ListReleasedObjectsRequest{})
	must(m.T, err)
	confirm := &registryv1.ConfirmRemovedRequest{RequestId: uuid.NewString()}
	for _, o := range released.GetObjects() {
		must(m.T, m.objects.Delete(m.ctx, o.GetObjectKey()))
		confirm.ObjectKeys = append(confirm.ObjectKeys, o.GetObjectKey())
	}
	_, err = m.retention.ConfirmRemoved(m.ctx, confirm)
	must(m.T, err)
	return done
}

func raw(t *testing.T, digest string) []byte {
	t.Helper()
	b, err := hex.DecodeString(digest)
	must(t, err)
	return b
}

// An archived checkpoint, a difference to another archived one, is resolved, downloaded, registered
// and promoted as if it had never been away; whoever asks at the same time waits for one restore.
func TestArchivedCheckpointsComeBackOnDemand(t *testing.T) {
	m := start(t)
	job := uuid.NewString()
	w := m.writer(job, 1, 1)
	w.open("", "")
	weights := []string{strings.Repeat("weights of the first step. ", 4000), strings.Repeat("weights of the second step ", 4000)}
	var made []*registryv1.Checkpoint
	for i, text := range weights {
		made = append(made, w.checkpoint(int64(i+1), 0.5, text))
	}
	contents := m.contents()
	w.checkpoint(3, 0.5, "newest but one")
	w.checkpoint(4, 0.5, "newest")
	w.accept(closing(fleetv1.Exit_OUTCOME_STOPPED))
	for _, c := range made {
		m.archive(c.GetCheckpointId(), contents)
	}
	got, err := m.runs.GetCheckpoint(m.ctx, &registryv1.GetCheckpointRequest{CheckpointId: made[1].GetCheckpointId()})
	must(t, err)
	if got.GetCheckpoint().GetStorageTier() != registryv1.StorageTier_STORAGE_TIER_COLD {
		t.Fatalf("tier %v", got.GetCheckpoint().GetStorageTier())
	}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			answer, err := m.agent.ResolveCheckpoint(m.ctx, &registryv1.ResolveCheckpointRequest{JobId: job, Fence: 1, CheckpointId: made[1].GetCheckpointId()})
			if err != nil {
				t.Error(err)
				return
			}
			if answer.GetCheckpoint().GetStorageTier() != registryv1.StorageTier_STORAGE_TIER_HOT || len(answer.GetDownloads()) != 2 {
				t.Errorf("resolved %+v", answer)
			}
			for _, u := range answer.GetDownloads() {
				if got := m.get(u); got != contents[string(u.GetSha256())] {
					t.Errorf("%v: %d bytes came back, other ones", u.GetPaths(), len(got))
				}
			}
		})
	}
	wg.Wait()
	// The base is promoted straight out of the cold tier.
	made0, err := m.models.CreateModelVersion(m.ctx, &registryv1.CreateModelVersionRequest{RequestId: uuid.NewString(), ModelName: "m", CheckpointId: made[0].GetCheckpointId()})
	must(t, err)
	_, err = m.models.PromoteModelVersion(m.ctx, &registryv1.PromoteModelVersionRequest{RequestId: uuid.NewString(), ModelName: "m",
		Version: made0.GetVersion().GetVersion(), Stage: registryv1.Stage_STAGE_PRODUCTION, Reason: "best"})
	must(t, err)
	served, err := m.models.ResolveModel(m.ctx, &registryv1.ResolveModelRequest{ModelName: "m", Selector: &registryv1.ResolveModelRequest_Stage{Stage: registryv1.Stage_STAGE_PRODUCTION}})
	must(t, err)
	for _, u := range served.GetDownloads() {
		if got := m.get(u); got != contents[string(u.GetSha256())] {
			t.Errorf("%v: %d bytes came back, other ones", u.GetPaths(), len(got))
		}
	}
	// Nothing is leaked: every object in the bucket has a row, and every row that needs one has its object.
	m.noLeaks()
}

// A packed copy that was damaged is never served: the caller hears it, and the checkpoint is
// quarantined once the janitor has reported it.
func TestADamagedArchiveIsNotServed(t *testing.T) {
	m := start(t)
	job := uuid.NewString()
	w := m.writer(job, 1, 1)
	w.open("", "")
	c := w.checkpoint(1, 0.5, "weights")
	contents := m.contents()
	w.checkpoint(2, 0.5, "newer")
	w.checkpoint(3, 0.5, "newest")
	m.archive(c.GetCheckpointId(), contents)
	var key string
	for o, err := range m.objects.List(m.ctx, "cold/") {
		must(t, err)
		b, err := m.objects.GetBytes(m.ctx, o.Key, "", 1<<20)
		must(t, err)
		b[len(b)/2] ^= 4
		_, err = m.objects.PutBytes(m.ctx, o.Key, b)
		must(t, err)
		key = o.Key
	}
	ask := &registryv1.ResolveCheckpointRequest{JobId: job, Fence: 1, CheckpointId: c.GetCheckpointId()}
	_, err := m.agent.ResolveCheckpoint(m.ctx, ask)
	m.reason(err, errorv1.Reason_REASON_DIGEST_MISMATCH)
	report, err := m.retention.ReportBadObject(m.ctx, &registryv1.ReportBadObjectRequest{RequestId: uuid.NewString(), ObjectKey: key, Detail: "its digest is wrong"})
	must(t, err)
	if report.GetRepaired() || len(report.GetCorruptCheckpointIds()) != 1 {
		t.Errorf("report %+v", report)
	}
	_, err = m.agent.ResolveCheckpoint(m.ctx, ask)
	m.reason(err, errorv1.Reason_REASON_ILLEGAL_TRANSITION)
}

// contents are all objects of the bucket by their digest. They are read behind the registry's back: what it
// was asked for a moment ago is not archived.
func (m *mesh) contents() map[string]string {
	m.Helper()
	out := map[string]string{}
	for o, err := range m.objects.List(m.ctx, "blobs/") {
		must(m.T, err)
		b, err := m.objects.GetBytes(m.ctx, o.Key, "", 1<<20)
		must(m.T, err)
		out[string(raw(m.T, objectstore.Digest(b)))] = string(b)
	}
	return out
}

// noLeaks compares the bucket with what the registry says it has.
func (m *mesh) noLeaks() {
	m.Helper()
	known := map[string]int64{}
	listed, err := m.retention.ListObjects(m.ctx, &registryv1.ListObjectsRequest{})
	must(m.T, err)
	for _, o := range listed.GetObjects() {
		if o.GetState() == registryv1.ObjectInfo_STATE_PRESENT {
			known[o.GetObjectKey()] = o.GetSizeBytes()
		}
	}
	for o, err := range m.objects.List(m.ctx, "") {
		must(m.T, err)
		if known[o.Key] != o.Size {
			m.Errorf("%s has %d bytes, the registry says %d", o.Key, o.Size, known[o.Key])
		}
		delete(known, o.Key)
	}
	for key := range known {
		m.Errorf("%s is missing", key)
	}
}
