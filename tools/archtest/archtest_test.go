package archtest

import (
	"path/filepath"
	"testing"
)

func TestTrainyardKeepsItsArchitecture(t *testing.T) {
	t.Parallel()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	tree, err := Load(root, "work", Trainyard)
	if err != nil {
		t.Fatal(err)
	}
	for _, violation := range Check(tree) {
		t.Error(violation)
	}
}
