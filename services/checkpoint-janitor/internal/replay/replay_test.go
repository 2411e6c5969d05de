package replay_test

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/ultrathink-pilot/trainyard/libs/pg/pgtest"
	"github.com/ultrathink-pilot/trainyard/services/checkpoint-janitor/internal/planning"
	"github.com/ultrathink-pilot/trainyard/services/checkpoint-janitor/internal/policyfile"
	"github.com/ultrathink-pilot/trainyard/services/checkpoint-janitor/internal/postgres"
	"github.com/ultrathink-pilot/trainyard/services/checkpoint-janitor/internal/replay"
	"github.com/ultrathink-pilot/trainyard/services/checkpoint-janitor/internal/retention"
)

func TestReplay(t *testing.T) {
	t.Parallel()
	store := postgres.New(pgtest.New(t, postgres.Schema, postgres.Migrations))
	now := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	v := retention.Inventory{Checkpoints: []retention.Checkpoint{{ID: "a", Experiment: "x", State: retention.StateLive, CreateTime: now.AddDate(0, 0, -9)}}}
	policy, text, err := policyfile.Load("")
	if err != nil {
		t.Fatal(err)
	}
	plan, err := retention.Decide(policy, v, now)
	if err != nil {
		t.Fatal(err)
	}
	packed, err := planning.Pack(v)
	if err != nil {
		t.Fatal(err)
	}
	save := func(p retention.Plan, packed []byte) {
		if err := store.SavePlan(t.Context(), postgres.PlanRecord{Plan: p, PolicyText: text, Inventory: packed}, now); err != nil {
			t.Fatal(err)
		}
	}
	save(plan, packed)
	forged := plan
	forged.Hash = strings.Repeat("f", 64)
	forged.Decisions = []retention.Decision{plan.Decisions[0]}
	forged.Decisions[0].Verdict = retention.Drop
	save(forged, packed)
	pruned := plan
	pruned.Hash = strings.Repeat("e", 64)
	save(pruned, []byte{})

	for hash, want := range map[string]string{
		plan.Hash: "1 decisions replayed, all equal", forged.Hash: "a: was drop, kept:", pruned.Hash: "has been pruned", "none": "is not stored",
	} {
		var out bytes.Buffer
		err := replay.Plan(t.Context(), store, hash, &out)
		text := out.String()
		if err != nil {
			text += err.Error()
		}
		if !strings.Contains(text, want) || (err == nil) != (hash == plan.Hash) {
			t.Errorf("%s: got %q, want %q", hash, text, want)
		}
	}
	if err := replay.Run(t.Context(), nil, "", &bytes.Buffer{}); err == nil || !strings.Contains(err.Error(), "TRAINYARD_CHECKPOINT_JANITOR_DSN") ||
		!strings.Contains(err.Error(), "hash of one plan") {
		t.Errorf("got %v", err)
	}
}
