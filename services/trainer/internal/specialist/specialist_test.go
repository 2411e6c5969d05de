package specialist

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"image/png"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ultrathink-pilot/trainyard/services/trainer/internal/checkpoint"
	"github.com/ultrathink-pilot/trainyard/services/trainer/internal/market"
	"github.com/ultrathink-pilot/trainyard/services/trainer/internal/markettest"
	"github.com/ultrathink-pilot/trainyard/services/trainer/internal/reward"
	"github.com/ultrathink-pilot/trainyard/services/trainer/internal/run"
)

// listener is a reporter that keeps everything, as the agent would.
type listener struct {
	mu          sync.Mutex
	params      map[string]string
	metrics     []run.Metric
	progress    []run.Progress
	checkpoints []saved
	artifacts   map[string][]byte
	order       run.Order
	changed     chan struct{}
	// onMetrics is called after each batch of metrics.
	onMetrics func(l *listener)
	fail      error
}

type saved struct {
	run.Checkpoint
	files map[string][]byte
}

func newListener() *listener {
	return &listener{params: map[string]string{}, artifacts: map[string][]byte{}, changed: make(chan struct{})}
}

func (l *listener) Params(_ context.Context, p map[string]string) error {
	for k, v := range p {
		l.params[k] = v
	}
	return l.fail
}

func (l *listener) Metrics(_ context.Context, points []run.Metric) error {
	l.metrics = append(l.metrics, points...)
	if l.onMetrics != nil {
		l.onMetrics(l)
	}
	return l.fail
}

func (l *listener) Progress(_ context.Context, p run.Progress) error {
	l.progress = append(l.progress, p)
	return l.fail
}

func (l *listener) Checkpoint(_ context.Context, c run.Checkpoint, files []checkpoint.File) error {
	s := saved{c, map[string][]byte{}}
	for _, f := range files {
		data, err := os.ReadFile(f.Path)
		if err != nil {
			return err
		}
		if sha256.Sum256(data) != f.SHA256 || int64(len(data)) != f.Size {
			return errors.New("wrong digest of " + f.Name)
		}
		s.files[f.Name] = data
	}
	l.checkpoints = append(l.checkpoints, s)
	return l.fail
}

func (l *listener) Artifact(_ context.Context, f checkpoint.File, _ string) error {
	data, err := os.ReadFile(f.Path)
	l.artifacts[f.Name] = data
	return err
}

func (l *listener) Order() run.Order {
	l.mu.Lock()
	defer l.mu.Unlock()
	o := l.order
	l.order.CheckpointNow = false
	return o
}

func (l *listener) Changed() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.changed
}

func (l *listener) give(o run.Order) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.order = o
	close(l.changed)
	l.changed = make(chan struct{})
}

// value returns the last value of a metric.
func (l *listener) value(t *testing.T, key string) float64 {
	t.Helper()
	for i := len(l.metrics) - 1; i >= 0; i-- {
		if l.metrics[i].Key == key {
			return l.metrics[i].Value
		}
	}
	t.Fatalf("no metric %q", key)
	return 0
}

func job(t *testing.T, table *market.Table, regime market.Regime) Job {
	return Job{Table: table, Assignment: &run.Assignment{JobID: "job", Attempt: 1, WorkDir: t.TempDir(), Threads: 1,
		Native: &run.Native{Specialist: regime, Symbol: "TEST", Timeframe: "1d", Reward: reward.Default(reward.RiskAdjusted), Seed: 11,
			Costs: market.Costs{CommissionBP: 1, SlippageBP: 1}}}}
}

func quick(t *testing.T) Job {
	j := job(t, markettest.SyntheticTable(6, 1600), market.RegimeBear)
	n := j.Assignment.Native
	n.MaxEpochs, n.Patience = 12, 12
	n.Learner = run.Hyperparameters{Environments: 16, RolloutSteps: 32, HiddenSizes: []int{16, 16}, UpdateEpochs: 1}
	j.Assignment.BatchSize = 256
	return j
}

func mustTrain(t *testing.T, j Job, l *listener) run.Ending {
	t.Helper()
	ending, err := Train(t.Context(), j, l)
	if err != nil {
		t.Fatal(err)
	}
	return ending
}

func TestARunLeavesEverything(t *testing.T) {
	t.Parallel()
	l := newListener()
	j := quick(t)
	ending := mustTrain(t, j, l)
	if ending.Outcome != run.Succeeded {
		t.Fatalf("%+v", ending)
	}
	for _, key := range []string{"train/reward", "train/policy_loss", "train/value_loss", "train/entropy", "train/kl",
		"validation/sharpe", "validation/total_return", "validation/max_drawdown", "validation/buy_and_hold_sharpe",
		"test/sharpe", "test/total_return", "test/max_drawdown", "test/buy_and_hold_sharpe", "throughput/steps_per_second", "data/io_share"} {
		if v := l.value(t, key); math.IsNaN(v) {
			t.Errorf("%s is not a number", key)
		}
	}
	if n := len(l.progress); n != 12 || l.progress[11].Epoch != 12 || l.progress[11].TotalEpochs != 12 || l.progress[11].Step != 12*16*32 {
		t.Errorf("%d progress reports, last %+v", n, l.progress[n-1])
	}
	steps := map[int64]bool{}
	for _, c := range l.checkpoints {
		steps[c.Step] = true
		for _, name := range []string{checkpoint.ModelFile, checkpoint.StateFile, checkpoint.MetaFile} {
			if len(c.files[name]) == 0 {
				t.Errorf("checkpoint of step %d has no %s", c.Step, name)
			}
		}
		if !c.Resumable || c.FeatureSchema == "" || c.EvaluationWindow == "" {
			t.Errorf("checkpoint %+v", c.Checkpoint)
		}
	}
	for _, epoch := range []int64{5, 10, 12} {
		if !steps[epoch*16*32] {
			t.Errorf("no checkpoint after epoch %d: %v", epoch, steps)
		}
	}
	for _, name := range []string{TrainingFile, EquityFile, ActionsFile} {
		if picture, err := png.Decode(bytes.NewReader(l.artifacts[name])); err != nil || picture.Bounds().Dx() < 500 {
			t.Errorf("%s: %v", name, err)
		}
	}
	if len(l.artifacts[PolicyFile]) < 1000 {
		t.Errorf("the policy as ONNX has %d bytes", len(l.artifacts[PolicyFile]))
	}
	page := string(l.artifacts[ReportFile])
	for _, want := range []string{"<svg", "buy and hold", "block bootstrap", "deflated", "deepest drawdown", "random", "</html>"} {
		if !strings.Contains(page, want) {
			t.Errorf("the report has no %q", want)
		}
	}
	if strings.Contains(page, "src=") || strings.Contains(page, "<link") || strings.Contains(page, "<script") {
		t.Error("the report loads something from elsewhere")
	}
	var e Evaluation
	if err := json.Unmarshal(l.artifacts[EvaluationFile], &e); err != nil {
		t.Fatal(err)
	}
	if n := e.Test.Strategy.Bars; n == 0 || len(e.Test.Dates) != n || len(e.Test.Equity) != n || len(e.Test.BuyAndHold) != n {
		t.Errorf("the test curves do not match their %d bars", n)
	}
	if e.Validation.Strategy.Sharpe != l.value(t, "best/sharpe") || e.Test.Strategy.Sharpe != l.value(t, "test/sharpe") {
		t.Error("the evaluation and the metrics disagree")
	}
	// The best checkpoint is among those handed over, with the figures of the evaluation.
	found := false
	for _, c := range l.checkpoints {
		found = found || c.Step == e.BestStep && c.Metrics["validation/total_return"] == e.Validation.Strategy.TotalReturn
	}
	if !found {
		t.Errorf("the best checkpoint (step %d) was not handed over: %v", e.BestStep, steps)
	}
	// Nothing stays in the work directory.
	left, err := filepath.Glob(filepath.Join(j.Assignment.WorkDir, "*", "*"))
	if err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// comparable strips what depends on the wall clock.
func comparable(metrics []run.Metric) []run.Metric {
	var out []run.Metric
	for _, m := range metrics {
		if !strings.HasPrefix(m.Key, "throughput/") && !strings.HasPrefix(m.Key, "data/") {
			m.Time = time.Time{}
			out = append(out, m)
		}
	}
	return out
}

// TestAccumulationKeepsTheResult: half the batch and twice the accumulation, as
// after an out-of-memory, change nothing but the memory.
func TestAccumulationKeepsTheResult(t *testing.T) {
	t.Parallel()
	a, b := newListener(), newListener()
	mustTrain(t, quick(t), a)
	j := quick(t)
	j.Assignment.BatchSize, j.Assignment.GradientAccumulation = 128, 2
	mustTrain(t, j, b)
	if !reflect.DeepEqual(comparable(a.metrics), comparable(b.metrics)) || !reflect.DeepEqual(a.params, b.params) {
		t.Error("another result")
	}
}

func TestPauseHoldsStillAndCheckpointNowSaves(t *testing.T) {
	t.Parallel()
	l := newListener()
	l.onMetrics = func(l *listener) {
		if len(l.progress) == 2 {
			l.give(run.Order{Paused: true, CheckpointNow: true})
			time.AfterFunc(50*time.Millisecond, func() {
				l.mu.Lock()
				asked := l.order.CheckpointNow // on a busy machine not yet taken
				l.mu.Unlock()
				l.give(run.Order{CheckpointNow: asked})
			})
		}
	}
	began := time.Now()
	if e := mustTrain(t, quick(t), l); e.Outcome != run.Succeeded {
		t.Fatalf("%+v", e)
	}
	if time.Since(began) < 50*time.Millisecond {
		t.Error("the pause was not kept")
	}
	// The best so far may be handed over before it.
	if l.checkpoints[0].Step != 3*16*32 && l.checkpoints[1].Step != 3*16*32 {
		t.Errorf("no checkpoint of step %d, which was asked for", 3*16*32)
	}
}

func TestBadInputIsNamedAllAtOnce(t *testing.T) {
	t.Parallel()
	j := quick(t)
	table := markettest.SyntheticTable(6, 1600)
	table.Row(9)[1] = float32(math.NaN())
	j.Table = table
	j.Assignment.Native.Learner.Environments = 7
	j.Assignment.Native.Learner.Discount = 1.5
	e := mustTrain(t, j, newListener())
	text := strings.Join(e.Problems, "\n")
	if e.Class != run.ClassBadConfiguration || len(e.Problems) != 3 || !strings.Contains(text, "table.features[9].ret_2: NaN") ||
		!strings.Contains(text, "learner.environments: 7") || !strings.Contains(text, "learner.gamma: 1.5") {
		t.Errorf("%+v", e)
	}
}

func TestADamagedCheckpointIsRefused(t *testing.T) {
	t.Parallel()
	l := newListener()
	mustTrain(t, quick(t), l)
	good := l.checkpoints[0].files
	for _, name := range []string{checkpoint.ModelFile, checkpoint.StateFile, checkpoint.MetaFile} {
		j := quick(t)
		j.Assignment.RestoreDir, j.Assignment.RestoreID = t.TempDir(), "ck-1"
		for n, data := range good {
			if n == name {
				data = data[:len(data)/2]
			}
			if err := os.WriteFile(filepath.Join(j.Assignment.RestoreDir, n), data, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if e := mustTrain(t, j, newListener()); e.Outcome != run.Failed || !strings.Contains(e.Message, "ck-1") {
			t.Errorf("half of %s: %+v", name, e)
		}
	}
	j := quick(t)
	j.Assignment.RestoreDir = t.TempDir()
	for n, data := range good {
		data = bytes.Replace(data, []byte("trainyard-features/1"), []byte("trainyard-features/2"), 1)
		if err := os.WriteFile(filepath.Join(j.Assignment.RestoreDir, n), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if e := mustTrain(t, j, newListener()); !strings.Contains(e.Message, "trainyard-features/2") {
		t.Errorf("another feature schema: %+v", e)
	}
}

// TestAnExplodingRunRollsBackOnceThenFails: a learning rate of one sends the
// weights to infinity, again after the rollback.
func TestAnExplodingRunRollsBackOnceThenFails(t *testing.T) {
	t.Parallel()
	j := quick(t)
	j.Assignment.Native.Learner.LearningRate = 1e38
	j.Assignment.Native.Learner.MaxGradientNorm = 1000
	e := mustTrain(t, j, newListener())
	if e.Class != run.ClassDiverged || !strings.Contains(e.Message, "again after a lower learning rate") {
		t.Errorf("%+v", e)
	}
	// Whoever looks into it finds the curve up to there.
	l := newListener()
	failed := &training{job: j, report: l, curve: curve{{Sharpe: 1}, {Sharpe: 0.5}}, files: keeper{dir: t.TempDir()}}
	if err := failed.handCurve(t.Context()); err != nil || len(l.artifacts[TrainingFile]) == 0 {
		t.Errorf("%v, artifacts %d", err, len(l.artifacts))
	}
}

// A policy that hardly trades is catalogued without its objective while better ones
// may come. When none came, it is offered again with the objective, as another
// checkpoint: the catalogue keeps the figures of a committed one for ever, and a
// short run once ended without a model because of that.
func TestARunThatHardlyTradesStillOffersItsBest(t *testing.T) {
	t.Parallel()
	j := quick(t)
	j.Assignment.Native.MaxEpochs, j.Assignment.Native.Patience, j.Assignment.Native.Seed = 5, 5, 2
	j.Assignment.Native.Costs = market.Costs{CommissionBP: 400, SlippageBP: 400}
	l := newListener()
	if ending := mustTrain(t, j, l); ending.Outcome != run.Succeeded {
		t.Fatalf("%+v", ending)
	}
	manifests := map[string]bool{}
	offered := 0
	for _, c := range l.checkpoints {
		id := sha256.Sum256(c.files[checkpoint.MetaFile])
		manifests[string(id[:])] = true
		if v, ok := c.Metrics["validation/sharpe"]; ok && !math.IsNaN(v) {
			offered++
			if c.Metrics["validation/exposure"] >= 0.1 {
				t.Fatalf("this run was to hardly trade: %v", c.Metrics)
			}
		}
	}
	if offered != 1 || len(manifests) != len(l.checkpoints) {
		t.Errorf("%d of %d checkpoints carry the objective, %d manifests differ; want the best one offered as a checkpoint of its own", offered, len(l.checkpoints), len(manifests))
	}
}

// Each fold trains on more of the past and validates on the window after it; the test part stays the same, and what was
// not given stays the default.
func TestFoldsWalkForward(t *testing.T) {
	t.Parallel()
	params := func(fold int) map[string]string {
		j, l := quick(t), newListener()
		j.Assignment.Native.MaxEpochs = 1
		j.Assignment.Native.Split = market.SplitPlan{Folds: 2, Fold: fold}
		if e := mustTrain(t, j, l); e.Outcome != run.Succeeded {
			t.Fatalf("%+v", e)
		}
		return l.params
	}
	first, second := params(0), params(1)
	start := func(p map[string]string, window string) string {
		from, _, _ := strings.Cut(p[window], "/")
		return from
	}
	end := func(p map[string]string, window string) string { _, to, _ := strings.Cut(p[window], "/"); return to }
	if first["fold"] != "0 of 2" || second["fold"] != "1 of 2" || first["test_window"] != second["test_window"] ||
		end(first, "train_window") >= start(first, "validation_window") || end(first, "validation_window") >= start(second, "validation_window") ||
		end(second, "train_window") < end(first, "validation_window") || end(second, "validation_window") >= start(second, "test_window") {
		t.Errorf("%v\n%v", first, second)
	}
	j, l := quick(t), newListener()
	j.Assignment.Native.Split = market.SplitPlan{Fold: 3}
	if e := mustTrain(t, j, l); e.Class != run.ClassBadConfiguration || !strings.Contains(e.Message, "fold") {
		t.Errorf("%+v", e)
	}
}
