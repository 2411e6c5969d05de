package specialist

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/ultrathink-pilot/trainyard/libs/safetensors"
	"github.com/ultrathink-pilot/trainyard/services/trainer/internal/checkpoint"
	"github.com/ultrathink-pilot/trainyard/services/trainer/internal/run"
)

// model reads the weights in a checkpoint's directory. A model that saw other
// features is refused: the numbers would fit and mean nothing.
func (t *training) model(dir string) (meta Meta, file []byte, weights []safetensors.Tensor, err error) {
	file, err = os.ReadFile(filepath.Join(dir, checkpoint.ModelFile))
	if err != nil {
		return meta, nil, nil, err
	}
	text, err := os.ReadFile(filepath.Join(dir, checkpoint.MetaFile))
	if err != nil {
		return meta, nil, nil, err
	}
	if err := json.Unmarshal(text, &meta); err != nil {
		return meta, nil, nil, fmt.Errorf("%s: %w", checkpoint.MetaFile, err)
	}
	table := t.job.Table
	// An imported model names its schema alone.
	named := len(meta.FeatureNames) > 0
	if meta.FeatureSchema != table.SchemaVersion || named && !slices.Equal(meta.FeatureNames, table.FeatureNames) {
		return meta, nil, nil, fmt.Errorf("it was trained on feature schema %q (%d features), the data service serves %s (%d features)",
			meta.FeatureSchema, len(meta.FeatureNames), table.SchemaVersion, len(table.FeatureNames))
	}
	if n := meta.Network; n != nil && n.Activation != "" && n.Activation != "relu" {
		return meta, nil, nil, fmt.Errorf("it was imported as a network with %s between its layers, and the learner has relu: the numbers would fit and mean nothing. "+
			"If it does use relu, import it again with a --map file that says activation: relu", n.Activation)
	}
	tensors, _, err := safetensors.Decode(file)
	if err != nil {
		return meta, nil, nil, err
	}
	return meta, file, withoutScaler(tensors), nil
}

// warmStart takes the trunk of another specialist's checkpoint. The features keep
// the statistics of this job's own training bars.
func (t *training) warmStart(dir string) error {
	if dir == "" {
		return errors.New("the agent did not bring it: it is of a version that knows no warm starts")
	}
	_, _, weights, err := t.model(dir)
	if err != nil {
		return err
	}
	return t.learner.SetTrunk(weights)
}

// restore loads a checkpoint directory and returns the run's state.
func (t *training) restore(dir string) (run.State, error) {
	var state run.State
	meta, model, weights, err := t.model(dir)
	if err != nil {
		return state, err
	}
	rest, err := os.ReadFile(filepath.Join(dir, checkpoint.StateFile))
	if err != nil {
		return state, err
	}
	if err := t.learner.SetTensors(weights); err != nil {
		return state, err
	}
	sections, err := checkpoint.DecodeState(rest)
	if err != nil {
		return state, err
	}
	if err := json.Unmarshal(sections["run"], &state); err != nil {
		return state, fmt.Errorf("%s: %w", checkpoint.StateFile, err)
	}
	if t.curve, err = decodeCurve(sections["curve"], state.Epoch); err != nil {
		return state, fmt.Errorf("%s: %w", checkpoint.StateFile, err)
	}
	// New bars move the split: the environments of the old history mean nothing
	// there, the weights and the optimizer do.
	same := meta.DataDigest == t.job.Table.Digest
	if err := t.learner.SetState(sections["learner"], same); err != nil {
		return state, err
	}
	t.files.last = &snapshot{step: meta.Step, epoch: meta.Epoch, model: model, learner: sections["learner"], state: state}
	if !same {
		t.log.Warn("the data changed since the checkpoint: the run goes on, but not bit by bit as before")
		if err := t.files.remember(t.snapshot()); err != nil {
			return state, err
		}
		t.files.last.state = state
	}
	t.files.best = &snapshot{epoch: state.BestEpoch, model: sections["best"]}
	t.files.bestSent = true
	return state, nil
}
