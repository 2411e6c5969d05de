// Package replay decides a stored plan again from its stored inputs and compares
// every line: the proof that an old decision was made by the rules, or the list
// of what newer code would decide otherwise.
package replay

import (
	"context"
	"errors"
	"fmt"
	"io"

	"go.uber.org/zap"

	"github.com/ultrathink-pilot/trainyard/libs/pg"
	"github.com/ultrathink-pilot/trainyard/services/checkpoint-janitor/internal/planning"
	"github.com/ultrathink-pilot/trainyard/services/checkpoint-janitor/internal/policyfile"
	"github.com/ultrathink-pilot/trainyard/services/checkpoint-janitor/internal/postgres"
	"github.com/ultrathink-pilot/trainyard/services/checkpoint-janitor/internal/retention"
)

// Run runs `checkpoint-janitor replay PLAN_HASH`. The connection string comes
// from the environment only, as every process can read a command line.
func Run(ctx context.Context, args []string, dsn string, out io.Writer) error {
	var problems []error
	if len(args) != 1 {
		problems = append(problems, errors.New("give the hash of one plan"))
	}
	if dsn == "" {
		problems = append(problems, errors.New("set TRAINYARD_CHECKPOINT_JANITOR_DSN to the janitor's database"))
	}
	if err := errors.Join(problems...); err != nil {
		return err
	}
	pool, err := pg.Open(ctx, pg.Config{DSN: dsn, Schema: postgres.Schema, MaxConns: 1}, zap.NewNop())
	if err != nil {
		return err
	}
	defer pool.Close()
	return Plan(ctx, postgres.New(pool), args[0], out)
}

// Plan replays one plan.
func Plan(ctx context.Context, store *postgres.Store, hash string, out io.Writer) error {
	record, found, err := store.LoadPlan(ctx, hash)
	if err != nil {
		return err
	}
	if !found {
		return fmt.Errorf("plan %q is not stored", hash)
	}
	if len(record.Inventory) == 0 {
		return fmt.Errorf("the inventory of plan %s has been pruned; only its decisions are left", hash)
	}
	policy, err := policyfile.Parse(record.PolicyText)
	if err != nil {
		return fmt.Errorf("the stored policy: %w", err)
	}
	stock, err := planning.Unpack(record.Inventory)
	if err != nil {
		return err
	}
	again, err := retention.Decide(policy, stock, record.Plan.Now)
	if err != nil {
		return err
	}
	if again.Hash == record.Plan.Hash {
		_, err = fmt.Fprintf(out, "%d decisions replayed, all equal, hash %s\n", len(again.Decisions), again.Hash)
		return err
	}
	for _, c := range again.Diff(record.Plan) {
		if _, err := fmt.Fprintf(out, "%s: was %s, %s\n", c.ID, c.From, c.Text); err != nil {
			return err
		}
	}
	return fmt.Errorf("the replay has hash %s, the plan %s: its inputs or the rules have changed", again.Hash, record.Plan.Hash)
}
