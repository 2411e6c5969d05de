package gpuagent_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"go.uber.org/zap"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/ultrathink-pilot/trainyard/libs/identity"
	"github.com/ultrathink-pilot/trainyard/libs/rpcerr"
	"github.com/ultrathink-pilot/trainyard/libs/rpcserver"
	fleetv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/fleet/v1"
	registryv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/registry/v1"
)

// scheduler is a SynchronizeService that wants what a test tells it.
type scheduler struct {
	fleetv1.UnimplementedSynchronizeServiceServer
	mu       sync.Mutex
	changed  chan struct{}
	revision int64
	assign   []*fleetv1.Assignment
	stops    []*fleetv1.StopOrder
	lease    time.Duration
	silent   bool
	report   *fleetv1.AgentReport
	exits    map[uint64]*fleetv1.Exit
	repeats  int // exits that came again after they were acknowledged
	acked    map[uint64]bool
	running  map[uint64]time.Time // when a lease was first reported as running
}

func newScheduler() *scheduler {
	return &scheduler{changed: make(chan struct{}), revision: 1, lease: time.Minute, exits: map[uint64]*fleetv1.Exit{}, acked: map[uint64]bool{}, running: map[uint64]time.Time{}}
}

func (s *scheduler) bump() {
	s.revision++
	close(s.changed)
	s.changed = make(chan struct{})
}

func (s *scheduler) Synchronize(ctx context.Context, req *fleetv1.SynchronizeRequest) (*fleetv1.SynchronizeResponse, error) {
	s.mu.Lock()
	if s.silent {
		s.mu.Unlock()
		return nil, rpcerr.Unavailable("silent")
	}
	s.report = req.Report
	for _, l := range req.Report.Leases {
		if _, known := s.running[l.Fence]; !known && l.Phase == fleetv1.HeldLease_PHASE_RUNNING {
			s.running[l.Fence] = time.Now()
		}
	}
	for _, x := range req.Report.Exits {
		if s.acked[x.Fence] {
			s.repeats++
		}
		s.exits[x.Fence] = x
		before := len(s.assign)
		s.assign = slices.DeleteFunc(s.assign, func(a *fleetv1.Assignment) bool { return a.Fence == x.Fence })
		s.stops = slices.DeleteFunc(s.stops, func(o *fleetv1.StopOrder) bool { return o.Fence == x.Fence })
		if len(s.assign) != before {
			s.revision++
		}
	}
	for len(req.Report.Exits) == 0 && req.KnownRevision == s.revision {
		changed := s.changed
		s.mu.Unlock()
		select {
		case <-changed:
		case <-time.After(300 * time.Millisecond):
			s.mu.Lock()
			return s.answer(req), s.unlock()
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		s.mu.Lock()
	}
	return s.answer(req), s.unlock()
}

func (s *scheduler) unlock() error { s.mu.Unlock(); return nil }

func (s *scheduler) answer(req *fleetv1.SynchronizeRequest) *fleetv1.SynchronizeResponse {
	out := &fleetv1.SynchronizeResponse{
		DesiredRevision: s.revision, Assignments: slices.Clone(s.assign), Stops: slices.Clone(s.stops),
		LeaseDuration: durationpb.New(s.lease), NextContact: durationpb.New(time.Second),
	}
	for _, x := range req.Report.Exits {
		out.AcknowledgedExits = append(out.AcknowledgedExits, &fleetv1.ExitKey{JobId: x.JobId, Attempt: x.Attempt, Fence: x.Fence})
	}
	return out
}

func (s *scheduler) with(fn func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	fn()
	s.bump()
}

func (s *scheduler) exit(fence uint64) *fleetv1.Exit {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.exits[fence]
}

func (s *scheduler) phase(fence uint64) fleetv1.HeldLease_Phase {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.report != nil {
		for _, l := range s.report.Leases {
			if l.Fence == fence {
				return l.Phase
			}
		}
	}
	return fleetv1.HeldLease_PHASE_UNSPECIFIED
}

type batchKey struct{ fence, sequence uint64 }

// registry is an IngestService with an object store behind presigned URLs.
type registry struct {
	registryv1.UnimplementedIngestServiceServer
	mu          sync.Mutex
	away        bool
	fences      map[string]uint64
	batches     map[batchKey]*registryv1.IngestRequest
	order       map[uint64][]uint64 // by fence: sequences as they came first
	staged      map[string]*registryv1.BeginCheckpointRequest
	checkpoints map[string]*registryv1.Checkpoint
	corrupt     []string
	artifacts   map[string]*registryv1.CheckpointFile
	objects     map[string][]byte
	store       *httptest.Server
}

func newRegistry(t *testing.T) *registry {
	r := &registry{
		fences: map[string]uint64{}, batches: map[batchKey]*registryv1.IngestRequest{}, order: map[uint64][]uint64{},
		staged: map[string]*registryv1.BeginCheckpointRequest{}, checkpoints: map[string]*registryv1.Checkpoint{},
		artifacts: map[string]*registryv1.CheckpointFile{}, objects: map[string][]byte{},
	}
	r.store = httptest.NewServer(http.HandlerFunc(r.serve))
	t.Cleanup(r.store.Close)
	return r
}

func (r *registry) serve(w http.ResponseWriter, req *http.Request) {
	digest := strings.TrimPrefix(req.URL.Path, "/")
	if req.Method == http.MethodPut {
		body, err := io.ReadAll(req.Body)
		sum := sha256.Sum256(body)
		if err != nil || hex.EncodeToString(sum[:]) != digest {
			http.Error(w, "bad digest", http.StatusBadRequest)
			return
		}
		r.mu.Lock()
		r.objects[digest] = body
		r.mu.Unlock()
		return
	}
	r.mu.Lock()
	body, ok := r.objects[digest]
	r.mu.Unlock()
	if !ok {
		http.NotFound(w, req)
		return
	}
	_, _ = w.Write(body) // the reader notices a short answer
}

func (r *registry) transfer(method string, f *registryv1.CheckpointFile) *registryv1.TransferURL {
	return &registryv1.TransferURL{Sha256: f.Sha256, SizeBytes: f.SizeBytes, Method: method, Url: r.store.URL + "/" + hex.EncodeToString(f.Sha256)}
}

func (r *registry) check() error {
	if r.away {
		return rpcerr.Unavailable("away")
	}
	return nil
}

func (r *registry) Ingest(stream registryv1.IngestService_IngestServer) error {
	for {
		b, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		r.mu.Lock()
		if err := r.check(); err != nil {
			r.mu.Unlock()
			return err
		}
		resp := &registryv1.IngestResponse{JobId: b.JobId, Attempt: b.Attempt, Fence: b.Fence, Sequence: b.Sequence, Result: registryv1.IngestResponse_RESULT_ACCEPTED}
		if b.GetOpened() != nil {
			r.fences[b.JobId] = max(r.fences[b.JobId], b.Fence)
		}
		key := batchKey{b.Fence, b.Sequence}
		if b.Fence < r.fences[b.JobId] {
			resp.Result, resp.Reason = registryv1.IngestResponse_RESULT_REFUSED, "REASON_LEASE_FENCED"
		} else if r.batches[key] == nil {
			r.batches[key] = b
			r.order[b.Fence] = append(r.order[b.Fence], b.Sequence)
		}
		r.mu.Unlock()
		if err := stream.Send(resp); err != nil {
			return err
		}
	}
}

func (r *registry) BeginCheckpoint(_ context.Context, req *registryv1.BeginCheckpointRequest) (*registryv1.BeginCheckpointResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.check(); err != nil {
		return nil, err
	}
	id := uuid.NewSHA1(uuid.NameSpaceOID, []byte(req.RequestId)).String()
	r.staged[id] = req
	out := &registryv1.BeginCheckpointResponse{CheckpointId: id}
	for _, f := range contents(req.Files) {
		if _, ok := r.objects[hex.EncodeToString(f.Sha256)]; !ok {
			out.Uploads = append(out.Uploads, r.transfer(http.MethodPut, f))
		}
	}
	return out, nil
}

// contents are what files are stored as.
func contents(files []*registryv1.CheckpointFile) (out []*registryv1.CheckpointFile) {
	for _, f := range files {
		for _, c := range f.Chunks {
			out = append(out, &registryv1.CheckpointFile{Path: f.Path, Sha256: c.Sha256, SizeBytes: c.SizeBytes})
		}
		if len(f.Chunks) == 0 {
			out = append(out, f)
		}
	}
	return out
}

func (r *registry) CommitCheckpoint(_ context.Context, req *registryv1.CommitCheckpointRequest) (*registryv1.CommitCheckpointResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.check(); err != nil {
		return nil, err
	}
	begun := r.staged[req.CheckpointId]
	if begun == nil {
		return nil, rpcerr.NotFound("no such checkpoint")
	}
	c := &registryv1.Checkpoint{CheckpointId: req.CheckpointId, RunId: begun.JobId, Fence: req.Fence, Step: begun.Step, Files: begun.Files, Metrics: req.Metrics}
	r.checkpoints[req.CheckpointId] = c
	return &registryv1.CommitCheckpointResponse{Checkpoint: c}, nil
}

func (r *registry) ResolveCheckpoint(_ context.Context, req *registryv1.ResolveCheckpointRequest) (*registryv1.ResolveCheckpointResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.check(); err != nil {
		return nil, err
	}
	var best *registryv1.Checkpoint
	for _, c := range r.checkpoints {
		if c.RunId == req.JobId && !slices.Contains(r.corrupt, c.CheckpointId) && (best == nil || c.Step > best.Step) {
			best = c
		}
	}
	if best == nil {
		return nil, rpcerr.NotFound("none")
	}
	out := &registryv1.ResolveCheckpointResponse{Checkpoint: best}
	for _, f := range contents(best.Files) {
		out.Downloads = append(out.Downloads, r.transfer(http.MethodGet, f))
	}
	return out, nil
}

func (r *registry) ReportCorruptCheckpoint(_ context.Context, req *registryv1.ReportCorruptCheckpointRequest) (*registryv1.ReportCorruptCheckpointResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.corrupt = append(r.corrupt, req.CheckpointId)
	return &registryv1.ReportCorruptCheckpointResponse{}, nil
}

func (r *registry) BeginArtifact(_ context.Context, req *registryv1.BeginArtifactRequest) (*registryv1.BeginArtifactResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return &registryv1.BeginArtifactResponse{Upload: r.transfer(http.MethodPut, req.File)}, r.check()
}

func (r *registry) CommitArtifact(_ context.Context, req *registryv1.CommitArtifactRequest) (*registryv1.CommitArtifactResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.artifacts[req.File.Path] = req.File
	return &registryv1.CommitArtifactResponse{}, r.check()
}

func (r *registry) set(fn func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	fn()
}

// steps returns the steps of an attempt's points in the order of their batches,
// and whether the attempt was opened first and closed last.
func (r *registry) steps(fence uint64) (steps []int64, opened, closed bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	order := r.order[fence]
	if !slices.IsSorted(order) {
		return nil, false, false
	}
	for i, sequence := range order {
		b := r.batches[batchKey{fence, sequence}]
		opened = opened || i == 0 && b.GetOpened() != nil
		closed = b.GetClosed() != nil
		for _, p := range b.GetMetrics().GetPoints() {
			steps = append(steps, p.Step)
		}
	}
	return steps, opened, closed
}

// serve runs fakes behind the real server, with the real identities.
func serve(t *testing.T, files identity.Files, register func(*rpcserver.Server), allow rpcserver.AllowTable) string {
	t.Helper()
	tls, err := identity.ServerTLS(files)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server, err := rpcserver.New(rpcserver.Options{Name: "fake", Listener: listener, TLS: tls, Log: zap.NewNop(), Allow: allow, Drain: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	register(server)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- server.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return listener.Addr().String()
}
