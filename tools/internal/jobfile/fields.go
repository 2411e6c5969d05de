package jobfile

import (
	"maps"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/types/known/durationpb"

	jobv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/job/v1"
)

var priorities = map[string]jobv1.PriorityClass{
	"batch":       jobv1.PriorityClass_PRIORITY_CLASS_BATCH,
	"search":      jobv1.PriorityClass_PRIORITY_CLASS_SEARCH,
	"interactive": jobv1.PriorityClass_PRIORITY_CLASS_INTERACTIVE,
	"production":  jobv1.PriorityClass_PRIORITY_CLASS_PRODUCTION,
}

var specialists = map[string]jobv1.Specialist{
	"bull":     jobv1.Specialist_SPECIALIST_BULL,
	"bear":     jobv1.Specialist_SPECIALIST_BEAR,
	"sideways": jobv1.Specialist_SPECIALIST_SIDEWAYS,
}

var rewards = map[string]jobv1.Reward{
	"sharpe":              jobv1.Reward_REWARD_SHARPE,
	"differential_sharpe": jobv1.Reward_REWARD_DIFFERENTIAL_SHARPE,
	"total_return":        jobv1.Reward_REWARD_TOTAL_RETURN,
	"risk_adjusted":       jobv1.Reward_REWARD_RISK_ADJUSTED,
}

var schedules = map[string]jobv1.LearnerSpec_Schedule{
	"constant": jobv1.LearnerSpec_SCHEDULE_CONSTANT,
	"linear":   jobv1.LearnerSpec_SCHEDULE_LINEAR,
	"cosine":   jobv1.LearnerSpec_SCHEDULE_COSINE,
}

const maxMemory = int64(64) << 40

// job decodes a job. more are fields that a job has only where it stands.
func (d *decoder) job(n *yaml.Node, path string, more fields) *jobv1.JobSpec {
	spec := &jobv1.JobSpec{}
	known := fields{
		"name":       d.text(&spec.DisplayName),
		"experiment": d.text(&spec.Experiment),
		"tenant":     d.text(&spec.Tenant),
		"priority":   choice(d, &spec.PriorityClass, priorities),
		"model":      d.text(&spec.ModelName),
		"resources":  func(n *yaml.Node, path string) { spec.Resources = d.resources(n, path) },
		"native": func(n *yaml.Node, path string) {
			spec.Runtime = &jobv1.JobSpec_Native{Native: d.native(n, path)}
		},
		"command": func(n *yaml.Node, path string) {
			spec.Runtime = &jobv1.JobSpec_Command{Command: d.command(n, path)}
		},
		"batch_size":            d.count(&spec.BatchSize, 1<<20),
		"gradient_accumulation": d.count(&spec.GradientAccumulation, 1<<20),
		"limits": func(n *yaml.Node, path string) {
			d.object(n, path, fields{"time": d.duration(&spec.TimeLimit), "stall": d.duration(&spec.StallLimit)})
		},
		"retries": func(n *yaml.Node, path string) {
			r := &jobv1.RetryPolicy{}
			spec.RetryPolicy = r
			d.object(n, path, fields{
				"crashes": d.count(&r.MaxCrashes, 100), "host_ooms": d.count(&r.MaxHostOoms, 100),
				"network_errors": d.count(&r.MaxNetworkErrors, 100), "min_batch_size": d.count(&r.MinBatchSize, 1<<20),
			})
		},
		"wait_for_capacity": d.flag(&spec.WaitForCapacity),
		"labels":            d.pairs(&spec.Labels),
		"after": d.list(func(n *yaml.Node, path string) {
			spec.After = append(spec.After, d.dependency(n, path))
		}),
		"deadline": d.instant(&spec.Deadline),
		"expected": d.duration(&spec.ExpectedDuration),
	}
	maps.Copy(known, more)
	seen := d.object(n, path, known)
	if seen == nil {
		return spec
	}
	d.require(n, seen, path, "name")
	if seen["native"] && seen["command"] {
		d.add(n, path, `"native" and "command" are both there: a job has one of them`)
	} else if !seen["native"] && !seen["command"] {
		d.add(n, path, `the job has neither "native" (the built-in learner) nor "command" (a program)`)
	}
	if spec.Experiment == "" {
		spec.Experiment = defaultExperiment(spec)
	}
	return spec
}

// defaultExperiment groups what a person left ungrouped.
func defaultExperiment(spec *jobv1.JobSpec) string {
	if native := spec.GetNative(); native != nil {
		for name, value := range specialists {
			if value == native.Specialist {
				return "specialists/" + name
			}
		}
	}
	return "jobs"
}

func (d *decoder) resources(n *yaml.Node, path string) *jobv1.Resources {
	r := &jobv1.Resources{}
	d.object(n, path, fields{
		"devices": d.list(func(n *yaml.Node, path string) {
			demand := &jobv1.DeviceDemand{}
			r.Devices = append(r.Devices, demand)
			d.object(n, path, fields{
				"count": d.count(&demand.Count, 64), "kind": d.kinds(&demand.Kind),
				"memory": d.reservation(demand), "labels": d.pairs(&demand.Labels),
				"mig": d.text(&demand.MigProfile), "topology": choice(d, &demand.Topology, topologies),
			})
		}),
		"cpu":    d.cores(&r.CpuMillis, 1024000),
		"memory": d.bytes(&r.HostMemoryBytes, maxMemory),
	})
	return r
}

// kinds reads one device kind, or a list of those that will do.
func (d *decoder) kinds(into *string) field {
	return func(n *yaml.Node, path string) {
		if n.Kind != yaml.SequenceNode {
			d.text(into)(n, path)
			return
		}
		var all []string
		d.list(func(n *yaml.Node, path string) {
			var kind string
			d.text(&kind)(n, path)
			all = append(all, kind)
		})(n, path)
		*into = strings.Join(all, "|")
	}
}

func (d *decoder) native(n *yaml.Node, path string) *jobv1.NativeSpec {
	s := &jobv1.NativeSpec{}
	seen := d.object(n, path, fields{
		"specialist": choice(d, &s.Specialist, specialists),
		"symbol":     d.text(&s.Symbol),
		"timeframe":  d.text(&s.Timeframe),
		"reward":     choice(d, &s.Reward, rewards),
		"seed":       d.whole(&s.Seed),
		"max_epochs": d.count(&s.MaxEpochs, 1000000),
		"patience":   d.count(&s.Patience, 1000000),
		"costs": func(n *yaml.Node, path string) {
			s.Costs = &jobv1.TradingCosts{}
			d.object(n, path, fields{
				"commission_bps": d.number(&s.Costs.CommissionBps, 1000), "slippage_bps": d.number(&s.Costs.SlippageBps, 1000),
			})
		},
		"split": func(n *yaml.Node, path string) {
			s.Split = &jobv1.WalkForward{}
			d.object(n, path, fields{
				"validation": d.number(&s.Split.ValidationFraction, 1), "test": d.number(&s.Split.TestFraction, 1),
				"embargo": d.count(&s.Split.EmbargoBars, 10000), "folds": d.count(&s.Split.Folds, 100), "fold": d.count(&s.Split.Fold, 99),
			})
		},
		"reward_parameters": func(n *yaml.Node, path string) {
			p := &jobv1.RewardParameters{}
			s.RewardParameters = p
			d.object(n, path, fields{
				"risk_aversion": d.weight(&p.RiskAversion, 100), "drawdown_penalty": d.weight(&p.DrawdownPenalty, 100),
				"turnover_penalty_bps": d.weight(&p.TurnoverPenaltyBps, 1000), "decay": d.weight(&p.Decay, 1),
			})
		},
		"learner":    func(n *yaml.Node, path string) { s.Learner = d.learner(n, path) },
		"warm_start": func(n *yaml.Node, path string) { s.WarmStart = d.warmStart(n, path) },
	})
	d.require(n, seen, path, "specialist", "symbol", "timeframe")
	return s
}

func (d *decoder) learner(n *yaml.Node, path string) *jobv1.LearnerSpec {
	l := &jobv1.LearnerSpec{}
	d.object(n, path, fields{
		"learning_rate":     d.number(&l.LearningRate, 1),
		"discount":          d.number(&l.Discount, 1),
		"gae_lambda":        d.number(&l.GaeLambda, 1),
		"clip_range":        d.number(&l.ClipRange, 1),
		"entropy":           d.number(&l.EntropyCoefficient, 1),
		"value":             d.number(&l.ValueCoefficient, 10),
		"max_gradient_norm": d.number(&l.MaxGradientNorm, 1000),
		"environments":      d.count(&l.Environments, 4096),
		"rollout_steps":     d.count(&l.RolloutSteps, 65536),
		"update_epochs":     d.count(&l.UpdateEpochs, 100),
		"hidden": d.list(func(n *yaml.Node, path string) {
			var width uint32
			d.count(&width, 4096)(n, path)
			l.HiddenSizes = append(l.HiddenSizes, width)
		}),
		"temporal": func(n *yaml.Node, path string) {
			t := &jobv1.TemporalTrunk{}
			l.Temporal = t
			d.object(n, path, fields{
				"bars": d.count(&t.Bars, 256), "width": d.count(&t.Width, 256), "stride": d.count(&t.Stride, 256), "channels": d.count(&t.Channels, 1024),
			})
		},
		"schedule":         choice(d, &l.Schedule, schedules),
		"warmup_epochs":    d.count(&l.WarmupEpochs, 100000),
		"final_rate_share": d.number(&l.FinalRateShare, 1),
	})
	return l
}

// warmStart names another's trunk: a checkpoint by its id, or a model, whose
// checkpoint the caller looks up before it submits.
func (d *decoder) warmStart(n *yaml.Node, path string) *jobv1.WarmStart {
	w := &jobv1.WarmStart{}
	var version int64
	seen := d.object(n, path, fields{
		"checkpoint": d.text(&w.CheckpointId), "model": d.text(&d.warmModel.Name), "version": d.whole(&version), "freeze": d.flag(&w.FreezeTrunk),
	})
	d.warmModel.Version = version
	switch {
	case seen == nil:
	case seen["checkpoint"] == seen["model"]:
		d.add(n, path, `names the trunk by "checkpoint" (an id) or by "model" (its production version, or "version"), one of them`)
	case seen["version"] && !seen["model"]:
		d.add(n, path+".version", `goes with "model"`)
	}
	return w
}

func (d *decoder) command(n *yaml.Node, path string) *jobv1.CommandSpec {
	c := &jobv1.CommandSpec{}
	seen := d.object(n, path, fields{
		"argv": d.list(func(n *yaml.Node, path string) {
			var word string
			d.text(&word)(n, path)
			c.Argv = append(c.Argv, word)
		}),
		"env": func(n *yaml.Node, path string) {
			d.pairs(&c.Env)(n, path)
			for name := range c.Env {
				if strings.HasPrefix(name, "TRAINYARD_") {
					d.add(n, path+"."+name, "names that start with TRAINYARD_ are the agent's")
				}
			}
		},
		"working_directory": d.text(&c.WorkingDirectory),
	})
	d.require(n, seen, path, "argv")
	return c
}

func (d *decoder) duration(into **durationpb.Duration) field {
	return func(n *yaml.Node, path string) {
		text, ok := d.scalar(n, path, "a duration such as 90s, 10m or 2h")
		if !ok {
			return
		}
		v, err := time.ParseDuration(text)
		switch {
		case err != nil:
			d.add(n, path, "%q is not a duration such as 90s, 10m or 2h", text)
		case v <= 0:
			d.add(n, path, "%s is not more than zero", text)
		default:
			*into = durationpb.New(v)
		}
	}
}
