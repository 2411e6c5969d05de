// Package janitorapi serves JanitorService: people plan, execute, undo, ask why
// and read the report. It holds no SQL and no rule.
package janitorapi

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc/codes"

	"github.com/ultrathink-pilot/trainyard/libs/identity"
	"github.com/ultrathink-pilot/trainyard/libs/rpcerr"
	"github.com/ultrathink-pilot/trainyard/libs/rpcserver"
	errorv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/error/v1"
	janitorv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/janitor/v1"
	"github.com/ultrathink-pilot/trainyard/services/checkpoint-janitor/internal/drill"
	"github.com/ultrathink-pilot/trainyard/services/checkpoint-janitor/internal/planning"
	"github.com/ultrathink-pilot/trainyard/services/checkpoint-janitor/internal/postgres"
	"github.com/ultrathink-pilot/trainyard/services/checkpoint-janitor/internal/report"
	"github.com/ultrathink-pilot/trainyard/services/checkpoint-janitor/internal/retention"
	"github.com/ultrathink-pilot/trainyard/services/checkpoint-janitor/internal/sweep"
)

const service = "/" + "trainyard.janitor.v1.JanitorService" + "/"

// Allow says who may call what: deleting is for people, reading also for the
// scheduler's and the registry's own pages.
func Allow() rpcserver.AllowTable {
	people := []identity.Role{identity.RolePerson}
	return rpcserver.AllowTable{
		service + "PlanSweep":         people,
		service + "ExecuteSweep":      people,
		service + "RestoreCheckpoint": people,
		service + "ExplainCheckpoint": people,
		service + "GetReport":         people,
		service + "SetLegalHold":      people,
		service + "ListFindings":      people,
		service + "RunDrill":          people,
	}
}

// LongPoll lists the methods that may take longer than an ordinary call.
func LongPoll() []string {
	return []string{
		service + "PlanSweep", service + "ExecuteSweep", service + "GetReport", service + "RestoreCheckpoint", service + "SetLegalHold",
		service + "ListFindings", service + "RunDrill",
	}
}

// Sweeps carries sweeps on.
type Sweeps interface {
	Run(ctx context.Context, id string) (sweep.Sweep, error)
}

// Registry restores and holds checkpoints.
type Registry interface {
	// Restore takes tombstones back, and brings what is archived back to the hot tier.
	Restore(ctx context.Context, requestID string, ids []string) ([]sweep.Result, error)
	SetLegalHold(ctx context.Context, requestID, id string, held bool, actor, reason string) (sweep.Result, error)
}

// Reporter makes the report and the restore drill.
type Reporter interface {
	Report(ctx context.Context, now time.Time) (report.Report, error)
	Drill(ctx context.Context, id, caller string, n int) (drill.Record, error)
}

// Server serves JanitorService.
type Server struct {
	janitorv1.UnsafeJanitorServiceServer

	Store    *postgres.Store
	Planner  *planning.Planner
	Sweeps   Sweeps
	Registry Registry
	Reporter Reporter
	// Hold is how long a person's undo protects a checkpoint.
	Hold time.Duration
}

// PlanSweep decides about everything and stores the plan.
func (s *Server) PlanSweep(ctx context.Context, req *janitorv1.PlanSweepRequest) (*janitorv1.PlanSweepResponse, error) {
	now := sweep.Now()
	plan, stock, err := s.Planner.Decide(ctx, now)
	if err != nil {
		return nil, away(err)
	}
	record, err := s.Planner.Record(ctx, plan, stock)
	if err != nil {
		return nil, err
	}
	// The ledger keeps the hash and not the plan, which is stored beside it.
	short, replayed, err := postgres.Once(ctx, s.Store, req.GetRequestId(), service+"PlanSweep", req, now,
		func(tx postgres.Tx) (*janitorv1.PlanSweepResponse, error) {
			if err := tx.SavePlan(ctx, record, now); err != nil {
				return nil, err
			}
			return &janitorv1.PlanSweepResponse{Plan: &janitorv1.Plan{PlanHash: plan.Hash}}, nil
		})
	if err != nil {
		return nil, err
	}
	if !replayed {
		if err := s.Planner.Sample(ctx, plan, stock); err != nil {
			return nil, err
		}
		return &janitorv1.PlanSweepResponse{Plan: planMessage(plan, record.Changes)}, nil
	}
	stored, err := s.stored(ctx, short.GetPlan().GetPlanHash())
	if err != nil {
		return nil, err
	}
	return &janitorv1.PlanSweepResponse{Plan: stored}, nil
}

func (s *Server) stored(ctx context.Context, hash string) (*janitorv1.Plan, error) {
	r, found, err := s.Store.LoadPlan(ctx, hash)
	if err != nil {
		return nil, err
	}
	if !found {
		return nil, rpcerr.NotFound("plan %q is not stored; make one with PlanSweep", hash)
	}
	return planMessage(r.Plan, r.Changes), nil
}

// ExecuteSweep carries a plan out, or plans first.
func (s *Server) ExecuteSweep(ctx context.Context, req *janitorv1.ExecuteSweepRequest) (*janitorv1.ExecuteSweepResponse, error) {
	if hash := req.GetPlanHash(); hash != "" {
		if _, err := s.stored(ctx, hash); err != nil {
			return nil, err
		}
	}
	now := sweep.Now()
	caller, _ := identity.FromContext(ctx)
	opened, _, err := postgres.Once(ctx, s.Store, req.GetRequestId(), service+"ExecuteSweep", req, now,
		func(tx postgres.Tx) (*janitorv1.ExecuteSweepResponse, error) {
			id, err := uuid.NewV7()
			if err != nil {
				return nil, err
			}
			w := sweep.Sweep{ID: id.String(), Trigger: sweep.ByPerson, Caller: caller.String(), Confirmed: req.GetConfirmLarge(),
				PlanHash: req.GetPlanHash(), CreateTime: now}
			return &janitorv1.ExecuteSweepResponse{SweepId: w.ID}, tx.CreateSweep(ctx, w)
		})
	if err != nil {
		return nil, err
	}
	w, err := s.Sweeps.Run(ctx, opened.GetSweepId())
	if err != nil {
		return nil, away(err)
	}
	if w.State == sweep.Refused {
		return nil, refusal(w)
	}
	work, err := s.Store.AllWork(ctx, w.ID)
	if err != nil {
		return nil, err
	}
	out := sweepMessage(w, work)
	if out.Plan, err = s.stored(ctx, w.PlanHash); err != nil {
		return nil, err
	}
	return out, nil
}

func refusal(w sweep.Sweep) error {
	text := "the sweep is refused: " + strings.Join(w.Refusals, "; ")
	e := rpcerr.New(codes.FailedPrecondition, errorv1.Reason_REASON_CAP_EXCEEDED, "%s", text).With("sweep_id", w.ID)
	codes := make([]string, len(w.RefusalCodes))
	for i, c := range w.RefusalCodes {
		codes[i] = string(c)
	}
	return e.With("cap", strings.Join(codes, ","))
}

// away gives errors without a wire form one: the janitor lives between three
// servers, and what is no answer of theirs is one of them being away.
func away(err error) error {
	if rpcerr.FromError(err) != nil {
		return err
	}
	return rpcerr.Unavailable("the sweep cannot go on now; repeat the call with the same request_id").WithCause(err)
}

// ExplainCheckpoint decides about one checkpoint as of now, or says why it is
// gone.
func (s *Server) ExplainCheckpoint(ctx context.Context, req *janitorv1.ExplainCheckpointRequest) (*janitorv1.ExplainCheckpointResponse, error) {
	d, found, err := s.Planner.Explain(ctx, req.GetCheckpointId(), sweep.Now())
	if err != nil {
		return nil, away(err)
	}
	if !found {
		return s.explainDeleted(ctx, req.GetCheckpointId())
	}
	return &janitorv1.ExplainCheckpointResponse{Decision: decisionMessage(d), State: stateName(d.State)}, nil
}

func (s *Server) explainDeleted(ctx context.Context, id string) (*janitorv1.ExplainCheckpointResponse, error) {
	d, found, err := s.Store.FindDeletion(ctx, id)
	if err != nil {
		return nil, err
	}
	if !found {
		return nil, rpcerr.NotFound("the registry has no checkpoint %s with bytes, and no sweep has deleted it", id)
	}
	return &janitorv1.ExplainCheckpointResponse{State: stateName(retention.StateDeleted), Decision: &janitorv1.Decision{
		CheckpointId: id, Action: janitorv1.Action_ACTION_DROP, Rules: []string{string(retention.CodeGone)}, SizeBytes: d.Bytes,
		Reason: fmt.Sprintf("deleted by sweep %s of %s; it was %s", d.SweepID, d.StartTime.Format(time.RFC3339), d.Reason),
	}}, nil
}

// RestoreCheckpoint takes a tombstone back, or an archived checkpoint to the hot tier. The hold is written first: were it
// second, a crash in between would leave a restored checkpoint for the next
// sweep to condemn again.
func (s *Server) RestoreCheckpoint(ctx context.Context, req *janitorv1.RestoreCheckpointRequest) (*janitorv1.RestoreCheckpointResponse, error) {
	now := sweep.Now()
	caller, _ := identity.FromContext(ctx)
	if _, _, err := postgres.Once(ctx, s.Store, req.GetRequestId(), service+"RestoreCheckpoint", req, now,
		func(tx postgres.Tx) (*janitorv1.RestoreCheckpointResponse, error) {
			err := tx.AddHold(ctx, req.GetCheckpointId(), caller.String(), now, now.Add(s.Hold))
			return &janitorv1.RestoreCheckpointResponse{}, err
		}); err != nil {
		return nil, err
	}
	results, err := s.Registry.Restore(ctx, req.GetRequestId(), []string{req.GetCheckpointId()})
	if err != nil {
		return nil, away(err)
	}
	if len(results) != 1 {
		return nil, rpcerr.Unavailable("the registry has not answered for checkpoint %s", req.GetCheckpointId())
	}
	if !results[0].Done {
		return nil, rpcerr.IllegalTransition("", "checkpoint %s cannot be restored: %s", req.GetCheckpointId(), results[0].Reason)
	}
	return &janitorv1.RestoreCheckpointResponse{State: stateName(retention.StateLive)}, nil
}

// GetReport returns usage, growth and forecast.
func (s *Server) GetReport(ctx context.Context, req *janitorv1.GetReportRequest) (*janitorv1.GetReportResponse, error) {
	r, err := s.Reporter.Report(ctx, sweep.Now())
	if err != nil {
		return nil, away(err)
	}
	out := reportMessage(r)
	switch req.GetFormat() {
	case janitorv1.GetReportRequest_FORMAT_TEXT:
		out.Rendered = r.Text()
	case janitorv1.GetReportRequest_FORMAT_HTML:
		out.Rendered, err = r.HTML()
	case janitorv1.GetReportRequest_FORMAT_JSON:
		out.Rendered, err = r.JSON()
	}
	return out, err
}
