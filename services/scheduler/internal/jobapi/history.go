package jobapi

import (
	"context"
	"errors"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/ultrathink-pilot/trainyard/libs/objectstore"
	"github.com/ultrathink-pilot/trainyard/libs/rpcerr"
	jobv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/job/v1"
	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/archive"
	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/cycle"
)

// Archive puts the histories of jobs that leave the database away, in the form in which
// the API gives them.
type Archive struct{ files *archive.Archive }

// NewArchive keeps histories in an archive.
func NewArchive(files *archive.Archive) *Archive { return &Archive{files} }

var _ cycle.Archive = (*Archive)(nil)

// Keep implements cycle.Archive.
func (a *Archive) Keep(ctx context.Context, histories []cycle.History) error {
	lines := make([]archive.Line, len(histories))
	for i, h := range histories {
		raw, err := protojson.Marshal(historyTo(h))
		if err != nil {
			return err
		}
		lines[i] = archive.Line{Job: h.Job.ID, Ended: h.Job.Finished, JSON: raw}
	}
	return a.files.Keep(ctx, lines)
}

func historyTo(h cycle.History) *jobv1.JobHistory {
	out := &jobv1.JobHistory{Job: jobTo(cycle.View{Record: h.Record}, true)}
	for _, d := range h.Decisions {
		out.Decisions = append(out.Decisions, &jobv1.Decision{Time: timestamppb.New(d.At), Action: d.Action, Reason: d.Reason, Attempt: uint32(d.Attempt)})
	}
	return out
}

// GetJobHistory returns all that was decided on a job.
func (s *Jobs) GetJobHistory(ctx context.Context, in *jobv1.GetJobHistoryRequest) (*jobv1.GetJobHistoryResponse, error) {
	id := in.GetJobId()
	h, err := s.engine.History(ctx, id)
	switch {
	case err == nil:
		return &jobv1.GetJobHistoryResponse{History: historyTo(h)}, nil
	case !errors.Is(err, cycle.ErrNotFound) || s.archive == nil:
		return nil, wire(err, "job "+id)
	}
	raw, file, err := s.archive.files.Find(ctx, id)
	if errors.Is(err, archive.ErrNotFound) {
		return nil, wire(cycle.ErrNotFound, "job "+id)
	}
	if errors.Is(err, objectstore.ErrUnavailable) {
		return nil, rpcerr.Unavailable("the archive of ended jobs is away; ask again").WithCause(err).With("job_id", id)
	}
	if err != nil {
		return nil, rpcerr.Internal(err).With("job_id", id)
	}
	out := &jobv1.GetJobHistoryResponse{History: &jobv1.JobHistory{}, ArchiveFile: file}
	// Written by another version, it may have fields that this one does not know.
	if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(raw, out.History); err != nil {
		return nil, rpcerr.Internal(err).With("job_id", id)
	}
	return out, nil
}
