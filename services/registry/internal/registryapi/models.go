package registryapi

import (
	"context"
	"errors"
	"strconv"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"

	"github.com/ultrathink-pilot/trainyard/libs/pagetoken"
	"github.com/ultrathink-pilot/trainyard/libs/rpcerr"
	"github.com/ultrathink-pilot/trainyard/libs/rpcserver"
	"github.com/ultrathink-pilot/trainyard/libs/telemetry"
	registryv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/registry/v1"
	"github.com/ultrathink-pilot/trainyard/services/registry/internal/catalog"
	"github.com/ultrathink-pilot/trainyard/services/registry/internal/postgres"
)

type modelServer struct {
	registryv1.UnsafeModelServiceServer
	*api
	production shared
}

func (s *modelServer) ListModels(ctx context.Context, r *registryv1.ListModelsRequest) (*registryv1.ListModelsResponse, error) {
	models, err := s.Store.ListModels(ctx, r.GetNamePrefix())
	if err != nil {
		return nil, wire(err)
	}
	out := &registryv1.ListModelsResponse{}
	for _, m := range models {
		versions, err := s.Store.Versions(ctx, m.Name)
		if err != nil {
			return nil, wire(err)
		}
		out.Models = append(out.Models, model(m, versions))
	}
	return out, nil
}

func (s *modelServer) GetModel(ctx context.Context, r *registryv1.GetModelRequest) (*registryv1.GetModelResponse, error) {
	m, err := s.Store.GetModel(ctx, r.GetModelName())
	if err != nil {
		return nil, wire(err)
	}
	versions, err := s.Store.Versions(ctx, m.Name)
	if err != nil {
		return nil, wire(err)
	}
	return &registryv1.GetModelResponse{Model: model(m, versions)}, nil
}

func (s *modelServer) CreateModelVersion(ctx context.Context, r *registryv1.CreateModelVersionRequest) (*registryv1.CreateModelVersionResponse, error) {
	// A registered checkpoint is never archived; one that has been is brought back first.
	if c, err := s.Store.GetCheckpoint(ctx, r.GetCheckpointId()); err != nil {
		return nil, wire(err)
	} else if _, err := s.touch(ctx, c); err != nil {
		return nil, wire(err)
	}
	out, err := postgres.Once(ctx, s.Store, r.GetRequestId(), registryv1.ModelService_CreateModelVersion_FullMethodName, r, time.Now(),
		func(t *postgres.Tx) (*registryv1.CreateModelVersionResponse, error) {
			v, err := t.RegisterVersion(ctx, r.GetModelName(), r.GetCheckpointId(), by(ctx, "", r.GetRequestId()))
			return &registryv1.CreateModelVersionResponse{Version: version(v)}, err
		})
	return out, wire(err)
}

func (s *modelServer) PromoteModelVersion(ctx context.Context, r *registryv1.PromoteModelVersionRequest) (*registryv1.PromoteModelVersionResponse, error) {
	start := time.Now()
	number, err := versionNumber(r.GetModelName(), r.GetVersion())
	if err != nil {
		return nil, err
	}
	p := postgres.Promotion{Model: r.GetModelName(), Version: number, To: toStage(r.GetStage()), By: by(ctx, r.GetReason(), r.GetRequestId())}
	if r.ExpectedProductionVersion != nil {
		expected := int32(r.GetExpectedProductionVersion())
		p.ExpectedProduction = &expected
	}
	if p.Gates, err = gates(r.GetGates(), "gates"); err != nil {
		return nil, err
	}
	out, err := postgres.Once(ctx, s.Store, r.GetRequestId(), registryv1.ModelService_PromoteModelVersion_FullMethodName, r, start,
		func(t *postgres.Tx) (*registryv1.PromoteModelVersionResponse, error) {
			v, e, err := t.Promote(ctx, p)
			if err != nil {
				return nil, err
			}
			recorded, err := event(e)
			return &registryv1.PromoteModelVersionResponse{Version: version(v), Event: recorded}, err
		})
	if err != nil {
		return nil, wire(err)
	}
	s.promoted(ctx, "registry.promote_model_version", start, out.GetVersion())
	return out, nil
}

// RollbackModel proves the bytes of the previous Production version before it puts it back:
// a rollback is made in a hurry, and must not serve what is not there.
func (s *modelServer) RollbackModel(ctx context.Context, r *registryv1.RollbackModelRequest) (*registryv1.RollbackModelResponse, error) {
	start := time.Now()
	target, err := s.Store.RollbackTarget(ctx, r.GetModelName())
	var none *catalog.Error
	switch {
	case err == nil:
		if err := s.proveVersion(ctx, target); err != nil {
			return nil, wire(err)
		}
	case !errors.As(err, &none):
		return nil, wire(err)
	}
	// Without a target the ledger is still asked: this may be the repeat of the rollback
	// that went back to the first version.
	refused := err
	out, err := postgres.Once(ctx, s.Store, r.GetRequestId(), registryv1.ModelService_RollbackModel_FullMethodName, r, start,
		func(t *postgres.Tx) (*registryv1.RollbackModelResponse, error) {
			if refused != nil {
				return nil, refused
			}
			v, e, err := t.Rollback(ctx, r.GetModelName(), target.Version, by(ctx, r.GetReason(), r.GetRequestId()))
			if err != nil {
				return nil, err
			}
			recorded, err := event(e)
			return &registryv1.RollbackModelResponse{Version: version(v), Event: recorded}, err
		})
	if err != nil {
		return nil, wire(err)
	}
	s.promoted(ctx, "registry.rollback_model", start, out.GetVersion())
	return out, nil
}

func (s *modelServer) proveVersion(ctx context.Context, v catalog.Version) error {
	if v.CheckpointID == "" {
		return catalog.Refuse(catalog.ProblemState, catalog.VersionSubject(v.Model, v.Version), "has no checkpoint whose bytes could be proven")
	}
	c, err := s.Store.GetCheckpoint(ctx, v.CheckpointID)
	if err != nil {
		return err
	}
	if c, err = s.warm(ctx, c); err != nil {
		return err
	}
	// Read now, not remembered: what was good at the commit may be gone.
	return s.prove(ctx, catalog.VersionSubject(v.Model, v.Version), c.Files, s.verify)
}

// promoted records the stage move in the trace of the job that made the version.
func (s *modelServer) promoted(ctx context.Context, name string, start time.Time, v *registryv1.ModelVersion) {
	if v.GetTraceparent() == "" {
		return
	}
	parent := telemetry.ContextWithTraceParent(context.WithoutCancel(ctx), v.GetTraceparent())
	s.spanIn(ctx, parent, name, start, trace.WithAttributes(attribute.String("model", v.GetModelName()),
		attribute.Int64("version", v.GetVersion()), attribute.String("stage", v.GetStage().String()), attribute.String("job_id", v.GetRunId())))
}

func (s *modelServer) ResolveModel(ctx context.Context, r *registryv1.ResolveModelRequest) (*registryv1.ResolveModelResponse, error) {
	var (
		v   catalog.Version
		err error
	)
	switch x := r.GetSelector().(type) {
	case *registryv1.ResolveModelRequest_Stage:
		v, err = s.Store.VersionInStage(ctx, r.GetModelName(), toStage(x.Stage))
	case *registryv1.ResolveModelRequest_Alias:
		v, err = s.Store.VersionByAlias(ctx, r.GetModelName(), x.Alias)
	case *registryv1.ResolveModelRequest_Version:
		v, err = s.Store.GetVersion(ctx, r.GetModelName(), int32(min(x.Version, 1<<31-1)))
	}
	if err != nil {
		return nil, wire(err)
	}
	if v.CheckpointID == "" {
		return nil, wire(catalog.Refuse(catalog.ProblemState, catalog.VersionSubject(v.Model, v.Version), "was not made from a checkpoint; fetch %s", v.Source))
	}
	c, err := s.Store.GetCheckpoint(ctx, v.CheckpointID)
	if err != nil {
		return nil, wire(err)
	}
	if c.State != catalog.Live && c.State != catalog.Tombstoned {
		return nil, wire(catalog.Refuse(catalog.ProblemState, "checkpoints/"+c.ID, "is %s", c.State))
	}
	c, downloads, err := s.serve(ctx, c)
	if err != nil {
		return nil, wire(err)
	}
	return &registryv1.ResolveModelResponse{Version: version(v), Checkpoint: checkpoint(c), Downloads: downloads}, nil
}

// WatchModel subscribes first and reads second, so that a promotion between the two is
// seen; then it sends the state each time it differs from what was sent.
func (s *modelServer) WatchModel(r *registryv1.WatchModelRequest, stream grpc.ServerStreamingServer[registryv1.WatchModelResponse]) error {
	ctx := stream.Context()
	wake, cancel := s.Watcher.Subscribe(r.GetModelName())
	defer cancel()
	read := func() (catalog.Version, bool, error) {
		v, err := s.Store.VersionInStage(ctx, r.GetModelName(), catalog.StageProduction)
		var e *catalog.Error
		if errors.As(err, &e) && e.Problem == catalog.ProblemNotFound {
			return catalog.Version{}, false, nil
		}
		return v, err == nil, err
	}
	// The first read is this watcher's own: a shared one is as old as the last wake-up, and
	// a broken notification connection may not have been noticed yet.
	v, live, err := read()
	sent := int32(-1)
	for {
		if err != nil {
			return wire(err)
		}
		if v.Version != sent {
			frame := &registryv1.WatchModelResponse{}
			if live {
				frame.Version = version(v)
			}
			if err := stream.Send(frame); err != nil {
				return err
			}
			sent = v.Version
		}
		select {
		case <-wake:
			v, live, err = s.production.at(r.GetModelName(), s.Watcher.Generation(), read)
		case <-rpcserver.Draining(ctx):
			return rpcerr.Draining()
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (s *modelServer) ListModelHistory(ctx context.Context, r *registryv1.ListModelHistoryRequest) (*registryv1.ListModelHistoryResponse, error) {
	at := ""
	if r.GetAtTime() != nil {
		at = r.GetAtTime().AsTime().String()
	}
	hash := pagetoken.FilterHash("history", r.GetModelName(), at)
	parts, err := pagetoken.Decode(hash, r.GetPageToken(), 1)
	if err != nil {
		return nil, rpcerr.PageTokenInvalid(err)
	}
	var before int64
	if parts != nil {
		if before, err = strconv.ParseInt(parts[0], 10, 64); err != nil {
			return nil, rpcerr.PageTokenInvalid(pagetoken.ErrInvalid)
		}
	}
	limit := pageSize(r.GetPageSize(), listPage, listMost)
	entries, err := s.Store.HistoryPage(ctx, r.GetModelName(), before, limit+1)
	if err != nil {
		return nil, wire(err)
	}
	if len(entries) == 0 && before == 0 {
		if _, err := s.Store.GetModel(ctx, r.GetModelName()); err != nil {
			return nil, wire(err)
		}
	}
	out := &registryv1.ListModelHistoryResponse{}
	if len(entries) > limit {
		entries = entries[:limit]
		out.NextPageToken = pagetoken.Encode(hash, strconv.FormatInt(entries[limit-1].Sequence, 10))
	}
	for _, e := range entries {
		converted, err := event(e)
		if err != nil {
			return nil, err
		}
		out.Events = append(out.Events, converted)
	}
	if r.GetAtTime() != nil {
		whole, err := s.Store.History(ctx, r.GetModelName())
		if err != nil {
			return nil, wire(err)
		}
		out.ProductionVersionAtTime = int64(catalog.LiveAt(whole, r.GetAtTime().AsTime()))
	}
	return out, nil
}
