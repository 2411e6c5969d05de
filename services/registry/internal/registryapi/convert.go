package registryapi

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	fleetv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/fleet/v1"
	jobv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/job/v1"
	registryv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/registry/v1"
	"github.com/ultrathink-pilot/trainyard/services/registry/internal/catalog"
	"github.com/ultrathink-pilot/trainyard/services/registry/internal/postgres"
)

// stamp maps the zero time to an unset field.
func stamp(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}

func rawDigest(digest string) []byte {
	raw, err := hex.DecodeString(digest)
	if err != nil {
		return nil
	}
	return raw
}

func file(f *registryv1.CheckpointFile) catalog.File {
	return catalog.File{Name: f.GetPath(), SHA256: hex.EncodeToString(f.GetSha256()), Size: f.GetSizeBytes()}
}

func chunksOf(f *registryv1.CheckpointFile) []catalog.File {
	out := make([]catalog.File, len(f.GetChunks()))
	for i, c := range f.GetChunks() {
		out[i] = catalog.File{SHA256: hex.EncodeToString(c.GetSha256()), Size: c.GetSizeBytes()}
	}
	return out
}

func checkpoint(c catalog.Checkpoint) *registryv1.Checkpoint {
	out := &registryv1.Checkpoint{
		CheckpointId: c.ID, RunId: c.RunID, Experiment: c.Experiment, Attempt: uint32(c.Attempt), Fence: c.Fence, Step: c.Step,
		ManifestSha256: rawDigest(c.Digest), SizeBytes: c.Bytes, Metrics: c.Metrics, Resumable: c.Resumable,
		FeatureSchema: c.FeatureSchema, DataVersion: c.DataVersion, EvaluationWindow: c.EvaluationWindow, Trades: c.Trades,
		ParentCheckpointId: c.ParentID, State: checkpointState(c.State, c.Corrupt), Pinned: c.Pinned,
		CreateTime: stamp(c.Commit), TombstoneTime: stamp(c.Tombstone), CodeVersion: c.CodeVersion,
		StorageTier: tier(c.Tier),
	}
	for _, f := range c.Files {
		file := &registryv1.CheckpointFile{Path: f.Name, Sha256: rawDigest(f.SHA256), SizeBytes: f.Size}
		for _, chunk := range f.Chunks {
			file.Chunks = append(file.Chunks, &registryv1.Chunk{Sha256: rawDigest(chunk.SHA256), SizeBytes: chunk.Size})
		}
		out.Files = append(out.Files, file)
	}
	return out
}

// described are checkpoints with what they share, which only the store can say.
func (a *api) described(ctx context.Context, all ...catalog.Checkpoint) ([]*registryv1.Checkpoint, error) {
	ids := make([]string, len(all))
	for i, c := range all {
		ids[i] = c.ID
	}
	shared, err := a.Store.SharedBytes(ctx, ids...)
	out := make([]*registryv1.Checkpoint, len(all))
	for i, c := range all {
		out[i] = checkpoint(c)
		out[i].SharedBytes = shared[c.ID]
	}
	return out, err
}

func tier(t catalog.Tier) registryv1.StorageTier {
	switch t {
	case catalog.Hot:
		return registryv1.StorageTier_STORAGE_TIER_HOT
	case catalog.ColdTier:
		return registryv1.StorageTier_STORAGE_TIER_COLD
	}
	return registryv1.StorageTier_STORAGE_TIER_UNSPECIFIED
}

// checkpointState shows a corrupt LIVE checkpoint as CORRUPT; on its way out the state of
// the sweep matters more.
func checkpointState(s catalog.CheckpointState, corrupt bool) registryv1.Checkpoint_State {
	switch s {
	case catalog.Pending:
		return registryv1.Checkpoint_STATE_STAGED
	case catalog.Live:
		if corrupt {
			return registryv1.Checkpoint_STATE_CORRUPT
		}
		return registryv1.Checkpoint_STATE_LIVE
	case catalog.Tombstoned:
		return registryv1.Checkpoint_STATE_TOMBSTONED
	case catalog.Deleting:
		return registryv1.Checkpoint_STATE_DELETING
	case catalog.Gone:
		return registryv1.Checkpoint_STATE_DELETED
	}
	return registryv1.Checkpoint_STATE_UNSPECIFIED
}

func checkpointStates(in []registryv1.Checkpoint_State) (states []catalog.CheckpointState, corrupt bool) {
	for _, s := range in {
		switch s {
		case registryv1.Checkpoint_STATE_STAGED:
			states = append(states, catalog.Pending)
		case registryv1.Checkpoint_STATE_LIVE:
			states = append(states, catalog.Live)
		case registryv1.Checkpoint_STATE_TOMBSTONED:
			states = append(states, catalog.Tombstoned)
		case registryv1.Checkpoint_STATE_DELETING:
			states = append(states, catalog.Deleting)
		case registryv1.Checkpoint_STATE_DELETED:
			states = append(states, catalog.Gone)
		case registryv1.Checkpoint_STATE_CORRUPT:
			corrupt = true
		case registryv1.Checkpoint_STATE_UNSPECIFIED:
		}
	}
	return states, corrupt
}

func runState(s catalog.RunState) registryv1.Run_State {
	switch s {
	case catalog.RunRunning, catalog.RunScheduled:
		return registryv1.Run_STATE_RUNNING
	case catalog.RunSucceeded:
		return registryv1.Run_STATE_SUCCEEDED
	case catalog.RunFailed:
		return registryv1.Run_STATE_FAILED
	case catalog.RunStopped:
		return registryv1.Run_STATE_STOPPED
	}
	return registryv1.Run_STATE_UNSPECIFIED
}

func runStates(in []registryv1.Run_State) []catalog.RunState {
	var out []catalog.RunState
	for _, s := range in {
		switch s {
		case registryv1.Run_STATE_RUNNING:
			out = append(out, catalog.RunRunning, catalog.RunScheduled)
		case registryv1.Run_STATE_SUCCEEDED:
			out = append(out, catalog.RunSucceeded)
		case registryv1.Run_STATE_FAILED:
			out = append(out, catalog.RunFailed)
		case registryv1.Run_STATE_STOPPED:
			out = append(out, catalog.RunStopped)
		case registryv1.Run_STATE_UNSPECIFIED:
		}
	}
	return out
}

func outcome(o fleetv1.Exit_Outcome) catalog.RunState {
	switch o {
	case fleetv1.Exit_OUTCOME_SUCCEEDED:
		return catalog.RunSucceeded
	case fleetv1.Exit_OUTCOME_STOPPED:
		return catalog.RunStopped
	case fleetv1.Exit_OUTCOME_FAILED, fleetv1.Exit_OUTCOME_UNSPECIFIED:
	}
	return catalog.RunFailed
}

func run(r catalog.Run) (*registryv1.Run, error) {
	out := &registryv1.Run{
		RunId: r.ID, DisplayName: r.DisplayName, Experiment: r.ExperimentName, State: runState(r.State), Attempt: uint32(r.Attempt),
		Fence: r.Fence, Params: r.Params, Tags: r.Tags, Traceparent: r.TraceParent, CreateTime: stamp(r.StartTime),
		EndTime: stamp(r.EndTime), FailureClass: jobv1.FailureClass(r.FailureClass), AgentName: r.AgentName,
		ParentRunId: r.Tags[postgres.ParentTag], Notes: r.Tags[postgres.NotesTag], Deleted: r.Lifecycle == catalog.Deleted,
	}
	for _, m := range r.Latest {
		out.LatestMetrics = append(out.LatestMetrics, &registryv1.Metric{Key: m.Key, Value: m.Value, Step: m.Step, Time: stamp(m.Time)})
	}
	if len(r.Spec) > 0 {
		out.Spec = &jobv1.JobSpec{}
		if err := proto.Unmarshal(r.Spec, out.Spec); err != nil {
			return nil, fmt.Errorf("stored spec of run %s: %w", r.ID, err)
		}
	}
	return out, nil
}

func artifact(a postgres.Artifact) *registryv1.Artifact {
	return &registryv1.Artifact{Path: a.Path, ContentType: a.MediaType, Sha256: rawDigest(a.SHA256), SizeBytes: a.Size, CreateTime: stamp(a.Commit)}
}

func stage(s catalog.Stage) registryv1.Stage {
	switch s {
	case catalog.StageNone:
		return registryv1.Stage_STAGE_NONE
	case catalog.StageStaging:
		return registryv1.Stage_STAGE_STAGING
	case catalog.StageProduction:
		return registryv1.Stage_STAGE_PRODUCTION
	case catalog.StageArchived:
		return registryv1.Stage_STAGE_ARCHIVED
	}
	return registryv1.Stage_STAGE_UNSPECIFIED
}

func toStage(s registryv1.Stage) catalog.Stage {
	switch s {
	case registryv1.Stage_STAGE_STAGING:
		return catalog.StageStaging
	case registryv1.Stage_STAGE_PRODUCTION:
		return catalog.StageProduction
	case registryv1.Stage_STAGE_ARCHIVED:
		return catalog.StageArchived
	case registryv1.Stage_STAGE_NONE, registryv1.Stage_STAGE_UNSPECIFIED:
	}
	return catalog.StageNone
}

func version(v catalog.Version) *registryv1.ModelVersion {
	out := &registryv1.ModelVersion{
		ModelName: v.Model, Version: int64(v.Version), Stage: stage(v.Stage), CheckpointId: v.CheckpointID, RunId: v.RunID,
		Metrics: v.Metrics, ManifestSha256: rawDigest(v.ManifestDigest), Aliases: v.Aliases, CreateTime: stamp(v.CreateTime),
		Traceparent: v.TraceParent, Etag: strconv.FormatInt(v.Revision, 10), FeatureSchema: v.FeatureSchema,
		EvaluationWindow: v.EvaluationWindow,
	}
	for _, c := range v.Checks {
		out.Checks = append(out.Checks, &registryv1.Check{Name: c.Name, Passed: c.Passed, Detail: c.Detail, Actor: c.Actor, Time: stamp(c.At)})
	}
	for _, a := range v.Approvals {
		out.Approvals = append(out.Approvals, &registryv1.Approval{Actor: a.Actor, Reason: a.Reason, Time: stamp(a.At)})
	}
	return out
}

func model(m catalog.Model, versions []catalog.Version) *registryv1.Model {
	out := &registryv1.Model{Name: m.Name, Aliases: map[string]int64{}, CreateTime: stamp(m.CreateTime), Policy: policy(m.Policy)}
	for a, v := range m.Aliases {
		out.Aliases[a] = int64(v)
	}
	for _, v := range versions {
		out.Versions = append(out.Versions, version(v))
	}
	return out
}

func event(e catalog.HistoryEntry) (*registryv1.ModelEvent, error) {
	out := &registryv1.ModelEvent{
		Sequence: e.Sequence, ModelName: e.Model, Version: int64(e.Version), FromStage: stage(e.From), ToStage: stage(e.To),
		Action: action(e), Actor: e.Actor, Reason: e.Reason, Time: stamp(e.At), Hash: e.Hash, PreviousHash: e.PreviousHash, TraceId: e.TraceID, Subject: e.Alias,
	}
	if e.Gates == "" {
		return out, nil
	}
	if e.Kind == catalog.HistoryPolicy {
		out.Gates = []string{e.Gates} // a policy, not a judgement: shown as it was set
		return out, nil
	}
	var gates []catalog.GateResult
	if err := json.Unmarshal([]byte(e.Gates), &gates); err != nil {
		return nil, fmt.Errorf("stored gates of %s, line %d: %w", e.Model, e.Sequence, err)
	}
	for _, g := range gates {
		out.Gates = append(out.Gates, g.Reason)
	}
	return out, nil
}

func action(e catalog.HistoryEntry) string {
	switch {
	case e.Kind == catalog.HistoryRegistered:
		return "register"
	case e.Kind == catalog.HistoryDeleted:
		return "delete"
	case e.Kind == catalog.HistoryAliasSet:
		return "alias"
	case e.Kind == catalog.HistoryAliasGone:
		return "unalias"
	case e.Kind == catalog.HistoryPolicy:
		return "policy"
	case e.Kind == catalog.HistoryCheck:
		return "check"
	case e.Kind == catalog.HistoryApproved:
		return "approve"
	case e.Rollback:
		return "rollback"
	case e.To == catalog.StageArchived || e.To == catalog.StageNone:
		return "archive"
	}
	return "promote"
}

func root(r catalog.Root) *registryv1.Root {
	kinds := map[catalog.RootKind]registryv1.Root_Kind{
		catalog.RootProduction: registryv1.Root_KIND_PRODUCTION, catalog.RootStaging: registryv1.Root_KIND_STAGING,
		catalog.RootVersion: registryv1.Root_KIND_VERSION, catalog.RootAlias: registryv1.Root_KIND_ALIAS,
		catalog.RootRollback: registryv1.Root_KIND_ROLLBACK, catalog.RootLiveRun: registryv1.Root_KIND_LIVE_RUN,
		catalog.RootParent: registryv1.Root_KIND_PARENT, catalog.RootPin: registryv1.Root_KIND_PIN,
		catalog.RootLegalHold: registryv1.Root_KIND_LEGAL_HOLD,
	}
	return &registryv1.Root{Kind: kinds[r.Kind], Description: r.Detail}
}
