package registryapi

import (
	"context"
	"errors"
	"io"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"github.com/ultrathink-pilot/trainyard/libs/objectstore"
	"github.com/ultrathink-pilot/trainyard/libs/rpcerr"
	errorv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/error/v1"
	registryv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/registry/v1"
	"github.com/ultrathink-pilot/trainyard/services/registry/internal/catalog"
	"github.com/ultrathink-pilot/trainyard/services/registry/internal/contents"
)

const chunkSize = 256 << 10

func (s *runServer) DownloadArtifact(r *registryv1.DownloadArtifactRequest, stream grpc.ServerStreamingServer[registryv1.DownloadArtifactResponse]) error {
	a, err := s.Store.GetArtifact(stream.Context(), r.GetRunId(), r.GetPath())
	if err != nil {
		return wire(err)
	}
	return s.send(stream.Context(), catalog.File{SHA256: a.SHA256, Size: a.Size, ObjectKey: a.ObjectKey}, r.GetOffset(), r.GetLength(), func(b []byte) error {
		return stream.Send(&registryv1.DownloadArtifactResponse{Chunk: b})
	})
}

func (s *runServer) DownloadCheckpointFile(r *registryv1.DownloadCheckpointFileRequest, stream grpc.ServerStreamingServer[registryv1.DownloadCheckpointFileResponse]) error {
	c, err := s.Store.GetCheckpoint(stream.Context(), r.GetCheckpointId())
	if err != nil {
		return wire(err)
	}
	if c.State != catalog.Live && c.State != catalog.Tombstoned {
		return wire(catalog.Refuse(catalog.ProblemState, "checkpoints/"+c.ID, "is %s", c.State))
	}
	for _, f := range c.Files {
		if f.Name != r.GetPath() {
			continue
		}
		return s.send(stream.Context(), f, r.GetOffset(), r.GetLength(), func(b []byte) error {
			return stream.Send(&registryv1.DownloadCheckpointFileResponse{Chunk: b})
		})
	}
	return wire(catalog.NotFound("checkpoints/" + c.ID + "/" + r.GetPath()))
}

// send streams a file, or a range of it, in chunks. The whole file is verified on the way:
// the last chunk of bytes that are not what was committed is followed by DATA_LOSS, never by
// a clean end.
func (a *api) send(ctx context.Context, f catalog.File, offset, length int64, chunk func([]byte) error) (err error) {
	if offset > f.Size {
		return rpcerr.Invalid(rpcerr.Violation{Field: "offset", Description: "is behind the end of the content"})
	}
	var body io.ReadCloser
	if offset == 0 && (length == 0 || length >= f.Size) {
		body, err = contents.Open(ctx, a.Objects, f)
	} else {
		if length == 0 || length > f.Size-offset {
			length = f.Size - offset
		}
		body, err = contents.OpenRange(ctx, a.Objects, f, offset, length)
	}
	if err != nil {
		return dataLoss(err)
	}
	defer func() {
		if cerr := body.Close(); err == nil && cerr != nil {
			err = dataLoss(cerr)
		}
	}()
	buffer := make([]byte, chunkSize)
	filled := 0
	for {
		// Not io.ReadFull: it makes a connection that broke look like a short last chunk.
		n, err := body.Read(buffer[filled:])
		filled += n
		if filled == len(buffer) || err != nil && filled > 0 {
			if err := chunk(buffer[:filled]); err != nil {
				return err
			}
			filled = 0
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return dataLoss(err)
		}
	}
}

func dataLoss(err error) error {
	if errors.Is(err, objectstore.ErrDigestMismatch) || errors.Is(err, objectstore.ErrNotFound) {
		return rpcerr.New(codes.DataLoss, errorv1.Reason_REASON_DIGEST_MISMATCH, "the stored bytes are not what was committed").WithCause(err)
	}
	return wire(err)
}

func (s *runServer) GetCheckpointLineage(ctx context.Context, r *registryv1.GetCheckpointLineageRequest) (*registryv1.GetCheckpointLineageResponse, error) {
	l, err := s.Store.CheckpointLineage(ctx, r.GetCheckpointId())
	if err != nil {
		return nil, wire(err)
	}
	out := &registryv1.GetCheckpointLineageResponse{}
	for _, c := range l.Ancestry {
		out.Ancestry = append(out.Ancestry, checkpoint(c))
	}
	for _, c := range l.Children {
		out.Children = append(out.Children, checkpoint(c))
	}
	for _, v := range l.Versions {
		out.Versions = append(out.Versions, &registryv1.GetCheckpointLineageResponse_VersionRef{ModelName: v.Model, Version: int64(v.Version)})
	}
	return out, nil
}
