package placement

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Tenant is one party that shares the fleet.
type Tenant struct {
	Name string
	// Weight is its part of the fair share; 0 means 1.
	Weight float64
	// Quota says that Nominal and Borrow bind.
	Quota bool
	// Nominal is what the tenant may always use. What it does not use is lent to
	// the other tenants of its cohort, and taken back when it wants it.
	Nominal Amount
	// Borrow is how much more it may use while others of its cohort do not.
	Borrow Amount
	// Kinds bound devices of some kinds apart; Nominal and Borrow then count the others.
	// A demand that one of them could serve has to name one kind.
	Kinds []KindQuota `json:",omitempty"`
	// Cohort names the tenants that lend to each other; empty lends to nobody.
	Cohort string
}

// account is what a tenant uses now.
type account struct {
	Tenant
	cohort *cohort
	used   Amount
	// own and extra are Nominal and Borrow with the kinds in them. apart has the bits of
	// the kinds that are counted apart, names their names.
	own, extra Amount
	apart      uint8
	names      []string
	// share is the sum of dominant shares of the fleet, in parts per billion:
	// whole numbers, so that the order of additions does not matter.
	share  int64
	claims claims
	// runs are the jobs that run; changes counts what happened to them.
	runs    map[string]*entry
	changes int
}

type cohort struct {
	nominal, used Amount
	claims        claims
	members       []*account
}

// claims are what a round keeps of a quota for jobs that it has looked at and that
// wait: victims are stopping for them, or they are the first of their line. Those
// behind cannot have it, or what was taken back for one job would go to the next
// and be taken back again.
type claims struct {
	amount Amount
	// firm is the part that holds against those too who ask for what is their own:
	// all but that of a borrower for whom nobody stops.
	firm Amount
	// head says that one claims without anybody stopping for it.
	head bool
}

// held is what claims keep from a job, which asks for its tenant's own or would borrow.
func (h *cohort) held(own bool) Amount {
	if own {
		return h.claims.firm
	}
	return h.claims.amount
}

// claimant is one entry in a claim's book.
type claimant struct {
	e    *entry
	book *claims
	want Amount
	firm Amount
}

// claim keeps quota for a job for the rest of a round. Of those for whom nobody
// stops only the first may: a reservation for each would let quota lie idle.
func (c *Core) claim(e *entry, want Amount, v verdict, certain bool) {
	if v == beyond {
		return
	}
	a := e.acct
	// Who has used up its own quota does not wait for the others of its cohort.
	shared := a.cohort != nil && (certain || v != overQuota)
	first := &a.claims
	if shared {
		first = &a.cohort.claims
	}
	if !certain && first.head {
		return
	}
	firm := Amount{}
	if certain || a.own.enough(a.used.plus(want), want) {
		firm = want
	}
	book := func(x *claims) {
		x.amount, x.firm, x.head = x.amount.plus(want), x.firm.plus(firm), x.head || !certain
		c.claimed = append(c.claimed, claimant{e, x, want, firm})
	}
	book(&a.claims)
	if shared {
		book(&a.cohort.claims)
	}
}

// unclaim ends a round's claims.
func (c *Core) unclaim() {
	for _, x := range c.claimed {
		*x.book = claims{}
	}
	c.claimed = c.claimed[:0]
}

// judge is what quotas say to a waiting job, without its own claim; behind says
// that only the claims of jobs ahead of it are in its way.
func (c *Core) judge(e *entry, want Amount) (v verdict, behind bool) {
	for _, x := range c.claimed {
		if x.e == e {
			x.book.amount, x.book.firm = x.book.amount.minus(x.want), x.book.firm.minus(x.firm)
			defer func() { x.book.amount, x.book.firm = x.book.amount.plus(x.want), x.book.firm.plus(x.firm) }()
		}
	}
	if v = e.acct.admits(want); v == allowed || v == beyond {
		return v, false
	}
	mine := e.acct.claims
	e.acct.claims = claims{}
	if h := e.acct.cohort; h != nil {
		cohorts := h.claims
		h.claims = claims{}
		defer func() { h.claims = cohorts }()
	}
	defer func() { e.acct.claims = mine }()
	return v, e.acct.admits(want) == allowed
}

// due is the share that decides whose turn it is.
func (a *account) due() float64 { return float64(a.share) / a.weight() }

func (a *account) weight() float64 {
	if a.Weight > 0 {
		return a.Weight
	}
	return 1
}

// verdict is what quotas say to a demand.
type verdict uint8

const (
	allowed verdict = iota
	// lent says that the tenant's own quota is in use by its cohort.
	lent
	// overQuota says that the tenant uses all it may.
	overQuota
	// overCohort says that there is nothing left to borrow.
	overCohort
	// beyond says that the demand alone is more than the tenant may ever use.
	beyond
)

func (a *account) admits(d Amount) verdict {
	if !a.Quota {
		return allowed
	}
	after := a.used.plus(a.claims.amount).plus(d)
	if !d.within(a.own.plus(a.extra)) || a.cohort == nil && !d.within(a.own) || a.cohort != nil && !d.within(a.cohort.nominal) {
		return beyond
	}
	own := a.own.enough(after, d)
	fits := a.cohort == nil || a.cohort.nominal.enough(a.cohort.used.plus(a.cohort.held(own)).plus(d), d)
	switch {
	case own && fits:
		return allowed
	case own:
		return lent
	case a.cohort == nil || !a.own.plus(a.extra).enough(after, d):
		return overQuota
	case !fits:
		return overCohort
	}
	return allowed
}

// borrows reports whether the tenant uses more than its own quota.
func (a *account) borrows() bool { return a.Quota && !a.used.within(a.own) }

func (a *account) add(d Amount, share int64) {
	a.changed()
	a.used, a.share = a.used.plus(d), a.share+share
	if a.cohort != nil {
		a.cohort.used = a.cohort.used.plus(d)
	}
}

func (a *account) sub(d Amount, share int64) {
	a.changed()
	a.used, a.share = a.used.minus(d), a.share-share
	if a.cohort != nil {
		a.cohort.used = a.cohort.used.minus(d)
	}
}

// changed has those who wait for quota look again.
func (a *account) changed() {
	a.changes++
	if a.cohort != nil {
		for _, m := range a.cohort.members {
			m.changes++
		}
	}
}

// tell words a refusal.
func (a *account) tell(v verdict, d Amount) string {
	switch v {
	case lent:
		return fmt.Sprintf("tenant %s has quota for it, but its cohort %s has borrowed it; it is taken back when those attempts may be stopped", a.Name, a.Cohort)
	case overQuota:
		r := a.short(d, a.own.plus(a.extra))
		return fmt.Sprintf("tenant %s uses %s of its quota of %s (and may borrow %s)", a.Name, a.text(a.used, r), a.text(a.own, r), a.text(a.extra, r))
	case overCohort:
		r := a.short(d, a.own)
		return fmt.Sprintf("tenant %s uses %s of its quota of %s, and cohort %s has nothing left to lend", a.Name, a.text(a.used, r), a.text(a.own, r), a.Cohort)
	case beyond:
		if d.Millis >= undecided {
			return fmt.Sprintf("it may run on devices of several kinds, and tenant %s has a quota of its own for %s: name one kind", a.Name, strings.Join(a.apartText(), ", "))
		}
		r := d.over(a.own.plus(a.extra))
		if r < 0 {
			r = d.first()
		}
		return fmt.Sprintf("it asks for %s, more than tenant %s may ever use (quota %s, may borrow %s)", a.text(d, r), a.Name, a.text(a.own, r), a.text(a.extra, r))
	case allowed:
	}
	return ""
}

// short is the resource that a demand lacks against a bound.
func (a *account) short(d, bound Amount) int {
	if r := a.used.plus(d).short(bound, d); r >= 0 {
		return r
	}
	return d.first()
}

// running lists what runs, in a fixed order.
func (a *account) running() []string { return slices.Sorted(maps.Keys(a.runs)) }
