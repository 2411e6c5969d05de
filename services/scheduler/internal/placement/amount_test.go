package placement_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/job"
	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/placement"
)

// kindred is a fleet of two kinds, with n devices of each.
func kindred(n int) []placement.Node {
	var out []placement.Node
	for _, kind := range []string{"fast", "slow"} {
		node := gpus(kind, n, nil)
		for i := range node.Devices {
			node.Devices[i].Kind = kind
		}
		out = append(out, node)
	}
	return out
}

func ofKind(kind string) job.Demand {
	d := whole(1)
	d.Devices[0].Kind = kind
	return d
}

func byKind(kind string, own, borrow int64) []placement.KindQuota {
	return []placement.KindQuota{{Kind: kind, Nominal: 1000 * own, Borrow: 1000 * borrow}}
}

// Kinds with a quota of their own are counted apart from the others, and a job that could be
// of either is told to name one.
func TestAQuotaCountsKindsApart(t *testing.T) {
	t.Parallel()
	r := newRig(placement.Rules{}, kindred(4), placement.Tenant{Name: "desk", Quota: true, Nominal: devices(3), Kinds: byKind("fast", 1, 0)})
	for i := range 4 {
		r.wait(placement.Request{Job: fmt.Sprintf("f%d", i), Tenant: "desk", Priority: job.Batch, Demand: ofKind("fast")})
		r.wait(placement.Request{Job: fmt.Sprintf("s%d", i), Tenant: "desk", Priority: job.Batch, Demand: ofKind("slow")})
	}
	r.wait(placement.Request{Job: "any", Tenant: "desk", Priority: job.Batch, Demand: whole(1)})
	r.wait(placement.Request{Job: "other", Tenant: "else", Priority: job.Batch, Demand: ofKind("fast")})
	for range 3 {
		r.round(0)
	}
	var fast, slow int
	for id := range r.running {
		fast += strings.Count(id, "f")
		slow += strings.Count(id, "s")
	}
	if fast != 1 || slow != 3 || !r.running["other"] || r.running["any"] {
		t.Errorf("runs %v", r.running)
	}
	for id, want := range map[string]string{
		"f3": "uses 1 devices of kind fast of its quota of 1 devices of kind fast", "s3": "uses 3 devices of other kinds of its quota of 3",
		"any": "has a quota of its own for fast: name one kind",
	} {
		if got := r.core.Why(r.now, id).Reason; !strings.Contains(got, want) {
			t.Errorf("%s: %q, want %q", id, got, want)
		}
	}
	// A quota by kind that goes away or comes while jobs run counts what runs.
	r.core.SetTenants([]placement.Tenant{{Name: "desk", Quota: true, Nominal: devices(5)}})
	r.round(0)
	if len(r.running) != 6 {
		t.Errorf("with one quota of 5 for all kinds the tenant runs %d", len(r.running)-1)
	}
	r.core.SetTenants([]placement.Tenant{{Name: "desk", Quota: true, Nominal: devices(0), Kinds: byKind("fast", 0, 0)}})
	r.round(0)
	if got := r.core.Why(r.now, "f3").Reason; !strings.Contains(got, "more than tenant desk may ever use") {
		t.Errorf("with nothing of its own: %q", got)
	}
}

// Who takes back devices of one kind stops borrowers of that kind and nobody else.
func TestAKindIsTakenBackFromThoseWhoBorrowIt(t *testing.T) {
	t.Parallel()
	r := newRig(placement.Rules{}, kindred(4),
		placement.Tenant{Name: "lender", Quota: true, Cohort: "c", Nominal: devices(0), Kinds: byKind("fast", 4, 0)},
		placement.Tenant{Name: "borrower", Quota: true, Cohort: "c", Nominal: devices(2), Borrow: devices(2)})
	for i := range 4 {
		r.wait(placement.Request{Job: fmt.Sprintf("f%d", i), Tenant: "borrower", Priority: job.Batch, Demand: ofKind("fast")})
		r.wait(placement.Request{Job: fmt.Sprintf("s%d", i), Tenant: "borrower", Priority: job.Batch, Demand: ofKind("slow")})
	}
	r.round(0)
	if len(r.running) != 6 {
		t.Fatalf("the borrower runs %v: all fast ones are lent to it, of the slow ones its cohort has two", r.running)
	}
	r.wait(placement.Request{Job: "own", Tenant: "lender", Priority: job.Batch, Demand: ofKind("fast")})
	for range 5 {
		r.round(1)
	}
	if !r.running["own"] {
		t.Error("the lender's job never starts")
	}
	var stopped []string
	for id, n := range r.stopped {
		stopped = append(stopped, strings.Repeat(id, n))
	}
	if len(stopped) != 1 || !slices.ContainsFunc(stopped, func(id string) bool { return len(id) == 2 && id[0] == 'f' }) {
		t.Errorf("stopped %v, want one of the borrower's fast ones", stopped)
	}
}
