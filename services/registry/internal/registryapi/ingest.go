package registryapi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/google/uuid"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/ultrathink-pilot/trainyard/libs/rpcerr"
	"github.com/ultrathink-pilot/trainyard/libs/rpcserver"
	"github.com/ultrathink-pilot/trainyard/libs/telemetry"
	registryv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/registry/v1"
	trainv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/train/v1"
	"github.com/ultrathink-pilot/trainyard/services/registry/internal/catalog"
	"github.com/ultrathink-pilot/trainyard/services/registry/internal/ingest"
	"github.com/ultrathink-pilot/trainyard/services/registry/internal/postgres"
)

// inFlight bounds the batches of one stream that wait for their commit. Beyond it the
// registry stops reading, and flow control holds the sender.
const inFlight = 64

type ingestServer struct {
	registryv1.UnsafeIngestServiceServer
	*api
}

// waiting is a submitted batch with what its answer and its span need.
type waiting struct {
	request *registryv1.IngestRequest
	pending *ingest.Pending
	start   time.Time
}

// Ingest reads batches into the committer and answers in order. One goroutine reads, this
// one answers; whichever fails first ends the stream, and the sender resends what has no
// answer.
func (s *ingestServer) Ingest(stream grpc.BidiStreamingServer[registryv1.IngestRequest, registryv1.IngestResponse]) error {
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	queue := make(chan waiting, inFlight)
	var readErr error // written before queue is closed, read after
	go func() {
		defer close(queue)
		readErr = s.read(ctx, stream, queue)
	}()
	for {
		select {
		case w, ok := <-queue:
			if !ok {
				return wire(readErr)
			}
			if err := s.answer(ctx, stream, w); err != nil {
				return wire(err)
			}
		case <-rpcserver.Draining(ctx):
			return rpcerr.Draining()
		}
	}
}

func (s *ingestServer) read(ctx context.Context, stream grpc.BidiStreamingServer[registryv1.IngestRequest, registryv1.IngestResponse], queue chan<- waiting) error {
	lane := &ingest.Lane{}
	for {
		request, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		b, err := batch(request)
		if err != nil {
			return err
		}
		start := time.Now()
		pending, err := s.Committer.Submit(ctx, lane, b)
		if err != nil {
			return err
		}
		select {
		case queue <- waiting{request, pending, start}:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (s *ingestServer) answer(ctx context.Context, stream grpc.BidiStreamingServer[registryv1.IngestRequest, registryv1.IngestResponse], w waiting) error {
	result, err := w.pending.Wait(ctx)
	if err != nil {
		return err
	}
	r := w.request
	out := &registryv1.IngestResponse{JobId: r.GetJobId(), Attempt: r.GetAttempt(), Fence: r.GetFence(), Sequence: r.GetSequence(),
		Result: registryv1.IngestResponse_RESULT_ACCEPTED}
	if e := result.Refusal; e != nil {
		out.Result = registryv1.IngestResponse_RESULT_REFUSED
		out.Reason, out.Message = batchReason(e).String(), e.Error()
		if e.Problem == catalog.ProblemFenced {
			s.fenced.WithLabelValues("Ingest").Inc()
		}
	} else if !result.Duplicate {
		s.trace(ctx, w, result)
	}
	return stream.Send(out)
}

// trace records a short span per batch in the job's own trace. The stream's span lives as
// long as the stream and so is only linked.
func (s *ingestServer) trace(ctx context.Context, w waiting, result catalog.BatchResult) {
	r := w.request
	parent := r.GetTraceparent()
	name := "registry.ingest_batch"
	switch r.GetBatch().(type) {
	case *registryv1.IngestRequest_Opened:
		name = "registry.open_run"
		if parent == "" {
			parent = r.GetOpened().GetTraceparent()
		}
	case *registryv1.IngestRequest_Closed:
		name = "registry.close_run"
	}
	attributes := trace.WithAttributes(attribute.String("job_id", r.GetJobId()), attribute.Int64("attempt", int64(r.GetAttempt())),
		attribute.Int64("fence", int64(r.GetFence())), attribute.Int64("sequence", int64(r.GetSequence())))
	if parent != "" {
		s.spanIn(ctx, telemetry.ContextWithTraceParent(context.WithoutCancel(ctx), parent), name, w.start, attributes)
	}
	if result.RegisteredVersion != 0 {
		s.spanIn(ctx, telemetry.ContextWithTraceParent(context.WithoutCancel(ctx), result.TraceParent), "registry.register_model_version", w.start, attributes,
			trace.WithAttributes(attribute.String("model", result.RegisteredModel), attribute.Int64("version", int64(result.RegisteredVersion))))
	}
}

// batch converts one frame. A point without a time gets the registry's: it must sort
// somewhere, and only senders outside our agent leave it out.
func batch(r *registryv1.IngestRequest) (catalog.Batch, error) {
	b := catalog.Batch{Key: catalog.BatchKey{RunID: r.GetJobId(), Attempt: int32(r.GetAttempt()), Fence: r.GetFence(), Sequence: r.GetSequence()}}
	switch x := r.GetBatch().(type) {
	case *registryv1.IngestRequest_Opened:
		spec := x.Opened.GetSpec()
		raw, err := proto.MarshalOptions{Deterministic: true}.Marshal(spec)
		if err != nil {
			return b, fmt.Errorf("encode spec: %w", err)
		}
		tenant := spec.GetTenant()
		if tenant == "" {
			tenant = "default"
		}
		b.Opened = &catalog.RunOpened{
			Experiment: spec.GetExperiment(), DisplayName: spec.GetDisplayName(), Tenant: tenant, ModelName: spec.GetModelName(),
			Agent: x.Opened.GetAgentName(), TraceParent: x.Opened.GetTraceparent(), Spec: raw, Labels: spec.GetLabels(),
			RestoredCheckpoint: x.Opened.GetRestoredCheckpointId(),
		}
		if x.Opened.GetTime() != nil {
			b.Opened.StartTime = x.Opened.GetTime().AsTime()
		}
	case *registryv1.IngestRequest_Metrics:
		b.Points = points(x.Metrics, time.Now())
	case *registryv1.IngestRequest_Params:
		params := x.Params.GetParams()
		for _, k := range catalog.SortedKeys(params) {
			b.Params = append(b.Params, catalog.Param{Key: k, Value: params[k]})
		}
	case *registryv1.IngestRequest_Closed:
		b.Closed = &catalog.RunClosed{State: outcome(x.Closed.GetOutcome()), FailureClass: int32(x.Closed.GetFailureClass()), Detail: x.Closed.GetMessage()}
		if x.Closed.GetTime() != nil {
			b.Closed.EndTime = x.Closed.GetTime().AsTime()
		}
	default:
		return b, rpcerr.Protocol("batch %d of job %s has a content this registry does not know", r.GetSequence(), r.GetJobId())
	}
	return b, nil
}

func points(m *trainv1.MetricBatch, now time.Time) []catalog.MetricPoint {
	out := make([]catalog.MetricPoint, 0, len(m.GetPoints()))
	for _, p := range m.GetPoints() {
		at := now
		if p.GetTime() != nil {
			at = p.GetTime().AsTime()
		}
		out = append(out, catalog.MetricPoint{Key: p.GetKey(), Step: p.GetStep(), Time: at, Value: p.GetValue()})
	}
	return out
}

// fencedCount maps an error for the wire and counts it when it is a stale fence.
func (a *api) fencedCount(rpc string, err error) error {
	var e *catalog.Error
	if errors.As(err, &e) && e.Problem == catalog.ProblemFenced {
		a.fenced.WithLabelValues(rpc).Inc()
	}
	return wire(err)
}

func (s *ingestServer) BeginCheckpoint(ctx context.Context, r *registryv1.BeginCheckpointRequest) (*registryv1.BeginCheckpointResponse, error) {
	in := postgres.BeginCheckpoint{ID: uuid.Must(uuid.NewV7()).String(), RunID: r.GetJobId(), Attempt: int32(r.GetAttempt()), Fence: r.GetFence(), Step: r.GetStep()}
	var err error
	if in.Files, err = files(r.GetFiles()); err != nil {
		return nil, err
	}
	response, err := postgres.Once(ctx, s.Store, r.GetRequestId(), registryv1.IngestService_BeginCheckpoint_FullMethodName, r, time.Now(),
		func(t *postgres.Tx) (*registryv1.BeginCheckpointResponse, error) {
			c, err := t.BeginCheckpoint(ctx, in)
			return &registryv1.BeginCheckpointResponse{CheckpointId: c.ID}, err
		})
	if err != nil {
		return nil, s.fencedCount("BeginCheckpoint", err)
	}
	// The ledger keeps the id alone: URLs are secrets, expire, and are made anew each time.
	c, err := s.Store.GetCheckpoint(ctx, response.GetCheckpointId())
	if err != nil {
		return nil, wire(err)
	}
	response.Uploads, err = s.uploads(ctx, c.Files)
	return response, wire(err)
}

func (s *ingestServer) CommitCheckpoint(ctx context.Context, r *registryv1.CommitCheckpointRequest) (*registryv1.CommitCheckpointResponse, error) {
	staged, err := s.Store.GetCheckpoint(ctx, r.GetCheckpointId())
	if err != nil {
		return nil, wire(err)
	}
	if staged.State == catalog.Pending {
		if err := s.Store.Do(ctx, time.Now(), func(t *postgres.Tx) error { return t.CheckWriter(ctx, staged.RunID, r.GetFence()) }); err != nil {
			return nil, s.fencedCount("CommitCheckpoint", err)
		}
		if err := s.prove(ctx, "checkpoints/"+staged.ID, staged.Files, s.proofs.verify); err != nil {
			return nil, wire(err)
		}
	}
	in := postgres.CommitCheckpoint{
		ID: r.GetCheckpointId(), Fence: r.GetFence(), Metrics: r.GetMetrics(), Resumable: r.GetResumable(), FeatureSchema: r.GetFeatureSchema(),
		DataVersion: r.GetDataVersion(), EvaluationWindow: r.GetEvaluationWindow(), Trades: r.GetTrades(),
		ParentID: r.GetParentCheckpointId(), TraceParent: r.GetTraceparent(), CodeVersion: r.GetCodeVersion(),
	}
	var (
		c      catalog.Checkpoint
		stored postgres.Stored
	)
	err = s.Store.Do(ctx, time.Now(), func(t *postgres.Tx) error {
		var err error
		c, stored, err = t.CommitCheckpoint(ctx, in)
		return err
	})
	if err != nil {
		return nil, s.fencedCount("CommitCheckpoint", err)
	}
	s.stored(stored)
	out, err := s.described(ctx, c)
	if err != nil {
		return nil, wire(err)
	}
	return &registryv1.CommitCheckpointResponse{Checkpoint: out[0]}, nil
}

func (s *ingestServer) ResolveCheckpoint(ctx context.Context, r *registryv1.ResolveCheckpointRequest) (*registryv1.ResolveCheckpointResponse, error) {
	var c catalog.Checkpoint
	err := s.Store.Do(ctx, time.Now(), func(t *postgres.Tx) error {
		var err error
		c, err = t.ResolveCheckpoint(ctx, r.GetJobId(), r.GetFence(), r.GetCheckpointId())
		return err
	})
	if err != nil {
		return nil, s.fencedCount("ResolveCheckpoint", err)
	}
	c, downloads, err := s.serve(ctx, c)
	if err != nil {
		return nil, wire(err)
	}
	return &registryv1.ResolveCheckpointResponse{Checkpoint: checkpoint(c), Downloads: downloads}, nil
}

func (s *ingestServer) BeginArtifact(ctx context.Context, r *registryv1.BeginArtifactRequest) (*registryv1.BeginArtifactResponse, error) {
	if err := whole(r.GetFile()); err != nil {
		return nil, err
	}
	var a postgres.Artifact
	err := s.Store.Do(ctx, time.Now(), func(t *postgres.Tx) error {
		var err error
		a, err = t.BeginArtifact(ctx, r.GetJobId(), r.GetFence(), file(r.GetFile()))
		return err
	})
	if err != nil {
		return nil, s.fencedCount("BeginArtifact", err)
	}
	uploads, err := s.uploads(ctx, []catalog.File{{Name: a.Path, SHA256: a.SHA256, Size: a.Size, ObjectKey: a.ObjectKey, Present: a.Present}})
	if err != nil {
		return nil, wire(err)
	}
	response := &registryv1.BeginArtifactResponse{}
	if len(uploads) > 0 {
		response.Upload = uploads[0]
	}
	return response, nil
}

func (s *ingestServer) CommitArtifact(ctx context.Context, r *registryv1.CommitArtifactRequest) (*registryv1.CommitArtifactResponse, error) {
	if err := whole(r.GetFile()); err != nil {
		return nil, err
	}
	f := file(r.GetFile())
	var staged postgres.Artifact
	// Begin again: it finds the key of this content and checks the fence.
	err := s.Store.Do(ctx, time.Now(), func(t *postgres.Tx) error {
		var err error
		staged, err = t.BeginArtifact(ctx, r.GetJobId(), r.GetFence(), f)
		return err
	})
	if err != nil {
		return nil, s.fencedCount("CommitArtifact", err)
	}
	f.ObjectKey = staged.ObjectKey
	if err := s.prove(ctx, "runs/"+r.GetJobId()+"/artifacts/"+f.Name, []catalog.File{f}, s.proofs.verify); err != nil {
		return nil, wire(err)
	}
	contentType := r.GetContentType()
	if contentType == "" {
		contentType = "application/octet-stream"
	}
	var a postgres.Artifact
	err = s.Store.Do(ctx, time.Now(), func(t *postgres.Tx) error {
		var err error
		a, err = t.CommitArtifact(ctx, uuid.Must(uuid.NewV7()).String(), r.GetJobId(), r.GetFence(), f, contentType)
		return err
	})
	if err != nil {
		return nil, s.fencedCount("CommitArtifact", err)
	}
	return &registryv1.CommitArtifactResponse{Artifact: artifact(a)}, nil
}
