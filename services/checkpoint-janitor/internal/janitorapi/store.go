package janitorapi

import (
	"context"
	"fmt"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/ultrathink-pilot/trainyard/libs/identity"
	"github.com/ultrathink-pilot/trainyard/libs/rpcerr"
	janitorv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/janitor/v1"
	"github.com/ultrathink-pilot/trainyard/services/checkpoint-janitor/internal/drill"
	"github.com/ultrathink-pilot/trainyard/services/checkpoint-janitor/internal/inventory"
	"github.com/ultrathink-pilot/trainyard/services/checkpoint-janitor/internal/sweep"
)

const (
	findingsPage = 500
	findingsMost = 5000
)

// SetLegalHold passes the person's word on: the registry keeps it, where it holds against
// everybody.
func (s *Server) SetLegalHold(ctx context.Context, req *janitorv1.SetLegalHoldRequest) (*janitorv1.SetLegalHoldResponse, error) {
	caller, _ := identity.FromContext(ctx)
	done, err := s.Registry.SetLegalHold(ctx, req.GetRequestId(), req.GetCheckpointId(), req.GetHeld(), caller.String(), req.GetReason())
	if err != nil {
		return nil, away(err)
	}
	if !done.Done {
		return nil, rpcerr.IllegalTransition("", "checkpoint %s cannot be held: %s", req.GetCheckpointId(), done.Reason)
	}
	d, found, err := s.Planner.Explain(ctx, req.GetCheckpointId(), sweep.Now())
	if err != nil {
		return nil, away(err)
	}
	if !found {
		return nil, rpcerr.NotFound("the registry has no checkpoint %s with bytes", req.GetCheckpointId())
	}
	return &janitorv1.SetLegalHoldResponse{State: stateName(d.State)}, nil
}

// ListFindings compares the catalogue with the bucket.
func (s *Server) ListFindings(ctx context.Context, req *janitorv1.ListFindingsRequest) (*janitorv1.ListFindingsResponse, error) {
	now := sweep.Now()
	plan, stock, err := s.Planner.Decide(ctx, now)
	if err != nil {
		return nil, away(err)
	}
	if err := s.Planner.Sample(ctx, plan, stock); err != nil {
		return nil, err
	}
	seen, err := s.Store.OrphansSeen(ctx)
	if err != nil {
		return nil, err
	}
	limit := int(req.GetLimit())
	if limit == 0 {
		limit = findingsPage
	}
	limit = min(limit, findingsMost)
	out := &janitorv1.ListFindingsResponse{TotalCount: int64(len(stock.Findings))}
	for _, f := range stock.Findings[:min(limit, len(stock.Findings))] {
		m := &janitorv1.Finding{Kind: findingKind(f.Kind), ObjectKey: f.Key, SizeBytes: f.Bytes, Detail: f.Detail}
		if first, ok := seen[f.Key]; ok && f.Kind == inventory.KindOrphan {
			m.FirstSeenTime, m.DueTime = timestamppb.New(first), timestamppb.New(first.Add(s.Planner.Policy().Grace))
		}
		out.Findings = append(out.Findings, m)
	}
	return out, nil
}

func findingKind(k inventory.Kind) janitorv1.Finding_Kind {
	switch k {
	case inventory.KindOrphan:
		return janitorv1.Finding_KIND_ORPHAN
	case inventory.KindForeign:
		return janitorv1.Finding_KIND_FOREIGN
	case inventory.KindMissing:
		return janitorv1.Finding_KIND_MISSING
	case inventory.KindMismatched:
		return janitorv1.Finding_KIND_MISMATCHED
	case inventory.KindCorrupt:
		return janitorv1.Finding_KIND_CORRUPT
	}
	return janitorv1.Finding_KIND_UNSPECIFIED
}

// RunDrill restores a sample. The request's id is the drill's: asked twice it runs once.
func (s *Server) RunDrill(ctx context.Context, req *janitorv1.RunDrillRequest) (*janitorv1.RunDrillResponse, error) {
	n := int(req.GetSampleSize())
	if n == 0 {
		n = drill.Sample
	}
	caller, _ := identity.FromContext(ctx)
	r, err := s.Reporter.Drill(ctx, req.GetRequestId(), caller.String(), n)
	if err != nil {
		return nil, away(fmt.Errorf("drill: %w", err))
	}
	return &janitorv1.RunDrillResponse{CheckpointCount: int64(r.Checkpoints), SizeBytes: r.Bytes, Failures: r.Failures}, nil
}
