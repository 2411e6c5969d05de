package specialist

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strconv"
	"time"

	"go.uber.org/zap"

	"github.com/ultrathink-pilot/trainyard/libs/safetensors"
	"github.com/ultrathink-pilot/trainyard/services/trainer/internal/checkpoint"
	"github.com/ultrathink-pilot/trainyard/services/trainer/internal/market"
	"github.com/ultrathink-pilot/trainyard/services/trainer/internal/onnx"
	"github.com/ultrathink-pilot/trainyard/services/trainer/internal/reward"
	"github.com/ultrathink-pilot/trainyard/services/trainer/internal/run"
)

// EvaluationFile is the run's artifact with the figures and equity curves.
const EvaluationFile = "evaluation.json"

// PolicyFile is the run's artifact with the best network as ONNX.
const PolicyFile = "policy.onnx"

// Evaluation is the content of EvaluationFile.
type Evaluation struct {
	Format     string       `json:"format"`
	Specialist string       `json:"specialist"`
	Symbol     string       `json:"symbol"`
	Timeframe  string       `json:"timeframe"`
	Reward     string       `json:"reward"`
	Seed       int64        `json:"seed"`
	Kernel     string       `json:"kernel"`
	Epochs     int          `json:"epochs"`
	BestEpoch  int          `json:"best_epoch"`
	BestStep   int64        `json:"best_step"`
	CostsBPS   float64      `json:"costs_bps"`
	Schema     string       `json:"feature_schema"`
	DataDigest string       `json:"data_digest"`
	Train      PartSummary  `json:"train"`
	Validation PartDetailed `json:"validation"`
	Test       PartDetailed `json:"test"`
	// Deflated is the probability that the validation Sharpe ratio is more than
	// the luck of having chosen the best of all epochs.
	Deflated float64 `json:"deflated_sharpe"`
	// Note says how to read the figures.
	Note string `json:"note"`
}

// PartSummary has the figures of one part of history, on the bars of the
// specialist's regime.
type PartSummary struct {
	From       string         `json:"from"`
	To         string         `json:"to"`
	Strategy   market.Figures `json:"strategy"`
	BuyAndHold market.Figures `json:"buy_and_hold"`
	// Untrained is the Sharpe ratio of networks as they are before training.
	Untrained market.Spread `json:"untrained_sharpe"`
	// Random is the Sharpe ratio of uniformly random actions, RandomFigures the mean
	// of their other figures.
	Random        market.Spread  `json:"random_sharpe"`
	RandomFigures market.Figures `json:"random"`
	// Interval is of the strategy's Sharpe ratio, Lead of its difference to
	// buy-and-hold's on the same bars (stationary block bootstrap).
	Interval market.Interval `json:"sharpe_interval"`
	Lead     market.Interval `json:"sharpe_lead_interval"`
}

// PartDetailed adds the curves. Dates are those of the decision bars; equity is
// after each bar and starts from 1.
type PartDetailed struct {
	PartSummary
	Dates      []string  `json:"dates"`
	Equity     []float64 `json:"equity"`
	BuyAndHold []float64 `json:"buy_and_hold_equity"`
	Positions  []int8    `json:"positions"`
}

const evaluationNote = "All figures are on the bars of the specialist's own regime only, joined in the order of time, after costs; " +
	"every regime segment starts flat and is closed at its end. Buy-and-hold is long on the same bars and pays the same costs. " +
	"The best epoch was chosen by the validation figures, so these are optimistic; the test part chose nothing in this run."

// baselineDraws is how many untrained networks and random runs a baseline averages.
const baselineDraws = 16

// bootstrapDraws is enough for the second digit of an interval's end.
const bootstrapDraws = 1000

// finish evaluates the best weights and reports the result.
func (t *training) finish(ctx context.Context) (run.Ending, error) {
	// A restored run that was already done still owes its evaluation.
	b := t.files.best
	if b == nil || len(b.model) == 0 {
		return run.Failure(run.ClassDiverged, "no epoch gave a model"), nil
	}
	state := t.machine.State()
	tensors, _, err := safetensors.Decode(b.model)
	if err != nil {
		return run.Failure(run.ClassCrash, "the best weights cannot be read: "+err.Error()), nil
	}
	weights := withoutScaler(tensors)
	if err := t.learner.SetTensors(weights); err != nil {
		return run.Failure(run.ClassCrash, err.Error()), nil
	}
	e := t.evaluate(state)
	if !state.BestEligible {
		// Nothing ranked was handed over: without this the job would succeed and leave no model.
		t.log.Warn("no epoch trades often enough to count: the best of the rest is offered",
			zap.Float64("min_exposure", t.policy.MinExposure))
		if err := t.offer(ctx, b.model, e); err != nil {
			ending, _, err := t.saveFailed(err)
			return ending, err
		}
	}
	data, err := json.Marshal(e)
	if err != nil {
		return run.Failure(run.ClassCrash, err.Error()), nil
	}
	pictures, err := t.pictures(e)
	if err != nil {
		return run.Failure(run.ClassCrash, err.Error()), nil
	}
	policy, err := t.onnx(weights)
	if err != nil {
		return run.Failure(run.ClassCrash, err.Error()), nil
	}
	if err := t.hand(ctx, append([]checkpoint.Content{{Name: EvaluationFile, Data: data}, {Name: PolicyFile, Data: policy}}, pictures...)); err != nil {
		ending, _, err := t.saveFailed(err)
		return ending, err
	}
	if err := t.report.Metrics(ctx, t.closingMetrics(e)); err != nil {
		return run.Ending{}, err
	}
	v, test := e.Validation.Strategy, e.Test.Strategy
	return run.Ending{Outcome: run.Succeeded, Message: fmt.Sprintf(
		"%d epochs, best %d: validation Sharpe %.2f (buy and hold %.2f, untrained %.2f), held-out test Sharpe %.2f (buy and hold %.2f)",
		e.Epochs, e.BestEpoch, v.Sharpe, e.Validation.PartSummary.BuyAndHold.Sharpe, e.Validation.Untrained.Mean,
		test.Sharpe, e.Test.PartSummary.BuyAndHold.Sharpe)}, nil
}

// offer hands over the best weights alone, for serving.
func (t *training) offer(ctx context.Context, model []byte, e *Evaluation) error {
	s := &snapshot{step: e.BestStep, epoch: e.BestEpoch, ranked: true, figures: e.Validation.Strategy, model: model}
	meta, err := t.meta(s)
	if err != nil {
		return err
	}
	s.contents = []checkpoint.Content{{Name: checkpoint.ModelFile, Data: model}, meta}
	return t.push(ctx, s)
}

// onnx is the network for other runtimes, with what is needed to feed it.
func (t *training) onnx(weights []safetensors.Tensor) ([]byte, error) {
	scaler, err := json.Marshal(map[string]any{"names": t.job.Table.FeatureNames, "mean": t.world.Scaler.Mean, "scale": t.world.Scaler.Scale})
	if err != nil {
		return nil, err
	}
	k := t.learner.Config().Temporal
	return onnx.Encode(onnx.Network{Observation: market.ObservationWidth, Bars: k.Bars, Stride: k.Stride, Tensors: weights, Metadata: map[string]string{
		"specialist": t.native.Specialist.String(), "feature_schema": t.job.Table.SchemaVersion, "features": string(scaler), "actions": "short,flat,long",
	}})
}

func (t *training) evaluate(state run.State) *Evaluation {
	n, table := t.native, t.job.Table
	e := &Evaluation{
		Format: "trainyard-evaluation/1", Specialist: n.Specialist.String(), Symbol: n.Symbol, Timeframe: n.Timeframe,
		Reward: n.Reward.Kind.String(), Seed: n.Seed, Kernel: t.learner.Kernel(), Epochs: state.Epoch, BestEpoch: state.BestEpoch,
		BestStep: int64(state.BestEpoch) * int64(t.learner.Transitions()),
		CostsBPS: n.Costs.CommissionBP + n.Costs.SlippageBP, Schema: table.SchemaVersion, DataDigest: table.Digest, Note: evaluationNote,
	}
	untrained := t.learner.UntrainedPolicies(baselineDraws)
	e.Train = t.part(market.PartTrain, t.world.Split.Train, untrained).PartSummary
	e.Validation = t.part(market.PartValidation, t.world.Split.Validation, untrained)
	e.Deflated = market.DeflatedSharpe(t.valid.Run(t.learner.Policy()).Net, t.world.BarsPerYear(), state.Epoch, state.SharpeSD())
	e.Test = t.part(market.PartTest, t.world.Split.Test, untrained)
	return e
}

func (t *training) part(p market.Part, r market.Range, untrained []market.Policy) PartDetailed {
	v, perYear := market.NewEvaluator(t.world, p), t.world.BarsPerYear()
	track, hold := v.Run(t.learner.Policy()), v.BuyAndHold()
	d := PartDetailed{
		PartSummary: PartSummary{
			From: day(t.job.Table.Dates[r.From]), To: day(t.job.Table.Dates[r.To-1]),
			Strategy: track.Figures(perYear), BuyAndHold: hold.Figures(perYear), Untrained: v.Untrained(untrained),
		},
		Equity: track.Equity(), BuyAndHold: hold.Equity(), Positions: track.Positions,
	}
	d.Random, d.RandomFigures = v.Random(baselineDraws, rand.New(rand.NewPCG(uint64(t.native.Seed), 3)))
	d.Interval, d.Lead = market.BootstrapSharpe(track.Net, hold.Net, perYear, bootstrapDraws, rand.New(rand.NewPCG(uint64(t.native.Seed), 4)))
	for _, at := range track.Dates {
		d.Dates = append(d.Dates, day(at))
	}
	return d
}

// closingMetrics are logged once, at the last step.
func (t *training) closingMetrics(e *Evaluation) []run.Metric {
	now, step := time.Now(), t.step()
	var out []run.Metric
	add := func(key string, value float64) {
		out = append(out, run.Metric{Key: key, Value: value, Step: step, Time: now})
	}
	for _, p := range []struct {
		name string
		part PartSummary
	}{{"best", e.Validation.PartSummary}, {"test", e.Test.PartSummary}} {
		add(p.name+"/sharpe", p.part.Strategy.Sharpe)
		add(p.name+"/total_return", p.part.Strategy.TotalReturn)
		add(p.name+"/max_drawdown", p.part.Strategy.MaxDrawdown)
		add(p.name+"/turnover", p.part.Strategy.Turnover)
		add(p.name+"/exposure", p.part.Strategy.Exposure)
		add(p.name+"/buy_and_hold_sharpe", p.part.BuyAndHold.Sharpe)
		add(p.name+"/buy_and_hold_return", p.part.BuyAndHold.TotalReturn)
		add(p.name+"/untrained_sharpe", p.part.Untrained.Mean)
		add(p.name+"/random_sharpe", p.part.Random.Mean)
		add(p.name+"/sharpe_low", p.part.Interval.Low)
		add(p.name+"/sharpe_high", p.part.Interval.High)
	}
	add("best/deflated_sharpe", e.Deflated)
	return out
}

// params are the run's parameters. None of them may differ between two attempts
// of a job, so the batch size and the kernel are not among them.
func (t *training) params() map[string]string {
	n, c, table := t.native, t.learner.Config(), t.job.Table
	float := func(v float64) string { return strconv.FormatFloat(v, 'g', -1, 64) }
	s := t.world.Split
	span := func(r market.Range) string { return day(table.Dates[r.From]) + "/" + day(table.Dates[r.To-1]) }
	out := map[string]string{
		"runtime": "native", "specialist": n.Specialist.String(), "symbol": n.Symbol, "timeframe": n.Timeframe,
		"reward": n.Reward.Kind.String(), "seed": strconv.FormatInt(n.Seed, 10), "max_epochs": strconv.Itoa(t.policy.MaxEpochs),
		"patience": strconv.Itoa(t.policy.Patience), "commission_bps": float(n.Costs.CommissionBP),
		"slippage_bps": float(n.Costs.SlippageBP), "learning_rate": float(t.policy.LearningRate),
		"entropy_coefficient": float(t.policy.Entropy), "discount": float(c.Gamma), "gae_lambda": float(c.Lambda),
		"clip_range": float(c.Clip), "value_coefficient": float(c.ValueWeight), "max_gradient_norm": float(c.MaxGradientNorm),
		"weight_decay": float(c.WeightDecay), "feature_noise": float(c.FeatureNoise),
		"environments": strconv.Itoa(c.Envs), "rollout_steps": strconv.Itoa(c.Steps), "update_epochs": strconv.Itoa(c.Passes),
		"effective_batch": strconv.Itoa(c.BatchRows), "hidden_sizes": fmt.Sprint(c.Hidden),
		"feature_schema": table.SchemaVersion, "data_digest": table.Digest,
		"train_window": span(s.Train), "validation_window": span(s.Validation), "test_window": span(s.Test),
		"schedule": t.policy.Schedule.String(), "warmup_epochs": strconv.Itoa(t.policy.WarmupEpochs), "final_rate_share": float(t.policy.FinalShare),
	}
	if k := c.Temporal; k.On() {
		out["temporal"] = fmt.Sprintf("%d bars, width %d, stride %d, %d channels", k.Bars, k.Width, k.Stride, k.Channels)
	}
	switch n.Reward.Kind {
	case reward.Sharpe:
		out["risk_aversion"] = float(n.Reward.RiskAversion)
	case reward.DifferentialSharpe:
		out["reward_decay"] = float(n.Reward.Decay)
	case reward.RiskAdjusted:
		out["drawdown_penalty"], out["turnover_penalty_bps"] = float(n.Reward.DrawdownPenalty), float(n.Reward.TurnoverPenalty)
	case reward.TotalReturn:
	}
	if folds := n.Split.Folds; folds > 1 {
		out["fold"] = fmt.Sprintf("%d of %d", n.Split.Fold, folds)
	}
	if n.WarmStart != "" {
		out["warm_start"], out["freeze_trunk"] = n.WarmStart, strconv.FormatBool(n.FreezeTrunk)
	}
	return out
}
