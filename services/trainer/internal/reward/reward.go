// Package reward turns one bar of trading into the number that the learner
// maximises. Which one is configuration; every specialist may use any.
//
// The package is pure. All rewards are scaled to roughly one unit per ordinary
// daily move, so that one learning rate serves them all.
package reward

import (
	"fmt"
	"math"
	"strings"
)

// Kind names a reward.
type Kind uint8

// The rewards.
const (
	// Sharpe is the mean-variance surrogate: the net return in units of the
	// asset's trailing volatility, less half its square times RiskAversion. The
	// increments of an episode's own Sharpe ratio were rejected: they shrink
	// with the age of the episode, which the policy cannot see.
	Sharpe Kind = iota
	// DifferentialSharpe is the derivative of an exponentially weighted Sharpe
	// ratio of the strategy's own returns (Moody and Saffell, 1998).
	DifferentialSharpe
	// TotalReturn is the log of the bar's growth.
	TotalReturn
	// RiskAdjusted is TotalReturn less penalties for new drawdown and turnover.
	RiskAdjusted
)

var names = [...]string{"sharpe", "differential_sharpe", "total_return", "risk_adjusted"}

// Names lists the configuration names.
func Names() []string { return append([]string(nil), names[:]...) }

// String returns the configuration name.
func (k Kind) String() string {
	if int(k) < len(names) {
		return names[k]
	}
	return fmt.Sprintf("reward(%d)", uint8(k))
}

// Parse returns the reward of that configuration name.
func Parse(name string) (Kind, error) {
	for i, n := range names {
		if n == name {
			return Kind(i), nil
		}
	}
	return 0, fmt.Errorf("unknown reward %q: it is one of %s", name, strings.Join(names[:], ", "))
}

// Function is a configured reward. The zero value is Sharpe with no aversion.
type Function struct {
	Kind Kind
	// RiskAversion weighs the squared term of Sharpe.
	RiskAversion float64
	// DrawdownPenalty weighs each point of new drawdown of RiskAdjusted, in
	// points of return.
	DrawdownPenalty float64
	// TurnoverPenalty weighs each unit of turnover of RiskAdjusted, in basis
	// points, on top of the costs that the net return already carries.
	TurnoverPenalty float64
	// Decay is the weight of the newest return of DifferentialSharpe, in (0, 1).
	Decay float64
}

// Default returns the function that a job gets when it only names the kind.
func Default(k Kind) Function {
	return Function{Kind: k, RiskAversion: 0.2, DrawdownPenalty: 0.05, TurnoverPenalty: 1, Decay: 1.0 / 63}
}

// State is what a reward remembers within one episode. The zero value starts an
// episode. It is saved with the environment.
type State struct {
	Mean   float64 // exponentially weighted first moment
	Square float64 // exponentially weighted second moment
}

// Bar is what happened in one bar.
type Bar struct {
	// Net is the return after costs, as a fraction of equity.
	Net float64
	// Turnover is the absolute change of position: 0, 1 or 2.
	Turnover float64
	// NewDrawdown is the growth of the episode's drawdown in this bar, as a
	// fraction of the peak, never negative.
	NewDrawdown float64
	// Volatility is the asset's trailing standard deviation per bar, positive.
	Volatility float64
}

// points converts fractions to the common scale: one unit is one per cent.
const points = 100

// floor keeps a total loss from making an infinite reward.
const floor = -0.5

// Of returns the reward of the bar and moves the state on.
func (f *Function) Of(s *State, b Bar) float64 {
	net := math.Max(b.Net, floor)
	switch f.Kind {
	case Sharpe:
		x := net / b.Volatility
		return x - 0.5*f.RiskAversion*x*x
	case DifferentialSharpe:
		if s.Square == 0 {
			// Without a past the ratio has no derivative: start from the asset's own risk.
			s.Square = b.Volatility * b.Volatility
		}
		dm, ds := net-s.Mean, net*net-s.Square
		variance := s.Square - s.Mean*s.Mean
		least := 0.01 * b.Volatility * b.Volatility
		variance = math.Max(variance, least)
		d := (s.Square*dm - 0.5*s.Mean*ds) / (variance * math.Sqrt(variance))
		s.Mean += f.Decay * dm
		s.Square += f.Decay * ds
		// A quiet stretch leaves almost no variance and would make one bar
		// outweigh an epoch.
		return math.Max(-10, math.Min(10, d))
	case TotalReturn:
		return points * math.Log1p(net)
	default:
		return points*math.Log1p(net) - points*f.DrawdownPenalty*b.NewDrawdown - f.TurnoverPenalty/100*b.Turnover
	}
}
