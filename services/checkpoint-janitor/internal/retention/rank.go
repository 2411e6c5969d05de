package retention

import (
	"cmp"
	"slices"
)

// ranking is the order of one experiment's checkpoints in one evaluation window.
type ranking struct {
	members []*entry
}

// rankable says whether the figure may be compared, and if not, why.
func rankable(c Checkpoint, r Rule) (bool, string) {
	switch {
	case !c.Sharpe.Known:
		return false, "it has no Sharpe"
	case !c.Sharpe.Finite():
		return false, "its Sharpe is not finite"
	case r.MinTrades > 0 && c.Trades == 0:
		return false, "its number of trades is unknown"
	case r.MinTrades > 0 && c.Trades < r.MinTrades:
		return false, "it made too few trades to judge"
	}
	return true, ""
}

// before is the total order of a ranking: the better Sharpe, then the older
// checkpoint, then the smaller id. It must only see finite figures: a NaN would
// make it no order at all.
func before(a, b Checkpoint) int {
	return cmp.Or(
		cmp.Compare(b.Sharpe.Value, a.Sharpe.Value),
		a.CreateTime.Compare(b.CreateTime),
		cmp.Compare(a.ID, b.ID),
	)
}

func (r *ranking) assign() {
	slices.SortFunc(r.members, func(a, b *entry) int { return before(*a.c, *b.c) })
	for i, m := range r.members {
		m.rank = i + 1
	}
}
