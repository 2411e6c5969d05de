// Package trainapi is the agent's side of train.v1: one Train stream per attempt
// and artifact uploads, over a unix socket that only this user can open. A
// trainer proves who it is by the lease token that it inherited.
package trainapi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/ultrathink-pilot/trainyard/libs/identity"
	"github.com/ultrathink-pilot/trainyard/libs/rpcerr"
	"github.com/ultrathink-pilot/trainyard/libs/rpcserver"
	errorv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/error/v1"
	fleetv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/fleet/v1"
	registryv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/registry/v1"
	trainv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/train/v1"
	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/host"
	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/lease"
	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/staging"
	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/upload"
	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/wire"
)

// Allow is the table of callers: only processes of this user reach the socket,
// and every method asks for a token besides.
var Allow = rpcserver.AllowTable{
	trainv1.TrainService_Train_FullMethodName:        {identity.RoleTrainer},
	trainv1.TrainService_PushArtifact_FullMethodName: {identity.RoleTrainer},
}

// Settings are what every attempt is told of the host.
type Settings struct {
	DataServiceURL string
	CacheDir       string
	OrphanTimeout  time.Duration
}

// Server implements trainv1.TrainServiceServer.
type Server struct {
	trainv1.UnsafeTrainServiceServer
	settings Settings
	host     *host.Host
	refused  func(method, reason string)
	log      *zap.Logger
}

// New returns a server over a host. refused counts the calls that end with a reason.
func New(settings Settings, h *host.Host, refused func(method, reason string), log *zap.Logger) *Server {
	return &Server{settings: settings, host: h, refused: refused, log: log}
}

// refuse gives every refusal a reason and counts it. A broken connection is none.
func (s *Server) refuse(method string, stream grpc.ServerStream, err error) error {
	if err == nil {
		withdraw(stream)
	}
	if reason := rpcerr.ReasonOf(err); err != nil && reason != errorv1.Reason_REASON_UNSPECIFIED {
		s.refused(method, strings.TrimPrefix(reason.String(), "REASON_"))
	}
	return err
}

var errUnknownToken = rpcerr.New(codes.Unauthenticated, errorv1.Reason_REASON_UNAUTHENTICATED,
	"the lease token is wrong, or its lease is over: exit")

// Train serves an attempt's stream.
func (s *Server) Train(stream trainv1.TrainService_TrainServer) error {
	return s.refuse("Train", stream, s.train(stream))
}

func (s *Server) train(stream trainv1.TrainService_TrainServer) error {
	announce(stream)
	first, err := receive(stream.Recv)
	if err != nil {
		return err
	}
	open := first.GetOpen()
	if open == nil || first.Sequence != 0 {
		return rpcerr.Protocol("the first frame must be Open with sequence 0")
	}
	attempt := s.host.Authenticate(open.Token)
	if attempt == nil {
		return errUnknownToken
	}
	ctx, cancel := context.WithCancelCause(stream.Context())
	defer cancel(nil)
	attached, err := attempt.Attach(ctx)
	if err != nil {
		return err
	}
	defer attached.Detach()
	opened, err := s.opened(attempt)
	if err != nil {
		return err
	}
	if err := stream.Send(&trainv1.TrainResponse{Frame: &trainv1.TrainResponse_Opened{Opened: opened}}); err != nil {
		return err
	}
	c := &conversation{server: s, attempt: attempt, stream: stream, frames: make(chan received), out: make(chan *trainv1.TrainResponse), ended: make(chan struct{})}
	// Readers and writers end with the stream's context, at the latest when this
	// handler returns; the stream itself is used by one sender and one receiver.
	go c.read(ctx)
	go c.acks(ctx, cancel, opened.AckedSequence)
	go c.orders(ctx, cancel)
	return c.serve(ctx, attached, opened.AckedSequence)
}

func (s *Server) opened(a *host.Attempt) (*trainv1.Opened, error) {
	var assignment fleetv1.Assignment
	if err := proto.Unmarshal(a.Assignment().Payload, &assignment); err != nil {
		return nil, rpcerr.Internal(err)
	}
	out := &trainv1.Opened{
		JobId: a.JobID, Attempt: a.Attempt, Fence: a.Fence, Spec: assignment.Spec,
		ReservedBytes: assignment.ReservedBytes, BatchSize: assignment.BatchSize,
		GradientAccumulation: assignment.GradientAccumulation, LearningRateScale: assignment.LearningRateScale,
		DataServiceUrl: s.settings.DataServiceURL, CacheDir: s.settings.CacheDir, WorkDir: a.WorkDir(),
		AckedSequence: a.Durable(), Threads: uint32(lease.Threads(a.Assignment().CPUMillis)),
		OrphanTimeout: durationpb.New(s.settings.OrphanTimeout),
	}
	for _, d := range s.host.Snapshot().Devices {
		if slices.Contains(assignment.DeviceIds, d.ID) {
			out.Devices = append(out.Devices, wire.Device(d.Device, d.Reading, d.Health))
		}
	}
	out.Restore, out.WarmStart = restored(a.Restored()), restored(a.WarmStart())
	return out, nil
}

func restored(r *lease.Restored) *trainv1.Restore {
	if r == nil {
		return nil
	}
	return &trainv1.Restore{CheckpointId: r.ID, Step: r.Step, Directory: r.Directory}
}

type received struct {
	frame *trainv1.TrainRequest
	err   error
}

// conversation is one open stream.
type conversation struct {
	server  *Server
	attempt *host.Attempt
	stream  trainv1.TrainService_TrainServer
	frames  chan received
	out     chan *trainv1.TrainResponse
	// last is the error that ended read; only after ended is closed.
	last  error
	ended chan struct{}
}

// read feeds frames one by one: while one waits for room in the spool the next
// is not read, and the transport's window stops this trainer, and no other.
func (c *conversation) read(ctx context.Context) {
	defer close(c.ended)
	for {
		frame, err := receive(c.stream.Recv)
		c.last = err
		select {
		case c.frames <- received{frame, err}:
		case <-ctx.Done():
			return
		}
		if err != nil {
			return
		}
	}
}

func (c *conversation) acks(ctx context.Context, cancel context.CancelCauseFunc, acked uint64) {
	for {
		durable, err := c.attempt.WaitDurable(ctx, acked)
		if err != nil {
			cancel(err)
			return
		}
		acked = durable
		c.send(ctx, &trainv1.TrainResponse{Frame: &trainv1.TrainResponse_Ack{Ack: &trainv1.Ack{Sequence: acked}}})
	}
}

func (c *conversation) orders(ctx context.Context, cancel context.CancelCauseFunc) {
	for {
		order, err := c.attempt.NextOrder(ctx)
		if err != nil {
			cancel(err)
			return
		}
		c.send(ctx, response(order))
	}
}

func response(o host.Order) *trainv1.TrainResponse {
	switch {
	case o.Stop != nil:
		return &trainv1.TrainResponse{Frame: &trainv1.TrainResponse_Stop{Stop: &trainv1.Stop{
			Reason: wire.StopReason(o.Stop.Reason), Grace: durationpb.New(max(o.Stop.Grace, 0)),
		}}}
	case o.Committed != nil:
		return &trainv1.TrainResponse{Frame: &trainv1.TrainResponse_CheckpointCommitted{CheckpointCommitted: &trainv1.CheckpointCommitted{
			Step: o.Committed.Step, CheckpointId: o.Committed.ID,
		}}}
	case o.Rejected != nil:
		return &trainv1.TrainResponse{Frame: &trainv1.TrainResponse_CheckpointRejected{CheckpointRejected: &trainv1.CheckpointRejected{
			Step: o.Rejected.Step, Problems: o.Rejected.Problems,
		}}}
	}
	return &trainv1.TrainResponse{}
}

func (c *conversation) send(ctx context.Context, frame *trainv1.TrainResponse) {
	select {
	case c.out <- frame:
	case <-ctx.Done():
	}
}

// serve is the stream's one sender and the one place that takes frames.
func (c *conversation) serve(ctx context.Context, attached *host.Stream, acked uint64) error {
	next := acked + 1
	if appended := c.attempt.Appended(); appended > acked {
		next = appended + 1 // in memory, about to be durable
	}
	fresh := true
	taken := make(chan error, 1)
	frames := c.frames
	for {
		select {
		case <-attached.Over():
			return rpcerr.New(codes.Aborted, errorv1.Reason_REASON_CONFLICT, "another stream of this attempt took over")
		case <-ctx.Done():
			if c.stream.Context().Err() != nil {
				// A frame that the transport refuses ends the stream before read has said why.
				if <-c.ended; errors.Is(c.last, oversized) {
					return c.last
				}
			}
			return context.Cause(ctx)
		case out := <-c.out:
			if err := c.stream.Send(out); err != nil {
				return err
			}
		case err := <-taken:
			frames = c.frames
			if err != nil {
				return err
			}
		case r := <-frames:
			if r.err != nil {
				if errors.Is(r.err, io.EOF) {
					return nil
				}
				return r.err
			}
			if r.frame.GetOpen() != nil {
				return rpcerr.Protocol("Open is only the first frame of a stream")
			}
			switch {
			case r.frame.Sequence < next:
				continue // sent again after a reconnect
			case r.frame.Sequence > next && !(fresh && c.attempt.Damaged()):
				c.attempt.Gap()
				return rpcerr.Protocol("frame %d came where %d was expected", r.frame.Sequence, next)
			}
			fresh = false
			next = r.frame.Sequence + 1
			// Taking a frame may wait for the disk; acks and orders must not.
			frames = nil
			go func() { taken <- c.take(ctx, r.frame) }()
		}
	}
}

// take gives one frame its effect. Whatever the frame, its sequence goes to the
// spool last, so that an acknowledgement covers the effect.
func (c *conversation) take(ctx context.Context, frame *trainv1.TrainRequest) error {
	a := c.attempt
	traceparent := frame.Traceparent
	if traceparent == "" {
		traceparent = a.TraceParent()
	}
	switch f := frame.Frame.(type) {
	case *trainv1.TrainRequest_Metrics:
		return c.batch(ctx, frame.Sequence, &registryv1.IngestRequest{Traceparent: traceparent, Batch: &registryv1.IngestRequest_Metrics{Metrics: f.Metrics}})
	case *trainv1.TrainRequest_Params:
		return c.batch(ctx, frame.Sequence, &registryv1.IngestRequest{Traceparent: traceparent, Batch: &registryv1.IngestRequest_Params{Params: f.Params}})
	case *trainv1.TrainRequest_Progress:
		a.Progress(wire.ProgressOf(f.Progress, time.Now()))
	case *trainv1.TrainRequest_Checkpoint:
		ready, err := proto.Marshal(f.Checkpoint)
		if err != nil {
			return rpcerr.Internal(err)
		}
		item := upload.Item{
			Step: f.Checkpoint.Step, Files: staged(f.Checkpoint.Files...), Ready: ready,
			Resumable: f.Checkpoint.Resumable, TraceParent: traceparent,
		}
		if err := a.Submit(item); err != nil {
			return unavailable(err)
		}
	case *trainv1.TrainRequest_Artifact:
		item := upload.Item{Files: staged(f.Artifact.File), ContentType: f.Artifact.ContentType, TraceParent: traceparent}
		if err := a.Submit(item); err != nil {
			return unavailable(err)
		}
	case *trainv1.TrainRequest_OutOfMemory:
		report := lease.OOM{Device: f.OutOfMemory.DeviceId, At: time.Now(), Message: fmt.Sprintf(
			"the trainer reported: %s (asked for %d bytes, held %d)", wire.Truncate(f.OutOfMemory.Message, 2000),
			f.OutOfMemory.RequestedBytes, f.OutOfMemory.AllocatedBytes)}
		if err := a.OOM(report); err != nil {
			return unavailable(err)
		}
	case *trainv1.TrainRequest_DataOutage:
		a.DataOutage(f.DataOutage.Active)
	case *trainv1.TrainRequest_Finished:
		err := a.Finish(lease.Finished{
			Outcome: wire.OutcomeOf(f.Finished.Outcome), Class: wire.ClassOf(f.Finished.FailureClass),
			Message: f.Finished.Message, Problems: f.Finished.Problems,
		})
		if err != nil {
			return unavailable(err)
		}
	default:
		return rpcerr.Protocol("frame %d is of an unknown kind", frame.Sequence)
	}
	return a.Mark(ctx, frame.Sequence)
}

func (c *conversation) batch(ctx context.Context, sequence uint64, batch *registryv1.IngestRequest) error {
	batch.JobId, batch.Attempt, batch.Fence = c.attempt.JobID, c.attempt.Attempt, c.attempt.Fence
	payload, err := proto.Marshal(batch)
	if err != nil {
		return rpcerr.Internal(err)
	}
	return c.attempt.Batch(ctx, sequence, payload)
}

// unavailable is what a trainer hears when the host cannot write: it keeps the
// frame and sends it again.
func unavailable(err error) error {
	return rpcerr.Unavailable("the host cannot make the frame durable now").WithCause(err)
}

func staged(files ...*trainv1.StagedFile) []lease.File {
	out := make([]lease.File, len(files))
	for i, f := range files {
		out[i] = lease.File{Path: f.Path, SHA256: [32]byte(f.Sha256), Size: f.SizeBytes}
	}
	return out
}

// PushArtifact receives one file into staging.
func (s *Server) PushArtifact(stream trainv1.TrainService_PushArtifactServer) error {
	return s.refuse("PushArtifact", stream, s.push(stream))
}

func (s *Server) push(stream trainv1.TrainService_PushArtifactServer) error {
	announce(stream)
	first, err := receive(stream.Recv)
	if err != nil {
		return err
	}
	header := first.GetHeader()
	if header == nil {
		return rpcerr.Protocol("the first frame must be the header")
	}
	attempt := s.host.Authenticate(header.Token)
	if attempt == nil {
		return errUnknownToken
	}
	up, err := attempt.Receive(header.SizeBytes)
	if err != nil {
		return pushError(err)
	}
	w := newWriter(up)
	for {
		frame, err := receive(stream.Recv)
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = rpcerr.Protocol("the upload ended without a footer")
			}
			return s.abort(w, err)
		}
		switch f := frame.Frame.(type) {
		case *trainv1.PushArtifactRequest_Chunk:
			if err := w.write(f.Chunk); err != nil {
				return s.abort(w, pushError(err))
			}
		case *trainv1.PushArtifactRequest_Footer:
			if err := w.finish(); err != nil {
				return s.abort(w, pushError(err))
			}
			digest := [32]byte(f.Footer.Sha256)
			if err := up.Commit(digest); err != nil {
				return pushError(err)
			}
			return stream.SendAndClose(&trainv1.PushArtifactResponse{Sha256: digest[:], SizeBytes: header.SizeBytes})
		default:
			return s.abort(w, rpcerr.Protocol("a second header"))
		}
	}
}

// writer hashes and writes an upload's chunks while the next ones are received:
// each is half of the work, and a host has more than one processor.
type writer struct {
	up     *staging.Upload
	chunks chan []byte
	done   chan struct{} // closed once err is final
	err    error
	once   sync.Once
}

// chunksAhead bounds what an upload holds in memory.
const chunksAhead = 4

func newWriter(up *staging.Upload) *writer {
	w := &writer{up: up, chunks: make(chan []byte, chunksAhead), done: make(chan struct{})}
	go func() {
		defer close(w.done)
		for chunk := range w.chunks {
			if _, w.err = up.Write(chunk); w.err != nil {
				return
			}
			recycle(chunk)
		}
	}()
	return w
}

// write hands a chunk over; an error may be that of an earlier one.
func (w *writer) write(chunk []byte) error {
	select {
	case w.chunks <- chunk:
		return nil
	case <-w.done:
		return w.err
	}
}

// finish waits until everything that was handed over is written.
func (w *writer) finish() error {
	w.once.Do(func() { close(w.chunks) })
	<-w.done
	return w.err
}

func (s *Server) abort(w *writer, cause error) error {
	_ = w.finish() // the cause says more
	if err := w.up.Abort(); err != nil {
		s.log.Warn("an upload was not removed", zap.Error(err))
	}
	return cause
}

func pushError(err error) error {
	switch {
	case errors.Is(err, staging.ErrFull):
		return rpcerr.New(codes.ResourceExhausted, errorv1.Reason_REASON_SPOOL_FULL, "%v", err).WithRetry(5 * time.Second)
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return rpcerr.New(codes.ResourceExhausted, errorv1.Reason_REASON_SPOOL_FULL, "the host's disk has no room for the file").WithRetry(5 * time.Second).WithCause(err)
	case errors.Is(err, staging.ErrSize), errors.Is(err, staging.ErrDigest):
		return rpcerr.New(codes.InvalidArgument, errorv1.Reason_REASON_ARTIFACT_REJECTED, "%v", err)
	}
	return unavailable(err)
}
