package specialist

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/ultrathink-pilot/trainyard/libs/safetensors"
	"github.com/ultrathink-pilot/trainyard/services/trainer/internal/checkpoint"
	"github.com/ultrathink-pilot/trainyard/services/trainer/internal/market"
	"github.com/ultrathink-pilot/trainyard/services/trainer/internal/run"
)

// Meta describes a checkpoint to people and to the inference service: enough to
// build the network and its observation without the trainer.
type Meta struct {
	Format           string   `json:"format"`
	Specialist       string   `json:"specialist"`
	Symbol           string   `json:"symbol"`
	Timeframe        string   `json:"timeframe"`
	Reward           string   `json:"reward"`
	Seed             int64    `json:"seed"`
	Epoch            int      `json:"epoch"`
	Step             int64    `json:"step"`
	FeatureSchema    string   `json:"feature_schema"`
	FeatureNames     []string `json:"feature_names"`
	DataDigest       string   `json:"data_digest"`
	ObservationWidth int      `json:"observation_width"`
	Hidden           []int    `json:"hidden"`
	// Temporal is the convolution over the last bars; nil means none. Its input is
	// [batch x bars x features], oldest bar first, standardised like the observation.
	Temporal *TemporalMeta      `json:"temporal,omitempty"`
	Actions  []string           `json:"actions"`
	Kernel   string             `json:"kernel"`
	Metrics  map[string]float64 `json:"metrics"`
	// Network is of an imported model alone.
	Network *ImportedNetwork `json:"network,omitempty"`
}

// ImportedNetwork is what "trainyard import" found out about a model that was made
// elsewhere.
type ImportedNetwork struct {
	Activation string `json:"activation"`
}

// TemporalMeta shapes the convolution: filters of Width bars at every Stride-th.
type TemporalMeta struct {
	Bars     int `json:"bars"`
	Width    int `json:"width"`
	Stride   int `json:"stride"`
	Channels int `json:"channels"`
}

// snapshot is one moment of a run, encoded.
type snapshot struct {
	step     int64
	epoch    int
	ranked   bool // its metrics carry the objective
	figures  market.Figures
	trades   int64
	contents []checkpoint.Content
	model    []byte
	state    run.State
	learner  []byte
}

// keeper holds the moments that may be needed again: the last one to roll back
// to, and the best one.
type keeper struct {
	dir      string
	last     *snapshot
	best     *snapshot
	bestSent bool
}

func (k *keeper) remember(s *snapshot, err error) error {
	if err == nil {
		k.last = s
	}
	return err
}

func (k *keeper) rememberBest(s *snapshot, err error) error {
	if err == nil {
		k.best, k.bestSent = s, false
	}
	return err
}

// snapshot encodes the present moment.
func (t *training) snapshot() (*snapshot, error) {
	s := &snapshot{step: t.step(), epoch: t.machineState().Epoch, state: t.machineState()}
	tensors := append(t.learner.Tensors(),
		safetensors.Float32("features.mean", t.world.Scaler.Mean, len(t.world.Scaler.Mean)),
		safetensors.Float32("features.scale", t.world.Scaler.Scale, len(t.world.Scaler.Scale)))
	var err error
	// No metadata: equal weights make an equal file, stored once.
	if s.model, err = safetensors.Encode(tensors, map[string]string{"format": "pt"}); err != nil {
		return nil, err
	}
	s.learner, err = t.learner.State()
	return s, err
}

// machineState is zero before the machine exists: the snapshot before training.
func (t *training) machineState() run.State {
	if t.machine == nil {
		return run.State{}
	}
	return t.machine.State()
}

// best is the snapshot of the present moment as the best so far.
func (t *training) best(f market.Figures, track *market.Track) (*snapshot, error) {
	s, err := t.snapshot()
	if err != nil {
		return nil, err
	}
	return s, t.complete(s, f, track, s.model)
}

// complete adds the files of a checkpoint to a snapshot. best is the model file
// of the best epoch, which a resumed run still needs for its evaluation.
func (t *training) complete(s *snapshot, f market.Figures, track *market.Track, best []byte) error {
	s.figures = f
	s.ranked = f.Exposure >= t.policy.MinExposure
	for _, v := range track.Turnover {
		if v > 0 {
			s.trades++
		}
	}
	state, err := json.Marshal(s.state)
	if err != nil {
		return err
	}
	meta, err := t.meta(s)
	if err != nil {
		return err
	}
	history, err := json.Marshal(t.curve)
	if err != nil {
		return err
	}
	sections := []checkpoint.Section{{Name: "run", Data: state}, {Name: "learner", Data: s.learner}, {Name: "best", Data: best}, {Name: "curve", Data: history}}
	s.contents = []checkpoint.Content{
		{Name: checkpoint.ModelFile, Data: s.model},
		{Name: checkpoint.StateFile, Data: checkpoint.EncodeState(sections)},
		meta,
	}
	return nil
}

// meta is the file that says what a checkpoint is, with the figures that it is
// catalogued by: a moment that is offered again with its objective is another
// checkpoint, because committed ones never change.
func (t *training) meta(s *snapshot) (checkpoint.Content, error) {
	table, n := t.job.Table, t.native
	var temporal *TemporalMeta
	if k := t.learner.Config().Temporal; k.On() {
		temporal = &TemporalMeta{k.Bars, k.Width, k.Stride, k.Channels}
	}
	text, err := json.MarshalIndent(Meta{
		Format: "trainyard-specialist/1", Specialist: n.Specialist.String(), Symbol: n.Symbol, Timeframe: n.Timeframe,
		Reward: n.Reward.Kind.String(), Seed: n.Seed, Epoch: s.epoch, Step: s.step, FeatureSchema: table.SchemaVersion,
		FeatureNames: table.FeatureNames, DataDigest: table.Digest, ObservationWidth: market.ObservationWidth,
		Hidden: t.learner.Hidden(), Temporal: temporal, Actions: []string{"short", "flat", "long"}, Kernel: t.learner.Kernel(),
		Metrics: t.checkpointMetrics(s),
	}, "", "  ")
	return checkpoint.Content{Name: checkpoint.MetaFile, Data: append(text, '\n')}, err
}

// checkpointMetrics are the figures a checkpoint is ranked by. The objective is
// left out of a checkpoint that hardly trades, unless nothing better exists: the
// registry would register a policy that was lucky three times.
func (t *training) checkpointMetrics(s *snapshot) map[string]float64 {
	m := map[string]float64{
		"validation/total_return":        s.figures.TotalReturn,
		"validation/max_drawdown":        s.figures.MaxDrawdown,
		"validation/exposure":            s.figures.Exposure,
		"validation/turnover":            s.figures.Turnover,
		"validation/buy_and_hold_sharpe": t.buyHold.Sharpe,
	}
	if s.ranked {
		m["validation/sharpe"] = s.figures.Sharpe
	}
	return m
}

// save hands over the best moment, if it is news, and the present one.
func (t *training) save(ctx context.Context, f market.Figures, track *market.Track) error {
	s, err := t.snapshot()
	if err != nil {
		return err
	}
	best := s.model
	if t.files.best != nil {
		best = t.files.best.model
	}
	if err := t.complete(s, f, track, best); err != nil {
		return err
	}
	t.files.last = s
	if b := t.files.best; b != nil && !t.files.bestSent && b.ranked && b.epoch != s.epoch {
		if err := t.push(ctx, b); err != nil {
			return err
		}
	}
	t.files.bestSent = true
	return t.push(ctx, s)
}

// push publishes the snapshot's files and reports them.
func (t *training) push(ctx context.Context, s *snapshot) error {
	dir := filepath.Join(t.files.dir, "checkpoints", strconv.FormatInt(s.step, 10))
	files, err := checkpoint.Write(dir, s.contents)
	if err != nil {
		return fmt.Errorf("writing the checkpoint of step %d: %w", s.step, err)
	}
	table, v := t.job.Table, t.world.Split.Validation
	err = t.report.Checkpoint(ctx, run.Checkpoint{
		Step: s.step, Metrics: t.checkpointMetrics(s), Resumable: s.learner != nil, FeatureSchema: table.SchemaVersion,
		DataVersion: table.Digest, EvaluationWindow: day(table.Dates[v.From]) + "/" + day(table.Dates[v.To-1]), Trades: s.trades,
	}, files)
	if err != nil {
		return reportError{err}
	}
	// The files were pushed: the host has its own copy.
	return os.RemoveAll(dir)
}

// reportError marks an error of the reporter: nobody listens any more.
type reportError struct{ error }

// Unwrap returns the reporter's error.
func (e reportError) Unwrap() error { return e.error }

func (t *training) saveFailed(err error) (run.Ending, bool, error) {
	if gone := (reportError{}); errors.As(err, &gone) {
		return run.Ending{}, false, gone.error
	}
	return run.Failure(run.ClassCrash, err.Error()), true, nil
}

func day(unix int64) string { return time.Unix(unix, 0).UTC().Format(time.DateOnly) }

// rollBack restores the last remembered moment with a lower learning rate.
func (t *training) rollBack() error {
	s := t.files.last
	if s == nil {
		return errors.New("there is no checkpoint to go back to")
	}
	tensors, _, err := safetensors.Decode(s.model)
	if err != nil {
		return err
	}
	weights := withoutScaler(tensors)
	if err := t.learner.SetTensors(weights); err != nil {
		return err
	}
	if err := t.learner.SetState(s.learner, true); err != nil {
		return err
	}
	t.machine.RollBackTo(s.state)
	t.curve = t.curve[:min(len(t.curve), s.state.Epoch)]
	return nil
}

// withoutScaler leaves the feature statistics out: what remains are the network's weights.
func withoutScaler(tensors []safetensors.Tensor) []safetensors.Tensor {
	var weights []safetensors.Tensor
	for _, t := range tensors {
		if t.Name != "features.mean" && t.Name != "features.scale" {
			weights = append(weights, t)
		}
	}
	return weights
}
