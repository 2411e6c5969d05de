package jobapi

import (
	"testing"

	jobv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/job/v1"
)

// Runs that differ in numbers alone teach each other what they need; another program does not.
func TestKin(t *testing.T) {
	t.Parallel()
	kin := func(argv ...string) string {
		t.Helper()
		k, err := kinOf(&jobv1.JobSpec{Experiment: "e", Runtime: &jobv1.JobSpec_Command{Command: &jobv1.CommandSpec{Argv: argv}}})
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	base := kin("python", "train.py", "--lr", "0.1", "--seed=3")
	if same := kin("python", "train.py", "--lr", "1e-3", "--seed=4"); same != base {
		t.Error("numbers make another kind of run")
	}
	for _, argv := range [][]string{
		{"python", "other.py", "--lr", "0.1", "--seed=3"}, {"python", "train.py", "--lr", "0.1", "--seed=3", "--bf16"},
		{"python", "train.py", "--lr", "0.1", "--fold=3"}, {"python", "train.py", "--lr", "high", "--seed=3"},
	} {
		if kin(argv...) == base {
			t.Errorf("%v is taken for the same", argv)
		}
	}
	if kin("python", "-c", "a") == kin("python", "-c", "b") || kin("python", "-m", "a.train") == kin("python", "-m", "b.train") {
		t.Error("the program behind an option is left out")
	}
}
