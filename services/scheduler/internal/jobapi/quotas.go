package jobapi

import (
	"context"
	"fmt"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/ultrathink-pilot/trainyard/libs/rpcerr"
	jobv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/job/v1"
	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/cycle"
)

// Quotas is the QuotaService.
type Quotas struct {
	jobv1.UnsafeQuotaServiceServer
	engine *cycle.Engine
}

// NewQuotas serves quotas from an engine.
func NewQuotas(e *cycle.Engine) *Quotas { return &Quotas{engine: e} }

var _ jobv1.QuotaServiceServer = (*Quotas)(nil)

// SetQuota creates or replaces a tenant's quota.
func (s *Quotas) SetQuota(ctx context.Context, in *jobv1.SetQuotaRequest) (*jobv1.SetQuotaResponse, error) {
	q := &cycle.Quota{Tenant: in.GetQuota().GetTenant(), Cohort: in.GetQuota().GetCohort(), Weight: in.GetQuota().GetWeight(), MaxJobs: int(in.GetQuota().GetMaxJobs())}
	var bad []rpcerr.Violation
	seen := map[string]bool{}
	for i, d := range in.GetQuota().GetDevices() {
		at := fmt.Sprintf("quota.devices[%d]", i)
		if seen[d.GetKind()] {
			bad = append(bad, rpcerr.Violation{Field: at + ".kind", Description: fmt.Sprintf("%q is bounded twice", d.GetKind())})
		}
		if d.GetBorrowLimit() > 0 && q.Cohort == "" {
			bad = append(bad, rpcerr.Violation{Field: at + ".borrow_limit", Description: "there is nobody to borrow from: name a cohort"})
		}
		if strings.Contains(d.GetKind(), "|") {
			bad = append(bad, rpcerr.Violation{Field: at + ".kind", Description: "is several kinds; give each an entry of its own"})
		}
		seen[d.GetKind()] = true
		q.Devices = append(q.Devices, cycle.DeviceQuota{Kind: d.GetKind(), Nominal: d.GetNominal(), Borrow: d.BorrowLimit})
	}
	if len(bad) > 0 {
		return nil, rpcerr.Invalid(bad...)
	}
	r, err := request(ctx, in.GetRequestId(), "SetQuota", in)
	if err != nil {
		return nil, err
	}
	raw, err := s.engine.SetQuota(ctx, r, q.Tenant, q, func(v cycle.TenantView) ([]byte, error) {
		return proto.Marshal(&jobv1.SetQuotaResponse{Quota: quotaTo(v.Quota), Usage: usageTo(v)})
	})
	return answer(raw, err, &jobv1.SetQuotaResponse{}, "quota of "+q.Tenant)
}

// GetQuota reads a tenant's quota and usage.
func (s *Quotas) GetQuota(_ context.Context, in *jobv1.GetQuotaRequest) (*jobv1.GetQuotaResponse, error) {
	v := s.engine.Tenant(in.GetTenant())
	return &jobv1.GetQuotaResponse{Quota: quotaTo(v.Quota), Usage: usageTo(v)}, nil
}

// ListQuotas lists the tenants by name.
func (s *Quotas) ListQuotas(context.Context, *jobv1.ListQuotasRequest) (*jobv1.ListQuotasResponse, error) {
	out := &jobv1.ListQuotasResponse{}
	for _, v := range s.engine.Tenants() {
		out.Tenants = append(out.Tenants, &jobv1.ListQuotasResponse_Tenant{Quota: quotaTo(v.Quota), Usage: usageTo(v)})
	}
	return out, nil
}

// DeleteQuota removes a tenant's limits.
func (s *Quotas) DeleteQuota(ctx context.Context, in *jobv1.DeleteQuotaRequest) (*jobv1.DeleteQuotaResponse, error) {
	r, err := request(ctx, in.GetRequestId(), "DeleteQuota", in)
	if err != nil {
		return nil, err
	}
	raw, err := s.engine.SetQuota(ctx, r, in.GetTenant(), nil, func(cycle.TenantView) ([]byte, error) {
		return proto.Marshal(&jobv1.DeleteQuotaResponse{})
	})
	return answer(raw, err, &jobv1.DeleteQuotaResponse{}, "quota of "+in.GetTenant())
}

func quotaTo(q *cycle.Quota) *jobv1.Quota {
	if q == nil {
		return nil
	}
	out := &jobv1.Quota{Tenant: q.Tenant, Cohort: q.Cohort, Weight: q.Weight, MaxJobs: uint32(q.MaxJobs)}
	for _, d := range q.Devices {
		out.Devices = append(out.Devices, &jobv1.DeviceQuota{Kind: d.Kind, Nominal: d.Nominal, BorrowLimit: d.Borrow})
	}
	return out
}

func usageTo(v cycle.TenantView) *jobv1.TenantUsage {
	out := &jobv1.TenantUsage{Tenant: v.Tenant, Queued: uint32(v.Queued), Running: uint32(v.Running), Unfinished: uint32(v.Unfinished)}
	for _, u := range v.Use {
		out.Devices = append(out.Devices, &jobv1.DeviceUsage{Kind: u.Kind, Used: u.Used, Borrowed: u.Borrowed})
	}
	return out
}
