package specialist

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/ultrathink-pilot/trainyard/libs/safetensors"
	"github.com/ultrathink-pilot/trainyard/services/trainer/internal/checkpoint"
	"github.com/ultrathink-pilot/trainyard/services/trainer/internal/market"
	"github.com/ultrathink-pilot/trainyard/services/trainer/internal/markettest"
	"github.com/ultrathink-pilot/trainyard/services/trainer/internal/run"
)

// interruption is where and how a run is broken off: by a stop, which saves first,
// or by a kill, after which the last regular checkpoint counts. It strikes as an epoch
// reports, or, when after is set, at that instant of the run, whatever it is doing.
type interruption struct {
	epoch int
	after time.Duration
	kill  bool
}

// checkpointDir lays a checkpoint out as the agent does for a restore.
func checkpointDir(t *testing.T, files map[string][]byte) string {
	t.Helper()
	dir := t.TempDir()
	for name, data := range files {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// resumed interrupts and resumes a run, and compares its final checkpoint, its
// artifacts and every metric with those of the whole run. False means that the run had
// ended before the interruption.
func resumed(t *testing.T, job func() Job, whole *listener, at interruption) bool {
	t.Helper()
	first := newListener()
	killed := errors.New("killed")
	ctx, kill := context.WithCancelCause(t.Context())
	defer kill(nil)
	stop := run.Order{Stop: true, Reason: "preempted"}
	if at.after > 0 {
		defer time.AfterFunc(at.after, func() {
			if at.kill {
				kill(killed)
			} else {
				first.give(stop)
			}
		}).Stop()
	} else {
		first.onMetrics = func(l *listener) {
			if len(l.progress)+1 == at.epoch {
				if at.kill {
					l.fail = killed
				} else {
					l.give(stop)
				}
			}
		}
	}
	ending, err := Train(ctx, job(), first)
	if at.after > 0 && err == nil && ending.Outcome == run.Succeeded {
		return false
	}
	if at.kill && !errors.Is(err, killed) || !at.kill && (err != nil || ending.Outcome != run.Stopped) {
		t.Fatalf("%+v: the interruption: %+v, %v", at, ending, err)
	}
	j := job()
	j.Assignment.Attempt = 2
	if n := len(first.checkpoints); n > 0 {
		c := first.checkpoints[n-1]
		j.Assignment.RestoreDir, j.Assignment.RestoreStep = checkpointDir(t, c.files), c.Step
	}
	second := newListener()
	if e := mustTrain(t, j, second); e.Outcome != run.Succeeded {
		t.Fatalf("%+v: after the resume: %+v", at, e)
	}
	if !reflect.DeepEqual(first.params, second.params) {
		t.Errorf("%+v: the parameters of the two attempts differ", at)
	}
	last, end := whole.checkpoints[len(whole.checkpoints)-1], second.checkpoints[len(second.checkpoints)-1]
	for name := range last.files {
		if !bytes.Equal(end.files[name], last.files[name]) {
			t.Errorf("%+v: %s differs at the end", at, name)
		}
	}
	for name := range whole.artifacts {
		if !bytes.Equal(second.artifacts[name], whole.artifacts[name]) {
			t.Errorf("%+v: %s differs", at, name)
		}
	}
	tail, want := comparable(second.metrics), comparable(whole.metrics)
	if len(tail) > len(want) || !reflect.DeepEqual(tail, want[len(want)-len(tail):]) {
		t.Errorf("%+v: metrics differ", at)
	}
	return true
}

// resumable makes the jobs of the resume tests: every specialist, and a temporal one.
func resumable(t *testing.T, regime market.Regime, temporal bool, table *market.Table) func() Job {
	return func() Job {
		j := quick(t)
		j.Table, j.Assignment.Native.Specialist = table, regime
		if temporal {
			j.Assignment.Native.Learner.Temporal = &run.Temporal{Bars: 8, Width: 4, Stride: 2}
			j.Assignment.Native.Learner.Schedule, j.Assignment.Native.Learner.WarmupEpochs = run.Cosine, 3
		}
		return j
	}
}

// TestResumeIsBitIdentical for all three specialists, one of them temporal. The
// campaign of a hundred points is TestCampaignResume.
func TestResumeIsBitIdentical(t *testing.T) {
	t.Parallel()
	table := markettest.SyntheticTable(6, 1600)
	rng := rand.New(rand.NewPCG(2026, 11))
	for _, regime := range []market.Regime{market.RegimeBull, market.RegimeBear, market.RegimeSideways} {
		job := resumable(t, regime, regime == market.RegimeBear, table)
		whole := newListener()
		if e := mustTrain(t, job(), whole); e.Outcome != run.Succeeded {
			t.Fatalf("%v: %+v", regime, e)
		}
		for trial := range 2 {
			at := interruption{epoch: 1 + rng.IntN(11), kill: trial%2 == 1}
			t.Logf("%v: interrupted %+v", regime, at)
			resumed(t, job, whole, at)
		}
	}
}

// TestWarmStart: the second specialist begins with the first one's trunk, keeps it
// when it is frozen, and resumes like any other run.
func TestWarmStart(t *testing.T) {
	t.Parallel()
	table := markettest.SyntheticTable(6, 1600)
	donor := newListener()
	mustTrain(t, resumable(t, market.RegimeBull, true, table)(), donor)
	trunk := donor.checkpoints[len(donor.checkpoints)-1]
	dir := checkpointDir(t, trunk.files)
	job := func() Job {
		j := resumable(t, market.RegimeBear, true, table)()
		j.Assignment.Native.WarmStart, j.Assignment.Native.FreezeTrunk = "ck-bull", true
		j.Assignment.WarmStartDir = dir
		return j
	}
	whole := newListener()
	if e := mustTrain(t, job(), whole); e.Outcome != run.Succeeded {
		t.Fatalf("%+v", e)
	}
	want, got := tensors(t, trunk.files), tensors(t, whole.checkpoints[len(whole.checkpoints)-1].files)
	for name := range want {
		same := bytes.Equal(want[name], got[name])
		if frozen := strings.HasPrefix(name, "trunk.") || strings.HasPrefix(name, "history."); frozen && !same {
			t.Errorf("%s of a frozen trunk changed", name)
		}
		if strings.HasPrefix(name, "policy.") && same {
			t.Errorf("%s did not learn", name)
		}
	}
	if whole.params["warm_start"] != "ck-bull" || whole.params["freeze_trunk"] != "true" {
		t.Errorf("parameters %v", whole.params)
	}
	resumed(t, job, whole, interruption{epoch: 7, kill: true})

	// An imported network may have another activation: its numbers would fit.
	imported := checkpointDir(t, trunk.files)
	text := fmt.Appendf(nil, `{"format": "trainyard-import/1", "feature_schema": %q, "network": {"activation": "tanh"}}`, table.SchemaVersion)
	if err := os.WriteFile(filepath.Join(imported, checkpoint.MetaFile), text, 0o600); err != nil {
		t.Fatal(err)
	}
	for problem, change := range map[string]func(*Job){
		"activation: relu": func(j *Job) { j.Assignment.WarmStartDir = imported },
		"did not bring it": func(j *Job) { j.Assignment.WarmStartDir = "" },
		"has shape":        func(j *Job) { j.Assignment.Native.Learner.HiddenSizes = []int{32, 16} },
		"no such file":     func(j *Job) { j.Assignment.WarmStartDir = t.TempDir() },
	} {
		j := job()
		change(&j)
		if e := mustTrain(t, j, newListener()); e.Class != run.ClassBadConfiguration || !strings.Contains(e.Message, problem) || !strings.Contains(e.Message, "ck-bull") {
			t.Errorf("%q: %+v", problem, e)
		}
	}
}

// tensors are the weights of a checkpoint's files by name.
func tensors(t *testing.T, files map[string][]byte) map[string][]byte {
	t.Helper()
	list, _, err := safetensors.Decode(files[checkpoint.ModelFile])
	if err != nil {
		t.Fatal(err)
	}
	out := map[string][]byte{}
	for _, x := range list {
		out[x.Name] = x.Data
	}
	return out
}
