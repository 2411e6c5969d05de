package run

import (
	"math"
	"strings"
	"testing"
)

func policy() Policy {
	p := DefaultPolicy()
	p.MaxEpochs, p.Patience, p.CheckpointEvery = 10, 3, 4
	return p
}

func TestStopsEarlyAfterPatience(t *testing.T) {
	t.Parallel()
	m := New(policy(), State{})
	for i, sharpe := range []float64{0.1, 0.5, 0.4, 0.5, 0.3} {
		d := m.Observe(Result{Finite: true, Sharpe: sharpe, Exposure: 0.5})
		if want := i < 2; d.NewBest != want {
			t.Errorf("epoch %d: new best %v, want %v", i+1, d.NewBest, want)
		}
		if want := i == 3; d.Checkpoint != want {
			t.Errorf("epoch %d: checkpoint %v", i+1, d.Checkpoint)
		}
		if last := i == 4; (d.Verdict == Finish) != last {
			t.Fatalf("epoch %d: %+v", i+1, d)
		}
	}
	if sd := m.State().SharpeSD(); math.Abs(sd-math.Sqrt(0.112/4)) > 1e-12 {
		t.Errorf("standard deviation %v", sd)
	}
	if s := m.State(); s.BestEpoch != 2 || s.BestSharpe != 0.5 || !m.Done() {
		t.Errorf("state %+v", s)
	}
}

func TestEndsAtTheLastEpoch(t *testing.T) {
	t.Parallel()
	m := New(policy(), State{})
	for i := range 10 {
		d := m.Observe(Result{Finite: true, Sharpe: float64(i), Exposure: 1})
		if (d.Verdict == Finish) != (i == 9) {
			t.Fatalf("epoch %d: %+v", i+1, d)
		}
	}
}

// TestThinPoliciesNeverBeatTradingOnes: exposure comes before Sharpe.
func TestThinPoliciesNeverBeatTradingOnes(t *testing.T) {
	t.Parallel()
	m := New(policy(), State{})
	if d := m.Observe(Result{Finite: true, Sharpe: 3, Exposure: 0.01}); !d.NewBest || d.Eligible {
		t.Errorf("the first epoch: %+v", d)
	}
	if d := m.Observe(Result{Finite: true, Sharpe: -1, Exposure: 0.5}); !d.NewBest || !d.Eligible {
		t.Errorf("a trading policy after a thin one: %+v", d)
	}
	if d := m.Observe(Result{Finite: true, Sharpe: 9, Exposure: 0}); d.NewBest {
		t.Errorf("a thin policy replaced a trading one: %+v", d)
	}
}

func TestDivergenceRollsBackOnceThenFails(t *testing.T) {
	t.Parallel()
	m := New(policy(), State{})
	saved := m.State()
	before := m.Rates().LearningRate
	m.Observe(Result{Finite: true, Sharpe: 1, Exposure: 1})
	if d := m.Observe(Result{Finite: true, Sharpe: math.Inf(1), Exposure: 1}); d.Verdict != RollBack {
		t.Fatalf("infinite Sharpe: %+v", d)
	}
	m.RollBackTo(saved)
	if got := m.Rates().LearningRate; math.Abs(got-before*rollbackScale) > 1e-15 {
		t.Errorf("learning rate %v after the rollback, before it %v", got, before)
	}
	d := m.Observe(Result{Finite: false})
	if d.Verdict != Fail || !strings.Contains(d.Reason, "epoch 1") {
		t.Errorf("second divergence: %+v", d)
	}
}

// TestRetryHasNoRollbackLeft: the scheduler's retry with a lower rate is the rollback.
func TestRetryHasNoRollbackLeft(t *testing.T) {
	t.Parallel()
	p := policy()
	p.RateScale = 0.5
	m := New(p, State{})
	if r := m.Rates(); r.LearningRate != p.LearningRate/2 {
		t.Errorf("rate %v", r)
	}
	if d := m.Observe(Result{}); d.Verdict != Fail {
		t.Errorf("%+v", d)
	}
}

func TestRatesFallInAStraightLine(t *testing.T) {
	t.Parallel()
	p := policy()
	first := New(p, State{}).Rates()
	last := New(p, State{Epoch: 9}).Rates()
	if first.LearningRate != p.LearningRate || math.Abs(last.LearningRate-p.LearningRate*p.FinalShare) > 1e-12 {
		t.Errorf("from %v to %v", first, last)
	}
	one := p
	one.MaxEpochs = 1
	if r := New(one, State{}).Rates(); math.IsNaN(r.LearningRate) {
		t.Error("a run of one epoch has no rate")
	}
}

// TestSchedules: the rate rises through the warm-up, never above its full size,
// then falls along its curve to the final share.
func TestSchedules(t *testing.T) {
	t.Parallel()
	for schedule, want := range map[Schedule][3]float64{Linear: {1, 0.6, 0.2}, Constant: {1, 1, 1}, Cosine: {1, 0.6, 0.2}} {
		p := Policy{MaxEpochs: 13, WarmupEpochs: 2, LearningRate: 1, FinalShare: 0.2, Schedule: schedule}
		at := func(epoch int) float64 { return New(p, State{Epoch: epoch}).Rates().LearningRate }
		if first, second := at(0), at(1); !(0 < first && first < second && second < 1) {
			t.Errorf("%v: the warm-up is %v, %v", schedule, first, second)
		}
		for i, epoch := range []int{2, 7, 12} {
			if got := at(epoch); math.Abs(got-want[i]) > 1e-12 {
				t.Errorf("%v: epoch %d has %v, want %v", schedule, epoch, got, want[i])
			}
		}
	}
	// The cosine stays above the line in the first half and below it in the second.
	line, curve := Policy{MaxEpochs: 11, LearningRate: 1}, Policy{MaxEpochs: 11, LearningRate: 1, Schedule: Cosine}
	if line.share(2) >= curve.share(2) || line.share(8) <= curve.share(8) {
		t.Error("the cosine is not a cosine")
	}
}
