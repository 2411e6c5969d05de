package registryapi

import (
	"context"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/ultrathink-pilot/trainyard/libs/identity"
	"github.com/ultrathink-pilot/trainyard/libs/pagetoken"
	"github.com/ultrathink-pilot/trainyard/libs/rpcerr"
	registryv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/registry/v1"
	"github.com/ultrathink-pilot/trainyard/services/registry/internal/postgres"
)

const (
	listPage = 100
	listMost = 1000
	// pointBytes bounds one encoded metric point without its key.
	pointBytes = 48
)

type runServer struct {
	registryv1.UnsafeRunServiceServer
	*api
}

// cursor is a (time, id) sort key in a page token; microseconds are what is stored.
func cursor(at time.Time, id string) []string {
	return []string{strconv.FormatInt(at.UnixMicro(), 10), id}
}

func parseCursor(hash, token string) (time.Time, string, error) {
	parts, err := pagetoken.Decode(hash, token, 2)
	if err != nil {
		return time.Time{}, "", rpcerr.PageTokenInvalid(err)
	}
	if parts == nil {
		return time.Time{}, "", nil
	}
	micros, err := strconv.ParseInt(parts[0], 10, 64)
	if err != nil {
		return time.Time{}, "", rpcerr.PageTokenInvalid(pagetoken.ErrInvalid)
	}
	return time.UnixMicro(micros).UTC(), parts[1], nil
}

func (s *runServer) ListExperiments(ctx context.Context, r *registryv1.ListExperimentsRequest) (*registryv1.ListExperimentsResponse, error) {
	all, err := s.Store.ListExperiments(ctx, r.GetPathPrefix())
	if err != nil {
		return nil, wire(err)
	}
	out := &registryv1.ListExperimentsResponse{}
	for _, e := range all {
		out.Experiments = append(out.Experiments, &registryv1.Experiment{ExperimentId: e.UID, Path: e.Name, RunCount: e.RunCount, CreateTime: stamp(e.CreateTime)})
	}
	return out, nil
}

func (s *runServer) GetRun(ctx context.Context, r *registryv1.GetRunRequest) (*registryv1.GetRunResponse, error) {
	found, err := s.Store.GetRun(ctx, r.GetRunId())
	if err != nil {
		return nil, wire(err)
	}
	out, err := run(found)
	if err != nil {
		return nil, err
	}
	datasets, err := s.Store.RunDatasets(ctx, r.GetRunId())
	for _, d := range datasets {
		out.Datasets = append(out.Datasets, &registryv1.Dataset{Name: d.Name, Digest: d.Digest, Context: d.Context})
	}
	return &registryv1.GetRunResponse{Run: out}, wire(err)
}

func (s *runServer) ListRuns(ctx context.Context, r *registryv1.ListRunsRequest) (*registryv1.ListRunsResponse, error) {
	states := runStates(r.GetStates())
	names := make([]string, 0, len(states))
	for _, st := range states {
		names = append(names, string(st))
	}
	slices.Sort(names)
	hash := pagetoken.FilterHash("runs", r.GetExperimentPrefix(), strings.Join(names, ","))
	at, id, err := parseCursor(hash, r.GetPageToken())
	if err != nil {
		return nil, err
	}
	limit := pageSize(r.GetPageSize(), listPage, listMost)
	runs, err := s.Store.ListRuns(ctx, postgres.RunFilter{ExperimentPrefix: r.GetExperimentPrefix(), States: states, AfterTime: at, AfterID: id, Limit: limit + 1})
	if err != nil {
		return nil, wire(err)
	}
	out := &registryv1.ListRunsResponse{}
	var more bool
	if out.Runs, more, err = fit(runs, limit, run); err != nil {
		return nil, err
	}
	if more {
		last := runs[len(out.Runs)-1]
		out.NextPageToken = pagetoken.Encode(hash, cursor(last.StartTime, last.ID)...)
	}
	return out, nil
}

func (s *runServer) GetMetricHistory(ctx context.Context, r *registryv1.GetMetricHistoryRequest) (*registryv1.GetMetricHistoryResponse, error) {
	// What does not fit into one answer is thinned too, and total_points says so: a client
	// that asked for everything gets the whole shape instead of a refused message.
	limit := pageBytes / (len(r.GetKey()) + pointBytes)
	if asked := int(r.GetMaxPoints()); asked > 0 {
		limit = min(limit, asked)
	}
	in := postgres.Everything
	if r.MinStep != nil {
		in.From = r.GetMinStep()
	}
	if r.MaxStep != nil {
		in.To = r.GetMaxStep()
	}
	view, err := s.Store.MetricView(ctx, r.GetRunId(), r.GetKey(), in, limit)
	if err != nil {
		return nil, wire(err)
	}
	points := view.Points
	out := &registryv1.GetMetricHistoryResponse{TotalPoints: view.Total}
	out.Metrics = make([]*registryv1.Metric, 0, len(points))
	for _, p := range points {
		out.Metrics = append(out.Metrics, &registryv1.Metric{Key: r.GetKey(), Value: p.Value, Step: p.Step, Time: stamp(p.Time), Attempt: uint32(p.Attempt)})
	}
	return out, nil
}

func (s *runServer) GetCheckpoint(ctx context.Context, r *registryv1.GetCheckpointRequest) (*registryv1.GetCheckpointResponse, error) {
	c, err := s.Store.GetCheckpoint(ctx, r.GetCheckpointId())
	if err != nil {
		return nil, wire(err)
	}
	out, err := s.described(ctx, c)
	if err != nil {
		return nil, wire(err)
	}
	return &registryv1.GetCheckpointResponse{Checkpoint: out[0]}, nil
}

func (s *runServer) ListCheckpoints(ctx context.Context, r *registryv1.ListCheckpointsRequest) (*registryv1.ListCheckpointsResponse, error) {
	states, corrupt := checkpointStates(r.GetStates())
	parts := []string{"checkpoints", r.GetRunId(), r.GetExperimentPrefix(), strconv.FormatBool(corrupt)}
	for _, st := range states {
		parts = append(parts, string(st))
	}
	hash := pagetoken.FilterHash(parts...)
	at, id, err := parseCursor(hash, r.GetPageToken())
	if err != nil {
		return nil, err
	}
	limit := pageSize(r.GetPageSize(), listPage, listMost)
	all, err := s.Store.ListCheckpoints(ctx, postgres.CheckpointFilter{RunID: r.GetRunId(), ExperimentPrefix: r.GetExperimentPrefix(),
		States: states, Corrupt: corrupt, AfterTime: at, AfterID: id, Limit: limit + 1})
	if err != nil {
		return nil, wire(err)
	}
	described, err := s.described(ctx, all...)
	if err != nil {
		return nil, wire(err)
	}
	out := &registryv1.ListCheckpointsResponse{}
	var more bool
	out.Checkpoints, more, err = fit(described, limit, func(c *registryv1.Checkpoint) (*registryv1.Checkpoint, error) { return c, nil })
	if more {
		last := all[len(out.Checkpoints)-1]
		out.NextPageToken = pagetoken.Encode(hash, cursor(last.Create, last.ID)...)
	}
	return out, err
}

func (s *runServer) SetCheckpointPin(ctx context.Context, r *registryv1.SetCheckpointPinRequest) (*registryv1.SetCheckpointPinResponse, error) {
	id, _ := identity.FromContext(ctx)
	out, err := postgres.Once(ctx, s.Store, r.GetRequestId(), registryv1.RunService_SetCheckpointPin_FullMethodName, r, time.Now(),
		func(t *postgres.Tx) (*registryv1.SetCheckpointPinResponse, error) {
			c, err := t.SetPin(ctx, r.GetCheckpointId(), r.GetPinned(), id.String(), r.GetReason())
			return &registryv1.SetCheckpointPinResponse{Checkpoint: checkpoint(c)}, err
		})
	return out, wire(err)
}

func (s *runServer) ListArtifacts(ctx context.Context, r *registryv1.ListArtifactsRequest) (*registryv1.ListArtifactsResponse, error) {
	all, err := s.Store.ListArtifacts(ctx, r.GetRunId())
	if err != nil {
		return nil, wire(err)
	}
	out := &registryv1.ListArtifactsResponse{}
	for _, a := range all {
		out.Artifacts = append(out.Artifacts, artifact(a))
	}
	return out, nil
}
