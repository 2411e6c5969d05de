package report

import (
	"context"
	"fmt"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	fleetv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/fleet/v1"
	jobv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/job/v1"
	trainv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/train/v1"
	"github.com/ultrathink-pilot/trainyard/services/trainer/internal/checkpoint"
	"github.com/ultrathink-pilot/trainyard/services/trainer/internal/market"
	"github.com/ultrathink-pilot/trainyard/services/trainer/internal/reward"
	"github.com/ultrathink-pilot/trainyard/services/trainer/internal/run"
)

// maxPoints is the contract's bound on one MetricBatch.
const maxPoints = 10000

// Params reports parameters of the run.
func (c *Client) Params(ctx context.Context, params map[string]string) error {
	if len(params) == 0 {
		return nil
	}
	return c.send(ctx, &trainv1.TrainRequest{Frame: &trainv1.TrainRequest_Params{Params: &trainv1.ParamBatch{Params: params}}})
}

// Metrics reports points, in order.
func (c *Client) Metrics(ctx context.Context, points []run.Metric) error {
	for len(points) > 0 {
		n := min(len(points), maxPoints)
		batch := &trainv1.MetricBatch{Points: make([]*trainv1.MetricPoint, n)}
		for i, p := range points[:n] {
			batch.Points[i] = &trainv1.MetricPoint{Key: p.Key, Value: p.Value, Step: p.Step, Time: timestamppb.New(p.Time)}
		}
		points = points[n:]
		if err := c.send(ctx, &trainv1.TrainRequest{Frame: &trainv1.TrainRequest_Metrics{Metrics: batch}}); err != nil {
			return err
		}
	}
	return nil
}

// Progress reports where the training is.
func (c *Client) Progress(ctx context.Context, p run.Progress) error {
	c.mu.Lock()
	saved := c.saved
	c.mu.Unlock()
	out := &jobv1.Progress{
		Epoch: uint32(max(p.Epoch, 0)), TotalEpochs: uint32(max(p.TotalEpochs, 0)), Step: p.Step, Reward: finiteOr(p.Reward, 0),
		Objective: p.Objective, StepsPerSecond: finiteOr(p.StepsPerSecond, 0), CheckpointStep: saved.step, CheckpointId: saved.id,
		ReportTime: timestamppb.Now(),
	}
	if p.Remaining > 0 {
		out.Remaining = durationpb.New(p.Remaining)
	}
	return c.send(ctx, &trainv1.TrainRequest{Frame: &trainv1.TrainRequest_Progress{Progress: out}})
}

// Checkpoint pushes the files and asks the agent to commit them.
func (c *Client) Checkpoint(ctx context.Context, k run.Checkpoint, files []checkpoint.File) error {
	ready := &trainv1.CheckpointReady{
		Step: k.Step, Metrics: k.Metrics, Resumable: k.Resumable, FeatureSchema: k.FeatureSchema, DataVersion: k.DataVersion,
		EvaluationWindow: k.EvaluationWindow, Trades: k.Trades,
	}
	for _, f := range files {
		if err := c.push(ctx, f); err != nil {
			return err
		}
		ready.Files = append(ready.Files, staged(f))
	}
	return c.send(ctx, &trainv1.TrainRequest{Frame: &trainv1.TrainRequest_Checkpoint{Checkpoint: ready}})
}

// Artifact pushes the file and asks the agent to commit it.
func (c *Client) Artifact(ctx context.Context, f checkpoint.File, contentType string) error {
	if err := c.push(ctx, f); err != nil {
		return err
	}
	return c.send(ctx, &trainv1.TrainRequest{Frame: &trainv1.TrainRequest_Artifact{
		Artifact: &trainv1.ArtifactReady{File: staged(f), ContentType: contentType}}})
}

// OutOfMemory reports that the program ran out of memory. device is "" for host memory.
func (c *Client) OutOfMemory(ctx context.Context, device, message string) error {
	return c.send(ctx, &trainv1.TrainRequest{Frame: &trainv1.TrainRequest_OutOfMemory{
		OutOfMemory: &trainv1.OutOfMemory{DeviceId: device, Message: limit(message, 10000)}}})
}

// DataOutage reports that the Data Service went away or came back.
func (c *Client) DataOutage(ctx context.Context, active bool, message string) error {
	return c.send(ctx, &trainv1.TrainRequest{Frame: &trainv1.TrainRequest_DataOutage{
		DataOutage: &trainv1.DataOutage{Active: active, Message: limit(message, 10000)}}})
}

func staged(f checkpoint.File) *trainv1.StagedFile {
	return &trainv1.StagedFile{Path: f.Name, Sha256: f.SHA256[:], SizeBytes: f.Size}
}

var outcomes = map[run.Outcome]fleetv1.Exit_Outcome{
	run.Succeeded: fleetv1.Exit_OUTCOME_SUCCEEDED,
	run.Failed:    fleetv1.Exit_OUTCOME_FAILED,
	run.Stopped:   fleetv1.Exit_OUTCOME_STOPPED,
}

func finishedFrame(e run.Ending) *trainv1.TrainRequest {
	f := &trainv1.Finished{Outcome: outcomes[e.Outcome], Message: limit(e.Message, 10000)}
	if e.Class != run.ClassNone {
		f.FailureClass = jobv1.FailureClass(jobv1.FailureClass_value["FAILURE_CLASS_"+string(e.Class)])
	}
	const most = 1000
	f.Problems = e.Problems[:min(len(e.Problems), most)]
	return &trainv1.TrainRequest{Frame: &trainv1.TrainRequest_Finished{Finished: f}}
}

// limit cuts a text to n bytes at a character boundary.
func limit(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n], "")
}

func stopReason(r fleetv1.StopOrder_Reason) string {
	return strings.ToLower(strings.TrimPrefix(r.String(), "REASON_"))
}

var specialists = map[jobv1.Specialist]market.Regime{
	jobv1.Specialist_SPECIALIST_BULL:     market.RegimeBull,
	jobv1.Specialist_SPECIALIST_BEAR:     market.RegimeBear,
	jobv1.Specialist_SPECIALIST_SIDEWAYS: market.RegimeSideways,
}

var rewards = map[jobv1.Reward]reward.Kind{
	jobv1.Reward_REWARD_UNSPECIFIED:         reward.RiskAdjusted,
	jobv1.Reward_REWARD_SHARPE:              reward.Sharpe,
	jobv1.Reward_REWARD_DIFFERENTIAL_SHARPE: reward.DifferentialSharpe,
	jobv1.Reward_REWARD_TOTAL_RETURN:        reward.TotalReturn,
	jobv1.Reward_REWARD_RISK_ADJUSTED:       reward.RiskAdjusted,
}

var schedules = map[jobv1.LearnerSpec_Schedule]run.Schedule{
	jobv1.LearnerSpec_SCHEDULE_UNSPECIFIED: run.Linear,
	jobv1.LearnerSpec_SCHEDULE_CONSTANT:    run.Constant,
	jobv1.LearnerSpec_SCHEDULE_LINEAR:      run.Linear,
	jobv1.LearnerSpec_SCHEDULE_COSINE:      run.Cosine,
}

// assignment converts Opened. A value that this trainer does not know is an
// error that names it: a newer contract, or a wrong job.
func assignment(o *trainv1.Opened) (*run.Assignment, error) {
	a := &run.Assignment{
		JobID: o.GetJobId(), Attempt: int(o.GetAttempt()), Fence: o.GetFence(),
		DisplayName: o.GetSpec().GetDisplayName(), Experiment: o.GetSpec().GetExperiment(),
		ReservedBytes: o.GetReservedBytes(), BatchSize: int(o.GetBatchSize()), GradientAccumulation: int(o.GetGradientAccumulation()),
		LearningRateScale: o.GetLearningRateScale(), DataServiceURL: o.GetDataServiceUrl(), CacheDir: o.GetCacheDir(),
		WorkDir: o.GetWorkDir(), RestoreDir: o.GetRestore().GetDirectory(), RestoreStep: o.GetRestore().GetStep(),
		RestoreID: o.GetRestore().GetCheckpointId(), WarmStartDir: o.GetWarmStart().GetDirectory(), Threads: int(o.GetThreads()),
	}
	for _, d := range o.GetDevices() {
		a.DeviceIDs = append(a.DeviceIDs, d.GetDeviceId())
	}
	switch r := o.GetSpec().GetRuntime().(type) {
	case *jobv1.JobSpec_Native:
		n, err := native(r.Native)
		a.Native = n
		return a, err
	case *jobv1.JobSpec_Command:
		a.Command = &run.Command{Argv: r.Command.GetArgv(), Env: r.Command.GetEnv(), WorkingDirectory: r.Command.GetWorkingDirectory()}
		return a, nil
	default:
		return nil, fmt.Errorf("%w: the job names no runtime that this trainer knows", ErrProtocol)
	}
}

func native(n *jobv1.NativeSpec) (*run.Native, error) {
	regime, ok := specialists[n.GetSpecialist()]
	kind, known := rewards[n.GetReward()]
	var unknown []string
	if !ok {
		unknown = append(unknown, fmt.Sprintf("specialist %v", n.GetSpecialist()))
	}
	if !known {
		unknown = append(unknown, fmt.Sprintf("reward %v", n.GetReward()))
	}
	l := n.GetLearner()
	schedule, known := schedules[l.GetSchedule()]
	if !known {
		unknown = append(unknown, fmt.Sprintf("schedule %v", l.GetSchedule()))
	}
	if len(unknown) > 0 {
		return nil, fmt.Errorf("%w: unknown %s", ErrProtocol, strings.Join(unknown, " and "))
	}
	out := &run.Native{
		Specialist: regime, Symbol: n.GetSymbol(), Timeframe: n.GetTimeframe(), Reward: weighed(kind, n.GetRewardParameters()), Seed: n.GetSeed(),
		MaxEpochs: int(n.GetMaxEpochs()), Patience: int(n.GetPatience()), Costs: market.Costs{CommissionBP: 1, SlippageBP: 1},
		Learner: run.Hyperparameters{
			LearningRate: l.GetLearningRate(), Discount: l.GetDiscount(), GAELambda: l.GetGaeLambda(), ClipRange: l.GetClipRange(),
			EntropyCoefficient: l.GetEntropyCoefficient(), ValueCoefficient: l.GetValueCoefficient(),
			MaxGradientNorm: l.GetMaxGradientNorm(), Environments: int(l.GetEnvironments()), RolloutSteps: int(l.GetRolloutSteps()),
			UpdateEpochs: int(l.GetUpdateEpochs()), Schedule: schedule, WarmupEpochs: int(l.GetWarmupEpochs()), FinalShare: l.GetFinalRateShare(),
		},
		Split: market.SplitPlan{ValidationFraction: n.GetSplit().GetValidationFraction(), TestFraction: n.GetSplit().GetTestFraction(),
			EmbargoBars: int(n.GetSplit().GetEmbargoBars()), Folds: int(n.GetSplit().GetFolds()), Fold: int(n.GetSplit().GetFold())},
		WarmStart: n.GetWarmStart().GetCheckpointId(), FreezeTrunk: n.GetWarmStart().GetFreezeTrunk(),
	}
	if k := l.GetTemporal(); k != nil {
		out.Learner.Temporal = &run.Temporal{Bars: int(k.GetBars()), Width: int(k.GetWidth()), Stride: int(k.GetStride()), Channels: int(k.GetChannels())}
	}
	if k := n.GetCosts(); k != nil {
		out.Costs = market.Costs{CommissionBP: k.GetCommissionBps(), SlippageBP: k.GetSlippageBps()}
	}
	for _, h := range l.GetHiddenSizes() {
		out.Learner.HiddenSizes = append(out.Learner.HiddenSizes, int(h))
	}
	return out, nil
}

// weighed is the reward with the job's weights over the defaults.
func weighed(kind reward.Kind, p *jobv1.RewardParameters) reward.Function {
	f := reward.Default(kind)
	if p == nil {
		return f
	}
	for _, w := range []struct {
		target *float64
		given  *float64
	}{{&f.RiskAversion, p.RiskAversion}, {&f.DrawdownPenalty, p.DrawdownPenalty}, {&f.TurnoverPenalty, p.TurnoverPenaltyBps}, {&f.Decay, p.Decay}} {
		if w.given != nil {
			*w.target = *w.given
		}
	}
	return f
}

// finishTimeout bounds the wait for the acknowledgement of the last frame, when
// the agent lives but its disk does not take the frames.
const finishTimeout = 2 * time.Minute

// FinishContext returns a context for Finish that outlives the training's own.
func FinishContext(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), finishTimeout)
}
