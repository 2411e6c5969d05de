package postgres

import (
	"math"
	"testing"

	"github.com/ultrathink-pilot/trainyard/services/registry/internal/catalog"
)

func begin(f *fixture, run string, fence uint64, step int64, files ...catalog.File) (catalog.Checkpoint, error) {
	var c catalog.Checkpoint
	err := f.store.Do(f.ctx, f.now, func(t *Tx) error {
		var err error
		c, err = t.BeginCheckpoint(f.ctx, BeginCheckpoint{ID: newID(), RunID: run, Attempt: 1, Fence: fence, Step: step, Files: files})
		return err
	})
	return c, err
}

func commit(f *fixture, in CommitCheckpoint) (catalog.Checkpoint, error) {
	var c catalog.Checkpoint
	err := f.store.Do(f.ctx, f.now, func(t *Tx) error {
		var err error
		c, _, err = t.CommitCheckpoint(f.ctx, in)
		return err
	})
	return c, err
}

func resolve(f *fixture, run string, fence uint64, id string) (catalog.Checkpoint, error) {
	var c catalog.Checkpoint
	err := f.store.Do(f.ctx, f.now, func(t *Tx) error {
		var err error
		c, err = t.ResolveCheckpoint(f.ctx, run, fence, id)
		return err
	})
	return c, err
}

func TestCheckpointLife(t *testing.T) {
	f := setup(t)
	if _, err := begin(f, newID(), 1, 1, fileOf("a", "x")); problem(err) != catalog.ProblemNotOpen {
		f.Errorf("a run that was never opened: %v", err)
	}
	run, fence := f.run("")
	if _, err := resolve(f, run, fence, ""); problem(err) != catalog.ProblemNotFound {
		f.Errorf("nothing to resolve: %v", err)
	}
	weights, state := fileOf("model.safetensors", "w"), fileOf("trainer_state.bin", "s")
	first, err := begin(f, run, fence, 5, weights, state)
	f.must(err)
	again, err := begin(f, run, fence, 5, state, weights)
	f.must(err)
	if first.ID != again.ID || first.State != catalog.Pending || first.Files[0].Present {
		f.Errorf("begin twice: %+v %+v", first, again)
	}
	if _, err := resolve(f, run, fence, first.ID); problem(err) != catalog.ProblemState {
		f.Errorf("a staged checkpoint was resolved: %v", err)
	}
	in := CommitCheckpoint{ID: first.ID, Fence: fence, Resumable: true, FeatureSchema: "v1",
		Metrics: map[string]float64{catalog.SharpeMetric: math.NaN(), "validation/total_return": math.Inf(-1), "x": 0.25}}
	for range 2 {
		c, err := commit(f, in)
		f.must(err)
		if c.State != catalog.Live || !c.Files[0].Present || !math.IsNaN(c.Metrics[catalog.SharpeMetric]) ||
			!math.IsInf(c.Metrics["validation/total_return"], -1) || c.Metrics["x"] != 0.25 || c.Experiment != "specialists/bull" {
			f.Errorf("committed %+v", c)
		}
	}
	// The same weights later need no upload.
	second, err := begin(f, run, fence, 6, weights, fileOf("trainer_state.bin", "s2"))
	f.must(err)
	if !second.Files[0].Present || second.Files[1].Present || second.Files[0].ObjectKey != first.Files[0].ObjectKey {
		f.Errorf("second %+v", second.Files)
	}
	if _, err := begin(f, run, fence, 7, catalog.File{Name: "a", SHA256: weights.SHA256, Size: 99}); problem(err) != catalog.ProblemInvalid {
		f.Errorf("one digest with two sizes: %v", err)
	}
	_, err = commit(f, CommitCheckpoint{ID: second.ID, Fence: fence, Resumable: true, ParentID: first.ID})
	f.must(err)
	got, err := resolve(f, run, fence, "")
	f.must(err)
	if got.ID != second.ID || got.ParentID != first.ID {
		f.Errorf("newest is %+v", got)
	}
}

func TestCorruptCheckpointFallsBackAndIsUploadedAgain(t *testing.T) {
	f := setup(t)
	run, fence := f.run("")
	good := f.checkpoint(run, fence, 1, 1)
	bad := f.checkpoint(run, fence, 2, 1, "weights")
	for range 2 {
		f.must(f.store.Do(f.ctx, f.now, func(t *Tx) error {
			c, _, err := t.MarkCorrupt(f.ctx, bad.ID, fence, "sha256 differs", nil)
			if err == nil && !c.Corrupt {
				f.Error("not marked")
			}
			return err
		}))
	}
	got, err := resolve(f, run, fence, "")
	f.must(err)
	if got.ID != good.ID {
		f.Errorf("resolved %s", got.ID)
	}
	fresh, err := begin(f, run, fence, 3, fileOf("file-0", "weights"))
	f.must(err)
	if fresh.Files[0].Present || fresh.Files[0].ObjectKey == bad.Files[0].ObjectKey {
		f.Error("corrupt bytes were taken for present")
	}
}

// Every write that carries a fence, against a run whose next attempt already asked what to
// restore: none has an effect, though that attempt's RunOpened has not arrived.
func TestStaleFenceIsRefusedEverywhere(t *testing.T) {
	f := setup(t)
	run, old := f.run("")
	kept := f.checkpoint(run, old, 1, 1)
	staged, err := begin(f, run, old, 2, fileOf("a", "x"))
	f.must(err)
	fresh := old + 3
	if _, err := resolve(f, run, fresh, ""); err != nil {
		f.Fatal(err)
	}
	artifact := fileOf("evaluation.json", "{}")
	for name, call := range map[string]func() error{
		"BeginCheckpoint":   func() error { _, err := begin(f, run, old, 3, fileOf("b", "y")); return err },
		"CommitCheckpoint":  func() error { _, err := commit(f, CommitCheckpoint{ID: staged.ID, Fence: old}); return err },
		"committed already": func() error { _, err := commit(f, CommitCheckpoint{ID: kept.ID, Fence: old}); return err },
		"other's fence":     func() error { _, err := commit(f, CommitCheckpoint{ID: staged.ID, Fence: fresh}); return err },
		"ResolveCheckpoint": func() error { _, err := resolve(f, run, old, ""); return err },
		"BeginArtifact": func() error {
			return f.store.Do(f.ctx, f.now, func(t *Tx) error { _, err := t.BeginArtifact(f.ctx, run, old, artifact); return err })
		},
		"CommitArtifact": func() error {
			return f.store.Do(f.ctx, f.now, func(t *Tx) error {
				_, err := t.CommitArtifact(f.ctx, newID(), run, old, artifact, "")
				return err
			})
		},
	} {
		err := call()
		if name == "other's fence" {
			// A higher fence may write, but not finish what another attempt staged.
			if problem(err) != catalog.ProblemFenced {
				f.Errorf("%s: %v", name, err)
			}
			continue
		}
		if problem(err) != catalog.ProblemFenced {
			f.Errorf("%s: %v", name, err)
		}
	}
	got, err := f.store.GetCheckpoint(f.ctx, staged.ID)
	f.must(err)
	if got.State != catalog.Pending {
		f.Errorf("a stale commit made it %s", got.State)
	}
	// The tail of the old attempt's metrics still drains: its spool comes first.
	f.accept(metrics(key(run, 1, old, 2), f.now, "m", 1, 1))
}

func TestArtifactsReplaceByPath(t *testing.T) {
	f := setup(t)
	run, fence := f.run("")
	put := func(content string) Artifact {
		var a Artifact
		f.must(f.store.Do(f.ctx, f.now, func(t *Tx) error {
			if _, err := t.BeginArtifact(f.ctx, run, fence, fileOf("evaluation.json", content)); err != nil {
				return err
			}
			var err error
			a, err = t.CommitArtifact(f.ctx, newID(), run, fence, fileOf("evaluation.json", content), "application/json")
			return err
		}))
		return a
	}
	first := put("one")
	if again := put("one"); again.ObjectKey != first.ObjectKey || !again.Commit.Equal(first.Commit) {
		f.Error("the same content again changed something")
	}
	put("two")
	list, err := f.store.ListArtifacts(f.ctx, run)
	f.must(err)
	if len(list) != 1 || list[0].SHA256 != digestOf("two") || !list[0].Present {
		f.Errorf("artifacts %+v", list)
	}
	if _, err := f.store.GetArtifact(f.ctx, run, "nothing"); problem(err) != catalog.ProblemNotFound {
		f.Errorf("%v", err)
	}
}
