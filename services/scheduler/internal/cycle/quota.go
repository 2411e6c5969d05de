package cycle

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/job"
	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/placement"
)

// KindUse is a tenant's use of one device kind, in devices: a reservation counts
// as its part of the device's memory.
type KindUse struct {
	Kind           string
	Used, Borrowed float64
}

// TenantView is a tenant's quota and what it uses.
type TenantView struct {
	Tenant string
	// Quota is nil when the tenant has none.
	Quota *Quota
	Use   []KindUse
	// Unfinished is Queued, Running and those that are paused.
	Queued, Running, Unfinished int
}

func (t *tx) quota(tenant string) (Quota, bool) {
	for x := t; x != nil; x = x.parent {
		if q, ok := x.quotas[tenant]; ok {
			if q == nil {
				return Quota{}, false
			}
			return *q, true
		}
	}
	q, ok := t.base.quotas[tenant]
	return q, ok
}

// SetQuota replaces a tenant's quota; nil removes it.
func (e *Engine) SetQuota(ctx context.Context, r Request, tenant string, q *Quota, encode func(TenantView) ([]byte, error)) ([]byte, error) {
	var view TenantView
	r.Encode = func(View) ([]byte, error) { return encode(view) }
	return e.once(ctx, r, func(t *tx) (View, error) {
		if t.quotas == nil {
			t.quotas = map[string]*Quota{}
		}
		if q != nil {
			if err := t.kindsFit(q); err != nil {
				return View{}, err
			}
			q.Revision = t.next()
		}
		t.quotas[tenant] = q
		view = t.base.usage()[tenant]
		view.Tenant, view.Quota = tenant, q
		return View{}, nil
	})
}

// KindsError says that quotas would name more kinds of device than the planner counts.
type KindsError struct{ Most int }

func (e *KindsError) Error() string {
	return fmt.Sprintf("all quotas together may name at most %d kinds of device", e.Most)
}

// kindsFit refuses a quota with which too many kinds would be named.
func (t *tx) kindsFit(q *Quota) error {
	kinds := map[string]bool{}
	add := func(q Quota) {
		for _, d := range q.Devices {
			if d.Kind != "" {
				kinds[d.Kind] = true
			}
		}
	}
	for tenant := range t.base.quotas {
		if now, ok := t.quota(tenant); ok && tenant != q.Tenant {
			add(now)
		}
	}
	if add(*q); len(kinds) > placement.MaxKinds {
		return &KindsError{placement.MaxKinds}
	}
	return nil
}

// Tenant reads one tenant.
func (e *Engine) Tenant(name string) TenantView {
	e.mu.RLock()
	defer e.mu.RUnlock()
	v := e.st.usage()[name]
	v.Tenant = name
	return v
}

// Tenants lists every tenant with a quota or unfinished jobs, by name.
func (e *Engine) Tenants() []TenantView {
	e.mu.RLock()
	defer e.mu.RUnlock()
	use := e.st.usage()
	out := make([]TenantView, 0, len(use))
	for _, name := range slices.Sorted(maps.Keys(use)) {
		out = append(out, use[name])
	}
	return out
}

// usage counts what every tenant has and holds.
func (s *state) usage() map[string]TenantView {
	out := map[string]TenantView{}
	held := map[string]map[string]float64{}
	for tenant, q := range s.quotas {
		out[tenant] = TenantView{Tenant: tenant, Quota: &q}
	}
	for _, r := range s.records {
		tenant := r.Job.Spec.Tenant
		v := out[tenant]
		v.Tenant = tenant
		v.Unfinished++
		switch {
		case r.Job.State == job.Queued:
			v.Queued++
		case r.Job.State.Live():
			v.Running++
			a, _ := r.Latest()
			if held[tenant] == nil {
				held[tenant] = map[string]float64{}
			}
			for _, agent := range a.Agents() {
				if shares, ok := a.On(agent); ok {
					s.weigh(agent, shares, held[tenant])
				}
			}
		}
		out[tenant] = v
	}
	for tenant, kinds := range held {
		v := out[tenant]
		for _, kind := range slices.Sorted(maps.Keys(kinds)) {
			u := KindUse{Kind: kind, Used: kinds[kind]}
			if v.Quota != nil {
				if q := v.Quota.of(kind); q != nil {
					u.Borrowed = max(u.Used-q.Nominal, 0)
				}
			}
			v.Use = append(v.Use, u)
		}
		out[tenant] = v
	}
	return out
}

// weigh adds what shares on a host are worth in devices.
func (s *state) weigh(agent string, shares []job.Share, into map[string]float64) {
	memory := map[string]int64{}
	for _, d := range s.agents[agent].Devices {
		memory[d.ID] = d.Memory - d.Headroom
	}
	for _, sh := range shares {
		part := 1.0
		if m := memory[sh.Device]; !sh.Whole && m > 0 {
			part = min(float64(sh.Held)/float64(m), 1)
		}
		into[sh.Kind] += part
	}
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// of finds the bound of a kind; nil means none.
func (q *Quota) of(kind string) *DeviceQuota {
	var rest *DeviceQuota
	for i := range q.Devices {
		switch q.Devices[i].Kind {
		case kind:
			return &q.Devices[i]
		case "":
			rest = &q.Devices[i]
		}
	}
	return rest
}
