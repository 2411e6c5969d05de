package registryapi

import (
	"context"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/ultrathink-pilot/trainyard/libs/rpcerr"
	registryv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/registry/v1"
	"github.com/ultrathink-pilot/trainyard/services/registry/internal/catalog"
	"github.com/ultrathink-pilot/trainyard/services/registry/internal/postgres"
)

func (s *runServer) UpdateRun(ctx context.Context, r *registryv1.UpdateRunRequest) (*registryv1.UpdateRunResponse, error) {
	edit := postgres.RunEdit{DisplayName: r.DisplayName, Notes: r.Notes, Parent: r.ParentRunId, SetTags: r.GetSetTags(), DeleteTags: r.GetDeleteTags()}
	for _, d := range r.GetAddDatasets() {
		edit.Datasets = append(edit.Datasets, postgres.DatasetInput(d.GetName(), d.GetDigest(), d.GetContext()))
	}
	if _, err := postgres.Once(ctx, s.Store, r.GetRequestId(), registryv1.RunService_UpdateRun_FullMethodName, r, time.Now(),
		func(t *postgres.Tx) (*registryv1.UpdateRunResponse, error) {
			return &registryv1.UpdateRunResponse{}, t.EditRun(ctx, r.GetRunId(), edit)
		}); err != nil {
		return nil, wire(err)
	}
	// Read, not remembered: a run's record may be large, and a repeat wants what is there.
	got, err := s.GetRun(ctx, &registryv1.GetRunRequest{RunId: r.GetRunId()})
	return &registryv1.UpdateRunResponse{Run: got.GetRun()}, err
}

func (s *runServer) DeleteRun(ctx context.Context, r *registryv1.DeleteRunRequest) (*registryv1.DeleteRunResponse, error) {
	return once(ctx, s.api, r.GetRequestId(), registryv1.RunService_DeleteRun_FullMethodName, r, &registryv1.DeleteRunResponse{},
		func(t *postgres.Tx) error { return t.DeleteRun(ctx, r.GetRunId()) })
}

func (s *runServer) RestoreRun(ctx context.Context, r *registryv1.RestoreRunRequest) (*registryv1.RestoreRunResponse, error) {
	return once(ctx, s.api, r.GetRequestId(), registryv1.RunService_RestoreRun_FullMethodName, r, &registryv1.RestoreRunResponse{},
		func(t *postgres.Tx) error { return t.SetRunLifecycle(ctx, r.GetRunId(), catalog.Active) })
}

func (s *runServer) DeleteExperiment(ctx context.Context, r *registryv1.DeleteExperimentRequest) (*registryv1.DeleteExperimentResponse, error) {
	return once(ctx, s.api, r.GetRequestId(), registryv1.RunService_DeleteExperiment_FullMethodName, r, &registryv1.DeleteExperimentResponse{},
		func(t *postgres.Tx) error {
			id, err := t.ExperimentNumber(ctx, r.GetPath())
			if err != nil {
				return err
			}
			busy, err := t.BusyRuns(ctx, id)
			if err != nil {
				return err
			}
			if busy > 0 {
				return rpcerr.IllegalTransition("RUNNING", "experiments/%s has %d runs whose jobs are running: cancel them first", r.GetPath(), busy)
			}
			return t.SetExperimentLifecycle(ctx, id, catalog.Deleted)
		})
}

func (s *runServer) RestoreExperiment(ctx context.Context, r *registryv1.RestoreExperimentRequest) (*registryv1.RestoreExperimentResponse, error) {
	return once(ctx, s.api, r.GetRequestId(), registryv1.RunService_RestoreExperiment_FullMethodName, r, &registryv1.RestoreExperimentResponse{},
		func(t *postgres.Tx) error {
			id, err := t.ExperimentNumber(ctx, r.GetPath())
			if err != nil {
				return err
			}
			return t.SetExperimentLifecycle(ctx, id, catalog.Active)
		})
}

// once is postgres.Once for a mutation whose answer says nothing.
func once[R proto.Message](ctx context.Context, a *api, requestID, method string, request proto.Message, done R, fn func(*postgres.Tx) error) (R, error) {
	out, err := postgres.Once(ctx, a.Store, requestID, method, request, time.Now(), func(t *postgres.Tx) (R, error) { return done, fn(t) })
	return out, wire(err)
}
