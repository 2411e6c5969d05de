package offline

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/ultrathink-pilot/trainyard/services/checkpoint-janitor/internal/inventory"
	"github.com/ultrathink-pilot/trainyard/services/checkpoint-janitor/internal/retention"
)

const at = "2026-11-23T12:00:00Z"

func TestPlanDecidesWithTheServicesCode(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	if err := Plan([]string{"--inventory", "testdata/mixed.jsonl", "--now", at, "-o", "json"}, nil, &out); err != nil {
		t.Fatal(err)
	}
	var got planJSON
	if err := json.Unmarshal(out.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open("testdata/mixed.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	stock, err := inventory.ReadJSONL(f)
	if err != nil || f.Close() != nil {
		t.Fatal(err)
	}
	now, _ := time.Parse(time.RFC3339, at)
	plan, err := retention.Decide(retention.DefaultPolicy(), stock, now)
	if err != nil {
		t.Fatal(err)
	}
	if got.PlanHash != plan.Hash || len(got.Decisions) != 4 {
		t.Fatalf("got %s with %d decisions, want %s", got.PlanHash, len(got.Decisions), plan.Hash)
	}
	want := []string{
		"kept: rank 2 of 5, Sharpe 1.42; also version 7 of bull_specialist (Production)",
		"to be deleted: it cannot rank: its Sharpe is not finite, age 53 d; nothing refers to it",
		"to be archived: not used for 53 d; also rank 1 of 5, Sharpe 2.50",
		"kept: younger than 7 d (age 36 h)",
	}
	for i, d := range got.Decisions {
		if d.Reason != want[i] {
			t.Errorf("%s:\n got %s\nwant %s", d.CheckpointID, d.Reason, want[i])
		}
	}
}

func TestPlanReadsStandardInputAndPrintsText(t *testing.T) {
	t.Parallel()
	in, err := os.ReadFile("testdata/mixed.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := Plan([]string{"--inventory", "-", "--now", at}, bytes.NewReader(in), &out); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"policy default-1", "drop     not_rankable", "archive  idle", "version 7 of bull_specialist (Production)"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("missing %q in\n%s", want, out.String())
		}
	}
}

func TestEveryWrongOptionIsNamed(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	err := Plan([]string{"--policy", "absent.yaml", "-o", "xml", "rest"}, nil, &out)
	if err == nil || out.Len() > 0 {
		t.Fatalf("got %v and %d bytes", err, out.Len())
	}
	for _, want := range []string{"--inventory is missing", "--now is", `-o is "xml"`, `"rest" is no option`, "absent.yaml"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("missing %q in %v", want, err)
		}
	}
	if err := Plan([]string{"--nonsense"}, nil, &out); err == nil || !strings.Contains(err.Error(), "--inventory:") {
		t.Errorf("no usage in %v", err)
	}
}

// Whoever asks for help gets the options and both formats.
func TestHelpShowsTheFormats(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	if err := Plan([]string{"--help"}, nil, &out); !errors.Is(err, flag.ErrHelp) {
		t.Fatal(err)
	}
	for _, want := range []string{"--inventory", "checkpoint_id", "keep_top"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("missing %q in\n%s", want, out.String())
		}
	}
}
