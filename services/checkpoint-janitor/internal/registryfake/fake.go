// Package registryfake is the registry's retention contract in memory, for the
// tests of the janitor's shells: states, roots looked at under a lock, request
// ids with replay, and contents that several checkpoints share. It serves over
// an in-memory listener, so that the real client, codec and errors take part.
package registryfake

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/ultrathink-pilot/trainyard/libs/objectstore"
	"github.com/ultrathink-pilot/trainyard/libs/rpcerr"
	errorv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/error/v1"
	registryv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/registry/v1"
)

// Registry is the fake. Use its methods, not its fields, while it serves.
type Registry struct {
	registryv1.UnimplementedRetentionServiceServer

	bucket *objectstore.Store
	mu     sync.Mutex
	rows   map[string]*row
	ledger map[string]entry
	now    func() time.Time
	// rogue is released by every BeginDelete too, as a broken registry would.
	rogue   string
	packed  map[string]*packed
	leaving map[string]leaving
	removed map[string]bool
	bad     map[string]bool
	serial  int
	// hidden rows are left out of listings, as a broken catalogue would.
	hidden map[string]bool
}

type row struct {
	checkpoint *registryv1.Checkpoint
	roots      []*registryv1.Root
	active     bool
}

type entry struct {
	request []byte
	answer  proto.Message
}

// New makes an empty registry over a bucket.
func New(bucket *objectstore.Store) *Registry {
	return &Registry{bucket: bucket, rows: map[string]*row{}, ledger: map[string]entry{}, now: time.Now, hidden: map[string]bool{},
		packed: map[string]*packed{}, leaving: map[string]leaving{}, removed: map[string]bool{}, bad: map[string]bool{}}
}

// Serve starts it and returns a connection; both end with the test.
func (r *Registry) Serve(t testing.TB) *grpc.ClientConn {
	t.Helper()
	listener := bufconn.Listen(1 << 20)
	server := grpc.NewServer()
	registryv1.RegisterRetentionServiceServer(server, r)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(listener) // it only ends by Stop
	}()
	conn, err := grpc.NewClient("passthrough:///registry", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
		server.Stop()
		<-done
	})
	return conn
}

// Commit uploads contents and commits them as one checkpoint.
func (r *Registry) Commit(t testing.TB, id, experiment string, age time.Duration, sharpe float64, contents ...string) {
	t.Helper()
	c := &registryv1.Checkpoint{
		CheckpointId: id, RunId: "run-" + experiment, Experiment: experiment, State: registryv1.Checkpoint_STATE_LIVE,
		Metrics: map[string]float64{"validation/sharpe": sharpe}, CreateTime: timestamppb.New(r.now().Add(-age)),
	}
	for i, content := range contents {
		sum := sha256.Sum256([]byte(content))
		if _, err := r.bucket.PutBytes(t.Context(), Key(hex.EncodeToString(sum[:])), []byte(content)); err != nil {
			t.Fatal(err)
		}
		c.Files = append(c.Files, &registryv1.CheckpointFile{Path: fmt.Sprintf("file%d", i), Sha256: sum[:], SizeBytes: int64(len(content))})
		c.SizeBytes += int64(len(content))
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.rows[id] = &row{checkpoint: c}
}

// Key is where a content lives.
func Key(digest string) string { return "blobs/" + digest[:2] + "/" + digest + ".1" }

// Root makes something refer to a checkpoint; kind zero takes all away.
func (r *Registry) Root(id string, kind registryv1.Root_Kind, description string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	w := r.rows[id]
	if kind == 0 {
		w.roots = nil
		return
	}
	if w.checkpoint.GetState() == registryv1.Checkpoint_STATE_TOMBSTONED && kind != registryv1.Root_KIND_PIN {
		w.checkpoint.State, w.checkpoint.TombstoneTime = registryv1.Checkpoint_STATE_LIVE, nil // promotion revives
	}
	w.roots = append(w.roots, &registryv1.Root{Kind: kind, Description: description})
}

// Rogue makes the next releases contain a key that nobody asked for.
func (r *Registry) Rogue(key string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.rogue = key
}

// Hide leaves a checkpoint out of listings while it is still counted.
func (r *Registry) Hide(id string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.hidden[id] = true
}

// State of a checkpoint.
func (r *Registry) State(id string) registryv1.Checkpoint_State {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.rows[id].checkpoint.GetState()
}

// ListInventory pages by id.
func (r *Registry) ListInventory(_ context.Context, req *registryv1.ListInventoryRequest) (*registryv1.ListInventoryResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := &registryv1.ListInventoryResponse{}
	for _, id := range slices.Sorted(maps.Keys(r.rows)) {
		w := r.rows[id]
		if w.checkpoint.GetState() == registryv1.Checkpoint_STATE_DELETED {
			continue
		}
		if wanted := req.GetContentsSha256(); len(wanted) > 0 && !slices.ContainsFunc(w.checkpoint.GetFiles(), func(f *registryv1.CheckpointFile) bool {
			return slices.ContainsFunc(wanted, func(sum []byte) bool { return bytes.Equal(sum, f.GetSha256()) })
		}) {
			continue
		}
		out.TotalCount++
		if id <= req.GetPageToken() || r.hidden[id] || out.GetNextPageToken() != "" {
			continue
		}
		out.Items = append(out.Items, &registryv1.InventoryItem{
			Checkpoint: proto.CloneOf(w.checkpoint), Roots: slices.Clone(w.roots), RunActive: w.active,
		})
		if len(out.Items) == 3 { // small pages, so that every test pages
			out.NextPageToken = id
		}
	}
	return out, nil
}

// once is the ledger; callers hold the lock.
func once[R proto.Message](r *Registry, id string, req proto.Message, fn func() R) (R, error) {
	raw, err := proto.MarshalOptions{Deterministic: true}.Marshal(req)
	if err != nil {
		var none R
		return none, err
	}
	if e, ok := r.ledger[id]; ok {
		if string(e.request) != string(raw) {
			var none R
			return none, rpcerr.New(codes.InvalidArgument, errorv1.Reason_REASON_REQUEST_ID_REUSED, "request_id was used before").GRPCStatus().Err()
		}
		return e.answer.(R), nil
	}
	answer := fn()
	r.ledger[id] = entry{raw, answer}
	return answer, nil
}

// TombstoneCheckpoints condemns what nothing refers to.
func (r *Registry) TombstoneCheckpoints(_ context.Context, req *registryv1.TombstoneCheckpointsRequest) (*registryv1.TombstoneCheckpointsResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return once(r, req.GetRequestId(), req, func() *registryv1.TombstoneCheckpointsResponse {
		return &registryv1.TombstoneCheckpointsResponse{Results: r.each(req.GetCheckpointIds(), func(w *row) string {
			switch w.checkpoint.GetState() {
			case registryv1.Checkpoint_STATE_TOMBSTONED:
				return ""
			case registryv1.Checkpoint_STATE_LIVE:
			default:
				return "it is " + w.checkpoint.GetState().String()
			}
			if len(w.roots) > 0 {
				return w.roots[0].GetDescription()
			}
			w.checkpoint.State = registryv1.Checkpoint_STATE_TOMBSTONED
			w.checkpoint.TombstoneTime = timestamppb.New(r.now())
			return ""
		})}
	})
}

// RestoreCheckpoints takes tombstones back.
func (r *Registry) RestoreCheckpoints(_ context.Context, req *registryv1.RestoreCheckpointsRequest) (*registryv1.RestoreCheckpointsResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return once(r, req.GetRequestId(), req, func() *registryv1.RestoreCheckpointsResponse {
		return &registryv1.RestoreCheckpointsResponse{Results: r.each(req.GetCheckpointIds(), func(w *row) string {
			switch w.checkpoint.GetState() {
			case registryv1.Checkpoint_STATE_TOMBSTONED:
				w.checkpoint.State, w.checkpoint.TombstoneTime = registryv1.Checkpoint_STATE_LIVE, nil
				return ""
			case registryv1.Checkpoint_STATE_LIVE:
				return ""
			default:
				return "its bytes are gone"
			}
		})}
	})
}

// BeginDeleteCheckpoints is the second check.
func (r *Registry) BeginDeleteCheckpoints(_ context.Context, req *registryv1.BeginDeleteCheckpointsRequest) (*registryv1.BeginDeleteCheckpointsResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return once(r, req.GetRequestId(), req, func() *registryv1.BeginDeleteCheckpointsResponse {
		out := &registryv1.BeginDeleteCheckpointsResponse{Results: r.each(req.GetCheckpointIds(), func(w *row) string {
			switch w.checkpoint.GetState() {
			case registryv1.Checkpoint_STATE_DELETING:
				return ""
			case registryv1.Checkpoint_STATE_TOMBSTONED:
			default:
				return "it is " + w.checkpoint.GetState().String()
			}
			if len(w.roots) > 0 {
				return w.roots[0].GetDescription()
			}
			if r.now().Sub(w.checkpoint.GetTombstoneTime().AsTime()) < req.GetGrace().AsDuration() {
				return "its grace is not over"
			}
			w.checkpoint.State = registryv1.Checkpoint_STATE_DELETING
			return ""
		})}
		held := map[string]bool{}
		for _, w := range r.rows {
			if s := w.checkpoint.GetState(); s != registryv1.Checkpoint_STATE_DELETING && s != registryv1.Checkpoint_STATE_DELETED {
				for _, f := range w.checkpoint.GetFiles() {
					held[string(f.GetSha256())] = true
				}
			}
		}
		for _, res := range out.GetResults() {
			if !res.GetDone() {
				continue
			}
			for _, f := range r.rows[res.GetCheckpointId()].checkpoint.GetFiles() {
				if !held[string(f.GetSha256())] {
					held[string(f.GetSha256())] = true
					digest := hex.EncodeToString(f.GetSha256())
					if c := r.packed[digest]; c != nil {
						r.leaving[c.key] = leaving{c.bytes, r.now()}
						delete(r.packed, digest)
					}
					if r.removed[Key(digest)] {
						continue
					}
					out.ObjectKeys = append(out.ObjectKeys, Key(hex.EncodeToString(f.GetSha256())))
				}
			}
		}
		if r.rogue != "" {
			out.ObjectKeys = append(out.ObjectKeys, r.rogue)
		}
		return out
	})
}

// ConfirmDeleted ends the life of a checkpoint.
func (r *Registry) ConfirmDeleted(_ context.Context, req *registryv1.ConfirmDeletedRequest) (*registryv1.ConfirmDeletedResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return once(r, req.GetRequestId(), req, func() *registryv1.ConfirmDeletedResponse {
		return &registryv1.ConfirmDeletedResponse{Results: r.each(req.GetCheckpointIds(), func(w *row) string {
			switch w.checkpoint.GetState() {
			case registryv1.Checkpoint_STATE_DELETING, registryv1.Checkpoint_STATE_DELETED:
				w.checkpoint.State = registryv1.Checkpoint_STATE_DELETED
				return ""
			default:
				return "it is " + w.checkpoint.GetState().String()
			}
		})}
	})
}

func (r *Registry) each(ids []string, fn func(w *row) (refusal string)) []*registryv1.RetentionResult {
	out := make([]*registryv1.RetentionResult, len(ids))
	for i, id := range ids {
		out[i] = &registryv1.RetentionResult{CheckpointId: id, Reason: "there is no such checkpoint"}
		w := r.rows[id]
		if w == nil {
			continue
		}
		out[i].Reason = fn(w)
		out[i].Done, out[i].State = out[i].Reason == "", w.checkpoint.GetState()
	}
	return out
}
