// Package run decides, after every epoch of a native training run, what comes
// next: go on, keep a checkpoint, stop early, roll back once after a divergence,
// or fail. It is pure; the trainer carries the decisions out.
package run

import (
	"fmt"
	"math"
)

// Policy is the plan of a run.
type Policy struct {
	MaxEpochs int
	// Patience is how many epochs may pass without a better validation Sharpe.
	Patience int
	// CheckpointEvery is the number of epochs between regular checkpoints.
	CheckpointEvery int
	// MinExposure is the least share of validation bars with a position that
	// makes an epoch eligible as the best: a policy that trades three days in
	// two years may have any Sharpe ratio by luck.
	MinExposure float64
	// LearningRate rises from zero over WarmupEpochs, then falls to FinalShare of
	// itself until MaxEpochs, along the Schedule.
	LearningRate float64
	FinalShare   float64
	WarmupEpochs int
	Schedule     Schedule
	// Entropy is the weight of the entropy bonus; it falls like the learning rate
	// and has no warm-up.
	Entropy float64
	// RateScale multiplies the learning rate: below 1 in a run that is already
	// the retry of one that diverged. 0 means 1.
	RateScale float64
}

// Schedule is the shape of the learning rate's fall.
type Schedule uint8

// The schedules.
const (
	Linear Schedule = iota
	Constant
	Cosine
)

// String returns the configuration name.
func (s Schedule) String() string { return [...]string{"linear", "constant", "cosine"}[s] }

// DefaultPolicy is the plan of a job that names none.
func DefaultPolicy() Policy {
	return Policy{MaxEpochs: 80, Patience: 25, CheckpointEvery: 5, MinExposure: 0.1,
		LearningRate: 3e-4, FinalShare: 0.1, Entropy: 0.05, RateScale: 1}
}

// rollbackScale lowers the learning rate after a divergence.
const rollbackScale = 0.3

// State is where a run is. It is saved in every checkpoint. The zero value is
// the start.
type State struct {
	// Epoch is the number of epochs done.
	Epoch int
	// BestEpoch is the epoch, from 1, of the best validation so far; 0 means none.
	BestEpoch    int
	BestSharpe   float64
	BestEligible bool
	// SharpeMean and SharpeM2 are the running mean and sum of squared deviations
	// of the validation Sharpe over the epochs: what the best was chosen from.
	SharpeMean, SharpeM2 float64
	// RateScale multiplies the learning rate; 0 means 1.
	RateScale  float64
	RolledBack bool
}

// SharpeSD returns the standard deviation of the validation Sharpe over the epochs.
func (s State) SharpeSD() float64 {
	if s.Epoch < 2 {
		return 0
	}
	return math.Sqrt(s.SharpeM2 / float64(s.Epoch-1))
}

// Machine runs the plan.
type Machine struct {
	policy Policy
	state  State
}

// New starts or continues a run.
func New(p Policy, s State) *Machine {
	if p.RateScale == 0 {
		p.RateScale = 1
	}
	if s.RateScale == 0 {
		s.RateScale = 1
	}
	// A scale given from outside means that the one rollback is spent.
	s.RolledBack = s.RolledBack || p.RateScale < 1
	return &Machine{policy: p, state: s}
}

// State returns what a checkpoint has to hold.
func (m *Machine) State() State { return m.state }

// Rates are the settings of the next epoch.
type Rates struct{ LearningRate, Entropy float64 }

// Rates follow the schedule.
func (m *Machine) Rates() Rates {
	p := &m.policy
	share := p.share(m.state.Epoch)
	rise := 1.0
	if m.state.Epoch < p.WarmupEpochs {
		rise = float64(m.state.Epoch+1) / float64(p.WarmupEpochs+1)
	}
	return Rates{LearningRate: p.LearningRate * share * rise * m.state.RateScale * p.RateScale, Entropy: p.Entropy * share}
}

// share is what the schedule leaves of the rates in an epoch, counted from 0.
func (p *Policy) share(epoch int) float64 {
	if p.Schedule == Constant {
		return 1
	}
	done := 0.0
	if span := p.MaxEpochs - 1 - p.WarmupEpochs; span > 0 {
		done = math.Max(0, math.Min(1, float64(epoch-p.WarmupEpochs)/float64(span)))
	}
	if p.Schedule == Cosine {
		done = (1 - math.Cos(math.Pi*done)) / 2
	}
	return 1 - done*(1-p.FinalShare)
}

// Done reports whether a restored run has nothing left to do.
func (m *Machine) Done() bool {
	return m.state.Epoch >= m.policy.MaxEpochs ||
		m.policy.Patience > 0 && m.state.BestEpoch > 0 && m.state.Epoch-m.state.BestEpoch >= m.policy.Patience
}

// Result is what one epoch gave.
type Result struct {
	// Finite is false when a loss, gradient or weight was not a number.
	Finite bool
	// Sharpe and Exposure are the validation figures.
	Sharpe   float64
	Exposure float64
}

// Verdict is what to do after an epoch.
type Verdict uint8

// The verdicts.
const (
	Continue Verdict = iota
	// Finish ends the run well.
	Finish
	// RollBack goes back to the last checkpoint with a lower learning rate.
	RollBack
	// Fail ends the run: it diverged again.
	Fail
)

// Decision is the answer to a Result.
type Decision struct {
	Verdict Verdict
	// NewBest says that this epoch is the best so far.
	NewBest bool
	// Checkpoint asks for a regular checkpoint.
	Checkpoint bool
	// Eligible says that the epoch counts as a model.
	Eligible bool
	// Reason is for people, with Finish, RollBack and Fail.
	Reason string
}

// Observe takes the result of the epoch that just ended.
func (m *Machine) Observe(r Result) Decision {
	if !r.Finite || math.IsNaN(r.Sharpe) || math.IsInf(r.Sharpe, 0) {
		if m.state.RolledBack {
			return Decision{Verdict: Fail, Reason: fmt.Sprintf(
				"the loss was not finite in epoch %d, again after a lower learning rate", m.state.Epoch+1)}
		}
		return Decision{Verdict: RollBack, Reason: fmt.Sprintf(
			"the loss was not finite in epoch %d: back to the last checkpoint with %g of the learning rate",
			m.state.Epoch+1, rollbackScale)}
	}
	m.state.Epoch++
	delta := r.Sharpe - m.state.SharpeMean
	m.state.SharpeMean += delta / float64(m.state.Epoch)
	m.state.SharpeM2 += delta * (r.Sharpe - m.state.SharpeMean)
	d := Decision{Eligible: r.Exposure >= m.policy.MinExposure}
	if m.better(r, d.Eligible) {
		m.state.BestEpoch, m.state.BestSharpe, m.state.BestEligible = m.state.Epoch, r.Sharpe, d.Eligible
		d.NewBest = true
	}
	d.Checkpoint = m.policy.CheckpointEvery > 0 && m.state.Epoch%m.policy.CheckpointEvery == 0
	switch {
	case m.state.Epoch >= m.policy.MaxEpochs:
		d.Verdict, d.Reason = Finish, fmt.Sprintf("all %d epochs are done", m.policy.MaxEpochs)
	case m.Done():
		d.Verdict = Finish
		d.Reason = fmt.Sprintf("no better validation Sharpe for %d epochs", m.policy.Patience)
	}
	return d
}

// better orders epochs: an eligible one beats any that is not, then Sharpe.
func (m *Machine) better(r Result, eligible bool) bool {
	if m.state.BestEpoch == 0 || eligible != m.state.BestEligible {
		return m.state.BestEpoch == 0 || eligible
	}
	return r.Sharpe > m.state.BestSharpe
}

// RollBackTo continues from the state of an earlier checkpoint with a lower
// learning rate. It may happen once.
func (m *Machine) RollBackTo(s State) {
	if s.RateScale == 0 {
		s.RateScale = 1
	}
	s.RateScale *= rollbackScale
	s.RolledBack = true
	m.state = s
}
