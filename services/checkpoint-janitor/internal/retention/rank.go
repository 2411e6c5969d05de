package retention

import (
	"cmp"
	"fmt"
	"math"
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
	case r.RankBy == ByDeflated && c.Trades < 2, r.RankBy == ByLowerBound && c.Trades < 2 && !c.SharpeLow.Known:
		return false, "without its number of trades its Sharpe has no error"
	case r.RankBy == ByLowerBound && c.SharpeLow.Known && !c.SharpeLow.Finite():
		return false, "the lower bound of its Sharpe is not finite"
	}
	return true, ""
}

func (r Rule) confidence() float64 {
	if r.Confidence == 0 {
		return DefaultConfidence
	}
	return r.Confidence
}

// score is what a checkpoint ranks by, the deflation aside. The lower bound is the
// reported one, else that of Lo (2002): the error of a Sharpe ratio from n independent
// trades is the square root of (1 + s*s/2) / n.
func score(c Checkpoint, r Rule) float64 {
	if r.RankBy != ByLowerBound {
		return c.Sharpe.Value
	}
	if c.SharpeLow.Known {
		return c.SharpeLow.Value
	}
	return c.Sharpe.Value - normalQuantile(r.confidence())*sharpeError(c)
}

func sharpeError(c Checkpoint) float64 {
	return math.Sqrt((1 + c.Sharpe.Value*c.Sharpe.Value/2) / float64(c.Trades))
}

// deflate replaces the scores by how many standard errors each figure lies above the
// best that this many tries of no skill would have shown (Bailey and Lopez de Prado,
// 2014). The probability itself is not used: it is 1 for all good ones alike.
func (r *ranking) deflate() {
	n := float64(len(r.members))
	var sum, squares float64
	for _, m := range r.members {
		sum += m.c.Sharpe.Value
	}
	for _, m := range r.members {
		d := m.c.Sharpe.Value - sum/n
		squares += d * d
	}
	luck := 0.0
	if n > 1 {
		const euler = 0.5772156649015329
		luck = math.Sqrt(squares/(n-1)) * ((1-euler)*normalQuantile(1-1/n) + euler*normalQuantile(1-1/(n*math.E)))
	}
	for _, m := range r.members {
		m.score = (m.c.Sharpe.Value - luck) / sharpeError(*m.c)
	}
}

// normalQuantile is the inverse of the standard normal distribution.
func normalQuantile(p float64) float64 { return math.Sqrt2 * math.Erfinv(2*p-1) }

// figures are what an explanation quotes.
func (e *entry) figures() string {
	switch e.exp.rule.RankBy {
	case ByLowerBound:
		return fmt.Sprintf("Sharpe %s, at least %.2f with %.0f %%", figure(e.c.Sharpe), e.score, 100*e.exp.rule.confidence())
	case ByDeflated:
		return fmt.Sprintf("Sharpe %s, %.1f errors above luck", figure(e.c.Sharpe), e.score)
	default:
		return "Sharpe " + figure(e.c.Sharpe)
	}
}

// before is the total order of a ranking: the better score, then the older
// checkpoint, then the smaller id. It must only see finite figures: a NaN would
// make it no order at all.
func before(a, b *entry) int {
	return cmp.Or(
		cmp.Compare(b.score, a.score),
		a.c.CreateTime.Compare(b.c.CreateTime),
		cmp.Compare(a.c.ID, b.c.ID),
	)
}

func (r *ranking) assign() {
	slices.SortFunc(r.members, before)
	for i, m := range r.members {
		m.rank = i + 1
	}
}
