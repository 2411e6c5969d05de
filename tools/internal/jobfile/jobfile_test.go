package jobfile

import (
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	jobv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/job/v1"
)

const whole = `
name: bull-spx
experiment: specialists/bull
tenant: desk
priority: interactive
model: bull_specialist
native:
  specialist: bull
  symbol: SPX
  timeframe: 1d
  reward: differential_sharpe
  seed: -7
  max_epochs: 60
  patience: 12
  costs: {commission_bps: 1.5, slippage_bps: 2}
  learner:
    learning_rate: 3e-4
    entropy: 0.01
    hidden: [64, 32]
    temporal: {bars: 20, channels: 32}
    schedule: cosine
    warmup_epochs: 4
    final_rate_share: 0.2
  warm_start: {model: bear_specialist, version: 3, freeze: true}
  split: {validation: 0.3, test: 0.2, embargo: 5, folds: 4, fold: 2}
  reward_parameters: {decay: 0.02, drawdown_penalty: 0}
resources:
  devices:
    - kind: cpu-lane
      memory: 256MiB
      labels: {zone: a}
  cpu: 500m
  memory: 1.5GiB
batch_size: 256
limits: {time: 2h, stall: 90s}
retries: {crashes: 2}
wait_for_capacity: true
labels: {owner: me}
`

func TestParse(t *testing.T) {
	t.Parallel()
	got, problems := Parse([]byte(whole))
	if problems != nil {
		t.Fatal(problems)
	}
	want := &jobv1.JobSpec{
		DisplayName: "bull-spx", Experiment: "specialists/bull", Tenant: "desk",
		PriorityClass: jobv1.PriorityClass_PRIORITY_CLASS_INTERACTIVE, ModelName: "bull_specialist",
		Runtime: &jobv1.JobSpec_Native{Native: &jobv1.NativeSpec{
			Specialist: jobv1.Specialist_SPECIALIST_BULL, Symbol: "SPX", Timeframe: "1d",
			Reward: jobv1.Reward_REWARD_DIFFERENTIAL_SHARPE, Seed: -7, MaxEpochs: 60, Patience: 12,
			Costs: &jobv1.TradingCosts{CommissionBps: 1.5, SlippageBps: 2},
			Learner: &jobv1.LearnerSpec{LearningRate: 3e-4, EntropyCoefficient: 0.01, HiddenSizes: []uint32{64, 32},
				Temporal: &jobv1.TemporalTrunk{Bars: 20, Channels: 32}, Schedule: jobv1.LearnerSpec_SCHEDULE_COSINE, WarmupEpochs: 4, FinalRateShare: 0.2},
			WarmStart:        &jobv1.WarmStart{FreezeTrunk: true},
			Split:            &jobv1.WalkForward{ValidationFraction: 0.3, TestFraction: 0.2, EmbargoBars: 5, Folds: 4, Fold: 2},
			RewardParameters: &jobv1.RewardParameters{Decay: proto.Float64(0.02), DrawdownPenalty: proto.Float64(0)},
		}},
		Resources: &jobv1.Resources{
			Devices:   []*jobv1.DeviceDemand{{Kind: "cpu-lane", MemoryBytes: 256 << 20, Labels: map[string]string{"zone": "a"}}},
			CpuMillis: 500, HostMemoryBytes: 3 << 29,
		},
		BatchSize: 256, TimeLimit: durationpb.New(2 * time.Hour), StallLimit: durationpb.New(90 * time.Second),
		RetryPolicy: &jobv1.RetryPolicy{MaxCrashes: 2}, WaitForCapacity: true, Labels: map[string]string{"owner": "me"},
	}
	if !proto.Equal(got.Spec, want) {
		t.Errorf("got  %v\nwant %v", got.Spec, want)
	}
	if m := got.WarmModel; m == nil || *m != (ModelVersion{"bear_specialist", 3}) {
		t.Errorf("the warm start is from %v", m)
	}
}

func TestAWarmStartHasOneSource(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"{freeze: true}":              "one of them",
		"{checkpoint: x, model: y}":   "one of them",
		"{checkpoint: x, version: 2}": `goes with "model"`,
	} {
		_, problems := Parse([]byte("name: a\nnative: {specialist: bull, symbol: SPX, timeframe: 1d, warm_start: " + text + "}\n"))
		if len(problems) != 1 || !strings.Contains(problems[0].String(), want) || !strings.Contains(problems[0].Path, "native.warm_start") {
			t.Errorf("%s: %v", text, problems)
		}
	}
}

func TestSeveralKindsWillDo(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{"A100": "A100", "[A100, H100]": "A100|H100", "A100|H100": "A100|H100"} {
		got, problems := Parse([]byte("name: x\ncommand: {argv: [a]}\nresources: {devices: [{kind: " + text + "}]}\n"))
		if problems != nil || got.Spec.GetResources().GetDevices()[0].GetKind() != want {
			t.Errorf("%s: %v %v", text, got, problems)
		}
	}
	_, problems := Parse([]byte("name: x\ncommand: {argv: [a]}\nresources: {devices: [{kind: [A100, {b: c}]}]}\n"))
	if len(problems) != 1 || !strings.Contains(problems[0].String(), "resources.devices[0].kind[1]") {
		t.Errorf("a block as a kind: %v", problems)
	}
}

func TestExperimentDefaultsToTheSpecialist(t *testing.T) {
	t.Parallel()
	got, problems := Parse([]byte("name: x\nnative: {specialist: bear, symbol: SPX, timeframe: 1d}\n"))
	if problems != nil || got.Spec.Experiment != "specialists/bear" {
		t.Fatalf("%v %v", got, problems)
	}
	got, problems = Parse([]byte("name: x\ncommand: {argv: [python, train.py]}\n"))
	if problems != nil || got.Spec.Experiment != "jobs" || len(got.Spec.GetCommand().Argv) != 2 {
		t.Fatalf("%v %v", got, problems)
	}
}

func TestEveryProblemAtOnce(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		text string
		want []string
	}{
		"many": {`name: x
prioritty: batch
native:
  specialist: bul
  symbol: SPX
  seed: many
  learner: {learning_rate: 7, hidden: 64}
resources:
  devices:
    - memory: -1GiB
    - memory: 12parsec
      count: 100
  cpu: lots
limits: {time: 0s, stall: soon}
name: y
`, []string{
			`line 2: prioritty: unknown field, did you mean "priority"?`,
			`line 4: native.specialist: unknown value "bul", did you mean "bull"?; it is one of bear, bull, sideways`,
			`line 6: native.seed: "many" is not a whole number`,
			`line 7: native.learner.learning_rate: 7 is not between 0 and 1`,
			`line 7: native.learner.hidden: "64" is not a list`,
			`native.timeframe: is missing`,
			`line 10: resources.devices[0].memory: -1GiB is negative`,
			`line 11: resources.devices[1].memory: "12parsec" is not a size such as 512MiB or 24GiB`,
			`line 12: resources.devices[1].count: 100 is not between 0 and 64`,
			`line 13: resources.cpu: "lots" is not a number of cores`,
			`line 14: limits.time: 0s is not more than zero`,
			`line 14: limits.stall: "soon" is not a duration`,
			`line 15: name: appears twice`,
		}},
		"empty":       {"", []string{"the file is empty"}},
		"no yaml":     {"a: [", []string{"not YAML"}},
		"a list":      {"- a\n", []string{"a list, not a block of fields"}},
		"no runtime":  {"name: x\n", []string{`neither "native"`}},
		"two":         {"name: x\nnative: {specialist: bull, symbol: S, timeframe: 1d}\ncommand: {argv: [a]}\n", []string{"both there"}},
		"empty field": {"name:\ncommand: {argv: [a], env: {TRAINYARD_X: a}}\n", []string{"line 1: name: is empty, not a text", "command.env.TRAINYARD_X"}},
	} {
		got, problems := Parse([]byte(c.text))
		if got != nil {
			t.Errorf("%s: accepted", name)
		}
		var lines []string
		for _, p := range problems {
			lines = append(lines, p.String())
		}
		all := strings.Join(lines, "\n")
		for _, want := range c.want {
			if !strings.Contains(all, want) {
				t.Errorf("%s: %q not in:\n%s", name, want, all)
			}
		}
		if name == "many" && len(problems) != len(c.want) {
			t.Errorf("%d problems, want %d:\n%s", len(problems), len(c.want), all)
		}
	}
}

func TestServiceFindingsSpeakOfTheFile(t *testing.T) {
	t.Parallel()
	file, problems := Parse([]byte(whole))
	if problems != nil {
		t.Fatal(problems)
	}
	for field, want := range map[string]string{
		"spec.resources.devices[0].memory_bytes": "line 30: resources.devices[0].memory: no",
		"spec.resources.host_memory_bytes":       "line 33: resources.memory: no",
		"resources.cpu_millis":                   "line 32: resources.cpu: no",
		"spec.display_name":                      "line 2: name: no",
		"spec.time_limit":                        "line 35: limits.time: no",
		"spec.retry_policy.max_crashes":          "line 36: retries.crashes: no",
		"spec.native.learner.hidden_sizes[1]":    "line 19: native.learner.hidden[1]: no",
		"spec.native.learner.discount":           "line 16: native.learner.discount: no",
		"request_id":                             "request_id: no",
	} {
		if got := file.Problem(field, "no").String(); got != want {
			t.Errorf("%s: %q, want %q", field, got, want)
		}
	}
}
