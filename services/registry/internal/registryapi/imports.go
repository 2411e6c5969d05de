package registryapi

import (
	"context"
	"time"

	"github.com/google/uuid"

	"github.com/ultrathink-pilot/trainyard/libs/identity"
	registryv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/registry/v1"
	"github.com/ultrathink-pilot/trainyard/services/registry/internal/catalog"
	"github.com/ultrathink-pilot/trainyard/services/registry/internal/postgres"
)

type importServer struct {
	registryv1.UnsafeImportServiceServer
	*api
}

func (s *importServer) BeginImport(ctx context.Context, r *registryv1.BeginImportRequest) (*registryv1.BeginImportResponse, error) {
	list, err := files(r.GetFiles())
	if err != nil {
		return nil, err
	}
	caller, _ := identity.FromContext(ctx)
	in := postgres.Import{
		ID: uuid.Must(uuid.NewV7()).String(), RunID: uuid.Must(uuid.NewV7()).String(), CheckpointID: uuid.Must(uuid.NewV7()).String(),
		Model: r.GetModelName(), Experiment: r.GetExperiment(), DisplayName: r.GetDisplayName(), User: caller.Name, Files: list,
		Provenance: r.GetProvenance(), Metrics: r.GetMetrics(), FeatureSchema: r.GetFeatureSchema(),
		DataVersion: r.GetDataVersion(), EvaluationWindow: r.GetEvaluationWindow(),
	}
	if in.DisplayName == "" {
		in.DisplayName = in.Model
	}
	response, err := postgres.Once(ctx, s.Store, r.GetRequestId(), registryv1.ImportService_BeginImport_FullMethodName, r, time.Now(),
		func(t *postgres.Tx) (*registryv1.BeginImportResponse, error) {
			err := t.BeginImport(ctx, in)
			return &registryv1.BeginImportResponse{ImportId: in.ID, CheckpointId: in.CheckpointID, RunId: in.RunID}, err
		})
	if err != nil {
		return nil, wire(err)
	}
	// As with BeginCheckpoint: the ledger keeps the ids alone.
	c, err := s.Store.GetCheckpoint(ctx, response.GetCheckpointId())
	if err != nil {
		return nil, wire(err)
	}
	response.Uploads, err = s.uploads(ctx, c.Files)
	return response, wire(err)
}

func (s *importServer) CommitImport(ctx context.Context, r *registryv1.CommitImportRequest) (*registryv1.CommitImportResponse, error) {
	in, committed, err := s.Store.GetImport(ctx, r.GetImportId())
	if err != nil {
		return nil, wire(err)
	}
	if !committed {
		c, err := s.Store.GetCheckpoint(ctx, in.CheckpointID)
		if err != nil {
			return nil, wire(err)
		}
		if c.State == catalog.Pending {
			if err := s.prove(ctx, "imports/"+in.ID, c.Files, s.proofs.verify); err != nil {
				return nil, wire(err)
			}
		}
	}
	var stored postgres.Stored
	out, err := postgres.Once(ctx, s.Store, r.GetRequestId(), registryv1.ImportService_CommitImport_FullMethodName, r, time.Now(),
		func(t *postgres.Tx) (*registryv1.CommitImportResponse, error) {
			v, fresh, err := t.CommitImport(ctx, r.GetImportId(), by(ctx, "imported", r.GetRequestId()))
			stored = fresh
			return &registryv1.CommitImportResponse{Version: version(v)}, err
		})
	if err == nil {
		s.stored(stored)
	}
	return out, wire(err)
}
