// Package registryapi is the registry's gRPC edge: services split by caller. It
// converts between protobuf and the catalogue, proves objects in the object store before
// the catalogue believes in them, presigns transfers, and maps refusals to statuses. It
// holds no SQL and takes no decision.
package registryapi

import (
	"context"
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/ultrathink-pilot/trainyard/libs/identity"
	"github.com/ultrathink-pilot/trainyard/libs/objectstore"
	"github.com/ultrathink-pilot/trainyard/libs/rpcserver"
	registryv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/registry/v1"
	"github.com/ultrathink-pilot/trainyard/services/registry/internal/ingest"
	"github.com/ultrathink-pilot/trainyard/services/registry/internal/postgres"
)

// Deps is what the services work with.
type Deps struct {
	Store   *postgres.Store
	Watcher *postgres.Watcher
	Objects *objectstore.Store
	// Cold is where packed copies are; the same bucket unless it is configured.
	Cold      *objectstore.Store
	Committer *ingest.Committer
	Tracer    trace.Tracer
	Log       *zap.Logger
	Metrics   prometheus.Registerer
	// MirrorResting is how long the mirror leaves its server alone; nil without a mirror.
	MirrorResting func() time.Duration
}

// api is shared by the services.
type api struct {
	Deps
	fenced   *prometheus.CounterVec
	bytes    *prometheus.CounterVec
	proofs   proofs
	restores *restores
}

// stored counts what a commit has brought.
func (a *api) stored(s postgres.Stored) {
	a.bytes.WithLabelValues("uploaded").Add(float64(s.New))
	a.bytes.WithLabelValues("shared").Add(float64(s.Shared))
}

// Register puts the services on a server.
func Register(s grpc.ServiceRegistrar, deps Deps) (err error) {
	a := &api{Deps: deps, fenced: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "trainyard_stale_fence_rejected_total", Help: "Writes refused because their fence was stale."}, []string{"rpc"}),
		bytes: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "trainyard_checkpoint_stored_bytes_total",
			Help: "Bytes of committed checkpoints by how they came: uploaded, or shared with what the store had."}, []string{"source"})}
	a.proofs.prove = a.verify
	if err := errors.Join(deps.Metrics.Register(a.fenced), deps.Metrics.Register(a.bytes)); err != nil {
		return err
	}
	if a.restores, err = newRestores(deps); err != nil {
		return err
	}
	registryv1.RegisterIngestServiceServer(s, &ingestServer{api: a})
	registryv1.RegisterRunServiceServer(s, &runServer{api: a})
	registryv1.RegisterModelServiceServer(s, &modelServer{api: a})
	registryv1.RegisterImportServiceServer(s, &importServer{api: a})
	registryv1.RegisterRetentionServiceServer(s, &retentionServer{api: a})
	registryv1.RegisterMirrorServiceServer(s, &mirrorServer{api: a})
	return nil
}

// Allow is who may call what; everything else is refused.
func Allow() rpcserver.AllowTable {
	people := []identity.Role{identity.RolePerson}
	readers := []identity.Role{identity.RolePerson, identity.RoleInference, identity.RoleJanitor, identity.RoleScheduler}
	servers := []identity.Role{identity.RolePerson, identity.RoleInference}
	// The scheduler waits for promotions: a job may come after one.
	followers := []identity.Role{identity.RolePerson, identity.RoleInference, identity.RoleScheduler}
	janitor := []identity.Role{identity.RoleJanitor}
	agents := []identity.Role{identity.RoleAgent}
	table := rpcserver.AllowTable{
		registryv1.RunService_SetCheckpointPin_FullMethodName:      people,
		registryv1.ModelService_CreateModelVersion_FullMethodName:  people,
		registryv1.ModelService_PromoteModelVersion_FullMethodName: people,
		registryv1.ModelService_RollbackModel_FullMethodName:       people,
		registryv1.ModelService_SetPromotionPolicy_FullMethodName:  people,
		registryv1.ModelService_RecordCheck_FullMethodName:         people,
		registryv1.ModelService_ApproveModelVersion_FullMethodName: people,
		registryv1.RunService_UpdateRun_FullMethodName:             people,
		registryv1.RunService_DeleteRun_FullMethodName:             people,
		registryv1.RunService_RestoreRun_FullMethodName:            people,
		registryv1.RunService_DeleteExperiment_FullMethodName:      people,
		registryv1.RunService_RestoreExperiment_FullMethodName:     people,
		registryv1.ImportService_BeginImport_FullMethodName:        people,
		registryv1.ImportService_CommitImport_FullMethodName:       people,
		registryv1.MirrorService_GetMirror_FullMethodName:          people,
		registryv1.MirrorService_ListDeadLetters_FullMethodName:    people,
		registryv1.MirrorService_RetryDeadLetters_FullMethodName:   people,
		registryv1.MirrorService_CompareMirror_FullMethodName:      people,
	}
	for roles, methods := range map[*[]identity.Role][]string{
		&agents: {
			registryv1.IngestService_Ingest_FullMethodName,
			registryv1.IngestService_BeginCheckpoint_FullMethodName,
			registryv1.IngestService_PrepareParts_FullMethodName,
			registryv1.IngestService_CommitCheckpoint_FullMethodName,
			registryv1.IngestService_ResolveCheckpoint_FullMethodName,
			registryv1.IngestService_ReportCorruptCheckpoint_FullMethodName,
			registryv1.IngestService_BeginArtifact_FullMethodName,
			registryv1.IngestService_CommitArtifact_FullMethodName,
		},
		&readers: {
			registryv1.RunService_ListExperiments_FullMethodName,
			registryv1.RunService_GetRun_FullMethodName,
			registryv1.RunService_ListRuns_FullMethodName,
			registryv1.RunService_GetMetricHistory_FullMethodName,
			registryv1.RunService_GetCheckpoint_FullMethodName,
			registryv1.RunService_ListCheckpoints_FullMethodName,
			registryv1.RunService_ListArtifacts_FullMethodName,
			registryv1.RunService_DownloadArtifact_FullMethodName,
			registryv1.RunService_SearchRuns_FullMethodName,
			registryv1.RunService_CompareRuns_FullMethodName,
			registryv1.RunService_WatchMetrics_FullMethodName,
			registryv1.RunService_DownloadCheckpointFile_FullMethodName,
			registryv1.RunService_GetCheckpointLineage_FullMethodName,
		},
		&servers: {
			registryv1.ModelService_ListModels_FullMethodName,
			registryv1.ModelService_GetModel_FullMethodName,
			registryv1.ModelService_ResolveModel_FullMethodName,
			registryv1.ModelService_VerifyModelHistory_FullMethodName,
		},
		&followers: {
			registryv1.ModelService_WatchModel_FullMethodName,
			registryv1.ModelService_ListModelHistory_FullMethodName,
		},
		&janitor: {
			registryv1.RetentionService_ListInventory_FullMethodName,
			registryv1.RetentionService_TombstoneCheckpoints_FullMethodName,
			registryv1.RetentionService_RestoreCheckpoints_FullMethodName,
			registryv1.RetentionService_BeginDeleteCheckpoints_FullMethodName,
			registryv1.RetentionService_ConfirmDeleted_FullMethodName,
			registryv1.RetentionService_BeginArchive_FullMethodName,
			registryv1.RetentionService_CommitArchive_FullMethodName,
			registryv1.RetentionService_ListObjects_FullMethodName,
			registryv1.RetentionService_ReleaseObjects_FullMethodName,
			registryv1.RetentionService_ListReleasedObjects_FullMethodName,
			registryv1.RetentionService_ConfirmRemoved_FullMethodName,
			registryv1.RetentionService_ReportBadObject_FullMethodName,
			registryv1.RetentionService_SetLegalHold_FullMethodName,
		},
	} {
		for _, m := range methods {
			table[m] = *roles
		}
	}
	return table
}

// by describes the caller for the history.
func by(ctx context.Context, reason, requestID string) postgres.By {
	id, _ := identity.FromContext(ctx)
	sc := trace.SpanContextFromContext(ctx)
	b := postgres.By{Actor: id.String(), Reason: reason, RequestID: requestID}
	if sc.HasTraceID() {
		b.TraceID = sc.TraceID().String()
	}
	return b
}

// pageSize coerces a requested page size: 0 is the default, too much is the most.
func pageSize(asked int32, standard, most int) int {
	if asked == 0 {
		return standard
	}
	return min(int(asked), most)
}

// pageBytes bounds a page: clients refuse messages above 4 MiB.
const pageBytes = 3 << 20

// fit converts rows until the page is full by count or by size. more says whether rows are
// left; at least one row is always taken.
func fit[T any, M proto.Message](rows []T, limit int, convert func(T) (M, error)) (page []M, more bool, err error) {
	size := 0
	for i, row := range rows {
		m, err := convert(row)
		if err != nil {
			return nil, false, err
		}
		size += proto.Size(m)
		if i == limit || i > 0 && size > pageBytes {
			return page, true, nil
		}
		page = append(page, m)
	}
	return page, false, nil
}

// spanIn records a span that starts in a stored trace instead of the caller's, and links
// to the caller's: the work belongs to the job, the request only caused it.
func (a *api) spanIn(ctx context.Context, parent context.Context, name string, start time.Time, opts ...trace.SpanStartOption) {
	opts = append(opts, trace.WithTimestamp(start))
	if sc := trace.SpanContextFromContext(ctx); sc.IsValid() {
		opts = append(opts, trace.WithLinks(trace.Link{SpanContext: sc}))
	}
	_, span := a.Tracer.Start(parent, name, opts...)
	span.End()
}
