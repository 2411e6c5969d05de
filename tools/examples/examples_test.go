package examples

import (
	"testing"

	"github.com/ultrathink-pilot/trainyard/tools/internal/jobfile"
)

func TestEveryExampleIsAJobFile(t *testing.T) {
	t.Parallel()
	entries, err := Files.ReadDir(".")
	if err != nil || len(entries) < len(Specialists)+1 {
		t.Fatal(entries, err)
	}
	for _, entry := range entries {
		data, err := Files.ReadFile(entry.Name())
		if err != nil {
			t.Fatal(err)
		}
		if _, problems := jobfile.Parse(data); problems != nil {
			t.Errorf("%s: %v", entry.Name(), problems)
		}
	}
}
