package registryapi

import (
	"context"
	"time"

	"github.com/ultrathink-pilot/trainyard/libs/rpcerr"
	registryv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/registry/v1"
	"github.com/ultrathink-pilot/trainyard/services/registry/internal/catalog"
	"github.com/ultrathink-pilot/trainyard/services/registry/internal/postgres"
)

// gates converts conditions; a gate says one thing.
func gates(in []*registryv1.PromotionGate, field string) ([]catalog.Gate, error) {
	var out []catalog.Gate
	for _, g := range in {
		c := catalog.Gate{Metric: g.GetMetric(), Compare: catalog.AtLeast, Threshold: g.GetMinimum(), Window: g.GetEvaluationWindow()}
		switch {
		case g.Maximum != nil && g.ProductionMargin != nil:
			return nil, rpcerr.Invalid(rpcerr.Violation{Field: field, Description: g.GetMetric() + ": set maximum or production_margin, not both; give two gates for two conditions"})
		case g.Maximum != nil:
			c.Compare, c.Threshold = catalog.AtMost, g.GetMaximum()
		case g.ProductionMargin != nil:
			c.Compare, c.Threshold = catalog.AboveProduction, g.GetProductionMargin()
		}
		out = append(out, c)
	}
	return out, nil
}

func policy(p *catalog.Policy) *registryv1.PromotionPolicy {
	if p == nil {
		return nil
	}
	out := &registryv1.PromotionPolicy{RequiredChecks: p.RequiredChecks, Approvals: uint32(p.Approvals)}
	for _, g := range p.Gates {
		c := &registryv1.PromotionGate{Metric: g.Metric, EvaluationWindow: g.Window}
		switch g.Compare {
		case catalog.AtMost:
			c.Maximum = &g.Threshold
		case catalog.AboveProduction:
			c.ProductionMargin = &g.Threshold
		case catalog.AtLeast, catalog.Checked, catalog.Approved:
			c.Minimum = g.Threshold
		}
		out.Gates = append(out.Gates, c)
	}
	return out
}

func (s *modelServer) SetPromotionPolicy(ctx context.Context, r *registryv1.SetPromotionPolicyRequest) (*registryv1.SetPromotionPolicyResponse, error) {
	list, err := gates(r.GetPolicy().GetGates(), "policy.gates")
	if err != nil {
		return nil, err
	}
	p := catalog.Policy{Gates: list, RequiredChecks: r.GetPolicy().GetRequiredChecks(), Approvals: int(r.GetPolicy().GetApprovals())}
	if _, err := once(ctx, s.api, r.GetRequestId(), registryv1.ModelService_SetPromotionPolicy_FullMethodName, r, &registryv1.SetPromotionPolicyResponse{},
		func(t *postgres.Tx) error {
			return t.SetPolicy(ctx, r.GetModelName(), p, by(ctx, r.GetReason(), r.GetRequestId()))
		}); err != nil {
		return nil, err
	}
	m, err := s.GetModel(ctx, &registryv1.GetModelRequest{ModelName: r.GetModelName()})
	return &registryv1.SetPromotionPolicyResponse{Model: m.GetModel()}, err
}

func (s *modelServer) RecordCheck(ctx context.Context, r *registryv1.RecordCheckRequest) (*registryv1.RecordCheckResponse, error) {
	number, err := versionNumber(r.GetModelName(), r.GetVersion())
	if err != nil {
		return nil, err
	}
	c := catalog.Check{Name: r.GetName(), Passed: r.GetPassed(), Detail: r.GetDetail()}
	out, err := postgres.Once(ctx, s.Store, r.GetRequestId(), registryv1.ModelService_RecordCheck_FullMethodName, r, time.Now(),
		func(t *postgres.Tx) (*registryv1.RecordCheckResponse, error) {
			v, err := t.RecordCheck(ctx, r.GetModelName(), number, c, by(ctx, r.GetDetail(), r.GetRequestId()))
			return &registryv1.RecordCheckResponse{Version: version(v)}, err
		})
	return out, wire(err)
}

func (s *modelServer) ApproveModelVersion(ctx context.Context, r *registryv1.ApproveModelVersionRequest) (*registryv1.ApproveModelVersionResponse, error) {
	number, err := versionNumber(r.GetModelName(), r.GetVersion())
	if err != nil {
		return nil, err
	}
	out, err := postgres.Once(ctx, s.Store, r.GetRequestId(), registryv1.ModelService_ApproveModelVersion_FullMethodName, r, time.Now(),
		func(t *postgres.Tx) (*registryv1.ApproveModelVersionResponse, error) {
			v, err := t.Approve(ctx, r.GetModelName(), number, by(ctx, r.GetReason(), r.GetRequestId()))
			return &registryv1.ApproveModelVersionResponse{Version: version(v)}, err
		})
	return out, wire(err)
}

// versionNumber narrows a version to what the catalogue counts in.
func versionNumber(model string, v int64) (int32, error) {
	if v != int64(int32(v)) {
		return 0, rpcerr.NotFound("models/%s/versions/%d does not exist", model, v)
	}
	return int32(v), nil
}

func (s *modelServer) VerifyModelHistory(ctx context.Context, r *registryv1.VerifyModelHistoryRequest) (*registryv1.VerifyModelHistoryResponse, error) {
	entries, err := s.Store.History(ctx, r.GetModelName())
	if err != nil {
		return nil, wire(err)
	}
	out := &registryv1.VerifyModelHistoryResponse{Intact: true, Events: int64(len(entries))}
	if n := len(entries); n > 0 {
		out.HeadHash = entries[n-1].Hash
	}
	if err := catalog.VerifyChain(entries); err != nil {
		out.Intact, out.Problem = false, err.Error()
	}
	return out, nil
}
