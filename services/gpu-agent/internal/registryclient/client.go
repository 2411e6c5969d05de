// Package registryclient is the agent's edge to the registry: it turns domain
// values into registry.v1 messages and answers into the few errors that the
// agent acts on, and moves bytes over presigned URLs.
package registryclient

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/google/uuid"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/ultrathink-pilot/trainyard/libs/rpcerr"
	"github.com/ultrathink-pilot/trainyard/libs/telemetry"
	errorv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/error/v1"
	registryv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/registry/v1"
	trainv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/train/v1"
	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/lease"
)

// callTimeout bounds one unary call; the caller tries again with backoff.
const callTimeout = 20 * time.Second

// Client is safe for concurrent use.
type Client struct {
	ingest    registryv1.IngestServiceClient
	http      *http.Client
	log       *zap.Logger
	agentName string
}

// New returns a client over conn. transfers moves the bytes; it must not follow
// redirects to other hosts.
func New(conn grpc.ClientConnInterface, transfers *http.Client, agentName string, log *zap.Logger) *Client {
	return &Client{ingest: registryv1.NewIngestServiceClient(conn), http: transfers, log: log, agentName: agentName}
}

// translate maps an answer to what the agent does about it.
func translate(err error) error {
	if err == nil {
		return nil
	}
	switch rpcerr.ReasonOf(err) {
	case errorv1.Reason_REASON_LEASE_FENCED:
		return fmt.Errorf("%w: %w", lease.ErrFenced, err)
	case errorv1.Reason_REASON_DIGEST_MISMATCH:
		return fmt.Errorf("%w: %w", lease.ErrDigest, err)
	case errorv1.Reason_REASON_RESOURCE_NOT_FOUND:
		return fmt.Errorf("%w: %w", lease.ErrNotFound, err)
	}
	if e := rpcerr.FromError(err); e != nil {
		switch e.Code() {
		case codes.InvalidArgument, codes.AlreadyExists, codes.FailedPrecondition:
			return fmt.Errorf("%w: %w", lease.ErrRefused, err)
		}
	}
	return err
}

func wireFile(f lease.File) *registryv1.CheckpointFile {
	return &registryv1.CheckpointFile{Path: f.Path, Sha256: f.SHA256[:], SizeBytes: f.Size}
}

func transfers(in []*registryv1.TransferURL) ([]lease.Transfer, error) {
	out := make([]lease.Transfer, len(in))
	for i, t := range in {
		if len(t.Sha256) != 32 {
			return nil, errors.New("the registry sent a transfer without a digest")
		}
		out[i] = lease.Transfer{SHA256: [32]byte(t.Sha256), Size: t.SizeBytes, Method: t.Method, URL: t.Url, Headers: t.Headers}
	}
	return out, nil
}

// BeginCheckpoint announces a checkpoint and returns its id and the uploads
// that the store still needs, for whole files or for the chunks that they are
// stored as. The request id follows from all of it, so that a repeat after a crash
// is the same call.
func (c *Client) BeginCheckpoint(ctx context.Context, key lease.Key, step int64, in []lease.File, chunks map[string][]lease.Chunk) (string, []lease.Transfer, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	name := fmt.Sprintf("checkpoint/%s/%d", key, step)
	var files []*registryv1.CheckpointFile
	for _, f := range in {
		name += fmt.Sprintf("/%s=%x", f.Path, f.SHA256)
		file := wireFile(f)
		for _, chunk := range chunks[f.Path] {
			name += fmt.Sprintf("+%d", chunk.Size)
			file.Chunks = append(file.Chunks, &registryv1.Chunk{Sha256: chunk.SHA256[:], SizeBytes: chunk.Size})
		}
		files = append(files, file)
	}
	resp, err := c.ingest.BeginCheckpoint(ctx, &registryv1.BeginCheckpointRequest{
		RequestId: uuid.NewSHA1(uuid.NameSpaceOID, []byte(name)).String(),
		JobId:     key.JobID, Attempt: key.Attempt, Fence: key.Fence, Step: step, Files: files,
	})
	if err != nil {
		return "", nil, translate(err)
	}
	uploads, err := transfers(resp.Uploads)
	return resp.CheckpointId, uploads, err
}

// PrepareParts asks which parts of a file the store lacks; see upload.Registry.
func (c *Client) PrepareParts(ctx context.Context, key lease.Key, file lease.File, parts []lease.Part) (map[uint32]lease.Transfer, bool, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	req := &registryv1.PreparePartsRequest{JobId: key.JobID, Fence: key.Fence, File: wireFile(file)}
	for _, p := range parts {
		req.Parts = append(req.Parts, &registryv1.PreparePartsRequest_Part{Number: p.Number, SizeBytes: p.Size, Crc32C: p.CRC32C})
	}
	resp, err := c.ingest.PrepareParts(ctx, req)
	if status.Code(err) == codes.Unimplemented || rpcerr.ReasonOf(err) == errorv1.Reason_REASON_ILLEGAL_TRANSITION {
		return nil, false, lease.ErrNoParts
	}
	if err != nil {
		return nil, false, translate(err)
	}
	missing := make(map[uint32]lease.Transfer, len(resp.Missing))
	for _, m := range resp.Missing {
		missing[m.Number] = lease.Transfer{Method: m.Method, URL: m.Url, Headers: m.Headers}
	}
	return missing, resp.Complete, nil
}

// proofRate is how fast a store is trusted to read back what it was sent: the
// registry proves the digests before it commits.
const proofRate = 50 << 20 // bytes a second

// CommitCheckpoint makes a checkpoint exist. ready is the trainer's
// CheckpointReady in wire form; parent is the checkpoint that the attempt
// restored from.
func (c *Client) CommitCheckpoint(ctx context.Context, key lease.Key, id string, ready []byte, parent string) error {
	var frame trainv1.CheckpointReady
	if err := proto.Unmarshal(ready, &frame); err != nil {
		return fmt.Errorf("%w: %w", lease.ErrRefused, err)
	}
	var bytes int64
	for _, f := range frame.Files {
		bytes += f.SizeBytes
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout+time.Duration(bytes/proofRate)*time.Second)
	defer cancel()
	_, err := c.ingest.CommitCheckpoint(ctx, &registryv1.CommitCheckpointRequest{
		CheckpointId: id, Fence: key.Fence, Metrics: frame.Metrics, Resumable: frame.Resumable,
		FeatureSchema: frame.FeatureSchema, DataVersion: frame.DataVersion, EvaluationWindow: frame.EvaluationWindow,
		Trades: frame.Trades, ParentCheckpointId: parent, Traceparent: telemetry.TraceParent(ctx),
	})
	return translate(err)
}

// BeginArtifact announces a run artifact; nil means that the store has it.
func (c *Client) BeginArtifact(ctx context.Context, key lease.Key, file lease.File) (*lease.Transfer, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	resp, err := c.ingest.BeginArtifact(ctx, &registryv1.BeginArtifactRequest{
		JobId: key.JobID, Fence: key.Fence, File: wireFile(file),
	})
	if err != nil || resp.Upload == nil {
		return nil, translate(err)
	}
	out, err := transfers([]*registryv1.TransferURL{resp.Upload})
	if err != nil {
		return nil, err
	}
	return &out[0], nil
}

// CommitArtifact makes a run artifact visible.
func (c *Client) CommitArtifact(ctx context.Context, key lease.Key, file lease.File, contentType string) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout+time.Duration(file.Size/proofRate)*time.Second)
	defer cancel()
	_, err := c.ingest.CommitArtifact(ctx, &registryv1.CommitArtifactRequest{
		JobId: key.JobID, Fence: key.Fence, File: wireFile(file), ContentType: contentType,
	})
	return translate(err)
}

// Resolve returns a checkpoint; an empty id means the job's newest good resumable one.
func (c *Client) Resolve(ctx context.Context, key lease.Key, id string) (*lease.Checkpoint, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	resp, err := c.ingest.ResolveCheckpoint(ctx, &registryv1.ResolveCheckpointRequest{JobId: key.JobID, Fence: key.Fence, CheckpointId: id})
	if err != nil {
		return nil, translate(err)
	}
	found := &lease.Checkpoint{ID: resp.Checkpoint.GetCheckpointId(), Step: resp.Checkpoint.GetStep(), Chunks: map[string][]lease.Chunk{}}
	for _, f := range resp.Checkpoint.GetFiles() {
		if len(f.Sha256) != 32 {
			return nil, errors.New("the registry sent a file without a digest")
		}
		found.Files = append(found.Files, lease.File{Path: f.Path, SHA256: [32]byte(f.Sha256), Size: f.SizeBytes})
		for _, chunk := range f.Chunks {
			if len(chunk.Sha256) != 32 {
				return nil, errors.New("the registry sent a chunk without a digest")
			}
			found.Chunks[f.Path] = append(found.Chunks[f.Path], lease.Chunk{SHA256: [32]byte(chunk.Sha256), Size: chunk.SizeBytes})
		}
	}
	found.Downloads, err = transfers(resp.Downloads)
	return found, err
}

// ReportCorrupt marks a checkpoint whose bytes are not what was committed; bad are
// the contents that were not.
func (c *Client) ReportCorrupt(ctx context.Context, key lease.Key, id, reason string, bad ...[32]byte) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	ask := &registryv1.ReportCorruptCheckpointRequest{CheckpointId: id, Reason: reason, Fence: key.Fence}
	for _, digest := range bad {
		ask.ContentsSha256 = append(ask.ContentsSha256, digest[:])
	}
	_, err := c.ingest.ReportCorruptCheckpoint(ctx, ask)
	return translate(err)
}

// Put sends body to a presigned upload.
func (c *Client) Put(ctx context.Context, t lease.Transfer, body io.Reader) error {
	resp, err := c.do(ctx, t, io.NopCloser(body))
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10))
	return errors.Join(err, resp.Body.Close())
}

// Get returns the body of a presigned download.
func (c *Client) Get(ctx context.Context, t lease.Transfer) (io.ReadCloser, error) {
	resp, err := c.do(ctx, t, http.NoBody)
	if err != nil {
		return nil, err
	}
	return resp.Body, nil
}

func (c *Client) do(ctx context.Context, t lease.Transfer, body io.ReadCloser) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, t.Method, t.URL, body)
	if err != nil {
		return nil, errors.New("the registry sent an unusable URL") // the URL is a secret
	}
	if body != http.NoBody {
		req.ContentLength = t.Size
		if t.Size == 0 {
			req.Body = http.NoBody
		}
	}
	for name, value := range t.Headers {
		if strings.EqualFold(name, "Host") {
			req.Host = value
			continue
		}
		req.Header.Set(name, value)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, fmt.Errorf("%s of %x: %w", t.Method, t.SHA256[:6], unwrapURL(err))
	}
	if resp.StatusCode >= 300 {
		detail, readErr := io.ReadAll(io.LimitReader(resp.Body, 512))
		err := fmt.Errorf("%s of %x: the object store answered %s: %s", t.Method, t.SHA256[:6], resp.Status, detail)
		return nil, errors.Join(err, readErr, resp.Body.Close())
	}
	return resp, nil
}

// unwrapURL drops the URL that net/http puts into its errors.
func unwrapURL(err error) error {
	for {
		inner := errors.Unwrap(err)
		if inner == nil || !strings.Contains(err.Error(), "http") {
			return err
		}
		err = inner
	}
}
