// Package specialist trains one native specialist from its first epoch, or from
// a checkpoint, to its evaluation. It joins the pure rules (market, run) with the
// learner and tells a Reporter everything that happens.
package specialist

import (
	"context"
	"fmt"
	"math"
	"runtime"
	"time"

	"go.uber.org/zap"

	"github.com/ultrathink-pilot/trainyard/services/trainer/internal/checkpoint"
	"github.com/ultrathink-pilot/trainyard/services/trainer/internal/learner"
	"github.com/ultrathink-pilot/trainyard/services/trainer/internal/market"
	"github.com/ultrathink-pilot/trainyard/services/trainer/internal/run"
)

// Reporter hears of the training. Its methods return an error only when the
// attempt is over (the lease is gone, or no agent came back).
type Reporter interface {
	Params(ctx context.Context, params map[string]string) error
	Metrics(ctx context.Context, points []run.Metric) error
	Progress(ctx context.Context, p run.Progress) error
	// Checkpoint hands over files that lie on disk.
	Checkpoint(ctx context.Context, c run.Checkpoint, files []checkpoint.File) error
	Artifact(ctx context.Context, f checkpoint.File, contentType string) error
	// Order returns what the agent wants now; CheckpointNow is cleared by it.
	Order() run.Order
	// Changed is closed at the next change of Order.
	Changed() <-chan struct{}
}

// Job is one attempt of a native job.
type Job struct {
	Assignment *run.Assignment
	Table      *market.Table
	Log        *zap.Logger
	// Kernel names the vector form; "" is the best of the machine.
	Kernel string
	// Loading is how long getting the table took, Stale that it is the cache's
	// because the service was away: both become metrics.
	Loading time.Duration
	Stale   bool
}

// training is a run in progress.
type training struct {
	job     Job
	native  *run.Native
	log     *zap.Logger
	report  Reporter
	world   *market.World
	learner *learner.Learner
	machine *run.Machine
	policy  run.Policy
	valid   *market.Evaluator
	buyHold market.Figures // on the validation bars
	files   keeper
	curve   curve
	started time.Time
	startAt int // epoch at which this attempt began
}

// Train runs the job to its end. An error means that reporting failed: the
// attempt is over and nobody listens. All else is in the Ending.
func Train(ctx context.Context, job Job, report Reporter) (run.Ending, error) {
	if job.Log == nil {
		job.Log = zap.NewNop()
	}
	t := &training{job: job, native: job.Assignment.Native, log: job.Log, report: report, started: time.Now()}
	if ending, ok := t.prepare(); !ok {
		return ending, nil
	}
	defer t.learner.Close()
	if err := report.Params(ctx, t.params()); err != nil {
		return run.Ending{}, err
	}
	t.startAt = t.machine.State().Epoch
	for !t.machine.Done() {
		ending, ended, err := t.epoch(ctx)
		if err != nil || ended {
			return ending, err
		}
	}
	return t.finish(ctx)
}

// prepare builds the world and the learner and restores a checkpoint.
func (t *training) prepare() (run.Ending, bool) {
	a, n := t.job.Assignment, t.native
	cfg, problems := t.config()
	world, more := market.NewWorld(t.job.Table, market.WorldOptions{
		Specialist: n.Specialist, Split: split(n.Split), Costs: n.Costs, Reward: n.Reward})
	if problems = append(problems, more...); len(problems) > 0 {
		return run.BadConfiguration(problems), false
	}
	l, err := learner.New(world, cfg)
	if err != nil {
		return run.Failure(run.ClassBadConfiguration, err.Error()), false
	}
	t.world, t.learner = world, l
	t.valid = market.NewEvaluator(world, market.PartValidation)
	t.buyHold = t.valid.BuyAndHold().Figures(world.BarsPerYear())
	t.files = keeper{dir: a.WorkDir}
	var state run.State
	if a.RestoreDir != "" {
		state, err = t.restore(a.RestoreDir)
		if err != nil {
			l.Close()
			return run.Failure(run.ClassBadConfiguration, fmt.Sprintf("checkpoint %s cannot be restored: %v", a.RestoreID, err)), false
		}
		t.log.Info("resumed", zap.String("checkpoint", a.RestoreID), zap.Int("epoch", state.Epoch))
	} else if n.WarmStart != "" {
		if err := t.warmStart(a.WarmStartDir); err != nil {
			l.Close()
			return run.Failure(run.ClassBadConfiguration, fmt.Sprintf("the trunk of checkpoint %s cannot be taken: %v", n.WarmStart, err)), false
		}
		t.log.Info("started from another's trunk", zap.String("checkpoint", n.WarmStart), zap.Bool("frozen", n.FreezeTrunk))
	}
	t.machine = run.New(t.policy, state)
	if state.Epoch == 0 {
		// The first rollback may come before the first checkpoint.
		if err := t.files.remember(t.snapshot()); err != nil {
			l.Close()
			return run.Failure(run.ClassCrash, err.Error()), false
		}
	}
	return run.Ending{}, true
}

// split merges the job's cut of the history over the default.
func split(given market.SplitPlan) market.SplitPlan {
	p := market.DefaultSplit()
	or(&p.ValidationFraction, given.ValidationFraction)
	or(&p.TestFraction, given.TestFraction)
	or(&p.EmbargoBars, given.EmbargoBars)
	or(&p.Folds, given.Folds)
	p.Fold = given.Fold
	return p
}

// config merges the job's hyperparameters over the defaults.
func (t *training) config() (learner.Config, []market.Problem) {
	a, n := t.job.Assignment, t.native
	h := n.Learner
	c := learner.Default()
	c.Seed, c.Kernel = uint64(n.Seed), t.job.Kernel
	or(&c.Envs, h.Environments)
	or(&c.Steps, h.RolloutSteps)
	or(&c.Passes, h.UpdateEpochs)
	or(&c.Gamma, h.Discount)
	or(&c.Lambda, h.GAELambda)
	or(&c.Clip, h.ClipRange)
	or(&c.ValueWeight, h.ValueCoefficient)
	or(&c.MaxGradientNorm, h.MaxGradientNorm)
	if len(h.HiddenSizes) > 0 {
		c.Hidden = h.HiddenSizes
	}
	if k := h.Temporal; k != nil {
		c.Temporal = learner.DefaultTemporal()
		or(&c.Temporal.Bars, k.Bars)
		or(&c.Temporal.Width, k.Width)
		or(&c.Temporal.Stride, k.Stride)
		or(&c.Temporal.Channels, k.Channels)
	}
	c.FreezeTrunk = n.FreezeTrunk
	// The contract's batch size is what is in memory at once; the effective batch
	// is that times the accumulation, so halving one and doubling the other
	// leaves the result as it is.
	c.Accumulation = max(a.GradientAccumulation, 1)
	if a.BatchSize > 0 {
		c.BatchRows = a.BatchSize * c.Accumulation
	}
	c.Workers = a.Threads
	if c.Workers < 1 {
		c.Workers = runtime.GOMAXPROCS(0)
	}
	p := run.DefaultPolicy()
	or(&p.MaxEpochs, n.MaxEpochs)
	or(&p.Patience, n.Patience)
	or(&p.LearningRate, h.LearningRate)
	or(&p.Entropy, h.EntropyCoefficient)
	or(&p.RateScale, a.LearningRateScale)
	or(&p.FinalShare, h.FinalShare)
	p.Schedule, p.WarmupEpochs = h.Schedule, h.WarmupEpochs
	t.policy = p
	return c, c.Check()
}

// or replaces the default by a value that was given.
func or[T int | float64](target *T, given T) {
	if given != 0 {
		*target = given
	}
}

// step is the number of environment steps after the epochs done so far.
func (t *training) step() int64 {
	return int64(t.machine.State().Epoch) * int64(t.learner.Transitions())
}

// epoch trains one epoch and carries out the machine's decision.
func (t *training) epoch(ctx context.Context) (run.Ending, bool, error) {
	if ending, ended, err := t.obey(ctx); ended || err != nil {
		return ending, ended, err
	}
	rates := t.machine.Rates()
	began := time.Now()
	rollout := t.learner.Collect()
	losses := t.learner.Update(learner.Rates{LearningRate: rates.LearningRate, Entropy: rates.Entropy})
	track := t.valid.Run(t.learner.Policy())
	figures := track.Figures(t.world.BarsPerYear())
	finite := losses.Finite() && t.learner.Finite() && !math.IsNaN(rollout.MeanReward)
	speed := float64(t.learner.Transitions()) / time.Since(began).Seconds()
	d := t.machine.Observe(run.Result{Finite: finite, Sharpe: figures.Sharpe, Exposure: figures.Exposure})
	switch d.Verdict {
	case run.Fail:
		t.log.Warn("diverged", zap.String("reason", d.Reason))
		if err := t.handCurve(ctx); err != nil {
			return t.saveFailed(err)
		}
		return run.Failure(run.ClassDiverged, d.Reason), true, nil
	case run.RollBack:
		t.log.Warn("rolling back", zap.String("reason", d.Reason))
		if err := t.rollBack(); err != nil {
			return run.Failure(run.ClassDiverged, d.Reason+": "+err.Error()), true, nil
		}
		return run.Ending{}, false, nil
	}
	t.curve = append(t.curve, epochRecord{Reward: rollout.MeanReward, Policy: losses.Policy, Value: losses.Value, Entropy: losses.Entropy,
		KL: losses.KL, Gradient: losses.GradientNorm, Rate: rates.LearningRate, Sharpe: figures.Sharpe})
	if err := t.tell(ctx, rollout, losses, figures, rates, speed); err != nil {
		return run.Ending{}, false, err
	}
	if d.NewBest {
		if err := t.files.rememberBest(t.best(figures, track)); err != nil {
			return run.Failure(run.ClassCrash, err.Error()), true, nil
		}
	}
	if d.Checkpoint || d.Verdict == run.Finish {
		if err := t.save(ctx, figures, track); err != nil {
			return t.saveFailed(err)
		}
	}
	if d.Verdict == run.Finish {
		t.log.Info("training ended", zap.String("reason", d.Reason), zap.Int("epochs", t.machine.State().Epoch))
	}
	return run.Ending{}, false, nil
}

// obey carries out the agent's orders between two epochs.
func (t *training) obey(ctx context.Context) (run.Ending, bool, error) {
	for {
		changed := t.report.Changed()
		o := t.report.Order()
		if o.Stop || o.CheckpointNow {
			track := t.valid.Run(t.learner.Policy())
			// An epoch must have happened: a checkpoint of nothing helps nobody.
			if t.machine.State().Epoch > 0 {
				if err := t.save(ctx, track.Figures(t.world.BarsPerYear()), track); err != nil {
					return t.saveFailed(err)
				}
			}
		}
		if o.Stop {
			return run.Ending{Outcome: run.Stopped, Message: "stopped: " + o.Reason}, true, nil
		}
		if err := ctx.Err(); err != nil {
			return run.Ending{}, false, context.Cause(ctx)
		}
		if !o.Paused {
			return run.Ending{}, false, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
		}
	}
}

// tell reports an epoch.
func (t *training) tell(ctx context.Context, r learner.Rollout, l learner.Losses, f market.Figures, rates run.Rates, speed float64) error {
	now := time.Now()
	step := t.step()
	var points []run.Metric
	add := func(key string, value float64) {
		points = append(points, run.Metric{Key: key, Value: value, Step: step, Time: now})
	}
	add("train/reward", r.MeanReward)
	add("train/policy_loss", l.Policy)
	add("train/value_loss", l.Value)
	add("train/entropy", l.Entropy)
	add("train/kl", l.KL)
	add("train/clip_fraction", l.Clipped)
	add("train/gradient_norm", l.GradientNorm)
	add("train/learning_rate", rates.LearningRate)
	add("validation/sharpe", f.Sharpe)
	add("validation/total_return", f.TotalReturn)
	add("validation/max_drawdown", f.MaxDrawdown)
	add("validation/exposure", f.Exposure)
	add("validation/turnover", f.Turnover)
	add("validation/buy_and_hold_sharpe", t.buyHold.Sharpe)
	add("throughput/steps_per_second", speed)
	add("data/load_seconds", t.job.Loading.Seconds())
	add("data/io_share", t.job.Loading.Seconds()/(t.job.Loading+time.Since(t.started)).Seconds())
	if t.job.Stale {
		add("data/stale", 1)
	}
	if err := t.report.Metrics(ctx, points); err != nil {
		return err
	}
	s := t.machine.State()
	done := s.Epoch - t.startAt
	var remaining time.Duration
	if done > 0 {
		remaining = time.Since(t.started) / time.Duration(done) * time.Duration(t.policy.MaxEpochs-s.Epoch)
	}
	return t.report.Progress(ctx, run.Progress{Epoch: s.Epoch, TotalEpochs: t.policy.MaxEpochs, Step: step,
		Reward: r.MeanReward, Objective: f.Sharpe, StepsPerSecond: speed, Remaining: remaining})
}
